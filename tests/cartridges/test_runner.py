"""The runner: slots, reports, and sampling of many rows at once."""

from __future__ import annotations

import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.errors import (
    ContextOverflowError,
    EngineError,
    HostWorkError,
    InputError,
    LlamacartError,
)
from llamacart.json_grammar.grammar import grammar_text
from llamacart.llama.model import Model
from llamacart.runner import LlamaRunner
from llamacart.sampling.sampler import Sampler
from llamacart.values.batch import RunBatch
from llamacart.values.sampling import SamplingParams
from llamacart.values.steering import UNSTEERED, Dose


def rows(n: int, *, start: int = 0, slot: int = 0, outputs: int = 1, seed: int = 1) -> RunBatch:
    return RunBatch(
        [3 + (seed + i * 7) % 200 for i in range(start, start + n)],
        range(start, start + n),
        [slot] * n,
        [i >= n - outputs for i in range(n)],
        [UNSTEERED] * n,
    )


@pytest.fixture
def runner(tiny_model: Model) -> Iterator[LlamaRunner]:
    with LlamaRunner(
        tiny_model, n_ctx=256, n_batch=64, n_sequences=16, n_cached=3, n_threads=2
    ) as runner:
        yield runner


@pytest.fixture
def greedy(runner: LlamaRunner) -> Iterator[Sampler]:
    with runner.sampler(SamplingParams(temperature=0)) as sampler:
        yield sampler


class TestSlots:
    def test_numbers(self, runner: LlamaRunner) -> None:
        assert (runner.n_ctx, runner.n_batch) == (256, 64)
        assert (runner.n_sequences, runner.n_slots) == (16, 19)

    def test_more_slots_than_llama_cpp_has(self, tiny_model: Model) -> None:
        with pytest.raises(InputError, match="257"):
            LlamaRunner(tiny_model, n_sequences=16, n_cached=241)

    def test_cached_slots_need_no_outputs(self, runner: LlamaRunner) -> None:
        runner.run(rows(20, slot=18, outputs=16))
        with pytest.raises(EngineError, match="17 rows want logits"):
            runner.run(rows(20, start=20, slot=18, outputs=17))

    def test_copy(self, runner: LlamaRunner) -> None:
        runner.run(rows(20))
        runner.run(rows(9, slot=2))
        assert runner.copy(0, 18, 12)
        assert runner.trim(18, 12)
        assert not runner.copy(0, 2, 21), "the source is shorter"
        runner.run(rows(20, slot=2)), "and the target was emptied"

    def test_trim(self, runner: LlamaRunner) -> None:
        runner.run(rows(20))
        assert runner.trim(0, 20)
        assert runner.trim(0, 5)
        assert not runner.trim(0, 6)
        assert not runner.trim(0, 1), "a failed trim empties the slot"
        assert runner.trim(0, 0)

    def test_free_cells(self, runner: LlamaRunner) -> None:
        for start in range(0, 256, 64):
            runner.run(rows(64, start=start, slot=18))
        with pytest.raises(ContextOverflowError):
            runner.run(rows(1))
        runner.free(18)
        runner.free(18)
        runner.run(rows(1))

    def test_save_and_restore(self, runner: LlamaRunner, greedy: Sampler) -> None:
        runner.run(rows(60))
        runner.run(rows(60, start=60))
        state = runner.save(0)
        runner.run(rows(1, start=120))
        expected = runner.sample([(greedy, 0)])
        assert runner.restore(17, state)
        runner.run(rows(1, start=120, slot=17))
        assert runner.sample([(greedy, 0)]) == expected
        assert not runner.restore(3, state), "no room a third time"
        assert not runner.trim(3, 1)


class TestCompact:
    """Rows that move keep their order, so that results stay what they are alone, to the bit."""

    @pytest.fixture(params=["llama", "gemma3"])
    def model(self, request: pytest.FixtureRequest, tiny_path) -> Iterator[Model]:
        with Model(str(tiny_path(architecture=request.param)), batch_invariant=True) as model:
            yield model

    def runner(self, model: Model) -> LlamaRunner:
        return LlamaRunner(model, n_ctx=420, n_batch=64, n_sequences=8, n_cached=2, n_threads=1)

    def next_logits(self, runner: LlamaRunner, slot: int, seed: int, n: int) -> np.ndarray:
        runner.run(rows(1, start=n, slot=slot, seed=seed))
        return runner._context.logits(0).copy()

    def unmoved(self, model: Model) -> dict[int, np.ndarray]:
        """What the next row of each slot gives where nothing was moved."""
        with self.runner(model) as runner:
            held = self.fill(runner)
            return {slot: self.next_logits(runner, slot, *of) for slot, of in held.items()}

    def fill(self, runner: LlamaRunner) -> dict[int, tuple[int, int]]:
        """Slots with interleaved, shared and dead cells: slot → (seed, rows)."""
        for start in range(0, 90, 6):  # beyond gemma's window of 64
            parts = [rows(6, start=start, slot=slot, seed=slot) for slot in (0, 1, 2, 3)]
            runner.run(
                RunBatch(
                    *(
                        [value for part in parts for value in getattr(part, name)]
                        for name in ("tokens", "positions", "sequences", "outputs", "steerings")
                    )
                )
            )
        runner.free(1)
        assert runner.copy(0, 4, 30) == runner._context.holds(0, 30)
        shared = 30 if runner._context.holds(4, 30) else 0
        if shared:
            runner.run(rows(10, start=30, slot=4, seed=0))
        assert runner.trim(3, 89)
        held = {0: (0, 90), 2: (2, 90), 3: (3, 89)}
        return held | ({4: (0, 40)} if shared else {})

    def test_results_and_room(self, model: Model) -> None:
        expected = self.unmoved(model)
        with self.runner(model) as runner:
            assert runner.ordered
            held = self.fill(runner)
            for _ in range(2):
                assert runner.compact(sorted(held)) == []
            for slot, of in held.items():
                got = self.next_logits(runner, slot, *of)
                np.testing.assert_array_equal(got, expected[slot])
            left = runner.n_ctx - sum(n + 1 for _, n in held.values())
            for start in range(0, left, 60):
                runner.run(rows(min(60, left - start), start=start, slot=9))
            with pytest.raises(ContextOverflowError):
                runner.run(rows(1, slot=1))

    def test_the_rows_of_one_slot_at_a_time(self, model: Model, monkeypatch) -> None:
        with self.runner(model) as runner:
            held = self.fill(runner)
            sizes = [len(runner.save(slot)) for slot in sorted(held)]
            alive: list[weakref.ref[np.ndarray]] = []
            seen: list[int] = []
            state = runner._context._state

            def counted(slot: int) -> np.ndarray:
                assert not [one for one in alive if one() is not None], "two states at once"
                out = state(slot)
                alive.append(weakref.ref(out))
                seen.append(len(out))
                return out

            monkeypatch.setattr(runner._context, "_state", counted)
            assert runner.compact(sorted(held)) == []
            assert seen == sizes

    def test_one_that_cannot_be_saved_is_lost_alone(self, model: Model, monkeypatch) -> None:
        with self.runner(model) as runner:
            held = self.fill(runner)
            state, last = runner._context._state, max(held)

            def broken(slot: int) -> np.ndarray:
                if slot == last:
                    raise EngineError("cannot be saved")
                return state(slot)

            monkeypatch.setattr(runner._context, "_state", broken)
            assert runner.compact(sorted(held)) == [last]
            assert not runner.trim(last, 1)
            got = self.next_logits(runner, 0, *held[0])
            np.testing.assert_array_equal(got, self.unmoved(model)[0])


class TestReport:
    @pytest.fixture
    def dose(self, tiny_model: Model) -> Dose:
        layer = LayerMap(1, np.arange(8), None, np.full(8, 2.0, np.float32))
        return Dose(Cartridge(Metadata("push"), tiny_model.fingerprint, (layer,)), 1.0)

    def test_doses_of_observed_rows(self, runner: LlamaRunner, dose: Dose) -> None:
        runner.load(dose.cartridge)
        steered = (dose,)
        batch = RunBatch(
            [5, 6, 7], [0, 1, 2], [0] * 3, [False, False, True],
            [steered, steered, UNSTEERED], observed=[True, False, True],
        )  # fmt: skip
        doses = runner.run(batch).doses
        assert doses is not None
        acted = ~np.isnan(doses)
        assert acted[0].tolist() == [False, True, False]
        assert not acted[1:].any()
        assert doses[0, 1] > 0
        assert runner.run(rows(2, start=3)).doses is None

    def test_a_dose_limit_caps(self, tiny_model: Model, dose: Dose) -> None:
        with LlamaRunner(tiny_model, n_ctx=64, n_batch=8, n_sequences=2, dose_limit=1e-3) as runner:
            runner.load(dose.cartridge)
            batch = RunBatch([5, 6], [0, 1], [0] * 2, [False, True], [(dose,), UNSTEERED])
            assert dict(runner.run(batch).capped) == {0: 1}

    def test_a_failed_step_leaves_no_report_to_the_next(
        self, tiny_model: Model, dose: Dose, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with LlamaRunner(tiny_model, n_ctx=64, n_batch=8, n_sequences=2, dose_limit=1e-3) as runner:
            runner.load(dose.cartridge)
            decode = runner._context.decode

            def fail(batch: RunBatch) -> None:
                decode(batch)
                raise EngineError("llama_decode failed")

            with monkeypatch.context() as patch:
                patch.setattr(runner._context, "decode", fail)
                with pytest.raises(EngineError):
                    runner.run(RunBatch([5, 6], [0, 1], [0] * 2, [False, True], [(dose,)] * 2))
            runner.free(0)
            assert not runner.run(rows(2)).capped


class TestSample:
    PARAMS = (
        SamplingParams(temperature=0),
        SamplingParams(seed=3),
        SamplingParams(seed=4, top_k=40, top_p=0.9, presence_penalty=1.0),
        SamplingParams(seed=5, min_p=0.1, logit_bias=((9, 3.0),)),
    )

    def samplers(self, runner: LlamaRunner, model: Model) -> list[Sampler]:
        digits = model.grammars.compile(grammar_text("start: /[0-9]+/", {}))
        params = [
            *self.PARAMS,
            SamplingParams(seed=6, temperature=0, grammar=digits),
            SamplingParams(seed=7, grammar=digits),
        ]
        return [runner.sampler(params[i % len(params)]) for i in range(16)]

    def test_many_at_once_choose_as_one_by_one(
        self, runner: LlamaRunner, tiny_model: Model
    ) -> None:
        together, alone = (self.samplers(runner, tiny_model) for _ in range(2))
        for start in (0, 40, 80):
            runner.run(rows(40, start=start, outputs=16))
            order = [(i * 7) % 16 for i in range(16)]
            got = runner.sample([(together[i], 24 + i) for i in order])
            expected = [runner.sample([(alone[i], 24 + i)])[0] for i in order]
            assert got == expected
            assert all(isinstance(token, int) for token in got)
        for sampler in (*together, *alone):
            sampler.close()

    def test_nothing(self, runner: LlamaRunner) -> None:
        assert runner.sample([]) == []

    def test_an_error_is_its_own_picks_alone(self, runner: LlamaRunner, tiny_model: Model) -> None:
        samplers = self.samplers(runner, tiny_model)
        runner.run(rows(40, outputs=16))
        expected = runner.sample([(self.fresh(runner), 24 + i) for i in range(16)])
        runner._context.logits(27)[100] = np.nan
        samplers[5].close()
        picks = [(self.fresh(runner), 24 + i) for i in range(16)]
        picks[5] = (samplers[5], 29)
        picks[9] = (picks[9][0], 0)
        got = runner.sample(picks)
        for i, error in ((3, "not finite"), (5, "closed"), (9, "row 0 .* has no logits")):
            assert isinstance(got[i], EngineError)
            with pytest.raises(EngineError, match=error):
                raise got[i]
        assert [t for i, t in enumerate(got) if i not in (3, 5, 9)] == [
            t for i, t in enumerate(expected) if i not in (3, 5, 9)
        ]

    def fresh(self, runner: LlamaRunner) -> Sampler:
        return runner.sampler(SamplingParams(seed=8))

    def wide(self, action: Callable[[], object] = lambda: None) -> Any:
        """What `sample` takes for a sampler whose draws are worth a thread."""

        class Wide:
            is_wide = True

            def choose(self, *_: object) -> int:
                action()
                return 7

        return Wide()

    def test_no_part_is_left_working_when_another_ends_badly(self, runner: LlamaRunner) -> None:
        runner.run(rows(40, outputs=16))
        interrupted, worked = threading.Event(), threading.Event()

        def interrupt() -> None:
            interrupted.set()
            raise KeyboardInterrupt

        def work() -> None:
            assert interrupted.wait(60)
            time.sleep(0.05)
            worked.set()

        actions = [interrupt, work]  # the first pick is this thread's, the second another's
        picks = [(self.wide(action), 24 + i) for i, action in enumerate(actions)]
        picks += [(self.wide(), 26 + i) for i in range(14)]
        with pytest.raises(KeyboardInterrupt):
            runner.sample(picks)
        assert worked.is_set()

    def test_an_error_that_nobody_foresaw_is_its_own_picks_alone(self, runner: LlamaRunner) -> None:
        runner.run(rows(40, outputs=16))

        def fail() -> None:
            raise RuntimeError("odd")

        picks = [(self.wide(fail if i == 5 else lambda: None), 24 + i) for i in range(16)]
        got = runner.sample(picks)
        assert isinstance(got[5], EngineError)
        assert got[:5] + got[6:] == [7] * 15

    def test_a_choice_that_takes_long_is_the_last_of_its_own(self, tiny_model: Model) -> None:
        def burn() -> None:
            begun = time.thread_time()
            while time.thread_time() - begun < 0.3:
                pass

        with LlamaRunner(tiny_model, n_ctx=256, n_threads=2, token_seconds=0.25) as runner:
            runner.run(rows(40, outputs=16))
            picks = [(self.wide(burn if i == 3 else lambda: None), 24 + i) for i in range(16)]
            got = runner.sample(picks)
            assert isinstance(got[3], HostWorkError)
            assert re.search(r"took \d+\.\d\d s .* 0\.25 s are allowed", got[3].message)
            assert got[:3] + got[4:] == [7] * 15

    def test_log_probabilities_are_bounded_too(self, tiny_model: Model) -> None:
        with LlamaRunner(tiny_model, n_ctx=256, n_threads=2, token_seconds=1e-9) as runner:
            runner.run(rows(10))
            (got,) = runner.score([(9, 5, 3)])
            assert isinstance(got, HostWorkError)

    def test_log_probabilities_of_many_rows(self, runner: LlamaRunner) -> None:
        runner.run(rows(40, outputs=15))
        asks = [(row, (row * 3) % 200, row % 4) for row in range(25, 40)]
        scores = runner.score(asks)
        for (row, token, n_top), score in zip(asks, scores, strict=True):
            logits = runner._context.logits(row).astype(np.float64)
            expected = logits - np.log(np.exp(logits).sum())
            assert not isinstance(score, LlamacartError)
            assert score.token == token
            assert score.logprob == pytest.approx(expected[token], abs=1e-9)
            assert [i for i, _ in score.top] == np.argsort(-logits, kind="stable")[:n_top].tolist()

    def test_a_row_without_outputs_has_no_log_probabilities(self, runner: LlamaRunner) -> None:
        runner.run(rows(10, outputs=1))
        good, bad = runner.score([(9, 5, 0), (3, 5, 0)])
        assert not isinstance(good, LlamacartError)
        assert isinstance(bad, EngineError)

    def test_closing_ends_the_threads(self, tiny_model: Model) -> None:
        before = set(threading.enumerate())
        runner = LlamaRunner(tiny_model, n_ctx=256, n_threads=2)
        runner.run(rows(40, outputs=16))
        runner.sample([(self.fresh(runner), 24 + i) for i in range(16)])
        # Threads of earlier tests may end meanwhile.
        assert set(threading.enumerate()) - before
        runner.close()
        runner.close()
        assert not set(threading.enumerate()) - before
