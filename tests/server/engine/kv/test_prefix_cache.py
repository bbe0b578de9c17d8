from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamacart.errors import EngineError
from llamacart_server.engine.engine import Engine
from llamacart_server.engine.kv import prefix_cache
from llamacart_server.engine.kv.actions import Compact, Copy, Free, Restore, Save, Trim
from llamacart_server.engine.kv.host_tier import HostEntry, HostTier
from llamacart_server.engine.kv.prefix_cache import Match, PrefixCache
from llamacart_server.engine.kv.rows import Rows
from llamacart_server.engine.request import GenerationRequest
from llamacart_server.engine.sequence import Sequence

A = (("a", 1.0, ()),)
B = (("b", 1.0, ()),)


def rows(tokens, *segments):
    return Rows(np.array(tokens, np.int32), segments or ((len(tokens), ()),))


def sequence(n=10):
    return Sequence(GenerationRequest(tuple(range(n)), 5), 5, lambda _token: b"")


def drive(engine, fakes):
    while engine.step():
        fakes.check(engine)


def ask(engine, fakes, request):
    """The cached tokens of a request, whose text must be what it is alone."""
    generation = engine.submit(request)
    drive(engine, fakes)
    got = [event.token for event in generation.events() if event.token is not None]
    assert got == fakes.alone(request)
    return generation.report.cached_tokens


class TestRows:
    def test_common_rows_agree_in_token_and_key(self):
        one = rows([1, 2, 3, 4, 5])
        assert one.common(rows([1, 2, 3, 9, 5])) == 3
        assert one.common(rows([1, 2, 3])) == 3
        assert one.common(rows([9])) == 0
        assert one.common(rows([])) == rows([]).common(one) == 0
        assert one.common(rows([1, 2, 3, 4, 5], (5, A))) == 0
        assert one.common(rows([1, 2, 3, 4, 5], (2, ()), (5, A))) == 2

    def test_where_a_segment_ends_does_not_matter_but_its_key(self):
        split = rows([1, 2, 3, 4], (2, A), (4, A))
        whole = rows([1, 2, 3, 4], (4, A))
        assert split.common(whole) == whole.common(split) == 4
        assert split.common(rows([1, 2, 3, 4], (3, A), (4, B))) == 3

    @given(*[st.lists(st.tuples(st.integers(0, 2), st.sampled_from([(), A, B])), max_size=12)] * 2)
    def test_against_the_definition(self, a, b):
        def make(history):
            segments = tuple((i + 1, key) for i, (_, key) in enumerate(history))
            return Rows(np.array([token for token, _ in history], np.int32), segments)

        n = 0
        while n < min(len(a), len(b)) and a[n] == b[n]:
            n += 1
        assert make(a).common(make(b)) == n
        assert make(a).begins(make(b)) == (n == len(a))


class TestMatch:
    def held(self, *entries, host_bytes=0):
        """A cache of 100 cells with idle entries of these tokens, in slots 0, 1, …"""
        cache = PrefixCache(100, 8, 4, host_bytes)
        for tokens in entries:
            slot = cache.open(sequence(), Match())
            cache.ledger.extend(slot, len(tokens))
            cache.close(slot, rows(tokens))
        cache.take_actions()
        return cache

    def test_the_longest_wins_and_the_last_token_is_computed(self):
        cache = self.held(range(5), [*range(8), 50])
        assert cache.match(rows(range(20)), []) == Match(8, 1)
        assert cache.match(rows(range(8)), []) == Match(7, 1)

    def test_an_entry_that_the_newcomer_goes_on_from_is_taken_over(self):
        cache = self.held(range(9))
        newcomer = sequence()
        slot = cache.open(newcomer, cache.match(rows(range(20)), []))
        assert cache.take_actions() == (Trim(0, 9, newcomer),)
        assert (slot, cache.n_entries, cache.ledger.n_rows(0)) == (0, 0, 9)

    def test_the_same_prompt_again_computes_its_last_row_again(self):
        cache = self.held(range(9))
        newcomer = sequence()
        cache.open(newcomer, cache.match(rows(range(9)), []))
        assert cache.take_actions() == (Trim(0, 8, newcomer),)
        assert cache.ledger.n_used == 8

    def test_what_is_common_only_in_part_is_shared(self):
        cache = self.held(range(9))
        newcomer = sequence()
        slot = cache.open(newcomer, cache.match(rows([0, 1, 2, 3, 4, 99, 98]), []))
        assert cache.take_actions() == (Copy(0, slot, 5, newcomer),)
        assert (cache.n_entries, cache.ledger.n_used) == (1, 9)

    def test_a_running_sequence_shares_too(self):
        cache = self.held()
        slot = cache.open(sequence(), Match())
        cache.ledger.extend(slot, 6)
        assert cache.match(rows(range(20)), [(slot, rows(range(6)))]) == Match(6, slot)

    def test_a_few_rows_are_not_worth_it(self):
        cache = self.held(range(9))
        assert cache.match(rows([0, 1, 2, 99, 98]), []) == Match()
        assert cache.match(rows([0, 1, 2, 3, 99]), []).n == 4

    def test_off_means_off(self):
        cache = PrefixCache(100, 2, 0, host_bytes=1000)
        slot = cache.open(sequence(), Match())
        cache.ledger.extend(slot, 9)
        assert cache.match(rows(range(20)), [(slot, rows(range(9)))]) == Match()
        cache.close(slot, rows(range(9)))
        assert cache.take_actions() == (Free(slot),)
        assert (cache.n_entries, cache.ledger.n_used) == (0, 0)


class TestIdleEntries(TestMatch):
    def test_the_least_recently_used_goes_first(self):
        cache = self.held(*([i] * 5 for i in range(4)))
        shared = cache.open(sequence(), cache.match(rows([0] * 4 + [9, 9]), []))
        for i in range(5, 7):
            slot = cache.open(sequence(), Match())
            cache.ledger.extend(slot, 5)
            cache.close(slot, rows([i] * 5))
        freed = [a.slot for a in cache.take_actions() if isinstance(a, Free)]
        assert freed == [1, 2]
        assert shared not in freed

    def test_prefixes_of_a_newer_entry_are_dropped(self):
        cache = self.held(range(6), [5] * 6, range(9))
        assert cache.n_entries == 2
        assert cache.match(rows(range(20)), []).n == 9

    def test_a_prefix_of_an_older_entry_is_not_kept(self):
        cache = self.held(range(9), range(6))
        assert cache.n_entries == 1
        assert cache.ledger.n_used == 9

    def test_equal_tokens_under_another_key_are_another_entry(self):
        cache = self.held(range(9))
        slot = cache.open(sequence(), Match())
        cache.ledger.extend(slot, 9)
        cache.close(slot, rows(range(9), (9, A)))
        assert cache.n_entries == 2

    def test_room_is_made_only_from_entries_that_give_some(self):
        cache = self.held(range(9), [7] * 9)
        cache.open(sequence(), cache.match(rows([*range(8), 99, 98]), []))
        cache.ledger.trim(0, 8)
        cache.ledger.extend(5, 100 - 17)
        cache.ledger.pin(5)
        cache.take_actions()
        assert not cache.make_room(10)
        assert cache.take_actions() == (Free(1),)
        assert cache.ledger.n_free == 9


class TestHostTier(TestMatch):
    def test_an_evicted_entry_is_saved_and_comes_back(self):
        cache = self.held(range(9), host_bytes=1000)
        assert cache.make_room(100)
        save, free = cache.take_actions()
        assert (save.slot, free) == (0, Free(0))
        assert isinstance(save, Save)
        cache.host.add(HostEntry(save.rows, b"x" * 500))
        match = cache.match(rows([*range(7), 99, 98]), [])
        assert (match.n, match.slot) == (7, None)
        newcomer = sequence()
        slot = cache.open(newcomer, match)
        assert cache.take_actions() == (
            Restore(slot, match.entry, newcomer),
            Trim(slot, 7, newcomer),
        )
        assert cache.ledger.n_used == 7

    def test_what_is_resident_is_preferred(self):
        cache = self.held(range(9), host_bytes=1000)
        cache.host.add(HostEntry(rows(range(9)), b"x"))
        assert cache.match(rows(range(20)), []).slot == 0
        cache.host.add(HostEntry(rows(range(12)), b"x"))
        assert cache.match(rows(range(20)), []).n == 12

    def test_what_the_host_has_is_not_saved_again(self):
        cache = self.held(range(9), host_bytes=1000)
        cache.host.add(HostEntry(rows(range(12)), b"x"))
        cache.make_room(100)
        assert cache.take_actions() == (Free(0),)

    def test_an_entry_without_room_to_restore_is_no_match(self):
        cache = self.held(host_bytes=1000)
        cache.host.add(HostEntry(rows(range(50)), b"x"))
        cache.ledger.pin(7)
        cache.ledger.extend(7, 51)
        assert cache.match(rows(range(60)), []) == Match()

    def test_a_newer_entry_replaces_its_prefixes_there_too(self):
        cache = self.held(host_bytes=1000)
        cache.host.add(HostEntry(rows(range(9)), b"x"))
        cache.host.add(HostEntry(rows([7] * 9), b"x"))
        slot = cache.open(sequence(), Match())
        cache.ledger.extend(slot, 12)
        cache.close(slot, rows(range(12)))
        assert [entry.rows.tokens[0] for entry in cache.host] == [7]

    def test_restoring_is_using(self):
        cache = self.held(host_bytes=10)
        first, second = HostEntry(rows(range(9)), bytes(5)), HostEntry(rows([7] * 9), bytes(5))
        cache.host.add(first)
        cache.host.add(second)
        cache.open(sequence(), cache.match(rows(range(20)), []))
        cache.host.add(HostEntry(rows([8] * 9), bytes(5)))
        assert first in list(cache.host)
        assert second not in list(cache.host)

    def test_bytes_are_bounded_and_the_least_recently_used_goes(self):
        tier = HostTier(100)
        entries = [HostEntry(rows([i] * 5), bytes(40)) for i in range(4)]
        tier.add(entries[0])
        tier.add(entries[1])
        tier.touch(entries[0])
        tier.add(entries[2])
        assert list(tier) == [entries[0], entries[2]]
        tier.add(HostEntry(rows([9] * 5), bytes(101)))
        assert (len(list(tier)), tier.n_bytes) == (2, 80)
        tier.discard(entries[0])
        tier.discard(entries[0])
        assert tier.n_bytes == 40
        assert not HostTier(0).wants(rows(range(9)))


class TestOrder:
    """Where cells are kept in order."""

    def cache(self, *sizes, n_idle=4):
        """A cache of 100 cells with idle entries of these sizes, in slots 0, 1, …"""
        cache = PrefixCache(100, 8, n_idle, ordered=True)
        for i, n in enumerate(sizes):
            slot = cache.open(sequence(), Match())
            cache.ledger.extend(slot, n)
            cache.close(slot, rows(range(100 * i, 100 * i + n)))
        cache.take_actions()
        return cache

    def test_room_comes_from_moving_what_is_left(self):
        cache = self.cache(20)
        slot = cache.open(sequence(), Match())
        cache.ledger.extend(slot, 70)
        cache.ledger.trim(slot, 10)
        assert cache.make_room(10)
        assert cache.take_actions() == ()
        assert cache.make_room(20)
        assert cache.take_actions() == (Compact((0, slot)),)
        assert (cache.ledger.n_free, cache.ledger.n_dead) == (70, 0)

    def test_idle_entries_go_before_running_ones_move(self):
        cache = self.cache(20)
        slot = cache.open(sequence(), Match())
        cache.ledger.extend(slot, 75)
        assert cache.make_room(20)
        assert cache.take_actions() == (Free(0), Compact((slot,)))
        assert cache.ledger.n_free == 25

    def test_what_would_gain_little_is_not_moved(self):
        cache = self.cache()
        slot = cache.open(sequence(), Match())
        cache.ledger.extend(slot, 95)
        cache.ledger.trim(slot, 94)
        assert not cache.make_room(20)
        assert cache.take_actions() == ()

    def test_idle_cells_are_bounded(self):
        cache = self.cache(20)
        slot = cache.open(sequence(), Match())
        cache.ledger.extend(slot, 15)
        cache.close(slot, rows(range(500, 515)))
        assert cache.take_actions() == (Free(0),)

    def test_many_dead_cells_are_left_behind(self, monkeypatch):
        monkeypatch.setattr(prefix_cache, "MIN_DEAD", 30)
        cache = self.cache()
        slot = cache.open(sequence(), Match())
        cache.ledger.extend(slot, 40)
        cache.ledger.trim(slot, 11)
        cache.tidy()
        assert cache.take_actions() == ()
        cache.ledger.trim(slot, 10)
        cache.tidy()
        assert cache.take_actions() == (Compact((slot,)),)

    def test_rows_lost_on_the_way_are_an_error_of_their_sequence(self, fakes):
        runner = fakes.Runner(100, 16, 2, 0, ordered=True)
        engine = Engine(runner)
        requests = [fakes.request(10, 45, first=i * 100, ignore_eos=True) for i in range(2)]
        generations = [engine.submit(request) for request in requests]
        runner.no_compact = {0}  # the younger one gives way before
        while engine.step():
            pass
        with pytest.raises(EngineError, match="rows in the KV cache were lost"):
            list(generations[0].events())
        assert [e.token for e in generations[1].events()] == fakes.alone(requests[1])
        assert engine.stats().running == 0


HOSTS = pytest.mark.parametrize("host_cache_bytes", [0, 10**6], ids=["no host", "host"])


class TestTexts:
    """Through the engine: what is reused, and that it never changes a text."""

    @HOSTS
    @pytest.mark.parametrize("ordered", [False, True])
    @pytest.mark.parametrize("n_cached", [0, 1, 8])
    def test_kv_never_crosses_steering_keys(self, fakes, n_cached, host_cache_bytes, ordered):
        runner = fakes.Runner(n_cached=n_cached, ordered=ordered)
        engine = Engine(runner, host_cache_bytes=host_cache_bytes)
        a, b = fakes.cartridge("a", 1.0), fakes.cartridge("b", 2.0)
        engine.load(a)
        engine.load(b)

        def request(*doses, first=1):
            return fakes.request(40, 6, *doses, first=first, ignore_eos=True)

        steps = [
            (request((a, 1.0, "all")), 0),
            (request(), 0),
            (request((b, 1.0, "all"), first=500), 0),
            (request((b, 1.0, "all")), 0),
            (request((a, 1.0, "all")), 39),
            (request((a, 0.0, "all")), 39),
            (request((a, 0.5, "all")), 0),
            (request((a, 1.0, "all"), (b, 1.0, "all")), 0),
            (request((a, 1.0, "generated")), 39),
            (request((a, 1.0, "prompt")), 39),
            (request((b, 1.0, "generated")), 39),
        ]
        got = [ask(engine, fakes, one) for one, _ in steps]
        remembers = n_cached == 8 or (n_cached and host_cache_bytes)
        if remembers:
            assert got == [due for _, due in steps]
        assert all(n <= due for n, (_, due) in zip(got, steps, strict=True))
        if not n_cached:
            assert got == [0] * len(steps)
        restores = [call for call in runner.calls if call[0] == "restore"]
        assert bool(restores) == (n_cached == 1 and host_cache_bytes > 0)

    @HOSTS
    def test_a_conversation_goes_on_where_it_was(self, fakes, host_cache_bytes):
        engine = Engine(fakes.Runner(), host_cache_bytes=host_cache_bytes)
        cartridge = fakes.cartridge("a")
        engine.load(cartridge)
        turn = fakes.request(30, 10, (cartridge, 1.0, "all"), ignore_eos=True)
        assert ask(engine, fakes, turn) == 0
        for _ in range(3):
            # The last generated token of a turn was never computed.
            computed = len(turn.prompt) + 10 - 1
            turn = fakes.continued(turn, 5, 6, 7)
            assert ask(engine, fakes, turn) == computed
        assert engine.stats().cached_entries == 1

    def test_generated_rows_steered_alone_are_not_prompt_rows_of_the_next_turn(self, fakes):
        engine = Engine(fakes.Runner())
        cartridge = fakes.cartridge("a")
        engine.load(cartridge)
        turn = fakes.request(30, 10, (cartridge, 1.0, "generated"), ignore_eos=True)
        assert ask(engine, fakes, turn) == 0
        assert ask(engine, fakes, fakes.continued(turn, 5)) == 30

    def test_the_order_of_doses_is_part_of_the_key(self, fakes):
        engine = Engine(fakes.Runner())
        a, b = fakes.cartridge("a", 1.0), fakes.cartridge("b", 2.0)
        engine.load(a)
        engine.load(b)
        doses = ((a, 1.0, "all"), (b, 1.0, "all"))
        assert ask(engine, fakes, fakes.request(30, 3, *doses)) == 0
        assert ask(engine, fakes, fakes.request(30, 3, *doses[::-1])) == 0
        assert ask(engine, fakes, fakes.request(30, 3, *doses)) == 29

    def test_unloading_and_loading_equal_content_keeps_the_rows(self, fakes):
        engine = Engine(fakes.Runner())
        request = fakes.request(30, 3, (fakes.cartridge("a"), 1.0, "all"))
        engine.load(fakes.cartridge("a"))
        ask(engine, fakes, request)
        engine.unload(fakes.cartridge("a"))
        engine.load(fakes.cartridge("the same"))
        assert ask(engine, fakes, request) == 29

    def test_a_cancelled_sequence_leaves_its_rows(self, fakes):
        engine = Engine(fakes.Runner(n_batch=16))
        request = fakes.request(100, 3)
        generation = engine.submit(request)
        for _ in range(3):
            engine.step()
        generation.cancel()
        assert ask(engine, fakes, request) == 48

    def test_a_failed_sequence_leaves_none(self, fakes):
        runner = fakes.Runner()
        engine = Engine(runner)
        request = fakes.request(30, 30)
        engine.submit(request)
        engine.step()
        runner.fail = RuntimeError("gone")
        engine.step()
        assert runner.n_cells == 0
        assert ask(engine, fakes, request) == 0

    @pytest.mark.parametrize("turns", [False, True], ids=["copy", "trim"])
    def test_rows_that_are_gone_are_computed(self, fakes, turns):
        runner = fakes.Runner()
        engine = Engine(runner)
        first = fakes.request(30, 6, ignore_eos=True)
        ask(engine, fakes, first)
        runner.forgets = set(runner.kv)
        second = fakes.continued(first, 5) if turns else fakes.request(20, 6)
        assert ask(engine, fakes, second) == 0
        assert runner.calls[-1][0] == ("trim" if turns else "copy")

    def test_a_restore_that_fails_is_not_tried_again(self, fakes):
        runner = fakes.Runner(n_cached=1)
        engine = Engine(runner, host_cache_bytes=10**6)
        first = fakes.request(30, 6)
        ask(engine, fakes, first)
        ask(engine, fakes, fakes.request(30, 6, first=500))
        assert engine.stats().host_bytes > 0
        runner.no_restore = True
        engine.submit(first)
        engine.step()
        assert engine.stats().host_bytes == 0
        assert "trim" not in [call[0] for call in runner.calls]
        assert ask(engine, fakes, fakes.request(20, 6, first=900)) == 0
        restores = [call for call in runner.calls if call[0] == "restore"]
        assert len(restores) == 1

    @pytest.mark.parametrize("name", ["copy", "trim", "restore", "save"])
    def test_an_operation_that_raises_costs_only_time(self, fakes, name, caplog):
        runner = fakes.Runner(n_cached=1)
        engine = Engine(runner, host_cache_bytes=10**6)
        first = fakes.request(30, 6, ignore_eos=True)
        ask(engine, fakes, first)
        if name == "restore":
            ask(engine, fakes, fakes.request(30, 6, first=500))
        runner.broken_reuse = RuntimeError("broken")
        second = {
            "copy": fakes.request(20, 6),
            "trim": fakes.continued(first, 5),
            "restore": first,
            "save": fakes.request(30, 6, first=500),
        }[name]
        assert ask(engine, fakes, second) == 0
        assert "RuntimeError: broken" in caplog.text
        assert runner.broken_reuse is None
