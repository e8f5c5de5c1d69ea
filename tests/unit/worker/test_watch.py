"""When a silent or stopped worker is given up: the watchdog's decisions, moment by moment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordee.worker.patience import DOUBLINGS, Patience
from cordee.worker.watch import (
    ABANDON,
    ASK,
    DEATH_SECONDS,
    HEARTBEAT_SECONDS,
    KILL,
    STACK_SECONDS,
    START_SECONDS,
    STOPPED_SECONDS,
    Watch,
)


def member(now: float = 0.0) -> Watch:
    dog = Watch(now)
    dog.heard(now, member=True)
    return dog


def test_a_silent_member_is_asked_for_its_stacks_and_then_killed() -> None:
    dog = member()
    assert dog.deadline() == HEARTBEAT_SECONDS
    assert dog.check(HEARTBEAT_SECONDS - 0.01) is None
    assert dog.check(HEARTBEAT_SECONDS) == ASK
    assert dog.asked
    assert dog.check(HEARTBEAT_SECONDS + STACK_SECONDS - 0.01) is None
    assert dog.check(HEARTBEAT_SECONDS + STACK_SECONDS) == KILL
    assert dog.reason == "gave no sign of life for 3 s and was killed"


def test_stacks_that_are_written_shorten_the_wait() -> None:
    dog = member()
    assert dog.check(3.0) == ASK
    dog.stacks_written(3.05)
    assert dog.check(3.05) == KILL


def test_one_that_speaks_up_after_all_lives_on() -> None:
    dog = member()
    assert dog.check(3.0) == ASK
    dog.heard(3.1, member=True)
    assert not dog.asked
    assert dog.check(3.5) is None
    assert dog.deadline() == 3.1 + HEARTBEAT_SECONDS


def test_one_that_was_never_a_member_may_be_silent_for_longer() -> None:
    dog = Watch(0.0)
    dog.heard(1.0, member=False)
    assert dog.deadline() == 1.0 + START_SECONDS
    dog.heard(2.0, member=True)
    assert dog.deadline() == 2.0 + HEARTBEAT_SECONDS


def test_a_longer_limit_than_that_holds_from_the_start() -> None:
    assert Watch(0.0, heartbeat_seconds=100.0).deadline() == 100.0


def test_a_stopped_worker_is_killed_unless_it_goes_on() -> None:
    dog = member()
    dog.stopped(1.0, "SIGSTOP")
    assert dog.check(1.2) is None
    dog.continued(1.2)
    assert dog.check(1.3) is None
    dog.stopped(2.0, "SIGTSTP")
    dog.stopped(2.2, "SIGTSTP")  # told twice
    assert dog.check(2.0 + STOPPED_SECONDS) == KILL
    assert dog.reason == "was stopped by SIGTSTP for 0.25 s and killed"


def test_a_stop_is_judged_by_itself_not_by_the_silence_that_it_brings() -> None:
    dog = Watch(0.0, heartbeat_seconds=1.0, stopped_seconds=10.0)
    dog.heard(0.0, member=True)
    dog.stopped(0.5, "SIGSTOP")
    assert dog.check(5.0) is None
    dog.continued(6.0)
    assert dog.deadline() == 7.0


def test_an_end_that_was_announced_takes_what_it_takes() -> None:
    dog = member()
    dog.ending(1.0)
    assert dog.check(30.0) is None
    assert dog.check(dog.deadline()) == ASK


def test_one_that_does_not_leave_in_time_is_killed() -> None:
    dog = member()
    dog.leave(1.0, 5.0)
    dog.heard(5.5, member=True)
    assert dog.check(5.9) is None
    assert dog.check(6.0) == KILL
    assert dog.reason == "did not leave within 5 s and was killed"


def test_time_in_which_the_agent_was_not_run_counts_for_nothing() -> None:
    dog = member()
    dog.stopped(1.0, "SIGSTOP")
    dog.late(9.0)
    assert dog.check(9.2) is None
    assert dog.check(9.25) == KILL
    dog = member()
    assert dog.check(3.0) == ASK
    dog.late(9.0)
    assert dog.check(9.0 + HEARTBEAT_SECONDS - 0.01) is None


def test_one_that_was_killed_and_does_not_die_is_abandoned() -> None:
    dog = member()
    dog.killed(1.0, "was killed: SIGTERM came again")
    assert dog.check(1.0 + DEATH_SECONDS - 0.01) is None
    assert dog.check(1.0 + DEATH_SECONDS) == ABANDON


@given(st.lists(st.floats(0.01, HEARTBEAT_SECONDS - 0.01), max_size=30))
def test_a_worker_that_is_heard_in_time_is_never_touched(gaps: list[float]) -> None:
    dog, now = member(), 0.0
    for gap in gaps:
        now += gap
        assert dog.check(now) is None
        dog.heard(now, member=True)


EVENTS = ("heard", "stopped", "continued", "late", "leave", "written", "nothing")


@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.floats(0.0, 4.0)), max_size=40))
def test_whatever_happens_a_kill_has_its_reason_and_comes_once_and_nobody_waits_for_ever(
    events: list[tuple[str, float]],
) -> None:
    dog, now, kills = Watch(0.0), 0.0, 0
    for event, gap in events:
        now += gap
        match event:
            case "heard":
                dog.heard(now, member=True)
            case "stopped":
                dog.stopped(now, "SIGSTOP")
            case "continued":
                dog.continued(now)
            case "late":
                dog.late(now)
            case "leave":
                dog.leave(now, 1.0)
            case "written":
                dog.stacks_written(now)
        told = dog.check(now)
        assert told in (None, ASK, KILL, ABANDON)
        kills += told == KILL
        assert (kills > 0) == bool(dog.reason)
        if told is None:
            assert now < dog.deadline() <= now + START_SECONDS
    assert kills <= 1
    silent = [dog.check(dog.deadline()) for _ in range(3)]  # from here on not a word
    assert kills or KILL in silent


@pytest.mark.parametrize("limit", [0.5, 3.0, 45.0])
def test_the_reason_of_the_same_fault_is_the_same_each_time(limit: float) -> None:
    """The coordinator counts deaths of the same kind by these words."""
    reasons = set()
    for delay in (0.0, 0.013, 0.4):
        dog = Watch(0.0, heartbeat_seconds=limit)
        dog.heard(delay, member=True)
        assert dog.check(limit + 2 * delay) == ASK
        assert dog.check(limit + 2 * delay + 1) == KILL
        reasons.add(dog.reason)
    assert len(reasons) == 1


# ---------------------------------------------------------------------------------------------- slow, or hanging?


def lives(patience: Patience, hold: float, *, before: int = 0) -> str | None:
    """One process of a worker: it commits the steps up to `before`, and then is silent for `hold` seconds.

    Why it was killed; None: it got through, and committed two steps more.
    """
    dog, now = Watch(0.0, patience=patience), 0.0
    dog.heard(now, member=True)
    for step in range(1, before + 1):
        dog.heard(now, member=True, step=step)
    while now < hold:
        now = min(dog.deadline(), hold)
        if dog.check(now) == KILL:
            assert dog.silent
            return dog.reason
    for step in (before + 1, before + 2):
        dog.heard(now, member=True, step=step)
    return None


@pytest.mark.parametrize(("hold", "deaths"), [(2.9, 0), (4.0, 1), (7.0, 2), (23.9, 3)])
def test_a_call_that_holds_the_lock_for_long_gets_through_at_last(hold: float, deaths: int) -> None:
    patience = Patience()
    for _ in range(deaths):
        assert lives(patience, hold, before=6) is not None
    assert lives(patience, hold, before=6) is None
    assert patience.factor == 1, "the step after it is watched as closely as ever"


def test_patience_has_an_end_and_what_hangs_for_ever_dies_of_the_same_words_each_time() -> None:
    patience = Patience()
    reasons = [lives(patience, 1e9) for _ in range(DOUBLINGS + 3)]
    seconds = [3, 6, 12, 24, 24, 24]
    assert reasons == [f"gave no sign of life for {s} s and was killed" for s in seconds]


def test_steps_that_are_made_again_are_no_step_further() -> None:
    """All workers were lost, and began at a checkpoint: they come to the same call again."""
    patience = Patience()
    lives(patience, 9.0, before=20)
    assert patience.factor == 2
    lives(patience, 9.0, before=20)
    assert patience.factor == 4
    patience.committed(22)
    assert patience.factor == 1


@given(st.integers(1, 24), st.integers(0, 24), st.integers(1, 500))
def test_steps_that_were_made_and_not_told_any_more_are_none_further(first: int, later: int, stride: int) -> None:
    """Words come a few times a second, steps may come faster; all processes die at the same step."""
    hold_at = 30 * stride
    patience = Patience()
    for begins, factor in ((first, 2), (later, 4)):
        for told in range(begins * stride // 25, hold_at + 1, stride):
            patience.committed(told)
        patience.silenced()
        assert patience.factor == factor
        patience.committed(0)  # the next process
    patience.committed(hold_at + stride + 1)
    assert patience.factor == 1


def test_only_silence_is_met_with_patience() -> None:
    patience = Patience()
    dog = Watch(0.0, patience=patience)
    dog.stopped(1.0, "SIGSTOP")
    assert dog.check(2.0) == KILL
    assert (dog.silent, patience.factor) == (False, 1)


def test_imports_that_hold_the_lock_have_longer_as_well() -> None:
    patience = Patience()
    patience.silenced()
    assert Watch(0.0, patience=patience).deadline() == 2 * START_SECONDS
