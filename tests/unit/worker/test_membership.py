"""A worker's part in its job: rendezvous with real sessions and real sockets between real peers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cordee.rpc.v1 import worker_pb2 as pb
from cordee.trainer.elastic.computes import computes_with
from cordee.trainer.elastic.header import EXCHANGE_VERSION
from cordee.trainer.elastic.protocols import Communicator, Membership, PeerLostError, ProgressReport, RunResult, World
from cordee.worker.credentials import Credentials
from cordee.worker.listener import Listener
from cordee.worker.membership import WorkerMembership
from cordee.worker.progress import INTERVAL_SECONDS, ProgressMeter
from cordee.worker.resumption import Resumption
from cordee.worker.session import Leave, Session
from cordee.worker.session_state import WorkerIdentity
from cordee.worker.settings import WorkerSettings

WAIT_SECONDS = 20.0


@dataclass
class Worker:
    name: str
    membership: WorkerMembership
    session: Session
    listener: Listener
    stream: Any
    hello: pb.Hello
    joined: list[str]


@pytest.fixture
def worker(coordinator: Any, tmp_path: Path) -> Iterator[Callable[[str], Worker]]:
    workers: list[Worker] = []

    def make(name: str) -> Worker:
        settings = WorkerSettings(
            "job", name, f"{name}-aa", coordinator.address, "secret", tmp_path, "t.py", (), "0" * 64,
            checkpoint_seconds=7.0, checkpoint_steps=3, checkpoint_keep=2, grace_seconds=11.0,
        )  # fmt: skip
        listener = Listener("127.0.0.1")
        identity = WorkerIdentity("job", name, settings.incarnation, listener.address, 1)
        session = Session(identity, coordinator.address, Credentials("secret"), orphan_seconds=30.0)
        joined: list[str] = []
        membership = WorkerMembership(session, listener, settings, on_connected=lambda: joined.append(name))
        session.start()
        stream, hello = coordinator.accept()
        workers.append(Worker(name, membership, session, listener, stream, hello, joined))
        return workers[-1]

    yield make
    for one in workers:
        one.session.close()
        one.listener.close()


class Pool:
    """Calls in daemon threads: one that a failed test leaves blocked does not hold the test run."""

    def __init__(self) -> None:
        self.communicators: list[Communicator] = []

    def submit(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(call(*arguments, **named))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future


@pytest.fixture
def pool() -> Iterator[Pool]:
    threads = Pool()
    yield threads
    for communicator in threads.communicators:
        communicator.close()


def announce(
    generation: int, members: list[Worker], steps: list[int | None], addresses: list[str] | None = None
) -> None:
    """Sends all of them their world."""
    listed = [
        pb.Member(
            rank=rank,
            worker=one.name,
            incarnation=one.hello.incarnation,
            address=addresses[rank] if addresses else one.hello.address,
            step=steps[rank] or 0,
            has_state=steps[rank] is not None,
        )
        for rank, one in enumerate(members)
    ]
    step = max((step for step in steps if step is not None), default=0)
    for one in members:
        one.stream.send(world=pb.World(generation=generation, members=listed, step=step))


def meet(pool: Pool, one: Worker, **arguments: Any) -> Future[World]:
    def rendezvous() -> World:
        world = one.membership.rendezvous(**{"step": None, "reason": "join", **arguments})
        pool.communicators.append(world.communicator)
        return world

    return pool.submit(rendezvous)


def test_workers_meet_and_can_talk(worker: Callable[[str], Worker], pool: Pool) -> None:
    first, second = worker("job-w0"), worker("job-w1")
    futures = [meet(pool, first, step=4, reason="change"), meet(pool, second)]
    said = first.stream.expect("arrived")
    assert (said.step, said.has_state, said.reason) == (4, True, pb.ARRIVAL_REASON_CHANGE)
    assert tuple(said.computes_with) == (*computes_with(), f"exchange {EXCHANGE_VERSION}")
    said = second.stream.expect("arrived")
    assert (said.step, said.has_state, said.reason) == (0, False, pb.ARRIVAL_REASON_JOIN)
    announce(1, [first, second], [4, None])
    worlds = [future.result(WAIT_SECONDS) for future in futures]
    assert [(world.generation, world.rank, world.size, world.step) for world in worlds] == [(1, 0, 2, 4), (1, 1, 2, 4)]
    assert worlds[0].member_steps == (4, None)
    # By the process, not by the worker: the next process of a worker has nothing of what this one was at.
    assert worlds[0].members == worlds[1].members == ("job-w0/job-w0-aa", "job-w1/job-w1-aa")
    assert first.joined + second.joined == ["job-w0", "job-w1"]
    taken = pool.submit(worlds[1].communicator.recv_states, [0])
    worlds[0].communicator.send_states([1], b"meta", [])
    assert taken.result(WAIT_SECONDS) == [(b"meta", [])]


def test_a_world_that_cannot_be_connected_is_arrived_from_again(worker: Callable[[str], Worker], pool: Pool) -> None:
    first, second = worker("job-w0"), worker("job-w1")
    future = meet(pool, second, step=9, reason="change")
    second.stream.expect("arrived")
    gone = Listener("127.0.0.1")
    gone.close()
    announce(1, [first, second], [None, 9], [gone.address, second.hello.address])
    again = second.stream.expect("arrived")
    assert (again.generation, again.step, again.has_state) == (1, 9, True)
    assert again.reason == pb.ARRIVAL_REASON_PEER_LOST
    assert list(again.suspects) == ["job-w0"]
    announce(2, [second], [9])
    world = future.result(WAIT_SECONDS)
    assert (world.generation, world.size) == (2, 1)


def test_an_abort_while_connecting_leads_to_the_next_arrival(worker: Callable[[str], Worker], pool: Pool) -> None:
    first, second = worker("job-w0"), worker("job-w1")
    future = meet(pool, second)
    second.stream.expect("arrived")
    announce(1, [first, second], [None, None])  # the first one does not come: nothing answers at its address
    second.stream.send(abort=pb.Abort(generation=1, lost=["job-w0"]))
    again = second.stream.expect("arrived")
    assert (again.generation, again.has_state, list(again.suspects)) == (1, False, ["job-w0"])
    announce(2, [second], [None])
    assert future.result(WAIT_SECONDS).generation == 2


def test_an_abort_that_comes_before_the_connecting_begins_counts(
    worker: Callable[[str], Worker], pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cordee.worker.membership.CONNECT_SECONDS", 600.0)  # no way out but by the abort
    first, second = worker("job-w0"), worker("job-w1")
    heard, wait_world, on_abort = threading.Event(), second.session.wait_world, second.session.on_abort
    assert on_abort is not None

    def hear(generation: int, lost: tuple[str, ...]) -> None:
        on_abort(generation, lost)
        heard.set()

    def dawdle() -> pb.World:
        world = wait_world()
        assert heard.wait(WAIT_SECONDS) or world.generation > 1
        return world

    second.session.on_abort, second.session.wait_world = hear, dawdle  # type: ignore[method-assign]
    future = meet(pool, second)
    second.stream.expect("arrived")
    announce(1, [first, second], [None, None])
    second.stream.send(abort=pb.Abort(generation=1, lost=["job-w0"]))
    assert list(second.stream.expect("arrived").suspects) == ["job-w0"]
    announce(2, [second], [None])
    assert future.result(WAIT_SECONDS).generation == 2


def test_an_abort_breaks_a_blocked_exchange(worker: Callable[[str], Worker], pool: Pool) -> None:
    first, second = worker("job-w0"), worker("job-w1")
    futures = [meet(pool, one) for one in (first, second)]
    for one in (first, second):
        one.stream.expect("arrived")
    announce(1, [first, second], [None, None])
    world = futures[0].result(WAIT_SECONDS)
    futures[1].result(WAIT_SECONDS)
    blocked = pool.submit(world.communicator.recv_states, [1])  # the peer is stopped: it never sends
    first.stream.send(abort=pb.Abort(generation=1, lost=["job-w1"]))
    with pytest.raises(PeerLostError, match="job-w1 is lost") as lost:
        blocked.result(WAIT_SECONDS)
    assert lost.value.ranks == (1,)


def test_a_stop_ends_the_wait(worker: Callable[[str], Worker], pool: Pool) -> None:
    one = worker("job-w0")
    future = meet(pool, one)
    one.stream.expect("arrived")
    one.stream.send(stop=pb.Stop(reason=pb.STOP_REASON_FINISHED))
    with pytest.raises(Leave):
        future.result(WAIT_SECONDS)


def test_a_change_is_pending_from_its_message_to_the_next_world(worker: Callable[[str], Worker], pool: Pool) -> None:
    one = worker("job-w0")
    future = meet(pool, one)
    one.stream.expect("arrived")
    announce(1, [one], [None])
    future.result(WAIT_SECONDS)
    assert not one.membership.change_pending()
    one.stream.send(change_pending=pb.ChangePending(generation=1))
    pending = threading.Event()

    def watch() -> None:
        while not one.membership.change_pending():
            one.stream.expect("heartbeat")
        pending.set()

    pool.submit(watch)
    assert pending.wait(WAIT_SECONDS)
    future = meet(pool, one, step=1, reason="change")
    one.stream.expect("arrived")
    announce(2, [one], [1])
    future.result(WAIT_SECONDS)
    assert not one.membership.change_pending()


def report(step: int, **changes: Any) -> ProgressReport:
    values: dict[str, Any] = {
        "step": step, "steps_total": 100, "epoch": 1, "epochs": 2, "loss": 0.5, "samples": step * 64, "seconds": 0.01,
    }  # fmt: skip
    return ProgressReport(**{**values, **changes})


def test_rank_0_reports_and_the_others_beat(worker: Callable[[str], Worker], pool: Pool) -> None:
    first, second = worker("job-w0"), worker("job-w1")
    futures = [meet(pool, one) for one in (first, second)]
    for one in (first, second):
        one.stream.expect("arrived")
    announce(1, [first, second], [None, None])
    for future in futures:
        future.result(WAIT_SECONDS)
    for step in range(1, 51):
        for one in (first, second):
            one.membership.report(report(step))
    told = first.stream.expect("progress")
    assert (told.generation, told.step, told.steps_total, told.loss) == (1, 1, 100, 0.5)
    held_back = first.stream.expect("progress")  # at the next heartbeat at the latest
    assert held_back.step == 50
    assert held_back.step_seconds == pytest.approx(0.01)
    while second.stream.expect("heartbeat").step != 50:
        pass
    second.session.close()
    assert "progress" not in second.stream.until_end()


def test_news_reach_the_coordinator(worker: Callable[[str], Worker], tmp_path: Path) -> None:
    one = worker("job-w0")
    membership: Membership = one.membership
    one.stream.expect("heartbeat")  # it is attached
    membership.checkpointed(12, str(tmp_path / "c12"), 1000, 0.5)
    membership.note("healed", "took the state", 0.25)
    told = one.stream.expect("checkpointed")
    assert (told.step, told.path, told.size_bytes, told.seconds) == (12, str(tmp_path / "c12"), 1000, 0.5)
    note = one.stream.expect("note")
    assert (note.kind, note.message, note.seconds) == ("healed", "took the state", 0.25)


def test_the_folders_and_the_policy_come_from_the_settings(worker: Callable[[str], Worker], tmp_path: Path) -> None:
    membership: Membership = worker("job-w0").membership
    policy = membership.checkpoint_policy
    assert policy is not None
    assert policy.storage == str(tmp_path / "checkpoints")
    assert (policy.interval_seconds, policy.interval_steps, policy.keep) == (7.0, 3, 2)
    assert membership.result_directory == tmp_path / "result"
    assert membership.grace_seconds == 11.0


def test_the_last_word_is_the_last_result(worker: Callable[[str], Worker], tmp_path: Path) -> None:
    membership = worker("job-w0").membership
    assert membership.last_word() == pb.Finished()
    membership.finished(RunResult(5, 320, "ab", {}, None))
    membership.finished(RunResult(5, 320, "ab", {"accuracy": 0.5}, tmp_path / "model.safetensors"))
    assert membership.last_word() == pb.Finished(
        step=5,
        samples=320,
        weights_sha256="ab",
        metrics={"accuracy": 0.5},
        weights_path=str(tmp_path / "model.safetensors"),
    )


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_meter_thins_out_and_loses_nothing() -> None:
    clock = Clock()
    meter = ProgressMeter(clock)
    assert meter.take(1) is None
    assert meter.add(report(1))
    first = meter.take(1)
    assert first is not None
    assert first.samples_per_second == pytest.approx(64 / 0.01)  # nothing to measure from: by the step's own time
    for step in (2, 3):
        clock.now += INTERVAL_SECONDS / 4
        assert not meter.add(report(step, seconds=0.01 * step))
    clock.now = 100.0 + 2 * INTERVAL_SECONDS
    assert meter.add(report(4, seconds=0.04))
    told = meter.take(1)
    assert told is not None
    assert (told.step, told.samples) == (4, 256)
    assert told.step_seconds == pytest.approx(0.03)
    assert told.samples_per_second == pytest.approx(3 * 64 / (2 * INTERVAL_SECONDS))
    assert meter.take(1) is None


def test_a_rate_is_not_measured_across_a_rendezvous() -> None:
    clock = Clock()
    meter = ProgressMeter(clock)
    meter.add(report(1))
    meter.take(1)
    meter.pause()
    clock.now += 100.0
    meter.add(report(2))
    told = meter.take(2)
    assert told is not None
    assert told.samples_per_second == pytest.approx(6400)


def test_who_waits_longest_for_data_is_what_a_step_waits_for() -> None:
    meter = ProgressMeter(Clock())
    meter.members = ("job-w3", "job-w1")
    meter.add(report(1, shard_seconds=(0.1, 0.1), data_seconds=(0.5, 0.0)))
    meter.add(report(2, shard_seconds=(0.1, 0.1), data_seconds=(0.25, 1.0)))
    told = meter.take(1)
    assert told is not None
    assert told.data_seconds == pytest.approx((0.5 + 1.0) / 2)
    assert [(pace.worker, pace.data_seconds) for pace in told.paces] == [("job-w3", 0.375), ("job-w1", 0.5)]
    meter.add(report(3, shard_seconds=(0.1, 0.1), data_seconds=(0.0, 0.0)))
    told = meter.take(1)
    assert told is not None
    assert told.data_seconds == 0.0


def test_paces_are_means_by_member_since_the_last_message() -> None:
    clock = Clock()
    meter = ProgressMeter(clock)
    meter.add(report(1, shard_seconds=(9.0, 9.0)))  # nobody takes them here
    meter.members = ("job-w3", "job-w1", "job-w2")
    nan = float("nan")
    meter.add(report(2, shard_seconds=(0.1, 0.4, nan)))
    meter.add(report(3, shard_seconds=(0.3, 0.4, nan)))
    told = meter.take(1)
    assert told is not None
    assert [(pace.worker, pytest.approx(pace.shard_seconds)) for pace in told.paces] == [
        ("job-w3", 0.2),
        ("job-w1", 0.4),
    ]
    meter.add(report(4, shard_seconds=(0.5, 0.6, 0.7)))
    told = meter.take(1)
    assert told is not None
    assert [pace.shard_seconds for pace in told.paces] == [0.5, 0.6, 0.7]
    meter.add(report(5, shard_seconds=(0.5, 0.6, 0.7)))
    meter.pause()
    meter.members = ("job-w3",)
    meter.add(report(6, shard_seconds=(0.2,)))
    told = meter.take(2)
    assert told is not None
    assert [(pace.worker, pace.shard_seconds) for pace in told.paces] == [("job-w3", 0.2)]


def test_a_standstill_is_measured_from_the_last_step_to_the_next_whatever_lies_between() -> None:
    clock = Clock()
    resumption = Resumption(clock)

    def passes(seconds: float) -> None:
        clock.now += seconds

    resumption.meets()  # a joiner: from here
    passes(2.0)
    resumption.has_world(1, "start")
    passes(0.5)
    resumption.connected()
    passes(0.25 + 1.0)
    assert resumption.committed(1, 1.0) == (
        (
            "generation 1 (start) committed step 1 first: "
            "before 0.000 s, world 2.000 s, mesh 0.500 s, state 0.250 s, step 1.000 s"
        ),
        3.75,
    )
    passes(1.0)
    assert resumption.committed(2, 1.0) is None
    passes(0.5)
    resumption.meets()
    passes(0.125)
    resumption.has_world(2, "loss")
    passes(1.0)
    resumption.meets()  # it could not be connected
    passes(0.375)
    resumption.has_world(3, "loss")
    resumption.connected()
    passes(1.0)
    told = resumption.committed(3, 1.0)
    assert told is not None
    assert told[0].startswith("generation 3 (loss) committed step 3 first: before 0.500 s, world 1.500 s, mesh 0.000 s")
    assert told[1] == 3.0


def test_rank_0_tells_that_training_goes_on(worker: Callable[[str], Worker], pool: Pool) -> None:
    first, second = worker("job-w0"), worker("job-w1")
    futures = [meet(pool, one) for one in (first, second)]
    for one in (first, second):
        one.stream.expect("arrived")
    announce(1, [first, second], [None, None])
    for future in futures:
        future.result(WAIT_SECONDS)
    for step in (1, 2):
        for one in (first, second):
            one.membership.report(report(step))
    note = first.stream.expect("note")
    assert note.kind == "resumed"
    assert note.message.startswith("generation 1 (unknown) committed step 1 first")
    assert note.seconds > 0
    for one in (first, second):
        one.session.close()
        assert "note" not in one.stream.until_end()


def test_the_activity_follows_the_membership(worker: Callable[[str], Worker], pool: Pool) -> None:
    one = worker("job-w0")
    activity = one.session.activity
    assert activity.phase == pb.PHASE_PREPARING
    future = meet(pool, one, step=4, reason="change")
    one.stream.expect("arrived")
    assert (activity.phase, activity.glance(0.0).step) == (pb.PHASE_MEETING, 5)
    announce(1, [one], [4])
    future.result(WAIT_SECONDS)
    assert (activity.phase, activity.glance(0.0).step) == (pb.PHASE_COMPUTING, 5)
    one.membership.report(report(5))
    assert (activity.phase, activity.glance(0.0).step) == (pb.PHASE_COMPUTING, 6)
    while one.stream.expect("heartbeat").activity.step != 6:
        pass
    one.membership.begun()  # of a loop that it is in already
    assert (activity.phase, activity.glance(0.0).step) == (pb.PHASE_COMPUTING, 6)
    one.membership.finished(RunResult(5, 320, "ab", {}, None))
    assert activity.phase == pb.PHASE_OUTSIDE
    one.membership.begun()  # a second loop of the script: who hangs in its first step is to be found
    assert (activity.phase, activity.glance(0.0).step) == (pb.PHASE_COMPUTING, 6)
    one.membership.outside()  # this one is left early
    assert activity.phase == pb.PHASE_OUTSIDE
    one.membership.begun()
    assert activity.phase == pb.PHASE_COMPUTING
