"""Who runs, who waits and who gives way: the scheduler without an engine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacart.errors import ContextOverflowError, InputError, OverloadedError
from llamacart_server.engine.kv.actions import Copy, Free, Save, Trim
from llamacart_server.engine.limits import SchedulerConfig
from llamacart_server.engine.plan import Plan
from llamacart_server.engine.request import GenerationRequest
from llamacart_server.engine.scheduler import HEADROOM, MIN_AWAITED_ROWS, Scheduler
from llamacart_server.engine.sequence import Sequence, SequenceState


def make(**fields: int) -> Scheduler:
    limits = {"n_ctx": 4096, "n_batch": 64, "n_sequences": 4, **fields}
    return Scheduler(SchedulerConfig(**limits))


def token_bytes(token: int) -> bytes:
    return f" {token}".encode()


def sequence(
    n_prompt: int, max_tokens: int = 8, first: int = 1, *, scored: bool = False
) -> Sequence:
    prompt = tuple(range(first, first + n_prompt))
    request = GenerationRequest(prompt, max_tokens, prompt_logprobs=scored)
    return Sequence(request, max_tokens, token_bytes)


def add(scheduler: Scheduler, *sequences: Sequence) -> None:
    for one in sequences:
        scheduler.add(one)


def step(scheduler: Scheduler) -> Plan:
    """Admit, plan and compute; the actions all succeed."""
    scheduler.admit()
    plan = scheduler.plan()
    compute(scheduler, plan)
    return plan


def planned(scheduler: Scheduler) -> Plan:
    scheduler.admit()
    return scheduler.plan()


def compute(scheduler: Scheduler, plan: Plan) -> None:
    """What an engine does after a step, with token 7 for everyone."""
    for chunk in plan.chunks:
        chunk.sequence.n_computed = chunk.stop
        chunk.sequence.n_scored += len(chunk.scored)
        if chunk.output:
            chunk.sequence.append(7)
            if chunk.sequence.n_generated == chunk.sequence.max_tokens:
                scheduler.remove(chunk.sequence, keep=True)


def rows_of(plan: Plan) -> dict[Sequence, int]:
    return {chunk.sequence: chunk.n_rows for chunk in plan.chunks}


class TestPlan:
    def test_nothing_to_do(self):
        assert planned(make()).chunks == ()

    def test_a_lone_prompt_uses_the_whole_batch(self):
        scheduler, prompt = make(), sequence(150)
        add(scheduler, prompt)
        seen = []
        while prompt.n_generated == 0:
            plan = step(scheduler)
            seen.append([(c.start, c.stop, c.output) for c in plan.chunks])
        assert seen == [[(0, 64, False)], [(64, 128, False)], [(128, 150, True)]]

    def test_a_long_prompt_delays_decoders_by_one_small_chunk_at_most(self):
        scheduler = make(prefill_rows=16)
        talkers = [sequence(3, 200), sequence(4, 200)]
        add(scheduler, *talkers)
        step(scheduler)
        newcomer = sequence(2000)
        add(scheduler, newcomer)
        n_steps = 0
        while newcomer.n_generated == 0:
            plan = step(scheduler)
            assert [c.sequence for c in plan.chunks[:2]] == talkers
            assert rows_of(plan)[newcomer] <= 16
            n_steps += 1
        assert n_steps == 2000 / 16
        assert all(talker.n_generated == 1 + n_steps for talker in talkers)

    def test_prefill_beside_decoders_defaults_to_a_quarter_of_the_batch(self):
        scheduler = make()
        add(scheduler, sequence(3))
        step(scheduler)
        newcomer = sequence(100)
        add(scheduler, newcomer)
        assert rows_of(planned(scheduler))[newcomer] == 16

    def test_prompts_share_a_step_equally_and_short_ones_leave_the_rest(self):
        scheduler = make()
        short, long, longer = sequence(4), sequence(100), sequence(500)
        add(scheduler, short, long, longer)
        assert rows_of(planned(scheduler)) == {short: 4, long: 30, longer: 30}

    def test_all_slots_decoding_or_in_prefill_fit_a_batch_of_that_size(self):
        scheduler = make(n_batch=4, prefill_rows=4)
        add(scheduler, *(sequence(2, 50) for _ in range(3)))
        for _ in range(3):
            step(scheduler)
        add(scheduler, sequence(40))
        assert planned(scheduler).n_rows == 4

    def test_prefill_takes_no_more_rows_than_there_are_cells(self):
        scheduler = make(n_ctx=40)
        talker, reader = sequence(2, 38), sequence(20, 1)
        add(scheduler, talker)
        step(scheduler)
        scheduler._cache.ledger.extend(9, 40 - 2 - 5)  # somebody else's cells
        scheduler._cache.ledger.pin(9)
        scheduler._waiting = [reader]
        scheduler._fits = lambda *_: True
        assert rows_of(planned(scheduler)) == {talker: 1, reader: 4}

    def test_batch_lists_the_rows_in_order(self):
        scheduler, first, second = make(), sequence(3), sequence(2)
        add(scheduler, first)
        step(scheduler)
        add(scheduler, second)
        batch = planned(scheduler).batch()
        assert list(batch.tokens) == [7, 1, 2]
        assert list(batch.positions) == [3, 0, 1]
        assert list(batch.sequences) == [0, 1, 1]
        assert list(batch.outputs) == [True, False, True]
        assert batch.observed is None


class TestScoring:
    """A step has as many rows with outputs as sequences may run: 4 here."""

    def test_a_lone_prompt_gets_all_outputs(self):
        scheduler, scored = make(), sequence(10, scored=True)
        add(scheduler, scored)
        seen = []
        while scored.n_generated == 0:
            plan = step(scheduler)
            assert sum(plan.batch().outputs) <= 4
            seen += [(c.start, c.stop, list(c.scored), c.output) for c in plan.chunks]
        assert seen == [
            (0, 4, [0, 1, 2, 3], False),
            (4, 8, [4, 5, 6, 7], False),
            (8, 10, [8], True),
        ]

    def test_each_row_but_the_last_is_scored_once(self):
        scheduler = make(n_sequences=3)
        several = [sequence(n, 1, first=100 * n, scored=n != 9) for n in (7, 9, 1, 30, 12)]
        add(scheduler, *several)
        scored: dict[Sequence, list[int]] = {one: [] for one in several}
        while scheduler.has_work:
            plan = step(scheduler)
            assert sum(len(c.scored) + c.output for c in plan.chunks) <= 3
            for chunk in plan.chunks:
                scored[chunk.sequence] += chunk.scored
        assert [len(rows) for rows in scored.values()] == [6, 0, 0, 29, 11]
        assert all(rows == list(range(len(rows))) for rows in scored.values())

    def test_decoders_keep_their_outputs_and_another_prompt_its_rows(self):
        scheduler = make(prefill_rows=40)
        talkers = [sequence(3, 50), sequence(3, 50, first=20)]
        add(scheduler, *talkers)
        step(scheduler)
        scored, plain = sequence(50, scored=True, first=100), sequence(60, first=300)
        add(scheduler, scored, plain)
        plan = planned(scheduler)
        assert rows_of(plan) == {talkers[0]: 1, talkers[1]: 1, scored: 1, plain: 39}

    def test_no_row_of_the_cache_is_reused(self):
        scheduler = make(n_cached=4)
        add(scheduler, sequence(40, 1))
        step(scheduler)
        again, scored = sequence(40, 1), sequence(40, 1, scored=True)
        add(scheduler, again, scored)
        scheduler.admit()
        assert (again.n_computed, scored.n_computed) == (39, 0)

    def test_nobody_is_awaited(self):
        scheduler = make(n_cached=4, n_batch=8)
        add(scheduler, sequence(60))
        step(scheduler)
        scored = sequence(60, scored=True)
        add(scheduler, scored)
        assert scored in rows_of(planned(scheduler))

    def test_what_was_scored_before_a_preemption_may_be_reused_but_is_not_scored_again(self):
        scheduler = make(n_cached=4)
        scored = sequence(40, 1, scored=True)
        add(scheduler, scored)
        for _ in range(5):
            step(scheduler)
        assert scored.n_scored == 20
        scheduler._preempt(scored)
        add(scheduler, twin := sequence(40, 1))
        scheduler._waiting.remove(scored)
        step(scheduler)
        assert twin.n_generated == 1
        scheduler._waiting.append(scored)
        plan = planned(scheduler)
        (chunk,) = plan.chunks
        assert (chunk.start, list(chunk.scored)) == (20, [20, 21, 22, 23])

    def test_a_scored_prompt_may_fill_the_context_where_nothing_is_generated(self):
        scheduler = make(n_ctx=20)
        request = GenerationRequest(tuple(range(20)), 0, prompt_logprobs=True)
        assert scheduler.fit_max_tokens(request) == 0
        with pytest.raises(ContextOverflowError):
            scheduler.fit_max_tokens(GenerationRequest(tuple(range(20)), 1, prompt_logprobs=True))
        with pytest.raises(InputError):
            scheduler.fit_max_tokens(GenerationRequest((1,), -1, prompt_logprobs=True))


class TestAdmission:
    def test_slots_bound_who_runs_and_order_is_kept(self):
        scheduler = make(n_sequences=2)
        all_four = [sequence(2, 1) for _ in range(4)]
        add(scheduler, *all_four)
        assert list(rows_of(planned(scheduler))) == all_four[:2]
        assert (scheduler.n_running, scheduler.n_queued) == (2, 2)
        for one in all_four[:2]:
            scheduler.remove(one)
        assert list(rows_of(step(scheduler))) == all_four[2:]

    def test_cells_are_wanted_for_the_tokens_there_are_and_a_few_more(self):
        scheduler = make(n_ctx=200)
        first, second = sequence(80, 500), sequence(200 - 80 - 2 * HEADROOM, 500)
        add(scheduler, first, second)
        assert list(rows_of(planned(scheduler))) == [first, second]
        scheduler = make(n_ctx=200)
        add(scheduler, sequence(80, 500), sequence(200 - 80 - 2 * HEADROOM + 1, 500))
        assert len(planned(scheduler).chunks) == 1

    def test_a_short_answer_wants_no_more_than_it_can_use(self):
        scheduler = make(n_ctx=100)
        add(scheduler, sequence(48, 2), sequence(48, 2))
        assert len(planned(scheduler).chunks) == 2

    def test_a_small_request_does_not_overtake_a_large_one(self):
        scheduler = make(n_ctx=100)
        running, large, small = sequence(10, 50), sequence(50, 50), sequence(1, 1)
        add(scheduler, running, large, small)
        assert list(rows_of(planned(scheduler))) == [running]

    def test_idle_entries_give_way_to_a_newcomer(self):
        scheduler = make(n_ctx=100, n_cached=4, n_batch=100)
        old = sequence(60, 1)
        add(scheduler, old)
        scheduler.admit()
        scheduler.plan()
        old.n_computed = 60
        scheduler.remove(old, keep=True)
        assert (scheduler.kv_used, scheduler.kv_cached, scheduler.cached_entries) == (60, 60, 1)
        newcomer = sequence(80, 1, first=500)
        add(scheduler, newcomer)
        assert scheduler.admit() == ()
        plan = scheduler.plan()
        assert plan.actions == (Free(0),)
        assert rows_of(plan) == {newcomer: 80}
        assert (scheduler.kv_used, scheduler.cached_entries) == (80, 0)

    def test_rows_to_share_are_not_counted_as_free(self):
        # The idle entry's 60 cells can be evicted, but not while the newcomer shares them.
        scheduler = make(n_ctx=100, n_cached=4, n_batch=100)
        old, other = sequence(60, 1), sequence(10, 20, first=700)
        add(scheduler, old, other)
        planned(scheduler)
        old.n_computed, other.n_computed = 60, 10
        scheduler.remove(old, keep=True)
        heir = sequence(70, 1)
        scheduler.add(heir)
        scheduler.admit()
        assert heir.state is SequenceState.WAITING
        assert heir.slot is None
        scheduler.remove(other)
        (trim,) = scheduler.admit()
        assert trim == Trim(0, 60, heir)
        assert (heir.n_computed, heir.n_cached) == (60, 60)

    def test_max_tokens_is_lowered_to_what_fits(self):
        scheduler = make(n_ctx=100)
        assert scheduler.fit_max_tokens(GenerationRequest((1,) * 90, 50)) == 10
        assert scheduler.fit_max_tokens(GenerationRequest((1,) * 99, 50)) == 1
        assert scheduler.fit_max_tokens(GenerationRequest((1,) * 9, 50)) == 50

    def test_a_prompt_that_leaves_no_room_is_refused_with_both_numbers(self):
        with pytest.raises(ContextOverflowError, match=r"100 tokens.*123"):
            make(n_ctx=100).fit_max_tokens(GenerationRequest((1,) * 123, 1))
        with pytest.raises(ContextOverflowError):
            make(n_ctx=100).fit_max_tokens(GenerationRequest((1,) * 100, 1))

    def test_max_tokens_below_one_is_refused(self):
        with pytest.raises(InputError, match="max_tokens has value 0"):
            make().fit_max_tokens(GenerationRequest((1,), 0))


class TestAwaiting:
    """A request waits for an older one that is about to compute rows it can share."""

    def pair(self, n_shared: int = 100, **fields: int) -> tuple[Scheduler, Sequence, Sequence]:
        scheduler = make(n_cached=4, n_batch=32, **fields)
        leader, follower = sequence(n_shared), sequence(n_shared + 10)
        add(scheduler, leader, follower)
        return scheduler, leader, follower

    def test_it_waits_and_then_shares(self):
        scheduler, leader, follower = self.pair()
        for _ in range(4):
            assert list(rows_of(step(scheduler))) == [leader]
        actions = scheduler.admit()
        assert actions == (Copy(0, 1, 100, follower),)
        assert rows_of(scheduler.plan()) == {leader: 1, follower: 8}
        assert follower.n_cached == 100
        assert scheduler.kv_used == 100 + 1 + 8

    def test_it_waits_no_longer_than_for_the_rows_it_shares(self):
        scheduler = make(n_cached=4, n_batch=32)
        leader, follower = sequence(500), sequence(60)
        add(scheduler, leader, follower)
        for _ in range(2):
            assert list(rows_of(step(scheduler))) == [leader]
        assert scheduler.admit() == (Copy(0, 1, 59, follower),)

    def test_others_behind_it_do_not_wait(self):
        scheduler, leader, follower = self.pair()
        unrelated = sequence(5, first=700)
        add(scheduler, unrelated)
        assert list(rows_of(planned(scheduler))) == [leader, unrelated]
        assert follower.state is SequenceState.WAITING

    def test_a_few_rows_are_not_waited_for(self):
        scheduler, leader, follower = self.pair(MIN_AWAITED_ROWS - 1)
        assert list(rows_of(planned(scheduler))) == [leader, follower]
        scheduler, leader, follower = self.pair(MIN_AWAITED_ROWS)
        assert list(rows_of(planned(scheduler))) == [leader]

    def test_what_is_there_already_is_not_waited_for(self):
        scheduler = make(n_cached=4, n_batch=32)
        leader, first, second = sequence(100), sequence(40), sequence(200)
        add(scheduler, leader)
        for _ in range(3):
            step(scheduler)
        add(scheduler, second)
        scheduler.admit()
        assert second.slot is not None, "96 rows are computed, 4 more are not worth waiting"
        assert first.slot is None

    def test_another_key_is_not_waited_for(self, fakes):
        scheduler = make(n_cached=4, n_batch=32)
        leader = Sequence(fakes.request(100), 8, token_bytes)
        follower = Sequence(
            fakes.request(100, 8, (fakes.cartridge("a"), 1.0, "all")), 8, token_bytes
        )
        add(scheduler, leader, follower)
        assert list(rows_of(planned(scheduler))) == [leader, follower]

    @pytest.mark.parametrize("keep", [True, False], ids=["cancelled", "failed"])
    def test_a_leader_that_leaves_holds_nobody_back(self, keep):
        scheduler, leader, follower = self.pair()
        step(scheduler)
        scheduler.remove(leader, keep=keep)
        actions = scheduler.admit()
        assert follower.state is SequenceState.PREFILL
        assert actions == ((Trim(0, 32, follower),) if keep else ())

    def test_a_queue_of_them_goes_one_behind_the_other(self):
        scheduler = make(n_cached=4, n_batch=32)
        everyone = [sequence(40 * (i + 1), 1) for i in range(4)]
        add(scheduler, *everyone)
        while scheduler.has_work:
            step(scheduler)
        assert [one.n_cached for one in everyone] == [0, 40, 80, 120]

    def test_only_an_older_one_is_waited_for(self):
        scheduler = make(n_cached=4, n_batch=32)
        old, young = sequence(110), sequence(100)
        add(scheduler, old, young)
        scheduler._waiting.remove(old)
        assert list(rows_of(step(scheduler))) == [young]
        scheduler._waiting.append(old)
        scheduler.admit()
        assert old.n_computed == 32

    def test_nobody_waits_where_the_cache_is_off(self):
        scheduler = make(n_batch=32)
        leader, follower = sequence(100), sequence(110)
        add(scheduler, leader, follower)
        assert list(rows_of(planned(scheduler))) == [leader, follower]


class TestLost:
    def test_it_is_computed_from_nothing(self):
        scheduler = make(n_cached=4, n_batch=64)
        first, second = sequence(20, 50), sequence(30, 50)
        add(scheduler, first)
        step(scheduler)
        add(scheduler, second)
        (copy,) = scheduler.admit()
        assert second.n_computed == second.n_cached == 20
        scheduler.lost(copy)
        assert second.n_computed == second.n_cached == 0
        chunks = scheduler.plan().chunks
        assert [(c.start, c.stop) for c in chunks] == [(20, 21), (0, 16)]
        assert scheduler.kv_used == 21 + 16

    def test_where_the_rows_do_not_fit_then_the_younger_gives_way(self):
        scheduler = make(n_ctx=100, n_cached=4, n_batch=32, n_sequences=3)
        source, old, young = sequence(60, 1), sequence(65, 5), sequence(66, 5)
        add(scheduler, source)
        while scheduler.has_work:
            step(scheduler)
        add(scheduler, old, young)
        actions = scheduler.admit()
        assert [action.sequence for action in actions] == [old, young]
        for action in actions:
            scheduler.lost(action)
        compute(scheduler, scheduler.plan())
        while scheduler.has_work:
            assert step(scheduler).chunks
        assert scheduler.n_preempted == 1
        assert old.n_generated == young.n_generated == 5


class TestPreemption:
    def run_out(self, **fields: int) -> tuple[Scheduler, list[Sequence], list[Plan]]:
        """Three that fit at first and whose answers do not, with the plans up to one giving way."""
        scheduler = make(n_ctx=130, **fields)
        everyone = [sequence(10, 100, first=100 * i) for i in range(3)]
        add(scheduler, *everyone)
        plans = []
        while not scheduler.n_preempted:
            plans.append(step(scheduler))
        return scheduler, everyone, plans

    def test_the_youngest_gives_way_just_when_no_cell_is_left(self):
        _, (old, middle, young), plans = self.run_out()
        assert plans[-1].actions == (Free(2),)
        assert list(rows_of(plans[-1])) == [old, middle]
        assert len(plans) == 1 + (130 - 30) // 3 + 1
        assert young.state is SequenceState.WAITING
        assert (young.n_computed, young.slot) == (0, None)
        assert len(young.tokens) == 10 + len(plans) - 1

    def test_it_comes_back_first_and_everyone_comes_to_the_end(self):
        scheduler, everyone, _ = self.run_out()
        late = sequence(5, 5, first=700)
        add(scheduler, late)
        assert scheduler._waiting == [everyone[2], late]
        ends, best = [], [one.n_generated for one in everyone]
        while scheduler.has_work:
            plan = step(scheduler)
            assert everyone[0] in rows_of(plan) or not everyone[0].slot
            now = [one.n_generated for one in everyone]
            assert all(a <= b for a, b in zip(best, now, strict=True))
            best = now
            ends += [
                o
                for o in (*everyone, late)
                if o.slot is None
                and o.n_generated
                and o not in ends
                and o.state is SequenceState.FINISHED
            ]
        assert ends[0] is everyone[0]
        assert all(one.n_generated == 100 for one in everyone)

    def test_its_place_in_the_queue_is_by_arrival(self):
        scheduler = make(n_ctx=130, n_sequences=3)
        everyone = [sequence(10, 100, first=100 * i) for i in range(4)]
        add(scheduler, *everyone)
        while not scheduler.n_preempted:
            step(scheduler)
        assert scheduler._waiting == everyone[2:]

    def test_who_ran_once_does_not_count_any_more(self):
        scheduler = make(n_sequences=1)
        first, second = sequence(5), sequence(6)
        add(scheduler, first, second)
        assert second.counted
        step(scheduler)
        scheduler.remove(first)
        step(scheduler)
        assert not second.counted

    def test_it_does_not_count_against_the_caps(self):
        scheduler, _, _ = self.run_out(max_queued=1, max_queued_tokens=5)
        assert scheduler.n_queued == 1
        scheduler.add(sequence(5))
        with pytest.raises(OverloadedError, match="1 requests wait"):
            scheduler.add(sequence(5))

    def test_the_host_tier_takes_its_rows(self):
        _, (_, _, young), plans = self.run_out(n_cached=1, host_cache_bytes=1000)
        save, free = plans[-1].actions
        assert isinstance(save, Save)
        assert free == Free(save.slot)
        assert len(save.rows) == len(young.tokens) - 1

    def test_idle_entries_go_first(self):
        scheduler = make(n_ctx=60, n_cached=2, n_sequences=2)
        gone, talker = sequence(20, 5, first=500), sequence(10, 45)
        add(scheduler, gone)
        step(scheduler)
        scheduler.remove(gone, keep=True)
        add(scheduler, talker)
        while scheduler.has_work:
            step(scheduler)
        assert scheduler.n_preempted == 0
        assert (scheduler.cached_entries, scheduler.kv_used) == (1, 10 + 45 - 1)


class TestCaps:
    def test_queued_requests(self):
        scheduler = make(n_sequences=1, max_queued=2)
        add(scheduler, *(sequence(2) for _ in range(3)))
        assert scheduler.n_queued == 3  # one of them has a slot from the next step on
        with pytest.raises(OverloadedError, match="2 requests wait"):
            scheduler.add(sequence(2))
        scheduler.admit()
        assert scheduler.n_queued == 2

    def test_queued_tokens(self):
        scheduler = make(n_sequences=1, max_queued_tokens=10)
        add(scheduler, sequence(50), sequence(6))
        with pytest.raises(OverloadedError, match=r"6 prompt tokens wait.*5.*10"):
            scheduler.add(sequence(5))
        scheduler.add(sequence(4))
        scheduler.admit()
        assert scheduler.queued_tokens == 10

    def test_what_can_run_at_once_is_not_queued(self):
        scheduler = make(max_queued=0, max_queued_tokens=0)
        add(scheduler, *(sequence(20) for _ in range(4)))
        with pytest.raises(OverloadedError):
            scheduler.add(sequence(1))

    def test_what_lacks_cells_is_queued(self):
        scheduler = make(n_ctx=100, max_queued=0)
        scheduler.add(sequence(50, 50))
        with pytest.raises(OverloadedError):
            scheduler.add(sequence(40, 1))


class TestRemove:
    def test_everything_is_given_back(self):
        scheduler = make(n_sequences=1)
        running, waiting = sequence(5), sequence(7)
        add(scheduler, running, waiting)
        step(scheduler)
        assert scheduler.remove(waiting) == ()
        assert (scheduler.n_queued, scheduler.queued_tokens) == (0, 0)
        assert scheduler.remove(running, keep=True) == (Free(0),)
        assert (scheduler.n_running, scheduler.kv_used) == (0, 0)
        assert {running.state, waiting.state} == {SequenceState.FINISHED}
        assert not scheduler.has_work
        add(scheduler, sequence(5))
        assert planned(scheduler).batch().sequences[0] == 0


@given(
    arrivals=st.lists(
        st.tuples(st.integers(0, 6), st.integers(1, 90), st.integers(1, 10)), max_size=15
    ),
    n_batch=st.integers(3, 40),
)
def test_everyone_finishes_within_the_limits(arrivals, n_batch):
    scheduler = make(n_ctx=128, n_batch=n_batch, n_sequences=3, n_cached=2)
    pending = [(delay, sequence(n_prompt, n_out)) for delay, n_prompt, n_out in arrivals]
    everyone = [one for _, one in pending]
    while pending or scheduler.has_work:
        if pending and pending[0][0] == 0:
            scheduler.add(pending.pop(0)[1])
            continue
        if pending:
            pending[0] = (pending[0][0] - 1, pending[0][1])
        plan = planned(scheduler)
        assert plan.n_rows <= n_batch
        assert bool(plan.chunks) == scheduler.has_work
        assert scheduler.kv_used <= 128
        compute(scheduler, plan)
    assert all(one.n_generated == one.max_tokens for one in everyone)
