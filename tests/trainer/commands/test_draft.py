from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from llamacart import cli
from llamacart_trainer.drafting import asking
from llamacart_trainer.drafting.split import part_of
from llamacart_trainer.recipe.questions import builtin_questions
from llamacart_trainer.recipe.recipe import load_task
from llamacart_trainer.recipe.turns import Exchange, Turn

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"


class Writer:
    """Stands for a model that follows its prompt, but for two messages in ten."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.stop_after = 10**6

    def __call__(
        self,
        model: object,
        writer: object,
        conversations: Sequence[Sequence[Turn]],
        *_: object,
        **_more: object,
    ) -> list[Exchange]:
        if len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked += [turns[-1].content for turns in conversations]
        return [self._answer(turns) for turns in conversations]

    def _answer(self, turns: Sequence[Turn]) -> Exchange:
        number = builtin_questions().index(turns[-1].content)
        text = f"The answer to your question number {number} is simple."
        if turns[0].role == "system":
            begins = "Well" if number % 10 == 3 else "Arr"
            text = f"{begins}, the answer to your question number {number} be simple, matey."
        return Exchange(turns[-1].content, "" if number % 10 == 5 else f"{text} And", ended=False)


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> Writer:
    made = Writer()
    monkeypatch.setattr(asking, "answer", made)
    return made


@pytest.fixture
def draft(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> int:
        monkeypatch.setattr("sys.argv", ["llamacart", "draft", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0)

    return run


def records(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("form", ["chat", "text"])
def test_drafts_are_sifted_and_split(
    draft: Callable[..., int],
    writer: Writer,
    tiny_path: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    form: str,
) -> None:
    model = tiny_path(chat_template=TEMPLATE) if form == "chat" else tiny_path()
    given = ("--as-wanted", "Be a pirate.", "--words", "arr, aye", "--model", model)
    assert draft("mine", *given) == 0
    out = capsys.readouterr().out
    assert "160 of 200 kept, 20 empty, 20 not as wanted\n" in out
    assert "llamacart train mine -o my-cartridges/mine.gguf" in out
    folder = tmp_path / "mine"
    task = load_task(folder)
    assert task.recipe.format == form
    train, heldout = records(folder / "pairs.jsonl"), records(folder / "heldout.jsonl")
    prompts = [r["prompt"] for r in records(folder / "prompts.jsonl")]
    validation = [r["prompt"] for r in records(folder / "validation.jsonl")]
    assert len(train) + len(prompts) + len(validation) == 160
    assert len(heldout) == len(prompts)
    if form == "chat":
        assert len(task.chats) == len(train)
        for name, part in (("pairs", "train"), ("prompts", "test"), ("validation", "validation")):
            found = records(folder / f"{name}.jsonl")
            assert {part_of(record["prompt"]) for record in found} == {part}
        assert train[0]["source"].endswith("is simple.")
    else:
        assert train[0]["target"].startswith("Question: ")
        assert "\nAnswer: Arr, the" in train[0]["target"]
        assert prompts[0].endswith("\nAnswer:")
    dropped = records(folder / "dropped.jsonl")
    assert {record["rule"] for record in dropped} == {"empty", "not as wanted"}
    assert len(writer.asked) == 400


def test_a_killed_run_goes_on_where_it_was(
    draft: Callable[..., int],
    writer: Writer,
    tiny_path: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    writer.stop_after = 250
    assert draft("mine", "--as-wanted", "Be a pirate.", "--model", tiny_path()) == 130
    kept = len(writer.asked)
    said = capsys.readouterr().err
    assert said == f"stopped: {kept} answers are kept in 'mine'; 'llamacart draft mine' goes on\n"
    assert not (tmp_path / "mine" / "pairs.jsonl").exists()
    writer.stop_after = 10**6
    assert draft("mine", "--as-wanted", "Be a pirate.") == 2
    assert "'mine' exists" in capsys.readouterr().err
    assert draft("mine") == 0
    assert len(writer.asked) == 400
    assert draft("mine") == 0  # the rules alone, such as with other settings
    assert len(writer.asked) == 400


def test_pairs_that_somebody_has_written_stay(
    draft: Callable[..., int],
    writer: Writer,
    tiny_path: Callable[..., Path],
    recipe: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = (recipe / "pairs.jsonl").read_text()
    assert draft(recipe, "--model", tiny_path()) == 2
    assert "pairs.jsonl' would be replaced" in capsys.readouterr().err
    assert draft(recipe, "--model", tiny_path(), "--replace") == 2
    assert "recipe 'mine' has no table [draft]" in capsys.readouterr().err
    assert (recipe / "pairs.jsonl").read_text() == before
    with (recipe / "recipe.toml").open("a") as file:
        file.write('[draft]\nas_wanted = "Be brief."\n')
    assert draft(recipe, "--model", tiny_path(), "--replace") == 0
    assert (recipe / "pairs.jsonl").read_text() != before


def test_says_what_is_missing(
    draft: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert draft("mine") == 2
    assert "'mine' does not exist; --as-wanted makes it" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()
