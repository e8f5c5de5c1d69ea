"""A real coordinator on the loopback, and workers driven by hand: real gRPC streams, a real REST client, real agents.

The agents are a small script that notes what it was told and waits; the workers that would be its children are streams
opened by the test, so that a test decides what a worker says, and when its stream breaks.
"""

import asyncio
import gzip
import hashlib
import io
import json
import sys
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc.aio
import httpx2
import pytest

from cordee.coordinator.core.model import Policy
from cordee.coordinator.service.server import CoordinatorServer
from cordee.rpc.v1 import worker_pb2 as pb
from cordee.rpc.v1 import worker_pb2_grpc as rpc

# Writes down its environment, then lives until it is stopped.
AGENT = """
import json, os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(71))
path = pathlib.Path(os.environ["CORDEE_WORKDIR"], os.environ["CORDEE_WORKER"] + ".environment")
path.with_suffix(".new").write_text(json.dumps(dict(os.environ)))
path.with_suffix(".new").rename(path)
time.sleep(600)
"""
AGENT_COMMAND = (sys.executable, "-S", "-c", AGENT)

# Short where a test waits for it, long where nothing in a test may run out.
POLICY = replace(Policy(), settle_seconds=0.2, heartbeat_timeout_seconds=30.0, parting_seconds=0.3)


def make_bundle(files: dict[str, str]) -> tuple[bytes, str]:
    """A source bundle and its digest."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    data = gzip.compress(raw.getvalue(), mtime=0)
    return data, hashlib.sha256(data).hexdigest()


def make_document(name: str = "job", workers: tuple[int, int] = (1, 2), **spec: Any) -> dict[str, Any]:
    """A job document."""
    return {
        "apiVersion": "cordee.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": {"script": "train.py", "workers": {"min": workers[0], "max": workers[1]}, **spec},
    }


async def until(found: Callable[[], Any], *, seconds: float = 20) -> Any:
    """The first true value of what another process or task brings about and signals nowhere."""
    async with asyncio.timeout(seconds):
        while not (value := found()):
            await asyncio.sleep(0.01)
        return value


@dataclass
class Peer:
    """One process of a worker, as the coordinator sees it: a stream."""

    stub: Any
    job: str
    worker: str
    token: str
    incarnation: str = "i1"
    call: Any = None
    welcome: pb.Welcome = field(default_factory=pb.Welcome)

    async def attach(self, *, generation: int = 0, step: int | None = None, waiting: bool = False) -> "Peer":
        self.call = self.stub.Attach(metadata=(("authorization", f"Bearer {self.token}"),))
        await self.say(
            hello=pb.Hello(
                job=self.job,
                worker=self.worker,
                incarnation=self.incarnation,
                address=f"127.0.0.1:1{self.worker[-1]}",
                generation=generation,
                step=step or 0,
                has_state=step is not None,
                pid=1000 + int(self.worker[-1]),
                waiting=waiting,
            )
        )
        self.welcome = await self.expect("welcome")
        return self

    async def say(self, **message: Any) -> None:
        await self.call.write(pb.WorkerMessage(**message))

    async def arrive(self, generation: int = 0, step: int | None = None, reason: int = pb.ARRIVAL_REASON_JOIN) -> None:
        arrived = pb.Arrived(generation=generation, step=step or 0, has_state=step is not None, reason=reason)
        await self.say(arrived=arrived)

    async def expect(self, kind: str, *, skip: str = "") -> Any:
        async with asyncio.timeout(20):
            message = await self.call.read()
            while message is not grpc.aio.EOF and message.WhichOneof("kind") == skip:
                message = await self.call.read()
        assert message is not grpc.aio.EOF, f"the stream has ended; expected {kind}"
        assert message.WhichOneof("kind") == kind, message
        return getattr(message, kind)

    async def expect_end(self) -> None:
        async with asyncio.timeout(20):
            assert await self.call.read() is grpc.aio.EOF

    async def drop(self) -> None:
        """The stream breaks, as when the process is killed."""
        self.call.cancel()
        await asyncio.wait((asyncio.ensure_future(self.call.wait_for_connection()),))


@dataclass
class Coordinator:
    """A running coordinator and the means to talk to it."""

    server: CoordinatorServer
    http: httpx2.AsyncClient
    stub: Any
    state: Path

    async def submit(self, document: dict[str, Any] | None = None) -> dict[str, Any]:
        data, sha256 = make_bundle({"train.py": "print('hello')\n"})
        assert (await self.http.put(f"/v1/bundles/{sha256}", content=data)).status_code == 201
        answer = await self.http.post("/v1/jobs", json={"job": document or make_document(), "bundle": sha256})
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def view(self, job: str) -> dict[str, Any]:
        answer = await self.http.get(f"/v1/jobs/{job}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def view_when(self, job: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(20):
            async with self.http.stream("GET", f"/v1/jobs/{job}/watch") as stream:
                async for line in stream.aiter_lines():
                    view = json.loads(line)
                    if wanted(view):
                        return view
        raise AssertionError(f"the watch ended without it: {view}")

    async def environment(self, job: str, index: int = 0) -> dict[str, str]:
        """What the agent of a worker was told."""
        path = self.state / "jobs" / job / f"{job}-w{index}.environment"
        await until(path.exists)
        return json.loads(path.read_text())

    async def peer(self, job: str, index: int = 0, incarnation: str = "i1") -> Peer:
        """A process of a worker, not yet attached, with the token its agent was given."""
        environment = await self.environment(job, index)
        return Peer(self.stub, job, f"{job}-w{index}", environment["CORDEE_TOKEN"], incarnation)

    async def train(self, job: str, count: int) -> list[Peer]:
        """Attach so many workers and let them form the first world."""
        peers = [await (await self.peer(job, index)).attach() for index in range(count)]
        for peer in peers:
            await peer.arrive()
        for peer in peers:
            assert (await peer.expect("world")).generation == 1
        return peers


@asynccontextmanager
async def running(state: Path, **options: Any) -> AsyncIterator[Coordinator]:
    """A coordinator on a folder; at the end its jobs are stopped and no agent is left."""
    server = CoordinatorServer(state, **({"policy": POLICY, "agent_command": AGENT_COMMAND} | options))
    await server.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop, True)
        # A thread builds its application, and FastAPI hides a warning meanwhile. Python's filters of warnings are one
        # list for all threads, which pytest exchanges between a test's phases: so not while one is being exchanged.
        async with asyncio.timeout(60):
            await server.rest_ready.wait()
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.grpc_address))
        http = await stack.enter_async_context(
            httpx2.AsyncClient(
                base_url=server.rest_url,
                headers={"Authorization": f"Bearer {server.token}"},
                trust_env=False,
                timeout=20,
            )
        )
        yield Coordinator(server, http, rpc.WorkerServiceStub(channel), state)


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[Coordinator]:
    async with running(tmp_path / "state") as started:
        yield started


@pytest.fixture
def start() -> Callable[..., Any]:
    """Start a coordinator on a folder of the test's choice: `async with start(folder) as coordinator:`."""
    return running


@pytest.fixture
def tools() -> Any:
    """This module, for tests that put their coordinators together themselves."""
    return sys.modules[__name__]
