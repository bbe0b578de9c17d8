"""Whether cartridges do on this machine's device what they do on the CPU, and what that costs.

Looks at: each step of the hook beside NumPy's, for one row, for 16 cartridges in one batch, for a
prompt; α = 0 beside no cartridge; captured rows beside the CPU's; a small cartridge trained and
asked here; milliseconds, stops and bytes copied of steered and unsteered steps. Prints one table
in Markdown, to be pasted into an issue. Exit code 1: something is not within its bound.

On a build without a device, the device's way runs on the processor by ggml's own graphs.

Usage: check.py [--model demo] [--gpu-layers -1] [--flash-attention auto] [--skip train speed]
                [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from harness import machine_facts, model_facts
from parts import (
    Line,
    Setup,
    Speed,
    captured,
    equality,
    nothing,
    speed,
    training,
)

from llamacart.commands.doctor import devices
from llamacart.hook.device.probe import where_steered
from llamacart.llama.model import Model

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTS = ("equality", "nothing", "capture", "train", "speed")


def judged(lines: Sequence[Line]) -> str:
    """A Markdown table of figures and verdicts."""
    rows = ["| checked | value | bound | |", "|---|---|---|---|"]
    for line in lines:
        bound = ""
        if line.bound is not None:
            bound = f"{'at least' if line.at_least else 'at most'} {line.bound:g}"
        verdict = "" if line.bound is None else ("ok" if line.passed else "**FAILED**")
        note = f" ({line.note})" if line.note else ""
        rows.append(f"| {line.name}{note} | {line.value:.3g} | {bound} | {verdict} |")
    return "\n".join(rows)


def timed(speeds: Sequence[Speed]) -> str:
    """A Markdown table of steps."""
    rows = [
        "| step | way | ms | of no callback | stops | waits for graphs | bytes copied |",
        "|---|---|---|---|---|---|---|",
    ]
    for s in speeds:
        times = f"{s.milliseconds:.2f} | {s.ratio:.2f}"
        rows.append(f"| {s.shape} | {s.way} | {times} | {s.stops} | {s.waits} | {s.copied} |")
    return "\n".join(rows)


def _model(spec: str, flash_attention: str, gpu_layers: int) -> Model:
    return Model(
        spec, gpu_layers=gpu_layers, flash_attention=flash_attention, batch_invariant=False
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo", help="GGUF path, 'demo' or hf:…")
    parser.add_argument("--gpu-layers", type=int, default=-1, help="-1 means all")
    parser.add_argument("--flash-attention", default="auto", help="auto, on or off")
    parser.add_argument("--neurons", type=int, default=24, help="K of each layer")
    parser.add_argument("--pairs", type=int, default=24, help="to train from")
    parser.add_argument("--steps", type=int, default=32, help="timed decode steps")
    parser.add_argument("--prefill", type=int, default=512, help="rows of the timed prompt")
    parser.add_argument("--skip", nargs="+", choices=PARTS, default=[], metavar="PART")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    options = parser.parse_args()
    wanted = [part for part in options.only if part not in options.skip]
    loaded = partial(_model, options.model, options.flash_attention)
    with (
        loaded(options.gpu_layers) as model,
        loaded(0) as host,
    ):
        names, refused = where_steered(model)
        setup = Setup(
            model, host, "auto" if model.uses_device else "device", neurons=options.neurons
        )
        facts = machine_facts(None) | model_facts(model)
        facts["flash attention"] = options.flash_attention
        facts["devices"] = "; ".join(devices())
        facts["cartridges act on"] = ", ".join(names) or refused or "the host"
        print("\n".join(f"- {name}: {value}" for name, value in facts.items()), "\n", flush=True)
        lines: list[Line] = []
        speeds: list[Speed] = []
        looks: dict[str, Any] = {
            "equality": equality,
            "nothing": nothing,
            "capture": captured,
            "train": lambda setup: training(setup, options.pairs),
        }
        for part in wanted:
            start = time.perf_counter()
            if part == "speed":
                speeds = speed(setup, options.steps, options.prefill)
                print(timed(speeds), "\n", flush=True)
            else:
                lines += (own := looks[part](setup))
                print(judged(own), "\n", flush=True)
            print(f"{part}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    if options.json is not None:
        content = {
            "facts": facts,
            "lines": [asdict(line) | {"passed": line.passed} for line in lines],
            "speeds": [asdict(s) for s in speeds],
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    failed = [line.name for line in lines if not line.passed]
    print(f"FAILED: {', '.join(failed)}" if failed else "all within their bounds")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
