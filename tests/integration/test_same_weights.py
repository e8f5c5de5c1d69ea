"""The promise: whatever happens to the workers, a job ends with the weights of an undisturbed run, bit for bit."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

EPOCHS = 8
LONG = ("--epochs", str(EPOCHS))
STEPS = EPOCHS * 29  # 1797 samples in batches of 64


def is_whole(size: int) -> Callable[[list[Any]], bool]:
    return lambda commits: any(commit.size == size for commit in commits)


LATER = pytest.mark.long


# Every model trains in a world of three, or is disturbed below; alone, one model stands for all.
@pytest.mark.parametrize(
    ("workers", "model"),
    [
        ("1", "mlp"), ("3", "conv"), ("3", "attention"), pytest.param("3", "mlp", marks=LATER),
        *(pytest.param("1", model, marks=LATER) for model in ("conv", "attention", "norm")),
        pytest.param("3", "norm", marks=LATER),
    ],
)  # fmt: skip
def test_any_number_of_workers_ends_with_plain_pythons_weights(
    model: str, workers: str, make_job: Callable[[], Any], undisturbed: Callable[..., str]
) -> None:
    arguments = ("--model", model, "--epochs", "2")
    job = make_job()
    job.start("--workers", workers, arguments=arguments)
    code, result, stderr = job.finish()
    assert (code, result["state"]) == (0, "succeeded"), stderr
    assert result["weights_sha256"] == undisturbed(*arguments)
    assert result["steps"] == 2 * 29
    assert result["samples"] == 2 * 1797
    assert result["recoveries"] == 0


@pytest.mark.parametrize(
    ("kill_seed", "model", "epochs"),
    [(0, "mlp", EPOCHS), pytest.param(1, "mlp", EPOCHS, marks=LATER), (2, "norm", 3)],
)
def test_kills_cost_no_bit_and_no_survivor(
    kill_seed: int, model: str, epochs: int, make_job: Callable[[], Any], undisturbed: Callable[..., str]
) -> None:
    arguments = ("--model", model, "--epochs", str(epochs))
    chooser = random.Random(kill_seed)
    job = make_job()
    job.slow_down()
    job.start("--workers", "1:3", arguments=arguments)
    kills = 0
    for at in (3, 15, 30):
        job.wait_for(
            lambda commits, at=at: (
                any(c.step >= at for c in commits)
                and commits[-1].size == 3
                and len({c.worker for c in commits if c.generation == commits[-1].generation}) == 3
            ),
            f"three workers train at step {at}",
        )
        before = job.members()
        victim = chooser.choice(sorted(before))
        os.kill(before[victim], signal.SIGKILL)
        kills += 1
        generation = max(c.generation for c in job.commits())
        commits = job.wait_for(
            lambda commits, g=generation: any(c.generation > g for c in commits), "the survivors go on"
        )
        after = {c.worker: c.pid for c in commits if c.generation > generation}
        for worker, pid in before.items():
            if worker != victim:
                assert after.get(worker, pid) == pid, "a survivor was restarted"
    code, result, stderr = job.finish()
    assert code == 0, stderr
    assert result["weights_sha256"] == undisturbed(*arguments)
    assert result["samples"] == epochs * 1797
    assert 1 <= result["recoveries"] <= kills
    assert_steps_agree(job.commits(), epochs * 29)


def test_a_run_that_lost_everybody_resumes_from_its_checkpoint(
    make_job: Callable[[], Any], undisturbed: Callable[..., str]
) -> None:
    job = make_job()
    job.slow_down()
    job.start("--workers", "2:3", "--checkpoint-every", "0.2", arguments=LONG)
    job.wait_for(lambda commits: any(c.step >= 20 for c in commits), "step 20")
    for pid in job.members().values():
        os.kill(pid, signal.SIGKILL)
    code, result, stderr = job.finish()
    assert code == 0, stderr
    assert result["weights_sha256"] == undisturbed(*LONG)
    assert result["samples"] == EPOCHS * 1797
    pids_of_step_one = {c.pid for c in job.commits() if c.step == 1}
    assert len(pids_of_step_one) <= 3, "it began from scratch instead of from its checkpoint"
    assert_steps_agree(job.commits())


def test_a_lone_worker_that_is_asked_to_leave_loses_no_step(
    make_job: Callable[[], Any], undisturbed: Callable[..., str]
) -> None:
    job = make_job()
    job.slow_down()
    job.start("--workers", "1", arguments=LONG)  # its first checkpoint would be due after 30 seconds
    job.wait_for(lambda commits: any(c.step >= 5 for c in commits), "step 5")
    (pid,) = set(job.members().values())
    os.kill(pid, signal.SIGTERM)
    job.wait_for(lambda commits: len({c.pid for c in commits}) == 2, "a successor trains")
    code, result, stderr = job.finish()
    assert code == 0, stderr
    assert result["weights_sha256"] == undisturbed(*LONG)
    steps = [c.step for c in job.commits()]
    assert len(steps) == len(set(steps)), "a step was done twice"


def test_scaling_in_mid_run_costs_no_bit(make_job: Callable[[], Any], undisturbed: Callable[..., str]) -> None:
    job = make_job()
    job.slow_down()
    job.start("--workers", "1:3", "--name", "resized", arguments=LONG)
    job.wait_for(is_whole(3), "three workers train")
    for scale, size in (("1:1", 1), ("2:2", 2), ("1:3", 3)):
        answer = job.cordee("scale", "resized", scale, "--state", str(job.state))
        assert answer.returncode == 0, answer.stderr
        at = max(c.step for c in job.commits())
        job.wait_for(
            lambda commits, s=size, a=at: any(c.size == s and c.step > a for c in commits), f"{size} workers train"
        )
    code, result, stderr = job.finish()
    assert code == 0, stderr
    assert result["weights_sha256"] == undisturbed(*LONG)
    assert result["recoveries"] == 0, "a planned change is no loss"
    assert_steps_agree(job.commits())


def test_below_the_minimum_the_job_waits_and_goes_on(
    make_job: Callable[[], Any], undisturbed: Callable[..., str]
) -> None:
    job = make_job()
    job.slow_down()
    job.start("--workers", "3:3", arguments=LONG)
    job.wait_for(lambda commits: any(c.step >= 10 for c in commits), "step 10")
    victim, pid = sorted(job.members().items())[0]
    os.kill(pid, signal.SIGKILL)
    code, result, stderr = job.finish()
    assert code == 0, stderr
    assert result["weights_sha256"] == undisturbed(*LONG)
    assert result["recoveries"] == 1
    assert all(c.size == 3 for c in job.commits())
    assert {c.pid for c in job.commits() if c.worker == victim} > {pid}


def assert_steps_agree(commits: list[Any], steps: int = STEPS) -> None:
    """Every process that committed a step saw the same loss, whatever its world; and no step is missing."""
    losses: dict[int, set[float]] = {}
    for commit in commits:
        losses.setdefault(commit.step, set()).add(commit.loss)
    assert sorted(losses) == list(range(1, steps + 1))
    assert all(len(values) == 1 for values in losses.values()), {s: v for s, v in losses.items() if len(v) > 1}
