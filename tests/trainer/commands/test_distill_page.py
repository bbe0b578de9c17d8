"""`llamacart distill --page`: the whole way on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llamacart import cli
from llamacart.file.reader import read_cartridge
from llamacart_trainer.commands import distill_page
from llamacart_trainer.distilling.page_figures import ALPHAS
from llamacart_trainer.recipe.recipe import load_task
from llamacart_trainer.recipe.turns import Exchange, read_exchanges

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
PAGE = "The river of Bo is the Am. Bo was founded in 1214. In Al, soup is had. Old Al is red."
ASKED = [f"{what} {name}?" for name in ("Bo", "Al") for what in "abcdef"]


@pytest.fixture
def distill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_path: Callable[..., Path]
) -> Callable[..., int]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.txt").write_text(PAGE)
    asked = [*ASKED, "Where is it?"]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps({"prompt": q}) + "\n" for q in asked))

    def run(*args: object, template: str = TEMPLATE) -> int:
        model = tiny_path(chat_template=template)
        given = ["llamacart", "distill", "--model", model, "-o", "bo.gguf", *args]
        monkeypatch.setattr("sys.argv", list(map(str, given)))
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0)

    return run


def test_from_a_page_to_a_cartridge(
    distill: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert distill("--page", "page.txt", "--questions", "q.jsonl") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "1 of 13 questions name none of Al, Bo, and are left out" in out
    assert "the cartridge answers" in out
    cartridge = read_cartridge(tmp_path / "bo.gguf")
    assert cartridge.when == ("Al", "Bo")
    assert cartridge.metadata.default_alpha in ALPHAS
    task = load_task(tmp_path / "bo-recipe")
    assert task.prompt is not None
    assert [turn.content for turn in task.prompt.turns] == [PAGE]
    assert task.recipe.default_alpha == cartridge.metadata.default_alpha
    assert cartridge.metadata.dataset_hash == task.dataset_hash
    answers = read_exchanges(tmp_path / "bo-recipe" / "answers.jsonl")
    assert len(answers) == 10  # two of twelve are held out
    for answer in answers:
        assert answer.text in PAGE
        assert answer.prompt[-3:-1] in answer.text


def test_a_stopped_run_goes_on_to_the_same_bytes(
    distill: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    given = ("--page", "page.txt", "--questions", "q.jsonl", "--alpha", "1")
    assert distill(*given) == 0
    whole = (tmp_path / "bo.gguf").read_bytes()

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    other = (*given, "-o", "other/bo.gguf")
    with monkeypatch.context() as patched:
        patched.setattr(distill_page.PageWork, "measured", stop)
        assert distill(*other) == 130
    assert not (tmp_path / "other" / "bo.gguf").exists()
    assert distill(*other) == 0
    assert (tmp_path / "other" / "bo.gguf").read_bytes() == whole
    assert [p.name for p in (tmp_path / "other").iterdir() if p.is_dir()] == ["bo-recipe"]


def test_the_model_writes_the_questions(
    distill: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = {"Bo": "Bo was founded in 1214.", "Al": "Old Al is red."}
    other = "Of what river is Bo?"

    def write(page: object, given: object) -> dict[str, str]:
        assert len(list(given)) == 2 * 3 * 4  # type: ignore[call-overload]
        return {question: said[question[-3:-1]] for question in ASKED} | {other: PAGE[:26]}

    def tie(_page: object, _model: object, _writer: object, messages: list[str], **_: object):
        return [Exchange(message, said[message[-3:-1]]) for message in messages]

    monkeypatch.setattr("llamacart_trainer.distilling.questions.questions_in", write)
    with monkeypatch.context() as patched:
        patched.setattr("llamacart_trainer.distilling.page.answer_by_sentences", tie)
        assert distill("--page", "page.txt") == 0
    assert "the model wrote 12 different questions" in " ".join(capsys.readouterr().out.split())
    recipe = tmp_path / "bo-recipe"
    answers = {e.prompt: e.text for e in read_exchanges(recipe / "answers.jsonl")}
    assert answers["a Bo?"] == "Bo was founded in 1214."
    # The model takes another sentence for its answer than the one that it was written about.
    assert other not in answers
    # The same command again takes the questions that are there.
    (tmp_path / "bo.gguf").unlink()
    monkeypatch.setattr(distill_page.PageWork, "written", lambda *_: pytest.fail("asked again"))
    assert distill("--page", "page.txt") == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--page", "page.txt", "Be brief."), "--page goes with no wish"),
        (("Be brief.", "--when", "Bo"), "--when has value 'Bo', which has no meaning without"),
        (("--page", "page.txt", "--when", "Cy"), "'Cy', which the page does not hold"),
        (("--page", "page.txt"), "the page has 0 different messages; 10 at least"),
        (("--page", "none.txt"), "none.txt"),
    ],
)
def test_what_cannot_be_done_is_refused(
    distill: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    args: tuple[str, ...],
    message: str,
) -> None:
    assert distill(*args) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "bo-recipe").exists()


def test_a_model_without_a_chat_form_needs_questions(
    distill: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert distill("--page", "page.txt", template="") == 2
    assert "writes no questions: --questions" in capsys.readouterr().err
    assert distill("--page", "page.txt", "--questions", "q.jsonl", template="") == 0
