"""Where llama.cpp lets us steer: the node that feeds each layer's FFN down projection.

`build_ffn` in llama.cpp names its gated product after the activation. Its compute graph is
read once when a model is loaded, so that support is a fact of the graph and not a list of
architectures that goes stale.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from llamacart.errors import UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

GATED_PRODUCTS = (
    "ffn_geglu",
    "ffn_swiglu",
    "ffn_reglu",
    "ffn_swiglu_oai",
    "ffn_swiglu_limited",
    "ffn_gate_par",
)
RESIDUAL_INPUTS = ("ffn_inp", "sa_out")
"""Names of the residual stream as it enters the FFN."""

RESIDUAL_OUTPUT = "l_out"
"""Name of the residual stream behind a layer."""

_DOWN = re.compile(r"blk\.(?P<layer>\d+)\.ffn_down\.weight")
_COPY = re.compile(r"^[^#]+#(?P<name>.+)#\d+$")  # on another device
_NODE = re.compile(r"^(?P<name>[a-zA-Z_]+)-(?P<layer>\d+)$")


def find_site(nodes: Iterable[tuple[str, int]], architecture: str, n_layer: int) -> tuple[str, int]:
    """Name the node to steer, e.g. `ffn_geglu`, and its width D.

    Args:
        nodes: (name, width) of every node of one forward pass.
        architecture: For the error's text.
        n_layer: L; the node must appear once in each of them, with one width.

    Raises:
        UnsupportedModelError: There is no such node, or experts stand in its place.
    """
    by_name = _widths(nodes)
    widths = {name: found for name, found in by_name.items() if name in GATED_PRODUCTS}
    if any(name.startswith("ffn_moe_") for name in by_name):
        raise UnsupportedModelError(
            f"architecture {architecture!r} has a mixture of experts in its FFN; only dense gated "
            "FFNs can be steered"
        )
    for name, by_layer in widths.items():
        if len(by_layer) == n_layer and len(set(by_layer.values())) == 1:
            return name, next(iter(by_layer.values()))
    found = {name: len(by_layer) for name, by_layer in widths.items()} or "none"
    raise UnsupportedModelError(
        f"architecture {architecture!r} cannot be steered: none of {', '.join(GATED_PRODUCTS)} "
        f"appears with one width in all {n_layer} layers (found: {found})"
    )


def layer_of_down(weight: str) -> int | None:
    """The layer whose FFN a weight leads out of; None of any other weight."""
    match = _DOWN.search(weight)
    return int(match["layer"]) if match else None


def check_down(inputs: Mapping[int, str], site: str, architecture: str, n_layer: int) -> None:
    """Refuse a model whose `ffn_down` reads something else than the site.

    Args:
        inputs: By layer, the node that `ffn_down` is multiplied with.
        site: The node to steer, without its layer.
        architecture: For the error's text.
        n_layer: L.

    Raises:
        UnsupportedModelError: In some layer it reads another node, or nothing.
    """
    for layer in range(n_layer):
        found = inputs.get(layer)
        copy = _COPY.match(found or "")
        if (copy["name"] if copy else found) != f"{site}-{layer}":
            raise UnsupportedModelError(
                f"architecture {architecture!r} cannot be steered: ffn_down of layer {layer} reads "
                f"{found or 'nothing'} and not {site}-{layer}",
                param="model",
            )


def find_residual(nodes: Iterable[tuple[str, int]], n_layer: int, n_embd: int) -> str | None:
    """Name the node that holds the residual stream as it enters the FFN, e.g. `ffn_inp`.

    Args:
        nodes: (name, width) of every node of one forward pass.
        n_layer: L; the node and `RESIDUAL_OUTPUT` must appear in each of them.
        n_embd: Width of the residual stream.

    Returns:
        None where the graph has no such node. Whether it is what its name says is another
        question: see `llamacart.passes.residual`.
    """
    widths = _widths(nodes)
    everywhere = dict.fromkeys(range(n_layer), n_embd)
    if widths.get(RESIDUAL_OUTPUT) != everywhere:
        return None
    return next((name for name in RESIDUAL_INPUTS if widths.get(name) == everywhere), None)


def _widths(nodes: Iterable[tuple[str, int]]) -> dict[str, dict[int, int]]:
    """By name and layer, the width of each node that has a layer in its name."""
    widths: dict[str, dict[int, int]] = defaultdict(dict)
    for name, width in nodes:
        match = _NODE.match(name)
        if match is not None:
            widths[match["name"]][int(match["layer"])] = width
    return widths
