"""What views do not tell, kept as plain counts: distributions, causes, and how far a number has risen in all.

They count since this coordinator started, which Prometheus is made for: a counter that begins at 0 again is a restart.
Whatever may be counted begins at 0 when its job does: a first failure that brought its series with it would be no rise.
"""

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cordee.coordinator.core.model import Cause, ExitCause, LossCause, PostMortem

__all__ = ["CHECKPOINT_TROUBLES", "Histogram", "JobCounts", "Rising", "ServiceCounts"]

_RECOVERY_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_STEP_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_WRITE_BUCKETS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
_STORE_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_LAG_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_REQUEST_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_STALL_PARTS: Final = ("before", "world", "mesh", "state", "step")
"""What rank 0 waited for: the end of the step at hand, the next world, connections, state, and its first step."""

CHECKPOINT_TROUBLES: Final = {"checkpoint_failed": "failed", "checkpoint_damaged": "damaged"}
"""Kinds of workers' notes that are about a checkpoint's failure, and what they count as."""

_SIGNALS: Final = {-9: "killed", -15: "terminated", -11: "segmentation_fault", -7: "bus_error", -6: "aborted"}
_DEATHS: Final = (*_SIGNALS.values(), "signal", "exit", "silent", "out_of_memory")


@dataclass(slots=True)
class Histogram:
    """Counts of values up to bounds."""

    bounds: Sequence[float]
    counts: list[int] = field(default_factory=list[int])
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float, times: int = 1) -> None:
        """One value, or several of the same."""
        self.counts[bisect.bisect_left(self.bounds, value)] += times
        self.total += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as the exposition format wants them."""
        found, sum_ = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            sum_ += count
            found.append((bound, float(sum_)))
        return found


@dataclass(slots=True)
class Rising:
    """A number that may fall back, as a counter, which must not: Prometheus takes a fall for a restart from 0, and
    would count all the steps before a checkpoint again. Only those that are really done again are."""

    total: float = 0.0
    last: float = 0.0

    def seen(self, value: float) -> float:
        """The counter, now that the number is this."""
        self.total += max(value - self.last, 0.0)
        self.last = value
        return self.total


def _share(seconds: float | None, whole: float) -> float:
    """A part of so many seconds: what a worker says may be anything."""
    return min(max(seconds, 0.0), whole) if seconds is not None and math.isfinite(seconds) else 0.0


def _zeros(names: Iterable[str]) -> dict[str, float]:
    return dict.fromkeys(map(str, names), 0.0)


@dataclass(slots=True)
class JobCounts:
    """One job's."""

    step: Histogram = field(default_factory=lambda: Histogram(_STEP_BUCKETS))
    recovery: Histogram = field(default_factory=lambda: Histogram(_RECOVERY_BUCKETS))
    recoveries: dict[str, float] = field(default_factory=lambda: _zeros(LossCause))
    recovering: dict[str, float] = field(default_factory=lambda: _zeros(LossCause))
    worlds: dict[str, float] = field(default_factory=lambda: _zeros(Cause))
    stalls: dict[str, float] = field(default_factory=lambda: _zeros(set(Cause) - {Cause.START}))
    stall_parts: dict[str, float] = field(default_factory=lambda: _zeros(_STALL_PARTS))
    deaths: dict[str, float] = field(default_factory=lambda: _zeros(_DEATHS))
    agent_exits: dict[str, float] = field(default_factory=lambda: _zeros(ExitCause))
    checkpoints: int = 0
    checkpoint_write: Histogram = field(default_factory=lambda: Histogram(_WRITE_BUCKETS))
    checkpoint_bytes: int | None = None
    checkpoint_troubles: dict[str, float] = field(default_factory=lambda: _zeros(CHECKPOINT_TROUBLES.values()))
    useful: float = 0.0
    data_waits: float = 0.0
    waits: dict[str, float] = field(default_factory=dict[str, float])
    redone: int = 0
    rising: dict[str, Rising] = field(default_factory=dict[str, Rising])
    _furthest: int = 0

    def advanced(self, before: int, step: int, step_seconds: float | None, data_seconds: float | None = None) -> None:
        """Training got from one step to another, in so many seconds each on average, some of them waiting for data.
        What was done before and is done again is not useful."""
        self._furthest = max(self._furthest, before)
        before = min(before, step - 1)  # it begins again at an earlier step: the first word comes with the first step
        again = max(min(step, self._furthest) - before, 0)
        self._furthest = max(self._furthest, step)
        self.redone += again
        if step_seconds is not None and math.isfinite(step_seconds) and step_seconds >= 0.0:
            self.step.observe(step_seconds, step - before)
            self.useful += step_seconds * (step - before - again)
            self.data_waits += _share(data_seconds, step_seconds) * (step - before - again)

    def waited(self, before: int, step: int, waits: Mapping[str, float]) -> None:
        """On the way from one step to another, workers waited so long for data in each of them."""
        for worker, seconds in waits.items():
            self.waits[worker] = self.waits.get(worker, 0.0) + _share(seconds, math.inf) * max(step - before, 1)

    def recovered(self, cause: str, seconds: float) -> None:
        """A world was formed after a loss, so long after the loss was seen."""
        self.recovery.observe(seconds)
        self.recoveries[cause] = self.recoveries.get(cause, 0) + 1
        self.recovering[cause] = self.recovering.get(cause, 0.0) + seconds

    def stalled(self, cause: str, parts: Iterable[tuple[str, float]]) -> None:
        """Training goes on after a change of the world, and so much time went into it."""
        if cause not in self.stalls:
            return  # a first world: nobody has trained before it
        for part, seconds in parts:
            if part in self.stall_parts and math.isfinite(seconds) and seconds > 0.0:
                self.stall_parts[part] += seconds
                self.stalls[cause] += seconds

    def died(self, death: PostMortem) -> None:
        """A worker's process died."""
        self.deaths[_cause(death)] += 1

    def checkpointed(self, num_bytes: int, seconds: float) -> None:
        """A checkpoint was committed."""
        self.checkpoints += 1
        self.checkpoint_bytes = num_bytes
        if math.isfinite(seconds) and seconds >= 0.0:
            self.checkpoint_write.observe(seconds)


@dataclass(slots=True)
class ServiceCounts:
    """The coordinator's own."""

    loop_lag: Histogram = field(default_factory=lambda: Histogram(_LAG_BUCKETS))
    store: Histogram = field(default_factory=lambda: Histogram(_STORE_BUCKETS))
    requests: dict[tuple[str, str, str], int] = field(default_factory=dict[tuple[str, str, str], int])
    request_seconds: dict[tuple[str, str], Histogram] = field(default_factory=dict[tuple[str, str], Histogram])

    def requested(self, method: str, route: str, status: int, seconds: float) -> None:
        """A REST request was answered."""
        key = (method, route, str(status))
        self.requests[key] = self.requests.get(key, 0) + 1
        self.request_seconds.setdefault((method, route), Histogram(_REQUEST_BUCKETS)).observe(seconds)


def _cause(death: PostMortem) -> str:
    if death.out_of_memory:
        return "out_of_memory"
    return "silent" if death.silent else _SIGNALS.get(death.code, "signal" if death.code < 0 else "exit")
