"""A file of pairs without a recipe: which form it has, and what is chosen for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamacart.errors import NotFoundError, RecipeError
from llamacart.llama.model import Model
from llamacart_trainer.fitting.samples import SampleBuilder
from llamacart_trainer.recipe.own_pairs import for_model, id_of, pairs_task

TEXT = {"source": "a b c", "target": "d e f"}
CHAT = {"prompt": "q", **TEXT}
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def write(folder: Path, *records: dict[str, Any]) -> Path:
    path = folder / "my pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return path


@pytest.mark.parametrize(
    ("record", "form", "pairing"),
    [
        (TEXT, "text", ["handover", "identity"]),
        ({"context": "X: ", "text": "b"}, "text", ["suffix"]),
        (CHAT, "chat", ["handover", "identity"]),
        ({"messages": TURNS[:1], **TEXT}, "chat", ["handover", "identity"]),
        ({"source": TURNS, "target": TURNS}, "chat", ["handover", "identity"]),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "chat", ["handover", "identity"]),
        ({"chosen": "a", "rejected": "b"}, "text", ["handover", "identity"]),
    ],
)
def test_forms(tmp_path: Path, record: dict[str, Any], form: str, pairing: list[str]) -> None:
    task = pairs_task(write(tmp_path, record, record))
    assert (task.recipe.format, task.recipe.pairing) == (form, pairing)
    assert task.recipe.name == "my-pairs"
    assert len(task.chats if form == "chat" else task.pairs) == 2
    assert len(task.neutral) > 100


def test_tables_have_the_same_defaults(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,source,target\nq,a b c,d e f\n")
    (tmp_path / "a.jsonl").write_text(json.dumps(CHAT))
    table, lines = (pairs_task(tmp_path / f"a.{end}", "x") for end in ("csv", "jsonl"))
    assert table.dataset_hash == lines.dataset_hash


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        pairs_task(tmp_path / "absent.jsonl")
    with pytest.raises(RecipeError, match="no pairs"):
        pairs_task(write(tmp_path))
    with pytest.raises(RecipeError, match="name has value 'a/b'"):
        pairs_task(write(tmp_path, TEXT), "a/b")
    with pytest.raises(RecipeError, match="jsonl:2: found the keys 'source', 'target'"):
        pairs_task(write(tmp_path, CHAT, TEXT))
    with pytest.raises(RecipeError, match="found chat data, which has one answer"):
        pairs_task(write(tmp_path, {"messages": TURNS}))
    assert id_of("  ") == "--"
    assert id_of("...") == "pairs"


def test_without_a_template_a_chat_is_plain_text(
    tmp_path: Path, tiny_path: Callable[..., Path]
) -> None:
    task = pairs_task(write(tmp_path, CHAT))
    with Model(str(tiny_path())) as model:
        assert model.chat_template is None
        plain = for_model(task, model)
        samples = SampleBuilder(plain, model).build()
    assert plain.recipe.format == "text"
    assert any(not sample.neutral and sample.rows for sample in samples)
    texts = pairs_task(write(tmp_path, TEXT))
    assert for_model(texts, model) is texts
