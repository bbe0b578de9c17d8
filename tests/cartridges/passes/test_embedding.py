"""Embeddings against llama.cpp's own pooling, and under steering."""

import ctypes

import llama_cpp
import numpy as np
import pytest

from llamacart.cartridge import Cartridge, Fingerprint, LayerMap, Metadata
from llamacart.errors import CartridgeMismatchError, ContextOverflowError, EngineError
from llamacart.passes.embedding import ROWS_PER_STEP, Embedder
from llamacart.values.steering import Dose


def embed(embedder, tokens, steering=()):
    text = embedder.begin(tokens, steering)
    for _ in range(100):
        vector = text.advance()
        if vector is not None:
            return vector
    raise AssertionError("no end")


def pooled(model, tokens):
    """llama.cpp's own mean of the last hidden states."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 256
    params.embeddings = True
    params.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_MEAN
    params.n_threads = params.n_threads_batch = 1
    context = llama_cpp.llama_init_from_model(model.handle, params)
    raw = (ctypes.c_int32 * len(tokens))(*tokens)
    batch = llama_cpp.llama_batch_get_one(raw, ctypes.c_int32(len(tokens)))
    assert llama_cpp.llama_decode(context, batch) == 0
    pointer = llama_cpp.llama_get_embeddings_seq(context, 0)
    vector = np.ctypeslib.as_array(pointer, (model.n_embd,)).copy()
    llama_cpp.llama_free(context)
    return vector / np.linalg.norm(vector)


@pytest.fixture
def embedder(tiny_model):
    with Embedder(tiny_model, n_ctx=128, n_threads=1) as embedder:
        yield embedder


@pytest.fixture
def cartridge(tiny_model):
    neurons = np.arange(tiny_model.n_ff, dtype=np.int32)
    bias = np.random.default_rng(1).normal(size=len(neurons)).astype(np.float32)
    return Cartridge(Metadata("up"), tiny_model.fingerprint, (LayerMap(1, neurons, None, bias),))


@pytest.mark.parametrize("n", [1, ROWS_PER_STEP, 2 * ROWS_PER_STEP + 5])
def test_it_is_llama_cpps_mean_pooling(tiny_model, embedder, n):
    tokens = np.random.default_rng(n).integers(5, 100, n).tolist()
    vector = embed(embedder, tokens)
    assert vector.shape == (tiny_model.n_embd,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    # Its steps of 32 rows and llama.cpp's one step differ in the order of sums.
    np.testing.assert_allclose(vector, pooled(tiny_model, tokens), atol=1e-3)
    assert np.abs(vector - pooled(tiny_model, [*tokens[::-1], 5])).max() > 1e-2


def test_steering_changes_it_and_then_is_gone(embedder, cartridge):
    tokens = [5, 6, 7, 8]
    plain = embed(embedder, tokens)
    steered = embed(embedder, tokens, (Dose(cartridge, 1.0),))
    assert np.abs(plain - steered).max() > 0.01
    np.testing.assert_array_equal(embed(embedder, tokens), plain)
    np.testing.assert_array_equal(embed(embedder, tokens, (Dose(cartridge, 0.0),)), plain)


def test_a_text_that_was_dropped_leaves_nothing(embedder, cartridge):
    alone = embed(embedder, [5, 6, 7])
    text = embedder.begin(list(range(5, 75)), (Dose(cartridge, 1.0),))
    assert text.advance() is None
    text.drop()
    text.drop()
    np.testing.assert_array_equal(embed(embedder, [5, 6, 7]), alone)


def test_a_text_that_another_replaced_adds_nothing_to_it(embedder, cartridge):
    dose = (Dose(cartridge, 1.0),)
    tokens = list(range(5, 75))
    alone = embed(embedder, tokens, dose)
    old = embedder.begin(tokens[::-1], dose)
    assert old.advance() is None
    new = embedder.begin(tokens, dose)
    assert new.advance() is None
    with pytest.raises(EngineError, match="given up before"):
        old.advance()
    old.drop()  # the cartridge of the new one stays
    new.advance()
    np.testing.assert_array_equal(new.advance(), alone)


def test_an_error_lets_go_of_the_cartridges(embedder, cartridge):
    other = Cartridge(Metadata("other"), Fingerprint("llama", 9, 9, 9, "00"), cartridge.layers)
    text = embedder.begin([5, 6], (Dose(cartridge, 1.0), Dose(other, 1.0)))
    with pytest.raises(CartridgeMismatchError):
        text.advance()
    assert not embedder._hook._residents


def test_what_cannot_be_embedded(embedder):
    with pytest.raises(EngineError, match="without tokens"):
        embedder.begin([], ())
    with pytest.raises(ContextOverflowError, match="129 tokens"):
        embedder.begin([5] * 129, ())
