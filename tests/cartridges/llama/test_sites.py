"""The node that is steered is the one that leads out of the FFN."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llamacart.errors import UnsupportedModelError
from llamacart.llama import ggml
from llamacart.llama import weights as weights_module
from llamacart.llama.model import Model
from llamacart.llama.sites import Node, check_down, layer_of_down, spent_sources


@pytest.mark.parametrize(
    ("weight", "layer"),
    [
        ("blk.12.ffn_down.weight", 12),
        ("CUDA0#blk.3.ffn_down.weight#0", 3),
        ("blk.3.ffn_down_exps.weight", None),
        ("blk.3.ffn_up.weight", None),
        ("", None),
    ],
)
def test_weights_that_lead_out_of_an_ffn(weight: str, layer: int | None) -> None:
    assert layer_of_down(weight) == layer


def test_the_node_itself_or_its_copy_on_another_device() -> None:
    check_down({0: "ffn_geglu-0", 1: "Vulkan0#ffn_geglu-1#0"}, "ffn_geglu", "gemma3", 2)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({0: "ffn_geglu-0"}, "of layer 1 reads nothing and not ffn_geglu-1"),
        ({0: "ffn_sub_norm-0", 1: "ffn_geglu-1"}, "of layer 0 reads ffn_sub_norm-0 and not"),
        ({0: "ffn_geglu-0", 1: "ffn_geglu-0"}, "of layer 1 reads ffn_geglu-0 and not ffn_geglu-1"),
        ({0: "ffn_geglu-0", 1: "CUDA0#ffn_up-1#0"}, "of layer 1 reads CUDA0#ffn_up-1#0 and not"),
    ],
)
def test_another_node_is_refused_by_its_name(inputs: dict[int, str], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"'odd' cannot be steered.*{message}"):
        check_down(inputs, "ffn_geglu", "odd", 2)


def test_a_model_is_refused_whose_site_leads_elsewhere(
    tiny_path: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_module, "find_site", lambda *_: ("ffn_up", 96))
    with pytest.raises(UnsupportedModelError, match="reads ffn_swiglu-0 and not ffn_up-0"):
        Model(str(tiny_path()))


def test_what_a_tensor_is_made_of_is_where_it_was_found() -> None:
    assert ggml.source_offset() % 8 == 0
    assert ggml.source_offset() != ggml.buffer_offset()


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


def test_what_only_the_site_reads_is_spent() -> None:
    layers = [a_layer(0), a_layer(1)]
    assert spent_sources([*layers[0], *layers[1]], "ffn_swiglu") == (0, 1)


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
    assert spent_sources([*a_layer(0), *other], "ffn_swiglu") == left


def test_what_is_spent_in_a_model(tiny_model: Model) -> None:
    assert tiny_model.spent_sources == (0, 1)
