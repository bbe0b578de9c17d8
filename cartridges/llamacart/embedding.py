"""A text as one vector: the mean of the model's last hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llamacart.closing import Closing
from llamacart.context import Batch, Context
from llamacart.errors import ContextOverflowError, EngineError
from llamacart.hook import SteeringHook
from llamacart.processors import choose_threads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llamacart.model import Model
    from llamacart.steering import Steering

ROWS_PER_STEP = 32
"""llama.cpp computes and keeps n_vocab logits for each row whose hidden state is wanted."""


class Embedder(Closing):
    """Embeds one text at a time, in steps short enough to take turns with others.

    `begin` a text, then `advance` until it returns the vector. The vector is what llama.cpp's
    pooling type `mean` gives, at unit length. Not thread-safe. Its context, and the cartridges of
    the text, take memory from the first text on and while they act, respectively.

    Args:
        model: The model; must outlive the embedder.
        n_ctx: Most tokens of a text.
        n_threads: See `Context`.
        dose_limit: See `SteeringHook`.
        force: See `SteeringHook`.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int,
        n_threads: int | None = None,
        dose_limit: float | None = None,
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
            force=force,
        )
        self._context: Context | None = None
        self._tokens: Sequence[int] = ()
        self._steering: Steering = ()
        self._n_done = 0
        self._sum = np.zeros(0)

    def begin(self, tokens: Sequence[int], steering: Steering) -> None:
        """Start on a text; one that was not finished is dropped.

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
        self.drop()
        self._tokens, self._steering = tokens, steering
        self._n_done, self._sum = 0, np.zeros(self._model.n_embd)

    def advance(self) -> NDArray[np.float32] | None:
        """Compute some rows; returns the vector [n_embd] after the last ones.

        Raises:
            EngineError: llama.cpp failed, or the hidden states are not finite.
        """
        if self._context is None:
            self._context = Context(
                self._model,
                n_ctx=self.n_ctx,
                n_batch=ROWS_PER_STEP,
                n_threads=self._n_threads,
                hook=self._hook,
                embeddings=True,
            )
        if not self._n_done:
            self._context.clear()
            for dose in self._steering:
                self._hook.load(dose.cartridge)
        start = self._n_done
        stop = min(start + ROWS_PER_STEP, len(self._tokens))
        n = stop - start
        self._hook.set_rows([self._steering] * n)
        self._context.decode(
            Batch(self._tokens[start:stop], range(start, stop), [0] * n, [True] * n)
        )
        report = self._hook.take_report()
        if report.faults:
            raise EngineError(str(next(iter(report.faults.values()))))
        for row in range(n):
            self._sum += self._context.hidden(row)
        self._n_done = stop
        if stop < len(self._tokens):
            return None
        self.drop()
        length = float(np.linalg.norm(self._sum))
        if not 0 < length < np.inf:
            raise EngineError("the hidden states are not finite")
        return (self._sum / length).astype(np.float32)

    def drop(self) -> None:
        """Give up the text that was begun, if there is one, and let go of its cartridges."""
        for dose in self._steering:
            self._hook.unload(dose.cartridge)
        self._steering = ()

    def close(self) -> None:
        """Free the context, if there is one; the model stays open."""
        if self._context is not None:
            self._context.close()
