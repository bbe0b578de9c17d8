"""`llamacart draft`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llamacart.commands.options import (
    FlashAttentionOption,
    GpuLayersOption,
    NiceOption,
    ThreadsOption,
)
from llamacart.commands.terminal import plain_console, tells
from llamacart.errors import InputError
from llamacart.machine.priority import LOWEST
from llamacart.machine.processors import ALL_LAYERS
from llamacart.values.attention import DEFAULT_ATTENTION
from llamacart_trainer.commands.new import absolute, cartridge_name, form_of
from llamacart_trainer.commands.options import ModelOption, take_turns
from llamacart_trainer.commands.progress import Progress, load_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamacart_trainer.recipe.recipe import Recipe


def _what_stays(given: Mapping[str, Any]) -> str:
    from llamacart_trainer.drafting.kept import count_kept
    from llamacart_trainer.drafting.writing import AS_IS, AS_WANTED

    folder: Path = given["folder"]
    answers = sum(count_kept(folder / name) for name in (AS_IS, AS_WANTED))
    if not answers:
        return "no answer is kept; the same command begins anew"
    return f"{answers} answers are kept in {str(folder)!r}; 'llamacart draft {folder}' goes on"


@tells(_what_stays, full_disk=True)
def draft(
    folder: Annotated[
        Path, typer.Argument(metavar="NAME", help="Recipe folder; it is made where there is none.")
    ],
    as_wanted: Annotated[
        str | None,
        typer.Option(help="For a new folder: the prompt behind which answers are as wanted."),
    ] = None,
    as_is: Annotated[
        str | None, typer.Option(help="For a new folder: the prompt for how it is. Default: none.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="For a new folder: wanted is this language (ISO 639-1).")
    ] = None,
    words: Annotated[
        str | None, typer.Option(help="For a new folder: wanted is one of these, e.g. arr,aye.")
    ] = None,
    forbidden: Annotated[
        str | None, typer.Option(help="For a new folder: none of these is wanted.")
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(help='For a new folder: messages, a line {"prompt": …} each.'),
    ] = None,
    model: ModelOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace pairs that somebody has written.")
    ] = False,
    gpu_layers: GpuLayersOption = ALL_LAYERS,
    flash_attention: FlashAttentionOption = DEFAULT_ATTENTION,
    threads: ThreadsOption = None,
    nice: NiceOption = LOWEST,
) -> None:
    """Let the model write pairs from two prompts: as it is, and as it should be."""
    # Every `llamacart` command imports this module; only this one needs llama.cpp.
    from llamacart_trainer.drafting.folder import NewDraft, check_unwritten, write_draft_folder
    from llamacart_trainer.drafting.writing import DROPPED, Drafting, told
    from llamacart_trainer.evaluation.reading import scorer_of
    from llamacart_trainer.recipe.recipe import read_recipe

    given = NewDraft(
        as_wanted or "", as_is or "", language, _split(words), _split(forbidden), questions
    )
    console = plain_console()
    take_turns(console, nice)
    if not folder.exists():
        if not as_wanted:
            raise InputError(f"{str(folder)!r} does not exist; --as-wanted makes it")
        named = model or "demo"
        write_draft_folder(folder, given, cartridge_name(folder), absolute(named), form_of(named))
    elif given != NewDraft():
        raise InputError(
            f"{str(folder)!r} exists; write what is wanted into its recipe.toml, and leave out "
            "the options that are for a new folder"
        )
    recipe = read_recipe(folder / "recipe.toml")
    if not replace:
        check_unwritten(recipe, folder)
    scorer = scorer_of(recipe.evaluation, folder)
    with (
        Progress(console) as progress,
        load_model(model or recipe.model, gpu_layers, flash_attention, progress) as loaded,
    ):
        found = Drafting(
            recipe,
            folder,
            loaded,
            scorer,
            threads,
            on_stage=lambda name, total, done: progress.stage(
                name, unit="answer", total=total, done=done
            ),
            on_answers=progress.advance,
            on_part=progress.within,
        ).write()
    console.print(told(found), soft_wrap=True, highlight=False)
    if found.dropped:
        console.print(f"{folder / DROPPED} has the others", soft_wrap=True, highlight=False)
    console.print(
        f"  llamacart {shlex.join(_next(recipe, folder))}", soft_wrap=True, highlight=False
    )


def _split(words: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (words or "").split(",") if word.strip())


def _next(recipe: Recipe, folder: Path) -> tuple[str, ...]:
    return ("train", str(folder), "-o", f"my-cartridges/{recipe.name}.gguf")
