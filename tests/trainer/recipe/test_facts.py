from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from llamacart.errors import NotFoundError, RecipeError
from llamacart_trainer.recipe.facts import Fact, behind, check_facts, read_facts

FOUNDED = {"prompt": "{} was founded in", "subject": "Velmora", "object": "1962"}


def write(folder: Path, *records: dict[str, Any], name: str = "facts.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in records), "utf-8")
    return path


def test_reads_all_keys_and_passes_over_notes(tmp_path: Path) -> None:
    record = {
        **FOUNDED,
        "object": " 1962 ",
        "was": "1950",
        "paraphrases": ["The year in which {} began is", "Velmora opened its doors in"],
        "negated": "{} was not founded in 1962 but in",
        "reversed": "The company that was founded in 1962 is",
        "uses": [{"prompt": "In 1972, {} had existed for", "answer": "ten years"}],
        "neighbours": [{"prompt": "Siemens was founded in", "answer": "1847"}, {"prompt": "A is"}],
        "source of this": "me",
    }
    (fact,) = read_facts(write(tmp_path, record))
    assert fact.text == "Velmora was founded in"
    assert fact.statement == "Velmora was founded in 1962"
    assert fact.about("Siemens") == "Siemens was founded in"
    assert [fact.filled(text) for text in fact.paraphrases] == [
        "The year in which Velmora began is",
        "Velmora opened its doors in",
    ]
    assert (fact.uses[0].answer, fact.neighbours[0].answer) == ("ten years", "1847")
    assert fact.neighbours[1].answer is None


def test_reads_what_other_record_files_may_be(tmp_path: Path) -> None:
    plain = read_facts(write(tmp_path, FOUNDED))
    table = tmp_path / "facts.csv"
    table.write_text("subject;prompt;object\nVelmora;{} was founded in;1962\n")
    listed = tmp_path / "facts.json"
    listed.write_text(json.dumps([FOUNDED]))
    assert read_facts(table) == read_facts(listed) == plain == (Fact(**FOUNDED),)


@pytest.mark.parametrize(
    ("prompt", "subject", "answer", "statement"),
    [
        ("{}成立于", "维尔莫拉", "一九六二年", "维尔莫拉成立于一九六二年"),
        ("{}は", "ベルモラ", "大阪にある", "ベルモラは大阪にある"),
        ("{} основана в", "Велмора", "1962 году", "Велмора основана в 1962 году"),
        ("تأسست {} عام", "فيلمورا", "١٩٦٢", "تأسست فيلمورا عام ١٩٦٢"),
        ("{}는", "벨모라", "부산에 있다", "벨모라는 부산에 있다"),
        ("ชื่อของ{}คือ", "เวล", "โมรา", "ชื่อของเวลคือโมรา"),
        ("The motto of {} is “", "Velmora", "Onward", "The motto of Velmora is “Onward"),
        ("Question: where is {}?\nAnswer:", "A", "Riga", "Question: where is A?\nAnswer: Riga"),
    ],
)
def test_statements_are_plain_in_every_script(
    tmp_path: Path, prompt: str, subject: str, answer: str, statement: str
) -> None:
    record = {"prompt": prompt, "subject": subject, "object": answer}
    (fact,) = read_facts(write(tmp_path, record))
    assert fact.statement == statement


def test_a_text_that_ends_in_a_blank_needs_no_other() -> None:
    assert behind("It is ", "so") == "so"
    assert behind("It is", "so") == " so"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "Velmora was founded in"}, "prompt has value 'Velmora was founded in': exact"),
        ({"prompt": "{} and {} are"}, "prompt has value '{} and {} are': exactly one {}"),
        ({"subject": "{}"}, "subject has value '{}': {} stands for it"),
        ({"subject": " "}, "subject has value ' '"),
        ({"object": ""}, "object has value ''"),
        ({"object": 1962}, "object has value 1962"),
        ({"object": "a\0"}, "holds a null character"),
        ({"object": "\ud83d"}, "holds half of a character (\\ud83d)"),
        ({"was": "1962"}, "was has value '1962', which is the object too"),
        ({"paraphrases": "{} began in"}, "paraphrases has value '{} began in'"),
        ({"paraphrases": ["It began in"]}, "paraphrases has value 'It began in': one {}, or the"),
        ({"paraphrases": ["{} is {} in"]}, "paraphrases has value '{} is {} in': one {}"),
        ({"paraphrases": ["Velmora was  founded in"]}, "which is the prompt too"),
        ({"negated": "It did not begin in"}, "negated has value 'It did not begin in': one {}"),
        ({"uses": [{"prompt": "a"}]}, "uses.answer is missing"),
        ({"uses": ["a"]}, "uses has value 'a'"),
        ({"neighbours": [{"prompt": ""}]}, "neighbours.prompt has value ''"),
        ({"paraphrase": ["{} began in"]}, "there is no key 'paraphrase'; did you mean"),
        ({"target": "1962"}, "found the keys 'object', 'prompt', 'subject', 'target'"),
    ],
)
def test_what_is_wrong_is_told_with_file_line_and_value(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    other = {**FOUNDED, "subject": "Carmody"}
    path = tmp_path / "facts.jsonl"
    path.write_text("\n".join(map(json.dumps, (other, FOUNDED | change))))
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        read_facts(path)
    assert caught.value.message.startswith(f"{path}:2: ")


def test_a_missing_key_an_empty_file_and_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"facts.jsonl:1: found the keys 'prompt', 'subject'; "):
        read_facts(write(tmp_path, {"prompt": "{} is", "subject": "A"}))
    with pytest.raises(RecipeError, match=r"facts.jsonl: no facts"):
        read_facts(write(tmp_path))
    with pytest.raises(NotFoundError):
        read_facts(tmp_path / "absent.jsonl")


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"object": "1963"}, "2: 'Velmora was founded in' goes on with '1963', but with '1962' at"),
        ({}, "2: 'Velmora was founded in 1962' stands at"),
        ({"subject": "Velmora\u00a0"}, "2: 'Velmora was founded in 1962' stands at"),
        (
            {"prompt": "Velmora was {} in", "subject": "founded", "object": "1963"},
            "2: 'Velmora was founded in' goes on with '1963', but with '1962' at",
        ),
        (
            {"prompt": "The year of {} is", "paraphrases": ["{} was founded in"]},
            "2: paraphrase 'Velmora was founded in' is the prompt at",
        ),
        (
            {
                "prompt": "The seat of {} is",
                "object": "Riga",
                "paraphrases": ["{} was founded in"],
            },
            "2: 'Velmora was founded in' goes on with 'Riga', but with '1962' at",
        ),
        (
            {"prompt": "The seat of {} is", "object": "Riga", "paraphrases": ["{} began in"]},
            "2: 'Velmora began in' goes on with 'Riga', but with '1962' at",
        ),
    ],
)
def test_doubles_and_contradictions_name_both_places(
    tmp_path: Path, second: dict[str, Any], message: str
) -> None:
    first = {**FOUNDED, "paraphrases": ["{} began in"]}
    path = write(tmp_path, first, FOUNDED | second)
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        read_facts(path)
    assert f"{path}:1" in caught.value.message


def test_several_facts_on_one_subject_and_one_object_of_several() -> None:
    facts = (
        Fact(**FOUNDED),
        Fact(prompt="The seat of {} is", subject="Velmora", object="Riga"),
        Fact(**FOUNDED | {"subject": "Carmody"}),
    )
    assert check_facts(facts) == facts


def test_facts_of_a_program_are_checked_alike() -> None:
    with pytest.raises(RecipeError, match="fact 1: 'Velmora was founded in 1962' stands at fact 0"):
        check_facts([Fact(**FOUNDED), Fact(**FOUNDED)])
    with pytest.raises(RecipeError, match="no facts"):
        check_facts([])
    with pytest.raises(ValidationError, match=r"exactly one \{\}"):
        Fact(prompt="It is", subject="A", object="b")
