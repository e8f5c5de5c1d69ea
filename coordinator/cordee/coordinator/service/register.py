"""All jobs of a coordinator, found by what people and workers call them: ids, names, tokens, keys of submissions."""

import hashlib

from cordee.coordinator.errors import ConflictError, NotFoundError
from cordee.coordinator.service.job import Job

__all__ = ["Register"]


class Register:
    """Finds jobs. `jobs` are those that there are, oldest first, by id; somebody else's to change."""

    def __init__(self, jobs: dict[str, Job]) -> None:
        self._jobs = jobs
        self._tokens: dict[bytes, str] = {}  # by digest: how long a look-up takes says nothing about a token
        self._submissions: dict[str, str] = {}

    def add(self, job: Job) -> None:
        """It is known by its token and its submission's key from now on."""
        self._tokens[_digest(job.token)] = job.id
        if job.key:
            self._submissions[job.key] = job.id

    def drop(self, job: Job) -> None:
        """It is not any more."""
        self._tokens.pop(_digest(job.token), None)
        self._submissions.pop(job.key, None)

    def of_token(self, token: str) -> str | None:
        """The id of the job whose workers have this token."""
        return self._tokens.get(_digest(token))

    def of_key(self, key: str) -> Job | None:
        """The job that was taken in under this key."""
        return self._jobs.get(self._submissions.get(key, ""))

    def find(self, ref: str) -> Job:
        """A job by its id, or the newest of that name."""
        job = self._jobs.get(ref) or next((job for job in reversed(self._jobs.values()) if job.name == ref), None)
        if job is None:
            raise NotFoundError(f"there is no job {ref!r}", hint="see the jobs there are with: cordee jobs")
        return job

    def find_open(self, ref: str, verb: str) -> Job:
        """The same, if it has not ended."""
        job = self.find(ref)
        if job.ended:
            raise ConflictError(f"the job {job.id} has ended ({job.machine.state.value}) and cannot be {verb}")
        return job

    def find_only(self, ref: str) -> Job:
        """A job by its id, or by a name that no other one has: for what cannot be undone."""
        job = self.find(ref)
        if job.id != ref:
            others = [other.id for other in self._jobs.values() if other.name == ref]
            if len(others) > 1:
                few = f"{', '.join(others[-3:])}{', …' if len(others) > 3 else ''}"
                raise ConflictError(f"{len(others)} jobs are called {ref!r}", hint=f"say which one by its id: {few}")
        return job


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
