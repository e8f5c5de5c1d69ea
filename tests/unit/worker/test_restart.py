"""When a worker is started again, from its exit codes alone."""

from __future__ import annotations

import pytest

from cordee.worker import exit_codes
from cordee.worker.restart import BUDGET, LAST_BACKOFF_SECONDS, WINDOW_SECONDS, RestartPolicy

KILLED = -9


@pytest.mark.parametrize("code", sorted(exit_codes.FINAL))
def test_a_final_code_ends_the_agent_with_the_same_code(code: int) -> None:
    assert RestartPolicy().ended(code, committed=True, now=0.0) == (None, code)


@pytest.mark.parametrize("code", [KILLED, -11, 1, 73, 139, 255])
def test_a_death_after_a_committed_step_is_answered_at_once_every_time(code: int) -> None:
    policy = RestartPolicy()
    assert [policy.ended(code, committed=True, now=float(i))[0] for i in range(BUDGET)] == [0.0] * BUDGET


def test_deaths_without_a_committed_step_wait_longer_each_time_up_to_a_limit() -> None:
    policy = RestartPolicy()
    delays = [policy.ended(1, committed=False, now=0.0)[0] for _ in range(9)]
    assert delays == pytest.approx([0.0, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, LAST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS])


def test_a_committed_step_forgives_earlier_deaths() -> None:
    policy = RestartPolicy()
    for _ in range(5):
        policy.ended(1, committed=False, now=0.0)
    assert policy.ended(KILLED, committed=True, now=1.0) == (0.0, KILLED)
    assert policy.ended(1, committed=False, now=2.0) == (0.0, 1)


def test_the_budget_ends_it_and_time_refills_it() -> None:
    policy = RestartPolicy()
    for _ in range(BUDGET):
        assert policy.ended(KILLED, committed=True, now=0.0)[0] is not None
    assert policy.ended(KILLED, committed=True, now=WINDOW_SECONDS - 1) == (None, exit_codes.GAVE_UP)
    assert policy.ended(KILLED, committed=True, now=WINDOW_SECONDS)[0] == 0.0
    assert policy.restarts == BUDGET + 1


def test_codes_are_said_in_words() -> None:
    assert exit_codes.describe(KILLED) == "was killed by SIGKILL"
    assert exit_codes.describe(-250) == "was killed by signal 250"
    assert exit_codes.describe(3) == "exited with code 3"
    assert exit_codes.describe(exit_codes.DRAINED) == "drained"
