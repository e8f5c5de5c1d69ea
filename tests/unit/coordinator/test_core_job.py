"""What the job machine does in the moments that the protocol makes delicate, one by one.

`test_core_histories` checks the laws over random histories; here each decision that `core.job` writes down is shown.
"""

from __future__ import annotations

from typing import TypeVar

import pytest

from cordee.coordinator.core import actions as act
from cordee.coordinator.core import events as ev
from cordee.coordinator.core.job import JobMachine
from cordee.coordinator.core.model import (
    ArrivalReason,
    Cause,
    JobState,
    LossCause,
    Policy,
    PostMortem,
    Result,
    StopReason,
    World,
)
from cordee.coordinator.core.record import JobRecord

A = TypeVar("A", bound=act.Action)
POLICY = Policy()


class Story:
    """A job told event by event. Workers are numbers; an incarnation is `<worker>.<life>`."""

    def __init__(self, minimum: int = 1, maximum: int = 3, granted: int | None = None) -> None:
        self.now = 1000.0
        self.machine = JobMachine(JobRecord("j", minimum, maximum, created_at=self.now))
        self.life: dict[int, int] = {}
        self.last: list[act.Action] = []
        self.tell(ev.Scheduled(maximum if granted is None else granted))

    def tell(self, event: ev.Event, after: float = 0.0) -> list[act.Action]:
        self.now += after
        self.last = self.machine.handle(event, self.now)
        return self.last

    def told(self, kind: type[A]) -> list[A]:
        return [action for action in self.last if isinstance(action, kind)]

    def who(self, k: int) -> tuple[str, str]:
        return f"j-w{k}", f"{k}.{self.life.get(k, 0)}"

    def attach(self, k: int, *, generation: int = 0, step: int | None = None, waiting: bool = False) -> None:
        self.tell(ev.WorkerAttached(*self.who(k), f"host:{k}", generation, step, 100 + k, waiting))

    def arrive(
        self,
        k: int,
        step: int | None = None,
        reason: ArrivalReason | None = None,
        suspects: tuple[int, ...] = (),
        generation: int | None = None,
    ) -> None:
        reason = reason or (ArrivalReason.JOIN if step is None else ArrivalReason.CHANGE)
        if generation is None:
            generation = 0 if reason is ArrivalReason.JOIN else self.machine.generation
        self.tell(ev.WorkerArrived(*self.who(k), generation, step, reason, tuple(f"j-w{s}" for s in suspects)))

    def join(self, *workers: int) -> None:
        for k in workers:
            self.attach(k)
            self.arrive(k)

    def lose(self, k: int) -> None:
        """kill -9: the stream breaks; the agent will start another process."""
        self.tell(ev.WorkerDetached(*self.who(k)))
        self.life[k] = self.life.get(k, 0) + 1

    def finish(self, k: int, sha: str = "abc", **more: object) -> None:
        result = Result(step=9, samples=90, weights_sha256=sha, **more)  # type: ignore[arg-type]
        self.tell(ev.WorkerFinished(*self.who(k), result))

    def hear(self, *workers: int) -> None:
        for k in workers:
            assert self.machine.handle(ev.WorkerHeard(*self.who(k), 1), self.now) == []

    def pass_time(self, seconds: float, *heard: int) -> list[act.Action]:
        """Ticks as the machine asks for them; all that was decided meanwhile."""
        decided: list[act.Action] = []
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 0.5, end)
            self.hear(*heard)
            deadline = self.machine.next_deadline()
            if deadline is not None and deadline <= self.now:
                decided += self.tell(ev.Tick())
        self.last = decided
        return decided

    def restart(self, *agents: int) -> None:
        """kill -9 of the coordinator; another one on the same store."""
        self.machine = JobMachine(JobRecord.from_json(self.machine.record.to_json()))
        self.tell(ev.Recovered(frozenset(f"j-w{k}" for k in agents)))

    @property
    def world(self) -> World:
        world = self.machine.record.world
        assert world is not None
        return world

    @property
    def ranks(self) -> list[int]:
        return [int(m.worker[3:]) for m in self.world.members]


def training(*workers: int, minimum: int = 1, maximum: int = 3) -> Story:
    story = Story(minimum, maximum, granted=len(workers))
    story.join(*workers)
    assert story.ranks == list(workers)
    assert story.machine.state is JobState.RUNNING
    return story


# ------------------------------------------------------------------------------------------------ start and losses


def test_nothing_is_started_before_the_scheduler_grants_the_minimum() -> None:
    machine = JobMachine(JobRecord("j", 2, 3))
    assert not any(isinstance(a, act.StartAgent) for a in machine.handle(ev.Scheduled(1), 1.0))
    assert machine.state is JobState.PENDING
    assert [a.worker for a in machine.handle(ev.Scheduled(2), 1.0) if isinstance(a, act.StartAgent)] == ["j-w0", "j-w1"]
    assert machine.state is JobState.STARTING


def test_a_world_is_stored_and_then_sent_to_each_member() -> None:
    story = training(0, 1, 2)
    assert [type(a) for a in story.last if not isinstance(a, act.RecordEvent)] == [
        act.Persist,
        act.SendWorld,
        act.SendWorld,
        act.SendWorld,
        act.SetState,
    ]
    persist = story.told(act.Persist)[0]
    assert persist.record.world == story.world == story.told(act.SendWorld)[0].world
    assert (story.world.generation, story.world.step, story.world.cause) == (1, 0, Cause.START)


def test_with_the_minimum_there_a_first_world_waits_for_the_rest_only_the_settle_time() -> None:
    story = Story(minimum=2)
    story.join(0, 1)
    story.attach(2)  # it imports for ever
    assert story.machine.record.world is None
    story.pass_time(POLICY.settle_seconds, 0, 1, 2)
    assert story.ranks == [0, 1]


def test_survivors_of_a_kill_go_on_at_once_from_the_furthest_step_and_the_dead_joins_again() -> None:
    story = training(0, 1, 2)
    story.lose(1)
    story.arrive(0, 4, ArrivalReason.PEER_LOST, (1,))
    assert story.machine.state is JobState.RECOVERING
    assert [a.worker for a in story.told(act.SendAbort)] == ["j-w2"]
    story.arrive(2, 5, ArrivalReason.PEER_LOST, (1,))
    assert story.ranks == [0, 2]
    assert (story.world.step, story.world.cause) == (5, Cause.LOSS)
    assert story.told(act.RecordRecovery)[0].cause is LossCause.DISCONNECTED
    story.join(1)
    assert {a.worker for a in story.told(act.SendChangePending)} == {"j-w0", "j-w2"}
    story.arrive(0, 6)
    story.arrive(2, 6)
    assert story.ranks == [0, 2, 1]
    assert story.world.cause is Cause.JOIN
    assert [m.step for m in story.world.members] == [6, 6, None]


def test_every_generation_is_called_together_and_broken_off_anew() -> None:
    story = training(0)
    for generation in (2, 3):
        story.tell(ev.Scheduled(generation))
        story.join(generation - 1)
        assert "j-w0" in {a.worker for a in story.told(act.SendChangePending)}
        for k in range(generation - 1):
            story.arrive(k, generation)
        assert story.world.generation == generation
    for lost, left in ((2, (0, 1)), (1, (0,))):
        story.tell(ev.WorkerDetached(*story.who(lost)))
        story.pass_time(POLICY.heartbeat_timeout_seconds, *left)
        assert {a.worker for a in story.told(act.SendAbort)} == {f"j-w{k}" for k in left}
        for k in left:
            story.arrive(k, 9, ArrivalReason.PEER_LOST, (lost,))
    assert story.ranks == [0]


def test_a_joiners_own_initial_weights_are_not_the_jobs_state() -> None:
    story = training(0)
    story.tell(ev.Scheduled(2))
    story.attach(1)
    story.tell(ev.WorkerArrived(*story.who(1), 0, 500, ArrivalReason.JOIN))
    story.arrive(0, 4)
    assert story.world.step == 4
    assert [m.step for m in story.world.members] == [4, None]


def test_a_peer_that_is_suspected_but_up_is_waited_for_it_may_hold_a_further_step() -> None:
    story = training(0, 1)
    story.arrive(0, 4, ArrivalReason.PEER_LOST, (1,))
    assert story.world.generation == 1
    story.arrive(1, 5, ArrivalReason.PEER_LOST, (0,))
    assert (story.ranks, story.world.step) == ([0, 1], 5)
    assert story.machine.record.recoveries == 1


def test_a_member_lost_between_its_world_and_the_mesh_costs_one_more_world() -> None:
    story = training(0, 1, 2)
    for k in (1, 2):
        story.lose(k)
    story.arrive(0, None, ArrivalReason.PEER_LOST, (1, 2))  # it was never healed either
    assert story.world.generation == 1  # nobody holds state, so no work stands still: the others are waited for
    story.join(1, 2)
    assert (story.ranks, story.world.generation, story.world.step) == ([0, 1, 2], 2, 0)


def test_below_the_minimum_the_job_waits_and_goes_on_when_it_can() -> None:
    story = training(0, 1, minimum=2)
    story.lose(1)
    story.arrive(0, 4, ArrivalReason.PEER_LOST, (1,))
    assert story.machine.state is JobState.RECOVERING
    assert "1 of the at least 2" in story.machine.record.reason
    story.pass_time(20.0, 0)
    assert story.world.generation == 1
    story.join(1)
    assert (story.ranks, story.world.step, story.machine.state) == ([0, 1], 4, JobState.RUNNING)


def test_when_everybody_was_lost_the_next_world_waits_for_all_and_starts_without_state() -> None:
    story = training(0, 1, 2)
    for k in range(3):
        story.lose(k)
    story.join(0, 1)
    assert story.machine.state is JobState.RECOVERING
    story.join(2)
    assert (story.ranks, story.world.step, story.world.cause) == ([0, 1, 2], 0, Cause.LOSS)


def test_a_stopped_process_is_found_by_its_silence_killed_and_replaced() -> None:
    story = training(0, 1, 2)
    story.pass_time(POLICY.heartbeat_timeout_seconds + 0.5, 0, 2)
    assert [(a.worker, a.lost) for a in story.told(act.SendAbort)] == [("j-w0", ("j-w1",)), ("j-w2", ("j-w1",))]
    assert not story.told(act.StopAgent)  # its agent has noticed as well, and replaces it
    story.arrive(0, 4, ArrivalReason.PEER_LOST, (1,))
    story.arrive(2, 4, ArrivalReason.PEER_LOST, (1,))
    assert story.ranks == [0, 2]
    assert story.told(act.RecordRecovery)[0].cause is LossCause.HEARTBEAT
    story.tell(ev.WorkerArrived(*story.who(1), 1, 4, ArrivalReason.PEER_LOST))  # SIGCONT just before the kill
    assert story.ranks == [0, 2]
    story.life[1] = 1
    story.join(1)
    assert not any(isinstance(a, act.StopAgent) for a in story.pass_time(POLICY.replacement_seconds + 1.0, 0, 1, 2))


def test_an_agent_that_does_not_replace_a_process_that_hangs_is_killed() -> None:
    story = training(0, 1)
    story.pass_time(POLICY.heartbeat_timeout_seconds + 0.5, 0)
    assert not story.told(act.StopAgent)
    decided = story.pass_time(POLICY.replacement_seconds + 0.5, 0)
    assert act.StopAgent("j-w1", 0.0) in decided
    # A machine that is gone looks the same: what is not known is not told.
    (said,) = [a.message for a in decided if isinstance(a, act.RecordEvent) and a.kind == "agent_killed"]
    assert said.startswith("j-w1 is still not heard, and no other process of it has come: its machine or its network")
    story.tell(ev.AgentExited("j-w1", -9))
    assert story.told(act.StartAgent) == [act.StartAgent("j-w1")]


def test_a_coordinator_that_slept_takes_nobody_for_dead() -> None:
    story = training(0, 1, 2)
    story.tell(ev.Tick(), after=3600.0)
    assert not story.told(act.StopAgent)
    story.pass_time(POLICY.heartbeat_timeout_seconds - 1.0, 0, 1, 2)
    assert story.machine.state is JobState.RUNNING
    assert not story.told(act.SendAbort)


def test_a_coordinator_that_sleeps_again_and_again_takes_nobody_for_dead() -> None:
    """Found on the stage: throttled, it wakes for a word or two of other workers, and sleeps on."""
    story = training(0, 1)
    for _ in range(5):
        story.now += 10.0
        story.hear(0)
        story.tell(ev.Tick())
        assert not story.told(act.SendStop)
        assert not story.told(act.StopAgent)
    assert story.machine.state is JobState.RUNNING


def test_an_agent_whose_worker_never_attaches_is_replaced() -> None:
    """Found on the stage: a machine that vanishes before its worker was heard of, and whose end nobody is told."""
    story = Story(minimum=2, maximum=2)
    story.join(0)
    assert not story.pass_time(POLICY.starting_timeout_seconds - 1.0, 0)
    assert [a.worker for a in story.pass_time(2.0, 0) if isinstance(a, act.StopAgent)] == ["j-w1"]
    story.tell(ev.AgentAbsent("j-w1", 2))
    assert [a.worker for a in story.told(act.StartAgent)] == ["j-w1"]
    story.join(1)
    assert story.ranks == [0, 1]


def test_after_a_restart_an_agent_whose_worker_never_attached_is_given_its_time_and_no_more() -> None:
    story = Story(minimum=2, maximum=2)
    story.join(0)
    story.restart(0, 1)
    story.attach(0)
    story.arrive(0)
    decided = story.pass_time(POLICY.starting_timeout_seconds + 1.0, 0)
    assert [a.worker for a in decided if isinstance(a, act.StopAgent)] == ["j-w1"]


def test_a_worker_whose_stream_breaks_and_comes_back_is_a_member_still() -> None:
    story = training(0, 1)
    story.tell(ev.WorkerDetached(*story.who(1)))
    story.pass_time(1.0, 0)
    story.attach(1, generation=1, step=3)
    assert story.machine.state is JobState.RUNNING
    assert story.pass_time(20.0, 0, 1) == []


def test_what_went_down_with_a_stream_is_said_again_on_the_next_one() -> None:
    story = Story(maximum=2)
    story.join(0)
    story.pass_time(POLICY.settle_seconds, 0)  # a world of one, which nobody else could tell that a change is pending
    story.join(1)
    assert story.told(act.SendChangePending) == [act.SendChangePending(*story.who(0), 1)]
    story.tell(ev.WorkerDetached(*story.who(0)))
    story.attach(0, generation=1, step=5)
    assert story.told(act.SendChangePending) == [act.SendChangePending(*story.who(0), 1)]

    story = Story(maximum=4)
    story.join(0, 1, 2, 3)
    story.lose(3)
    story.arrive(2, 5, ArrivalReason.PEER_LOST)
    aborts = [act.SendAbort(*story.who(k), 1, ("j-w3",)) for k in (0, 1)]
    assert story.told(act.SendAbort) == aborts
    story.tell(ev.WorkerDetached(*story.who(0)))
    story.attach(0, generation=1, step=5)
    assert story.told(act.SendAbort) == aborts[:1]


def test_a_worker_that_does_not_come_back_is_lost_and_its_peers_are_told() -> None:
    story = training(0, 1)
    story.hear(0)
    story.tell(ev.WorkerDetached(*story.who(1)))
    story.pass_time(POLICY.heartbeat_timeout_seconds, 0)
    assert [a.worker for a in story.told(act.SendAbort)] == ["j-w0"]
    story.attach(1, generation=1, step=3)
    assert story.told(act.SendStop)[0].reason is StopReason.FENCED


def test_a_member_whose_agent_exits_while_its_stream_is_down_is_lost_at_once() -> None:
    story = training(0, 1)
    story.tell(ev.WorkerDetached(*story.who(1)))
    assert story.told(act.SendAbort) == []
    story.tell(ev.AgentExited("j-w1", -9))
    assert story.told(act.SendAbort) == [act.SendAbort(*story.who(0), 1, ("j-w1",))]


def test_new_workers_do_not_begin_anew_while_the_streams_of_those_that_train_are_broken() -> None:
    """Found by the model: a switch that blinks must not cost a job its state because a joiner waits."""
    story = training(0, minimum=1, maximum=2)
    story.tell(ev.Scheduled(2))
    story.tell(ev.WorkerDetached(*story.who(0)))
    story.join(1)
    assert not story.told(act.SendWorld), "worker 0 holds the state, and is probably well"
    story.attach(0, generation=1, step=5)
    assert [a.worker for a in story.told(act.SendChangePending)] == ["j-w0"]
    story.arrive(0, step=6)
    assert story.ranks == [0, 1]
    assert story.world.step == 6


def test_a_member_without_state_does_not_begin_anew_while_the_one_that_gives_it_blinks() -> None:
    story = training(0, minimum=1, maximum=2)
    story.tell(ev.Scheduled(2))
    story.join(1)
    story.arrive(0, step=5)
    assert (story.ranks, story.world.step) == ([0, 1], 5)
    story.tell(ev.WorkerDetached(*story.who(0)))
    story.arrive(1, reason=ArrivalReason.PEER_LOST, suspects=(0,), generation=2)  # unhealed
    assert not story.told(act.SendWorld)
    story.attach(0, generation=2, step=5)
    story.arrive(0, step=5, reason=ArrivalReason.PEER_LOST, suspects=(1,))
    assert (story.ranks[0], story.world.generation, story.world.step) == (0, 3, 5)


def test_new_workers_begin_anew_once_those_that_trained_are_lost_for_certain() -> None:
    story = training(0, minimum=1, maximum=2)
    story.tell(ev.Scheduled(2))
    story.lose(0)
    story.join(1)
    assert not story.told(act.SendWorld)
    story.pass_time(POLICY.heartbeat_timeout_seconds, 1)
    assert [a.worker for a in story.told(act.SendWorld)] == ["j-w1"]
    assert story.world.step == 0


def test_a_late_hello_of_the_process_before_does_not_replace_its_successor() -> None:
    """Found by the model: streams are in no order, and a coordinator that slept may read the newer one first."""
    story = training(0, 1)
    story.tell(ev.WorkerDetached("j-w1", "1.0"))
    last = PostMortem("1.1", -9, "was killed by SIGKILL")
    story.tell(ev.WorkerAttached("j-w1", "1.2", "host:1", previous=last))  # of 1.1 nobody has heard
    story.tell(ev.WorkerAttached("j-w1", "1.1", "host:1"))
    assert [(a.incarnation, a.reason) for a in story.told(act.SendStop)] == [("1.1", StopReason.FENCED)]
    assert {w.worker: w.incarnation for w in story.machine.workers()}["j-w1"] == "1.2"


def test_a_newer_process_takes_the_place_of_an_older_one_that_is_still_attached() -> None:
    story = training(0, 1)
    old = story.who(1)
    story.tell(ev.AgentExited("j-w1", -9))  # an orphan goes on; its stream is up
    assert story.told(act.StartAgent) == [act.StartAgent("j-w1")]
    story.life[1] = 1
    story.attach(1)
    assert [(a.incarnation, a.reason) for a in story.told(act.SendStop)] == [(old[1], StopReason.FENCED)]
    story.tell(ev.WorkerAttached(*old, "host:1", 1, 3))
    assert [(a.incarnation, a.reason) for a in story.told(act.SendStop)] == [(old[1], StopReason.FENCED)]


# ----------------------------------------------------------------------------------------- the coordinator's restart


def test_after_a_restart_training_goes_on_undisturbed() -> None:
    story = training(0, 1)
    story.restart(0, 1)
    assert story.last == []
    for k in (0, 1):
        story.attach(k, generation=1, step=30)
        assert story.last == []
    assert story.machine.state is JobState.RUNNING
    assert [w.rank for w in story.machine.workers()] == [0, 1]


def test_after_a_restart_known_members_are_waited_for_but_not_for_ever() -> None:
    story = training(0, 1)
    story.restart(0, 1)
    story.attach(0, generation=1, step=3, waiting=True)
    story.arrive(0, 3, ArrivalReason.CHANGE)
    story.pass_time(POLICY.reattach_seconds - 1.0, 0)
    assert story.world.generation == 1
    story.pass_time(1.5, 0)
    assert (story.ranks, story.world.generation) == ([0], 2)


def test_after_a_restart_a_member_that_its_peers_lost_is_waited_for_less_long() -> None:
    story = training(0, 1)
    story.restart(0, 1)
    story.attach(0, generation=1, step=3, waiting=True)
    story.arrive(0, 3, ArrivalReason.PEER_LOST, (1,))
    story.pass_time(POLICY.heartbeat_timeout_seconds, 0)
    assert (story.ranks, story.world.generation) == ([0], 2)


def test_a_member_that_never_got_its_world_counts_as_arrived_and_that_world_as_broken() -> None:
    story = training(0, 1)
    story.restart(0, 1)  # it died between storing generation 1 and sending it to worker 1
    story.attach(0, generation=1)
    story.attach(1, waiting=True)
    story.arrive(1)
    assert [a.worker for a in story.told(act.SendAbort)] == ["j-w0"]
    story.arrive(0, None, ArrivalReason.PEER_LOST, (1,))
    assert (story.ranks, story.world.generation) == ([0, 1], 2)


def test_agents_that_are_gone_after_a_restart_are_started_again() -> None:
    story = training(0, 1)
    story.restart(1)
    assert story.told(act.StartAgent) == [act.StartAgent("j-w0")]


def test_after_a_restart_a_member_whose_agent_is_gone_is_not_waited_for() -> None:
    story = training(0, 1)
    story.restart(1)
    story.attach(1, generation=1, step=3)
    story.arrive(1, 3, ArrivalReason.PEER_LOST, (0,))
    assert (story.ranks, story.world.generation) == ([1], 2)


def test_a_worker_of_a_generation_that_the_store_does_not_know_is_fenced() -> None:
    story = Story()
    story.attach(0, generation=7, step=5)  # the store is an older copy, or the worker another coordinator's
    assert [(a.worker, a.reason) for a in story.told(act.SendStop)] == [("j-w0", StopReason.FENCED)]
    story.attach(1)
    story.arrive(1, 5, ArrivalReason.CHANGE, generation=7)
    assert [(a.worker, a.reason) for a in story.told(act.SendStop)] == [("j-w1", StopReason.FENCED)]
    assert story.machine.generation == 0


def test_agents_that_nobody_remembers_are_stopped() -> None:
    story = training(0, 1)
    story.restart(0, 1, 7)
    assert [a.worker for a in story.told(act.StopAgent)] == ["j-w7"]


# --------------------------------------------------------------------------------------------------- scale and drain


def test_scaling_down_drains_the_highest_ranks_and_loses_nothing() -> None:
    story = training(0, 1, 2)
    story.tell(ev.ScaleRequested(1, 1))
    assert len(story.told(act.SendChangePending)) == 3
    for k in range(3):
        story.arrive(k, 4)
    assert (story.ranks, story.world.cause) == ([0], Cause.SCALE)
    assert [(a.worker, a.reason) for a in story.told(act.SendStop)] == [
        ("j-w1", StopReason.DRAINED),
        ("j-w2", StopReason.DRAINED),
    ]
    for k in (1, 2):
        story.tell(ev.WorkerDetached(*story.who(k)))
        story.tell(ev.AgentExited(f"j-w{k}", 71))
        assert not story.told(act.StartAgent)
    assert story.machine.occupied == 1
    assert story.machine.record.recoveries == 0


def test_scaling_up_starts_new_workers_and_lets_them_in_at_a_step_boundary() -> None:
    story = training(0)
    story.tell(ev.Scheduled(2))
    assert story.told(act.StartAgent) == [act.StartAgent("j-w1")]
    story.join(1)
    story.arrive(0, 4)
    assert (story.ranks, story.world.cause) == ([0, 1], Cause.SCALE)


def test_scaling_back_up_before_the_boundary_keeps_the_worker() -> None:
    story = training(0, 1)
    story.tell(ev.ScaleRequested(1, 1))
    story.tell(ev.ScaleRequested(1, 2))
    story.tell(ev.Scheduled(2))
    story.arrive(0, 4)
    story.arrive(1, 4)
    assert story.ranks == [0, 1]
    assert not story.told(act.SendStop)


def test_a_worker_that_vanished_and_was_scaled_away_for_a_moment_is_replaced() -> None:
    """Nobody is told of its agent's end: its machine has lost its power."""
    story = training(0, 1)
    story.tell(ev.WorkerDetached(*story.who(1)))
    story.tell(ev.Scheduled(1))
    story.tell(ev.Scheduled(2))
    decided = story.pass_time(POLICY.absence_timeout_seconds + 5.0, 0)
    assert [a.worker for a in decided if isinstance(a, act.StopAgent)] == ["j-w1"]


def test_a_raised_minimum_does_not_stop_a_world_for_joiners_that_are_too_few() -> None:
    story = training(0, maximum=4)
    story.tell(ev.ScaleRequested(3, 3))
    story.tell(ev.Scheduled(3))
    story.join(1)
    assert not story.told(act.SendChangePending)
    story.join(2)
    assert [a.worker for a in story.told(act.SendChangePending)] == ["j-w0"]


def test_a_worker_asked_to_leave_goes_at_a_boundary_and_is_replaced_without_blame() -> None:
    story = training(0, 1)
    story.tell(ev.WorkerLeaving(*story.who(0), "SIGTERM"))
    assert {a.worker for a in story.told(act.SendChangePending)} == {"j-w0", "j-w1"}
    story.arrive(0, 4)
    story.arrive(1, 4)
    assert (story.ranks, story.world.cause, story.machine.record.recoveries) == ([1], Cause.DRAIN, 0)
    story.tell(ev.WorkerDetached(*story.who(0)))
    story.tell(ev.AgentExited("j-w0", 71))
    assert story.told(act.StartAgent) == [act.StartAgent("j-w0")]
    assert story.machine.record.slots[0].exits == ()


def test_draining_everybody_hands_the_state_on_and_loses_no_step() -> None:
    story = training(0, 1)
    for k in (0, 1):
        story.tell(ev.WorkerLeaving(*story.who(k)))
    story.arrive(0, 4)
    story.arrive(1, 4)
    assert story.ranks == [0]  # kept: it holds the state until somebody can take it
    story.tell(ev.WorkerDetached(*story.who(1)))
    story.tell(ev.AgentExited("j-w1", 71))
    story.life[1] = 1
    story.join(1)
    story.arrive(0, 5)
    assert (story.ranks, story.world.step) == ([0, 1], 5)
    story.arrive(0, 6)
    story.arrive(1, 6)
    assert (story.ranks, story.world.step) == ([1], 6)


# ----------------------------------------------------------------------------------------------------------- the end


def test_a_job_succeeds_when_all_have_finished_with_the_same_weights() -> None:
    story = training(0, 1)
    story.finish(1)
    assert story.told(act.SendStop) == [act.SendStop("j-w1", "1.0", StopReason.FINISHED, "well done")]
    assert isinstance(story.last[0], act.Persist)
    assert story.machine.state is JobState.RUNNING
    story.finish(0, weights_path="result/model.safetensors", metrics={"accuracy": 0.98})
    assert story.machine.state is JobState.SUCCEEDED
    result = story.machine.record.result
    assert result is not None
    assert (result.weights_path, result.metrics) == ("result/model.safetensors", {"accuracy": 0.98})
    for k in (0, 1):
        story.tell(ev.WorkerDetached(*story.who(k)))
        story.tell(ev.AgentExited(f"j-w{k}", 0))
    assert story.machine.done
    assert story.machine.next_deadline() is None


def test_a_long_evaluation_on_rank_0_is_not_cut_off_but_others_have_only_a_grace() -> None:
    story = training(0, 1)
    story.finish(1)
    story.pass_time(60.0, 0)
    assert story.machine.state is JobState.RUNNING
    story = training(0, 1)
    story.finish(0)
    story.pass_time(POLICY.finish_seconds - 1.0, 1)
    assert story.machine.state is JobState.RUNNING
    story.pass_time(1.5, 1)
    assert story.machine.state is JobState.SUCCEEDED
    assert story.told(act.SendStop) == [act.SendStop("j-w1", "1.0", StopReason.FINISHED, "")]


def test_who_waits_when_another_has_finished_is_told_that_there_is_a_result() -> None:
    """Worker 0 got the last step, worker 1 did not: it need not be redone."""
    story = training(0, 1)
    story.arrive(1, 8, ArrivalReason.PEER_LOST, (0,))
    assert story.world.generation == 1  # worker 0 is up, so it is waited for
    story.finish(0)
    assert story.machine.state is JobState.SUCCEEDED
    assert {(a.worker, a.reason) for a in story.told(act.SendStop)} == {
        ("j-w0", StopReason.FINISHED),
        ("j-w1", StopReason.FINISHED),
    }


def test_different_weights_fail_the_job() -> None:
    story = training(0, 1)
    story.finish(0, "abc")
    story.finish(1, "abd")
    assert story.machine.state is JobState.FAILED
    error = story.machine.record.error
    assert error is not None
    assert "different weights" in error.exception


def test_a_finished_worker_that_was_not_acknowledged_says_it_again_to_the_next_coordinator() -> None:
    story = training(0)
    story.restart(0)
    story.attach(0, generation=1, step=9)
    story.finish(0)
    assert story.machine.state is JobState.SUCCEEDED
    story = training(0, 1)
    story.finish(0)
    story.restart(0, 1)  # stored, but the acknowledgement was lost
    story.attach(0, generation=1, step=9)
    story.finish(0)
    assert story.told(act.SendStop)[0].reason is StopReason.FINISHED
    assert len(story.machine.record.finished) == 1


def test_a_script_without_an_elastic_run_succeeds_too() -> None:
    story = Story(2, 2)
    story.attach(0)
    story.attach(1)
    story.finish(0, sha="")
    assert story.machine.state is JobState.RUNNING
    story.life[1] = 1
    story.attach(1)  # another life of worker 1 has nothing to add
    assert story.told(act.SendStop)[0].reason is StopReason.FINISHED
    story.life[1] = 0
    story.finish(1, sha="")
    assert story.machine.state is JobState.SUCCEEDED


def test_a_script_that_raises_fails_the_job_at_once_with_its_traceback() -> None:
    story = training(0, 1)
    story.tell(ev.ScriptFailed(*story.who(1), "ValueError: no", "Traceback…"))
    assert story.machine.state is JobState.FAILED
    assert story.machine.record.error is not None
    assert story.machine.record.error.traceback == "Traceback…"
    assert [(a.worker, a.reason) for a in story.told(act.SendStop)] == [("j-w0", StopReason.FAILED)]


def test_an_agent_that_says_it_first_does_not_cost_the_traceback() -> None:
    story = training(0, 1)
    story.tell(ev.AgentExited("j-w1", 70))
    assert story.machine.state is JobState.RUNNING
    story.tell(ev.ScriptFailed(*story.who(1), "ValueError: no", "Traceback…"))
    assert story.machine.record.error is not None
    assert story.machine.record.error.traceback == "Traceback…"
    story = training(0, 1)
    story.tell(ev.AgentExited("j-w1", 70))
    story.pass_time(POLICY.last_words_seconds, 0, 1)
    assert story.machine.state is JobState.FAILED


def test_a_worker_that_is_given_up_leaves_the_others_training_until_they_are_too_few() -> None:
    story = training(0, 1, 2, minimum=2)
    story.tell(ev.AgentExited("j-w2", 74))
    assert story.machine.state is JobState.RUNNING
    assert not story.told(act.StartAgent)
    demand = story.machine.demand()
    assert demand is not None
    assert (demand.granted, demand.maximum, demand.occupied) == (2, 2, 2)
    story.tell(ev.AgentExited("j-w1", 74))
    assert story.machine.state is JobState.FAILED
    assert story.machine.record.error is not None
    assert "fewer workers are left than the job's minimum of 2" in story.machine.record.error.exception


def test_an_agent_that_keeps_dying_is_started_again_with_growing_pauses_and_then_given_up() -> None:
    story = Story(1, 1)
    pauses: list[float] = []
    for _ in range(POLICY.restart_budget):
        story.tell(ev.AgentExited("j-w0", 1))
        exited = story.now
        while not story.told(act.StartAgent):
            deadline = story.machine.next_deadline()
            assert deadline is not None
            story.tell(ev.Tick(), after=max(deadline - story.now, 0.0))
        pauses.append(story.now - exited)
    assert pauses == pytest.approx([0.0, 0.4, 0.8, 1.6, 3.2, 6.4] + [10.0] * 14)
    story.tell(ev.AgentExited("j-w0", 1))
    assert story.machine.state is JobState.FAILED
    assert not story.told(act.StartAgent)


def all_states() -> dict[str, Story]:
    pending = Story(2, 2, granted=0)
    starting = Story(2, 2)
    recovering = training(0, 1)
    recovering.lose(0)
    recovering.arrive(1, 3, ArrivalReason.PEER_LOST, (0,))
    waiting = training(0, 1, minimum=2)
    waiting.lose(1)
    waiting.arrive(0, 3, ArrivalReason.PEER_LOST, (1,))
    finishing = training(0, 1)
    finishing.finish(1)
    draining = training(0, 1)
    draining.tell(ev.ScaleRequested(1, 1))
    restarted = training(0, 1)
    restarted.restart(0, 1)
    return {
        "pending": pending,
        "starting": starting,
        "running": training(0, 1),
        "recovering": recovering,
        "below the minimum": waiting,
        "finishing": finishing,
        "draining": draining,
        "restarted": restarted,
    }


@pytest.mark.parametrize("name", list(all_states()))
def test_a_cancellation_is_final_in_every_state_and_stops_every_agent(name: str) -> None:
    story = all_states()[name]
    agents = {slot.worker for slot in story.machine.record.slots}
    decided = story.tell(ev.CancelRequested("enough"))
    assert (story.machine.state, story.machine.record.reason) == (JobState.CANCELLED, "enough")
    decided = decided + story.pass_time(POLICY.parting_seconds + 0.5)
    assert {a.worker for a in decided if isinstance(a, act.StopAgent)} == agents
    for later in (
        ev.Scheduled(3),
        ev.CancelRequested(),
        ev.ScaleRequested(1, 1),
        ev.ScriptFailed("j-w0", "0.0", "late"),
        ev.JobRefused("late"),
        ev.WorkerFinished("j-w0", "0.0", Result(9, 90, "abc")),
    ):
        story.tell(later)
        assert story.machine.state is JobState.CANCELLED
        assert not story.told(act.StartAgent)
    story.tell(ev.WorkerAttached("j-w0", "late"))
    assert story.told(act.SendStop)[0].reason is StopReason.CANCELLED
    for worker in agents:
        story.tell(ev.AgentExited(worker, 72))
    assert story.machine.done


def test_an_agent_that_does_not_stop_is_killed() -> None:
    story = training(0)
    decided = story.tell(ev.CancelRequested()) + story.pass_time(POLICY.parting_seconds + POLICY.stop_seconds + 2.0)
    assert [a.grace_seconds for a in decided if isinstance(a, act.StopAgent)] == [POLICY.stop_seconds, 0.0]


def test_an_old_answer_that_there_was_no_agent_is_not_about_the_new_one() -> None:
    story = training(0)
    story.pass_time(POLICY.reattach_seconds + POLICY.replacement_seconds + POLICY.stop_seconds + 2.0)
    assert [a.grace_seconds for a in story.told(act.StopAgent)] == [0.0, 0.0]  # two stops, and one agent
    story.tell(ev.AgentExited("j-w0", -9))
    assert story.told(act.StartAgent)
    story.tell(ev.AgentAbsent("j-w0", 1))
    story.tell(ev.CancelRequested())
    assert [a.worker for a in story.told(act.StopAgent) or story.pass_time(POLICY.parting_seconds)] == ["j-w0"]
    assert not story.machine.done
    story.tell(ev.AgentAbsent("j-w0", 1))  # nor when the new one is being stopped, too
    assert not story.machine.done


def test_an_agent_that_was_gone_when_it_was_to_be_stopped_is_started_again() -> None:
    story = training(0)
    story.pass_time(POLICY.reattach_seconds + POLICY.replacement_seconds)
    story.tell(ev.AgentAbsent("j-w0", 1))
    assert story.told(act.StartAgent) == [act.StartAgent("j-w0")]


def test_a_job_that_can_never_run_fails_with_the_reason() -> None:
    story = Story()
    story.tell(ev.JobRefused("the bundle is gone"))
    assert (story.machine.state, story.machine.record.reason) == (JobState.FAILED, "the bundle is gone")


@pytest.mark.parametrize(("minimum", "maximum"), [(0, 1), (3, 2)])
def test_impossible_limits_are_refused(minimum: int, maximum: int) -> None:
    with pytest.raises(ValueError, match=f"got {minimum}:{maximum}"):
        ev.ScaleRequested(minimum, maximum)
