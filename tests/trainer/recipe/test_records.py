"""Data files: what is read, and what is refused with file, line, what was found and wanted."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from llamacart.errors import LlamacartError, NotFoundError, RecipeError
from llamacart_trainer.evaluation.plan import load_plan
from llamacart_trainer.recipe.recipe import load_task
from llamacart_trainer.recipe.records import read_pairs, read_texts, where_of

PAIR = '{"source": "a", "target": "b"}'
WANTED = r'{"source", "target"} or {"context", "text"} is needed'


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "pairs.jsonl"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        PAIR,
        "\ufeff" + PAIR,
        f"\r\n{PAIR}\r\n\r\n",
        '{"context": "X: ", "text": "b", "id": 7, "note": null}',
        json.dumps({"source": "a " * 10**6, "target": "\u2028\U0001f600"}),
        r'{"source": "\ud83d\ude00", "target": "b"}',  # two halves that make one character
    ],
)
def test_pairs(tmp_path: Path, text: str) -> None:
    assert len(read_pairs(write(tmp_path, text))) == 1


def test_a_text_knows_where_it_was_read(tmp_path: Path) -> None:
    path = write(tmp_path, f'{PAIR}\n\n{{"context": "X: ", "text": "b"}}')
    last = read_pairs(path)[1]
    for text in (last.source, last.target, copy.deepcopy(last.target)):
        assert where_of(text, "") == f"{path}:3"
    assert (last.target, type(json.loads(json.dumps(last.target)))) == ("X: b", str)
    assert where_of("own", "pair 3") == "pair 3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "pairs.jsonl: no pairs"),
        ("\n \n", "pairs.jsonl: no pairs"),
        ("{", "jsonl:1: not JSON"),
        ("[1]", "jsonl:1: not an object; each line is to be one JSON object"),
        ("3", "jsonl:1: not an object"),
        (f"{PAIR}\n{{}}", f"jsonl:2: found no keys; {WANTED}"),
        ('{"source": "a"}', f"jsonl:1: found the key 'source'; {WANTED}"),
        (
            '{"source": "s", "target": "t", "context": "X: ", "text": "other"}',
            f"jsonl:1: found the keys 'context', 'source', 'target', 'text'; {WANTED}",
        ),
        ('{"source": "a", "target": "b", "text": "c"}', f"'source', 'target', 'text'; {WANTED}"),
        ('{"context": "a", "text": "b", "prompt": "c"}', f"'prompt', 'text'; {WANTED}"),
        ('{"conversations": []}', r"'conversations' has value \[\]; a list of turns is needed"),
        (
            '{"instruction": "a", "input": "", "output": "b"}',
            "found Alpaca data, which has one ans",
        ),
        ('{"prompt": "a", "source": "b", "target": "c"}', 'say format = "chat" in recipe.toml'),
        ('{"prompt": "a", "chosen": "b", "rejected": "c"}', 'say format = "chat" in recipe.toml'),
        (json.dumps({f"k{i}": 1 for i in range(40)}), f"'k0', 'k1', 'k10', .*'k15', …; {WANTED}"),
        (f'{PAIR}\n{{"source": 3, "target": "b"}}', "jsonl:2: 'source' has value 3; a text is"),
        ('{"source": "a", "target": " "}', "'target' has value ' '"),
        ('{"source": null, "target": "b"}', "'source' has value None"),
        (
            json.dumps({"source": list(range(10**5)), "target": "b"}),
            r"'source' has value .0, .{60,90}; a text",
        ),
        (
            r'{"source": "bad \ud83d x", "target": "b"}',
            r"jsonl:1: 'source' holds half of .*\\ud83d",
        ),
        (r'{"source": "a", "target": "\ude00"}', r"'target' holds half of a character .\\ude00."),
        (r'{"source": "a\u0000b", "target": "b"}', "'source' holds a null character"),
        ('{"source": "a", "source": "c", "target": "b"}', "jsonl:1: key 'source' occurs twice"),
        ('{"source": ' + 5000 * "[", "jsonl:1: JSON that is nested too deep"),
        ('{"source": ' + 5000 * "[" + 5000 * "]" + "}", "jsonl:1: JSON that is nested too deep"),
        ('{"source": ' + 5000 * "1" + "}", "jsonl:1: not JSON"),
        (b"\xff\xfe{\x00", "'.*pairs.jsonl' cannot be read: it is UTF-16"),
        (b'{"source": "caf\xe9"}', "cannot be read: line 1 is not UTF-8"),
        (b'{"source": "a\x00"}', "cannot be read: line 1 holds a null byte"),
    ],
)
def test_bad_pairs(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        read_pairs(write(tmp_path, text))
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500
    caught.value.message.encode()  # can be printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text": "a"}\n{"txt": "b"}', "found the key 'txt'; {\"text\"} is needed"),
        ('{"text": "a", "context": "b"}', "found the keys 'context', 'text'; {\"text\"} is needed"),
        ('{"text": 3}', "'text' has value 3"),
    ],
)
def test_bad_texts(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_texts(write(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("prompts", '{"prompt": "a", "refrence": "b"}', "no key 'refrence'; did you mean 'refe"),
        ("prompts", '{"text": "a"}', 'found the key .text.; {"prompt", "reference"?} is'),
        ("prompts", '{"prompt": "a", "neutral": true}', "found the keys 'neutral', 'prompt'"),
        ("answers", '{"prompt": "a", "target": "b", "original": "c", "neutrl": true}', "'neutrl'"),
        (
            "answers",
            '{"prompt": "a", "target": "b", "original": "\\ud800"}',
            "'original' holds hal",
        ),
    ],
)
def test_bad_prompts_and_answers(tmp_path: Path, name: str, text: str, message: str) -> None:
    write(tmp_path, PAIR)
    table = 'prompts = "it.jsonl"' if name == "prompts" else '[evaluation]\nanswers = "it.jsonl"'
    (tmp_path / "recipe.toml").write_text(f'name = "x"\n{table}\n')
    (tmp_path / "it.jsonl").write_text(text)
    with pytest.raises(RecipeError, match=message.replace("?", r"\?")):
        load_plan(tmp_path)


def test_a_byte_order_mark_is_not_there(tmp_path: Path) -> None:
    files = {
        "recipe.toml": 'name = "x"\nneutral = "n.jsonl"\nprompts = "p.jsonl"\n',
        "pairs.jsonl": PAIR,
        "n.jsonl": '{"text": "as it is"}\r\n',
        "p.jsonl": '{"prompt": "a"}',
    }
    for name, text in files.items():
        (tmp_path / name).write_text("\ufeff" + text, encoding="utf-8")
    assert load_task(tmp_path).neutral == ("as it is",)
    assert [prompt.text for prompt in load_plan(tmp_path).prompts] == ["a"]


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('name = "x"\ntrain = "."\n')
    with pytest.raises(RecipeError, match="it is a folder; a file is needed"):
        load_task(tmp_path)
    with pytest.raises(NotFoundError, match="does not exist"):
        read_pairs(tmp_path / "absent")


def test_the_papers_shape(tmp_path: Path) -> None:
    path = tmp_path / "my set.json"
    pairs = [[{"prompt": "Bonjour", "tokens": 20}, {"prompt": "Hello", "tokens": 10}]]
    path.write_text("\ufeff" + json.dumps(pairs), encoding="utf-8")
    task = load_task(path)
    assert task.recipe.name == "my-set"
    assert task.recipe.pairing == ["position"]
    assert (task.pairs[0].source, task.pairs[0].source_tokens) == ("Hello", 10)
    assert (task.pairs[0].target, task.pairs[0].target_tokens) == ("Bonjour", 20)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nope", "not JSON"),
        ("{}", "not a list"),
        ("[]", "not a list"),
        (5000 * "[", "nested too deep"),
        ('[[{"prompt": "a"}]]', "pair 0: not a list of two"),
        ("[[1, 2]]", "pair 0: 1 is not an object"),
        ('[[{"prompt": "a"}, {"text": "b"}]]', "pair 0: found the key 'text'"),
        (
            '[[{"prompt": "a", "token": 3}, {"prompt": "b"}]]',
            "no key 'token'; did you mean 'tokens'",
        ),
        ('[[{"prompt": "a", "tokens": -1}, {"prompt": "b"}]]', "'tokens' has value -1"),
        (r'[[{"prompt": "\udead"}, {"prompt": "b"}]]', "pair 0: 'prompt' holds half"),
    ],
)
def test_the_papers_shape_broken(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "set.json"
    path.write_text(content)
    with pytest.raises(LlamacartError, match=message):
        load_task(path)
