"""Successive halving over fits and strengths, by a validation split.

Rung 0 tries as many candidates as half of the time allows, at a few αs on few prompts. The best
third goes on to three times the prompts with finer αs, and the best third of that to all of them.
The objective is the plan's (see `Objective`): behaviour and distinct-2 demanded first, no less
than what the plan's prompts reach, then the least NLL + weight × KL. The winner alone is scored on
the test plan, which chooses nothing.

Source: Jamieson and Talwalkar (2016), arXiv:1502.07943.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from llamacart.errors import RecipeError
from llamacart.machine.memory import default_memory
from llamacart.machine.processors import choose_threads
from llamacart_trainer.evaluation.baselines import answered, target_keys, variant
from llamacart_trainer.evaluation.evaluator import Evaluator
from llamacart_trainer.evaluation.prompts.closing import closing_sentence
from llamacart_trainer.evaluation.results import Point
from llamacart_trainer.evaluation.sweep import prompt_points
from llamacart_trainer.evaluation.work import LayersDone, Work
from llamacart_trainer.fitting.cascade import MAX_UBATCH_ROWS
from llamacart_trainer.fitting.identity import fit_facts, of_function
from llamacart_trainer.fitting.training import train
from llamacart_trainer.report.stored import EVALUATION, Record
from llamacart_trainer.solvers import SOLVERS
from llamacart_trainer.tuning.evidence import by_alpha, evidence, recorded
from llamacart_trainer.tuning.space import candidates, coarse_alphas, refined
from llamacart_trainer.tuning.trials import FAILED, Trial, TrialTable, scored

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from llamacart.cartridge import Cartridge
    from llamacart.llama.model import Model
    from llamacart_trainer.evaluation.objective import Objective
    from llamacart_trainer.evaluation.plan import EvaluationPlan
    from llamacart_trainer.evaluation.results import Measured, Scores
    from llamacart_trainer.evaluation.work import OnPart
    from llamacart_trainer.fitting.identity import Facts
    from llamacart_trainer.recipe.recipe import Task
from llamacart_trainer.tuning.space import Candidate

KEEP = 3
"""One in so many goes on to the next rung."""

FIRST_PROMPTS = 8
MAX_PROMPTS = 72
NEUTRAL_TEXTS = 6
SHARES = (0.5, 0.75, 0.95)
"""Share of the time that is spent when each rung ends."""

KEPT_FITS = 32


@dataclass(frozen=True)
class TuneResult:
    """The chosen cartridge and why it was chosen.

    Attributes:
        cartridge: With the chosen α as its default and the evidence in its diagnostics.
        chosen: The trial it won by.
        trials: Every trial, those of earlier runs of the search too.
        test: The cartridge on the test plan.
        chosen_on: What the trials of the last rung were taken over.
        tested_on: What `test` was taken over.
        beside: The unsteered model and the plan's prompts on the test plan.
        sentence: How near the cartridge comes to them.
    """

    cartridge: Cartridge
    chosen: Trial
    trials: tuple[Trial, ...]
    test: Scores
    chosen_on: Measured
    tested_on: Measured
    beside: tuple[Point, ...] = ()
    sentence: str = ""


@dataclass
class Search:
    """One search for one recipe.

    Args:
        task: The recipe and its pairs.
        model: The model.
        validation: Plan to choose by.
        test: Plan that the winner is reported on.
        seconds: Time to spend.
        table: Where trials are kept.
        space: Candidates in order; the default is `candidates` of the recipe.
        on_trial: Called with each new trial.
        on_part: Called as a candidate is fitted and measured.
        clock: Seconds, ascending.
        n_threads: Threads for llama.cpp.
    """

    task: Task
    model: Model
    validation: EvaluationPlan
    test: EvaluationPlan
    seconds: float
    table: TrialTable
    space: Sequence[Candidate] = ()
    on_trial: Callable[[Trial], None] = lambda _trial: None
    on_part: OnPart = lambda _what, _share: None
    clock: Callable[[], float] = time.monotonic
    n_threads: int | None = None
    _fits: dict[Candidate, Cartridge] = field(default_factory=dict, repr=False)
    _judges: dict[int, Evaluator] = field(default_factory=dict, repr=False)
    _objectives: dict[int, Objective] = field(default_factory=dict, repr=False)
    _started: float = field(default=0.0, repr=False)
    _work: Work = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._work = Work(self.on_part)

    def run(self) -> TuneResult:
        """Search, and score the winner on the test plan.

        Raises:
            RecipeError: No candidate could be fitted.
        """
        self._started = self.clock()
        self.task = answered(self.task, self.model, on_part=self.on_part, n_threads=self.n_threads)
        space = list(self.space) or candidates(self.task.recipe, list(SOLVERS))
        survivors = [
            (candidate, alpha)
            for candidate in space
            for alpha in coarse_alphas(self.validation.alphas)
        ]
        best: Trial | None = None
        for rung, _ in enumerate(SHARES):
            done = self._rung(rung, survivors)
            if not done:
                break
            best = done[0]
            kept = done[: max(1, len(done) // KEEP)]
            survivors = refined([(t.candidate, t.alpha) for t in kept], finer=rung == 0)
        if best is None:
            faults = [trial.error for trial in self.table.all() if trial.error]
            reason = f": {faults[0]}" if faults else " within the time given"
            raise RecipeError(f"recipe {self.task.recipe.name!r}: no candidate was fitted{reason}")
        return self._finish(best)

    def _rung(self, rung: int, wanted: Sequence[tuple[Candidate, float]]) -> list[Trial]:
        """Trials of a rung that fit its time, best first; the first is made whatever it takes."""
        done: list[Trial] = []
        deadline = self._started + SHARES[rung] * self.seconds
        for candidate, alpha in wanted:
            trial = self.table.find(candidate, alpha, rung)
            if trial is None:
                if self.clock() >= deadline and done:
                    break
                trial = self._try(candidate, alpha, rung)
                self.table.add(trial)
                self.on_trial(trial)
            if not trial.error:
                done.append(trial)
        return sorted(done, key=lambda trial: trial.key)

    def _try(self, candidate: Candidate, alpha: float, rung: int) -> Trial:
        started = self.clock()
        judge = self._judge(rung)
        plan = judge.plan
        prompts = len(plan.prompts) + len(plan.answers) + len(plan.facts)
        try:
            fitted = self._fit(candidate)
            with self._work.on(f"{candidate}, α = {alpha:g}", f"rung {rung}"):
                scores = judge.score(fitted, alpha)
        except RecipeError as error:
            return Trial(candidate, alpha, rung, prompts, FAILED, FAILED, error=error.message)
        objective = self._objective(rung)
        seconds = self.clock() - started
        return scored(candidate, alpha, rung, prompts, scores, objective, seconds)

    def _fit(self, candidate: Candidate) -> Cartridge:
        if candidate not in self._fits:
            while len(self._fits) >= KEPT_FITS:
                self._fits.pop(next(iter(self._fits)))
            without = target_keys(self.task.recipe, candidate.target)
            recipe = variant(self.task.recipe, without=without, **candidate.changes)
            task = self.task.with_recipe(recipe)
            told = LayersDone(f"fit {candidate}", self.on_part)
            result = train(
                task,
                self.model,
                on_layers=told.on_layers,
                on_layer=told.on_layer,
                n_threads=self.n_threads,
            )
            self._fits[candidate] = result.cartridge
        return self._fits[candidate]

    def _plan(self, rung: int) -> EvaluationPlan:
        plan = self.validation.first(min(FIRST_PROMPTS * KEEP**rung, MAX_PROMPTS))
        return replace(plan, neutral=plan.neutral[:NEUTRAL_TEXTS]) if rung == 0 else plan

    def _judge(self, rung: int) -> Evaluator:
        if rung not in self._judges:
            plan = self._plan(rung)
            self._judges[rung] = Evaluator(self.model, plan, self.n_threads, with_perplexity=False)
        return self._judges[rung]

    def _objective(self, rung: int) -> Objective:
        """What is asked for beside the plan's prompts, on the texts of a rung."""
        if rung not in self._objectives:
            judge = self._judge(rung)
            points = prompt_points(judge, self._work)
            self._objectives[rung] = self.validation.objective.beside(points)
        return self._objectives[rung]

    def _finish(self, best: Trial) -> TuneResult:
        fitted = self._fit(best.candidate)
        objective = self._objective(best.rung)
        self._judges.clear()
        judge = Evaluator(self.model, self.test, self.n_threads)
        with self._work.on("the best on the test prompts", "test"):
            scores = judge.score(fitted, best.alpha)
        with self._work.on("unsteered on the test prompts", "test"):
            unsteered = judge.score(None, 0.0)
        beside = (
            Point("unsteered", "unsteered", 0.0, unsteered),
            *prompt_points(judge, self._work),
        )
        mine = Point(fitted.name, "cartridge", best.alpha, scores)
        took = self.clock() - self._started
        found = evidence(self.table.all(), best, scores, objective, self.test, took)
        kept = {"tune": found, EVALUATION: self._record(best, scores, unsteered, objective)}
        metadata = replace(
            fitted.metadata,
            default_alpha=best.alpha,
            diagnostics={**fitted.metadata.diagnostics, **kept},
        )
        return TuneResult(
            replace(fitted, metadata=metadata),
            best,
            tuple(self.table.all()),
            scores,
            self._plan(best.rung).measured,
            self.test.measured,
            beside,
            closing_sentence(mine, beside, seed=self.test.seed),
        )

    def _record(
        self, best: Trial, scores: Scores, unsteered: Scores, objective: Objective
    ) -> dict[str, Any]:
        """The winner's evaluation, as `llamacart eval --store` keeps one."""
        trials = by_alpha(self.table.all(), best)
        return Record(
            recipe=self.test.name,
            behaviour=self.test.behaviour,
            objective=str(objective),
            tested_on=self.test.measured,
            chosen_on=self._plan(trials[0].rung).measured,
            alpha=best.alpha,
            test=scores,
            unsteered=unsteered,
            points=recorded(trials, prompted=objective.prompted),
        ).as_json()


def tune(
    task: Task,
    model: Model,
    validation: EvaluationPlan,
    test: EvaluationPlan,
    *,
    seconds: float,
    trials: Path | None = None,
    on_trial: Callable[[Trial], None] = lambda _trial: None,
    on_part: OnPart = lambda _what, _share: None,
    n_threads: int | None = None,
) -> TuneResult:
    """Choose target, solver, λ, δ or K, α, layers and pairing for a recipe in a time budget.

    Args:
        task: The recipe and its pairs.
        model: The model.
        validation: Plan to choose by; see `split_plans`.
        test: Plan that the winner is reported on.
        seconds: Time to spend; the first fit and the scoring on the test plan are made anyhow.
        trials: JSONL file of all trials; one from an earlier run of the same search is gone on
            from, and what is in it is not run again.
        on_trial: Called with each new trial.
        on_part: Called as a candidate is fitted and measured.
        n_threads: Threads for llama.cpp.

    Raises:
        RecipeError: No candidate could be fitted.
        InputError: `trials` belongs to another search.
    """
    table = TrialTable(trials, search_facts(task, model, validation, n_threads))
    return Search(
        task,
        model,
        validation,
        test,
        seconds,
        table,
        on_trial=on_trial,
        on_part=on_part,
        n_threads=n_threads,
    ).run()


def search_facts(
    task: Task, model: Model, validation: EvaluationPlan, n_threads: int | None = None
) -> Facts:
    """Everything that a trial's result depends on, beside its own candidate, α and rung.

    Time is no part of it, nor is the test plan: a search goes on with more of the one and another
    of the other.
    """
    limits = {
        "rows": MAX_UBATCH_ROWS,
        "bytes": default_memory(),
        "threads": choose_threads(n_threads),
    }
    return {
        **fit_facts(task, model, limits),
        "set of validation prompts": [asdict(prompt) for prompt in validation.prompts],
        "set of prompts beside cartridges": [asdict(each) for each in validation.preambles],
        "form of prompts": _form_of(validation),
        "set of answers": [asdict(answer) for answer in validation.answers],
        "set of neutral texts": list(validation.neutral),
        # Searches without facts go on from what they wrote before there were any.
        **(
            {"set of facts": [f.model_dump() for f in validation.facts]} if validation.facts else {}
        ),
        "scorer": [validation.behaviour, of_function(validation.scorer)],
        "number of tokens, seed or rungs": [
            *(validation.tokens, validation.seed),
            *(FIRST_PROMPTS, MAX_PROMPTS, KEEP, NEUTRAL_TEXTS),
        ],
        "objective": [asdict(validation.objective), list(validation.alphas)],
    }


def _form_of(plan: EvaluationPlan) -> list[Any]:
    """What of a recipe says how its prompts are written."""
    recipe = plan.recipe
    if recipe is None:
        return []
    return [recipe.format, recipe.kind, recipe.user_turn, recipe.assistant_turn]
