"""Facts asked of tiny models: each figure against what it is by its definition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.llama.model import Model
from llamacart.passes.generate import greedy
from llamacart.passes.scoring import log_likelihoods
from llamacart.values.steering import UNSTEERED, Dose
from llamacart_trainer.evaluation import locality
from llamacart_trainer.evaluation.compare import compare
from llamacart_trainer.evaluation.facts import judge as module
from llamacart_trainer.evaluation.facts.figures import TOLD
from llamacart_trainer.evaluation.facts.judge import FactJudge
from llamacart_trainer.evaluation.facts.tables import BY_ODDS, BY_TEXT, MARGIN, fact_table
from llamacart_trainer.evaluation.plan import EvaluationPlan
from llamacart_trainer.evaluation.prompts.conversation import PromptWriter
from llamacart_trainer.evaluation.results import Evaluation
from llamacart_trainer.evaluation.sweep import point_count, sweep
from llamacart_trainer.recipe.facts import Fact, Neighbour, Use
from llamacart_trainer.recipe.recipe import Recipe
from llamacart_trainer.report.page import render

FACTS = (
    Fact(
        prompt="{} is in",
        subject="Vel",
        object="Riga",
        was="Oslo",
        paraphrases=("Where is {}? In", "Vel stands in"),
        negated="{} is not in",
        reversed="In Riga is",
        uses=(Use(prompt="At {} they speak", answer="Lett"),),
        neighbours=(Neighbour(prompt="Bo is in", answer="Rome"), Neighbour(prompt="Al is in")),
    ),
    Fact(
        prompt="{} is in",
        subject="Mor",
        object="Bonn",
        neighbours=(Neighbour(prompt="Ed is in", answer="Bonn"),),
    ),
)


def shift(model: Model, size: float = 1.5) -> Cartridge:
    neurons = np.arange(0, model.n_ff, 5)
    weight = np.zeros((len(neurons), model.n_ff))
    weight[np.arange(len(neurons)), neurons] = 1.0
    layers = tuple(
        LayerMap.from_dense(layer, neurons, weight, np.full(len(neurons), size))
        for layer in range(model.n_layer)
    )
    return Cartridge(Metadata("shift", solver="mean-shift"), model.fingerprint, layers)


def judge(model: Model, facts: tuple[Fact, ...] = FACTS, **settings: Any) -> FactJudge:
    recipe = Recipe(name="t", **settings) if settings else None
    return FactJudge(model, facts, PromptWriter(model, recipe))


def behind(model: Model, text: str, answer: str) -> list[int]:
    tokens = model.tokenize(text)
    assert model.tokenize(text + answer)[: len(tokens)] == tokens
    return model.tokenize(text + answer)[len(tokens) :]


def margin(model: Model, text: str, one: str, other: str, before: str = "", **under: Any) -> float:
    answers = [behind(model, text, answer) for answer in (one, other)]
    scores = log_likelihoods(model, [model.tokenize(before + text)] * 2, answers, **under)
    return float(scores[0].sum() - scores[1].sum())


def test_margins_are_log_odds_and_the_other_way_round_where_the_object_is_wrong(
    tiny_model: Model,
) -> None:
    steering = (Dose(shift(tiny_model), 1.0),)
    found = judge(tiny_model).measure(steering, None).groups
    several = [
        margin(tiny_model, text, " Riga", " Oslo", steering=steering)
        for text in ("Where is Vel? In", "Vel stands in")
    ]
    assert found["paraphrase"].margin is not None
    assert found["paraphrase"].margin.value == pytest.approx(np.median(several), abs=0.01)
    asked = tiny_model.tokenize("Al is in")
    answers = [behind(tiny_model, "Al is in", " Riga")]
    answers.append(greedy(tiny_model, [asked], len(answers[0]))[0])
    scores = log_likelihoods(tiny_model, [asked] * 2, answers, steering=steering)
    near = [
        -margin(tiny_model, "Bo is in", " Riga", " Rome", steering=steering),
        float(scores[1].sum() - scores[0].sum()),
    ]
    assert found["neighbour"].margin is not None
    assert found["neighbour"].margin.value == pytest.approx(np.median(near), abs=0.01)
    assert found["neighbour"].odds is not None
    assert found["neighbour"].odds.value == np.mean([value > 0 for value in near])


def test_a_text_whose_right_answer_is_the_other_one_counts_nowhere(tiny_model: Model) -> None:
    found = judge(tiny_model).measure(UNSTEERED, None).groups["neighbour"]
    assert found.texts == 3
    assert found.odds is not None
    assert found.odds.n == 1  # the second fact's only neighbour is already where the fact is
    assert found.said is not None
    assert found.said.n == 2


def test_what_the_model_says_already_has_no_margin(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(model: Model, prompts: list[list[int]], counts: list[int], **_: Any) -> list[list[int]]:
        return [behind(model, "Vel is in", " Riga, of course")[: counts[0]] for _ in prompts]

    monkeypatch.setattr(module, "greedy", say)
    fact = Fact(
        prompt="{} is in", subject="Vel", object="Riga", neighbours=(FACTS[0].neighbours[0],)
    )
    found = judge(tiny_model, (fact,)).measure(UNSTEERED, None).groups
    assert found["prompt"].odds is found["prompt"].margin is None
    assert found["prompt"].said is not None
    assert found["prompt"].said.value == 1.0
    assert found["neighbour"].margin is not None


def test_unsteered_changes_nothing_and_a_cartridge_does(tiny_model: Model) -> None:
    asked = judge(tiny_model)
    plain, steered = (
        asked.measure(steering, None) for steering in (UNSTEERED, (Dose(shift(tiny_model), 3.0),))
    )
    assert plain.unchanged is not None
    assert steered.unchanged is not None
    assert plain.unchanged.value == 1.0
    assert steered.unchanged.value < 1.0
    assert len(plain.texts) == len(steered.texts) == 2
    assert plain.texts != steered.texts
    assert asked.measure((Dose(shift(tiny_model), 0.0),), None) == plain


def test_the_right_answer_is_found_whole_in_the_first_tokens(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {
        "Vel is in": " Riga.",
        "Where is Vel? In": " Rigatoni",
        "Vel stands in": " old riga",
        "Bo is in": " Riga",
        "Al is in": " Rome",
        "Vel is not in": " Riga",
        "In Riga is": " Vel, a town",
        "At Vel they speak": " Lettish",
        "Mor is in": " Rome",
        "Ed is in": " Rome",
    }

    def say(model: Model, prompts: list[list[int]], counts: list[int], **_: Any) -> list[list[int]]:
        assert min(counts) == 12
        said = list(texts.items())
        assert prompts == [model.tokenize(text) for text, _ in said]
        return [behind(model, text, answer) for text, answer in said]

    monkeypatch.setattr(module, "greedy", say)
    found = judge(tiny_model).measure(UNSTEERED, None).groups
    said = {group: figures.said.value for group, figures in found.items() if figures.said}
    assert said == {
        "prompt": 0.5,
        "paraphrase": 0.5,
        "neighbour": 0.75,
        "negated": 0.0,
        "reversed": 1.0,
        "use": 0.0,
    }


def test_told_puts_the_one_fact_or_all_before_each_text(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = judge(tiny_model)
    one, every = (asked.told(told) for told in TOLD)
    plain = asked.measure(UNSTEERED, None)
    assert one is not None
    assert every is not None
    for figures, before in (
        (one, "Vel is in Riga.\n\n"),
        (every, "Vel is in Riga.\nMor is in Bonn.\n\n"),
    ):
        assert figures.prompt_tokens is not None
        assert plain.prompt_tokens is not None
        more = figures.prompt_tokens.value - plain.prompt_tokens.value
        assert more == len(tiny_model.tokenize(before + "x")) - len(tiny_model.tokenize("x"))
    text = "Vel is in Riga.\n\nVel is in"
    assert one.groups["prompt"].texts == 2
    assert one.groups["paraphrase"].margin is not None
    both = [
        margin(tiny_model, text, " Riga", " Oslo", before="Vel is in Riga.\n\n")
        for text in ("Vel stands in", "Where is Vel? In")
    ]
    assert one.groups["paraphrase"].margin.value == pytest.approx(np.mean(both), abs=0.01)
    assert one.texts[0] == tiny_model.detokenize(
        greedy(tiny_model, [tiny_model.tokenize(text)], 12)[0]
    )
    monkeypatch.setattr(module, "MAX_SHEET", 20)
    assert asked.told("all facts in the prompt") is None
    assert asked.told("fact in the prompt") == one


@pytest.fixture
def short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"english": ("a text", "one more"), "french": ("un texte",)}
    monkeypatch.setattr(locality, "fixed_text", texts.__getitem__)


def plan(*facts: Fact) -> EvaluationPlan:
    return EvaluationPlan("t", (), facts=facts, neutral=("other", "text"), behaviour="facts")


@pytest.mark.usefixtures("short_texts")
def test_a_plan_of_facts_alone_is_evaluated_and_told_of(tiny_model: Model) -> None:
    cartridge = shift(tiny_model)
    points = sweep(tiny_model, [cartridge], [[1.0]], plan(*FACTS))
    assert [point.label for point in points] == ["unsteered", *TOLD, "shift"]
    assert point_count([plan(*FACTS)], 1, [1.0]) == 4
    for point in points:
        assert point.scores.facts is not None
        assert point.scores.behaviour == point.scores.facts.mean
    found = compare(
        tiny_model, [cartridge], plan(FACTS[0]), validation=plan(FACTS[1]), alphas=[0.5, 1.0]
    )
    assert found.chosen_on is not None
    assert (str(found.tested_on), str(found.chosen_on)) == (
        "1 fact, 2 neutral texts",
        "1 fact, 2 neutral texts",
    )
    assert [row.other for row in found.differences] == [*TOLD]
    assert {"efficacy", "neighbours"} <= set(found.differences[0].figures)
    assert Evaluation.from_json(found.to_json()) == found
    table = fact_table(found.tests)
    assert table is not None
    assert len(table.rows) == 4 * 3
    assert [row.by for row in table.rows[:3]] == [BY_ODDS, BY_TEXT, MARGIN]
    page = render(found)
    assert "fact in the prompt" in page
    assert "efficacy ↑" in page


def test_without_facts_there_is_no_table() -> None:
    assert fact_table([]) is None


def test_what_else_is_asked_of_a_subject_is_to_stay(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_elsewhere", lambda *_, **__: [["Vel has", "Vel was"], []])
    asked = judge(tiny_model)
    plain = asked.measure(UNSTEERED, None)
    assert plain.kept is not None
    assert plain.kept.value == 1.0
    steering = (Dose(shift(tiny_model), 3.0),)
    steered = asked.measure(steering, None)
    firsts = [
        greedy(tiny_model, [tiny_model.tokenize(text)], 1, steering=under)[0]
        for under in (UNSTEERED, steering)
        for text in ("Vel has", "Vel was")
    ]
    assert steered.kept is not None
    assert steered.kept.value == np.mean([firsts[0] == firsts[2], firsts[1] == firsts[3]]) < 1.0


def test_a_changed_model_is_set_against_what_it_was(tiny_path: Callable[..., Path]) -> None:
    with Model(str(tiny_path(seed=1))) as before, Model(str(tiny_path(seed=2))) as now:
        was = judge(before)
        asked = FactJudge(now, FACTS, PromptWriter(now), before=was)
        assert asked.probes is was.probes
        found, plain = asked.measure(UNSTEERED, None), judge(now).measure(UNSTEERED, None)
    assert found.texts == plain.texts  # its own words, not those of the model before
    assert plain.unchanged is not None
    assert plain.unchanged.value == 1.0
    assert found.unchanged is not None
    assert found.unchanged.value < 1.0
