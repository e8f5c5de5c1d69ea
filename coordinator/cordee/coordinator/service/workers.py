"""The workers' side of the coordinator: their streams, in gRPC.

A stream is one process of one worker. What it says becomes an event, what the job's machine decides becomes a message;
neither is looked into here. Its end, by whatever end, is an event too, and the fastest sign of a dead worker: the
kernel closes a killed process's connection, and this coroutine wakes within a millisecond or so.

Every call needs the token of a worker (`identity`), checked before the call's handler runs, and is then good for that
worker's job only.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
import grpc.aio

from cordee.coordinator.core import actions, events
from cordee.coordinator.core.activity import Activity, Doing
from cordee.coordinator.core.model import ArrivalReason, Member, PostMortem, Result, StopReason
from cordee.coordinator.errors import CoordinatorError
from cordee.coordinator.service.controller import Controller
from cordee.coordinator.service.folder import StateFolder
from cordee.coordinator.service.identity import Worker, WorkerVerifier, is_worker_of
from cordee.coordinator.service.interceptor import token_of
from cordee.coordinator.service.job import Job, Progress, finite
from cordee.coordinator.service.outgoing import Outgoing, SendFault
from cordee.rpc.v1 import worker_pb2 as pb
from cordee.rpc.v1 import worker_pb2_grpc as rpc

__all__ = ["MAX_NAME", "SERVER_OPTIONS", "WorkerServicer"]

SERVER_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # a port in use is an error, not a lottery between two coordinators
    ("grpc.keepalive_time_ms", 10_000),  # a machine that vanished sends no end of stream
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
_LAST_WORDS_SECONDS: Final = 3.0
_CHUNK_BYTES: Final = 256 << 10
_MAX_TEXT: Final = 64 << 10
_MAX_METRICS: Final = 200
MAX_NAME: Final = 300
"""Of an incarnation, of an address."""
_MAX_NAMES: Final = 4096
_MAX_PARTS: Final = 16

_Context = grpc.aio.ServicerContext[Any, Any]

_REASONS: Final = {
    pb.ARRIVAL_REASON_UNSPECIFIED: ArrivalReason.JOIN,
    pb.ARRIVAL_REASON_JOIN: ArrivalReason.JOIN,
    pb.ARRIVAL_REASON_CHANGE: ArrivalReason.CHANGE,
    pb.ARRIVAL_REASON_PEER_LOST: ArrivalReason.PEER_LOST,
}
_STOPS: Final = {
    StopReason.DRAINED: pb.STOP_REASON_DRAINED,
    StopReason.CANCELLED: pb.STOP_REASON_CANCELLED,
    StopReason.FINISHED: pb.STOP_REASON_FINISHED,
    StopReason.FAILED: pb.STOP_REASON_FAILED,
    StopReason.FENCED: pb.STOP_REASON_FENCED,
    StopReason.STUCK: pb.STOP_REASON_STUCK,
}
_PHASES: Final = {
    pb.PHASE_PREPARING: Doing.PREPARING,
    pb.PHASE_MEETING: Doing.MEETING,
    pb.PHASE_COMPUTING: Doing.COMPUTING,
    pb.PHASE_EXCHANGING: Doing.EXCHANGING,
    pb.PHASE_OUTSIDE: Doing.OUTSIDE,
}


class _Session:
    """One stream of one worker's process."""

    def __init__(self, job: Job, hello: pb.Hello) -> None:
        self.job = job
        self.worker = hello.worker
        self.incarnation = hello.incarnation
        # None ends the stream, after everything before it has been written.
        self.outgoing: asyncio.Queue[pb.CoordinatorMessage | None] = asyncio.Queue()


class WorkerServicer(rpc.WorkerServiceServicer):
    """Streams in, events out; and the other way round. It is the controller's mailbox."""

    def __init__(self, controller: Controller, folder: StateFolder, verifier: WorkerVerifier) -> None:
        self._controller = controller
        self._verifier = verifier
        self._folder = folder
        self._sessions: dict[tuple[str, str], _Session] = {}
        controller.mailbox = self.deliver
        controller.metrics.attached = lambda: len(self._sessions)

    def deliver(self, message: Outgoing) -> None:
        """Queue a message for one incarnation of a worker; dropped when its stream is gone."""
        session = self._sessions.get((message.worker, message.incarnation))
        if session is None:
            return
        session.outgoing.put_nowait(_to_wire(message))
        if isinstance(message, actions.SendStop):
            if message.reason is StopReason.STUCK:  # it says where it stands, and closes
                asyncio.get_running_loop().call_later(_LAST_WORDS_SECONDS, session.outgoing.put_nowait, None)
            else:
                session.outgoing.put_nowait(None)

    # grpc.aio takes a coroutine that writes as well as a generator; the stubs know only the latter. A generator would
    # be left standing at its `yield` when the stream breaks during a write, and its end would come late.
    async def Attach(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]  # noqa: N802
        self, request_iterator: AsyncIterator[pb.WorkerMessage], context: _Context
    ) -> None:
        """A worker's session."""
        hello, job = await self._hello(request_iterator, context)
        session = _Session(job, hello)
        key = (session.worker, session.incarnation)
        earlier = self._sessions.pop(key, None)
        if earlier is not None:
            earlier.outgoing.put_nowait(None)  # the same process on a new connection: the old one says nothing more
        self._sessions[key] = session
        session.outgoing.put_nowait(
            pb.CoordinatorMessage(
                welcome=pb.Welcome(
                    heartbeat_seconds=job.machine.policy.heartbeat_seconds,
                    generation=job.machine.generation,
                    secret=job.token,
                )
            )
        )
        reader: asyncio.Task[None] | None = None
        try:
            self._controller.feed(job, _attached(hello))
            reader = asyncio.get_running_loop().create_task(self._read(session, request_iterator))
            await self._write(session, context, reader)
            if self._controller.closing:  # a last word was read, perhaps, and not taken: no quiet end
                await context.abort(grpc.StatusCode.UNAVAILABLE, "this coordinator has ended: look for the next one")
        finally:
            if reader is not None:
                reader.cancel()
            if self._sessions.get(key) is session:
                del self._sessions[key]
                self._controller.feed(job, events.WorkerDetached(session.worker, session.incarnation))

    async def FetchBundle(  # noqa: N802  the protocol's name
        self, request: pb.FetchBundleRequest, context: _Context
    ) -> AsyncIterator[pb.BundleChunk]:
        """The job's source."""
        job, _ = await self._job(request.job, context)
        path = self._folder.bundle(job.bundle) if job.bundle else None
        if path is None or not path.exists():
            await context.abort(grpc.StatusCode.NOT_FOUND, f"the source of the job {job.id} is not here")
            raise AssertionError
        with path.open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
                yield pb.BundleChunk(data=chunk)

    async def _hello(self, messages: AsyncIterator[pb.WorkerMessage], context: _Context) -> tuple[pb.Hello, Job]:
        first = await anext(messages, None)
        if first is None or first.WhichOneof("kind") != "hello":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message of a stream is Hello")
            raise AssertionError
        hello = first.hello
        job, caller = await self._job(hello.job, context)
        named = 0 < len(hello.incarnation) <= MAX_NAME and len(hello.address) <= MAX_NAME  # both are stored, every turn
        if not is_worker_of(job.id, hello.worker) or not named:
            who = f"{hello.worker[:MAX_NAME]!r}, incarnation {hello.incarnation[:MAX_NAME]!r},"
            sentence = f"{who} is no worker of the job {job.id}"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, sentence)
        if not caller.is_named(hello.worker):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"the token is not the worker {hello.worker}'s")
        return hello, job

    async def _job(self, identity: str, context: _Context) -> tuple[Job, Worker]:
        """The job, if the caller is its worker. To others it does not even say whether the job exists."""
        job = self._controller.find_id(identity)
        try:
            caller = await self._verifier.identify(token_of(context.invocation_metadata()))
        except CoordinatorError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, error.message)
            raise AssertionError from None
        if job is None or caller is None or caller.job != job.id:
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED, f"the token is not the job {identity[:MAX_NAME]!r}'s"
            )
            raise AssertionError
        return job, caller

    async def _read(self, session: _Session, messages: AsyncIterator[pb.WorkerMessage]) -> None:
        try:
            async for message in messages:
                kind = message.WhichOneof("kind")
                handler = _HANDLERS.get(kind or "")
                if handler is not None:  # a newer worker's message is none of ours
                    handler(self._controller, session, getattr(message, kind or ""))
        finally:
            # It has half-closed: it reads what is queued, and then the end.
            session.outgoing.put_nowait(None)

    async def _write(self, session: _Session, context: _Context, reader: "asyncio.Task[None]") -> None:
        while (message := await session.outgoing.get()) is not None:
            await context.write(message)
        if reader.done() and not reader.cancelled():
            reader.result()  # an error of ours is not a quiet end


# -- what workers say


def _attached(hello: pb.Hello) -> events.WorkerAttached:
    return events.WorkerAttached(
        worker=hello.worker,
        incarnation=hello.incarnation,
        address=hello.address,
        generation=hello.generation,
        step=hello.step if hello.has_state else None,
        pid=hello.pid,
        waiting=hello.waiting,
        previous=_previous(hello.previous) if hello.HasField("previous") else None,
    )


def _previous(told: pb.PostMortem) -> PostMortem:
    return PostMortem(
        incarnation=told.incarnation,
        code=told.code,
        words=told.words[:_MAX_TEXT],
        stack=told.stack[:_MAX_TEXT],
        step=told.step,
        asked=told.asked,
        silent=told.silent,
        patience=told.patience,
        out_of_memory=told.out_of_memory,
    )


def _heard(controller: Controller, session: _Session) -> None:
    controller.feed(session.job, events.WorkerHeard(session.worker, session.incarnation))


def _activity(session: _Session, message: pb.Heartbeat) -> Activity | None:
    """What it does in this world. What it did in an earlier one holds nobody up any more."""
    if message.generation != session.job.machine.generation or not message.HasField("activity"):
        return None
    told = message.activity
    return Activity(
        doing=_PHASES.get(told.phase, Doing.UNKNOWN),
        step=told.step,
        seconds=told.seconds,
        waiting_for=tuple(told.waiting_for[:_MAX_NAMES]),
        idle_seconds=told.idle_seconds,
    )


def _step(session: _Session, message: pb.Heartbeat | pb.Progress) -> int | None:
    """The step it tells of. A word of an earlier world, which was further perhaps, tells nothing of this one's."""
    return message.step or None if message.generation == session.job.machine.generation else None


def _on_heartbeat(controller: Controller, session: _Session, message: pb.Heartbeat) -> None:
    event = events.WorkerHeard(
        session.worker, session.incarnation, _step(session, message), _activity(session, message)
    )
    controller.feed(session.job, event)


def _on_arrived(controller: Controller, session: _Session, message: pb.Arrived) -> None:
    event = events.WorkerArrived(
        worker=session.worker,
        incarnation=session.incarnation,
        generation=message.generation,
        step=message.step if message.has_state else None,
        reason=_REASONS.get(message.reason, ArrivalReason.JOIN),
        suspects=tuple(message.suspects[:_MAX_NAMES]),
        computes_with=tuple(part[:MAX_NAME] for part in message.computes_with[:_MAX_PARTS]),
    )
    controller.feed(session.job, event)


def _on_progress(controller: Controller, session: _Session, message: pb.Progress) -> None:
    metrics = dict(list(message.metrics.items())[:_MAX_METRICS])
    told = Progress(
        generation=message.generation,
        step=message.step,
        steps_total=message.steps_total or None,
        epoch=message.epoch or None,
        epochs=message.epochs or None,
        loss=finite(message.loss),
        samples=message.samples,
        step_seconds=finite(message.step_seconds) or None,
        samples_per_second=finite(message.samples_per_second) or None,
        metrics={name: finite(value) for name, value in metrics.items()},
        data_seconds=finite(message.data_seconds),
    )
    waits = {pace.worker[:MAX_NAME]: pace.data_seconds for pace in message.paces[:_MAX_NAMES]}
    controller.progress(session.job, told, waits)
    step = _step(session, message)
    paces = tuple((pace.worker, pace.shard_seconds) for pace in message.paces[:_MAX_NAMES])
    heard = events.WorkerHeard(session.worker, session.incarnation, step, paces=() if step is None else paces)
    controller.feed(session.job, heard)


def _on_checkpointed(controller: Controller, session: _Session, message: pb.Checkpointed) -> None:
    controller.checkpointed(session.job, message.step, message.size_bytes, message.seconds)
    controller.feed(session.job, events.WorkerCheckpointed(session.worker, session.incarnation, message.step))


def _on_leaving(controller: Controller, session: _Session, message: pb.Leaving) -> None:
    reason = message.reason[:_MAX_TEXT]
    controller.feed(session.job, events.WorkerLeaving(session.worker, session.incarnation, reason))


def _on_finished(controller: Controller, session: _Session, message: pb.Finished) -> None:
    result = Result(
        step=message.step,
        samples=message.samples,
        weights_sha256=message.weights_sha256[:128],
        metrics=dict(list(message.metrics.items())[:_MAX_METRICS]),
        weights_path=message.weights_path[:4096],
    )
    controller.feed(session.job, events.WorkerFinished(session.worker, session.incarnation, result))


def _on_script_failed(controller: Controller, session: _Session, message: pb.ScriptFailed) -> None:
    event = events.ScriptFailed(
        worker=session.worker,
        incarnation=session.incarnation,
        exception=message.exception[:_MAX_TEXT],
        traceback=message.traceback[-_MAX_TEXT:],  # its end says what happened
        step=message.step,
    )
    controller.feed(session.job, event)


def _on_note(controller: Controller, session: _Session, message: pb.Note) -> None:
    took = f" ({message.seconds:.3g} s)" if message.seconds > 0 else ""
    controller.note(session.job, message.kind, f"{session.worker}: {message.message}{took}")
    _heard(controller, session)


def _on_reached(controller: Controller, session: _Session, message: pb.Reached) -> None:
    reached = tuple(message.incarnations[:_MAX_NAMES])
    controller.feed(session.job, events.WorkerReached(session.worker, session.incarnation, reached))


_HANDLERS: Final[dict[str, Callable[[Controller, _Session, Any], None]]] = {
    "heartbeat": _on_heartbeat,
    "arrived": _on_arrived,
    "progress": _on_progress,
    "checkpointed": _on_checkpointed,
    "leaving": _on_leaving,
    "finished": _on_finished,
    "script_failed": _on_script_failed,
    "note": _on_note,
    "reached": _on_reached,
}


# -- what is said to them


def _to_wire(message: Outgoing) -> pb.CoordinatorMessage:
    match message:
        case actions.SendWorld(world=world):
            members = [_member(rank, member) for rank, member in enumerate(world.members)]
            sent = pb.World(generation=world.generation, members=members, step=world.step, cause=world.cause.value)
            return pb.CoordinatorMessage(world=sent)
        case actions.SendChangePending(generation=generation):
            return pb.CoordinatorMessage(change_pending=pb.ChangePending(generation=generation))
        case actions.SendAbort(generation=generation, lost=lost):
            return pb.CoordinatorMessage(abort=pb.Abort(generation=generation, lost=lost))
        case actions.SendProbe(peers=peers):
            return pb.CoordinatorMessage(probe=pb.Probe(peers=[_member(k, peer) for k, peer in enumerate(peers)]))
        case actions.SendStop(reason=reason, message=text):
            return pb.CoordinatorMessage(stop=pb.Stop(reason=_STOPS[reason], message=text))
        case SendFault(fault=fault, peer=peer):
            told = pb.Fault(kind=fault.kind, seconds=fault.seconds, peer=peer, amount=fault.amount)
            return pb.CoordinatorMessage(fault=told)


def _member(rank: int, member: Member) -> pb.Member:
    return pb.Member(
        rank=rank,
        worker=member.worker,
        incarnation=member.incarnation,
        address=member.address,
        step=member.step or 0,
        has_state=member.step is not None,
    )
