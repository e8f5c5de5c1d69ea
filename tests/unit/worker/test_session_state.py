"""What the session decides, event by event, without a thread or a socket."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cordee.rpc.v1 import worker_pb2 as pb
from cordee.worker import exit_codes
from cordee.worker.session_state import (
    NOTES_KEPT,
    AbortMesh,
    CloseStream,
    DeliverWorld,
    End,
    Event,
    Instruction,
    OpenStream,
    Post,
    ProbePeers,
    Received,
    Send,
    SessionState,
    StreamEnded,
    Tick,
    WorkerIdentity,
)

ME = WorkerIdentity("job", "job-w0", "aa", "127.0.0.1:1", 42)
WELCOME = Received(pb.CoordinatorMessage(welcome=pb.Welcome(heartbeat_seconds=0.5)))
LOST = StreamEnded("UNAVAILABLE: gone")


def session(orphan_seconds: float = 60.0) -> SessionState:
    return SessionState(ME, orphan_seconds, 0.0)


def attached() -> SessionState:
    state = session()
    state.handle(Tick(), 0.0)
    state.handle(WELCOME, 0.0)
    return state


def arrived(generation: int = 0, step: int = 0) -> Post:
    return Post(pb.WorkerMessage(arrived=pb.Arrived(generation=generation, step=step)))


def world(generation: int) -> Received:
    return Received(pb.CoordinatorMessage(world=pb.World(generation=generation)))


def stop(reason: pb.StopReason, message: str = "") -> Received:
    return Received(pb.CoordinatorMessage(stop=pb.Stop(reason=reason, message=message)))


def in_world(generation: int) -> SessionState:
    state = attached()
    state.handle(arrived(), 0.0)
    state.handle(world(generation), 0.0)
    return state


def sent(instructions: list[Instruction]) -> list[str]:
    return [i.message.WhichOneof("kind") or "" for i in instructions if isinstance(i, Send)]


FINISHED = Post(pb.WorkerMessage(finished=pb.Finished(step=9)))
FAILED = Post(pb.WorkerMessage(script_failed=pb.ScriptFailed(exception="ValueError: x")))


def test_the_first_tick_opens_a_stream_and_says_hello() -> None:
    opened, hello = session().handle(Tick(), 0.0)
    assert opened == OpenStream()
    assert isinstance(hello, Send)
    assert hello.message.hello == pb.Hello(
        job="job", worker="job-w0", incarnation="aa", address="127.0.0.1:1", pid=42, generation=0
    )


def test_a_new_stream_tells_where_training_stands() -> None:
    state = in_world(3)
    state.step, state.has_state = 17, True
    state.handle(LOST, 1.0)
    _, hello = state.handle(Tick(), state.deadline())
    assert isinstance(hello, Send)
    said = hello.message.hello
    assert (said.incarnation, said.generation, said.step, said.has_state, said.waiting) == ("aa", 3, 17, True, False)


def test_heartbeats_go_out_at_the_interval_of_the_welcome() -> None:
    state = attached()
    state.step = 5
    assert state.deadline() == 0.5
    assert state.handle(Tick(), 0.4) == []
    (beat,) = state.handle(Tick(), 0.5)
    assert isinstance(beat, Send)
    assert beat.message.heartbeat == pb.Heartbeat(generation=0, step=5, activity=pb.Activity(phase=pb.PHASE_PREPARING))
    assert state.deadline() == 1.0


def test_an_arrival_is_said_again_until_a_world_answers_it() -> None:
    state = attached()
    assert sent(state.handle(arrived(), 0.0)) == ["arrived"]
    state.handle(LOST, 1.0)
    _, hello = state.handle(Tick(), state.deadline())
    assert isinstance(hello, Send)
    assert hello.message.hello.waiting
    assert sent(state.handle(WELCOME, 1.5)) == ["arrived"]
    assert state.handle(world(1), 2.0) == [DeliverWorld(pb.World(generation=1))]
    state.handle(LOST, 3.0)
    state.handle(Tick(), state.deadline())
    assert sent(state.handle(WELCOME, 3.5)) == []


def test_a_world_said_twice_is_delivered_once() -> None:
    state = in_world(1)
    assert state.handle(world(1), 0.0) == []
    state.handle(arrived(1), 0.0)
    assert state.handle(world(1), 0.0) == []  # the answer to an earlier arrival
    assert state.handle(world(2), 0.0) == [DeliverWorld(pb.World(generation=2))]


def test_who_waits_probes_and_who_has_a_world_does_not() -> None:
    probe = pb.Probe(peers=[pb.Member(worker="job-w1", incarnation="bb", address="127.0.0.1:2")])
    asked = Received(pb.CoordinatorMessage(probe=probe))
    answer = Post(pb.WorkerMessage(reached=pb.Reached(incarnations=["bb"])))
    state = in_world(2)
    assert state.handle(asked, 0.0) == []
    state.handle(arrived(2, 7), 0.0)
    assert state.handle(asked, 0.0) == [ProbePeers(probe)]
    assert sent(state.handle(answer, 0.0)) == ["reached"]
    state.handle(LOST, 1.0)
    assert state.handle(answer, 1.0) == []  # who needs it asks again
    state.handle(Tick(), state.deadline())
    assert sent(state.handle(WELCOME, 1.5)) == ["arrived"]
    assert state.handle(world(3), 2.0) == [DeliverWorld(pb.World(generation=3))]
    assert state.handle(asked, 2.0) == []


def test_nothing_is_delivered_that_was_not_waited_for() -> None:
    assert attached().handle(world(1), 0.0) == []


def test_a_pending_change_holds_for_its_generation_only() -> None:
    def change(generation: int) -> Received:
        return Received(pb.CoordinatorMessage(change_pending=pb.ChangePending(generation=generation)))

    state = in_world(2)
    state.handle(change(1), 0.0)
    seen = [state.change_pending]
    for event in (change(2), arrived(2), world(3)):
        state.handle(event, 0.0)
        seen.append(state.change_pending)
    assert seen == [False, True, True, False]


def test_an_abort_breaks_its_own_generation_only() -> None:
    def abort(generation: int) -> Received:
        return Received(pb.CoordinatorMessage(abort=pb.Abort(generation=generation, lost=["job-w1"])))

    state = in_world(2)
    assert state.handle(abort(1), 0.0) == []
    assert state.handle(abort(2), 0.0) == [AbortMesh(2, ("job-w1",))]
    assert state.aborted == AbortMesh(2, ("job-w1",))
    state.handle(arrived(2), 0.0)
    assert state.handle(abort(2), 0.0) == []  # that world is left already


def test_each_stop_ends_with_its_code() -> None:
    expected = {
        pb.STOP_REASON_DRAINED: exit_codes.DRAINED,
        pb.STOP_REASON_CANCELLED: exit_codes.STOPPED,
        pb.STOP_REASON_FINISHED: exit_codes.STOPPED,
        pb.STOP_REASON_FAILED: exit_codes.STOPPED,
        pb.STOP_REASON_FENCED: exit_codes.FENCED,
        pb.STOP_REASON_UNSPECIFIED: exit_codes.STOPPED,
    }
    assert {*expected, pb.STOP_REASON_STUCK} == set(pb.StopReason.values())  # that one says where it stands first
    for reason, code in expected.items():
        (end,) = attached().handle(stop(reason), 0.0)
        assert isinstance(end, End)
        assert end.code == code
        assert end.message
    (end,) = attached().handle(stop(pb.STOP_REASON_CANCELLED, "by request of ana"), 0.0)
    assert end == End(exit_codes.STOPPED, "by request of ana")


def test_a_finish_is_said_until_the_coordinator_has_read_it() -> None:
    for last_word, code in ((FINISHED, exit_codes.FINISHED), (FAILED, exit_codes.SCRIPT_FAILED)):
        state = attached()
        send, close = state.handle(last_word, 0.0)
        assert isinstance(send, Send)
        assert close == CloseStream()
        state.handle(LOST, 1.0)  # broken before it was read, perhaps
        state.handle(Tick(), state.deadline())
        assert state.handle(WELCOME, 2.0)[-2:] == [Send(last_word.message), CloseStream()]
        (end,) = state.handle(StreamEnded(""), 2.1)
        assert isinstance(end, End)
        assert end.code == code


def test_a_finish_waits_for_a_coordinator() -> None:
    state = session()
    state.handle(Tick(), 0.0)
    state.handle(LOST, 0.0)
    assert state.handle(FINISHED, 0.1) == []
    state.handle(Tick(), 0.2)
    assert sent(state.handle(WELCOME, 0.3)) == ["finished"]


def test_a_last_word_that_nobody_answers_is_said_again_on_another_stream() -> None:
    """A coordinator that is stopped reads nothing, though the stream is up; killed then, it has stored nothing."""
    state = attached()
    state.handle(FINISHED, 0.0)
    assert not [i for i in state.handle(Tick(), state.deadline()) if isinstance(i, End)]
    assert OpenStream() in state.handle(Tick(), state.deadline())
    assert sent(state.handle(WELCOME, 6.0)) == ["finished"]
    (end,) = state.handle(stop(pb.STOP_REASON_FINISHED), 6.1)
    assert isinstance(end, End)
    assert end.code == exit_codes.FINISHED


def test_a_coordinator_that_never_answers_does_not_hold_a_finished_worker_for_ever() -> None:
    state = session(orphan_seconds=20.0)
    state.handle(Tick(), 0.0)
    state.handle(WELCOME, 0.0)
    state.handle(FINISHED, 0.0)
    ends: list[Instruction] = []
    while not ends:
        assert state.deadline() < 60
        ends = [i for i in state.handle(Tick(), state.deadline()) if isinstance(i, End)]
    assert isinstance(ends[0], End)
    assert ends[0].code == exit_codes.FINISHED


def test_an_orphan_ends_when_its_time_is_up_and_not_before() -> None:
    state = session(orphan_seconds=10.0)
    now = 0.0
    state.handle(Tick(), now)
    state.handle(WELCOME, now)
    now = 100.0  # attached for long: the count begins with the loss
    state.handle(LOST, now)
    while state.ended is None:
        assert now <= 110.0
        now = max(now, state.deadline())
        instructions = state.handle(Tick(), now)
        if OpenStream() in instructions:
            state.handle(LOST, now)
    assert now == 110.0
    assert state.ended.code == exit_codes.STOPPED
    assert "no coordinator answered for 10 s: UNAVAILABLE: gone" in state.ended.message


def test_attempts_are_spaced_and_never_stop() -> None:
    state = session(orphan_seconds=math.inf)
    now, moments = 0.0, []
    for _ in range(2000):
        if OpenStream() in state.handle(Tick(), now):
            moments.append(now)
            state.handle(LOST, now)
        now = max(now, state.deadline())
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert gaps[0] == 0.0  # one stream broke: the coordinator is probably there
    assert gaps[1:4] == pytest.approx([0.05, 0.1, 0.2])
    assert gaps[-1] == pytest.approx(1.0)


def test_what_was_said_into_the_void_is_said_again_and_notes_are_bounded() -> None:
    state = session()
    state.handle(Tick(), 0.0)
    for number in range(NOTES_KEPT + 5):
        assert state.handle(Post(pb.WorkerMessage(note=pb.Note(message=str(number)))), 0.0) == []
    for step in (1, 2):
        state.handle(Post(pb.WorkerMessage(progress=pb.Progress(step=step))), 0.0)
        state.handle(Post(pb.WorkerMessage(checkpointed=pb.Checkpointed(step=step))), 0.0)
    state.handle(Post(pb.WorkerMessage(leaving=pb.Leaving(reason="SIGTERM"))), 0.0)
    kinds = sent(state.handle(WELCOME, 1.0))
    assert kinds == ["note"] * NOTES_KEPT + ["checkpointed", "progress", "leaving"]


def test_after_the_end_nothing_is_done() -> None:
    state = attached()
    state.handle(stop(pb.STOP_REASON_CANCELLED), 0.0)
    for event in (Tick(), LOST, world(1), arrived(), FINISHED):
        assert state.handle(event, 1.0) == []


EVENTS: list[Event] = [
    Tick(),
    LOST,
    StreamEnded(""),
    WELCOME,
    arrived(),
    arrived(3, 5),
    world(1),
    world(2),
    world(7),
    Received(pb.CoordinatorMessage(change_pending=pb.ChangePending(generation=2))),
    Received(pb.CoordinatorMessage(abort=pb.Abort(generation=2))),
    Received(pb.CoordinatorMessage(probe=pb.Probe())),
    Received(pb.CoordinatorMessage()),
    stop(pb.STOP_REASON_FINISHED),
    Post(pb.WorkerMessage(note=pb.Note(message="x"))),
    Post(pb.WorkerMessage(progress=pb.Progress(step=1))),
    Post(pb.WorkerMessage(reached=pb.Reached())),
    Post(pb.WorkerMessage(leaving=pb.Leaving())),
    FINISHED,
    FAILED,
]


@example([(Tick(), 0.0), (WELCOME, 0.0), (FINISHED, 0.0), (WELCOME, 0.0)])
@settings(max_examples=500)
@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.floats(0, 5)), max_size=60))
def test_whatever_happens_the_protocol_holds(history: list[tuple[Event, float]]) -> None:
    state = session(orphan_seconds=30.0)
    now, generation, open_, closed, first = 0.0, 0, False, False, True
    for event, seconds in history:
        now += seconds
        if isinstance(event, StreamEnded | Received) and not open_:
            continue  # nothing comes from a stream that is not there
        if isinstance(event, StreamEnded):
            open_ = False
        over = state.ended is not None
        for instruction in state.handle(event, now):
            assert not over
            if isinstance(instruction, OpenStream):
                assert not open_
                open_, closed, first = True, False, True
                continue
            if isinstance(instruction, Send):
                assert open_
                assert not closed
                if first:
                    assert instruction.message.WhichOneof("kind") == "hello"
                first = False
            if isinstance(instruction, CloseStream):
                closed = True
            if isinstance(instruction, DeliverWorld):
                assert instruction.world.generation > generation  # generations only grow
                generation = instruction.world.generation
        if state.ended is None:
            assert state.deadline() < math.inf  # there is always a next moment to act: it cannot fall asleep
