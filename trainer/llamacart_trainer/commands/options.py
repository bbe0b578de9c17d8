"""Options that several of the trainer's commands have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamacart.machine.priority import give_way

if TYPE_CHECKING:
    from rich.console import Console

ModelOption = Annotated[
    str | None,
    typer.Option(help="GGUF file, 'demo' or hf:<owner>/<repo>/<file>. Default: the recipe's."),
]
OutputOption = Annotated[
    Path | None, typer.Option("-o", "--output", help="File to write. Default: <name>.gguf.")
]


def take_turns(console: Console, nice: int) -> None:
    """Lower the priority of this process, and say so."""
    priority = give_way(nice)
    if priority > 0:
        console.print(
            f"priority: nice {priority}, gives way to other programs (--nice 0: to none)",
            style="dim",
            highlight=False,
        )
