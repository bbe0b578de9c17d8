"""Requests under schemas in the engine, on a tiny model of bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.errors import SchemaTooComplexError
from llamacart.json_grammar.schema import schema_grammar
from llamacart.llama.model import Model
from llamacart.runner import LlamaRunner
from llamacart.values.sampling import SamplingParams
from llamacart.values.steering import Dose
from llamacart_server.engine.engine import Engine
from llamacart_server.engine.generation import Generation
from llamacart_server.engine.request import GenerationRequest, PlacedDose

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"enum": ["a", "bc"]},
        "list": {"items": {"type": "null"}, "maxItems": 1},
    },
    "required": ["name", "list"],
}


@pytest.fixture
def engine(tiny_model: Model) -> Iterator[Engine]:
    with LlamaRunner(tiny_model, n_ctx=1024, n_batch=32, n_sequences=4) as runner:
        engine = Engine(runner)
        yield engine
        engine.stop()


def submit(
    engine: Engine,
    model: Model,
    schema: object = None,
    *,
    seed: int = 0,
    cartridge: Cartridge | None = None,
) -> Generation:
    grammar = None if schema is None else model.grammars.compile(schema_grammar(schema))
    sampling = SamplingParams(seed=seed, grammar=grammar)
    doses = () if cartridge is None else (PlacedDose(Dose(cartridge, 1.0)),)
    return engine.submit(GenerationRequest((5, 6, 7), 120, doses, sampling=sampling))


def run(engine: Engine) -> None:
    while engine.step():
        pass


def text_of(generation: Generation, model: Model) -> str:
    tokens = [event.token for event in generation.events() if event.token is not None]
    return model.detokenize(tokens)


def test_answers_follow_their_schemas_side_by_side(engine, tiny_model) -> None:
    generations = [submit(engine, tiny_model, SCHEMA, seed=seed) for seed in range(4)]
    run(engine)
    texts = [text_of(generation, tiny_model) for generation in generations]
    answers = [json.loads(text) for text in texts if text.endswith("}")]
    assert answers
    for answer in answers:
        assert answer["name"] in ("a", "bc")
        assert answer["list"] in ([], [None])
    assert all(text.startswith("{") for text in texts)
    assert engine.stats().failed == 0


def test_a_schema_that_takes_too_much_work_ends_its_own_request(
    engine, tiny_model, monkeypatch
) -> None:
    alone = submit(engine, tiny_model)
    run(engine)
    expected = text_of(alone, tiny_model)
    neighbour = submit(engine, tiny_model)
    shift = LayerMap(0, np.array([0], np.int32), None, np.array([0.1], np.float32))
    cartridge = Cartridge(Metadata("shift"), tiny_model.fingerprint, (shift,))
    engine.load(cartridge)
    hard = submit(engine, tiny_model, SCHEMA, cartridge=cartridge)
    monkeypatch.setattr("llamacart.json_grammar.grammar.SECONDS_AHEAD", 0)
    monkeypatch.setattr("llamacart.json_grammar.grammar.SECONDS_PER_TOKEN", 0)
    run(engine)
    with pytest.raises(
        SchemaTooComplexError, match="too complex to be followed"
    ):  # not the cartridge's
        text_of(hard, tiny_model)
    assert text_of(neighbour, tiny_model) == expected
    assert engine.stats().failed == 1
