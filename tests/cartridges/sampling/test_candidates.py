"""The compiled passes over logits against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from llamacart.errors import EngineError
from llamacart.sampling.candidates import BLOCK, Candidates
from llamacart.sampling.logprobs import read_logprobs
from llamacart.values.logprobs import TokenLogprobs

NAN, INF = math.nan, math.inf
# Few different values, so that many are equal; zeros of both signs; the largest floats.
VALUES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, -INF, 3.4e38, -3.4e38, 1e-45]),
    st.floats(-30, 30, width=32),
)
ROWS = hnp.arrays(np.float32, st.integers(1, 5 * BLOCK + 1), elements=VALUES, fill=VALUES)


def scanned(row: np.ndarray) -> Candidates:
    candidates = Candidates(len(row))
    assert candidates.scan(row) == (row.max() > -INF)
    return candidates


@given(row=ROWS)
@settings(deadline=None)
def test_largest_is_the_first_maximum(row):
    if row.max() > -INF:
        assert scanned(row).largest() == int(row.argmax())


@given(row=ROWS, bad=st.sampled_from([NAN, -NAN, INF]), place=st.floats(0, 1, exclude_max=True))
@settings(deadline=None)
def test_a_bad_logit_is_found_wherever_it_is(row, bad, place):
    row[int(place * len(row))] = bad
    assert not Candidates(len(row)).scan(row)


def test_a_nan_of_either_sign_and_any_payload_is_found():
    row = np.zeros(BLOCK + 3, np.float32)
    for bits in (0x7FC00000, 0xFFC00000, 0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF):
        row[-1] = np.array([bits], np.uint32).view(np.float32)[0]
        assert np.isnan(row[-1])
        assert not Candidates(len(row)).scan(row)


@given(row=ROWS, m=st.integers(1, 8))
@settings(deadline=None)
def test_at_least_m_reach_the_bound(row, m):
    bound = scanned(row).bound(m)
    assert (row >= bound).sum() >= min(m, len(row))
    assert bound <= np.sort(row)[-min(m, len(row))]


@given(row=ROWS, threshold=VALUES, data=st.data())
@settings(deadline=None)
def test_narrow_takes_what_reaches_the_threshold_or_is_listed(row, threshold, data):
    listed = data.draw(st.sets(st.integers(0, len(row) - 1), max_size=5))
    always = np.array(sorted(listed), np.int32)
    candidates = scanned(row)
    candidates.narrow(threshold, always)
    expected = sorted(set(np.flatnonzero(row >= np.float32(threshold))) | listed)
    assert candidates.ids.tolist() == expected
    assert candidates.drop_impossible() == sum(row[i] > -INF for i in expected)
    assert candidates.ids.tolist() == [i for i in expected if row[i] > -INF]


@pytest.mark.parametrize("n", [1, BLOCK, BLOCK + 1])
def test_the_row_itself_is_not_changed(n):
    row = np.linspace(-5, 5, n, dtype=np.float32)
    before = row.copy()
    candidates = scanned(row)
    candidates.narrow(candidates.bound(1))
    np.testing.assert_array_equal(row, before)


@given(row=ROWS, data=st.data())
@settings(deadline=None)
def test_a_restricted_row_has_only_what_is_allowed(row, data):
    before, n_words = row.copy(), -(-len(row) // 32)
    words = st.one_of(st.sampled_from([0, 2**32 - 1, 1]), st.integers(0, 2**32 - 1))
    candidates = scanned(row)
    candidates.bits[:] = data.draw(hnp.arrays(np.uint32, n_words, elements=words))
    allowed = np.unpackbits(candidates.bits.view(np.uint8), bitorder="little")[: len(row)] == 1
    expected = np.where(allowed, row, np.float32(-INF))
    assert candidates.restrict() == (expected.max() > -INF)
    candidates.narrow(-INF)
    candidates.drop_impossible()
    assert candidates.ids.tolist() == np.flatnonzero(expected > -INF).tolist()
    if expected.max() > -INF:
        assert candidates.largest() == int(expected.argmax())
    np.testing.assert_array_equal(row, before)


@given(row=hnp.arrays(np.float32, st.integers(1, 3 * BLOCK), elements=st.floats(-90, 90, width=32)))
@settings(deadline=None)
def test_log_sum_exp(row):
    wide = row.astype(np.longdouble)
    expected = wide.max() + np.log(np.exp(wide - wide.max()).sum())
    assert scanned(row).log_sum_exp() == pytest.approx(float(expected), rel=1e-13, abs=1e-12)


@given(row=ROWS, m=st.integers(0, 25))
@settings(deadline=None)
def test_most_likely_by_logit_then_id(row, m):
    if row.max() > -INF:
        expected = sorted(range(len(row)), key=lambda i: (-row[i], i))[:m]
        assert scanned(row).most_likely(m) == expected


def test_logprobs_are_a_log_softmax():
    row = np.random.default_rng(1).normal(0, 5, 700).astype(np.float32)
    row[3] = -INF
    wide = row.astype(np.float64)
    expected = wide - np.log(np.exp(wide).sum())
    candidates = Candidates(len(row))
    read = read_logprobs(row, 17, 3, candidates)
    best = np.argsort(-wide)[:3]
    assert read.token == 17
    assert read.logprob == pytest.approx(expected[17], abs=1e-12)
    assert [i for i, _ in read.top] == best.tolist()
    assert [p for _, p in read.top] == pytest.approx(expected[best].tolist(), abs=1e-12)
    assert read_logprobs(row, 3, 0, candidates) == TokenLogprobs(3, -INF)
    # The likeliest token has the same number as choice and as alternative: lm-eval compares them.
    best_read = read_logprobs(row, int(best[0]), 1, candidates)
    assert best_read.top == ((int(best[0]), best_read.logprob),)


def test_logits_that_are_none_have_no_logprobs():
    row = np.zeros(300, np.float32)
    row[7] = NAN
    with pytest.raises(EngineError, match="not finite"):
        read_logprobs(row, 0, 1, Candidates(300))
