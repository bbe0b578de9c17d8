from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamacart.errors import RecipeError
from llamacart_trainer.recipe.turns import (
    ChatPair,
    Exchange,
    Turn,
    read_chat_pairs,
    read_exchanges,
    read_neutral,
    read_turns,
)

HI, YO = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}
SYSTEM = {"role": "system", "content": "S"}


def written(folder: Path, *records: object) -> Path:
    path = folder / "lines.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_three_forms_of_a_pair(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"prompt": "Hi", "source": "a", "target": "b", "note": "passed over"},
        {"prompt": "Hi", "source": "a", "target": "b", "system": "S"},
        {"messages": [HI, YO, HI], "source": "a", "target": "b"},
        {"source": [HI, YO], "target": [SYSTEM, HI, YO]},
    )
    hi, yo, system = Turn("user", "Hi"), Turn("assistant", "Yo"), Turn("system", "S")
    assert read_chat_pairs(path) == (
        ChatPair((hi,), "a", (hi,), "b"),
        ChatPair((system, hi), "a", (system, hi), "b"),
        ChatPair((hi, yo, hi), "a", (hi, yo, hi), "b"),
        ChatPair((hi,), "Yo", (system, hi), "Yo"),
    )


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"source": "a", "target": "b"}, r"found the keys 'source', 'target'"),
        ({"prompt": "Hi", "source": "a"}, "found the keys 'prompt', 'source'"),
        ({"prompt": "Hi", "source": "a", "target": " "}, "'target' has value ' '"),
        ({"prompt": "Hi", "messages": [HI], "source": "a", "target": "b"}, "both given"),
        ({"messages": [], "source": "a", "target": "b"}, r"'messages' has value \[\]"),
        ({"messages": [HI, YO], "source": "a", "target": "b"}, "the last is of the assistant"),
        ({"messages": [HI, "x"], "source": "a", "target": "b"}, "turn 1 of 'messages': 'x'"),
        ({"source": [HI, YO], "target": "b"}, "'target' has value 'b'; a list"),
        ({"source": [HI, YO], "target": [YO, HI]}, "'target' ends in a turn of the user"),
        ({"source": [YO], "target": [HI, YO]}, "'source': .* there is none"),
        ({"source": [HI, YO, YO], "target": [HI, YO]}, "'source': .* of the assistant"),
        (
            {"source": [HI, {"role": "tool", "content": "x"}], "target": [HI, YO]},
            "'role' has value 'tool'; system, user, assistant",
        ),
    ],
)
def test_pairs_that_are_none(tmp_path: Path, record: object, message: str) -> None:
    good = {"prompt": "Hi", "source": "a", "target": "b"}
    with pytest.raises(RecipeError, match=rf"lines\.jsonl:2: .*{message}"):
        read_chat_pairs(written(tmp_path, good, record))


def test_suffix_needs_one_answer_behind_two_conversations(tmp_path: Path) -> None:
    fine = {"source": [HI, YO], "target": [SYSTEM, HI, YO]}
    assert len(read_chat_pairs(written(tmp_path, fine), suffix=True)) == 1
    for other in ({"source": [HI, YO], "target": [HI, YO]}, {**fine, "target": [HI, YO, HI, HI]}):
        with pytest.raises(RecipeError, match=r":1: (pairing|.target. ends in)"):
            read_chat_pairs(written(tmp_path, other), suffix=True)
    path = written(tmp_path, {"prompt": "Hi", "source": "a", "target": "b"})
    with pytest.raises(RecipeError, match=r":1: pairing 'suffix'.*'a' and target in 'b'$"):
        read_chat_pairs(path, suffix=True)


def test_a_conversation_a_turn_a_line(tmp_path: Path) -> None:
    assert read_turns(written(tmp_path, SYSTEM, HI)) == (Turn("system", "S"), Turn("user", "Hi"))
    with pytest.raises(RecipeError, match="no turns"):
        read_turns(written(tmp_path))


def test_answers(tmp_path: Path) -> None:
    path = written(
        tmp_path, {"prompt": "a", "text": "b"}, {"prompt": "a", "text": "c", "ended": False}
    )
    assert read_exchanges(path) == (Exchange("a", "b"), Exchange("a", "c", ended=False))
    with pytest.raises(RecipeError, match=":1: 'ended' has value 'no'"):
        read_exchanges(written(tmp_path, {"prompt": "a", "text": "b", "ended": "no"}))
    with pytest.raises(RecipeError, match="no answers"):
        read_exchanges(written(tmp_path))


def test_neutral_texts_and_turns(tmp_path: Path) -> None:
    path = written(tmp_path, {"text": "a"}, {"prompt": "q", "text": "b"})
    assert read_neutral(path) == (("a",), (Exchange("q", "b"),))
    with pytest.raises(RecipeError, match="no texts"):
        read_neutral(written(tmp_path))
