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
    """Body of `POST /v1/train_jobs`: what is to be learnt, in one of three forms.

    Attributes:
        id: Id of the cartridge; one of that id is replaced.
        prompt: A system prompt, whose effect the cartridge is to have.
        pairs: JSON Lines of a `source` and a `target` each.
        facts: JSON Lines of a `prompt`, a `subject` and an `object` each.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"id": "pirate", "prompt": "Answer as a pirate."}]}
    )

    id: CartridgeId
    prompt: str | None = None
    pairs: str | None = None
    facts: str | None = None

    @property
    def lesson(self) -> Lesson:
        """What is to be learnt; raises `InputError` unless there is one thing."""
        kinds: dict[TrainKind, str | None] = {
            "prompt": self.prompt,
            "pairs": self.pairs,
            "facts": self.facts,
        }
        given = [(kind, text) for kind, text in kinds.items() if text is not None]
        if len(given) != 1:
            raise InputError("give 'prompt', 'pairs' or 'facts', one of them", param="prompt")
        ((kind, text),) = given
        return Lesson(self.id, kind, text)


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
        log: The last lines that it printed; empty in a list of jobs.
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
    def of(cls, job: Job, *, with_log: bool = True) -> Self:
        """What is known of a job."""
        return cls(
            id=job.id,
            cartridge=job.cartridge,
            kind=job.kind,
            status=job.status,
            created=int(job.created),
            started=None if job.started is None else int(job.started),
            ended=None if job.ended is None else int(job.ended),
            progress=job.progress,
            share=job.share,
            error=job.error,
            log=list(job.log.copy()) if with_log else [],
        )


class TrainJobList(BaseModel):
    """Answer of `GET /v1/train_jobs`, the newest first."""

    object: Literal["list"] = "list"
    data: list[TrainJob]
