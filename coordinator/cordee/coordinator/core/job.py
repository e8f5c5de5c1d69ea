"""One job: events in, actions out. Composes the roster, the rendezvous, the life cycle and the failure policy.

`handle` first takes the event into the roster (`handlers`), which is local and small; then `turn` looks at the whole
and says what must be done, whatever the event was. So there is one place that forms worlds, one that starts agents and
one that ends a job, and an event that comes at an odd moment needs no rule of its own.

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

from dataclasses import dataclass, replace

from cordee.coordinator.core import handlers, turn
from cordee.coordinator.core.actions import Action, Persist
from cordee.coordinator.core.crew import Crew
from cordee.coordinator.core.events import Event, WorkerArrived, WorkerHeard
from cordee.coordinator.core.hearing import heard
from cordee.coordinator.core.model import JobState, Policy
from cordee.coordinator.core.record import JobRecord
from cordee.coordinator.core.roster import Agent, Phase, Slot
from cordee.coordinator.core.scheduler import Demand

__all__ = ["JobMachine", "WorkerView"]

_SLEEP_SECONDS = 1.5
"""A coordinator that was not run for so long takes it that its workers may not have been either: a machine that was
suspended or a container that was paused stops them all, and their clocks may go on."""


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker as people see it. `state`: starting | joining | waiting | training | leaving | finished | stopping |
    isolated | kept out | lost | given up."""

    worker: str
    incarnation: str
    rank: int | None
    state: str
    step: int | None
    restarts: int
    pid: int
    shard_seconds: float | None = None
    """How long it computes per shard, lately; None: not known."""
    slow: bool = False
    """It is a straggler."""


class JobMachine:
    """A job's state machine.

    A new job: `JobMachine(JobRecord(job=…, minimum=…, maximum=…, created_at=now))`, stored by the caller; it does
    nothing until `Scheduled`. After the coordinator's restart: `JobMachine(stored_record)`, then `Recovered` as first
    event.
    """

    def __init__(self, record: JobRecord, policy: Policy | None = None) -> None:
        self._crew = Crew(record, policy or Policy())
        self._stored = record

    def handle(self, event: Event, now: float) -> list[Action]:
        """Takes one event and says what to do about it, in order.

        `now` is wall-clock seconds, the same clock over restarts; a clock that steps back stands still here.
        """
        crew = self._crew
        now = max(now, crew.now)
        self._forgive_sleep(now)
        crew.now = now
        crew.actions = []
        if isinstance(event, WorkerHeard):
            if not heard(crew, event):
                return []
        else:
            broken = crew.broken
            handlers.take(crew, event)
            if isinstance(event, WorkerArrived) and broken is crew.broken and turn.only_waits(crew):
                return []
        turn.reconcile(crew)
        record = crew.record()
        if record == self._stored:
            return crew.actions
        self._stored = record
        return [Persist(record), *crew.actions]

    def next_deadline(self) -> float | None:
        """When `Tick` is due, whatever else happens; None: only an event can change anything. A Tick too early is
        harmless."""
        return self._crew.deadline

    @property
    def record(self) -> JobRecord:
        """The durable half as it is now: what the last `Persist` carried."""
        return self._stored

    @property
    def policy(self) -> Policy:
        return self._crew.policy

    @property
    def state(self) -> JobState:
        return self._crew.state

    @property
    def generation(self) -> int:
        return self._crew.generation

    @property
    def stragglers(self) -> int:
        """How often a worker was found to be much slower than the others, since this machine was made."""
        return self._crew.stragglers.count

    @property
    def occupied(self) -> int:
        """How many of the launcher's slots the job holds or is about to hold, those still draining included."""
        slots = self._crew.slots.values()
        if self._crew.over:
            return sum(slot.agent is not Agent.ABSENT for slot in slots)
        return sum(not slot.given_up for slot in slots)

    @property
    def done(self) -> bool:
        """In a terminal state, and every agent is gone: the machine may be dropped."""
        return self._crew.over and not self.occupied

    def demand(self, priority: int = 0) -> Demand | None:
        """What to tell the scheduler. A job at its end demands nothing, but `occupied` still counts while it stops."""
        if self._crew.over:
            return None
        facts = self._crew.durable
        return Demand(
            job=facts.job,
            minimum=facts.minimum,
            maximum=max(facts.minimum, facts.maximum - self._crew.given_up()),
            submitted=facts.created_at,
            priority=priority,
            granted=facts.wanted,
            occupied=self.occupied,
        )

    def workers(self) -> tuple[WorkerView, ...]:
        """By slot number."""
        return tuple(self._view(slot) for slot in self._crew.in_order())

    def _forgive_sleep(self, now: float) -> None:
        """Adds the time the coordinator itself was not running to every watch over a worker.

        All of it: one that sleeps again and again, and reads little in between, would else sum up what is left.
        """
        crew = self._crew
        slept = now - crew.now
        if not 2.0 * crew.policy.tick_seconds < slept < float("inf"):
            return
        if slept >= _SLEEP_SECONDS:
            crew.woke_at, crew.broken_at = now, min(crew.broken_at + slept, now)
            if crew.durable.below_since is not None:
                crew.durable = replace(crew.durable, below_since=min(crew.durable.below_since + slept, now))
        for slot in crew.slots.values():
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
        elif self._crew.links.is_apart(slot.worker, session.incarnation):
            state = "isolated"
        elif self._crew.is_odd(slot):
            state = "kept out"
        elif slot.draining and session.phase is Phase.TRAINING:
            state = "leaving"
        else:
            state = session.phase.value
        return WorkerView(
            worker=slot.worker,
            incarnation=slot.incarnation,
            rank=self._crew.ranks.get(slot.worker) if self._crew.is_live(slot) else None,
            state=state,
            step=None if session is None else session.step,
            restarts=slot.restarts,
            pid=0 if session is None else session.pid,
            shard_seconds=self._crew.stragglers.paces.get(slot.worker),
            slow=slot.worker in self._crew.stragglers.slow,
        )
