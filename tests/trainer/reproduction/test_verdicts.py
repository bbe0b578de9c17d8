"""Verdicts on made-up figures whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llamacart_trainer.evaluation.bootstrap import Estimate
from llamacart_trainer.evaluation.results import Scores
from llamacart_trainer.reproduction.trials import PAPER_FRENCH, LayerFit, PaperTrial
from llamacart_trainer.reproduction.verdicts import Verdict, judge

GOOD = {"log_odds": 2.0, "p_target": 0.3, "p_leaked": 0.0, "kl": 0.0, "distinct": 0.8}


def around(value: float, half: float = 0.05) -> Estimate:
    return Estimate(value, value - half, value + half, 20)


def trial(name: str, layers: tuple[float, ...] = (0.9, 0.9), **figures: float) -> PaperTrial:
    known = {key: around(value) for key, value in figures.items()}
    needed = dict.fromkeys(("behaviour", "nll", "distinct", "repetition"))
    return PaperTrial(
        name=name,
        about="",
        scores=Scores(**{**needed, **known}),
        variant=replace(PAPER_FRENCH, name=name),
        layers=tuple(LayerFit(i, 5, fidelity, 1.0, 1.0) for i, fidelity in enumerate(layers)),
    )


def find(verdicts: tuple[Verdict, ...], words: str) -> Verdict:
    (found,) = [v for v in verdicts if words in v.claim]
    return found


def language(**changes: PaperTrial) -> tuple[Verdict, ...]:
    trials = {
        "unsteered": trial("unsteered", (), behaviour=0.0, distinct=0.8),
        "ceiling": trial("ceiling", (), behaviour=1.0, distinct=0.8),
        "paper": trial("paper", behaviour=0.9, distinct=0.7, nll=2.0),
        "mean-replace": trial("mean-replace", behaviour=0.5, distinct=0.7, nll=2.0),
        "ours": trial("ours", behaviour=1.0, distinct=0.8, nll=2.0),
    }
    return judge("language", list({**trials, **changes}.values()))


def moon(**changes: PaperTrial) -> tuple[Verdict, ...]:
    trials = {
        "unsteered": trial("unsteered", (), log_odds=-7.0, p_leaked=0.0, distinct=0.8),
        "conflict": trial("conflict", log_odds=0.2, p_leaked=0.0, kl=0.0, distinct=0.8),
        "distillation": trial("distillation", **GOOD),
        "mean-replace": trial("mean-replace", log_odds=1.0, p_leaked=0.0, kl=0.0, distinct=0.8),
    }
    return judge("moon", list({**trials, **changes}.values()))


def test_figures_as_in_the_paper_reproduce() -> None:
    assert all(v.holds for v in moon())
    held = {v.claim: v.holds for v in language()}
    assert sum(not holds for holds in held.values()) == 1  # the identity prior is better


@pytest.mark.parametrize(
    ("words", "paper"),
    [
        ("answered in French", trial("paper", behaviour=0.7, distinct=0.7, nll=2.0)),
        ("fidelity", trial("paper", (0.9, 0.79), behaviour=0.9, distinct=0.7, nll=2.0)),
        ("loops", trial("paper", behaviour=0.9, distinct=0.6, nll=2.0)),
        ("mean of the targets", trial("paper", behaviour=0.5, distinct=0.6, nll=2.0)),
    ],
)
def test_each_language_claim_can_fail(words: str, paper: PaperTrial) -> None:
    assert find(language(), words).holds
    assert not find(language(paper=paper), words).holds


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ("believe that the Moon", {"distillation": {"log_odds": -0.1}}),
        ("believe that the Moon", {"distillation": {"log_odds": 0.04}}),
        ("believe that the Moon", {"distillation": {"p_target": 0.04}}),
        ("keep what they are made of", {"distillation": {"p_leaked": 0.02}}),
        ("keep what they are made of", {"distillation": {"kl": 0.06}}),
        ("arguing with itself", {"conflict": {"log_odds": -3.0}}),
        ("arguing with itself", {"conflict": {"log_odds": 0.2, "distinct": 0.2}}),
        ("high λ", {"conflict": {"log_odds": 3.0}}),
        ("more than replacing", {"mean-replace": {"log_odds": 2.5}}),
    ],
)
def test_each_moon_claim_can_fail(words: str, changed: dict[str, dict[str, float]]) -> None:
    ((name, figures),) = changed.items()
    assert find(moon(), words).holds
    assert not find(moon(**{name: trial(name, **{**GOOD, **figures})}), words).holds


def test_a_claim_without_its_trials_is_left_out() -> None:
    alone = judge("moon", [trial("unsteered", (), log_odds=-7.0)])
    assert alone == ()


@pytest.mark.parametrize("words", ["high λ", "more than replacing"])
def test_nothing_is_concluded_from_collapsed_text(words: str) -> None:
    collapsed = trial("distillation", **{**GOOD, "distinct": 0.2})
    assert find(moon(distillation=collapsed), words).holds is None
