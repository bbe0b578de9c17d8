from __future__ import annotations

import numpy as np
import peers_closed_form as forms
import pytest

D, M, N = 12, 5, 3


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def moment_of(keys: np.ndarray) -> np.ndarray:
    return keys @ keys.T / keys.shape[1]


def test_memit_maps_keys_where_other_texts_weigh_nothing(rng: np.random.Generator) -> None:
    keys, residuals = rng.normal(size=(D, N)), rng.normal(size=(M, N))
    update = forms.memit_update(keys, residuals, moment_of(rng.normal(size=(D, 50))), 1e-6)
    np.testing.assert_allclose(update @ keys, residuals, atol=1e-4)


def test_memit_is_the_minimum_of_its_own_loss(rng: np.random.Generator) -> None:
    keys, residuals = rng.normal(size=(D, N)), rng.normal(size=(M, N))
    moment, weight = moment_of(rng.normal(size=(D, 50))), 3.0

    def loss(update: np.ndarray) -> float:
        kept = weight * np.trace(update @ moment @ update.T)
        return float(np.sum((update @ keys - residuals) ** 2) + kept)

    update = forms.memit_update(keys, residuals, moment, weight)
    for _ in range(20):
        assert loss(update) < loss(update + 1e-3 * rng.normal(size=update.shape))


def test_alphaedit_is_the_papers_formula_and_leaves_other_keys(rng: np.random.Generator) -> None:
    others = rng.normal(size=(D, 4))  # eight directions are free
    keys, residuals = rng.normal(size=(D, N)), rng.normal(size=(M, N))
    projection = forms.null_projection(moment_of(others), 8 / D)
    update = forms.alphaedit_update(keys, residuals, projection, 0.5)
    np.testing.assert_allclose(update @ others, 0, atol=1e-9)
    inside = projection @ keys
    ridge = 0.5 * np.trace(inside.T @ inside) / N
    written = residuals @ keys.T @ projection
    written = written @ np.linalg.inv(keys @ keys.T @ projection + ridge * np.eye(D))
    np.testing.assert_allclose(update, written, atol=1e-9)
    sharp = forms.alphaedit_update(keys, residuals, projection, 1e-9)
    np.testing.assert_allclose(sharp @ keys, residuals, atol=1e-6)


def test_null_projection_keeps_the_weakest_directions(rng: np.random.Generator) -> None:
    turn, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    projection = forms.null_projection(turn @ np.diag([4.0, 1e-3, 9.0, 1e-2]) @ turn.T, 0.5)
    np.testing.assert_allclose(projection, turn @ np.diag([0, 1, 0, 1]) @ turn.T, atol=1e-9)


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_the_way_through_a_norm_is_the_best_one(rng: np.random.Generator, size: float) -> None:
    gain = rng.uniform(0.2, 4.0, M) * rng.choice([-1, 1], M)
    wanted = size * rng.normal(size=M)
    found = forms.through_norm(wanted, gain)
    assert np.mean(found**2) == pytest.approx(1)
    own = np.linalg.norm(gain * found - wanted)
    for _ in range(300):
        other = found + rng.choice([1e-3, 0.1, 3.0]) * rng.normal(size=M)
        other /= np.sqrt(np.mean(other**2))
        assert own <= np.linalg.norm(gain * other - wanted) + 1e-9


def test_what_a_norm_makes_already_stays(rng: np.random.Generator) -> None:
    gain, output = rng.uniform(0.2, 4.0, M), rng.normal(size=M)
    output /= np.sqrt(np.mean(output**2))
    np.testing.assert_allclose(forms.through_norm(gain * output, gain), output, atol=1e-6)


def test_bytes_of_matrices_and_of_low_rank_ones() -> None:
    update = np.zeros((4, 10))
    assert forms.sizes([update, update], 3) == (2 * 2 * 40, 2 * 2 * 3 * 14)
    assert forms.sizes([update], 30) == (80, 2 * 4 * 14)
