"""How a model reads tokens off its last residual stream.

Axes: N rows, C tokens of each, E width of the residual stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llamacart.errors import UnsupportedModelError
from llamacart.llama.feed_forward import norm_epsilon, reader_norms
from llamacart.llama.sites import RESIDUAL_OUTPUT
from llamacart.passes.batching import fillings
from llamacart.passes.capture import forward, row_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llamacart.llama.model import Model

    Floats = NDArray[np.float32]
    Tokens = NDArray[np.int64]

RIVALS = 60
"""Tokens that an object is compared with: those that the unsteered model finds likeliest."""

CHECKED = 64
"""Texts whose logits are compared with the model's; more say the same."""

CELLS = 1024
"""Rows of texts that run beside one another; more share more of what they begin with."""

TOLERANCE = 0.1
"""Of the spread of a row's logits: rounding of weights and activations stays far below it."""


@dataclass(frozen=True)
class Ends:
    """What an unsteered model ends some texts in.

    Attributes:
        streams: The residual stream behind the last layer, at each text's last row [N, E].
        likely: The likeliest next tokens [N, `RIVALS`], in no order.
        logits: Their logits [N, `RIVALS`].
    """

    streams: Floats
    likely: Tokens
    logits: Floats


def read_ends(
    model: Model, texts: Sequence[Sequence[int]], *, n_threads: int | None = None
) -> Ends:
    """Run texts and keep what they end in.

    Args:
        model: The model.
        texts: Token ids; at least one.
        n_threads: Threads for compute.
    """
    n_rivals = min(RIVALS, model.n_vocab)
    streams = np.zeros((len(texts), model.n_embd), np.float32)
    likely = np.zeros((len(texts), n_rivals), np.int64)
    found = np.zeros((len(texts), n_rivals), np.float32)
    for run in fillings(texts, CELLS):
        part = [texts[number] for number in run]
        last = {
            int(rows[-1]): n for n, rows in zip(run, row_numbers(part, shared=True), strict=True)
        }

        def keep(
            _layer: int, rows: NDArray[np.int64], r: Floats, last: dict[int, int] = last
        ) -> bool:
            for row, stream in zip(rows.tolist(), r, strict=True):
                streams[last[row]] = stream
            return True

        def choose(text: int, logits: Floats, start: int = run.start) -> None:
            best = np.argpartition(-logits, n_rivals - 1)[:n_rivals]
            likely[start + text], found[start + text] = best, logits[best]

        forward(
            model,
            part,
            keep,
            layers=[model.n_layer - 1],
            shared=True,
            n_threads=n_threads,
            node=RESIDUAL_OUTPUT,
            ends_only=True,
            logits=choose,
            reads_only=True,
        )
    return Ends(streams, likely, found)


@dataclass(frozen=True)
class Head:
    """From the last residual stream to logits: z_v = cap(E_v · (w ⊙ r / rms(r))).

    Attributes:
        rows: Where the embedding E_v of each token that is asked for is in `embeddings`.
        embeddings: Those [V', E], of the output matrix or, where a model has none, its input's.
        norm: w [E].
        epsilon: What the norm adds to the mean square.
        cap: Logits are cap · tanh(z / cap) (Gemma 2); None where they are z.
    """

    rows: dict[int, int]
    embeddings: Floats
    norm: Floats
    epsilon: float
    cap: float | None = None

    @classmethod
    def of(cls, model: Model, tokens: Tokens) -> Head:
        """That of a model, for some tokens.

        Raises:
            UnsupportedModelError: The model has no such tensors, or of a type not known here.
            ModelError: Its file cannot be read.
        """
        wanted = np.unique(tokens)
        name = "output.weight" if "output.weight" in model.tensors else "token_embd.weight"
        shape = (model.n_vocab, model.n_embd)
        cap = model.metadata(f"{model.architecture}.final_logit_softcapping")
        return cls(
            rows={int(token): row for row, token in enumerate(wanted)},
            embeddings=model.tensors.read(name, shape, wanted),
            norm=reader_norms(model, model.n_layer)[0],
            epsilon=norm_epsilon(model),
            cap=float(cap) if cap is not None and float(cap) > 0 else None,
        )

    def of_tokens(self, tokens: Tokens) -> Floats:
        """Embeddings [*tokens.shape, E]."""
        places = np.array([self.rows[token] for token in tokens.ravel().tolist()], np.int64)
        found: Floats = self.embeddings[places.reshape(tokens.shape)]
        return found

    def scale(self, streams: Floats) -> Floats:
        """What streams [N, E] are divided by before they are read, [N, 1]."""
        square = np.einsum("ne,ne->n", streams, streams, dtype=np.float64) / streams.shape[1]
        return np.asarray(np.sqrt(square + self.epsilon)[:, None], np.float32)

    def logits(self, streams: Floats, tokens: Tokens) -> Floats:
        """Logits [N, C] of tokens [N, C] behind streams [N, E]."""
        read = streams * (self.norm / self.scale(streams))
        # A product a row, so that no row's rounding depends on what runs beside it.
        z = (self.of_tokens(tokens) @ read[:, :, None])[:, :, 0]
        return np.asarray(z if self.cap is None else self.cap * np.tanh(z / self.cap), np.float32)

    def check(self, model: Model, ends: Ends) -> None:
        """Compare with the logits that the model gave.

        Raises:
            UnsupportedModelError: They differ: the model's output is another than this one.
        """
        given = ends.logits[:CHECKED]
        missed = self.logits(ends.streams[:CHECKED], ends.likely[:CHECKED]) - given
        spread = given - given.mean(axis=1, keepdims=True)
        if not np.linalg.norm(missed) <= TOLERANCE * np.linalg.norm(spread):
            raise UnsupportedModelError(
                f"architecture {model.architecture!r} cannot be taught facts: its logits are not "
                "its normalised residual stream times the embeddings of tokens",
                param="model",
            )
