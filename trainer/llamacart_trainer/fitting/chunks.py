"""The chunks in which samples run: texts that go together, and which rows are looked at."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llamacart.llama.context import MAX_SEQUENCES
from llamacart.passes.batching import Tree
from llamacart.passes.capture import count_rows, row_numbers, row_offsets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from llamacart_trainer.fitting.settings import FitSettings
    from llamacart_trainer.recipe.pairing import PairedRows
    from llamacart_trainer.recipe.target import Target

    Tokens = tuple[int, ...]

NEUTRAL_MASS: dict[Target, float] = {"residual": 5.0, "object": 2.0}
"""What neutral rows weigh together, in tied rows, where a gap is closed."""


NO_ROWS = np.zeros(0, np.int64)


class Side(NamedTuple):
    """What runs of one side of a chunk.

    Attributes:
        texts: Distinct sequences; none where nothing has to run.
        rows: Rows that are looked at, numbered over all of `texts` as by `row_numbers`.
        idle: Rows, numbered alike, on which no cartridge will ever act.
        more: Rows, numbered alike, that are looked at for something else.
    """

    texts: Sequence[Tokens]
    rows: NDArray[np.int64]
    idle: NDArray[np.int64] = NO_ROWS
    more: NDArray[np.int64] = NO_ROWS

    @property
    def n_rows(self) -> int:
        """Rows that are computed: what several texts begin with once."""
        return count_rows(self.texts, shared=True)


@dataclass(frozen=True)
class SampleChunk:
    """Samples that run together, each text once.

    Attributes:
        sources: Distinct source sequences.
        targets: Distinct target sequences.
        source_rows: Rows [N] of the samples, numbered over all of `sources`; see `Side`.
        target_rows: Rows [M] of the samples that are not neutral, numbered over all of `targets`.
        neutral: Which of the source rows [N] are there for locality.
        groups: Group of the sample that each source row [N] is of.
        weights: How often each source row counts [N]; None means once.
        idle: Rows of `sources`, numbered over all of them, on which the cartridge will not act.
        untouched: The neutral samples whose rows are looked at among the targets', of which they
            are the sources; None where there are none.
    """

    sources: Sequence[Tokens]
    targets: Sequence[Tokens]
    source_rows: NDArray[np.int64]
    target_rows: NDArray[np.int64]
    neutral: NDArray[np.bool_]
    groups: NDArray[np.int64]
    weights: NDArray[np.float32] | None = None
    idle: NDArray[np.int64] = field(default_factory=lambda: NO_ROWS)
    untouched: SampleChunk | None = None

    @property
    def source(self) -> Side:
        """The texts that are steered."""
        return Side(self.sources, self.source_rows, self.idle)

    @property
    def target(self) -> Side:
        """The texts that are aimed at."""
        more = NO_ROWS if self.untouched is None else self.untouched.source_rows
        return Side(self.targets, self.target_rows, more=more)

    @property
    def parts(self) -> list[SampleChunk]:
        """Itself and what is untouched: all samples whose rows are fitted, in order."""
        return [self] if self.untouched is None else [self, self.untouched]

    @property
    def n_fitted(self) -> int:
        """Source rows of all of them."""
        return sum(len(part.source_rows) for part in self.parts)

    @property
    def n_rows(self) -> int:
        """Rows that are computed of both sides."""
        return self.source.n_rows + self.target.n_rows


def with_idle(chunk: SampleChunk, acts: Callable[[Tokens], Sequence[bool]]) -> SampleChunk:
    """The same chunk, with the rows of its sources on which the cartridge will not act.

    Args:
        chunk: Samples.
        acts: Whether it acts on each row of a text.
    """
    numbers = row_numbers(chunk.sources, shared=True)
    idle = [
        own[~np.asarray(acts(text), np.bool_)]
        for text, own in zip(chunk.sources, numbers, strict=True)
    ]
    return replace(chunk, idle=np.unique(np.concatenate([NO_ROWS, *idle])))


def split(
    samples: Sequence[PairedRows], max_rows: int, *, to_gap: bool = False
) -> list[SampleChunk]:
    """Group samples, in order, into chunks that one ubatch a side can hold.

    Neutral rows are to stay as the layers before have left them, so that their targets do not run.
    Those that are untouched are looked at among the targets.

    Args:
        samples: Those without rows are left out.
        max_rows: Most rows of a side, of which those are one that several texts begin with; a
            longer text is a chunk of its own.
        to_gap: Gaps are to be closed: the first row of a text, whose activations are huge, is left
            out everywhere.
    """
    if to_gap:
        samples = [_without_first(sample) for sample in samples]
    chunks = []
    group: list[PairedRows] = []
    sides = _Filling(), _Filling()
    for sample in samples:
        if not len(sample.source_rows):
            continue
        texts = _texts(sample)
        if group and not all(sides[n].has_room(text, max_rows) for n, text in texts):
            chunks.append(_chunk(group))
            group, sides = [], (_Filling(), _Filling())
        group.append(sample)
        for n, text in texts:
            sides[n].add(text)
    return [*chunks, _chunk(group)] if group else []


def _texts(sample: PairedRows) -> list[tuple[int, Tokens]]:
    """What runs of a sample, and on which side: 0 with the sources, 1 with the targets."""
    if sample.untouched:
        return [(1, tuple(sample.source))]
    texts = [(0, tuple(sample.source))]
    return texts if sample.neutral else [*texts, (1, tuple(sample.target))]


def _chunk(samples: Sequence[PairedRows]) -> SampleChunk:
    steered = [s for s in samples if not s.untouched]
    tied, untouched = [s for s in steered if not s.neutral], [s for s in samples if s.untouched]
    sources, source_rows = _place([(s.source, s.source_rows) for s in steered])
    targets, rows = _place(
        [
            *((s.target, s.target_rows) for s in tied),
            *((s.source, s.source_rows) for s in untouched),
        ]
    )
    n_tied = sum(len(s.target_rows) for s in tied)
    chunk = _of_rows(steered, sources, source_rows)
    own = _of_rows(untouched, targets, rows[n_tied:]) if untouched else None
    return replace(chunk, targets=targets, target_rows=rows[:n_tied], untouched=own)


def _of_rows(
    samples: Sequence[PairedRows], sources: Sequence[Tokens], source_rows: NDArray[np.int64]
) -> SampleChunk:
    """A chunk of samples whose sources run as those, without targets."""
    counts = [len(s.source_rows) for s in samples]
    neutral = np.repeat(np.array([s.neutral for s in samples], np.bool_), counts)
    groups = np.repeat(np.array([s.group for s in samples], np.int64), counts)
    weights = None
    if any(s.weights is not None for s in samples):
        each = [np.ones(len(s.source_rows)) if s.weights is None else s.weights for s in samples]
        weights = np.concatenate(each).astype(np.float32)
    return SampleChunk(sources, [], source_rows, NO_ROWS, neutral, groups, weights)


class _Filling:
    """Texts of one side of a chunk that is being filled."""

    def __init__(self) -> None:
        self._texts: set[Tokens] = set()
        self._tree = Tree()

    def has_room(self, text: Tokens, max_rows: int) -> bool:
        """Whether a text may join the others."""
        if text in self._texts:
            return True
        grown = self._tree.n_rows + self._tree.missing(text)
        return len(self._texts) < MAX_SEQUENCES and grown <= max_rows

    def add(self, text: Tokens) -> None:
        """Let a text join, once."""
        if text not in self._texts:
            self._texts.add(text)
            self._tree.add(text)


def _place(
    given: Sequence[tuple[Sequence[int], Sequence[int]]],
) -> tuple[list[Tokens], NDArray[np.int64]]:
    """Distinct texts, and rows of the given ones numbered over the distinct ones."""
    distinct = list(dict.fromkeys(tuple(text) for text, _ in given))
    numbers = dict(zip(distinct, row_numbers(distinct, shared=True), strict=True))
    placed = [numbers[tuple(text)][np.asarray(rows, np.int64)] for text, rows in given]
    return distinct, np.concatenate([np.zeros(0, np.int64), *placed])


def _without_first(sample: PairedRows) -> PairedRows:
    kept = [n for n, (i, j) in enumerate(sample.rows) if i and j]
    return replace(
        sample,
        source_rows=[sample.source_rows[n] for n in kept],
        target_rows=[sample.target_rows[n] for n in kept],
        weights=None if sample.weights is None else [sample.weights[n] for n in kept],
    )


def place_rows(
    sequences: Sequence[Sequence[int]], rows: Sequence[Sequence[int]]
) -> tuple[list[Tokens], NDArray[np.int64]]:
    """Distinct sequences, and rows of the given ones numbered over the distinct ones."""
    distinct = list(dict.fromkeys(map(tuple, sequences)))
    starts = dict(zip(distinct, row_offsets(distinct)[:-1], strict=True))
    placed = [
        starts[tuple(sequence)] + np.asarray(own, np.int64)
        for sequence, own in zip(sequences, rows, strict=True)
    ]
    return distinct, np.concatenate([np.zeros(0, np.int64), *placed])


def neutral_weight(chunks: Sequence[SampleChunk], settings: FitSettings) -> float:
    """How often a neutral row counts: as the settings say, or as the number of rows asks for.

    Where a gap is closed, neutral rows together weigh `NEUTRAL_MASS` times as much as tied ones, so
    that what the map does to other texts does not depend on how many there are of either. Where
    facts are taught, each row counts by its own weight: most tied ones are there to stay.
    """
    if settings.neutral_weight != "auto":
        return settings.neutral_weight
    chunks = [part for chunk in chunks for part in chunk.parts]
    n_neutral = sum(int(chunk.neutral.sum()) for chunk in chunks)
    if not settings.closes_gap or not n_neutral:
        return 1.0
    n_tied = sum(len(chunk.neutral) for chunk in chunks) - n_neutral
    mass = NEUTRAL_MASS[settings.target]
    if settings.target != "object":
        return mass * n_tied / n_neutral
    counts = [np.ones(len(c.neutral)) if c.weights is None else c.weights for c in chunks]
    neutral = sum(float(own[c.neutral].sum()) for own, c in zip(counts, chunks, strict=True))
    return mass * (sum(float(own.sum()) for own in counts) - neutral) / max(neutral, 1e-9)
