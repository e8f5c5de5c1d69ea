"""Which worker a request under /v1/workers/ comes from, and where what it brings is put."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends

from cordee.coordinator.errors import NotFoundError
from cordee.coordinator.service.controller import Controller
from cordee.coordinator.service.identity import Worker
from cordee.coordinator.service.rest.guard import worker_identity

__all__ = ["Writer", "writer_of"]


@dataclass(frozen=True, slots=True)
class Writer:
    """A worker that brings something, and its job's folder."""

    worker: str
    folder: Path


def writer_of(controller: Controller) -> Callable[[Worker], Writer]:
    """The dependency of the pages for workers. Who it is, the guard has found out."""

    def writer(known: Annotated[Worker, Depends(worker_identity)]) -> Writer:
        job = controller.find_id(known.job)
        if job is None or known.worker is None:
            raise NotFoundError(f"there is no job {known.job!r}")
        return Writer(known.worker, Path(job.folder))

    return writer
