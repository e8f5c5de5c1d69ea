"""The one loop: events go into the jobs' machines, what they decide is carried out, in order.

Nothing in the path of a loss waits: a broken stream is an event, its turn of the machine is written to the store and
the survivors' messages are queued before the call returns. What takes time (starting a process) runs beside, in order
per worker, and comes back as an event.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from cordee.coordinator.core import actions, events, scheduler
from cordee.coordinator.core.record import JobRecord
from cordee.coordinator.service.agents import Agents
from cordee.coordinator.service.job import Clock, Job
from cordee.coordinator.service.lag import watch_lag
from cordee.coordinator.service.launchers.base import AgentSpec, Launcher
from cordee.coordinator.service.metrics import Metrics
from cordee.coordinator.service.outgoing import Mailbox
from cordee.coordinator.service.store import Change, EventRow, Store, StoreError, WorldRow

__all__ = ["Turns"]

_log = logging.getLogger(__name__)

_SAVE_SECONDS: Final = 1.0
_MAX_MESSAGE: Final = 2000
_MAX_STACK: Final = 16_000


class Turns:
    """The jobs of one coordinator, and their turns. Used on one event loop."""

    def __init__(
        self,
        *,
        store: Store,
        launcher: Launcher,
        metrics: Metrics,
        clock: Clock,
        environment: Callable[[Job, str], dict[str, str]],
    ) -> None:
        self.mailbox: Mailbox = lambda _message: None
        self.jobs: dict[str, Job] = {}
        self.open: dict[str, Job] = {}
        """Those that hold slots or want some: the history of a service must not slow down its next recovery."""
        self.demands = scheduler.Demands()
        """What those ask for."""
        self.listeners: list[Callable[[Job], None]] = []
        """Told of every job that may look different now."""
        self.closing = False
        """Nothing is decided any more."""
        self.failure: StoreError | None = None
        self.failed = asyncio.Event()
        """Set when the store failed: nothing is decided any more, and another coordinator must take over."""
        self._store = store
        self._launcher = launcher
        self._metrics = metrics
        self._clock = clock
        self._environment = environment
        self._agents = Agents(launcher, self._agent_told)
        self._background: set[asyncio.Task[None]] = set()
        self._scheduling = False
        self._idle = asyncio.Event()

    # -- life

    def begin(self) -> None:
        """Watch the agents, and save progress now and then."""
        self.spawn(self._agents.watch())
        self.spawn(self._save_now_and_then())
        self.spawn(watch_lag(self._metrics.service.loop_lag.observe))

    async def close(self) -> None:
        """Stop deciding; jobs and their workers go on without us."""
        self.stop()
        for job in self.jobs.values():
            if job.timer is not None:
                job.timer.cancel()
        self._save()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._agents.close()

    def stop(self) -> None:
        """Decide nothing more, and wake everybody who watches a job."""
        self.closing = True
        for job in self.jobs.values():
            job.touch()

    def add(self, job: Job) -> None:
        """One more job."""
        self.jobs[job.id] = job
        job.touched = self._touched
        if not job.machine.done:
            self.open[job.id] = job
            self._note_demand(job)

    def drop(self, job: Job) -> None:
        """A job that is over has been removed. What somebody who still holds it says about it counts for nothing."""
        assert job.machine.done
        del self.jobs[job.id]
        if job.timer is not None:
            job.timer.cancel()

    def _touched(self, job: Job) -> None:
        for listener in self.listeners:
            listener(job)

    async def until_idle(self) -> None:
        """Wait until no job that has ended, or is ending, holds an agent."""
        while any(job.ended or job.machine.occupied for job in self.open.values()):
            self._idle.clear()
            await self._idle.wait()

    # -- a turn

    def feed(self, job: Job, event: events.Event) -> None:
        """One turn: the event in, what is decided done. Messages are queued, and everything that counts is stored, on
        return."""
        if self.closing or job.id not in self.jobs:
            return
        now = self._clock.now()
        decided = job.machine.handle(event, now)
        if decided:
            try:
                self._persist(job, decided, now)
            except StoreError as error:
                self.give_up(error)
                return
            for action in decided:
                self._carry_out(job, action)
        if job.machine.done:
            self.open.pop(job.id, None)
        self._set_timer(job, now)
        # An exit frees a slot, even if nothing else follows.
        if decided or isinstance(event, events.AgentExited | events.AgentAbsent):
            job.touch()
            self._idle.set()
            # Who asks for nothing else, and holds nothing else, changes nobody's grant.
            if self._note_demand(job):
                self.reschedule()

    def _note_demand(self, job: Job) -> bool:
        return self.demands.note(job.id, job.machine.demand(), job.machine.occupied)

    def give_up(self, error: StoreError) -> None:
        """Decide nothing more: what cannot be stored must not be acted on, and the machine is a turn ahead of the
        store. The next one starts afresh."""
        _log.critical("%s", error)
        self.failure = error
        self.stop()
        self.failed.set()

    # -- carrying out

    def _persist(self, job: Job, decided: list[actions.Action], now: float) -> None:
        record = next((action.record for action in decided if isinstance(action, actions.Persist)), None)
        rows = [
            EventRow(now, action.kind, action.message[: _room(action.kind)])
            for action in decided
            if isinstance(action, actions.RecordEvent)
        ]
        if not rows and (record is None or _is_sentence(job.stored_record, record)):
            return  # `_save` has it within a second, if no turn has it before
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
        stored = self._store.save(
            job.id,
            record=record.to_json() if record is not None else None,
            progress=job.progress.to_json() if not job.progress_saved else None,
            world=row,
            events=rows,
        )
        job.progress_saved = True
        job.stored_record = record or job.stored_record
        job.events.extend(stored)
        if row is not None:
            job.stored_generation = row.generation
            self._metrics.observe_world(job.id, row.cause)

    def _carry_out(self, job: Job, action: actions.Action) -> None:
        match action:
            case actions.SendWorld() | actions.SendChangePending() | actions.SendAbort():
                self.mailbox(action)
            case actions.SendProbe() | actions.SendStop():
                self.mailbox(action)
            case actions.StartAgent(worker):
                environment = self._environment(job, worker)
                self._agents.start(AgentSpec(worker, job.id, Path(job.folder), environment, job.document.spec))
            case actions.StopAgent(worker, grace_seconds, start):
                self._agents.stop(job.id, worker, grace_seconds, start)
            case actions.RecordRecovery(cause, seconds):
                self._metrics.observe_recovery(job.id, cause.value, seconds)
            case actions.RecordDeath(death=death):
                self._metrics.observe_death(job.id, death)
            case actions.RecordAgentExit(cause=cause):
                self._metrics.observe_agent_exit(job.id, cause)
            case actions.SetState(state, reason):
                _log.info("job %s: %s%s", job.id, state.value, f" ({reason})" if reason else "")
            case actions.Persist() | actions.RecordEvent():
                pass  # written already, together

    def _agent_told(self, identity: str, event: events.AgentExited | events.AgentNoted | events.AgentAbsent) -> None:
        job = self.jobs.get(identity)
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

    @contextlib.contextmanager
    def nothing_granted(self) -> Iterator[None]:
        """Within it nothing is granted, whatever happens: not before everybody who has something is known."""
        self._scheduling = True
        try:
            yield
        finally:
            self._scheduling = False

    def reschedule(self) -> None:
        """Hand out what is free, until nothing changes. A grant's own turn does not nest another one."""
        if self._scheduling or self.closing:
            return
        self._scheduling = True
        try:
            while True:
                version = self.demands.version
                changes = self.demands.changes(self._launcher.capacity())
                for job, count in changes.items():
                    self.feed(self.jobs[job], events.Scheduled(count))
                if self.demands.version == version:
                    return
        finally:
            self._scheduling = False

    # -- what is kept

    def note(self, job: Job, kind: str, message: str) -> float:
        """Into the job's history; the time that stands there."""
        row = self.sentence(kind, message)
        if job.id not in self.jobs:
            return row.time
        try:
            job.events.extend(self._store.save(job.id, events=[row]))
        except StoreError as error:
            self.give_up(error)
            return row.time
        job.touch()
        return row.time

    def sentence(self, kind: str, message: str) -> EventRow:
        """A line of a history, as long as it may be."""
        return EventRow(self._clock.now(), kind, message[: _room(kind)])

    async def _save_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(_SAVE_SECONDS)
            self._save()

    def _save(self) -> None:
        """What was not worth a transaction of its own: progress, and sentences for people."""
        late = [job for job in self.jobs.values() if not (job.progress_saved and job.record_saved)]
        if not late or self.failure is not None:
            return
        changes = [
            Change(
                job.id,
                record=None if job.record_saved else job.machine.record.to_json(),
                progress=None if job.progress_saved else job.progress.to_json(),
            )
            for job in late
        ]
        try:
            self._store.save_all(changes)
        except StoreError as error:
            self.give_up(error)
            return
        for job in late:
            job.progress_saved, job.stored_record = True, job.machine.record

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Work beside the turns, for as long as they go on."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(_report)


def _is_sentence(before: JobRecord, after: JobRecord) -> bool:
    """Whether nothing but the sentence that says why a job is in its state has changed."""
    return before.reason != after.reason and replace(before, reason=after.reason) == after


def _room(kind: str) -> int:
    """How long an event may be: those that carry a stack need more."""
    return _MAX_STACK if kind in ("stack", "stuck") else _MAX_MESSAGE


def _report(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("a task of the coordinator failed", exc_info=task.exception())
