"""What the job machine does about workers that are silent while the world goes on, and about its own sleep."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.coordinator.party import POLICY, Party, computing, waiting

from cordee.coordinator.core import actions as act
from cordee.coordinator.core import events as ev
from cordee.coordinator.core.activity import Activity, Doing
from cordee.coordinator.core.model import (
    JobState,
    PostMortem,
)
from cordee.coordinator.service.policy import job_policy
from cordee.coordinator.spec import FailurePolicy


def test_a_worker_cut_off_from_the_coordinator_alone_goes_on_training() -> None:
    party = Party(3)
    party.tell(ev.WorkerDetached(*party.who(1)))
    party.go(60.0, heard=(0, 2))
    assert (party.state, party.world.generation, party.events("lost")) == (JobState.RUNNING, 1, [])
    party.tell(ev.WorkerAttached(*party.who(1), "host:1", 1, party.step, 1))
    assert not party.take(act.SendStop)
    assert [view.rank for view in party.machine.workers()] == [0, 1, 2]


def test_one_that_is_silent_on_a_stream_that_stands_goes_on_as_well() -> None:
    party = Party(2)
    party.go(60.0, heard=(0,))
    assert (party.state, party.events("silent")) == (JobState.RUNNING, [])


def test_at_the_next_world_it_is_waited_for_and_then_lost() -> None:
    party = Party(3)
    party.tell(ev.WorkerDetached(*party.who(1)))
    party.go(20.0, heard=(0, 2))
    party.tell(ev.WorkerLeaving(*party.who(2)))  # a reason to meet
    for k in (0, 2):
        party.arrive(k, lost=False)
    assert party.world.generation == 1  # it takes part, and stands at this boundary as well: it may come back
    party.go(POLICY.heartbeat_timeout_seconds + 0.5, {0: Activity(Doing.MEETING), 2: Activity(Doing.MEETING)})
    assert party.ranks == [0]
    assert party.events("lost") == ["j-w1 is lost (disconnected)"]


def test_a_killed_worker_is_not_waited_for_though_words_from_before_its_death_come_in_late() -> None:
    party = Party(3)
    party.go(2.0, heard=(0, 1, 2))
    party.tell(ev.WorkerDetached(*party.who(1)))
    party.step += 40
    party.tell(ev.WorkerHeard(*party.who(0), party.step))  # sent before
    for k in (0, 2):
        party.arrive(k, 1)
    assert party.ranks == [0, 2]


def test_who_went_on_without_a_stream_is_not_waited_for_once_its_peers_lose_it() -> None:
    party = Party(3)
    party.tell(ev.WorkerDetached(*party.who(1)))
    party.go(20.0, heard=(0, 2))
    for k in (0, 2):
        party.arrive(k, 1)
    assert party.ranks == [0, 2]


def test_silence_counts_as_soon_as_the_world_stands_still() -> None:
    party = Party(2)
    party.go(10.0, heard=(0,))
    party.go(POLICY.heartbeat_timeout_seconds + 0.5, {0: waiting(party.step + 1, 1)})
    assert [a.worker for a in party.take(act.SendAbort)] == ["j-w0"]
    assert len(party.events("silent")) == 1


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("breaks", [True, False])
def test_a_network_that_is_down_for_a_while_is_nobodys_death(size: int, breaks: bool) -> None:
    """The streams of all break, or carry nothing: they train on, as they do without a coordinator."""
    party = Party(size)
    party.go(2.0, heard=tuple(range(size)))
    if breaks:
        for k in range(size):
            party.tell(ev.WorkerDetached(*party.who(k)))
    party.go(POLICY.reattach_seconds - 2.0)
    party.step += 100
    if breaks:
        for k in range(size):
            party.tell(ev.WorkerAttached(*party.who(k), f"host:{k}", 1, party.step, 1))
    party.go(5.0, heard=tuple(range(size)))
    assert (party.state, party.world.generation) == (JobState.RUNNING, 1)
    assert not party.take(act.SendStop)


def test_joiners_alone_do_not_take_the_place_of_a_world_that_is_not_heard() -> None:
    party = Party(2, maximum=3)
    party.go(2.0, heard=(0, 1))
    party.tell(ev.Scheduled(3))
    party.join(2)
    for k in (0, 1):
        party.tell(ev.WorkerDetached(*party.who(k)))
    party.go(POLICY.heartbeat_timeout_seconds - 1.0, {2: Activity(Doing.MEETING)})
    for k in (0, 1):
        party.tell(ev.WorkerAttached(*party.who(k), f"host:{k}", 1, party.step, 1))
    for k in (0, 1):
        party.arrive(k, lost=False)
    assert (party.ranks, party.world.step) == ([0, 1, 2], party.step)
    for k in range(3):
        party.tell(ev.WorkerDetached(*party.who(k)))
    party.life[2] = 1
    party.join(2)
    party.go(POLICY.heartbeat_timeout_seconds + 2.0, {2: Activity(Doing.MEETING)})
    assert party.ranks == [2]  # but they do not wait for ever


def silent_for(party: Party, k: int, others: dict[int, Activity]) -> float:
    """For how long this worker may give no sign of life until it is lost."""
    begun = party.now
    while not party.take(act.SendStop):
        party.go(0.25, others)
        assert party.now - begun < 300.0
    party.tell(ev.WorkerDetached(*party.who(k)))
    return party.now - begun


def test_silence_at_the_same_step_is_met_with_more_patience_each_time_also_over_a_restart() -> None:
    """A native call that holds the interpreter's lock, and that no agent sees: it is killed with its machine."""
    party = Party(2)
    party.go(5.0, heard=(0, 1))
    seconds: list[float] = []
    for k in range(5):
        seconds.append(silent_for(party, 1, {0: waiting(party.step + 1, 1)}))
        party.life[1] = party.life.get(1, 0) + 1
        party.join(1)
        party.arrive(0, 1)
        assert party.ranks == [0, 1], k
        if k == 2:
            party.restart(0, 1)
            for worker in (0, 1):
                hello = ev.WorkerAttached(*party.who(worker), f"host:{worker}", party.world.generation, party.step)
                party.tell(hello)
    assert seconds == pytest.approx([3.0, 7.0, 13.0, 25.0, 25.0], abs=1.5)
    party.go(20.0, heard=(0, 1))
    assert silent_for(party, 1, {0: waiting(party.step + 1, 1)}) == pytest.approx(3.0, abs=1.5), "further: as usual"


def test_the_silence_of_all_at_once_is_one_time() -> None:
    party = Party(8)
    party.go(5.0, heard=tuple(range(8)))
    party.go(10.0 + 3.5)
    assert len(party.events("silent")) == 8
    assert party.machine.record.silenced == (party.step, 1)


@pytest.mark.parametrize(("told", "factor"), [(0, 1), (1, 1), (2, 2), (8, 8), (1 << 30, 8)])
def test_who_is_let_be_silent_by_its_agent_is_by_the_job_until_it_gets_further(told: int, factor: int) -> None:
    party = Party(2)
    party.go(5.0, heard=(0, 1))
    party.die(1, silent=True, patience=told, words="gave no sign of life for 3 s and was killed")
    party.arrive(0, 1)
    agents = POLICY.heartbeat_timeout_seconds * factor + 0.5  # when its agent has killed it
    party.go(agents - 1.0, {0: waiting(party.step + 1, 1)})
    assert not party.events("silent")
    party.go(3.0, {0: waiting(party.step + 1, 1)})
    assert party.events("silent")


def test_patience_that_was_told_ends_with_the_steps_that_follow() -> None:
    party = Party(2)
    party.go(5.0, heard=(0, 1))
    party.die(1, silent=True, patience=8, words="gave no sign of life for 12 s and was killed")
    party.arrive(0, 1)
    party.go(5.0, heard=(0, 1))
    # Its stream breaks, and it says again what it said of its predecessor.
    party.tell(ev.WorkerDetached(*party.who(1)))
    last = PostMortem("1.0", -9, "gave no sign of life for 12 s and was killed", silent=True, patience=8)
    hello = ev.WorkerAttached(*party.who(1), "host:1", party.world.generation, party.step, previous=last)
    party.tell(hello)
    assert silent_for(party, 1, {0: waiting(party.step + 1, 1)}) == pytest.approx(3.0, abs=1.5)


def paused(seconds: float, doing: dict[int, Activity]) -> Party:
    """All of a machine stands still for a while (a container is paused), and goes on; clocks have gone on."""
    party = Party(len(doing))
    party.go(5.0, heard=tuple(doing))
    party.now += seconds
    party.tell(ev.Tick())
    for k, activity in doing.items():
        idle = seconds if activity.doing is Doing.EXCHANGING else 0.0
        told = replace(activity, step=party.step + 1, seconds=seconds + 0.1, idle_seconds=idle)
        party.tell(ev.WorkerHeard(*party.who(k), party.step, told))
    party.now += 0.3
    party.tell(ev.Tick())
    return party


def test_a_machine_that_stood_still_has_no_stuck_worker_and_no_cut_link() -> None:
    party = paused(60.0, {0: waiting(0, 1), 1: computing(0)})
    assert party.events("stuck") == []
    # It is one if it goes on like this.
    party.go(31.0, {0: waiting(party.step + 1, 1), 1: computing(party.step + 1)})
    assert len(party.events("stuck")) == 1
    party = paused(60.0, {0: waiting(0, 1), 1: waiting(0, 0)})
    assert (party.take(act.SendAbort), party.state) == ([], JobState.RUNNING)
    party.go(2.0, {0: waiting(party.step + 1, 1), 1: waiting(party.step + 1, 0)})
    assert len(party.take(act.SendAbort)) == 2


def test_the_time_below_the_minimum_is_that_of_a_coordinator_that_runs() -> None:
    party = Party(2, minimum=2, minimum_timeout_seconds=300.0)
    party.go(5.0, heard=(0, 1))
    party.die(1)
    party.tell(ev.WorkerDetached(*party.who(1)))
    party.arrive(0, 1)
    party.go(10.0, {0: Activity(Doing.MEETING)})
    party.now += 3600.0
    party.tell(ev.Tick())
    assert party.state is JobState.RECOVERING
    party.go(301.0, {0: Activity(Doing.MEETING)})
    assert party.state is JobState.FAILED


@pytest.mark.parametrize("timeout", [0.5, 1.0, 3.0])
def test_no_time_out_is_so_short_that_a_moments_pause_of_the_coordinator_loses_everybody(timeout: float) -> None:
    policy = job_policy(POLICY, FailurePolicy(heartbeat_timeout_seconds=timeout))
    for pause in (0.5 * timeout, timeout, 1.6 * timeout):
        party = Party(3, heartbeat_timeout_seconds=timeout, tick_seconds=policy.tick_seconds)
        for _ in range(20):
            party.now += policy.heartbeat_seconds
            for k in range(3):
                party.tell(ev.WorkerHeard(*party.who(k)))
            party.tell(ev.Tick())
        party.now += pause + policy.heartbeat_seconds
        party.tell(ev.WorkerHeard(*party.who(0)))
        party.tell(ev.Tick())  # before the rest of what has come in meanwhile is read
        assert party.events("lost") == []
