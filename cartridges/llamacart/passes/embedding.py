"""A text as one vector: the mean of the model's last hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llamacart.errors import ContextOverflowError, EngineError
from llamacart.hook.steering_hook import Place, SteeringHook
from llamacart.llama.closing import Closing
from llamacart.llama.context import Context
from llamacart.machine.processors import choose_threads
from llamacart.values.batch import Batch
from llamacart.values.mentions import RowSteering

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from llamacart.llama.model import Model
    from llamacart.values.steering import Steering

ROWS_PER_STEP = 32
"""llama.cpp computes and keeps n_vocab logits for each row whose hidden state is wanted."""


class Embedding:
    """One text on its way to its vector; made by `Embedder.begin`, with a state of its own.

    `advance` and `drop` belong to the one thread that uses the embedder.

    Args:
        embedder: Computes its rows.
        tokens: The text, checked.
        steering: What acts on its rows.
        token_bytes: The bytes of a token.
    """

    def __init__(
        self,
        embedder: Embedder,
        tokens: Sequence[int],
        steering: Steering,
        token_bytes: Callable[[int], bytes],
    ) -> None:
        self._embedder = embedder
        self.tokens = tokens
        self.steering = steering
        self.acting = RowSteering(steering, token_bytes)
        self.n_done = 0
        self.total: NDArray[np.float64] | None = None

    def advance(self) -> NDArray[np.float32] | None:
        """Compute some rows; returns the vector [n_embd] after the last ones.

        After that, and after an error, the text is dropped.

        Raises:
            EngineError: llama.cpp failed, the hidden states are not finite, or another text was
                advanced in between.
        """
        return self._embedder.advance(self)

    def drop(self) -> None:
        """Give it up and let go of its cartridges; again does nothing."""
        self._embedder.drop(self)


class Embedder(Closing):
    """Embeds one text at a time, in steps short enough to take turns with others.

    `begin` a text, then `advance` it until it returns the vector. The vector is what llama.cpp's
    pooling type `mean` gives, at unit length. Only `begin` may be called by any thread. Its
    context, and the cartridges of the text, take memory from the first text on and while they act,
    respectively.

    Args:
        model: The model; must outlive the embedder.
        n_ctx: Most tokens of a text.
        n_threads: See `Context`.
        dose_limit: See `SteeringHook`.
        place: See `SteeringHook`.
        force: See `SteeringHook`.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int,
        n_threads: int | None = None,
        dose_limit: float | None = None,
        place: Place = "auto",
        force: bool = False,
    ) -> None:
        self._model = model
        self._n_threads = n_threads
        self.n_ctx = n_ctx
        self._hook = SteeringHook(
            model,
            max_rows=ROWS_PER_STEP,
            n_threads=choose_threads(n_threads),
            dose_limit=dose_limit,
            place=place,
            force=force,
        )
        self._context: Context | None = None
        self._current: Embedding | None = None
        """The text whose rows are in the context and whose cartridges are in the hook."""

    def begin(self, tokens: Sequence[int], steering: Steering) -> Embedding:
        """A text to embed; nothing is computed yet, and others go on undisturbed.

        Raises:
            ContextOverflowError: It has more than `n_ctx` tokens.
            EngineError: It has none.
        """
        if not tokens:
            raise EngineError("a text without tokens has no embedding")
        if len(tokens) > self.n_ctx:
            raise ContextOverflowError(
                f"the text has {len(tokens)} tokens; the context holds {self.n_ctx}"
            )
        return Embedding(self, tokens, steering, self._model.token_bytes)

    def advance(self, text: Embedding) -> NDArray[np.float32] | None:
        """See `Embedding.advance`; a text under way that is another is dropped."""
        try:
            if text is not self._current:
                self._enter(text)
            self._add_rows(text)
            if text.n_done < len(text.tokens):
                return None
            vector = self._vector(text)
        except BaseException:
            self.drop(text)
            raise
        self.drop(text)
        return vector

    def _enter(self, text: Embedding) -> None:
        if text.n_done:
            raise EngineError("the text was given up before")
        if self._current is not None:
            self.drop(self._current)
        if self._context is None:
            self._context = Context(
                self._model,
                n_ctx=self.n_ctx,
                n_batch=ROWS_PER_STEP,
                n_threads=self._n_threads,
                hook=self._hook,
                embeddings=True,
            )
        self._context.clear()
        self._current = text
        for dose in text.steering:
            self._hook.load(dose.cartridge)

    def _add_rows(self, text: Embedding) -> None:
        """Run the next rows of the text in the context, and add up their hidden states."""
        if self._context is None:
            raise EngineError("the embedder has no context")
        start = text.n_done
        stop = min(start + ROWS_PER_STEP, len(text.tokens))
        n = stop - start
        self._hook.set_rows([text.acting.at(text.tokens, row) for row in range(start, stop)])
        batch = Batch(text.tokens[start:stop], range(start, stop), [0] * n, [True] * n)
        try:
            self._context.decode(batch)
        finally:
            report = self._hook.take_report()
        report.check()
        if text.total is None:
            text.total = np.zeros(self._model.n_embd)
        for row in range(n):
            text.total += self._context.hidden(row)
        text.n_done = stop

    @staticmethod
    def _vector(text: Embedding) -> NDArray[np.float32]:
        length = 0.0 if text.total is None else float(np.linalg.norm(text.total))
        if text.total is None or not 0 < length < np.inf:
            raise EngineError("the hidden states are not finite")
        return (text.total / length).astype(np.float32)

    def drop(self, text: Embedding) -> None:
        """See `Embedding.drop`."""
        if text is self._current:
            self._current = None
            for dose in text.steering:
                self._hook.unload(dose.cartridge)

    def close(self) -> None:
        """Free the context, if there is one; the model stays open."""
        if self._context is not None:
            self._context.close()
