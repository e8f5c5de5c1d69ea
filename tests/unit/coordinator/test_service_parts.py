"""The service's small parts: tokens, the folder, a job as it is shown."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cordee.coordinator.core.job import JobMachine
from cordee.coordinator.core.record import JobRecord
from cordee.coordinator.errors import CoordinatorError
from cordee.coordinator.service import auth
from cordee.coordinator.service.folder import StateFolder
from cordee.coordinator.service.job import Job, Progress
from cordee.coordinator.spec import parse_job


def job() -> Job:
    document = {
        "apiVersion": "cordee.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "a"},
        "spec": {"script": "train.py"},
    }
    machine = JobMachine(JobRecord(job="a-1", minimum=1, maximum=2, created_at=100.0))
    return Job(id="a-1", document=parse_job(document), bundle=None, token="t" * 32, folder="/f", machine=machine)


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("Basic abc", ""),
        ("Bearer", ""),
        ("abc", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_a_bearer_header_holds_its_token(header: str | None, token: str) -> None:
    assert auth.bearer(header) == token


@pytest.mark.parametrize(
    ("given", "expected", "same"), [("a", "a", True), ("a", "b", False), ("", "", False), ("é", "é", True)]
)
def test_tokens_match_when_they_are_the_same_and_not_empty(given: str, expected: str, same: bool) -> None:
    assert auth.matches(given, expected) is same


@pytest.mark.parametrize(
    ("host", "is_it"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("127.0.0.1.example", False),
        ("127.8.9.1", True),
    ],
)
def test_loopback_addresses_are_known(host: str, is_it: bool) -> None:
    assert auth.is_loopback(host) is is_it


def test_a_token_is_made_once_with_narrow_permissions_from_the_start(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        token = auth.load_or_create_token(tmp_path / "token")
    finally:
        os.umask(before)
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    assert auth.load_or_create_token(tmp_path / "token") == token


@pytest.mark.parametrize("id", ["", "..", "a/b", "/etc", "A", "a_b", "-a", "a-", "a\n"])
def test_no_path_outside_of_the_folder_can_be_named(tmp_path: Path, id: str) -> None:
    with pytest.raises(CoordinatorError, match="is not a job id"):
        StateFolder(tmp_path).job(id)
    with pytest.raises(CoordinatorError, match="is not a SHA-256"):
        StateFolder(tmp_path).bundle(id)


def test_the_lock_ends_with_its_holder_however_it_died(tmp_path: Path) -> None:
    hold = (
        "import os, sys; from pathlib import Path; from cordee.coordinator.service.folder import StateFolder\n"
        "StateFolder(Path(sys.argv[1])).__enter__(); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", hold, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdin is not None
    assert holder.stdout is not None
    with holder.stdin, holder.stdout:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(CoordinatorError, match=rf"another coordinator \(pid {holder.pid}\)"):
            StateFolder(tmp_path).__enter__()
        holder.kill()
        holder.wait()
        with StateFolder(tmp_path):
            pass


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_damaged_endpoint_is_no_endpoint(tmp_path: Path, content: str) -> None:
    (tmp_path / "endpoint.json").write_text(content)
    assert StateFolder(tmp_path).read_endpoint() == {}


def test_progress_never_goes_back_within_a_generation_but_may_with_a_new_one() -> None:
    shown = job()
    assert shown.advance(Progress(generation=1, step=10))
    assert not shown.advance(Progress(generation=1, step=9))
    assert shown.progress.step == 10
    assert not shown.advance(Progress(generation=0, step=99))
    assert shown.progress.step == 10
    assert shown.advance(Progress(generation=2, step=4))  # restored from a checkpoint
    assert shown.progress.step == 4


def test_progress_survives_the_store() -> None:
    progress = Progress(generation=1, step=2, loss=0.5, metrics={"a": None, "b": 1.0}, checkpoint_step=1)
    assert Progress.from_json(progress.to_json()) == progress


async def test_a_waiter_wakes_at_a_change_and_not_before() -> None:
    shown = job()
    version = shown.version
    await shown.changed(version, 0.01)  # nothing has changed: only time ends it
    assert shown.version == version
    shown.touch()
    await shown.changed(version, 1000.0)  # has changed already
    version = shown.version
    shown.timer = None
    import asyncio

    waiting = asyncio.ensure_future(shown.changed(version, 1000.0))
    await asyncio.sleep(0)
    shown.touch()
    await waiting


def test_an_ended_job_is_measured_to_its_end() -> None:
    shown = job()
    assert shown.view(130.0).seconds == 30.0
    shown.machine = JobMachine(replace(shown.machine.record, finished_at=110.0))
    assert shown.view(130.0).seconds == 10.0
