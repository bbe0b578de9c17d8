"""Helpers of the benchmark scripts that can be wrong without a server."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import drain
import httpx
import pytest
import shared_machine
import telemetry
import training_time
import vanish
import versus_llama_server

from llamacart_trainer.recipe.recipe import TextPair

if TYPE_CHECKING:
    pass

METRICS = """# HELP llamacart_requests_running Requests that are computed.
# TYPE llamacart_requests_running gauge
llamacart_requests_running 3
llamacart_requests_queued{model="a b"} 4.0 1700000000
llamacart_requests_queued{model="c"} 1
llamacart_requests_running_total 9
"""


def test_stats_from_metrics_and_from_json() -> None:
    assert vanish.parse_stats(METRICS) == (3, 5)
    assert vanish.parse_stats('{"running": 1, "queued": 0, "steps": 7}') == (1, 0)


@pytest.mark.parametrize("text", ["", '{"running": 1}', "llamacart_requests_running 1\n"])
def test_missing_stats_are_said(text: str) -> None:
    with pytest.raises(ValueError, match=r"does not tell .*queued"):
        vanish.parse_stats(text)


def test_visits_are_seeded_and_cover_every_way() -> None:
    visits = vanish.plan_visits(1, 200, 8.0, ["a", "b"])
    assert visits == vanish.plan_visits(1, 200, 8.0, ["a", "b"])
    assert visits != vanish.plan_visits(2, 200, 8.0, ["a", "b"])
    assert {visit.way for visit in visits} == set(vanish.WAYS)
    assert all(0 <= visit.start <= 8.0 for visit in visits)
    assert all(visit.patience >= 1 for visit in visits if visit.way == "mid-stream")


def test_common_length() -> None:
    assert vanish.common_length("abc", "abd") == 2
    assert vanish.common_length("abc", "ab") == 2
    assert vanish.common_length("", "ab") == 0


def test_prompts_are_new_in_every_turn_and_the_same_for_both_servers() -> None:
    prompts = [p for turn in range(20) for p in versus_llama_server.prompts_of(turn, 16)]
    assert len({" ".join(p.split()[:6]) for p in prompts}) == len(prompts)
    assert versus_llama_server.prompts_of(3, 4) == versus_llama_server.prompts_of(3, 4)


def test_strengths_differ() -> None:
    strengths = versus_llama_server.strengths_of(16)
    assert len(set(strengths)) == 16
    assert 0.6 < min(strengths) < max(strengths) == 1.0


def test_each_client_has_an_adapter_of_its_own_where_there_are_several() -> None:
    assert versus_llama_server.own_adapters(5, 4) == [(0, 1), (1, 1), (2, 1), (3, 1), (0, 1)]
    assert {number for number, _ in versus_llama_server.own_adapters(3, 1)} == {0}
    assert len(set(versus_llama_server.own_adapters(3, 1))) == 3


def test_adapters_that_are_not_asked_for_are_named_at_0() -> None:
    client = httpx.AsyncClient()
    theirs = versus_llama_server.Server(versus_llama_server.THEIRS, client, "default", [0, 1])
    assert [lora["scale"] for lora in theirs.body("a", 1, (1, 0.8))["lora"]] == [0, 0.8]
    assert [lora["scale"] for lora in theirs.body("a", 1, None)["lora"]] == [0, 0]
    ours = versus_llama_server.Server(versus_llama_server.OURS, client, "base", ["a", "b"])
    assert ours.body("a", 1, (1, 0.8))["model"] == "base:b@0.8"
    assert ours.body("a", 1, None)["model"] == "base"


def text(finish_reason: str | None = None) -> str:
    return json.dumps({"choices": [{"text": "a", "finish_reason": finish_reason}]})


@pytest.mark.parametrize(
    ("events", "ending"),
    [
        ([text(), text("length"), "[DONE]"], "whole"),
        ([text(), '{"choices": [{"text": "", "finish_reason": "stop"}]}', "[DONE]"], "whole"),
        ([text(), '{"error": {"message": "stopping"}}', "[DONE]"], "error event"),
        ([text(), "[DONE]"], "cut"),
        ([text(), text("length")], "cut"),
        ([text("stop"), text("stop"), "[DONE]"], "cut"),
        ([text("stop"), text(), "[DONE]"], "cut"),
        (["[DONE]", text("stop"), "[DONE]"], "cut"),
        ([], "cut"),
    ],
)
def test_how_a_stream_ended(events: list[str], ending: str) -> None:
    assert drain.ending_of(events) == ending


def test_a_drain_that_cuts_is_not_as_it_should_be() -> None:
    whole, some, forced = drain.variants(grace=3, length=64)

    def good(variant: drain.Variant, status: int, **endings: int) -> bool:
        named = Counter({kind.replace("_", " "): n for kind, n in endings.items()})
        return drain.Outcome(variant, named, 0, 0.0, (503, "1"), 1.0, status).as_it_should_be

    assert good(whole, 0, whole=3)
    assert not good(whole, 0, whole=2, error_event=1)
    assert good(some, 0, whole=2, error_event=1)
    assert not good(some, 0, whole=3)
    assert not good(some, 0, whole=1, error_event=1, cut=1)
    assert good(forced, 1, cut=3)
    assert not good(forced, 0, cut=3)


def test_pairs_grow_by_numbering_them() -> None:
    pairs = [TextPair(f"s{i}", f"t{i}") for i in range(3)]
    assert training_time.grow(pairs, 2) == tuple(pairs[:2])
    grown = training_time.grow(pairs, 10)
    assert grown[:3] == tuple(pairs)
    assert [pair.source for pair in grown[3:]] == [
        "2. s0", "2. s1", "2. s2", "3. s0", "3. s1", "3. s2", "4. s0",
    ]  # fmt: skip
    assert grown[3].target == "2. t0"
    assert len(set(grown)) == 10


def test_a_fit_of_random_activations_is_timed() -> None:
    row = training_time.time_fit(512, 60)
    assert row["K"] == training_time.K
    assert row["seconds"] > 0


def test_what_a_server_is_asked_on_a_shared_machine() -> None:
    ours = [{"id": "base", "parent": None}, {"id": "base:a", "parent": "base"}]
    assert shared_machine.request_body(ours, 24)["model"] == "base:a"
    assert shared_machine.request_body(ours[:1], 24)["model"] == "base"
    assert shared_machine.request_body([{"id": "theirs"}], 24)["model"] == "theirs"


def test_busy_loops_end_with_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_machine, "_SETTLING_SECONDS", 0.0)
    with shared_machine.beside(shared_machine.busy_loops(2)):
        pass
    with pytest.raises(KeyError), shared_machine.beside(shared_machine.busy_loops(1)):
        raise KeyError


def test_answers_on_a_shared_machine_are_compared_with_those_alone() -> None:
    alone = shared_machine.lines("nothing", {"ours": [1.0, 2.0, 9.0]}, {})
    assert alone == ["beside nothing: ours 2.000 s, at most 9.000 s"]
    (line,) = shared_machine.lines("2 busy loops", {"ours": [3.0]}, {"ours": 2.0})
    assert line.endswith("1.50 times that alone")


def test_streams_that_are_told_their_doses_and_streams_that_are_not() -> None:
    cards = [{"id": "base", "parent": None}, {"id": "base:a", "parent": "base"}]
    assert telemetry.steered_model(cards) == "base:a"
    with pytest.raises(SystemExit, match="has no cartridge"):
        telemetry.steered_model(cards[:1])
    bodies = [
        telemetry.Way(None, "base:a", extra).body("x", 3) for extra in telemetry.WAYS.values()
    ]
    assert ["telemetry" in body for body in bodies] == [False, True, True]
    assert telemetry.told_of({"text": "a", "telemetry": {"tokens": [{}, {}]}}) == 2
    assert [telemetry.told_of(choice) for choice in ({}, {"telemetry": None})] == [0, 0]
