"""What the job machine does about agents that the substrate takes away, and about those that wait to be started."""

from __future__ import annotations

import pytest
from tests.unit.coordinator.party import Party

from cordee.coordinator.core import actions as act
from cordee.coordinator.core import events as ev
from cordee.coordinator.core.model import JobState, Outlook

EVICTED = "j-w1's pod was evicted, as when a node is drained"
NO_ROOM = "j-w1's pod waits for a node: 0/3 nodes are available"


def starting(size: int, minimum: int = 1, **policy: float) -> Party:
    """Agents were asked for; nobody has come."""
    party = Party(0, minimum=minimum, maximum=size, **policy)
    party.tell(ev.Scheduled(size))
    assert len(party.take(act.StartAgent)) == size
    return party


def takes(party: Party, k: int, code: int | None = None) -> None:
    """Its stream breaks, its agent is taken away."""
    if party.machine.workers()[k].pid:
        party.tell(ev.WorkerDetached(*party.who(k)))
    party.tell(ev.AgentExited(f"j-w{k}", code, EVICTED, taken=True))


def test_what_the_platform_takes_uses_no_restarts_and_is_replaced_at_once() -> None:
    party = Party(2, restart_budget=1)
    party.go(1.0, heard=(0, 1))
    for _ in range(5):
        party.take(act.StartAgent)
        takes(party, 1)
        assert [started.worker for started in party.take(act.StartAgent)] == ["j-w1"]
        party.life[1] = party.life.get(1, 0) + 1
        party.join(1)
        party.go(1.0, heard=(0,))
    assert party.events("taken") == [EVICTED] * 5
    assert not party.events("given_up")
    assert party.machine.record.slots[1].exits == ()


def test_where_every_agent_is_taken_before_it_works_they_are_not_started_as_fast_as_can_be() -> None:
    party = Party(2)
    starts = []
    for _ in range(6):
        takes(party, 1)
        begun = party.now
        while not party.take(act.StartAgent):
            party.go(0.25, heard=(0,))
        starts.append(party.now - begun)
    assert starts[0] == 0.0
    assert starts == sorted(starts)
    assert 0.0 < starts[-1] <= party.policy.restart_backoff_max_seconds


def test_a_script_that_raised_has_raised_though_its_pod_was_taken() -> None:
    party = Party(2)
    takes(party, 1, code=70)
    party.go(2.0, heard=(0,))
    assert party.state is JobState.FAILED


def test_a_worker_that_left_in_time_and_was_then_taken_is_nobodys_fault() -> None:
    party = Party(2)
    party.go(1.0, heard=(0, 1))
    takes(party, 1, code=71)
    assert party.events("taken") == [EVICTED]
    assert party.state is not JobState.FAILED


def test_whoever_waits_for_room_is_not_late_and_the_others_train_without_it() -> None:
    party = Party(2, maximum=3, starting_timeout_seconds=60.0)
    party.tell(ev.Scheduled(3))
    party.tell(ev.AgentNoted("j-w2", "unschedulable", NO_ROOM, Outlook.PASSING))
    party.take(act.StartAgent)
    party.go(600.0, heard=(0, 1))
    assert party.take(act.StopAgent) == []
    assert party.take(act.StartAgent) == []
    assert party.state is JobState.RUNNING
    assert party.machine.record.reason == f"trains with 2 of 3 workers; {NO_ROOM}"
    assert party.events("unschedulable") == [NO_ROOM]


def test_once_it_runs_it_can_be_late_again() -> None:
    party = starting(1, starting_timeout_seconds=60.0)
    party.tell(ev.AgentNoted("j-w0", "unschedulable", NO_ROOM, Outlook.PASSING))
    party.go(600.0)
    party.tell(ev.AgentNoted("j-w0", "running"))
    party.go(30.0)
    assert party.take(act.StopAgent) == []
    party.go(31.0)
    assert [stopped.worker for stopped in party.take(act.StopAgent)] == ["j-w0"]


def test_below_its_minimum_a_job_says_why_it_waits() -> None:
    party = starting(2, minimum=2)
    party.join(0)
    party.tell(ev.AgentNoted("j-w1", "quota", "j-w1's pod waits for quota", Outlook.PASSING))
    assert party.state is JobState.STARTING
    assert party.machine.record.reason == "1 of 2 workers are ready; j-w1's pod waits for quota"
    party.go(3600.0, heard=(0,))
    assert party.state is JobState.STARTING


def test_what_was_told_is_forgotten_when_it_runs() -> None:
    party = starting(2)
    party.tell(ev.AgentNoted("j-w1", "quota", "j-w1's pod waits for quota", Outlook.PASSING))
    party.tell(ev.AgentNoted("j-w1", "running"))
    assert party.machine.record.reason == "0 of 2 workers are ready"


@pytest.mark.parametrize(("outlook", "seconds"), [(Outlook.HOPELESS, 0.0), (Outlook.DOUBTFUL, 100.0)])
def test_a_job_of_which_no_worker_can_come_fails_with_the_sentence(outlook: Outlook, seconds: float) -> None:
    party = starting(2, doubt_seconds=100.0)
    words = "j-w0's pod cannot get its image cordee:nowhere"
    party.tell(ev.AgentNoted("j-w0", "image", words, outlook))
    if seconds:
        party.go(seconds - 1.0)
        assert party.state is JobState.STARTING
        party.go(1.5)
    assert party.state is JobState.FAILED
    assert party.machine.record.error is not None
    assert party.machine.record.error.exception == words


@pytest.mark.parametrize("outlook", [Outlook.HOPELESS, Outlook.DOUBTFUL])
def test_a_job_whose_workers_came_waits_for_the_one_that_cannot(outlook: Outlook) -> None:
    party = starting(2, doubt_seconds=100.0)
    party.join(0)
    party.tell(ev.AgentNoted("j-w1", "image", "j-w1's pod cannot get its image", outlook))
    party.go(1000.0, heard=(0,))
    assert party.state is JobState.RUNNING


def test_a_doubt_that_passed_is_no_doubt() -> None:
    party = starting(1, doubt_seconds=100.0)
    party.tell(ev.AgentNoted("j-w0", "image", "no image", Outlook.DOUBTFUL))
    party.go(60.0)
    party.tell(ev.AgentNoted("j-w0", "", "is being started", Outlook.PASSING))
    party.go(300.0)
    assert party.state is JobState.STARTING
    assert party.events("") == []


def test_a_cancelled_job_has_nothing_to_doubt() -> None:
    party = starting(1)
    party.tell(ev.CancelRequested())
    party.tell(ev.AgentNoted("j-w0", "image", "no image", Outlook.HOPELESS))
    assert party.state is JobState.CANCELLED
