"""The session's thread against a real gRPC server: it attaches, comes back, and tells the training thread little."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cordee.rpc.v1 import worker_pb2 as pb
from cordee.worker import exit_codes
from cordee.worker.credentials import Credentials
from cordee.worker.session import Leave, Session
from cordee.worker.session_state import WorkerIdentity
from cordee.worker.source import BundleError

WAIT_SECONDS = 20.0


@pytest.fixture
def open_session(coordinator: Any) -> Iterator[Callable[..., Session]]:
    sessions: list[Session] = []

    def make(orphan_seconds: float = 30.0) -> Session:
        identity = WorkerIdentity("job", "job-w0", "aa", "127.0.0.1:1", 42)
        session = Session(identity, coordinator.address, Credentials("secret"), orphan_seconds=orphan_seconds)
        sessions.append(session)
        session.start()
        return session

    yield make
    for session in sessions:
        session.close()


def arrived(generation: int = 0, step: int = 0) -> pb.WorkerMessage:
    return pb.WorkerMessage(arrived=pb.Arrived(generation=generation, step=step))


def reached(event: threading.Event) -> bool:
    return event.wait(WAIT_SECONDS)


def test_it_attaches_with_the_jobs_token_and_beats(coordinator: Any, open_session: Callable[..., Session]) -> None:
    session = open_session()
    stream, hello = coordinator.accept()
    assert stream.metadata["authorization"] == "Bearer secret"
    assert hello.incarnation == "aa"
    assert stream.expect("heartbeat").step == 0
    session.advance(12)
    while stream.expect("heartbeat").step != 12:
        pass


def test_a_coordinator_that_comes_back_finds_the_same_worker(
    coordinator: Any, open_session: Callable[..., Session]
) -> None:
    session = open_session()
    stream, _ = coordinator.accept()
    session.post(arrived())
    stream.expect("arrived")
    stream.send(world=pb.World(generation=4))
    assert session.wait_world().generation == 4
    session.advance(33)
    for _ in range(3):
        coordinator.stop()
        coordinator.start()
        stream, hello = coordinator.accept()
        assert (hello.incarnation, hello.generation, hello.step, hello.has_state) == ("aa", 4, 33, True)
        assert not hello.waiting
    stream.send(change_pending=pb.ChangePending(generation=4))
    session.post(arrived(4, 34))
    stream.expect("arrived")
    stream.send(world=pb.World(generation=5))
    assert session.wait_world().generation == 5


def test_an_arrival_made_while_the_coordinator_is_gone_is_answered_by_the_next(
    coordinator: Any, open_session: Callable[..., Session]
) -> None:
    session = open_session()
    coordinator.accept()
    coordinator.stop()
    session.post(arrived(0, 5))
    coordinator.start()
    stream, _ = coordinator.accept()
    assert stream.expect("arrived").step == 5
    stream.send(world=pb.World(generation=1))
    assert session.wait_world().generation == 1


def test_a_stop_is_raised_where_the_training_thread_waits_and_again_if_it_was_swallowed(
    coordinator: Any, open_session: Callable[..., Session]
) -> None:
    session = open_session()
    told: list[tuple[int, str]] = []
    session.on_end = lambda code, message: told.append((code, message))
    stream, _ = coordinator.accept()
    stream.send(stop=pb.Stop(reason=pb.STOP_REASON_DRAINED, message="scaled down"))
    for _ in range(2):
        with pytest.raises(Leave, match="scaled down") as leave:
            session.wait_world()
        assert leave.value.code == exit_codes.DRAINED
        assert not isinstance(leave.value, Exception)
    session.close()
    assert told == [(exit_codes.DRAINED, "scaled down")]


def test_an_abort_reaches_its_listener_and_can_be_asked_for(
    coordinator: Any, open_session: Callable[..., Session]
) -> None:
    session = open_session()
    aborted: list[tuple[int, tuple[str, ...]]] = []
    seen = threading.Event()

    def on_abort(generation: int, lost: tuple[str, ...]) -> None:
        aborted.append((generation, lost))
        seen.set()

    session.on_abort = on_abort
    stream, _ = coordinator.accept()
    session.post(arrived())
    stream.expect("arrived")
    stream.send(world=pb.World(generation=1))
    session.wait_world()
    assert session.aborted(1) is None
    stream.send(abort=pb.Abort(generation=1, lost=["job-w2"]))
    assert reached(seen)
    assert aborted == [(1, ("job-w2",))]
    assert session.aborted(1) == ("job-w2",)
    assert session.aborted(2) is None


def test_a_last_word_returns_only_when_it_was_read(coordinator: Any, open_session: Callable[..., Session]) -> None:
    session = open_session()
    stream, _ = coordinator.accept()
    code = session.finish(pb.WorkerMessage(finished=pb.Finished(step=3)))
    assert code == exit_codes.FINISHED
    assert stream.until_end()[-1] == "finished"
    assert stream.closed_in_order


def test_progress_that_was_held_back_is_asked_for(coordinator: Any, open_session: Callable[..., Session]) -> None:
    session = open_session()
    session.progress_source = lambda: pb.Progress(step=8)
    stream, _ = coordinator.accept()
    assert stream.expect("progress").step == 8


def test_an_orphan_says_so_where_it_waits(coordinator: Any, open_session: Callable[..., Session]) -> None:
    coordinator.stop()
    session = open_session(orphan_seconds=0.3)
    with pytest.raises(Leave, match=r"no coordinator answered for 0.3 s: UNAVAILABLE") as leave:
        session.wait_world()
    assert leave.value.code == exit_codes.STOPPED


def test_the_bundle_comes_over_the_same_connection(coordinator: Any, open_session: Callable[..., Session]) -> None:
    session = open_session()
    with pytest.raises(BundleError, match="job job has no bundle"):
        list(session.fetch_bundle(WAIT_SECONDS))
    coordinator.bundle = bytes(range(256)) * 40
    assert b"".join(session.fetch_bundle(WAIT_SECONDS)) == coordinator.bundle
    coordinator.stall.clear()  # two pieces come, and then nothing any more
    pieces = session.fetch_bundle(1.0)
    assert [len(next(pieces)), len(next(pieces))] == [1000, 1000]
    with pytest.raises(OSError, match="nothing came for 1 s"):
        list(pieces)
    coordinator.stall.set()
    coordinator.stop()
    with pytest.raises(OSError, match="nothing came for 0"):
        list(session.fetch_bundle(0.2))
