"""What the job machine does about workers that compute differently from those that train."""

from __future__ import annotations

from tests.unit.coordinator.party import Party

from cordee.coordinator.core import actions as act
from cordee.coordinator.core import events as ev
from cordee.coordinator.core.model import ArrivalReason, JobState

OLD = ("NumPy 2.4", "OpenBLAS Zen", "1 thread")
NEW = ("NumPy 2.4", "OpenBLAS SkylakeX", "1 thread")


def come(party: Party, k: int, kind: tuple[str, ...]) -> None:
    party.tell(ev.WorkerAttached(*party.who(k), f"host:{k}", pid=1))
    party.tell(ev.WorkerArrived(*party.who(k), 0, None, ArrivalReason.JOIN, computes_with=kind))


def job(size: int, minimum: int = 1) -> Party:
    """A job whose workers are still to come."""
    party = Party(0, minimum=minimum, maximum=size)
    party.tell(ev.Scheduled(size))
    return party


def trained(kind: tuple[str, ...], *, slots: int) -> Party:
    """A job for so many workers, in which the first trains alone."""
    party = job(slots)
    come(party, 0, kind)
    party.go(5.0, heard=(0,))
    assert party.ranks == [0]
    return party


def test_who_computes_differently_stays_out_of_a_world_that_trains_and_costs_it_nothing() -> None:
    party = trained(OLD, slots=2)
    come(party, 1, NEW)
    party.go(3.0, heard=(0, 1))
    assert party.ranks == [0]
    assert not party.take(act.SendChangePending), "nobody is stopped for it"
    assert party.events("kept_out") == [
        "j-w1 computes with OpenBLAS SkylakeX, the others with OpenBLAS Zen: it stays out, for it would give other bits"
    ]
    assert [view.state for view in party.machine.workers()] == ["training", "kept out"]
    assert party.state is JobState.RUNNING


def test_the_next_process_of_it_that_computes_alike_is_let_in() -> None:
    party = trained(OLD, slots=2)
    come(party, 1, NEW)
    party.tell(ev.WorkerDetached(*party.who(1)))
    party.life[1] = 1
    come(party, 1, OLD)
    party.go(1.0, heard=(0,))
    party.arrive(0, lost=False)
    assert party.ranks == [0, 1]


def test_a_job_begins_with_what_most_of_its_workers_compute_with() -> None:
    party = job(3)
    for k, kind in enumerate((NEW, OLD, OLD)):
        come(party, k, kind)
    party.go(1.5)
    assert party.ranks == [1, 2]
    assert party.machine.record.computes_with == OLD


def test_too_few_that_compute_alike_form_no_world_and_the_status_says_why() -> None:
    party = job(2, minimum=2)
    come(party, 0, OLD)
    come(party, 1, NEW)
    party.go(1.5)
    assert party.machine.record.world is None
    assert party.machine.record.reason == (
        "1 of 2 workers are ready; j-w1 computes with OpenBLAS SkylakeX, the others with OpenBLAS Zen"
    )


def test_where_all_are_lost_those_that_compute_alike_are_waited_for_before_the_job_goes_on_with_others() -> None:
    party = trained(OLD, slots=2)
    come(party, 1, NEW)
    party.tell(ev.WorkerDetached(*party.who(0)))
    party.go(10.0, heard=(1,))
    assert party.ranks == [0]
    party.go(30.0, heard=(1,))
    assert party.ranks == [1]
    (told,) = party.events("computes")
    assert told.startswith("the job goes on with OpenBLAS SkylakeX, no more with OpenBLAS Zen: its bits may differ")
    assert party.machine.record.computes_with == NEW


def test_where_all_are_lost_one_that_comes_again_goes_on_with_what_it_was() -> None:
    party = trained(OLD, slots=2)
    come(party, 1, NEW)
    party.tell(ev.WorkerDetached(*party.who(0)))
    party.life[0] = 1
    party.go(5.0, heard=(1,))
    come(party, 0, OLD)
    party.go(2.0, heard=(1,))
    assert party.ranks == [0]
    assert not party.events("computes")


def test_where_too_few_come_again_that_compute_alike_the_job_goes_on_with_what_most_compute_with() -> None:
    party = job(3, minimum=2)
    for k in (0, 1):
        come(party, k, OLD)
    party.go(5.0, heard=(0, 1))
    assert party.ranks == [0, 1]
    for k in (0, 1):
        party.tell(ev.WorkerDetached(*party.who(k)))
        party.life[k] = 1
    come(party, 2, NEW)
    come(party, 0, OLD)
    party.go(10.0, heard=(0, 2))
    assert party.ranks == [0, 1]
    come(party, 1, NEW)
    party.go(2.0, heard=(0, 1, 2))
    assert party.ranks == [1, 2]
    assert len(party.events("computes")) == 1
    assert [view.state for view in party.machine.workers()] == ["kept out", "training", "training"]


def test_the_last_that_is_asked_to_leave_is_not_kept_for_one_that_cannot_take_its_state() -> None:
    party = trained(OLD, slots=2)
    come(party, 1, NEW)
    party.tell(ev.WorkerLeaving(*party.who(0)))
    assert {action.worker for action in party.take(act.SendChangePending)} == {"j-w0"}
    party.arrive(0, lost=False)
    assert "j-w0" in {action.worker for action in party.take(act.SendStop)}


def test_what_they_compute_with_outlives_the_coordinator() -> None:
    party = trained(OLD, slots=2)
    party.restart(0, 1)
    assert party.machine.record.computes_with == OLD
    world = party.machine.generation
    party.tell(ev.WorkerAttached(*party.who(0), "host:0", world, 5, pid=1))
    come(party, 1, NEW)
    party.go(2.0, heard=(0,))
    assert party.ranks == [0]
    assert party.events("kept_out")


def test_who_does_not_say_is_let_in() -> None:
    party = trained(OLD, slots=2)
    come(party, 1, ())
    party.go(1.0, heard=(0,))
    party.arrive(0, lost=False)
    assert party.ranks == [0, 1]
