"""The table of all trials: a JSONL file that a killed search goes on from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from llamacart.disk.whole import write_whole
from llamacart.errors import InputError
from llamacart_trainer.fitting.identity import differing, digests
from llamacart_trainer.recipe.validation import InvalidValue
from llamacart_trainer.tuning.space import Candidate  # noqa: TC001 (pydantic reads it)

if TYPE_CHECKING:
    from pathlib import Path

    from llamacart_trainer.evaluation.objective import Objective
    from llamacart_trainer.evaluation.results import Scores


@dataclass(frozen=True)
class Trial:
    """One candidate at one α on one rung.

    Attributes:
        candidate: Settings of the fit.
        alpha: α.
        rung: 0, 1, …; a higher rung has more prompts.
        prompts: Prompts, answers and facts it was scored on.
        shortfall: From what the objective demands; 0 where it is met.
        cost: NLL, or KL to the prompted model, + weight × KL.
        unknown: How many parts of the cost were not measured.
        figures: Values of the scores, without intervals.
        seconds: Wall time of scoring, and of the fit where this trial needed one.
        error: Why the fit failed; empty where it did not.
    """

    candidate: Candidate
    alpha: float
    rung: int
    prompts: int
    shortfall: float
    cost: float
    figures: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""
    unknown: int = 0

    @property
    def key(self) -> tuple[float, int, float]:
        """Sorts better trials of a rung first."""
        return self.shortfall, self.unknown, self.cost

    @property
    def place(self) -> tuple[Candidate, float, int]:
        """What tells the trials of a search apart."""
        return self.candidate, self.alpha, self.rung


_ADAPTER = TypeAdapter(Trial)
FAILED = 1e30
"""Shortfall of a trial whose fit failed: finite, for JSON knows no infinity."""


def scored(
    candidate: Candidate,
    alpha: float,
    rung: int,
    prompts: int,
    scores: Scores,
    objective: Objective,
    seconds: float,
) -> Trial:
    """A trial with its scores."""
    names = (
        *("behaviour", "written", "nll", "distinct", "repetition"),
        *("kl", "kl_prompted", "removed", "agreement", "ended"),
        *("log_odds", "p_target", "p_leaked"),
        *("efficacy", "paraphrases", "neighbours"),
    )
    values = {name: getattr(scores, name) for name in names}
    shortfall, unknown, cost = objective.key(scores)
    return Trial(
        candidate=candidate,
        alpha=alpha,
        rung=rung,
        prompts=prompts,
        shortfall=shortfall,
        cost=cost,
        figures={name: round(v.value, 6) for name, v in values.items() if v is not None},
        seconds=round(seconds, 3),
        unknown=unknown,
    )


class TrialTable:
    """Trials in memory and, where a path is given, in a file of one JSON object a line.

    The first line holds the digests of what was searched; a file of another search is refused. A
    line that a kill cut off is dropped.

    Args:
        path: The file, or None for memory alone.
        search: What the trials depend on, see `search_facts`.

    Raises:
        InputError: The file belongs to another search, or is no table of trials.
    """

    def __init__(self, path: Path | None, search: dict[str, Any]) -> None:
        self._path = path
        self._trials: dict[tuple[Candidate, float, int], Trial] = {}
        known = digests(search)
        if path is None:
            return
        try:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        except FileNotFoundError:
            lines = []
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"trials {str(path)!r} cannot be read: {error}") from error
        whole = [line for line in lines if line.endswith("\n")]
        if whole:
            self._check(whole[0], known)
            for number, line in enumerate(whole[1:], start=2):
                self._keep(self._parse(line, number))
        self._write("".join(whole) or json.dumps(known, sort_keys=True) + "\n")

    def add(self, trial: Trial) -> None:
        """Keep a trial, in the file too before this returns."""
        self._keep(trial)
        self._write(_ADAPTER.dump_json(trial).decode() + "\n", more=True)

    def find(self, candidate: Candidate, alpha: float, rung: int) -> Trial | None:
        """The trial at that place, where there was one."""
        return self._trials.get((candidate, alpha, rung))

    def all(self) -> list[Trial]:
        """Every trial, in the order made."""
        return list(self._trials.values())

    def _keep(self, trial: Trial) -> None:
        self._trials[trial.place] = trial

    def _parse(self, line: str, number: int) -> Trial:
        try:
            return _ADAPTER.validate_json(line)
        except ValidationError as error:
            fault = InvalidValue.first(error).message
            raise InputError(f"{self._path}:{number}: no trial: {fault}") from error

    def _check(self, line: str, search: dict[str, str]) -> None:
        try:
            found = json.loads(line)
            other = differing(found, search)
        except (ValueError, AttributeError) as error:
            raise InputError(f"{self._path}:1: not a table of trials") from error
        if other:
            raise InputError(
                f"trials {str(self._path)!r} are of another search, with another "
                f"{' and another '.join(other)}; name another file"
            )

    def _write(self, text: str, *, more: bool = False) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if more:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(text)
            else:  # a full disk must not cost the trials that are there
                write_whole(self._path, text)
        except OSError as error:
            raise InputError(
                f"trials {str(self._path)!r} cannot be written: {error.strerror or error}"
            ) from error
