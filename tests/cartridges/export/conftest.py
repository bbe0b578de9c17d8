"""Small cartridges for tiny models."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.llama.model import Model

Make = Callable[..., Cartridge]


@pytest.fixture
def make() -> Make:
    """Function from a model to a cartridge for it: maps of 4 neurons on the given layers."""

    def build(
        model: Model,
        *,
        layers: tuple[int, ...] = (0, 1, 2),
        bias: float = 0.0,
        linear: float = 0.3,
        when: tuple[str, ...] = (),
    ) -> Cartridge:
        rng = np.random.default_rng(1)
        maps = []
        for layer in layers:
            neurons = np.sort(rng.choice(model.n_ff, 4, replace=False)).astype(np.int32)
            weight = linear * rng.normal(size=(4, model.n_ff))
            weight[np.arange(4), neurons] += 1
            shift = bias * rng.normal(size=4)
            if linear:
                maps.append(LayerMap.from_dense(layer, neurons, weight, shift))
            else:
                maps.append(LayerMap(layer, neurons, None, shift.astype(np.float32)))
        return Cartridge(Metadata("style"), model.fingerprint, tuple(maps), when=when)

    return build
