"""Workers that compute differently from those that train, with real processes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

EPOCHS = 4
STEPS = EPOCHS * 29  # 1797 samples in batches of 64


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "asked"])
def test_who_is_left_alone_saves_and_begins_anew_with_enough_others(
    make_job: Callable[[], Any], how: signal.Signals
) -> None:
    """Also where nothing was lost: the others were asked to go, as pods are that are made anew of a newer image."""
    job = make_job()
    job.slow_down()
    job.start("--workers", "2:3", arguments=("--epochs", str(EPOCHS)))  # a first checkpoint would be due after 30 s
    job.wait_for(lambda commits: any(c.step >= 5 and c.size == 3 for c in commits), "three workers train")
    before = {c.worker: (c.rank, c.pid) for c in job.commits() if c.size == 3}
    _, *lost = sorted(before, key=lambda worker: before[worker][0])
    for worker in lost:
        (job.log / f"{worker}.threads").write_text("2")
    for worker in lost:
        os.kill(before[worker][1], how)
    pids = {pid for _, pid in before.values()}
    commits = job.wait_for(lambda commits: any(c.pid not in pids for c in commits), "those that came train")
    held = max(c.step for c in commits if c.pid in pids)
    assert {(c.worker in lost, c.size) for c in commits if c.pid not in pids} == {(True, 2)}
    assert min(c.step for c in commits if c.pid not in pids) == held + 1, "what was held was saved, and no step lost"
    code, result, stderr = job.finish()
    assert code == 0, stderr
    assert (result["steps"], result["samples"]) == (STEPS, EPOCHS * 1797)
    (found,) = json.loads(job.cordee("jobs", "--state", str(job.state), "-o", "json").stdout)["jobs"]
    told = {event["kind"]: event["message"] for event in found["events"]}
    assert told["outnumbered"] == (
        "too few are left that compute with 1 thread, and 2 workers are there that compute with 2 threads: "
        f"they go on once step {held} is saved"
    )
    assert f"step-{held:012} was computed with 1 thread; this goes on with 2 threads" in told["computes"]
