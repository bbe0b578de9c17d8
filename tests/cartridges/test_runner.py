"""The runner: slots, reports, and sampling of many rows at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.errors import ContextOverflowError, EngineError, InputError, LlamacartError
from llamacart.model import Model
from llamacart.runner import LlamaRunner, RunBatch
from llamacart.sampling import Sampler, SamplingParams
from llamacart.steering import UNSTEERED, Dose


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


class TestSample:
    PARAMS = (
        SamplingParams(temperature=0),
        SamplingParams(seed=3),
        SamplingParams(seed=4, top_k=40, top_p=0.9, presence_penalty=1.0),
        SamplingParams(seed=5, min_p=0.1, logit_bias=((9, 3.0),)),
        SamplingParams(seed=6, temperature=0, grammar="root ::= [0-9]+"),
    )

    def samplers(self, runner: LlamaRunner) -> list[Sampler]:
        return [runner.sampler(self.PARAMS[i % len(self.PARAMS)]) for i in range(16)]

    def test_many_at_once_choose_as_one_by_one(self, runner: LlamaRunner) -> None:
        together, alone = self.samplers(runner), self.samplers(runner)
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

    def test_an_error_is_its_own_picks_alone(self, runner: LlamaRunner) -> None:
        samplers = self.samplers(runner)
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
        import threading

        before = set(threading.enumerate())
        runner = LlamaRunner(tiny_model, n_ctx=256, n_threads=2)
        runner.run(rows(40, outputs=16))
        runner.sample([(self.fresh(runner), 24 + i) for i in range(16)])
        assert set(threading.enumerate()) > before
        runner.close()
        runner.close()
        assert set(threading.enumerate()) == before
