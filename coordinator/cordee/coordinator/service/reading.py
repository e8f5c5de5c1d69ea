"""What people read of one job: its history, itself whenever it changes, its workers' output."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from cordee.coordinator.service.job import Job
from cordee.coordinator.service.logs import LogLine, LogReader
from cordee.coordinator.service.rest.models import EventPage, JobView, NumberedEvent
from cordee.coordinator.service.store import Store

__all__ = ["history", "logs", "watch"]

_WATCH_SECONDS: Final = 0.125  # between two views at least
_WATCH_AGAIN_SECONDS: Final = 5.0  # a view at least so often: a reader that is gone is noticed


def history(store: Store, job: Job, *, after: int, limit: int) -> EventPage:
    """A job's history from its beginning, a page at a time."""
    if (found := job.events_after(after)) is None:
        found = store.history(job.id, after=after, limit=limit + 1)
    page = [NumberedEvent(id=row.number, time=row.time, kind=row.kind, message=row.message) for row in found[:limit]]
    return EventPage(events=page, more=len(found) > limit)


async def watch(job: Job, *, now: Callable[[], float], closing: Callable[[], bool]) -> AsyncIterator[JobView]:
    """The job whenever it changes, until it has ended."""
    while True:
        version, ended, shown = job.version, job.ended, now()
        yield job.view(shown)
        if ended or closing():
            return
        await job.changed(version, _WATCH_AGAIN_SECONDS)
        await asyncio.sleep(shown + _WATCH_SECONDS - now())


def logs(
    store: Store,
    job: Job,
    *,
    follow: bool,
    rank: int | None,
    worker: str | None,
    tail: int | None,
    closing: Callable[[], bool],
) -> AsyncIterator[list[LogLine]]:
    """A job's output."""
    reader = LogReader(
        Path(job.folder) / "logs", lambda after: store.worlds(job.id, after=after), rank=rank, worker=worker
    )
    # Agents write a worker's last lines as it ends: only when all are gone has everything been written.
    more = (lambda: not closing() and not (job.ended and job.machine.occupied == 0)) if follow else None
    return reader.read(tail=tail, follow=more)
