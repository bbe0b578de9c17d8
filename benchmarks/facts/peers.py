"""CounterFact edits by what people would use instead of a cartridge, measured by the same figures.

Takes the edits that counterfact.py takes. Each peer changes the model's weights, dequantised into
torch, and the matrices that it has changed are written in 32 bits into a copy of the model's GGUF.
That copy is asked just as a cartridge is, by the trainer's evaluation on llama.cpp. So all figures
of all peers and of the cartridge come from one piece of code.

Peers: unedited, prompt (the fact, and all facts, in the prompt), lora (gradient, peft), memit,
alphaedit. A mean shift is `counterfact.py --set 'solver="mean-shift"'`. Settings were chosen on the
edits 30 to 59; --set gives others. Results are added to the JSON file's.

Usage: peers.py --data FILE [--sets 120:30 …] [--peers lora …] [--set KEY=VALUE …] [--json FILE]
       peers.py --table FILE …       prints the table of results in JSON files
Needs the extra `peers`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from counterfact import read_edits
from peers_closed_form import sizes
from peers_gguf import read_matrices, write_edited
from peers_score import Result, divergence, judge_of, neutral_reference, table_of, values_of
from peers_texts import essence, other_texts, questions, sentences, statement
from rich.console import Console

from llamacart.llama.model import Model
from llamacart.values.steering import UNSTEERED
from llamacart_trainer.evaluation.facts.figures import TOLD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from peers_texts import Said

    from llamacart.passes.scoring import Reference
    from llamacart_trainer.evaluation.facts.judge import FactJudge
    from llamacart_trainer.recipe.facts import Fact

PEERS = ("unedited", "prompt", "lora", "memit", "alphaedit")

LONGEST = 128
"""Tokens of a text that other keys are taken from."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "memit": {},
    "alphaedit": {"null": 0.8, "ridge": 0.1},
}
"""Settings that the edits 30 to 59 have chosen, where they are not the classes' own."""


class Bench:
    """The model in llama.cpp and in torch, and what every peer is measured against."""

    def __init__(self, spec: str, threads: int) -> None:
        self.model = Model(spec)
        self.path = Path(self.model.path)
        self.threads = threads
        self._kept: dict[object, Any] = {}

    @cached_property
    def module(self) -> Any:
        """The model in torch."""
        import torch
        from peers_model import load

        torch.set_num_threads(self.threads)
        return load(self.path)

    @cached_property
    def against(self) -> Reference:
        """What the model says on neutral texts."""
        return neutral_reference(self.model, self.threads)

    def ways(self, edits: Sequence[Fact], count: int) -> list[list[Said]]:
        """Each fact's statement, alone and behind `count` sentences."""
        before = ("", *sentences(count))
        return [[statement(self.model, fact, text) for text in before] for fact in edits]

    def once(self, key: object, make: Callable[[], Any]) -> tuple[Any, float]:
        """What two peers share, and the seconds that it took to make it."""
        if key not in self._kept:
            started = time.perf_counter()
            self._kept[key] = make(), time.perf_counter() - started
        return self._kept[key]

    def judge(self, edits: Sequence[Fact]) -> FactJudge:
        """Asks the model as it is about edits."""
        return self.once(tuple(edits), lambda: judge_of(self.model, edits, self.threads))[0]

    def measured(
        self, changed: Mapping[str, NDArray[Any]], edits: Sequence[Fact]
    ) -> tuple[dict[str, list[float]], float]:
        """Values and KL of the model with steps added to some matrices."""
        base = read_matrices(self.path, changed)
        grown = {name: base[name] + np.asarray(s, np.float32) for name, s in changed.items()}
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "edited.gguf"
            write_edited(self.path, grown, copy)
            with Model(str(copy)) as edited:
                asked = judge_of(edited, edits, self.threads, before=self.judge(edits))
                figures = asked.measure(UNSTEERED, None)
                kl = divergence(edited, self.against, self.threads)
        return values_of(figures), kl


# --- the peers --------------------------------------------------------------------------------


def unedited(bench: Bench, skip: int, edits: Sequence[Fact]) -> Iterator[Result]:
    figures = bench.judge(edits).measure(UNSTEERED, None)
    tokens = None if figures.prompt_tokens is None else figures.prompt_tokens.value
    values = values_of(figures)
    yield Result("unedited", skip, len(edits), values, kl=0.0, prompt_tokens=tokens)


def prompted(bench: Bench, skip: int, edits: Sequence[Fact]) -> Iterator[Result]:
    for told in TOLD:
        figures = bench.judge(edits).told(told)
        if figures is not None:
            tokens = None if figures.prompt_tokens is None else figures.prompt_tokens.value
            yield Result(told, skip, len(edits), values_of(figures), prompt_tokens=tokens)


def lora(
    bench: Bench, skip: int, edits: Sequence[Fact], given: Mapping[str, str]
) -> Iterator[Result]:
    from peers_lora import LoraSettings, fit_lora

    settings = with_given(LoraSettings(**DEFAULTS["lora"]), given)
    ways, module = bench.ways(edits, settings.sentences), bench.module
    others = [bench.model.tokenize(text) for text in questions()]
    started = time.perf_counter()
    fitted = fit_lora(module, ways, settings, others)
    seconds = time.perf_counter() - started
    values, kl = bench.measured(fitted.steps, edits)
    yield Result(
        "lora",
        skip,
        len(edits),
        values,
        kl=kl,
        settings=asdict(settings),
        seconds=seconds,
        bytes=fitted.size,
        shows={"losses": fitted.losses},
    )


def written(
    bench: Bench, skip: int, edits: Sequence[Fact], name: str, given: Mapping[str, str]
) -> Iterator[Result]:
    """MEMIT or AlphaEdit."""
    from peers_memit import MemitSettings, edit, find_steps, moments

    settings = with_given(MemitSettings(**DEFAULTS[name]), given)
    ways, module = bench.ways(edits, settings.sentences), bench.module
    layers = range(settings.last - settings.layers + 1, settings.last + 1)
    others = [bench.model.tokenize(text)[:LONGEST] for text in other_texts()]
    known, prepared = bench.once(layers, lambda: moments(module, others, layers))
    wanted, seconds = bench.once(
        (skip, len(edits), settings.of_steps),
        lambda: find_steps(module, ways, [essence(bench.model, f) for f in edits], settings),
    )
    started = time.perf_counter()
    updates = edit(module, ways, wanted, known, settings)
    seconds += time.perf_counter() - started
    values, kl = bench.measured(updates, edits)
    whole, thin = sizes(list(updates.values()), len(edits))
    yield Result(
        name,
        skip,
        len(edits),
        values,
        kl=kl,
        settings=asdict(settings),
        seconds=seconds,
        bytes=whole,
        thin=thin,
        shows={"losses": wanted.losses, "seconds for other texts, once a model": prepared},
    )


def with_given(settings: Any, given: Mapping[str, str]) -> Any:
    """Settings with values that were given as text, each read as the default's type."""
    kinds = {f.name: type(getattr(settings, f.name)) for f in fields(settings)}
    unknown = set(given) - set(kinds)
    if unknown:
        raise SystemExit(f"--set names {min(unknown)!r}, which is not among {', '.join(kinds)}")
    return replace(settings, **{name: kinds[name](value) for name, value in given.items()})


def run(
    bench: Bench, peer: str, skip: int, edits: Sequence[Fact], given: Mapping[str, str]
) -> Iterator[Result]:
    """A peer's results on some edits; settings are for peers that have any."""
    if peer == "unedited":
        return unedited(bench, skip, edits)
    if peer == "prompt":
        return prompted(bench, skip, edits)
    return (
        lora(bench, skip, edits, given)
        if peer == "lora"
        else written(bench, skip, edits, peer, given)
    )


# --- the command ------------------------------------------------------------------------------


def read_results(paths: Sequence[Path]) -> list[Result]:
    return [Result(**each) for path in paths for each in json.loads(path.read_text())]


def span(text: str) -> tuple[int, int]:
    skip, _, count = text.partition(":")
    return int(skip), int(count)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="file of records")
    parser.add_argument("--model", default="demo", help="GGUF path, 'demo' or hf:… of a Gemma 3")
    parser.add_argument(
        "--sets", type=span, nargs="+", default=[(120, 30), (150, 30)], help="SKIP:EDITS each"
    )
    parser.add_argument("--peers", choices=PEERS, nargs="+", default=PEERS)
    parser.add_argument("--set", nargs="*", default=[], help="settings of the peers, as rank=16")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="add results to this file")
    parser.add_argument("--table", type=Path, nargs="+", help="print these results alone")
    options = parser.parse_args()
    console = Console()
    if options.table:
        console.print(table_of(read_results(options.table)))
        return
    if options.data is None:
        parser.error("--data is needed")
    edits = read_edits(options.data)
    if max(sum(each) for each in options.sets) > len(edits):
        parser.error(f"--sets asks for more edits than the {len(edits)} that there are")
    given = dict(line.split("=", 1) for line in options.set)
    found: list[Result] = []
    bench = Bench(options.model, options.threads)
    for skip, count in options.sets:
        for peer in options.peers:
            for result in run(bench, peer, skip, edits[skip : skip + count], given):
                found.append(result)
                if options.json:
                    old = read_results([options.json]) if options.json.exists() else []
                    text = json.dumps([r.as_json() for r in [*old, result]], indent=1)
                    options.json.write_text(text + "\n", encoding="utf-8")
    console.print(table_of(found))


if __name__ == "__main__":
    main()
