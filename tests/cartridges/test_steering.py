from __future__ import annotations

import numpy as np

from llamacart.cartridge import Cartridge, Fingerprint, LayerMap, Metadata
from llamacart.steering import UNSTEERED, Dose, key_of


def make(name: str, bias: float) -> Cartridge:
    layer = LayerMap(0, np.array([0], np.int32), None, np.array([bias], np.float32))
    return Cartridge(Metadata(name), Fingerprint("fake", 1, 32, 8, "00"), (layer,))


FRENCH, POLITE = make("french", 1.0), make("polite", 2.0)


class TestKey:
    def test_what_does_nothing_has_the_key_of_the_base(self):
        assert key_of(UNSTEERED) == ()
        assert key_of((Dose(FRENCH, 0.0), Dose(POLITE, -0.0))) == ()

    def test_content_alpha_and_order_count_and_names_do_not(self):
        one = key_of((Dose(FRENCH, 0.5),))
        assert one == key_of((Dose(make("another name", 1.0), 0.5),))
        assert one != key_of((Dose(FRENCH, 0.6),))
        assert one != key_of((Dose(POLITE, 0.5),))
        both = (Dose(FRENCH, 0.5), Dose(POLITE, 1.0))
        assert key_of(both) != key_of(both[::-1])

    def test_doses_of_zero_leave_the_others(self):
        assert key_of((Dose(POLITE, 0.0), Dose(FRENCH, 0.5))) == key_of((Dose(FRENCH, 0.5),))
