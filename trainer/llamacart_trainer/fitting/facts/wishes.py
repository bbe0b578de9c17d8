"""What the last rows of some texts are to say, and how much of it is still missing.

A row's stream r at the end gives logits z. Its *lead* is z_o − log Σ_{v ≠ o} exp z_v over the
tokens v that rival the object's token o: the log-odds of o among them. The *pull* is the lead's
gradient in r, the norm's length held: ± E_v ⊙ w / rms(r), weighed by how likely each rival is.
Both are closed forms of r.

Axes: N rows, E width of the residual stream.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from llamacart.passes.capture import row_numbers
from llamacart_trainer.fitting.facts.head import Head, read_ends

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from llamacart.llama.model import Model
    from llamacart_trainer.fitting.chunks import SampleChunk

    Floats = NDArray[np.float32]
    Text = tuple[int, ...]

NOTHING = -1
"""Number of a row that nothing is wished of."""


@dataclass(frozen=True)
class Wishes:
    """What rows are to say.

    Attributes:
        numbers: Number of each text whose last row is to say something.
        tokens: What each is to say, and the tokens that rival it [N, 1 + rivals].
        rival: Which of them count as rivals: not those that are what it is to say [N, 1 + rivals].
        ends: The unsteered residual streams behind the last layer [N, E].
        head: Reads tokens off them.
        margin: The lead that is wanted, in nats.
        layers: Layers that raise it, ascending.
    """

    numbers: Mapping[Text, int]
    tokens: NDArray[np.int64]
    rival: NDArray[np.bool_]
    ends: Floats
    head: Head
    margin: float
    layers: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        model: Model,
        wanted: Mapping[Text, int],
        margin: float,
        *,
        n_threads: int | None = None,
    ) -> Wishes:
        """Look at what the unsteered model says.

        Args:
            model: The model.
            wanted: The token that is to follow each text.
            margin: The lead that is wanted, in nats.
            n_threads: Threads for compute.

        Raises:
            UnsupportedModelError: The model reads its residual stream in another way.
        """
        ends = read_ends(model, list(wanted), n_threads=n_threads)
        own = np.array(list(wanted.values()), np.int64)[:, None]
        tokens = np.concatenate([own, ends.likely], axis=1)
        rival = tokens != own
        head = Head.of(model, tokens)
        head.check(model, ends)
        numbers = {text: number for number, text in enumerate(wanted)}
        return cls(numbers, tokens, rival, ends.streams, head, margin)

    @property
    def lengthens(self) -> bool:
        """Yes: what is not along the pull raises no lead."""
        return True

    def by(self, layers: tuple[int, ...]) -> Wishes:
        """The same, to be reached by some layers."""
        return replace(self, layers=layers)

    def rows(self, chunk: SampleChunk) -> NDArray[np.int64]:
        """Number of what is wished of each tied row of a chunk, or `NOTHING`."""
        found = {
            int(rows[-1]): self.numbers.get(text, NOTHING)
            for text, rows in zip(
                chunk.targets, row_numbers(chunk.targets, shared=True), strict=True
            )
        }
        return np.array([found.get(row, NOTHING) for row in chunk.target_rows.tolist()], np.int64)

    def steps(
        self,
        numbers: NDArray[np.int64],
        before: Floats,  # noqa: ARG002
        moved: Floats,
        metric: Floats,
    ) -> Floats:
        """The smallest steps [N, E] that raise leads to the margin.

        d = (pull / m) · nats / ⟨pull, pull / m⟩, with size as the readers behind the layer see it.

        Args:
            numbers: Of some rows [N].
            before: Their unsteered residual streams behind the layer [N, E].
            moved: What has been added to those so far [N, E].
            metric: How much readers see of each dimension, m [E].
        """
        nats, pull = self.missing(numbers, moved)
        easiest = pull / metric
        reached = np.maximum(np.einsum("ne,ne->n", pull, easiest), 1e-20)
        return np.asarray(easiest * (nats / reached)[:, None], np.float32)

    def missing(self, numbers: NDArray[np.int64], moved: Floats) -> tuple[Floats, Floats]:
        """How far leads are below the margin, and the pulls that raise them.

        Args:
            numbers: Of some rows [N].
            moved: What has been added to the unsteered residual streams so far [N, E]; it is taken
                to arrive at the end as it is.

        Returns:
            Nats [N], 0 where nothing is missing, and pulls [N, E].
        """
        streams, tokens = self.ends[numbers] + moved, self.tokens[numbers]
        z = self.head.logits(streams, tokens).astype(np.float64)
        others = np.where(self.rival[numbers], z, -np.inf)
        top = others.max(axis=1, keepdims=True)
        weights = np.exp(others - top)
        mass = weights.sum(axis=1, keepdims=True)
        lead = z[:, 0] - (top + np.log(mass))[:, 0]
        signs = -weights / mass
        signs[:, 0] = 1.0
        if self.head.cap is not None:
            signs *= 1 - (z / self.head.cap) ** 2
        raised = (signs.astype(np.float32)[:, None, :] @ self.head.of_tokens(tokens))[:, 0]
        pull = raised * (self.head.norm / self.head.scale(streams))
        return np.maximum(self.margin - lead, 0).astype(np.float32), np.asarray(pull, np.float32)


def after(texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> dict[Text, int]:
    """The token that is to follow each beginning of an answer.

    Args:
        texts: Token ids of what stands before an answer, and of the answer.
    """
    return {
        (*before, *answer[:n]): token for before, answer in texts for n, token in enumerate(answer)
    }
