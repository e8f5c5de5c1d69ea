"""The command itself dies: its folder still tells about the job, and the same command line goes on with it."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

EPOCHS = 8
LONG = ("--epochs", str(EPOCHS))
OPTIONS = ("--workers", "1:2", "--checkpoint-every", "0.2")


def cut_off(job: Any, *, with_workers: bool) -> dict[str, int]:
    """Trains up to step 20, then kills the command, and its workers too or not; who trained then."""
    job.slow_down()
    job.start(*OPTIONS, arguments=LONG)
    job.wait_for(lambda commits: any(c.step >= 20 and c.size == 2 for c in commits), "step 20 with two workers")
    members: dict[str, int] = job.members()
    job.process.send_signal(signal.SIGKILL)
    job.process.communicate(timeout=30)
    job.process = None
    if with_workers:
        victims = job.processes()
        for process in victims:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(victims, timeout=30)
    return members


def listed(job: Any) -> dict[str, Any]:
    (found,) = json.loads(job.cordee("jobs", "--state", str(job.state), "-o", "json").stdout)["jobs"]
    return found  # type: ignore[no-any-return]


def test_the_same_command_takes_up_the_workers_of_the_one_that_was_killed(
    make_job: Callable[[], Any], undisturbed: Callable[..., str]
) -> None:
    job = make_job()
    before = cut_off(job, with_workers=False)
    left = listed(job)
    assert left["state"] == "running"
    assert left["reason"] == "its coordinator is gone; 2 workers train on without it for a while"
    step = max(c.step for c in job.commits())
    job.wait_for(lambda commits: any(c.step > step for c in commits), "training goes on while nobody supervises it")
    job.start(*OPTIONS, arguments=LONG)
    code, result, stderr = job.finish()
    assert code == 0, stderr
    assert f"going on with {left['id']}, which was cut off at step" in stderr
    assert result["job"] == left["id"]
    assert result["weights_sha256"] == undisturbed(*LONG)
    assert (result["samples"], result["recoveries"]) == (EPOCHS * 1797, 0)
    assert {c.worker: c.pid for c in job.commits()} == before, "a worker was started again"


def test_the_same_command_resumes_from_the_checkpoint_when_the_workers_are_gone_too(
    make_job: Callable[[], Any], undisturbed: Callable[..., str]
) -> None:
    job = make_job()
    cut_off(job, with_workers=True)
    left = listed(job)
    assert (left["state"], left["reason"]) == ("interrupted", "its coordinator is gone; it was running")
    assert left["step"] > 0
    status = job.cordee("status", left["id"], "--state", str(job.state))
    assert f"hint: to go on with it: cordee run {job.script}" in status.stderr
    job.start(*OPTIONS, arguments=LONG)
    code, result, stderr = job.finish()
    assert code == 0, stderr
    assert f"going on with {left['id']}, which was cut off at step {left['step']}; from its checkpoint" in stderr
    assert result["job"] == left["id"]
    assert result["weights_sha256"] == undisturbed(*LONG)
    assert result["samples"] == EPOCHS * 1797
    assert len({c.pid for c in job.commits() if c.step == 1}) <= 2, (
        "it began from scratch instead of from its checkpoint"
    )
    assert (listed(job)["state"], listed(job)["id"]) == ("succeeded", left["id"])
