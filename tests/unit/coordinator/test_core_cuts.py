"""What the job machine does about cut links, and about who stays out because of them.

The decisions alone are in `test_core_watch`."""

from __future__ import annotations

import pytest
from tests.unit.coordinator.party import POLICY, Party, waiting

from cordee.coordinator.core import actions as act
from cordee.coordinator.core import events as ev
from cordee.coordinator.core.activity import Activity, Doing
from cordee.coordinator.core.model import (
    ArrivalReason,
    Cause,
    JobState,
    LossCause,
    StopReason,
)


def cut_in_an_exchange(party: Party, a: int, b: int) -> None:
    step = party.step + 1
    others = {k: waiting(step, a, b) for k in party.ranks if k not in (a, b)}
    party.go(1.0, {**others, a: waiting(step, b), b: waiting(step, a)})


def isolate(size: int, a: int, b: int) -> Party:
    """A world in which the link of a and b is cut; b stays out."""
    party = Party(size)
    party.go(5.0, heard=tuple(range(size)))
    cut_in_an_exchange(party, a, b)
    for k in range(size):
        party.arrive(k)
    assert party.ranks == [k for k in range(size) if k != b]
    return party


def go_on(party: Party, seconds: float, k: int) -> None:
    """Time passes, and k stays out."""
    while seconds > 0.0:
        party.go(0.25, heard=tuple(party.ranks))
        party.tell(ev.WorkerHeard(*party.who(k)))
        seconds -= 0.25


def answer(party: Party, k: int, *reached: int) -> None:
    party.tell(ev.WorkerReached(*party.who(k), tuple(party.who(r)[1] for r in reached)))


def probed(party: Party) -> list[list[tuple[str, str, str]]]:
    return [[(m.worker, m.incarnation, m.address) for m in probe.peers] for probe in party.take(act.SendProbe)]


def test_a_cut_link_costs_a_second_and_one_worker_which_comes_back_when_it_is_whole() -> None:
    party = Party(4)
    party.go(5.0, heard=(0, 1, 2, 3))
    cut_in_an_exchange(party, 1, 3)
    assert {a.worker for a in party.take(act.SendAbort)} == {f"j-w{k}" for k in range(4)}
    for k in range(4):
        party.arrive(k)
    assert party.ranks == [0, 1, 2]
    assert [r.cause for r in party.take(act.RecordRecovery)] == [LossCause.LINK]
    [words] = party.events("isolated")
    assert "w1 and w3 cannot reach each other (no byte between them for" in words
    assert words.endswith("w3 stays out until they do again")
    assert not party.take(act.SendStop)  # it is told nothing
    assert party.machine.workers()[3].state == "isolated"
    party.take(act.SendChangePending)
    assert probed(party) == []
    for _ in range(10):  # ten seconds; the world goes on
        go_on(party, 1.0, 3)
        assert probed(party) == [[("j-w1", "1.0", "host:1")]] * 2
        answer(party, 3)
        assert not party.take(act.SendChangePending)
    assert (party.world.generation, party.events("link")) == (2, [])
    answer(party, 3, 1)
    assert {a.worker for a in party.take(act.SendChangePending)} == {"j-w0", "j-w1", "j-w2"}
    assert party.events("link") == ["j-w3 comes back after 10.0 s"]
    for k in range(3):
        party.arrive(k, lost=False)
    assert party.ranks == [0, 1, 2, 3]
    assert (party.world.generation, party.world.cause, party.events("lost")) == (3, Cause.JOIN, [])
    assert party.world.members[3].incarnation == "3.0"  # the same process, which takes the state it lacks


def test_who_is_cut_off_from_several_comes_back_when_it_reaches_all_of_them_at_once() -> None:
    party = Party(4)
    step = party.step + 1
    party.go(1.0, {0: waiting(step, 1, 2, 3), **{k: waiting(step, 0) for k in (1, 2, 3)}})
    for k in range(4):
        party.arrive(k)
    go_on(party, 0.5, 0)
    assert [[worker for worker, _, _ in peers] for peers in probed(party)] == [["j-w1", "j-w2", "j-w3"]]
    for reached in ((1, 2), (3,), (2, 3)):
        answer(party, 0, *reached)
        assert not party.take(act.SendChangePending)
    answer(party, 0, 1, 2, 3)
    assert len(party.take(act.SendChangePending)) == 3


def test_a_peer_that_was_replaced_is_probed_anew_and_an_answer_of_the_last_one_does_not_count() -> None:
    party = isolate(3, 1, 2)
    go_on(party, 0.5, 2)
    party.take(act.SendProbe)
    party.life[1] = 1
    party.join(1)
    party.arrive(0, 1)
    assert party.ranks == [0, 1]  # the one that stays out is not in it
    party.tell(ev.WorkerReached(*party.who(2), ("1.0",)))
    assert party.machine.workers()[2].state == "isolated"
    go_on(party, 0.5, 2)
    assert probed(party) == [[("j-w1", "1.1", "host:1")]]
    answer(party, 2, 1)
    assert len(party.take(act.SendChangePending)) == 2


def test_who_was_cut_off_from_the_dead_is_in_the_next_world_at_once() -> None:
    party = isolate(3, 0, 2)
    party.tell(ev.WorkerDetached(*party.who(0)))
    assert party.machine.workers()[2].state == "isolated"  # its stream alone is broken perhaps
    go_on(party, 0.5, 2)
    assert [[worker for worker, _, _ in peers] for peers in probed(party)] == [["j-w0"]]
    party.tell(ev.AgentExited("j-w0", -9))
    assert party.events("link") == ["j-w2 comes back after 0.5 s, for those it did not reach are gone"]
    party.arrive(1, 0)
    assert party.ranks == [1, 2]


def test_who_stays_out_and_has_no_stream_is_asked_when_it_has_one_again() -> None:
    party = isolate(3, 0, 2)
    party.tell(ev.WorkerDetached(*party.who(2)))
    party.go(100.0, heard=(0, 1))
    assert probed(party) == []
    party.tell(ev.WorkerAttached(*party.who(2), "host:2", 1, 50, 1, True))
    party.tell(ev.WorkerArrived(*party.who(2), 1, 50, ArrivalReason.PEER_LOST))
    assert len(probed(party)) == 1
    assert not party.take(act.SendChangePending)
    answer(party, 2, 0)
    assert len(party.take(act.SendChangePending)) == 2


def test_the_end_of_who_stays_out_ends_the_probes_and_its_replacement_is_let_in() -> None:
    party = isolate(3, 0, 2)
    go_on(party, 0.5, 2)
    party.take(act.SendProbe)
    party.take(act.SendChangePending)
    party.die(2)
    answer(party, 2, 0)  # of a probe that nobody sent
    party.go(1.0, heard=(0, 1))
    assert probed(party) == []
    assert len(party.take(act.SendChangePending)) == 2


def refuse(party: Party, a: int, b: int) -> None:
    """A new world in which a and b cannot connect."""
    for k in party.ranks:
        party.arrive(k, *((b,) if k == a else (a,) if k == b else (a, b)))


@pytest.mark.parametrize("behaviour", ["not reached", "reached", "no answer"])
def test_a_link_that_stays_cut_stops_the_world_a_few_times_a_minute_at_most(behaviour: str) -> None:
    party = isolate(3, 0, 2)
    worlds: list[float] = []
    begun = party.now
    while party.now < begun + 600.0:
        go_on(party, 0.5, 2)
        if party.take(act.SendProbe) and behaviour != "no answer":
            answer(party, 2, *((0,) if behaviour == "reached" else ()))
        if party.take(act.SendChangePending):
            for k in party.ranks:
                party.arrive(k, lost=False)
            worlds.append(party.now - begun)
            refuse(party, 0, 2)
            assert party.ranks == [0, 1]
    # Probes may get through where gradients do not; who never answers may be of an older version.
    assert len(worlds) == {"not reached": 0, "reached": 14, "no answer": 9}[behaviour]
    assert not worlds or worlds[-1] - worlds[-2] >= 60.0
    assert party.step > 10_000  # of 12,000 that 600 s have room for


def test_no_world_below_the_minimum_all_try_again_with_a_back_off_and_the_reason_names_the_link() -> None:
    party = Party(2, minimum=2)
    cut_in_an_exchange(party, 0, 1)
    waits: list[float] = []
    for k in range(2):
        party.arrive(k)
    while len(waits) < 6:
        assert party.state is JobState.RECOVERING
        assert "w0 and w1 cannot reach each other" in party.machine.record.reason
        generation, begun = party.machine.generation, party.now
        while party.machine.generation == generation:
            party.go(0.25, {k: Activity(Doing.MEETING) for k in range(2)})
        waits.append(party.now - begun)
        assert party.ranks == [0, 1]
        refuse(party, 0, 1)
    assert waits == pytest.approx([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], abs=0.3)


def test_when_those_who_were_left_are_too_few_the_isolated_are_called_at_once() -> None:
    party = Party(3, minimum=2)
    cut_in_an_exchange(party, 1, 2)
    for k in range(3):
        party.arrive(k)
    assert party.ranks == [0, 1]
    party.tell(ev.WorkerDetached(*party.who(0)))
    party.arrive(1, 0)
    assert party.ranks == [1, 2]


def test_a_cut_link_is_found_though_a_third_worker_is_not_heard() -> None:
    party = Party(4)
    party.go(5.0, heard=(0, 1, 2, 3))
    party.go(4.0, heard=(0, 1, 3))  # the third is cut off from the coordinator alone
    step = party.step + 1
    party.go(1.0, {0: waiting(step, 1, 3), 1: waiting(step, 3), 3: waiting(step, 1)})
    assert {a.worker for a in party.take(act.SendAbort)} == {f"j-w{k}" for k in range(4)}


def say_idle(party: Party, idle_seconds: float, *workers: int) -> None:
    """One heartbeat of each: it waits for all, and no byte has moved."""
    for k in workers:
        others = tuple(f"j-w{other}" for other in workers if other != k)
        activity = Activity(Doing.EXCHANGING, party.step + 1, idle_seconds, others, idle_seconds)
        party.tell(ev.WorkerHeard(*party.who(k), party.step or None, activity))


@pytest.mark.parametrize("size", [2, 16])
def test_a_machine_that_was_throttled_for_a_moment_has_no_cut_link(size: int) -> None:
    party = Party(size)
    everybody = tuple(range(size))
    for _ in range(5):
        party.go(2.0, heard=everybody)
        party.now += 0.8
        say_idle(party, 0.8, *everybody)
        say_idle(party, 0.81, *everybody)  # two that were held up, and are heard at once
    party.now += 0.25
    say_idle(party, 0.8, *everybody)  # a byte has moved in between
    party.tell(ev.Tick())
    assert (party.take(act.SendAbort), party.state, party.world.generation) == ([], JobState.RUNNING, 1)


@pytest.mark.parametrize(("size", "patience"), [(2, 1.0), (3, 3.0), (16, 3.0)])
def test_where_no_pair_moves_a_byte_it_is_hardly_the_links_unless_there_is_but_one(size: int, patience: float) -> None:
    party = Party(size)
    party.go(5.0, heard=tuple(range(size)))
    everybody = {k: waiting(party.step + 1, *(w for w in range(size) if w != k)) for k in range(size)}
    party.go(patience - 0.25, everybody)
    assert not party.take(act.SendAbort)
    begun = party.now
    while not party.take(act.SendAbort):
        say_idle(party, patience + party.now - begun, *range(size))
        party.now += 0.25
    assert party.now - begun <= 0.75


def test_a_connection_that_broke_once_is_made_again_at_once_with_everybody() -> None:
    party = Party(3)
    party.go(5.0, heard=(0, 1, 2))
    party.arrive(0, 1)
    party.arrive(1, 0)
    party.arrive(2, 0)
    assert party.ranks == [0, 1, 2]
    assert party.events("isolated") == []


def test_a_worker_cut_off_from_all_its_peers_stays_out_alone() -> None:
    party = Party(4)
    step = party.step + 1
    party.go(1.0, {0: waiting(step, 1, 2, 3), **{k: waiting(step, 0) for k in (1, 2, 3)}})
    for k in range(4):
        party.arrive(k)
    assert party.ranks == [1, 2, 3]
    assert "nor can 2 more pairs" in party.events("isolated")[0]


def test_the_isolated_are_known_to_the_next_coordinator() -> None:
    party = Party(3)
    cut_in_an_exchange(party, 0, 2)
    for k in range(3):
        party.arrive(k)
    generation = party.machine.generation
    party.restart(0, 1, 2)
    for k in (0, 1):
        party.tell(ev.WorkerAttached(*party.who(k), f"host:{k}", generation, 5, 1))
    party.step = 5
    party.tell(ev.WorkerAttached(*party.who(2), "host:2", generation - 1, 1, 1, True))
    party.tell(ev.WorkerArrived(*party.who(2), generation - 1, 1, ArrivalReason.PEER_LOST))
    assert not party.take(act.SendStop)
    for k in (0, 1):
        party.arrive(k, lost=False)
    assert [member.step for member in party.world.members] == [5, 5, 1]  # it has a state, if an older one


def test_a_world_in_which_all_wait_for_no_reason_is_formed_again() -> None:
    party = Party(3)
    ring = {k: waiting(1, (k + 1) % 3) for k in range(3)}
    party.go(POLICY.standstill_seconds + 1.5, ring)
    assert len(party.events("stuck")) == 1
    assert len(party.take(act.SendAbort)) == 3
    for k in range(3):
        party.arrive(k)
    assert (party.ranks, party.world.generation) == ([0, 1, 2], 2)
    party.go(POLICY.standstill_seconds + 1.5, ring)
    assert len(party.events("stuck")) == 1  # the next time it takes twice as long


def test_the_only_one_that_holds_the_state_does_not_stay_out() -> None:
    party = Party(3)
    party.go(5.0, heard=(0, 1, 2))
    at = party.step + 1
    party.go(1.2, {0: waiting(at, 1), 1: waiting(at, 2), 2: waiting(at, 1)})
    for k in (0, 1, 2):
        party.arrive(k)
    assert party.ranks == [0, 1]
    party.die(0)
    party.die(1)
    # The first process that comes takes the state over, and trains on with it at once.
    assert (party.world.step, party.ranks) == (party.step, [0, 2])
    assert [member.step for member in party.world.members] == [None, party.step]


def cut_off_long_ago(saved: int) -> Party:
    """w2 stands apart with the state of long ago, while the others train on; `saved` is the newest checkpoint's step,
    counted from there."""
    party = Party(3)
    party.go(5.0, heard=(0, 1, 2))
    at = party.step
    party.go(1.2, {0: waiting(at + 1, 1), 1: waiting(at + 1, 2), 2: waiting(at + 1, 1)})
    for k in (0, 1, 2):
        party.arrive(k)
    assert party.ranks == [0, 1]
    for _ in range(20):
        party.go(1.0, heard=(0, 1))
        party.tell(ev.WorkerReached(*party.who(2), ()))
    if saved:
        party.tell(ev.WorkerCheckpointed(*party.who(0), at + saved))
    party.take(act.SendStop)
    assert party.step > at
    return party


def test_a_checkpoint_that_is_newer_than_what_stayed_out_is_what_the_job_goes_on_from() -> None:
    party = cut_off_long_ago(saved=100)
    party.die(0)
    party.die(1)
    assert "begins anew" in party.events("link")[-1]
    assert [stop.worker for stop in party.take(act.SendStop) if stop.reason is StopReason.FENCED] == ["j-w2"]
    party.die(2)  # its agent starts another process
    party.go(3.0)
    assert sorted(party.ranks) == [0, 1, 2]
    assert [member.step for member in party.world.members] == [None, None, None]


def test_so_it_is_when_those_who_trained_on_do_not_come_back() -> None:
    party = cut_off_long_ago(saved=100)
    for k in (0, 1):
        party.tell(ev.WorkerDetached(*party.who(k)))
    for _ in range(20):
        party.go(1.0)
        party.tell(ev.WorkerReached(*party.who(2), ()))
    assert "begins anew" in party.events("link")[-1]
    assert [stop.worker for stop in party.take(act.SendStop) if stop.reason is StopReason.FENCED] == ["j-w2"]


def test_a_coordinator_that_comes_back_knows_what_was_saved() -> None:
    party = Party(2)
    party.tell(ev.WorkerCheckpointed(*party.who(0), 70))
    party.tell(ev.WorkerCheckpointed(*party.who(1), 60))  # told late
    party.tell(ev.WorkerCheckpointed("j-w1", "some other process", 90))
    party.restart(0, 1)
    assert party.machine.record.saved == 70


@pytest.mark.parametrize("saved", [0, -10])
def test_what_stayed_out_is_better_than_nothing_and_than_an_older_checkpoint(saved: int) -> None:
    party = cut_off_long_ago(saved)
    party.die(0)
    party.die(1)
    assert party.ranks == [0, 2]
    held = {member.worker: member.step for member in party.world.members}
    assert held["j-w0"] is None
    assert held["j-w2"] == party.world.step > 0


def test_a_checkpoint_that_could_not_be_restored_does_not_count() -> None:
    party = Party(3)
    party.tell(ev.WorkerCheckpointed(*party.who(0), 5000))
    for k in (0, 1, 2):
        party.tell(ev.WorkerDetached(*party.who(k)))
    for k in (0, 1, 2):
        party.life[k] = 1
        party.join(k)
    party.go(4.0)
    assert [member.step for member in party.world.members] == [None, None, None]
    assert party.machine.record.saved == 0
    party.tell(ev.WorkerCheckpointed(*party.who(0), 150))
    assert party.machine.record.saved == 150
