"""The cascade on tiny models with a known answer, and the whole of `train` on Gemma."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import py3langid
import pytest

from llamacart.cartridge import Cartridge
from llamacart.errors import InputError, RecipeError
from llamacart.file.reader import read_cartridge
from llamacart.file.writer import write_cartridge
from llamacart.llama.model import Model
from llamacart.passes.capture import capture
from llamacart.passes.generate import greedy
from llamacart.values.steering import Dose, apply_reference
from llamacart_trainer.fitting import aim as aim_module
from llamacart_trainer.fitting import memory as memory_module
from llamacart_trainer.fitting import sight as sight_module
from llamacart_trainer.fitting.cascade import Cascade
from llamacart_trainer.fitting.chunks import SampleChunk
from llamacart_trainer.fitting.layer import fit_layer
from llamacart_trainer.fitting.settings import FitSettings, LayerReport
from llamacart_trainer.fitting.training import train
from llamacart_trainer.recipe.recipe import Recipe, Task, TextPair, load_task

LIBRARY = Path(__file__).parents[3] / "cartridges" / "library"
PAIRS = tuple(
    TextPair(f"the {a} number {i}", f"le {b} nombre {i}")
    for i, (a, b) in enumerate([("red", "rouge"), ("old", "vieux"), ("big", "grand")] * 3)
)


def task(**settings: object) -> Task:
    values: dict[str, object] = {"name": "t", "threshold": 0.1, "penalty": 1.0, **settings}
    return Task(Recipe.model_validate(values), PAIRS)


def assert_same_map(one: Cartridge, other: Cartridge) -> None:
    assert [m.layer for m in one.layers] == [m.layer for m in other.layers]
    for a, b in zip(one.layers, other.layers, strict=True):
        np.testing.assert_array_equal(a.neurons, b.neurons)
        width = one.fingerprint.n_ff
        np.testing.assert_allclose(a.dense_delta(width), b.dense_delta(width), atol=2e-2)
        np.testing.assert_allclose(a.bias, b.bias, atol=2e-2)


WAYS: dict[str, dict[str, int]] = {
    "many lanes": {"max_ubatch_rows": 1},
    "streamed": {"max_memory": 2 << 20},
    "streamed by one": {"max_memory": 2 << 20, "max_ubatch_rows": 1},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_every_way_through_the_layers_is_one_pass_to_the_bit(
    tiny_path: Callable[..., Path], architecture: str, way: str
) -> None:
    """Batch-invariant kernels know no batch, and steps are taken in products of one shape."""
    with Model(str(tiny_path(architecture=architecture)), batch_invariant=True) as model:
        one = train(task(), model)
        other = train(task(), model, **WAYS[way])
    assert [r.layer for r in one.layers] == [0, 1, 2]
    assert other.layers == one.layers
    assert other.cartridge.content_hash == one.cartridge.content_hash


def test_summed_up_rows_give_the_same_map(
    tiny_path: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to rounding, of which the later layers see that of the earlier ones."""
    monkeypatch.setattr(memory_module, "ROW_COPIES", 10**3)  # or the few rows would be held
    with Model(str(tiny_path(architecture="gemma3")), batch_invariant=True) as model:
        one = train(task(), model).cartridge
        summed = train(task(), model, max_memory=1 << 18, max_ubatch_rows=1).cartridge
    width = one.fingerprint.n_ff
    for tolerance, a, b in zip((4e-3, 2e-2, 4e-2), one.layers, summed.layers, strict=True):
        np.testing.assert_array_equal(a.neurons, b.neurons)
        np.testing.assert_allclose(a.dense_delta(width), b.dense_delta(width), atol=tolerance)
        np.testing.assert_allclose(a.bias, b.bias, atol=tolerance)
    assert summed.content_hash != one.content_hash  # it was another way


def test_what_runs_together_follows_the_memory(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the bound no lane is opened twice, above it none at all."""
    opened = []

    class Counted(sight_module.Lane):
        def __init__(self, *args: object, **kwargs: object) -> None:
            opened.append(kwargs["layers"])
            super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(sight_module, "Lane", Counted)
    train(task(), tiny_model, max_memory=1 << 20)
    assert not opened
    train(task(), tiny_model)
    assert opened == [{0, 1, 2}, {0, 1, 2}]


def test_last_layer_apart_equals_one_pass(
    tiny_path: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Model(str(tiny_path()), batch_invariant=True) as model:
        one = train(task(), model)
        monkeypatch.setattr(memory_module, "output_budget", lambda _model: 1)
        assert_same_map(one.cartridge, train(task(), model).cartridge)


def test_each_layer_sees_what_the_ones_before_did(tiny_model: Model) -> None:
    """Fit by hand: capture, fit, steer, and only then go on to the next layer."""
    sources = [tuple(tiny_model.tokenize(pair.source)) for pair in PAIRS[:3]]
    targets = [tuple(tiny_model.tokenize(pair.target)) for pair in PAIRS[:3]]
    # Nothing that all begin with is shared.
    sources, targets = ([t[i:] for i, t in enumerate(side)] for side in (sources, targets))
    assert len({text[0] for text in sources}) == len({text[0] for text in targets}) == 3
    n = min(sum(map(len, sources)), sum(map(len, targets)))
    rows = np.arange(n)
    wanted = {layer: y[:n] for layer, y in capture(tiny_model, targets).items()}
    settings = FitSettings(threshold=0.1, penalty=1.0)
    cascade = Cascade(tiny_model, settings, layers=range(3))
    cascade.run([SampleChunk(sources, targets, rows, rows, np.zeros(n, np.bool_), rows)])
    clean = capture(tiny_model, sources)[0][:n]
    by_hand, _ = fit_layer(0, clean, wanted[0], settings)
    assert by_hand is not None
    np.testing.assert_array_equal(cascade.maps[0].neurons, by_hand.neurons)
    unsteered_second = capture(tiny_model, sources)[1][:n]
    without_cascade, _ = fit_layer(1, unsteered_second, wanted[1], settings)
    assert without_cascade is not None
    assert not np.array_equal(cascade.maps[1].bias, without_cascade.bias)


def test_impact_filter_drops_weak_neurons() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 64)).astype(np.float32)
    y = x.copy()
    y[:, 3] += 2.0
    y[:, 9] += 0.2
    loose = FitSettings(threshold=0.01, penalty=1e9)
    strict = FitSettings(threshold=0.01, penalty=1e9, impact=1.0)
    layer_map, report = fit_layer(0, x, y, loose)
    assert layer_map is not None
    assert list(layer_map.neurons) == [3, 9]
    assert report.fidelity == pytest.approx(1.0, abs=1e-3)
    assert report.force == pytest.approx(1.0, abs=1e-3)
    layer_map, report = fit_layer(0, x, y, strict)
    assert layer_map is not None
    assert list(layer_map.neurons) == [3]
    assert (report.candidates, report.kept) == (2, 1)


def test_nothing_left_to_steer_is_one_clear_error(tiny_model: Model) -> None:
    with pytest.raises(RecipeError, match="no active neuron is left in any layer"):
        train(task(impact=1e6), tiny_model)
    same = tuple(TextPair("the same text", "the same text") for _ in range(3))
    with pytest.raises(RecipeError, match="are source and target the same text"):
        train(Task(task().recipe, same), tiny_model)


@pytest.mark.parametrize("max_memory", [2 << 20, 1 << 30])
def test_skipped_layers_are_left_alone(tiny_model: Model, max_memory: int) -> None:
    result = train(task(skip_layers=[-1, 1]), tiny_model, max_memory=max_memory)
    assert [m.layer for m in result.cartridge.layers] == [0]
    with pytest.raises(RecipeError, match="skip_layers has value 3"):
        train(task(skip_layers=[3]), tiny_model)
    with pytest.raises(RecipeError, match="leaves no layer"):
        train(task(skip_layers=[0, 1, 2]), tiny_model)


def test_pairs_without_rows(tiny_model: Model) -> None:
    lone = (TextPair("a b c", "d e f"),)
    with pytest.raises(RecipeError, match="paired rows"):
        train(Task(Recipe(name="t", pairing=["handover"]), ()), tiny_model)
    assert train(Task(task().recipe, lone), tiny_model).n_rows > 0


def test_activations_that_are_not_finite() -> None:
    x = np.ones((4, 32), np.float32)
    y = x * 2
    settings = FitSettings(0.0, 1.0, "ridge")
    x[1, 2] = np.nan
    with pytest.raises(RecipeError, match="layer 7: a source activation is not finite"):
        fit_layer(7, x, y, settings)
    with pytest.raises(RecipeError, match="layer 7: a target activation is not finite"):
        fit_layer(7, y, x, settings)


def test_greedy_continuations_add_rows(tiny_model: Model) -> None:
    plain = train(task(pairing=["position"]), tiny_model)
    grown = train(task(pairing=["position"], generate_source=3, generate_target=5), tiny_model)
    assert plain.n_rows < grown.n_rows <= plain.n_rows + 5 * len(PAIRS)


def test_metadata_tells_where_it_came_from(tiny_model: Model, tmp_path: Path) -> None:
    result = train(task(description="d", default_alpha=0.5, prior="zero"), tiny_model)
    write_cartridge(result.cartridge, tmp_path / "t.gguf")
    back = read_cartridge(tmp_path / "t.gguf")
    assert back.content_hash == result.cartridge.content_hash
    assert back.metadata == result.cartridge.metadata
    assert back.metadata.solver == "ridge"
    assert back.metadata.settings["threshold"] == 0.1
    assert back.metadata.dataset_hash == task().dataset_hash
    assert len(back.metadata.diagnostics["layers"]) == tiny_model.n_layer
    assert back.fingerprint == tiny_model.fingerprint


def test_the_fit_moves_held_in_rows_towards_the_target(tiny_model: Model) -> None:
    """With next to no penalty the steered first layer all but reaches the targets."""
    sources = [tiny_model.tokenize(p.source) for p in PAIRS]
    result = train(task(penalty=1e-3, threshold=0.05, pairing=["position"]), tiny_model)
    layer_map = result.cartridge.layers[0]
    h = capture(tiny_model, sources, layers=[0])[0]
    steered = apply_reference(h, [(Dose(result.cartridge, 1.0),)] * len(h), 0)
    step = np.abs(steered - h)[:, layer_map.neurons]
    assert step.mean() > 0.01
    assert result.layers[0].fidelity > 0.95


@pytest.mark.model
def test_a_small_french_cartridge_on_gemma(demo_model: Model) -> None:
    full = load_task(LIBRARY / "french")
    small = Task(full.recipe, full.pairs[:24])
    result = train(small, demo_model)
    assert len(result.layers) == demo_model.n_layer - 1
    prompts = [demo_model.tokenize("In the summer we like to")]
    steered = greedy(demo_model, prompts, 12, steering=(Dose(result.cartridge, 0.9),))
    plain = greedy(demo_model, prompts, 12)
    assert steered != plain
    text = demo_model.detokenize(steered[0])
    assert py3langid.classify(text)[0] == "fr", text


# --- data: neutral texts, continuations, contexts -------------------------------------------


def heard(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """What the cascade gives to the fit of each layer."""
    calls: list[dict[str, object]] = []

    def listen(
        layer: int, x: np.ndarray, y: np.ndarray, settings: FitSettings, **more: object
    ) -> tuple[object, LayerReport]:
        calls.append({"layer": layer, "x": x.copy(), "y": y.copy(), **more})
        return fit_layer(layer, x, y, settings, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(aim_module, "fit_layer", listen)
    return calls


@pytest.mark.parametrize("max_ubatch_rows", [20, 1000])
def test_neutral_rows_reach_the_fit_as_such(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch, max_ubatch_rows: int
) -> None:
    calls = heard(monkeypatch)
    base = task(skip_layers=[1, 2], pairing=["handover"])
    with_neutral = Task(base.recipe, PAIRS, ("leave me alone", "and me"))
    result = train(with_neutral, tiny_model, max_ubatch_rows=max_ubatch_rows)
    n = len(tiny_model.tokenize("leave me alone")) + len(tiny_model.tokenize("and me"))
    neutral = calls[0]["neutral"]
    assert isinstance(neutral, np.ndarray)
    assert neutral.sum() == n
    assert neutral[-n:].all()
    assert result.n_rows == len(neutral)
    x, y = calls[0]["x"], calls[0]["y"]
    assert isinstance(x, np.ndarray)
    assert isinstance(y, np.ndarray)
    assert len(x) == len(neutral)
    assert len(y) == (~neutral).sum()
    assert with_neutral.dataset_hash != base.dataset_hash


def test_without_neutral_texts_no_row_is_marked(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = heard(monkeypatch)
    train(task(pairing=["handover"]), tiny_model)
    assert [call["neutral"] for call in calls] == [None] * 3


def test_a_context_is_distilled_row_by_row(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = heard(monkeypatch)
    texts = ["one two three", "four five"]
    pairs = tuple(TextPair(t, f"Speak like a pirate.\n{t}") for t in texts)
    train(Task(task(pairing=["suffix"]).recipe, pairs), tiny_model)
    # The first token follows a newline in one text and BOS's space in the other.
    x, y = calls[0]["x"], calls[0]["y"]
    behind = [tiny_model.tokenize(p.target) for p in pairs]
    alone = [tiny_model.tokenize(p.source) for p in pairs]
    wanted_x, wanted_y = (
        np.concatenate([capture(tiny_model, [t], layers=[0])[0][-n:] for t, n in side])
        for side in (
            [(a, common(a, b)) for a, b in zip(alone, behind, strict=True)],
            [(b, common(a, b)) for a, b in zip(alone, behind, strict=True)],
        )
    )
    np.testing.assert_allclose(np.asarray(x), wanted_x, atol=2e-2)
    np.testing.assert_allclose(np.asarray(y), wanted_y, atol=2e-2)


def common(a: list[int], b: list[int]) -> int:
    """Tokens that both end in."""
    n = 0
    while n < min(len(a), len(b)) and a[-1 - n] == b[-1 - n]:
        n += 1
    return n


def test_faithful_capture_continues_under_the_partial_cascade(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = heard(monkeypatch)
    settings = {"pairing": ["position"], "generate_source": 6, "generate_target": 6}
    fixed = train(task(**settings), tiny_model)
    kept, calls[:] = list(calls), []
    faithful = train(task(**settings, capture="faithful"), tiny_model)
    assert [c["layer"] for c in calls] == [0, 1, 2]
    np.testing.assert_allclose(np.asarray(calls[0]["x"]), np.asarray(kept[0]["x"]), atol=1e-4)
    assert fixed.layers[0].kept == faithful.layers[0].kept
    # The continuation that layer 2 sees was written under layers 0 and 1.
    partial = Cartridge(
        fixed.cartridge.metadata, tiny_model.fingerprint, faithful.cartridge.layers[:2]
    )
    sources = [tiny_model.tokenize(p.source) for p in PAIRS]
    steered = greedy(tiny_model, sources, 6, steering=(Dose(partial, 1.0),))
    assert steered != greedy(tiny_model, sources, 6)
    assert calls_differ(calls[2]["x"], kept[2]["x"])
    assert_same_map(
        faithful.cartridge,
        train(task(**settings, capture="faithful"), tiny_model, max_memory=4 << 20).cartridge,
    )


def calls_differ(one: object, other: object) -> bool:
    a, b = np.asarray(one), np.asarray(other)
    return a.shape != b.shape or not np.allclose(a, b, atol=1e-3)


def test_nothing_in_the_file_varies(
    tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    for name in ("a", "b"):
        write_cartridge(train(task(), tiny_model).cartridge, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_cartridge(tmp_path / "a").metadata.created == ""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert train(task(), tiny_model).cartridge.metadata.created == "1970-01-02T00:00:00+00:00"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    with pytest.raises(InputError, match="SOURCE_DATE_EPOCH has value 'soon'"):
        train(task(), tiny_model)


@pytest.mark.parametrize("name", ["max_ubatch_rows", "max_memory"])
def test_limits_are_checked(tiny_model: Model, name: str) -> None:
    with pytest.raises(InputError, match=f"{name} has value 0"):
        train(task(), tiny_model, **{name: 0})


def test_phases_are_told(tiny_model: Model) -> None:
    told: list[str] = []
    result = train(task(), tiny_model, on_phase=told.append)
    assert told == ["prepare", "fit the cascade"]
    assert set(result.seconds) == {"prepare", "run the model", "fit"}
    assert all(value >= 0 for value in result.seconds.values())


@pytest.mark.model
def test_chunks_on_gemma_are_one_pass_to_the_bit() -> None:
    full = load_task(LIBRARY / "french")
    recipe = full.recipe.model_copy(update={"skip_layers": list(range(5, 18))})
    with Model("demo", batch_invariant=True) as model:
        one, other, streamed = (
            train(Task(recipe, full.pairs[:6]), model, **limits).cartridge
            for limits in ({}, {"max_ubatch_rows": 100}, {"max_memory": 32 << 20})
        )
    assert other.content_hash == one.content_hash
    assert streamed.content_hash == one.content_hash
