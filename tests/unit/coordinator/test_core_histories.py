"""Random histories of a job, in a simulation that is faithful where it matters.

The workers follow the protocol of `worker.proto`: they import, join, connect, heal, train in lock step (a step's
exchange is complete for a member once all members have contributed; who dies in between leaves some with the step and
some without), meet, finish, and may die, hang, get stuck, or lose their stream at any moment; links between two of
them may be cut, and the network between one and the coordinator. Messages are first-in-first-out per process and
delayed at will. The coordinator may die between any two actions, and comes back from what was stored.

Laws are checked at every message and every action; at the end the faults stop (a worker that is stuck stays so), and
the job must end. A failing history prints the machine's events.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from cordee.coordinator.core import actions as act
from cordee.coordinator.core import events as ev
from cordee.coordinator.core.activity import Activity, Doing
from cordee.coordinator.core.cover import Pair, pair
from cordee.coordinator.core.job import JobMachine
from cordee.coordinator.core.model import (
    TERMINAL_STATES,
    ArrivalReason,
    JobState,
    Policy,
    PostMortem,
    Result,
    StopReason,
    World,
)
from cordee.coordinator.core.record import JobRecord

LAST_STEP = 12
EXIT_CODES = {
    StopReason.DRAINED: 71,
    StopReason.CANCELLED: 72,
    StopReason.FINISHED: 72,
    StopReason.FAILED: 72,
    StopReason.FENCED: 73,
    StopReason.STUCK: 73,
}
CONNECT_SECONDS = 1.5
"""How long a member of a new world waits for a peer that it cannot reach."""
SAVING_SECONDS = 1.0
"""Who waits with a state for so long puts it on storage."""
WATCHDOG_SECONDS = 3.0
"""An agent that hears nothing of its process for so long replaces it."""


@dataclass
class Process:
    """A worker process: what it knows, and what is on its way to and from the coordinator."""

    worker: str
    incarnation: str
    mode: str = "importing"  # importing | waiting | training | evaluating | finished | dead
    generation: int = 0
    step: int | None = None
    arrival: ev.WorkerArrived | None = None
    contributed: int = 0  # the step whose exchange it has entered in this world
    healed: bool = False
    pending: bool = False
    leaving: bool = False
    stopped: bool = False  # SIGSTOP
    stopped_at: float = 0.0
    stuck: bool = False  # its training thread gets no further; the rest of it lives
    cut_off: bool = False  # from the coordinator
    since: float = 0.0  # when it began what it does
    previous: PostMortem | None = None  # how the last process of this worker ended
    connected: bool = False
    kind: str = "Zen"  # what it computes with
    saved: int = 0  # the step that it has put on storage, waiting with it
    vanished: bool = False  # dead without a word: its machine lost its power, and no connection to it breaks
    out: deque[ev.Event] = field(default_factory=deque)
    inbox: deque[act.Action] = field(default_factory=deque)

    @property
    def alive(self) -> bool:
        return self.mode != "dead"

    def say(self, event: ev.Event) -> None:
        if self.connected:
            self.out.append(event)


@dataclass
class SimAgent:
    worker: str
    alive: bool = True
    asked: bool = False
    killed: bool = False
    deaf: bool = False  # it does not mind SIGTERM
    blind: bool = False  # it does not see that its process hangs
    process: Process | None = None


@dataclass
class Exchange:
    """What the members of one world have done together."""

    world: World
    contributed: dict[int, set[str]] = field(default_factory=dict)
    changed: set[int] = field(default_factory=set)
    done: set[int] = field(default_factory=set)  # all bytes of the step's exchange have come through
    begun: float = 0.0
    moved: float = 0.0  # when a byte last moved


class Simulation:
    def __init__(self, minimum: int, maximum: int) -> None:
        self.policy = Policy(stuck_seconds=5.0, stuck_alone=True)
        self.now = 1000.0
        self.names = itertools.count()
        self.stored: dict[str, Any] = JobRecord("job", minimum, maximum, created_at=self.now).to_json()
        self.machine = JobMachine(JobRecord.from_json(json.loads(json.dumps(self.stored))), self.policy)
        self.agents: dict[str, SimAgent] = {}
        self.processes: list[Process] = []  # those that live, or have left words on the way
        self.everybody: dict[str, Process] = {}
        self.unnoticed: list[SimAgent] = []  # agents that are gone, which the launcher has yet to see
        self.agent_exits: dict[str, deque[ev.AgentExited | ev.AgentAbsent]] = {}
        self.crash_after: int | None = None
        self.cut: set[Pair] = set()
        self.log: list[tuple[float, ev.Event]] = []
        self.replies: list[list[act.Action]] = []
        self.first = self.machine.record
        # What the machine has been told, by incarnation.
        self.attached: dict[str, str] = {}
        self.waiting: dict[str, int | None] = {}
        self.hello: tuple[str, str | None] = ("", None)  # the incarnation that says Hello now, and who was there before
        self.told_to_stop: dict[str, StopReason] = {}
        self.exchanges: dict[int, Exchange] = {}
        self.sent: set[tuple[int, str]] = set()
        self.ever_failed = False
        self.checkpoint = 0
        self.saved = 0
        self.kinds: dict[str, str] = {}  # what the machines of workers are now, of those that were exchanged
        self.restarted_at = float("-inf")
        self.detached: set[str] = set()  # since then
        self.seen: Counter[str] = Counter()

    # ------------------------------------------------------------------------------------------------- coordinator

    def handle(self, event: ev.Event) -> None:
        self.log.append((self.now, event))
        before = self.machine.state
        live_before = self._live_members()
        told = event.step if isinstance(event, ev.WorkerCheckpointed) else 0
        self.saved = max(self.machine.record.saved, told)  # a world that begins anew forgets it
        actions = self.machine.handle(event, self.now)
        self.replies.append(list(actions))
        state = self.machine.state
        self.seen[f"state {state}"] += 1
        assert before not in TERMINAL_STATES or state is before, "a terminal state is final"
        if (
            isinstance(event, ev.ScriptFailed)
            and self.attached.get(event.worker) == event.incarnation
            and event.incarnation not in self.told_to_stop
        ):
            assert state is JobState.FAILED or before in TERMINAL_STATES, "a script's failure fails the job at once"
        assert not any(isinstance(a, act.Persist) for a in actions[1:]), "Persist comes first"
        assert self.machine.record == self.machine._crew.record(), "what must be remembered is stored"
        for k, action in enumerate(actions):
            if self.crash_after is not None and k >= self.crash_after:
                self.crash_after = None
                self.restart()
                return
            self.perform(action, live_before)
        if self.crash_after is not None and actions:
            self.crash_after = None
            self.restart()

    def _live_members(self) -> list[tuple[str, str]]:
        """Members of the current world whose stream is up, in the machine's eyes, and that were not told to stop."""
        world = self.machine.record.world
        if world is None:
            return []
        return [
            (m.worker, m.incarnation)
            for m in world.members
            if self.attached.get(m.worker) == m.incarnation and m.incarnation not in self.told_to_stop
        ]

    def perform(self, action: act.Action, live_before: list[tuple[str, str]]) -> None:
        match action:
            case act.Persist(record):
                self.stored = json.loads(json.dumps(record.to_json()))
                assert JobRecord.from_json(self.stored) == record
            case act.StartAgent(worker):
                assert self.machine.state not in TERMINAL_STATES
                self.seen["start agent"] += 1
                agent = self.agents.get(worker)
                if agent is None or not agent.alive:
                    self.agents[worker] = SimAgent(worker)
                    self.spawn(self.agents[worker])
            case act.StopAgent(worker, grace, start):
                agent = self.agents.get(worker)
                if agent is None or not agent.alive:
                    self.agent_exits.setdefault(worker, deque()).append(ev.AgentAbsent(worker, start))
                elif grace == 0.0:
                    agent.killed = True
                else:
                    agent.asked = True
            case act.SendWorld(worker, incarnation, world):
                self.check_world(world, live_before)
                assert (world.generation, incarnation) not in self.sent, "a world is sent once"
                self.sent.add((world.generation, incarnation))
                assert any(m.worker == worker and m.incarnation == incarnation for m in world.members)
                self.deliver(worker, incarnation, action)
            case act.SendChangePending(worker, incarnation) | act.SendAbort(worker, incarnation):
                assert incarnation not in self.told_to_stop
                assert action.generation == self.machine.generation
                self.deliver(worker, incarnation, action)
            case act.SendProbe(worker, incarnation, peers):
                assert incarnation in self.waiting, "who is probed stays out, and waits"
                assert peers
                assert worker not in {m.worker for m in peers}
                self.deliver(worker, incarnation, action)
            case act.SendStop(worker, incarnation, reason):
                step = self.waiting.pop(incarnation, None)
                apart = incarnation in {slot.apart for slot in self.machine._crew.slots.values()}
                if reason is StopReason.DRAINED and step is not None and not apart:
                    others = [s for s in self.waiting.values() if s is not None]
                    crew = self.machine._crew
                    usable = sum(slot.usable and not crew.is_odd(slot) for slot in crew.slots.values())
                    assert max(others, default=-1) >= step or usable <= 1, "draining loses no step"
                if action.message.startswith("too few are left") and step is not None:
                    assert self.saved >= step, "who gives way has saved what it holds"
                self.told_to_stop.setdefault(incarnation, reason)
                if self.hello[0] == incarnation:  # it was turned away
                    self.attached.pop(worker, None)
                    if self.hello[1] is not None:
                        self.attached[worker] = self.hello[1]
                if reason is StopReason.FINISHED and any(p.incarnation == incarnation for p in self.finishers()):
                    assert self.stored["finished"], "a result is stored before it is acknowledged"
                self.deliver(worker, incarnation, action)
            case act.SetState(state):
                assert self.stored["state"] == state, "a state is stored before it is told"
            case act.RecordRecovery(_, seconds):
                self.seen["recovery"] += 1
                assert seconds >= 0
            case act.RecordEvent(kind):
                self.seen[f"event {kind}"] += 1

    def finishers(self) -> list[Process]:
        return [p for p in self.processes if p.mode == "finished"]

    def check_world(self, world: World, live_before: list[tuple[str, str]]) -> None:
        assert self.stored["world"] is not None
        assert self.stored["world"]["generation"] == world.generation, "a world is stored before it is sent"
        if world.generation in self.exchanges:
            assert self.exchanges[world.generation].world == world, "never two worlds at one generation"
            return
        record = self.machine.record
        assert not record.finished, "no world is formed once there is a result"
        assert world.generation > max(self.exchanges, default=0), "generations grow"
        members = {m.worker: m for m in world.members}
        assert len(members) == len(world.members)
        for m in world.members:
            assert self.attached.get(m.worker) == m.incarnation, "every member's stream is up"
            assert m.incarnation in self.waiting, "every member has arrived"
            assert m.incarnation not in self.told_to_stop, "who was told to stop is never a member again"
        assert len({self.everybody[m.incarnation].kind for m in world.members}) == 1, "members compute alike"
        present = {i: s for i, s in self.waiting.items() if i in self.attached.values()}
        keepers = sum(self.is_draining(m.worker, m.incarnation) for m in world.members)
        assert keepers <= 1, "of the draining workers, at most one is kept"
        assert record.minimum <= len(world.members) <= record.wanted + keepers
        apart = {a.incarnation for a in self.machine._crew.links.apart.values()}
        assert not apart & {m.incarnation for m in world.members}, "who is to stay out stays out"
        self.seen["apart"] += bool(apart)
        steps = [s for i, s in present.items() if s is not None and i not in apart]
        assert world.step == max([*steps, *(m.step for m in world.members if m.step is not None)], default=0)
        for worker, incarnation in live_before:
            process = self.process(incarnation)
            if incarnation in self.told_to_stop:
                continue  # it was found to hang in this very turn
            assert process is not None
            assert process.mode in ("waiting", "dead"), f"{worker} is a live member and was not waited for"
            if process.step is not None:
                assert process.step <= world.step, f"{worker} holds a further step"
        if (
            self.now - self.restarted_at < self.policy.heartbeat_timeout_seconds
            and world.generation - 1 in self.exchanges
        ):
            for m in self.exchanges[world.generation - 1].world.members:
                process = self.process(m.incarnation)
                agent = self.agents.get(m.worker)
                if process is None or not process.alive or agent is None or agent.process is not process:
                    continue
                if any(m.incarnation in slot["fenced"] for slot in self.stored["slots"]):
                    continue  # it was lost before, though nobody was told of it
                if m.incarnation not in self.told_to_stop and m.incarnation not in self.detached and agent.alive:
                    assert m.incarnation in self.waiting, "after a restart, known members are waited for"
        ranks = [m.worker for m in world.members]
        for old in self.exchanges.values():
            if old.world.generation == world.generation - 1:
                survivors = [m.worker for m in old.world.members if members.get(m.worker) == m or m.worker in ranks]
                kept = [m.worker for m in old.world.members if m.incarnation in {n.incarnation for n in world.members}]
                assert ranks[: len(kept)] == kept, "survivors keep their order, and come before joiners"
                assert set(kept) <= set(survivors)
        self.exchanges[world.generation] = Exchange(world, begun=self.now, moved=self.now)
        self.seen[f"world {world.cause}"] += 1
        self.seen[f"size {len(world.members)}"] += 1

    def is_draining(self, worker: str, incarnation: str) -> bool:
        slot = self.machine._crew.slots[worker]
        return slot.draining and slot.incarnation == incarnation

    def deliver(self, worker: str, incarnation: str, action: act.Action) -> None:
        process = self.process(incarnation)
        if process is not None and process.alive and process.connected and worker in self.attached:
            process.inbox.append(action)

    def process(self, incarnation: str) -> Process | None:
        return self.everybody.get(incarnation)

    def restart(self) -> None:
        """kill -9 of the coordinator, and a new one on what was stored."""
        self.seen["restart"] += 1
        self.restarted_at = self.now
        self.detached.clear()
        self.attached.clear()
        self.waiting.clear()
        self.told_to_stop = {
            i: r for i, r in self.told_to_stop.items() if i in {f for s in self.stored["slots"] for f in s["fenced"]}
        }
        for process in self.processes:
            process.connected = False
            process.out.clear()
            process.inbox.clear()
        self.agent_exits.clear()
        self.machine = JobMachine(JobRecord.from_json(self.stored), self.policy)
        self.log, self.replies, self.first = [], [], self.machine.record
        self.handle(ev.Recovered(frozenset(a.worker for a in self.agents.values() if a.alive)))

    # ----------------------------------------------------------------------------------------------------- workers

    def spawn(self, agent: SimAgent, previous: PostMortem | None = None) -> None:
        agent.process = Process(agent.worker, f"i{next(self.names)}", since=self.now, previous=previous)
        agent.process.kind = self.kinds.get(agent.worker, "Zen")
        self.processes.append(agent.process)
        self.everybody[agent.process.incarnation] = agent.process
        self.connect(agent.process)

    def connect(self, process: Process) -> None:
        """Opens a stream, and says all that a coordinator may not know."""
        process.connected = True
        waiting = process.mode == "waiting"
        process.say(
            ev.WorkerAttached(
                process.worker,
                process.incarnation,
                f"host:{process.incarnation}",
                process.generation,
                process.step,
                1,
                waiting,
                process.previous,
            )
        )
        if process.leaving:
            process.say(ev.WorkerLeaving(process.worker, process.incarnation))
        if waiting:
            assert process.arrival is not None
            process.say(process.arrival)
        if process.mode == "finished":
            process.say(self.finished(process))

    def finished(self, process: Process) -> ev.WorkerFinished:
        path = "result" if process.step == LAST_STEP else ""
        return ev.WorkerFinished(
            process.worker, process.incarnation, Result(LAST_STEP, 10 * LAST_STEP, "weights", {"accuracy": 1.0}, path)
        )

    def disconnect(self, process: Process, *, words_arrive: bool = True) -> None:
        if process.connected:
            if not words_arrive:
                process.out.clear()
            process.out.append(ev.WorkerDetached(process.worker, process.incarnation))
            process.connected = False
        process.inbox.clear()

    def exit(self, process: Process, code: int) -> None:
        """The process ends; its agent does what agents do."""
        if not process.alive:
            return
        self.disconnect(process)
        process.mode = "dead"
        agent = self.agents.get(process.worker)
        if agent is None or not agent.alive or agent.process is not process:
            return
        agent.process = None
        if code in (0, 70, 71, 72):
            self.agent_gone(agent, code)
        else:
            words = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
            self.spawn(agent, PostMortem(process.incarnation, code, words, step=process.step or 0, asked=code == 73))

    def kill_agent(self, agent: SimAgent, code: int) -> None:
        """The agent dies, and with it its process (it asks the kernel for that)."""
        process, agent.process = agent.process, None
        self.agent_gone(agent, code)
        if process is not None:
            self.exit(process, -9)

    def vanish(self, process: Process, *, stream_breaks: bool) -> None:
        """The worker's machine loses its power, its agent with it. The launcher notices late, or when it is asked."""
        agent = self.agents.get(process.worker)
        if agent is not None and agent.process is process:
            agent.alive, agent.process = False, None
            self.unnoticed.append(agent)
        if stream_breaks:  # its peers, though, see nothing
            self.disconnect(process, words_arrive=False)
        else:
            process.connected = False
            process.out.clear()
        process.mode, process.vanished = "dead", True

    def orphan(self, process: Process) -> None:
        """The agent dies, and for once its process goes on."""
        agent = self.agents.get(process.worker)
        if agent is not None and agent.process is process:
            agent.process = None
            self.agent_gone(agent, -9)

    def agent_gone(self, agent: SimAgent, code: int) -> None:
        agent.alive = False
        self.agent_exits.setdefault(agent.worker, deque()).append(ev.AgentExited(agent.worker, code))

    def arrive(self, process: Process, reason: ArrivalReason, suspects: tuple[str, ...] = ()) -> None:
        process.mode, process.since = "waiting", self.now
        process.pending = False
        process.arrival = ev.WorkerArrived(
            process.worker, process.incarnation, process.generation, process.step, reason, suspects, (process.kind,)
        )
        process.say(process.arrival)

    def act(self, process: Process, *, break_off: bool = False) -> bool:
        """The process does the next thing it can do by itself. Returns whether it did anything."""
        if not process.alive or process.stopped:
            return False
        if not process.connected and not process.out and not process.cut_off:
            self.connect(process)
            return True
        if process.stuck:
            return False
        if process.mode == "importing":
            self.arrive(process, ArrivalReason.JOIN)
            return True
        if process.mode == "waiting" and self.kinds and process.saved < (process.step or 0) and process.connected:
            if self.now - process.since < SAVING_SECONDS:
                return False
            process.saved = process.step or 0
            process.say(ev.WorkerCheckpointed(process.worker, process.incarnation, process.saved))
            return True
        if process.mode == "evaluating":
            process.mode = "finished"
            process.say(self.finished(process))
            return True
        return process.mode == "training" and self.train(process, break_off)

    def train(self, process: Process, break_off: bool) -> bool:
        exchange = self.exchanges[process.generation]
        mates = [self.process(m.incarnation) for m in exchange.world.members]
        gone = tuple(
            m.worker
            for m, p in zip(exchange.world.members, mates, strict=True)
            if p is None
            or (not p.alive and not p.vanished)
            or p.generation > process.generation
            or p.mode not in ("training", "importing", "dead")
        )
        # A member that still waits with the older generation has not got this world yet: it is not gone.
        gone = tuple(w for w in gone if not self.not_yet_there(w, exchange.world))
        cut = self.cut_in(exchange.world)
        if not process.healed and cut and not exchange.contributed:
            missing = tuple(w for link in cut if process.worker in link for w in link if w != process.worker)
            if gone or (missing and self.now - exchange.begun >= CONNECT_SECONDS):
                self.arrive(process, ArrivalReason.PEER_LOST, gone or missing)
                return True
            return False
        if not process.healed:
            holder = self.holder(exchange.world)
            if process.incarnation == holder:
                process.healed, process.since = True, self.now
                process.step = max(process.step or 0, exchange.world.step) if process.step is not None else None
                if process.step is None:
                    process.step = self.checkpoint
                return self.end_if_done(process)
            source = self.process(holder)
            assert source is not None
            if source.alive and source.mode == "training" and source.generation == process.generation:
                if source.healed:  # it cannot have gone further: nobody contributes before being healed
                    process.step = source.step
                    process.healed, process.since, exchange.moved = True, self.now, self.now
                    self.end_if_done(process)
                    return True
                return False
            if gone:
                self.arrive(process, ArrivalReason.PEER_LOST, gone)
                return True
            return False
        assert process.step is not None
        target = process.step + 1
        contributed = exchange.contributed.get(target, set()) == {m.incarnation for m in exchange.world.members}
        if contributed and not cut:
            exchange.done.add(target)
        complete = target in exchange.done
        if process.contributed < target and not gone:
            process.contributed, process.since, exchange.moved = target, self.now, self.now
            exchange.contributed.setdefault(target, set()).add(process.incarnation)
            if process.pending:
                exchange.changed.add(target)
            return True
        if complete and not (break_off and gone):
            process.step, process.since = target, self.now
            self.seen["commit"] += 1
            if self.end_if_done(process):
                return True
            if target in exchange.changed:
                self.arrive(process, ArrivalReason.CHANGE)
            return True
        if gone:
            self.seen["break"] += 1
            self.arrive(process, ArrivalReason.PEER_LOST, gone)
            return True
        return False

    def cut_in(self, world: World) -> set[Pair]:
        members = {m.worker for m in world.members}
        return {link for link in self.cut if members.issuperset(link)}

    def reaches(self, process: Process, incarnation: str) -> bool:
        """The kernel of a process answers, whatever that does."""
        other = self.process(incarnation)
        return other is not None and other.alive and pair(process.worker, other.worker) not in self.cut

    def activity(self, process: Process) -> Activity:
        """What its session's thread sees of it."""
        step, seconds = (process.step or 0) + 1, self.now - process.since
        if process.mode == "importing":
            return Activity(Doing.PREPARING, 0, seconds)
        if process.mode in ("evaluating", "finished"):
            return Activity(Doing.OUTSIDE, step, seconds)
        if process.mode == "waiting":
            return Activity(Doing.MEETING, step, seconds)
        exchange = self.exchanges[process.generation]
        peers = [m for m in exchange.world.members if m.incarnation != process.incarnation]
        ends = {w for link in self.cut_in(exchange.world) if process.worker in link for w in link}
        idle = self.now - max(process.since, exchange.moved)
        if not process.healed:
            # It connects, or waits for the state of a peer.
            holder = next(m.worker for m in exchange.world.members if m.incarnation == self.holder(exchange.world))
            awaited = ends or {holder}
            return Activity(Doing.MEETING, step, seconds, tuple(sorted(awaited - {process.worker})), idle)
        if process.contributed < step:
            return Activity(Doing.COMPUTING, step, seconds)
        late = {p.worker for p in peers if p.incarnation not in exchange.contributed.get(step, set())}
        awaited = late | ends or {w for link in self.cut_in(exchange.world) for w in link}
        return Activity(Doing.EXCHANGING, step, seconds, tuple(sorted(awaited - {process.worker})), idle)

    def not_yet_there(self, worker: str, world: World) -> bool:
        member = next(m for m in world.members if m.worker == worker)
        process = self.process(member.incarnation)
        return process is not None and process.alive and process.generation < world.generation

    def holder(self, world: World) -> str:
        """Who has the state that this world starts from: the first member at its step, else rank 0."""
        return next((m.incarnation for m in world.members if m.step == world.step), world.members[0].incarnation)

    def end_if_done(self, process: Process) -> bool:
        if process.step is not None and process.step >= LAST_STEP:
            process.mode = "evaluating"
            return True
        return False

    def read(self, process: Process) -> bool:
        """The process takes the next message from the coordinator."""
        if not process.alive or process.stopped or not process.inbox:
            return False
        if process.stuck and not isinstance(process.inbox[0], act.SendStop | act.SendProbe):
            process.inbox.popleft()  # its session's thread hears it, and its training thread does not
            return True
        message = process.inbox.popleft()
        match message:
            case act.SendWorld(_, _, world):
                assert process.mode == "waiting", "a world is sent to a worker that waits for one"
                assert world.generation > process.generation
                process.generation = world.generation
                process.mode, process.since = "training", self.now
                process.contributed, process.healed, process.pending = 0, False, False
                member = next(m for m in world.members if m.incarnation == process.incarnation)
                assert member.step == process.step or process.step is None
            case act.SendChangePending(_, _, generation):
                if generation == process.generation:
                    process.pending = True
            case act.SendAbort(_, _, generation, lost):
                if generation == process.generation and process.mode == "training":
                    self.arrive(process, ArrivalReason.PEER_LOST, lost)
            case act.SendProbe(_, _, peers):
                reached = tuple(m.incarnation for m in peers if self.reaches(process, m.incarnation))
                self.seen["reached" if len(reached) == len(peers) else "not reached"] += 1
                process.say(ev.WorkerReached(process.worker, process.incarnation, reached))
            case act.SendStop(_, _, reason):
                self.seen[f"stop {reason}"] += 1
                done = process.mode == "finished" and reason is StopReason.FINISHED
                self.exit(process, 0 if done else EXIT_CODES[reason])
        return True

    # -------------------------------------------------------------------------------------------------- the world

    def hear(self, process: Process) -> bool:
        """The coordinator takes the next word of a process."""
        if not process.out:
            return False
        event = process.out.popleft()
        match event:
            case ev.WorkerAttached(worker, incarnation):
                self.hello = incarnation, self.attached.get(worker)
                self.attached[worker] = incarnation
                self.waiting.pop(incarnation, None)
            case ev.WorkerArrived(worker, incarnation):
                if self.attached.get(worker) == incarnation and incarnation not in self.told_to_stop:
                    self.waiting[incarnation] = event.step if event.generation else None
            case ev.WorkerDetached(worker, incarnation):
                self.waiting.pop(incarnation, None)
                self.detached.add(incarnation)
                if self.attached.get(worker) == incarnation:
                    del self.attached[worker]
            case _:
                pass
        self.handle(event)
        self.hello = ("", None)
        for world in list(self.exchanges.values()):
            for m in world.world.members:
                if (world.world.generation, m.incarnation) in self.sent:
                    self.waiting.pop(m.incarnation, None) if self.in_world(m.incarnation) else None
        return True

    def in_world(self, incarnation: str) -> bool:
        """Whether the machine counts it as training: it was sent its newest world, and has not arrived since."""
        slot = next((s for s in self.machine._crew.slots.values() if s.incarnation == incarnation), None)
        return slot is not None and slot.session is not None and slot.session.phase.value == "training"

    def hear_agent(self, worker: str) -> bool:
        exits = self.agent_exits.get(worker)
        if not exits:
            return False
        self.handle(exits.popleft())
        return True

    def pass_time(self, seconds: float) -> None:
        """Time passes in small pieces; heartbeats flow; the shell ticks when it was asked to."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + self.policy.heartbeat_seconds)
            for process in self.processes:
                if process.alive and process.connected and not process.stopped:
                    current = process.generation == self.machine.generation
                    step, activity = (process.step or None, self.activity(process)) if current else (None, None)
                    self.handle(ev.WorkerHeard(process.worker, process.incarnation, step, activity))
            deadline = self.machine.next_deadline()
            if deadline is not None and deadline <= self.now:
                self.handle(ev.Tick())
                due = self.machine.next_deadline()
                assert due is None or due > self.now, "a deadline that has passed was dealt with"
            for agent in list(self.agents.values()):
                hangs = agent.process is not None and agent.process.stopped
                if hangs and not agent.blind and self.now - agent.process.stopped_at >= WATCHDOG_SECONDS:
                    self.seen["watchdog"] += 1
                    self.exit(agent.process, -9)
                    continue
                if agent.alive and agent.killed:
                    self.kill_agent(agent, -9)
                elif agent.alive and agent.asked and not agent.deaf and not hangs:
                    self.kill_agent(agent, -15)

    def round(self, chooser: random.Random | None = None) -> None:
        """Everybody gets to do something, in a fair or a random order."""
        doers = list(self.processes)
        if chooser is not None:
            chooser.shuffle(doers)
        for process in doers:
            if process.alive or process.out:
                self.hear(process)
                self.read(process)
                self.act(process)
        for worker in list(self.agent_exits):
            self.hear_agent(worker)
        self.processes = [p for p in self.processes if p.alive or p.out]

    def run_to_the_end(self, *, alike: bool = True) -> None:
        """Faults have stopped. The job must end, and leave nothing running; `alike`: on machines of one kind."""
        for process in self.processes:
            process.stopped = process.cut_off = False
        self.cut.clear()
        if alike:
            self.kinds.clear()
            for process in [p for p in self.processes if p.alive and p.kind != "Zen"]:
                self.exit(process, -9)  # what is left of other machines is taken away
        for agent in self.unnoticed:
            if self.agents[agent.worker] is agent:
                self.agent_exits.setdefault(agent.worker, deque()).append(ev.AgentExited(agent.worker, None, "lost"))
        for _ in range(1200):
            if self.machine.done:
                break
            self.round()
            self.pass_time(0.25)
        if not alike and not self.machine.done and not self.enough_are_alike():
            return
        assert self.machine.done, f"the job does not end: {self.machine.record} {self.machine.workers()}"
        assert not any(a.alive for a in self.agents.values()), "a job that has ended leaves no agent"
        record = self.machine.record
        assert (record.state is JobState.SUCCEEDED) == (record.result is not None and record.error is None) or (
            record.state is JobState.CANCELLED
        )
        assert (record.error is not None) == (record.state is JobState.FAILED)
        self.check_replay()

    def enough_are_alike(self) -> bool:
        """Whether some kind of machines has the job's minimum."""
        slots = [slot for slot in self.machine.record.slots if not (slot.retiring or slot.given_up)]
        counts = Counter(self.kinds.get(slot.worker, "Zen") for slot in slots)
        return max(counts.values(), default=0) >= self.machine.record.minimum

    def check_replay(self) -> None:
        """A history is its events: the same events give the same actions."""
        machine = JobMachine(self.first, self.policy)
        again = [machine.handle(event, now) for now, event in self.log]
        assert again == self.replies

    def story(self) -> str:
        quiet = (ev.WorkerHeard, ev.Tick)
        lines: list[str] = []
        for (now, event), reply in zip(self.log, [*self.replies, []], strict=False):
            if reply or not isinstance(event, quiet):
                lines.append(f"{now:.2f} {event}")
            lines.extend(f"        {action}" for action in reply if not isinstance(action, act.Persist))
        return "\n".join(lines)

    def alive(self) -> list[Process]:
        return [p for p in self.processes if p.alive]


FAULTS = {
    "kill": 6,
    "kill agent": 2,
    "stop": 2,
    "stop for good": 1,
    "stick": 2,
    "crash": 2,
    "cut link": 3,
    "mend links": 2,
    "cut off": 2,
    "mend network": 1,
    "resume": 2,
    "break stream": 2,
    "checkpoint": 3,
    "restart coordinator": 2,
    "crash in mid-turn": 2,
    "leave": 2,
    "scale": 2,
    "lose power": 2,
    "orphan": 1,
    "deaf agent": 1,
    "kill all": 1,
    "agent gives up": 1,
    "raise": 0,
    "cancel": 0,
}


def inflict(sim: Simulation, fault: str, pick: random.Random) -> None:
    """One fault, or one wish of a user, on a worker picked at random."""
    alive = sim.alive()
    sim.seen[fault] += 1
    victim = pick.choice(alive) if alive else None
    match fault:
        case "kill all":
            for process in alive:
                sim.exit(process, -9)
        case "checkpoint":
            if victim is not None and victim.step is not None:
                victim.say(ev.WorkerCheckpointed(victim.worker, victim.incarnation, victim.step))
        case "restart coordinator":
            sim.restart()
        case "crash in mid-turn":
            sim.crash_after = pick.randint(0, 4)
        case "scale":
            record = sim.machine.record
            low = pick.randint(1, 3)
            high = pick.randint(low, 4)
            sim.handle(ev.ScaleRequested(low, high))
            if record.wanted:
                sim.handle(ev.Scheduled(pick.randint(low, high)))
        case "cancel":
            dies = sim.crash_after is not None  # then nobody was told that it is cancelled
            sim.handle(ev.CancelRequested())
            assert dies or sim.machine.state in TERMINAL_STATES
        case "cut link":
            workers = sorted({p.worker for p in alive})
            if len(workers) > 1:
                sim.cut.add(pair(*pick.sample(workers, 2)))
        case "mend links":
            sim.cut.clear()
        case "mend network":
            for process in alive:
                process.cut_off = False
        case _ if victim is None:
            return
        case "other machine":
            kind = pick.choice(["Zen", "SkylakeX", "Haswell"])
            for process in pick.sample(alive, min(len(alive), pick.randint(1, 4))):
                sim.kinds[process.worker] = kind
                sim.exit(process, -9)
        case "stick":
            victim.stuck = victim.mode == "training"
        case "crash":
            sim.exit(victim, -11)
        case "cut off":
            victim.cut_off = True
            sim.disconnect(victim, words_arrive=pick.random() < 0.5)
        case "kill":
            if pick.random() < 0.3:
                victim.out.clear()  # its last words are lost
            sim.exit(victim, -9)
        case "kill agent":
            agent = sim.agents[victim.worker]
            if agent.alive:
                sim.kill_agent(agent, pick.choice([-9, 1]))
        case "agent gives up":
            agent = sim.agents[victim.worker]
            usable = sum(slot.usable for slot in sim.machine._crew.slots.values())
            if agent.alive and usable > sim.machine.record.minimum:
                sim.kill_agent(agent, 74)
        case "stop" | "stop for good":
            victim.stopped, victim.stopped_at = True, sim.now
            sim.agents[victim.worker].blind = fault != "stop"
        case "lose power":
            sim.vanish(victim, stream_breaks=pick.random() < 0.5)
        case "orphan":
            sim.orphan(victim)
        case "deaf agent":
            sim.agents[victim.worker].deaf = True
        case "resume":
            for process in alive:
                process.stopped = False
        case "break stream":
            sim.disconnect(victim, words_arrive=pick.random() < 0.5)
        case "leave":
            if victim.mode in ("importing", "waiting", "training"):
                victim.leaving = True
                victim.say(ev.WorkerLeaving(victim.worker, victim.incarnation, "SIGTERM"))
        case "raise":
            if not victim.stopped and victim.mode in ("importing", "training", "evaluating"):
                victim.say(ev.ScriptFailed(victim.worker, victim.incarnation, "ValueError: no", "Traceback"))
                sim.exit(victim, 70)


@settings(max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
class Histories(RuleBasedStateMachine):
    """Hypothesis chooses who speaks, who acts, who dies, and when."""

    def __init__(self) -> None:
        super().__init__()
        self.sim = Simulation(1, 3)
        self.sim.handle(ev.Scheduled(3))

    def some(self, index: int) -> Process | None:
        processes = [p for p in self.sim.processes if p.alive or p.out]
        return processes[index % len(processes)] if processes else None

    @rule(index=st.integers(0, 7), times=st.integers(1, 3))
    def hear(self, index: int, times: int) -> None:
        process = self.some(index)
        for _ in range(times):
            if process is not None:
                self.sim.hear(process)

    @rule(index=st.integers(0, 7))
    def read(self, index: int) -> None:
        process = self.some(index)
        if process is not None:
            self.sim.read(process)

    @rule(index=st.integers(0, 7), break_off=st.booleans())
    def act(self, index: int, break_off: bool) -> None:
        process = self.some(index)
        if process is not None:
            self.sim.act(process, break_off=break_off)

    @rule(index=st.integers(0, 3))
    def hear_agent(self, index: int) -> None:
        self.sim.hear_agent(f"job-w{index}")

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 3.5, 12.0]))
    def wait(self, seconds: float) -> None:
        self.sim.pass_time(seconds)

    @rule(times=st.integers(1, 12), seed=st.integers(0, 99))
    def go_on(self, times: int, seed: int) -> None:
        chooser = random.Random(seed)
        for _ in range(times):
            self.sim.round(chooser)

    @precondition(lambda self: self.sim.machine.state not in TERMINAL_STATES)
    @rule(fault=st.sampled_from([f for f, weight in FAULTS.items() for _ in range(weight)]), seed=st.integers(0, 999))
    def fault(self, fault: str, seed: int) -> None:
        inflict(self.sim, fault, random.Random(seed))

    @rule(fault=st.sampled_from(["go on"] * 30 + ["raise", "cancel"]), seed=st.integers(0, 999))
    def end(self, fault: str, seed: int) -> None:
        if fault != "go on" and self.sim.machine.state not in TERMINAL_STATES:
            inflict(self.sim, fault, random.Random(seed))

    def teardown(self) -> None:
        try:
            self.sim.run_to_the_end()
        finally:
            note(self.sim.story())


TestHistories = pytest.mark.slow(Histories.TestCase)


@pytest.mark.parametrize("seed", range(40))
def test_a_long_history_of_faults_ends_with_every_law_kept(seed: int) -> None:
    """Seeded, with more workers and more faults than Hypothesis would try."""
    long_history(random.Random(seed), FAULTS)


@pytest.mark.parametrize("seed", range(40))
def test_a_long_history_with_machines_of_several_kinds_ends_with_every_law_kept(seed: int) -> None:
    long_history(random.Random(seed), {**FAULTS, "other machine": 12})


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60, 100))
def test_where_enough_machines_are_alike_the_job_ends_whatever_the_others_are(seed: int) -> None:
    long_history(random.Random(seed), {**FAULTS, "other machine": 40, "orphan": 0}, alike=False)


def long_history(pick: random.Random, faults: dict[str, int], *, alike: bool = True) -> None:
    maximum = pick.randint(1, 8)
    sim = Simulation(pick.randint(1, maximum), maximum)
    sim.handle(ev.Scheduled(maximum))
    names, weights = list(faults), list(faults.values())
    try:
        for _ in range(pick.randint(5, 120)):
            for _ in range(pick.randint(0, 10)):
                sim.round(pick)
            sim.pass_time(pick.choice([0.0, 0.1, 0.5, 0.5, 2.0, 4.0]))
            if sim.machine.state in TERMINAL_STATES:
                break
            inflict(sim, pick.choices(names, weights)[0], pick)
        sim.run_to_the_end(alike=alike)
    except BaseException:
        print(sim.story())
        raise
