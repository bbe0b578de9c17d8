from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacart.errors import ContextOverflowError, InputError, OverloadedError
from llamacart_server.request import GenerationRequest
from llamacart_server.scheduler import Plan, Scheduler, SchedulerConfig, fair_shares
from llamacart_server.sequence import Sequence, SequenceState


def make(**fields: int) -> Scheduler:
    limits = {"n_ctx": 4096, "n_batch": 64, "n_sequences": 4, **fields}
    return Scheduler(SchedulerConfig(**limits))


def sequence(n_prompt: int, max_tokens: int = 8) -> Sequence:
    return Sequence(GenerationRequest(tuple(range(1, n_prompt + 1)), max_tokens), max_tokens)


def add(scheduler: Scheduler, *sequences: Sequence) -> None:
    for one in sequences:
        scheduler.add(one)


def compute(scheduler: Scheduler, plan: Plan) -> None:
    """What an engine does after a step, with token 7 for everyone."""
    for chunk in plan.chunks:
        chunk.sequence.n_computed = chunk.stop
        if chunk.output:
            chunk.sequence.append(7)
            if chunk.sequence.n_generated == chunk.sequence.max_tokens:
                scheduler.remove(chunk.sequence)


def rows_of(plan: Plan) -> dict[Sequence, int]:
    return {chunk.sequence: chunk.n_rows for chunk in plan.chunks}


class TestFairShares:
    @given(
        needs=st.lists(st.integers(1, 50), max_size=8),
        budget=st.integers(0, 200),
        turn=st.integers(0, 20),
    )
    def test_all_of_the_budget_is_used_and_nobody_gets_too_much(self, needs, budget, turn):
        shares = fair_shares(needs, budget, turn)
        assert sum(shares) == min(budget, sum(needs))
        assert all(0 <= share <= need for share, need in zip(shares, needs, strict=True))

    @given(
        needs=st.lists(st.integers(1, 50), min_size=1, max_size=8),
        budget=st.integers(0, 200),
        turn=st.integers(0, 20),
    )
    def test_whoever_needs_more_got_no_less_than_another_but_one(self, needs, budget, turn):
        shares = fair_shares(needs, budget, turn)
        for share, need in zip(shares, needs, strict=True):
            assert share == need or share >= max(shares) - 1

    def test_a_row_that_cannot_be_split_goes_round(self):
        got = [fair_shares([9, 9, 9], 1, turn) for turn in range(3)]
        assert got == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


class TestPlan:
    def test_nothing_to_do(self):
        assert make().plan().chunks == ()

    def test_a_lone_prompt_uses_the_whole_batch(self):
        scheduler, prompt = make(), sequence(150)
        add(scheduler, prompt)
        seen = []
        while prompt.n_generated == 0:
            plan = scheduler.plan()
            seen.append([(c.start, c.stop, c.output) for c in plan.chunks])
            compute(scheduler, plan)
        assert seen == [[(0, 64, False)], [(64, 128, False)], [(128, 150, True)]]

    def test_a_long_prompt_delays_decoders_by_one_small_chunk_at_most(self):
        scheduler = make(prefill_rows=16)
        talkers = [sequence(3, 200), sequence(4, 200)]
        add(scheduler, *talkers)
        compute(scheduler, scheduler.plan())
        newcomer = sequence(2000)
        add(scheduler, newcomer)
        n_steps = 0
        while newcomer.n_generated == 0:
            plan = scheduler.plan()
            assert [c.sequence for c in plan.chunks[:2]] == talkers
            assert rows_of(plan)[newcomer] <= 16
            compute(scheduler, plan)
            n_steps += 1
        assert n_steps == 2000 / 16
        assert all(talker.n_generated == 1 + n_steps for talker in talkers)

    def test_prefill_beside_decoders_defaults_to_a_quarter_of_the_batch(self):
        scheduler = make()
        add(scheduler, sequence(3))
        compute(scheduler, scheduler.plan())
        newcomer = sequence(100)
        add(scheduler, newcomer)
        assert rows_of(scheduler.plan())[newcomer] == 16

    def test_prompts_share_a_step_equally_and_short_ones_leave_the_rest(self):
        scheduler = make()
        short, long, longer = sequence(4), sequence(100), sequence(500)
        add(scheduler, short, long, longer)
        assert rows_of(scheduler.plan()) == {short: 4, long: 30, longer: 30}

    def test_all_slots_decoding_or_in_prefill_fit_a_batch_of_that_size(self):
        scheduler = make(n_batch=4, prefill_rows=4)
        add(scheduler, *(sequence(2, 50) for _ in range(3)))
        for _ in range(3):
            compute(scheduler, scheduler.plan())
        add(scheduler, sequence(40))
        plan = scheduler.plan()
        assert plan.n_rows == 4

    def test_batch_lists_the_rows_in_order(self):
        scheduler, first, second = make(), sequence(3), sequence(2)
        add(scheduler, first)
        compute(scheduler, scheduler.plan())
        add(scheduler, second)
        batch = scheduler.plan().batch()
        assert list(batch.tokens) == [7, 1, 2]
        assert list(batch.positions) == [3, 0, 1]
        assert list(batch.sequences) == [0, 1, 1]
        assert list(batch.outputs) == [True, False, True]


class TestAdmission:
    def test_slots_bound_who_runs_and_order_is_kept(self):
        scheduler = make(n_sequences=2)
        all_four = [sequence(2, 1) for _ in range(4)]
        add(scheduler, *all_four)
        assert (scheduler.n_running, scheduler.n_queued) == (2, 2)
        compute(scheduler, scheduler.plan())
        assert list(rows_of(scheduler.plan())) == all_four[2:]

    def test_cells_are_reserved_for_the_longest_answer(self):
        scheduler = make(n_ctx=100)
        first, second = sequence(10, 50), sequence(10, 50)
        add(scheduler, first, second)
        assert scheduler.n_reserved == 60
        assert list(rows_of(scheduler.plan())) == [first]
        scheduler.remove(first)
        assert list(rows_of(scheduler.plan())) == [second]
        assert scheduler.n_reserved == 60

    def test_a_small_request_does_not_overtake_a_large_one(self):
        scheduler = make(n_ctx=100)
        running, large, small = sequence(10, 50), sequence(50, 50), sequence(1, 1)
        add(scheduler, running, large, small)
        assert list(rows_of(scheduler.plan())) == [running]

    def test_max_tokens_is_lowered_to_what_fits(self):
        scheduler = make(n_ctx=100)
        assert scheduler.fit_max_tokens(GenerationRequest((1,) * 90, 50)) == 10
        assert scheduler.fit_max_tokens(GenerationRequest((1,) * 99, 50)) == 1
        assert scheduler.fit_max_tokens(GenerationRequest((1,) * 9, 50)) == 50

    def test_a_prompt_that_leaves_no_room_is_refused_with_both_numbers(self):
        with pytest.raises(ContextOverflowError, match=r"123 tokens.*100"):
            make(n_ctx=100).fit_max_tokens(GenerationRequest((1,) * 123, 1))
        with pytest.raises(ContextOverflowError):
            make(n_ctx=100).fit_max_tokens(GenerationRequest((1,) * 100, 1))

    def test_max_tokens_below_one_is_refused(self):
        with pytest.raises(InputError, match="max_tokens has value 0"):
            make().fit_max_tokens(GenerationRequest((1,), 0))


class TestCaps:
    def test_queued_requests(self):
        scheduler = make(n_sequences=1, max_queued=2)
        add(scheduler, *(sequence(2) for _ in range(3)))
        with pytest.raises(OverloadedError, match="2 requests wait"):
            scheduler.add(sequence(2))
        assert scheduler.n_queued == 2

    def test_queued_tokens(self):
        scheduler = make(n_sequences=1, max_queued_tokens=10)
        add(scheduler, sequence(50), sequence(6))
        with pytest.raises(OverloadedError, match=r"6 prompt tokens wait.*5.*10"):
            scheduler.add(sequence(5))
        scheduler.add(sequence(4))
        assert scheduler.queued_tokens == 10

    def test_what_can_run_at_once_is_not_queued(self):
        scheduler = make(max_queued=0, max_queued_tokens=0)
        add(scheduler, *(sequence(20) for _ in range(4)))
        with pytest.raises(OverloadedError):
            scheduler.add(sequence(1))


class TestRemove:
    def test_everything_is_given_back(self):
        scheduler = make(n_sequences=1)
        running, waiting = sequence(5), sequence(7)
        add(scheduler, running, waiting)
        scheduler.remove(waiting)
        assert (scheduler.n_queued, scheduler.queued_tokens) == (0, 0)
        scheduler.remove(running)
        assert (scheduler.n_running, scheduler.n_reserved) == (0, 0)
        assert {running.state, waiting.state} == {SequenceState.FINISHED}
        assert not scheduler.has_work
        add(scheduler, sequence(5))
        assert scheduler.plan().batch().sequences[0] == 0


@given(
    arrivals=st.lists(
        st.tuples(st.integers(0, 6), st.integers(1, 90), st.integers(1, 10)), max_size=15
    ),
    n_batch=st.integers(3, 40),
)
def test_everyone_finishes_within_the_limits(arrivals, n_batch):
    scheduler = make(n_ctx=128, n_batch=n_batch, n_sequences=3)
    pending = [(delay, sequence(n_prompt, n_out)) for delay, n_prompt, n_out in arrivals]
    everyone = [one for _, one in pending]
    while pending or scheduler.has_work:
        if pending and pending[0][0] == 0:
            scheduler.add(pending.pop(0)[1])
            continue
        if pending:
            pending[0] = (pending[0][0] - 1, pending[0][1])
        plan = scheduler.plan()
        assert plan.n_rows <= n_batch
        assert bool(plan.chunks) == scheduler.has_work
        assert scheduler.n_reserved <= 128
        compute(scheduler, plan)
    assert all(one.n_generated == one.max_tokens for one in everyone)


def test_config_names_what_is_wrong():
    with pytest.raises(InputError, match="n_sequences has value 5"):
        make(n_sequences=5, n_batch=4)
    with pytest.raises(InputError, match="prefill_rows has value 0"):
        make(prefill_rows=0)
