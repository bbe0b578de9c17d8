"""The closed forms against analytic solutions, for long, wide and singular X."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamacart.errors import RecipeError
from llamacart.machine.blas import threads_for_products
from llamacart.values.steering import affine_step
from llamacart_trainer.fitting.moments import Scatter
from llamacart_trainer.solvers import (
    SOLVERS,
    Problem,
    find_solver,
    select_neurons,
    spectrum,
    truncated,
)
from llamacart_trainer.solvers.activations import BLOCK_ROWS, TILE, ActivationRows
from llamacart_trainer.solvers.problem import AffineMap, from_gap, gap
from llamacart_trainer.solvers.ridge import solve_rows, solve_scatter

shapes = st.tuples(st.integers(2, 30), st.integers(1, 30), st.integers(1, 5))
seeds = st.integers(0, 999)
SHIFTED = ["mean-shift", "pca", "ot-diagonal", "ot-sorted", "ot-gaussian", "ridge-identity"]


def problem(x, y, neurons, *, paired: bool = True, moments: bool = False) -> Problem:
    sample = Scatter.of(x, y, paired=paired) if moments else ActivationRows(x, y)
    return Problem(np.asarray(neurons), sample, sample, paired)


def random_problem(seed: int, n_rows: int = 40, width: int = 9, neurons=(2, 5, 6), **kinds):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(width, width))
    x = rng.normal(size=(n_rows, width)) @ mix + rng.normal(size=width)
    y = 0.5 * x + rng.normal(size=(n_rows, width)) @ mix.T + 2 * rng.normal(size=width)
    return problem(x, y, neurons, **kinds)


def steered(given_problem: Problem, fitted: AffineMap) -> np.ndarray:
    x = given_problem.pairs.x
    return x[:, given_problem.neurons] + affine_step(x, fitted.delta, fitted.bias)


# Sums over rows


@pytest.mark.parametrize("weighted", [False, True])
def test_sums_over_blocks_are_those_over_all_rows(weighted: bool) -> None:
    rng = np.random.default_rng(0)
    n_rows, width = BLOCK_ROWS + 200, TILE + 40  # no multiple of either
    x = rng.normal(size=(n_rows, width)) + 50
    left = rng.normal(size=(n_rows, 3))
    weights = rng.uniform(0.5, 3, n_rows) if weighted else None
    rows = ActivationRows(x, x, weights)
    centred = rows.centred_x
    steps = centred @ left[:width]
    for _ in range(2):  # from the rows, and then from what is multiplied out
        assert rows.variance_x() == pytest.approx((centred**2).sum() / width)
        np.testing.assert_allclose(rows.scatter_steps(left[:width].T), steps.T @ steps, rtol=1e-9)
        assert rows.lower_x is rows.lower_x
    np.testing.assert_allclose(rows.scatter_x(), centred.T @ centred, atol=1e-8)
    np.testing.assert_array_equal(rows.lower_x, np.tril(rows.scatter_x()))
    np.testing.assert_allclose(rows.cross_with(left), centred.T @ left, atol=1e-8)


def test_sums_do_not_depend_on_how_many_threads_take_them() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BLOCK_ROWS + 200, TILE + 40)).astype(np.float32)
    left, bias = rng.normal(size=(len(x), 3)).astype(np.float32), np.ones(3)
    delta = rng.normal(size=(3, x.shape[1]))
    found = []
    for n_threads in (1, 2, 3):
        rows = ActivationRows(x, x)
        with threads_for_products(n_threads):
            found.append((rows.lower_x, rows.cross_with(left), rows.taken(delta, bias)))
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, same)


# Ridge


@settings(deadline=None)
@given(shape=shapes, seed=seeds, penalty=st.floats(1e-3, 1e4))
def test_ridge_zeroes_the_gradient(shape: tuple[int, int, int], seed: int, penalty: float) -> None:
    """At the optimum Xᵀ(X Vᵀ − Y) + λVᵀ = 0, whichever side was factored."""
    n_rows, width, n_active = shape
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n_rows, width)), rng.normal(size=(n_rows, n_active))
    v = solve_rows(x, y, penalty)
    np.testing.assert_allclose(x.T @ (x @ v.T - y) + penalty * v.T, 0, atol=1e-7 * (1 + penalty))


@pytest.mark.parametrize("shape", [(40, 7, 3), (7, 40, 3), (12, 12, 2)])
def test_primal_equals_dual(shape: tuple[int, int, int]) -> None:
    n_rows, width, n_active = shape
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n_rows, width)), rng.normal(size=(n_rows, n_active))
    primal = np.linalg.solve(x.T @ x + 0.5 * np.eye(width), x.T @ y).T
    dual = (x.T @ np.linalg.solve(x @ x.T + 0.5 * np.eye(n_rows), y)).T
    np.testing.assert_allclose(solve_rows(x, y, 0.5), primal, atol=1e-9)
    np.testing.assert_allclose(solve_rows(x, y, 0.5), dual, atol=1e-9)
    np.testing.assert_allclose(solve_scatter(x.T @ x, x.T @ y, 0.5), primal, atol=1e-9)


@pytest.mark.parametrize("n_rows", [150, 600])
def test_a_penalty_below_the_rounding_of_single_products(n_rows: int) -> None:
    """As the first rows of texts are: alike, and thousands of times longer than the others."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n_rows, 300)).astype(np.float32)
    x[:40] += 3000 * rng.normal(size=300)
    x[:, :20] = x[:, 20:40]  # no inverse without λ
    y = x.copy()
    y[:, :4] += rng.normal(size=(n_rows, 4))
    sample = ActivationRows(x, y)
    wide, left = sample.centred_x.astype(np.float64), sample.centred_steps(np.arange(4))
    exact = np.linalg.solve(wide.T @ wide + 0.01 * np.eye(300), wide.T @ left).T
    fitted = SOLVERS["ridge-identity"](Problem(np.arange(4), sample, sample), 0.01)
    for found in (fitted.delta, solve_rows(sample.centred_x, left, 0.01)):
        assert np.linalg.norm(wide @ (found - exact).T) < 1e-5 * np.linalg.norm(left)
    with pytest.raises(RecipeError, match=r"penalty 0\.01 is lost in the rounding"):
        solve_scatter(sample.scatter_x() - np.eye(300), wide.T @ left, 0.01)


@pytest.mark.parametrize("copies", [1, 2])
def test_singular_input_has_the_least_norm_solution(copies: int) -> None:
    """Twin columns share the weight equally."""
    column = np.random.default_rng(1).normal(size=(50, 1))
    v = solve_rows(np.repeat(column, copies, axis=1), 3 * column, 1e-8)
    np.testing.assert_allclose(v, 3 / copies, rtol=1e-5)


def test_penalty_must_be_positive() -> None:
    with pytest.raises(ValueError, match="penalty has value 0"):
        solve_rows(np.ones((2, 2)), np.ones((2, 1)), 0)


@pytest.mark.parametrize("name", ["ridge", "ridge-identity"])
def test_an_affine_relation_is_recovered(name: str) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(200, 6))
    y = np.zeros_like(x)
    y[:, [0, 4]] = x @ rng.normal(size=(2, 6)).T + np.array([0.3, -2.0])
    p = problem(x, y, [0, 4])
    np.testing.assert_allclose(steered(p, SOLVERS[name](p, 1e-9)), y[:, [0, 4]], atol=1e-6)


@settings(deadline=None)
@given(seed=seeds)
def test_limits_of_the_penalty(seed: int) -> None:
    """λ → ∞: the paper's prior replaces by the mean, the other priors shift by it."""
    p = random_problem(seed)
    for name, limit in (
        ("ridge", "mean-replace"),
        ("ridge-identity", "mean-shift"),
        ("ot-gaussian", "mean-shift"),
    ):
        np.testing.assert_allclose(
            steered(p, SOLVERS[name](p, 1e14)), steered(p, SOLVERS[limit](p, 0)), atol=1e-6
        )


@pytest.mark.parametrize("name", ["ridge-identity", "mean-shift", "ot-diagonal", "ot-gaussian"])
def test_data_that_do_not_differ_give_the_identity(name: str) -> None:
    x = np.random.default_rng(4).normal(size=(20, 8))
    fitted = SOLVERS[name](problem(x, x, [0, 3]), 1.0)
    np.testing.assert_allclose(fitted.delta, 0, atol=1e-12)
    np.testing.assert_allclose(fitted.bias, 0, atol=1e-12)


def test_neutral_rows_hold_a_regression_but_not_a_mean() -> None:
    """Twice the rows, half of them unchanged: the map learns which; a mean shift does not move."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(60, 8))
    x[:30, 7] += 10  # what tells the two kinds apart
    y = x.copy()
    y[:30, 2] += 3.0
    pairs, everything = ActivationRows(x[:30], y[:30]), ActivationRows(x, y)
    p = Problem(np.array([2]), pairs, everything)
    fitted = SOLVERS["ridge-identity"](p, 1e-3)
    steps = affine_step(x, fitted.delta, fitted.bias)[:, 0]
    assert np.abs(steps[:30] - 3).mean() < 0.5
    assert np.abs(steps[30:]).mean() < 0.5
    for name in ("mean-shift", "pca"):
        np.testing.assert_allclose(SOLVERS[name](p, 0).bias, [3.0], atol=1e-9)


# Invariances


@settings(deadline=None)
@given(seed=seeds, name=st.sampled_from(sorted(set(SOLVERS) - {"ablate", "pca"})))
def test_a_shift_of_the_target_only_moves_the_bias(seed: int, name: str) -> None:
    p = random_problem(seed)
    moved = problem(p.pairs.x, p.pairs.y + 7.0, p.neurons)
    one, other = SOLVERS[name](p, 3.0), SOLVERS[name](moved, 3.0)
    np.testing.assert_allclose(one.delta, other.delta, atol=1e-8)
    np.testing.assert_allclose(one.bias + 7.0, other.bias, atol=1e-7)


@settings(deadline=None)
@given(seed=seeds, name=st.sampled_from(sorted(SOLVERS)))
def test_neurons_may_come_in_any_order(seed: int, name: str) -> None:
    """Renumbering neurons renumbers rows and columns of the map and changes nothing else."""
    p = random_problem(seed)
    order = np.random.default_rng(seed).permutation(9)
    where = np.argsort(order)[p.neurons]
    permuted = problem(p.pairs.x[:, order], p.pairs.y[:, order], np.sort(where))
    one, other = SOLVERS[name](p, 3.0), SOLVERS[name](permuted, 3.0)
    rows = np.argsort(where)
    np.testing.assert_allclose(one.delta[rows][:, order], other.delta, atol=1e-7)
    np.testing.assert_allclose(one.bias[rows], other.bias, atol=1e-7)


@settings(deadline=None)
@given(seed=seeds)
def test_joint_solvers_turn_with_the_axes(seed: int) -> None:
    """With S all of D, a rotation of both sides rotates the map: W ↦ R W Rᵀ, b ↦ R b."""
    p = random_problem(seed, neurons=np.arange(9))
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(9, 9)))
    turned = problem(p.pairs.x @ turn.T, p.pairs.y @ turn.T, p.neurons)
    for name in ("ridge", "ridge-identity", "mean-shift", "pca", "ot-gaussian", "ablate"):
        one, other = SOLVERS[name](p, 3.0), SOLVERS[name](turned, 3.0)
        np.testing.assert_allclose(turn @ one.delta @ turn.T, other.delta, atol=1e-6)
        np.testing.assert_allclose(turn @ one.bias, other.bias, atol=1e-6)


@settings(deadline=None)
@given(seed=seeds, name=st.sampled_from([*SHIFTED, "ridge", "mean-replace"]))
def test_means_map_to_means(seed: int, name: str) -> None:
    p = random_problem(seed)
    reached = steered(p, SOLVERS[name](p, 3.0)).mean(axis=0)
    if name == "pca":  # only along its direction
        direction = SOLVERS[name](p, 0).bias
        reached, aim = reached @ direction, p.pairs.mean_y[p.neurons] @ direction
    else:
        aim = p.pairs.mean_y[p.neurons]
    np.testing.assert_allclose(reached, aim, rtol=1e-7, atol=1e-7)


@settings(deadline=None)
@given(seed=seeds, name=st.sampled_from(sorted(set(SOLVERS) - {"ot-sorted"})))
def test_moments_serve_as_well_as_rows(seed: int, name: str) -> None:
    rows, moments = random_problem(seed), random_problem(seed, moments=True)
    one, other = SOLVERS[name](rows, 3.0), SOLVERS[name](moments, 3.0)
    np.testing.assert_allclose(one.delta, other.delta, atol=1e-8)
    np.testing.assert_allclose(one.bias, other.bias, atol=1e-7)


# Transport


@settings(deadline=None)
@given(seed=seeds, n_targets=st.integers(20, 60))
def test_gaussian_transport_meets_the_moments(seed: int, n_targets: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(50, 4)) @ rng.normal(size=(4, 4)) + 1
    y = rng.normal(size=(n_targets, 4)) @ rng.normal(size=(4, 4)) - 2
    p = problem(x, y, np.arange(4), paired=False)
    moved = steered(p, SOLVERS["ot-gaussian"](p, 1e-9))
    np.testing.assert_allclose(moved.mean(axis=0), y.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(np.cov(moved.T, ddof=0), np.cov(y.T, ddof=0), rtol=1e-3, atol=1e-3)
    weight = SOLVERS["ot-gaussian"](p, 1e-9).delta + np.eye(4)
    np.testing.assert_allclose(weight, weight.T, atol=1e-7)
    assert np.linalg.eigvalsh(weight).min() > 0  # the gradient of a convex function: optimal
    diagonal = steered(p, SOLVERS["ot-diagonal"](p, 0))
    np.testing.assert_allclose(diagonal.std(axis=0), y.std(axis=0), rtol=1e-9)


def test_gaussian_transport_of_a_singular_source_stays_finite() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(5, 12))
    p = problem(x, rng.normal(size=(5, 12)), np.arange(12))
    fitted = SOLVERS["ot-gaussian"](p, SOLVERS["ot-gaussian"].choose(p, None).penalty)
    assert np.abs(fitted.delta).max() < 10


def test_one_neuron_alone_is_the_same_jointly_and_diagonally() -> None:
    p = random_problem(7, neurons=(3,))
    one, other = SOLVERS["ot-gaussian"](p, 1e-9), SOLVERS["ot-diagonal"](p, 0)
    np.testing.assert_allclose(one.delta, other.delta, atol=1e-9)


@settings(deadline=None)
@given(seed=seeds)
def test_sorted_transport_is_least_squares_over_sorted_rows(seed: int) -> None:
    p = random_problem(seed)
    fitted = SOLVERS["ot-sorted"](p, 0)
    for row, neuron in enumerate(p.neurons):
        x, y = np.sort(p.pairs.x[:, neuron]), np.sort(p.pairs.y[:, neuron])
        slope, offset = np.polyfit(x, y, 1)
        np.testing.assert_allclose(fitted.delta[row, neuron] + 1, slope, rtol=1e-6)
        np.testing.assert_allclose(fitted.bias[row], offset, rtol=1e-6, atol=1e-8)
        gaussian = SOLVERS["ot-diagonal"](p, 0).delta[row, neuron] + 1
        assert slope <= gaussian + 1e-9


def test_sorted_transport_of_samples_of_unequal_size() -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(4000, 1))
    p = problem(x, 3 * rng.normal(size=(1500, 1)) + 5, [0], paired=False)
    fitted = SOLVERS["ot-sorted"](p, 0)
    assert fitted.delta[0, 0] + 1 == pytest.approx(3, rel=0.05)
    assert fitted.bias[0] == pytest.approx(5, abs=0.2)
    with pytest.raises(TypeError, match="rows"):
        SOLVERS["ot-sorted"](random_problem(0, moments=True), 0)


def test_a_neuron_that_is_constant_is_only_shifted() -> None:
    rng = np.random.default_rng(9)
    x = np.ones((10, 2))
    p = problem(x, rng.normal(size=(10, 2)), [0, 1])
    for name in ("ot-diagonal", "ot-sorted"):
        np.testing.assert_array_equal(SOLVERS[name](p, 0).delta, 0)


# Directions


def test_pca_finds_the_direction_of_the_differences() -> None:
    rng = np.random.default_rng(10)
    direction = np.array([0.6, 0.0, -0.8])
    x = rng.normal(size=(300, 3))
    y = x + np.abs(rng.normal(2, 1, size=(300, 1))) * direction + 0.05 * rng.normal(size=(300, 3))
    p = problem(x, y, np.arange(3))
    bias = SOLVERS["pca"](p, 0).bias
    np.testing.assert_allclose(bias / np.linalg.norm(bias), direction, atol=0.02)
    np.testing.assert_allclose(bias @ bias, bias @ (y - x).mean(axis=0), rtol=1e-9)
    unpaired = problem(x, y[::-1][:200] + 8 * direction, np.arange(3), paired=False)
    bias = SOLVERS["pca"](unpaired, 0).bias
    np.testing.assert_allclose(bias / np.linalg.norm(bias), direction, atol=0.1)


@settings(deadline=None)
@given(seed=seeds)
def test_ablation_is_a_projection(seed: int) -> None:
    p = random_problem(seed, neurons=np.arange(9))
    fitted = SOLVERS["ablate"](p, 0)
    weight = fitted.delta + np.eye(9)
    np.testing.assert_allclose(weight @ weight, weight, atol=1e-9)
    direction = p.shift / np.linalg.norm(p.shift)
    np.testing.assert_allclose(weight @ direction, 0, atol=1e-9)
    across = np.random.default_rng(seed).normal(size=9)
    across -= direction * (across @ direction)
    np.testing.assert_allclose(weight @ across, across, atol=1e-9)
    np.testing.assert_array_equal(fitted.bias, 0)
    part = SOLVERS["ablate"](problem(p.pairs.x, p.pairs.y, [1, 4]), 0)
    np.testing.assert_allclose(part.delta, fitted.delta[[1, 4]], atol=1e-12)


# Selection, spectrum


def test_selection_takes_shares_of_the_difference() -> None:
    x = np.zeros((4, 5))
    y = np.tile([3.0, 0.0, -4.0, 0.1, 0.0], (4, 1))
    np.testing.assert_array_equal(select_neurons(ActivationRows(x, y), 0.5), [0, 2])
    np.testing.assert_array_equal(select_neurons(ActivationRows(x, y), 0.7), [2])
    np.testing.assert_array_equal(select_neurons(Scatter.of(x, y), 0.0), [0, 2, 3])
    assert len(select_neurons(ActivationRows(x, x), 0.0)) == 0
    assert len(select_neurons(ActivationRows(y, y * (1 + 1e-5)), 0.0)) == 0


@settings(deadline=None)
@given(seed=seeds, rank=st.integers(1, 6), name=st.sampled_from(["ridge", "ridge-identity"]))
def test_truncation_is_the_best_of_its_rank(seed: int, rank: int, name: str) -> None:
    """Eckart–Young: the error is what the dropped singular values say, and none is smaller."""
    p = random_problem(seed, neurons=np.arange(6))
    prior = SOLVERS[name].prior
    full = SOLVERS[name](p, 3.0)
    low = truncated(full, p.neurons, prior, rank, p.pairs.mean_x)
    whole, part = (gap(m.delta, p.neurons, prior) for m in (full, low))
    values = np.linalg.svd(whole, compute_uv=False)
    assert np.linalg.matrix_rank(part, tol=1e-8) == min(rank, 6)
    error = np.linalg.norm(whole - part)
    np.testing.assert_allclose(error, np.linalg.norm(values[rank:]), atol=1e-8)
    np.testing.assert_allclose(spectrum(full, p.neurons, prior), values, atol=1e-8)
    rng = np.random.default_rng(seed)
    other = rng.normal(size=(6, rank)) @ rng.normal(size=(rank, 9))
    rival = part + 0.01 * other @ np.linalg.pinv(part) @ part  # of the same rank
    assert np.linalg.norm(whole - rival) >= error - 1e-9
    np.testing.assert_allclose(
        steered(p, full).mean(axis=0), steered(p, low).mean(axis=0), atol=1e-8
    )


@settings(deadline=None)
@given(seed=seeds, prior=st.sampled_from(["zero", "identity"]))
def test_gap_and_back(seed: int, prior: str) -> None:
    delta = np.random.default_rng(seed).normal(size=(2, 5))
    neurons = np.array([1, 4])
    there = gap(delta, neurons, prior)  # type: ignore[arg-type]
    np.testing.assert_allclose(from_gap(there, neurons, prior), delta)  # type: ignore[arg-type]


def test_a_solver_that_does_not_exist() -> None:
    with pytest.raises(RecipeError, match="solver has value 'x'; one of ridge, ridge-identity"):
        find_solver("x")
