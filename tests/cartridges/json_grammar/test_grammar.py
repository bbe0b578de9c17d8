"""Compiled grammars: which tokens they allow, and that each is compiled once."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from llamacart.errors import InputError, SchemaTooComplexError
from llamacart.json_grammar.grammar import MAX_GRAMMARS, Grammars, grammar_text, reason_against
from llamacart.json_grammar.schema import schema_grammar

PIECES = [
    b"",
    b"",
    b"",
    b'"',
    b"<",
    b"end",
    b"<end",
    b">",
    b">x",
    b"yes",
    b'"no"',
    b"\xc3",
    b"\xa9",
]
NAME, END, LAST = 0, 1, 2  # a control token that is called `<end>`, and two that end
QUOTE, LESS, WORD, BOTH, MORE, MORE_X, YES, NO, FIRST_HALF, SECOND_HALF = range(3, len(PIECES))


@pytest.fixture
def grammars() -> Grammars:
    return Grammars(PIECES, [END, LAST])


def allowed(state) -> set[int]:
    bits = np.zeros(state.n_words, np.uint32)
    state.fill(bits)
    found = set(np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")).tolist())
    assert found == {token for token in range(len(PIECES)) if state.allows(token)}
    return found


def test_text_that_is_spelt_like_a_control_token_is_written_by_ordinary_ones(grammars) -> None:
    state = grammars.compile(schema_grammar({"const": "<end>"})).start()
    for token, others in ((QUOTE, set()), (LESS, {BOTH}), (WORD, set()), (MORE, set())):
        assert allowed(state) == {token, *others}
        state.accept(token)


def test_the_model_chooses_the_tokens_of_text_that_is_determined(grammars) -> None:
    state = grammars.compile(schema_grammar({"const": "é"})).start()
    for token in (QUOTE, FIRST_HALF, SECOND_HALF, QUOTE):
        assert allowed(state) == {token}
        state.accept(token)


def test_every_end_token_ends_a_text_and_only_a_whole_one(grammars) -> None:
    state = grammars.compile(grammar_text('start: "yes"+', {})).start()
    assert allowed(state) == {YES}
    state.accept(YES)
    assert allowed(state) == {YES, END, LAST}
    state.accept(LAST)
    assert allowed(state) == {END, LAST}
    closed = grammars.compile(schema_grammar({"enum": ["no"]})).start()
    closed.accept(NO)
    assert allowed(closed) == {END, LAST}


def test_generations_go_their_own_ways(grammars) -> None:
    grammar = grammars.compile(grammar_text('start: "yes" ">"', {}))
    first, second = grammar.start(), grammar.start()
    first.accept(YES)
    assert allowed(first) == {MORE}
    assert allowed(second) == {YES}


def test_a_text_is_compiled_once_while_it_is_kept(grammars) -> None:
    text = grammar_text('start: "yes"', {})
    first = grammars.compile(text)
    assert grammars.compile(text) is first
    for n in range(1, MAX_GRAMMARS + 1):
        grammars.compile(grammar_text(f'start: "yes"{{{n + 1}}}', {}))
    again = grammars.compile(text)
    assert again is not first
    assert again == first
    assert hash(again) == hash(first)


def test_many_threads_share_one_compilation(grammars) -> None:
    text = schema_grammar({"enum": [f"{'<end' * 3}>{n}" for n in range(300)] + ["no"]})
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(grammars.compile(text))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1
    assert len(found) == 8


def test_a_grammar_that_has_grown_is_compiled_anew(grammars, monkeypatch) -> None:
    monkeypatch.setattr("llamacart.json_grammar.grammar._WORN", 5)
    text = grammar_text('start: "yes"', {})
    first = grammars.compile(text)
    state = first.start()
    for _ in range(6):
        allowed(state)
    assert grammars.compile(text) is not first


def test_a_generation_that_works_longer_than_its_tokens_allow_is_ended(grammars, monkeypatch):
    state = grammars.compile(grammar_text('start: "yes"+', {})).start()
    state.accept(YES)
    monkeypatch.setattr("llamacart.json_grammar.grammar.SECONDS_PER_TOKEN", 0)
    monkeypatch.setattr("llamacart.json_grammar.grammar.SECONDS_AHEAD", 0)
    with pytest.raises(SchemaTooComplexError, match="1 tokens took"):
        allowed(state)
    monkeypatch.undo()
    other = grammars.compile(grammar_text('start: "yes"+', {})).start()
    assert allowed(other) == {YES}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nonsense", "Expected"),
        (grammar_text("start: @nowhere", {}), "nowhere"),
        (grammar_text('start: "zebra"', {}), "no text can follow"),
        (grammar_text("start: start", {}), "no text can follow"),
    ],
)
def test_what_cannot_be_used_is_refused(grammars, text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        grammars.compile(text)


def test_reasons_do_without_a_vocabulary() -> None:
    assert reason_against(schema_grammar({})) is None
    assert "nowhere" in (reason_against(grammar_text("start: @nowhere", {})) or "")


def test_a_vocabulary_without_an_end_has_no_grammars() -> None:
    with pytest.raises(InputError, match="no token that ends"):
        Grammars([b"a"], [])
