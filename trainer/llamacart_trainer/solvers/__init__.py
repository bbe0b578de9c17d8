"""Closed-form fits of one layer's affine map: one format, one interface, one idea a module.

Every solver is a pure function of a `Problem` (and λ) that returns an `AffineMap`. `SOLVERS` names
them as recipes do.
"""

from __future__ import annotations

from llamacart.errors import RecipeError
from llamacart.values.near import did_you_mean
from llamacart_trainer.solvers.ablation import ablate
from llamacart_trainer.solvers.constant import mean_replace, mean_shift
from llamacart_trainer.solvers.factors import Factors, factored
from llamacart_trainer.solvers.path import (
    RidgePath,
    assign_folds,
    choose_penalty,
    spectrum_path,
)
from llamacart_trainer.solvers.pca import paired_direction, pca, pooled_direction
from llamacart_trainer.solvers.problem import AffineMap, PenaltyCurve, Prior, Problem, Solver
from llamacart_trainer.solvers.ridge import ridge, ridge_identity
from llamacart_trainer.solvers.selection import select_neurons
from llamacart_trainer.solvers.spectrum import spectrum, truncated
from llamacart_trainer.solvers.transport import (
    ot_diagonal,
    ot_gaussian,
    ot_sorted,
    transport_noise,
)

SOLVERS: dict[str, Solver] = {
    "ridge": Solver(
        ridge,
        prior="zero",
        needs_pairs=True,
        choose=lambda problem, folds: choose_penalty(problem, "zero", folds),
    ),
    "ridge-identity": Solver(
        ridge_identity,
        needs_pairs=True,
        choose=lambda problem, folds: choose_penalty(problem, "identity", folds),
    ),
    "mean-shift": Solver(mean_shift),
    "mean-replace": Solver(mean_replace, prior="zero"),
    "pca": Solver(pca),
    "ot-diagonal": Solver(ot_diagonal),
    "ot-sorted": Solver(ot_sorted, needs_rows=True),
    "ot-gaussian": Solver(ot_gaussian, choose=transport_noise),
    "ablate": Solver(ablate),
}
"""Name in a recipe → solver."""


def find_solver(name: str) -> Solver:
    """The solver of that name.

    Raises:
        RecipeError: There is none.
    """
    if name not in SOLVERS:
        raise RecipeError(
            f"solver has value {name!r}; one of {', '.join(SOLVERS)} is needed"
            f"{did_you_mean(name, SOLVERS)}",
            param="solver",
        )
    return SOLVERS[name]


__all__ = [
    "SOLVERS",
    "AffineMap",
    "Factors",
    "PenaltyCurve",
    "Prior",
    "Problem",
    "RidgePath",
    "Solver",
    "ablate",
    "assign_folds",
    "choose_penalty",
    "factored",
    "find_solver",
    "mean_replace",
    "mean_shift",
    "ot_diagonal",
    "ot_gaussian",
    "ot_sorted",
    "paired_direction",
    "pca",
    "pooled_direction",
    "ridge",
    "ridge_identity",
    "select_neurons",
    "spectrum",
    "spectrum_path",
    "transport_noise",
    "truncated",
]
