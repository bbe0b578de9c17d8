"""From what an administrator wants to learn to a command that learns it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llamacart.errors import InputError
from llamacart.machine.priority import LOWEST

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM: tuple[str, ...] = (sys.executable, "-m", "llamacart")
"""The trainer is another package, and its command another process."""

TrainKind = Literal["prompt", "pairs"]


@dataclass(frozen=True)
class Lesson:
    """What is to be learnt.

    Attributes:
        cartridge: Id of the cartridge.
        kind: `prompt`: the cartridge does what `text` does as a system prompt; `pairs`: `text` is
            JSON Lines of a source and a target each.
        text: See `kind`.
    """

    cartridge: str
    kind: TrainKind
    text: str

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise InputError(f"{self.kind!r} is empty", param=self.kind)


@dataclass(frozen=True)
class Means:
    """What a job may use.

    Attributes:
        model: As `--model` takes it.
        threads: Most threads that it computes with.
        gpu_layers: As `--gpu-layers` takes it.
    """

    model: str
    threads: int
    gpu_layers: int


def command(lesson: Lesson, means: Means, folder: Path, output: Path) -> list[str]:
    """Write the files of a lesson, and say what learns it.

    Args:
        lesson: What is to be learnt.
        means: What it may use.
        folder: An empty folder of its own.
        output: The cartridge file to write.
    """
    # One word each, for an id may begin with a dash.
    shared = [
        f"--name={lesson.cartridge}",
        f"--model={means.model}",
        f"--output={output}",
        f"--threads={means.threads}",
        f"--gpu-layers={means.gpu_layers}",
        f"--nice={LOWEST}",
    ]
    if lesson.kind == "prompt":
        prompt = folder / "prompt.txt"
        prompt.write_text(lesson.text, "utf-8")
        return [*PROGRAM, "distill", f"--prompt={prompt}", f"--keep={folder / 'recipe'}", *shared]
    pairs = folder / "pairs.jsonl"
    pairs.write_text(lesson.text, "utf-8")
    return [*PROGRAM, "train", f"--pairs={pairs}", *shared]
