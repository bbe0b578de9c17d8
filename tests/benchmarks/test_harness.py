"""What the benchmark scripts compute from their measurements; nothing is timed here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import harness
import numpy as np
import pytest

from llamacart.cartridge import Cartridge, Fingerprint, LayerMap, Metadata
from llamacart.file.validator import check_cartridge

if TYPE_CHECKING:
    from pathlib import Path


def make_cartridge() -> Cartridge:
    rng = np.random.default_rng(0)
    neurons = np.array([1, 5, 40])
    maps = (
        LayerMap.from_dense(0, neurons, rng.normal(size=(3, 64)), rng.normal(size=3)),
        LayerMap(1, neurons.astype(np.int32), None, np.zeros(3, np.float32)),
    )
    return Cartridge(Metadata("style"), Fingerprint("llama", 2, 64, 8, "00" * 32), maps)


def test_variants_take_turns_and_warm_up_does_not_count() -> None:
    calls: list[str] = []

    def measure(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    samples = harness.alternate(
        {name: lambda name=name: measure(name) for name in "AB"}, 2, warm_up=1
    )
    assert "".join(calls) == "ABABAB"
    assert samples == {"A": [3.0, 5.0], "B": [4.0, 6.0]}


def test_no_repetition_is_refused() -> None:
    with pytest.raises(ValueError, match="repeats has value 0"):
        harness.alternate({}, 0)


def test_ratio_is_formed_within_a_turn() -> None:
    # The machine became ten times slower: the ratio of medians would be 1.5, or worse.
    samples = {"base": [1.0, 10.0, 10.0], "other": [2.0, 20.0, 15.0]}
    comparison = harness.Comparison("step", "ms", "base", samples)
    assert comparison.ratio("other") == harness.Spread(2.0, 1.5, 2.0)
    assert comparison.ratio("base") == harness.Spread(1.0, 1.0, 1.0)
    assert comparison.spread("other") == harness.Spread(15.0, 2.0, 20.0)


def test_unequal_numbers_of_turns_are_refused() -> None:
    comparison = harness.Comparison("step", "ms", "base", {"base": [1.0, 2.0], "other": [1.0]})
    with pytest.raises(ValueError, match="zip"):
        comparison.ratio("other")


def test_report_is_written_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "report.json"
    report = harness.Report({"cpu": "a [b] c", "none": None}, path)
    report.compare(harness.Comparison("step", "ms", "A", {"A": [2.0, 4.0], "B": [3.0, 3.0]}))
    report.figure("left", [0, 0], "0 left")
    report.write()
    content = json.loads(path.read_text())
    assert content["facts"] == {"cpu": "a [b] c", "none": None}
    assert content["figures"] == {"left": [0, 0]}
    variant = content["comparisons"][0]["variants"]["B"]
    assert variant["samples"] == [3.0, 3.0]
    assert variant["ratio"] == {"median": 1.125, "low": 0.75, "high": 1.5}
    printed = capsys.readouterr().out
    assert "1.125" in printed
    assert "0 left" in printed


def test_facts_name_no_host_and_no_path() -> None:
    import platform

    facts = harness.machine_facts(3)
    assert facts["threads"] == 3
    text = json.dumps(facts)
    assert platform.node() not in text
    assert str(harness.ROOT) not in text


def test_cpu_model(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2:1 GHz\nmodel name\t: other\n")
    assert harness.cpu_model(cpuinfo) == "Some CPU @ 2:1 GHz"
    assert harness.cpu_model(tmp_path / "absent")


def test_distinct_cartridges_share_no_content_hash_and_no_memory() -> None:
    given = make_cartridge()
    made = harness.distinct(given, 4)
    assert len({c.content_hash for c in made}) == 4
    assert len({c.name for c in made}) == 4
    for number, cartridge in enumerate(made):
        check_cartridge(cartridge)
        for mine, theirs in zip(cartridge.layers, given.layers, strict=True):
            np.testing.assert_array_equal(mine.neurons, theirs.neurons)
            np.testing.assert_allclose(mine.bias, theirs.bias, rtol=1e-3, atol=1e-5)
            assert not np.shares_memory(mine.neurons, theirs.neurons)
            if theirs.delta is not None:
                assert mine.delta is not None
                np.testing.assert_array_equal(mine.delta.values, theirs.delta.values)
                assert not np.shares_memory(mine.delta.values, theirs.delta.values)
                assert not np.shares_memory(mine.delta.scales, theirs.delta.scales)
        assert cartridge.n_active == given.n_active, number
