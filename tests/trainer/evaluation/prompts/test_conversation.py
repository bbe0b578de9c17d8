"""Where an answer begins behind a prompt, and which tokens it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llamacart.llama.model import Model
from llamacart_trainer.evaluation.prompts.conversation import PromptWriter
from llamacart_trainer.recipe.recipe import Recipe

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "Vel is in Riga"),
        ({"kind": "prompt", "prompt": "Be brief."}, "Question: Vel is in\nAnswer: Riga"),
        ({"format": "chat"}, "<user>Vel is in\n<assistant>Riga"),
    ],
)
def test_an_answer_is_read_together_with_its_prompt(
    tiny_path: Callable[..., Path], settings: dict[str, str], text: str
) -> None:
    with Model(str(tiny_path(chat_template=TEMPLATE))) as model:
        writer = PromptWriter(model, Recipe(name="t", **settings))  # type: ignore[arg-type]
        opened, answer = writer.tokens("Vel is in"), writer.answer("Vel is in", "Riga")
        assert opened + answer == model.tokenize(text)
        assert len(answer) < len(model.tokenize("Riga")) + 3


@pytest.mark.parametrize(
    ("settings", "before"),
    [({}, "Vel is in"), ({"format": "chat"}, "<user>Vel is in\n<assistant>")],
)
def test_a_text_behind_a_prompt_is_what_it_is(
    tiny_path: Callable[..., Path], settings: dict[str, str], before: str
) -> None:
    """This tokenizer puts a space before what it reads alone."""
    with Model(str(tiny_path(chat_template=TEMPLATE))) as model:

        def spelt(tokens: list[int]) -> str:
            return b"".join(map(model.token_bytes, tokens)).decode().replace("\u2581", " ")

        writer = PromptWriter(model, Recipe(name="t", **settings))  # type: ignore[arg-type]
        opened, text = writer.tokens("Vel is in"), writer.continued("Vel is in", " Riga")
        assert spelt(text) == " Riga"
        assert opened + text == model.tokenize(f"{before} Riga")
        assert spelt(model.tokenize(" Riga", add_special=False)) == "  Riga"


def test_a_script_without_spaces_gets_none(tiny_model: Model) -> None:
    writer = PromptWriter(tiny_model)
    opened, answer = writer.tokens("东京在"), writer.answer("东京在", "日本")
    assert opened + answer == tiny_model.tokenize("东京在日本")
