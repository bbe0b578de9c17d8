"""What a scheduler asks to be done to the slots of a runner, in order, before a step."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llamacart_server.engine.kv.host_tier import HostEntry
    from llamacart_server.engine.kv.rows import Rows
    from llamacart_server.engine.runner_interface import Runner
    from llamacart_server.engine.sequence import Sequence

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Copy:
    """Share the first `n` rows of slot `source` with the empty slot `target` of `sequence`."""

    source: int
    target: int
    n: int
    sequence: Sequence

    @property
    def slot(self) -> int:
        """The slot that is filled."""
        return self.target


@dataclass(frozen=True)
class Trim:
    """Keep the first `n` rows of `slot`, which `sequence` has taken over."""

    slot: int
    n: int
    sequence: Sequence


@dataclass(frozen=True)
class Restore:
    """Put `entry` into the empty `slot` of `sequence`."""

    slot: int
    entry: HostEntry
    sequence: Sequence


@dataclass(frozen=True)
class Save:
    """Copy the rows of `slot`, about to be freed, to host memory."""

    slot: int
    rows: Rows


@dataclass(frozen=True)
class Free:
    """Drop the rows of `slot`."""

    slot: int


@dataclass(frozen=True)
class Compact:
    """Move the rows of `slots` to the first cells, and forget all other cells."""

    slots: tuple[int, ...]


Reuse = Copy | Trim | Restore
"""Actions that may fail, and then leave their sequence's slot empty."""

Action = Reuse | Save | Free | Compact


@dataclass(frozen=True)
class Performed:
    """What came of a series of actions.

    Attributes:
        failed: Reuses that could not be, at most one a sequence.
        saved: Rows and states that came to host memory.
        emptied: Slots that lost their rows when they were to be moved.
        unknown: What was raised where it is not known any more what the slots hold; the
            actions after that were not done.
    """

    failed: list[Reuse] = field(default_factory=list)
    saved: list[tuple[Rows, bytes]] = field(default_factory=list)
    emptied: list[int] = field(default_factory=list)
    unknown: Exception | None = None


def perform(actions: Iterable[Action], runner: Runner) -> Performed:
    """Do what a scheduler asked for; raises nothing.

    A reuse that raises has failed, and its slot is freed; rows that cannot be saved are not
    saved. Where freeing or compacting raises, all that is known is that nothing is known.
    """
    done = Performed()
    for action in actions:
        try:
            _do(action, runner, done)
        except Exception as error:
            logger.exception("what the slots hold is not known any more")
            return replace(done, unknown=error)
    return done


def _do(action: Action, runner: Runner, done: Performed) -> None:
    match action:
        case Free(slot):
            runner.free(slot)
        case Save(slot, rows):
            state = _save(runner, slot)
            if state is not None:
                done.saved.append((rows, state))
        case Compact(slots):
            done.emptied.extend(runner.compact(slots))
        case _:
            is_lost = any(action.sequence is failure.sequence for failure in done.failed)
            if not is_lost and not _reuse(runner, action):
                done.failed.append(action)


def _save(runner: Runner, slot: int) -> bytes | None:
    try:
        return runner.save(slot)
    except Exception:
        logger.exception("the rows of slot %d cannot be saved", slot)
        return None


def _reuse(runner: Runner, action: Reuse) -> bool:
    try:
        match action:
            case Copy(source, target, n):
                return runner.copy(source, target, n)
            case Trim(slot, n):
                return runner.trim(slot, n)
            case Restore(slot, entry):
                return runner.restore(slot, entry.state)
    except Exception:
        logger.exception("rows cannot be reused")
        runner.free(action.slot)
        return False
