"""How far a command is: a bar on a terminal, elsewhere a line every few seconds."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from llamacart.values.attention import WITHOUT

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rich.console import Console

    from llamacart.llama.model import Model

    Clock = Callable[[], float]

SECONDS_BETWEEN_LINES = 5.0
LINES_BETWEEN_SAME = 6
"""A line that says nothing new but the time comes so many times more seldom."""


@dataclass(frozen=True)
class Standing:
    """What is under way, and how much of it is done.

    Attributes:
        stage: Its name.
        since: When it began, in seconds of some clock; time left is reckoned from there.
        unit: What is counted, in the singular.
        total: How many there are; None where nobody knows.
        budget: Seconds that the stage takes, where time ends it.
        done: How many are done.
        found: How many of these had been done before `since`.
        moved: When the last of them were done.
        stride: How many these were: they come together.
        part: How many are done of those under way, a fraction or more.
        doing: What is done now.
    """

    stage: str
    since: float
    unit: str = ""
    total: int | None = None
    budget: float | None = None
    done: int = 0
    found: int = 0
    moved: float = 0.0
    stride: float = 1
    part: float = 0.0
    doing: str = ""

    def at(self, done: int, now: float) -> Standing:
        """The same when so many are done."""
        return replace(self, done=done, moved=now, stride=max(1, done - self.done), part=0.0)

    def within(self, part: float, now: float) -> Standing:
        """The same when so many are done of those under way."""
        return replace(self, moved=now, stride=max(1e-6, part - self.part), part=part)

    def share(self, now: float) -> float | None:
        """Part of the stage that is done, 0 to 1; None where nobody knows."""
        if self.budget:
            return min(1.0, (now - self.since) / self.budget)
        return min(1.0, (self.done + self.part) / self.total) if self.total else None

    def left(self, now: float) -> float | None:
        """Seconds to the end of the stage at its pace so far; None where nobody knows."""
        if self.budget is not None:
            return max(0.0, self.budget - (now - self.since))
        made = self.done + self.part - self.found
        if not self.total or made <= 0:
            return None
        pace = (self.moved - self.since) / made
        to_do = max(0.0, self.total - self.done - self.part)
        stride, under_way = min(self.stride, to_do), now - self.moved
        if under_way <= pace * stride:
            return pace * to_do - under_way
        # Overdue: those under way take longer, and are taken for done.
        return (now - self.since) / (made + stride) * (to_do - stride)

    def line(self, now: float) -> str:
        """All of it in words, such as `fit: layer 7 of 30, 23 %, 1:12 left`."""
        return f"{self.name}: {', '.join((*self._counted(), *self._timed(now)))}"

    def news(self, now: float) -> tuple[str, ...]:
        """What of `line` changes otherwise than by the mere passing of time."""
        share = None if self.budget else self.share(now)
        return self.name, *self._counted(), *_percent(share)

    @property
    def name(self) -> str:
        """The stage, and what is done in it now."""
        return f"{self.stage} ({self.doing})" if self.doing else self.stage

    def short(self, now: float) -> str:
        """What stands behind a bar."""
        return ", ".join((*self._counted(), *self._timed(now, elapsed=False)))

    def _counted(self) -> tuple[str, ...]:
        if self.total:
            return (f"{self.unit} {self.done} of {self.total}".lstrip(),)
        return (f"{self.unit} {self.done}".lstrip(),) if self.unit else ()

    def _timed(self, now: float, *, elapsed: bool = True) -> tuple[str, ...]:
        said, left = _percent(self.share(now)), self.left(now)
        if left is not None:
            return (*said, f"{clock_time(left)} left")
        return (*said, f"{clock_time(now - self.since)} so far") if elapsed else said


def _percent(share: float | None) -> tuple[str, ...]:
    return () if share is None else (f"{share:.0%}".replace("%", " %"),)


def clock_time(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def load_model(
    name: str,
    gpu_layers: int,
    flash_attention: str,
    progress: Progress,
    *,
    batch_invariant: bool = True,
) -> Model:
    """The model under a name, which may have to be fetched first.

    Args:
        name: See `Model`.
        gpu_layers: See `Model`.
        flash_attention: See `Model`.
        progress: Is told.
        batch_invariant: See `Model`; not without flash attention. A fit does without: it is as
            exact and takes less time. The process then loads no other model that is.
    """
    # Every `llamacart` command imports this module; few need llama.cpp.
    from llamacart.llama.model import Model
    from llamacart.machine.tiles import take_tiles

    batch_invariant = batch_invariant and flash_attention != WITHOUT
    if not batch_invariant:
        take_tiles()
    progress.stage("load the model")
    return Model(
        name,
        gpu_layers=gpu_layers,
        flash_attention=flash_attention,
        batch_invariant=batch_invariant,
    )


class Progress:
    """Tells how far a command is while it is open.

    On a terminal it draws a bar, which is gone at the end. Elsewhere it prints a line where none
    has been printed for some seconds; for longer, where it would say the same but for the time.

    Args:
        console: Where to.
        clock: Seconds, ascending.
        every: Seconds from line to line, and 0 for one whenever something changes; the default is
            `SECONDS_BETWEEN_LINES`. A line that says nothing new takes `LINES_BETWEEN_SAME` times
            as many.
    """

    def __init__(
        self, console: Console, *, clock: Clock = time.monotonic, every: float | None = None
    ) -> None:
        self._console = console
        self._clock = clock
        self._every = SECONDS_BETWEEN_LINES if every is None else every
        self._at: Standing | None = None
        self._said = clock()
        self._news: tuple[str, ...] = ()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._bar: Bar | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[standing]}", markup=False),
                TimeElapsedColumn(),
            )
            self._bar = Bar(*columns, console=console, transient=True)
            self._drawn = self._bar.add_task("", total=None, standing="")

    def __enter__(self) -> Self:
        """Begin to tell."""
        self._said = self._clock()
        if self._bar is not None:
            self._bar.start()
        elif self._every > 0:
            self._thread = threading.Thread(target=self._keep_telling, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop, and take the bar away."""
        self._closed.set()
        if self._bar is not None:
            self._bar.stop()
        if self._thread is not None:
            self._thread.join()

    def stage(
        self,
        name: str,
        *,
        unit: str = "",
        total: int | None = None,
        budget: float | None = None,
        done: int = 0,
    ) -> None:
        """Begin something else, of which `done` are there already; see `Standing`."""
        self._at = Standing(name, self._clock(), unit, total, budget, done, done)
        self._changed()

    def doing(self, what: str) -> None:
        """Name what is done now."""
        if self._at is not None:
            self._at = replace(self._at, doing=what)
            self._changed()

    def advance(self, by: int = 1) -> None:
        """Count something as done."""
        if self._at is not None:
            self._at = self._at.at(self._at.done + by, self._clock())
            self._changed()

    def reach(self, done: int) -> None:
        """Say how many are done."""
        if self._at is not None:
            self._at = self._at.at(done, self._clock())
            self._changed()

    def within(self, done: float) -> None:
        """Say how many are done of those under way, a fraction or more."""
        if self._at is not None:
            self._at = self._at.within(done, self._clock())
            self._changed()

    def part(self, what: str, done: float) -> None:
        """Name what is done now, and say how much of it is; see `within`."""
        if self._at is not None:
            self._at = replace(self._at, doing=what).within(done, self._clock())
            self._changed()

    def tell(self, *what: Any, **how: Any) -> None:
        """Print above the bar, or as lines; see `Console.print`."""
        with self._lock:
            self._said = self._clock()
            self._console.print(*what, **how)

    def tick(self) -> None:
        """Print a line, where it is time for one."""
        with self._lock:
            now = self._clock()
            if self._at is not None and not self._closed.is_set():
                news = self._at.news(now)
                same = LINES_BETWEEN_SAME if news == self._news else 1
                if now - self._said < self._every * same:
                    return
                self._said, self._news = now, news
                # One line whatever its length; rich would break it at 80 columns.
                self._console.print(self._at.line(now), soft_wrap=True, highlight=False)

    def _changed(self) -> None:
        if self._bar is None:
            self.tick()
            return
        at, now = self._at, self._clock()
        if at is not None:
            share = at.share(now)
            self._bar.update(
                self._drawn,
                description=at.name,
                total=None if share is None else 1.0,
                completed=0.0 if share is None else share,
                standing=at.short(now),
            )

    def _keep_telling(self) -> None:
        while not self._closed.wait(max(0.05, self._every / 5)):
            self.tick()
