"""What the job machine does about faults that break no connection, and about those that come again and again.

Silence while the world goes on, workers that are stuck, links that are cut, stragglers, deaths that repeat, too few
workers for too long: each story with the events and times of the real thing. The decisions alone are in
`test_core_watch`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import pytest

from cordee.coordinator.core import actions as act
from cordee.coordinator.core import events as ev
from cordee.coordinator.core.activity import Activity, Doing
from cordee.coordinator.core.job import JobMachine
from cordee.coordinator.core.model import (
    ArrivalReason,
    Cause,
    JobState,
    LossCause,
    Policy,
    PostMortem,
    StopReason,
    StragglerPolicy,
    World,
)
from cordee.coordinator.core.record import JobRecord
from cordee.coordinator.service.policy import job_policy
from cordee.coordinator.spec import FailurePolicy

A = TypeVar("A", bound=act.Action)
POLICY = Policy()


class Party:
    """Workers that train together, in simulated time: who is not said to do otherwise computes, and commits."""

    def __init__(self, size: int, *, minimum: int = 1, maximum: int = 0, **policy: Any) -> None:
        self.now = 1000.0
        self.policy = replace(POLICY, **policy)
        self.machine = JobMachine(JobRecord("j", minimum, maximum or size, created_at=self.now), self.policy)
        self.life: dict[int, int] = {}
        self.step = 0
        self.told: list[act.Action] = []
        self.tell(ev.Scheduled(size))
        self.join(*range(size))

    def tell(self, event: ev.Event) -> None:
        self.told += self.machine.handle(event, self.now)

    def who(self, k: int) -> tuple[str, str]:
        return f"j-w{k}", f"{k}.{self.life.get(k, 0)}"

    def join(self, *workers: int, previous: PostMortem | None = None) -> None:
        for k in workers:
            self.tell(ev.WorkerAttached(*self.who(k), f"host:{k}", pid=1, previous=previous))
            self.tell(ev.WorkerArrived(*self.who(k), 0, None, ArrivalReason.JOIN))

    def arrive(self, k: int, *suspects: int, lost: bool = True, step: int | None = None) -> None:
        reason = ArrivalReason.PEER_LOST if lost else ArrivalReason.CHANGE
        names = tuple(f"j-w{s}" for s in suspects)
        step = self.step if step is None else step
        self.tell(ev.WorkerArrived(*self.who(k), self.machine.generation, step, reason, names))

    def die(self, k: int, **end: Any) -> None:
        """Its stream breaks; its agent starts another process, which has attached when this returns."""
        _, incarnation = self.who(k)
        self.tell(ev.WorkerDetached(*self.who(k)))
        self.life[k] = self.life.get(k, 0) + 1
        end = {"code": -9, "words": "was killed by SIGKILL", "step": self.step, **end}
        self.join(k, previous=PostMortem(incarnation, **end))

    def go(self, seconds: float, doing: dict[int, Activity] | None = None, *, heard: tuple[int, ...] = ()) -> None:
        """Time passes, with two heartbeats a second and the ticks that are asked for.

        `doing`: who is heard, and what they do; their `seconds` and `idle_seconds` grow by themselves. `heard`: who is
        heard, and commits ten steps a second.
        """
        end = self.now + seconds
        begun = self.now
        while self.now < end - 1e-9:
            self.now += 0.25
            for k in heard:
                self.step += 5 if k == heard[0] else 0
                self.tell(ev.WorkerHeard(*self.who(k), self.step, Activity(Doing.COMPUTING, self.step + 1)))
            for k, activity in (doing or {}).items():
                passed = self.now - begun
                idle = passed if activity.doing is Doing.EXCHANGING else activity.idle_seconds
                grown = replace(activity, seconds=activity.seconds + passed, idle_seconds=idle)
                self.tell(ev.WorkerHeard(*self.who(k), self.step or None, grown))
            deadline = self.machine.next_deadline()
            if deadline is not None and deadline <= self.now:
                self.tell(ev.Tick())

    def take(self, kind: type[A]) -> list[A]:
        """What was decided of this kind since it was asked last."""
        found = [action for action in self.told if isinstance(action, kind)]
        self.told = [action for action in self.told if not isinstance(action, kind)]
        return found

    def events(self, kind: str) -> list[str]:
        return [action.message for action in self.told if isinstance(action, act.RecordEvent) and action.kind == kind]

    def restart(self, *agents: int) -> None:
        self.machine = JobMachine(JobRecord.from_json(self.machine.record.to_json()), self.policy)
        self.tell(ev.Recovered(frozenset(f"j-w{k}" for k in agents)))

    @property
    def world(self) -> World:
        assert self.machine.record.world is not None
        return self.machine.record.world

    @property
    def ranks(self) -> list[int]:
        return [int(member.worker[3:]) for member in self.world.members]

    @property
    def state(self) -> JobState:
        return self.machine.state


def computing(step: int, seconds: float = 0.0) -> Activity:
    return Activity(Doing.COMPUTING, step, seconds)


def waiting(step: int, *workers: int) -> Activity:
    return Activity(Doing.EXCHANGING, step, 0.0, tuple(f"j-w{k}" for k in workers))


# --------------------------------------------------------------------------------- silence, and a world that goes on


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


# ----------------------------------------------------------------------------------------------------------- stuck


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


# ----------------------------------------------------------------------------------------------------------- links


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


# ------------------------------------------------------------------------------------------------------ stragglers


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


# ----------------------------------------------------------------------------------------- deaths that come again

SEGFAULT: dict[str, Any] = {"code": -11, "words": "was killed by SIGSEGV", "stack": 'File "a.py", line 3 in f'}


def test_the_end_of_every_process_is_told_with_the_stack_it_left() -> None:
    party = Party(2)
    party.go(5.0, heard=(0, 1))
    party.die(1, **SEGFAULT)
    assert party.events("died") == [f"j-w1 was killed by SIGSEGV after step {party.step}"]
    assert party.events("stack") == ['j-w1, as it ended:\nFile "a.py", line 3 in f']
    party.die(1, asked=True)
    assert len(party.events("died")) == 1


def test_the_same_death_three_times_without_a_step_is_a_bug() -> None:
    party = Party(2)
    party.go(5.0, heard=(0, 1))
    for _ in range(2):
        party.die(1, **SEGFAULT)
        assert party.state is not JobState.FAILED
    party.restart(0, 1)  # it survives the coordinator
    party.tell(ev.WorkerAttached(*party.who(1), "host:1"))
    party.die(1, **SEGFAULT)
    assert party.state is JobState.FAILED
    error = party.machine.record.error
    assert error is not None
    assert error.exception.startswith(f"j-w1 was killed by SIGSEGV at about step {party.step}, 3 times")
    assert error.traceback == SEGFAULT["stack"]


def test_a_step_in_between_and_another_death_begin_the_count_anew() -> None:
    party = Party(2)
    for k in range(6):
        party.go(5.0, heard=(0,))
        party.die(1, **SEGFAULT)
        party.arrive(0, 1)
        assert party.ranks == [0, 1], k
    for k in range(6):
        party.die(1, **(SEGFAULT if k % 2 else {"code": 1, "words": "crashed"}))
    assert party.state is not JobState.FAILED


def test_many_that_die_of_the_same_at_once_are_one_time() -> None:
    party = Party(16)
    for k in range(16):
        party.die(k, **SEGFAULT)
    for k in range(16):
        party.die(k, **SEGFAULT)
    assert party.state is not JobState.FAILED
    party.die(7, **SEGFAULT)
    assert party.state is JobState.FAILED


def test_kills_from_outside_are_no_bug_however_often_they_come() -> None:
    party = Party(2)
    for code in (-9, -15, -9, -9, -9, -9, -2):
        party.die(1, code=code)
    assert party.state is not JobState.FAILED
    assert party.events("died")


def test_who_gives_no_sign_of_life_however_long_is_waited_for_hangs_and_that_is_a_bug_the_third_time() -> None:
    party = Party(1)
    limits = [(3, 2), (6, 4), (12, 8), (24, 8), (24, 8), (24, 8)]
    for seconds, patience in limits:
        assert party.state is not JobState.FAILED
        words = f"gave no sign of life for {seconds} s and was killed"
        party.die(0, words=words, silent=True, patience=patience, stack="in hold")
    assert party.state is JobState.FAILED
    assert "gave no sign of life for 24 s and was killed before the first step, 3 times" in party.machine.record.reason


def test_a_script_that_ends_the_process_without_a_word_is_a_bug_the_third_time() -> None:
    party = Party(1)
    for _ in range(3):
        assert party.state is not JobState.FAILED
        party.tell(ev.WorkerDetached(*party.who(0)))
        party.tell(ev.AgentExited("j-w0", 0))
        party.life[0] = party.life.get(0, 0) + 1
        party.go(1.0)
        party.join(0)
    assert party.state is JobState.FAILED
    assert "ended without a result that was heard of before the first step, 3 times" in party.machine.record.reason


def test_agents_that_cannot_be_started_use_up_their_budget_and_the_reason_says_what_it_is() -> None:
    party = Party(1, restart_budget=4)
    party.tell(ev.WorkerDetached(*party.who(0)))
    for times in range(4):
        party.tell(ev.AgentExited("j-w0", None, "no space left on device"))
        assert party.state is not JobState.FAILED, times
        assert "could not be run: no space left on device" in party.machine.record.reason
        party.go(10.0)
    party.tell(ev.AgentExited("j-w0", None, "no space left on device"))
    assert party.state is JobState.FAILED


# ------------------------------------------------------------------------------------ budgets, and too few workers


def test_the_budget_of_restarts_survives_the_coordinator() -> None:
    """kubeflow/trainer#3779: a retry budget that a clean-up reset was no budget."""
    party = Party(2, restart_budget=5)
    for _ in range(5):
        party.tell(ev.AgentExited("j-w1", -9))
        party.restart(0)
        party.go(10.0, heard=(0,))
        assert any(isinstance(action, act.StartAgent) for action in party.take(act.StartAgent))
    party.tell(ev.AgentExited("j-w1", -9))
    assert len(party.events("given_up")) == 1


@pytest.mark.parametrize(("code", "exits"), [(74, 1), (-9, 3)], ids=["its agent counted", "its agent exits"])
def test_a_job_that_advances_is_not_failed_for_the_restarts_of_a_worker_that_it_needs(code: int, exits: int) -> None:
    party = Party(3, minimum=2, restart_budget=2)

    def started() -> float:
        """How long it takes until the agent is started again."""
        begun = party.now
        while not party.take(act.StartAgent):
            party.go(0.25, heard=(0,))
        return party.now - begun

    def exhaust(worker: int) -> None:
        for k in range(exits):
            if k:
                started()
            party.tell(ev.AgentExited(f"j-w{worker}", code))

    party.go(5.0, heard=(0, 1, 2))
    party.take(act.StartAgent)
    exhaust(2)
    assert len(party.events("given_up")) == 1, "the job can do without it"
    for times in range(4):
        exhaust(1)
        assert party.state is not JobState.FAILED, times
        assert "the job needs it, and has got further" in party.events("agent_exited")[-1]
        assert started() >= POLICY.restart_backoff_max_seconds
        party.life[1] = party.life.get(1, 0) + 1
        party.join(1)
        party.go(5.0, heard=(0, 1))
    exhaust(1)
    party.restart(0)  # it is remembered
    exhaust(1)
    assert party.state is JobState.FAILED, "no step since"


def test_no_restarts_means_none_though_the_job_advances() -> None:
    party = Party(1, restart_budget=0)
    party.go(5.0, heard=(0,))
    party.tell(ev.AgentExited("j-w0", 74))
    assert party.state is JobState.FAILED


def test_a_job_that_is_old_does_not_run_out_of_restarts_for_being_old() -> None:
    party = Party(2, restart_budget=5)
    for _ in range(50):
        party.tell(ev.AgentExited("j-w1", -9))
        party.go(150.0, heard=(0,))
    assert party.events("given_up") == []


def test_below_the_minimum_a_job_waits_as_long_as_its_user_wants_and_then_fails_with_a_sentence() -> None:
    party = Party(2, minimum=2, minimum_timeout_seconds=60.0)
    party.tell(ev.WorkerDetached(*party.who(1)))
    party.arrive(0, 1)
    party.go(40.0, {0: Activity(Doing.MEETING)})
    assert party.state is JobState.RECOVERING
    party.now += 3600.0  # nobody is there to come to
    party.restart(0)
    party.tell(ev.WorkerAttached(*party.who(0), "host:0", 1, 3, 1, True))
    party.arrive(0, 1)
    party.go(55.0, {0: Activity(Doing.MEETING)})
    assert party.state is JobState.RECOVERING
    party.go(10.0, {0: Activity(Doing.MEETING)})
    assert party.state is JobState.FAILED
    assert party.machine.record.reason == (
        "the job could not train for 60 s: 1 of the at least 2 workers are there "
        "(spec.failurePolicy.minimumTimeoutSeconds)"
    )


def test_a_job_that_reaches_its_minimum_again_has_its_time_anew() -> None:
    party = Party(2, minimum=2, minimum_timeout_seconds=60.0)
    for _ in range(5):
        party.tell(ev.WorkerDetached(*party.who(1)))
        party.arrive(0, 1)
        party.go(40.0, {0: Activity(Doing.MEETING)})
        party.life[1] = party.life.get(1, 0) + 1
        party.join(1)
        party.go(10.0, heard=(0, 1))
    assert party.state is JobState.RUNNING
    assert party.machine.record.below_since is None


def test_a_job_that_never_gets_its_minimum_together_fails_as_well_and_without_a_limit_it_waits() -> None:
    for limit, state in ((30.0, JobState.FAILED), (0.0, JobState.STARTING)):
        machine = JobMachine(JobRecord("j", 2, 2), replace(POLICY, minimum_timeout_seconds=limit))
        machine.handle(ev.Scheduled(2), 0.0)
        machine.handle(ev.WorkerAttached("j-w0", "i"), 1.0)
        for k in range(1, 600):
            machine.handle(ev.WorkerHeard("j-w0", "i"), 0.5 * k)
            if (machine.next_deadline() or 1e9) <= 0.5 * k:
                machine.handle(ev.Tick(), 0.5 * k)
        assert machine.state is state


def test_waiting_for_capacity_is_no_fault() -> None:
    machine = JobMachine(JobRecord("j", 2, 2), replace(POLICY, minimum_timeout_seconds=30.0))
    machine.handle(ev.Scheduled(0), 0.0)
    for k in range(100):
        machine.handle(ev.Tick(), float(k))
    assert machine.state is JobState.PENDING


def test_horovods_schedule_the_first_worker_leaves_and_its_state_survives() -> None:
    """{A}, then {A, B}, then {B}."""
    party = Party(1, maximum=2)
    party.go(5.0, heard=(0,))
    party.tell(ev.Scheduled(2))
    party.join(1)
    party.arrive(0, lost=False)
    assert (party.ranks, party.world.step) == ([0, 1], party.step)
    party.go(5.0, heard=(0, 1))
    party.tell(ev.WorkerLeaving(*party.who(0), "SIGTERM"))
    for k in (0, 1):
        party.arrive(k, lost=False)
    assert (party.ranks, party.world.step, party.world.cause) == ([1], party.step, Cause.DRAIN)
    assert party.machine.record.recoveries == 0


def test_a_graceful_loss_below_the_minimum_and_a_return_is_no_deadlock() -> None:
    """horovod#3494."""
    party = Party(2, minimum=2)
    party.go(5.0, heard=(0, 1))
    party.tell(ev.WorkerLeaving(*party.who(1), "SIGTERM"))
    for k in (0, 1):
        party.arrive(k, lost=False)
    assert party.state is JobState.RECOVERING
    party.tell(ev.WorkerDetached(*party.who(1)))
    party.tell(ev.AgentExited("j-w1", 71))
    party.go(30.0, {0: Activity(Doing.MEETING)})
    party.life[1] = 1
    party.join(1)
    assert (party.ranks, party.world.step, party.state) == ([0, 1], party.step, JobState.RUNNING)


# ------------------------------------------------------------------------------------------------ many at once


def test_the_loss_of_fourteen_of_sixteen_costs_one_world_and_their_return_one_more() -> None:
    party = Party(16)
    party.go(2.0, heard=tuple(range(16)))
    party.take(act.SendWorld)
    lost = [k for k in range(16) if k not in (3, 11)]
    for k in lost[:5]:
        party.tell(ev.WorkerDetached(*party.who(k)))
    party.arrive(3, *lost)
    for k in lost[5:]:
        party.tell(ev.WorkerDetached(*party.who(k)))
    party.arrive(11, *lost)
    assert (party.ranks, party.world.generation) == ([3, 11], 2)
    for k in lost:
        party.life[k] = 1
        party.tell(ev.WorkerAttached(*party.who(k), f"host:{k}"))
    for k in lost:
        party.now += 0.02
        party.tell(ev.WorkerArrived(*party.who(k), 0, None, ArrivalReason.JOIN))
    assert {a.generation for a in party.take(act.SendChangePending)} == {2}
    for k in (3, 11):
        party.arrive(k, lost=False)
    assert (len(party.ranks), party.world.generation) == (16, 3)


def test_one_joiner_waits_for_nobody_and_of_many_the_first_waits_half_a_second_at_most() -> None:
    party = Party(4)
    party.die(3)
    for k in range(3):
        party.arrive(k, 3)
    assert party.ranks == [0, 1, 2, 3]
    party.go(1.0, heard=(0, 1, 2, 3))
    for k in (2, 3):
        party.tell(ev.WorkerDetached(*party.who(k)))
    for k in range(2):
        party.arrive(k, 2, 3)
    for k in (2, 3):
        party.life[k] = 5
        party.tell(ev.WorkerAttached(*party.who(k), f"host:{k}"))
    party.tell(ev.WorkerArrived(*party.who(2), 0, None, ArrivalReason.JOIN))
    assert not party.take(act.SendChangePending)  # the other one is about to come
    begun = party.now
    while not party.take(act.SendChangePending):
        party.go(0.25, heard=(0, 1))
    assert party.now - begun <= POLICY.gather_max_seconds


# ------------------------------------------------------------------------------------- a coordinator that was not run


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
