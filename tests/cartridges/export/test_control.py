from __future__ import annotations

import numpy as np
import pytest

from llamacart.errors import InputError
from llamacart.export.control import directions_of
from llamacart.llama.model import Model
from llamacart.passes.control_vector import ControlDose, ControlVector
from llamacart.passes.scoring import reference, score_texts
from llamacart.values.steering import Dose

TEXTS = [[1, 70, 80, 90, 100, 110, 120]]


def test_a_mean_shift_is_one(make, tiny_model) -> None:
    cartridge = make(tiny_model, layers=(1, 2), linear=0, bias=2.0)
    dose = ControlDose(ControlVector(directions_of(cartridge, tiny_model, 0.7)), 1.0)
    base = reference(tiny_model, TEXTS, steering=(Dose(cartridge, 0.7),), n_threads=1)
    own = score_texts(tiny_model, TEXTS, against=base, control=dose, n_threads=1)
    off = score_texts(tiny_model, TEXTS, against=base, n_threads=1)
    assert own.divergences is not None
    assert off.divergences is not None
    assert np.concatenate(own.divergences).max() < 1e-5
    assert np.concatenate(off.divergences).max() > 1e-2


def test_nothing_else_is(make, tiny_model, tiny_path) -> None:
    with pytest.raises(InputError, match=r"layer 1: .*depends on the row"):
        directions_of(make(tiny_model, layers=(1,)), tiny_model, 1.0)
    with pytest.raises(InputError, match=r"layer 0: .*from layer 1 on"):
        directions_of(make(tiny_model, layers=(0,), linear=0, bias=1), tiny_model, 1.0)
    with Model(str(tiny_path(architecture="gemma3")), batch_invariant=False) as gemma:
        shift = make(gemma, layers=(1,), linear=0, bias=1.0)
        with pytest.raises(InputError, match="gemma3 has a norm behind its FFN"):
            directions_of(shift, gemma, 1.0)
