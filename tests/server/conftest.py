"""A runner without a model, whose tokens depend on everything a real one's depend on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from llamacart.cartridge import Cartridge, Fingerprint, LayerMap, Metadata
from llamacart.errors import CartridgeMismatchError, EngineError, InputError
from llamacart.sampling import SamplingParams
from llamacart.steering import Dose, Steering, effective
from llamacart_server.request import ApplyTo, GenerationRequest, PlacedDose

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llamacart.runner import RunBatch

N_VOCAB = 1000
END = 0
FINGERPRINT = Fingerprint("fake", 1, 32, 8, "00")


def chain(state: bytes, token: int, steering: Steering) -> bytes:
    """State after one more row: depends on all rows before, their order and their steering."""
    doses = sorted((d.cartridge.content_hash, d.alpha) for d in effective(steering))
    return hashlib.blake2b(state + repr((token, doses)).encode(), digest_size=16).digest()


@dataclass
class FakeSampler:
    """Chooses by the row's state, the seed and the number of tokens chosen before."""

    seed: int
    count: int = 0
    closed: bool = False

    def choose(self, state: bytes) -> int:
        assert not self.closed
        self.count += 1
        digest = hashlib.blake2b(state + repr((self.seed, self.count)).encode()).digest()
        return int.from_bytes(digest[:4], "little") % N_VOCAB

    def close(self) -> None:
        self.closed = True


class FakeRunner:
    """Checks what llama.cpp would trip over, and keeps a KV cache of hashes.

    Set `fail` to an exception to have it raised by the next `run`, after half of the rows
    went into the cache; set `before_run` to something to call before each `run`.
    """

    def __init__(self, n_ctx: int = 4096, n_batch: int = 64, n_sequences: int = 4) -> None:
        self.n_ctx, self.n_batch, self.n_sequences = n_ctx, n_batch, n_sequences
        self.resident: dict[str, Cartridge] = {}
        self.kv: dict[int, list[bytes]] = {}
        self.batches: list[RunBatch] = []
        self.samplers: list[FakeSampler] = []
        self.fail: Exception | None = None
        self.before_run: Callable[[], None] = lambda: None
        self._outputs: dict[int, bytes] = {}

    def load(self, cartridge: Cartridge) -> None:
        if cartridge.fingerprint != FINGERPRINT:
            raise CartridgeMismatchError(f"cartridge {cartridge.name!r} does not fit")
        self.resident[cartridge.content_hash] = cartridge

    def unload(self, cartridge: Cartridge) -> None:
        self.resident.pop(cartridge.content_hash, None)

    def run(self, batch: RunBatch) -> None:
        self.before_run()
        n_rows = len(batch.tokens)
        assert 0 < n_rows <= self.n_batch
        for part in (batch.positions, batch.sequences, batch.outputs, batch.steerings):
            assert len(part) == n_rows
        assert sum(batch.outputs) <= self.n_sequences
        self.batches.append(batch)
        self._outputs = {}
        failure, self.fail = self.fail, None
        for row in range(n_rows if failure is None else n_rows // 2):
            self._run_row(batch, row)
        if failure is not None:
            raise failure

    def _run_row(self, batch: RunBatch, row: int) -> None:
        sequence, steering = batch.sequences[row], batch.steerings[row]
        assert 0 <= sequence < self.n_sequences
        for dose in steering:
            if dose.cartridge.content_hash not in self.resident:
                raise EngineError(f"cartridge {dose.cartridge.name!r} is not loaded")
        cells = self.kv.setdefault(sequence, [])
        assert batch.positions[row] == len(cells), "positions are not consecutive"
        cells.append(chain(cells[-1] if cells else b"", batch.tokens[row], steering))
        assert sum(map(len, self.kv.values())) <= self.n_ctx, "KV cells ran out"
        if batch.outputs[row]:
            self._outputs[row] = cells[-1]

    def free(self, sequence: int) -> None:
        self.kv.pop(sequence, None)

    def sampler(self, params: SamplingParams) -> FakeSampler:
        if any(token >= N_VOCAB for token, _ in params.logit_bias):
            raise InputError("no such token", param="logit_bias")
        self.samplers.append(FakeSampler(params.seed or 0))
        return self.samplers[-1]

    def sample(self, sampler: FakeSampler, row: int) -> int:
        if row not in self._outputs:
            raise EngineError(f"row {row} has no logits")
        return sampler.choose(self._outputs[row])

    def is_end(self, token: int) -> bool:
        return token == END

    def check_tokens(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            if not 0 <= token < N_VOCAB:
                raise InputError(f"token {token} is not in the vocabulary")

    @property
    def idle(self) -> bool:
        """Whether nothing is left of any sequence."""
        return not self.kv and all(sampler.closed for sampler in self.samplers)


def alone(request: GenerationRequest) -> list[int]:
    """Tokens that a request yields without engine, scheduler or neighbours."""
    steerings = {
        rows: tuple(d.dose for d in request.doses if d.apply_to in ("all", rows))
        for rows in ("prompt", "generated")
    }
    state = b""
    for token in request.prompt:
        state = chain(state, token, steerings["prompt"])
    sampler = FakeSampler(request.sampling.seed or 0)
    out: list[int] = []
    while len(out) < request.max_tokens:
        token = sampler.choose(state)
        if token == END and not request.ignore_eos:
            break
        out.append(token)
        state = chain(state, token, steerings["generated"])
    return out


def make_cartridge(
    name: str, bias: float = 1.0, fingerprint: Fingerprint = FINGERPRINT
) -> Cartridge:
    """A mean shift of one neuron; equal biases mean equal content."""
    layer = LayerMap(0, np.array([0], np.int32), None, np.array([bias], np.float32))
    return Cartridge(Metadata(name), fingerprint, (layer,))


def make_request(
    n_prompt: int,
    max_tokens: int = 8,
    *doses: tuple[Cartridge, float, ApplyTo],
    seed: int = 0,
    first: int = 1,
    ignore_eos: bool = False,
) -> GenerationRequest:
    """A request whose prompt is `n_prompt` tokens counted up from `first`."""
    return GenerationRequest(
        prompt=tuple((first + i) % (N_VOCAB - 1) + 1 for i in range(n_prompt)),
        max_tokens=max_tokens,
        doses=tuple(PlacedDose(Dose(c, alpha), rows) for c, alpha, rows in doses),
        sampling=SamplingParams(seed=seed),
        ignore_eos=ignore_eos,
    )


class Fakes:
    """What tests use, as one fixture: this file cannot be imported."""

    Runner = FakeRunner
    alone = staticmethod(alone)
    cartridge = staticmethod(make_cartridge)
    request = staticmethod(make_request)
    END = END
    N_VOCAB = N_VOCAB
    FINGERPRINT = FINGERPRINT


@pytest.fixture(scope="session")
def fakes() -> type[Fakes]:
    """The fake runner's class and functions that make what goes with it."""
    return Fakes
