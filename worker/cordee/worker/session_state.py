"""What a worker says to its coordinator, and when: the session's decisions, without a thread, a clock or a socket.

`SessionState.handle(event, now)` takes what happened and returns what to do, in order; `cordee.worker.session` does
it. The rules: training never waits for the coordinator except in a rendezvous; what the coordinator must know (an
arrival, a wish to leave, the end) is remembered and said again on every new stream until it is answered, and saying it
twice means the same as saying it once; a coordinator that is gone for longer than the orphan limit ends the process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cordee.rpc.v1 import worker_pb2 as pb
from cordee.worker import exit_codes
from cordee.worker.activity import Activity
from cordee.worker.session_events import (
    AbortMesh,
    CarryOut,
    CloseStream,
    DeliverWorld,
    End,
    Event,
    Instruction,
    OpenStream,
    Post,
    ProbePeers,
    Received,
    Say,
    Send,
    StreamEnded,
    Tick,
    WorkerIdentity,
)

__all__ = [
    "AbortMesh",
    "CarryOut",
    "CloseStream",
    "DeliverWorld",
    "End",
    "Event",
    "Instruction",
    "OpenStream",
    "Post",
    "ProbePeers",
    "Received",
    "Say",
    "Send",
    "SessionState",
    "StreamEnded",
    "Tick",
    "WorkerIdentity",
]

FIRST_BACKOFF_SECONDS = 0.05
LAST_BACKOFF_SECONDS = 1.0
FLUSH_SECONDS = 5.0
"""How long the coordinator may take to end a stream whose last word was said, before it is said on another one."""
LAST_WORDS_SECONDS = 1.0
"""How long a worker that is stopped for being stuck waits for the coordinator to have read where it stands."""
LOOK_SECONDS = 0.5
"""How often the activity is looked at, at least, for news that are told at once."""
IDLE_HEARTBEAT_SECONDS = 0.25
"""How often a worker is heard that waits for silent peers: who is to blame is found by comparing."""
NOTES_KEPT = 64
"""Notes kept for the next stream while there is none; older ones are dropped: they are news, not state."""


STOP_CODES = {
    pb.STOP_REASON_DRAINED: (exit_codes.DRAINED, "drained: it left its world at a step boundary"),
    pb.STOP_REASON_CANCELLED: (exit_codes.STOPPED, "the job was cancelled"),
    pb.STOP_REASON_FINISHED: (exit_codes.STOPPED, "the job has its result already"),
    pb.STOP_REASON_FAILED: (exit_codes.STOPPED, "the job has failed"),
    pb.STOP_REASON_FENCED: (exit_codes.FENCED, "a newer incarnation or generation has taken this worker's place"),
    pb.STOP_REASON_STUCK: (exit_codes.FENCED, "it held its peers up, and another process takes its place"),
    pb.STOP_REASON_UNSPECIFIED: (exit_codes.STOPPED, "stopped by the coordinator"),
}


@dataclass
class SessionState:
    """One worker process's view of its session.

    `step`, `has_state` are written by the training thread between events (plain attributes: a stale read is a step
    old). `generation`, `change_pending`, `aborted` are read by it.
    """

    identity: WorkerIdentity
    orphan_seconds: float
    started: float
    activity: Activity = field(default_factory=Activity)
    stack: Callable[[], str] = lambda: ""
    """Where the training thread stands; asked when this worker is stopped for being stuck."""

    generation: int = 0
    step: int = 0
    has_state: bool = False
    change_pending: bool = False
    aborted: AbortMesh | None = None
    secret: str = ""
    """The job's, by the last welcome."""
    ended: End | None = None

    _open: bool = False
    _attached: bool = False
    _alone_since: float = 0.0
    _retry_at: float = 0.0
    _failures: int = 0
    _complaint: str = ""
    _heartbeat_seconds: float = 0.5
    _heartbeat_at: float = 0.0
    _look_at: float = 0.0
    _told: tuple[bool, bool] = (False, False)
    """Whether the last heartbeat said that the worker was idle, and that its step took long."""
    _flush_until: float | None = None
    _arrival: pb.Arrived | None = None
    _leaving: pb.Leaving | None = None
    _checkpoint: pb.Checkpointed | None = None
    _progress: pb.Progress | None = None
    _notes: deque[pb.Note] = field(default_factory=lambda: deque(maxlen=NOTES_KEPT))
    _ending: pb.WorkerMessage | None = None
    _stuck: End | None = None
    """The end of a worker that has said where it is stuck."""

    def __post_init__(self) -> None:
        self._alone_since = self._retry_at = self.started

    @property
    def attached(self) -> bool:
        """Whether the coordinator has welcomed this stream."""
        return self._attached

    @property
    def leaving(self) -> bool:
        """Whether this process was asked to go."""
        return self._leaving is not None

    @property
    def stuck(self) -> bool:
        """Whether this process was told that it holds its peers up."""
        return self._stuck is not None

    def deadline(self) -> float:
        """When the next Tick is due, unless something happens before."""
        if self._flush_until is not None:
            return self._flush_until
        if self._attached:
            return min(self._heartbeat_at, self._look_at)
        orphan_at = self._alone_since + self.orphan_seconds
        return orphan_at if self._open else min(orphan_at, self._retry_at)

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """What to do about `event`. After `End` nothing is done any more."""
        if self.ended is not None:
            return []
        handler: Callable[[Any, float], list[Instruction]] = _HANDLERS[type(event)].__get__(self)
        instructions = handler(event, now)
        self.ended = next((i for i in instructions if isinstance(i, End)), None)
        return instructions

    # --- time, and the stream ---

    def _tick(self, _event: Tick, now: float) -> list[Instruction]:
        if self._flush_until is not None:
            if now < self._flush_until:
                return []  # the last word is said: nothing may follow it
            # Nobody knows whether it was heard: a coordinator that hangs, and then dies, has stored nothing.
            return self._stream_ended(StreamEnded("it does not answer"), now)
        if not self._attached and now - self._alone_since >= self.orphan_seconds:
            reason = f": {self._complaint}" if self._complaint else ""
            code = exit_codes.STOPPED if self._ending is None else self._ending_code()
            return [End(code, f"no coordinator answered for {self.orphan_seconds:g} s{reason}")]
        if not self._open:
            return self._connect() if now >= self._retry_at else []
        return self._beat(now) if self._attached else []

    def _beat(self, now: float) -> list[Instruction]:
        """A heartbeat when it is due, or when there is news in what the training thread does."""
        glance = self.activity.glance(now)
        self._look_at = now + min(LOOK_SECONDS, glance.seconds_until_news + 0.001)
        news = (glance.idle, glance.long)
        if now < self._heartbeat_at and news == self._told:
            return []
        self._told = news
        interval = self._heartbeat_seconds
        self._heartbeat_at = now + (min(interval, IDLE_HEARTBEAT_SECONDS) if glance.idle else interval)
        beat = pb.Heartbeat(generation=self.generation, step=self.step, activity=glance.told())
        return [Send(pb.WorkerMessage(heartbeat=beat))]

    def _connect(self) -> list[Instruction]:
        self._open = True
        hello = pb.Hello(
            job=self.identity.job,
            worker=self.identity.worker,
            incarnation=self.identity.incarnation,
            address=self.identity.address,
            pid=self.identity.pid,
            previous=self.identity.previous,
            generation=self.generation,
            step=self.step,
            has_state=self.has_state,
            waiting=self._arrival is not None,
        )
        return [OpenStream(), Send(pb.WorkerMessage(hello=hello))]

    def _stream_ended(self, event: StreamEnded, now: float) -> list[Instruction]:
        told = self._flush_until is not None
        self._flush_until = None
        if self._stuck is not None:
            return [self._stuck]
        if told and not event.error:
            return [End(self._ending_code(), "the coordinator was told everything")]
        if self._attached:
            self._attached = False
            self._alone_since = now
        self._open = False
        # The first attempt after a loss is immediate: the coordinator may have closed one stream only.
        backoff = FIRST_BACKOFF_SECONDS * 2 ** min(self._failures - 1, 10) if self._failures else 0.0
        self._retry_at = now + min(backoff, LAST_BACKOFF_SECONDS)
        self._failures += 1
        complaint = event.error or "the stream was closed"
        if complaint == self._complaint:
            return []
        self._complaint = complaint
        return [Say(f"lost the coordinator ({complaint}); training goes on, trying to reach it again")]

    # --- what the coordinator says ---

    def _received(self, event: Received, now: float) -> list[Instruction]:
        kind = event.message.WhichOneof("kind")
        if kind is None:  # a newer coordinator's message
            return []
        rule: Callable[[Any, float], list[Instruction]] = _MESSAGES[kind].__get__(self)
        return rule(getattr(event.message, kind), now)

    def _welcome(self, message: pb.Welcome, now: float) -> list[Instruction]:
        if self._attached:
            return []
        instructions: list[Instruction] = [Say("the coordinator answers again")] if self._complaint else []
        self._attached = True
        self._failures = 0
        self._complaint = ""
        self.secret = message.secret or self.secret
        if message.heartbeat_seconds > 0:
            self._heartbeat_seconds = message.heartbeat_seconds
        self._heartbeat_at = now + self._heartbeat_seconds
        self._look_at = now + min(self._heartbeat_seconds, LOOK_SECONDS)
        self._told = (False, False)
        backlog = [pb.WorkerMessage(note=note) for note in self._notes]
        self._notes.clear()
        if self._checkpoint is not None:
            backlog.append(pb.WorkerMessage(checkpointed=self._checkpoint))
        if self._progress is not None:
            backlog.append(pb.WorkerMessage(progress=self._progress))
        if self._leaving is not None:
            backlog.append(pb.WorkerMessage(leaving=self._leaving))
        if self._arrival is not None:
            backlog.append(pb.WorkerMessage(arrived=self._arrival))
        instructions += [Send(item) for item in backlog]
        return instructions + self._say_ending(now)

    def _world(self, world: pb.World, _now: float) -> list[Instruction]:
        if self._arrival is None or world.generation <= self.generation:
            return []  # said again, or meant for an arrival that was answered already
        self._arrival = None
        self._progress = None
        self.change_pending = False
        self.generation = world.generation
        return [DeliverWorld(world)]

    def _change_pending(self, message: pb.ChangePending, _now: float) -> list[Instruction]:
        if message.generation == self.generation:
            self.change_pending = True
        return []

    def _abort(self, message: pb.Abort, _now: float) -> list[Instruction]:
        if message.generation != self.generation or self._arrival is not None:
            return []  # of a world that is left already
        self.aborted = AbortMesh(message.generation, tuple(message.lost))
        return [self.aborted]

    def _fault(self, message: pb.Fault, _now: float) -> list[Instruction]:
        return [CarryOut(message)]

    def _probe(self, message: pb.Probe, _now: float) -> list[Instruction]:
        return [] if self._arrival is None else [ProbePeers(message)]  # else it has been let in meanwhile

    def _stop(self, message: pb.Stop, now: float) -> list[Instruction]:
        if self._ending is not None and self._flush_until is not None:
            return [End(self._ending_code(), "the coordinator was told everything")]
        code, words = STOP_CODES.get(message.reason, STOP_CODES[pb.STOP_REASON_UNSPECIFIED])
        end = End(code, message.message or words)
        if message.reason != pb.STOP_REASON_STUCK:
            return [end]
        if self._stuck is not None:
            return []
        self._stuck, self._flush_until = end, now + LAST_WORDS_SECONDS
        note = pb.Note(kind="stack", message=self.stack())
        return [Send(pb.WorkerMessage(note=note)), CloseStream()]

    # --- what the training thread says ---

    def _post(self, event: Post, now: float) -> list[Instruction]:
        kind = event.message.WhichOneof("kind")
        assert kind is not None
        keep: Callable[[Any], None] = _KEPT[kind].__get__(self)
        keep(event.message if kind in _ENDINGS else getattr(event.message, kind))
        if self._flush_until is not None:
            return []
        if kind in _ENDINGS:
            return self._say_ending(now) if self._attached else []
        if self._attached:
            self._notes.clear()
            return [Send(event.message)]
        return []

    def _keep_arrival(self, message: pb.Arrived) -> None:
        self._arrival = message

    def _keep_leaving(self, message: pb.Leaving) -> None:
        self._leaving = message

    def _keep_progress(self, message: pb.Progress) -> None:
        self._progress = message

    def _keep_checkpoint(self, message: pb.Checkpointed) -> None:
        self._checkpoint = message

    def _keep_note(self, message: pb.Note) -> None:
        self._notes.append(message)

    def _keep_nothing(self, _message: Any) -> None:
        """Who needs to know asks again."""

    def _keep_ending(self, message: pb.WorkerMessage) -> None:
        self._ending = message

    def _say_ending(self, now: float) -> list[Instruction]:
        if self._ending is None:
            return []
        self._flush_until = now + FLUSH_SECONDS
        return [Send(self._ending), CloseStream()]

    def _ending_code(self) -> int:
        assert self._ending is not None
        return _ENDINGS[self._ending.WhichOneof("kind") or ""]


_HANDLERS: dict[type, Callable[..., list[Instruction]]] = {
    Tick: SessionState._tick,
    StreamEnded: SessionState._stream_ended,
    Received: SessionState._received,
    Post: SessionState._post,
}
_MESSAGES: dict[str, Callable[..., list[Instruction]]] = {
    "welcome": SessionState._welcome,
    "world": SessionState._world,
    "change_pending": SessionState._change_pending,
    "abort": SessionState._abort,
    "stop": SessionState._stop,
    "fault": SessionState._fault,
    "probe": SessionState._probe,
}
_KEPT: dict[str, Callable[..., None]] = {
    "arrived": SessionState._keep_arrival,
    "leaving": SessionState._keep_leaving,
    "progress": SessionState._keep_progress,
    "checkpointed": SessionState._keep_checkpoint,
    "note": SessionState._keep_note,
    "reached": SessionState._keep_nothing,
    "finished": SessionState._keep_ending,
    "script_failed": SessionState._keep_ending,
}
_ENDINGS = {"finished": exit_codes.FINISHED, "script_failed": exit_codes.SCRIPT_FAILED}
"""The last word of a process, and the code it ends with."""
