"""What the training thread is doing, for the session's thread to tell the coordinator with every heartbeat.

A worker that is alive but stuck looks like one that waits for it: both say nothing new. So each tells what it is at,
how long, and from whom bytes are still to come; the coordinator compares. The training thread writes a tuple per
change, a few tenths of a microsecond, and nobody takes a lock: what is looked up (who is waited for) is looked up by
the reader.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from cordee.rpc.v1 import worker_pb2 as pb

__all__ = [
    "COMPUTING",
    "EXCHANGING",
    "IDLE_SECONDS",
    "LONG_SECONDS",
    "MEETING",
    "OUTSIDE",
    "PREPARING",
    "Activity",
    "Glance",
    "Waits",
]

PREPARING: Final = pb.PHASE_PREPARING
MEETING: Final = pb.PHASE_MEETING
COMPUTING: Final = pb.PHASE_COMPUTING
EXCHANGING: Final = pb.PHASE_EXCHANGING
OUTSIDE: Final = pb.PHASE_OUTSIDE

IDLE_SECONDS: Final = 0.5
"""Peers that move no byte for so long are worth telling at once."""
LONG_SECONDS: Final = 1.0
"""So is a phase of a step that lasts longer."""

Waits = Callable[[], Iterable[tuple[int, float]]]
"""The ranks from which bytes are still to come (or that take none), each with when one last moved."""


@dataclass(frozen=True, slots=True)
class Glance:
    """The activity at one moment."""

    phase: pb.Phase
    step: int
    seconds: float
    waiting_for: tuple[str, ...] = ()
    idle_seconds: float = 0.0

    @property
    def idle(self) -> bool:
        """It waits for peers, and nothing moves."""
        return bool(self.waiting_for) and self.idle_seconds >= IDLE_SECONDS

    @property
    def long(self) -> bool:
        """Its peers may have begun to wait for it."""
        return self.phase in (COMPUTING, EXCHANGING) and self.seconds >= LONG_SECONDS

    @property
    def seconds_until_news(self) -> float:
        """When it is `idle` or `long`, if it isn't yet and nothing changes meanwhile."""
        times = []
        if self.waiting_for and not self.idle:
            times.append(IDLE_SECONDS - self.idle_seconds)
        if self.phase in (COMPUTING, EXCHANGING) and not self.long:
            times.append(LONG_SECONDS - self.seconds)
        return min(times, default=float("inf"))

    def told(self) -> pb.Activity:
        """As the coordinator is told."""
        return pb.Activity(
            phase=self.phase,
            step=self.step,
            seconds=self.seconds,
            waiting_for=self.waiting_for,
            idle_seconds=self.idle_seconds,
        )


class Activity:
    """Written by the training thread, read by any."""

    __slots__ = ("_clock", "_now", "members")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._now: tuple[pb.Phase, int, float, Waits | None] = (PREPARING, 0, clock(), None)
        self.members: tuple[str, ...] = ()
        """The worker ids of the world at hand, by rank."""

    def enter(self, phase: pb.Phase, step: int | None = None, waits: Waits | None = None) -> None:
        """A phase begins. `step` is the step at hand, if that changes too; `waits` tells who is waited for in it."""
        self._now = (phase, self._now[1] if step is None else step, self._clock(), waits)

    @property
    def phase(self) -> pb.Phase:
        return self._now[0]

    def glance(self, now: float) -> Glance:
        """What it is at this moment of the monotonic clock."""
        phase, step, since, waits = self._now
        awaited = list(waits()) if waits is not None else []
        members = self.members
        return Glance(
            phase=phase,
            step=step,
            seconds=max(now - since, 0.0),
            waiting_for=tuple(members[rank] for rank, _ in awaited if rank < len(members)),
            idle_seconds=max(now - max(since, *(moved for _, moved in awaited)), 0.0) if awaited else 0.0,
        )
