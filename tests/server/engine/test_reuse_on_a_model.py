"""Reused, moved and recomputed rows against cold runs, on real graphs of llama.cpp."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.llama.model import Model
from llamacart.runner import LlamaRunner
from llamacart.values.sampling import SamplingParams
from llamacart.values.steering import Dose
from llamacart_server.engine.engine import Engine
from llamacart_server.engine.request import GenerationRequest, PlacedDose

GREEDY = SamplingParams(temperature=0.0)
HOST = pytest.mark.parametrize(("n_cached", "host"), [(8, 0), (1, 2**26)], ids=["slots", "host"])


def strong_cartridge(model: Model, seed: int) -> Cartridge:
    rng = np.random.default_rng(seed)
    maps = []
    for layer in range(model.n_layer):
        neurons = np.sort(rng.choice(model.n_ff, 30, replace=False))
        weight = rng.normal(size=(30, model.n_ff)) * 0.02
        weight[np.arange(30), neurons] += 1.0
        maps.append(LayerMap.from_dense(layer, neurons, weight, rng.normal(size=30)))
    return Cartridge(Metadata(f"strong-{seed}"), model.fingerprint, tuple(maps))


def make_request(prompt: list[int], n: int, *doses: Dose) -> GenerationRequest:
    placed = tuple(PlacedDose(dose) for dose in doses)
    return GenerationRequest(tuple(prompt), n, placed, GREEDY, ignore_eos=True)


def ask(engine: Engine, request: GenerationRequest) -> tuple[list[int | None], int]:
    """Tokens of a request that has the engine to itself, and how many were cached."""
    generation = engine.submit(request)
    while engine.step():
        pass
    return [event.token for event in generation.events()], generation.report.cached_tokens


def cold(model: Model, cartridges: list[Cartridge], request: GenerationRequest) -> list[int | None]:
    with LlamaRunner(model, n_ctx=512, n_batch=64, n_sequences=1) as runner:
        engine = Engine(runner)
        for cartridge in cartridges:
            engine.load(cartridge)
        return ask(engine, request)[0]


@pytest.fixture(scope="module")
def invariant_model() -> Model:
    with Model("demo", gpu_layers=0, batch_invariant=True) as model:
        yield model


@pytest.mark.model
@HOST
def test_kv_never_crosses_steering_keys(invariant_model: Model, n_cached: int, host: int) -> None:
    """A(P), base(P), B(Q), B(P), A(P) again, base(P at 0): each as in a run of its own."""
    model = invariant_model
    a, b = strong_cartridge(model, 1), strong_cartridge(model, 2)
    p = model.tokenize("The committee published its report on Friday, and the mayor said that")
    q = model.tokenize("To mend a torn sleeve you need a needle, some thread and")
    requests = [
        make_request(p, 12, Dose(a, 1.0)),
        make_request(p, 12),
        make_request(q, 12, Dose(b, 1.0)),
        make_request(p, 12, Dose(b, 1.0)),
        make_request(p, 12, Dose(a, 1.0)),
        make_request(p, 12, Dose(a, 0.0)),
    ]
    expected = [cold(model, [a, b], request) for request in requests]
    runner = LlamaRunner(model, n_ctx=512, n_batch=64, n_sequences=4, n_cached=n_cached)
    with runner:
        engine = Engine(runner, host_cache_bytes=host)
        engine.load(a)
        engine.load(b)
        got = [ask(engine, request) for request in requests]
        stats = engine.stats()
    assert [tokens for tokens, _ in got] == expected
    assert [cached for _, cached in got] == [0, 0, 0, 0, len(p) - 1, len(p) - 1]
    assert bool(stats.host_bytes) == bool(host)
    # Were a key ignored, one of these would be another's text.
    assert len({tuple(tokens) for tokens in expected}) == 4


@pytest.mark.model
@HOST
def test_rows_that_waited_are_reused_as_if_cold(
    invariant_model: Model, n_cached: int, host: int
) -> None:
    """What a cartridge waits for is said in one prompt and not in the other, which begins alike."""
    model = invariant_model
    cartridge = replace(strong_cartridge(model, 1), when=("needle",))
    texts = (
        "To mend a sleeve you need a needle and thread, and",
        "To mend a sleeve you need a new",
    )
    p, q = map(model.tokenize, texts)
    dose = Dose(cartridge, 0.5)
    requests = [make_request(tokens, 6, dose) for tokens in (p, q, p, q)]
    with LlamaRunner(model, n_ctx=512, n_batch=64, n_sequences=1, n_cached=n_cached) as runner:
        engine = Engine(runner, host_cache_bytes=host)
        engine.load(cartridge)
        found = [ask(engine, request) for request in requests]
    assert [tokens for tokens, _ in found] == [cold(model, [cartridge], r) for r in requests]
    assert found[1][0] == cold(model, [cartridge], make_request(q, 6))
    assert all(cached > 3 for _, cached in found[1:])


@pytest.mark.model
@HOST
def test_a_conversation_reads_only_what_is_new(
    invariant_model: Model, n_cached: int, host: int
) -> None:
    model = invariant_model
    a = strong_cartridge(model, 1)
    conversations = [
        (model.tokenize("Once upon a time there was a"), (Dose(a, 0.8),)),
        (model.tokenize("The recipe for bread is"), ()),
    ]
    with LlamaRunner(model, n_ctx=512, n_batch=64, n_sequences=2, n_cached=n_cached) as runner:
        engine = Engine(runner, host_cache_bytes=host)
        engine.load(a)
        for turn in range(3):
            for i, (prompt, doses) in enumerate(conversations):
                request = make_request(prompt, 10, *doses)
                tokens, cached = ask(engine, request)
                assert tokens == cold(model, [a], request)
                assert (cached > 0) == (turn > 0)
                more = model.tokenize(" And then", add_special=False)
                conversations[i] = ([*prompt, *(t or 0 for t in tokens), *more], doses)


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
@pytest.mark.parametrize("seed", range(3))
def test_who_leaves_changes_no_text(
    tiny_path: Callable[..., Path], architecture: str, seed: int
) -> None:
    """Visitors come and go at random, cells are moved, sequences preempted: texts stay exact.

    With gemma3 the sliding window (64) is much shorter than the texts.
    """
    rng = random.Random(seed)
    path = tiny_path(architecture=architecture)
    with Model(str(path), gpu_layers=0, batch_invariant=True) as model:
        a = strong_cartridge(model, 1)
        steady = [
            make_request([3 + i, *range(40 + i, 60 + i)], 90, *([Dose(a, 0.3)] * (i % 2)))
            for i in range(3)
        ]
        expected = [cold(model, [a], request) for request in steady]
        with LlamaRunner(model, n_ctx=420, n_batch=32, n_sequences=6, n_cached=3) as runner:
            engine, n_compactions = Engine(runner), 0
            compact = runner.compact

            def counted(slots: list[int]) -> list[int]:
                nonlocal n_compactions
                n_compactions += 1
                return compact(slots)

            runner.compact = counted  # type: ignore[method-assign, assignment]
            engine.load(a)
            generations = [engine.submit(request) for request in steady]
            visitors = []
            while engine.step():
                if rng.random() < 0.4 and len(visitors) < 60:
                    prompt = [rng.randrange(3, 200) for _ in range(rng.randrange(1, 50))]
                    doses = [Dose(a, rng.choice([0.1, 0.5]))] * rng.randrange(2)
                    visitors.append(engine.submit(make_request(prompt, 40, *doses)))
                if visitors and rng.random() < 0.3:
                    rng.choice(visitors).cancel()
            got = [[event.token for event in g.events()] for g in generations]
            stats = engine.stats()
    assert got == expected
    assert n_compactions > 1
    assert (stats.running, stats.queued) == (0, 0)
    assert stats.kv_used == stats.kv_cached
