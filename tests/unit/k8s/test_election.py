"""Never two leaders, whatever is late, lost or suspended; and somebody, once the others are quiet."""

import heapq
import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cordee.k8s.election import Elector, Lease, Times

TIMES = Times(duration=15.0, renew=10.0, retry=2.0)


class Server:
    """A Lease with optimistic concurrency, as the API server keeps it."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self._versions = itertools.count(1)

    def write(self, holder: str, version: str | None, transitions: int) -> Lease | None:
        current = self.lease.version if self.lease is not None else None
        if current != version:
            return None
        self.lease = Lease(holder, TIMES.duration, transitions, str(next(self._versions)))
        return self.lease


@dataclass
class Candidate:
    elector: Elector
    offset: float
    """Its clock shows other numbers than the world's: nothing may depend on them."""
    delays: list[float] = field(default_factory=list)

    def delay(self) -> float:
        return self.delays.pop() if self.delays else 0.1


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.floats(-1000, 1000),
            st.lists(st.sampled_from([0.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.5, 3.0, 9.5, 16.0, 25.0]), max_size=80),
        ),
        min_size=2,
        max_size=4,
    )
)
def test_there_are_never_two_leaders(shapes: list[tuple[float, list[float]]]) -> None:
    server = Server()
    candidates = [Candidate(Elector(f"c{i}", TIMES), offset, list(ds)) for i, (offset, ds) in enumerate(shapes)]
    order = itertools.count()
    queue: list[tuple[float, int, object]] = []

    def at(time: float, what: object) -> None:
        heapq.heappush(queue, (time, next(order), what))

    # Each try: the read is answered late, the write is sent late, arrives late, and its answer comes late or never.
    def read(candidate: Candidate, now: float) -> None:
        at(now + candidate.delay(), lambda t: answer(candidate, server.lease, t))

    def answer(candidate: Candidate, lease: Lease | None, now: float) -> None:
        write = candidate.elector.look(lease, now + candidate.offset)
        if write is None:
            at(now + TIMES.retry, lambda t: read(candidate, t))
            return
        sent = now
        at(now + candidate.delay(), lambda t: arrive(candidate, write, sent, t))

    def arrive(candidate: Candidate, write: object, sent: float, now: float) -> None:
        result = server.write(candidate.elector.identity, write.version, write.transitions)  # type: ignore[attr-defined]
        wait = candidate.delay()
        if result is not None and wait < 20:  # else its answer is lost
            at(now + wait, lambda t: candidate.elector.written(result, sent + candidate.offset))
        at(now + wait + TIMES.retry, lambda t: read(candidate, t))

    for candidate in candidates:
        read(candidate, 0.0)
    now = 0.0
    while queue and now < 300:
        time, _, what = heapq.heappop(queue)
        for moment in (now, (now + time) / 2, time):
            leaders = [c for c in candidates if c.elector.leads(moment + c.offset)]
            assert len(leaders) <= 1, (moment, [c.elector.identity for c in leaders])
        now = time
        what(now)  # type: ignore[operator]
    assert server.lease is not None


def test_a_free_lease_is_taken_at_once_and_a_held_one_after_its_duration() -> None:
    elector = Elector("b", TIMES)
    held = Lease("a", 15.0, 3, "7")
    assert elector.look(held, 100.0) is None
    assert elector.holder == "a"
    assert elector.look(held, 114.9) is None
    write = elector.look(held, 115.0)
    assert write is not None
    assert (write.version, write.transitions, write.taken) == ("7", 4, True)
    assert elector.look(Lease("", 15.0, 4, "8"), 116.0) is not None
    first = Elector("c", TIMES).look(None, 0.0)
    assert first is not None
    assert first.version is None


def test_a_renewal_starts_the_wait_afresh() -> None:
    elector = Elector("b", TIMES)
    assert elector.look(Lease("a", 15.0, 0, "1"), 0.0) is None
    assert elector.look(Lease("a", 15.0, 0, "2"), 14.0) is None
    assert elector.look(Lease("a", 15.0, 0, "2"), 28.9) is None
    assert elector.look(Lease("a", 15.0, 0, "2"), 29.0) is not None


def test_a_leader_that_cannot_renew_steps_down_before_anybody_may_follow() -> None:
    elector = Elector("a", TIMES)
    elector.written(Lease("a", 15.0, 0, "1"), 50.0)
    assert elector.leads(59.9)
    assert not elector.leads(60.0)
    elector.written(Lease("a", 15.0, 0, "2"), 55.0)
    assert elector.leads(64.9)
    elector.give_up()
    assert not elector.leads(56.0)


def test_a_renewal_keeps_the_count_of_changes() -> None:
    elector = Elector("a", TIMES)
    write = elector.look(Lease("a", 15.0, 2, "9"), 0.0)
    assert write is not None
    assert (write.transitions, write.taken) == (2, False)


@pytest.mark.parametrize(("duration", "renew", "retry"), [(10, 10, 2), (15, 2, 2), (15, 10, 0)])
def test_times_out_of_order_are_refused(duration: float, renew: float, retry: float) -> None:
    with pytest.raises(ValueError, match="must be below"):
        Times(duration, renew, retry)
