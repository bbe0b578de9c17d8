from __future__ import annotations

import pytest

from llamacart.chat.templates import ChatTemplate, choose_template
from llamacart.errors import RecipeError
from llamacart_trainer.recipe.recipe import Recipe
from llamacart_trainer.recipe.turns import Turn
from llamacart_trainer.recipe.writer import PlainWriter, TemplateWriter, writer_for

SYSTEM, HI, YO = Turn("system", "S"), Turn("user", "Hi"), Turn("assistant", "Yo")


@pytest.fixture
def plain(fake_model) -> PlainWriter:
    return writer_for(Recipe(name="x"), fake_model)


def test_plain_turns(plain, fake_model) -> None:
    opened = plain.opened([SYSTEM, HI, YO, Turn("user", "{}?")])
    assert fake_model.detokenize(opened) == (
        "S\n\nQuestion: Hi\nAnswer: Yo\n\nQuestion: {}?\nAnswer:"
    )
    assert opened[0] == fake_model.bos_token
    assert plain.stops == ("\n\n", "\nQuestion:")


@pytest.mark.parametrize("answer", ["Good day", " Good day"])
def test_a_plain_answer_and_its_end(plain, fake_model, answer) -> None:
    written = plain.answered([HI], answer)
    assert list(written.tokens[: written.start]) == plain.opened([HI])
    assert fake_model.detokenize(written.tokens[written.start : written.end]) == " Good day"
    assert fake_model.detokenize(written.tokens[written.end :]) == "\n\n"
    cut = plain.answered([HI], answer, ended=False)
    assert cut.tokens == written.tokens[: written.end]
    assert cut.end == len(cut.tokens)


def test_turns_of_ones_own(fake_model) -> None:
    recipe = Recipe(name="x", user_turn="<<{}>>", assistant_turn="{}|")
    writer = writer_for(recipe, fake_model)
    assert fake_model.detokenize(writer.opened([HI])) == "<<Hi>>"
    assert fake_model.detokenize(writer.answered([HI], "Yo").tokens) == "<<Hi>>Yo|"
    assert writer.stops == ("|", "\n<<")


@pytest.mark.parametrize("text", [None, "{% for m in messages %}{{ m.content }}<eos>{% endfor %}"])
def test_a_template_writes_what_the_server_reads(fake_model, text) -> None:
    class Own(type(fake_model)):
        chat_template = text
        name = "own"

    model = Own()
    writer = writer_for(Recipe(name="x", format="chat"), model)
    template = choose_template(model)
    asked = template.tokens([SYSTEM.as_dict, HI.as_dict], model)
    assert writer.opened([SYSTEM, HI]) == asked
    written = writer.answered([SYSTEM, HI], "Yo <eos>")
    assert list(written.tokens[: written.start]) == asked
    answer = model.tokenize("Yo <eos>", add_special=False)
    assert list(written.tokens[written.start : written.end]) == answer
    end = model.tokenize(template.end_of_turn(model), add_special=False, parse_special=True)
    assert list(written.tokens[written.end :]) == end
    assert written.end == len(written.tokens) - 1
    cut = writer.answered([SYSTEM, HI], "Yo <eos>", ended=False)
    assert cut.tokens == written.tokens[: written.end]


def test_a_token_that_reaches_into_the_answer_is_not_taken(fake_model) -> None:
    class Merging(type(fake_model)):
        def tokenize(self, text, *, add_special=True, parse_special=False):
            tokens = super().tokenize(
                text.replace("\n\n", "~"), add_special=add_special, parse_special=parse_special
            )
            return [999 if t == 10 + ord("~") else t for t in tokens]

    model = Merging()
    writer = TemplateWriter(model, ChatTemplate("gguf", "{{ messages[0].content }}:\n"))
    opened = writer.opened([HI])
    written = writer.answered([HI], "\nYo", ended=False)
    assert list(written.tokens[: written.start]) == opened
    assert list(written.tokens[written.start :]) == model.tokenize("\nYo", add_special=False)


def test_a_template_that_is_broken(fake_model) -> None:
    class Broken(type(fake_model)):
        chat_template = "{% x %}"
        name = "broken"

    with pytest.raises(RecipeError, match=r"'x': format .* 'broken' cannot be used: .*'x'"):
        writer_for(Recipe(name="x", format="chat"), Broken())


@pytest.mark.model
def test_a_real_template_and_its_default_system_line(smol_model) -> None:
    writer = writer_for(Recipe(name="x", format="chat"), smol_model)
    plain, prompted = (writer.answered(t, "Good day!") for t in ([HI], [SYSTEM, HI]))
    assert "SmolLM" in smol_model.detokenize(plain.tokens)
    assert "SmolLM" not in smol_model.detokenize(prompted.tokens)
    tail = slice(plain.start, None), slice(prompted.start, None)
    assert plain.tokens[tail[0]] == prompted.tokens[tail[1]]
    assert smol_model.detokenize(plain.tokens[plain.start : plain.end]) == "Good day!"
    assert smol_model.is_end_of_generation(plain.tokens[-1])
