"""How far training is, thinned out to what a person can read.

`add` is called at every committed step, on every worker, and is nearly all there is between two small steps, so it only
adds up; a message is made a few times a second. What is held back is not lost: the session asks for it at its next
heartbeat, and counts are totals.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from cordee.rpc.v1 import worker_pb2 as pb
from cordee.trainer.elastic.protocols import ProgressReport

__all__ = ["ProgressMeter"]

INTERVAL_SECONDS = 0.2


class ProgressMeter:
    """Collects reports and hands out at most one message per interval."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.members: tuple[str, ...] = ()
        """The worker ids of the world at hand, by rank: whose paces the reports tell. Empty: nobody takes them."""
        self._clock = clock
        self._lock = threading.Lock()
        self._newest: ProgressReport | None = None
        self._steps = 0
        self._seconds = 0.0
        self._paces: list[tuple[float, ...]] = []
        self._waits: list[tuple[float, ...]] = []
        self._data_seconds = 0.0
        self._next_at = float("-inf")
        self._before: tuple[float, int] | None = None  # when the last message was made, and the samples it told of

    def add(self, report: ProgressReport) -> bool:
        """Whether it is time for `take`."""
        with self._lock:
            self._newest = report
            self._steps += 1
            self._seconds += report.seconds
            self._data_seconds += max(report.data_seconds, default=0.0)
            if self.members:
                self._paces.append(report.shard_seconds)
                self._waits.append(report.data_seconds)
            return self._clock() >= self._next_at

    def take(self, generation: int) -> pb.Progress | None:
        """What has not been told yet, in one message; None: nothing."""
        with self._lock:
            report, steps, seconds = self._newest, self._steps, self._seconds
            if report is None:
                return None
            now = self._clock()
            self._newest, self._steps, self._seconds, self._next_at = None, 0, 0.0, now + INTERVAL_SECONDS
            paces, self._paces = self._paces, []
            waits, self._waits = self._waits, []
            data_seconds, self._data_seconds = self._data_seconds, 0.0
            before, self._before = self._before, (now, report.samples)
        step_seconds = seconds / steps
        if before is not None and now > before[0] and report.samples > before[1]:
            rate = (report.samples - before[1]) / (now - before[0])
        else:
            rate = report.samples / report.step / step_seconds if report.step and step_seconds else 0.0
        return pb.Progress(
            generation=generation,
            step=report.step,
            steps_total=report.steps_total,
            epoch=report.epoch,
            epochs=report.epochs,
            loss=report.loss,
            samples=report.samples,
            step_seconds=step_seconds,
            samples_per_second=rate,
            metrics=dict(report.metrics),
            paces=self._mean_paces(paces, waits),
            data_seconds=data_seconds / steps,
        )

    def _mean_paces(self, reports: list[tuple[float, ...]], waits: list[tuple[float, ...]]) -> list[pb.Pace]:
        """Of every member that had a shard, the mean of its seconds per shard, and of those that it waited for data."""
        waited = [sum(column) / len(column) for column in zip(*waits, strict=False)]
        means = []
        for rank, (worker, column) in enumerate(zip(self.members, zip(*reports, strict=False), strict=False)):
            told = [seconds for seconds in column if not math.isnan(seconds)]
            if told:
                data_seconds = waited[rank] if rank < len(waited) else 0.0
                means.append(pb.Pace(worker=worker, shard_seconds=sum(told) / len(told), data_seconds=data_seconds))
        return means

    def pause(self) -> None:
        """Training stands still for a rendezvous: the next rate is not measured across it, nor are paces."""
        with self._lock:
            self._before = None
            self._paces, self._waits = [], []
