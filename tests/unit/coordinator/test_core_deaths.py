"""What the job machine does about deaths that come again and again, restarts used up, and losses of many at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.coordinator.party import POLICY, Party

from cordee.coordinator.core import actions as act
from cordee.coordinator.core import events as ev
from cordee.coordinator.core.activity import Activity, Doing
from cordee.coordinator.core.job import JobMachine
from cordee.coordinator.core.model import (
    ArrivalReason,
    Cause,
    ExitCause,
    JobState,
    Outlook,
)
from cordee.coordinator.core.record import JobRecord

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
    assert error.exception.startswith(f"j-w1 was killed by SIGSEGV; this happened at about step {party.step}, 3 times")
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
    assert (
        "gave no sign of life for 24 s and was killed; this happened before the first step, 3 times"
        in party.machine.record.reason
    )


def test_memory_that_is_never_enough_for_a_process_ends_the_job_the_third_time_though_a_kill_does_not() -> None:
    words = "was killed by the kernel: more memory was used than the limit of 1 GiB"
    for starved in (False, True):
        party = Party(2)
        party.go(5.0, heard=(0, 1))
        for _ in range(3):
            assert party.state is not JobState.FAILED
            party.die(1, words=words, out_of_memory=starved)
        assert (party.state is JobState.FAILED) == starved
    assert f"j-w1 {words}; this happened at about step {party.step}, 3 times" in party.machine.record.reason


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
    assert (
        "ended without a result that was heard of; this happened before the first step, 3 times"
        in party.machine.record.reason
    )


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
        party.tell(ev.WorkerDetached(*party.who(1)))
        party.tell(ev.AgentExited("j-w1", -9))
        party.go(1.0, heard=(0,))
        party.life[1] = party.life.get(1, 0) + 1
        party.join(1)
        party.go(150.0, heard=(0, 1))
    assert party.events("given_up") == []


MISSING = "ModuleNotFoundError: No module named 'cordee'"


def test_agents_that_die_before_their_worker_is_heard_of_use_up_the_budget_however_long_they_take() -> None:
    """A pod is slow: what it takes to be started alone may be longer than a window of the budget has room for."""
    party = Party(0, maximum=1, restart_budget=5)
    party.tell(ev.Scheduled(1))
    for times in range(6):
        assert party.state is JobState.STARTING, times
        assert party.take(act.StartAgent)
        party.go(300.0)
        party.tell(ev.AgentExited("j-w0", 1, MISSING))
        party.restart()  # nor does the coordinator's restart forgive any
        party.go(10.0)
    assert party.state is JobState.FAILED
    assert party.machine.record.reason == (
        f"j-w0's agent exited with code 1: {MISSING}, 6 times, and its worker was never heard of in between; "
        "fewer workers are left than the job's minimum of 1"
    )


def test_a_worker_that_ran_once_and_whose_agents_then_die_unheard_is_given_up_too() -> None:
    party = Party(2, restart_budget=3)
    for _ in range(4):
        party.tell(ev.AgentExited("j-w1", 1, MISSING))
        party.go(700.0, heard=(0,))
    assert len(party.events("given_up")) == 1
    assert party.state is JobState.RUNNING


@pytest.mark.parametrize("code", [126, 127, 128])
def test_an_image_without_the_agent_ends_a_job_of_which_nobody_has_come_the_third_time(code: int) -> None:
    words = 'its container cannot be started: exec: "python": executable file not found in $PATH'
    party = Party(0, maximum=1)
    party.tell(ev.Scheduled(1))
    for _ in range(3):
        assert party.state is JobState.STARTING
        party.tell(ev.AgentExited("j-w0", code, words))
        party.go(15.0)
    assert party.state is JobState.FAILED
    assert party.machine.record.reason == (
        f"j-w0's agent exited with code {code}: {words}; this happened before the first step, 3 times, "
        "and the job got no further: it is not tried again"
    )


def test_a_machine_that_cannot_run_containers_does_not_end_a_job_that_others_run() -> None:
    party = Party(2, maximum=3)
    party.tell(ev.Scheduled(3))
    for _ in range(6):
        party.tell(ev.AgentExited("j-w2", 128, "its container cannot be started: nvidia-container-cli: no driver"))
        party.go(15.0, heard=(0, 1))
    assert party.state is JobState.RUNNING


def test_memory_beyond_the_limit_three_times_at_the_same_place_ends_the_job_and_in_between_progress_does_not() -> None:
    words = "used more memory than its limit of 1Gi: raise spec.pod.resources.memory"
    machine = JobMachine(JobRecord("j", 1, 1), POLICY)
    machine.handle(ev.Scheduled(1), 0.0)
    for k in range(3):
        assert machine.state is JobState.STARTING
        machine.handle(ev.AgentExited("j-w0", -9, words, cause=ExitCause.OUT_OF_MEMORY), 20.0 * k + 1.0)
        machine.handle(ev.Tick(), 20.0 * k + 15.0)
    assert machine.state is JobState.FAILED
    assert machine.record.reason == (
        f"j-w0's agent was ended by signal 9: {words}; this happened before the first step, 3 times, "
        "and the job got no further: it is not tried again"
    )
    party = Party(2)
    for _ in range(5):
        party.go(20.0, heard=(0, 1))
        party.tell(ev.AgentExited("j-w1", -9, words, cause=ExitCause.OUT_OF_MEMORY))
    assert party.state is not JobState.FAILED


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


def test_a_job_that_fails_below_its_minimum_says_what_kept_its_workers_from_coming() -> None:
    machine = JobMachine(JobRecord("j", 2, 2), replace(POLICY, minimum_timeout_seconds=30.0))
    machine.handle(ev.Scheduled(2), 0.0)
    words = "j-w1's pod waits for a node: 0/3 nodes are available: 3 Insufficient cpu."
    machine.handle(ev.AgentNoted("j-w1", "unschedulable", words, Outlook.PASSING), 1.0)
    while machine.state is JobState.STARTING:
        machine.handle(ev.Tick(), machine.next_deadline() or 1e9)
    assert machine.record.reason == (
        f"the job could not train for 30 s: 0 of the at least 2 workers are there; {words} "
        "(spec.failurePolicy.minimumTimeoutSeconds)"
    )


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
