"""Scores of tiny models: unsteered, steered, and the whole comparison."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.errors import InputError, RecipeError
from llamacart.llama.model import Model
from llamacart.passes.capture import forward
from llamacart.passes.control_vector import ControlVector
from llamacart.passes.generate import greedy
from llamacart.passes.scoring import log_likelihoods
from llamacart_trainer.evaluation import evaluator as evaluator_module
from llamacart_trainer.evaluation import heldout as heldout_module
from llamacart_trainer.evaluation import locality as locality_module
from llamacart_trainer.evaluation.baselines import (
    baseline_names,
    fit_baselines,
    held_out_samples,
    variant,
)
from llamacart_trainer.evaluation.compare import compare, unique_labels
from llamacart_trainer.evaluation.contents import Answer, Prompt
from llamacart_trainer.evaluation.evaluator import SETTLING, Evaluator
from llamacart_trainer.evaluation.heldout import HeldOutEvaluator
from llamacart_trainer.evaluation.objective import Objective
from llamacart_trainer.evaluation.plan import EvaluationPlan
from llamacart_trainer.evaluation.results import Evaluation, Measured, Point
from llamacart_trainer.evaluation.sweep import sweep
from llamacart_trainer.evaluation.tables import differences_table
from llamacart_trainer.recipe.pairing import tie_positions
from llamacart_trainer.recipe.recipe import Recipe, Task, TextPair

PAIRS = tuple(TextPair(f"the {w} number", f"le {w} nombre") for w in ("red", "old", "big", "odd"))


@pytest.fixture(autouse=True)
def short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model reads bytes: the packaged texts would be 1 600 rows a point."""
    texts = {"english": ("a text", "one more"), "french": ("un texte", "un autre", "le dernier")}
    monkeypatch.setattr(locality_module, "fixed_text", texts.__getitem__)


def starts_with_e(_prompts: object, texts: list[str]) -> list[float]:
    return [float("e" in text) for text in texts]


def plan(**changes: object) -> EvaluationPlan:
    made = EvaluationPlan(
        name="t",
        prompts=(Prompt("one two", "un deux"), Prompt("three", "trois"), Prompt("four")),
        neutral=("some other text", "and one more"),
        scorer=starts_with_e,  # type: ignore[arg-type]
        tokens=6,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def mean_shift(model: Model, size: float = 1.5) -> Cartridge:
    neurons = np.arange(0, model.n_ff, 5)
    weight = np.zeros((len(neurons), model.n_ff))
    weight[np.arange(len(neurons)), neurons] = 1.0
    layers = tuple(
        LayerMap.from_dense(layer, neurons, weight, np.full(len(neurons), size))
        for layer in range(model.n_layer)
    )
    return Cartridge(Metadata("shift", solver="mean-shift"), model.fingerprint, layers)


def test_a_cartridge_is_measured_as_if_what_it_waits_for_had_been_said(tiny_model: Model) -> None:
    """Where its recipe has it wait; another's is measured as it acts."""
    neurons = np.arange(0, tiny_model.n_ff, 5)
    weight = np.zeros((len(neurons), tiny_model.n_ff))
    layer = LayerMap.from_dense(0, neurons, weight, np.full(len(neurons), 3.0))
    always = Cartridge(Metadata("c"), tiny_model.fingerprint, (layer,))
    waiting = replace(always, when=("never",))
    recipe = Recipe(name="t", when=["never"])
    own = Evaluator(tiny_model, plan(recipe=recipe)).score(waiting, 1.0)
    assert own.kl == Evaluator(tiny_model, plan()).score(always, 1.0).kl
    other = Evaluator(tiny_model, plan()).score(waiting, 1.0)
    assert other.kl is not None
    assert own.kl is not None
    assert other.kl.value < 1e-3 < own.kl.value


def test_unsteered_moves_nothing(tiny_model: Model) -> None:
    scores = Evaluator(tiny_model, plan()).score(None, 0.0)
    assert scores.kl
    assert scores.kl.value < 1e-5
    assert scores.kl.n == 2
    assert len(scores.texts) == 3
    assert scores.nll
    assert scores.perplexity_english
    assert scores.perplexity_english.n == 2
    assert scores.log_odds is scores.p_target is None


def test_alpha_zero_equals_unsteered_and_strength_moves_more(tiny_model: Model) -> None:
    judge = Evaluator(tiny_model, plan())
    cartridge = mean_shift(tiny_model)
    found = [
        judge.score(c, a)
        for c, a in ((None, 0.0), (cartridge, 0.0), (cartridge, 0.5), (cartridge, 2.0))
    ]
    assert replace(found[0], seconds=0) == replace(found[1], seconds=0)
    kl = [s.kl.value for s in found if s.kl]
    assert kl[1] < kl[2] < kl[3]
    assert found[3].perplexity_english != found[0].perplexity_english


def test_nll_is_that_of_the_continuations_under_the_unsteered_model(tiny_model: Model) -> None:
    """Greedy text is the likeliest at each step, so that any other greedy text costs more."""
    judge = Evaluator(tiny_model, plan())
    plain, steered = judge.score(None, 0.0), judge.score(mean_shift(tiny_model), 2.0)
    assert plain.nll
    assert steered.nll
    assert plain.texts != steered.texts
    assert plain.nll.value < steered.nll.value


def test_log_odds_by_explicit_scoring(tiny_model: Model) -> None:
    answers = (
        Answer("the moon", " a", " b"),
        Answer("the sun", " c", " d", neutral=True),
        Answer("it", " b", " a"),
    )
    judge = Evaluator(tiny_model, plan(answers=answers, scorer=None))
    scores = judge.score(None, 0.0)
    swapped = replace(
        judge.plan,
        answers=tuple(Answer(a.prompt, a.original, a.target, a.neutral) for a in answers),
    )
    other = Evaluator(tiny_model, swapped).score(None, 0.0)
    assert scores.log_odds
    assert other.log_odds
    assert scores.log_odds.value == pytest.approx(-other.log_odds.value, abs=1e-3)
    assert scores.log_odds.n == 2
    assert scores.p_leaked
    assert scores.p_leaked.n == 1
    assert scores.behaviour
    assert other.behaviour
    assert scores.behaviour.value + other.behaviour.value == pytest.approx(1.0)


def test_answers_are_scored_as_they_stand_behind_their_prompts(tiny_model: Model) -> None:
    """This tokenizer puts a space before what it reads alone; here there is one already."""
    judge = Evaluator(tiny_model, plan(answers=(Answer("the moon", " a", " b"),), scorer=None))
    opened = tiny_model.tokenize("the moon")
    wholes = [tiny_model.tokenize(f"the moon{text}") for text in (" a", " b")]
    assert all(whole[: len(opened)] == opened for whole in wholes)
    said = [whole[len(opened) :] for whole in wholes]
    target, original = map(sum, log_likelihoods(tiny_model, [opened] * 2, said))
    scores = judge.score(None, 0.0)
    assert scores.log_odds
    assert scores.log_odds.value == pytest.approx(target - original, abs=1e-6)


def test_answers_alone_are_a_plan_and_nothing_is_not(tiny_model: Model) -> None:
    alone = plan(prompts=(), answers=(Answer("a", " b", " c"),), scorer=None)
    scores = Evaluator(tiny_model, alone).score(None, 0.0)
    assert scores.nll is None
    assert scores.log_odds
    with pytest.raises(RecipeError, match="neither prompts nor answers"):
        plan(prompts=())


def test_sweep_has_unsteered_ceiling_and_every_alpha(tiny_model: Model) -> None:
    vector = ControlVector(np.ones((3, 64), np.float32), "push")
    seen: list[str] = []
    points = sweep(
        tiny_model, [mean_shift(tiny_model), vector], [[0.5, 1.0], [0.5]], plan(),
        on_point=lambda p: seen.append(p.label),
    )  # fmt: skip
    assert [(p.label, p.kind, p.alpha) for p in points] == [
        ("unsteered", "unsteered", 0.0),
        ("ceiling", "ceiling", 0.0),
        ("shift", "cartridge", 0.5),
        ("shift", "cartridge", 1.0),
        ("push", "control-vector", 0.5),
    ]
    assert seen == [p.label for p in points]
    assert len(points[1].scores.texts) == 2
    assert points[1].scores.kl is None
    without = plan(prompts=(Prompt("one"),))
    assert [p.label for p in sweep(tiny_model, [], [], without)] == ["unsteered"]


def test_the_ceiling_is_scored_behind_the_prompts_too(tiny_model: Model) -> None:
    same = plan(prompts=(Prompt("one two", "one two"), Prompt("three", "three")))
    scores = Evaluator(tiny_model, same).ceiling()
    assert scores
    assert scores.nll
    assert scores.nll_switched == scores.nll
    other = Evaluator(tiny_model, plan(prompts=(Prompt("six", "one two"),))).ceiling()
    assert other
    assert other.nll_switched != other.nll


def test_settled_leaves_out_the_first_tokens(tiny_model: Model) -> None:
    judge = Evaluator(tiny_model, plan())
    scores = judge.score(None, 0.0)
    prompts = [tiny_model.tokenize(prompt.text) for prompt in judge.plan.prompts]
    out = greedy(tiny_model, prompts, judge.plan.tokens)
    likely = log_likelihoods(tiny_model, prompts, out)
    late = np.concatenate([each[SETTLING:] for each in likely])
    assert scores.nll_settled
    assert scores.nll_settled.value == pytest.approx(-late.mean(), abs=1e-4)


@pytest.mark.parametrize("length", [0, 1, 3])
def test_short_texts_count_as_failures(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    """Half of the texts end at once, whatever the scorer thinks of them."""

    def cut(model: Model, prompts: Sequence[Sequence[int]], count: int, **more: Any) -> Any:
        out = greedy(model, prompts, count, **more)
        return [tokens[:length] if i % 2 == 0 else tokens for i, tokens in enumerate(out)]

    prompts = tuple(Prompt(text, text) for text in ("one two", "three", "four", "six"))
    agrees = plan(prompts=prompts, scorer=lambda _prompts, texts: [1.0] * len(texts))
    whole = Evaluator(tiny_model, agrees).score(None, 0.0)
    monkeypatch.setattr(evaluator_module, "greedy", cut)
    judge = Evaluator(tiny_model, agrees)
    for half in (judge.score(None, 0.0), judge.ceiling()):
        assert half
        for field in ("behaviour", "written"):
            assert getattr(whole, field).value == 1.0
            assert getattr(half, field).value == 0.5
        assert half.distinct
        assert half.distinct.values[::2] == (0.0, 0.0)
        assert half.repetition
        assert half.repetition.values[::2] == (1.0, 1.0)
        assert half.nll
    assert Objective().key(whole) < Objective().key(judge.score(None, 0.0))
    monkeypatch.setattr(evaluator_module, "greedy", lambda _m, prompts, _n, **_: [[]] * 4)
    silent = Evaluator(tiny_model, agrees).score(None, 0.0)
    assert silent.nll is None
    assert silent.behaviour
    assert silent.behaviour.value == 0.0
    assert Objective().key(whole) < Objective().key(silent)


def test_figures_that_are_not_finite_are_not_measured(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A steering that overflows loses to any other, and ends no sweep."""

    def overflow(*args: Any, **more: Any) -> Any:
        return [np.full_like(each, np.nan) for each in log_likelihoods(*args, **more)]

    plain = plan(answers=(Answer("it", " a", " b"),), scorer=None)
    whole = Evaluator(tiny_model, plain).score(None, 0.0)
    monkeypatch.setattr(evaluator_module, "log_likelihoods", overflow)
    scores = Evaluator(tiny_model, plain).score(None, 0.0)
    assert scores.nll is scores.log_odds is scores.p_target is None
    assert scores.behaviour
    assert scores.behaviour.value == 0.0
    assert Objective().key(whole) < Objective().key(scores)


def test_neutral_texts_that_are_too_short_hide_no_others(tiny_model: Model) -> None:
    texts = ("", "some other text", "and one more")
    scores = Evaluator(tiny_model, plan(neutral=texts)).score(mean_shift(tiny_model), 1.0)
    whole = Evaluator(tiny_model, plan(neutral=texts[1:])).score(mean_shift(tiny_model), 1.0)
    assert scores.kl == whole.kl
    assert scores.kl


def test_held_out_of_a_perfect_map(tiny_path: Callable[..., Path]) -> None:
    """Source and target equal in the first layer up to the shift that the map makes there."""
    with Model(str(tiny_path()), batch_invariant=True) as model:
        tokens = model.tokenize("the red house")
        samples = [tie_positions(tokens, tokens)]
        heldout = HeldOutEvaluator(model, samples)
        zero = heldout.score(mean_shift(model, 0.0))
        assert all(f.r2 == pytest.approx(1.0, abs=1e-4) for f in zero.layers)
        assert all(f.rows == len(tokens) - 1 for f in zero.layers)
        assert zero.projection
        np.testing.assert_allclose(zero.projection.input, zero.projection.target, atol=1e-3)
        np.testing.assert_allclose(zero.projection.base, zero.projection.input, atol=1e-3)
        pushed = heldout.score(mean_shift(model, 1.0), layer=0)
    assert pushed.layers[0].r2 < 0
    # Target = base at layer 0: the step is all error, and steered is off by it.
    assert pushed.projection
    assert pushed.projection.layer == 0
    gap = np.linalg.norm(np.subtract(pushed.projection.steered, pushed.projection.input), axis=1)
    np.testing.assert_allclose(gap, gap[0], rtol=1e-3)


def test_held_out_figures_match_dense_arithmetic(tiny_path: Callable[..., Path]) -> None:
    from llamacart.passes.capture import capture

    with Model(str(tiny_path()), batch_invariant=True) as model:
        left, right = model.tokenize("abcdefg"), model.tokenize("gfedcba")
        samples = [tie_positions(left, right)] * 2
        cartridge = mean_shift(model, 0.7)
        found = HeldOutEvaluator(model, samples).score(cartridge).layers[0]
        x = capture(model, [left], layers=[0])[0][1:, ::5]
        y = capture(model, [right], layers=[0])[0][1:, ::5]
    step = np.full_like(x, 0.7)
    ideal = y - x
    assert found.rows == 2 * (len(left) - 1)
    assert found.fidelity == pytest.approx(
        (step * ideal).sum() / np.linalg.norm(step) / np.linalg.norm(ideal), abs=1e-3
    )
    assert found.force == pytest.approx(np.linalg.norm(step) / np.linalg.norm(ideal), rel=1e-3)
    spread = ((y - y.mean(axis=0)) ** 2).sum()
    assert found.r2_before == pytest.approx(1 - (ideal**2).sum() / spread, rel=1e-3)
    assert found.r2 == pytest.approx(1 - ((y - x - step) ** 2).sum() / spread, rel=1e-3)


def test_held_out_needs_rows(tiny_model: Model) -> None:
    with pytest.raises(RecipeError, match="0 paired rows"):
        HeldOutEvaluator(tiny_model, []).score(mean_shift(tiny_model))


def test_unsteered_rows_are_captured_once_for_all_cartridges(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[tuple[int, ...]] = []

    def counted(model: Model, sequences: Sequence[Sequence[int]], *args: Any, **more: Any) -> None:
        passes.extend(map(tuple, sequences))
        forward(model, sequences, *args, **more)

    monkeypatch.setattr(heldout_module, "forward", counted)
    source, target = tiny_model.tokenize("abcdefg"), tiny_model.tokenize("gfedcba")
    samples = [tie_positions(source, target)]
    whole = mean_shift(tiny_model)
    one_layer = replace(whole, layers=whole.layers[:1])
    contenders = [one_layer, whole, mean_shift(tiny_model, 0.3)]
    shared = HeldOutEvaluator(tiny_model, samples)
    shared.score(contenders[1], layer=2)
    assert passes.count(tuple(target)) == 1
    passes.clear()
    found = [shared.score(contender, layer=0) for contender in contenders]
    assert passes == [tuple(source)] * 3
    assert found == [
        HeldOutEvaluator(tiny_model, samples).score(contender, layer=0) for contender in contenders
    ]
    passes.clear()
    forgetful = HeldOutEvaluator(tiny_model, samples, max_memory=0)
    assert found == [forgetful.score(contender, layer=0) for contender in contenders]
    assert passes.count(tuple(target)) == 3


def test_compare_holds_everything(tiny_model: Model) -> None:
    task = Task(Recipe(name="t", threshold=0.1, penalty=1.0), PAIRS)
    fitted = fit_baselines(task, tiny_model, ["ridge", "ridge-identity", "control-vector"])
    assert [c.name for c in fitted] == ["ridge", "ridge-identity", "control-vector"]
    samples = held_out_samples(task, tiny_model, PAIRS[:2])
    assert len(samples) == 2  # the handovers; identities are to stay as they are
    choosing = plan(prompts=(Prompt("six"), Prompt("seven eight")), neutral=("text apart",))
    seen: list[Point] = []
    found = compare(
        tiny_model, [*fitted, fitted[0]], plan(), validation=choosing, alphas=[1.0, 0.5],
        samples=samples, on_point=seen.append,
    )  # fmt: skip
    assert seen == [*found.points, *found.tests]
    assert [(p.label, p.alpha) for p in found.tests] == list(found.best.items())
    assert {len(p.scores.texts) for p in found.points} == {2}
    assert (found.chosen_on, found.tested_on) == (Measured(2, 0, 1), Measured(3, 0, 2))
    assert found.provenance == (
        "α chosen on 2 prompts, 1 neutral text; tested on others: 3 prompts, 2 neutral texts."
    )
    assert [f.name for f in found.cartridges] == ["ridge", "ridge-identity", "ridge (2)"]
    assert set(found.best) == {
        "unsteered", "ceiling", "ridge", "ridge-identity", "control-vector", "ridge (2)",
    }  # fmt: skip
    assert all(facts.heldout for facts in found.cartridges)
    assert found.frontier
    assert Evaluation.from_json(found.to_json()) == found
    assert json.loads(found.to_json())["prompts"] == ["one two", "three", "four"]
    tests = {point.label: point for point in found.tests}
    assert [row.other for row in found.differences] == [
        "ridge-identity", "control-vector", "ridge (2)",
    ]  # fmt: skip
    for field, apart in found.differences[0].figures.items():
        one, other = (getattr(tests[label].scores, field) for label in ("ridge", "ridge-identity"))
        assert apart.value == pytest.approx(one.value - other.value)
    assert {"behaviour", "nll", "distinct", "kl"} <= set(found.differences[0].figures)
    # One that is the same at the same α is never told apart.
    assert all(apart.value == apart.sign == 0 for apart in found.differences[2].figures.values())
    assert all(apart.adjusted == 1.0 for apart in found.differences[2].figures.values())
    table = differences_table(found)
    assert table
    assert table.row_count == 3


def test_nothing_is_chosen_on_what_is_tested(tiny_model: Model) -> None:
    cartridge = mean_shift(tiny_model)
    with pytest.raises(InputError, match="nothing to choose one of 2 α on"):
        compare(tiny_model, [cartridge], plan(), alphas=[0.5, 1.0])
    with pytest.raises(InputError, match="'three' is both to choose α on and to test it on"):
        compare(tiny_model, [cartridge], plan(), validation=plan(prompts=(Prompt("three"),)))
    answers = plan(prompts=(), answers=(Answer("it", " a", " b"),))
    with pytest.raises(InputError, match="'it' is both"):
        compare(tiny_model, [cartridge], answers, validation=answers)
    alone = compare(tiny_model, [cartridge], plan(), alphas=[0.5, 0.5])
    assert alone.points == alone.tests
    assert alone.chosen_on is None
    assert alone.provenance.startswith("One α, so nothing was chosen; tested on 3 prompts")


def test_no_contender_is_compared_with_nobody(tiny_model: Model) -> None:
    found = compare(tiny_model, [], plan(), alphas=[1.0])
    assert [p.label for p in found.tests] == ["unsteered", "ceiling"]
    assert found.differences == ()


def test_labels_are_unique() -> None:
    assert unique_labels(["a", "a", "unsteered", "a (2)"]) == [
        "a", "a (2)", "unsteered (2)", "a (2) (2)",
    ]  # fmt: skip


def test_variants_are_checked(tiny_model: Model) -> None:
    recipe = Recipe(name="t")
    assert variant(recipe, penalty=7.0).penalty == 7.0
    with pytest.raises(RecipeError, match="penalty has value -1"):
        variant(recipe, penalty=-1.0)
    grown = Recipe(name="t", pairing=["position"], generate_target=2)
    with pytest.raises(RecipeError, match=r"^generated tokens are paired by"):
        variant(grown, pairing=["handover"])
    with pytest.raises(RecipeError, match="baseline 'nothing' is not among"):
        fit_baselines(Task(recipe, PAIRS), tiny_model, ["nothing"])
    assert "control-vector" in baseline_names()


def test_where_activations_leave_their_range_nothing_is_measured(tiny_model: Model) -> None:
    """A row that was not steered would pass for a cartridge that does no harm."""
    scores = Evaluator(tiny_model, plan()).score(mean_shift(tiny_model, 1e37), 10.0)
    assert (scores.behaviour, scores.nll, scores.kl, scores.texts) == (None, None, None, ())
