"""What runs beside a request does not change its text, on the real model."""

from __future__ import annotations

import numpy as np
import pytest

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.llama.model import Model
from llamacart.runner import LlamaRunner
from llamacart.values.sampling import SamplingParams
from llamacart.values.steering import Dose
from llamacart_server.engine.engine import Engine
from llamacart_server.engine.request import GenerationRequest, PlacedDose

TEXTS = (
    "In the summer we like to",
    "The committee published its report on Friday, and",
    "To mend a torn sleeve you need",
    "She asked",
)
ALPHAS = (None, 0.2, 0.4, 0.6, 0.8, 1.0, -0.5, 0.1)


def random_cartridge(model: Model, seed: int) -> Cartridge:
    rng = np.random.default_rng(seed)
    maps = []
    for layer in range(model.n_layer):
        neurons = np.sort(rng.choice(model.n_ff, 30, replace=False))
        weight = rng.normal(size=(30, model.n_ff)) * 0.01
        weight[np.arange(30), neurons] += 1.0
        maps.append(LayerMap.from_dense(layer, neurons, weight, rng.normal(size=30) * 0.05))
    return Cartridge(Metadata(f"random-{seed}"), model.fingerprint, tuple(maps))


@pytest.mark.model
def test_eight_choices_together_equal_each_alone() -> None:
    with Model("demo", batch_invariant=True) as model:
        cartridges = [random_cartridge(model, seed) for seed in range(2)]

        def request(number: int, alpha: float | None) -> GenerationRequest:
            prompt = tuple(model.tokenize(TEXTS[number % len(TEXTS)]))
            dose = Dose(cartridges[number % 2], alpha or 0.0)
            doses = () if alpha is None else (PlacedDose(dose),)
            return GenerationRequest(prompt, 20, doses, SamplingParams(temperature=0.0))

        requests = [request(number, alpha) for number, alpha in enumerate(ALPHAS)]
        runner = LlamaRunner(model, n_ctx=1024, n_batch=64, n_sequences=8)
        with runner, Engine(runner) as engine:
            for cartridge in cartridges:
                engine.load(cartridge)

            def texts(group: list[GenerationRequest]) -> list[list[int | None]]:
                generations = [engine.submit(one) for one in group]
                return [[event.token for event in g.events()] for g in generations]

            alone = [texts([one])[0] for one in requests]
            together = texts(requests)
    assert together == alone
    assert len({tuple(text) for text in alone}) == len(requests)
