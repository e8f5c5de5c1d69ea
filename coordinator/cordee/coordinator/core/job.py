"""One job: events in, actions out. Composes the rendezvous, the life cycle and the failure policy."""

from __future__ import annotations

from dataclasses import dataclass

from cordee.coordinator.core.actions import Action
from cordee.coordinator.core.events import Event
from cordee.coordinator.core.model import JobState, Policy
from cordee.coordinator.core.record import JobRecord

__all__ = ["JobMachine", "WorkerView"]


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker as people see it. `state`: starting | joining | waiting | training | leaving | finished | stopping |
    lost | given up."""

    worker: str
    incarnation: str
    rank: int | None
    state: str
    step: int | None
    restarts: int
    pid: int


class JobMachine:
    """A job's state machine.

    A new job: `JobMachine(JobRecord(job=…, minimum=…, maximum=…, created_at=now))`, stored by the caller; it does nothing
    until `Scheduled`. After the coordinator's restart: `JobMachine(stored_record)`, then `Recovered` as first event.
    """

    def __init__(self, record: JobRecord, policy: Policy | None = None) -> None: ...

    def handle(self, event: Event, now: float) -> list[Action]:
        """Takes one event and says what to do about it, in order. `now` is wall-clock seconds, the same clock over restarts."""
        ...

    def next_deadline(self) -> float | None:
        """When `Tick` is due, whatever else happens; None: only an event can change anything."""
        ...

    @property
    def record(self) -> JobRecord:
        """The durable half as it is now (what the last `Persist` carried, or will)."""
        ...

    @property
    def state(self) -> JobState: ...

    @property
    def generation(self) -> int: ...

    @property
    def occupied(self) -> int:
        """How many of the launcher's slots the job holds or is about to hold, those still draining included."""
        ...

    @property
    def done(self) -> bool:
        """In a terminal state, and every agent is gone: the machine may be dropped."""
        ...

    def workers(self) -> tuple[WorkerView, ...]:
        """By slot number."""
        ...
