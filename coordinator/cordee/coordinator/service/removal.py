"""Jobs that have ended are removed: by hand, or because there are too many of them, or they are too old.

A job is removed from the store first, in a transaction that notes that its files are to go; then they go, and then the
note. So whatever is cut off in between is made up for by the next coordinator, and one that has lost the database to
another removes nothing that this one still has: its transaction is refused, and files go by the note only.

With a job go its history, its folder (logs, results, its ledger, checkpoints that lie there), and its bundle, if no
other job has that. A bundle that somebody asked for lately stays for a while: a submission may be on its way.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from cordee.coordinator.config import Retention
from cordee.coordinator.errors import ConflictError
from cordee.coordinator.service.folder import StateFolder
from cordee.coordinator.service.job import Job
from cordee.coordinator.service.store import Store, StoreError

__all__ = [
    "BUNDLE_SECONDS",
    "Sweeper",
    "check_removable",
    "lies_in",
    "needed_by",
    "overdue",
    "remove_bundle",
    "remove_folder",
]

_log = logging.getLogger(__name__)

_SWEEP_SECONDS: Final = 60.0
_FRESH_SECONDS: Final = 3600.0
"""Whoever waits for a job gets to see how it ended, and to fetch its result, however many end at once."""
BUNDLE_SECONDS: Final = 3600.0
_FILE: Final = "file://"


def overdue(jobs: Iterable[Job], rule: Retention, now: float) -> list[Job]:
    """The jobs that are to be removed, the oldest first."""
    everybody = list(jobs)
    needs = _needs(everybody)  # once for all: at first there may be thousands
    ended = sorted((job for job in everybody if job.machine.done), key=_finished_at)
    beyond = len(ended) - rule.max_jobs if rule.max_jobs is not None else 0
    return [
        job
        for index, job in enumerate(ended)
        if (index < beyond or (rule.max_age_days is not None and now - _finished_at(job) > rule.max_age_days * 86400.0))
        and now - _finished_at(job) > _FRESH_SECONDS
        and _needed_by(job, needs) is None
    ]


def check_removable(job: Job, jobs: Iterable[Job]) -> None:
    """Refuse to remove a job that is not over, or that another one needs."""
    if not job.ended:
        raise ConflictError(
            f"the job {job.id} has not ended ({job.machine.state.value})", hint=f"first: cordee cancel {job.id}"
        )
    if not job.machine.done:
        raise ConflictError(f"workers of the job {job.id} have yet to end", hint="try again in a moment")
    if (other := needed_by(job, jobs)) is not None:
        raise ConflictError(
            f"the job {other.id}, which has not ended, starts from what {job.id} has left",
            hint="remove it when that one has ended",
        )


def needed_by(job: Job, jobs: Iterable[Job]) -> Job | None:
    """A job that has not ended and starts from what this one has left."""
    return _needed_by(job, _needs(jobs))


def lies_in(place: str, folder: str) -> bool:
    """Whether what a job starts from lies in that folder, however the place is written."""
    real = _real(place)
    return real is not None and Path(real).is_relative_to(os.path.realpath(folder))


def _real(place: str) -> str | None:
    """Where it is on this machine's disk; None: elsewhere."""
    path = place.removeprefix(_FILE)
    return None if "://" in path else os.path.realpath(path)


def _needs(jobs: Iterable[Job]) -> list[tuple[Job, str]]:
    """The jobs that have not ended and start from what lies on a disk, and where that is."""
    found = ((job, job.document.spec.warm_start) for job in jobs if not job.machine.done)
    return [(job, real) for job, place in found if place is not None and (real := _real(place)) is not None]


def _needed_by(job: Job, needs: list[tuple[Job, str]]) -> Job | None:
    if not needs:
        return None
    folder = os.path.realpath(job.folder)
    return next((other for other, place in needs if Path(place).is_relative_to(folder)), None)


def remove_folder(folder: StateFolder, job: str) -> bool:
    """Remove the folder of a job that is gone; whether it is. Not for the loop's thread."""
    try:
        shutil.rmtree(folder.job(job))
    except FileNotFoundError:
        return True  # so far it had got before
    except OSError as error:
        _log.warning("the files of the job %s, which was removed, cannot be: %s; it is tried again", job, error)
        return False
    return True


def remove_bundle(folder: StateFolder, bundle: str) -> bool:
    """Remove a bundle that no job has; False: somebody has asked for it lately, and may be about to submit with it."""
    path = folder.bundle(bundle)
    try:
        if time.time() - path.stat().st_mtime < BUNDLE_SECONDS:
            return False
        path.unlink()
    except FileNotFoundError:
        pass
    except OSError as error:
        _log.warning(
            "the bundle %s, which no job has any more, cannot be removed: %s; it is tried again", bundle, error
        )
        return False
    return True


class Sweeper:
    """Removes the jobs that are to go, and the files of those that are gone. Of one event loop."""

    def __init__(self, folder: StateFolder, store: Store, rule: Retention | None, jobs: Mapping[str, Job]) -> None:
        self._folder = folder
        self._store = store
        self._rule = rule
        self._jobs = jobs
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """There are files to remove."""
        self._woken.set()

    async def run(
        self, remove: Callable[[Job], object], now: Callable[[], float], give_up: Callable[[StoreError], object]
    ) -> None:
        """Sweep for ever, now and then. `remove` removes a job but for its files."""
        try:
            while True:
                self._woken.clear()
                if self._rule is not None:
                    for job in overdue(self._jobs.values(), self._rule, now()):
                        if needed_by(job, self._jobs.values()) is None:  # a submission may have come meanwhile
                            remove(job)
                        await asyncio.sleep(0)  # at first there may be thousands
                await self.sweep()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_SWEEP_SECONDS):
                        await self._woken.wait()
        except StoreError as error:
            give_up(error)

    async def sweep(self) -> None:
        """Remove the files of jobs that are gone."""
        for job, bundle in self._store.removals().items():
            if not await asyncio.to_thread(remove_folder, self._folder, job):
                continue
            # On the loop: a submission that has found its bundle here is stored before anything else happens. The store
            # is asked, and not the jobs: it may have one that this coordinator cannot read, and another one can.
            if bundle is None or self._store.has_bundle(bundle) or remove_bundle(self._folder, bundle):
                self._store.removed(job)


def _finished_at(job: Job) -> float:
    return job.machine.record.finished_at or job.created_at
