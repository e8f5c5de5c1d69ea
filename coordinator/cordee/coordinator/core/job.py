"""One job: events in, actions out. Composes the roster, the rendezvous, the life cycle and the failure policy.

`handle` first takes the event into the roster, which is local and small; then `_reconcile` looks at the whole and says
what must be done, whatever the event was. So there is one place that forms worlds, one that starts agents and one that
ends a job, and an event that comes at an odd moment needs no rule of its own.

What was decided where the protocol left a choice:

- **Who is who.** A member is a worker *and* its incarnation. An incarnation that was lost, replaced or released is
  fenced: it is told Stop(FENCED) when it is heard again, and never becomes a member, also after the coordinator's
  restart. A newer incarnation of a worker takes the older one's place, attached or not, since an agent runs one process
  at a time.
- **A stream that breaks** makes its member lost at once for forming a world, but is no reason to break a world that
  goes on: a worker that attaches again before anybody else has noticed is a member still. If neither it nor its peers
  are heard of for the heartbeat timeout, the loss is confirmed, and the others are told Abort. After the coordinator's
  own restart it is the other way round: known members are waited for, since they train on meanwhile; for a shorter time
  when their peers say that they lost them.
- **A broken world.** Once one member says that its exchange broke, or a loss is confirmed, all others are told Abort,
  so that nobody waits for a connection that only half broke.
- **A member that never got its world** (the coordinator died between storing and sending it, or the stream broke) says
  that it waits from an older generation: it counts as arrived, and the world it missed as broken.
- **An agent that exits** says nothing of a worker whose stream is up; its stream will say it. It is started again at
  once, and the new process takes the old one's place. A missing member whose agent exits is lost for certain.
- **Finishing.** After the first Finished no world is formed: who waits is told Stop(FINISHED), who is lost is not
  replaced, and the rest may finish (see `lifecycle.finish_due`). Each Finished is acknowledged by Stop(FINISHED), after
  it is stored; a worker whose acknowledgement does not come says it again to the next coordinator. Different weights
  fail the job; so does a script that raises meanwhile; a cancellation still wins.
- **A coordinator that slept** (a suspended laptop, a debugger) does not take its own sleep for its workers' silence: it
  asks for a Tick every second while it watches anybody, and what was missed beyond that is added to every watch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from cordee.coordinator.core import events
from cordee.coordinator.core.actions import (
    Action,
    Persist,
    RecordEvent,
    RecordRecovery,
    SendAbort,
    SendChangePending,
    SendStop,
    SendWorld,
    SetState,
    StartAgent,
    StopAgent,
)
from cordee.coordinator.core.failure import Verdict, describe_exit, judge, retry
from cordee.coordinator.core.lifecycle import STOP_REASONS, TRANSITIONS, Facts, finish_due, state_of
from cordee.coordinator.core.model import (
    TERMINAL_STATES,
    ArrivalReason,
    Cause,
    JobError,
    JobState,
    LossCause,
    Member,
    Policy,
    StopReason,
    World,
    worker_id,
    worker_index,
)
from cordee.coordinator.core.record import FinishedWorker, JobRecord
from cordee.coordinator.core.rendezvous import Attendee, Decision, Muster, change_needed, decide
from cordee.coordinator.core.roster import Agent, Loss, Missing, Phase, Session, Slot
from cordee.coordinator.core.scheduler import Demand

__all__ = ["JobMachine", "WorkerView"]


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker as people see it. `state`: starting | joining | waiting | training | leaving | finished | stopping |
    lost | given up."""

    worker: str
    incarnation: str
    rank: int | None
    state: str
    step: int | None
    restarts: int
    pid: int


class JobMachine:
    """A job's state machine.

    A new job: `JobMachine(JobRecord(job=…, minimum=…, maximum=…, created_at=now))`, stored by the caller; it does
    nothing until `Scheduled`. After the coordinator's restart: `JobMachine(stored_record)`, then `Recovered` as first
    event.
    """

    def __init__(self, record: JobRecord, policy: Policy | None = None) -> None:
        self._policy = policy or Policy()
        self._record = record
        """The durable facts that do not change at every turn; `record` completes it from the roster."""
        self._stored = record
        self._slots = {slot.worker: Slot.from_record(slot) for slot in record.slots}
        self._members: dict[str, Member] = {}
        self._ranks: dict[str, int] = {}
        self._take_world(record.world)
        self._loss: Loss | None = None
        self._broken = False
        self._asked: set[str] = set()
        """Members told ChangePending in this generation."""
        self._aborted: set[str] = set()
        """Members told Abort in this generation."""
        self._drained: Cause | None = None
        """Why somebody was released since the last world."""
        self._last_arrival = float("-inf")
        self._finish_mark = float("-inf")
        self._now = float("-inf")
        self._deadline: float | None = None
        self._actions: list[Action] = []

    # ------------------------------------------------------------------------------------------------ what it offers

    def handle(self, event: events.Event, now: float) -> list[Action]:
        """Takes one event and says what to do about it, in order.

        `now` is wall-clock seconds, the same clock over restarts; a clock that steps back stands still here.
        """
        now = max(now, self._now)
        self._forgive_sleep(now)
        self._now = now
        if isinstance(event, events.WorkerHeard):
            self._on_heard(event)
            return []
        self._actions = []
        self._HANDLERS[type(event)](self, event)
        self._reconcile()
        record = self.record
        if record != self._stored:
            self._stored = record
            self._actions.insert(0, Persist(record))
        return self._actions

    def next_deadline(self) -> float | None:
        """When `Tick` is due, whatever else happens; None: only an event can change anything. A Tick too early is
        harmless."""
        return self._deadline

    @property
    def record(self) -> JobRecord:
        """The durable half as it is now: what the last `Persist` carried."""
        return replace(self._record, slots=tuple(slot.record() for slot in self._in_order()))

    @property
    def state(self) -> JobState:
        return self._record.state

    @property
    def generation(self) -> int:
        return self._record.generation

    @property
    def occupied(self) -> int:
        """How many of the launcher's slots the job holds or is about to hold, those still draining included."""
        if self.state in TERMINAL_STATES:
            return sum(slot.agent is not Agent.ABSENT for slot in self._slots.values())
        return sum(not slot.given_up for slot in self._slots.values())

    @property
    def done(self) -> bool:
        """In a terminal state, and every agent is gone: the machine may be dropped."""
        return self.state in TERMINAL_STATES and not self.occupied

    def demand(self, priority: int = 0) -> Demand | None:
        """What to tell the scheduler. A job at its end demands nothing, but `occupied` still counts while it stops."""
        if self.state in TERMINAL_STATES:
            return None
        record = self._record
        return Demand(
            job=record.job,
            minimum=record.minimum,
            maximum=max(record.minimum, record.maximum - self._given_up()),
            submitted=record.created_at,
            priority=priority,
            granted=record.wanted,
            occupied=self.occupied,
        )

    def workers(self) -> tuple[WorkerView, ...]:
        """By slot number."""
        return tuple(self._view(slot) for slot in self._in_order())

    # ---------------------------------------------------------------------------------------------- workers' messages

    def _on_attached(self, event: events.WorkerAttached) -> None:
        def turn_away(reason: StopReason, message: str) -> None:
            self._actions.append(SendStop(event.worker, event.incarnation, reason, message))

        if self.state in TERMINAL_STATES:
            return turn_away(STOP_REASONS[self.state], f"the job has {self.state}")
        slot = self._slots.get(event.worker)
        if slot is None or slot.given_up:
            return turn_away(StopReason.DRAINED, "the job does not have this worker any more")
        member = self._is_member(slot, event.incarnation)
        if slot.retiring and not member:
            slot.fence(event.incarnation)  # also if the slot is wanted again before it has read this
            return turn_away(StopReason.DRAINED, "the job was scaled down")
        if event.incarnation in slot.fenced:
            return turn_away(StopReason.FENCED, "the job goes on without this process")
        if event.generation > (self.generation if member else 0):
            slot.fence(event.incarnation)
            return turn_away(StopReason.FENCED, f"it comes from generation {event.generation}, which is not current")
        if self._finishing and event.incarnation != slot.incarnation:
            return turn_away(StopReason.FINISHED, "the job has its result already")
        if slot.incarnation != event.incarnation:
            self._replace(slot, event.incarnation)
        slot.missing = None
        slot.session = Session(
            incarnation=event.incarnation,
            address=event.address,
            pid=event.pid,
            phase=Phase.TRAINING if member else Phase.JOINING,
            step=event.step,
            heard=self._now,
        )
        if slot.agent is not Agent.STOPPING:
            slot.stop_by = None
        if not self._broken and not any(s.missing for s in self._slots.values()):
            self._loss = None  # its stream broke, and it is back: nothing was lost
        return None

    def _on_detached(self, event: events.WorkerDetached) -> None:
        slot, session = self._current(event.worker, event.incarnation)
        if slot is None or session is None:
            return
        slot.session = None
        # At the job's end the time that it was given to go by stands: nobody comes back.
        going = self.state in TERMINAL_STATES or (session.phase is Phase.STOPPED and slot.draining)
        if slot.agent is Agent.RUNNING and not (going and slot.stop_by is not None):
            slot.stop_by = self._now + self._policy.absence_timeout_seconds
        if slot.fail_by is not None:
            slot.fail_by = self._now
        if session.phase is Phase.STOPPED or not self._is_member(slot, session.incarnation):
            return
        if self._finishing:
            if session.phase is not Phase.FINISHED:
                self._lose(slot, LossCause.DISCONNECTED)
            return
        self._note_loss(LossCause.DISCONNECTED)
        slot.missing = Missing(until=self._now + self._policy.heartbeat_timeout_seconds, awaited=False)

    def _on_heard(self, event: events.WorkerHeard) -> None:
        _, session = self._current(event.worker, event.incarnation)
        if session is not None:
            session.heard = self._now
            if event.step is not None and session.phase is Phase.TRAINING:
                session.step = event.step  # for people; what a worker arrived with is what counts

    def _on_arrived(self, event: events.WorkerArrived) -> None:
        slot, session = self._current(event.worker, event.incarnation)
        if slot is None or session is None or session.phase in (Phase.STOPPED, Phase.FINISHED):
            return
        session.heard = self._now
        member = self._is_member(slot, session.incarnation)
        if event.generation > (self.generation if member else 0):
            self._fence(slot, f"it comes from generation {event.generation}, which is not current")
            return
        if self._finishing:
            self._dismiss(slot, StopReason.FINISHED, "the job has its result already")
            return
        if not member and slot.draining:
            self._dismiss(slot, StopReason.DRAINED, "it is not needed any more")
            return
        session.phase = Phase.WAITING
        # A joiner's weights are its own initial ones: state is what was trained in a world.
        session.step = event.step if member else None
        self._last_arrival = self._now
        if member and (event.reason is ArrivalReason.PEER_LOST or event.generation < self.generation):
            self._break(LossCause.MESH)
            limit = self._now + self._policy.heartbeat_timeout_seconds
            for suspect in event.suspects:
                other = self._slots.get(suspect)
                if other is not None and other.missing is not None and other.missing.until > limit:
                    other.missing = replace(other.missing, until=limit)

    def _on_leaving(self, event: events.WorkerLeaving) -> None:
        slot, session = self._current(event.worker, event.incarnation)
        if slot is None or session is None or session.phase in (Phase.STOPPED, Phase.FINISHED):
            return
        session.heard = self._now
        if not session.leaving:
            session.leaving = True
            because = f": {event.reason}" if event.reason else ""
            self._tell("leaving", f"{event.worker} is asked to leave{because}")
        if not self._is_member(slot, session.incarnation):
            self._dismiss(slot, StopReason.DRAINED, "it may go")

    def _on_finished(self, event: events.WorkerFinished) -> None:
        slot, session = self._current(event.worker, event.incarnation)
        if slot is None or session is None or session.phase is Phase.STOPPED:
            return
        session.heard = self._now
        known = any(f.incarnation == event.incarnation and f.worker == event.worker for f in self._record.finished)
        if not known:
            if self._record.world is not None and not self._is_member(slot, event.incarnation):
                self._tell("ended", f"{event.worker}'s script ended without having joined the job's world")
                self._fence(slot, "it has ended without having joined the job's world")
                return
            for other in self._record.finished:
                if other.result.weights_sha256 != event.result.weights_sha256:
                    message = (
                        f"workers ended with different weights: {other.worker} at step {other.result.step} with "
                        f"{other.result.weights_sha256 or 'none'}, {event.worker} at step {event.result.step} with "
                        f"{event.result.weights_sha256 or 'none'}"
                    )
                    self._fail(JobError(message, worker=event.worker), message)
                    return
            rank = self._ranks.get(event.worker, slot.index)
            self._record = replace(
                self._record,
                finished=(
                    *self._record.finished,
                    FinishedWorker(event.worker, event.incarnation, rank, self._now, event.result),
                ),
            )
            self._finish_mark = self._now
            self._tell("finished", f"{event.worker} has finished at step {event.result.step}")
        self._stop(slot, StopReason.FINISHED, "well done", Phase.FINISHED)

    def _on_script_failed(self, event: events.ScriptFailed) -> None:
        slot, session = self._current(event.worker, event.incarnation)
        if slot is None or session is None or session.phase in (Phase.STOPPED, Phase.FINISHED):
            return
        error = JobError(event.exception, event.traceback, event.worker)
        session.phase = Phase.STOPPED
        slot.stop_by = self._now + self._policy.parting_seconds
        self._fail(error, f"the script raised {event.exception}")

    # -------------------------------------------------------------------------------- agents, scheduler, users, clock

    def _on_agent_exited(self, event: events.AgentExited) -> None:
        slot = self._slots.get(event.worker)
        if slot is None:
            return
        blameless, slot.blameless = slot.blameless or slot.agent is Agent.ABSENT, False
        slot.agent, slot.stop_by, slot.start_at = Agent.ABSENT, None, self._now
        if self.state in TERMINAL_STATES or slot.given_up:
            return
        if slot.missing is not None:
            self._lose(slot, LossCause.DISCONNECTED)
        if self._finishing or slot.retiring:
            return
        verdict = judge(event.code)
        words = f"{event.worker}'s agent {describe_exit(event.code, event.message)}"
        if verdict is Verdict.SCRIPT_FAILED:
            # The agent's exit may overtake the worker's own words, which carry the traceback.
            slot.fail_by = self._now + (self._policy.last_words_seconds if slot.session is not None else 0.0)
        elif blameless or verdict is Verdict.LEFT:
            pass
        elif verdict is Verdict.EXHAUSTED:
            self._give_up(slot, words)
        else:
            again = retry(slot.exits, self._now, self._policy)
            slot.exits = again.exits
            if again.at is None:
                self._give_up(slot, f"{words}, {len(again.exits)} times")
            else:
                slot.start_at = again.at
                self._tell("agent_exited", words)

    def _on_scheduled(self, event: events.Scheduled) -> None:
        count = min(event.count, self._record.maximum - self._given_up())
        if self.state not in TERMINAL_STATES and count >= self._record.minimum:
            self._record = replace(self._record, wanted=count)

    def _on_scale_requested(self, event: events.ScaleRequested) -> None:
        if self.state in TERMINAL_STATES:
            return
        for slot in [s for s in self._slots.values() if s.given_up]:
            del self._slots[slot.worker]  # a user who scales asks for another try
        self._record = replace(
            self._record,
            minimum=event.minimum,
            maximum=event.maximum,
            wanted=min(self._record.wanted, event.maximum),
        )
        self._tell("scaled", f"workers: {event.minimum}:{event.maximum}")

    def _on_cancel_requested(self, event: events.CancelRequested) -> None:
        self._end(JobState.CANCELLED, event.reason)

    def _on_job_refused(self, event: events.JobRefused) -> None:
        self._fail(JobError(event.message), event.message)

    def _on_recovered(self, event: events.Recovered) -> None:
        over = self.state in TERMINAL_STATES
        for worker in sorted(event.agents - set(self._slots)):
            self._slots[worker] = Slot(worker=worker, index=worker_index(worker), retiring=True)
        done = {(f.worker, f.incarnation) for f in self._record.finished}
        self._finish_mark = self._now
        for slot in self._slots.values():
            slot.start_at = self._now
            if slot.worker in event.agents:
                slot.agent = Agent.RUNNING
                if over or slot.given_up:
                    slot.stop_by = self._now
                elif slot.incarnation and not slot.retiring:
                    slot.stop_by = self._now + self._policy.absence_timeout_seconds
            mine = self._is_member(slot, slot.incarnation)
            if self._record.world is None and self._finishing and slot.worker in event.agents:
                mine = bool(slot.incarnation)  # a script without an elastic run: its processes are all there is
            if mine and not over and (slot.worker, slot.incarnation) not in done:
                # A worker ends with its agent: one whose agent is gone is not waited for.
                patience = self._policy.reattach_seconds if slot.worker in event.agents else 0.0
                slot.missing = Missing(until=self._now + patience, awaited=True)
        if self.state is JobState.RECOVERING:
            self._break(LossCause.DISCONNECTED)

    def _on_tick(self, event: events.Tick) -> None:
        """Time alone: all is in `_reconcile`."""

    _HANDLERS: ClassVar[dict[type, Callable[[Any, Any], None]]] = {
        events.WorkerAttached: _on_attached,
        events.WorkerDetached: _on_detached,
        events.WorkerArrived: _on_arrived,
        events.WorkerLeaving: _on_leaving,
        events.WorkerFinished: _on_finished,
        events.ScriptFailed: _on_script_failed,
        events.AgentExited: _on_agent_exited,
        events.Scheduled: _on_scheduled,
        events.ScaleRequested: _on_scale_requested,
        events.CancelRequested: _on_cancel_requested,
        events.JobRefused: _on_job_refused,
        events.Recovered: _on_recovered,
        events.Tick: _on_tick,
    }

    # ------------------------------------------------------------------------------------------------- the whole turn

    def _reconcile(self) -> None:
        if self.state not in TERMINAL_STATES:
            self._expire()
        until: float | None = None
        if self.state not in TERMINAL_STATES and self._finishing:
            until = self._finish()
        elif self.state not in TERMINAL_STATES:
            self._resize()
            self._part_with_retired()
            decision = self._meet()
            until = decision.until
            self._call_members()
            self._start_agents()
            self._set_state(decision)
        self._press_on()
        self._deadline = self._next(until)

    def _expire(self) -> None:
        for slot in self._in_order():
            if slot.fail_by is not None and self._now >= slot.fail_by:
                message = "the script raised; its traceback is in the worker's log"
                self._fail(JobError(message, worker=slot.worker), message)
                return
            if slot.missing is not None and self._now >= slot.missing.until:
                self._lose(slot, LossCause.DISCONNECTED)
            session = slot.session
            if session is not None and self._now >= self._silent_at(session):
                self._tell("silent", f"{slot.worker} was not heard for {self._now - session.heard:.1f} s")
                if self._is_member(slot, session.incarnation):
                    self._lose(slot, LossCause.HEARTBEAT)
                self._fence(slot, "it was not heard for too long")
                if slot.agent is Agent.RUNNING:
                    self._stop_agent(slot, 0.0)

    def _finish(self) -> float | None:
        """Ends the job when everybody has finished who will. Returns when to look again."""
        formed = self._record.world is not None
        for slot in self._in_order():
            phase = None if slot.session is None else slot.session.phase
            if phase is Phase.WAITING or (formed and phase is Phase.JOINING):
                self._dismiss(slot, StopReason.FINISHED, "the job has its result already")
        done = {(f.worker, f.incarnation) for f in self._record.finished}
        awaited = [
            self._ranks.get(slot.worker, slot.index)
            for slot in self._in_order()
            if (slot.missing is not None)
            or (
                slot.session is not None
                and slot.session.phase is (Phase.TRAINING if formed else Phase.JOINING)
                and (slot.worker, slot.session.incarnation) not in done
            )
        ]
        due = finish_due(
            finished_ranks=[f.rank for f in self._record.finished],
            awaited_ranks=awaited,
            mark=self._finish_mark,
            finish_seconds=self._policy.finish_seconds,
        )
        if due is not None and self._now >= due:
            self._end(JobState.SUCCEEDED, "")
            return None
        self._set_state(Decision())
        return due

    def _resize(self) -> None:
        """As many usable slots as are wanted. Scaled away first: who goes anyway, who trains not, then high ranks."""
        usable = [slot for slot in self._in_order() if slot.usable]
        excess = len(usable) - self._record.wanted
        if excess > 0:

            def last_to_go(slot: Slot) -> tuple[bool, int, int]:
                rank = self._ranks[slot.worker] if self._is_live(slot) else len(self._ranks)
                return (slot.draining, rank, slot.index)

            for slot in sorted(usable, key=last_to_go)[-excess:]:
                slot.retiring = True
                if slot.session is None and slot.agent is Agent.RUNNING:
                    slot.stop_by = None  # nobody to wait for: `_part_with_retired` stops it now
        for slot in self._in_order():
            if excess < 0 and slot.retiring:
                slot.retiring = False
                excess += 1
        while excess < 0:
            index = next(k for k in range(len(self._slots) + 1) if worker_id(self._record.job, k) not in self._slots)
            worker = worker_id(self._record.job, index)
            self._slots[worker] = Slot(worker=worker, index=index, scaled=self._record.world is not None)
            excess += 1

    def _part_with_retired(self) -> None:
        for slot in [s for s in self._slots.values() if s.retiring]:
            if self._is_live(slot):
                continue  # it leaves at a step boundary
            if slot.session is not None:
                if slot.session.phase is not Phase.STOPPED:
                    self._dismiss(slot, StopReason.DRAINED, "the job was scaled down")
            elif slot.agent is Agent.RUNNING and slot.stop_by is None:
                self._stop_agent(slot, self._policy.stop_seconds)
            elif slot.agent is Agent.ABSENT:
                del self._slots[slot.worker]

    def _meet(self) -> Decision:
        """Forms the next world, if one can be formed, and lets go who may go."""
        decision = decide(self._muster(), self._now)
        if decision.release:
            retiring = any(self._slots[a.worker].retiring for a in decision.release)
            self._drained = Cause.SCALE if retiring else self._drained or Cause.DRAIN
        for attendee in decision.release:
            self._tell("drained", f"{attendee.worker} has left at step {attendee.step}")
            self._dismiss(self._slots[attendee.worker], StopReason.DRAINED, "it has left at a step boundary")
        if decision.form:
            self._form(decision.form)
        return decision

    def _muster(self) -> Muster:
        present: list[Attendee] = []
        awaited = 0
        for slot in self._in_order():
            member = self._is_live(slot)
            if slot.session is not None and slot.session.phase is Phase.WAITING:
                rank = self._ranks[slot.worker] if member else None
                step = slot.session.step
                present.append(Attendee(slot.worker, slot.index, rank, step, slot.draining, slot.usable))
            elif member and (slot.missing is None or slot.missing.awaited):
                awaited += 1
        return Muster(
            minimum=self._record.minimum,
            present=tuple(present),
            awaited=awaited,
            expected=self._expected(),
            usable=sum(slot.usable for slot in self._slots.values()),
            last_arrival=self._last_arrival,
            settle_seconds=self._policy.settle_seconds,
        )

    def _form(self, attendees: tuple[Attendee, ...]) -> None:
        members: list[Member] = []
        for attendee in attendees:
            session = self._slots[attendee.worker].session
            assert session is not None
            members.append(Member(attendee.worker, session.incarnation, session.address, attendee.step))
        world = World(
            generation=self.generation + 1,
            members=tuple(members),
            step=max((m.step for m in members if m.step is not None), default=0),
            cause=self._cause(attendees),
        )
        staying = {(m.worker, m.incarnation) for m in members}
        for old in self._members.values():
            slot = self._slots.get(old.worker)
            if slot is not None and (old.worker, old.incarnation) not in staying:
                slot.fence(old.incarnation)
                slot.missing = None
        if self._loss is not None:
            self._actions.append(RecordRecovery(self._loss.cause, self._now - self._loss.at))
            self._record = replace(self._record, recoveries=self._record.recoveries + 1)
        started_at = self._record.started_at
        self._record = replace(self._record, world=world, started_at=self._now if started_at is None else started_at)
        self._take_world(world)
        self._loss, self._broken, self._drained = None, False, None
        self._asked, self._aborted = set(), set()
        ranks = ", ".join(m.worker.rpartition("-")[2] for m in members)
        self._tell("world", f"generation {world.generation} ({world.cause}) from step {world.step}: {ranks}")
        for member in members:
            slot = self._slots[member.worker]
            slot.joined = True
            assert slot.session is not None
            slot.session.phase = Phase.TRAINING
            self._actions.append(SendWorld(member.worker, member.incarnation, world))

    def _cause(self, attendees: tuple[Attendee, ...]) -> Cause:
        joiners = [self._slots[a.worker] for a in attendees if a.rank is None]
        if self._record.world is None:
            return Cause.START
        if self._loss is not None or len(joiners) == len(attendees):
            return Cause.LOSS
        if self._drained is not None:
            return self._drained
        return Cause.SCALE if any(s.scaled and not s.joined for s in joiners) else Cause.JOIN

    def _call_members(self) -> None:
        """Asks the members of the current world to meet, when there is a reason to, or to break off, when it broke."""
        live = [slot for slot in self._in_order() if self._is_live(slot)]
        world = self._record.world
        if world is None or not live:
            return
        computing = [(s, s.session) for s in live if s.session is not None and s.session.phase is Phase.TRAINING]
        if self._broken:
            lost = tuple(w for w in self._members if w not in {s.worker for s in live if s.missing is None})
            for slot, session in computing:
                if slot.worker not in self._aborted:
                    self._aborted.add(slot.worker)
                    self._actions.append(SendAbort(slot.worker, session.incarnation, world.generation, lost))
            return
        draining = sum(slot.draining for slot in live)
        wanted = change_needed(
            staying=len(live) - draining,
            draining=draining,
            joiners=sum(
                s.session is not None
                and s.session.phase is Phase.WAITING
                and not s.draining
                and not self._is_member(s, s.session.incarnation)
                for s in self._slots.values()
            ),
            minimum=self._record.minimum,
            successors=sum(s.usable for s in self._slots.values()) - sum(s.usable and s.draining for s in live),
        )
        if wanted or self._asked:
            for slot, session in computing:
                if slot.worker not in self._asked:
                    self._asked.add(slot.worker)
                    self._actions.append(SendChangePending(slot.worker, session.incarnation, world.generation))

    def _start_agents(self) -> None:
        for slot in self._in_order():
            if slot.usable and slot.agent is Agent.ABSENT and slot.fail_by is None and self._now >= slot.start_at:
                slot.agent = Agent.RUNNING
                self._actions.append(StartAgent(slot.worker))

    def _set_state(self, decision: Decision) -> None:
        state, reason = state_of(
            Facts(
                wanted=self._record.wanted,
                minimum=self._record.minimum,
                arrived=sum(s.session is not None and s.session.phase is Phase.WAITING for s in self._slots.values()),
                formed=self._record.world is not None,
                finishing=self._finishing,
                broken=self._broken,
                short=self._short(decision),
            )
        )
        self._enter(state, reason)

    def _short(self, decision: Decision) -> int:
        if decision.missing or self._record.world is None or any(self._is_live(s) for s in self._slots.values()):
            return decision.missing
        waiting = sum(s.session is not None and s.session.phase is Phase.WAITING for s in self._slots.values())
        return max(self._record.minimum - waiting, 0)

    def _press_on(self) -> None:
        """Who was told to stop and has not is told by stronger means: its agent by SIGTERM, then by SIGKILL."""
        for slot in self._in_order():
            if slot.stop_by is None or self._now < slot.stop_by:
                continue
            match slot.agent:
                case Agent.RUNNING:
                    self._stop_agent(slot, self._policy.stop_seconds)
                case Agent.STOPPING:
                    self._stop_agent(slot, 0.0)
                case Agent.ABSENT:
                    slot.stop_by = None

    def _next(self, until: float | None) -> float | None:
        times: list[float] = [] if until is None else [until]
        over = self.state in TERMINAL_STATES
        for slot in self._slots.values():
            times.extend(t for t in (slot.stop_by, slot.fail_by) if t is not None)
            if over:
                continue
            if slot.usable and slot.agent is Agent.ABSENT and slot.fail_by is None and not self._finishing:
                times.append(slot.start_at)
            if slot.missing is not None:
                times.append(slot.missing.until)
            if slot.session is not None:
                times.append(self._silent_at(slot.session))
        if not over and any(s.session is not None or s.missing is not None for s in self._slots.values()):
            times.append(self._now + self._policy.tick_seconds)
        soonest = min(times, default=float("inf"))
        return None if soonest == float("inf") else soonest

    # ------------------------------------------------------------------------------------------------------ the parts

    @property
    def _finishing(self) -> bool:
        return bool(self._record.finished)

    def _in_order(self) -> list[Slot]:
        return sorted(self._slots.values(), key=lambda slot: slot.index)

    def _given_up(self) -> int:
        return sum(slot.given_up for slot in self._slots.values())

    def _expected(self) -> int:
        return sum(slot.usable and not slot.draining for slot in self._slots.values())

    def _current(self, worker: str, incarnation: str) -> tuple[Slot | None, Session | None]:
        slot = self._slots.get(worker)
        if slot is None or slot.session is None or slot.session.incarnation != incarnation:
            return None, None
        return slot, slot.session

    def _is_member(self, slot: Slot, incarnation: str) -> bool:
        member = self._members.get(slot.worker)
        return member is not None and member.incarnation == incarnation and incarnation not in slot.fenced

    def _is_live(self, slot: Slot) -> bool:
        """Its process, as far as is known, is a member of the current world."""
        return (slot.session is not None or slot.missing is not None) and self._is_member(slot, slot.incarnation)

    def _silent_at(self, session: Session) -> float:
        """When a session counts as hanging, unless it is heard before."""
        if session.phase in (Phase.STOPPED, Phase.FINISHED):
            return float("inf")
        joining = session.phase is Phase.JOINING
        policy = self._policy
        return session.heard + (policy.joining_timeout_seconds if joining else policy.heartbeat_timeout_seconds)

    def _take_world(self, world: World | None) -> None:
        members = () if world is None else world.members
        self._members = {member.worker: member for member in members}
        self._ranks = {member.worker: rank for rank, member in enumerate(members)}

    def _tell(self, kind: str, message: str) -> None:
        self._actions.append(RecordEvent(kind, message))

    def _note_loss(self, cause: LossCause) -> None:
        if self._loss is None:
            self._loss = Loss(self._now, cause)

    def _break(self, cause: LossCause) -> None:
        self._note_loss(cause)
        self._broken = True

    def _lose(self, slot: Slot, cause: LossCause) -> None:
        """A member is lost for certain."""
        slot.fence(slot.incarnation)
        slot.missing = None
        self._finish_mark = self._now
        self._tell("lost", f"{slot.worker} is lost ({cause})")
        if not self._finishing:
            self._break(cause)

    def _replace(self, slot: Slot, incarnation: str) -> None:
        """A newer process of a worker takes the place of the last one, whatever became of it."""
        old = slot.incarnation
        if slot.session is not None:
            message = "a newer process of this worker has taken its place"
            self._actions.append(SendStop(slot.worker, old, StopReason.FENCED, message))
        if self._is_live(slot):
            self._lose(slot, LossCause.REPLACED)
        slot.fence(old)
        slot.session = None
        slot.restarts += 1 if old else 0
        slot.incarnation = incarnation

    def _stop(self, slot: Slot, reason: StopReason, message: str, phase: Phase = Phase.STOPPED) -> None:
        """Tells an attached worker to stop, and sets the time by which it must have."""
        assert slot.session is not None
        self._actions.append(SendStop(slot.worker, slot.session.incarnation, reason, message))
        slot.session.phase = phase
        if slot.agent is Agent.RUNNING:
            slot.stop_by = self._now + self._policy.parting_seconds

    def _fence(self, slot: Slot, message: str) -> None:
        """This process must not come back; its agent starts another one."""
        assert slot.session is not None
        slot.fence(slot.session.incarnation)
        self._stop(slot, StopReason.FENCED, message)

    def _dismiss(self, slot: Slot, reason: StopReason, message: str) -> None:
        """This worker leaves for good, and nobody is to blame."""
        assert slot.session is not None
        slot.fence(slot.session.incarnation)
        slot.blameless = True
        self._stop(slot, reason, message)

    def _stop_agent(self, slot: Slot, grace_seconds: float) -> None:
        slot.agent = Agent.STOPPING
        slot.blameless = slot.blameless or slot.retiring or self.state in TERMINAL_STATES
        slot.stop_by = self._now + (grace_seconds or self._policy.stop_seconds) + self._policy.tick_seconds
        self._actions.append(StopAgent(slot.worker, grace_seconds))

    def _give_up(self, slot: Slot, words: str) -> None:
        slot.given_up = True
        self._record = replace(self._record, wanted=self._record.wanted - 1)
        self._tell("given_up", f"{words}: {slot.worker} is given up")
        if self._record.wanted < self._record.minimum:
            message = f"{words}; fewer workers are left than the job's minimum of {self._record.minimum}"
            self._fail(JobError(message, worker=slot.worker), message)

    def _fail(self, error: JobError, reason: str) -> None:
        if self.state not in TERMINAL_STATES:
            self._record = replace(self._record, error=error)
            self._end(JobState.FAILED, reason)

    def _end(self, state: JobState, reason: str) -> None:
        """A terminal state: final, and every worker and agent is told to stop."""
        if self.state in TERMINAL_STATES:
            return
        self._record = replace(self._record, finished_at=self._now)
        self._enter(state, reason)
        for slot in self._in_order():
            slot.missing, slot.fail_by = None, None
            session = slot.session
            if session is not None and session.phase not in (Phase.STOPPED, Phase.FINISHED):
                self._stop(slot, STOP_REASONS[state], reason)
            elif slot.agent is Agent.RUNNING and (session is None or slot.stop_by is None):
                finished = any(f.worker == slot.worker for f in self._record.finished)
                slot.stop_by = self._now + (self._policy.parting_seconds if finished else 0.0)
        # `_press_on` does the rest.

    def _enter(self, state: JobState, reason: str) -> None:
        if (state, reason) != (self._record.state, self._record.reason):
            assert state is self._record.state or state in TRANSITIONS[self._record.state]
            self._record = replace(self._record, state=state, reason=reason)
            self._actions.append(SetState(state, reason))

    def _forgive_sleep(self, now: float) -> None:
        """Adds the time the coordinator itself was not running to every watch over a worker."""
        slept = now - self._now - 2.0 * self._policy.tick_seconds
        if not 0.0 < slept < float("inf"):
            return
        for slot in self._slots.values():
            if slot.session is not None:
                slot.session.heard = min(slot.session.heard + slept, now)
            if slot.missing is not None:
                slot.missing = replace(slot.missing, until=slot.missing.until + slept)

    def _view(self, slot: Slot) -> WorkerView:
        session = slot.session
        if slot.given_up:
            state = "given up"
        elif session is None:
            state = "lost" if slot.missing is not None else ("starting" if slot.usable else "stopping")
        elif slot.draining and session.phase is Phase.TRAINING:
            state = "leaving"
        else:
            state = session.phase.value
        return WorkerView(
            worker=slot.worker,
            incarnation=slot.incarnation,
            rank=self._ranks.get(slot.worker) if self._is_live(slot) else None,
            state=state,
            step=None if session is None else session.step,
            restarts=slot.restarts,
            pid=0 if session is None else session.pid,
        )
