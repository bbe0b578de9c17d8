"""Verdicts on made-up figures whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llamacart_trainer.evaluation.bootstrap import Estimate, estimate
from llamacart_trainer.evaluation.results import Scores
from llamacart_trainer.reproduction.trials import PAPER_FRENCH, LayerFit, PaperTrial
from llamacart_trainer.reproduction.verdicts import Verdict, judge

GOOD = {"log_odds": 2.0, "p_target": 0.3, "p_leaked": 0.0, "kl": 0.0, "distinct": 0.8}


N = 40
NOISE = np.random.default_rng(4).normal(size=N)
NOISE -= NOISE.mean()


def around(field: str, value: float) -> Estimate:
    """A figure over 40 prompts; those of two trials differ by the same on each."""
    if field == "behaviour":
        ones = round(N * value)
        return estimate([1.0] * ones + [0.0] * (N - ones), statistic="share")
    spread = {"log_odds": 0.2, "nll": 0.2, "distinct": 0.03, "p_target": 0.02}.get(field, 0.001)
    values = value + spread * NOISE
    return estimate(values, statistic="median" if field == "log_odds" else "mean")


def trial(name: str, layers: tuple[float, ...] = (0.9, 0.9), **figures: float) -> PaperTrial:
    known = {key: around(key, value) for key, value in figures.items()}
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
        "paper": trial("paper", behaviour=0.95, distinct=0.7, nll=2.0),
        "mean-replace": trial("mean-replace", behaviour=0.5, distinct=0.7, nll=2.0),
        "mean-shift": trial("mean-shift", behaviour=0.95, distinct=0.6, nll=2.0),
        "ours": trial("ours", behaviour=1.0, distinct=0.8, nll=2.0),
    }
    return judge("language", list({**trials, **changes}.values()))


def moon(**changes: PaperTrial) -> tuple[Verdict, ...]:
    trials = {
        "unsteered": trial("unsteered", (), log_odds=-7.0, p_leaked=0.0, distinct=0.8),
        "conflict": trial("conflict", log_odds=0.2, p_leaked=0.0, kl=0.0, distinct=0.8),
        "distillation": trial("distillation", **GOOD),
        "mean-replace": trial("mean-replace", log_odds=1.0, p_leaked=0.0, kl=0.0, distinct=0.8),
        "ours": trial("ours", log_odds=2.0, p_leaked=0.0, kl=0.0, distinct=0.8),
    }
    return judge("moon", list({**trials, **changes}.values()))


def test_figures_as_in_the_paper_reproduce() -> None:
    assert all(v.holds is True for v in moon())
    held = [v.holds for v in language()]
    assert held.count(False) == 1  # the identity prior is better
    assert held.count(True) == len(held) - 1 == 5


@pytest.mark.parametrize(
    ("words", "paper"),
    [
        ("answered in French", trial("paper", behaviour=0.6, distinct=0.7, nll=2.0)),
        ("fidelity", trial("paper", (0.9, 0.79), behaviour=0.9, distinct=0.7, nll=2.0)),
        ("loops", trial("paper", behaviour=0.9, distinct=0.6, nll=2.0)),
        ("mean of the targets", trial("paper", behaviour=0.5, distinct=0.6, nll=2.0)),
        ("static shift", trial("paper", behaviour=0.5, distinct=0.7, nll=2.0)),
    ],
)
def test_each_language_claim_can_fail(words: str, paper: PaperTrial) -> None:
    assert find(language(), words).holds is True
    assert find(language(paper=paper), words).holds is False


@pytest.mark.parametrize(
    ("words", "paper"),
    [
        # 36 of 40: the interval goes down to 0.77.
        ("answered in French", trial("paper", behaviour=0.9, distinct=0.7, nll=2.0)),
        ("loops", trial("paper", behaviour=0.9, distinct=0.64, nll=2.0)),
        # One prompt more is no difference, as little as the same.
        ("mean of the targets", trial("paper", behaviour=0.525, distinct=0.7, nll=2.0)),
        ("mean of the targets", trial("paper", behaviour=0.5, distinct=0.7, nll=2.0)),
        ("static shift", trial("paper", behaviour=0.975, distinct=0.6, nll=2.0)),
    ],
)
def test_what_the_figures_leave_open_is_neither_yes_nor_no(words: str, paper: PaperTrial) -> None:
    assert find(language(paper=paper), words).holds is None


def test_as_good_as_another_needs_an_interval_that_excludes_worse() -> None:
    def found(paper: float, ours: float, distinct: float = 0.8) -> bool | None:
        trials = {
            "paper": trial("paper", behaviour=paper, distinct=distinct, nll=2.0),
            "ours": trial("ours", behaviour=ours, distinct=0.8, nll=2.0),
        }
        return find(language(**trials), "as good as the identity").holds

    assert found(1.0, 1.0) is True
    assert found(1.0, 0.95) is True
    assert found(0.9, 1.0) is None
    assert found(0.75, 1.0) is False
    assert found(1.0, 1.0, distinct=0.7) is False


def test_comparisons_are_corrected_over_the_experiment() -> None:
    """Six prompts of difference are p = 0.031 alone, not beside another that is left open."""
    paper = trial("paper", behaviour=0.65, distinct=0.7, nll=2.0)
    verdict = find(language(paper=paper), "mean of the targets")
    assert verdict.holds is None
    assert "difference in French +0.15 [+0.03, +0.26], p 0.062" in verdict.evidence


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ("believe that the Moon", {"distillation": {"log_odds": -0.1}}),
        ("believe that the Moon", {"distillation": {"log_odds": -3.0}}),
        ("believe that the Moon", {"distillation": {"p_target": 0.04}}),
        ("keep what they are made of", {"distillation": {"p_leaked": 0.02}}),
        ("keep what they are made of", {"distillation": {"kl": 0.06}}),
        ("arguing with itself", {"conflict": {"log_odds": -3.0}}),
        ("arguing with itself", {"conflict": {"log_odds": 0.2, "distinct": 0.2}}),
        ("high λ", {"conflict": {"log_odds": 3.0}}),
        ("more than replacing", {"mean-replace": {"log_odds": 2.5}}),
        ("as locally", {"distillation": {"log_odds": 1.0}}),
        ("as locally", {"distillation": {"kl": 0.06}}),
    ],
)
def test_each_moon_claim_can_fail(words: str, changed: dict[str, dict[str, float]]) -> None:
    ((name, figures),) = changed.items()
    assert find(moon(), words).holds is True
    assert find(moon(**{name: trial(name, **{**GOOD, **figures})}), words).holds is False


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ("believe that the Moon", {"distillation": {"log_odds": 0.01}}),
        ("believe that the Moon", {"distillation": {"p_target": 0.051}}),
        ("keep what they are made of", {"distillation": {"kl": 0.05}}),
        ("arguing with itself", {"conflict": {"log_odds": 1.0}}),
        ("high λ", {"conflict": {"log_odds": 2.0}}),
        ("more than replacing", {"mean-replace": {"log_odds": 2.0}}),
    ],
)
def test_each_moon_claim_can_be_left_open(words: str, changed: dict[str, dict[str, float]]) -> None:
    ((name, figures),) = changed.items()
    assert find(moon(**{name: trial(name, **{**GOOD, **figures})}), words).holds is None


def test_a_claim_without_its_trials_is_left_out() -> None:
    alone = judge("moon", [trial("unsteered", (), log_odds=-7.0)])
    assert alone == ()


@pytest.mark.parametrize("words", ["high λ", "more than replacing"])
def test_nothing_is_concluded_from_collapsed_text(words: str) -> None:
    collapsed = trial("distillation", **{**GOOD, "distinct": 0.2})
    assert find(moon(distillation=collapsed), words).holds is None
