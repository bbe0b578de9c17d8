"""The closed forms against analytic solutions, for long, wide and singular X."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamacart_trainer.solvers import (
    AffineMap,
    centered_ridge,
    impact,
    ridge,
    select_neurons,
)

shapes = st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(1, 5))


def problem(shape: tuple[int, int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    n_rows, width, n_active = shape
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_rows, width)), rng.normal(size=(n_rows, n_active))


@settings(deadline=None)
@given(shape=shapes, seed=st.integers(0, 999), penalty=st.floats(1e-3, 1e4))
def test_ridge_zeroes_the_gradient(shape: tuple[int, int, int], seed: int, penalty: float) -> None:
    """At the optimum Xᵀ(X Vᵀ − Y) + λVᵀ = 0, whichever side was factored."""
    x, y = problem(shape, seed)
    v = ridge(x, y, penalty)
    gradient = x.T @ (x @ v.T - y) + penalty * v.T
    np.testing.assert_allclose(gradient, 0, atol=1e-7 * (1 + penalty))


@pytest.mark.parametrize("shape", [(40, 7, 3), (7, 40, 3), (12, 12, 2)])
def test_primal_equals_dual(shape: tuple[int, int, int]) -> None:
    x, y = problem(shape, 0)
    width = shape[1]
    primal = np.linalg.solve(x.T @ x + 0.5 * np.eye(width), x.T @ y).T
    dual = (x.T @ np.linalg.solve(x @ x.T + 0.5 * np.eye(shape[0]), y)).T
    np.testing.assert_allclose(ridge(x, y, 0.5), primal, atol=1e-9)
    np.testing.assert_allclose(ridge(x, y, 0.5), dual, atol=1e-9)


@pytest.mark.parametrize("copies", [1, 2])
def test_singular_input_has_the_least_norm_solution(copies: int) -> None:
    """Twin columns share the weight equally."""
    rng = np.random.default_rng(1)
    column = rng.normal(size=(50, 1))
    x = np.repeat(column, copies, axis=1)
    v = ridge(x, 3 * column, 1e-8)
    np.testing.assert_allclose(v, 3 / copies, rtol=1e-5)


def test_penalty_must_be_positive() -> None:
    with pytest.raises(ValueError, match="penalty has value 0"):
        ridge(np.ones((2, 2)), np.ones((2, 1)), 0)


@settings(deadline=None)
@given(
    seed=st.integers(0, 999), n_rows=st.integers(3, 40), prior=st.sampled_from(["zero", "identity"])
)
def test_a_shift_of_the_target_only_moves_the_bias(seed: int, n_rows: int, prior: str) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n_rows, 9)), rng.normal(size=(n_rows, 2))
    neurons = np.array([2, 5])
    one = centered_ridge(x, y, neurons, 3.0, prior)  # type: ignore[arg-type]
    other = centered_ridge(x, y + 7.0, neurons, 3.0, prior)  # type: ignore[arg-type]
    np.testing.assert_allclose(one.delta, other.delta, atol=1e-9)
    np.testing.assert_allclose(one.bias + 7.0, other.bias, atol=1e-9)


def test_an_affine_relation_is_recovered() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(200, 6))
    true_weight, true_bias = rng.normal(size=(2, 6)), np.array([0.3, -2.0])
    y = x @ true_weight.T + true_bias
    neurons = np.array([0, 4])
    for prior in ("zero", "identity"):
        fitted = centered_ridge(x, y, neurons, 1e-9, prior)  # type: ignore[arg-type]
        np.testing.assert_allclose(fitted.apply(x, neurons), y, atol=1e-6)


def test_limits_of_the_penalty() -> None:
    """λ → ∞: the paper's prior replaces by the mean, the identity prior shifts by it."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(30, 8)) + 1.0, rng.normal(size=(30, 2)) - 2.0
    neurons = np.array([1, 6])
    replaced = centered_ridge(x, y, neurons, 1e12, "zero").apply(x, neurons)
    np.testing.assert_allclose(replaced, np.broadcast_to(y.mean(axis=0), y.shape), atol=1e-6)
    shift = y.mean(axis=0) - x[:, neurons].mean(axis=0)
    shifted = centered_ridge(x, y, neurons, 1e12, "identity").apply(x, neurons)
    np.testing.assert_allclose(shifted, x[:, neurons] + shift, atol=1e-6)


def test_pairs_that_do_not_differ_give_the_identity() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(20, 8))
    neurons = np.array([0, 3])
    fitted = centered_ridge(x, x[:, neurons], neurons, 1.0, "identity")
    np.testing.assert_allclose(fitted.delta, 0, atol=1e-12)
    np.testing.assert_allclose(fitted.bias, 0, atol=1e-12)


def test_selection_takes_shares_of_the_difference() -> None:
    x = np.zeros((4, 5))
    y = np.tile([3.0, 0.0, -4.0, 0.1, 0.0], (4, 1))
    np.testing.assert_array_equal(select_neurons(x, y, 0.5), [0, 2])
    np.testing.assert_array_equal(select_neurons(x, y, 0.7), [2])
    np.testing.assert_array_equal(select_neurons(x, y, 0.0), [0, 2, 3])
    assert len(select_neurons(x, x, 0.0)) == 0
    assert len(select_neurons(y, y * (1 + 1e-5), 0.0)) == 0


def test_impact_is_the_mean_step() -> None:
    fitted = AffineMap(np.zeros((2, 3)), np.array([0.5, -2.0]))
    np.testing.assert_allclose(impact(np.ones((7, 3)), fitted), [0.5, 2.0])
