"""Options that commands of several packages have, so that each is checked alike everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

from llamacart.machine.priority import LOWEST, check_nice
from llamacart.machine.processors import check_gpu_layers, choose_threads
from llamacart.values.attention import check_flash_attention

FLASH_ATTENTION_HELP = "Flash attention: auto (where each layer's device has it), on or off."
GPU_LAYERS_HELP = "Layers to offload; -1 means all."
NICE_HELP = f"Priority, 0 to {LOWEST}: {LOWEST} gives way to all other programs, 0 to none."
THREADS_HELP = "Threads for compute, 1 to 512; default: the processors that may be used."


def _checked_layers(layers: int) -> int:
    check_gpu_layers(layers)
    return layers


def _checked_attention(value: str) -> str:
    check_flash_attention(value)
    return value


def _checked_threads(threads: int | None) -> int | None:
    return None if threads is None else choose_threads(threads)


def _checked_nice(nice: int) -> int:
    check_nice(nice)
    return nice


FlashAttentionOption = Annotated[
    str, typer.Option(callback=_checked_attention, help=FLASH_ATTENTION_HELP)
]
GpuLayersOption = Annotated[int, typer.Option(callback=_checked_layers, help=GPU_LAYERS_HELP)]
ThreadsOption = Annotated[int | None, typer.Option(callback=_checked_threads, help=THREADS_HELP)]
NiceOption = Annotated[int, typer.Option(callback=_checked_nice, help=NICE_HELP)]
