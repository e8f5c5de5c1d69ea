"""Whatever a worker says, the coordinator decides something: it does not raise, and nothing grows without bounds.

Workers run users' scripts, and hold the job's token: their words are taken as words, never on trust. What lies do to
their own job is their own affair; the machine stays sane, what it stores can be read again, and the job can be ended.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cordee.coordinator.core import actions as act
from cordee.coordinator.core import events as ev
from cordee.coordinator.core.job import JobMachine
from cordee.coordinator.core.model import JobState
from cordee.coordinator.core.record import JobRecord
from cordee.coordinator.service import workers as shell
from cordee.rpc.v1 import worker_pb2 as pb
from cordee.worker import handshake

UINT64 = st.integers(0, 5) | st.integers(0, 2**64 - 1)
UINT32 = st.integers(0, 5) | st.integers(0, 2**32 - 1)
INT32 = st.integers(-15, 80) | st.integers(-(2**31), 2**31 - 1)
DOUBLE = st.floats() | st.floats(0, 10)
TEXT = st.text(max_size=20) | st.sampled_from(["j-w0", "j-w1", "j-w2", "a.0", "a.1", "\x1b[31m", "x" * 100_000])
MAP = st.dictionaries(TEXT, DOUBLE, max_size=3)


def built(kind: Any, /, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(kind, **fields)


MEMBER = st.sampled_from(["j-w0", "j-w1", "j-w2", "nobody"])
ACTIVITY = built(
    pb.Activity,
    phase=st.integers(0, 9),
    step=UINT64,
    seconds=DOUBLE,
    waiting_for=st.lists(MEMBER | TEXT, max_size=4),
    idle_seconds=DOUBLE,
)
WORDS: dict[str, st.SearchStrategy[Any]] = {
    "heartbeat": built(pb.Heartbeat, generation=UINT64, step=UINT64, activity=ACTIVITY),
    "arrived": built(
        pb.Arrived,
        generation=UINT64,
        step=UINT64,
        has_state=st.booleans(),
        reason=st.integers(0, 9),
        suspects=st.lists(MEMBER | TEXT, max_size=4),
    ),
    "progress": built(
        pb.Progress,
        generation=UINT64,
        step=UINT64,
        steps_total=UINT64,
        epoch=UINT32,
        loss=DOUBLE,
        samples=UINT64,
        step_seconds=DOUBLE,
        data_seconds=DOUBLE,
        metrics=MAP,
        paces=st.lists(built(pb.Pace, worker=MEMBER | TEXT, shard_seconds=DOUBLE, data_seconds=DOUBLE), max_size=3),
    ),
    "checkpointed": built(pb.Checkpointed, step=UINT64, path=TEXT, size_bytes=UINT64, seconds=DOUBLE),
    "leaving": built(pb.Leaving, reason=TEXT),
    "finished": built(pb.Finished, step=UINT64, samples=UINT64, weights_sha256=TEXT, metrics=MAP, weights_path=TEXT),
    "script_failed": built(pb.ScriptFailed, exception=TEXT, traceback=TEXT, step=UINT64),
    "note": built(pb.Note, kind=TEXT, message=TEXT, seconds=DOUBLE),
    "reached": built(pb.Reached, incarnations=st.lists(TEXT, max_size=4)),
}
HELLO = built(
    pb.Hello,
    job=st.just("j"),
    worker=MEMBER.filter(lambda name: name != "nobody") | st.just("j-w99"),
    incarnation=st.sampled_from(["a.0", "a.1", "a.2"]) | TEXT.filter(bool).map(lambda text: text[: shell.MAX_NAME]),
    address=TEXT,
    generation=UINT64,
    step=UINT64,
    has_state=st.booleans(),
    pid=UINT32,
    waiting=st.booleans(),
    previous=st.none()
    | built(pb.PostMortem, incarnation=TEXT, code=INT32, words=TEXT, stack=TEXT, step=UINT64, asked=st.booleans()),
)
WORD = st.one_of([message.map(lambda m, k=kind: (k, m)) for kind, message in WORDS.items()])
MOVE = st.one_of(
    HELLO.map(lambda hello: ("hello", hello)),
    WORD,
    WORD,
    WORD,
    st.tuples(st.just("wait"), st.sampled_from([0.1, 1.0, 4.0, 40.0])),
    st.tuples(st.just("break"), st.just(None)),
    st.tuples(st.just("restart"), st.just(None)),
)


class Shell:
    """As much of the service as its handlers of messages see."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.machine = JobMachine(JobRecord("j", 1, 3, created_at=self.now))
        self.stored = self.machine.record
        self.sessions: dict[tuple[str, str], Any] = {}
        self.texts = 0
        self.feed(None, ev.Scheduled(3))

    def feed(self, _job: object, event: ev.Event) -> None:
        decided = self.machine.handle(event, self.now)
        for action in decided:
            match action:
                case act.Persist(record):
                    assert record.generation >= self.stored.generation
                    self.stored = record
                    text = json.dumps(record.to_json())
                    assert json.dumps(JobRecord.from_json(json.loads(text)).to_json()) == text  # NaN is not NaN
                    assert len(text) < 1_000_000, "what is stored at every turn is bounded"
                case act.SendWorld() | act.SendAbort() | act.SendStop() | act.SendChangePending() | act.SendProbe():
                    shell._to_wire(action).SerializeToString()
                case _:
                    pass

    def progress(self, *_: object) -> None: ...

    def checkpointed(self, *_: object) -> None: ...

    def note(self, *_: object) -> None: ...

    def move(self, kind: str, word: Any, last: tuple[str, str] | None) -> tuple[str, str] | None:
        match kind:
            case "hello":
                key = (word.worker, word.incarnation)
                job = type("Job", (), {"machine": self.machine})
                self.sessions[key] = type(
                    "Session", (), {"job": job, "worker": word.worker, "incarnation": word.incarnation}
                )
                self.feed(None, shell._attached(word))
                return key
            case "wait":
                self.now += word
                self.feed(None, ev.Tick())
            case "break":
                if last is not None:
                    self.feed(None, ev.WorkerDetached(*last))
            case "restart":
                self.machine = JobMachine(JobRecord.from_json(json.loads(json.dumps(self.stored.to_json()))))
                self.sessions.clear()
                self.feed(None, ev.Recovered(frozenset({"j-w0", "j-w1"})))
            case _:
                if last in self.sessions:
                    shell._HANDLERS[kind](self, self.sessions[last], word)  # type: ignore[arg-type]
        return last


@settings(max_examples=300)
@given(st.lists(MOVE, max_size=25))
def test_whatever_is_said_the_machine_decides_and_the_job_can_be_ended(moves: list[tuple[str, Any]]) -> None:
    on = Shell()
    last = on.move("hello", pb.Hello(job="j", worker="j-w0", incarnation="a.0"), None)
    for kind, word in moves:
        last = on.move(kind, word, last)
    on.feed(None, ev.CancelRequested())
    assert on.machine.state in (JobState.CANCELLED, JobState.FAILED, JobState.SUCCEEDED)


@given(st.binary(max_size=300), st.binary(min_size=1, max_size=32))
def test_no_bytes_are_a_peer_that_does_not_know_the_key(garbage: bytes, key: bytes) -> None:
    """The mesh's port: whatever comes in, it is None, and no exception."""
    message, nonce = handshake.challenge()
    assert handshake.open_hello(key, nonce, garbage) is None
    assert (
        handshake.open_hello(key, nonce, garbage.ljust(handshake.HELLO_BYTES, b"\0")[: handshake.HELLO_BYTES]) is None
    )
    assert handshake.check_answer(key, nonce, message, garbage) is None
    assert handshake.open_challenge(b"x" + garbage) is None
