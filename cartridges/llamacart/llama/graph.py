"""A model's compute graph, read once: what reads what, and which memory nobody needs any more.

llama.cpp builds the same graph for every batch, so that what holds of the run of one token holds of
all others.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import llama_cpp

from llamacart.errors import EngineError
from llamacart.llama import ggml
from llamacart.llama.sites import layer_of_down
from llamacart.machine.pages import meet

if TYPE_CHECKING:
    from collections.abc import Iterator

_CACHE = "cache_"
"""What names of keys and values of all rows so far begin with."""


class Node(NamedTuple):
    """One node.

    Attributes:
        tensor: Which one it is.
        name: Its name.
        width: Of its rows.
        sources: What it is computed from, weights among them.
        region: Where its data lies.
    """

    tensor: int
    name: str
    width: int
    sources: tuple[int, ...]
    region: range


class Cache(NamedTuple):
    """Keys or values of a layer.

    Attributes:
        region: Where they lie.
        buffer: Where the buffer lies that holds them with others.
    """

    region: range
    buffer: range


@dataclass(frozen=True)
class Graph:
    """All that one run of one token computes.

    Attributes:
        nodes: In the order in which they run.
        caches: By tensor, keys and values that nodes read or write.
        down_inputs: By layer, the node that `ffn_down` is multiplied with.
    """

    nodes: tuple[Node, ...]
    caches: dict[int, Cache]
    down_inputs: dict[int, str]

    @cached_property
    def _known(self) -> dict[int, Node]:
        return {node.tensor: node for node in self.nodes}

    def spent_sources(self, site: str) -> tuple[int, ...]:
        """Which sources of the site nothing else reads, in any layer.

        A source counts that has memory of its own: none of what it is computed from, nor the site,
        lies in the same place.

        Args:
            site: The node that is steered, without its layer.

        Returns:
            Places among the first two sources, ascending.
        """
        known = self._known
        readers = Counter(source for node in self.nodes for source in set(node.sources))

        def is_spent(at: Node, place: int) -> bool:
            found = known.get(at.sources[place]) if place < len(at.sources) else None
            if found is None or readers[found.tensor] != 1:
                return False
            others = [at, *(known[source] for source in found.sources if source in known)]
            return not any(meet(found.region, other.region) for other in others)

        sites = [self.nodes[place] for place in self._sites(site)]
        return tuple(place for place in range(2) if all(is_spent(at, place) for at in sites))

    def kept_cache(self, site: str) -> float:
        """Share of keys and values that a run of one ubatch cannot lose at each site.

        Where each layer reads and writes its own, between the site before and its own, nothing that
        is there at a site is read again, and what comes later is not there yet. Lost can be what
        lies in the first layer's buffer, whose place is known from then on: all of it, or all of a
        sliding window's.

        Args:
            site: The node that is steered, without its layer.
        """
        if not self.caches:
            return 1.0
        sites = self._sites(site)
        layers: dict[int, set[int]] = {tensor: set() for tensor in self.caches}
        for place, node in enumerate(self.nodes):
            for tensor in self._touched(node):
                layers[tensor].add(bisect_left(sites, place))
        if any(len(found) > 1 for found in layers.values()):
            return 1.0
        first = {self.caches[tensor].buffer for tensor, found in layers.items() if found == {0}}
        total = sum(len(cache.region) for cache in self.caches.values())
        lost = sum(len(c.region) for c in self.caches.values() if c.buffer in first)
        return 1 - lost / total

    def _touched(self, node: Node) -> Iterator[int]:
        """The caches that a node reads or writes a part of, by whatever view."""
        regions = [node.region]
        for source in node.sources:
            found = self.caches.get(source) or self._known.get(source)
            if found is not None:
                regions.append(found.region)
        starts, order = self._places
        for region in regions:
            # They lie side by side: the first that may meet it is the one before its start.
            at = max(0, bisect_right(starts, region.start) - 1)
            while at < len(order) and starts[at] < region.stop:
                if meet(region, self.caches[order[at]].region):
                    yield order[at]
                at += 1

    @cached_property
    def _places(self) -> tuple[list[int], list[int]]:
        """Where caches begin, ascending, and which ones those are."""
        order = sorted(self.caches, key=lambda tensor: self.caches[tensor].region.start)
        return [self.caches[tensor].region.start for tensor in order], order

    def _sites(self, site: str) -> list[int]:
        """Where the site's nodes of all layers stand."""
        return [
            place for place, node in enumerate(self.nodes) if node.name.rpartition("-")[0] == site
        ]


def caches_of(tensor: int) -> list[int]:
    """Keys and values among what a node is computed from."""
    return [
        source for source in ggml.all_sources(tensor) if ggml.tensor_name(source).startswith(_CACHE)
    ]


def read_graph(model: Any, token: int, *, op_offload: bool, flash_attention: int) -> Graph:
    """Run one token.

    Args:
        model: The `llama_model *`.
        token: Its id.
        op_offload: Whether llama.cpp may move products to an idle device.
        flash_attention: A `llama_flash_attn_type`.

    Raises:
        EngineError: llama.cpp makes no context for the model, or fails to decode.
    """
    nodes: list[Node] = []
    caches: dict[int, Cache] = {}
    down_inputs: dict[int, str] = {}
    ggml.source_offset(), ggml.buffer_offset()  # an error in the callback would be lost

    @llama_cpp.ggml_backend_sched_eval_callback
    def look(tensor: int, _ask: bool, _data: int) -> bool:
        name, width = ggml.tensor_name(tensor), ggml.tensor_shape(tensor)[1]
        sources = tuple(ggml.all_sources(tensor))
        nodes.append(Node(tensor, name, width, sources, ggml.region(tensor)))
        for cache in caches_of(tensor):
            caches[cache] = Cache(ggml.region(cache), ggml.buffer_region(cache))
        weight, read = ggml.sources(tensor)
        layer = layer_of_down(ggml.tensor_name(weight)) if weight else None
        if layer is not None and read:
            down_inputs[layer] = ggml.tensor_name(read)
        return False

    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = 32, 32, 32, 1
    # More threads would leave an OpenMP team to this thread, and with more threads than
    # processors in the process libgomp stops spinning at barriers: decoding gets slower.
    params.n_threads = params.n_threads_batch = 1
    params.op_offload = op_offload
    params.flash_attn_type = flash_attention
    params.cb_eval = look
    params.no_perf = True
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise EngineError("llama.cpp cannot make a context")
    batch = llama_cpp.llama_batch_get_one((llama_cpp.llama_token * 1)(token), 1)
    try:
        status = llama_cpp.llama_decode(context, batch)
    finally:
        llama_cpp.llama_free(context)
    if status != 0:
        raise EngineError(f"llama.cpp fails to decode one token ({status})")
    return Graph(tuple(nodes), caches, down_inputs)
