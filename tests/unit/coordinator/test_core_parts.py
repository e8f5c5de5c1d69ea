"""The small pure parts: rendezvous, life cycle, failure policy, and the record's form in the store."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordee.coordinator.core.failure import EXITS, Verdict, describe_exit, judge, retry
from cordee.coordinator.core.lifecycle import STOP_REASONS, TRANSITIONS, Facts, finish_due, state_of
from cordee.coordinator.core.model import (
    TERMINAL_STATES,
    Cause,
    JobError,
    JobState,
    Member,
    Policy,
    Result,
    World,
    worker_id,
    worker_index,
)
from cordee.coordinator.core.record import FinishedWorker, JobRecord, SlotRecord
from cordee.coordinator.core.rendezvous import Attendee, Muster, change_needed, decide

# ------------------------------------------------------------------------------------------------------- rendezvous

attendees = st.lists(st.tuples(st.booleans(), st.none() | st.integers(0, 3), st.booleans()), max_size=6).map(
    lambda rows: tuple(
        # A joiner holds no state.
        Attendee(f"j-w{k}", k, k if member else None, step if member else None, draining)
        for k, (member, step, draining) in enumerate(rows)
    )
)
musters = st.builds(
    Muster,
    minimum=st.integers(1, 4),
    present=attendees,
    awaited=st.integers(0, 1),
    expected=st.integers(0, 6),
    usable=st.integers(0, 6),
    last_arrival=st.just(100.0),
    settle_seconds=st.just(1.0),
)


@given(musters, st.sampled_from([100.0, 100.5, 101.0]))
def test_a_world_is_formed_of_those_present_with_everybody_heard_and_the_furthest_step_in_it(
    muster: Muster, now: float
) -> None:
    decision = decide(muster, now)
    assert not set(decision.form) & set(decision.release)
    assert set(decision.form) | set(decision.release) <= set(muster.present)
    assert all(a.draining for a in decision.release)
    if muster.awaited:
        assert not decision.form
        assert not decision.release
    if decision.form:
        assert len(decision.form) >= muster.minimum
        assert sum(a.draining for a in decision.form) <= 1
        assert {a for a in muster.present if not a.draining} <= set(decision.form)
        steps = [a.step for a in muster.present if a.step is not None]
        if steps and muster.usable > 1:
            assert max(steps) in [a.step for a in decision.form]
        ranked = [a.rank for a in decision.form if a.rank is not None]
        assert ranked == sorted(ranked)
        assert [a.rank for a in decision.form[len(ranked) :]] == [None] * (len(decision.form) - len(ranked))


@given(musters)
def test_with_everybody_heard_something_happens_after_the_settle_time_unless_too_few_are_there(muster: Muster) -> None:
    decision = decide(muster, 101.0)
    staying = [a for a in muster.present if not a.draining]
    if not muster.awaited and len(staying) >= muster.minimum:
        assert decision.form
    assert decision.until is None


def test_survivors_do_not_wait_for_the_dead_but_a_first_world_waits_for_all() -> None:
    survivors = tuple(Attendee(f"j-w{k}", k, k, 7) for k in range(2))
    assert decide(Muster(1, survivors, 0, 3, 3, 100.0, 1.0), 100.0).form == survivors
    joiners = tuple(Attendee(f"j-w{k}", k, None, None) for k in range(2))
    assert decide(Muster(1, joiners, 0, 3, 3, 100.0, 1.0), 100.0).until == 101.0
    assert decide(Muster(1, joiners, 0, 3, 3, 100.0, 1.0), 101.0).form == joiners
    assert decide(Muster(1, joiners, 0, 2, 3, 100.0, 1.0), 100.0).form == joiners


def test_a_draining_worker_that_alone_holds_the_furthest_step_is_kept_until_it_can_hand_it_on() -> None:
    holder, fresh = Attendee("j-w0", 0, 0, 7, draining=True), Attendee("j-w1", 1, None, None)
    assert decide(Muster(1, (holder, fresh), 0, 1, 3, 100.0, 1.0), 100.0).form == (holder, fresh)
    healed = Attendee("j-w1", 1, 1, 8)
    later = Attendee("j-w0", 0, 0, 8, draining=True)
    decision = decide(Muster(1, (later, healed), 0, 1, 3, 100.0, 1.0), 100.0)
    assert (decision.form, decision.release) == ((healed,), (later,))
    # Nobody is to come after it: it goes, and the checkpoint is what is left.
    assert decide(Muster(1, (later,), 0, 0, 1, 100.0, 1.0), 100.0).release == (later,)


@pytest.mark.parametrize(
    ("staying", "draining", "joiners", "minimum", "successors", "needed"),
    [
        (2, 0, 1, 1, 3, True),  # a joiner
        (1, 0, 1, 3, 3, False),  # a joiner that would only stop a world below its new minimum
        (2, 1, 0, 1, 2, True),  # somebody to let go
        (0, 1, 0, 1, 1, False),  # it alone holds the state, and nobody is there yet to take it
        (0, 1, 1, 1, 1, True),  # now there is
        (0, 2, 0, 1, 1, True),  # one of the two may go
        (0, 1, 0, 1, 0, True),  # nobody will ever come
        (3, 0, 0, 1, 3, False),
    ],
)
def test_a_world_is_called_together_only_for_a_reason(
    staying: int, draining: int, joiners: int, minimum: int, successors: int, needed: bool
) -> None:
    assert needed is change_needed(
        staying=staying, draining=draining, joiners=joiners, minimum=minimum, successors=successors
    )


# -------------------------------------------------------------------------------------------------------- life cycle


def test_the_ends_are_final_and_every_other_state_can_reach_them() -> None:
    assert set(TRANSITIONS) == set(JobState)
    assert set(STOP_REASONS) == TERMINAL_STATES
    for state, following in TRANSITIONS.items():
        assert (following == frozenset()) if state in TERMINAL_STATES else (following >= TERMINAL_STATES)


@given(
    st.builds(
        Facts,
        wanted=st.integers(0, 3),
        minimum=st.integers(1, 3),
        arrived=st.integers(0, 3),
        formed=st.booleans(),
        finishing=st.booleans(),
        broken=st.booleans(),
        short=st.integers(0, 1),
    )
)
def test_no_facts_alone_end_a_job_and_trouble_is_told_with_its_reason(facts: Facts) -> None:
    state, reason = state_of(facts)
    assert state not in TERMINAL_STATES
    if state is not JobState.RUNNING:
        assert reason
    if facts.formed and not facts.finishing:
        assert (state is JobState.RECOVERING) == bool(facts.broken or facts.short)


def test_the_others_have_a_grace_once_the_lowest_live_rank_has_finished_and_not_before() -> None:
    def due(finished: list[int], awaited: list[int]) -> float | None:
        return finish_due(finished_ranks=finished, awaited_ranks=awaited, mark=100.0, finish_seconds=5.0)

    assert due([0], [1, 2]) == 105.0
    assert due([1, 2], [0]) is None
    assert due([1], [2]) == 105.0  # rank 0 is lost
    assert due([0, 1, 2], []) == float("-inf")


# ---------------------------------------------------------------------------------------------------------- failures


def test_the_agents_exit_codes_mean_what_the_worker_contract_says() -> None:
    assert {code: verdict for code, (verdict, _) in EXITS.items()} == {
        0: Verdict.CRASHED,  # judged only when the worker has not said Finished
        2: Verdict.CRASHED,
        70: Verdict.SCRIPT_FAILED,
        71: Verdict.LEFT,
        72: Verdict.CRASHED,
        73: Verdict.CRASHED,
        74: Verdict.EXHAUSTED,
    }
    assert judge(-9) is judge(1) is judge(None) is Verdict.CRASHED
    assert describe_exit(-9) == "was ended by signal 9"
    assert describe_exit(3, "no space left") == "exited with code 3: no space left"
    assert describe_exit(None) == "is gone"
    assert describe_exit(None, "no such interpreter") == "could not be run: no such interpreter"


def test_the_first_restart_is_at_once_later_ones_back_off_and_the_budget_ends_them() -> None:
    policy = Policy()
    exits: tuple[float, ...] = ()
    delays: list[float] = []
    for _ in range(policy.restart_budget):
        again = retry(exits, 100.0, policy)
        exits = again.exits
        assert again.at is not None
        delays.append(again.at - 100.0)
    # 0.2 * 2**n from the second on, at most 10: the contract of the agents' own restarts.
    assert delays[:7] == pytest.approx([0.0, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0])
    assert retry(exits, 100.0, policy).at is None


@given(st.lists(st.floats(0.0, 700.0), max_size=60))
def test_only_exits_within_the_window_count(gaps: list[float]) -> None:
    policy = Policy()
    exits: tuple[float, ...] = ()
    now = 0.0
    history: list[float] = []
    for gap in gaps:
        now += gap
        history.append(now)
        again = retry(exits, now, policy)
        recent = [t for t in history if now - t < policy.restart_window_seconds]
        assert list(again.exits) == recent
        assert (again.at is None) == (len(recent) > policy.restart_budget)
        exits = again.exits


# ------------------------------------------------------------------------------------------------------------ record

names = st.text("abc", max_size=3)
steps = st.none() | st.integers(0, 9)
results = st.builds(
    Result,
    step=st.integers(0, 9),
    samples=st.integers(0, 9),
    weights_sha256=names,
    metrics=st.dictionaries(names, st.floats(allow_nan=False), max_size=2),
    weights_path=names,
)
finished = st.builds(
    FinishedWorker, worker=names, incarnation=names, rank=st.integers(0, 3), at=st.floats(0, 9), result=results
)
worlds = st.builds(
    World,
    generation=st.integers(1, 9),
    members=st.lists(st.builds(Member, worker=names, incarnation=names, address=names, step=steps), max_size=3).map(
        tuple
    ),
    step=st.integers(0, 9),
    cause=st.sampled_from(Cause),
)
slots = st.builds(
    SlotRecord,
    worker=st.integers(0, 9).map(lambda k: worker_id("job", k)),
    retiring=st.booleans(),
    given_up=st.booleans(),
    exits=st.lists(st.floats(0, 9), max_size=2).map(tuple),
    restarts=st.integers(0, 9),
    incarnation=names,
    fenced=st.lists(names, max_size=2).map(tuple),
    joined=st.booleans(),
    scaled=st.booleans(),
)
records = st.builds(
    JobRecord,
    job=names,
    minimum=st.integers(1, 3),
    maximum=st.integers(3, 5),
    wanted=st.integers(0, 5),
    state=st.sampled_from(JobState),
    reason=names,
    world=st.none() | worlds,
    slots=st.lists(slots, max_size=3).map(tuple),
    finished=st.lists(finished, max_size=3).map(tuple),
    error=st.none() | st.builds(JobError, exception=names, traceback=names, worker=names),
    recoveries=st.integers(0, 9),
    created_at=st.floats(0, 9),
    started_at=st.none() | st.floats(0, 9),
    finished_at=st.none() | st.floats(0, 9),
)


@given(records)
def test_a_record_comes_back_from_the_store_as_it_was(record: JobRecord) -> None:
    again = JobRecord.from_json(json.loads(json.dumps(record.to_json())))
    assert again == record
    assert type(again.state) is JobState


@given(records)
def test_a_record_of_a_newer_coordinator_can_be_read(record: JobRecord) -> None:
    def newer(thing: Any) -> Any:
        if isinstance(thing, list | tuple):
            return [newer(item) for item in thing]
        return {**{key: newer(value) for key, value in thing.items()}, "new": 1} if isinstance(thing, dict) else thing

    told = newer(record.to_json())
    for worker in told["finished"]:
        worker["result"]["metrics"].pop("new", None)
    assert JobRecord.from_json(told) == record


def test_the_result_is_the_lowest_ranks_completed_by_the_others() -> None:
    def said(rank: int, **more: object) -> FinishedWorker:
        result = Result(step=9, samples=90 + rank, weights_sha256="abc", **more)  # type: ignore[arg-type]
        return FinishedWorker(f"j-w{rank}", "i", rank, 1.0, result)

    record = JobRecord(
        "j",
        1,
        3,
        finished=(
            said(2, metrics={"accuracy": 0.5, "loss": 2.0}),
            said(1, metrics={"accuracy": 0.9}, weights_path="result/model.safetensors"),
        ),
    )
    assert record.result == Result(9, 91, "abc", {"accuracy": 0.9, "loss": 2.0}, "result/model.safetensors")
    assert JobRecord("j", 1, 3).result is None


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="at most the maximum, got 3:2"):
        JobRecord("j", 3, 2)


@given(st.text("ab-w1", min_size=1), st.integers(0, 99))
def test_a_worker_id_keeps_its_slot_number_whatever_the_jobs_name(job: str, index: int) -> None:
    assert worker_index(worker_id(job, index)) == index
