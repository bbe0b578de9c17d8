"""Training jobs: one process at a time, which gives way to the server, and what it says."""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llamacart.errors import LlamacartError, NotFoundError, OverloadedError
from llamacart.machine.tiles import given_environment
from llamacart_server.training.commands import command

if TYPE_CHECKING:
    from llamacart_server.library.store import CartridgeStore
    from llamacart_server.training.commands import Lesson, Means, TrainKind

logger = logging.getLogger(__name__)

JobStatus = Literal["queued", "running", "finished", "failed", "cancelled"]

MOST_OPEN = 8
"""Jobs that may wait or run."""
KEPT = 20
"""Jobs that are over and can still be looked at."""
LOG_LINES = 400
LINE_LENGTH = 2000
_ENDING_SECONDS = 10.0
"""For a process that is asked to end, before it is killed."""
_COMPLAINT = "error: "
_SHARE = re.compile(r"\b(\d{1,3}) %")


@dataclass(eq=False)
class Job:
    """One training.

    Attributes:
        id: Names it.
        cartridge: Id of the cartridge.
        kind: What it learns from.
        lesson: What is learnt; None once it is over, for it may be long.
        created: When it was asked for, in seconds since 1970.
        status: Where it stands.
        started: When its process began, None before.
        ended: When it was over, None before.
        progress: The last line that told how far it is.
        share: Part of what that line counts, 0 to 1; None where it does not say.
        log: What the process printed.
        error: Why it failed.
    """

    id: str
    cartridge: str
    kind: TrainKind
    lesson: Lesson | None
    created: float
    status: JobStatus = "queued"
    started: float | None = None
    ended: float | None = None
    progress: str = ""
    share: float | None = None
    log: deque[str] = field(default_factory=lambda: deque(maxlen=LOG_LINES))
    error: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether it waits or runs."""
        return self.status in ("queued", "running")


class TrainingJobs:
    """Runs trainings one after the other, and offers what they made.

    May be called from any thread. `close` ends what runs.

    Args:
        store: Takes the cartridges.
        means: What a job may use.
    """

    def __init__(self, store: CartridgeStore, means: Means) -> None:
        self._store = store
        self._means = means
        self._changed = threading.Condition()
        self._jobs: dict[str, Job] = {}
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._offered: Job | None = None

    # --- any thread -------------------------------------------------------------------------

    def add(self, lesson: Lesson) -> Job:
        """Have something learnt.

        Raises:
            ConflictError: The cartridge could not be kept under its id.
            OverloadedError: Too many jobs wait, or the server stops.
        """
        self._store.check_free(lesson.cartridge)
        with self._changed:
            if self._closed:
                raise OverloadedError("the server is stopping")
            if sum(job.is_open for job in self._jobs.values()) >= MOST_OPEN:
                raise OverloadedError(f"{MOST_OPEN} training jobs wait already")
            name = f"train-{secrets.token_hex(8)}"
            job = Job(name, lesson.cartridge, lesson.kind, lesson, time.time())
            self._jobs[job.id] = job
            over = [one.id for one in self._jobs.values() if not one.is_open]
            for job_id in over[: max(0, len(over) - KEPT)]:
                del self._jobs[job_id]
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="training", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return job

    def all(self) -> list[Job]:
        """All that are known, the newest first."""
        with self._changed:
            return list(reversed(self._jobs.values()))

    def get(self, job_id: str) -> Job:
        """The job of an id, or `NotFoundError`."""
        with self._changed:
            job = self._jobs.get(job_id)
        if job is None:
            raise NotFoundError(f"no training job {job_id!r}", param="job_id")
        return job

    def cancel(self, job_id: str) -> Job:
        """End a job that waits or runs; one that is over, or just becomes it, stays as it is.

        Raises:
            NotFoundError: There is no such job.
        """
        job = self.get(job_id)
        with self._changed:
            if job.is_open and job is not self._offered:
                was_running = job.status == "running"
                self._end(job, "cancelled")
                if was_running and self._process is not None:
                    _ask_to_end(self._process)
        return job

    def close(self) -> None:
        """End what runs and take nothing more; returns when nothing is left."""
        with self._changed:
            self._closed = True
            for job in self._jobs.values():
                if job.is_open:
                    self._end(job, "cancelled")
            if self._process is not None:
                _ask_to_end(self._process)
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    # --- the thread -------------------------------------------------------------------------

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._run(job)
            except Exception as error:
                expected = isinstance(error, LlamacartError | OSError)
                if not expected:
                    logger.exception("training job %s failed", job.id)
                self._end(job, "failed", str(error) or type(error).__name__)

    def _next(self) -> Job | None:
        """Wait for a job and begin it; None where there will be no more."""
        with self._changed:
            while not self._closed:
                for job in self._jobs.values():
                    if job.status == "queued":
                        job.status, job.started = "running", time.time()
                        return job
                self._changed.wait()
        return None

    def _run(self, job: Job) -> None:
        if (lesson := job.lesson) is None:  # cancelled by now
            return
        with tempfile.TemporaryDirectory(prefix="llamacart-train-") as name:
            folder = Path(name)
            made = folder / "made.gguf"
            code = self._watch(job, command(lesson, self._means, folder, made), folder)
            if code != 0:
                self._end(job, "failed", _reason(job, code))
            with self._changed:
                # From here on a cancel would come too late: either it is whole or not at all.
                if not job.is_open:
                    return
                self._offered = job
            try:
                self._offer(job, made)
            finally:
                self._offered = None

    def _offer(self, job: Job, made: Path) -> None:
        with self._store.upload_path() as upload:
            shutil.copyfile(made, upload)
            self._store.add_upload(upload, job.cartridge)
        self._end(job, "finished")

    def _watch(self, job: Job, words: list[str], folder: Path) -> int:
        """Run a command to its end, reading what it prints; returns its exit code.

        Files of `folder` are told by their names alone: nobody else can look into it.
        """
        environment = {
            **given_environment(),
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "120",
            "NO_COLOR": "1",
        }
        with self._changed:
            if not job.is_open:
                return 0
            self._process = process = subprocess.Popen(  # noqa: S603 - our own program
                words,
                stdin=subprocess.PIPE,  # see `child`
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                env=environment,
                start_new_session=True,
            )
        try:
            with process:
                for line in process.stdout or ():
                    said = line.rstrip().replace(f"{folder}{os.sep}", "")
                    self._note(job, said[:LINE_LENGTH])
            return process.returncode
        finally:
            with self._changed:
                self._process = None

    def _note(self, job: Job, line: str) -> None:
        if not line:
            return
        with self._changed:
            found = _SHARE.search(line)
            if found is not None:
                job.progress, job.share = line, min(1.0, int(found[1]) / 100)
            job.log.append(line)

    def _end(self, job: Job, status: JobStatus, error: str | None = None) -> None:
        with self._changed:
            if job.is_open:
                job.status, job.error, job.ended, job.lesson = status, error, time.time(), None
                logger.info("training job %s of %s: %s", job.id, job.cartridge, status)


def _reason(job: Job, code: int) -> str:
    """Why a process has failed: what it says itself, or how it ended and its last words."""
    said = [line for line in job.log if line.startswith(_COMPLAINT)]
    if said:
        return said[-1].removeprefix(_COMPLAINT)
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    last = f"; its last line: {job.log[-1]}" if job.log else ""
    return f"the training {how}{last}"


def _ask_to_end(process: subprocess.Popen[str]) -> None:
    """Ask a process to end, and kill it where it does not."""
    process.terminate()
    killer = threading.Timer(_ENDING_SECONDS, process.kill)
    killer.daemon = True
    killer.start()
