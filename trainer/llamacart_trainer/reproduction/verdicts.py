"""Which of the paper's claims the figures bear out. Pure functions of trials.

A claim about one fit holds where the 95 % interval is wholly on the right side of its bar, and
fails where it is wholly on the other. A claim about two fits rests on paired tests over the same
prompts, corrected by Holm's method over the comparisons of the experiment. Every α is the paper's,
so none is chosen here. What the figures leave open is neither "yes" nor "no".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacart_trainer.evaluation.bootstrap import difference
from llamacart_trainer.evaluation.significance import contrast, corrected
from llamacart_trainer.reproduction.evidence import (
    every,
    loops,
    reaches,
    reads,
    short,
    stays,
    told,
    value,
)
from llamacart_trainer.reproduction.trials import FIDELITY_BAR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart_trainer.evaluation.significance import Contrast
    from llamacart_trainer.reproduction.trials import Experiment, PaperTrial

    Trials = dict[str, PaperTrial]
    Contrasts = dict[tuple[str, str, str], Contrast]
    """(one trial, the other, field of `Scores`) → the one minus the other."""

SWITCHED = 0.8
"""Least share of French continuations that counts as a switch of language."""

BELIEVED = 0.05
"""Least mean P(cheese) after a statement on the Moon that counts as a belief: a model whose output
has collapsed also has log-odds about 0, between two words that it no longer says."""

LEAK = 0.01
"""Most that P(cheese) may rise on other things."""

DISTURBED = 0.05
"""Most nats a token that unrelated text may change."""

UNDECIDED = 1.0
"""Most that the log-odds of a model that argues with itself are away from 0."""

AS_MUCH = 0.1
"""What a share may be smaller by and still count as as large."""

AS_FAR = 0.5
"""The same of log-odds."""


@dataclass(frozen=True)
class Verdict:
    """A claim, whether the figures bear it out, and the figures.

    Attributes:
        claim: In words.
        holds: Whether it does; None where the figures leave it open, or where the text has
            collapsed, so that log-odds between two words that the model no longer says decide
            nothing.
        evidence: The figures that decide.
    """

    claim: str
    holds: bool | None
    evidence: str


def judge(experiment: Experiment, trials: Sequence[PaperTrial]) -> tuple[Verdict, ...]:
    """Verdicts on an experiment; claims whose trials are missing are left out.

    Args:
        experiment: Which.
        trials: As `run_experiment` returns them.
    """
    by_name = {trial.name: trial for trial in trials}
    compared = _compared(by_name, COMPARISONS[experiment])
    return (_language if experiment == "language" else _moon)(by_name, compared)


COMPARISONS: dict[Experiment, tuple[tuple[str, str, str], ...]] = {
    "language": tuple(
        ("paper", other, field)
        for other in ("mean-replace", "mean-shift", "ours")
        for field in ("behaviour", "distinct")
    ),
    "moon": (
        ("distillation", "conflict", "log_odds"),
        ("distillation", "mean-replace", "log_odds"),
        ("distillation", "ours", "log_odds"),
        ("distillation", "ours", "kl"),
    ),
}
"""What is compared in each experiment: one family, corrected together."""


def _compared(trials: Trials, wanted: Sequence[tuple[str, str, str]]) -> Contrasts:
    family = {}
    for one, other, field in wanted:
        if one in trials and other in trials:
            a, b = (getattr(trials[name].scores, field) for name in (one, other))
            found = contrast(a, b) if a and b else None
            if found is not None:
                family[one, other, field] = found
    return corrected(family)


def _language(trials: Trials, compared: Contrasts) -> tuple[Verdict, ...]:
    paper, base, ceiling = (trials.get(name) for name in ("paper", "unsteered", "ceiling"))
    verdicts = []
    if paper and base:
        verdicts += [
            Verdict(
                "English prompts are answered in French",
                reaches(paper.scores.behaviour, SWITCHED),
                f"French {short(paper.scores.behaviour)}, unsteered "
                f"{value(base.scores.behaviour):.2f}; bar {SWITCHED}",
            ),
            _fidelity(paper),
            _no_loops(paper, ceiling or base),
        ]
    for other, claim in {
        "mean-replace": "the matrix W does something that the mean of the targets alone does not",
        "mean-shift": "the matrix is ahead of a static shift at the same neurons",
    }.items():
        if paper and other in trials:
            behaviour, distinct = _pair(compared, "paper", other)
            verdicts.append(
                Verdict(
                    claim,
                    _ahead(behaviour, distinct),
                    _side_by_side(paper, trials[other], compared),
                )
            )
    if paper and "ours" in trials:
        behaviour, distinct = _pair(compared, "paper", "ours")
        as_good = None
        if _ahead(behaviour, distinct) is not None:
            as_good = _ahead(behaviour, distinct)
        elif behaviour and distinct and min(behaviour.low, distinct.low) >= -AS_MUCH:
            as_good = True
        verdicts.append(
            Verdict(
                "the paper's fit is as good as the identity prior on the same pairs",
                as_good,
                _side_by_side(paper, trials["ours"], compared),
            )
        )
    return tuple(verdicts)


def _moon(trials: Trials, compared: Contrasts) -> tuple[Verdict, ...]:
    base, conflict, distilled = (
        trials.get(name) for name in ("unsteered", "conflict", "distillation")
    )
    if base is None:
        return ()
    verdicts = []
    if distilled:
        verdicts += [
            _believes(distilled, base),
            _fidelity(distilled),
            _is_local(distilled, base),
            _no_loops(distilled, base),
        ]
    if conflict:
        verdicts.append(_argues(conflict, base))
    for other, claim in {
        "conflict": "a high λ edits better than a low one",
        "mean-replace": "distillation is more than replacing neurons by their mean (λ → ∞)",
    }.items():
        if distilled and other in trials:
            odds = compared.get(("distillation", other, "log_odds"))
            collapsed = reads(distilled, base) is False
            verdicts.append(
                Verdict(
                    claim,
                    None if collapsed or odds is None or not odds.sign else odds.sign > 0,
                    f"{_odds(distilled, trials[other], odds)}; {loops(distilled, base)}; mean ‖W‖ "
                    f"{distilled.weight:.2f} against {trials[other].weight:.2f}",
                )
            )
    if distilled and "ours" in trials:
        verdicts.append(_as_local(distilled, trials["ours"], compared))
    return tuple(verdicts)


def _believes(trial: PaperTrial, base: PaperTrial) -> Verdict:
    odds, chance = trial.scores.log_odds, trial.scores.p_target
    return Verdict(
        "distillation (λ > 1500) makes the model believe that the Moon is cheese",
        every(reaches(odds, 0.0), reaches(chance, BELIEVED)),
        f"median log-odds cheese : rock {short(odds)}, unsteered "
        f"{value(base.scores.log_odds):+.2f}; bar 0; mean P(cheese) {short(chance, 4)}, bar "
        f"{BELIEVED}",
    )


def _argues(trial: PaperTrial, base: PaperTrial) -> Verdict:
    odds = trial.scores.log_odds
    inside = every(reaches(odds, -UNDECIDED), stays(odds, UNDECIDED))
    return Verdict(
        "λ ≈ 70 leaves the model arguing with itself, neither rock nor cheese",
        every(inside, value(base.scores.log_odds) < value(odds), reads(trial, base)),
        f"median log-odds {short(odds)}; undecided is between -{UNDECIDED:g} and "
        f"+{UNDECIDED:g}, in text without loops: {loops(trial, base)}",
    )


def _as_local(trial: PaperTrial, ours: PaperTrial, compared: Contrasts) -> Verdict:
    odds, kl = (compared.get((trial.name, ours.name, field)) for field in ("log_odds", "kl"))
    holds: bool | None = None
    if odds and kl:
        if odds.sign < 0 or kl.sign > 0:
            holds = False
        elif odds.low >= -AS_FAR and kl.high <= DISTURBED:
            holds = True
    return Verdict(
        "the paper's fit edits as well as the identity prior, and as locally",
        holds,
        f"{_odds(trial, ours, odds)}; KL {value(trial.scores.kl):.3f} against "
        f"{value(ours.scores.kl):.3f} nats ({told(kl)})",
    )


def _fidelity(trial: PaperTrial) -> Verdict:
    reached, all_layers = trial.layers_at_bar, len(trial.layers)
    values = [layer.fidelity for layer in trial.layers]
    spread = f", from {min(values):.2f} to {max(values):.2f}" if values else ""
    return Verdict(
        f"{trial.name}: directional fidelity is above {FIDELITY_BAR:.2f} at every layer",
        all_layers > 0 and reached == all_layers,
        f"{reached} of {all_layers} layers on the rows fitted on{spread}"
        + (f"; {trial.unseen_at_bar} on unseen pairs" if trial.unseen else ""),
    )


def _no_loops(trial: PaperTrial, reference: PaperTrial) -> Verdict:
    return Verdict(
        f"{trial.name}: the text stays coherent, without loops",
        reads(trial, reference),
        loops(trial, reference),
    )


def _is_local(trial: PaperTrial, base: PaperTrial) -> Verdict:
    one, other, kl = trial.scores.p_leaked, base.scores.p_leaked, trial.scores.kl
    leaked = difference(one, other) if one and other else None
    return Verdict(
        f"{trial.name}: other things keep what they are made of",
        every(stays(leaked, LEAK), stays(kl, DISTURBED)),
        f"P(cheese) on other things rises by {short(leaked, 3)} (bar {LEAK}); unrelated text "
        f"changes by {short(kl, 3)} nats a token (bar {DISTURBED})",
    )


def _pair(compared: Contrasts, one: str, other: str) -> tuple[Contrast | None, Contrast | None]:
    behaviour, distinct = (compared.get((one, other, field)) for field in ("behaviour", "distinct"))
    return behaviour, distinct


def _ahead(behaviour: Contrast | None, distinct: Contrast | None) -> bool | None:
    """More French, or where that cannot be told fewer loops; None where neither can."""
    for apart in (behaviour, distinct):
        if apart is not None and apart.sign:
            return apart.sign > 0
    return None


def _side_by_side(one: PaperTrial, other: PaperTrial, compared: Contrasts) -> str:
    parts = (
        f"{t.name}: French {value(t.scores.behaviour):.2f}, "
        f"distinct-2 {value(t.scores.distinct):.2f}, NLL {value(t.scores.nll):.2f}"
        for t in (one, other)
    )
    french, distinct = (told(apart) for apart in _pair(compared, one.name, other.name))
    return "; ".join((*parts, f"difference in French {french}", f"in distinct-2 {distinct}"))


def _odds(one: PaperTrial, other: PaperTrial, apart: Contrast | None) -> str:
    return (
        f"median log-odds {value(one.scores.log_odds):+.2f} ({_penalty(one)}) against "
        f"{value(other.scores.log_odds):+.2f} ({_penalty(other)}), difference {told(apart)}"
    )


def _penalty(trial: PaperTrial) -> str:
    return f"λ = {trial.variant.penalty:g}" if trial.variant else trial.name
