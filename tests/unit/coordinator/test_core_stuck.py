"""What the job machine does about workers that hold their peers up, or that are slower than they."""

from __future__ import annotations

import pytest
from tests.unit.coordinator.party import POLICY, Party, computing, waiting

from cordee.coordinator.core import actions as act
from cordee.coordinator.core import events as ev
from cordee.coordinator.core.activity import Activity, Doing
from cordee.coordinator.core.model import (
    LossCause,
    StopReason,
    StragglerPolicy,
)


def stick(party: Party, seconds: float) -> None:
    """w2 computes, the others wait for it."""
    step = party.step + 1
    party.go(seconds, {0: waiting(step, 2), 1: waiting(step, 2), 2: computing(step)})


def test_a_stuck_worker_is_named_stopped_and_replaced_and_the_others_go_on_without_it() -> None:
    party = Party(3)
    party.go(5.0, heard=(0, 1, 2))
    stick(party, POLICY.stuck_seconds - 1.0)
    assert party.events("stuck") == []
    stick(party, POLICY.stuck_seconds + 1.5)
    [words] = party.events("stuck")
    assert f"j-w2 has been computing step {party.step + 1} for 30 s; w0 and w1 wait for it" in words
    assert [(a.worker, a.reason) for a in party.take(act.SendStop)] == [("j-w2", StopReason.STUCK)]
    assert {a.worker for a in party.take(act.SendAbort)} == {"j-w0", "j-w1"}
    for k in (0, 1):
        party.arrive(k, 2)
    assert party.ranks == [0, 1]
    assert [r.cause for r in party.take(act.RecordRecovery)] == [LossCause.STUCK]
    party.life[2] = 1
    party.join(2)
    assert not party.take(act.StopAgent)


def test_an_agent_that_does_not_end_a_stuck_worker_is_killed() -> None:
    party = Party(3)
    stick(party, POLICY.stuck_seconds + 1.5)
    party.go(POLICY.replacement_seconds + 1.0, {0: Activity(Doing.MEETING), 1: Activity(Doing.MEETING)})
    assert act.StopAgent("j-w2", 0.0) in party.told
    assert party.events("agent_killed") == ["j-w2's agent has not replaced a process that hangs, and is killed"]


def test_the_limit_doubles_at_the_same_step_also_over_a_restart_so_that_what_is_slow_gets_through() -> None:
    party = Party(3)
    for times, limit in enumerate((30.0, 60.0, 120.0)):
        stick(party, limit - 2.0)
        assert len(party.events("stuck")) == times
        stick(party, limit + 1.5)
        assert len(party.events("stuck")) == times + 1
        party.restart(0, 1, 2)
        for k in (0, 1):
            party.tell(ev.WorkerAttached(*party.who(k), f"host:{k}", party.machine.generation, None, 1, True))
            party.arrive(k, 2)
        party.life[2] = party.life.get(2, 0) + 1
        party.join(2)
        for k in (0, 1):
            party.arrive(k, lost=False)
        assert len(party.ranks) == 3


def test_an_evaluation_that_got_through_once_has_its_time_from_the_beginning() -> None:
    """w2 evaluates for 100 s, after some steps, again and again."""
    party = Party(3)
    for limit in (30.0, 60.0):
        stick(party, limit + 1.5)
        for k in (0, 1):
            party.arrive(k, 2)
        party.life[2] = party.life.get(2, 0) + 1
        party.join(2)
        for k in (0, 1):
            party.arrive(k, lost=False)
    assert (len(party.events("stuck")), len(party.ranks)) == (2, 3)
    for evaluation in range(3):
        stick(party, 100.0)
        party.go(5.0, heard=(0, 1, 2))
        if evaluation == 0:
            assert party.machine.record.longest_hold == pytest.approx(100.0, abs=2.0)
            party.restart(0, 1, 2)
            for k in range(3):
                party.tell(ev.WorkerAttached(*party.who(k), f"host:{k}", party.machine.generation, party.step, 1))
            party.go(5.0, heard=(0, 1, 2))
    assert len(party.events("stuck")) == 2
    stick(party, 160.0)  # half as long again is too long still
    assert len(party.events("stuck")) == 3


def test_a_hold_that_ended_with_its_world_is_no_measure() -> None:
    party = Party(3)
    stick(party, 29.0)
    party.die(2)
    for k in (0, 1):
        party.arrive(k, 2)
    party.go(5.0, heard=tuple(party.ranks))
    assert party.machine.record.longest_hold == 0.0


def test_what_stands_still_and_may_be_meant_is_said_once_and_left_alone() -> None:
    party = Party(2, minimum=2)
    party.go(5.0, heard=(0, 1))
    step = party.step + 1
    party.go(590.0, {k: computing(step) for k in range(2)})
    assert party.events("waiting") == []
    party.go(620.0, {k: computing(step) for k in range(2)})
    [words] = party.events("waiting")
    assert words.startswith(f"all 2 workers have been computing step {step} for 60")
    party.go(1.0, heard=(0, 1))
    party.go(620.0, {0: waiting(party.step + 1, 1), 1: Activity(Doing.OUTSIDE, party.step)})
    assert len(party.events("waiting")) == 2
    assert party.events("waiting")[1].startswith("j-w1 is outside of its run, and 1 of its peers have waited for it")
    party.tell(ev.WorkerDetached(*party.who(1)))
    party.arrive(0, 1)
    party.life[1] = 1
    party.tell(ev.WorkerAttached(*party.who(1), "host:1", pid=1))
    party.go(290.0, {0: Activity(Doing.MEETING), 1: Activity(Doing.PREPARING)})
    assert len(party.events("waiting")) == 2
    party.go(30.0, {0: Activity(Doing.MEETING), 1: Activity(Doing.PREPARING)})
    assert "j-w1 has prepared for 30" in party.events("waiting")[2]
    assert (party.events("stuck"), len(party.events("waiting"))) == ([], 3)
    assert not party.take(act.SendStop)


def test_a_joiner_that_nobody_waits_for_may_take_its_time_to_prepare() -> None:
    party = Party(2, maximum=3)
    party.tell(ev.Scheduled(3))
    party.tell(ev.WorkerAttached(*party.who(2), "host:2", pid=1))
    party.go(700.0, heard=(0, 1, 2))
    assert party.events("waiting") == []


def test_a_step_that_takes_minutes_is_no_fault() -> None:
    party = Party(3)
    for _ in range(3):
        party.go(100.0, {k: computing(party.step + 1) for k in range(3)})
        party.step += 1
    party.go(1.0, {k: computing(party.step + 1) for k in range(3)})
    stick(party, 500.0)  # ten times as long as usual is more than the limit
    assert party.events("stuck") == []
    stick(party, 1100.0)
    assert len(party.events("stuck")) == 1


def test_a_lone_worker_is_spoken_of_once_and_replaced_only_if_that_is_wanted() -> None:
    party = Party(1)
    party.go(20.0 * POLICY.stuck_seconds, {0: computing(1)})
    assert len(party.events("stuck")) == 1
    assert not party.take(act.SendStop)
    wanted = Party(1, stuck_alone=True)
    wanted.go(11.0 * POLICY.stuck_seconds, {0: computing(1)})
    assert [a.reason for a in wanted.take(act.SendStop)] == [StopReason.STUCK]


def test_without_a_limit_nobody_is_stuck() -> None:
    party = Party(3, stuck_seconds=0.0)
    stick(party, 4000.0)
    assert party.events("stuck") == []


def test_a_member_that_does_not_come_out_of_a_broken_world_is_stuck() -> None:
    party = Party(3)
    party.die(1)
    party.arrive(0, 1)
    meeting = Activity(Doing.MEETING)
    party.go(POLICY.stuck_seconds + 1.5, {0: meeting, 1: meeting, 2: waiting(1, 1)})
    assert [(a.worker, a.reason) for a in party.take(act.SendStop)] == [("j-w2", StopReason.STUCK)]
    assert party.ranks == [0, 1]


def pace(party: Party, seconds: float, **shards: float) -> None:
    paces = tuple((f"j-{worker}", took) for worker, took in shards.items())
    end = party.now + seconds
    while party.now < end:
        party.now += 0.25
        party.step += 5
        for k in range(3):
            party.tell(ev.WorkerHeard(*party.who(k), party.step, paces=paces if k == 0 else ()))
        party.tell(ev.Tick())


def test_a_straggler_is_told_of_and_seen_and_left_alone() -> None:
    party = Party(3)
    pace(party, 10.0, w0=0.01, w1=0.01, w2=0.05)
    [words] = party.events("straggler")
    assert words.startswith("j-w2 is slow: 0.05 s per shard, where the others take 0.01 s")
    assert [(view.shard_seconds, view.slow) for view in party.machine.workers()] == [
        (pytest.approx(0.01), False),
        (pytest.approx(0.01), False),
        (pytest.approx(0.05), True),
    ]
    assert not party.take(act.SendChangePending)
    pace(party, 40.0, w0=0.01, w1=0.01, w2=0.01)
    assert party.events("straggler") == [words], "that it is none any more is another kind: it is no trouble"
    [over] = party.events("caught_up")
    assert over.startswith("j-w2 keeps up again")


def test_a_straggler_is_replaced_where_that_is_wanted_and_loses_nothing() -> None:
    party = Party(3, stragglers=StragglerPolicy.REPLACE)
    pace(party, 10.0, w0=0.01, w1=0.01, w2=0.05)
    assert len(party.take(act.SendChangePending)) == 3
    for k in range(3):
        party.arrive(k, lost=False)
    assert party.ranks == [0, 1]
    assert [(a.worker, a.reason) for a in party.take(act.SendStop)] == [("j-w2", StopReason.DRAINED)]
    party.tell(ev.WorkerDetached(*party.who(2)))
    party.tell(ev.AgentExited("j-w2", 71))
    assert act.StartAgent("j-w2") in party.told
    party.life[2] = 1
    party.join(2)
    for k in range(2):
        party.arrive(k, lost=False)
    assert party.ranks == [0, 1, 2]
    pace(party, 10.0, w0=0.01, w1=0.01, w2=0.05)  # so it is the machine
    assert len(party.events("straggler")) == 2
    assert not [a for a in party.take(act.SendChangePending) if a.generation == party.machine.generation]


def test_a_straggler_is_kept_when_without_it_too_few_are_left() -> None:
    party = Party(3, minimum=3, stragglers=StragglerPolicy.REPLACE)
    pace(party, 10.0, w0=0.01, w1=0.01, w2=0.05)
    assert party.events("straggler")[1] == "j-w2 is kept: without it fewer than the minimum are left"
    assert not party.take(act.SendChangePending)


def test_stragglers_may_be_nobodys_business() -> None:
    party = Party(3, stragglers=StragglerPolicy.OFF)
    pace(party, 10.0, w0=0.01, w1=0.01, w2=0.05)
    assert party.events("straggler") == []
