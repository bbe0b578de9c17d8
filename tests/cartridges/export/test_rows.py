from __future__ import annotations

import numpy as np
import pytest

from llamacart.errors import InputError
from llamacart.export import rows
from llamacart.export.constant import solving_bytes
from llamacart.export.rows import continued, gather, own_openings
from llamacart.passes.capture import capture, forward, forward_bytes, row_numbers
from llamacart.values.steering import DenseMap, Dose

FIT = [[1, 70, 71, 72, 73], [1, 90, 91]]
HELD = [[1, 100, 101, 102]]


def layers_at_once(model, cartridge, n) -> int:
    """Memory that has room for the rows of n layers."""
    beside = forward_bytes(model, [*FIT, *HELD], [0, 2])
    beside += solving_bytes(sum(map(len, FIT)), model.n_ff)
    beside += 4 * model.n_ff * sum(len(m.neurons) for m in cartridge.layers)
    return beside + n * 4 * model.n_ff * sum(map(len, [*FIT, *HELD]))


@pytest.mark.parametrize("n", [2, 1])
def test_rows_are_those_of_the_steered_model(make, tiny_model, n) -> None:
    cartridge = make(tiny_model, layers=(0, 2), bias=1.0)
    memory = layers_at_once(tiny_model, cartridge, n)
    with pytest.MonkeyPatch.context() as patch:
        passes = []
        patch.setattr(rows, "forward", lambda *a, **b: passes.append(forward(*a, **b)))
        given = gather(tiny_model, cartridge, 0.5, (FIT, HELD), max_memory=memory, n_threads=1)
        found = {layer_map.layer: own for layer_map, own in given}
    assert list(found) == [0, 2]
    assert len(passes) == 3 - n

    plain = capture(tiny_model, [*FIT, *HELD], n_threads=1)
    dense = DenseMap.of(cartridge.layers[0], tiny_model.n_ff)
    n_fit = sum(map(len, FIT))
    np.testing.assert_allclose(found[0].fit, plain[0][:n_fit], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found[0].held, plain[0][n_fit + 1 :], rtol=1e-3, atol=1e-5)
    firsts = [own[0] for own in row_numbers(FIT)]
    others = np.delete(plain[0][:n_fit], firsts, axis=0)
    assert found[0].scale == pytest.approx(float(np.mean(others**2)), rel=1e-3)
    # Layer 2 sees layer 0 steered.
    assert dense.step(plain[0]).any()
    assert np.abs(found[2].held - plain[2][n_fit + 1 :]).max() > 1e-3


def test_one_layer_must_fit(make, tiny_model) -> None:
    cartridge = make(tiny_model, layers=(0, 2), bias=1.0)
    memory = layers_at_once(tiny_model, cartridge, 1) - 1
    with pytest.raises(InputError, match=r"max_memory has value .* GiB; 12 rows of one layer need"):
        next(gather(tiny_model, cartridge, 0.5, (FIT, HELD), max_memory=memory))


def test_texts_of_its_own(make, tiny_model) -> None:
    openings = own_openings(tiny_model, 3, 6, n_threads=1)
    assert len({tuple(text) for text in openings}) == 3
    assert all(text[0] == tiny_model.bos_token and len(text) <= 7 for text in openings)
    assert own_openings(tiny_model, 3, 6, n_threads=1) == openings
    dose = Dose(make(tiny_model), 1.0)
    both = continued(tiny_model, openings, 5, dose, n_threads=1)
    assert [text[: len(o)] for text, o in zip(both, openings, strict=True)] == openings
    assert any(len(text) > len(o) for text, o in zip(both, openings, strict=True))
