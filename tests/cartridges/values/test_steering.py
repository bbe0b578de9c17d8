from __future__ import annotations

import numpy as np

from llamacart.cartridge import Cartridge, Fingerprint, LayerMap, Metadata
from llamacart.values.steering import UNSTEERED, DenseMap, Dose, apply_reference, key_of


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


class TestDenseMap:
    def whole(self, width: int = 32) -> tuple[LayerMap, np.ndarray, np.ndarray]:
        """A map, and its W [K, D] and b [K] as they are after rounding for storage."""
        rng = np.random.default_rng(0)
        neurons = np.array([3, 7, 20], np.int32)
        made = LayerMap.from_dense(0, neurons, rng.normal(size=(3, width)), rng.normal(size=3))
        weight = made.dense_delta(width).astype(np.float64)
        weight[np.arange(3), neurons] += 1.0
        return made, weight, made.bias.astype(np.float64)

    def test_steers_as_the_equation_says(self):
        made, weight, bias = self.whole()
        h = np.random.default_rng(1).normal(size=(5, 32)).astype(np.float32)
        expected = h.astype(np.float64)
        own = expected[:, made.neurons]
        step = expected @ weight.T + bias - own
        expected[:, made.neurons] = own + 0.7 * step
        taken = DenseMap.of(made, 32).steer(h, 0.7)
        np.testing.assert_allclose(h, expected, atol=1e-5)
        np.testing.assert_allclose(taken, step, atol=1e-5)
        assert taken.dtype == h.dtype == np.float32

    def test_a_step_moves_nothing_by_itself(self):
        made, _, _ = self.whole()
        h = np.ones((2, 32), np.float32)
        step = DenseMap.of(made, 32).step(h)
        assert step.shape == (2, 3)
        assert (h == 1).all()

    def test_doses_of_one_row_all_start_from_the_same_activations(self):
        made, _, _ = self.whole()
        whole = Cartridge(Metadata("w"), Fingerprint("fake", 1, 32, 8, "00"), (made,))
        h = np.random.default_rng(2).normal(size=(2, 32)).astype(np.float32)
        out = apply_reference(h, [(Dose(whole, 0.5), Dose(whole, 0.25)), UNSTEERED], 0)
        once = h.copy()
        DenseMap.of(made, 32).steer(once, 0.75)
        np.testing.assert_allclose(out[0], once[0], atol=1e-5)
        np.testing.assert_array_equal(out[1], h[1])
