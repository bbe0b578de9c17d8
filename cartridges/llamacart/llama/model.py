"""A GGUF model that can be steered: loaded, and its rows proved to be where we think."""

from __future__ import annotations

from llamacart.errors import ModelError
from llamacart.llama.probe import check_rows
from llamacart.llama.weights import Weights
from llamacart.machine.processors import ALL_LAYERS
from llamacart.values.attention import DEFAULT_ATTENTION


class Model(Weights):
    """Weights and vocabulary; contexts are made from it.

    Args:
        spec: A path, `demo`, or `hf:<owner>/<repo>/<file>`.
        gpu_layers: Layers to offload; -1 means all where llama.cpp was built with a device.
        flash_attention: `auto` (llama.cpp takes flash attention where each layer's device has it),
            `on` or `off`. Where it is off, a row of scores as long as the context is in memory for
            each head and each row of a batch.
        batch_invariant: Where the CPU computes, use only kernels whose result for a row does not
            depend on how many rows run beside it: no repacked weights, no tiled products, and
            (in `Context`) no tiled attention. Reading a long prompt is slower for it, so that
            `llamacart train` and `distill` do without. Without effect on a device.

    Attributes:
        row_error: How far a row of a batch of two sequences lay from the same row alone, as a share
            of its length: rounding. Far above it the model would have been refused.

    Raises:
        InputError: `gpu_layers` is less than -1, or `flash_attention` is not among its values, or
            is off where batch-invariant computation needs it.
        ModelError: The file is missing or llama.cpp cannot load it.
        UnsupportedModelError: It loads, but has no site to steer, or its rows are not where we
            think.
    """

    def __init__(
        self,
        spec: str,
        *,
        gpu_layers: int = ALL_LAYERS,
        flash_attention: str = DEFAULT_ATTENTION,
        batch_invariant: bool = True,
    ) -> None:
        super().__init__(
            spec,
            gpu_layers=gpu_layers,
            flash_attention=flash_attention,
            batch_invariant=batch_invariant,
        )
        try:
            self.row_error = check_rows(self)
        except ModelError:
            self.close()
            raise
