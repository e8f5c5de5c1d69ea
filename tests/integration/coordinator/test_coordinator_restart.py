"""A coordinator that is killed, and the next one on the same folder: real processes, real signals.

The first lives in a process of its own, so that `kill -9` is `kill -9`; the second in the test's.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import httpx2
import psutil
import pytest

from cordee.coordinator.config import Config, Listen, Retention
from cordee.coordinator.errors import CoordinatorError
from cordee.coordinator.service.server import CoordinatorServer
from cordee.coordinator.service.store import Store
from cordee.rpc.v1 import worker_pb2 as pb
from cordee.rpc.v1 import worker_pb2_grpc as rpc

pytestmark = pytest.mark.slow

SERVE = """
import asyncio, json, sys
from pathlib import Path
from cordee.coordinator.core.model import Policy
from cordee.coordinator.service.server import CoordinatorServer
from cordee.coordinator.service.store import Store
async def main():
    options = json.loads(sys.argv[2])
    server = CoordinatorServer(Path(sys.argv[1]), agent_command=options["agent"], policy=Policy(settle_seconds=0.2))
    await server.start()
    print("up", flush=True)
    await server.serve_forever()
    print("stopped", flush=True)
asyncio.run(main())
"""


@dataclass
class Service:
    """A coordinator's process."""

    process: asyncio.subprocess.Process
    state: Path

    def endpoint(self) -> dict[str, Any]:
        return json.loads((self.state / "endpoint.json").read_text())

    def client(self) -> httpx2.AsyncClient:
        token = (self.state / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        return httpx2.AsyncClient(base_url=self.endpoint()["url"], headers=headers, trust_env=False, timeout=20)

    async def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        async with asyncio.timeout(20):
            return await self.process.wait()


@asynccontextmanager
async def service(state: Path, agent: tuple[str, ...]) -> AsyncIterator[Service]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVE, str(state), json.dumps({"agent": agent}), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"up\n"
        yield Service(process, state)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
async def agents(tmp_path: Path) -> AsyncIterator[Any]:
    """Leaves no agent behind, whatever a test did to its coordinators."""
    yield tmp_path
    for record in (tmp_path / "state" / "agents").glob("*.json"):
        process = json.loads(record.read_text())["process"]
        if process is not None and psutil.pid_exists(process["pid"]):
            os.kill(process["pid"], signal.SIGKILL)


def agent_pids(state: Path) -> dict[str, int]:
    """Of the agents that run; a record is there a moment before its process is."""
    found = {path.stem: json.loads(path.read_text())["process"] for path in (state / "agents").glob("*.json")}
    return {worker: process["pid"] for worker, process in found.items() if process is not None}


async def test_after_kill_9_the_next_coordinator_lists_the_same_jobs_and_readopts_their_workers(
    agents: Path, start: Any, tools: Any
) -> None:
    state = agents / "state"
    async with service(state, tools.AGENT_COMMAND) as first:
        async with first.client() as http, grpc.aio.insecure_channel(first.endpoint()["grpc"]) as channel:
            before = tools.Coordinator(None, http, rpc.WorkerServiceStub(channel), state)
            job = (await before.submit())["id"]
            waiting = (await before.submit(tools.make_document("waits", (8, 8))))["id"]
            peers = await before.train(job, 2)
            await peers[0].say(progress=pb.Progress(generation=1, step=12, samples=384, loss=0.5))
            await before.view_when(job, lambda view: view["step"] == 12)
            await asyncio.sleep(1.5)  # progress is stored once a second
            listed = (await http.get("/v1/jobs")).json()["jobs"]
            pids = agent_pids(state)
            assert set(pids) == {f"{job}-w0", f"{job}-w1"}
            await first.end(signal.SIGKILL)
        old = first.endpoint()

    async with start(state) as after:
        assert (after.server.rest_url, after.server.grpc_address) == (old["url"], old["grpc"])
        again = (await after.http.get("/v1/jobs")).json()["jobs"]
        assert [view["id"] for view in again] == [waiting, job]
        for view, earlier in zip(again, listed, strict=True):
            for field in ("id", "state", "created_at", "started_at", "generation", "step", "samples", "loss", "folder"):
                assert view[field] == earlier[field], field
        assert agent_pids(state) == pids

        for index in range(2):  # they went on meanwhile, and attach as what they are
            peer = await (await after.peer(job, index)).attach(generation=1, step=30)
            assert peer.welcome.generation == 1
            peers[index] = peer
        view = await after.view_when(job, lambda view: view["workers"]["now"] == 2)
        assert (view["state"], view["generation"], view["recoveries"]) == ("running", 1, 0)
        assert agent_pids(state) == pids
        for peer in peers:  # nobody was told to stop, to wait, or of another world
            await peer.say(finished=pb.Finished(step=40, samples=1280, weights_sha256="ab" * 32))
            assert (await peer.expect("stop")).reason == pb.STOP_REASON_FINISHED
        view = await after.view_when(job, lambda view: view["state"] == "succeeded")
        assert (view["step"], view["recoveries"]) == (40, 0)


async def test_a_worker_that_died_while_nobody_looked_is_replaced(agents: Path, start: Any, tools: Any) -> None:
    state = agents / "state"
    async with (
        service(state, tools.AGENT_COMMAND) as first,
        first.client() as http,
        grpc.aio.insecure_channel(first.endpoint()["grpc"]) as channel,
    ):
        before = tools.Coordinator(None, http, rpc.WorkerServiceStub(channel), state)
        job = (await before.submit())["id"]
        await before.train(job, 2)
        await first.end(signal.SIGKILL)
    pids = agent_pids(state)
    os.kill(pids[f"{job}-w1"], signal.SIGKILL)
    async with start(state) as after:
        peer = await (await after.peer(job, 0)).attach(generation=1, step=5, waiting=True)
        await peer.arrive(generation=1, step=5, reason=pb.ARRIVAL_REASON_PEER_LOST)
        world = await peer.expect("world", skip="abort")  # the two cross on their way
        assert (world.generation, [member.worker for member in world.members]) == (2, [f"{job}-w0"])
        await tools.until(lambda: agent_pids(state).get(f"{job}-w1") not in {None, pids[f"{job}-w1"]})
        assert agent_pids(state)[f"{job}-w0"] == pids[f"{job}-w0"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_leaves_the_jobs_to_the_next_coordinator(
    agents: Path, start: Any, tools: Any, number: signal.Signals
) -> None:
    state = agents / "state"
    async with service(state, tools.AGENT_COMMAND) as first, first.client() as http:
        job = (await tools.Coordinator(None, http, None, state).submit())["id"]
        await tools.until(lambda: len(agent_pids(state)) == 2)
        assert await first.end(number) == 0
    pids = agent_pids(state)
    assert all(psutil.Process(pid).is_running() for pid in pids.values())
    async with start(state) as after:
        assert (await after.view(job))["state"] == "starting"
        assert agent_pids(state) == pids


async def test_stopping_with_its_jobs_leaves_no_process_behind(agents: Path, start: Any, tools: Any) -> None:
    state = agents / "state"
    async with start(state) as coordinator:
        job = (await coordinator.submit())["id"]
        await coordinator.environment(job)
        await coordinator.environment(job, 1)
        processes = [psutil.Process(pid) for pid in agent_pids(state).values()]
        assert len(processes) == 2
    assert not any(process.is_running() for process in processes)
    assert agent_pids(state) == {}


async def test_a_second_coordinator_on_a_folder_is_refused_in_one_sentence(tmp_path: Path, start: Any) -> None:
    async with start(tmp_path / "state"):
        with pytest.raises(
            CoordinatorError, match=rf"another coordinator \(pid {os.getpid()}\) runs on the state folder"
        ):
            await CoordinatorServer(tmp_path / "state").start()


@pytest.mark.parametrize("which", ["rest_port", "grpc_port"])
async def test_a_port_in_use_is_refused_in_one_sentence_and_the_folder_is_free_again(
    tmp_path: Path, start: Any, which: str
) -> None:
    async with start(tmp_path / "one") as other:
        url, address = other.server.rest_url, other.server.grpc_address
        port = int((url if which == "rest_port" else address).rpartition(":")[2])
        with pytest.raises(
            CoordinatorError, match=f"cannot listen on 127.0.0.1:{port} .*address already in use"
        ) as refused:
            await CoordinatorServer(tmp_path / "two", **{which: port}).start()
        assert "choose another port" in refused.value.hint
        async with start(tmp_path / "two") as free:
            assert (await free.http.get("/healthz")).status_code == 200


async def test_an_earlier_port_that_is_taken_meanwhile_is_given_up(tmp_path: Path, start: Any) -> None:
    async with start(tmp_path / "one") as one:
        endpoint = (one.state / "endpoint.json").read_text()
        (tmp_path / "two").mkdir()
        (tmp_path / "two" / "endpoint.json").write_text(endpoint)
        async with start(tmp_path / "two") as two:
            assert two.server.grpc_address != one.server.grpc_address
            assert (await two.http.get("/v1/jobs")).json() == {"jobs": [], "next": None}


async def test_a_damaged_database_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "coordinator.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(CoordinatorError, match="cannot be used: file is not a database"):
        await CoordinatorServer(tmp_path).start()


async def test_a_job_that_can_no_longer_be_read_does_not_take_the_others_with_it(tmp_path: Path, start: Any) -> None:
    import sqlite3

    state = tmp_path / "state"
    async with start(state) as coordinator:
        bad, good = (await coordinator.submit())["id"], (await coordinator.submit())["id"]
    with sqlite3.connect(state / "coordinator.db") as database:
        database.execute("UPDATE jobs SET document = '{}' WHERE id = ?", [bad])
    database.close()
    async with start(state) as coordinator:
        assert [job["id"] for job in (await coordinator.http.get("/v1/jobs")).json()["jobs"]] == [good]


async def test_what_is_to_be_removed_goes_and_what_was_cut_off_in_between_too(
    tmp_path: Path, start: Any, tools: Any
) -> None:
    state = tmp_path / "state"
    async with start(state) as one:
        for _ in range(4):
            job = (await one.submit(tools.make_document(workers=(1, 1))))["id"]
            assert (await one.http.post(f"/v1/jobs/{job}/cancel")).status_code == 200
        await one.server.controller._turns.until_idle()
        ids = [job["id"] for job in (await one.http.get("/v1/jobs")).json()["jobs"]]
    store = Store(state / "coordinator.db")
    for row in store.jobs()[1:]:  # they ended long ago
        store.save(row.id, record=row.record | {"finished_at": row.created_at - 1e6})
    store.remove_job(ids[3])  # and here that coordinator was killed
    store.close()
    assert {path.name for path in (state / "jobs").iterdir()} == set(ids)
    async with start(state, config=Config(retention=Retention(max_jobs=2))) as two:
        await tools.until(lambda: {path.name for path in (state / "jobs").iterdir()} == set(ids[:2]))
        assert [job["id"] for job in (await two.http.get("/v1/jobs")).json()["jobs"]] == ids[:2]
        refused = await two.http.delete("/v1/jobs/job")
        assert refused.status_code == 409
        assert refused.json()["error"]["message"] == "2 jobs are called 'job'"
        running = (await two.submit(tools.make_document("runs", workers=(1, 1))))["id"]
        refused = (await two.http.delete(f"/v1/jobs/{running}")).json()["error"]
        assert (refused["code"], refused["hint"]) == ("conflict", f"first: cordee cancel {running}")
        assert (await two.http.delete(f"/v1/jobs/{ids[0]}")).json()["id"] == ids[0]
        for answer in (await two.http.get(f"/v1/jobs/{ids[0]}"), await two.http.delete(f"/v1/jobs/{ids[0]}")):
            assert answer.status_code == 404
        await tools.until(lambda: not (state / "jobs" / ids[0]).exists())
        assert (await two.http.get(f"/v1/jobs/{ids[1]}/events")).json()["events"]
        assert len(list((state / "bundles").iterdir())) == 1  # of jobs that are there


async def test_a_pending_job_whose_bundle_is_gone_fails_with_a_sentence(tmp_path: Path, start: Any, tools: Any) -> None:
    state = tmp_path / "state"
    async with start(state, slots=2) as coordinator:
        await coordinator.submit(tools.make_document("first", (2, 2)))
        job = (await coordinator.submit(tools.make_document("second", (2, 2))))["id"]
        await coordinator.server.stop(stop_jobs=False)
        [bundle] = (state / "bundles").iterdir()
        bundle.unlink()
        async with start(state, slots=2) as again:
            view = await again.view(job)
            assert view["state"] == "failed"
            assert "its source is gone" in view["reason"]


async def test_beyond_this_machine_it_listens_only_where_that_was_asked_for(tmp_path: Path, start: Any) -> None:
    with pytest.raises(CoordinatorError, match="without TLS") as caught:
        await CoordinatorServer(tmp_path / "state", host="0.0.0.0").start()
    assert "--insecure" in caught.value.hint
    config = Config(listen=Listen(insecure=True))
    async with start(tmp_path / "state", host="0.0.0.0", config=config) as coordinator:
        assert coordinator.server.rest_url.startswith("http://127.0.0.1:")  # where this machine's clients reach it
        assert coordinator.server.grpc_address.startswith("127.0.0.1:")
        assert (await coordinator.http.get("/v1/jobs")).json() == {"jobs": [], "next": None}
