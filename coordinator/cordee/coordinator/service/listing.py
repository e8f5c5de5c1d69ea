"""The list of jobs, a page at a time, newest first.

A page's end is a place in the order of jobs, by when they were submitted, and nothing that is kept here: it is good for
as long as anybody likes, while jobs come, end and are removed, and after a restart.
"""

import re
import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from cordee.coordinator.errors import InvalidError
from cordee.coordinator.selection import is_state_among
from cordee.coordinator.service.job import Job

__all__ = ["PLACE", "Page", "page_of"]

PLACE: Final = r"^[0-9a-f]{16}\.[a-z0-9-]{1,128}$"
"""What a place in the list looks like: the bits of a time, so that none is lost in writing it down, and an id."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs, and the place that the next ones come after; None: there are none."""

    jobs: tuple[Job, ...]
    next: str | None


def page_of(
    jobs: Iterable[Job],
    *,
    states: Collection[str] = (),
    name_prefix: str = "",
    after: str | None = None,
    limit: int,
) -> Page:
    """The newest jobs that are meant, after a place. Raises InvalidError for what is no place."""
    beyond = _read(after) if after is not None else None
    # They are held in this order but where a clock was set back between two lives of the coordinator.
    found = sorted(
        (
            job
            for job in jobs
            if (beyond is None or _order(job) < beyond)
            and is_state_among(job.machine.state.value, states)
            and job.name.startswith(name_prefix)
        ),
        key=_order,
        reverse=True,
    )
    page = tuple(found[:limit])
    return Page(page, _write(page[-1]) if len(found) > limit else None)


def _order(job: Job) -> tuple[float, str]:
    return job.created_at, job.id


def _write(job: Job) -> str:
    return f"{struct.pack('>d', job.created_at).hex()}.{job.id}"


def _read(place: str) -> tuple[float, str]:
    if not re.fullmatch(PLACE, place):
        raise InvalidError(
            f"after is {place[:80]!r}, which is no place in the list of jobs",
            hint="give what the page before says in 'next', or nothing for the first page",
        )
    bits, _, job = place.partition(".")
    return struct.unpack(">d", bytes.fromhex(bits))[0], job
