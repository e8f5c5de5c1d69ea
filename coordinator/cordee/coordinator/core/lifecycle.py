"""A job's states: which may follow which, what they follow from, and when a job that has a result is at its end."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from cordee.coordinator.core.model import JobState, StopReason

__all__ = ["STOP_REASONS", "TRANSITIONS", "Facts", "finish_due", "state_of"]

_ENDS = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    # A coordinator that restarts may find its workers further than it knew: so every state may skip the next ones.
    JobState.PENDING: _ENDS | {JobState.STARTING, JobState.RUNNING},
    JobState.STARTING: _ENDS | {JobState.RUNNING},
    JobState.RUNNING: _ENDS | {JobState.RECOVERING},
    JobState.RECOVERING: _ENDS | {JobState.RUNNING},
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}

STOP_REASONS: dict[JobState, StopReason] = {
    JobState.SUCCEEDED: StopReason.FINISHED,
    JobState.FAILED: StopReason.FAILED,
    JobState.CANCELLED: StopReason.CANCELLED,
}
"""What a worker of a job at its end is told."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the state of a job that has not ended follows from."""

    wanted: int
    minimum: int
    arrived: int
    """Workers that wait for a world."""
    formed: bool
    """There has been a world."""
    finishing: bool
    broken: bool
    """The world has lost somebody, or its exchange."""
    short: int
    """How many workers too few are left to form a world, when one is to be formed."""
    trouble: str = ""
    """What keeps workers from coming, as far as it is known."""
    waits: str = ""
    """Why a worker has not started, though the world goes on without it."""
    live: int = 0
    """Members of the world that goes on."""
    held: str = ""
    """Why no world is formed though enough are there."""


def state_of(facts: Facts) -> tuple[JobState, str]:
    """The state and its reason, a phrase for people. The reason changes no more often than people can read."""
    if facts.finishing:
        return JobState.RUNNING, "a worker has finished; waiting for the others"
    trouble = f"; {facts.trouble}" if facts.trouble else ""
    if not facts.formed:
        if not facts.wanted:
            return JobState.PENDING, "waiting for capacity"
        return JobState.STARTING, f"{facts.arrived} of {facts.wanted} workers are ready{trouble}"
    if facts.held:
        return JobState.RECOVERING, facts.held
    if facts.short:
        few = facts.minimum - facts.short
        return JobState.RECOVERING, f"waiting: {few} of the at least {facts.minimum} workers are ready{trouble}"
    if facts.broken:
        return JobState.RECOVERING, "a worker was lost"
    return JobState.RUNNING, f"trains with {facts.live} of {facts.wanted} workers; {facts.waits}" if facts.waits else ""


def finish_due(
    *, finished_ranks: Collection[int], awaited_ranks: Collection[int], mark: float, finish_seconds: float
) -> float | None:
    """When a job that has a result has succeeded: -inf for now, a time, or None when that is for the workers to say.

    All are waited for. Once the lowest live rank has finished, which is the one that scripts give their evaluation and
    their output to, the others have the grace counted from `mark`, the latest finish or loss; before that they have all
    the time they take: a long evaluation on rank 0 is not cut off because the others have nothing left to do.
    """
    if not awaited_ranks:
        return float("-inf")
    if finished_ranks and min(finished_ranks) < min(awaited_ranks):
        return mark + finish_seconds
    return None
