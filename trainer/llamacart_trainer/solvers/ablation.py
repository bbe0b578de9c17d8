"""Taking a direction out of the activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llamacart_trainer.solvers.problem import AffineMap

if TYPE_CHECKING:
    from llamacart_trainer.solvers.problem import Problem


def ablate(problem: Problem, penalty: float = 0.0) -> AffineMap:  # noqa: ARG001
    """W = E_S − r_S rᵀ, b = 0, with r = (μ_Y − μ_X) / ‖μ_Y − μ_X‖ over all D neurons.

    These are the rows S of the projection I − rrᵀ, so h loses its component along r at S. As in
    refusal ablation it is not centred: the component becomes 0 and not that of some mean, so
    that inputs across r pass unchanged without a bias. Where S holds every neuron with r ≠ 0 this
    is the projection itself and applying it twice changes nothing; otherwise a share
    ‖r_S‖² < 1 of the component is removed. It steers away from what tells X from Y, on both sides
    of it, and not towards Y.

    Args:
        problem: X [N, D] and Y [M, D]; rows need not be paired.
        penalty: Not looked at.

    Source: directional ablation, Arditi et al., Refusal in language models is mediated by a
    single direction (2024).
    """
    shift = problem.shift
    direction = shift / max(float(np.linalg.norm(shift)), np.finfo(np.float64).tiny)
    delta = -np.outer(direction[problem.neurons], direction)
    return AffineMap(delta, np.zeros(len(problem.neurons)))
