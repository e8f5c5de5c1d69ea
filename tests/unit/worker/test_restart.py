"""When a worker is started again, from its exit codes alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cordee.worker import exit_codes
from cordee.worker.restart import BUDGET, LAST_BACKOFF_SECONDS, WINDOW_SECONDS, WORTH_SECONDS, RestartPolicy

KILLED = -9


@pytest.mark.parametrize("code", sorted(exit_codes.FINAL))
def test_a_final_code_ends_the_agent_with_the_same_code(code: int) -> None:
    assert RestartPolicy().ended(code, step=1, lived=9.0, now=0.0) == (None, code)


@pytest.mark.parametrize("code", [KILLED, -11, 1, 73, 139, 255])
def test_a_death_after_a_committed_step_is_answered_at_once_every_time(code: int) -> None:
    policy = RestartPolicy()
    assert [policy.ended(code, step=1, lived=1.0, now=float(i))[0] for i in range(BUDGET)] == [0.0] * BUDGET


def test_deaths_without_a_committed_step_wait_longer_each_time_up_to_a_limit() -> None:
    policy = RestartPolicy()
    delays = [policy.ended(1, step=0, lived=1.0, now=0.0)[0] for _ in range(9)]
    assert delays == pytest.approx([0.0, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, LAST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS])


def test_a_committed_step_forgives_earlier_deaths() -> None:
    policy = RestartPolicy()
    for _ in range(5):
        policy.ended(1, step=0, lived=1.0, now=0.0)
    assert policy.ended(KILLED, step=1, lived=1.0, now=1.0) == (0.0, KILLED)
    assert policy.ended(1, step=0, lived=1.0, now=2.0) == (0.0, 1)


def test_the_budget_ends_it_and_time_refills_it() -> None:
    policy = RestartPolicy()
    for _ in range(BUDGET):
        assert policy.ended(KILLED, step=1, lived=1.0, now=0.0)[0] is not None
    assert policy.ended(KILLED, step=1, lived=1.0, now=WINDOW_SECONDS - 1) == (None, exit_codes.GAVE_UP)
    assert policy.ended(KILLED, step=1, lived=1.0, now=WINDOW_SECONDS)[0] == 0.0
    assert policy.restarts == BUDGET + 1


def test_a_week_of_faults_with_progress_between_them_uses_nothing_up() -> None:
    policy = RestartPolicy()
    for k in range(1, 10_000):
        assert policy.ended(KILLED, step=10 * k, lived=WORTH_SECONDS, now=15.0 * k) == (0.0, KILLED)


@pytest.mark.parametrize(
    ("step", "lived"),
    [(lambda _k: 0, 60.0), (lambda _k: 7, 60.0), (lambda k: k, WORTH_SECONDS - 0.1)],
    ids=["never a step", "never a step further", "further, but not worth a world's change"],
)
def test_what_is_not_worth_a_restart_uses_the_budget_up(step: Callable[[int], int], lived: float) -> None:
    policy, now, restarts = RestartPolicy(window_seconds=1e6), 0.0, 0
    while policy.ended(KILLED, step=step(restarts + 1), lived=lived, now=now)[0] is not None:
        now += 60.0
        restarts += 1
        assert restarts <= BUDGET + 1
    assert restarts >= BUDGET


def test_a_restart_that_was_worth_it_is_possible_with_an_empty_budget_and_fills_nothing_up() -> None:
    policy = RestartPolicy(budget=2)
    for _ in range(2):
        policy.ended(1, step=0, lived=1.0, now=0.0)
    assert policy.ended(KILLED, step=5, lived=9.0, now=1.0) == (0.0, KILLED)
    assert policy.ended(1, step=0, lived=1.0, now=2.0) == (None, exit_codes.GAVE_UP)


def test_no_restarts_means_none() -> None:
    assert RestartPolicy(budget=0).ended(KILLED, step=9, lived=99.0, now=0.0) == (None, exit_codes.GAVE_UP)


def test_codes_are_said_in_words() -> None:
    assert exit_codes.describe(KILLED) == "was killed by SIGKILL"
    assert exit_codes.describe(-250) == "was killed by signal 250"
    assert exit_codes.describe(3) == "exited with code 3"
    assert exit_codes.describe(exit_codes.DRAINED) == "drained"
