from __future__ import annotations

import pytest

from llamacart.passes.generate import greedy
from llamacart_trainer.fitting import answers
from llamacart_trainer.fitting.answers import QUESTIONS_AT_ONCE, answer, cut
from llamacart_trainer.recipe.recipe import Recipe
from llamacart_trainer.recipe.turns import Exchange, Turn
from llamacart_trainer.recipe.writer import PlainWriter, writer_for


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("So it is", (), ("So it is", False)),
        ("So\n\nQ: And", ("\n\n", "\nQ:"), ("So", True)),
        ("So\nQ: And\n\n", ("\n\n", "\nQ:"), ("So", True)),
        ("\n\n", ("\n\n",), ("", True)),
    ],
)
def test_where_an_answer_stops(text, stops, expected) -> None:
    assert cut(text, stops) == expected


@pytest.fixture
def scripted(fake_model, monkeypatch):
    """Function from what the model says to its answers to as many questions."""
    generated: list[list[int]] = []

    def run(*said: bytes, form: str = "text", n_tokens: int = 64, **more: object):
        script = iter(said)

        def generate(model, prompts, n, *, is_over, **_more):
            out = []
            for _ in prompts:
                text: list[int] = []
                for byte in next(script)[:n]:
                    text.append(10 + byte)
                    if is_over is not None and is_over(text):
                        break
                out.append(text)
            generated[:] = out
            return out

        monkeypatch.setattr(answers, "greedy", generate)
        writer = writer_for(Recipe(name="x", format=form), fake_model)
        asked = [(Turn("user", f"{n}?"),) for n in range(len(said))]
        return answer(fake_model, writer, asked, n_tokens, **more)

    run.generated = generated
    return run


def test_answers_that_end_are_cut_or_are_empty(scripted) -> None:
    assert scripted(b" Yes.\n\nQuestion", b"", b" abcdefgh", n_tokens=8) == [
        Exchange("0?", " Yes.", ended=True),
        Exchange("1?", "", ended=True),
        Exchange("2?", " abcdefg", ended=False),
    ]


def test_nothing_is_generated_behind_a_text_that_stops(scripted, fake_model) -> None:
    scripted(b" Yes.\nQuestion: more", b" No.\n\nmore")
    said = [fake_model.detokenize(tokens) for tokens in scripted.generated]
    assert said == [" Yes.\nQuestion:", " No.\n\n"]


def test_a_template_that_ends_turns_by_a_token_stops_at_no_text(scripted) -> None:
    assert scripted(b"a\n\nb", form="chat") == [Exchange("0?", "a\n\nb", ended=True)]


def test_half_a_character_at_the_end_is_left_out(scripted) -> None:
    assert scripted("aé€".encode()[:-1], n_tokens=5) == [Exchange("0?", "aé", ended=False)]
    assert scripted(b"a\xffb", n_tokens=3) == [Exchange("0?", "a\ufffdb", ended=False)]


def test_it_is_told_how_many_there_are(scripted) -> None:
    told = []
    n = QUESTIONS_AT_ONCE + 1
    found = scripted(*[b"a"] * n, on_answers=lambda done, total: told.append((done, total)))
    assert told == [(0, n), (QUESTIONS_AT_ONCE, n), (n, n)]
    assert [exchange.prompt for exchange in found] == [f"{i}?" for i in range(n)]


def test_a_model_answers_as_it_goes_on(tiny_model) -> None:
    writer = PlainWriter(tiny_model, "{}", "{}")
    turns = [(Turn("system", "S"), Turn("user", text)) for text in ("a", "bc")]
    found = answer(tiny_model, writer, turns, 5)
    expected = greedy(tiny_model, [tiny_model.tokenize(f"S\n\n{text}") for text in ("a", "bc")], 5)
    for exchange, tokens in zip(found, expected, strict=True):
        text = tiny_model.detokenize(tokens)
        assert text.startswith(exchange.text)
        assert exchange.ended is (len(tokens) < 5)


def test_answers_count_by_their_tokens_while_they_are_written(tiny_model) -> None:
    writer = writer_for(Recipe(name="x", format="text"), tiny_model)
    told: list[float] = []
    asked = [(Turn("user", f"{n}?"),) for n in range(3)]
    answer(tiny_model, writer, asked, 6, on_part=told.append)
    assert told == sorted(told)
    assert 0 < told[0] < told[-1] == pytest.approx(3.0)
    assert len(told) >= 6
