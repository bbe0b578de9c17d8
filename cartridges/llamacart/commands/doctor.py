"""`llamacart doctor`: what this machine and this build of llama.cpp make of a model."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import llama_cpp
import typer
from rich.table import Table
from rich.text import Text

from llamacart import __version__
from llamacart.commands.options import FlashAttentionOption, GpuLayersOption, ThreadsOption
from llamacart.commands.terminal import plain_console
from llamacart.errors import UnsupportedModelError
from llamacart.hook import openmp
from llamacart.hook import speed as hook_speed
from llamacart.hook.compiled import KEEP
from llamacart.hook.device import stops
from llamacart.hook.device.probe import NO_DEVICE, where_steered
from llamacart.hook.kernel import steer_rows
from llamacart.llama import ggml
from llamacart.llama import log as llama_log
from llamacart.llama.model import Model
from llamacart.llama.resolve import DEMO
from llamacart.machine.processors import ALL_LAYERS, choose_threads, cpu_quota, usable_processors
from llamacart.machine.sharing import SECONDS_BETWEEN_LOOKS, Sharing
from llamacart.values.attention import DEFAULT_ATTENTION, WITHOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

Verdict = Literal["ok", "slow", "bad"]

_COLOURS = {"ok": "green", "slow": "yellow", "bad": "red"}
_DEVICE_KINDS = ("CPU", "GPU", "integrated GPU", "accelerator")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: What.
        text: What was found, and what to do where it is not good.
        verdict: `ok`, `slow` where it works but costs time, `bad` where it does not work.
    """

    topic: str
    text: str
    verdict: Verdict = "ok"


def doctor(
    model: Annotated[
        str, typer.Option(help="GGUF file, 'demo' or hf:<owner>/<repo>/<file>.")
    ] = DEMO,
    gpu_layers: GpuLayersOption = ALL_LAYERS,
    flash_attention: FlashAttentionOption = DEFAULT_ATTENTION,
    threads: ThreadsOption = None,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Also time what a steered layer's stop of the graph costs."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check the build of llama.cpp, whether cartridges reach a model, and what is slow.

    The exit code is 1 if the model cannot be steered.
    """
    llama_log.install()
    shares, chosen = Sharing(), choose_threads(threads)
    findings = [
        *examine_build(),
        *examine_processors(chosen),
        *examine_model(model, gpu_layers, flash_attention, measure=measure),
        examine_load(shares, chosen),
    ]
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        table = Table.grid(padding=(0, 2))
        for finding in findings:
            verdict = Text(finding.verdict, style=_COLOURS[finding.verdict])
            table.add_row(verdict, finding.topic, finding.text)
        plain_console().print(table)
    if any(finding.verdict == "bad" for finding in findings):
        raise typer.Exit(1)


def examine_build() -> Iterator[Finding]:
    """What is installed, and how llama.cpp was compiled."""
    yield Finding(
        "versions",
        f"llamacart {__version__}, llama-cpp-python {version('llama-cpp-python')}, "
        f"Python {platform.python_version()}, {platform.machine()}",
    )
    system = llama_cpp.llama_print_system_info().decode("utf-8", "replace").strip(" |\n")
    yield Finding("llama.cpp", system)
    for name in devices():
        yield Finding("device", name)
    if platform.machine() in ("x86_64", "AMD64"):
        yield _instructions(system)
    if openmp.expose_to_numba():
        yield Finding("OpenMP", "llama.cpp lends its threads to the hook")
        yield _waiting()
    else:
        yield Finding(
            "OpenMP",
            "llama.cpp was built without OpenMP: the hook computes on one thread; build it "
            "with GGML_OPENMP=ON",
            "slow",
        )
    yield _numba_cache()


def devices() -> list[str]:
    """Name, description and kind of each device that llama.cpp computes on."""
    lib = ggml.library()
    lib.ggml_backend_dev_count.restype = ctypes.c_size_t
    lib.ggml_backend_dev_get.restype = ctypes.c_void_p
    lib.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    for name in ("ggml_backend_dev_name", "ggml_backend_dev_description"):
        getattr(lib, name).restype = ctypes.c_char_p
        getattr(lib, name).argtypes = [ctypes.c_void_p]
    lib.ggml_backend_dev_type.restype = ctypes.c_int
    lib.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    found = []
    for i in range(lib.ggml_backend_dev_count()):
        device = lib.ggml_backend_dev_get(i)
        kind = lib.ggml_backend_dev_type(device)
        known = _DEVICE_KINDS[kind] if kind < len(_DEVICE_KINDS) else f"kind {kind}"
        name, text = lib.ggml_backend_dev_name(device), lib.ggml_backend_dev_description(device)
        found.append(f"{name.decode()}: {text.decode('utf-8', 'replace')} ({known})")
    return found


def examine_processors(threads: int) -> Iterator[Finding]:
    """Whether that many threads can run."""
    usable = usable_processors()
    yield Finding("processors", f"{usable} of {os.cpu_count()} may be used, by {threads} threads")
    quota = cpu_quota()
    if quota is not None and quota < threads:
        yield Finding(
            "processors",
            f"the control group grants {quota:g} processors' time to {threads} threads, which "
            f"wait for each other; use --threads {max(1, int(quota))}",
            "slow",
        )


def examine_load(shares: Sharing, threads: int) -> Finding:
    """What other programs compute, and how many threads that leaves.

    Args:
        shares: Made a while ago.
        threads: As many as would compute on an idle machine.
    """
    time.sleep(SECONDS_BETWEEN_LOOKS)  # so that there is something to see
    others, left = shares.look(), shares.threads(threads)
    text = f"other programs keep {others:.1f} of {usable_processors()} processors busy"
    if left == threads:
        return Finding("load", text)
    return Finding(
        "load",
        f"{text}: unless --threads is given, {left} of {threads} threads compute until they stop",
        "slow",
    )


def _waiting() -> Finding:
    """How OpenMP's threads wait for each other, as far as the environment says."""
    policy, spins = os.environ.get("OMP_WAIT_POLICY", ""), os.environ.get("GOMP_SPINCOUNT", "")
    if policy.lower() == "passive" or spins == "0":
        name = "GOMP_SPINCOUNT" if spins else "OMP_WAIT_POLICY"
        return Finding(
            "waiting",
            f"{name} is {spins or policy}: threads sleep each time they wait for another, which "
            "costs half as much time again on an idle machine",
            "slow",
        )
    said = [f"OMP_WAIT_POLICY={policy}"] if policy else []
    said += [f"GOMP_SPINCOUNT={spins}"] if spins else []
    return Finding("waiting", f"threads spin while they wait ({', '.join(said) or 'by default'})")


def examine_model(
    spec: str,
    gpu_layers: int = ALL_LAYERS,
    flash_attention: str = DEFAULT_ATTENTION,
    *,
    measure: bool = False,
) -> Iterator[Finding]:
    """Whether a model loads, whether the hook reaches it, and what that costs.

    Args:
        spec: The model.
        gpu_layers: Layers on a device.
        flash_attention: See `Model`.
        measure: Also time stops of its graph.

    Raises:
        ModelError: It cannot be loaded.
    """
    try:
        model = Model(
            spec,
            gpu_layers=gpu_layers,
            flash_attention=flash_attention,
            batch_invariant=flash_attention != WITHOUT,
        )
    except UnsupportedModelError as error:
        yield Finding("hook", error.message, "bad")
        return
    with model:
        size = model.path.stat().st_size
        yield Finding(
            "model",
            f"{model.name} ({model.architecture}): {model.path}, {size / 2**20:.0f} MiB, "
            f"trained for {model.n_ctx_train} tokens",
        )
        yield Finding(
            "hook",
            f"reaches {model.site_node} in all {model.n_layer} layers, {model.n_ff} neurons each",
        )
        yield Finding(
            "rows",
            f"ffn_down reads {model.site_node} in every layer; rows of two sequences in one batch "
            f"are those of each alone (largest difference {model.row_error:.1e} of a row's length)",
        )
        yield _hook_speed(model)
        if model.uses_device:
            yield _on_device(model)
        else:
            yield Finding(
                "prompts",
                "--batch-invariant, the default, reads long prompts more slowly on the CPU; "
                "--no-batch-invariant with GGML_CPU_TILED_MM=1 is the other choice",
            )
        if measure:
            yield _stops(stops.measure(model), size)
        if size > (memory := _free_memory()):
            yield Finding(
                "memory",
                f"the file has {size / 2**20:.0f} MiB, free are {memory / 2**20:.0f} MiB: weights "
                "will be read from disk again and again",
                "slow",
            )


def _on_device(model: Model) -> Finding:
    names, refused = where_steered(model)
    if names and refused is None:
        return Finding("device", f"cartridges act in the memory of {', '.join(names)}")
    return Finding(
        "device",
        f"{refused or NO_DEVICE}: where a cartridge acts, each layer's product on a device is "
        "copied to the host and back",
        "slow",
    )


def _stops(found: stops.Stops, size: int) -> Finding:
    """What stops cost; the sizes are of weights."""
    text = (
        f"a steered layer's stop of the graph costs {1e6 * found.seconds:.0f} µs beside its step: "
        f"{found.n_layer} are {found.share:.1%} of an unsteered token's {1e3 * found.token:.1f} ms"
    )
    if found.share <= stops.NEGLIGIBLE:
        return Finding("stops", text)
    return Finding(
        "stops",
        f"{text}; with as many layers they are less than {stops.NEGLIGIBLE:.0%} from "
        f"{found.negligible_from(size) / 2**30:.1f} GiB of weights on",
        "slow",
    )


def _hook_speed(model: Model) -> Finding:
    speed = hook_speed.measure(model)
    name, missing = hook_speed.compiled_for()
    figures = (
        f"compiled for {name}, {speed.weights_per_second / 1e9:.1f} billion weights a second on "
        f"one thread: {hook_speed.N_ACTIVE} neurons in each layer take "
        f"{1e3 * model.n_layer * speed.seconds:.1f} ms a token"
    )
    if missing:
        return Finding("hook's speed", f"{figures}; made without {', '.join(missing)}", "slow")
    if speed.weights_per_second < hook_speed.SLOW_BELOW:
        return Finding("hook's speed", f"{figures}; the machine is busy, or slow", "slow")
    return Finding("hook's speed", figures)


def _instructions(system: str) -> Finding:
    missing = [name for name in ("AVX2", "FMA", "F16C") if not re.search(rf"\b{name} = 1", system)]
    if not missing:
        return Finding("llama.cpp's instructions", "AVX2, FMA and F16C are used")
    return Finding(
        "llama.cpp's instructions",
        f"llama.cpp was built without {', '.join(missing)}; if the processor has them, build with "
        "CMAKE_ARGS=-DGGML_NATIVE=ON",
        "slow",
    )


def _numba_cache() -> Finding:
    if KEEP:
        return Finding("numba cache", str(steer_rows.stats.cache_path))
    return Finding(
        "numba cache",
        "no folder for compiled code can be written: the hook is compiled anew at each start; set "
        "NUMBA_CACHE_DIR to a folder that can",
        "slow",
    )


def _free_memory() -> int:
    """Bytes that can be had without swapping; the whole memory where that is not known."""
    try:
        text = Path("/proc/meminfo").read_text()
        return int(re.search(r"MemAvailable:\s+(\d+) kB", text)[1]) * 1024  # type: ignore[index]
    except (OSError, TypeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
