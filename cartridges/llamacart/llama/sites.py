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
    from collections.abc import Iterable

GATED_PRODUCTS = (
    "ffn_geglu",
    "ffn_swiglu",
    "ffn_reglu",
    "ffn_swiglu_oai",
    "ffn_swiglu_limited",
    "ffn_gate_par",
)
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
    widths: dict[str, dict[int, int]] = defaultdict(dict)
    experts = False
    for name, width in nodes:
        match = _NODE.match(name)
        if match is None:
            continue
        experts = experts or match["name"].startswith("ffn_moe_")
        if match["name"] in GATED_PRODUCTS:
            widths[match["name"]][int(match["layer"])] = width
    if experts:
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
