"""λ by cross-validation from one decomposition, against explicit refits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamacart.values.steering import affine_step
from llamacart_trainer.fitting.moments import Scatter
from llamacart_trainer.solvers import (
    SOLVERS,
    Problem,
    RidgePath,
    assign_folds,
    choose_penalty,
    spectrum,
    spectrum_path,
)
from llamacart_trainer.solvers.activations import ActivationRows
from llamacart_trainer.solvers.path import default_penalties
from llamacart_trainer.solvers.problem import PenaltyCurve
from llamacart_trainer.solvers.tridiagonal import TridiagonalPath

PENALTIES = np.array([0.05, 1.0, 30.0])
PRIORS = {"zero": "ridge", "identity": "ridge-identity"}
cases = st.tuples(st.integers(0, 999), st.sampled_from([(30, 7), (12, 25)]))


def problem(seed: int, shape: tuple[int, int], sample=ActivationRows) -> Problem:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) + 1
    y = 0.5 * x + rng.normal(size=shape) - 2
    s = sample(x, y)
    return Problem(np.array([1, 4]), s, s)


@settings(deadline=None)
@given(case=cases, prior=st.sampled_from(sorted(PRIORS)))
def test_one_decomposition_gives_every_fit(case, prior: str) -> None:
    seed, shape = case
    for sample in (ActivationRows, Scatter.of):
        p = problem(seed, shape, sample)
        path = RidgePath.of(p, prior)
        for i, penalty in enumerate(PENALTIES):
            fitted = SOLVERS[PRIORS[prior]](p, float(penalty))
            weights = fitted.delta.copy()
            if prior == "zero":
                weights[[0, 1], p.neurons] += 1
            np.testing.assert_allclose(path.weights(penalty), weights, atol=1e-8)
            values = spectrum_path(p, PENALTIES, prior)[i]
            np.testing.assert_allclose(values, spectrum(fitted, p.neurons, prior), atol=1e-8)
            rows = problem(seed, shape).pairs
            taken = affine_step(rows.x, fitted.delta, fitted.bias)
            residual = taken + (rows.x - rows.y)[:, p.neurons]
            np.testing.assert_allclose(path.residual(penalty), (residual**2).sum(), rtol=1e-6)


@settings(deadline=None, max_examples=30)
@given(case=cases, prior=st.sampled_from(sorted(PRIORS)), n_folds=st.integers(2, 12))
def test_held_out_error_is_that_of_refits(case, prior: str, n_folds: int) -> None:
    seed, shape = case
    p = problem(seed, shape)
    folds = assign_folds(shape[0], n_folds=n_folds)
    found = RidgePath.of(p, prior).held_out(PENALTIES, folds)
    for i, penalty in enumerate(PENALTIES):
        total = 0.0
        for fold in range(n_folds):
            out = folds == fold
            rest = ActivationRows(p.pairs.x[~out], p.pairs.y[~out])
            fitted = SOLVERS[PRIORS[prior]](Problem(p.neurons, rest, rest), float(penalty))
            taken = affine_step(p.pairs.x[out], fitted.delta, fitted.bias)
            missed = taken + (p.pairs.x - p.pairs.y)[out][:, p.neurons]
            total += (missed**2).sum()
        np.testing.assert_allclose(found[i], total / (2 * shape[0]), rtol=1e-6)


@settings(deadline=None, max_examples=30)
@given(case=cases)
def test_gcv_is_leave_one_out_with_every_leverage_the_mean_one(case) -> None:
    """Explicit hat matrix: RSS / N / (1 − tr H / N)², and PRESS where leverages are equal."""
    seed, shape = case
    for sample in (ActivationRows, Scatter.of):
        p = problem(seed, shape, sample)
        x = problem(seed, shape).pairs.x
        y = problem(seed, shape).pairs.y[:, p.neurons]
        n_rows = len(x)
        centred = x - x.mean(axis=0)
        found = RidgePath.of(p, "zero").gcv(PENALTIES)
        for i, penalty in enumerate(PENALTIES):
            inner = np.linalg.inv(centred.T @ centred + penalty * np.eye(shape[1]))
            hat = centred @ inner @ centred.T + 1 / n_rows
            rss = ((y - hat @ y) ** 2).sum() / n_rows / 2
            np.testing.assert_allclose(found[i], rss / (1 - np.trace(hat) / n_rows) ** 2, rtol=1e-6)


@settings(deadline=None, max_examples=40)
@given(case=cases, prior=st.sampled_from(sorted(PRIORS)), weighted=st.booleans())
def test_the_cheap_way_gives_the_same_penalty(case, prior: str, weighted: bool) -> None:
    """Primal, dual and from moments, without eigenvectors and with them."""
    seed, shape = case
    base = problem(seed, shape).pairs
    counts = np.random.default_rng(seed).uniform(0.2, 3, shape[0]) if weighted else None
    chosen = []
    for sample in (ActivationRows, Scatter.of):
        s = sample(base.x, base.y, counts)
        p = Problem(np.array([1, 4]), s, s)
        full, cheap = RidgePath.of(p, prior), TridiagonalPath.of(p, prior)
        values = cheap.eigenvalues()
        penalties = full.default_penalties()
        assert cheap.dual == (sample is ActivationRows and shape[0] < shape[1])
        np.testing.assert_allclose(default_penalties(float(values[-1])), penalties, rtol=1e-9)
        # With fewer rows than inputs, 0 / 0 is near where λ is next to nothing.
        firm = penalties >= 1e-3 * values[-1] if shape[0] < shape[1] else penalties > 0
        errors = full.gcv(penalties[firm])
        np.testing.assert_allclose(cheap.gcv(penalties[firm], values), errors, rtol=1e-5)
        choice = choose_penalty(p, prior, np.zeros(shape[0], np.int64))
        assert choice.rule == "gcv"
        if firm.all():
            best = PenaltyCurve.least(penalties, errors, "gcv")
            assert choice.penalty == pytest.approx(best.penalty, rel=1e-9)
        chosen.append(choice.penalty)
    if shape[0] > shape[1]:
        assert chosen[0] == pytest.approx(chosen[1], rel=1e-9)


def test_no_direction_at_all_is_no_error() -> None:
    s = ActivationRows(np.ones((5, 3)), np.ones((5, 3)))
    choice = choose_penalty(Problem(np.array([0]), s, s), "zero", np.zeros(5, np.int64))
    assert np.isfinite(choice.errors).all()


def test_gcv_equals_leave_one_out_on_a_balanced_design() -> None:
    """Rows ±1 of a Hadamard matrix all have one leverage: GCV is exactly leave-one-out there."""
    two = np.array([[1.0, 1.0], [1.0, -1.0]])
    x = np.kron(np.kron(two, two), two)[:, 1:6]
    y = np.random.default_rng(0).normal(size=x.shape)
    s = ActivationRows(x, y)
    path = RidgePath.of(Problem(np.array([0, 3]), s, s), "zero")
    np.testing.assert_allclose(
        path.gcv(PENALTIES), path.held_out(PENALTIES, np.arange(8)), rtol=1e-9
    )


def test_noise_wants_a_large_penalty_and_a_clear_relation_a_small_one() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(80, 10))
    noise, signal = rng.normal(size=(80, 10)), x @ rng.normal(size=(10, 10))
    for sample, rule in ((ActivationRows, "k-fold"), (Scatter.of, "gcv")):
        choices = []
        for y in (noise, signal):
            s = sample(x, y)
            choice = choose_penalty(Problem(np.array([0, 1]), s, s), "zero")
            assert choice.rule == rule
            assert choice.penalty in choice.penalties
            assert min(choice.errors) == choice.errors[choice.penalties.index(choice.penalty)]
            choices.append(choice.penalty)
        assert choices[0] > 1000 * choices[1]


def test_folds_keep_groups_together() -> None:
    groups = np.repeat([7, 3, 9, 3, 1], 4)
    folds = assign_folds(20, groups, n_folds=3)
    for group in np.unique(groups):
        assert len(np.unique(folds[groups == group])) == 1
    assert len(np.unique(folds)) == 3
    np.testing.assert_array_equal(assign_folds(6, n_folds=3), [0, 0, 1, 1, 2, 2])
    with pytest.raises(TypeError, match="folds need rows"):
        RidgePath.of(problem(0, (30, 7), Scatter.of), "zero").held_out(PENALTIES, np.zeros(30))
