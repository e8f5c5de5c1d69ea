"""`fit` keeps the promise: the same weights, history and decisions, whatever happens to the workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

LATER = pytest.mark.long
SCRIPT = Path(__file__).resolve().parent / "scripts" / "fitted.py"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What plain `python` leaves behind."""
    log = tmp_path_factory.mktemp("alone")
    kept = {name: value for name, value in os.environ.items() if name not in ("CORDEE_WORKER", "CORDEE_JOB")}
    subprocess.run([sys.executable, str(SCRIPT), "--log", str(log)], check=True, timeout=120, env=kept)
    return log


def histories(log: Path) -> list[Any]:
    return [json.loads(path.read_text()) for path in log.glob("*.history")]


def test_an_early_stop_ends_with_the_best_epochs_weights(alone: Path) -> None:
    (history,) = histories(alone)
    assert history["epoch"] == [1, 2, 3, 4]
    assert history["history"]["val_loss"][1] == min(history["history"]["val_loss"])
    assert (alone / "history.csv").read_text().count("\n") == 5


@pytest.mark.parametrize("kill_at", [pytest.param(3, marks=LATER), 40, pytest.param(60, marks=LATER)])
def test_a_kill_changes_neither_weights_nor_history(kill_at: int, make_job: Callable[..., Any], alone: Path) -> None:
    """Step 40 is in the second epoch, whose figures the joiner has seen only a part of; step 60 in the third."""
    job = make_job("fitted.py")
    job.slow_down()
    job.start("--workers", "2")
    commits = job.wait_for(
        lambda commits: any(c.step >= kill_at and c.size == 2 for c in commits), f"two workers at step {kill_at}"
    )
    victim = max(c.rank for c in commits if c.generation == commits[-1].generation)
    pid = next(c.pid for c in reversed(commits) if c.rank == victim)
    generation = max(c.generation for c in commits)
    os.kill(pid, signal.SIGKILL)
    job.wait_for(lambda commits: any(c.generation > generation and c.size == 2 for c in commits), "two workers again")
    code, result, stderr = job.finish()
    assert (code, result["state"]) == (0, "succeeded"), stderr
    assert result["weights_sha256"] == (alone / "alone.sha256").read_text()
    (expected,) = histories(alone)
    found = histories(job.log)
    assert found
    for history in found:
        assert history == expected
    assert (job.log / "history.csv").read_text() == (alone / "history.csv").read_text()
