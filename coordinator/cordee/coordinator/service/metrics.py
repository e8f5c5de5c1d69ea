"""What Prometheus sees.

The numbers of a job are read from its view when Prometheus asks, not kept in a second place: a series ends with its
job (a while after it, so that the last scrape sees how it ended) and nothing piles up. Of a job that ended long ago
only its state is looked at: a scrape costs what the living jobs cost. What views do not tell is kept here, as plain
counts: histograms, and how far a number has risen in all. `prometheus_client` is imported when the first scrape comes.

Names follow prometheus.io's "Metric and label naming": `cordee_` first, base units, `_total` on counters only.
"""

import bisect
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cordee.coordinator.core.model import JobState, LossCause
from cordee.coordinator.service.job import Job, Progress
from cordee.coordinator.service.rest.models import JobView

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

__all__ = ["STATES", "Metrics"]

STATES: Final = tuple(map(str, JobState))
_KEEP_SECONDS: Final = 900.0  # a job's series outlive it for this long: several scrape intervals

_RECOVERY_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_STEP_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(slots=True)
class _Histogram:
    bounds: Sequence[float]
    counts: list[int] = field(default_factory=list[int])
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float, times: int = 1) -> None:
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
class _Rising:
    """A number that may fall back, as a counter, which must not: Prometheus takes a fall for a restart from 0, and
    would count all the steps before a checkpoint again. Only those that are really done again are."""

    total: float = 0.0
    last: float = 0.0

    def seen(self, value: float) -> float:
        self.total += max(value - self.last, 0.0)
        self.last = value
        return self.total


@dataclass(slots=True)
class _JobCounts:
    """What a view does not tell: distributions, causes and falls, since this coordinator started."""

    recovery: _Histogram = field(default_factory=lambda: _Histogram(_RECOVERY_BUCKETS))
    step: _Histogram = field(default_factory=lambda: _Histogram(_STEP_BUCKETS))
    recoveries: dict[str, int] = field(default_factory=lambda: dict.fromkeys(map(str, LossCause), 0))
    rising: dict[str, _Rising] = field(default_factory=dict[str, _Rising])


class Metrics:
    """The registry of one coordinator; `jobs` gives all its jobs."""

    def __init__(self, jobs: Callable[[], Iterable[Job]], *, version: str) -> None:
        self._jobs = jobs
        self._version = version
        self._counts: dict[str, _JobCounts] = {}

    def observe_recovery(self, job: str, cause: str, seconds: float) -> None:
        """A world was formed after a loss, so long after the loss was seen."""
        counts = self._of(job)
        counts.recovery.observe(seconds)
        counts.recoveries[cause] = counts.recoveries.get(cause, 0) + 1

    def observe_steps(self, job: str, count: int, seconds: float) -> None:
        """`count` steps were committed, `seconds` each on average."""
        if count > 0 and seconds >= 0:
            self._of(job).step.observe(seconds, count)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The page, in the format the scraper asks for, and its content type."""
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Snapshot(list(self._collect())))
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type

    def _of(self, job: str) -> _JobCounts:
        return self._counts.setdefault(job, _JobCounts())

    def _collect(self) -> "Iterator[Metric]":
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        now = time.time()
        by_state = dict.fromkeys(STATES, 0)
        shown: list[tuple[JobView, Progress]] = []
        stragglers: dict[str, int] = {}
        for job in self._jobs():
            by_state[str(job.machine.state)] += 1
            finished_at = job.machine.record.finished_at
            if finished_at is None or now - finished_at < _KEEP_SECONDS:
                shown.append((job.view(now), job.progress))
                stragglers[job.id] = job.machine.stragglers
        for gone in self._counts.keys() - {view.id for view, _ in shown}:
            del self._counts[gone]

        info = GaugeMetricFamily("cordee_build_info", "The coordinator's version; always 1.", labels=["version"])
        info.add_metric([self._version], 1)
        yield info

        states = GaugeMetricFamily("cordee_jobs", "Jobs by state.", labels=["state"])
        for state, count in by_state.items():
            states.add_metric([state], count)
        yield states

        labels = ["job_id", "name"]  # `job` is the scraper's own label
        for family, value in _JOB_SERIES:
            counts = family[0].endswith("_total")
            metric = (CounterMetricFamily if counts else GaugeMetricFamily)(*family, labels=labels)
            for view, progress in shown:
                found = value(view, progress)
                if counts and found is not None:
                    found = self._of(view.id).rising.setdefault(family[0], _Rising()).seen(found)
                if found is not None:
                    metric.add_metric([view.id, view.name], found)
            yield metric

        workers = GaugeMetricFamily(
            "cordee_job_workers", "Workers of a job: wanted by the scheduler, training now.", labels=[*labels, "count"]
        )
        causes = CounterMetricFamily(
            "cordee_job_recoveries_total", "Worlds formed because workers were lost.", labels=[*labels, "cause"]
        )
        recovery = HistogramMetricFamily(
            "cordee_job_recovery_seconds", "From a loss being seen to the next world being sent.", labels=labels
        )
        step = HistogramMetricFamily(
            "cordee_job_step_duration_seconds", "Wall time of a committed step.", labels=labels
        )
        paces = GaugeMetricFamily(
            "cordee_worker_shard_seconds", "How long a worker computes per shard, lately.", labels=[*labels, "worker"]
        )
        slow = CounterMetricFamily(
            "cordee_stragglers_total", "How often a worker was found to be much slower than the others.", labels=labels
        )
        for view, _ in shown:
            of = [view.id, view.name]
            slow.add_metric(of, stragglers[view.id])
            for member in view.members:
                if member.shard_seconds is not None:
                    paces.add_metric([*of, member.worker], member.shard_seconds)
            workers.add_metric([*of, "wanted"], view.workers.wanted)
            workers.add_metric([*of, "now"], view.workers.now)
            kept = self._of(view.id)
            for cause, count in kept.recoveries.items():
                causes.add_metric([*of, cause], count)
            recovery.add_metric(of, kept.recovery.buckets(), kept.recovery.total)
            step.add_metric(of, kept.step.buckets(), kept.step.total)
        yield from (workers, paces, slow, causes, recovery, step)


class _Snapshot:
    """A collector of what is collected already."""

    def __init__(self, metrics: "Sequence[Metric]") -> None:
        self._metrics = metrics

    def collect(self) -> "Iterable[Metric]":
        return self._metrics


_JOB_SERIES: Final[tuple[tuple[tuple[str, str], Callable[[JobView, Progress], float | None]], ...]] = (
    (("cordee_job_steps_total", "Committed steps; what is done again counts again."), lambda view, _: view.step),
    (("cordee_job_samples_total", "Samples in committed steps, counted likewise."), lambda view, _: view.samples),
    (("cordee_job_loss", "The script's loss at the newest step."), lambda view, _: view.loss),
    (("cordee_job_epoch", "The epoch in progress, from 1."), lambda view, _: view.epoch),
    (("cordee_job_samples_per_second", "Samples per second, lately."), lambda view, _: view.samples_per_second),
    (("cordee_job_generation", "The number of the current world."), lambda view, _: view.generation),
    (("cordee_job_checkpoint_step", "The newest checkpoint's step."), lambda _, progress: progress.checkpoint_step),
    (
        ("cordee_job_checkpoint_timestamp_seconds", "When the newest checkpoint was committed, Unix time."),
        lambda _, progress: progress.checkpoint_at,
    ),
)
