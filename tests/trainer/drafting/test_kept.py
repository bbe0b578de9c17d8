from __future__ import annotations

from pathlib import Path

import pytest

from llamacart.errors import InputError
from llamacart_trainer.drafting.kept import KeptAnswers
from llamacart_trainer.recipe.turns import Exchange

FACTS = {"prompt": "Be brief.", "tokens": 8}
ONE, TWO = Exchange("Why?", "So.\nYes.\u2028"), Exchange("When?", "", ended=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


def test_another_run_finds_what_was_kept(path: Path) -> None:
    kept = KeptAnswers(path, FACTS)
    assert not path.exists()
    kept.add([ONE])
    kept.add([TWO])
    again = KeptAnswers(path, dict(reversed(FACTS.items())))
    assert again.of(["When?", "Why?"]) == [TWO, ONE]
    assert again.missing(["Why?", "Where?", "Where?"]) == ["Where?"]
    assert len(again) == 2


def test_a_line_that_was_cut_off_is_asked_again(path: Path) -> None:
    kept = KeptAnswers(path, FACTS)
    kept.add([ONE])
    whole = path.read_bytes()
    for cut in (b'{"prompt": "When?", "te', b'{"prompt": "When?", "text": ""}'):
        path.write_bytes(whole + cut)
        again = KeptAnswers(path, FACTS)
        assert again.missing(["Why?", "When?"]) == ["When?"]
        assert path.read_bytes() == whole
    again.add([TWO])
    assert KeptAnswers(path, FACTS).of(["Why?", "When?"]) == [ONE, TWO]


def test_a_first_line_that_was_cut_off_is_as_no_file(path: Path) -> None:
    path.write_text('{"answ')
    kept = KeptAnswers(path, FACTS)
    assert len(kept) == 0
    kept.add([ONE])
    assert KeptAnswers(path, FACTS).of(["Why?"]) == [ONE]


def test_answers_of_something_else_are_not_gone_on_with(path: Path) -> None:
    KeptAnswers(path, FACTS).add([ONE])
    with pytest.raises(InputError, match=r"answers.jsonl' holds answers of another prompt"):
        KeptAnswers(path, FACTS | {"tokens": 9})
    path.write_text(path.read_text() + '{"prompt": "When?"}\n')
    with pytest.raises(InputError, match=r"answers.jsonl:3: found the key 'prompt'"):
        KeptAnswers(path, FACTS)
    path.write_bytes(b"\xff\n")
    with pytest.raises(InputError, match="cannot be read"):
        KeptAnswers(path, FACTS)
