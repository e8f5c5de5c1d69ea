"""The thread that keeps this worker attached to its coordinator.

It owns a `SessionState` and does what that says: every event (a message from the stream, something posted by the
training thread, a signal, time) goes through one queue to one thread, so there is no lock to hold in the wrong order,
and posting is safe from a signal handler. gRPC's own threads read and write the stream. Training meets this thread in
two places only: `wait_world`, which blocks, and a few attributes, which do not.
"""

from __future__ import annotations

import errno
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault(
    "GRPC_ENABLE_FORK_SUPPORT", "false"
)  # a script's subprocesses exec; gRPC's fork handlers only warn
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc

from cordee.rpc.v1 import worker_pb2 as pb
from cordee.rpc.v1 import worker_pb2_grpc as rpc
from cordee.worker.activity import Activity
from cordee.worker.credentials import Credentials
from cordee.worker.session_state import (
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
    SessionState,
    StreamEnded,
    Tick,
    WorkerIdentity,
)
from cordee.worker.source import BundleError
from cordee.worker.stack import main_stack

__all__ = ["Leave", "Session"]

CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.enable_http_proxy", 0),  # the coordinator is inside the house
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),  # a machine that has vanished sends no end of stream
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),
]


class Leave(BaseException):
    """This process is to go. Not an `Exception`: a script that catches everything it can still lets go."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Session:
    """This worker's session with its coordinator, from `start()` until `ended` is set or `close()` is called."""

    def __init__(
        self,
        identity: WorkerIdentity,
        coordinator: str,
        credentials: Credentials,
        *,
        orphan_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.coordinator = coordinator
        self.activity = Activity(clock)
        """What the training thread does, as it says itself."""
        self._clock = clock
        self._state = SessionState(identity, orphan_seconds, clock(), self.activity, main_stack)
        self._credentials = credentials
        self._material = credentials.material() if credentials.tls else (None, None, None)
        self._channels = [credentials.open_channel(coordinator, CHANNEL_OPTIONS, self._material)]
        self._stub = rpc.WorkerServiceStub(self._channels[-1])
        self._inbox: queue.SimpleQueue[tuple[int, Event] | None] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[pb.WorkerMessage | None] = queue.SimpleQueue()
        self._worlds: queue.SimpleQueue[pb.World | None] = queue.SimpleQueue()
        self._call: Any = None
        self._stream = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cordee-session", daemon=True)
        self.left = False
        """Whether the training thread has been told that the session has ended."""
        self.on_abort: Callable[[int, tuple[str, ...]], None] | None = None
        """Called by the session's thread when the coordinator breaks this generation's exchange off."""
        self.on_fault: Callable[[pb.Fault], None] | None = None
        """Called by the session's thread when the coordinator injects a fault."""
        self.on_probe: Callable[[pb.Probe], None] | None = None
        """Called by the session's thread when the coordinator asks whether peers can be reached."""
        self.on_end: Callable[[int, str], None] | None = None
        """Called by the session's thread, once, when the process is to go."""
        self.progress_source: Callable[[], pb.Progress | None] | None = None
        """Asked at every heartbeat for progress that was held back."""

    # --- for the training thread ---

    def start(self) -> None:
        self._thread.start()

    def post(self, message: pb.WorkerMessage) -> None:
        """Says `message` to the coordinator, now or when it is there again. Never blocks; safe in a signal handler."""
        self._inbox.put((0, Post(message)))

    def advance(self, step: int | None) -> None:
        """The last committed step, for heartbeats and re-attachment; None: no state is held yet."""
        self._state.has_state = step is not None
        self._state.step = step or 0

    def wait_world(self) -> pb.World:
        """The world that answers the arrival posted last; raises `Leave` when there is none for this process."""
        world = self._worlds.get()
        if world is None:
            self._worlds.put(None)  # a script that swallows everything is told again
            raise self.leave()
        return world

    def finish(self, message: pb.WorkerMessage) -> int:
        """Says the process's last word, waits until the coordinator has read it, and returns the code to exit with."""
        self.post(message)
        self._ended.wait()
        return self.leave().code

    def leave(self) -> Leave:
        """Why this process goes. Only after the session has ended; by the training thread."""
        ended = self._state.ended
        assert ended is not None
        self.left = True
        return Leave(ended.code, ended.message)

    @property
    def generation(self) -> int:
        return self._state.generation

    @property
    def secret(self) -> str:
        """What the job's workers make sure of each other by, once the coordinator has told it; empty: not yet."""
        return self._state.secret

    @property
    def change_pending(self) -> bool:
        return self._state.change_pending

    @property
    def leaving(self) -> bool:
        """Whether this process was asked to go."""
        return self._state.leaving

    @property
    def stuck(self) -> bool:
        """Whether this process was told that it holds its peers up."""
        return self._state.stuck

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def aborted(self, generation: int) -> tuple[str, ...] | None:
        """The workers for whose loss the coordinator has broken this generation off; None: it has not."""
        aborted = self._state.aborted
        if aborted is not None and aborted.generation == generation:
            return aborted.lost
        return () if self._state.ended is not None else None

    def fetch_bundle(self, silence_seconds: float) -> Iterator[bytes]:
        """The job's source bundle, piece by piece. `BundleError`: the job has none; `OSError`: it cannot be had now,
        nothing having come for `silence_seconds` perhaps. However long it takes, it may take, while something comes."""
        request = pb.FetchBundleRequest(job=self._state.identity.job)
        call = self._stub.FetchBundle(request, metadata=self._credentials.metadata(), wait_for_ready=True)
        silence = _Silence(silence_seconds, call.cancel)
        try:
            for chunk in call:
                silence.broken()
                yield chunk.data
        except grpc.RpcError as error:
            code, words = _describe(error)
            if silence.over:
                words = f"nothing came for {silence_seconds:g} s"
            if code is grpc.StatusCode.NOT_FOUND:
                raise BundleError(f"the coordinator has no source for this job ({words})") from None
            raise OSError(errno.EIO, f"cannot fetch the job's source: {words}") from None
        finally:
            silence.end()

    def close(self) -> None:
        """Ends the thread and the connection. The coordinator sees a broken stream."""
        self._inbox.put(None)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout=2.0)
        for channel in self._channels:
            channel.close()

    # --- the thread ---

    def _run(self) -> None:
        self._do(self._state.handle(Tick(), self._clock()))
        while self._state.ended is None:
            try:
                item = self._inbox.get(timeout=max(0.0, self._state.deadline() - self._clock()))
            except queue.Empty:
                self._pull_progress()
                event: Event = Tick()
            else:
                if item is None:
                    break
                stream, event = item
                if stream not in (0, self._stream):
                    continue  # the last words of a stream that was given up
            self._do(self._state.handle(event, self._clock()))
        self._outbox.put(None)
        if self._call is not None:
            self._call.cancel()
        ended = self._state.ended
        if ended is not None:
            self._ended.set()
            self._worlds.put(None)
            if self.on_end is not None:
                self.on_end(ended.code, ended.message)

    def _pull_progress(self) -> None:
        progress = self.progress_source() if self.progress_source is not None and self._state.attached else None
        if progress is not None:
            self._do(self._state.handle(Post(pb.WorkerMessage(progress=progress)), self._clock()))

    def _do(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case Send(message):
                    self._outbox.put(message)
                case DeliverWorld(world):
                    self._worlds.put(world)
                case AbortMesh(generation, lost):
                    if self.on_abort is not None:
                        self.on_abort(generation, lost)
                case CarryOut(fault):
                    if self.on_fault is not None:
                        self.on_fault(fault)
                case ProbePeers(probe):
                    if self.on_probe is not None:
                        self.on_probe(probe)
                case OpenStream():
                    self._open_stream()
                case CloseStream():
                    self._outbox.put(None)
                case Say(text):
                    _say(text)
                case End():
                    pass  # the loop ends

    def _open_stream(self) -> None:
        if self._call is not None:
            self._call.cancel()
        self._outbox.put(None)  # frees the thread that feeds the previous stream
        self._outbox = queue.SimpleQueue()
        self._stream += 1
        self._renew_channel()
        self._call = self._stub.Attach(iter(self._outbox.get, None), metadata=self._credentials.metadata())
        reader = threading.Thread(
            target=self._read, args=(self._stream, self._call), name="cordee-session-reader", daemon=True
        )
        reader.start()

    def _renew_channel(self) -> None:
        """A channel keeps the certificates it was made with: where the files say others by now, there is a new one."""
        if not self._credentials.tls:
            return
        material = self._credentials.material()
        if material != self._material:
            self._material = material
            self._channels.append(self._credentials.open_channel(self.coordinator, CHANNEL_OPTIONS, material))
            self._stub = rpc.WorkerServiceStub(self._channels[-1])

    def _read(self, stream: int, call: Any) -> None:
        error = ""
        try:
            for message in call:
                self._inbox.put((stream, Received(message)))
        except grpc.RpcError as failure:
            _, error = _describe(failure)
        self._inbox.put((stream, StreamEnded(error)))


class _Silence:
    """Does something when nothing has been heard for so long."""

    def __init__(self, seconds: float, on_over: Callable[[], object]) -> None:
        self.over = False
        self._seconds = seconds
        self._on_over = on_over
        self._heard = threading.Event()
        self._ended = False
        threading.Thread(target=self._watch, name="cordee-silence", daemon=True).start()

    def broken(self) -> None:
        """Something was heard."""
        self._heard.set()

    def end(self) -> None:
        """It does not matter any more."""
        self._ended = True
        self._heard.set()

    def _watch(self) -> None:
        while self._heard.wait(self._seconds):
            self._heard.clear()
            if self._ended:
                return
        self.over = True
        self._on_over()


def _describe(error: grpc.RpcError) -> tuple[Any, str]:
    """A failed call's status, and it in words."""
    code, details = getattr(error, "code", lambda: None)(), getattr(error, "details", lambda: None)()
    return code, f"{getattr(code, 'name', type(error).__name__)}: {details or 'no details'}"


def _say(text: str) -> None:
    try:
        sys.stderr.write(f"cordee: {text}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass  # the agent that reads it is gone
