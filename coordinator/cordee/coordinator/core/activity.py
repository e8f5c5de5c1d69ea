"""What a worker's training thread is doing, as its heartbeats tell, and how the members of a world stand to each other.

A worker that hangs and one that waits for it look alike from outside: both are alive, and neither commits. What tells
them apart is who waits for whom. `stuck` and `links` decide on nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["UNKNOWN", "Activity", "Doing", "Standing"]


class Doing(StrEnum):
    UNKNOWN = "unknown"
    PREPARING = "preparing"
    """Imports, builds the model; it has not asked to join."""
    MEETING = "meeting"
    """Waits in a rendezvous, connects, takes or gives state."""
    COMPUTING = "computing"
    """The script's own time, from one exchange to the next."""
    EXCHANGING = "exchanging"
    """In a step's exchange."""
    OUTSIDE = "outside"
    """Its run is over; the script goes on."""


@dataclass(frozen=True, slots=True)
class Activity:
    """One heartbeat's word on it."""

    doing: Doing
    step: int = 0
    """The step at hand: one more than the last committed."""
    seconds: float = 0.0
    """Since this began."""
    waiting_for: tuple[str, ...] = ()
    """Workers from which bytes are still to come."""
    idle_seconds: float = 0.0
    """Since a byte last moved, either way."""


UNKNOWN = Activity(Doing.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Standing:
    """A live member of the current world, and what it does."""

    worker: str
    rank: int
    activity: Activity
    arrived: bool = False
    """It stands in the rendezvous, for `activity.seconds`, until all have come."""
    idle_known: float = 0.0
    """For how long heartbeat after heartbeat has said that it waits at this step without a byte: from the first one
    heard that did to the last. One alone says little: a process that was not run for a moment says it as well."""

    def waits_for(self, other: Standing) -> bool:
        """Whether it can do nothing until the other has done its part."""
        if self.arrived:
            return not other.arrived
        return self.activity.doing in (Doing.EXCHANGING, Doing.MEETING) and other.worker in self.activity.waiting_for
