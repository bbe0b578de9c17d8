"""Makes a recipe folder: whole, or not at all."""

from __future__ import annotations

import json
import secrets
import shutil
from contextlib import contextmanager, suppress
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

from llamacart.errors import InputError
from llamacart_trainer.recipe.recipe import builtin_neutral
from llamacart_trainer.recipe.records import read_records
from llamacart_trainer.starters.kinds import facts_recipe, new_prompt_recipe, pairs_recipe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from llamacart_trainer.starters.kinds import Form, Kind


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which is at `path` once it is full.

    Raises:
        InputError: There is something already, or it cannot be made.
    """
    if path.exists() or path.is_symlink():
        raise InputError(f"{str(path)!r} exists already; another name is needed")
    partial = path.with_name(f".{path.name}-{secrets.token_hex(8)}.tmp")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(path)
    except OSError as error:
        raise InputError(f"folder {str(path)!r} cannot be made: {error}") from error
    finally:
        with suppress(OSError):  # it has been renamed, or could not be made
            shutil.rmtree(partial)


def write_starter(path: Path, kind: Kind, form: Form, *, name: str, model: str) -> None:
    """Make the folder that a kind of wish begins with.

    Args:
        path: Where; nothing may be there.
        kind: What the cartridge is to do.
        form: Whether the model is talked to, or continues raw texts.
        name: Of the cartridge.
        model: The model that its recipe names.

    Raises:
        InputError: There is something already, or it cannot be made.
    """
    if kind == "prompt":
        text = new_prompt_recipe(name, model, form)
    elif kind == "facts":
        text = facts_recipe(name, model, form)
    else:
        text = pairs_recipe(kind, form, name, model)
    with (
        new_folder(path) as folder,
        as_file(files("llamacart_trainer").joinpath("starters", "data", kind)) as data,
    ):
        (folder / "recipe.toml").write_text(text, encoding="utf-8")
        for file in sorted(data.glob("*.jsonl")):
            stem, _, of = file.stem.partition(".")
            if of in ("", form):
                records = [record for _, record in read_records(file)]
                text = records_text(_in_form(stem, records, kind, form))
                (folder / f"{stem}.jsonl").write_text(text, encoding="utf-8")


def records_text(records: Iterable[Mapping[str, Any]]) -> str:
    """The text of a `.jsonl` file."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _in_form(
    stem: str, records: list[dict[str, Any]], kind: Kind, form: Form
) -> list[dict[str, Any]]:
    """Records as a file of that name holds them; stored are those of chats."""
    if stem == "neutral":
        own = records if form == "chat" else [{"text": record["text"]} for record in records]
        return [*own, *({"text": text} for text in _left_alone(kind))]
    if form == "text" and stem in ("pairs", "heldout"):
        return [{key: record[key] for key in ("source", "target")} for record in records]
    return records


def _left_alone(kind: Kind) -> list[str]:
    """The trainer's neutral texts without those in the example's own language."""
    texts = list(builtin_neutral())
    if kind != "language":
        return texts
    from llamacart_trainer.evaluation import scorers

    hits = scorers.run(scorers.language("it"), [""] * len(texts), texts)
    return [text for text, hit in zip(texts, hits, strict=True) if not hit]
