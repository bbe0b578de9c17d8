"""What `llamacart tune` may choose from."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llamacart_trainer.recipe.recipe import BUILTIN, Recipe
from llamacart_trainer.recipe.target import OF_TEXTS

if TYPE_CHECKING:
    from collections.abc import Sequence

PENALTIES: tuple[float | Literal["auto"], ...] = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, "auto")
RELATIVE_PENALTIES: tuple[float | Literal["auto"], ...] = (0.03, 0.1, 0.3, 1.0)
"""λ where a gap is to be closed: a share."""
THRESHOLDS = (0.02, 0.03, 0.05)
NEURONS = (64, 150, 300)
NEUTRAL_WEIGHTS = (1.0, 3.0)
SKIPPED: tuple[tuple[int, ...], ...] = ((), (-1,))
PAIRINGS: tuple[tuple[str, ...], ...] = (("handover", "identity"), ("position",))
ALPHA_STEP = 0.1
PENALISED = ("ridge", "ridge-identity")
"""Solvers whose λ and neutral texts are searched: the others have no λ, or choose it themselves,
and neutral texts count in regressions alone."""


@dataclass(frozen=True)
class Candidate:
    """Settings of one fit; α is no part of it, for a fit serves every α.

    Attributes:
        solver: Name of the solver.
        penalty: λ, a number or `auto`.
        threshold: δ.
        skip_layers: Layers left alone.
        pairing: Names of the pairings.
        neutral: Texts to be left alone, as the recipe names them.
        target: What a layer is fitted to.
        neurons: K; means something where the target is no activation, as δ does where it is one.
        neutral_weight: How often a neutral row counts, a number or `auto`.
    """

    solver: str
    penalty: float | Literal["auto"]
    threshold: float
    skip_layers: tuple[int, ...]
    pairing: tuple[str, ...]
    neutral: str | None = None
    target: str = "activation"
    neurons: int = 150
    neutral_weight: float | Literal["auto"] = "auto"

    @property
    def closes_gap(self) -> bool:
        """Whether a layer is to close a gap, not to copy activations."""
        return self.target != "activation"

    @property
    def changes(self) -> dict[str, Any]:
        """The candidate as fields of a `Recipe`."""
        changes: dict[str, Any] = {
            "target": self.target,
            "solver": self.solver,
            "penalty": self.penalty,
            "skip_layers": list(self.skip_layers),
            "neutral": self.neutral,
            "neutral_weight": self.neutral_weight,
        }
        changes |= {"neurons": self.neurons} if self.closes_gap else {"threshold": self.threshold}
        # A recipe that distils a prompt ties its rows in a way of its own.
        return changes | ({"pairing": list(self.pairing)} if self.pairing else {})

    @property
    def parts(self) -> list[str]:
        """Each setting in short; those that change nothing are left out."""
        found = [self.solver, *([f"target={self.target}"] if self.closes_gap else [])]
        if self.solver in PENALISED:
            found.append("λ=auto" if self.penalty == "auto" else f"λ={self.penalty:g}")
        found.append(f"K={self.neurons}" if self.closes_gap else f"δ={self.threshold:g}")
        if self.skip_layers:
            found.append(f"skip={','.join(map(str, self.skip_layers))}")
        if self.pairing:
            found.append("+".join(self.pairing))
        if self.neutral:
            found.append(f"neutral={self.neutral}")
        if self.neutral_weight != "auto":
            found.append(f"×{self.neutral_weight:g}")
        return found

    def __str__(self) -> str:
        return " ".join(self.parts)


def candidates(recipe: Recipe, solvers: Sequence[str], *, seed: int = 0) -> list[Candidate]:
    """The space in the order in which it is tried.

    The recipe's own settings come first, then what differs from them in one setting alone (every
    solver, every λ, …), then the other targets at their defaults, then the rest in random order: a
    short budget still tries each kind of change once.

    Args:
        recipe: Where the search starts. Its pairing is replaced only where it is one of
            `PAIRINGS`: other pairings need data of another form.
        solvers: Names of solvers.
        seed: Of the random order.
    """
    own = own_candidate(recipe)
    bases = [own, *(_aimed_at(own, target) for target in _other_targets(own))]
    near: list[Candidate] = []
    far: list[Candidate] = []
    for base in bases:
        for candidate in _grid(base, solvers):
            apart = _differences(candidate, base)
            if apart:
                (near if base is own and apart == 1 else far).append(candidate)
    order = np.random.default_rng(seed).permutation(len(far))
    return [own, *near, *bases[1:], *(far[i] for i in order)]


def own_candidate(recipe: Recipe) -> Candidate:
    """A recipe's own settings."""
    return Candidate(
        solver=recipe.solver,
        penalty=recipe.penalty,
        threshold=recipe.threshold,
        skip_layers=tuple(recipe.skip_layers),
        pairing=tuple(recipe.pairing) if recipe.kind == "pairs" else (),
        neutral=recipe.neutral,
        target=recipe.target,
        neurons=recipe.neurons,
        neutral_weight=recipe.neutral_weight,
    )


def _other_targets(own: Candidate) -> list[str]:
    """Targets beside a recipe's own.

    There is none where no rows are tied, as a gap needs them, nor for facts.
    """
    alone = own.pairing == ("distribution",) or own.target not in OF_TEXTS
    return [] if alone else [target for target in OF_TEXTS if target != own.target]


def _aimed_at(own: Candidate, target: str) -> Candidate:
    """The candidate with another target, and the defaults in what depends on it."""
    defaults = Recipe(name="any", target=target)
    return replace(
        own,
        target=target,
        penalty=defaults.penalty,
        threshold=defaults.threshold,
        neurons=defaults.neurons,
    )


def _grid(base: Candidate, solvers: Sequence[str]) -> list[Candidate]:
    """Every combination of settings that go with a candidate's target."""
    gap = base.closes_gap
    pairings = PAIRINGS if base.pairing in PAIRINGS else (base.pairing,)
    product = itertools.product(
        solvers,
        _with(base.penalty, RELATIVE_PENALTIES if gap else PENALTIES),
        [base.threshold] if gap else _with(base.threshold, THRESHOLDS),
        # The last layer is left alone anyhow where a gap is to be closed.
        [base.skip_layers] if gap else _with(base.skip_layers, SKIPPED),
        pairings,
        _neutral(base),
        [base.target],
        _with(base.neurons, NEURONS) if gap else [base.neurons],
        _with(base.neutral_weight, NEUTRAL_WEIGHTS) if gap else [base.neutral_weight],
    )
    return [c for c in (Candidate(*values) for values in product) if _sensible(c, base)]


def coarse_alphas(alphas: Sequence[float]) -> list[float]:
    """The middle α and those a third in from both ends, at most three."""
    ordered = sorted(set(alphas))
    if len(ordered) <= 3:
        return ordered
    n = len(ordered)
    return [ordered[n // 6], ordered[n // 2], ordered[-1 - n // 6]]


def refined(
    pairs: Sequence[tuple[Candidate, float]], *, finer: bool
) -> list[tuple[Candidate, float]]:
    """The pairs, and where `finer` their neighbours in α, each once and fits together."""
    out: dict[tuple[Candidate, float], None] = {}
    for candidate, alpha in pairs:
        out[candidate, alpha] = None
        if finer:
            for near in (alpha - ALPHA_STEP, alpha + ALPHA_STEP):
                if near > 0:
                    out.setdefault((candidate, round(near, 3)), None)
    return list(out)


def _with(own: Any, values: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys([own, *values]))


def _neutral(own: Candidate) -> list[str | None]:
    """The recipe's and the trainer's; none where no rows are tied.

    A recipe that distils a prompt has the trainer's where it names none.
    """
    if own.pairing == ("distribution",):
        return [None]
    return _with(own.neutral, [BUILTIN] if own.pairing or own.neutral else [])


def _sensible(candidate: Candidate, own: Candidate) -> bool:
    """A solver without λ is tried at one value of it, and with the recipe's neutral texts."""
    if candidate.solver in PENALISED:
        return True
    return all(
        getattr(candidate, name) == getattr(own, name)
        for name in ("penalty", "neutral", "neutral_weight")
    )


def _differences(a: Candidate, b: Candidate) -> int:
    return sum(a.changes[key] != b.changes[key] for key in a.changes)
