"""Factors lose the least of the steps that their rank allows, and are asked for where they pay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamacart_trainer.fitting.moments import Scatter
from llamacart_trainer.solvers import AffineMap, Problem, factored, ridge_identity
from llamacart_trainer.solvers.activations import ActivationRows
from llamacart_trainer.solvers.factors import AUTO_LOSS

K, D, N = 12, 32, 90
seeds = st.integers(0, 2**31)


def rows(seed: int, weighted: bool = False) -> ActivationRows:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, D)) @ (rng.normal(size=(D, D)) * 0.9 ** np.arange(D)) + 0.5
    y = x + 0.3 * x @ rng.normal(size=(D, D)) / 6 + rng.normal(size=(N, D)) * 0.1
    return ActivationRows(x, y, rng.uniform(0.5, 3, N) if weighted else None)


def some_map(seed: int) -> AffineMap:
    rng = np.random.default_rng(seed)
    return AffineMap(rng.normal(size=(K, D)), rng.normal(size=K))


@settings(deadline=None, max_examples=30)
@given(seed=seeds, rank=st.integers(1, 8), damping=st.sampled_from([0.0, 0.02, 2.0]))
def test_they_are_the_best_of_their_rank(seed: int, rank: int, damping: float) -> None:
    """No matrix of that rank is nearer where steps count as the rows say."""
    activations, fitted = rows(seed, weighted=True), some_map(seed)
    found = factored(fitted, activations, rank, damping=damping)
    assert found is not None
    assert (found.left.shape, found.right.shape) == ((K, rank), (rank, D))
    np.testing.assert_allclose(found.left.T @ found.left, np.eye(rank), atol=1e-10)
    metric = activations.scatter_x() + damping * activations.variance_x() * np.eye(D)
    root = np.linalg.cholesky(metric + 1e-9 * np.eye(D))
    lost = np.linalg.norm((fitted.delta - found.left @ found.right) @ root)
    values = np.linalg.svd(fitted.delta @ root, compute_uv=False)
    np.testing.assert_allclose(lost, np.linalg.norm(values[rank:]), rtol=1e-4)
    np.testing.assert_allclose(found.lost, lost / np.linalg.norm(values), rtol=1e-3, atol=1e-5)


def test_with_the_ridge_s_own_damping_they_are_the_ridge_s_best() -> None:
    """Moving either factor anywhere makes the sum of squares and penalty larger."""
    activations, neurons, penalty = rows(1), np.arange(K), 4.0
    fitted = ridge_identity(Problem(neurons, activations, activations, True), penalty)
    found = factored(fitted, activations, 3, damping=penalty / activations.variance_x())
    assert found is not None
    wanted = activations.centred_steps(neurons)

    def cost(left: np.ndarray, right: np.ndarray) -> float:
        delta = left @ right
        missed = wanted - activations.centred_x @ delta.T
        return float((missed**2).sum() + penalty * (delta**2).sum())

    least, rng = cost(found.left, found.right), np.random.default_rng(0)
    for size in (1e-3, 1e-2, 0.1):
        for _ in range(20):
            left = found.left + size * rng.normal(size=found.left.shape)
            right = found.right + size * rng.normal(size=found.right.shape)
            assert cost(left, found.right) > least
            assert cost(found.left, right) > least


def test_moments_give_the_factors_of_the_rows() -> None:
    activations, fitted = rows(2), some_map(2)
    summed = Scatter.of(activations.x, activations.y)
    from_rows, from_sums = (factored(fitted, a, 4) for a in (activations, summed))
    assert from_rows is not None
    assert from_sums is not None
    np.testing.assert_allclose(
        from_rows.left @ from_rows.right, from_sums.left @ from_sums.right, atol=1e-8
    )
    assert from_rows.lost == pytest.approx(from_sums.lost)


def test_auto_takes_the_least_rank_that_loses_little() -> None:
    activations, rng = rows(3), np.random.default_rng(3)
    delta = rng.normal(size=(K, 3)) @ rng.normal(size=(3, D)) + 1e-3 * rng.normal(size=(K, D))
    fitted = AffineMap(delta, np.zeros(K))
    found = factored(fitted, activations, "auto")
    assert found is not None
    assert found.rank <= 3
    assert found.lost <= AUTO_LOSS
    if found.rank > 1:
        fewer = factored(fitted, activations, found.rank - 1)
        assert fewer is not None
        assert fewer.lost > AUTO_LOSS


def test_factors_that_are_no_smaller_are_not_made() -> None:
    activations, fitted = rows(4), some_map(4)
    most = (K * D - 1) // (K + D)
    assert factored(fitted, activations, most) is not None
    assert factored(fitted, activations, most + 1) is None
    noise = factored(AffineMap(np.eye(K, D), np.zeros(K)), activations, "auto", damping=1e6)
    assert noise is None  # all directions count alike, and a few of them lose too much
    assert factored(AffineMap(np.zeros((K, D)), np.zeros(K)), activations, 1) is None
    one = AffineMap(fitted.delta[:1], fitted.bias[:1])
    assert factored(one, activations, 1) is None
