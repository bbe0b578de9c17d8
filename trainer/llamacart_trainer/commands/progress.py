"""How far a command is: a bar on a terminal, elsewhere a line every few seconds."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rich.console import Console

    from llamacart.llama.model import Model

    Clock = Callable[[], float]

SECONDS_BETWEEN_LINES = 5.0


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
    stride: int = 1
    doing: str = ""

    def at(self, done: int, now: float) -> Standing:
        """The same when so many are done."""
        return replace(self, done=done, moved=now, stride=max(1, done - self.done))

    def share(self, now: float) -> float | None:
        """Part of the stage that is done, 0 to 1; None where nobody knows."""
        if self.budget:
            return min(1.0, (now - self.since) / self.budget)
        return min(1.0, self.done / self.total) if self.total else None

    def left(self, now: float) -> float | None:
        """Seconds to the end of the stage at its pace so far; None where nobody knows."""
        if self.budget is not None:
            return max(0.0, self.budget - (now - self.since))
        made = self.done - self.found
        if not self.total or made <= 0:
            return None
        pace, to_do = (self.moved - self.since) / made, max(0, self.total - self.done)
        stride, under_way = min(self.stride, to_do), now - self.moved
        if under_way <= pace * stride:
            return pace * to_do - under_way
        # Overdue: those under way take longer, and are taken for done.
        return (now - self.since) / (made + stride) * (to_do - stride)

    def line(self, now: float) -> str:
        """All of it in words, such as `fit: layer 7 of 30, 23 %, 1:12 left`."""
        name = f"{self.stage} ({self.doing})" if self.doing else self.stage
        return f"{name}: {', '.join((*self._counted(), *self._timed(now)))}"

    def short(self, now: float) -> str:
        """What stands behind a bar."""
        return ", ".join((*self._counted(), *self._timed(now, elapsed=False)))

    def _counted(self) -> tuple[str, ...]:
        if self.total:
            return (f"{self.unit} {self.done} of {self.total}".lstrip(),)
        return (f"{self.unit} {self.done}".lstrip(),) if self.unit else ()

    def _timed(self, now: float, *, elapsed: bool = True) -> tuple[str, ...]:
        share, left = self.share(now), self.left(now)
        said = () if share is None else (f"{share:.0%}".replace("%", " %"),)
        if left is not None:
            return (*said, f"{clock_time(left)} left")
        return (*said, f"{clock_time(now - self.since)} so far") if elapsed else said


def clock_time(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def load_model(name: str, gpu_layers: int, progress: Progress) -> Model:
    """The model under a name, which may have to be fetched first."""
    # Every `llamacart` command imports this module; few need llama.cpp.
    from llamacart.llama.model import Model

    progress.stage("load the model")
    return Model(name, gpu_layers=gpu_layers)


class Progress:
    """Tells how far a command is while it is open.

    On a terminal it draws a bar, which is gone at the end. Elsewhere it prints a line where none
    has been printed for some seconds, whether something has been done in them or not.

    Args:
        console: Where to.
        clock: Seconds, ascending.
        every: Seconds from line to line, and 0 for one whenever something changes; the default is
            `SECONDS_BETWEEN_LINES`.
    """

    def __init__(
        self, console: Console, *, clock: Clock = time.monotonic, every: float | None = None
    ) -> None:
        self._console = console
        self._clock = clock
        self._every = SECONDS_BETWEEN_LINES if every is None else every
        self._at: Standing | None = None
        self._said = clock()
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
                if now - self._said < self._every:
                    return
                self._said = now
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
                description=f"{at.stage} ({at.doing})" if at.doing else at.stage,
                total=None if share is None else 1.0,
                completed=0.0 if share is None else share,
                standing=at.short(now),
            )

    def _keep_telling(self) -> None:
        while not self._closed.wait(max(0.05, self._every / 5)):
            self.tick()
