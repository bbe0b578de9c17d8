"""Names that ship with the trainer: subjects that a fact is not about."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Literal, get_args

from llamacart.errors import RecipeError
from llamacart.file.texts import shown
from llamacart.values.near import did_you_mean
from llamacart_trainer.recipe.records import Form, check_form, read_records, text_of

if TYPE_CHECKING:
    from pathlib import Path

    from llamacart_trainer.recipe.questions import Split

NameKind = Literal["person", "place", "company", "work", "thing"]
"""A work is a book, a film, a picture or a piece of music."""

NAME_KINDS: tuple[NameKind, ...] = get_args(NameKind)

NAME = Form(("name", "kind"))
PHRASING = Form(("prompt", "kind", "asks"))


@dataclass(frozen=True)
class Name:
    """A name as it stands within a sentence, or a text with a slot for one.

    Attributes:
        text: It.
        kind: What kind of name it is, or asks for something of.
        asks: What a text with a slot asks for, in a word; nothing where it is a name.
    """

    text: str
    kind: NameKind
    asks: str = ""


def builtin_names(split: Split = "train") -> tuple[Name, ...]:
    """Half of the names that ship with the trainer: well-known and invented ones.

    Every second name of a kind is in either half, so that both hold as many of each kind.

    Args:
        split: `train` for those to fit with, `eval` for the others, to measure with.
    """
    with as_file(files("llamacart_trainer").joinpath("names.jsonl")) as path:
        names = read_names(path)
    first = 0 if split == "train" else 1
    return tuple(
        name
        for kind in NAME_KINDS
        for name in [name for name in names if name.kind == kind][first::2]
    )


def builtin_phrasings() -> tuple[Name, ...]:
    """Texts that ship with the trainer and ask for something of a name, which stands for `{}`.

    Returns:
        They, with the kind of name that each asks for something of, and for what.
    """
    with as_file(files("llamacart_trainer").joinpath("phrasings.jsonl")) as path:
        return _read(path, PHRASING)


def read_names(path: Path) -> tuple[Name, ...]:
    """Read a file of `{"name", "kind"}` objects.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: A line cannot be used, a name comes twice, or there is none.
    """
    return _read(path, NAME)


def _read(path: Path, form: Form) -> tuple[Name, ...]:
    """A file of texts, each with a kind of name."""
    key = form.required[0]
    names: dict[str, Name] = {}
    for where, record in read_records(path, form):
        check_form(record, (form,), where)
        kind = next((kind for kind in NAME_KINDS if kind == record["kind"]), None)
        if kind is None:
            raise RecipeError(
                f"{where}: 'kind' has value {shown(record['kind'])}; one of "
                f"{', '.join(NAME_KINDS)} is needed{did_you_mean(record['kind'], NAME_KINDS)}"
            )
        text = text_of(record, key, where)
        if text in names:
            raise RecipeError(f"{where}: {key!r} has value {shown(text)}, which stands above too")
        asks = text_of(record, "asks", where) if "asks" in form.required else ""
        names[text] = Name(text, kind, asks)
    if not names:
        raise RecipeError(f"{path}: no names")
    return tuple(names.values())
