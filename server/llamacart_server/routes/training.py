"""`/v1/train_jobs`: has cartridges made, for the admin key, where the server is set up for it."""

from fastapi import APIRouter, Depends

from llamacart.errors import InputError, NotFoundError
from llamacart_server.bodies.training import TrainBody, TrainJob, TrainJobList
from llamacart_server.errors import ConflictError
from llamacart_server.middleware.admin_auth import (
    PermissionDeniedError,
    TrainingOffError,
    admin_guard,
)
from llamacart_server.openapi import failures
from llamacart_server.service import Service
from llamacart_server.threads import in_thread

PATH = "/v1/train_jobs"


def router(service: Service) -> APIRouter:
    """The routes, bound to what they work with."""

    async def is_on() -> None:
        if not service.settings.train_jobs:
            raise TrainingOffError(
                "training is off; the server must be started with --train-jobs and an admin key"
            )

    routes = APIRouter(
        dependencies=[Depends(admin_guard(service.settings.admin_key)), Depends(is_on)],
        responses=failures(PermissionDeniedError),
    )

    @routes.post(PATH, status_code=202, responses=failures(InputError, ConflictError))
    async def create_train_job(body: TrainBody) -> TrainJob:
        return TrainJob.of(await in_thread(service.training.add, body.lesson))

    @routes.get(PATH)
    async def list_train_jobs() -> TrainJobList:
        # Without their logs: who watches asks every second.
        jobs = service.training.all()
        return TrainJobList(data=[TrainJob.of(job, with_log=False) for job in jobs])

    @routes.get(f"{PATH}/{{job_id}}", responses=failures(NotFoundError))
    async def retrieve_train_job(job_id: str) -> TrainJob:
        return TrainJob.of(service.training.get(job_id))

    @routes.delete(f"{PATH}/{{job_id}}", responses=failures(NotFoundError))
    async def cancel_train_job(job_id: str) -> TrainJob:
        return TrainJob.of(service.training.cancel(job_id))

    return routes
