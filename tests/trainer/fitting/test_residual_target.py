"""The whole of `train` towards the residual stream of a context, on tiny models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llamacart.errors import RecipeError
from llamacart.llama.model import Model
from llamacart.passes.capture import forward, row_numbers
from llamacart.values.steering import DenseMap
from llamacart_trainer.fitting import job as job_module
from llamacart_trainer.fitting import memory as memory_module
from llamacart_trainer.fitting.aim import Part, ResidualAim
from llamacart_trainer.fitting.chunks import neutral_weight, split
from llamacart_trainer.fitting.layers import chosen_layers
from llamacart_trainer.fitting.samples import SampleBuilder
from llamacart_trainer.fitting.settings import FitSettings
from llamacart_trainer.fitting.training import TrainResult, train
from llamacart_trainer.recipe.recipe import Recipe, Task, TextPair
from llamacart_trainer.recipe.target import Target

WORDS = ("red", "old", "big", "new", "wet", "sad", "odd", "raw")
PAIRS = tuple(
    TextPair(f"the {word} thing {i}", f"say it well: the {word} thing {i}")
    for i, word in enumerate(WORDS * 2)
)
NEUTRAL = ("as it is, so it was", "and so be it 12345")

WAYS: dict[str, dict[str, int]] = {
    "many lanes": {"max_ubatch_rows": 1},
    "streamed": {"max_memory": 4 << 20},
    "streamed by one": {"max_memory": 4 << 20, "max_ubatch_rows": 1},
}


def task(**settings: object) -> Task:
    values: dict[str, object] = {
        "name": "t",
        "target": "residual",
        "pairing": ["suffix"],
        "penalty": 0.01,
        "neurons": 48,
        "rank": "full",  # random weights have no directions that matter more than others
        **settings,
    }
    return Task(Recipe.model_validate(values), PAIRS, NEUTRAL)


def stream(model: Model, texts: list[list[int]], result: TrainResult | None) -> np.ndarray:
    """The residual stream behind the layer before the last, under a cartridge's maps."""
    maps = {} if result is None else {m.layer: m for m in result.cartridge.layers}

    def steer(layer: int, _rows: np.ndarray, h: np.ndarray) -> bool:
        if layer in maps:
            dense = DenseMap.of(maps[layer], model.n_ff)
            h[:, dense.neurons] += dense.step(h)
        return True

    layer = model.n_layer - 1
    found: dict[int, np.ndarray] = {}

    def read(seen: int, rows: np.ndarray, x: np.ndarray) -> None:
        if seen == layer:
            found.setdefault(layer, np.zeros((sum(map(len, texts)), model.n_embd)))[rows] = x

    forward(model, texts, steer, layers=range(layer + 1), beside=(model.residual_input, read))
    return found[layer]


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_the_stream_comes_near_to_that_behind_the_context(
    tiny_path: Callable[..., Path], architecture: str
) -> None:
    with Model(str(tiny_path(architecture=architecture)), batch_invariant=True) as model:
        result = train(task(), model)
        sources = [model.tokenize(pair.source) for pair in PAIRS]
        targets = [model.tokenize(pair.target) for pair in PAIRS]
        ends = np.cumsum([len(text) for text in sources]) - 1
        aims = np.cumsum([len(text) for text in targets]) - 1
        before, after, wanted = (
            stream(model, texts, by)[rows]
            for texts, by, rows in (
                (sources, None, ends), (sources, result, ends), (targets, None, aims),
            )
        )  # fmt: skip
        neutral = [model.tokenize(text) for text in NEUTRAL]
        still = stream(model, neutral, None)
        moved, held = (
            float(np.linalg.norm(stream(model, neutral, by) - still))
            for by in (result, train(task(neutral_weight=100.0), model))
        )
    assert [r.layer for r in result.layers] == [0, 1]  # the last is left out
    assert np.linalg.norm(after - wanted) < 0.7 * np.linalg.norm(before - wanted)
    assert held < 0.7 * moved
    assert all(report.closed > 0.2 for report in result.layers)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_every_way_through_the_layers_is_one_pass_to_the_bit(
    tiny_path: Callable[..., Path], architecture: str, way: str
) -> None:
    with Model(str(tiny_path(architecture=architecture)), batch_invariant=True) as model:
        one = train(task(layers=[0, -1]), model)
        other = train(task(layers=[0, -1]), model, **WAYS[way])
    assert [r.layer for r in one.layers] == [0, 1, 2]
    assert other.layers == one.layers
    assert other.cartridge.content_hash == one.cartridge.content_hash


def test_summed_up_rows_give_the_same_map(
    tiny_path: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "ROW_COPIES", 10**3)  # or the few rows would be held
    with Model(str(tiny_path(architecture="gemma3")), batch_invariant=True) as model:
        one = train(task(neutral_weight=2.0), model)
        summed = train(task(neutral_weight=2.0), model, max_memory=1 << 20, max_ubatch_rows=1)
    width = one.cartridge.fingerprint.n_ff
    assert summed.cartridge.content_hash != one.cartridge.content_hash  # it was another way
    for a, b in zip(one.cartridge.layers, summed.cartridge.layers, strict=True):
        np.testing.assert_array_equal(a.neurons, b.neurons)
        np.testing.assert_allclose(a.dense_delta(width), b.dense_delta(width), atol=2e-2)
        np.testing.assert_allclose(a.bias, b.bias, atol=2e-2)


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("parts_seen", [1, 3])
@pytest.mark.parametrize("summed", [False, True])
def test_a_resumed_fit_gives_the_same_bytes(
    tiny_path: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    summed: bool,
    parts_seen: int,
) -> None:
    """Killed in the second layer, of which sums over some chunks are kept."""
    limits = {"max_memory": 1 << 20 if summed else 4 << 20, "max_ubatch_rows": 100}
    if summed:
        monkeypatch.setattr(memory_module, "ROW_COPIES", 10**3)
        monkeypatch.setattr(job_module, "SECONDS_BETWEEN_MOMENTS", 0.0)
    made = task()
    left = [10**6]
    part = ResidualAim.part

    def killed(self: ResidualAim, layer: int, *args: object) -> Part:
        left[0] -= layer == 1
        if left[0] < 0:
            raise KilledError
        return part(self, layer, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(ResidualAim, "part", killed)
    with Model(str(tiny_path(architecture="gemma3")), batch_invariant=True) as model:
        whole = train(made, model, **limits)
        left[0] = parts_seen
        with pytest.raises(KilledError):
            train(made, model, job=tmp_path / "job", **limits)
        assert bool(list((tmp_path / "job").glob("moments-1-*"))) == summed
        left[0] = 10**6
        resumed = train(made, model, job=tmp_path / "job", **limits)
    assert resumed.restored == 1
    assert resumed.layers == whole.layers
    assert resumed.cartridge.content_hash == whole.cartridge.content_hash


def test_targets_of_neutral_rows_do_not_run_and_first_rows_count_nowhere(
    tiny_model: Model,
) -> None:
    samples = SampleBuilder(task(pairing=["suffix", "identity"]), tiny_model).build()
    copied, closed = split(samples, 100), split(samples, 100, to_gap=True)
    for chunks in (copied, closed):
        targets = {text for chunk in chunks for text in chunk.targets}
        assert targets == {tuple(tiny_model.tokenize(pair.target)) for pair in PAIRS}
    for chunk in copied:
        assert len(chunk.target_rows) == (~chunk.neutral).sum()
    for chunk in closed:
        firsts = [rows[0] for rows in row_numbers(chunk.sources, shared=True)]
        assert not np.isin(chunk.source_rows, firsts).any()
        assert len(chunk.target_rows) == (~chunk.neutral).sum()
        assert len(chunk.groups) == len(chunk.source_rows)


def test_equal_texts_leave_nothing_to_fit(tiny_path: Callable[..., Path]) -> None:
    """What rounds in the model rounds on both sides."""
    pairs = tuple(TextPair(pair.source, pair.source) for pair in PAIRS)
    same = Task(task(pairing=["position"]).recipe, pairs)
    with (
        Model(str(tiny_path()), batch_invariant=True) as model,
        pytest.raises(RecipeError, match="0 would close a gap"),
    ):
        train(same, model)


@pytest.mark.parametrize("target", ["residual", "object"])
def test_neutral_rows_weigh_more_than_tied_ones(tiny_model: Model, target: Target) -> None:
    samples = SampleBuilder(task(), tiny_model).build()
    chunks = split(samples, 40, to_gap=True)
    neutral = np.concatenate([chunk.neutral for chunk in chunks])
    weight = neutral_weight(chunks, FitSettings(0.0, 0.1, target=target))
    mass = {"residual": 5, "object": 2}[target]
    assert weight * neutral.sum() == pytest.approx(mass * (~neutral).sum())
    assert neutral_weight(chunks, FitSettings(0.0, 0.1)) == 1.0
    given = FitSettings(0.0, 0.1, target=target, neutral_weight=3.0)
    assert neutral_weight(chunks, given) == 3.0
    weighed = [replace(own, weights=[2.0] * len(own.source_rows)) for own in samples[:3]]
    other = split([*weighed, *samples[3:]], 40, to_gap=True)
    more = sum(len(own.source_rows) for own in weighed) if target == "object" else 0
    found = neutral_weight(other, FitSettings(0.0, 0.1, target=target))
    assert found * neutral.sum() == pytest.approx(mass * ((~neutral).sum() + more))
    tied = split(samples[: len(PAIRS)], 40, to_gap=True)
    assert neutral_weight(tied, FitSettings(0.0, 0.1, target="residual")) == 1.0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"layers": [1, 1]}, [1]),
        ({"layers": [-2, -1]}, [1, 2]),
        ({"skip_layers": [0]}, [1]),
        ({"layers": [0, -1], "skip_layers": [1]}, [0, 2]),
    ],
)
def test_layers_are_chosen(
    tiny_model: Model, settings: dict[str, object], expected: list[int]
) -> None:
    assert chosen_layers(task(**settings).recipe, tiny_model.n_layer) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": [0, 3]}, "layers has value 3; the model has 3 layers"),
        ({"layers": [2, 1]}, r"layers has value \[2, 1\], which names no layer"),
        ({"layers": [1, 1], "skip_layers": [1]}, "skip_layers leaves no layer"),
    ],
)
def test_layers_that_are_not_there_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        chosen_layers(task(**settings).recipe, 3)
