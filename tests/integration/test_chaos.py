"""The proof as users run it: a job is disturbed by the plan, and ends with the weights and samples of one that was not.

Faults wait for steps, not for times, and the script is slow until all have been injected: what is tested does not
depend on how fast this machine is today.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ARGUMENTS = ("--epochs", "8")
STEPS = 8 * 29  # 1797 samples in batches of 64


def until_step(job: Any, step: int) -> None:
    job.wait_for(lambda commits: any(commit.step >= step for commit in commits), f"step {step}")


def test_a_disturbed_run_is_compared_and_reported(
    make_job: Callable[[], Any], undisturbed: Callable[..., str], tmp_path: Path
) -> None:
    job = make_job()
    job.slow_down()
    spec = "at step 10 kill w1; at step 12 coordinator; at step 40 stop; at step 60 partition w0 w2 for 1s; seed 3"
    options = ("--chaos", spec, "--reference", undisturbed(*ARGUMENTS), "--report", str(tmp_path / "report"))
    job.start("--workers", "1:3", *options, arguments=ARGUMENTS)
    until_step(job, 75)
    code, result, stderr = job.finish()
    assert code == 0, stderr
    report = result["chaos"]
    assert report == json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["passed"], report["problems"]
    assert report["proof"]["weights"]["equal"]
    assert report["proof"]["exactly_once"], report["proof"]
    assert [one["kind"] for one in report["faults"]] == ["kill", "coordinator", "stop", "partition"]
    assert [one["outcome"] for one in report["faults"][:2]] == ["recovered", "recovered"]
    # A process that goes on, or a link that carries again, before anybody is sure: nobody is lost then.
    assert {one["outcome"] for one in report["faults"][2:]} <= {"recovered", "no loss"}
    assert report["coordinator"]["kills"] == 1
    assert report["goodput"]["steps"] == result["steps"] == STEPS
    assert "the same bits" in stderr
    assert "PASSED" in (tmp_path / "report" / "report.html").read_text()


def test_without_a_reference_the_job_runs_again_undisturbed(make_job: Callable[[], Any]) -> None:
    job = make_job()
    job.slow_down()
    job.start("--workers", "2", "--chaos", "at step 5 kill w1", arguments=("--epochs", "1"))
    until_step(job, 8)
    code, result, stderr = job.finish()
    assert code == 0, stderr
    proof = result["chaos"]["proof"]
    assert proof["weights"]["equal"]
    assert proof["ledger"]["equal"]
    assert proof["exactly_once"]
    for name in ("report.html", "report.json", "recording.json"):
        assert (job.state / "chaos" / name).is_file()


def test_a_result_that_is_not_the_same_is_an_error(make_job: Callable[[], Any]) -> None:
    job = make_job()
    options = ("--chaos", "at step 1000 kill", "--reference", "0" * 64)
    job.start("--workers", "1", *options, arguments=("--epochs", "1"))
    code, result, stderr = job.finish()
    assert code == 1
    assert result["state"] == "succeeded"
    assert result["chaos"]["problems"] == [
        "no fault was injected: nothing is proven",
        "the weights are not those of the undisturbed run",
    ]
    assert "NOT THE SAME" in stderr


@pytest.fixture
def service(tmp_path: Path, environment: dict[str, str]) -> Iterator[Path]:
    """A coordinator as a service; its state folder."""
    state = tmp_path / "service"
    command = [sys.executable, "-m", "cordee.coordinator.cli", "coordinator", "--state", str(state), "--port", "0"]
    with subprocess.Popen(
        [*command, "--grpc-port", "0", "--supervised"],
        env=environment,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stdin is not None
        assert any("cordee coordinator at" in line for line in iter(process.stderr.readline, ""))
        yield state
        process.stdin.write("stop\n")
        process.stdin.flush()
        process.stderr.read()
        assert process.wait(60) == 0


def test_a_job_that_runs_is_disturbed_until_the_plan_is_through(
    service: Path, make_job: Callable[[], Any], undisturbed: Callable[..., str]
) -> None:
    job = make_job()
    job.slow_down()
    here = ("--state", str(service))
    submitted = job.cordee(
        "submit", str(job.script), "--workers", "1:2", "--allow-chaos", *here, "-o", "json", "--",
        "--log", str(job.log), *ARGUMENTS,
    )  # fmt: skip
    assert submitted.returncode == 0, submitted.stderr
    identity = json.loads(submitted.stdout)["id"]
    done = job.cordee("chaos", identity, "--spec", "at step 3 kill w1", *here, "-o", "json", timeout=90)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [(one["kind"], one["workers"], one["outcome"]) for one in report["faults"]] == [
        ("kill", ["w1"], "recovered")
    ]
    assert report["job"]["state"] == "running"
    (job.log / "slow").unlink()
    waited = job.cordee("wait", identity, *here, "-o", "json", timeout=90)
    assert json.loads(waited.stdout)["weights_sha256"] == undisturbed(*ARGUMENTS)
