"""Who speaks out of turn: stale worlds and processes, streams twice, and strangers on every port. The job goes on."""

import asyncio
import random
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from cordee.rpc.v1 import worker_pb2 as pb

MORE_THAN_A_NAME = "i" * 301


async def second_world(coordinator: Any) -> tuple[str, list[Any]]:
    """A job whose second world trains: worker 1's first process is dead, and its next one not there yet."""
    job = (await coordinator.submit())["id"]
    peers = await coordinator.train(job, 2)
    await peers[1].drop()
    await peers[0].arrive(generation=1, step=4, reason=pb.ARRIVAL_REASON_PEER_LOST)
    assert (await peers[0].expect("world", skip="abort")).generation == 2
    return job, peers


async def is_well(coordinator: Any, job: str, generation: int) -> None:
    view = await coordinator.view(job)
    assert (view["state"], view["generation"]) == ("running", generation)
    assert (await coordinator.http.get("/healthz")).status_code == 200


async def test_a_process_that_was_left_behind_is_fenced_on_every_stream_it_opens(coordinator: Any) -> None:
    job, _ = await second_world(coordinator)
    for _ in range(3):
        stale = await (await coordinator.peer(job, 1, "i1")).attach(generation=1, step=5)
        assert stale.welcome.generation == 2
        assert (await stale.expect("stop")).reason == pb.STOP_REASON_FENCED
        await stale.expect_end()
    await is_well(coordinator, job, 2)


async def test_who_claims_a_generation_that_was_never_formed_is_fenced(coordinator: Any) -> None:
    job, peers = await second_world(coordinator)
    liar = await (await coordinator.peer(job, 1, "i2")).attach(generation=2**60, step=5)
    assert (await liar.expect("stop")).reason == pb.STOP_REASON_FENCED
    await is_well(coordinator, job, 2)
    await peers[0].arrive(generation=3, step=9)
    assert (await peers[0].expect("stop")).reason == pb.STOP_REASON_FENCED


async def test_words_of_an_older_world_change_nothing_of_this_one(coordinator: Any) -> None:
    job, peers = await second_world(coordinator)
    await peers[0].say(progress=pb.Progress(generation=2, step=6, samples=60))
    await peers[0].say(progress=pb.Progress(generation=1, step=999, samples=999))
    await peers[0].say(heartbeat=pb.Heartbeat(generation=1, step=999))
    await peers[0].say(note=pb.Note(kind="here", message="after all of that"))
    view = await coordinator.view_when(job, lambda view: any(e["kind"] == "here" for e in view["events"]))
    assert (view["step"], view["samples"]) == (6, 60)
    await is_well(coordinator, job, 2)


async def test_a_second_hello_on_one_stream_is_nobody_new(coordinator: Any) -> None:
    job, peers = await second_world(coordinator)
    other = pb.Hello(job=job, worker=f"{job}-w1", incarnation="i9", generation=2, has_state=True, step=7)
    await peers[0].say(hello=other)
    await peers[0].say(note=pb.Note(kind="here", message="after it"))
    view = await coordinator.view_when(job, lambda view: any(e["kind"] == "here" for e in view["events"]))
    assert [m["worker"] for m in view["members"] if m["rank"] is not None] == [f"{job}-w0"]


async def test_streams_upon_streams_of_one_process_are_one_worker(coordinator: Any) -> None:
    job, peers = await second_world(coordinator)
    again = [await (await coordinator.peer(job, 0, "i1")).attach(generation=2, step=6) for _ in range(20)]
    streams = [peers[0], *again]
    for stream in streams[:-1]:
        await stream.expect_end()
    await is_well(coordinator, job, 2)
    assert len(coordinator.server.controller.find(job).machine.workers()) == 2
    await streams[-1].say(finished=pb.Finished(step=9, samples=90, weights_sha256="ab" * 32))
    assert (await streams[-1].expect("stop")).reason == pb.STOP_REASON_FINISHED


@pytest.mark.parametrize("field", ["incarnation", "address"])
async def test_names_without_end_are_refused(coordinator: Any, field: str) -> None:
    job, _ = await second_world(coordinator)
    peer = await coordinator.peer(job, 1, "i2")
    peer.call = peer.stub.Attach(metadata=(("authorization", f"Bearer {peer.token}"),))
    hello = pb.Hello(job=job, worker=peer.worker, incarnation="i2")
    setattr(hello, field, MORE_THAN_A_NAME)
    await peer.say(hello=hello)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await peer.expect("welcome")
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert len(refused.value.details() or "") < 1000
    await is_well(coordinator, job, 2)


async def test_strangers_who_babble_on_its_ports_disturb_nobody(coordinator: Any, seed: int) -> None:
    job, peers = await second_world(coordinator)
    pick = random.Random(seed)
    ports = [
        int(address.rpartition(":")[2]) for address in (coordinator.server.grpc_address, coordinator.server.rest_url)
    ]
    openings = [
        b"",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        b"GET / HTTP/1.1\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n{",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ]
    silent = []
    for k in range(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", ports[k % 2])
        writer.write(openings[k % len(openings)] + pick.randbytes(pick.choice([0, 1, 9, 1000, 70_000])))
        if k % 3:
            writer.close()
        else:
            silent.append((reader, writer))
    await is_well(coordinator, job, 2)
    successor = await (await coordinator.peer(job, 1, "i2")).attach()
    await successor.arrive()
    await peers[0].expect("change_pending")
    await peers[0].arrive(generation=2, step=8, reason=pb.ARRIVAL_REASON_CHANGE)
    for peer in (peers[0], successor):
        assert (await peer.expect("world")).generation == 3
    for _, writer in silent:
        writer.close()
    assert len(list(Path("/proc/self/fd").iterdir())) < 500  # what was opened is closed
