"""The cascade on tiny models with a known answer, and the whole of `train` on Gemma."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import py3langid
import pytest

from llamacart.capture import capture
from llamacart.cartridge import Cartridge
from llamacart.errors import RecipeError
from llamacart.model import Model
from llamacart.reader import read_cartridge
from llamacart.steering import Dose, apply_reference
from llamacart.writer import write_cartridge
from llamacart_trainer import cascade as cascade_module
from llamacart_trainer.cascade import Cascade
from llamacart_trainer.fitting import FitSettings, fit_layer
from llamacart_trainer.recipe import Recipe, Task, TextPair, load_task
from llamacart_trainer.train import train

LIBRARY = Path(__file__).parents[2] / "cartridges" / "library"
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


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_streamed_equals_one_pass(tiny_path: Callable[..., Path], architecture: str) -> None:
    with Model(str(tiny_path(architecture=architecture)), batch_invariant=True) as model:
        one = train(task(), model)
        streamed = train(task(), model, max_ubatch_rows=1)
    assert [r.kept for r in one.layers] == [r.kept for r in streamed.layers]
    assert [r.layer for r in one.layers] == [0, 1, 2]
    assert_same_map(one.cartridge, streamed.cartridge)


def test_last_layer_apart_equals_one_pass(
    tiny_path: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Model(str(tiny_path()), batch_invariant=True) as model:
        one = train(task(), model)
        monkeypatch.setattr(cascade_module, "output_budget", lambda _model: 1)
        assert_same_map(one.cartridge, train(task(), model).cartridge)


def test_each_layer_sees_what_the_ones_before_did(tiny_model: Model) -> None:
    """Fit by hand: capture, fit, steer, and only then go on to the next layer."""
    sources = [tiny_model.tokenize(pair.source) for pair in PAIRS[:3]]
    targets = [tiny_model.tokenize(pair.target) for pair in PAIRS[:3]]
    n = min(sum(map(len, sources)), sum(map(len, targets)))
    rows = np.arange(n)
    wanted = {layer: y[:n] for layer, y in capture(tiny_model, targets).items()}
    settings = FitSettings(threshold=0.1, penalty=1.0)
    cascade = Cascade(tiny_model, sources, rows, wanted, settings, layers=range(3))
    cascade.run()
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


@pytest.mark.parametrize("max_ubatch_rows", [1, 10_000])
def test_skipped_layers_are_left_alone(tiny_model: Model, max_ubatch_rows: int) -> None:
    result = train(task(skip_layers=[-1, 1]), tiny_model, max_ubatch_rows=max_ubatch_rows)
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
    from llamacart.generate import greedy

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
