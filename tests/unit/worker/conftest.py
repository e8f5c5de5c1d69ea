"""A coordinator that says what a test tells it to, over the real protocol on a real port."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import queue
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.unit.worker.agents import SAY, WAIT_SECONDS, Agent

from cordee.rpc.v1 import worker_pb2 as pb
from cordee.rpc.v1 import worker_pb2_grpc as rpc

TOKEN = "the-jobs-worker-token"


class Stream:
    """One Attach stream, seen from the coordinator."""

    def __init__(self, metadata: dict[str, str]) -> None:
        self.metadata = metadata
        self.said: queue.SimpleQueue[pb.WorkerMessage | None] = queue.SimpleQueue()
        self.closed_in_order = False
        self._outbox: queue.SimpleQueue[pb.CoordinatorMessage | None] = queue.SimpleQueue()

    def send(self, **kind: Any) -> None:
        self._outbox.put(pb.CoordinatorMessage(**kind))

    def end(self) -> None:
        self._outbox.put(None)

    def expect(self, kind: str) -> Any:
        """The next message of this kind; others before it are passed over."""
        while True:
            message = self.said.get(timeout=WAIT_SECONDS)
            assert message is not None, f"the stream ended before a {kind} came"
            if message.WhichOneof("kind") == kind:
                return getattr(message, kind)

    def until_end(self) -> list[str]:
        """The kinds of all messages up to the stream's end."""
        kinds: list[str] = []
        while (message := self.said.get(timeout=WAIT_SECONDS)) is not None:
            kinds.append(message.WhichOneof("kind") or "")
        return kinds

    def listen(self, requests: Iterator[pb.WorkerMessage]) -> None:
        try:
            for message in requests:
                self.said.put(message)
            self.closed_in_order = True
        except Exception:  # the worker's process is gone
            pass
        self.said.put(None)
        self.end()

    def words(self) -> Iterator[pb.CoordinatorMessage]:
        yield from iter(self._outbox.get, None)


class Coordinator(rpc.WorkerServiceServicer):
    """Accepts streams and hands them to the test. `stop` and `start` make it die and come back on the same port."""

    def __init__(self) -> None:
        self.streams: queue.SimpleQueue[Stream] = queue.SimpleQueue()
        self.bundle = b""
        self.stall = threading.Event()
        """Cleared: a bundle stalls after its first pieces."""
        self.stall.set()
        self.fetches = 0
        self.port = 0
        self._server: grpc.Server | None = None
        self._open: list[Stream] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
        rpc.add_WorkerServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            for stream in self._open:
                stream.end()
            self._open.clear()
            self._server.stop(0).wait(WAIT_SECONDS)
            self._server = None

    def accept(self) -> tuple[Stream, pb.Hello]:
        """The next stream and its hello, welcomed."""
        while True:
            stream = self.streams.get(timeout=WAIT_SECONDS)
            with contextlib.suppress(AssertionError):  # opened while the server went down, and gone with it
                hello = stream.expect("hello")
                break
        stream.send(welcome=pb.Welcome(heartbeat_seconds=0.1, generation=hello.generation))
        return stream, hello

    def Attach(self, request_iterator: Iterator[pb.WorkerMessage], context: grpc.ServicerContext) -> Any:
        stream = Stream({name: str(value) for name, value in context.invocation_metadata()})
        self._open.append(stream)
        threading.Thread(target=stream.listen, args=(request_iterator,), daemon=True).start()
        self.streams.put(stream)
        yield from stream.words()

    def FetchBundle(self, request: pb.FetchBundleRequest, context: grpc.ServicerContext) -> Any:
        self.fetches += 1
        if not self.bundle:
            context.abort(grpc.StatusCode.NOT_FOUND, f"job {request.job} has no bundle")
        for start in range(0, len(self.bundle), 1000):
            if start == 2000:
                self.stall.wait(WAIT_SECONDS)
            yield pb.BundleChunk(data=self.bundle[start : start + 1000])


@pytest.fixture
def coordinator() -> Iterator[Coordinator]:
    running = Coordinator()
    running.start()
    yield running
    running.stop()


def pack(files: dict[str, str]) -> tuple[bytes, str]:
    """A bundle of these files, and its SHA-256: the same at any time of day, unlike what gzip writes by itself."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as file, tarfile.open(fileobj=file, mode="w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    data = buffer.getvalue()
    return data, hashlib.sha256(data).hexdigest()


@pytest.fixture
def job(coordinator: Coordinator, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """`job(script_text, …)`: the environment of a worker that is to run this script, its bundle at the coordinator."""

    def make(script: str, worker: str = "job-w0", **extra: str) -> dict[str, str]:
        coordinator.bundle, sha256 = pack({"train.py": script})
        return {
            "CORDEE_JOB": "job",
            "CORDEE_WORKER": worker,
            "CORDEE_COORDINATOR": coordinator.address,
            "CORDEE_TOKEN": TOKEN,
            "CORDEE_WORKDIR": str(tmp_path / "job"),
            "CORDEE_SCRIPT": "train.py",
            "CORDEE_THREADS": "1",
            "CORDEE_BUNDLE": sha256,
            **extra,
        }

    return make


@pytest.fixture
def agents() -> Iterator[list[Agent]]:
    started: list[Agent] = []
    yield started
    for agent in started:
        if agent.process.poll() is None:
            agent.process.kill()
            agent.process.wait(WAIT_SECONDS)
        if agent.log.is_file():
            print(agent.log.read_text())  # shown when the test has failed


@pytest.fixture
def start(job: Callable[..., dict[str, str]], agents: list[Agent]) -> Callable[..., Agent]:
    """`start(script, VARIABLE=value)`: an agent whose worker runs the script against the scripted coordinator."""

    def make(script: str, **extra: str) -> Agent:
        agent = Agent(job(script, **extra), [sys.executable, "-P", "-m", "cordee.worker.agent"])
        agents.append(agent)
        return agent

    return make


@pytest.fixture
def start_bare(tmp_path: Path, agents: list[Agent]) -> Callable[..., Agent]:
    """`start_bare(code)`: an agent whose "worker" is a bare Python program: fast, and needs no coordinator.

    The program may `say(word)` on its lifeline: `say("f0")` before it ends in good order.
    """

    def make(code: str, before: str = "", **settings: float) -> Agent:
        run = (
            "import sys\n"
            "from cordee.worker.agent import Agent\n"
            "from cordee.worker.logfile import LogFile\n"
            f"{before}\n"
            "command = [sys.executable, '-S', '-c', sys.argv[1]]\n"
            f"sys.exit(Agent(command, LogFile(sys.argv[2], 'w'), **{settings!r}).run())"
        )
        log = tmp_path / "logs" / "w.jsonl"
        environment = {"CORDEE_WORKER": "w", "CORDEE_WORKDIR": str(tmp_path)}
        agent = Agent(environment, [sys.executable, "-c", run, SAY + code, str(log)])
        agents.append(agent)
        return agent

    return make
