"""Which worker a call comes from, by the token that it carries.

Two kinds of token, one for each kind of launcher: a job's own, which the process launcher puts into its agents'
environment and which is good for every worker of that job; and a token that the substrate has made for one worker's
pod, which the launcher's verifier knows how to check.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

__all__ = ["JobTokens", "Worker", "WorkerVerifier", "is_worker_of"]


@dataclass(frozen=True, slots=True)
class Worker:
    """Who calls: a worker, or (None) any worker of the job."""

    job: str
    worker: str | None = None

    def is_named(self, worker: str) -> bool:
        """Whether it may speak as that worker."""
        return self.worker == worker if self.worker is not None else is_worker_of(self.job, worker)


class WorkerVerifier(Protocol):
    """Knows workers by their tokens."""

    async def identify(self, token: str) -> Worker | None:
        """Whose token it is; None: nobody's. Raises CoordinatorError when that cannot be found out now."""
        ...


class JobTokens:
    """The jobs' own tokens. `job_of` gives a token's job, in a time that says nothing about the tokens there are."""

    def __init__(self, job_of: Callable[[str], str | None]) -> None:
        self._job_of = job_of

    async def identify(self, token: str) -> Worker | None:
        """The job whose token it is."""
        job = self._job_of(token)
        return None if job is None else Worker(job)


def is_worker_of(job: str, worker: str) -> bool:
    """Whether this is an id that a worker of the job can have."""
    index = worker.removeprefix(f"{job}-w")
    return worker != index and index.isascii() and index.isdigit()
