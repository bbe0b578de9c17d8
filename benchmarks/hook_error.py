"""Largest relative error of the compiled hook over random shapes.

Against its NumPy twin (float32) and against a dense reference in float64 that knows nothing of
the cartridge's stored form: h_S + Σ α (W h + b − h_S) with W rebuilt as a full matrix.

Usage: hook_error.py [--json FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from harness import Report, machine_facts

from llamacart.cartridge import Cartridge, Fingerprint, LayerMap, Metadata
from llamacart.hook.steering_hook import SteeringHook
from llamacart.values.steering import Dose, apply_reference

SHAPES = 200


class Shape:
    """As much of a model as the hook asks for."""

    uses_device = False
    site_node = "ffn_geglu"
    n_layer = 2

    def __init__(self, width: int) -> None:
        self.n_ff = width
        self.fingerprint = Fingerprint("random", self.n_layer, width, 32, "00" * 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    report = Report(machine_facts(None), parser.parse_args().json)
    rng = np.random.default_rng(0)
    worst_twin = worst_dense = 0.0
    for _ in range(SHAPES):
        width = 32 * int(rng.integers(1, 220))
        n_active = int(rng.integers(1, min(width, 200) + 1))
        n_rows = int(rng.integers(1, 33))
        shape = Shape(width)
        neurons = np.sort(rng.choice(width, n_active, replace=False))
        doses = []
        for _ in range(int(rng.integers(1, 4))):
            weight = rng.normal(size=(n_active, width)) / np.sqrt(width)
            layer_map = LayerMap.from_dense(1, neurons, weight, rng.normal(size=n_active))
            cartridge = Cartridge(Metadata("r"), shape.fingerprint, (layer_map,))
            doses.append(Dose(cartridge, float(rng.uniform(-10, 10))))
        hook = SteeringHook(shape, max_rows=64)  # type: ignore[arg-type]
        for dose in doses:
            hook.load(dose.cartridge)
        h = rng.normal(size=(n_rows, width)).astype(np.float32)
        steerings = [tuple(doses[: 1 + i % len(doses)]) for i in range(n_rows)]
        twin = apply_reference(h, steerings, 1)
        dense = h.astype(np.float64)
        for i, steering in enumerate(steerings):
            for dose in steering:
                weight = dose.cartridge.layers[0].dense_delta(width).astype(np.float64)
                weight[np.arange(n_active), neurons] += 1.0
                step = weight @ h[i] + dose.cartridge.layers[0].bias - h[i, neurons]
                dense[i, neurons] += dose.alpha * step
        hook.set_rows(steerings)
        hook.apply(h, 1)
        scale = np.abs(dense).max()
        worst_twin = max(worst_twin, float(np.abs(h - twin).max() / scale))
        worst_dense = max(worst_dense, float(np.abs(h - dense).max() / scale))
    report.figure(
        "shapes",
        SHAPES,
        f"{SHAPES} random shapes, largest error relative to the largest activation:",
    )
    for name, against, error in (
        ("twin_error", "its NumPy twin      ", worst_twin),
        ("dense_error", "the dense reference ", worst_dense),
    ):
        report.figure(name, error, f"  compiled hook against {against} {error:.2e}")
    report.write()


if __name__ == "__main__":
    main()
