"""Bodies of the routes that have cartridges made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from llamacart.errors import InputError
from llamacart_server.bodies.cartridges import CartridgeId
from llamacart_server.bodies.fields import Body
from llamacart_server.training.commands import Lesson, TrainKind
from llamacart_server.training.jobs import JobStatus

if TYPE_CHECKING:
    from typing import Self

    from llamacart_server.training.jobs import Job


class TrainBody(Body):
    """Body of `POST /v1/train_jobs`: what is to be learnt, in one of two forms.

    Attributes:
        id: Id of the cartridge; one of that id is replaced.
        prompt: A system prompt, whose effect the cartridge is to have.
        pairs: JSON Lines of a `source` and a `target` each.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"id": "pirate", "prompt": "Answer as a pirate."}]}
    )

    id: CartridgeId
    prompt: str | None = None
    pairs: str | None = None

    @property
    def lesson(self) -> Lesson:
        """What is to be learnt; raises `InputError` unless there is one thing."""
        if (self.prompt is None) == (self.pairs is None):
            raise InputError("give 'prompt' or 'pairs', one of them", param="prompt")
        if self.prompt is not None:
            return Lesson(self.id, "prompt", self.prompt)
        return Lesson(self.id, "pairs", self.pairs or "")


class TrainJob(BaseModel):
    """A training job.

    Attributes:
        id: Names the job.
        cartridge: Id of the cartridge that it makes.
        kind: What it learns from.
        status: Where it stands.
        created: When it was asked for, in seconds since 1970.
        started: When it began.
        ended: When it was over.
        progress: How far it is, in words.
        share: The same as a part of 1, of what `progress` counts.
        error: Why it failed.
        log: The last lines that it printed.
    """

    id: str
    object: Literal["train_job"] = "train_job"
    cartridge: str
    kind: TrainKind
    status: JobStatus
    created: int
    started: int | None
    ended: int | None
    progress: str
    share: float | None
    error: str | None
    log: list[str]

    @classmethod
    def of(cls, job: Job) -> Self:
        """What is known of a job."""
        return cls(
            id=job.id,
            cartridge=job.lesson.cartridge,
            kind=job.lesson.kind,
            status=job.status,
            created=int(job.created),
            started=None if job.started is None else int(job.started),
            ended=None if job.ended is None else int(job.ended),
            progress=job.progress,
            share=job.share,
            error=job.error,
            log=list(job.log.copy()),
        )


class TrainJobList(BaseModel):
    """Answer of `GET /v1/train_jobs`, the newest first."""

    object: Literal["list"] = "list"
    data: list[TrainJob]
