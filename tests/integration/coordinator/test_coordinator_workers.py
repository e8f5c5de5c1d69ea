"""The control plane over real streams: who is told what, and what is on disk by then."""

import asyncio
import json
import sqlite3
from typing import Any

import grpc
import grpc.aio
import pytest

from cordee.rpc.v1 import worker_pb2 as pb

PEER_LOST, CHANGE = pb.ARRIVAL_REASON_PEER_LOST, pb.ARRIVAL_REASON_CHANGE


def stored(coordinator: Any, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """What another process would find on disk now."""
    with sqlite3.connect(f"file:{coordinator.state / 'coordinator.db'}?mode=ro", uri=True) as connection:
        found = connection.execute(query, values).fetchall()
    connection.close()
    return found


async def test_a_submitted_job_starts_agents_that_are_told_everything(coordinator: Any) -> None:
    job = (
        await coordinator.submit(
            {
                "apiVersion": "cordee.dev/v1alpha1",
                "kind": "TrainingJob",
                "metadata": {"name": "digits"},
                "spec": {
                    "script": "train.py",
                    "args": ["--epochs", "2"],
                    "workers": {"min": 1, "max": 2},
                    "threads": 3,
                    "device": "cpu",
                    "env": {"COLOUR": "blue"},
                    "checkpoint": {"intervalSeconds": 1.5, "intervalSteps": 7, "keep": 2},
                },
            }
        )
    )["id"]
    told = await coordinator.environment(job, 1)
    ours = {name: value for name, value in told.items() if name.startswith("CORDEE_")}
    token, bundle = ours.pop("CORDEE_TOKEN"), ours.pop("CORDEE_BUNDLE")
    assert len(token) >= 32
    assert len(bundle) == 64
    assert json.loads(ours.pop("CORDEE_ARGS")) == ["--epochs", "2"]
    wanted = {
        "CORDEE_JOB": job,
        "CORDEE_WORKER": f"{job}-w1",
        "CORDEE_COORDINATOR": coordinator.server.grpc_address,
        "CORDEE_WORKDIR": str(coordinator.state / "jobs" / job),
        "CORDEE_THREADS": "3",
        "CORDEE_DEVICE": "cpu",
        "CORDEE_SCRIPT": "train.py",
        "CORDEE_ORPHAN_SECONDS": "3600",
        "CORDEE_CHECKPOINT_SECONDS": "1.5",
        "CORDEE_CHECKPOINT_STEPS": "7",
        "CORDEE_CHECKPOINT_KEEP": "2",
        "CORDEE_MESH_HOST": "127.0.0.1",
        "CORDEE_LEDGER": "0",
        "CORDEE_CHAOS": "",
    }
    assert ours == {**ours, **wanted}
    assert told["COLOUR"] == "blue"


async def test_a_world_is_on_disk_before_any_worker_hears_of_it(coordinator: Any) -> None:
    job = (await coordinator.submit())["id"]
    peers = [await (await coordinator.peer(job, index)).attach() for index in range(2)]
    await peers[0].arrive()
    await peers[1].arrive()
    world = await peers[0].expect("world")
    [(generation, members)] = stored(coordinator, "SELECT generation, members FROM worlds WHERE job = ?", job)
    assert generation == world.generation == 1
    assert json.loads(members) == [member.worker for member in world.members] == [f"{job}-w0", f"{job}-w1"]
    assert [member.rank for member in world.members] == [0, 1]
    assert [member.address for member in world.members] == ["127.0.0.1:10", "127.0.0.1:11"]
    [(state, record)] = stored(coordinator, "SELECT state, record FROM jobs WHERE id = ?", job)
    assert state == "running"
    assert json.loads(record)["world"]["generation"] == 1
    assert (await coordinator.view(job))["workers"] == {"min": 1, "max": 2, "wanted": 2, "now": 2}


async def test_survivors_of_a_broken_stream_get_a_new_world_and_the_dead_is_healed_in_another(coordinator: Any) -> None:
    job = (await coordinator.submit())["id"]
    first, second = await coordinator.train(job, 2)
    await second.drop()
    await first.arrive(generation=1, step=7, reason=PEER_LOST)
    world = await first.expect("world")
    assert (world.generation, world.step, world.cause) == (2, 7, "loss")
    assert [(member.worker, member.has_state) for member in world.members] == [(f"{job}-w0", True)]

    again = await (await coordinator.peer(job, 1, incarnation="i2")).attach()
    assert again.welcome.generation == 2
    await again.arrive()
    assert (await first.expect("change_pending")).generation == 2
    await first.arrive(generation=2, step=8, reason=CHANGE)
    for peer in (first, again):
        world = await peer.expect("world")
        assert (world.generation, world.step, world.cause) == (3, 8, "join")
        assert [(member.worker, member.has_state) for member in world.members] == [
            (f"{job}-w0", True),
            (f"{job}-w1", False),
        ]
    view = await coordinator.view(job)
    assert (view["state"], view["recoveries"], view["generation"]) == ("running", 1, 3)


async def test_progress_is_shown_and_that_of_an_earlier_world_is_not(coordinator: Any) -> None:
    job = (await coordinator.submit())["id"]
    [peer] = await coordinator.train(job, 1)
    told = pb.Progress(
        generation=1,
        step=10,
        steps_total=100,
        epoch=1,
        epochs=5,
        loss=0.5,
        samples=320,
        step_seconds=0.01,
        samples_per_second=3200,
        metrics={"accuracy": 0.9, "broken": float("nan")},
    )
    await peer.say(progress=told)
    view = await coordinator.view_when(job, lambda view: view["step"] == 10)
    assert view["loss"] == 0.5
    assert (view["steps_total"], view["epoch"], view["epochs"], view["samples"]) == (100, 1, 5, 320)
    assert (view["step_seconds"], view["samples_per_second"]) == (0.01, 3200)
    assert view["metrics"] == {"accuracy": 0.9, "broken": None}
    await peer.say(progress=pb.Progress(generation=0, step=99, loss=float("nan")))
    await peer.say(heartbeat=pb.Heartbeat(generation=0, step=98))
    await peer.say(note=pb.Note(kind="heard", message="all of this"))
    view = await coordinator.view_when(job, lambda view: view["events"][-1]["kind"] == "heard")
    assert (view["step"], view["loss"]) == (10, 0.5)
    await peer.say(progress=pb.Progress(generation=1, step=11, loss=float("nan")))
    view = await coordinator.view_when(job, lambda view: view["step"] > 10)
    assert (view["step"], view["loss"]) == (11, None)


async def test_a_finished_job_has_its_result_and_its_workers_are_let_go(coordinator: Any) -> None:
    job = (await coordinator.submit(coordinator_document(workers=(1, 1))))["id"]
    [peer] = await coordinator.train(job, 1)
    finished = pb.Finished(
        step=40, samples=1280, weights_sha256="ab" * 32, metrics={"accuracy": 0.97}, weights_path="/w"
    )
    await peer.say(finished=finished)
    assert (await peer.expect("stop")).reason == pb.STOP_REASON_FINISHED
    await peer.expect_end()
    view = await coordinator.view_when(job, lambda view: view["state"] == "succeeded")
    assert (view["step"], view["samples"], view["metrics"]) == (40, 1280, {"accuracy": 0.97})
    assert (view["weights_sha256"], view["weights_path"]) == ("ab" * 32, "/w")
    assert view["finished_at"] is not None
    assert view["workers"]["now"] == 0


def coordinator_document(name: str = "job", workers: tuple[int, int] = (1, 2)) -> dict[str, Any]:
    return {
        "apiVersion": "cordee.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": {"script": "train.py", "workers": {"min": workers[0], "max": workers[1]}},
    }


async def test_a_script_that_raises_fails_the_job_with_its_traceback(coordinator: Any) -> None:
    job = (await coordinator.submit())["id"]
    first, second = await coordinator.train(job, 2)
    await first.say(
        script_failed=pb.ScriptFailed(exception="ValueError: no", traceback="Traceback …\nValueError: no\n")
    )
    assert (await second.expect("stop")).reason == pb.STOP_REASON_FAILED
    view = await coordinator.view_when(job, lambda view: view["state"] == "failed")
    assert view["error"] == {
        "exception": "ValueError: no",
        "traceback": "Traceback …\nValueError: no\n",
        "worker": f"{job}-w0",
    }
    assert "ValueError: no" in view["reason"]


async def test_notes_and_checkpoints_reach_the_history_and_the_metrics(coordinator: Any) -> None:
    job = (await coordinator.submit())["id"]
    [peer] = await coordinator.train(job, 1)
    await peer.say(note=pb.Note(kind="healed", message="took the state from w1", seconds=0.25))
    await peer.say(checkpointed=pb.Checkpointed(step=30, path="/c", size_bytes=10, seconds=0.1))
    view = await coordinator.view_when(job, lambda view: any(event["kind"] == "healed" for event in view["events"]))
    assert view["events"][-1]["message"] == f"{job}-w0: took the state from w1 (0.25 s)"

    async def shown(name: str, value: str) -> bool:
        line = f'cordee_job_{name}{{job_id="{job}",name="job"}} {value}\n'
        return line in (await coordinator.http.get("/metrics")).text

    async with asyncio.timeout(20):
        while not await shown("checkpoint_step", "30.0"):
            pass
    # One that was found on storage is none that was written.
    await peer.say(checkpointed=pb.Checkpointed(step=40, path="/c"))
    async with asyncio.timeout(20):
        while not await shown("checkpoint_step", "40.0"):
            pass
    assert await shown("checkpoints_total", "1.0")
    assert await shown("checkpoint_bytes", "10.0")


async def test_a_worker_that_attaches_twice_is_known_by_its_newer_stream(coordinator: Any) -> None:
    job = (await coordinator.submit())["id"]
    first, second = await coordinator.train(job, 2)
    once_more = await (await coordinator.peer(job, 0)).attach(generation=1, step=3)
    await first.expect_end()
    await second.drop()
    await once_more.arrive(generation=1, step=3, reason=PEER_LOST)
    assert (await once_more.expect("world")).generation == 2


async def test_the_bundle_is_served_to_the_jobs_workers_byte_for_byte(coordinator: Any) -> None:
    job = (await coordinator.submit())["id"]
    environment = await coordinator.environment(job)
    call = coordinator.stub.FetchBundle(
        pb.FetchBundleRequest(job=job), metadata=(("authorization", f"Bearer {environment['CORDEE_TOKEN']}"),)
    )
    data = b"".join([chunk.data async for chunk in call])
    assert data == (coordinator.state / "bundles" / f"{environment['CORDEE_BUNDLE']}.tar.gz").read_bytes()


NO_WORKERS = (
    {"worker": "someone-else-w0", "incarnation": "i"},
    {"worker": "{job}-w", "incarnation": "i"},
    {"worker": "{job}-wx", "incarnation": "i"},
    {"worker": "{job}-w0", "incarnation": ""},
)


async def test_a_hello_that_names_no_worker_of_the_job_is_refused(coordinator: Any) -> None:
    job = (await coordinator.submit())["id"]
    token = (await coordinator.environment(job))["CORDEE_TOKEN"]
    for hello in NO_WORKERS:
        call = coordinator.stub.Attach(metadata=(("authorization", f"Bearer {token}"),))
        given = {name: value.format(job=job) for name, value in hello.items()}
        await call.write(pb.WorkerMessage(hello=pb.Hello(job=job, **given)))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT, hello


async def test_a_stream_that_does_not_say_hello_is_refused(coordinator: Any) -> None:
    job = (await coordinator.submit())["id"]
    token = (await coordinator.environment(job))["CORDEE_TOKEN"]
    call = coordinator.stub.Attach(metadata=(("authorization", f"Bearer {token}"),))
    await call.write(pb.WorkerMessage(heartbeat=pb.Heartbeat()))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call.read()
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


METHODS = [method.name for method in pb.DESCRIPTOR.services_by_name["WorkerService"].methods]


def request(method: str, job: str) -> Any:
    hello = pb.WorkerMessage(hello=pb.Hello(job=job, worker=f"{job}-w0", incarnation="i"))
    return {"Attach": iter([hello]), "FetchBundle": pb.FetchBundleRequest(job=job)}[method]


HEADERS = ("", "Bearer", "Bearer wrong", "Basic {token}", "{token}", "Bearer {rest_token}")


async def refusal(coordinator: Any, method: str, job: str, header: str, *, silent: bool = False) -> grpc.StatusCode:
    """How a call is refused. `silent`: before a stream has said a word (and to write while one is refused ends the call
    with the client's own INTERNAL, if chance will have it)."""
    metadata = (("authorization", header),) if header else None
    call = getattr(coordinator.stub, method)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        if silent and method == "Attach":
            await call(metadata=metadata).read()
        else:
            _ = [message async for message in call(request(method, job), metadata=metadata)]
    return refused.value.code()


async def test_no_call_is_answered_without_a_workers_token(coordinator: Any) -> None:
    job = (await coordinator.submit())["id"]
    token = (await coordinator.environment(job))["CORDEE_TOKEN"]
    assert METHODS
    for method in METHODS:
        for header in HEADERS:
            given = header.format(token=token, rest_token=coordinator.server.token)
            code = await refusal(coordinator, method, job, given, silent=True)
            assert code is grpc.StatusCode.UNAUTHENTICATED, (method, header)


async def test_a_jobs_token_is_good_for_that_job_only(coordinator: Any) -> None:
    mine, other = [(await coordinator.submit(coordinator_document(name)))["id"] for name in ("mine", "other")]
    token = (await coordinator.environment(mine))["CORDEE_TOKEN"]
    for method in METHODS:
        for job in (other, "no-such-job"):  # and it does not tell whether a job exists
            assert await refusal(coordinator, method, job, f"Bearer {token}") == grpc.StatusCode.PERMISSION_DENIED
