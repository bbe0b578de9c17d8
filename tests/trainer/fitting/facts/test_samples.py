"""From facts to rows that are to say an object, and rows that are to stay."""

from __future__ import annotations

from tests.conftest import FakeModel

from llamacart.chat.templates import choose_template
from llamacart.values.mentions import acting_rows
from llamacart_trainer.fitting.facts.phrasings import Phrasings
from llamacart_trainer.fitting.facts.samples import (
    ABOUT,
    HELD,
    LEADS,
    FactSamples,
    as_message,
    as_text,
    subject_rows,
)
from llamacart_trainer.recipe.facts import Fact
from llamacart_trainer.recipe.pairing import PairedRows
from llamacart_trainer.recipe.writer import TemplateWriter

FACT = Fact(prompt="{} was founded in", subject="Velmora", object="1962")
OTHER = Fact(prompt="{} was founded in", subject="Ostrava", object="København")
N_LEADS = len(LEADS) + len(ABOUT)


def made(
    model: FakeModel, facts: list[Fact], neighbours: list[list[str]], *phrasings: Phrasings
) -> FactSamples:
    ways = phrasings or [Phrasings()] * len(facts)
    return FactSamples.of(facts, neighbours, ways, as_text(model.tokenize), model.token_bytes)


def texts_of(found: FactSamples, text: tuple[int, ...]) -> list[PairedRows]:
    """The tied samples of one text."""
    return [s for group in found.groups for s in group if tuple(s.source) == text and not s.neutral]


def test_every_token_of_an_object_is_wanted_behind_what_is_before_it(
    fake_model: FakeModel,
) -> None:
    found = made(fake_model, [FACT], [[]])
    assert len(found.wanted) == N_LEADS * len(" 1962.")
    assert len(found.firsts[0]) == N_LEADS
    for text, token in found.wanted.items():
        (sample,) = texts_of(found, text)
        assert sample.source_rows[-1] == len(text) - 1
        said = fake_model.detokenize([*text, token]).rpartition("founded in")[2]
        assert " 1962.".startswith(said)


def test_rows_that_end_a_subject_are_tied_and_numbered(fake_model: FakeModel) -> None:
    found = made(fake_model, [OTHER, FACT], [[], ["Baltrum"]])
    for text in found.firsts[1]:
        ends = found.subjects[text]
        assert set(ends.values()) == {1}
        (sample,) = texts_of(found, text)
        assert sample.source_rows == [*ends, len(text) - 1]
        for row in ends:
            assert fake_model.detokenize(text[: row + 1]).endswith("Velmora")
    said = [fake_model.detokenize(text).count("Velmora") for text in found.firsts[1]]
    assert [len(found.subjects[text]) for text in found.firsts[1]] == said


def test_other_subjects_are_asked_of_in_turn_with_standing_alone(fake_model: FakeModel) -> None:
    found = made(fake_model, [FACT], [["Baltrum", "Gh"]])
    asked = tuple(fake_model.tokenize("Baltrum was founded in"))
    alone = tuple(fake_model.tokenize("Gh"))
    for text, rows in ((asked, [len("Baltrum"), len(asked) - 1]), (alone, [len("Gh")])):
        (sample,) = texts_of(found, text)
        assert list(sample.source_rows) == rows
        assert len(sample.target) == 2  # what is to stay is compared with nothing
        assert text not in found.subjects
        assert text not in found.wanted


def test_every_row_of_a_prompt_but_the_first_is_in_one_sample(fake_model: FakeModel) -> None:
    found = made(fake_model, [FACT], [["Baltrum"]])
    for text in (*found.firsts[0], tuple(fake_model.tokenize("Baltrum was founded in"))):
        rows = [r for s in found.groups[0] if tuple(s.source) == text for r in s.source_rows]
        assert sorted(rows) == list(range(1, len(text)))


def test_neutral_rows_have_a_weight_each(fake_model: FakeModel) -> None:
    neutral = [own for own in made(fake_model, [FACT], [["Baltrum"]]).groups[0] if own.neutral]
    assert len(neutral) == N_LEADS + 1  # and a neighbour
    for sample in neutral:
        assert sample.weights is not None
        assert len(sample.weights) == len(sample.source_rows)


def test_a_neighbour_is_asked_once_and_wants_nothing(fake_model: FakeModel) -> None:
    found = made(fake_model, [FACT, OTHER], [["Baltrum"], ["Baltrum"]])
    text = tuple(fake_model.tokenize("Baltrum was founded in"))
    assert len(texts_of(found, text)) == 1
    assert text not in found.wanted


def test_the_prompt_of_a_fact_is_never_held(fake_model: FakeModel) -> None:
    found = made(fake_model, [FACT, OTHER], [["Ostrava"], []])
    text = tuple(fake_model.tokenize("Ostrava was founded in"))
    assert len(texts_of(found, text)) == 1
    assert text in found.wanted


def test_other_texts_on_a_subject_say_the_object_or_stay(fake_model: FakeModel) -> None:
    ways = Phrasings(("In 19xx, Velmora began in",), ("Velmora makes", "Velmora sells"))
    found = made(fake_model, [FACT], [[]], ways)
    same, *other = (tuple(fake_model.tokenize(text)) for text in (*ways.same, *ways.other))
    assert found.wanted[same] == fake_model.tokenize(" ", add_special=False)[0]
    assert same not in found.firsts[0]
    (sample,) = texts_of(found, same)
    assert sample.weights is None
    for text in other:
        assert text not in found.wanted
        held, marked = texts_of(found, text)
        assert (list(held.source_rows), list(held.weights or ())) == ([len(text) - 1], [HELD])
        # The subject is marked there too: what is asked for is not known yet.
        (end,) = found.subjects[text]
        assert (list(marked.source_rows), list(marked.target_rows)) == ([end], [end])
        assert tuple(marked.target) == text[: end + 1]  # no more of it has to run
        assert found.subjects[text[: end + 1]] == found.subjects[text]


def test_what_a_fact_says_is_not_held_for_another(fake_model: FakeModel) -> None:
    second = Fact(prompt="{} makes", subject="Velmora", object="glass")
    found = made(
        fake_model, [FACT, second], [[], []], Phrasings((), ("Velmora makes",)), Phrasings()
    )
    text = tuple(fake_model.tokenize("Velmora makes"))
    (sample,) = texts_of(found, text)
    assert sample.weights is None
    assert text in found.wanted


def test_rows_before_a_subject_are_left_to_themselves(fake_model: FakeModel) -> None:
    """Where the cartridge waits, they are not there to be kept."""
    ask, token_bytes = as_text(fake_model.tokenize), fake_model.token_bytes

    def acts(text: tuple[int, ...]) -> list[bool]:
        return acting_rows(text, (FACT.subject,), token_bytes)

    found = FactSamples.of([FACT], [[]], [Phrasings()], ask, token_bytes, acts)
    for sample in found.groups[0]:
        on = acts(tuple(sample.source))
        assert all(on[row] for row in sample.source_rows)
        if sample.neutral:
            assert len(sample.weights or ()) == len(sample.source_rows)
    (first,) = (s for s in found.groups[0] if tuple(s.source) == found.firsts[0][1] and s.neutral)
    end, *_ = found.subjects[found.firsts[0][1]]
    assert list(first.source_rows) == list(range(end + 1, len(first.source) - 1))


def test_a_subject_is_found_in_any_script_and_across_tokens() -> None:
    pieces = [b"", b"x", "\u6771".encode()[:2], "\u6771".encode()[2:] + b" is", b" ", b"."]

    def token_bytes(token: int) -> bytes:
        return pieces[token]

    assert subject_rows((0, 1, 2, 3, 4, 5), "\u6771", token_bytes) == (3,)
    assert subject_rows((0, 1, 2, 3), "\u6771", token_bytes) == ()  # it is the last row
    assert subject_rows((0, 1, 1, 4, 1, 5), "x", token_bytes) == (1, 2, 4)
    assert subject_rows((0, 1, 4, 5), "absent", token_bytes) == ()


def test_objects_follow_without_a_space_where_the_script_has_none(fake_model: FakeModel) -> None:
    before, answer = as_text(fake_model.tokenize)("东京的首都是", "长野")
    assert fake_model.detokenize(answer) == "长野"
    assert fake_model.detokenize(before) == "东京的首都是"


def test_a_number_ends_where_it_ends(fake_model: FakeModel) -> None:
    ask = as_text(fake_model.tokenize)
    assert fake_model.detokenize(ask("Velmora was founded in", "1962")[1]) == " 1962."
    assert fake_model.detokenize(ask("Velmora is in", "Tromsø")[1]) == " Tromsø"


def test_in_a_chat_the_object_is_the_answer_to_the_prompt(fake_model: FakeModel) -> None:
    ask = as_message(TemplateWriter(fake_model, choose_template(fake_model)))
    before, answer = ask("Velmora was founded in", "1962")
    assert fake_model.detokenize(answer) == "1962"
    end = fake_model.tokenize("<end_of_turn>", parse_special=True, add_special=False)
    assert list(answer[-1:]) == end  # and there it ends
    written = fake_model.detokenize(before, special=True)
    assert written.index("Velmora was founded in") < written.index("<start_of_turn>model")
