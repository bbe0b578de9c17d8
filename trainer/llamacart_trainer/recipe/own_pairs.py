"""A task from a file of pairs alone, for those who have no recipe."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llamacart_trainer.recipe.recipe import BUILTIN, Task
from llamacart_trainer.recipe.records import CONTEXT_PAIR, PAIR, TextPair, read_pairs, read_records
from llamacart_trainer.recipe.tasks import make_task
from llamacart_trainer.recipe.turns import CHAT_PAIR, LONG_PAIR, ChatPair, read_chat_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llamacart.llama.model import Model


def pairs_task(path: Path, name: str | None = None) -> Task:
    """The pairs of a file under a recipe's defaults, with the trainer's own neutral texts.

    Lines that hold a user's message are a chat (see `read_chat_pairs`), others are raw texts.
    Those of one behind a context are paired by `suffix`.

    Args:
        path: JSON Lines, a JSON list or a table.
        name: Id of the cartridge; the file's name without it.

    Raises:
        NotFoundError: There is no such file.
        RecipeError: It cannot be used, or the name cannot.
    """
    records = [record for _, record in read_records(path, CHAT_PAIR, LONG_PAIR, PAIR, CONTEXT_PAIR)]
    settings: dict[str, Any] = {"description": f"Fitted on {path.name}."}
    pairs: Sequence[TextPair | ChatPair]
    if any(_is_chat(record) for record in records):
        settings["format"] = "chat"
        pairs = read_chat_pairs(path)
    else:
        behind = bool(records) and all(set(CONTEXT_PAIR.required) <= r.keys() for r in records)
        settings |= {"pairing": ["suffix"]} if behind else {}
        pairs = read_pairs(path, suffix=behind)
    return make_task(pairs, name=name or id_of(path.stem), neutral=BUILTIN, **settings)


def for_model(task: Task, model: Model) -> Task:
    """A chat as plain text where the model has no chat template; see `assistant_turn`."""
    if task.recipe.format == "text" or model.chat_template is not None:
        return task
    return replace(task, recipe=task.recipe.model_copy(update={"format": "text"}))


def id_of(text: str) -> str:
    """The nearest id of a cartridge to a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text).lstrip(".")[:64] or "pairs"


def _is_chat(record: dict[str, Any]) -> bool:
    return bool({"prompt", "messages"} & record.keys()) or isinstance(record.get("source"), list)
