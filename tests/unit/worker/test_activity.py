"""What a worker says it is doing: true at every moment, and told at once where somebody may be to blame."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordee.rpc.v1 import worker_pb2 as pb
from cordee.trainer.elastic.protocols import PeerLostError
from cordee.worker import cuts, exit_codes
from cordee.worker.activity import (
    COMPUTING,
    EXCHANGING,
    IDLE_SECONDS,
    LONG_SECONDS,
    MEETING,
    PREPARING,
    Activity,
    Glance,
)
from cordee.worker.communicator import connect
from cordee.worker.script import run_script
from cordee.worker.session_state import (
    IDLE_HEARTBEAT_SECONDS,
    LAST_WORDS_SECONDS,
    LOOK_SECONDS,
    CloseStream,
    End,
    Received,
    Send,
    SessionState,
    StreamEnded,
    Tick,
    WorkerIdentity,
)
from cordee.worker.testing import KEY, connected, in_threads, listeners, successes

PHASES = st.sampled_from(list(pb.Phase.values()))
SECONDS = st.floats(0.0, 100.0)


def until(condition: Any) -> None:
    deadline = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# --- one moment ---


def test_a_fresh_process_prepares() -> None:
    activity = Activity(lambda: 10.0)
    assert activity.glance(12.5) == Glance(PREPARING, 0, 2.5)


def test_a_phase_keeps_the_step_at_hand_unless_told_another() -> None:
    activity = Activity(lambda: 10.0)
    activity.enter(COMPUTING, 7)
    activity.enter(EXCHANGING)
    assert activity.glance(11.0) == Glance(EXCHANGING, 7, 1.0)


def test_idle_counts_from_the_last_byte_of_those_that_are_waited_for_and_from_the_phase() -> None:
    activity = Activity(lambda: 10.0)
    activity.members = ("a", "b", "c")
    activity.enter(EXCHANGING, 1, lambda: [(1, 3.0), (2, 12.0)])
    assert activity.glance(13.0) == Glance(EXCHANGING, 1, 3.0, ("b", "c"), 1.0)
    activity.enter(EXCHANGING, 1, lambda: [(1, 3.0)])  # moved last in an earlier exchange
    assert activity.glance(13.0) == Glance(EXCHANGING, 1, 3.0, ("b",), 3.0)
    activity.enter(EXCHANGING, 1, list)
    assert activity.glance(13.0) == Glance(EXCHANGING, 1, 3.0, (), 0.0)


@given(phase=PHASES, seconds=SECONDS, idle=SECONDS, waits=st.booleans())
def test_news_come_when_they_were_foretold(phase: pb.Phase, seconds: float, idle: float, waits: bool) -> None:
    def later(after: float) -> Glance:
        return Glance(phase, 1, seconds + after, ("w",) if waits else (), idle + after if waits else 0.0)

    now = later(0.0)
    after = now.seconds_until_news
    if after == float("inf"):
        assert (later(1e6).idle, later(1e6).long) == (now.idle, now.long)
        return
    then = later(after + 1e-6)
    assert (then.idle, then.long) != (now.idle, now.long)
    before = later(max(after - 1e-6, 0.0))
    assert (before.idle, before.long) == (now.idle, now.long)


# --- what really happens ---


def ones(rank: int, elements: int = 8) -> Any:
    return np.ones(elements, np.float32)


def reduce(communicator: Any, num_shards: int = 3, elements: int = 8) -> None:
    from cordee.trainer.elastic import tree

    cover = tree.cover(*tree.deal(num_shards, communicator.size)[communicator.rank], num_shards)
    communicator.all_reduce(
        {span: np.ones(elements, np.float32) for span in cover}, np.empty(elements, np.float32), num_shards=num_shards
    )


@pytest.mark.parametrize("elements", [8, 1 << 20])
def test_who_does_not_come_to_an_exchange_is_named_and_nobody_else(elements: int) -> None:
    with connected(3) as world:
        waiting = [threading.Thread(target=reduce, args=(world[rank], 3, elements), daemon=True) for rank in (0, 2)]
        for thread in waiting:
            thread.start()
        for rank in (0, 2):
            activity = world[rank].activity
            until(lambda a=activity: a.glance(time.monotonic()).waiting_for == ("job-w1",))
            assert activity.phase == EXCHANGING
            before = activity.glance(time.monotonic())
            until(lambda a=activity, b=before: a.glance(time.monotonic()).idle_seconds > b.idle_seconds)
        assert world[1].activity.phase != EXCHANGING
        reduce(world[1], 3, elements)
        for thread in waiting:
            thread.join(20.0)
        assert [one.activity.phase for one in world] == [COMPUTING] * 3
        assert [one.activity.glance(time.monotonic()).waiting_for for one in world] == [()] * 3


def test_a_heal_that_stalls_is_seen_and_named() -> None:
    with connected(2) as world:
        taker = threading.Thread(target=world[1].recv_states, args=([0],), daemon=True)
        taker.start()
        until(lambda: world[1].activity.glance(time.monotonic()).waiting_for == ("job-w0",))
        assert world[1].activity.phase == MEETING
        world[0].send_states([1], b"", [ones(0)])
        taker.join(20.0)
        assert world[1].activity.phase == COMPUTING


def test_the_members_that_a_new_world_misses_are_named_and_given_up_after_a_silence() -> None:
    with listeners(3) as (opened, members):
        activities = [Activity() for _ in members]
        for activity in activities:
            activity.members = tuple(member.worker for member in members)

        def work(rank: int) -> Any:
            return connect(
                opened[rank],
                generation=1,
                rank=rank,
                members=members,
                key=KEY,
                timeout_seconds=60.0,
                silence_seconds=0.5,
                activity=activities[rank],
            )

        seen = threading.Thread(
            target=until, args=[lambda: activities[0].glance(time.monotonic()).waiting_for == ("job-w2",)]
        )
        seen.start()
        results = in_threads(2, work)  # the third one is told of the world, and does nothing
        seen.join(20.0)
        assert not seen.is_alive()
        assert all(isinstance(result, PeerLostError) for result in results)
        # Whoever is the first to lose patience blames the silent one; the other may see it break off first.
        assert (2,) in [result.ranks for result in results]
        assert activities[0].phase == MEETING


def test_a_dial_that_is_never_answered_is_given_up_and_named() -> None:
    with listeners(2) as (opened, members):
        opened[1].cut["job-w0"] = time.monotonic() + 60.0
        result = in_threads(
            1,
            lambda _: connect(
                opened[1],
                generation=1,
                rank=1,
                members=members,
                key=KEY,
                timeout_seconds=60.0,
                silence_seconds=0.3,
            ),
        )[0]
        assert isinstance(result, PeerLostError)
        assert result.ranks == (0,)
        assert "job-w0 (rank 0) did not connect within 0.3 s" in str(result)


@pytest.mark.slow  # the kernel tries again and again for two seconds
def test_a_machine_that_answers_no_more_is_found_without_a_coordinator() -> None:
    with connected(2) as world:
        for communicator in world:
            for connection in communicator.connections().values():
                cuts.block(connection)
        begun = time.monotonic()
        results = in_threads(2, lambda rank: reduce(world[rank]))
        assert all(isinstance(result, PeerLostError) for result in results)
        assert "the network answers no more" in str(results[0]) + str(results[1])
        assert time.monotonic() - begun < 15.0


@pytest.mark.slow
def test_a_cut_that_heals_in_time_costs_nothing() -> None:
    with connected(2) as world:
        links = [connection for one in world for connection in one.connections().values()]
        for connection in links:
            cuts.block(connection)
        threading.Timer(0.5, lambda: [cuts.unblock(connection) for connection in links]).start()
        successes(in_threads(2, lambda rank: reduce(world[rank])))


# --- what is told of it ---

ME = WorkerIdentity("job", "job-w0", "aa", "127.0.0.1:1", 42)
NEVER = 1000.0


class Told:
    """A session with a training thread of the test's making, in a time of its own."""

    def __init__(self, heartbeat_seconds: float) -> None:
        self.now = 0.0
        self.activity = Activity(lambda: self.now)
        self.activity.members = ("job-w0", "job-w1")
        self.state = SessionState(ME, 60.0, 0.0, self.activity, lambda: "the stack")
        self.state.handle(Tick(), 0.0)
        welcome = pb.Welcome(heartbeat_seconds=heartbeat_seconds)
        self.state.handle(Received(pb.CoordinatorMessage(welcome=welcome)), 0.0)

    def beats(self, seconds: float) -> list[tuple[float, pb.Activity]]:
        """What is told, and when, while so much time passes."""
        end, beats = self.now + seconds, []
        while self.state.deadline() <= end:
            self.now = max(self.state.deadline(), self.now)
            for instruction in self.state.handle(Tick(), self.now):
                assert isinstance(instruction, Send)
                beats.append((self.now, instruction.message.heartbeat.activity))
        self.now = end
        return beats


def test_a_heartbeat_tells_the_activity() -> None:
    told = Told(heartbeat_seconds=0.5)
    told.activity.enter(COMPUTING, 9)
    ((when, activity),) = told.beats(0.9)
    assert when == 0.5
    assert activity == pb.Activity(phase=COMPUTING, step=9, seconds=0.5)


@pytest.mark.parametrize("heartbeat_seconds", [0.5, 10.0])
def test_peers_that_fall_silent_are_told_of_at_once_and_often(heartbeat_seconds: float) -> None:
    told = Told(heartbeat_seconds)
    told.beats(3.2)
    moved = [3.2]
    told.activity.enter(EXCHANGING, 4, lambda: [(1, moved[0])])
    beats = told.beats(3.0)
    when, first = next((when, said) for when, said in beats if said.idle_seconds >= IDLE_SECONDS)
    assert when - 3.2 <= IDLE_SECONDS + LOOK_SECONDS  # it looks that often, and then knows when to look again
    assert list(first.waiting_for) == ["job-w1"]
    idle = [when for when, said in beats if said.idle_seconds >= IDLE_SECONDS]
    assert max(b - a for a, b in itertools.pairwise(idle)) <= IDLE_HEARTBEAT_SECONDS + 1e-9
    moved[0] = told.now
    (when, said), *_ = told.beats(1.0)
    assert said.idle_seconds < IDLE_SECONDS  # that it moves again is told at once too
    assert when - moved[0] <= IDLE_HEARTBEAT_SECONDS


def test_a_long_step_is_told_once_and_then_at_the_usual_pace() -> None:
    told = Told(heartbeat_seconds=10.0)
    told.activity.enter(COMPUTING, 4)
    beats = told.beats(9.0)
    assert len(beats) == 1
    assert LONG_SECONDS <= beats[0][0] <= LONG_SECONDS + 0.01
    told.activity.enter(COMPUTING, 5)
    assert [said.step for _, said in told.beats(0.9)] == [5]


def test_nothing_is_told_while_a_worker_trains_at_its_usual_pace() -> None:
    told = Told(heartbeat_seconds=10.0)
    beats = []
    for step in range(90):
        told.activity.enter(COMPUTING, step)
        beats += told.beats(0.1)
    assert beats == []


def test_a_stuck_worker_says_where_it_stands_and_ends() -> None:
    stop = Received(pb.CoordinatorMessage(stop=pb.Stop(reason=pb.STOP_REASON_STUCK, message="it held w1 up")))
    for then in (StreamEnded(""), StreamEnded("UNAVAILABLE: gone"), Tick()):
        told = Told(heartbeat_seconds=0.5)
        said, close = told.state.handle(stop, 1.0)
        assert isinstance(said, Send)
        assert (said.message.note.kind, said.message.note.message) == ("stack", "the stack")
        assert close == CloseStream()
        assert told.state.handle(stop, 1.0) == []
        assert told.state.deadline() == 1.0 + LAST_WORDS_SECONDS
        assert told.state.handle(Tick(), 1.5) == []
        assert told.state.handle(then, told.state.deadline()) == [End(exit_codes.FENCED, "it held w1 up")]


SCRIPT = """
import threading
from cordee.worker.stack import main_stack

found = []

def wait_for(thread):
    thread.join()

def tell():
    while not found or "in wait_for" not in found[-1]:
        found.append(main_stack())

teller = threading.Thread(target=tell)
teller.start()
wait_for(teller)
"""


def test_the_stack_begins_at_the_script_and_ends_where_the_main_thread_stands(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    main, path, arguments = sys.modules["__main__"], list(sys.path), list(sys.argv)
    try:
        run_script(tmp_path, "train.py", ())
        (*_, stack) = sys.modules["__main__"].__dict__["found"]
    finally:
        sys.modules["__main__"], sys.path[:], sys.argv[:] = main, path, arguments
    first, *rest = stack.splitlines()
    assert first == '  File "train.py", line 16, in <module>'
    assert '  File "train.py", line 8, in wait_for' in rest
