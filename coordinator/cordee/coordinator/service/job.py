"""One job as the service holds it: its machine, what its workers last told, its history, and who watches it.

The machine decides; this only remembers and shows. Nothing in here does I/O.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from cordee.coordinator.core.job import JobMachine, WorkerView
from cordee.coordinator.core.model import TERMINAL_STATES
from cordee.coordinator.places import checkpoint_root
from cordee.coordinator.service.rest.models import EventView, JobError, JobView, MemberView, WorkersView
from cordee.coordinator.service.store import EventRow
from cordee.coordinator.spec import JobDocument

__all__ = ["NUM_EVENTS", "Clock", "Job", "Progress"]

NUM_EVENTS: Final = 50


class Clock:
    """Wall-clock seconds that never jump while this process lives: a clock that is set must not look like a loss."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """Unix seconds."""
        return self._offset + time.monotonic()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far training is, by its workers' last word. JSON-able; NaN and infinity are None."""

    generation: int = 0
    step: int = 0
    steps_total: int | None = None
    epoch: int | None = None
    epochs: int | None = None
    loss: float | None = None
    samples: int = 0
    step_seconds: float | None = None
    samples_per_second: float | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    data_seconds: float | None = None
    """Of `step_seconds`: how long it waits for data."""
    checkpoint_step: int | None = None
    checkpoint_at: float | None = None

    def to_json(self) -> dict[str, Any]:
        """What the store keeps."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Progress":
        """From the store; an empty mapping is no progress yet. What only a newer coordinator knows of is left out."""
        return cls(**{name: value for name, value in data.items() if name in cls.__dataclass_fields__})


def finite(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


class Job:
    """A job in memory."""

    def __init__(
        self,
        *,
        id: str,
        document: JobDocument,
        bundle: str | None,
        token: str,
        folder: str,
        machine: JobMachine,
        launcher: str = "process",
        progress: Progress | None = None,
        events: list[EventRow] | None = None,
        checkpoints: str | None = None,
        key: str = "",
    ) -> None:
        self.id = id
        self.key = key
        """What whoever submitted it calls the submission."""
        self.document = document
        self.bundle = bundle
        self.token = token
        self.folder = folder
        self.checkpoints = (
            checkpoint_root(document.spec.checkpoint.storage, id, folder) if checkpoints is None else checkpoints
        )
        """Where they lie; empty: none are written."""
        self.launcher = launcher
        self.machine = machine
        self.progress = progress or Progress()
        self.events = deque(events or (), maxlen=NUM_EVENTS)
        self.progress_saved = True
        self.stored_record = machine.record
        self.stored_generation = machine.generation  # of the newest world in the store
        self.due: float | None = None  # the machine's deadline that the timer is set to
        self.timer: asyncio.TimerHandle | None = None
        self.version = 0
        self.touched: Callable[[Job], None] = lambda _job: None
        """Called whenever something that people see may have changed."""
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def name(self) -> str:
        """What the user called it."""
        return self.document.metadata.name

    @property
    def created_at(self) -> float:
        """When it was submitted."""
        return self.machine.record.created_at

    @property
    def ended(self) -> bool:
        """Succeeded, failed or cancelled. Agents may have yet to go: see `machine.done`."""
        return self.machine.state in TERMINAL_STATES

    @property
    def record_saved(self) -> bool:
        """Whether the store has what the machine decided last."""
        return self.stored_record is self.machine.record

    def touch(self) -> None:
        """Something that people see has changed."""
        self.version += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
        self.touched(self)

    async def changed(self, version: int, timeout_seconds: float) -> None:
        """Wait until the version is another one, or for so long."""
        if self.version != version:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait((waiter,), timeout=timeout_seconds)
        finally:
            self._waiters.discard(waiter)

    def advance(self, told: Progress) -> bool:
        """Take in a worker's word, and whether it is news. The word of an earlier world counts for nothing."""
        before = self.progress
        if told.generation < before.generation:
            return False
        if told.generation == before.generation and told.step < before.step:
            return False
        self.progress = replace(told, checkpoint_step=before.checkpoint_step, checkpoint_at=before.checkpoint_at)
        self.progress_saved = False
        self.touch()
        return True

    def events_after(self, number: int) -> list[EventRow] | None:
        """What of its history comes after that event; None: more than is remembered here."""
        if len(self.events) == NUM_EVENTS and self.events[0].number > number:
            return None
        return [event for event in self.events if event.number > number]

    def step(self, workers: Sequence[WorkerView]) -> int:
        """The newest committed step: the result's, or else the furthest that anybody in the current world tells of."""
        record = self.machine.record
        if record.result is not None:
            return record.result.step
        current = {member.worker for member in record.world.members} if record.world is not None else set[str]()
        return max([self.progress.step, *(worker.step or 0 for worker in workers if worker.worker in current)])

    def view(self, now: float) -> JobView:
        """What people see."""
        record, spec, progress = self.machine.record, self.document.spec, self.progress
        result, error = record.result, record.error
        workers = self.machine.workers()
        members = () if self.ended else workers  # at its end nobody is a member any more
        metrics = dict(progress.metrics)
        if result is not None:
            metrics |= {name: finite(value) for name, value in result.metrics.items()}
        return JobView(
            id=self.id,
            name=self.name,
            state=record.state.value,
            reason=record.reason,
            created_at=record.created_at,
            started_at=record.started_at,
            finished_at=record.finished_at,
            seconds=max((record.finished_at or now) - record.created_at, 0.0),
            script=spec.script,
            args=list(spec.args),
            workers=WorkersView(
                min=record.minimum,
                max=record.maximum,
                wanted=record.wanted,
                now=sum(member.rank is not None for member in members),
            ),
            threads=spec.threads,
            device=spec.device,
            launcher=self.launcher,
            generation=record.generation,
            generations=record.generation,
            recoveries=record.recoveries,
            step=self.step(workers),
            steps_total=progress.steps_total,
            epoch=progress.epoch,
            epochs=progress.epochs,
            loss=progress.loss,
            samples=result.samples if result is not None else progress.samples,
            samples_per_second=progress.samples_per_second,
            step_seconds=progress.step_seconds,
            data_seconds=progress.data_seconds,
            metrics=metrics,
            weights_sha256=(result.weights_sha256 or None) if result is not None else None,
            weights_path=(result.weights_path or None) if result is not None else None,
            members=[
                MemberView(
                    worker=member.worker,
                    rank=member.rank,
                    state=member.state,
                    step=member.step or 0,
                    restarts=member.restarts,
                    pid=member.pid or None,
                    shard_seconds=member.shard_seconds,
                    slow=member.slow,
                )
                for member in members
            ],
            events=[EventView(time=event.time, kind=event.kind, message=event.message) for event in self.events],
            error=(
                JobError(exception=error.exception, traceback=error.traceback, worker=error.worker or None)
                if error is not None
                else None
            ),
            folder=self.folder,
            checkpoints=self.checkpoints,
        )
