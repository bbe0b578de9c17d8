"""What `check.py` looks at, one function each; what they share is a model on its device."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from harness import Comparison, alternate, fixed_tokens
from random_cartridge import random_cartridge
from watched import PASSES, logits_of, watch

from llamacart.hook.steering_hook import SteeringHook
from llamacart.llama.closing import Closing
from llamacart.llama.context import Context
from llamacart.passes.capture import capture
from llamacart.passes.generate import greedy
from llamacart.values.batch import Batch
from llamacart.values.steering import Dose

if TYPE_CHECKING:
    from llamacart.cartridge import Cartridge
    from llamacart.hook.steering_hook import Place
    from llamacart.llama.model import Model
    from llamacart.values.steering import Steering

STEP_BOUND = 0.03
"""Most ‖error‖/‖Δ‖: a device rounds rows to 8 bits, or adds up in 16 bits."""

CAPTURE_BOUND = 0.05
"""Most ‖error‖/‖h‖ of a layer's rows against those of the CPU: each layer's products add to it."""

FRENCH_BOUND = 0.7
"""Least share of continuations in French."""

PLAIN = "no callback"
_SPREAD = 0.01
_MIXED = 16
_PREFILL = 512

_FRENCH: dict[str, Any] = {
    "threshold": 0.04,
    "penalty": 3.0,
    "solver": "ridge-identity",
    "impact": 0.0,
    "pairing": ["handover", "identity"],
    "skip_layers": [-1],
    "generate_source": 0,
    "generate_target": 0,
}
"""How the library's French is fitted, without the texts that it is to leave alone."""

PROMPTS = (
    "In the summer we like to",
    "The best way to learn a new language is",
    "My grandmother used to tell me that",
    "After dinner the children",
    "The city is known for its",
    "When it rains, people",
    "The teacher asked the students to",
    "On Sunday morning the market",
)


@dataclass(frozen=True)
class Line:
    """One figure.

    Attributes:
        name: What was measured.
        value: It.
        bound: What it may be; None where it is told, not judged.
        at_least: Whether it must not be below the bound, instead of above.
        note: What belongs to it.
    """

    name: str
    value: float
    bound: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether it is within its bound; NaN never is."""
        if self.bound is None:
            return True
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclass(frozen=True)
class Setup:
    """A model where it is to be looked at.

    Attributes:
        model: On its device, if the build has one.
        host: The same on the CPU of the same build.
        place: Where cartridges act.
        neurons: K of each layer of the random cartridges.
    """

    model: Model
    host: Model
    place: Place
    neurons: int = 24
    cartridges: list[Cartridge] = field(default_factory=list)

    def some(self, count: int) -> list[Cartridge]:
        """Random cartridges; every other one holds its maps in factors."""
        for seed in range(len(self.cartridges), count):
            rank = 8 if seed % 2 else None
            one = random_cartridge(
                self.model,
                seed,
                neurons=self.neurons,
                spread=_SPREAD,
                rank=rank,
                name=f"random-{seed}",
            )
            self.cartridges.append(one)
        return self.cartridges[:count]


def prompt_of(model: Model, n_rows: int) -> Batch:
    """A prompt that is read at once, with logits after each row."""
    tokens = fixed_tokens(model, n_rows)
    return Batch(tokens, list(range(n_rows)), [0] * n_rows, [True] * n_rows)


def starts_of(model: Model, n_rows: int) -> Batch:
    """The first tokens of as many sequences."""
    tokens = fixed_tokens(model, n_rows + 1)[1:]
    return Batch(tokens, [0] * n_rows, list(range(n_rows)), [True] * n_rows)


def equality(setup: Setup) -> list[Line]:
    """The hook's steps beside NumPy's, on what the device itself computed before them."""
    found = []
    cartridges = setup.some(_MIXED)
    one: Steering = (Dose(cartridges[0], 1.0),)
    two: Steering = (Dose(cartridges[0], 0.7), Dose(cartridges[1], -0.5))
    own: list[Steering] = [(Dose(c, 1 - 0.05 * i),) for i, c in enumerate(cartridges)]
    own[3] = ()
    for name, batch, steerings in (
        ("1 row", starts_of(setup.model, 1), [one]),
        ("16 rows, a cartridge each but one", starts_of(setup.model, _MIXED), own),
        ("16 rows, two cartridges each", starts_of(setup.model, _MIXED), [two] * _MIXED),
        ("a prompt of 64 rows", prompt_of(setup.model, 64), [one] * 64),
        ("64 rows, every other steered", prompt_of(setup.model, 64), [one, ()] * 32),
    ):
        errors = watch(setup.model, cartridges, batch, steerings, setup.place)
        text = f"{errors.n_steps} steps, {errors.on_device} layers as graphs"
        found += [
            Line(f"step, {name}: error of Δ", errors.share_of_step, STEP_BOUND, note=text),
            Line(f"step, {name}: error of h", errors.share_of_largest),
            Line(
                f"step, {name}: other neurons and rows as they were",
                float(errors.untouched),
                1.0,
                at_least=True,
            ),
        ]
        wanted = setup.model.n_layer if setup.place != "host" else 0
        found.append(
            Line(f"step, {name}: layers on the device", errors.on_device, wanted, at_least=True)
        )
    return found


def nothing(setup: Setup) -> list[Line]:
    """α = 0 beside no cartridge: the same logits, to the byte."""
    cartridges = setup.some(1)
    batch = starts_of(setup.model, 4)
    plain = logits_of(setup.model, cartridges, batch, [()] * 4)
    zero = logits_of(setup.model, cartridges, batch, [(Dose(cartridges[0], 0.0),)] * 4)
    acted = logits_of(setup.model, cartridges, batch, [(Dose(cartridges[0], 1.0),)] * 4)
    return [
        Line("α = 0: largest difference of a logit", float(np.abs(zero - plain).max()), 0.0),
        Line("α = 1: largest difference of a logit", float(np.abs(acted - plain).max())),
    ]


def captured(setup: Setup) -> list[Line]:
    """Rows of each layer, captured from the device and from the CPU."""
    texts = [fixed_tokens(setup.model, n, start=9 * n) for n in (24, 40, 33)]
    device = capture(setup.model, texts, copy=not setup.model.uses_device)
    host = capture(setup.host, texts)
    by_layer = [
        float(np.linalg.norm(device[i] - host[i]) / np.linalg.norm(host[i])) for i in sorted(host)
    ]
    by_row = [
        float((np.linalg.norm(device[i] - host[i], axis=1) / np.linalg.norm(host[i], axis=1)).max())
        for i in sorted(host)
    ]
    return [
        Line("capture: error of a layer's rows, largest", max(by_layer), CAPTURE_BOUND),
        Line("capture: error of the first layer's rows", by_layer[0]),
        Line("capture: error of a single row, largest", max(by_row)),
    ]


def training(setup: Setup, n_pairs: int) -> list[Line]:
    """A small French, trained on the device and asked there."""
    from llamacart_trainer.evaluation.scorers import language
    from llamacart_trainer.fitting.training import train
    from llamacart_trainer.recipe.recipe import load_task
    from llamacart_trainer.recipe.tasks import make_task

    model = setup.model
    folder = Path(__file__).parents[2] / "cartridges" / "library" / "french"
    pairs = load_task(folder).pairs[:n_pairs]
    task = make_task(pairs, name="small-french", **_FRENCH)
    start = time.perf_counter()
    result = train(task, model)
    seconds = time.perf_counter() - start
    prompts = [model.tokenize(text) for text in PROMPTS]
    score = language("fr")
    shares, said = [], ""
    for steering in ((), (Dose(result.cartridge, 1.0),)):
        texts = [model.detokenize(ids) for ids in greedy(model, prompts, 16, steering=steering)]
        shares.append(statistics.mean(score(PROMPTS, texts)))
        said = f"“{PROMPTS[0]}{texts[0]}”".replace("\n", " ").replace("|", "/")
    return [
        Line(
            f"training: French after {n_pairs} pairs",
            shares[1],
            FRENCH_BOUND,
            at_least=True,
            note=said,
        ),
        Line("training: French before", shares[0]),
        Line("training: seconds", seconds),
    ]


@dataclass(frozen=True)
class Speed:
    """Milliseconds of a step.

    Attributes:
        shape: What is computed.
        way: How it is steered.
        milliseconds: Median.
        ratio: Median of its times over those of `PLAIN` just before.
        stops: Of the graph, in one step.
        copied: Bytes between device and host, in one step.
        waits: For graphs of ours, one by one, in one step.
    """

    shape: str
    way: str
    milliseconds: float
    ratio: float = 1.0
    stops: int = 0
    copied: int = 0
    waits: int = 0


class Stepper(Closing):
    """One context, and the place where its steps are steered.

    Args:
        model: The model.
        steering: What acts on every row.
        place: See `SteeringHook`; None makes a context without a callback.
        n_rows: Rows of a step: as many sequences, or a prompt.
        decodes: Whether a step appends a token to each sequence, instead of reading a prompt.
        length: Most tokens of a sequence that decodes.
    """

    def __init__(
        self,
        model: Model,
        steering: Steering,
        place: Place | None,
        *,
        n_rows: int,
        decodes: bool,
        length: int,
    ) -> None:
        self._steering, self._n_rows, self._decodes = steering, n_rows, decodes
        self._hook = None
        if place is not None:
            self._hook = SteeringHook(model, max_rows=n_rows, place=place)
            self._hook.load(steering[0].cartridge)
        n_sequences = n_rows if decodes else 1
        self._tokens = fixed_tokens(model, max(length, n_rows))
        self._position = 0
        self._context = Context(
            model,
            n_ctx=n_rows * length if decodes else n_rows,
            n_batch=n_rows,
            n_seq_max=n_sequences,
            n_outputs=n_sequences,
            hook=self._hook,
        )

    def step(self) -> float:
        """Seconds of the next step."""
        n_rows = self._n_rows
        if self._decodes:
            token, position = self._tokens[self._position], self._position
            owners = list(range(n_rows))
            batch = Batch([token] * n_rows, [position] * n_rows, owners, [True] * n_rows)
            self._position += 1
        else:
            self._context.clear()
            outputs = [i == n_rows - 1 for i in range(n_rows)]
            batch = Batch(self._tokens[:n_rows], list(range(n_rows)), [0] * n_rows, outputs)
        if self._hook is not None:
            self._hook.set_rows([self._steering] * n_rows)
        start = time.perf_counter()
        self._context.decode(batch)
        self._context.logits(n_rows - 1)  # else a device may still compute
        return time.perf_counter() - start

    @property
    def traffic(self) -> tuple[int, int, int]:
        """Stops, bytes copied and waits for graphs of the last step."""
        return (*self._hook.traffic, self._hook.waits) if self._hook is not None else (0, 0, 0)

    def close(self) -> None:
        """Free the context."""
        self._context.close()


def speed(setup: Setup, steps: int, n_prefill: int = _PREFILL) -> list[Speed]:
    """Decode steps of 1 and 16 rows and a prompt: unsteered, and steered in each place, in turn."""
    found = []
    places: dict[str, Place | None] = {
        PLAIN: None,
        "steered by the host": "host",
        "steered on the device": setup.place,
    }
    steering: Steering = (Dose(setup.some(1)[0], 1.0),)
    for shape, n_rows, decodes, turns in (
        ("decode, 1 row", 1, True, steps),
        (f"decode, {_MIXED} rows", _MIXED, True, steps),
        (f"prompt, {n_prefill} rows", n_prefill, False, max(3, steps // 8)),
    ):
        with ExitStack() as owned:
            steppers = {
                way: owned.enter_context(
                    Stepper(
                        setup.model,
                        steering,
                        place,
                        n_rows=n_rows,
                        decodes=decodes,
                        length=steps + PASSES,
                    )
                )
                for way, place in places.items()
            }
            samples = alternate(
                {way: stepper.step for way, stepper in steppers.items()}, turns, warm_up=PASSES
            )
            compared = Comparison(shape, "s", PLAIN, samples)
            found += [
                Speed(
                    shape,
                    way,
                    1e3 * compared.spread(way).median,
                    compared.ratio(way).median,
                    *stepper.traffic,
                )
                for way, stepper in steppers.items()
            ]
    return found
