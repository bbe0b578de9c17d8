"""A replica: the whole server in one process, with the cartridges that its requests bring."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from llamacart.errors import LlamacartError
from llamacart_server.bodies.answers import ModelCard, ModelList
from llamacart_server.errors import error_json
from llamacart_server.ray_app.bridge import BODY, START, answered
from llamacart_server.ray_app.named import MODELS
from llamacart_server.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence

    from starlette.types import ASGIApp, Message

    from llamacart_server.ray_app.ingress import Call
    from llamacart_server.ray_app.shelf import Shelf
    from llamacart_server.served import ServedModel

CARTRIDGES_HEADER = b"x-llamacart-cartridges"
"""`resident` where a request met all its cartridges, `loaded` where one had to be loaded."""
REPLICA_HEADER = b"x-llamacart-replica"


class Replica:
    """Answers calls with an application, once the cartridges that they name are there.

    Args:
        app: As `create_app` makes it; `shelf` changes its library.
        model: What it serves.
        shelf: Loads and unloads cartridges.
        get: Called with an id before it is used. It calls `Shelf.load` for what it does not know,
            and `Shelf.evict` for what was not used for longest.
        name: Sent with every answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        model: ServedModel,
        shelf: Shelf,
        get: Callable[[str], Awaitable[object]],
        name: str,
    ) -> None:
        self._app = app
        self._model = model
        self._shelf = shelf
        self._get = get
        self._name = name.encode()

    @property
    def names(self) -> Sequence[str]:
        """The base model's id, then its aliases."""
        return self._model.names

    async def answer(self, call: Call) -> AsyncGenerator[Message]:
        """The messages of an answer; closing it frees the request's row."""
        if call.scope["method"] == "GET" and call.scope["path"] == MODELS:
            for message in _json(200, self._models().model_dump_json()):
                yield message
            return
        use = self._shelf.use(call.cartridges)
        try:
            head = [(REPLICA_HEADER, self._name)]
            if call.cartridges:
                loaded = [await self._load(cartridge_id) for cartridge_id in call.cartridges]
                head.append((CARTRIDGES_HEADER, b"loaded" if any(loaded) else b"resident"))
            async with aclosing(answered(self._app, call.scope, call.body)) as messages:
                async for message in messages:
                    if message["type"] == START:
                        yield {**message, "headers": [*message["headers"], *head]}
                    else:
                        yield message
        except LlamacartError as error:  # of loading: the application writes its own
            for message in _json(error.status, error_json(error)):
                yield message
        finally:
            await in_thread(use.end)

    async def _load(self, cartridge_id: str) -> bool:
        before = self._shelf.n_loads(cartridge_id)
        await self._get(cartridge_id)
        # What `get` knows may have changed where it came from.
        await in_thread(self._shelf.load, cartridge_id)
        return self._shelf.n_loads(cartridge_id) > before

    def _models(self) -> ModelList:
        base = self._model
        ids = [base.id, *(f"{base.id}:{cartridge_id}" for cartridge_id in self._shelf.ids)]
        cards = [
            ModelCard(
                id=model_id,
                created=base.created,
                root=base.id,
                parent=None if model_id == base.id else base.id,
                n_ctx=base.n_ctx,
                max_model_len=base.n_ctx,
                chat_template=base.template.source,
                cartridges=[],
            )
            for model_id in ids
        ]
        return ModelList(data=cards)


def _json(status: int, text: str) -> Iterator[Message]:
    body = text.encode()
    length = str(len(body)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    yield {"type": START, "status": status, "headers": headers}
    yield {"type": BODY, "body": body, "more_body": False}
