"""What people train with keeps the promise in real processes, too: kills and joiners; the end is the same.

The matrix of all of it, in memory, is tests/unit/trainer/test_elastic_matrix.py; so half of it here is `long`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SCRIPT = Path(__file__).resolve().parent / "scripts" / "families.py"


def alone(family: str, log: Path) -> str:
    """What plain `python` ends with."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CORDEE_WORKER", "CORDEE_JOB")}
    command = [sys.executable, str(SCRIPT), "--log", str(log), "--family", family]
    subprocess.run(command, check=True, timeout=120, env=kept)
    return (log / "alone.end").read_text()


@pytest.mark.parametrize(
    ("family", "kills"),
    [
        pytest.param("turns", (4, 40), marks=pytest.mark.long),
        pytest.param("state", (30,), marks=pytest.mark.long),
        ("loops", (35,)),
        ("halves", (25,)),
        ("evaluation", (5,)),
    ],
)
def test_kills_change_nothing_of_its_end(
    family: str, kills: tuple[int, ...], make_job: Callable[..., Any], tmp_path: Path
) -> None:
    expected = alone(family, tmp_path / "alone")
    job = make_job("families.py")
    job.slow_down()
    job.start("--workers", "1:3", arguments=("--family", family))
    for at in kills:
        job.wait_for(
            lambda commits, at=at: (
                any(c.step >= at for c in commits)
                and commits[-1].size == 3
                and len({c.worker for c in commits if c.generation == commits[-1].generation}) == 3
            ),
            f"three workers at step {at}",
        )
        members = job.members()
        generation = max(c.generation for c in job.commits())
        os.kill(members[sorted(members)[at % 3]], signal.SIGKILL)
        job.wait_for(lambda commits, g=generation: any(c.generation > g for c in commits), "the survivors go on")
    job.wait_for(lambda commits: commits[-1].size == 3, "three workers again")
    code, result, stderr = job.finish()
    assert code == 0, stderr
    assert result["weights_sha256"] == expected.split()[0]
    ends = [path.read_text() for path in job.log.glob("*.end")]
    assert ends
    assert set(ends) == {expected}
    assert 1 <= result["recoveries"] <= len(kills), "a worker that evaluates alone is left in peace"
