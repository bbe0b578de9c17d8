"""The soak: what it concludes, and a short one on a tiny model."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soak
from harness import Report

from llamacart.cartridge import Cartridge, LayerMap, Metadata
from llamacart.file.writer import write_cartridge

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llamacart.llama.model import Model

SERVE = [
    sys.executable,
    "-c",
    "import typer, llamacart_server.commands.serve as c; typer.run(c.serve)",
]


def sample(mib: float, descriptors: int = 20) -> soak.Sample:
    return soak.Sample(0.0, int(mib * 2**20), descriptors)


def test_growth_is_of_what_follows_the_warm_up() -> None:
    flat = [sample(m) for m in (100, 200, 300, 300, 300, 300, 300, 300)]
    assert soak.growth(flat) == (1.0, 0)
    leak = [sample(100 + m, 20 + m) for m in range(0, 80, 10)]
    memory, descriptors = soak.growth(leak)
    assert memory == pytest.approx(165 / 125)
    assert descriptors == 40
    with pytest.raises(ValueError, match="3 samples"):
        soak.growth(flat[:3])


def test_a_sample_of_this_process() -> None:
    seen = soak.Sample.of(os.getpid(), 1.5)
    assert seen.seconds == 1.5
    assert seen.resident > 2**20
    assert seen.descriptors > 2


def metrics(**values: int) -> dict[str, float]:
    text = "# HELP x y\n"
    for kind in ("finished", "cancelled", "failed"):
        text += f'llamacart_requests_total{{outcome="{kind}"}} {values.get(kind, 0)}\n'
    for kind in ("invalid", "overloaded"):
        text += f'llamacart_requests_refused_total{{reason="{kind}"}} {values.get(kind, 0)}.0\n'
    for gauge in ("running", "queued"):
        text += f"llamacart_requests_{gauge} {values.get(gauge, 0)}\n"
    return soak.parse_metrics(text)


def test_books_that_agree_and_those_that_do_not() -> None:
    counts = soak.Counts(whole=5, left=3, failed=1)
    counts.refused.update({400: 2, 503: 4})
    good = {"finished": 6, "cancelled": 2, "failed": 1, "invalid": 2, "overloaded": 4}
    start = metrics(finished=7, failed=2)

    def check(**changed: int) -> list[str]:
        after = {**good, **changed}
        after["finished"] += 7
        after["failed"] += 2
        return soak.disagreements(counts, start, metrics(**after))

    assert check() == []
    assert len(check(cancelled=3)) == 1
    assert len(check(finished=4, cancelled=4)) == 1
    assert len(check(failed=0, cancelled=3)) == 1
    assert len(check(invalid=1)) == len(check(overloaded=0)) == 1
    assert len(check(running=1)) == len(check(queued=2)) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--url", "http://example.org:80"],
        ["--minutes", "0"],
        ["--minutes", "1e9"],
        ["--clients", "65"],
        ["--requests", "-1"],
    ],
)
def test_only_this_machine_and_not_for_ever(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        soak.read_arguments(words)
    assert soak.read_arguments(["--url", "http://[::1]:8080"]).clients == 12


def test_a_short_one(
    tiny_path: Callable[..., Path],
    tiny_model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = LayerMap(1, np.arange(8, dtype=np.int32), None, np.full(8, 2.0, np.float32))
    folder = tmp_path / "cartridges"
    folder.mkdir()
    cartridge = Cartridge(Metadata("push"), tiny_model.fingerprint, (layer,))
    write_cartridge(cartridge, folder / "push.gguf")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    path = tmp_path / "soak.json"
    words = ["--model", str(tiny_path()), "--cartridges", str(folder), "--requests", "30"]
    words += ["--minutes", "60", "--clients", "4"]  # the number ends it, however slow
    words += ["--json", str(path), "--command", shlex.join(SERVE)]
    monkeypatch.setattr(soak, "SAMPLE_SECONDS", 3600)  # a server that warms up is not flat
    given = soak.read_arguments(words)
    good = asyncio.run(soak.run(given, Report({}, given.json)))
    figures = json.loads(path.read_text())["figures"]
    assert good, figures
    assert sum(figures["done"].values()) >= 30
    assert len(figures["done"]) == 7  # their order is the seed's
