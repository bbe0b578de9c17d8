from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import llama_cpp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamacart.errors import EngineError, InputError
from llamacart.json_grammar.grammar import grammar_text
from llamacart.json_grammar.schema import schema_grammar
from llamacart.llama.context import Context
from llamacart.sampling.candidates import Candidates
from llamacart.sampling.sampler import Sampler
from llamacart.values.batch import Batch
from llamacart.values.sampling import SEED_LIMIT, SamplingParams

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("temperature", v) for v in (-0.1, 100.5, NAN, INF)),
        *(("top_k", v) for v in (-1, 2**31)),
        *(("top_p", v) for v in (-0.5, 1.01, NAN)),
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
def real(context, row):
    """Logits [n_vocab] of the model."""
    return context.logits(row).copy()


@pytest.fixture
def draw(demo_model, context, row):
    """Function: sampling parameters and a count to tokens, all from the same logits."""

    def draw(count, **fields):
        candidates = Candidates(demo_model.n_vocab)
        with Sampler(SamplingParams(**fields), demo_model) as sampler:
            logits = context.logits(row)
            return [sampler.choose(logits, candidates) for _ in range(count)]

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
        for least in (1e-9, 0):
            assert draw(5, top_p=least, seed=1) == ranked[:1] * 5

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

    def test_a_row_without_logits_is_an_error_not_an_abort(self, context):
        with pytest.raises(EngineError, match="row 0"):
            context.logits(0)

    def test_closed(self, demo_model, real):
        sampler = Sampler(SamplingParams(), demo_model)
        sampler.close()
        sampler.close()
        with pytest.raises(EngineError, match="closed"):
            sampler.choose(real, Candidates(demo_model.n_vocab))

    def test_biases_of_one_token_add_up(self, draw, ranked):
        lift = ((ranked[999], 50.0), (ranked[999], 50.0))
        assert draw(1, temperature=0, logit_bias=lift) == ranked[999:1000]
        assert (
            draw(1, temperature=0, logit_bias=((ranked[0], 90.0), (ranked[0], -90.0)))
            == (ranked[:1])
        )

    def test_logits_that_are_not_finite_are_an_error_and_one_minus_infinity_is_not(
        self, demo_model, context, row, ranked
    ):
        candidates = Candidates(demo_model.n_vocab)
        for fields in ({"temperature": 0}, {"top_k": 5}, {"min_p": 0.1}, {}, {"top_p": 0.9}):
            with Sampler(SamplingParams(seed=1, **fields), demo_model) as sampler:
                for value in (NAN, -NAN, INF):
                    logits = context.logits(row).copy()
                    logits[-1] = value
                    with pytest.raises(EngineError, match="logits are not finite"):
                        sampler.choose(logits, candidates)
                with pytest.raises(EngineError, match="logits are not finite"):
                    sampler.choose(np.full(demo_model.n_vocab, -INF, np.float32), candidates)
                logits = np.full(demo_model.n_vocab, -INF, np.float32)
                logits[777] = -3.0
                assert sampler.choose(logits, candidates) == 777


@pytest.mark.model
class TestSameAsTheWholeVocabulary:
    """What `choose` hands to the chain leads to the token that all candidates lead to."""

    @settings(
        max_examples=60,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    @given(
        seed=st.integers(0, 2**32 - 1),
        temperature=st.sampled_from([0.0, 0.3, 0.8, 1.0, 3.0, 100.0]),
        top_k=st.sampled_from([0, 1, 2, 40, 500, 3000, 2**31 - 1]),
        top_p=st.sampled_from([1.0, 0.95, 0.3, 1e-6]),
        min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0, 1e-9, 1e-60]),
        presence=st.sampled_from([0.0, 1.5, -2.0]),
        frequency=st.sampled_from([0.0, 0.7, -0.5]),
        biases=st.lists(st.tuples(st.integers(0, 999), st.floats(-100, 100)), max_size=20),
        noise=st.sampled_from([0.0, 0.5, 5.0]),
    )
    def test_as_llama_sampler_sample(
        self, demo_model, context, row, real, seed, noise, biases, presence, frequency, **fields
    ):
        order = np.argsort(-real)
        biases = {
            int(order[rank * rank]) % demo_model.n_vocab: bias
            for rank, bias in biases
            if rank < 500
        }
        params = SamplingParams(
            seed=seed,
            presence_penalty=presence,
            frequency_penalty=frequency,
            logit_bias=tuple(biases.items()),
            **fields,
        )
        rng = np.random.default_rng(seed)
        logits = context.logits(row)
        candidates = Candidates(demo_model.n_vocab)
        with Sampler(params, demo_model) as ours, Sampler(params, demo_model) as plain:
            for _ in range(6):
                logits[:] = real + noise * rng.normal(size=len(real)).astype(np.float32)
                expected = llama_cpp.llama_sampler_sample(plain._chain, context.handle, row)
                assert ours.choose(logits, candidates) == expected
        logits[:] = real

    @pytest.mark.parametrize(
        "fields", [{"min_p": 0.3}, {"temperature": 0.6}, {"top_k": 4}, {"temperature": 0}], ids=str
    )
    @pytest.mark.parametrize("n_banned", [0, 4])
    def test_many_draws_where_the_most_likely_are_banned(
        self, demo_model, context, row, real, fields, n_banned
    ):
        banned = tuple((int(token), -100.0) for token in np.argsort(-real)[:n_banned])
        params = SamplingParams(seed=2, logit_bias=banned, **fields)
        candidates = Candidates(demo_model.n_vocab)
        with Sampler(params, demo_model) as ours, Sampler(params, demo_model) as plain:
            for _ in range(100):
                expected = llama_cpp.llama_sampler_sample(plain._chain, context.handle, row)
                assert ours.choose(real, candidates) == expected

    def test_equal_logits_give_the_lowest_id(self, demo_model, context, row, real):
        candidates = Candidates(demo_model.n_vocab)
        for ids in ((5, 200_000), (127, 128), (0, 1)):
            logits = real.copy()
            logits[list(ids)] = 99
            with Sampler(SamplingParams(temperature=0), demo_model) as sampler:
                assert sampler.choose(logits, candidates) == ids[0]


NUMBER = grammar_text(r"start: /-?[0-9]+(\.[0-9]{2})?/", {})
CUTS = [
    {"temperature": 0},
    {"top_k": 3},
    {"top_k": 40, "min_p": 0.1},
    {"min_p": 0.2},
    {"top_p": 0.5},
    {"temperature": 0, "logit_bias": ((70, 50.0), (51, 20.0))},
    {},
]


class TestGrammar:
    """On a model of bytes, with logits that a test makes."""

    @pytest.fixture
    def rng(self):
        return np.random.default_rng(3)

    @pytest.mark.parametrize("fields", CUTS, ids=str)
    @pytest.mark.parametrize("seed", range(4))
    def test_a_choice_is_that_among_the_tokens_that_fit(self, tiny_model, rng, fields, seed):
        """As if all other logits were −∞ from the first, before every cut."""
        grammar = tiny_model.grammars.compile(NUMBER)
        params = SamplingParams(seed=seed, presence_penalty=0.5, **fields)
        n_vocab = tiny_model.n_vocab
        candidates = Candidates(n_vocab)
        state, bits = grammar.start(), np.zeros(grammar.n_words, np.uint32)
        with (
            Sampler(replace(params, grammar=grammar), tiny_model) as ours,
            Sampler(params, tiny_model) as plain,
        ):
            for _ in range(8):
                logits = rng.normal(0, 3, n_vocab).astype(np.float32)
                state.fill(bits)
                fits = np.unpackbits(bits.view(np.uint8), bitorder="little")[:n_vocab] == 1
                assert 0 < fits.sum() < 20
                token = ours.choose(logits, candidates)
                assert token == plain.choose(np.where(fits, logits, -INF), Candidates(n_vocab))
                state.accept(token)
                if tiny_model.is_end_of_generation(token):
                    break

    @pytest.mark.parametrize("fields", CUTS[:5], ids=str)
    def test_a_grammar_that_allows_all_changes_nothing(self, tiny_model, rng, fields):
        grammar = tiny_model.grammars.compile(grammar_text("start: /(?s:[\\x01-\\x7F]*)/", {}))
        params = SamplingParams(seed=5, **fields)
        candidates = Candidates(tiny_model.n_vocab)
        with (
            Sampler(replace(params, grammar=grammar), tiny_model) as ours,
            Sampler(params, tiny_model) as plain,
        ):
            for _ in range(20):
                logits = np.full(tiny_model.n_vocab, -INF, np.float32)
                logits[4:130] = rng.normal(0, 3, 126)
                before = logits.copy()
                assert ours.choose(logits, candidates) == plain.choose(logits, candidates)
                np.testing.assert_array_equal(logits, before)

    @pytest.mark.parametrize("temperature", [0, 1, 5])
    def test_the_text_follows_it_to_its_end(self, tiny_model, rng, temperature):
        text = 'start: ("yes" | "no") ", " /[a-f]{3}/ "é"'
        grammar = tiny_model.grammars.compile(grammar_text(text, {}))
        candidates = Candidates(tiny_model.n_vocab)
        for seed in range(5):
            params = SamplingParams(temperature=temperature, seed=seed, grammar=grammar)
            tokens: list[int] = []
            with Sampler(params, tiny_model) as sampler:
                while not tokens or not tiny_model.is_end_of_generation(tokens[-1]):
                    logits = rng.normal(size=tiny_model.n_vocab).astype(np.float32)
                    tokens.append(sampler.choose(logits, candidates))
            assert re.fullmatch("(yes|no), [a-f]{3}é", tiny_model.detokenize(tokens[:-1]))

    def test_past_its_end_there_are_only_ends(self, tiny_model):
        grammar = tiny_model.grammars.compile(grammar_text('start: "a"', {}))
        for temperature in (0, 1):
            params = SamplingParams(temperature=temperature, grammar=grammar)
            with Sampler(params, tiny_model) as sampler:
                logits = np.zeros(tiny_model.n_vocab, np.float32)
                chosen = [sampler.choose(logits, Candidates(len(logits))) for _ in range(4)]
            assert chosen[1:] == [tiny_model.eos_token] * 3

    def test_nothing_left_to_choose_is_an_error(self, tiny_model):
        grammar = tiny_model.grammars.compile(grammar_text('start: "q"', {}))
        for temperature in (0, 1):
            params = SamplingParams(temperature=temperature, grammar=grammar)
            with Sampler(params, tiny_model) as sampler:
                logits = np.full(tiny_model.n_vocab, -INF, np.float32)
                logits[80] = 1
                for _ in range(2):
                    with pytest.raises(EngineError, match="grammar allows none"):
                        sampler.choose(logits, Candidates(tiny_model.n_vocab))


@pytest.mark.model
def test_an_enum_of_the_demo_model_is_written_at_any_temperature(demo_model, context, row, real):
    words = ["Paris", "<end_of_turn>", "Zürich", "a b"]
    grammar = demo_model.grammars.compile(schema_grammar({"enum": words}))
    candidates = Candidates(demo_model.n_vocab)
    for temperature in (0, 1, 50):
        params = SamplingParams(temperature=temperature, seed=4, grammar=grammar)
        text = b""
        with Sampler(params, demo_model) as sampler:
            while not demo_model.is_end_of_generation(token := sampler.choose(real, candidates)):
                text += demo_model.token_bytes(token)
        assert json.loads(text) in words
