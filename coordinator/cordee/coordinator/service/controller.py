"""Jobs, and all that is done to them: what people ask for and what workers say, on the coordinator's event loop.

After a restart the jobs' machines are made again from the store; what really runs is asked from the launcher, and from
the workers, who attach again by themselves. What the machines decide is carried out by `turns`.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from cordee.coordinator.bundle import Bundle
from cordee.coordinator.config import Retention
from cordee.coordinator.core import events, scheduler
from cordee.coordinator.core.model import JobState, Policy
from cordee.coordinator.core.record import JobRecord
from cordee.coordinator.errors import UnavailableError
from cordee.coordinator.faults import Fault
from cordee.coordinator.service import reading
from cordee.coordinator.service.admission import (
    check_bundle,
    check_capacity,
    check_launcher,
    check_source,
    has_source,
    placement,
)
from cordee.coordinator.service.auth import new_token
from cordee.coordinator.service.bundles import keep_bundle
from cordee.coordinator.service.environment import agent_environment
from cordee.coordinator.service.folder import StateFolder
from cordee.coordinator.service.home import settle
from cordee.coordinator.service.job import NUM_EVENTS, Clock, Job, Progress
from cordee.coordinator.service.launchers.base import Launcher
from cordee.coordinator.service.listing import page_of
from cordee.coordinator.service.loading import load_job
from cordee.coordinator.service.logs import LogLine
from cordee.coordinator.service.metrics import Metrics
from cordee.coordinator.service.names import asked_by, new_id
from cordee.coordinator.service.outgoing import Mailbox, faults_for
from cordee.coordinator.service.register import Register
from cordee.coordinator.service.removal import Sweeper, check_removable
from cordee.coordinator.service.rest.models import EventPage, FaultView, JobList, JobView, Placement
from cordee.coordinator.service.store import EventRow, JobRow, Store, StoreError
from cordee.coordinator.service.turns import Turns
from cordee.coordinator.spec import JobDocument, parse_job

__all__ = ["Controller"]

_log = logging.getLogger(__name__)


class Controller:
    """One coordinator's jobs. Made and used on one event loop."""

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
        retention: Retention | None = None,
    ) -> None:
        self.policy = policy or Policy()
        self._folder = folder
        self._store = store
        self._launcher = launcher
        self._clock = Clock()
        self.metrics = Metrics(self.every, version=version, clock=self._clock.now)
        self.metrics.capacity = launcher.capacity
        store.on_write = self.metrics.service.store.observe
        self._turns = Turns(
            store=store,
            launcher=launcher,
            metrics=self.metrics,
            clock=self._clock,
            environment=lambda job, worker: agent_environment(
                job,
                worker,
                place=launcher.environment(job.id, Path(job.folder), job.token, job.document.spec),
                coordinator=coordinator_address,
                orphan_seconds=orphan_seconds,
            ),
        )
        self._register = Register(self._turns.jobs)
        self._sweeper = Sweeper(folder, store, retention, self._turns.jobs)
        self.feed = self._turns.feed
        """One turn of a job: the event in, what is decided done."""

    # -- life

    async def start(self) -> None:
        """Take up what the store, the launcher and the workers know."""
        running: dict[str, set[str]] = {}
        for agent in await self._launcher.list():
            running.setdefault(agent.job, set()).add(agent.worker)
        home = await self._launcher.home()
        if home is not None:
            settle(self._store, home)  # before anything is decided: nobody is there may mean that we look elsewhere
        tokens, keys = self._store.tokens(), self._store.keys()
        with self._turns.nothing_granted():
            for row in reversed(self._store.jobs()):
                try:
                    document = parse_job(row.document, bundled=True)
                    told = self._store.events(row.id, last=NUM_EVENTS)
                    job = self._add(row, document, tokens.get(row.id, ""), keys.get(row.id, ""), told)
                except (ValueError, TypeError, KeyError):
                    _log.exception("the job %s cannot be read from the store and is passed over", row.id)
                    running.pop(row.id, None)  # whoever can read it takes them up
                    continue
                if not job.machine.done:
                    self.feed(job, events.Recovered(frozenset(running.pop(row.id, ()))))
                if not (job.ended or job.machine.generation or has_source(self._folder, job.document, job.bundle)):
                    self.feed(job, events.JobRefused(f"its source is gone: there is no bundle {job.bundle} any more"))
        for stray in [worker for workers in running.values() for worker in workers]:
            _log.warning("the agent %s belongs to no job of this coordinator and is stopped", stray)
            await self._launcher.stop(stray, grace_seconds=self.policy.stop_seconds)
        self._turns.begin()
        self._turns.spawn(self._sweeper.run(self._remove, self._clock.now, self._turns.give_up))
        self._turns.reschedule()

    async def close(self) -> None:
        """Stop deciding; jobs and their workers go on without us."""
        await self._turns.close()

    def stop_watching(self) -> None:
        """End every watch and every followed log, so that their connections can be closed."""
        self._turns.stop()

    async def stop_jobs(self, reason: str, *, grace_seconds: float | None = None) -> None:
        """Cancel every job and wait until its agents are gone; those that have not gone after the grace are killed."""
        grace_seconds = self.policy.stop_seconds + 2.0 if grace_seconds is None else grace_seconds
        for job in list(self._turns.jobs.values()):
            if not job.ended:
                self.feed(job, events.CancelRequested(reason))
        try:
            async with asyncio.timeout(grace_seconds):
                await self._turns.until_idle()
        except TimeoutError:
            for agent in await self._launcher.list():
                await self._launcher.stop(agent.worker, grace_seconds=0.0)
            try:
                async with asyncio.timeout(5.0):
                    await self._turns.until_idle()
            except TimeoutError:
                _log.error("some agents could not be killed; they are taken up by the next coordinator")

    @property
    def closing(self) -> bool:
        """Whether nothing is decided any more."""
        return self._turns.closing

    def check_store(self) -> None:
        """StoreError when what is decided now could not be written."""
        self._store.check()

    @property
    def failure(self) -> StoreError | None:
        """Why the store cannot be written any more, once that is so."""
        return self._turns.failure

    @property
    def failed(self) -> asyncio.Event:
        """Set when the store failed: nothing is decided any more, and another coordinator must take over."""
        return self._turns.failed

    @property
    def mailbox(self) -> Mailbox:
        """How workers are reached."""
        return self._turns.mailbox

    @mailbox.setter
    def mailbox(self, mailbox: Mailbox) -> None:
        self._turns.mailbox = mailbox

    # -- for people

    def plan(self, document: JobDocument) -> Placement:
        """Where a job would run now; an error when it never could."""
        capacity = self._launcher.capacity()
        workers = document.spec.workers
        check_launcher(self._launcher, document.spec)
        check_capacity(self._launcher, workers.min)
        occupied = sum(job.machine.occupied for job in self._turns.open.values())
        mine = scheduler.Demand("", workers.min, workers.max, submitted=self._clock.now())
        granted = scheduler.schedule([*self._turns.demands, mine], capacity, self._turns.demands.parting)[""]
        return placement(self._launcher, workers, granted, occupied)

    async def submit(self, document: JobDocument, bundle: str | None = None, *, key: str = "", by: str = "") -> JobView:
        """Take a job in. It is on disk when this returns. Under a key that is known already: the job of that time."""
        ignored = check_launcher(self._launcher, document.spec)
        check_capacity(self._launcher, document.spec.workers.min)
        bundle = await asyncio.to_thread(check_source, self._folder, document, bundle)
        known = self.submitted(key) if key else None
        if known is not None:
            return known.view(self._clock.now())
        check_bundle(self._folder, bundle)  # it may have been removed since; from here on it is not
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
        noun = "worker" if str(workers) == "1" else "workers"
        said = [("submitted", f"{document.spec.script}, {workers} {noun}{asked_by(by)}")]
        said += (("ignored", message) for message in ignored)
        self._folder.job(identity).mkdir(parents=True, exist_ok=True)
        told = self._store.create_job(row, token, key=key, events=[self._turns.sentence(*words) for words in said])
        job = self._add(row, document, token, key, told)
        job.touch()
        self._turns.reschedule()
        return job.view(self._clock.now())

    def jobs(
        self, *, states: Collection[str] = (), name_prefix: str = "", after: str | None = None, limit: int
    ) -> JobList:
        """The newest jobs in these states, with such a name, after a place; and the place that the next come after."""
        page = page_of(self.every(), states=states, name_prefix=name_prefix, after=after, limit=limit)
        now = self._clock.now()
        return JobList(jobs=[job.view(now) for job in page.jobs], next=page.next)

    def every(self) -> Iterable[Job]:
        """All jobs, oldest first, as they are held."""
        return self._turns.jobs.values()

    def submitted(self, key: str) -> Job | None:
        """The job that was taken in under this key."""
        return self._register.of_key(key)

    def now(self) -> float:
        """Unix seconds, by the clock that everything here goes by."""
        return self._clock.now()

    @property
    def num_open(self) -> int:
        """How many jobs are not over."""
        return len(self._turns.open)

    def subscribe(self, listener: Callable[[Job], None]) -> Callable[[], None]:
        """Have `listener` called, on the loop, whenever a job may look different; the result ends that."""
        self._turns.listeners.append(listener)
        return lambda: self._turns.listeners.remove(listener)

    async def keep_bundle(self, bundle: Bundle) -> None:
        """Take a source in, as if it had been uploaded."""
        await keep_bundle(self._folder, bundle)

    def job(self, ref: str) -> JobView:
        """A job by its id, or the newest of that name."""
        return self.find(ref).view(self._clock.now())

    async def until_started(self, timeout_seconds: float) -> None:
        """Wait until no job is starting, but not for longer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                for job in list(self._turns.jobs.values()):
                    while job.machine.state is JobState.STARTING and not self._turns.closing:
                        await job.changed(job.version, timeout_seconds)

    def find(self, ref: str) -> Job:
        """A job by its id, or the newest of that name."""
        return self._register.find(ref)

    async def scale(self, ref: str, minimum: int, maximum: int, *, by: str = "") -> JobView:
        """Give a job another range of worker counts."""
        job = self._register.find_open(ref, "scaled")
        check_capacity(self._launcher, minimum)
        if by:
            self._turns.note(job, "asked", f"{minimum}:{maximum} workers{asked_by(by)}")
        self.feed(job, events.ScaleRequested(minimum, maximum))
        self._turns.reschedule()
        return job.view(self._clock.now())

    async def cancel(self, ref: str, *, by: str = "") -> JobView:
        """End a job."""
        job = self._register.find_open(ref, "cancelled")
        self.feed(job, events.CancelRequested(f"cancelled{asked_by(by)}") if by else events.CancelRequested())
        return job.view(self._clock.now())

    def delete(self, ref: str, *, by: str = "") -> JobView:
        """Remove a job that has ended, with all that it has left. What it was like."""
        job = self._register.find_only(ref)
        check_removable(job, self.every())
        if self._turns.closing:
            raise UnavailableError("the coordinator ends", hint="ask again")
        view = job.view(self._clock.now())
        self._remove(job, asked_by(by))
        return view

    def inject(self, ref: str, fault: Fault) -> FaultView:
        """Send a fault to the worker (or the two) that is to suffer it. The job's history has it before it happens."""
        job = self._register.find_open(ref, "disturbed")
        messages = faults_for(job, fault)
        time = self._turns.note(job, "fault", str(fault))
        for message in messages:
            self.mailbox(message)
        return FaultView(
            time=time, kind=fault.kind, worker=fault.worker, peer=fault.peer, seconds=fault.seconds, amount=fault.amount
        )

    def history(self, ref: str, *, after: int, limit: int) -> EventPage:
        """A job's history from its beginning, a page at a time."""
        return reading.history(self._store, self.find(ref), after=after, limit=limit)

    def watch(self, ref: str) -> AsyncIterator[JobView]:
        """The job whenever it changes, until it has ended. Raises at once when there is none."""
        return reading.watch(self.find(ref), now=self._clock.now, closing=lambda: self._turns.closing)

    def logs(
        self, ref: str, *, follow: bool, rank: int | None, worker: str | None, tail: int | None
    ) -> AsyncIterator[list[LogLine]]:
        """A job's output. Raises at once when there is no such job."""
        job, closing = self.find(ref), lambda: self._turns.closing
        return reading.logs(self._store, job, follow=follow, rank=rank, worker=worker, tail=tail, closing=closing)

    # -- for workers

    def find_id(self, identity: str) -> Job | None:
        """A job by its id only."""
        return self._turns.jobs.get(identity)

    def job_of_token(self, token: str) -> str | None:
        """The id of the job whose worker token it is."""
        return self._register.of_token(token)

    def progress(self, job: Job, told: Progress, waits: Mapping[str, float]) -> None:
        """Rank 0's word on how far training is; `waits`: by worker, how long it waited for data in each step."""
        before = job.progress.step
        if job.advance(told) and told.step != before:
            self.metrics.observe_steps(job.id, before, told.step, told.step_seconds, told.data_seconds)
            world = job.machine.record.world
            members = {member.worker for member in world.members} if world is not None else ()
            known = {worker: seconds for worker, seconds in waits.items() if worker in members}
            self.metrics.observe_waits(job.id, before, told.step, known)

    def checkpointed(self, job: Job, step: int, num_bytes: int, seconds: float) -> None:
        """A checkpoint has been committed, after so many seconds; without a size, it was found there."""
        if step != job.progress.checkpoint_step and num_bytes:  # who attaches again says it again
            self.metrics.observe_checkpoint(job.id, num_bytes, seconds)
        job.progress = replace(job.progress, checkpoint_step=step, checkpoint_at=self._clock.now())
        job.progress_saved = False
        job.touch()

    def note(self, job: Job, kind: str, message: str) -> None:
        """A worker's sentence for the job's history."""
        world = job.machine.record.world
        self.metrics.observe_note(job.id, kind, message, "" if world is None else world.cause)
        self._turns.note(job, kind[:64] or "note", message)

    # -- small things

    def _add(self, row: JobRow, document: JobDocument, token: str, key: str, told: list[EventRow]) -> Job:
        job = load_job(row, document, token, key, told, self._folder.job(row.id), self._launcher, self.policy)
        self._turns.add(job)
        self._register.add(job)
        return job

    def _remove(self, job: Job, why: str = ", as the retention in the configuration has it") -> None:
        if self._turns.closing or job.id not in self._turns.jobs:
            return
        try:
            self._store.remove_job(job.id)
        except StoreError as error:
            self._turns.give_up(error)
            raise
        _log.info("job %s removed%s", job.id, why)
        self._turns.drop(job)
        self._register.drop(job)
        job.touch()
        self._sweeper.wake()

    def _new_id(self, name: str) -> str:
        while True:
            identity = new_id(name)
            if identity not in self._turns.jobs and not self._folder.job(identity).exists():
                return identity
