"""What a resident cartridge costs in memory.

Starts processes of its own that load the model, an engine and, from a folder of files as the server
does, 1 or 32 cartridges (of the same size, made from the given one, all different), generate a few
tokens with each, and then say how large they are. Prints both sizes and the cost of a cartridge
against the size of its file. The size is the resident set (/proc/self/statm, model file included);
on systems without /proc it is the largest that it has been (getrusage).

Usage: memory.py [--counts 1 32]
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from harness import (
    Comparison,
    Report,
    add_model_options,
    add_run_options,
    alternate,
    distinct,
    fixed_tokens,
    machine_facts,
    model_facts,
)

from llamacart.file.reader import read_cartridge
from llamacart.file.writer import write_cartridge
from llamacart.llama.model import Model
from llamacart.runner import LlamaRunner
from llamacart.values.sampling import SamplingParams
from llamacart.values.steering import Dose
from llamacart_server.engine.engine import Engine
from llamacart_server.engine.request import GenerationRequest, PlacedDose
from llamacart_server.library.library import CartridgeLibrary

MIB = 2**20
STATM = Path("/proc/self/statm")
WHAT = (
    "resident set" if STATM.exists() else "largest resident set so far (this system has no /proc)"
)


def memory_of_self() -> int:
    """Bytes, see `WHAT`."""
    if STATM.exists():
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def trim_heap() -> None:
    """Give freed memory back, so that what is counted is in use."""
    gc.collect()
    if sys.platform == "linux":
        release = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if release is not None:
            release(0)


def serve_folder(spec: str, folder: Path, threads: int | None, *, batch_invariant: bool) -> int:
    """Memory of this process once it has used every cartridge of `folder`."""
    with (
        Model(spec, batch_invariant=batch_invariant) as model,
        LlamaRunner(model, n_ctx=8192, n_threads=threads) as runner,
        Engine(runner) as engine,
    ):
        library = CartridgeLibrary.from_folder(folder, model.fingerprint)
        for cartridge in library:
            engine.load(cartridge)
        for cartridge in library:
            dose = PlacedDose(Dose(cartridge, cartridge.metadata.default_alpha))
            request = GenerationRequest(
                prompt=tuple(fixed_tokens(model, 8)),
                max_tokens=4,
                doses=(dose,),
                sampling=SamplingParams(temperature=0.0),
                ignore_eos=True,
            )
            for _ in engine.submit(request).events():
                pass
        trim_heap()
        return memory_of_self()


def measure(options: argparse.Namespace, folder: Path) -> float:
    """MiB of a fresh process that serves `folder`."""
    command = [sys.executable, __file__, "--model", options.model, "--serve-folder", str(folder)]
    if options.threads is not None:
        command += ["--threads", str(options.threads)]
    if not options.batch_invariant:
        command.append("--no-batch-invariant")
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=True)  # noqa: S603
    return float(json.loads(ended.stdout)) / MIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model_options(parser)
    add_run_options(parser, repeats=3)
    parser.add_argument("--counts", type=int, nargs=2, default=[1, 32], metavar=("FEW", "MANY"))
    parser.add_argument("--serve-folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_folder is not None:
        invariant = options.batch_invariant
        size = serve_folder(
            options.model, options.serve_folder, options.threads, batch_invariant=invariant
        )
        print(json.dumps(size))
        return
    few, many = options.counts
    if not 0 <= few < many:
        parser.error(f"--counts has values {few} and {many}; two ascending numbers are needed")
    given = read_cartridge(options.cartridge)
    with Model(options.model, batch_invariant=options.batch_invariant) as model:
        facts = machine_facts(options.threads) | model_facts(model, given)
    report = Report({**facts, "measured": WHAT}, options.json)
    with tempfile.TemporaryDirectory() as name:
        folders = {}
        for count in (few, many):
            folder = folders[f"{count} cartridge{'s' * (count != 1)}"] = Path(name) / str(count)
            folder.mkdir()
            for cartridge in distinct(given, count):
                write_cartridge(cartridge, folder / f"{cartridge.name}.gguf")
        file_bytes = max(path.stat().st_size for path in Path(name).glob("*/*.gguf"))
        variants = {label: partial(measure, options, folder) for label, folder in folders.items()}
        samples = alternate(variants, options.repeats, warm_up=0)
    comparison = Comparison(f"process, {WHAT}", "MiB", next(iter(samples)), samples)
    report.compare(comparison)
    small, large = (comparison.spread(label).median for label in samples)
    each, file_size = (large - small) / (many - few), file_bytes / MIB
    report.figure("file_mib", file_size, f"a cartridge's file      {file_size:7.2f} MiB")
    report.figure("cartridge_mib", each, f"a resident cartridge    {each:7.2f} MiB")
    ratio = each / file_size
    report.figure("resident_per_file", ratio, f"resident over its file  {ratio:7.2f}")
    report.write()


if __name__ == "__main__":
    main()
