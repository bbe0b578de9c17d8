"""Prompts beside cartridges: what they write, and how far a cartridge is from the one replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.chat.templates import choose_template
from llamacart.llama.model import Model
from llamacart.passes.generate import greedy
from llamacart.passes.scoring import log_likelihoods
from llamacart_trainer.evaluation import evaluator as evaluator_module
from llamacart_trainer.evaluation import locality as locality_module
from llamacart_trainer.evaluation.bootstrap import estimate, share_removed
from llamacart_trainer.evaluation.compare import compare
from llamacart_trainer.evaluation.contents import Prompt
from llamacart_trainer.evaluation.evaluator import Evaluator
from llamacart_trainer.evaluation.plan import EvaluationPlan
from llamacart_trainer.evaluation.prompts.conversation import Preamble, PromptWriter
from llamacart_trainer.evaluation.prompts.prompted import PromptedModel
from llamacart_trainer.evaluation.results import PROMPTS, Evaluation
from llamacart_trainer.evaluation.scorers import words
from llamacart_trainer.evaluation.tables import COLUMNS, best_table, figure
from llamacart_trainer.recipe.recipe import Recipe
from llamacart_trainer.recipe.turns import Turn

ASKS = Recipe(name="t", kind="prompt", prompt="p", user_turn="Q: {}\n", assistant_turn="A: {}\n\n")
EXAMPLES = (Turn("user", "Why?"), Turn("assistant", "Arr, because."))
TEACHER = Preamble("prompted model", (Turn("system", "You are a pirate."), *EXAMPLES), teacher=True)
LINE = Preamble("system prompt", (Turn("system", "You are a pirate."),))
PLAN = EvaluationPlan(
    name="t",
    prompts=(Prompt("one"), Prompt("two {} of"), Prompt("four")),
    neutral=("some other text", "and one more"),
    scorer=lambda _prompts, texts: [float("e" in text) for text in texts],
    tokens=6,
    recipe=ASKS,
    preambles=(TEACHER, LINE),
)


@pytest.fixture(autouse=True)
def short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model reads bytes: the packaged texts would be 1 600 rows a point."""
    monkeypatch.setattr(locality_module, "fixed_text", lambda _language: ("a text",))


def mean_shift(model: Model, size: float = 1.5) -> Cartridge:
    neurons = np.arange(0, model.n_ff, 5)
    weight = np.zeros((len(neurons), model.n_ff))
    weight[np.arange(len(neurons)), neurons] = 1.0
    layers = tuple(
        LayerMap.from_dense(layer, neurons, weight, np.full(len(neurons), size))
        for layer in range(model.n_layer)
    )
    return Cartridge(Metadata("shift", solver="mean-shift"), model.fingerprint, layers)


def value(scores: Any, field: str) -> float:
    found = getattr(scores, field)
    assert found is not None, field
    return float(found.value)


# --- what stands before a prompt --------------------------------------------------------------


def test_turns_of_raw_text(tiny_model: Model) -> None:
    writer = PromptWriter(tiny_model, ASKS)
    assert writer.tokens("two {} of") == tiny_model.tokenize("Q: two {} of\nA:")
    assert writer.tokens("x", TEACHER.turns) == tiny_model.tokenize(
        "You are a pirate.\n\nQ: Why?\nA: Arr, because.\n\nQ: x\nA:"
    )
    for recipe in (None, Recipe(name="t", user_turn="Q: {}\n", assistant_turn="A: {}\n\n")):
        continued = PromptWriter(tiny_model, recipe)
        assert continued.tokens("x") == tiny_model.tokenize("x")
        behind = continued.tokens("x", LINE.turns)
        assert behind == tiny_model.tokenize("You are a pirate.\n\nx")
    assert continued.tokens("x", EXAMPLES) == tiny_model.tokenize("Q: Why?\nA: Arr, because.\n\nx")


def test_an_answer_ends_where_the_next_turn_would_begin(tiny_model: Model) -> None:
    writer = PromptWriter(tiny_model, ASKS)

    def cut(text: str) -> tuple[str, bool]:
        tokens, ended = writer.cut(tiny_model.tokenize(text, add_special=False))
        return tiny_model.detokenize(tokens).strip("\u2581"), ended

    assert cut("aye\n\nQ:more") == ("aye", True)
    assert cut("aye\nand") == ("aye\nand", False)
    assert cut("\n\n") == ("", True)
    assert PromptWriter(tiny_model).cut([13, 13]) == ([13, 13], False)


# --- how far a run is from the prompted model ----------------------------------------------------


def test_the_teacher_is_at_no_distance_and_the_unsteered_model_removes_nothing(
    tiny_model: Model,
) -> None:
    judge = Evaluator(tiny_model, PLAN)
    unsteered, teacher, line = judge.score(None, 0.0), judge.behind(TEACHER), judge.behind(LINE)
    assert (value(teacher, "kl_prompted"), value(teacher, "agreement")) == (0.0, 1.0)
    assert value(teacher, "removed") == 1.0
    assert value(unsteered, "removed") == 0.0
    assert value(unsteered, "kl_prompted") > 1e-3
    assert value(line, "removed") == pytest.approx(
        1 - value(line, "kl_prompted") / value(unsteered, "kl_prompted")
    )
    # A token a byte here, and three for a blank.
    more = value(line, "prompt_tokens") - value(unsteered, "prompt_tokens")
    assert more == pytest.approx(len("You are a pirate.\n\n") + 3 * 2)
    shifted = judge.score(mean_shift(tiny_model), 1.0)
    assert value(shifted, "kl_prompted") != value(unsteered, "kl_prompted")
    assert replace(judge.score(mean_shift(tiny_model), 0.0), seconds=0) == replace(
        unsteered, seconds=0
    )


def test_a_prompt_is_scored_as_a_cartridge_is(tiny_model: Model) -> None:
    """Its own continuation, and what that costs the unsteered model behind the prompt alone."""
    scores = Evaluator(tiny_model, PLAN).behind(LINE)
    assert scores
    writer = PromptWriter(tiny_model, ASKS)
    out = greedy(tiny_model, [writer.tokens(p.text, LINE.turns) for p in PLAN.prompts], 6)
    assert scores.texts == tuple(map(tiny_model.detokenize, out))
    likely = log_likelihoods(tiny_model, [writer.tokens(p.text) for p in PLAN.prompts], out)
    assert value(scores, "nll") == pytest.approx(-np.concatenate(likely).mean(), abs=1e-4)
    assert scores.kl is None


def test_the_token_that_ends_an_answer_counts(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(model: Model, prompts: Sequence[Sequence[int]], count: int, **more: Any) -> Any:
        out = greedy(model, prompts, count, **more)
        return [tokens[: i % 3] for i, tokens in enumerate(out)]

    monkeypatch.setattr(evaluator_module, "greedy", short)
    judge = Evaluator(tiny_model, PLAN)
    scores = judge.score(None, 0.0)
    # Answers of 0, 1 and 2 tokens: the empty one is an answer that ends at once.
    assert scores.kl_prompted
    assert scores.kl_prompted.weights == (1.0, 2.0, 3.0)
    assert value(scores, "ended") == 1.0
    assert value(scores, "length") == 1.0
    # It is a failure, and the short ones are not; nothing can repeat in them.
    assert scores.written
    assert scores.written.values == (0.0, 1.0, 1.0)
    assert scores.distinct
    assert (scores.distinct.values[0], scores.distinct.weights) == (0.0, (1.0, 0.0, 0.0))


def test_answers_that_are_not_kept_whole_are_compared_at_even_distances(tiny_model: Model) -> None:
    prompts = [tiny_model.tokenize("say x"), tiny_model.tokenize("say y")]
    answers = [list(range(70, 78))] * 2
    plain = [[1], [1]]

    def weights(kept_bytes: int) -> tuple[float, ...]:
        part = PromptedModel(
            tiny_model, prompts, plain, answers, [True, False], kept_bytes=kept_bytes
        )
        found = part.measure((), None)["kl_prompted"]
        assert found
        return found.weights

    assert weights(2**20) == (9.0, 8.0)
    assert weights(6 * 2 * tiny_model.n_vocab) == (3.0, 3.0)
    assert sum(weights(0)) == 1.0


@given(
    st.lists(st.tuples(st.floats(0.1, 4), st.floats(0.1, 2)), min_size=1, max_size=12),
    st.floats(0, 1),
)
def test_the_share_removed_is_one_minus_the_ratio(
    rows: list[tuple[float, float]], left: float
) -> None:
    before, weights = zip(*rows, strict=True)
    whole = estimate(before, weights)
    part = estimate([left * each for each in before], weights)
    found = share_removed(part, whole)
    assert found
    # Each prompt keeps the same share of its distance, so no resample differs.
    assert found.value == pytest.approx(1 - left)
    assert (found.low, found.high) == pytest.approx((1 - left, 1 - left))
    assert share_removed(part, estimate([0.0] * len(rows), weights)) is None
    assert share_removed(part, replace(whole, values=())) is None


# --- the whole comparison ------------------------------------------------------------------------


def test_prompts_stand_beside_cartridges(tiny_model: Model) -> None:
    cartridge = mean_shift(tiny_model)
    named = replace(cartridge, metadata=replace(cartridge.metadata, name="system prompt"))
    found = compare(tiny_model, [cartridge, named], PLAN, alphas=[1.0])
    assert [(p.label, p.kind) for p in found.tests] == [
        ("unsteered", "unsteered"),
        ("prompted model", "prompted"),
        ("system prompt", "prompt"),
        ("shift", "cartridge"),
        ("system prompt (2)", "cartridge"),
    ]
    assert [(d.label, d.other) for d in found.differences] == [
        ("shift", "prompted model"),
        ("shift", "system prompt"),
        ("shift", "system prompt (2)"),
    ]
    assert "kl_prompted" in found.differences[1].figures
    assert not {label for label, _ in found.frontier} & {"prompted model", "system prompt"}
    assert not any(found.is_best(p) for p in found.tests if p.kind in PROMPTS)
    assert Evaluation.from_json(found.to_json()) == found
    columns = {field for field in COLUMNS if figure(found.tests[3].scores, field)}
    assert {"removed", "kl_prompted", "agreement", "ended", "length", "prompt_tokens"} <= columns
    assert best_table(found).row_count == len(found.tests)


@pytest.mark.model
def test_a_chat_model_behind_a_prompt(smol_model: Model) -> None:
    """By its own template; an answer ends where the model ends its turn."""
    recipe = Recipe(name="pirate", kind="prompt", format="chat", prompt="You are a pirate.")
    plan = EvaluationPlan(
        name="pirate",
        prompts=(Prompt("What is 2 + 2?"), Prompt("Say hello.")),
        neutral=("some other text",),
        scorer=words(["arr", "matey", "ye"]),
        tokens=16,
        recipe=recipe,
        preambles=(Preamble("prompted model", EXAMPLES, teacher=True),),
    )
    judge = Evaluator(smol_model, plan, with_perplexity=False)
    unsteered, taught = judge.score(None, 0.0), judge.behind(plan.preambles[0])
    assert taught
    template = choose_template(smol_model)
    messages = [{"role": "user", "content": prompt.text} for prompt in plan.prompts]
    counts = [len(template.tokens([message], smol_model)) for message in messages]
    assert value(unsteered, "prompt_tokens") == np.mean(counts)
    assert value(taught, "prompt_tokens") > value(unsteered, "prompt_tokens")
    assert value(unsteered, "kl_prompted") > 0.1
    assert 0 < value(unsteered, "agreement") < 1
    assert (value(taught, "kl_prompted"), value(taught, "removed")) == (0.0, 1.0)
    for scores in (unsteered, taught):
        lengths = scores.length
        assert lengths
        ended = [float(n < 16) for n in lengths.values]
        assert scores.ended
        assert list(scores.ended.values) == ended
        assert not any("<|im" in text for text in scores.texts)
