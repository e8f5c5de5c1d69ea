"""Each fault does to a real process, or to real sockets, what it says; nothing is injected where it is not allowed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from cordee.coordinator.faults import FAULTS
from cordee.rpc.v1 import worker_pb2 as pb
from cordee.trainer.elastic import tree
from cordee.trainer.elastic.protocols import PeerLostError
from cordee.worker import exit_codes
from cordee.worker.activity import Activity
from cordee.worker.communicator import connect
from cordee.worker.faults import KINDS, Faults
from cordee.worker.testing import KEY, connected, in_threads, listeners, successes

WAIT_SECONDS = 30.0
Start = Callable[..., "subprocess.Popen[str]"]

WORK = """
import time

def work():
    fast = since = time.monotonic()
    turns = 0
    failed = False
    while True:
        time.sleep(0.002)
        turns += 1
        now, before = time.monotonic(), fast
        fast = now
        if now - before > 0.35:
            print("gap", now - before, flush=True)
        if now - since > 0.25:
            print("turns", turns / (now - since), flush=True)
            since, turns = now, 0
        try:
            with open("../../note.txt", "w") as file:
                file.write("written")
            if failed:
                print("written", flush=True)
            failed = False
        except OSError as error:
            if not failed:
                print("errno", error.errno, flush=True)
            failed = True
"""
TRAINS = f"""
from cordee.trainer.elastic import runtime
runtime.current().rendezvous(step=None, reason="join")
{WORK}
work()
"""


@pytest.fixture
def start(job: Callable[..., dict[str, str]]) -> Iterator[Start]:
    """`start(script, module=…, VARIABLE=value)`: a worker process that runs the script, or an agent with one."""
    started: list[subprocess.Popen[str]] = []

    def make(script: str, *, module: str = "main", **extra: str) -> subprocess.Popen[str]:
        environment = {**os.environ, **job(script, **{"CORDEE_CHAOS": "1", **extra})}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", f"cordee.worker.{module}"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield make
    for process in started:
        process.kill()
        process.communicate()


class Output:
    """What a process prints, line by line, as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def expect(self, word: str) -> list[str]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(word):
                return line.split()
        raise AssertionError(f"it ended before it printed {word!r}: {self._process.communicate()[1]}")


def world_of_one(stream: Any, hello: pb.Hello) -> None:
    member = pb.Member(rank=0, worker=hello.worker, incarnation=hello.incarnation, address=hello.address)
    stream.send(world=pb.World(generation=1, members=[member], cause="start"))


def training(coordinator: Any, start: Start, **extra: str) -> tuple[subprocess.Popen[str], Any]:
    process = start(TRAINS, **extra)
    stream, hello = coordinator.accept()
    stream.expect("arrived")
    world_of_one(stream, hello)
    return process, stream


def inject(stream: Any, kind: str, **options: Any) -> None:
    stream.send(fault=pb.Fault(kind=kind, **options))


def test_the_workers_kinds_are_the_coordinators() -> None:
    assert list(KINDS) == list(FAULTS)


ENDS = {
    "kill": -signal.SIGKILL,
    "exit": 3,
    "exit0": 0,
    "segfault": -signal.SIGSEGV,
    "abort": -signal.SIGABRT,
    "memory": exit_codes.CRASHED,
    "exception": exit_codes.CRASHED,
}


@pytest.mark.slow
def test_each_way_to_end_a_process_ends_it_so(coordinator: Any, start: Start) -> None:
    running = {}
    for kind in ENDS:
        process = start(TRAINS, worker=f"job-{kind}")
        running[f"job-{kind}"] = process
    for _ in ENDS:
        stream, hello = coordinator.accept()
        stream.expect("arrived")
        world_of_one(stream, hello)
        Output(running[hello.worker]).expect("turns")
        inject(stream, hello.worker.removeprefix("job-"), seconds=5.0)
    for kind, code in ENDS.items():
        process = running[f"job-{kind}"]
        _, errors = process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == code, (kind, errors)
        if code == exit_codes.CRASHED:
            assert {"memory": "MemoryError", "exception": "[Errno 5] Input/output error"}[kind] in errors
            assert 'File "train.py"' in errors


@pytest.mark.slow
def test_a_bug_fails_the_script_and_where_faults_are_not_allowed_nothing_happens(
    coordinator: Any, start: Start
) -> None:
    process, stream = training(coordinator, start, CORDEE_CHAOS="")
    Output(process).expect("turns")
    inject(stream, "bug")
    note = stream.expect("note")
    assert (note.kind, note.message) == ("fault", "bug is refused: this job allows no faults (chaos: true)")
    assert process.poll() is None
    process, stream = training(coordinator, start)
    Output(process).expect("turns")
    inject(stream, "earthquake")
    assert stream.expect("note").message == "earthquake is no fault that this worker knows"
    inject(stream, "drop")
    assert stream.expect("note").message == (
        "drop could not be carried out: there is no connection to any peer at the moment"
    )
    inject(stream, "bug")
    failed = stream.expect("script_failed")
    assert failed.exception == "RuntimeError: injected by cordee chaos"
    assert "in work" in failed.traceback


@pytest.mark.slow
def test_what_passes_passes(coordinator: Any, start: Start, tmp_path: Path) -> None:
    """One worker goes through all that it survives, one after the other."""
    process, stream = training(coordinator, start)
    output = Output(process)
    usual = float(output.expect("turns")[1])

    inject(stream, "stop", seconds=0.5)
    assert float(output.expect("gap")[1]) > 0.35
    assert stream.expect("note").message == "stop: goes on after 0.5 s"

    inject(stream, "gil", seconds=0.5)
    assert float(output.expect("gap")[1]) >= 0.45

    inject(stream, "slow", amount=8.0, seconds=2.0)
    assert stream.expect("note").message == "gil: held for 0.5 s"
    assert stream.expect("note").message == "slow: 8 times for 2 s"
    while float(output.expect("turns")[1]) > usual / 3:
        pass
    while float(output.expect("turns")[1]) < usual / 3:
        pass

    inject(stream, "disk-full", seconds=0.5)
    assert output.expect("errno") == ["errno", "27"]  # EFBIG: the limit is one of sizes
    output.expect("written")

    folder = tmp_path / "job" / "checkpoints" / "step-000000000007"
    (folder.parent / "step-000000000003").mkdir(parents=True)
    folder.mkdir()
    for path in (folder, folder.parent / "step-000000000003"):
        (path / "part").write_bytes(bytes(100))
        (path / "manifest.json").write_text("{}")
    inject(stream, "damage")
    while not (note := stream.expect("note").message).startswith("damage"):
        pass
    assert note == "damage: 16 bytes in the middle of step-000000000007/part are flipped"
    assert (folder / "part").read_bytes() == bytes(50) + b"\xff" * 16 + bytes(34)
    assert (folder.parent / "step-000000000003" / "part").read_bytes() == bytes(100)

    stream.expect("heartbeat")
    inject(stream, "cut-off", seconds=1.0)
    heard = time.monotonic()
    while (message := stream.said.get(timeout=WAIT_SECONDS)).WhichOneof("kind") != "note":
        heard = time.monotonic()
    assert message.note.message.startswith("cut-off")  # it says so when it can
    assert time.monotonic() - heard > 0.8
    assert process.poll() is None

    inject(stream, "hang")
    assert stream.expect("note").message.startswith("hang: ")
    stream.send(stop=pb.Stop(reason=pb.STOP_REASON_STUCK))
    note = stream.expect("note")
    assert note.kind == "stack"
    assert "in hang_for_ever" in note.message
    assert '  File "train.py"' in note.message
    assert "in work" in note.message
    stream.end()
    assert process.wait(timeout=WAIT_SECONDS) == exit_codes.FENCED


@pytest.mark.slow
def test_the_agent_is_told_to_leave_and_is_killed(coordinator: Any, start: Start) -> None:
    for kind in ("term", "kill-agent"):
        agent = start(TRAINS, module="agent", worker=f"job-{kind}")
        stream, hello = coordinator.accept()
        stream.expect("arrived")
        world_of_one(stream, hello)
        worker = psutil.Process(hello.pid)
        inject(stream, kind)
        if kind == "term":
            assert stream.expect("leaving").reason == "SIGTERM"
            assert agent.poll() is None
            agent.terminate()  # once more: at once
        stream.until_end()
        worker.wait(WAIT_SECONDS)
        agent.wait(WAIT_SECONDS)
        assert (agent.returncode == -signal.SIGKILL) == (kind == "kill-agent")


# --- the network, on real connections ---


@pytest.fixture
def handler() -> Iterator[None]:
    """Puts back what making `Faults` sets."""
    before = signal.getsignal(signal.SIGRTMAX)
    yield
    signal.signal(signal.SIGRTMAX, before)


def faults_of(listener: Any, connections: Any, tmp_path: Path) -> tuple[Faults, list[str]]:
    notes: list[str] = []
    faults = Faults(
        activity=Activity(),
        listener=listener,
        coordinator="127.0.0.1:1",
        checkpoints=tmp_path,
        agent=None,
        note=notes.append,
    )
    faults.connections = connections
    return faults, notes


def reduce(communicator: Any, elements: int = 8) -> float:
    cover = tree.cover(*tree.deal(4, communicator.size)[communicator.rank], 4)
    out = np.empty(elements, np.float32)
    partials = {span: np.full(elements, span.stop - span.start, np.float32) for span in cover}
    communicator.all_reduce(partials, out, num_shards=4)
    return float(out[0])


def names(communicator: Any) -> dict[str, Any]:
    return {f"job-w{rank}": connection for rank, connection in communicator.connections().items()}


def test_a_dropped_connection_breaks_the_world_for_both(handler: None, tmp_path: Path) -> None:
    with connected(3) as world:
        faults, notes = faults_of(None, lambda: names(world[0]), tmp_path)
        faults.inject(pb.Fault(kind="drop", peer="job-w2"))
        assert notes == ["drop: the connection to job-w2 is shut"]
        results = in_threads(3, lambda rank: reduce(world[rank]))
        assert all(isinstance(results[rank], PeerLostError) for rank in (0, 2))  # rank 1 may have all it needs by then


@pytest.mark.parametrize("elements", [8, 1 << 16])
def test_a_half_open_connection_is_seen_by_who_waits_for_whom_and_goes_on_afterwards(
    handler: None, tmp_path: Path, elements: int
) -> None:
    with connected(3) as world:
        faults, notes = faults_of(None, lambda: names(world[0]), tmp_path)
        faults.inject(pb.Fault(kind="half-open", peer="job-w2", seconds=1.0))
        assert notes == ["half-open: nothing comes from job-w2 for 1 s"]
        seen = threading.Event()

        def watch() -> None:
            while not seen.is_set():
                glance = world[0].activity.glance(time.monotonic())
                if glance.idle and glance.waiting_for == ("job-w2",):
                    seen.set()
                time.sleep(0.01)

        threading.Thread(target=watch, daemon=True).start()
        assert successes(in_threads(3, lambda rank: reduce(world[rank], elements))) == [4.0] * 3
        assert seen.wait(WAIT_SECONDS)


def test_a_partition_cuts_what_stands_and_what_is_dialled_and_ends(handler: None, tmp_path: Path) -> None:
    with listeners(2) as (opened, members):

        def meet(generation: int) -> list[Any]:
            return in_threads(
                2,
                lambda rank: connect(
                    opened[rank],
                    generation=generation,
                    rank=rank,
                    members=members,
                    key=KEY,
                    timeout_seconds=20.0,
                    silence_seconds=0.3,
                ),
            )

        world = successes(meet(1))
        seconds = 1.5
        for rank in (0, 1):
            faults, notes = faults_of(opened[rank], lambda rank=rank: names(world[rank]), tmp_path)
            faults.inject(pb.Fault(kind="partition", peer=f"job-w{1 - rank}", seconds=seconds))
            assert notes == [f"partition: nothing comes from job-w{1 - rank} for 1.5 s"]
        assert all(isinstance(result, PeerLostError) for result in meet(2))
        assert successes(in_threads(2, lambda rank: reduce(world[rank]))) == [4.0, 4.0]  # it has held all the while
        while any(until > time.monotonic() for listener in opened for until in listener.cut.values()):
            time.sleep(0.01)
        for communicator in (*world, *successes(meet(3))):
            communicator.close()
