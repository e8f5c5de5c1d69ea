"""A job's failure policy, with real processes: what is permanent is given up early, and what may pass is waited for."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

EPOCHS = 8
LONG = ("--epochs", str(EPOCHS))


def with_policy(job: Any, workers: str, **policy: object) -> None:
    """The same job, by a job file."""
    spec = {"script": str(job.script), "workers": workers, "failurePolicy": policy}
    head = {"apiVersion": "cordee.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "faulty"}}
    job.script = job.log.parent / "job.yaml"
    job.script.write_text(json.dumps({**head, "spec": spec}))  # JSON is YAML


@pytest.mark.parametrize(
    ("how", "workers", "words", "stack"),
    [
        ("exit0", "1", "ended with code 0 without finishing", ""),
        ("segfault", "2", "was killed by SIGSEGV", "string_at"),
        ("memory", "2", "crashed: MemoryError;", "MemoryError: no room for this batch"),
    ],
)
def test_a_script_that_always_ends_at_the_same_step_fails_its_job_after_three_attempts(
    how: str, workers: str, words: str, stack: str, make_job: Callable[..., Any]
) -> None:
    """DLRover's own rule: retrying a permanent error only hides it."""
    job = make_job("faulty.py")
    job.start("--workers", workers, arguments=("--end-at", "5", "--how", how))
    code, result, stderr = job.finish()
    assert (code, result["state"]) == (100, "failed"), stderr
    [error] = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: the job failed: ")
    assert words in error
    assert error.endswith("3 times, and the job got no further: it is not tried again")
    assert stack in stderr


def test_a_job_below_its_minimum_fails_when_its_user_said_so(make_job: Callable[..., Any]) -> None:
    job = make_job("faulty.py")
    with_policy(job, "2", minimumTimeoutSeconds=4.0)
    job.start(arguments=("--absent", "w1"))
    code, result, stderr = job.finish()
    assert (code, result["state"]) == (100, "failed"), stderr
    # On a busy machine not even the other one may be there by then.
    assert re.search(r"error: the job failed: the job could not train for 4 s: [01] of the at least 2 workers", stderr)


def test_the_first_worker_leaves_and_its_state_survives(
    make_job: Callable[[], Any], undisturbed: Callable[..., str]
) -> None:
    """Horovod's schedule: {A}, {A, B}, {B}; and A comes back."""
    job = make_job()
    job.slow_down()
    job.start("--workers", "1:1", "--name", "schedule", arguments=LONG)
    job.wait_for(lambda commits: any(c.step >= 3 for c in commits), "A trains")
    assert job.cordee("scale", "schedule", "1:2", "--state", str(job.state)).returncode == 0
    both = job.wait_for(lambda commits: commits[-1].size == 2 if commits else False, "A and B train")
    first = next(commit for commit in reversed(both) if commit.size == 2 and commit.rank == 0)
    os.kill(first.pid, signal.SIGTERM)
    job.wait_for(
        lambda commits: any(
            c.generation > first.generation and c.worker != first.worker and c.rank == 0 for c in commits
        ),
        "B is the first now",
    )
    code, result, stderr = job.finish()
    assert code == 0, stderr
    assert result["weights_sha256"] == undisturbed(*LONG)
    assert result["recoveries"] == 0
    steps = [commit.step for commit in job.commits() if commit.rank == 0]
    assert len(steps) == len(set(steps)), "a step was done twice"


def test_a_graceful_loss_below_the_minimum_pauses_and_a_return_goes_on(
    make_job: Callable[[], Any], undisturbed: Callable[..., str]
) -> None:
    """horovod#3494: there it was a deadlock."""
    job = make_job()
    job.slow_down()
    job.start("--workers", "2:2", arguments=LONG)
    job.wait_for(lambda commits: any(c.step >= 3 for c in commits), "two train")
    members = job.members()
    leaver = sorted(members)[1]
    generation = max(commit.generation for commit in job.commits())
    os.kill(members[leaver], signal.SIGTERM)
    commits = job.wait_for(lambda commits: any(c.generation > generation for c in commits), "two train again")
    assert {commit.size for commit in commits} == {2}
    code, result, stderr = job.finish()
    assert code == 0, stderr
    assert result["weights_sha256"] == undisturbed(*LONG)
