"""`llamacart new`."""

from __future__ import annotations

import re
import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llamacart.commands.terminal import plain_console
from llamacart.errors import InputError

if TYPE_CHECKING:
    from llamacart.llama.model import Model
    from llamacart_trainer.starters.kinds import Form


class KindChoice(StrEnum):
    """What a cartridge may be wished for."""

    LANGUAGE = "language"
    STYLE = "style"
    CONTRAST = "contrast"
    PROMPT = "prompt"
    FACTS = "facts"
    BLANK = "blank"


def new(
    folder: Annotated[
        Path, typer.Argument(metavar="NAME", help="Folder to make; its name is the cartridge's.")
    ],
    kind: Annotated[
        KindChoice,
        typer.Option(
            help="What the cartridge is to do: speak a language, a style, turn from one pole to "
            "the other, replace a prompt, know facts, or something else."
        ),
    ] = KindChoice.BLANK,
    model: Annotated[
        str | None,
        typer.Option(
            help="GGUF file, 'demo' or hf:<owner>/<repo>/<file>. Texts are chats where it has a "
            "chat template, and raw where it has none, or where no model is named."
        ),
    ] = None,
) -> None:
    """Make a recipe folder with examples, ready to train."""
    from llamacart_trainer.starters.folder import write_starter

    name = cartridge_name(folder)
    form: Form = "text" if model is None else form_of(model)
    named = "demo" if model is None else model
    write_starter(folder, kind.value, form, name=name, model=absolute(named))
    console = plain_console()
    said = "chats" if form == "chat" else "raw texts"
    console.print(f"{folder}: a recipe of kind {kind.value}, of {said}, with examples. Now:")
    file = f"my-cartridges/{name}.gguf"
    for line in (
        ("train", str(folder), "-o", file),
        ("eval", file, "--recipe", str(folder)),
        ("serve", "--model", named, "--cartridges", "my-cartridges"),
    ):
        console.print(f"  llamacart {shlex.join(line)}", soft_wrap=True, highlight=False)
    console.print(f"Put your own texts into {folder} first, or try it as it is.")


def cartridge_name(folder: Path) -> str:
    """The name of a folder, where a cartridge can be called so.

    Raises:
        InputError: It cannot.
    """
    name = folder.resolve().name
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", name):
        raise InputError(
            f"a cartridge cannot be called {name!r}; letters, digits, '.', '_' and '-' are "
            "needed, 64 at most"
        )
    return name


def absolute(model: str) -> str:
    """A model's name for a recipe, which a path may be read from another folder."""
    path = Path(model)
    return str(path.resolve()) if path.is_file() else model


def form_of(model: str) -> Form:
    """Chats for a model whose file has a chat template, raw texts for others."""
    from llamacart.llama.model import Model as Loaded

    with Loaded(model, gpu_layers=0) as loaded:
        return own_form(loaded)


def own_form(model: Model) -> Form:
    """The same of a model that is loaded."""
    return "chat" if model.chat_template else "text"
