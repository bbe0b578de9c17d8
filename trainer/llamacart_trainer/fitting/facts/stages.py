"""Which layers mark subjects, and which say objects.

An object is said where a last row decides what it says: from the first layer whose stream, read as
if it were the last one (the logit lens, nostalgebraist 2020), ranks tokens as the end does, to the
last but one. A subject is marked before that, early enough for attention to carry the mark on:
behind the first layers, which put its tokens together.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from llamacart.errors import RecipeError
from llamacart.llama.sites import RESIDUAL_OUTPUT
from llamacart.passes.capture import capture, row_offsets
from llamacart.passes.residual import residual_sizes
from llamacart_trainer.fitting.facts.marks import (
    STRENGTH,
    WAITING_STRENGTH,
    Marks,
    attention_path,
)
from llamacart_trainer.fitting.facts.wishes import Wishes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from llamacart.llama.model import Model
    from llamacart_trainer.fitting.facts.aim import Stage
    from llamacart_trainer.fitting.facts.samples import FactSamples

    Floats = NDArray[np.float32]

MOST_TEXTS = 64
"""Texts that are looked at; more say the same."""

DECIDED = 0.5
"""A row has begun to decide where its stream ranks what it may say so much like the end does: the
mean correlation of the tokens' logits."""

SAYING = 1 / 4
"""Share of the layers that say objects at least: fewer would have to turn too far each."""

MARKING = (1 / 6, 1 / 3)
"""From which share of the layers to which subjects are marked."""


def find_stages(
    model: Model,
    samples: FactSamples,
    margin: float,
    allowed: Sequence[int] | None = None,
    *,
    waits: bool = False,
    n_threads: int | None = None,
) -> list[Stage]:
    """Say what layers do, on what facts are fitted on.

    Args:
        model: The model.
        samples: Those.
        margin: The lead of objects that is wanted, in nats.
        allowed: Layers that may be fitted; None for all but the last.
        waits: Whether the cartridge acts only behind a subject.
        n_threads: Threads for compute.

    Raises:
        RecipeError: No allowed layer does anything.
        UnsupportedModelError: The model has other parts than are known here.
    """
    wishes = Wishes.of(model, samples.wanted, margin, n_threads=n_threads)
    likeness = lens(model, wishes, n_threads=n_threads)
    saying = saying_layers(likeness, model.n_layer)
    marking = list(range(*(round(share * model.n_layer) for share in MARKING)))
    marking = [layer for layer in marking if layer < saying[0]]
    if allowed is not None:
        marking, saying = ([n for n in own if n in allowed] for own in (marking, saying))
        saying = saying or [layer for layer in allowed if layer not in marking]
    stages: list[Stage] = []
    if saying:
        stages.append(wishes.by(tuple(saying)))
    if marking and any(samples.subjects.values()):
        end = (saying or [model.n_layer])[0] + 1
        reading = range(marking[-1] + 1, min(end + 1, model.n_layer))
        sizes = stream_sizes(model, samples, n_threads=n_threads)
        ways = attention_path(model, _pulls(wishes, samples), sizes, reading)
        ways, shares = of_subjects(ways, samples.leaders)
        strength = WAITING_STRENGTH if waits else STRENGTH
        stages.append(Marks(tuple(marking), samples.subjects, ways, strength * shares))
    if not stages:
        raise RecipeError("no layer that may be fitted marks a subject or says an object")
    return stages


def stream_sizes(
    model: Model, samples: FactSamples, *, n_threads: int | None = None
) -> list[float]:
    """Mean square of the residual stream behind each layer, at last rows of the facts' prompts."""
    texts = [own[0] for own in samples.firsts][:MOST_TEXTS]
    return residual_sizes(model, texts, row_offsets(texts)[1:] - 1, n_threads=n_threads)


def lens(model: Model, wishes: Wishes, *, n_threads: int | None = None) -> list[float]:
    """How much the stream behind each layer but the last ranks tokens as the end does.

    The mean correlation of logits, over rows and the tokens that each may end in.

    Args:
        model: The model.
        wishes: Says the texts and those tokens.
        n_threads: Threads for compute.
    """
    layers = range(model.n_layer - 1)
    if not layers:
        return []
    every = -(-len(wishes.numbers) // MOST_TEXTS)
    texts: Sequence[tuple[int, ...]] = list(wishes.numbers)[::every]
    numbers = np.array([wishes.numbers[text] for text in texts])
    seen = capture(
        model,
        texts,
        layers=layers,
        rows=row_offsets(texts)[1:] - 1,
        n_threads=n_threads,
        node=RESIDUAL_OUTPUT,
    )
    rivals = wishes.tokens[numbers, 1:]
    ends = _standard(wishes.head.logits(wishes.ends[numbers], rivals))
    return [
        float((_standard(wishes.head.logits(seen[layer], rivals)) * ends).mean())
        for layer in layers
    ]


def saying_layers(likeness: Sequence[float], n_layer: int) -> list[int]:
    """From the first layer from which on the stream stays like the end, to the last but one.

    They are at least `SAYING` of all.

    Args:
        likeness: Of each layer but the last: see `lens`.
        n_layer: L.
    """
    if n_layer == 1:
        return [0]
    first = n_layer - 2
    while first > 0 and likeness[first - 1] >= DECIDED:
        first -= 1
    latest = n_layer - 1 - math.ceil(n_layer * SAYING)
    return list(range(max(0, min(first, latest)), n_layer - 1))


def of_subjects(ways: Floats, leaders: Sequence[int]) -> tuple[Floats, Floats]:
    """Where the marks of whole subjects lie: at the mean of those of each one's facts.

    The row that ends a subject is one for all facts on it.

    Args:
        ways: By fact [F, E].
        leaders: For each fact the number of the first one on its subject, in whose place the mean
            stands.

    Returns:
        Directions [F, E], and how long the mean of marks of length 1 is [F]: 1 for a single fact.
    """
    places = np.asarray(leaders, np.int64)
    lengths = np.linalg.norm(ways, axis=1, keepdims=True)
    means = np.zeros_like(ways)
    np.add.at(means, places, ways / np.maximum(lengths, 1e-20))
    means /= np.maximum(np.bincount(places, minlength=len(ways)), 1)[:, None].astype(np.float32)
    return means, np.linalg.norm(means, axis=1)


def _pulls(wishes: Wishes, samples: FactSamples) -> Floats:
    """The mean pull towards the first token of each fact's object [F, E]."""
    pulls = []
    for texts in samples.firsts:
        numbers = np.array([wishes.numbers[text] for text in texts])
        pulls.append(wishes.missing(numbers, np.zeros_like(wishes.ends[numbers]))[1].mean(axis=0))
    return np.stack(pulls)


def _standard(rows: Floats) -> Floats:
    """Rows less their mean, in units of their spread."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(rows.std(axis=1, keepdims=True), 1e-12), np.float32)
