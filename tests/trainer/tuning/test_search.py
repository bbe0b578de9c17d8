"""The search on a tiny model: budget, resumption, evidence; the table and the space alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llamacart.errors import InputError, RecipeError
from llamacart.file.reader import read_cartridge
from llamacart.file.writer import write_cartridge
from llamacart.llama.model import Model
from llamacart_trainer.evaluation.baselines import target_keys, variant
from llamacart_trainer.evaluation.bootstrap import estimate
from llamacart_trainer.evaluation.contents import Answer, Prompt
from llamacart_trainer.evaluation.evaluator import Evaluator
from llamacart_trainer.evaluation.objective import Objective
from llamacart_trainer.evaluation.plan import EvaluationPlan
from llamacart_trainer.evaluation.prompts.conversation import Preamble
from llamacart_trainer.evaluation.results import Scores
from llamacart_trainer.evaluation.scorers import language, words
from llamacart_trainer.recipe.conversation import OF_PROMPTS
from llamacart_trainer.recipe.facts import Fact
from llamacart_trainer.recipe.recipe import Recipe, Task, TextPair
from llamacart_trainer.recipe.turns import Turn
from llamacart_trainer.tuning import search as search_module
from llamacart_trainer.tuning.evidence import by_alpha, recorded
from llamacart_trainer.tuning.search import Search, search_facts, tune
from llamacart_trainer.tuning.space import (
    NEURONS,
    NEUTRAL_WEIGHTS,
    RELATIVE_PENALTIES,
    Candidate,
    candidates,
)
from llamacart_trainer.tuning.trials import FAILED, Trial, TrialTable

PAIRS = tuple(TextPair(f"the {w} number", f"le {w} nombre") for w in ("red", "old", "big", "odd"))
TASK = Task(Recipe(name="t", threshold=0.1, penalty=1.0), PAIRS)
OWN = Candidate("ridge-identity", 1.0, 0.1, (), ("handover", "identity"))


def count_e(_prompts: object, texts: list[str]) -> list[float]:
    return [min(1.0, text.count("e") / 2) for text in texts]


PLAN = EvaluationPlan(
    name="t",
    prompts=tuple(Prompt(f"{w} of them") for w in ("one", "two", "three", "four", "five")),
    neutral=("some other text",),
    scorer=count_e,  # type: ignore[arg-type]
    tokens=4,
    alphas=(0.5, 1.0),
)
SPACE = [OWN, replace(OWN, solver="ridge"), replace(OWN, threshold=0.05)]


def make(model: Model, table: TrialTable, seconds: float = 1e6, **more: object) -> Search:
    search = Search(TASK, model, PLAN, replace(PLAN, prompts=PLAN.prompts[:2]), seconds, table,
                    space=SPACE)  # fmt: skip
    return replace(search, **more)  # type: ignore[arg-type]


def test_the_winner_is_the_best_of_the_last_rung(tiny_model: Model, tmp_path: Path) -> None:
    made: list[Trial] = []
    result = make(tiny_model, TrialTable(None, {}), on_trial=made.append).run()
    assert tuple(made) == result.trials
    first = [t for t in made if t.rung == 0]
    assert [(t.candidate, t.alpha) for t in first] == [(c, a) for c in SPACE for a in (0.5, 1.0)]
    # A third of six goes on, with neighbours in α.
    kept = sorted(first, key=lambda t: t.key)[:2]
    second = {(t.candidate, t.alpha) for t in made if t.rung == 1}
    assert second == {(t.candidate, round(t.alpha + d, 3)) for t in kept for d in (-0.1, 0, 0.1)}
    last = [t for t in made if t.rung == 2]
    assert result.chosen == min(last, key=lambda t: t.key)
    cartridge = result.cartridge
    assert cartridge.metadata.default_alpha == result.chosen.alpha
    write_cartridge(cartridge, tmp_path / "t.gguf")
    evidence = read_cartridge(tmp_path / "t.gguf").metadata.diagnostics["tune"]
    assert evidence["trials"] == len(made)
    assert evidence["chosen"]["settings"]["alpha"] == result.chosen.alpha
    assert evidence["chosen"]["nll"] == result.chosen.figures["nll"]
    assert result.test.nll
    assert evidence["test"]["nll"] == pytest.approx(result.test.nll.value, abs=1e-5)
    assert evidence["test"]["prompts"] == 2


def test_the_winner_keeps_an_evaluation_as_eval_stores_it(
    tiny_model: Model, tmp_path: Path
) -> None:
    """Also where no trial was made anew, and what is known of them is what their table says."""
    path = tmp_path / "trials.jsonl"
    for _ in range(2):
        result = make(tiny_model, TrialTable(path, {"recipe": "t"})).run()
        found = result.cartridge.metadata.diagnostics["evaluation"]
        assert found["alpha"] == result.chosen.alpha
        assert found["recipe"] == "t"
        assert found["test"]["nll"][0] == pytest.approx(result.test.nll.value, abs=1e-5)  # type: ignore[union-attr]
        base = result.beside[0].scores
        assert found["unsteered"]["nll"][0] == pytest.approx(base.nll.value, abs=1e-5)  # type: ignore[union-attr]
        assert found["tested_on"].startswith("2 prompts")
        alphas = [point["alpha"] for point in found["points"]]
        assert len(alphas) > 1
        assert alphas == sorted(alphas)
        own = [t for t in result.trials if t.candidate == result.chosen.candidate]
        known = [(t.alpha, t.figures) for t in own]
        assert all((point["alpha"], point["figures"]) in known for point in found["points"])
        assert found["chosen_on"].startswith("5 prompts")
        assert any(point["frontier"] for point in found["points"])


def test_points_that_are_kept_are_those_of_the_highest_rung_with_several() -> None:
    def trial(alpha: float, rung: int, nll: float = 1.0, **more: object) -> Trial:
        figures = {"behaviour": alpha, "nll": nll}
        return Trial(OWN, alpha, rung, 5, 0.0, nll, figures=figures, **more)  # type: ignore[arg-type]

    best = trial(1.0, 2)
    first = [trial(alpha, 0) for alpha in (1.5, 0.5, 1.0)]
    second = [trial(1.0, 1), trial(0.9, 1, 2.0), trial(1.1, 1, error="failed")]
    other = replace(trial(0.7, 2), candidate=replace(OWN, solver="ridge"))
    assert by_alpha([*first, best, other], best) == [first[1], first[2], first[0]]
    kept = by_alpha([*first, *second, best, other], best)
    assert kept == [second[1], second[0]]
    # The one with less behaviour at a greater cost is beaten in everything.
    assert [(p.alpha, p.frontier) for p in recorded(kept, prompted=False)] == [
        (0.9, False), (1.0, True)
    ]  # fmt: skip
    assert by_alpha([best, other], best) == [best]


def test_resumed_search_runs_nothing_twice_and_chooses_alike(
    tiny_model: Model, tmp_path: Path
) -> None:
    path = tmp_path / "trials.jsonl"

    def run(trials: Path) -> tuple[object, list[Trial]]:
        made: list[Trial] = []
        table = TrialTable(trials, {"recipe": "t"})
        return make(tiny_model, table, on_trial=made.append).run(), made

    whole, _ = run(path)
    lines = path.read_text().splitlines(keepends=True)
    # Killed in the middle of its eighth line.
    cut = tmp_path / "cut.jsonl"
    cut.write_text("".join(lines[:7]) + lines[7][:20])
    resumed, made = run(cut)
    assert len(made) == len(lines) - 7
    assert [t.place for t in resumed.trials] == [t.place for t in whole.trials]  # type: ignore[attr-defined]
    assert resumed.chosen.place == whole.chosen.place  # type: ignore[attr-defined]
    _, nothing = run(path)
    assert nothing == []
    assert path.read_text() == "".join(lines)


def test_a_prompt_sets_the_standard_of_each_rung(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the texts of the rung; the winner is set beside it on the test, in a sentence."""
    asked: list[tuple[int, float]] = []

    def behind(self: Evaluator, preamble: Preamble) -> Scores:
        n = len(self.plan.prompts)
        asked.append((n, 0.5 + n / 100))
        return Scores(estimate([0.5 + n / 100] * n), None, None, None)

    monkeypatch.setattr(Evaluator, "behind", behind)
    monkeypatch.setattr(search_module, "FIRST_PROMPTS", 1)
    plan = replace(PLAN, objective=Objective(0.1), preambles=(Preamble("system prompt", (LINE,)),))
    search = make(tiny_model, TrialTable(None, {}), validation=plan, test=plan)
    result = search.run()
    # Rungs of 1, 3 and all 5 prompts, then the test's.
    assert asked == [(1, 0.51), (3, 0.53), (5, 0.55), (5, 0.55)]
    for trial in result.trials:
        target = {1: 0.51, 3: 0.53, 5: 0.55}[trial.prompts]
        demands = {"behaviour": target, "distinct": 0.6, "written": 0.9}
        short = sum(max(0.0, least - trial.figures[name]) for name, least in demands.items())
        assert trial.shortfall == pytest.approx(short, abs=1e-5)
    assert [(p.label, p.kind) for p in result.beside] == [
        ("unsteered", "unsteered"),
        ("system prompt", "prompt"),
    ]
    assert result.sentence.startswith(f"α {result.chosen.alpha:g}: ")
    assert "the system prompt" in result.sentence
    evidence = result.cartridge.metadata.diagnostics["tune"]
    assert "behaviour ≥ 0.55" in evidence["objective"]


def test_facts_alone_are_searched_by(tiny_model: Model) -> None:
    """Their count is what a trial was scored on; what texts would cost is not asked for."""
    facts = tuple(Fact(prompt="{} is", subject=subject, object="b") for subject in ("Al", "Bo"))
    objective = PLAN.objective.of(behaviour=True, texts=False)
    plan = replace(PLAN, prompts=(), scorer=None, facts=facts, objective=objective)
    made = make(tiny_model, TrialTable(None, {}), space=[OWN], validation=plan, test=plan).run()
    assert {trial.prompts for trial in made.trials} == {2}
    assert made.test.facts is not None
    assert made.test.behaviour == made.test.facts.mean
    found = made.cartridge.metadata.diagnostics["evaluation"]
    assert found["tested_on"].startswith("2 facts")
    assert all("efficacy" in figures for figures in (found["test"], found["points"][0]["figures"]))


def test_time_ends_each_rung_but_never_before_its_first_trial(tiny_model: Model) -> None:
    ticks = itertools.count()
    result = make(
        tiny_model, TrialTable(None, {}), seconds=8.0, clock=lambda: float(next(ticks))
    ).run()
    rungs = [t.rung for t in result.trials]
    assert rungs[0] == 0
    assert 1 <= rungs.count(0) < 6
    assert rungs.count(1) == rungs.count(2) == 1
    assert result.chosen.rung == 2


def test_failed_fits_are_kept_and_passed_over(tiny_model: Model) -> None:
    bad = replace(OWN, skip_layers=(9,))
    table = TrialTable(None, {})
    result = make(tiny_model, table, space=[bad, OWN]).run()
    assert [t.shortfall for t in table.all() if t.candidate == bad] == [FAILED] * 2
    assert result.chosen.candidate == OWN
    with pytest.raises(RecipeError, match=r"no candidate was fitted: .*skip_layers has value 9"):
        make(tiny_model, TrialTable(None, {}), space=[bad]).run()


def test_tune_names_its_search(
    tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "SHARES", (0.0, 0.0, 0.0))
    path = tmp_path / "t.jsonl"
    tune(TASK, tiny_model, PLAN, PLAN, seconds=0.0, trials=path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"of another search, with another number of tokens.*file"):
        tune(TASK, tiny_model, replace(PLAN, tokens=5), PLAN, seconds=0.0, trials=path)
    assert path.read_bytes() == before


def harsh(_prompts: object, texts: list[str]) -> list[float]:
    return [min(1.0, text.count("e") / 3) for text in texts]


def changed(**changes: object) -> Task:
    """The task with another recipe field."""
    return replace(
        TASK,
        recipe=Recipe.model_validate({**TASK.recipe.model_dump(exclude_unset=True), **changes}),
    )


OTHER_FIELDS: dict[str, object] = {
    "name": "u", "description": "x", "model": "other.gguf", "default_alpha": 0.5,
    "train": "b.jsonl", "neutral": "n.jsonl", "heldout": "h.jsonl", "prompts": "p.jsonl",
    "threshold": 0.2, "penalty": 2.0, "solver": "ridge", "rank": 1, "storage": "q5_0",
    "impact": 0.01, "pairing": ["position"], "capture": "faithful", "skip_layers": [-1],
    "generate_source": 1, "generate_target": 1, "evaluation": {"tokens": 9}, "format": "chat",
    "kind": "prompt", "prompt": "Be kind.", "prompt_file": "p.txt", "examples": "e.jsonl",
    "questions": "q.jsonl", "answers": "a.jsonl", "answer_tokens": 9, "emphasis": 0.5,
    "draft": {"as_wanted": "Be kind."},
    "user_turn": "U: {}",
    "assistant_turn": "A: {}", "target": "residual", "neurons": 9, "step": 0.5,
    "neutral_weight": 2.0, "neutral_texts": 7, "layers": [0, 1], "margin": 4.0, "neighbours": 3,
    "when": ["said"],
}  # fmt: skip
DISTILS = {"threshold": 0.03, "kind": "prompt", "examples": "turns.jsonl"}
NEEDED: dict[str, dict[str, object]] = {
    "generate_source": {"pairing": ["position"]},
    "generate_target": {"pairing": ["position"]},
    "kind": DISTILS,
    "target": {"threshold": 0.03},
    "neurons": {"target": "residual", "threshold": 0.03},
    "step": {"target": "residual", "threshold": 0.03},
    "margin": {"kind": "facts", "threshold": 0.03},
    "neighbours": {"kind": "facts", "threshold": 0.03},
    **dict.fromkeys(OF_PROMPTS, DISTILS),
}
"""Field → others without which it is refused."""

LINE = Turn("system", "Be kind.")
QUESTIONS: dict[str, tuple[Task, EvaluationPlan]] = {
    **{
        f"recipe {name}": (changed(**NEEDED.get(name, {}) | {name: value}), PLAN)
        for name, value in OTHER_FIELDS.items()
    },
    "a pair": (replace(TASK, pairs=(*PAIRS[:-1], TextPair("the odd one", "le nombre"))), PLAN),
    "a pair's tokens": (replace(TASK, pairs=(*PAIRS[:-1], replace(PAIRS[-1], target_tokens=1))),
                        PLAN),
    "neutral texts to train on": (replace(TASK, neutral=("stay",)), PLAN),
    "a prompt": (TASK, replace(PLAN, prompts=(*PLAN.prompts[:-1], Prompt("six of them")))),
    "a reference": (TASK, replace(PLAN, prompts=(*PLAN.prompts[:-1], Prompt("five of them", "x")))),
    "the order of prompts": (TASK, replace(PLAN, prompts=PLAN.prompts[::-1])),
    "an answer": (TASK, replace(PLAN, answers=(Answer("a", " b", " c"),))),
    "a fact": (TASK, replace(PLAN, facts=(Fact(prompt="{} is", subject="a", object="b"),))),
    "neutral texts to measure on": (TASK, replace(PLAN, neutral=("some more text",))),
    "the scorer": (TASK, replace(PLAN, scorer=harsh)),  # type: ignore[arg-type]
    "the words": (TASK, replace(PLAN, scorer=words(["red"]))),
    "the language": (TASK, replace(PLAN, scorer=language("fr"))),
    "behaviour": (TASK, replace(PLAN, behaviour="another")),
    "tokens": (TASK, replace(PLAN, tokens=5)),
    "alphas": (TASK, replace(PLAN, alphas=(0.5, 1.0, 1.5))),
    "target": (TASK, replace(PLAN, objective=Objective(target=0.5))),
    "KL weight": (TASK, replace(PLAN, objective=Objective(kl_weight=0.5))),
    "seed": (TASK, replace(PLAN, seed=1)),
    "a prompt beside cartridges": (TASK, replace(PLAN, preambles=(Preamble("s", (LINE,)),))),
    "how prompts are written": (TASK, replace(PLAN, recipe=changed(format="chat").recipe)),
}  # fmt: skip


def test_every_recipe_field_is_among_the_questions() -> None:
    assert set(OTHER_FIELDS) == set(Recipe.model_fields)


@pytest.mark.parametrize("changes", QUESTIONS)
def test_no_trial_of_another_question_is_reused(
    tiny_model: Model, tmp_path: Path, changes: str
) -> None:
    path = tmp_path / "t.jsonl"
    needed = NEEDED.get(changes.removeprefix("recipe "), {})
    base = changed(**needed) if changes not in ("recipe kind", "recipe target") else TASK
    TrialTable(path, search_facts(base, tiny_model, PLAN)).add(Trial(OWN, 1.0, 0, 5, 0.0, 0.0))
    same = replace(PLAN, prompts=tuple(Prompt(p.text) for p in PLAN.prompts))
    again = replace(base, recipe=base.recipe.model_copy())
    resumed = TrialTable(path, search_facts(again, tiny_model, same))
    assert resumed.find(OWN, 1.0, 0) is not None
    with pytest.raises(InputError, match="of another search"):
        TrialTable(path, search_facts(QUESTIONS[changes][0], tiny_model, QUESTIONS[changes][1]))


@pytest.mark.parametrize(
    "place",
    [
        "llamacart_trainer.fitting.identity.__version__",
        "llamacart_trainer.fitting.identity.source_digest",
        "llamacart_trainer.tuning.search.FIRST_PROMPTS",
        "llamacart_trainer.tuning.search.NEUTRAL_TEXTS",
        "llamacart_trainer.tuning.search.default_memory",
        "threads",
        "model",
    ],
)
def test_no_trial_of_another_method_or_machine_is_reused(
    tiny_path: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    path = tmp_path / "t.jsonl"
    with Model(str(tiny_path())) as model, Model(str(tiny_path(seed=4))) as other:
        TrialTable(path, search_facts(TASK, model, PLAN, 1))
        TrialTable(path, search_facts(TASK, model, PLAN, 1))
        if "." in place:
            called = place.endswith(("source_digest", "default_memory"))
            monkeypatch.setattr(place, (lambda: 99) if called else 99)
        threads = 2 if place == "threads" else 1
        with pytest.raises(InputError, match="of another search"):
            TrialTable(
                path, search_facts(TASK, other if place == "model" else model, PLAN, threads)
            )


def test_table_refuses_what_is_no_trial(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    TrialTable(path, {"a": 1})
    with path.open("a") as file:
        file.write('{"no": "trial"}\n')
    with pytest.raises(InputError, match=r"t\.jsonl:2: no trial"):
        TrialTable(path, {"a": 1})
    path.write_text("nonsense\n")
    with pytest.raises(InputError, match="not a table"):
        TrialTable(path, {})


def test_space_tries_every_single_change_before_pairs_of_changes() -> None:
    recipe = Recipe(name="t", penalty=300.0, threshold=0.03)
    space = candidates(recipe, ["ridge", "ridge-identity", "mean-shift"])
    assert len(space) == len(set(space))
    own = space[0]
    assert (own.solver, own.penalty) == ("ridge-identity", 300.0)

    def differences(c: Candidate) -> int:
        return sum(c.changes.get(k) != own.changes[k] for k in own.changes)

    counts = [differences(c) for c in space]
    singles = counts.count(1)
    assert counts[: 1 + singles] == [0] + [1] * singles
    assert {c.solver for c in space[: 1 + singles]} == {"ridge", "ridge-identity", "mean-shift"}
    # Then each other target at its defaults.
    other = space[1 + singles]
    assert (other.target, other.penalty, other.neurons) == ("residual", 0.1, 300)
    assert {c.target for c in space[: 1 + singles]} == {"activation"}
    assert {c.penalty for c in space if c.solver == "mean-shift"} == {300.0, 0.1}
    # Neutral texts count in regressions alone.
    assert {c.neutral for c in space if c.solver == "mean-shift"} == {None}
    assert {c.neutral for c in space if c.solver == "ridge"} == {None, "builtin"}
    # Each is a recipe that may be.
    for candidate in space:
        without = target_keys(recipe, candidate.target)
        assert variant(recipe, without=without, **candidate.changes).target == candidate.target
    assert space == candidates(recipe, ["ridge", "ridge-identity", "mean-shift"])
    assert space != candidates(recipe, ["ridge", "ridge-identity", "mean-shift"], seed=1)


def test_space_of_a_prompt_and_of_a_gap() -> None:
    """No pairing is tried where a prompt is distilled, and no δ where a gap is to be closed."""
    recipe = Recipe.model_validate(
        {"name": "t", "kind": "prompt", "prompt": "p", "target": "residual", "neurons": 99}
    )
    space = candidates(recipe, ["ridge-identity"])
    assert len(space) == len(set(space))
    assert space[0].neurons == 99
    gaps = [c for c in space if c.target == "residual"]
    assert {c.neurons for c in gaps} == {99, *NEURONS}
    assert {c.penalty for c in gaps} == set(RELATIVE_PENALTIES)
    assert {c.neutral_weight for c in gaps} == {"auto", *NEUTRAL_WEIGHTS}
    assert {c.neutral for c in space} == {None}
    assert not any("pairing" in c.changes for c in space)
    assert not any("threshold" in c.changes for c in gaps)
    assert str(space[0]) == "ridge-identity target=residual λ=0.1 K=99"
    for candidate in space:
        without = target_keys(recipe, candidate.target)
        assert variant(recipe, without=without, **candidate.changes).kind == "prompt"
    untied = Recipe(name="t", pairing=["distribution"], solver="mean-shift")
    assert {c.target for c in candidates(untied, ["mean-shift"])} == {"activation"}
