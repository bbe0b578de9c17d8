from __future__ import annotations

import pytest

from llamacart.chat.templates import ChatTemplate
from llamacart.errors import RecipeError
from llamacart_trainer.fitting.rows.conversations import HEADER_ROWS, ConversationSamples
from llamacart_trainer.recipe.distilled import distilled_prompt
from llamacart_trainer.recipe.pairing import PairedRows
from llamacart_trainer.recipe.recipe import Recipe
from llamacart_trainer.recipe.turns import ChatPair, Exchange, Turn
from llamacart_trainer.recipe.writer import TemplateWriter, Written, writer_for

HI, SYSTEM = Turn("user", "Hi"), Turn("system", "S")
END = 3  # of the fake model's turns
SAME = ChatPair((HI,), "one two three", (HI,), "un deux trois")
BEHIND = ChatPair((HI,), "one", (SYSTEM, HI), "one")


@pytest.fixture
def chats(fake_model) -> ConversationSamples:
    return ConversationSamples(fake_model, writer_for(Recipe(name="x", format="chat"), fake_model))


def shown(model, sample: PairedRows) -> list[tuple[str, str]]:
    """What is tied, a character each; control tokens by their numbers."""

    def text(token: int) -> str:
        return model.token_bytes(token).decode("latin-1") or str(token)

    return [(text(sample.source[i]), text(sample.target[j])) for i, j in sample.rows]


def tied(model, sample: PairedRows) -> tuple[str, str]:
    left, right = zip(*shown(model, sample), strict=True)
    return "".join(left), "".join(right)


def only(samples, pair: ChatPair, name: str) -> tuple[PairedRows, PairedRows]:
    """The sample by one pairing, and the context."""
    ((sample, context),) = samples.of_pairs([pair], [name])
    return sample, context


def test_the_same_answer_behind_two_contexts(chats, fake_model) -> None:
    sample, context = only(chats, BEHIND, "suffix")
    assert tied(fake_model, sample) == ("l\none3", "l\none3")
    assert "S" in fake_model.detokenize(sample.target)
    assert "S" not in fake_model.detokenize(sample.source)
    assert not sample.neutral
    assert context.neutral
    assert tied(fake_model, context)[0] == "2user\nHi3\n2mode"


def test_every_row_but_the_first_is_tied_or_context(chats) -> None:
    sample, context = only(chats, BEHIND, "suffix")
    rows = [*sample.source_rows, *context.source_rows]
    assert sorted(rows) == list(range(1, len(sample.source)))
    assert sample.source == context.source == context.target


@pytest.mark.parametrize(
    ("name", "left", "right"),
    [
        ("position", "one two three3", "un deux trois3"),
        ("relative", "one two three3", "un deux trois3"),
        ("handover", "eee deux trois3", "nnn deux trois3"),
        ("identity", "un deux trois3", "un deux trois3"),
    ],
)
def test_answers_to_the_same_turns(chats, fake_model, name, left, right) -> None:
    """Rows before them say the same, and are not tied: nothing is to be learnt from them."""
    sample, context = only(chats, SAME, name)
    assert tied(fake_model, sample) == (left, right)
    assert sample.neutral is (name == "identity")
    start = len(chats.writer.opened([HI]))
    assert min(sample.source_rows) >= start
    assert list(context.source_rows) == list(range(1, start - HEADER_ROWS))


def test_handover_writes_a_source_that_goes_over(chats, fake_model) -> None:
    sample, _ = only(chats, SAME, "handover")
    assert fake_model.detokenize(sample.source).endswith("model\none deux trois")
    assert fake_model.detokenize(sample.target).endswith("model\nun deux trois")
    assert sample.source[-1] == sample.target[-1] == END


def test_different_turns_tie_the_rows_that_begin_the_answer(chats, fake_model) -> None:
    pair = ChatPair((HI,), "one", (SYSTEM, HI), "uno")
    assert tied(fake_model, only(chats, pair, "position")[0]) == ("one3l\n", "uno3l\n")


def test_unpaired_rows_are_the_answers(chats, fake_model) -> None:
    pair = ChatPair((HI,), "one", (HI,), "deux")
    ((sample, _),) = chats.of_pairs([pair], ["distribution"])
    assert not sample.paired
    read = [
        "".join(fake_model.detokenize([tokens[i]]) or "3" for i in rows)
        for tokens, rows in (
            (sample.source, sample.source_rows),
            (sample.target, sample.target_rows),
        )
    ]
    assert read == ["one3", "deux3"]


def test_several_pairings_share_one_context(chats) -> None:
    ((*samples, context),) = chats.of_pairs([SAME], ["handover", "identity"])
    assert [sample.neutral for sample in samples] == [False, True]
    assert context.source == samples[0].source


def test_a_template_that_refuses_the_turns_names_the_pair(fake_model) -> None:
    template = ChatTemplate("gguf", "{{ raise_exception('no system') if messages|length > 2 }}")
    samples = ConversationSamples(fake_model, TemplateWriter(fake_model, template))
    with pytest.raises(RecipeError, match=r"pair 1: .*no system"):
        list(samples.of_pairs([SAME, ChatPair((HI,), "a", (SYSTEM, HI, HI), "a")], ["suffix"]))


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("form", ["chat", "text"])
def test_an_answer_behind_a_prompt(fake_model, form, ended) -> None:
    writer = writer_for(Recipe(name="x", format=form), fake_model)
    samples = ConversationSamples(fake_model, writer)
    prompt = distilled_prompt("Be brief.", [], ["Why?"])
    sample, context = samples.of_answer(prompt, Exchange("Why?", "So.", ended))
    left, right = tied(fake_model, sample)
    wanted = {("chat", True): "l\nSo.3", ("text", True): "r: So.\n\n"}
    assert left == right == wanted[form, True][: None if ended else -1 if form == "chat" else -2]
    assert "brief" in fake_model.detokenize(sample.target)
    assert "brief" not in fake_model.detokenize(sample.source)
    assert min(sample.source_rows) == max(context.source_rows) + 1
    assert context.source == sample.source


def test_neutral_turns_leave_out_the_first_row_alone(chats, fake_model) -> None:
    sample = chats.of_neutral(Exchange("Why?", "So."))
    assert sample.neutral
    assert list(sample.source_rows) == list(range(1, len(sample.source)))
    assert fake_model.detokenize(sample.source) == "user\nWhy?\nmodel\nSo."


def test_a_header_of_one_token(fake_model) -> None:
    """Nothing before the context is tied, nor anything that differs."""

    class Short:
        stops = ()

        def answered(self, turns, answer, *, ended=True):
            start = len(turns)
            return Written((*range(start, 0, -1), 7, 8), start, start + 2)

    sample, context = ConversationSamples(fake_model, Short()).of_answer(
        distilled_prompt("S", [], ["q"]), Exchange("q", "a")
    )
    assert sample.rows == [(1, 2), (2, 3)]
    assert context.rows == []


def test_align_looks_at_the_answers_alone(tiny_model) -> None:
    writer = writer_for(Recipe(name="x", format="chat"), tiny_model)
    samples = ConversationSamples(tiny_model, writer)
    pairs = [BEHIND, ChatPair((HI,), "one two", (HI,), "un deux")]
    (same, context), (other, _) = samples.of_pairs(pairs, ["align"])
    n_end = len("<|im_end|>")
    assert sorted(same.rows[: len("one")]) == same.rows[: len("one")]
    written = writer.answered([HI], "one")
    assert same.source_rows[: len("one")] == list(range(written.start, written.end))
    assert len(same.rows) == len("one") + n_end + HEADER_ROWS
    longer = writer.answered([HI], "one two")
    assert len(other.rows) == longer.end - longer.start + n_end
    assert context.source == same.source
