"""Maps that are the same step, or the same value, for every row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamacart_trainer.solvers.problem import AffineMap, from_gap

if TYPE_CHECKING:
    from llamacart_trainer.solvers.problem import Problem


def mean_shift(problem: Problem, penalty: float = 0.0) -> AffineMap:  # noqa: ARG001
    """W = E_S, b = μ_Y − μ_X at S: among constant steps, the one that minimises ‖X + b − Y‖².

    Args:
        problem: X [N, D] and Y [M, K] at S; rows need not be paired.
        penalty: Not looked at.

    Source: contrastive activation addition (Rimsky et al., 2024), at S.
    """
    return AffineMap(problem.no_delta(), problem.shift[problem.neurons])


def mean_replace(problem: Problem, penalty: float = 0.0) -> AffineMap:  # noqa: ARG001
    """W = 0, b = μ_Y at S: among constants, the one that minimises ‖b − Y‖².

    Args:
        problem: X [N, D] and Y [M, K] at S; rows need not be paired.
        penalty: Not looked at.

    Source: mean ablation towards the target; the limit λ → ∞ of the paper's ridge.
    """
    delta = from_gap(problem.no_delta(), problem.neurons, "zero")
    return AffineMap(delta, problem.pairs.mean_y[problem.neurons])
