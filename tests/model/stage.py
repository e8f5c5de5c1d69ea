"""The real pure machines on a stage: one `JobMachine`, a `SessionState` per worker process, the service's own
translation between the two, and a small pure elastic step. Streams, agents, processes, connections, time are played.

What the model of `elastic.pml` says of the protocol, this says of the code: the same faults at any moment, the same
laws. A move is the smallest thing that happens: a message read, by either side; a tick; a process's next deed; an agent
started or stopped. `Stage.moves` are those that could happen now; the default order is fair, and time passes when
nothing else can happen. So a history is a seed, or the default order with faults (`stage_faults`) at chosen moves, and
every failure can be played again.
"""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from tests.model.stage_elastic import LAST_STEP, join
from tests.model.stage_elastic import act as act_on
from tests.model.stage_parts import Agent, Process, Stream

from cordee.coordinator.core import actions as act
from cordee.coordinator.core import events as ev
from cordee.coordinator.core.job import JobMachine
from cordee.coordinator.core.model import TERMINAL_STATES, JobState, Policy
from cordee.coordinator.core.record import JobRecord
from cordee.coordinator.service import workers as shell
from cordee.rpc.v1 import worker_pb2 as pb
from cordee.worker import exit_codes
from cordee.worker import session_state as ss
from cordee.worker.activity import Activity

__all__ = ["Stage"]


class Stage:
    """A job with its coordinator, agents and workers."""

    def __init__(self, minimum: int = 1, maximum: int = 2, *, saves: bool = False) -> None:
        self.policy = Policy()
        self.now = 1000.0
        self.saves, self.saved = saves, 0
        self.births = 0
        self.everybody: dict[str, Process] = {}
        self.agents: dict[str, Agent] = {}
        self.launcher: deque[act.StartAgent | act.StopAgent] = deque()
        self.exits: deque[ev.AgentExited | ev.AgentAbsent] = deque()
        self.log: list[str] = []
        self.committed: dict[int, int] = {0: 0}
        self.told = 0
        self.acknowledged: set[str] = set()
        self.lost: set[str] = set()
        self.crash_after: int | None = None
        self.hangs = False
        """The coordinator is stopped: its streams are up, and it reads nothing."""
        self.closing = False  # the shell's word for it: it never is, here
        self.stored = json.dumps(JobRecord("j", minimum, maximum, created_at=self.now).to_json())
        self.streams: list[Stream] = []
        self.sessions: dict[tuple[str, str], tuple[Stream, Any]] = {}
        self.machine: JobMachine | None = JobMachine(JobRecord.from_json(json.loads(self.stored)), self.policy)
        self.turn(ev.Scheduled(maximum))

    # ------------------------------------------------------------------------------------------- the coordinator

    def turn(self, event: ev.Event) -> None:
        machine = self.machine
        assert machine is not None
        before = machine.state
        self.incarnations = {worker.worker: worker.incarnation for worker in machine.workers()}
        finishing = bool(machine.record.finished)
        decided = machine.handle(event, self.now)
        if decided and not isinstance(event, ev.Tick):
            self.log.append(f"{self.now:.2f} {event}")
        assert before not in TERMINAL_STATES or machine.state is before, "a terminal state is final"
        for k, action in enumerate(decided):
            if self.crash_after is not None and k >= self.crash_after:
                self.crash()
                return
            self.log.append(f"        {action}") if not isinstance(action, act.Persist) else None
            self.carry_out(action, finishing)
        if self.crash_after is not None and decided:
            self.crash()

    def feed(self, _job: object, event: ev.Event) -> None:
        """What the shell calls."""
        self.turn(event)

    def progress(self, *_: object) -> None: ...

    def checkpointed(self, *_: object) -> None: ...

    def note(self, *_: object) -> None: ...

    def carry_out(self, action: act.Action, finishing: bool) -> None:
        match action:
            case act.Persist(record):
                self.store(record)
            case act.StartAgent() | act.StopAgent():
                self.launcher.append(action)
            case act.SendWorld() | act.SendChangePending() | act.SendAbort() | act.SendStop() | act.SendProbe():
                if isinstance(action, act.SendWorld):
                    self.check_world(action)
                served = self.sessions.get((action.worker, action.incarnation))
                if served is not None:
                    served[0].down.append(shell._to_wire(action))
                    if isinstance(action, act.SendStop):
                        served[0].down.append(None)
            case act.RecordEvent(kind, message) if kind == "lost":
                worker = message.partition(" ")[0]
                incarnation = self.incarnations[worker]
                process = self.everybody[incarnation]
                # A job that has its result does not wait for streams that broke.
                assert not process.alive or process.suspect or finishing, f"{worker} is well"
                self.lost.add(incarnation)
            case _:
                pass

    def need(self) -> JobMachine:
        assert self.machine is not None
        return self.machine

    def store(self, record: JobRecord) -> None:
        """The laws of a world that is formed: it is in the record before anybody hears of it."""
        before = JobRecord.from_json(json.loads(self.stored))
        self.stored = json.dumps(record.to_json())
        world = record.world
        if world is None or record.generation == before.generation:
            assert world == before.world, "no two worlds at one generation"
            return
        assert world.generation == before.generation + 1
        assert world.generation > self.told, "a generation that anybody was told of is never used again"
        assert not {m.incarnation for m in world.members} & self.lost, "who was lost stays out"
        fenced = {incarnation for slot in before.slots for incarnation in slot.fenced}
        for old in before.world.members if before.world is not None else ():
            process = self.everybody[old.incarnation]
            well = process.alive and not process.suspect and not process.session.leaving
            if well and process.step is not None and old.incarnation not in self.lost | fenced:
                behind = 0 if self.is_served(process) else 1
                assert process.step <= world.step + behind, f"{old.worker} holds step {process.step}"

    def check_world(self, sent: act.SendWorld) -> None:
        stored = JobRecord.from_json(json.loads(self.stored)).world
        assert stored == sent.world, "a world is stored before it is said"
        self.told = sent.world.generation

    def is_served(self, process: Process) -> bool:
        served = self.sessions.get((process.worker, process.incarnation))
        return served is not None and served[0] is process.stream

    def crash(self) -> None:
        """kill -9."""
        self.machine, self.crash_after, self.hangs = None, None, False
        for stream in self.streams:
            stream.error = stream.error or "UNAVAILABLE: gone"
        self.streams.clear()
        self.sessions.clear()
        self.launcher.clear()
        self.exits.clear()

    def restart(self) -> None:
        self.machine = JobMachine(JobRecord.from_json(json.loads(self.stored)), self.policy)
        finished = {f.incarnation for f in self.machine.record.finished}
        assert self.acknowledged <= finished, "an acknowledged result is never lost"
        self.log.append(f"{self.now:.2f} a new coordinator")
        self.turn(ev.Recovered(frozenset(self.agents)))

    def serve(self, stream: Stream) -> bool:
        """The coordinator reads the next word of a stream, or its end; as `WorkerServicer.Attach` does."""
        if self.machine is None or self.hangs or not stream.served:
            return False
        if stream.up:
            message = stream.up.popleft()
            kind = message.WhichOneof("kind")
            if kind == "hello":
                hello = message.hello
                stream.key = (hello.worker, hello.incarnation)
                earlier = self.sessions.pop(stream.key, None)
                if earlier is not None:
                    earlier[0].down.append(None)
                    self.retire(earlier[0])
                job = type("Job", (), {"machine": self.machine})
                session = type("Session", (), {"job": job, "worker": hello.worker, "incarnation": hello.incarnation})
                self.sessions[stream.key] = (stream, session)
                stream.down.append(
                    pb.CoordinatorMessage(
                        welcome=pb.Welcome(
                            heartbeat_seconds=self.policy.heartbeat_seconds, generation=self.machine.generation
                        )
                    )
                )
                self.turn(shell._attached(hello))
            else:
                assert stream.key is not None
                session = self.sessions[stream.key][1] if self.sessions.get(stream.key, (None,))[0] is stream else None
                if session is not None and kind in shell._HANDLERS:
                    shell._HANDLERS[kind](self, session, getattr(message, kind))  # type: ignore[arg-type]
            return True
        if stream.gone or stream.half_closed or (stream.down and stream.down[-1] is None):
            self.retire(stream)
            if not stream.gone:
                stream.down.append(None)
            if stream.key is not None and self.sessions.get(stream.key, (None,))[0] is stream:
                del self.sessions[stream.key]
                self.turn(ev.WorkerDetached(*stream.key))
            return True
        return False

    def retire(self, stream: Stream) -> None:
        stream.served = False
        if stream in self.streams:
            self.streams.remove(stream)

    # ----------------------------------------------------------------------------------------- agents, processes

    def work(self) -> bool:
        """The launcher does the next thing it was told."""
        if self.machine is None or self.hangs or not self.launcher:
            return False
        told = self.launcher.popleft()
        agent = self.agents.get(told.worker)
        if isinstance(told, act.StartAgent):
            if agent is None:
                self.agents[told.worker] = Agent(told.worker)
                self.spawn(told.worker, None)
        elif agent is None:
            self.exits.append(ev.AgentAbsent(told.worker, told.start))
        else:
            self.end_agent(agent, -9 if told.grace_seconds == 0 else exit_codes.DRAINED)
        return True

    def spawn(self, worker: str, previous: pb.PostMortem | None) -> None:
        self.births += 1
        incarnation = f"i{self.births}"
        assert not [p for p in self.everybody.values() if p.alive and p.worker == worker], "no worker runs twice"
        activity = Activity(lambda: self.now)
        identity = ss.WorkerIdentity("j", worker, incarnation, f"host:{incarnation}", self.births, previous)
        process = Process(
            worker, incarnation, ss.SessionState(identity, 60.0, self.now, activity), deed_at=self.now + 0.2
        )
        self.everybody[incarnation] = process
        self.agents[worker].process = process

    def end_agent(self, agent: Agent, code: int) -> None:
        process, agent.process = agent.process, None
        del self.agents[agent.worker]
        if process is not None:
            self.bury(process)
        if self.machine is not None:
            self.exits.append(ev.AgentExited(agent.worker, code))

    def bury(self, process: Process, *, words_arrive: bool = True) -> None:
        process.mode, process.frozen = "dead", False
        self.cut(process, words_arrive=words_arrive)

    def die(self, process: Process, code: int, *, words_arrive: bool = True) -> None:
        """A process ends; its agent does what agents do."""
        agent = self.agents.get(process.worker)
        self.bury(process, words_arrive=words_arrive)
        if agent is None or agent.process is not process:
            return
        agent.process = None
        if code in exit_codes.FINAL:
            self.end_agent(agent, code)
        else:
            words = exit_codes.describe(code)
            asked = code == exit_codes.FENCED
            step = process.step or 0
            last = pb.PostMortem(incarnation=process.incarnation, code=code, words=words, step=step, asked=asked)
            self.spawn(process.worker, last)

    def cut(self, process: Process, *, words_arrive: bool = True) -> None:
        """The stream breaks."""
        stream, process.stream = process.stream, None
        if stream is not None:
            if not words_arrive:
                stream.up.clear()
            stream.gone = True

    # -------------------------------------------------------------------------------------- the worker's session

    def handle(self, process: Process, event: ss.Event) -> None:
        for instruction in process.session.handle(event, self.now):
            match instruction:
                case ss.OpenStream():
                    self.cut(process)
                    process.stream = Stream()
                    if self.machine is None:
                        process.stream.error = "UNAVAILABLE: refused"
                    else:
                        self.streams.append(process.stream)
                case ss.Send(message):
                    if process.stream is not None and not process.stream.error:
                        process.stream.up.append(message)
                case ss.CloseStream():
                    assert process.stream is not None
                    process.stream.half_closed = True
                case ss.DeliverWorld(world):
                    join(self, process, world)
                case ss.AbortMesh(generation, lost):
                    if generation == process.generation:
                        process.abort = lost
                case ss.ProbePeers(probe):
                    reached = [m.incarnation for m in probe.peers if self.everybody[m.incarnation].alive]
                    self.post(process, reached=pb.Reached(incarnations=reached))
                case ss.End(code, _):
                    if isinstance(event, ss.Received) and event.message.stop.reason == pb.STOP_REASON_FINISHED:
                        assert process.mode == "finished" or code == exit_codes.STOPPED
                        if process.mode == "finished" and code == exit_codes.FINISHED:
                            self.acknowledged.add(process.incarnation)
                    self.die(process, code)
                    return
                case _:
                    pass

    def post(self, process: Process, **word: Any) -> None:
        self.handle(process, ss.Post(pb.WorkerMessage(**word)))

    def listen(self, process: Process) -> bool:
        """The session reads the next word of the coordinator, or the stream's end, or the clock."""
        if not process.alive or process.frozen:
            return False
        stream = process.stream
        if stream is not None and stream.down:
            message = stream.down.popleft()
            if message is None:
                process.stream = None
                stream.gone = True
                self.handle(process, ss.StreamEnded(""))
            else:
                self.handle(process, ss.Received(message))
            return True
        if stream is not None and stream.error:
            process.stream = None
            self.handle(process, ss.StreamEnded(stream.error))
            return True
        if process.session.deadline() <= self.now:
            self.handle(process, ss.Tick())
            return True
        return False

    # -------------------------------------------------------------------------------------------------- the play

    def processes(self) -> list[Process]:
        return [p for p in self.everybody.values() if p.alive]

    def moves(self) -> list[Callable[[], bool]]:
        """Whatever could happen now; each returns whether it did."""
        found: list[Callable[[], bool]] = [self.work, self.hear_exit, self.tick]
        found += [lambda s=s: self.serve(s) for s in self.streams]
        for process in self.processes():
            found += [lambda p=process: self.listen(p), lambda p=process: act_on(self, p)]
        return found

    def hear_exit(self) -> bool:
        if self.machine is None or self.hangs or not self.exits:
            return False
        self.turn(self.exits.popleft())
        return True

    def tick(self) -> bool:
        if self.machine is None or self.hangs:
            return False
        deadline = self.machine.next_deadline()
        if deadline is None or deadline > self.now:
            return False
        self.turn(ev.Tick())
        return True

    def pass_time(self, until: float = float("inf")) -> None:
        times = [p.session.deadline() for p in self.processes() if not p.frozen]
        times += [p.deed_at for p in self.processes() if p.deed_at > self.now and not p.frozen]
        if self.machine is not None and not self.hangs:
            deadline = self.machine.next_deadline()
            times += [deadline] if deadline is not None else []
        later = [t for t in times if t > self.now]
        self.now = min(min(later, default=self.now + 0.5) + 1e-6, until)

    @property
    def over(self) -> bool:
        return self.machine is not None and self.machine.done and not self.agents and not self.processes()

    def play(self, faults: dict[int, Callable[[Stage], None]], *, seed: int | None = None, limit: int = 60_000) -> int:
        """Plays until the job is over; before the k-th move, a fault. Returns how many moves were made."""
        chooser = random.Random(seed) if seed is not None else None
        happened = 0
        idle_since = self.now
        while not self.over:
            moves = self.moves()
            if chooser is not None:
                chooser.shuffle(moves)
            busy = False
            for move in moves:
                fault = faults.get(happened)
                if fault is not None:
                    faults = {k: f for k, f in faults.items() if k != happened}
                    fault(self)
                if move():
                    busy = True
                    happened += 1
                    if chooser is not None:
                        break
            if self.machine is None and not busy:
                self.restart()
                busy = True
            if not busy:
                self.pass_time()
            assert happened < limit, f"the job does not end: {self.where()}"
            assert self.now - idle_since < 3600.0, f"the job does not end: {self.where()}"
        machine = self.need()
        assert machine.state is JobState.SUCCEEDED, self.where()
        result = machine.record.result
        assert result is not None
        assert (result.step, result.weights_sha256) == (LAST_STEP, f"{self.committed[LAST_STEP]:x}")
        return happened

    def where(self) -> str:
        state = "dead" if self.machine is None else f"{self.machine.record} {self.machine.workers()}"
        processes = [(p.worker, p.incarnation, p.mode, p.generation, p.step, p.frozen) for p in self.processes()]
        return "\n".join([*self.log[-60:], state, str(processes), str(list(self.agents))])
