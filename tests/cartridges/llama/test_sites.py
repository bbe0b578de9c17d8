"""The node that is steered is the one that leads out of the FFN."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llamacart.errors import UnsupportedModelError
from llamacart.llama import ggml
from llamacart.llama import weights as weights_module
from llamacart.llama.model import Model
from llamacart.llama.sites import check_down, layer_of_down


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
