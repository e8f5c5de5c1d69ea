"""Jobs that have ended are removed with all that they have left: those that the rule means, and nothing else; and
whatever is cut off in between is made up for."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cordee.coordinator.cli import app
from cordee.coordinator.client import ConflictError as ClientConflictError
from cordee.coordinator.config import Retention
from cordee.coordinator.core.job import JobMachine
from cordee.coordinator.core.model import JobState
from cordee.coordinator.core.record import JobRecord
from cordee.coordinator.discovery import connect
from cordee.coordinator.errors import ConflictError
from cordee.coordinator.service.folder import StateFolder
from cordee.coordinator.service.job import Job
from cordee.coordinator.service.register import Register
from cordee.coordinator.service.removal import BUNDLE_SECONDS, Sweeper, check_removable, overdue
from cordee.coordinator.service.store import JobRow, Store
from cordee.coordinator.spec import parse_job

HEAD = {"apiVersion": "cordee.dev/v1alpha1", "kind": "TrainingJob"}
NOW = 1_000_000.0
HOUR, DAY = 3600.0, 86400.0


def make(
    identity: str, state: JobState = JobState.SUCCEEDED, *, age: float = DAY, warm_start: str | None = None
) -> Job:
    name = identity.rpartition("-")[0]
    spec = {"script": "train.py", "warmStart": warm_start}
    document = parse_job({**HEAD, "metadata": {"name": name}, "spec": spec}, bundled=True)
    ended = None if state is JobState.RUNNING else NOW - age
    record = JobRecord(identity, 1, 1, created_at=NOW - 2 * age, state=state, finished_at=ended)
    return Job(
        id=identity, document=document, bundle="0" * 64, token="", folder=f"/f/{identity}", machine=JobMachine(record)
    )


@pytest.mark.parametrize(
    ("rule", "removed"),
    [
        (Retention(max_jobs=None), ""),
        (Retention(max_jobs=3), "c-1"),  # that one which ended first, not the one submitted first
        (Retention(max_jobs=1), "c-1 b-1 a-1"),
        (Retention(max_jobs=None, max_age_days=4.5), "c-1 b-1"),
        (Retention(max_jobs=3, max_age_days=3.5), "c-1 b-1"),
        (Retention(max_jobs=None, max_age_days=0.001), "c-1 b-1 a-1"),
    ],
)
def test_the_rule_means_the_oldest_that_have_ended_an_hour_ago(rule: Retention, removed: str) -> None:
    jobs = [
        make("a-1", age=3 * DAY),
        make("b-1", JobState.FAILED, age=5 * DAY),
        make("c-1", JobState.CANCELLED, age=6 * DAY),
        make("runs-1", JobState.RUNNING, age=50 * DAY),
        make("fresh-1", age=HOUR / 2),
    ]
    assert [job.id for job in overdue(jobs, rule, NOW)] == removed.split()


def test_what_a_job_that_has_not_ended_starts_from_stays() -> None:
    old = make("old-1", age=9 * DAY)
    starts = make("next-1", JobState.RUNNING, warm_start="/f/old-1/result/model.safetensors")
    rule = Retention(max_jobs=None, max_age_days=1)
    assert overdue([old, starts], rule, NOW) == []
    with pytest.raises(ConflictError, match="next-1, which has not ended, starts from what old-1 has left"):
        check_removable(old, [old, starts])
    with pytest.raises(ConflictError, match=r"next-1 has not ended \(running\)"):
        check_removable(starts, [old, starts])
    assert overdue([old, make("next-1", warm_start="/f/old-1/result")], rule, NOW) == [old]
    assert overdue([old, make("next-1", JobState.RUNNING, warm_start="/f/old-10")], rule, NOW) == [old]


def test_what_is_started_from_stays_however_its_place_is_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "state")
    old = make("old-1", age=9 * DAY)
    old.folder = str(tmp_path / "link" / "old-1")
    rule = Retention(max_jobs=None, max_age_days=1)
    for place in (f"file://{old.folder}/result", f"{tmp_path}/other/../state/old-1", f"{tmp_path}/state/old-1/result"):
        assert overdue([old, make("next-1", JobState.RUNNING, warm_start=place)], rule, NOW) == [], place
    bucket = make("next-1", JobState.RUNNING, warm_start=f"s3:/{tmp_path}/state/old-1")
    assert overdue([old, bucket], rule, NOW) == [old]


def test_who_is_overdue_is_found_in_one_look_at_the_jobs() -> None:
    """A service of years has tens of thousands, when the rule comes to it for the first time."""
    looks = 0

    class Watched(Job):
        def __getattribute__(self, name: str) -> object:
            nonlocal looks
            looks += name in ("document", "machine")
            return super().__getattribute__(name)

    jobs = [make(f"a-{number}") for number in range(300)]
    for job in jobs:
        job.__class__ = Watched
    assert len(overdue(jobs, Retention(max_jobs=100), NOW)) == 200
    assert looks < 10 * len(jobs)


def test_a_name_of_several_jobs_is_not_enough_for_what_cannot_be_undone() -> None:
    register = Register({job.id: job for job in (make("a-1"), make("a-2"), make("b-1"))})
    assert register.find("a").id == "a-2"
    assert register.find_only("b").id == register.find_only("b-1").id == "b-1"
    assert register.find_only("a-1").id == "a-1"
    with pytest.raises(ConflictError, match="2 jobs are called 'a'") as caught:
        register.find_only("a")
    assert "a-1, a-2" in caught.value.hint


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StateFolder]:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with StateFolder(tmp_path / "state") as held:
        yield held


def put(folder: StateFolder, identity: str, bundle: str, job: Job | None = None) -> None:
    job = job or make(identity)
    (folder.job(identity) / "logs").mkdir(parents=True)
    (folder.job(identity) / "logs" / "w0.jsonl").write_text("{}\n")
    folder.bundle(bundle).touch()
    row = JobRow(
        identity, job.name, 1.0, job.machine.state, job.document.to_document(), bundle, job.machine.record.to_json()
    )
    store = Store(folder.database)
    store.create_job(row, "secret", key=identity)
    store.close()


async def test_files_go_after_the_job_and_a_bundle_with_its_last_one(folder: StateFolder) -> None:
    shared, own = "a" * 64, "b" * 64
    for identity, bundle in (("one-1", shared), ("two-1", shared), ("three-1", own)):
        put(folder, identity, bundle)
    store = Store(folder.database)
    for identity in ("one-1", "three-1"):
        store.remove_job(identity)
        store.remove_job(identity)  # twice is once
    store.close()  # and here it was killed

    store = Store(folder.database)
    assert [row.id for row in store.jobs()] == ["two-1"]
    assert store.removals() == {"one-1": shared, "three-1": own}
    sweeper = Sweeper(folder, store, None, {})  # two-1 is one that this coordinator cannot read
    await sweeper.sweep()
    assert [path.name for path in (folder.root / "jobs").iterdir()] == ["two-1"]
    # Whoever has uploaded it lately may be about to submit with it.
    assert store.removals() == {"three-1": own}
    assert folder.bundle(own).exists()
    long_ago = time.time() - 2 * BUNDLE_SECONDS
    for bundle in (shared, own):
        os.utime(folder.bundle(bundle), (long_ago, long_ago))
    await sweeper.sweep()
    assert store.removals() == {}
    assert [folder.bundle(bundle).exists() for bundle in (shared, own)] == [True, False]
    assert folder.touch_bundle(shared)
    assert not folder.touch_bundle(own)
    store.close()


async def test_a_submission_in_the_middle_of_a_sweep_keeps_what_it_starts_from(folder: StateFolder) -> None:
    jobs = {name: make(name, age=age * DAY) for name, age in (("a-1", 3), ("b-1", 2), ("c-1", 1))}
    store = Store(folder.database)
    sweeper = Sweeper(folder, store, Retention(max_jobs=1), jobs)
    removed: list[str] = []
    swept = asyncio.Event()

    def remove(job: Job) -> None:
        removed.append(job.id)
        jobs["next-1"] = make("next-1", JobState.RUNNING, warm_start="/f/b-1/result")
        asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(swept.set))

    task = asyncio.create_task(sweeper.run(remove, lambda: NOW, lambda error: pytest.fail(str(error))))
    await swept.wait()
    task.cancel()
    store.close()
    assert removed == ["a-1"]


async def test_a_folder_that_cannot_be_removed_is_tried_again(
    folder: StateFolder, caplog: pytest.LogCaptureFixture
) -> None:
    put(folder, "one-1", "a" * 64)
    kept = folder.root / "elsewhere"
    folder.job("one-1").rename(kept)
    folder.job("one-1").symlink_to(kept)  # it would not be this job's files that go
    store = Store(folder.database)
    store.remove_job("one-1")
    sweeper = Sweeper(folder, store, None, {})
    await sweeper.sweep()
    assert "one-1" in store.removals()
    assert (kept / "logs").exists()
    assert "which was removed, cannot be" in caplog.text
    folder.job("one-1").unlink()
    os.utime(folder.bundle("a" * 64), (0, 0))
    await sweeper.sweep()
    assert store.removals() == {}
    store.close()


def test_without_a_coordinator_too_what_another_job_starts_from_stays(folder: StateFolder) -> None:
    put(folder, "one-1", "a" * 64)
    place = f"file://{folder.job('one-1')}/result/model.safetensors"
    put(folder, "next-1", "a" * 64, make("next-1", JobState.RUNNING, warm_start=place))
    folder.__exit__()
    with connect(state=folder.root) as found:
        keeper, _ = found.find("one-1")
        with pytest.raises(ClientConflictError, match="next-1, which has not ended, starts from what one-1 has left"):
            keeper.delete("one-1")


def test_without_a_coordinator_a_job_of_its_folder_can_be_removed(tmp_path: Path, folder: StateFolder) -> None:
    for identity in ("one-1", "one-2"):
        put(folder, identity, "a" * 64)
    folder.__exit__()
    with connect(state=folder.root) as found:
        keeper, job = found.find("one-1")
        with pytest.raises(ClientConflictError, match="2 jobs are called 'one'"):
            keeper.delete("one")
    words = ["delete", "--state", str(folder.root)]
    refused = CliRunner().invoke(app, [*words, "one"])
    assert (refused.exit_code, "2 jobs are called 'one'" in refused.stderr) == (2, True)
    assert CliRunner().invoke(app, [*words, "one-1"]).stderr.endswith("removed one-1\n")
    with connect(state=folder.root) as found:
        assert [left["id"] for left in found.jobs()] == ["one-2"]
    assert not Path(job["folder"]).exists()

    with StateFolder(tmp_path / "cordee" / "runs" / "run-1") as run:
        put(run, "run-1", "a" * 64)
    with connect() as found:
        found.find("run-1")[0].delete("run")
    assert not run.root.exists()
