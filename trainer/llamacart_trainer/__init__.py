"""Fits cartridges in closed form and measures what they do; `docs/python.md` shows how."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamacart.lazy import attach

if TYPE_CHECKING:
    from llamacart_trainer.evaluation.baselines import fit_baselines
    from llamacart_trainer.evaluation.bootstrap import Estimate
    from llamacart_trainer.evaluation.contents import Answer, Prompt
    from llamacart_trainer.evaluation.evaluate import evaluate
    from llamacart_trainer.evaluation.evaluator import Evaluator
    from llamacart_trainer.evaluation.facts.figures import FactFigures, GroupFigures
    from llamacart_trainer.evaluation.objective import Objective
    from llamacart_trainer.evaluation.plan import EvaluationPlan, load_plan
    from llamacart_trainer.evaluation.prompts.conversation import Preamble
    from llamacart_trainer.evaluation.results import (
        CartridgeFacts,
        Difference,
        Evaluation,
        HeldOut,
        LayerFidelity,
        Measured,
        Point,
        Projection,
        Scores,
    )
    from llamacart_trainer.evaluation.scorers import language, words
    from llamacart_trainer.evaluation.significance import Contrast
    from llamacart_trainer.fitting.memory import MemoryPlan
    from llamacart_trainer.fitting.settings import LayerReport
    from llamacart_trainer.fitting.training import TrainResult, train
    from llamacart_trainer.recipe.distilled import DistilledPrompt
    from llamacart_trainer.recipe.draft import DraftSettings
    from llamacart_trainer.recipe.evaluation import EvaluationSettings
    from llamacart_trainer.recipe.facts import Fact, Neighbour, Use
    from llamacart_trainer.recipe.questions import builtin_questions
    from llamacart_trainer.recipe.recipe import Recipe, Task, builtin_neutral, load_task
    from llamacart_trainer.recipe.records import TextPair
    from llamacart_trainer.recipe.tasks import facts_task, make_task, prompt_task
    from llamacart_trainer.recipe.turns import ChatPair, Exchange, Turn
    from llamacart_trainer.report.page import render
    from llamacart_trainer.solvers import SOLVERS
    from llamacart_trainer.tuning.search import TuneResult, tune
    from llamacart_trainer.tuning.space import Candidate
    from llamacart_trainer.tuning.trials import Trial

_HOMES = {
    "llamacart_trainer.evaluation.baselines": ("fit_baselines",),
    "llamacart_trainer.evaluation.bootstrap": ("Estimate",),
    "llamacart_trainer.evaluation.contents": ("Answer", "Prompt"),
    "llamacart_trainer.evaluation.prompts.conversation": ("Preamble",),
    "llamacart_trainer.evaluation.evaluate": ("evaluate",),
    "llamacart_trainer.evaluation.evaluator": ("Evaluator",),
    "llamacart_trainer.evaluation.facts.figures": (
        "FactFigures",
        "GroupFigures",
    ),
    "llamacart_trainer.evaluation.objective": ("Objective",),
    "llamacart_trainer.evaluation.plan": (
        "EvaluationPlan",
        "load_plan",
    ),
    "llamacart_trainer.evaluation.results": (
        "CartridgeFacts",
        "Difference",
        "Evaluation",
        "HeldOut",
        "LayerFidelity",
        "Measured",
        "Point",
        "Projection",
        "Scores",
    ),
    "llamacart_trainer.evaluation.scorers": (
        "language",
        "words",
    ),
    "llamacart_trainer.evaluation.significance": ("Contrast",),
    "llamacart_trainer.fitting.settings": ("LayerReport",),
    "llamacart_trainer.fitting.memory": ("MemoryPlan",),
    "llamacart_trainer.fitting.training": (
        "TrainResult",
        "train",
    ),
    "llamacart_trainer.recipe.distilled": ("DistilledPrompt",),
    "llamacart_trainer.recipe.draft": ("DraftSettings",),
    "llamacart_trainer.recipe.evaluation": ("EvaluationSettings",),
    "llamacart_trainer.recipe.facts": ("Fact", "Neighbour", "Use"),
    "llamacart_trainer.recipe.questions": ("builtin_questions",),
    "llamacart_trainer.recipe.recipe": (
        "Recipe",
        "Task",
        "builtin_neutral",
        "load_task",
    ),
    "llamacart_trainer.recipe.records": ("TextPair",),
    "llamacart_trainer.recipe.tasks": (
        "facts_task",
        "make_task",
        "prompt_task",
    ),
    "llamacart_trainer.recipe.turns": (
        "ChatPair",
        "Exchange",
        "Turn",
    ),
    "llamacart_trainer.report.page": ("render",),
    "llamacart_trainer.solvers": ("SOLVERS",),
    "llamacart_trainer.tuning.search": (
        "TuneResult",
        "tune",
    ),
    "llamacart_trainer.tuning.space": ("Candidate",),
    "llamacart_trainer.tuning.trials": ("Trial",),
}

__all__ = [
    "SOLVERS",
    "Answer",
    "Candidate",
    "CartridgeFacts",
    "ChatPair",
    "Contrast",
    "Difference",
    "DistilledPrompt",
    "DraftSettings",
    "Estimate",
    "Evaluation",
    "EvaluationPlan",
    "EvaluationSettings",
    "Evaluator",
    "Exchange",
    "Fact",
    "FactFigures",
    "GroupFigures",
    "HeldOut",
    "LayerFidelity",
    "LayerReport",
    "Measured",
    "MemoryPlan",
    "Neighbour",
    "Objective",
    "Point",
    "Preamble",
    "Projection",
    "Prompt",
    "Recipe",
    "Scores",
    "Task",
    "TextPair",
    "TrainResult",
    "Trial",
    "TuneResult",
    "Turn",
    "Use",
    "builtin_neutral",
    "builtin_questions",
    "evaluate",
    "facts_task",
    "fit_baselines",
    "language",
    "load_plan",
    "load_task",
    "make_task",
    "prompt_task",
    "render",
    "train",
    "tune",
    "words",
]

__getattr__, __dir__ = attach(__name__, _HOMES)
