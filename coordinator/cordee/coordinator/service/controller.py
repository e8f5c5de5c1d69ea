"""The one loop: events go into the jobs' machines, what they decide is carried out, in order.

Everything runs on the coordinator's event loop and nothing in the path of a loss waits: a broken stream is an event,
its turn of the machine is written to the store and the survivors' messages are queued before the call returns. What
takes time (starting a process) runs beside, in order per worker, and comes back as an event.

After a restart the machines are made again from the store; what really runs is asked from the launcher, and from the
workers, who attach again by themselves.
"""

import asyncio
import contextlib
import hashlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cordee.coordinator.core import actions, events, scheduler
from cordee.coordinator.core.job import JobMachine
from cordee.coordinator.core.model import JobState, Policy
from cordee.coordinator.core.record import JobRecord
from cordee.coordinator.errors import ConflictError, InvalidError, NotFoundError
from cordee.coordinator.faults import Fault
from cordee.coordinator.service.admission import check_bundle, check_capacity, has_source
from cordee.coordinator.service.agents import Agents
from cordee.coordinator.service.auth import new_token
from cordee.coordinator.service.environment import agent_environment
from cordee.coordinator.service.folder import StateFolder
from cordee.coordinator.service.job import NUM_EVENTS, Clock, Job, Progress
from cordee.coordinator.service.launchers.base import AgentSpec, Launcher
from cordee.coordinator.service.logs import LogLine, LogReader
from cordee.coordinator.service.metrics import Metrics
from cordee.coordinator.service.rest.models import EventPage, FaultView, JobView, NumberedEvent, Placement
from cordee.coordinator.service.store import EventRow, JobRow, Store, StoreError, WorldRow
from cordee.coordinator.spec import JobDocument, parse_job

__all__ = ["Controller", "Mailbox", "Outgoing", "SendFault"]

_log = logging.getLogger(__name__)

_WATCH_SECONDS: Final = 0.125  # between two views at least
_WATCH_AGAIN_SECONDS: Final = 5.0  # a view at least so often: a reader that is gone is noticed
_SAVE_PROGRESS_SECONDS: Final = 1.0
_MAX_MESSAGE: Final = 2000
_ID_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"  # base32's, in lower case


@dataclass(frozen=True, slots=True)
class SendFault:
    """Injects a fault into this incarnation of a worker."""

    worker: str
    incarnation: str
    fault: Fault
    peer: str
    """The other end, as this worker sees it."""


Outgoing = actions.SendWorld | actions.SendChangePending | actions.SendAbort | actions.SendStop | SendFault
"""What is said to one incarnation of a worker."""

Mailbox = Callable[[Outgoing], None]
"""Delivers it, or drops it when that incarnation's stream is gone."""


class Controller:
    """Jobs, and all that is done to them. Made and used on one event loop."""

    def __init__(
        self,
        *,
        folder: StateFolder,
        store: Store,
        launcher: Launcher,
        version: str,
        coordinator_address: str,
        orphan_seconds: float,
        policy: Policy | None = None,
    ) -> None:
        self.policy = policy or Policy()
        self.metrics = Metrics(self._all_jobs, version=version)
        self.mailbox: Mailbox = lambda _message: None
        self._folder = folder
        self._store = store
        self._launcher = launcher
        self._address = coordinator_address
        self._orphan_seconds = orphan_seconds
        self._clock = Clock()
        self._jobs: dict[str, Job] = {}
        self._open: dict[str, Job] = {}
        """Those that hold slots or want some: the history of a service must not slow down its next recovery."""
        self._tokens: set[bytes] = set()  # by digest: how long a look-up takes says nothing about a token
        self._agents = Agents(launcher, self._agent_exited)
        self._background: set[asyncio.Task[None]] = set()
        self._scheduling = False
        self._closing = False
        self._idle = asyncio.Event()
        self.failure: StoreError | None = None
        self.failed = asyncio.Event()
        """Set when the store failed: nothing is decided any more, and another coordinator must take over."""

    # -- life

    async def start(self) -> None:
        """Take up what the store, the launcher and the workers know."""
        running: dict[str, set[str]] = {}
        for agent in await self._launcher.list():
            running.setdefault(agent.job, set()).add(agent.worker)
        tokens = self._store.tokens()
        self._scheduling = True  # nothing is granted before everybody who has something is known
        for row in reversed(self._store.jobs()):
            try:
                job = self._load(row, tokens.get(row.id, ""))
            except (ValueError, TypeError, KeyError):
                _log.exception("the job %s cannot be read from the store and is passed over", row.id)
                continue
            if not job.machine.done:
                self.feed(job, events.Recovered(frozenset(running.pop(row.id, ()))))
            if not (job.ended or job.machine.generation or has_source(self._folder, job.bundle)):
                self.feed(job, events.JobRefused(f"its source is gone: there is no bundle {job.bundle} any more"))
        self._scheduling = False
        for stray in [worker for workers in running.values() for worker in workers]:
            _log.warning("the agent %s belongs to no job of this coordinator and is stopped", stray)
            await self._launcher.stop(stray, grace_seconds=self.policy.stop_seconds)
        self._spawn(self._agents.watch())
        self._spawn(self._save_progress())
        self._reschedule()

    async def close(self) -> None:
        """Stop deciding; jobs and their workers go on without us."""
        self.stop_watching()
        for job in self._jobs.values():
            if job.timer is not None:
                job.timer.cancel()
            self._save_progress_of(job)
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._agents.close()

    def stop_watching(self) -> None:
        """End every watch and every followed log, so that their connections can be closed."""
        self._closing = True
        for job in self._jobs.values():
            job.touch()

    async def stop_jobs(self, reason: str, *, grace_seconds: float | None = None) -> None:
        """Cancel every job and wait until its agents are gone; those that have not gone after the grace are killed."""
        grace_seconds = self.policy.stop_seconds + 2.0 if grace_seconds is None else grace_seconds
        for job in list(self._jobs.values()):
            if not job.ended:
                self.feed(job, events.CancelRequested(reason))
        try:
            async with asyncio.timeout(grace_seconds):
                await self._until_idle()
        except TimeoutError:
            for agent in await self._launcher.list():
                await self._launcher.stop(agent.worker, grace_seconds=0.0)
            try:
                async with asyncio.timeout(5.0):
                    await self._until_idle()
            except TimeoutError:
                _log.error("some agents could not be killed; they are taken up by the next coordinator")

    @property
    def closing(self) -> bool:
        """Whether nothing is decided any more."""
        return self._closing

    # -- for people

    def plan(self, document: JobDocument) -> Placement:
        """Where a job would run now; an error when it never could."""
        capacity = self._launcher.capacity()
        workers = document.spec.workers
        check_capacity(self._launcher, workers.min)
        occupied = sum(job.machine.occupied for job in self._open.values())
        mine = scheduler.Demand("", workers.min, workers.max, submitted=self._clock.now())
        granted = scheduler.schedule([*self._open_demands(), mine], capacity, self._parting())[""]
        free = max(capacity - occupied, 0)
        where = f"this machine ({free} of {capacity} worker slots are free)"
        message = (
            f"{granted} of {workers.max} workers would start now on {where}"
            if granted
            else f"it would wait: it needs {workers.min} free worker slots on {where}"
        )
        return Placement(
            launcher=document.spec.launcher, workers_now=granted, capacity=capacity, free=free, message=message
        )

    async def submit(self, document: JobDocument, bundle: str) -> JobView:
        """Take a job in. It is on disk when this returns."""
        check_capacity(self._launcher, document.spec.workers.min)
        await asyncio.to_thread(check_bundle, self._folder, bundle, document.spec.script)
        identity = self._new_id(document.metadata.name)
        now = self._clock.now()
        workers = document.spec.workers
        record = JobRecord(job=identity, minimum=workers.min, maximum=workers.max, created_at=now)
        row = JobRow(
            id=identity,
            name=document.metadata.name,
            created_at=now,
            state=record.state.value,
            document=document.to_document(),
            bundle=bundle,
            record=record.to_json(),
        )
        token = new_token()
        self._folder.job(identity).mkdir(parents=True, exist_ok=True)
        self._store.create_job(row, token)
        job = self._load(row, token)
        self._note(job, "submitted", f"{document.spec.script}, {workers} workers")
        self._reschedule()
        return job.view(self._clock.now())

    def jobs(self) -> list[JobView]:
        """All jobs, newest first."""
        now = self._clock.now()
        return [job.view(now) for job in reversed(self._jobs.values())]

    def _all_jobs(self) -> Iterable[Job]:
        return self._jobs.values()

    def job(self, ref: str) -> JobView:
        """A job by its id, or the newest of that name."""
        return self.find(ref).view(self._clock.now())

    async def until_started(self, timeout_seconds: float) -> None:
        """Wait until no job is starting, but not for longer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                for job in list(self._jobs.values()):
                    while job.machine.state is JobState.STARTING and not self._closing:
                        await job.changed(job.version, timeout_seconds)

    def find(self, ref: str) -> Job:
        """A job by its id, or the newest of that name."""
        job = self._jobs.get(ref) or next((job for job in reversed(self._jobs.values()) if job.name == ref), None)
        if job is None:
            raise NotFoundError(f"there is no job {ref!r}", hint="see the jobs there are with: cordee jobs")
        return job

    async def scale(self, ref: str, minimum: int, maximum: int) -> JobView:
        """Give a job another range of worker counts."""
        job = self._find_open(ref, "scaled")
        check_capacity(self._launcher, minimum)
        self.feed(job, events.ScaleRequested(minimum, maximum))
        self._reschedule()
        return job.view(self._clock.now())

    async def cancel(self, ref: str) -> JobView:
        """End a job."""
        job = self._find_open(ref, "cancelled")
        self.feed(job, events.CancelRequested())
        return job.view(self._clock.now())

    def inject(self, ref: str, fault: Fault) -> FaultView:
        """Send a fault to the worker (or the two) that is to suffer it. The job's history has it before it happens."""
        job = self._find_open(ref, "disturbed")
        if not job.document.spec.chaos:
            raise ConflictError(
                f"no faults may be injected into the job {job.id}",
                hint="submit it with --allow-chaos, or with 'chaos: true' in its job file",
            )
        workers = {view.worker: view for view in job.machine.workers()}
        for worker, _ in fault.targets:
            if worker not in workers:
                raise InvalidError(f"the job {job.id} has no worker {worker!r}", hint=f"it has: {', '.join(workers)}")
            if not workers[worker].pid:
                raise ConflictError(f"{worker} is not attached now ({workers[worker].state})")
        time = self._note(job, "fault", str(fault))
        for worker, peer in fault.targets:
            self.mailbox(SendFault(worker, workers[worker].incarnation, fault, peer))
        return FaultView(
            time=time, kind=fault.kind, worker=fault.worker, peer=fault.peer, seconds=fault.seconds, amount=fault.amount
        )

    def history(self, ref: str, *, after: int, limit: int) -> EventPage:
        """A job's history from its beginning, a page at a time."""
        found = self._store.history(self.find(ref).id, after=after, limit=limit + 1)
        page = [
            NumberedEvent(id=number, time=row.time, kind=row.kind, message=row.message) for number, row in found[:limit]
        ]
        return EventPage(events=page, more=len(found) > limit)

    def watch(self, ref: str) -> AsyncIterator[JobView]:
        """The job whenever it changes, until it has ended. Raises at once when there is none."""
        return self._watch(self.find(ref))

    async def _watch(self, job: Job) -> AsyncIterator[JobView]:
        while True:
            version, ended, shown = job.version, job.ended, self._clock.now()
            yield job.view(shown)
            if ended or self._closing:
                return
            await job.changed(version, _WATCH_AGAIN_SECONDS)
            await asyncio.sleep(shown + _WATCH_SECONDS - self._clock.now())

    def logs(
        self, ref: str, *, follow: bool, rank: int | None, worker: str | None, tail: int | None
    ) -> AsyncIterator[list[LogLine]]:
        """A job's output. Raises at once when there is no such job."""
        job = self.find(ref)
        reader = LogReader(
            Path(job.folder) / "logs", lambda after: self._store.worlds(job.id, after=after), rank=rank, worker=worker
        )
        # Agents write a worker's last lines as it ends: only when all are gone has everything been written.
        more = (lambda: not self._closing and not (job.ended and job.machine.occupied == 0)) if follow else None
        return reader.read(tail=tail, follow=more)

    # -- for workers

    def find_id(self, identity: str) -> Job | None:
        """A job by its id only."""
        return self._jobs.get(identity)

    def knows_token(self, token: str) -> bool:
        """Whether it is the worker token of some job. Which one is for the call's handler to compare."""
        return _digest(token) in self._tokens

    def progress(self, job: Job, told: Progress) -> None:
        """Rank 0's word on how far training is."""
        steps = job.advance(told)
        if steps and told.step_seconds is not None:
            self.metrics.observe_steps(job.id, steps, told.step_seconds)

    def checkpointed(self, job: Job, step: int) -> None:
        """A checkpoint has been committed."""
        job.progress = replace(job.progress, checkpoint_step=step, checkpoint_at=self._clock.now())
        job.progress_saved = False
        job.touch()

    def note(self, job: Job, kind: str, message: str) -> None:
        """A worker's sentence for the job's history."""
        self._note(job, kind[:64] or "note", message)

    def feed(self, job: Job, event: events.Event) -> None:
        """One turn: the event in, what is decided done. Messages are queued, and everything is stored, on return."""
        if self._closing:
            return
        now = self._clock.now()
        decided = job.machine.handle(event, now)
        if decided:
            try:
                self._persist(job, decided, now)
            except StoreError as error:
                self._give_up(error)
                return
            for action in decided:
                self._carry_out(job, action)
        if job.machine.done:
            self._open.pop(job.id, None)
        self._set_timer(job, now)
        # An exit frees a slot, even if nothing else follows.
        if decided or isinstance(event, events.AgentExited | events.AgentAbsent):
            job.touch()
            self._idle.set()
            self._reschedule()

    def _give_up(self, error: StoreError) -> None:
        """What cannot be stored must not be acted on, and the machine is a turn ahead of the store: start afresh."""
        _log.critical("%s", error)
        self.failure = error
        self.stop_watching()
        self.failed.set()

    # -- carrying out

    def _persist(self, job: Job, decided: list[actions.Action], now: float) -> None:
        record = next((action.record for action in decided if isinstance(action, actions.Persist)), None)
        rows = [
            EventRow(now, action.kind, action.message[:_MAX_MESSAGE])
            for action in decided
            if isinstance(action, actions.RecordEvent)
        ]
        if record is None and not rows:
            return
        known = job.stored_generation
        world = record.world if record is not None else None
        row = (
            WorldRow(
                job=job.id,
                generation=world.generation,
                formed_at=now,
                step=world.step,
                cause=world.cause.value,
                members=tuple(member.worker for member in world.members),
            )
            if world is not None and world.generation > known
            else None
        )
        self._store.save(
            job.id,
            record=record.to_json() if record is not None else None,
            progress=job.progress.to_json() if not job.progress_saved else None,
            world=row,
            events=rows,
        )
        job.progress_saved = True
        job.events.extend(rows)
        if row is not None:
            job.stored_generation = row.generation

    def _carry_out(self, job: Job, action: actions.Action) -> None:
        match action:
            case actions.SendWorld() | actions.SendChangePending() | actions.SendAbort() | actions.SendStop():
                self.mailbox(action)
            case actions.StartAgent(worker):
                environment = agent_environment(
                    job, worker, coordinator=self._address, orphan_seconds=self._orphan_seconds
                )
                self._agents.start(AgentSpec(worker, job.id, Path(job.folder), environment))
            case actions.StopAgent(worker, grace_seconds):
                self._agents.stop(job.id, worker, grace_seconds)
            case actions.RecordRecovery(cause, seconds):
                self.metrics.observe_recovery(job.id, cause.value, seconds)
            case actions.SetState(state, reason):
                _log.info("job %s: %s%s", job.id, state.value, f" ({reason})" if reason else "")
            case actions.Persist() | actions.RecordEvent():
                pass  # written already, together

    def _agent_exited(self, identity: str, event: events.AgentExited | events.AgentAbsent) -> None:
        job = self._jobs.get(identity)
        if job is not None:
            self.feed(job, event)

    def _set_timer(self, job: Job, now: float) -> None:
        due = job.machine.next_deadline()
        if due == job.due and (due is None or due > now):
            return  # a heartbeat changes nothing
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None
        job.due = due
        if due is not None:
            # A little late, never a little early: a tick before its deadline would be answered by another deadline.
            delay = max(due - now, 0.0) + 0.001
            job.timer = asyncio.get_running_loop().call_later(delay, self.feed, job, events.Tick())

    # -- scheduling

    def _open_demands(self) -> list[scheduler.Demand]:
        return [demand for job in self._open.values() if (demand := job.machine.demand()) is not None]

    def _parting(self) -> int:
        """The slots that jobs at their end have yet to give back."""
        return sum(job.machine.occupied for job in self._open.values() if job.ended)

    def _reschedule(self) -> None:
        """Hand out what is free, until nothing changes. A grant's own turn does not nest another one."""
        if self._scheduling or self._closing:
            return
        self._scheduling = True
        try:
            while True:
                demands = self._open_demands()
                grants = scheduler.schedule(demands, self._launcher.capacity(), self._parting())
                changed = [demand for demand in demands if grants[demand.job] != demand.granted]
                for demand in changed:
                    self.feed(self._jobs[demand.job], events.Scheduled(grants[demand.job]))
                if not changed or self._open_demands() == demands:
                    return
        finally:
            self._scheduling = False

    # -- small things

    def _load(self, row: JobRow, token: str) -> Job:
        job = Job(
            id=row.id,
            document=parse_job(row.document, bundled=True),
            bundle=row.bundle,
            token=token,
            folder=str(self._folder.job(row.id)),
            machine=JobMachine(JobRecord.from_json(row.record), self.policy),
            progress=Progress.from_json(row.progress),
            events=self._store.events(row.id, last=NUM_EVENTS),
        )
        self._jobs[job.id] = job
        if not job.machine.done:
            self._open[job.id] = job
        self._tokens.add(_digest(token))
        return job

    def _find_open(self, ref: str, verb: str) -> Job:
        job = self.find(ref)
        if job.ended:
            raise ConflictError(f"the job {job.id} has ended ({job.machine.state.value}) and cannot be {verb}")
        return job

    def _new_id(self, name: str) -> str:
        while True:
            identity = f"{name}-{''.join(secrets.choice(_ID_ALPHABET) for _ in range(6))}"
            if identity not in self._jobs and not self._folder.job(identity).exists():
                return identity

    def _note(self, job: Job, kind: str, message: str) -> float:
        """Into the job's history; the time that stands there."""
        row = EventRow(self._clock.now(), kind, message[:_MAX_MESSAGE])
        try:
            self._store.save(job.id, events=[row])
        except StoreError as error:
            self._give_up(error)
            return row.time
        job.events.append(row)
        job.touch()
        return row.time

    async def _until_idle(self) -> None:
        """Wait until no job that has ended, or is ending, holds an agent."""
        while any(job.ended or job.machine.occupied for job in self._open.values()):
            self._idle.clear()
            await self._idle.wait()

    async def _save_progress(self) -> None:
        while True:
            await asyncio.sleep(_SAVE_PROGRESS_SECONDS)
            for job in self._jobs.values():
                self._save_progress_of(job)

    def _save_progress_of(self, job: Job) -> None:
        if not job.progress_saved and self.failure is None:
            try:
                self._store.save(job.id, progress=job.progress.to_json())
            except StoreError as error:
                self._give_up(error)
            job.progress_saved = True

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(_report)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _report(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("a task of the coordinator failed", exc_info=task.exception())
