"""The registry of one coordinator, and the page that it serves.

`prometheus_client` is imported when the first scrape comes: start-up time is on the way to a job's first step.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from cordee.coordinator.core.model import JobState, PostMortem
from cordee.coordinator.service.job import Job
from cordee.coordinator.service.metrics import families as f
from cordee.coordinator.service.metrics.counts import CHECKPOINT_TROUBLES, Histogram, JobCounts, Rising, ServiceCounts

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

__all__ = ["STATES", "Metrics"]

STATES: Final = tuple(map(str, JobState))
WORKER_STATES: Final = (
    "starting", "joining", "waiting", "training", "leaving", "finished", "stopping", "isolated", "kept out", "lost",
    "given up",
)  # fmt: skip
"""What `WorkerView.state` may be."""
_KEEP_SECONDS: Final = 900.0  # a job's series outlive it for this long: several scrape intervals
_PART: Final = re.compile(r"(\w+) (\d+\.\d+) s")


class Metrics:
    """Told what happens, asked for the page. `jobs` gives all the coordinator's jobs."""

    def __init__(
        self, jobs: Callable[[], Iterable[Job]], *, version: str, clock: Callable[[], float] = time.time
    ) -> None:
        self.service = ServiceCounts()
        self.capacity: Callable[[], int] = lambda: 0
        self.attached: Callable[[], int] = lambda: 0
        self.certificate_ends: Callable[[], float] | None = None
        self._jobs = jobs
        self._version = version
        self._clock = clock
        self._counts: dict[str, JobCounts] = {}

    # -- what happens

    def observe_recovery(self, job: str, cause: str, seconds: float) -> None:
        """A world was formed after a loss, so long after the loss was seen."""
        self._of(job).recovered(cause, seconds)

    def observe_world(self, job: str, cause: str) -> None:
        """A world was formed."""
        worlds = self._of(job).worlds
        worlds[cause] = worlds.get(cause, 0) + 1

    def observe_steps(
        self, job: str, before: int, step: int, step_seconds: float | None, data_seconds: float | None = None
    ) -> None:
        """Training got from one step to another one, `step_seconds` each on average, `data_seconds` of them waiting for
        data; None: it is not known."""
        self._of(job).advanced(before, step, step_seconds, data_seconds)

    def observe_waits(self, job: str, before: int, step: int, waits: Mapping[str, float]) -> None:
        """On the way from one step to another one workers waited for data, so long in each step."""
        self._of(job).waited(before, step, waits)

    def observe_death(self, job: str, death: PostMortem) -> None:
        """A worker's process died unasked."""
        self._of(job).died(death)

    def observe_agent_exit(self, job: str, cause: str) -> None:
        """An agent ended unasked."""
        self._of(job).agent_exits[cause] += 1

    def observe_checkpoint(self, job: str, num_bytes: int, seconds: float) -> None:
        """A checkpoint was committed, after so many seconds."""
        self._of(job).checkpointed(num_bytes, seconds)

    def observe_note(self, job: str, kind: str, message: str, cause: str) -> None:
        """A worker's sentence; `cause`: what the current world was formed for."""
        if kind == "resumed":
            self._of(job).stalled(cause, ((name, float(seconds)) for name, seconds in _PART.findall(message)))
        elif kind in CHECKPOINT_TROUBLES:
            self._of(job).checkpoint_troubles[CHECKPOINT_TROUBLES[kind]] += 1

    # -- the page

    def render(self, accept: str) -> tuple[bytes, str]:
        """The page, in the format the scraper asks for, and its content type."""
        return self._encode(self._collect(), accept)

    async def serve(self, accept: str) -> tuple[bytes, str]:
        """The same, beside the loop: what is read is read at one moment, but of many jobs it is much to write down."""
        return await asyncio.to_thread(self._encode, self._collect(), accept)

    @staticmethod
    def _encode(collected: "Sequence[Metric]", accept: str) -> tuple[bytes, str]:
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Snapshot(collected))
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type

    def _of(self, job: str) -> JobCounts:
        return self._counts.setdefault(job, JobCounts())

    def _collect(self) -> "list[Metric]":
        from prometheus_client import ProcessCollector

        now = self._clock()
        page = _Page()
        by_state = dict.fromkeys(STATES, 0)
        occupied, shown = 0, set[str]()
        for job in self._jobs():
            by_state[str(job.machine.state)] += 1
            finished_at = job.machine.record.finished_at
            if finished_at is None or now - finished_at < _KEEP_SECONDS:
                occupied += job.machine.occupied
                shown.add(job.id)
                self._add_job(page, job, now)
        for gone in self._counts.keys() - shown:
            del self._counts[gone]

        page.add(f.BUILD, (self._version,), 1)
        page.add(f.STANDBY, (), 0)
        for state, count in by_state.items():
            page.add(f.JOBS, (state,), count)
        page.add(f.SLOTS, (), self.capacity())
        page.add(f.SLOTS_USED, (), occupied)
        page.add(f.WORKERS_ATTACHED, (), self.attached())
        for key, count in self.service.requests.items():
            page.add(f.REQUESTS, key, count)
        for route, seconds in self.service.request_seconds.items():
            page.distribution(f.REQUEST_SECONDS, route, seconds)
        page.distribution(f.LOOP_LAG, (), self.service.loop_lag)
        page.distribution(f.STORE_SECONDS, (), self.service.store)
        if self.certificate_ends is not None:
            page.add(f.CERTIFICATE, (), self.certificate_ends())
        return [*page.metrics, *ProcessCollector(registry=None).collect()]

    def _add_job(self, page: "_Page", job: Job, now: float) -> None:
        record, progress, result = job.machine.record, job.progress, job.machine.record.result
        workers = job.machine.workers()
        members = () if job.ended else workers  # at its end nobody is a member any more
        kept, of = self._of(job.id), (job.id, job.name)

        for state in STATES:
            page.add(f.STATE, (*of, state), record.state == state)
        page.add(f.CREATED, of, record.created_at)
        page.add(f.FINISHED, of, record.finished_at)
        training = sum(member.rank is not None for member in members)
        counts = {"min": record.minimum, "max": record.maximum, "wanted": record.wanted, "now": training}
        for count, value in counts.items():
            page.add(f.WORKERS, (*of, count), value)
        states: dict[str, int] = dict.fromkeys(WORKER_STATES, 0)
        for member in members:
            states[member.state] += 1
        for state, value in states.items():
            page.add(f.WORKERS_BY_STATE, (*of, state), value)
        page.add(f.GENERATION, of, record.generation)

        step, samples = job.step(workers), result.samples if result is not None else progress.samples
        page.add(f.STEP, of, step)
        page.add(f.STEPS_PLANNED, of, progress.steps_total)
        page.add(f.STEPS, of, kept.rising.setdefault("steps", Rising()).seen(step))
        page.add(f.SAMPLES, of, kept.rising.setdefault("samples", Rising()).seen(samples))
        page.add(f.REDONE, of, kept.redone)
        page.add(f.SAMPLES_RATE, of, progress.samples_per_second)
        page.add(f.LOSS, of, progress.loss)
        page.add(f.EPOCH, of, progress.epoch)
        page.add(f.EPOCHS, of, progress.epochs)
        since = (record.finished_at or now) - record.started_at if record.started_at is not None else 0.0
        page.add(f.TRAINING, of, kept.rising.setdefault("training", Rising()).seen(max(since, 0.0)))
        page.add(f.USEFUL, of, kept.useful)
        page.add(f.DATA_WAITS, of, kept.data_waits)

        page.add(f.CHECKPOINTS, of, kept.checkpoints)
        page.add(f.CHECKPOINT_STEP, of, progress.checkpoint_step)
        page.add(f.CHECKPOINT_AT, of, progress.checkpoint_at)
        page.add(f.CHECKPOINT_BYTES, of, kept.checkpoint_bytes)
        page.add(f.STRAGGLERS, of, job.machine.stragglers)
        page.add(f.SLOW_NOW, of, sum(member.slow for member in members))
        for family, by in (
            (f.WORLDS, kept.worlds),
            (f.WORKER_DEATHS, kept.deaths),
            (f.AGENT_EXITS, kept.agent_exits),
            (f.RECOVERIES, kept.recoveries),
            (f.RECOVERING, kept.recovering),
            (f.STALL, kept.stalls),
            (f.STALL_PARTS, kept.stall_parts),
            (f.CHECKPOINT_FAILURES, kept.checkpoint_troubles),
        ):
            for what, number in by.items():
                page.add(family, (*of, what), number)
        page.distribution(f.STEP_SECONDS, of, kept.step)
        page.distribution(f.RECOVERY, of, kept.recovery)
        page.distribution(f.CHECKPOINT_SECONDS, of, kept.checkpoint_write)
        for member in members:
            who = (*of, member.worker)
            page.add(f.WORKER_STATE, (*who, member.state), 1)
            page.add(f.WORKER_RANK, who, member.rank)
            page.add(f.WORKER_STEP, who, member.step)
            page.add(f.WORKER_RESTARTS, who, member.restarts)
            page.add(f.WORKER_PACE, who, member.shard_seconds)
            page.add(f.WORKER_DATA_WAITS, who, kept.waits.get(member.worker, 0.0))


class _Page:
    """All families, with the samples of one scrape."""

    def __init__(self) -> None:
        from prometheus_client.core import Metric

        self._by_name: dict[str, Metric] = {
            family.name: Metric(family.name.removesuffix("_total"), family.help, family.kind) for family in f.FAMILIES
        }

    @property
    def metrics(self) -> "Iterable[Metric]":
        return self._by_name.values()

    def add(self, family: f.Family, labels: Sequence[str], value: float | None) -> None:
        """One sample; none where there is no number."""
        if value is not None:
            metric = self._by_name[family.name]
            metric.add_sample(family.name, dict(zip(family.labels, labels, strict=True)), float(value))

    def distribution(self, family: f.Family, labels: Sequence[str], counted: Histogram) -> None:
        """A histogram's samples."""
        metric, of = self._by_name[family.name], dict(zip(family.labels, labels, strict=True))
        buckets = counted.buckets()
        for bound, count in buckets:
            metric.add_sample(f"{family.name}_bucket", of | {"le": bound}, count)
        metric.add_sample(f"{family.name}_count", of, buckets[-1][1])
        metric.add_sample(f"{family.name}_sum", of, counted.total)


class _Snapshot:
    """A collector of what is collected already."""

    def __init__(self, metrics: "Sequence[Metric]") -> None:
        self._metrics = metrics

    def collect(self) -> "Iterable[Metric]":
        return self._metrics
