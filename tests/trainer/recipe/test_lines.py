"""Tables and lists in place of JSON Lines: what is read, and what is refused by file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacart.errors import RecipeError
from llamacart_trainer.evaluation.plan import load_plan
from llamacart_trainer.recipe.lines import read_lines
from llamacart_trainer.recipe.questions import read_questions
from llamacart_trainer.recipe.recipe import load_task
from llamacart_trainer.recipe.records import read_pairs, where_of
from llamacart_trainer.recipe.turns import read_chat_pairs, read_exchanges

KEYS = {"source", "target", "prompt", "text", "neutral"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "source,target\na,b\nc,d\n"),
        ("a.csv", "\ufeffsource,target\r\na,b\r\n\r\nc,d"),
        ("a.CSV", "source;target\na;b\nc;d\n"),
        ("a.csv", "id\tTarget\tSource\n1\tb\ta\n2\td\tc\n"),
        ("a.tsv", 'source\ttarget\n"a"\tb\nc\td\n'),
        ("a.csv", '"source", target \na,b\n,\nc,d\n'),
        ("a.json", '[{"source": "a", "target": "b"},\n {"source": "c", "target": "d"}]'),
    ],
)
def test_tables_and_lists(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    pairs = read_pairs(tmp_path / name)
    assert [(pair.source, pair.target) for pair in pairs] == [("a", "b"), ("c", "d")]


def test_quotes_and_the_line_where_a_row_begins(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('source,target\n"one,\ntwo","say ""hi"""\nlast,row\n')
    first, last = read_pairs(path)
    assert (first.source, first.target) == ("one,\ntwo", 'say "hi"')
    assert [where_of(pair.source, "") for pair in (first, last)] == [f"{path}:2", f"{path}:4"]


@given(
    rows=st.lists(
        st.tuples(*2 * [st.text(st.sampled_from('ab",;\t\n \u2028é'), min_size=1)]), min_size=1
    ),
    delimiter=st.sampled_from(",;\t"),
)
def test_what_a_spreadsheet_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], delimiter: str
) -> None:
    rows = [(f"x{a}", f"y{b}") for a, b in rows]
    quoted = [[f'"{cell.replace(chr(34), 2 * chr(34))}"' for cell in row] for row in rows]
    path = tmp_path_factory.mktemp("table") / "a.csv"
    lines = [f"source{delimiter}target", *map(delimiter.join, quoted)]
    path.write_text("\r\n".join(lines), encoding="utf-8", newline="")
    assert [tuple(record.values()) for _, record in read_lines(path, KEYS)] == rows


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "a.csv: no pairs"),
        ("a.csv", "source,target\n", "a.csv: no pairs"),
        ("a.csv", "hello,hallo\n", "a.csv:1: found 'hello,hallo'; the first line of a table names"),
        ("a.csv", "source,source\na,b\n", "a.csv:1: column 'source' occurs twice"),
        (
            "a.csv",
            "source,target\na,b\na,b,c\n",
            "a.csv:3: 3 columns, where the first line names 2",
        ),
        ("a.csv", 'source,target\na,b\nc,"d"e\n', "a.csv:3: not a row of a table"),
        ("a.csv", 'source,target\na,b\nc,"d\ne,f\n', "a.csv:3: not a row of a table .unexpected"),
        ("a.csv", "source,target\na,\n", 'a.csv:2: found the key \'source\'; {"source", "target"}'),
        ("a.csv", "prompt,source,target\na,b,c\n", 'a.csv:2: .*; for .* say format = "chat"'),
        (
            "a.csv",
            "source,target\na," + "b" * 200000,
            "a.csv:2: not a row of a table .field larger",
        ),
        ("a.json", "[1]", "a.json: item 1: not an object"),
        ("a.json", "[", "a.json: not JSON"),
        ("a.xlsx", "", "a .xlsx file is not read; save the sheet as CSV in UTF-8"),
    ],
)
def test_broken(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        read_pairs(tmp_path / name)
    assert len(caught.value.message) < 500


def test_tables_in_other_encodings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("source,target\na,b".encode("utf-16"))
    with pytest.raises(RecipeError, match="it is UTF-16; save it as UTF-8"):
        read_pairs(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_bytes("source,target\né,b".encode("latin-1"))
    with pytest.raises(RecipeError, match="line 2 is not UTF-8"):
        read_pairs(tmp_path / "a.csv")


def test_every_file_of_a_recipe_may_be_a_table(tmp_path: Path) -> None:
    files = {
        "recipe.toml": 'name = "x"\ntrain = "t.csv"\nneutral = "n.tsv"\nheldout = "t.csv"\n'
        'prompts = "p.csv"\n[evaluation]\nanswers = "a.csv"\nneutral = "n.tsv"\n',
        "t.csv": "context,text\nX: ,hello\n",
        "n.tsv": 'text\n"as, it is"\n',
        "p.csv": "prompt,reference\na,r\nb,\n",
        "a.csv": "prompt,target,original,neutral\np, t, o,\nq, t, o,TRUE\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    task, plan = load_task(tmp_path), load_plan(tmp_path)
    assert task.pairs[0].target == "X: hello"
    assert task.neutral == plan.neutral == ("as, it is",)
    assert [(prompt.text, prompt.reference) for prompt in plan.prompts] == [("a", "r"), ("b", None)]
    assert [(answer.target, answer.neutral) for answer in plan.answers] == [
        (" t", False),
        (" t", True),
    ]


def test_chats_in_tables(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("system,prompt,source,target\n,q,a,b\ns,q,a,b\n")
    pairs = read_chat_pairs(tmp_path / "c.csv")
    assert [[turn.role for turn in pair.source] for pair in pairs] == [["user"], ["system", "user"]]
    (tmp_path / "q.csv").write_text("prompt\nWhy?\n")
    assert read_questions(tmp_path / "q.csv") == ("Why?",)
    (tmp_path / "e.csv").write_text("prompt,text,ended\nWhy?,So.,false\n")
    assert read_exchanges(tmp_path / "e.csv")[0].ended is False


def test_a_large_table_is_read(tmp_path: Path) -> None:
    row = json.dumps("many words " * 20)
    (tmp_path / "a.csv").write_text("source,target\n" + f"{row},{row}\n" * 5000)
    assert len(read_pairs(tmp_path / "a.csv")) == 5000
