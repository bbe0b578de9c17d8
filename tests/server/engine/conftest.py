"""A runner without a model, whose tokens depend on everything a real one's depend on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from llamacart.cartridge import Cartridge, Fingerprint, LayerMap, Metadata
from llamacart.errors import CartridgeMismatchError, EngineError, InputError, LlamacartError
from llamacart.values.logprobs import TokenLogprobs
from llamacart.values.report import Fault, StepReport
from llamacart.values.sampling import SamplingParams
from llamacart.values.steering import Dose, Steering, effective
from llamacart_server.engine.engine import Engine
from llamacart_server.engine.request import ApplyTo, GenerationRequest, PlacedDose, TokenEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llamacart.values.batch import RunBatch
    from llamacart_server.engine.generation import Generation

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
    broken: bool = False

    def choose(self, state: bytes) -> int:
        self.count += 1
        digest = hashlib.blake2b(state + repr((self.seed, self.count)).encode()).digest()
        return int.from_bytes(digest[:4], "little") % N_VOCAB

    def close(self) -> None:
        self.closed = True


def fake_logprobs(state: bytes, token: int, n_top: int) -> TokenLogprobs:
    """Log-probabilities that depend on the row's state and the token."""
    digest = hashlib.blake2b(state).digest()
    top = tuple((digest[i], -(i + 1) / 8) for i in range(n_top))
    return TokenLogprobs(token, -((digest[0] + token) % 97) / 16, top)


@dataclass(eq=False)
class Cell:
    """A KV cell, told apart by identity; slots that share a row hold the same cell."""

    state: bytes


class FakeRunner:
    """Checks what llama.cpp would trip over, and keeps a KV cache of hashes.

    Set `fail` to an exception to have it raised by the next `run`, after half of the rows
    went into the cache; `before_run` to something to call before each `run`. Slots in `forgets`
    cannot be copied from or trimmed, as if a sliding window had purged them. With `no_restore`
    nothing can be restored. `broken_reuse` is raised by the next copy, after half of it, or by the
    next trim, save or restore. Tokens in `faults` and `caps` have that effect on their rows.
    """

    def __init__(
        self,
        n_ctx: int = 4096,
        n_batch: int = 64,
        n_sequences: int = 4,
        n_cached: int = 4,
        *,
        ordered: bool = False,
    ) -> None:
        self.ordered = ordered
        self.n_taken = 0  # cells since the last compact, where they are kept in order
        self.no_compact: set[int] = set()
        self.n_ctx, self.n_batch, self.n_sequences = n_ctx, n_batch, n_sequences
        self.n_slots = n_sequences + n_cached
        self.resident: dict[str, Cartridge] = {}
        self.device_bytes = 0
        self.kv: dict[int, list[Cell]] = {}
        self.batches: list[RunBatch] = []
        self.calls: list[tuple[object, ...]] = []
        self.samplers: list[FakeSampler] = []
        self.fail: Exception | None = None
        self.before_run: Callable[[], None] = lambda: None
        self.forgets: set[int] = set()
        self.no_restore = False
        self.broken_reuse: Exception | None = None
        self.faults: dict[int, Fault] = {}
        self.caps: dict[int, int] = {}
        self.broken_scores: Exception | None = None
        self._outputs: dict[int, bytes] = {}

    def load(self, cartridge: Cartridge) -> None:
        if cartridge.fingerprint != FINGERPRINT:
            raise CartridgeMismatchError(f"cartridge {cartridge.name!r} does not fit")
        self.resident[cartridge.content_hash] = cartridge

    def unload(self, cartridge: Cartridge) -> None:
        self.resident.pop(cartridge.content_hash, None)

    # --- steps ------------------------------------------------------------------------------

    def run(self, batch: RunBatch) -> StepReport:
        self.before_run()
        n_rows = len(batch.tokens)
        assert 0 < n_rows <= self.n_batch
        for part in (batch.positions, batch.sequences, batch.outputs, batch.steerings):
            assert len(part) == n_rows
        assert batch.observed is None or (len(batch.observed) == n_rows and any(batch.observed))
        assert sum(batch.outputs) <= self.n_sequences
        assert len(set(batch.sequences)) <= self.n_sequences
        self.batches.append(batch)
        self._outputs = {}
        failure, self.fail = self.fail, None
        for row in range(n_rows if failure is None else n_rows // 2):
            self._run_row(batch, row)
        self._take(n_rows)
        if failure is not None:
            raise failure
        return self._report(batch)

    def _run_row(self, batch: RunBatch, row: int) -> None:
        slot, steering = batch.sequences[row], batch.steerings[row]
        assert 0 <= slot < self.n_slots
        for dose in steering:
            if dose.cartridge.content_hash not in self.resident:
                raise EngineError(f"cartridge {dose.cartridge.name!r} is not loaded")
        cells = self.kv.setdefault(slot, [])
        assert batch.positions[row] == len(cells), "positions are not consecutive"
        before = cells[-1].state if cells else b""
        cells.append(Cell(chain(before, batch.tokens[row], steering)))
        if batch.outputs[row]:
            self._outputs[row] = cells[-1].state

    def _report(self, batch: RunBatch) -> StepReport:
        """Layer 0 gets the sum of all |α|; nothing acts at layer 1."""
        doses = None
        if batch.observed is not None:
            doses = np.full((len(batch.tokens), 2), np.nan, np.float32)
            for row, steering in enumerate(batch.steerings):
                if batch.observed[row] and steering:
                    doses[row, 0] = sum(abs(dose.alpha) for dose in steering)
        rows = list(enumerate(batch.tokens))
        return StepReport(
            faults={row: self.faults[t] for row, t in rows if t in self.faults},
            doses=doses,
            capped={row: self.caps[t] for row, t in rows if t in self.caps},
        )

    # --- the cache --------------------------------------------------------------------------

    def copy(self, source: int, target: int, n: int) -> bool:
        assert target not in self.kv
        assert source != target
        if self.broken_reuse is not None:
            self.kv[target] = self.kv.get(source, [])[: n // 2]
        self._called("copy", source, target, n)
        if source in self.forgets or len(self.kv.get(source, ())) < n:
            return False
        self.kv[target] = self.kv[source][:n]
        return True

    def trim(self, slot: int, n: int) -> bool:
        self._called("trim", slot, n)
        kept = self.kv.pop(slot, [])
        if slot in self.forgets or len(kept) < n:
            self.forgets.discard(slot)
            return False
        self.kv[slot] = kept[:n]
        return True

    def free(self, slot: int) -> None:
        assert 0 <= slot < self.n_slots
        self.calls.append(("free", slot))
        self.kv.pop(slot, None)
        self.forgets.discard(slot)

    def clear(self) -> None:
        self.calls.append(("clear",))
        self.kv, self.n_taken = {}, 0
        self.forgets.clear()

    def save(self, slot: int) -> bytes:
        self._called("save", slot)
        assert self.kv[slot]
        return b"".join(cell.state for cell in self.kv[slot])

    def restore(self, slot: int, state: bytes) -> bool:
        self._called("restore", slot)
        assert slot not in self.kv
        if self.no_restore:
            return False
        self.kv[slot] = [Cell(state[i : i + 16]) for i in range(0, len(state), 16)]
        self._take(len(self.kv[slot]))
        return True

    def compact(self, slots: Sequence[int]) -> list[int]:
        assert self.ordered
        assert len(set(slots)) == len(slots)
        self.calls.append(("compact", *slots))
        kept = {slot: self.kv[slot] for slot in slots if self.kv.get(slot)}
        self.kv, self.n_taken = {}, 0
        lost, self.no_compact = self.no_compact, set()
        for slot, cells in kept.items():
            if slot not in lost:
                self.kv[slot] = [Cell(cell.state) for cell in cells]
                self._take(len(cells))
        return [slot for slot in slots if slot not in self.kv]

    def _take(self, n: int) -> None:
        self.n_taken += n
        assert (self.n_taken if self.ordered else self.n_cells) <= self.n_ctx, "KV cells ran out"

    def _called(self, name: str, *numbers: int) -> None:
        assert all(0 <= slot < self.n_slots for slot in numbers[: 2 if name == "copy" else 1])
        self.calls.append((name, *numbers))
        failure, self.broken_reuse = self.broken_reuse, None
        if failure is not None:
            raise failure

    @property
    def n_cells(self) -> int:
        """Cells in use, each counted once."""
        return len({id(cell) for cells in self.kv.values() for cell in cells})

    # --- tokens -----------------------------------------------------------------------------

    def sampler(self, params: SamplingParams) -> FakeSampler:
        if any(token >= N_VOCAB for token, _ in params.logit_bias):
            raise InputError("no such token", param="logit_bias")
        self.samplers.append(FakeSampler(params.seed or 0))
        return self.samplers[-1]

    def sample(self, picks: Sequence[tuple[FakeSampler, int]]) -> list[int | LlamacartError]:
        assert picks
        return [self._sample(sampler, row) for sampler, row in picks]

    def _sample(self, sampler: FakeSampler, row: int) -> int | LlamacartError:
        assert not sampler.closed
        if sampler.broken:
            return EngineError("this sampler is broken")
        return sampler.choose(self._outputs[row])

    def score(self, asks: Sequence[tuple[int, int, int]]) -> list[TokenLogprobs | LlamacartError]:
        assert asks
        if self.broken_scores is not None:
            raise self.broken_scores
        return [fake_logprobs(self._outputs[row], token, n) for row, token, n in asks]

    def is_end(self, token: int) -> bool:
        return token == END

    def check_tokens(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            if not 0 <= token < N_VOCAB:
                raise InputError(f"token {token} is not in the vocabulary")

    @staticmethod
    def token_bytes(token: int) -> bytes:
        return f" {token}".encode()

    @property
    def empty(self) -> bool:
        """Whether nothing is left of any sequence, idle entries included."""
        return not self.kv and self.n_open_samplers == 0

    @property
    def n_open_samplers(self) -> int:
        """Generations that are not over."""
        return sum(not sampler.closed for sampler in self.samplers)


def check(engine: Engine) -> None:
    """What must hold between two steps of an engine over a `FakeRunner`."""
    runner, scheduler, stats = engine._runner, engine._scheduler, engine.stats()
    cache = scheduler._cache
    assert stats.kv_used == runner.n_cells <= runner.n_ctx
    running = {s.slot: s.n_computed for s in scheduler._running}
    idle = {slot: len(rows) for slot, rows in cache._idle.items()}
    assert all(s.n_cached <= s.n_prompt for s in scheduler._running)
    assert len(running) == stats.running <= runner.n_sequences
    assert len(idle) == stats.cached_entries <= runner.n_slots - runner.n_sequences
    slots = [*running, *idle, *cache._free_slots]
    assert sorted(slots) == list(range(runner.n_slots)), "a slot is lost or used twice"
    held = {slot: len(cells) for slot, cells in runner.kv.items() if cells}
    assert held == {slot: n for slot, n in (running | idle).items() if n}
    owned = {id(cell) for slot in running for cell in runner.kv.get(slot, ())}
    assert stats.kv_cached == runner.n_cells - len(owned)
    assert stats.host_bytes == sum(len(entry.state) for entry in cache.host)
    assert stats.running + stats.queued == runner.n_open_samplers


def alone(request: GenerationRequest) -> list[int]:
    """Tokens that a request yields without engine, scheduler or neighbours."""
    return [event.token for event in alone_scored(request)[1] if event.token is not None]


def alone_scored(
    request: GenerationRequest,
) -> tuple[tuple[TokenLogprobs, ...], list[TokenEvent]]:
    """Prompt log-probabilities and events that a request yields by itself.

    The events have no reason.
    """
    n_top = request.logprobs or 0
    steerings = {
        rows: tuple(d.dose for d in request.doses if d.apply_to in ("all", rows))
        for rows in ("prompt", "generated")
    }
    state = b""
    scores = []
    for token in request.prompt:
        scores.append(fake_logprobs(state, token, n_top))
        state = chain(state, token, steerings["prompt"])
    sampler = FakeSampler(request.sampling.seed or 0)
    events: list[TokenEvent] = []
    while len(events) < request.max_tokens:
        token = sampler.choose(state)
        score = fake_logprobs(state, token, n_top) if request.logprobs is not None else None
        if token == END and not request.ignore_eos:
            events.append(TokenEvent(None, None, score))
            break
        events.append(TokenEvent(token, None, score))
        state = chain(state, token, steerings["generated"])
    return tuple(scores[1:]) if request.prompt_logprobs else (), events


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
    telemetry: bool = False,
) -> GenerationRequest:
    """A request whose prompt is `n_prompt` tokens counted up from `first`."""
    return GenerationRequest(
        prompt=tuple((first + i) % (N_VOCAB - 1) + 1 for i in range(n_prompt)),
        max_tokens=max_tokens,
        doses=tuple(PlacedDose(Dose(c, alpha), rows) for c, alpha, rows in doses),
        sampling=SamplingParams(seed=seed),
        ignore_eos=ignore_eos,
        telemetry=telemetry,
    )


def continued(request: GenerationRequest, *more: int) -> GenerationRequest:
    """A next turn: prompt and answer of `request`, then more tokens."""
    return replace(request, prompt=(*request.prompt, *alone(request), *more))


def drive(engine: Engine) -> None:
    """Step until nothing is left to do."""
    while engine.step():
        pass


def tokens(generation: Generation) -> list[int]:
    """What a generation yields, to its end."""
    return [event.token for event in generation.events() if event.token is not None]


class Fakes:
    """What tests use, as one fixture: this file cannot be imported."""

    Runner = FakeRunner
    alone = staticmethod(alone)
    alone_scored = staticmethod(alone_scored)
    check = staticmethod(check)
    drive = staticmethod(drive)
    tokens = staticmethod(tokens)
    continued = staticmethod(continued)
    cartridge = staticmethod(make_cartridge)
    request = staticmethod(make_request)
    END = END
    N_VOCAB = N_VOCAB
    FINGERPRINT = FINGERPRINT


@pytest.fixture(scope="session")
def fakes() -> type[Fakes]:
    """The fake runner's class and functions that make what goes with it."""
    return Fakes


@pytest.fixture
def runner(fakes: type[Fakes]) -> FakeRunner:
    return fakes.Runner()


@pytest.fixture
def engine(runner: FakeRunner, fakes: type[Fakes]) -> Iterator[Engine]:
    """Not started: the test calls `step`, and leaves nothing behind."""
    engine = Engine(runner)
    yield engine
    if not engine._stopping:
        fakes.check(engine)
    engine.stop()
    assert runner.empty
