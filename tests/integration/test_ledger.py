"""The second promise: whatever happens to the workers, every sample is read exactly once per epoch, and `cordee ledger`
proves it, with the fingerprint of an undisturbed run."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SCRIPT = Path(__file__).resolve().parent / "scripts" / "train.py"
EPOCHS = 8
SAMPLES = 1797  # 29 steps of 64 samples, the last one of 5


def alone(log: Path, *arguments: str) -> tuple[str, str]:
    """What plain `python` leaves: its weights' fingerprint, and its ledger's."""
    ledger = log / "samples.ledger"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CORDEE_")}
    environment["CORDEE_DEVICE"] = os.environ["CORDEE_DEVICE"]
    words = ["--log", str(log), "--ledger", str(ledger), *arguments]
    subprocess.run([sys.executable, str(SCRIPT), *words], check=True, capture_output=True, timeout=120, env=environment)
    told = subprocess.run(
        [sys.executable, "-m", "cordee.coordinator.cli", "ledger", str(ledger), "-o", "json"],
        check=True, capture_output=True, timeout=60, env=environment,
    )  # fmt: skip
    return (log / "alone.sha256").read_text(), json.loads(told.stdout)["sha256"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], tuple[str, str]]:
    known: dict[int, tuple[str, str]] = {}

    def fingerprints(epochs: int) -> tuple[str, str]:
        if epochs not in known:
            known[epochs] = alone(tmp_path_factory.mktemp("alone"), "--epochs", str(epochs))
        return known[epochs]

    return fingerprints


def proof(job: Any, *options: str) -> dict[str, Any]:
    """What `cordee ledger` proves of the job, under way or ended."""
    answer = job.cordee("ledger", "train", "--state", str(job.state), "-o", "json", *options, timeout=60)
    assert answer.stdout, answer.stderr
    told: dict[str, Any] = json.loads(answer.stdout)
    assert answer.returncode == 0, told
    return told


def assert_exactly_once(job: Any, epochs: int, undisturbed: Callable[[int], tuple[str, str]]) -> dict[str, Any]:
    """Ends the job; weights and ledger are those of an undisturbed run."""
    code, result, stderr = job.finish()
    assert code == 0, stderr
    told = proof(job)
    assert (told["proven"], told["finished"], told["steps"]) == (True, True, epochs * 29)
    assert [(epoch["samples"], epoch["distinct"], epoch["missing"], epoch["twice"]) for epoch in told["epochs"]] == [
        (SAMPLES, SAMPLES, 0, 0)
    ] * epochs
    assert (result["weights_sha256"], told["sha256"]) == undisturbed(epochs)
    return told


def test_a_storm_of_kills_loses_no_sample_and_repeats_none(
    make_job: Callable[[], Any], undisturbed: Callable[[int], tuple[str, str]]
) -> None:
    chooser = random.Random(8)
    job = make_job()
    job.slow_down()
    job.start("--workers", "1:3", "--ledger", arguments=("--epochs", str(EPOCHS)))
    for at in (2, 6, 10, 14, 18):
        commits = job.wait_for(
            lambda commits, at=at: any(c.step >= at for c in commits) and commits[-1].size > 1, f"step {at} together"
        )
        last = max(c.generation for c in commits)
        newest = {c.rank: c.pid for c in commits if c.generation == last}
        # Rank 0 writes the ledger: it is killed as soon as it is seen to have committed something, and so are others.
        ranks = chooser.choice([[0], [0, max(newest)], [max(newest)]])
        for rank in ranks:
            if rank in newest:
                os.kill(newest[rank], signal.SIGKILL)
        job.wait_for(lambda commits, g=last: any(c.generation > g for c in commits), "it goes on")
    told = assert_exactly_once(job, EPOCHS, undisturbed)
    assert told["worlds"] >= 5


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(6))
def test_long_storms_of_everything_at_once(
    seed: int, make_job: Callable[[], Any], undisturbed: Callable[[int], tuple[str, str]]
) -> None:
    """Kills of some and of all, requests to go, and other numbers of workers, in any order, on up to eight workers."""
    chooser = random.Random(seed)
    job = make_job()
    job.slow_down()
    job.start("--workers", "1:8", "--ledger", "--checkpoint-every", "0.5", arguments=("--epochs", str(3 * EPOCHS)))
    job.wait_for(lambda commits: any(c.size > 1 for c in commits), "some train")
    for _ in range(12):
        commits = job.commits()
        last = max(c.generation for c in commits)
        newest = {c.rank: c.pid for c in commits if c.generation == last}
        kind = chooser.choice(["first", "some", "all", "ask", "scale"])
        if kind == "scale":
            workers = chooser.choice(["1:2", "3:3", "1:5", "1:8"])
            assert job.cordee("scale", "train", workers, "--state", str(job.state)).returncode == 0
        else:
            ranks = chooser.sample(sorted(newest), chooser.randint(1, len(newest)))
            ranks = {"first": [min(newest)], "all": sorted(newest)}.get(kind, ranks)
            for rank in ranks:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(newest[rank], signal.SIGTERM if kind == "ask" else signal.SIGKILL)
            job.wait_for(lambda commits, g=last: any(c.generation > g for c in commits), f"it goes on after {kind}")
    assert_exactly_once(job, 3 * EPOCHS, undisturbed)


def test_everybody_killed_twice_and_what_is_done_again_reads_the_same(
    make_job: Callable[[], Any], undisturbed: Callable[[int], tuple[str, str]]
) -> None:
    job = make_job()
    job.slow_down()
    job.start("--workers", "2:3", "--ledger", "--checkpoint-every", "0.2", arguments=("--epochs", str(EPOCHS)))
    for at in (8, 20):
        commits = job.wait_for(lambda commits, at=at: any(c.step >= at for c in commits), f"step {at}")
        last = max(c.generation for c in commits)
        under_way = proof(job)
        assert under_way["claim"].startswith("proven so far: ")
        assert under_way["steps"] >= at
        for pid in job.members().values():
            os.kill(pid, signal.SIGKILL)
        job.wait_for(lambda commits, g=last: any(c.generation > g for c in commits), "it begins again")
    told = assert_exactly_once(job, EPOCHS, undisturbed)
    assert told["redone"] > 0, "from a checkpoint, some steps are done again"


def test_scaling_and_draining_cost_no_sample(
    make_job: Callable[[], Any], undisturbed: Callable[[int], tuple[str, str]]
) -> None:
    job = make_job()
    job.slow_down()
    job.start("--workers", "1:3", "--ledger", arguments=("--epochs", str(EPOCHS)))
    for scale, size in (("1:3", 3), ("1:1", 1), ("2:2", 2), ("1:3", 3)):
        if scale != "1:3" or job.commits():
            assert job.cordee("scale", "train", scale, "--state", str(job.state)).returncode == 0
        at = max((c.step for c in job.commits()), default=0)
        job.wait_for(lambda commits, s=size, a=at: any(c.size == s and c.step > a for c in commits), f"{size} train")
    generation = job.commits()[-1].generation
    job.wait_for(lambda commits: any(c.generation == generation and c.rank == 0 for c in commits), "rank 0 trains, too")
    first = next(c.pid for c in job.commits() if c.generation == generation and c.rank == 0)
    os.kill(first, signal.SIGTERM)  # rank 0 is asked to go: it leaves at a step's end, and another one writes
    job.wait_for(lambda commits: any(c.generation > generation for c in commits), "the others go on")
    told = assert_exactly_once(job, EPOCHS, undisturbed)
    assert told["redone"] == 0, "a planned change does nothing again"


def test_two_jobs_are_compared_and_a_job_without_a_ledger_is_told(make_job: Callable[[], Any]) -> None:
    job, other = make_job(), make_job()
    job.start("--workers", "2", "--ledger", arguments=("--epochs", "1"))
    assert job.finish()[0] == 0
    other.start("--workers", "1", arguments=("--epochs", "1"))
    assert other.finish()[0] == 0
    refused = job.cordee("ledger", "train", "--state", str(other.state))
    assert refused.returncode == 102
    assert "keeps no ledger" in refused.stderr
    assert "hint: start a job with --ledger" in refused.stderr

    file = next(job.state.glob("jobs/*/ledger/samples.ledger"))
    told = job.cordee("ledger", "train", "--state", str(job.state), "--compare", str(file))
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("proven: every sample exactly once in 1 finished epoch\n")
    assert "read the same, step by step" in told.stdout

    text = file.read_bytes()
    file.write_bytes(text[:-200])  # its last step is gone
    told = job.cordee("ledger", "train", "--state", str(job.state))
    assert told.returncode == 1
    assert told.stdout.startswith("not proven: 1 violation\n")
    assert "- step 29 is missing" in told.stdout
