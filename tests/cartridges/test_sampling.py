from __future__ import annotations

import math

import numpy as np
import pytest

from llamacart.context import Batch, Context
from llamacart.errors import EngineError, InputError
from llamacart.sampling import SEED_LIMIT, Sampler, SamplingParams

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("temperature", v) for v in (-0.1, 100.5, NAN, INF)),
        *(("top_k", v) for v in (-1, 2**31)),
        *(("top_p", v) for v in (0.0, -0.5, 1.01, NAN)),
        *(("min_p", v) for v in (-0.01, 1.01, NAN)),
        *(("presence_penalty", v) for v in (-2.1, 2.1, NAN)),
        *(("frequency_penalty", v) for v in (-2.1, 2.1, -INF)),
        *(("seed", v) for v in (-1, 2**32)),
    ],
)
def test_a_value_out_of_range_is_named(field, value):
    with pytest.raises(InputError) as caught:
        SamplingParams(**{field: value})
    assert caught.value.param == field
    assert f"{field} has value {value!r}" in caught.value.message


@pytest.mark.parametrize("bias", [100.5, -101, NAN, INF])
def test_a_bias_out_of_range_is_named(bias):
    with pytest.raises(InputError, match="logit_bias of token 7 has value") as caught:
        SamplingParams(logit_bias=((3, 1.0), (7, bias)))
    assert caught.value.param == "logit_bias"


def test_edges_of_the_ranges_are_accepted():
    SamplingParams(temperature=100, top_k=0, top_p=1, min_p=1, seed=SEED_LIMIT)
    SamplingParams(presence_penalty=-2, frequency_penalty=2, logit_bias=((0, -100), (1, 100)))


@pytest.fixture(scope="module")
def context(demo_model):
    """Row 2 of a decoded batch has logits."""
    tokens = demo_model.tokenize("The weather is")
    with Context(demo_model, n_ctx=256, n_batch=32, n_outputs=1) as context:
        n_rows = len(tokens)
        wanted = [False] * (n_rows - 1) + [True]
        context.decode(Batch(tokens, range(n_rows), [0] * n_rows, wanted))
        yield context


@pytest.fixture
def row(demo_model):
    return len(demo_model.tokenize("The weather is")) - 1


@pytest.fixture
def draw(demo_model, context, row):
    """Function: sampling parameters and a count to tokens, all from the same logits."""

    def draw(count, **fields):
        with Sampler(SamplingParams(**fields), demo_model) as sampler:
            return [sampler.sample(context, row) for _ in range(count)]

    return draw


@pytest.mark.model
class TestSampler:
    @pytest.fixture
    def ranked(self, context, row):
        """Token ids, the most likely first."""
        return [int(t) for t in np.argsort(-context.logits(row), kind="stable")]

    @pytest.mark.parametrize("temperature", [0.0, 1e-38, 1e-7])
    def test_greedy_is_argmax(self, draw, ranked, temperature):
        assert draw(3, temperature=temperature) == ranked[:1] * 3

    @pytest.mark.parametrize("seed", [0, 5, SEED_LIMIT])
    def test_a_seed_is_reproducible(self, draw, seed):
        first = draw(20, seed=seed)
        assert draw(20, seed=seed) == first
        assert len(set(first)) > 1

    def test_seeds_differ_and_none_draws_one(self, draw, demo_model):
        assert draw(20, seed=1) != draw(20, seed=2)
        seeds = set()
        for _ in range(4):
            with Sampler(SamplingParams(), demo_model) as sampler:
                seeds.add(sampler.seed)
        assert len(seeds) > 1

    def test_top_k(self, draw, ranked):
        assert set(draw(100, top_k=3, temperature=5, seed=1)) == set(ranked[:3])
        assert draw(5, top_k=1, temperature=100, seed=1) == ranked[:1] * 5

    def test_top_p(self, draw, context, row, ranked):
        logits = context.logits(row).astype(np.float64)
        p = np.exp(logits - logits.max())
        p = p[ranked] / p.sum()
        nucleus = ranked[: int(np.searchsorted(np.cumsum(p), 0.3)) + 1]
        assert set(draw(200, top_p=0.3, seed=1)) <= set(nucleus)
        assert draw(5, top_p=1e-9, seed=1) == ranked[:1] * 5

    def test_min_p(self, draw, context, row):
        logits = context.logits(row)
        kept = set(np.flatnonzero(logits >= logits.max() + math.log(0.5)).tolist())
        assert set(draw(100, min_p=0.5, seed=1)) <= kept

    def test_bias_lifts_and_bans(self, draw, ranked):
        assert draw(2, temperature=0, logit_bias=((ranked[999], 100.0),)) == ranked[999:1000] * 2
        banned = tuple((token, -100.0) for token in ranked[:2])
        assert draw(1, temperature=0, logit_bias=banned) == ranked[2:3]

    def test_a_bias_beyond_the_vocabulary_is_refused(self, demo_model):
        for token in (-1, demo_model.n_vocab):
            with pytest.raises(InputError, match=f"token {token}") as caught:
                Sampler(SamplingParams(logit_bias=((token, 1.0),)), demo_model)
            assert caught.value.param == "logit_bias"

    def test_penalties_follow_the_formula_on_generated_tokens_only(self, draw, context, row):
        presence, frequency = 0.3, 0.2
        expected, counts = [], {}
        for _ in range(40):
            logits = context.logits(row).copy()
            for token, count in counts.items():
                logits[token] -= presence + count * frequency
            expected.append(int(logits.argmax()))
            counts[expected[-1]] = counts.get(expected[-1], 0) + 1
        got = draw(40, temperature=0, presence_penalty=presence, frequency_penalty=frequency)
        assert got == expected
        assert len(set(got)) > 3

    def test_presence_alone_counts_once(self, draw, ranked, context, row):
        logits = context.logits(row)
        gap = float(logits[ranked[0]] - logits[ranked[1]])
        assert gap < 2
        penalty = min(2.0, gap + 0.01)
        assert draw(2, temperature=0, presence_penalty=penalty) == ranked[:2]

    def test_a_row_without_logits_is_an_error_not_an_abort(self, demo_model, context):
        with Sampler(SamplingParams(), demo_model) as sampler, pytest.raises(EngineError):
            sampler.sample(context, 0)

    def test_closed(self, demo_model, context, row):
        sampler = Sampler(SamplingParams(), demo_model)
        sampler.close()
        sampler.close()
        with pytest.raises(EngineError, match="closed"):
            sampler.sample(context, row)
