"""Which of the paper's claims the figures bear out. Pure functions of trials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamacart_trainer.reproduction.trials import FIDELITY_BAR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart_trainer.evaluation.bootstrap import Estimate
    from llamacart_trainer.reproduction.trials import Experiment, PaperTrial

SWITCHED = 0.8
"""Least share of French continuations that counts as a switch of language."""

READABLE = 0.8
"""Least distinct-2, as a share of the ceiling's (or the unsteered model's), of text without
loops."""

BELIEVED = 0.05
"""Least mean P(cheese) after a statement on the Moon that counts as a belief: a model whose output
has collapsed also has log-odds about 0, between two words that it no longer says."""

LEAK = 0.01
"""Most that P(cheese) may rise on other things."""

DISTURBED = 0.05
"""Most nats a token that unrelated text may change."""


@dataclass(frozen=True)
class Verdict:
    """A claim, whether the figures bear it out, and the figures.

    Attributes:
        claim: In words.
        holds: Whether it does; None where the text has collapsed, so that log-odds between two
            words that the model no longer says decide nothing.
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
    return _language(by_name) if experiment == "language" else _moon(by_name)


def _language(trials: dict[str, PaperTrial]) -> tuple[Verdict, ...]:
    verdicts = []
    paper, base = trials.get("paper"), trials.get("unsteered")
    ceiling, replaced = trials.get("ceiling"), trials.get("mean-replace")
    shifted, ours = trials.get("mean-shift"), trials.get("ours")
    if paper and base:
        share = _value(paper.scores.behaviour)
        verdicts += [
            Verdict(
                "English prompts are answered in French",
                share >= SWITCHED,
                f"French {share:.2f}, unsteered {_value(base.scores.behaviour):.2f}; "
                f"bar {SWITCHED}",
            ),
            _fidelity(paper),
            _no_loops(paper, ceiling or base),
        ]
    if paper and replaced:
        verdicts.append(
            Verdict(
                "the matrix W does something that the mean of the targets alone does not",
                _is_better(paper, replaced),
                _side_by_side(paper, replaced),
            )
        )
    if paper and shifted:
        verdicts.append(
            Verdict(
                "the matrix is ahead of a static shift at the same neurons",
                _is_better(paper, shifted),
                _side_by_side(paper, shifted),
            )
        )
    if paper and ours:
        verdicts.append(
            Verdict(
                "the paper's fit is as good as the identity prior on the same pairs",
                not _is_better(ours, paper),
                _side_by_side(paper, ours),
            )
        )
    return tuple(verdicts)


def _moon(trials: dict[str, PaperTrial]) -> tuple[Verdict, ...]:
    verdicts = []
    base, conflict = trials.get("unsteered"), trials.get("conflict")
    distilled, replaced = trials.get("distillation"), trials.get("mean-replace")
    ours = trials.get("ours")
    if distilled and base:
        before, chance = _value(base.scores.log_odds), distilled.scores.p_target
        verdicts += [
            Verdict(
                "distillation (λ > 1500) makes the model believe that the Moon is cheese",
                _low(distilled.scores.log_odds) > 0 and _value(chance) >= BELIEVED,
                f"median log-odds cheese : rock {_short(distilled.scores.log_odds)}, unsteered "
                f"{before:+.2f}; bar 0 outside the interval; mean P(cheese) "
                f"{_value(chance):.4f}, bar {BELIEVED}",
            ),
            _fidelity(distilled),
            _is_local(distilled, base),
            _no_loops(distilled, base),
        ]
    if conflict and base:
        odds = _value(conflict.scores.log_odds)
        verdicts.append(
            Verdict(
                "λ ≈ 70 leaves the model arguing with itself, neither rock nor cheese",
                _value(base.scores.log_odds) < odds and abs(odds) < 1 and _reads(conflict, base),
                f"median log-odds {odds:+.2f}; undecided is between -1 and +1, in text without "
                f"loops: {_loops(conflict, base)}",
            )
        )
    if conflict and distilled and base:
        one, other = _value(conflict.scores.log_odds), _value(distilled.scores.log_odds)
        verdicts.append(
            Verdict(
                "a high λ edits better than a low one",
                other > one if _reads(distilled, base) else None,
                f"median log-odds at λ = {_penalty(conflict)} {one:+.2f}, "
                f"at λ = {_penalty(distilled)} {other:+.2f}; {_loops(distilled, base)}",
            )
        )
    if distilled and replaced and base:
        one, other = _value(distilled.scores.log_odds), _value(replaced.scores.log_odds)
        verdicts.append(
            Verdict(
                "distillation is more than replacing neurons by their mean (λ → ∞)",
                one > other if _reads(distilled, base) else None,
                f"median log-odds {one:+.2f} against {other:+.2f}; {_loops(distilled, base)}; "
                f"mean ‖W‖ {distilled.weight:.2f}"
                + (f", at λ = {_penalty(conflict)} {conflict.weight:.2f}" if conflict else ""),
            )
        )
    if distilled and ours and base:
        verdicts.append(
            Verdict(
                "the paper's fit edits as well as the identity prior, and as locally",
                _value(distilled.scores.log_odds) >= _value(ours.scores.log_odds)
                and _value(distilled.scores.kl) <= _value(ours.scores.kl),
                f"median log-odds {_value(distilled.scores.log_odds):+.2f} against "
                f"{_value(ours.scores.log_odds):+.2f}, KL {_value(distilled.scores.kl):.3f} "
                f"against {_value(ours.scores.kl):.3f} nats",
            )
        )
    return tuple(verdicts)


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
        _reads(trial, reference),
        _loops(trial, reference),
    )


def _reads(trial: PaperTrial, reference: PaperTrial) -> bool:
    """Whether its text has no more loops than the reference's, within `READABLE`."""
    return _value(trial.scores.distinct) >= READABLE * _value(reference.scores.distinct)


def _loops(trial: PaperTrial, reference: PaperTrial) -> str:
    one, other = _value(trial.scores.distinct), _value(reference.scores.distinct)
    return f"distinct-2 {one:.2f}, {reference.name} {other:.2f}; bar {READABLE * other:.2f}"


def _is_local(trial: PaperTrial, base: PaperTrial) -> Verdict:
    leaked = _value(trial.scores.p_leaked) - _value(base.scores.p_leaked)
    kl = _value(trial.scores.kl)
    return Verdict(
        f"{trial.name}: other things keep what they are made of",
        leaked <= LEAK and kl <= DISTURBED,
        f"P(cheese) on other things rises by {leaked:+.3f} (bar {LEAK}); unrelated text changes "
        f"by {kl:.3f} nats a token (bar {DISTURBED})",
    )


def _is_better(one: PaperTrial, other: PaperTrial) -> bool:
    """More French beyond the other's interval, or as much of it with fewer loops."""
    a, b = one.scores.behaviour, other.scores.behaviour
    if a is None or b is None:
        return False
    if a.low > b.value or b.low > a.value:
        return a.value > b.value
    return _value(one.scores.distinct) > _value(other.scores.distinct)


def _side_by_side(one: PaperTrial, other: PaperTrial) -> str:
    parts = (
        f"{t.name}: French {_value(t.scores.behaviour):.2f}, "
        f"distinct-2 {_value(t.scores.distinct):.2f}, NLL {_value(t.scores.nll):.2f}"
        for t in (one, other)
    )
    return "; ".join(parts)


def _penalty(trial: PaperTrial) -> str:
    return f"{trial.variant.penalty:g}" if trial.variant else "?"


def _low(estimate: Estimate | None) -> float:
    return float("nan") if estimate is None else estimate.low


def _short(estimate: Estimate | None) -> str:
    return "–" if estimate is None else estimate.short


def _value(estimate: Estimate | None) -> float:
    return float("nan") if estimate is None else estimate.value
