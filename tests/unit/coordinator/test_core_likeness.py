"""What the job machine does about workers that compute differently from those that train."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.coordinator.party import Party

from cordee.coordinator.core import actions as act
from cordee.coordinator.core import events as ev
from cordee.coordinator.core.activity import Activity, Doing
from cordee.coordinator.core.model import ArrivalReason, JobState, StopReason

OLD = ("NumPy 2.4", "OpenBLAS Zen", "1 thread")
NEW = ("NumPy 2.4", "OpenBLAS SkylakeX", "1 thread")
OTHER = ("NumPy 2.4", "OpenBLAS Haswell", "1 thread")


def come(party: Party, k: int, kind: tuple[str, ...]) -> None:
    party.kinds[k] = kind
    party.join(k)


def job(size: int, minimum: int = 1, **policy: float) -> Party:
    """A job whose workers are still to come."""
    party = Party(0, minimum=minimum, maximum=size, **policy)
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


def test_who_does_not_say_is_of_an_older_cordee_and_stays_out_of_those_that_do() -> None:
    party = trained(OLD, slots=2)
    come(party, 1, ())
    party.go(1.0, heard=(0, 1))
    assert party.ranks == [0]
    (told,) = party.events("kept_out")
    assert told.startswith(
        "j-w1 computes with an older Cordee, which does not say with what, the others with NumPy 2.4"
    )


def test_who_says_stays_out_of_those_that_do_not_and_these_train_on() -> None:
    party = trained((), slots=2)
    come(party, 1, OLD)
    party.go(3.0, heard=(0, 1))
    assert party.ranks == [0]
    (told,) = party.events("kept_out")
    assert told.startswith("j-w1 computes with NumPy 2.4; OpenBLAS Zen; 1 thread, the others with an older Cordee")


# -- too few are left --------------------------------------------------------------------------------------------------


def stand(party: Party, seconds: float, *workers: int) -> None:
    """These wait in the rendezvous, for so long."""
    party.go(seconds, {k: Activity(Doing.MEETING, party.step + 1) for k in workers})


def outnumbered(*kinds: tuple[str, ...], minimum: int = 2, step: int = 50) -> Party:
    """Of a job that trained with OLD the first is left, at this step; in the other slots processes of these kinds have
    come."""
    party = job(1 + len(kinds), minimum=minimum)
    for k in range(1 + len(kinds)):
        come(party, k, OLD)
    party.go(step / 20, heard=tuple(range(1 + len(kinds))))
    assert (len(party.ranks), party.step) == (1 + len(kinds), step)
    for k in range(1, 1 + len(kinds)):
        party.tell(ev.WorkerDetached(*party.who(k)))
        party.life[k] = 1
    party.arrive(0)
    for k, kind in enumerate(kinds, 1):
        come(party, k, kind)
    return party


def test_who_is_left_begins_anew_with_those_that_are_enough_once_its_state_is_saved() -> None:
    party = outnumbered(NEW, NEW)
    first = party.machine.generation
    stand(party, 5.0, 0, 1, 2)
    assert party.machine.generation == first
    assert not party.take(act.SendStop), "what it holds is nowhere else"
    (told,) = party.events("outnumbered")
    assert told == (
        "too few are left that compute with OpenBLAS Zen, and 2 workers are there that compute with OpenBLAS SkylakeX: "
        "they go on once step 50 is saved"
    )
    party.tell(ev.WorkerCheckpointed(*party.who(0), 50))
    assert [(stop.worker, stop.reason) for stop in party.take(act.SendStop)] == [("j-w0", StopReason.FENCED)]
    party.tell(ev.WorkerDetached(*party.who(0)))
    party.life[0] = 1
    come(party, 0, OLD)
    assert party.machine.generation == first + 1
    assert party.ranks == [1, 2]
    assert party.world.members[0].step is None, "they restore what was saved"
    assert party.machine.record.computes_with == NEW
    (told,) = party.events("computes")
    assert told == (
        "the job begins anew with OpenBLAS SkylakeX, no more with OpenBLAS Zen, from step 50: its bits may differ from "
        "those of an undisturbed run"
    )
    party.go(2.0, heard=(1, 2))
    assert party.state is JobState.RUNNING
    assert [view.state for view in party.machine.workers()] == ["kept out", "training", "training"]


def test_those_are_waited_for_that_may_come_and_compute_alike() -> None:
    party = outnumbered(NEW, NEW, NEW)
    party.tell(ev.WorkerCheckpointed(*party.who(0), 50))
    assert party.take(act.SendStop)  # all are there: nobody else comes

    party = outnumbered(NEW, NEW)
    party.tell(ev.ScaleRequested(2, 4))
    party.tell(ev.Scheduled(4))  # the fourth is still to come
    party.tell(ev.WorkerCheckpointed(*party.who(0), 50))
    stand(party, 10.0, 0, 1, 2)
    come(party, 3, OLD)
    assert party.ranks == [0, 3]
    assert not party.events("computes")


def test_who_may_come_and_does_not_is_not_waited_for_for_ever() -> None:
    party = outnumbered(NEW, NEW)
    party.tell(ev.ScaleRequested(2, 4))
    party.tell(ev.Scheduled(4))
    party.tell(ev.WorkerCheckpointed(*party.who(0), 50))
    stand(party, party.policy.absence_timeout_seconds - 1, 0, 1, 2)
    assert not party.events("computes")
    stand(party, 3.0, 0, 1, 2)
    assert party.ranks == [1, 2]


def test_too_few_of_either_kind_wait_for_more_and_lose_nothing() -> None:
    party = outnumbered(NEW)
    party.tell(ev.WorkerCheckpointed(*party.who(0), 50))
    stand(party, 100.0, 0, 1)
    assert not party.take(act.SendStop)
    reason = party.machine.record.reason
    assert reason.startswith(
        "waiting: 1 of the at least 2 workers are ready; j-w1 computes with OpenBLAS SkylakeX, the"
    )
    party.tell(ev.ScaleRequested(1, 2))  # then it is enough
    assert party.ranks == [0]


@pytest.mark.parametrize("saves", [True, False])
def test_who_is_left_and_asked_to_go_is_waited_for_until_it_has_saved_or_is_gone(saves: bool) -> None:
    party = outnumbered(NEW, NEW)
    party.tell(ev.WorkerLeaving(*party.who(0), "SIGTERM"))
    assert [(stop.worker, stop.reason) for stop in party.take(act.SendStop)] == [("j-w0", StopReason.DRAINED)]
    stand(party, 5.0, 1, 2)
    assert party.machine.generation == 1, "they would begin from an older checkpoint"
    if saves:
        party.tell(ev.WorkerCheckpointed(*party.who(0), 50))
    else:
        party.tell(ev.WorkerDetached(*party.who(0)))
        party.life[0] = 1
        come(party, 0, OLD)
    stand(party, 1.0, 1, 2)
    assert party.ranks == [1, 2]


def test_who_is_left_of_a_world_that_broke_before_it_had_a_state_makes_nobody_wait() -> None:
    party = job(3, minimum=2)
    for k in range(3):
        come(party, k, OLD)
    for k in (1, 2):  # while they restore
        party.tell(ev.WorkerDetached(*party.who(k)))
        party.life[k] = 1
    party.tell(ev.WorkerArrived(*party.who(0), 1, None, ArrivalReason.PEER_LOST, ("j-w1",), computes_with=OLD))
    for k in (1, 2):
        come(party, k, NEW)
    stand(party, 5.0, 0, 1, 2)
    assert [(stop.worker, stop.reason) for stop in party.take(act.SendStop)] == [("j-w0", StopReason.FENCED)]
    assert party.ranks == [1, 2]
    assert party.events("outnumbered")[0].endswith("compute with OpenBLAS SkylakeX: they go on")


def test_workers_of_a_newer_cordee_take_over_from_those_that_do_not_say() -> None:
    party = job(3, minimum=2)
    for k in range(3):
        come(party, k, ())
    party.go(1.0, heard=(0, 1, 2))
    for k in (1, 2):  # their pods are made anew, of a newer image
        party.tell(ev.WorkerDetached(*party.who(k)))
        party.life[k] = 1
        come(party, k, NEW)
    party.arrive(0)
    party.tell(ev.WorkerCheckpointed(*party.who(0), party.step))
    stand(party, 3.0, 1, 2)
    assert party.ranks == [1, 2]


@settings(max_examples=150, deadline=None)
@given(
    before=st.integers(1, 4),
    left=st.integers(1, 3),
    coming=st.lists(st.sampled_from([OLD, NEW, OTHER]), max_size=4),
    minimum=st.integers(1, 4),
    saves=st.booleans(),
)
def test_a_world_is_alike_and_there_is_one_where_there_can_be(
    before: int, left: int, coming: list[tuple[str, ...]], minimum: int, saves: bool
) -> None:
    before = max(before, minimum)
    left, coming = min(left, before), coming[: before - min(left, before)]
    party = job(before, minimum=minimum, absence_timeout_seconds=3.0)
    for k in range(before):
        come(party, k, OLD)
    party.go(0.5, heard=tuple(range(before)))
    for k in range(left, before):
        party.tell(ev.WorkerDetached(*party.who(k)))
        party.life[k] = 1
    for k in range(left):
        party.arrive(k)
    for k, kind in enumerate(coming, left):
        come(party, k, kind)
    there = dict.fromkeys(range(left), OLD) | dict(enumerate(coming, left))

    def go_on(quarters: int) -> None:
        for _ in range(quarters):
            stand(party, 0.25, *there)
            for stop in party.take(act.SendStop):  # its agent starts another process
                k = int(stop.worker[3:])
                assert (stop.reason, there[k]) == (StopReason.FENCED, OLD)
                assert saves, "what is held is saved before it is given up"
                assert counts[OLD] < minimum
                party.tell(ev.WorkerDetached(*party.who(k)))
                party.life[k] = party.life.get(k, 0) + 1
                come(party, k, there[k])

    counts = Counter(there.values())
    go_on(4)
    if saves:
        for k in range(left):
            party.tell(ev.WorkerCheckpointed(*party.who(k), party.step))
    go_on(24)
    members = {int(member.worker[3:]): member.step for member in party.world.members}
    if counts[OLD] >= minimum:
        assert {k for k, kind in there.items() if kind == OLD and k < left} <= set(members) <= set(there)
        assert {there[k] for k in members} == {OLD}
        assert members[0] == party.step, "who has trained goes on"
    elif saves and max(counts.values()) >= minimum:
        (kind,) = {there[k] for k in members}
        assert len(members) == counts[kind] >= minimum
        assert set(members.values()) == {None}
    else:
        assert party.machine.generation == 1, "nobody trains"
        assert party.state is JobState.RECOVERING
