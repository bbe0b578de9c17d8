import numpy as np
import pytest
from parts import prompt_of, starts_of
from random_cartridge import random_cartridge
from watched import Seen, step_errors, watch

from llamacart.llama.model import Model
from llamacart.values.steering import Dose, Steering, apply_reference


@pytest.fixture
def steering(tiny_model: Model) -> Steering:
    return (Dose(random_cartridge(tiny_model, 0, neurons=5, spread=0.01), 0.5),)


@pytest.fixture
def seen(tiny_model: Model, steering: Steering) -> Seen:
    before = np.random.default_rng(0).normal(size=(3, tiny_model.n_ff)).astype(np.float32)
    after = apply_reference(before, [steering, (), steering], 1)
    return Seen(1, np.arange(3), before, after)


def test_what_numpy_would_have_made_has_no_error(seen: Seen, steering: Steering) -> None:
    errors = step_errors([seen], [steering, (), steering])
    assert (errors.share_of_step, errors.share_of_largest) == (0, 0)
    assert errors.untouched
    assert errors.n_steps == 2


def test_an_error_is_a_share_of_its_step(seen: Seen, steering: Steering) -> None:
    step = seen.after[2] - seen.before[2]
    seen.after[2] += 0.1 * step
    errors = step_errors([seen], [steering, (), steering])
    assert errors.share_of_step == pytest.approx(0.1, rel=1e-3)
    assert errors.untouched


@pytest.mark.parametrize("row", [0, 1])
def test_a_neuron_that_nothing_may_move_is_seen(seen: Seen, steering: Steering, row: int) -> None:
    still = np.setdiff1d(
        np.arange(seen.before.shape[1]), np.flatnonzero(seen.after[0] != seen.before[0])
    )
    seen.after[row, still[0]] += 1e-3
    assert not step_errors([seen], [steering, (), steering]).untouched


def test_a_number_that_is_none_is_the_largest_error(seen: Seen, steering: Steering) -> None:
    seen.after[2] = np.nan
    assert step_errors([seen], [steering, (), steering]).share_of_step == np.inf


@pytest.mark.parametrize("place", ["device", "host"])
def test_a_batch_is_watched_in_every_layer(
    tiny_model: Model, steering: Steering, place: str
) -> None:
    for batch in (starts_of(tiny_model, 3), prompt_of(tiny_model, 20)):
        n = len(batch.tokens)
        rows = [steering, *[()] * (n - 2), steering]
        errors = watch(tiny_model, [steering[0].cartridge], batch, rows, place)  # type: ignore[arg-type]
        assert errors.n_steps == 2 * tiny_model.n_layer
        assert errors.untouched
        assert errors.share_of_step < (0.05 if place == "device" else 1e-3)
        assert errors.on_device == (tiny_model.n_layer if place == "device" else 0)
