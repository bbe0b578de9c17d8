"""Write a cartridge of random maps for a model, for speed and memory; and how long it loads.

In every layer the same number of neurons is moved by a small map of all neurons, so that
activations stay finite. It is read and made resident again and again: the time that a server takes
until a new cartridge can act, its checks and its hash included.

Usage: random_cartridge.py MODEL FILE [--neurons 300] [--rank 16] [--repeats 7]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.file.reader import read_cartridge
from llamacart.file.writer import write_cartridge
from llamacart.hook.steering_hook import SteeringHook
from llamacart.llama.model import Model
from llamacart.matrix import FactoredMatrix

if TYPE_CHECKING:
    from llamacart.llama.weights import Weights

NEURONS = 300
"""Neurons of a layer that a recipe towards the residual stream moves by default."""


def random_cartridge(
    model: Weights,
    seed: int,
    *,
    neurons: int,
    spread: float,
    rank: int | None = None,
    name: str = "random",
) -> Cartridge:
    """Neurons of every layer, each moved by a random row.

    Args:
        model: The model to make it for.
        seed: Of the numbers.
        neurons: K of each layer.
        spread: Standard deviation of W − E_S.
        rank: Of W − E_S, which is then held in two factors; None holds it whole.
        name: Its name.
    """
    rng = np.random.default_rng(seed)
    layers = []
    for layer in range(model.n_layer):
        active = np.sort(rng.choice(model.n_ff, neurons, replace=False))
        weight = spread * rng.standard_normal((rank or neurons, model.n_ff))
        bias = 0.3 * rng.standard_normal(neurons)
        if rank is None:
            weight[np.arange(neurons), active] += 1
            layers.append(LayerMap.from_dense(layer, active, weight, bias))
            continue
        left = rng.standard_normal((neurons, rank)) / np.sqrt(rank)
        delta = FactoredMatrix.quantize(left, weight)
        layers.append(LayerMap(layer, active.astype(np.int32), delta, bias.astype(np.float32)))
    return Cartridge(Metadata(name), model.fingerprint, tuple(layers))


def loading(model: Model, path: Path, repeats: int) -> tuple[float, float]:
    """Median seconds until a file is read and checked, and until it is resident after that."""
    reading, placing = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        cartridge = read_cartridge(path)
        read = time.perf_counter()
        SteeringHook(model, max_rows=1).load(cartridge)
        placing.append(time.perf_counter() - read)
        reading.append(read - start)
    return statistics.median(reading), statistics.median(placing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="GGUF path, 'demo' or hf:…")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--neurons", type=int, default=NEURONS, help="K of each layer")
    parser.add_argument("--rank", type=int, help="of each map, held in factors; whole without")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    with Model(options.model) as model:
        if not 1 <= options.neurons <= model.n_ff:
            parser.error(f"--neurons has value {options.neurons}; 1 to {model.n_ff} are there")
        if options.rank is not None and not 1 <= options.rank <= options.neurons:
            parser.error(f"--rank has value {options.rank}; 1 to {options.neurons} are possible")
        cartridge = random_cartridge(
            model, 0, neurons=options.neurons, spread=0.1 / np.sqrt(model.n_ff),
            rank=options.rank, name=options.file.stem,
        )  # fmt: skip
        size = write_cartridge(cartridge, options.file)
        reading, placing = loading(model, options.file, options.repeats)
    print(
        f"{options.file}: {size / 2**20:.1f} MiB, read in {1e3 * reading:.0f} ms, "
        f"resident {1e3 * placing:.0f} ms after that"
    )


if __name__ == "__main__":
    main()
