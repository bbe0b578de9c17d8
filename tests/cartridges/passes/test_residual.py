"""The residual stream is seen where it is, and is what the FFN's formula says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llamacart.errors import EngineError, UnsupportedModelError
from llamacart.llama import feed_forward as feed_forward_module
from llamacart.llama.feed_forward import FeedForward
from llamacart.llama.model import Model
from llamacart.llama.sites import RESIDUAL_OUTPUT, find_residual
from llamacart.passes import residual as residual_module
from llamacart.passes.capture import capture, forward
from llamacart.passes.lane import Lane
from llamacart.passes.residual import check_residual, residual_sizes

TEXTS = [[1, 40, 80, 9, 12], [1, 77, 30], [1, 5, 6, 7]]


@pytest.fixture(params=["llama", "gemma3"])
def model(request: pytest.FixtureRequest, tiny_path: Callable[..., Path]) -> Model:
    return Model(str(tiny_path(architecture=request.param)), batch_invariant=True)


def inputs(model: Model, copy: bool) -> dict[int, np.ndarray]:
    found = {layer: np.zeros((12, model.n_embd), np.float32) for layer in range(model.n_layer)}

    def read(layer: int, rows: np.ndarray, x: np.ndarray) -> None:
        found[layer][rows] = x

    forward(
        model, TEXTS, lambda *_: True, layers=range(model.n_layer),
        beside=(model.residual_input, read), copy=copy,
    )  # fmt: skip
    return found


@pytest.mark.parametrize("copy", [False, True])
def test_a_node_beside_the_site_is_that_node(model: Model, copy: bool) -> None:
    expected = capture(model, TEXTS, node=model.residual_input)
    found = inputs(model, copy)
    for layer in range(model.n_layer):
        np.testing.assert_array_equal(found[layer], expected[layer])
    with Lane(
        model, TEXTS, layers=[0, 2], beside=model.residual_input, copy=copy, n_threads=1
    ) as lane:
        for layer in (0, 2):
            lane.advance()
            np.testing.assert_array_equal(lane.beside, expected[layer])


def test_a_lane_that_stands_nowhere_shows_nothing(tiny_model: Model) -> None:
    with (
        Lane(tiny_model, TEXTS, layers=[0], beside=tiny_model.residual_input) as lane,
        pytest.raises(EngineError, match="stands beside no node"),
    ):
        _ = lane.beside
    with Lane(tiny_model, TEXTS, layers=[0]) as lane:
        lane.advance()
        with pytest.raises(EngineError, match="stands beside no node"):
            _ = lane.beside


def test_the_stream_behind_a_layer_is_what_the_formula_says(model: Model) -> None:
    check_residual(model)
    x, h = inputs(model, False), capture(model, TEXTS)
    r = capture(model, TEXTS, node=RESIDUAL_OUTPUT)
    for layer in range(model.n_layer):
        end = feed_forward_module.feed_forward(model, layer)
        np.testing.assert_allclose(x[layer] + end.added(end.output(h[layer])), r[layer], atol=1e-4)
    rows = np.array([1, 2, 6])
    sizes = [float((r[layer][rows] ** 2).mean()) for layer in range(model.n_layer - 1)]
    sizes.append(float((r[model.n_layer - 1][[4, 7, 11]] ** 2).mean()))
    np.testing.assert_allclose(residual_sizes(model, TEXTS, rows), sizes, rtol=1e-5)


def test_another_way_to_the_stream_is_refused(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of models that scale what a layer adds."""
    exact = residual_module.feed_forward

    def scaled(model: Model, layer: int) -> FeedForward:
        end = exact(model, layer)
        if end.norm is not None:
            return replace(end, norm=0.22 * end.norm)
        return replace(end, down=0.22 * end.down)

    monkeypatch.setattr(residual_module, "feed_forward", scaled)
    with pytest.raises(UnsupportedModelError, match="what layer 1 adds to it is not its FFN"):
        check_residual(model, [1, 2])


def test_a_graph_without_the_stream_is_refused(tiny_path: Callable[..., Path]) -> None:
    nodes = [(f"{name}-{layer}", 8) for layer in range(2) for name in ("sa_out", "l_out")]
    assert find_residual(nodes, 2, 8) == "sa_out"
    assert find_residual(nodes, 2, 9) is None
    assert find_residual(nodes, 3, 8) is None
    assert find_residual([node for node in nodes if node[0] != "l_out-1"], 2, 8) is None
    with Model(str(tiny_path())) as model:
        model._residual_input = None
        with pytest.raises(UnsupportedModelError, match="'llama' shows no residual stream"):
            _ = model.residual_input
