from __future__ import annotations

import numpy as np
import pytest

from llamacart.export import rows
from llamacart.export.rows import continued, gather, own_openings
from llamacart.passes.capture import capture, row_numbers
from llamacart.values.steering import DenseMap, Dose

FIT = [[1, 70, 71, 72, 73], [1, 90, 91]]
HELD = [[1, 100, 101, 102]]


@pytest.mark.parametrize("budget", [1 << 30, 1])
def test_rows_are_those_of_the_steered_model(make, tiny_model, monkeypatch, budget) -> None:
    monkeypatch.setattr(rows, "GRAM_BUDGET", budget)
    cartridge = make(tiny_model, layers=(0, 2), bias=1.0)
    found = {m.layer: own for m, own in gather(tiny_model, cartridge, 0.5, FIT, HELD, n_threads=1)}
    assert list(found) == [0, 2]

    plain = capture(tiny_model, [*FIT, *HELD], n_threads=1)
    dense = DenseMap.of(cartridge.layers[0], tiny_model.n_ff)
    n = sum(map(len, FIT))
    np.testing.assert_allclose(found[0].gram, plain[0][:n].T @ plain[0][:n], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found[0].sums, plain[0][:n].sum(axis=0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found[0].held, plain[0][n + 1 :], rtol=1e-3, atol=1e-5)
    firsts = [own[0] for own in row_numbers(FIT)]
    others = np.delete(plain[0][:n], firsts, axis=0)
    assert found[0].scale == pytest.approx(float(np.mean(others**2)), rel=1e-3)
    # Layer 2 sees layer 0 steered.
    assert dense.step(plain[0]).any()
    assert np.abs(found[2].held - plain[2][n + 1 :]).max() > 1e-3


def test_texts_of_its_own(make, tiny_model) -> None:
    openings = own_openings(tiny_model, 3, 6, n_threads=1)
    assert len({tuple(text) for text in openings}) == 3
    assert all(text[0] == tiny_model.bos_token and len(text) <= 7 for text in openings)
    assert own_openings(tiny_model, 3, 6, n_threads=1) == openings
    dose = Dose(make(tiny_model), 1.0)
    both = continued(tiny_model, openings, 5, dose, n_threads=1)
    assert [text[: len(o)] for text, o in zip(both, openings, strict=True)] == openings
    assert any(len(text) > len(o) for text, o in zip(both, openings, strict=True))
