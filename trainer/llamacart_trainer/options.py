"""Options that several of the trainer's commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelOption = Annotated[
    str | None,
    typer.Option(help="GGUF path, 'demo' or hf:<owner>/<repo>/<file>; default: the recipe's."),
]
OutputOption = Annotated[
    Path | None, typer.Option("-o", "--output", help="File to write; default <name>.gguf.")
]
