"""What the hook's compiled kernel was made for, and how fast it is here."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from llvmlite import binding as llvm
from numba import config

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.hook.steering_hook import SteeringHook
from llamacart.values.steering import Dose

if TYPE_CHECKING:
    from llamacart.llama.model import Model

N_ACTIVE = 128
SLOW_BELOW = 2e9
"""Weights a second; a processor with AVX2 and FMA does ten times as many."""

_WANTED = ("avx2", "fma")
_REPEATS = 9


@dataclass(frozen=True)
class HookSpeed:
    """Of the kernel, on one thread.

    Attributes:
        seconds: To steer one row by `N_ACTIVE` neurons of one layer.
        weights_per_second: 8-bit weights multiplied.
    """

    seconds: float
    weights_per_second: float


def compiled_for() -> tuple[str, list[str]]:
    """The processor that numba compiles for, and what it lacks of AVX2 and FMA on x86.

    NUMBA_CPU_NAME and NUMBA_CPU_FEATURES count as for numba.
    """
    name = config.CPU_NAME or llvm.get_host_cpu_name()
    if platform.machine() not in ("x86_64", "AMD64"):
        return name, []
    if config.CPU_FEATURES is None and not config.CPU_NAME:
        features = {feature for feature, there in llvm.get_host_cpu_features().items() if there}
    else:
        features = {
            part[1:] for part in (config.CPU_FEATURES or "").split(",") if part.startswith("+")
        }
    return name, [feature.upper() for feature in _WANTED if feature not in features]


def measure(model: Model) -> HookSpeed:
    """Steer a row of the model's width again and again; some milliseconds."""
    rng = np.random.default_rng(0)
    n_active = min(N_ACTIVE, model.n_ff)
    weight = rng.normal(size=(n_active, model.n_ff)).astype(np.float32)
    layer_map = LayerMap.from_dense(0, np.arange(n_active), weight, np.zeros(n_active))
    dose = Dose(Cartridge(Metadata("speed"), model.fingerprint, (layer_map,)), 1e-3)
    hook = SteeringHook(model, max_rows=1)
    hook.load(dose.cartridge)
    h = rng.normal(size=(1, model.n_ff)).astype(np.float32)
    seconds = []
    for _ in range(_REPEATS):
        hook.set_rows([(dose,)])
        start = time.perf_counter()
        hook.apply(h, 0)
        seconds.append(time.perf_counter() - start)
    hook.unload(dose.cartridge)
    middle = median(seconds)
    return HookSpeed(middle, n_active * model.n_ff / middle)
