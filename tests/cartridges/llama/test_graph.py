"""What of a model's memory nobody reads any more, by what its graph shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llamacart.errors import EngineError, ModelError
from llamacart.llama import weights as weights_module
from llamacart.llama.graph import Cache, Graph, Node
from llamacart.llama.model import Model


def a_layer(layer: int) -> list[Node]:
    """Gate 1 and up 2 from an input 9 and weights 7 and 8, their product 3, and what reads it."""
    at = 1000 * layer

    def node(tensor: int, name: str, *sources: int) -> Node:
        start = at + 10 * tensor
        return Node(at + tensor, f"{name}-{layer}", 8, sources, range(start, start + 10))

    return [
        node(1, "ffn_gate", at + 7, at + 9),
        node(2, "ffn_up", at + 8, at + 9),
        node(3, "ffn_swiglu", at + 1, at + 2),
        node(4, "ffn_out", at + 6, at + 3),
    ]


def graph(*layers: list[Node], caches: dict[int, Cache] | None = None) -> Graph:
    return Graph(tuple(node for layer in layers for node in layer), caches or {}, {})


def test_what_only_the_site_reads_is_spent() -> None:
    layers = [a_layer(0), a_layer(1)]
    assert graph(*layers).spent_sources("ffn_swiglu") == (0, 1)


@pytest.mark.parametrize(
    ("place", "changed", "left"),
    [
        (3, {"sources": (1006, 1003, 1001)}, (1,)),  # the gate is read again
        (2, {"region": range(1020, 1030)}, (0,)),  # the product lies where the other half was
        (1, {"sources": (1008, 1001)}, (1,)),  # the other half is made of the gate
        (1, {"sources": (1004,), "region": range(1045, 1050)}, (0,)),  # it is a part of another
        (2, {"sources": (1001, 1008)}, (0,)),  # the other half is a weight
        (2, {"sources": (1001,)}, (0,)),
        (2, {"sources": ()}, ()),
    ],
)
def test_what_is_wanted_elsewhere_is_not_spent(
    place: int, changed: dict[str, object], left: tuple[int, ...]
) -> None:
    """One layer where it is so is enough."""
    other = a_layer(1)
    other[place] = other[place]._replace(**changed)  # type: ignore[arg-type]
    assert graph(a_layer(0), other).spent_sources("ffn_swiglu") == left


# --- keys and values ----------------------------------------------------------------------------

WINDOW, WHOLE = range(10_000, 11_000), range(20_000, 21_000)
CACHES = {
    500: Cache(range(10_000, 10_300), WINDOW),
    501: Cache(range(20_000, 20_100), WHOLE),
}


def attending(layer: int, *sources: int, region: range = range(0)) -> list[Node]:
    """A layer whose attention reads some tensors, or writes into a region."""
    return [Node(1000 * layer + 20, "kqv", 8, sources, region), *a_layer(layer)]


def test_keys_and_values_that_a_layer_keeps_for_itself_are_lost_behind_it() -> None:
    own = graph(attending(0, 500), attending(1, 501), caches=CACHES)
    assert own.kept_cache("ffn_swiglu") == 0.25  # that of another buffer than the first layer's
    caches = CACHES | {501: CACHES[501]._replace(buffer=WINDOW)}
    assert graph(attending(0, 500), attending(1, 501), caches=caches).kept_cache("ffn_swiglu") == 0


@pytest.mark.parametrize(
    "later",
    [
        attending(1, 501, 500),  # another layer reads them
        attending(1, 501, region=range(10_200, 10_250)),  # or writes there
        attending(1, 1001, 501),  # or reads a view of them
    ],
)
def test_keys_and_values_that_layers_share_are_kept(later: list[Node]) -> None:
    first = attending(0, 500)
    if later[0].sources[0] == 1001:
        later[1] = later[1]._replace(region=range(10_100, 10_200))
    assert graph(first, later, caches=CACHES).kept_cache("ffn_swiglu") == 1


def test_attention_behind_the_site_keeps_its_own() -> None:
    late = [*a_layer(0), *attending(0, 500)[:1], *attending(1, 501)]
    early = attending(0, 500, region=range(1))
    assert graph(early[:1], late, caches=CACHES).kept_cache("ffn_swiglu") == 1


def test_without_known_keys_and_values_all_are_kept() -> None:
    assert graph(a_layer(0), a_layer(1)).kept_cache("ffn_swiglu") == 1


# --- models -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "kept"), [("llama", 0.0), ("gemma3", 0.0)])
def test_what_is_known_of_a_model(
    tiny_path: Callable[..., Path], architecture: str, kept: float
) -> None:
    with Model(str(tiny_path(architecture=architecture))) as model:
        assert model.spent_sources == (0, 1)
        assert model.kept_cache == kept


def test_a_graph_that_does_not_run(
    tiny_path: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **_more: object) -> None:
        raise EngineError("llama.cpp fails to decode one token (-1)")

    monkeypatch.setattr(weights_module, "read_graph", fail)
    with pytest.raises(ModelError, match=r"gguf': llama.cpp fails to decode one token \(-1\)"):
        Model(str(tiny_path()))
