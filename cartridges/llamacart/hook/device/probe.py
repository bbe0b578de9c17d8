"""Says of a model on which devices its cartridges act."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.hook.steering_hook import Place, SteeringHook
from llamacart.llama.context import Context
from llamacart.values.batch import Batch
from llamacart.values.steering import Dose

if TYPE_CHECKING:
    from llamacart.llama.model import Model


NO_DEVICE = "no layer lies in the memory of a device that llama.cpp names"

_log = logging.getLogger("llamacart.device")


def say_where_steered(model: Model, place: Place = "auto") -> None:
    """Steer once before anybody waits for it, and log where.

    A device compiles what it needs here, and one that cannot do it fails here.

    Args:
        model: Has layers on a device.
        place: See `SteeringHook`.

    Raises:
        EngineError: llama.cpp failed.
    """
    names, refused = where_steered(model, place)
    if names:
        _log.info("cartridges act in the memory of %s", ", ".join(names))
    else:
        _log.warning(
            "%s: rows that cartridges act on are copied to the host and back", refused or NO_DEVICE
        )


def where_steered(model: Model, place: Place = "auto") -> tuple[list[str], str | None]:
    """Steer a token twice by a cartridge that moves little: by what is learnt, on the devices.

    Args:
        model: Any.
        place: See `SteeringHook`.

    Returns:
        Names of the devices that steered, and why rows are copied to the host, if they are.

    Raises:
        EngineError: llama.cpp failed.
    """
    weight = np.full((1, model.n_ff), 1e-6, np.float32)
    layers = tuple(
        LayerMap.from_dense(layer, np.array([0]), weight, np.zeros(1))
        for layer in range(model.n_layer)
    )
    dose = Dose(Cartridge(Metadata("probe"), model.fingerprint, layers), 1e-6)
    hook = SteeringHook(model, max_rows=1, place=place)
    hook.load(dose.cartridge)
    with Context(model, n_ctx=32, n_batch=1, n_threads=1, hook=hook) as context:
        for position in range(2):
            hook.set_rows([(dose,)])
            context.decode(Batch([0], [position], [0], [True]))
    device = hook.device
    if device is None:
        return [], None
    return (device.device_names if device.ran.any() else []), device.refused
