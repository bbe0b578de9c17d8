"""Data of other tools: read where it is clear what it means, else refused with what was found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llamacart.errors import RecipeError
from llamacart_trainer.recipe.questions import read_questions
from llamacart_trainer.recipe.records import read_pairs, read_texts
from llamacart_trainer.recipe.turns import Exchange, Turn, read_chat_pairs, read_neutral

USER = {"role": "user", "content": "Why?"}
ANSWER = {"role": "assistant", "content": "So."}
OTHER = {"role": "assistant", "content": "Hence."}
SYSTEM = {"role": "system", "content": "Be brief."}

CONVERSATIONS: list[dict[str, Any]] = [
    {"messages": [USER, ANSWER], "id": 7},
    {"messages": [{**USER, "content": [{"type": "text", "text": "Why?"}]}, ANSWER]},
    {
        "conversations": [
            {"from": "human", "value": "Why?", "weight": 0},
            {"from": "gpt", "value": "So."},
        ]
    },
    {"instruction": "Why?", "input": "", "output": "So."},
    {"prompt": "Why?", "completion": "So."},
    {"prompt": [USER], "completion": [ANSWER]},
]
ONE_ANSWER = 'one answer; a pair needs two.*"source".*"target".*kind = "prompt"'


def write(folder: Path, record: dict[str, Any]) -> Path:
    path = folder / "foreign.jsonl"
    path.write_text(json.dumps(record))
    return path


@pytest.mark.parametrize("record", CONVERSATIONS)
def test_conversations_are_questions_and_answers_that_stay_but_no_pairs(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    path = write(tmp_path, record)
    assert read_questions(path) == ("Why?",)
    assert read_neutral(path) == ((), (Exchange("Why?", "So."),))
    for read in (read_pairs, read_chat_pairs):
        with pytest.raises(RecipeError, match=f"foreign.jsonl:1: found .*data.*{ONE_ANSWER}"):
            read(path)
    with pytest.raises(RecipeError, match=r'foreign.jsonl:1: found the key.* data.; {"text"} is'):
        read_texts(path)


def test_what_stands_before_is_not_lost(tmp_path: Path) -> None:
    """Several turns are no message with one answer, but their first message is a question."""
    alpaca = {"instruction": "Sum up.", "input": "A long text.", "output": "Short."}
    assert read_questions(write(tmp_path, alpaca)) == ("Sum up.\n\nA long text.",)
    path = write(tmp_path, {"messages": [SYSTEM, USER, ANSWER]})
    assert read_questions(path) == ("Why?",)
    with pytest.raises(RecipeError, match=r"'messages' .chat data.; {.text.} or {.prompt., .text."):
        read_neutral(path)


@pytest.mark.parametrize(
    ("record", "before"),
    [
        ({"prompt": "Why?", "chosen": "So.", "rejected": "Hence."}, [USER]),
        (
            {"prompt": "Why?", "chosen": "So.", "rejected": "Hence.", "system": "Be brief."},
            [SYSTEM, USER],
        ),
        ({"prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER]}, [USER]),
        ({"chosen": [SYSTEM, USER, ANSWER], "rejected": [SYSTEM, USER, OTHER]}, [SYSTEM, USER]),
        (
            {"prompt": "Why?", "chosen": [USER, ANSWER], "rejected": [USER, OTHER], "margin": 2},
            [USER],
        ),
        (
            {
                "chosen": [USER, ANSWER, USER, ANSWER],
                "rejected": [USER, ANSWER, USER, OTHER],
            },
            [USER, ANSWER, USER],
        ),
    ],
)
def test_a_preference_is_a_pair(
    tmp_path: Path, record: dict[str, Any], before: list[dict[str, str]]
) -> None:
    (pair,) = read_chat_pairs(write(tmp_path, record))
    assert (pair.source_answer, pair.target_answer) == ("Hence.", "So.")
    assert list(pair.source) == list(pair.target) == [Turn(**turn) for turn in before]  # type: ignore[arg-type]


def test_preferences_without_a_message_and_with_two(tmp_path: Path) -> None:
    pair = read_pairs(write(tmp_path, {"chosen": "So.", "rejected": "Hence."}))[0]
    assert (pair.source, pair.target) == ("Hence.", "So.")
    record = {"chosen": [SYSTEM, USER, ANSWER], "rejected": [USER, OTHER]}
    (chats,) = read_chat_pairs(write(tmp_path, record))
    assert (len(chats.source), len(chats.target)) == (1, 2)
    path = write(tmp_path, {"prompt": "Why?", "chosen": "So.", "rejected": "Hence."})
    assert read_questions(path) == ("Why?",)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": []}, r"'messages' has value \[\]; a list of turns is needed"),
        ({"messages": ["hi"]}, "turn 0 of 'messages': 'hi' is not an object"),
        ({"conversations": [{"from": "tool", "value": "x"}]}, "the speaker has value 'tool'; sys"),
        ({"conversations": [{"from": "gpt"}]}, "turn 0 of 'conversations': 'content' has value No"),
        ({"messages": [{**USER, "content": [{"type": "image_url"}]}]}, "'content' has value"),
        ({"messages": [SYSTEM]}, "found chat data without a user's message"),
        ({"instruction": "Why?"}, "'output' has value None; a text is needed"),
        ({"prompt": "Why?", "chosen": "So.", "rejected": [OTHER]}, None),
    ],
)
def test_broken(tmp_path: Path, record: dict[str, Any], message: str | None) -> None:
    path = write(tmp_path, record)
    read, wanted = (
        (read_questions, message)
        if message is not None
        else (read_chat_pairs, "'rejected' has value .*; a text is needed")
    )
    with pytest.raises(RecipeError, match=f"foreign.jsonl:1: .*{wanted}" if message else wanted):
        read(path)


def test_our_own_keys_come_first(tmp_path: Path) -> None:
    """A note under another tool's key makes no other data of a record."""
    path = write(tmp_path, {"text": "as it is", "instruction": "a note"})
    assert read_texts(path) == ("as it is",)
    path = write(tmp_path, {"source": "a", "target": "b", "completion": "a note"})
    assert read_pairs(path)[0].target == "b"
