"""What `llamacart tune` may choose from."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llamacart_trainer.recipe.recipe import BUILTIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamacart_trainer.recipe.recipe import Recipe

PENALTIES: tuple[float | Literal["auto"], ...] = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, "auto")
THRESHOLDS = (0.02, 0.03, 0.05)
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
    """

    solver: str
    penalty: float | Literal["auto"]
    threshold: float
    skip_layers: tuple[int, ...]
    pairing: tuple[str, ...]
    neutral: str | None = None

    @property
    def changes(self) -> dict[str, Any]:
        """The candidate as fields of a `Recipe`."""
        return {
            "solver": self.solver,
            "penalty": self.penalty,
            "threshold": self.threshold,
            "skip_layers": list(self.skip_layers),
            "pairing": list(self.pairing),
            "neutral": self.neutral,
        }

    @property
    def parts(self) -> list[str]:
        """Each setting in short; those that change nothing are left out."""
        found = [self.solver]
        if self.solver in PENALISED:
            found.append("λ=auto" if self.penalty == "auto" else f"λ={self.penalty:g}")
        found.append(f"δ={self.threshold:g}")
        if self.skip_layers:
            found.append(f"skip={','.join(map(str, self.skip_layers))}")
        found.append("+".join(self.pairing))
        if self.neutral:
            found.append(f"neutral={self.neutral}")
        return found

    def __str__(self) -> str:
        return " ".join(self.parts)


def candidates(recipe: Recipe, solvers: Sequence[str], *, seed: int = 0) -> list[Candidate]:
    """The space in the order in which it is tried.

    The recipe's own settings come first, then what differs from them in one setting alone (every
    solver, every λ, …), then the rest in random order: a short budget still tries each kind of
    change once.

    Args:
        recipe: Where the search starts. Its pairing is replaced only where it is one of
            `PAIRINGS`: other pairings need data of another form.
        solvers: Names of solvers.
        seed: Of the random order.
    """
    own = Candidate(
        solver=recipe.solver,
        penalty=recipe.penalty,
        threshold=recipe.threshold,
        skip_layers=tuple(recipe.skip_layers),
        pairing=tuple(recipe.pairing),
        neutral=recipe.neutral,
    )
    pairings = PAIRINGS if own.pairing in PAIRINGS else (own.pairing,)
    product = itertools.product(
        solvers, _with(own.penalty, PENALTIES), _with(own.threshold, THRESHOLDS),
        _with(own.skip_layers, SKIPPED), pairings, _neutral(own),
    )  # fmt: skip
    grid = [c for c in (Candidate(*values) for values in product) if _sensible(c, own)]
    near = [c for c in grid if _differences(c, own) == 1]
    far = [c for c in grid if _differences(c, own) > 1]
    order = np.random.default_rng(seed).permutation(len(far))
    return [own, *near, *(far[i] for i in order)]


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
    """The recipe's and the trainer's; none where no rows are tied."""
    return [None] if own.pairing == ("distribution",) else _with(own.neutral, [BUILTIN])


def _sensible(candidate: Candidate, own: Candidate) -> bool:
    """A solver without λ is tried at one value of it, and with the recipe's neutral texts."""
    if candidate.solver in PENALISED:
        return True
    return (candidate.penalty, candidate.neutral) == (own.penalty, own.neutral)


def _differences(a: Candidate, b: Candidate) -> int:
    return sum(a.changes[key] != b.changes[key] for key in a.changes)
