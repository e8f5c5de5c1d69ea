"""Which jobs a list shows: by state, by name, and how many of those that have ended.

A state is meant by its own word, or by one of two for several: `active`, `ended`. The service, the client and the
reader of what a coordinator has left (`past`) all choose by this.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from cordee.coordinator.views import TERMINAL_STATES, JobView

__all__ = ["ACTIVE", "ALL", "ENDED", "Selection", "is_state_among"]

ACTIVE: Final = "active"
ENDED: Final = "ended"


def is_state_among(state: str, states: Collection[str]) -> bool:
    """Whether a job's state is meant by these words; without any, every state is."""
    return not states or state in states or (ENDED if state in TERMINAL_STATES else ACTIVE) in states


@dataclass(frozen=True)
class Selection:
    """What is wanted of all jobs."""

    states: tuple[str, ...] = ()
    """Only jobs in one of these; empty: in any."""
    name_prefix: str = ""
    """Only jobs whose name begins so."""
    ended: int | None = None
    """Of those that have ended the newest so many; None: all."""

    @property
    def active_states(self) -> tuple[str, ...]:
        """Which of the states are those of jobs that have not ended."""
        return tuple(state for state in self.states or (ACTIVE,) if state != ENDED and state not in TERMINAL_STATES)

    @property
    def ended_states(self) -> tuple[str, ...]:
        """Which of the states are those of jobs that have ended."""
        return tuple(state for state in self.states or (ENDED,) if state == ENDED or state in TERMINAL_STATES)

    def of(self, jobs: Iterable[JobView]) -> list[JobView]:
        """What is wanted of these, newest first."""
        found: list[JobView] = []
        num_ended = 0
        for job in sorted(jobs, key=lambda job: (job["created_at"], job["id"]), reverse=True):
            if not (is_state_among(job["state"], self.states) and job["name"].startswith(self.name_prefix)):
                continue
            if job["state"] in TERMINAL_STATES:
                num_ended += 1
                if self.ended is not None and num_ended > self.ended:
                    continue
            found.append(job)
        return found


ALL: Final = Selection()
