"""From what an administrator wants to learn to a command that learns it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llamacart.errors import InputError
from llamacart.machine.priority import LOWEST

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM: tuple[str, ...] = (sys.executable, "-m", "llamacart_server.training.child")
"""The trainer is another package, and its command another process, which ends with this one."""

TrainKind = Literal["prompt", "pairs", "facts"]


@dataclass(frozen=True)
class Lesson:
    """What is to be learnt.

    Attributes:
        cartridge: Id of the cartridge.
        kind: `prompt`: the cartridge does what `text` does as a system prompt; `pairs`: `text` is
            JSON Lines of a source and a target each; `facts`: of a prompt, a subject and an object.
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
        flash_attention: As `--flash-attention` takes it.
    """

    model: str
    threads: int
    gpu_layers: int
    flash_attention: str


def command(lesson: Lesson, means: Means, folder: Path, output: Path) -> list[str]:
    """Write the files of a lesson, and say what learns it.

    Args:
        lesson: What is to be learnt.
        means: What it may use.
        folder: An empty folder of its own.
        output: The cartridge file to write.
    """
    # One word each, for an id may begin with a dash.
    name = f"--name={lesson.cartridge}"
    shared = [
        f"--model={means.model}",
        f"--output={output}",
        f"--threads={means.threads}",
        f"--gpu-layers={means.gpu_layers}",
        f"--flash-attention={means.flash_attention}",
        f"--nice={LOWEST}",
    ]
    if lesson.kind == "prompt":
        prompt = _written(folder / "prompt.txt", lesson.text)
        keep = f"--keep={folder / 'recipe'}"
        return [*PROGRAM, "distill", name, f"--prompt={prompt}", keep, *shared]
    if lesson.kind == "pairs":
        pairs = _written(folder / "pairs.jsonl", lesson.text)
        return [*PROGRAM, "train", name, f"--pairs={pairs}", *shared]
    _written(folder / "facts.jsonl", lesson.text)
    _written(folder / "recipe.toml", _facts_recipe(lesson))
    return [*PROGRAM, "train", str(folder), *shared]


def _facts_recipe(lesson: Lesson) -> str:
    """An id has no character that a TOML string would need to escape."""
    n_facts = sum(bool(line.strip()) for line in lesson.text.splitlines())
    facts = "a fact" if n_facts == 1 else f"{n_facts} facts"
    return f'name = "{lesson.cartridge}"\ndescription = "Knows {facts}."\nkind = "facts"\n'


def _written(path: Path, text: str) -> Path:
    # Lines as they are: a carriage return is a part of a text.
    path.write_text(text, "utf-8", newline="")
    return path
