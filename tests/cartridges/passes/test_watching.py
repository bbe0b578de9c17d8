from __future__ import annotations

from llamacart.llama.model import Model
from llamacart.passes.capture import forward
from llamacart.passes.control_vector import fit_control_vector
from llamacart.passes.generate import greedy
from llamacart.passes.scoring import log_likelihoods
from llamacart.passes.watching import computed, watching

TEXTS = [[1, 5, 6, 7], [1, 8, 9]]


def test_every_row_of_every_pass_is_told(tiny_model: Model) -> None:
    seen: list[int] = []
    with watching(seen.append):
        greedy(tiny_model, TEXTS, 3)
    assert sum(seen) == 1 + 3 + 2 + 2 * 2  # what both begin with is read once; two go back in
    assert len(seen) == 4
    seen.clear()
    with watching(seen.append):
        log_likelihoods(tiny_model, TEXTS, [[5, 6], [7]])
    assert sum(seen) == 4 + 1 + 3 - 1  # the first row is one
    seen.clear()
    with watching(seen.append):
        forward(tiny_model, TEXTS, lambda *_: True, layers=[1])
    assert sum(seen) == 7
    seen.clear()
    with watching(seen.append):
        fit_control_vector(tiny_model, TEXTS, TEXTS)
    assert sum(seen) == 14


def test_watchers_may_be_within_one_another_and_end() -> None:
    outer: list[int] = []
    inner: list[int] = []
    computed(1)
    with watching(outer.append):
        computed(2)
        with watching(inner.append):
            computed(3)
        computed(4)
    computed(5)
    assert (outer, inner) == ([2, 3, 4], [3])
