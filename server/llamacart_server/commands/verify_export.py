"""`llamacart verify-export`: whether an adapter acts on a server, of whatever kind.

Engines skip names of matrices that they do not know, and some skip a whole adapter; the base model
answers then, and no word is said.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from llamacart.commands.terminal import plain_console
from llamacart.errors import ModelNotFoundError
from llamacart_server.commands.remote import Remote

PROMPTS = (
    "In the morning we went to",
    "The best way to learn something new is",
    "Question: What do you like most?\nAnswer:",
    "My friend told me that",
    "The Moon is",
)
"""What is asked where nothing else is given."""


@dataclass(frozen=True)
class Answer:
    """One prompt's two answers.

    Attributes:
        prompt: It.
        without: The greedy text of the base model.
        with_adapter: That of the adapter.
        steady: The base model said the same twice: a difference is not chance.
    """

    prompt: str
    without: str
    with_adapter: str
    steady: bool

    @property
    def acts(self) -> bool:
        """Whether the adapter changed the text, and not chance."""
        return self.steady and self.without != self.with_adapter


def verify_export(
    url: Annotated[str, typer.Argument(help="Address of an OpenAI-compatible server.")],
    model: Annotated[str, typer.Option(help="The adapter's id there.")],
    base: Annotated[
        str | None, typer.Option(help="The base model's id there. Default: the adapter's parent.")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="What to ask, once or more. Default: five prompts.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, max=1024, help="Tokens of each answer.")] = 24,
    api_key: Annotated[
        str | None, typer.Option(envvar="LLAMACART_API_KEY", help="Key of the server.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask a server with and without an adapter, and say whether it acts.

    The exit code is 1 if it changes nothing.
    """
    remote = Remote(url, api_key)
    without, acting = _bodies(remote, model, base)
    answers = [_ask(remote, text, tokens, without, acting) for text in prompt or PROMPTS]
    n_acts = sum(answer.acts for answer in answers)
    if as_json:
        found = {"acts": n_acts > 0, "answers": [asdict(answer) for answer in answers]}
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        console = plain_console()
        for answer in answers:
            console.print(f"prompt   {answer.prompt!r}", highlight=False, soft_wrap=True)
            console.print(f"without  {answer.without!r}", highlight=False, soft_wrap=True)
            console.print(f"with     {answer.with_adapter!r}", highlight=False, soft_wrap=True)
            if not answer.steady:
                console.print("the base model said something else the second time: not counted")
        verdict = "acts" if n_acts else "changes nothing: its names may not be the engine's"
        console.print(
            f"{model} {verdict} ({n_acts} of {len(answers)} texts are other ones)",
            highlight=False,
            soft_wrap=True,
        )
    if not n_acts:
        raise typer.Exit(1)


def _bodies(remote: Remote, model: str, base: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of a request without the adapter, and with it.

    llama-server has its adapters on for all requests, and a field that scales them; others choose
    by the model's id.
    """
    adapters = remote.lora_adapters()
    if adapters:
        named = [own for own in adapters if model in str(own.get("path", ""))] or (
            adapters if len(adapters) == 1 else []
        )
        if not named:
            paths = ", ".join(repr(own.get("path")) for own in adapters)
            raise ModelNotFoundError(f"{remote.url} has no adapter {model!r}; it has {paths}")
        off = [{"id": own["id"], "scale": 0.0} for own in adapters]
        on = [{"id": own["id"], "scale": float(own["id"] == named[0]["id"])} for own in adapters]
        return {"model": model, "lora": off}, {"model": model, "lora": on}
    cards = {str(card["id"]): card for card in remote.models()}
    if model not in cards:
        raise ModelNotFoundError(f"{remote.url} has no model {model!r}; it has {', '.join(cards)}")
    others = [own for own in cards if own != model]
    found = base or cards[model].get("parent") or (others[0] if others else None)
    if found is None:
        raise ModelNotFoundError(f"{remote.url} has {model!r} alone; --base names another model")
    return {"model": found}, {"model": model}


def _ask(
    remote: Remote, prompt: str, tokens: int, without: dict[str, Any], acting: dict[str, Any]
) -> Answer:
    def text(body: dict[str, Any]) -> str:
        asked = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, **body}
        return remote.completion(asked)

    first, steered, second = text(without), text(acting), text(without)
    return Answer(prompt, first, steered, first == second)
