"""A job's log until the job has ended, whatever becomes of the connection in between.

A coordinator that is upgraded ends its answers in good order, in the middle of a job: only the job's state tells
whether a log is at its end. Else it is read again, and what was shown is passed over.
"""

import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from cordee.coordinator.client import Client, UnreachableError
from cordee.coordinator.views import TERMINAL_STATES

if TYPE_CHECKING:
    from cordee.coordinator.views import LogLine

__all__ = ["lines_to_the_end"]

_RETRY_SECONDS: Final = 0.2


def lines_to_the_end(
    client: Client,
    job_id: str,
    *,
    rank: int | None = None,
    worker: str | None = None,
    tail: int | None = None,
    since: float = 0.0,
    patience_seconds: float,
    stop: threading.Event,
) -> "Iterator[LogLine]":
    """Lines as they come, later than `since` (Unix seconds), until the job has ended or `stop` is set.

    Raises `ClientError`; that nobody answers, when it has been so for longer than the patience.
    """
    seen_until = newest = since
    lost_at: float | None = None
    while not stop.is_set():
        try:
            for line in client.logs(job_id, follow=True, rank=rank, worker=worker, tail=tail):
                lost_at = None
                if line["time"] > seen_until:
                    newest, tail = max(newest, line["time"]), None  # from here on the time says what is new
                    yield line
                if stop.is_set():
                    return
            if client.job(job_id)["state"] in TERMINAL_STATES:
                return
            lost_at = None
        except UnreachableError:
            now = time.monotonic()
            lost_at = now if lost_at is None else lost_at
            if now - lost_at > patience_seconds:
                raise
        seen_until = newest
        stop.wait(_RETRY_SECONDS)
