"""Which texts run on which side of a chunk, and whose rows are looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llamacart.llama.model import Model
from llamacart.passes.capture import capture
from llamacart_trainer.fitting import cascade as cascade_module
from llamacart_trainer.fitting.aim import Part
from llamacart_trainer.fitting.chunks import split
from llamacart_trainer.fitting.samples import SampleBuilder
from llamacart_trainer.fitting.training import train
from llamacart_trainer.recipe.pairing import PairedRows
from llamacart_trainer.recipe.recipe import Recipe, Task, TextPair

PAIRS = tuple(
    TextPair(f"the {a} number {i} is here", f"le {b} nombre {i} est ici")
    for i, (a, b) in enumerate([("red", "rouge"), ("old", "vieux"), ("big", "grand")] * 3)
)
NEUTRAL = ("as it is", "and so be it")

SOURCE, TARGET, OTHER = (1, 30, 31), (1, 40, 41, 42), (1, 50, 51)


def task(**settings: object) -> Task:
    values = {"name": "t", "penalty": 1.0, "pairing": ["handover", "identity"], **settings}
    return Task(Recipe.model_validate(values), PAIRS, NEUTRAL)


def samples() -> list[PairedRows]:
    return [
        PairedRows(SOURCE, TARGET, [1, 2], [2, 3]),
        PairedRows(TARGET, TARGET, [0, 1, 2, 3], [0, 1, 2, 3], neutral=True, untouched=True),
        PairedRows(OTHER, OTHER, [1, 2], [1, 2], neutral=True, group=1),
    ]


def test_an_untouched_text_runs_once_and_among_the_targets() -> None:
    (chunk,) = split(samples(), 100)
    assert list(chunk.sources) == [SOURCE, OTHER]
    assert list(chunk.targets) == [TARGET]
    own = chunk.untouched
    assert own is not None
    assert own.neutral.all()
    assert list(own.sources) == [TARGET]
    assert own.source_rows.tolist() == [0, 1, 2, 3]
    assert chunk.target.rows.tolist() == [2, 3]
    assert chunk.target.more.tolist() == [0, 1, 2, 3]
    assert (chunk.n_fitted, chunk.n_rows) == (8, 9)
    assert own.groups.tolist() == [0] * 4


def test_an_untouched_text_without_a_target_runs_there_too() -> None:
    _, own, other = samples()
    (chunk,) = split([own], 100)
    assert not chunk.source.texts
    assert chunk.target.more.tolist() == [0, 1, 2, 3]
    assert len(split([own, other], 3)) == 1  # each side has room for one
    assert len(split([own, *samples()], 4)) == 2


@pytest.mark.parametrize("target", ["activation", "residual"])
@pytest.mark.parametrize("max_memory", [1 << 32, 1 << 21])
def test_untouched_rows_are_the_models_own_in_every_layer(
    tiny_path: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, target: str, max_memory: int
) -> None:
    """Whatever the layers before do; side by side and streamed."""
    found: dict[int, np.ndarray] = {}

    class Watched(Part):
        @classmethod
        def joined(cls, parts, counts, rooms):  # type: ignore[no-untyped-def]
            part = Part.joined(parts, counts, rooms)
            found[len(found)] = part.x[counts.steered :].copy()
            return part

    monkeypatch.setattr(cascade_module, "Part", Watched)
    with Model(str(tiny_path(architecture="gemma3")), batch_invariant=True) as model:
        own = task(target=target, **({"threshold": 0.1} if target == "activation" else {}))
        result = train(own, model, max_memory=max_memory)
        assert len(result.cartridge.layers) == len(result.layers) > 1
        texts = [model.tokenize(pair.target) for pair in PAIRS]
        first = 0 if target == "activation" else 1
        for number, report in enumerate(result.layers):
            (alone,) = capture(model, texts, layers=[report.layer]).values()
            ends = np.cumsum([len(text) for text in texts])[:-1]
            wanted = np.concatenate([rows[first:] for rows in np.split(alone, ends)])
            np.testing.assert_array_equal(found[number], wanted)


def test_untouched_texts_count_among_what_is_fitted(tiny_model: Model) -> None:
    built = SampleBuilder(task(), tiny_model).build()
    chunks = split(built, 1000)
    assert sum(chunk.n_fitted for chunk in chunks) == sum(len(s.source_rows) for s in built)
    targets = {tuple(s.target) for s in built if not s.neutral}
    assert {tuple(s.source) for s in built if s.untouched} <= targets
