"""What a coordinator has left is told as it is: read with its own code, never written, and nothing called running that
nobody runs."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cordee.coordinator.cli.runs import prune_runs
from cordee.coordinator.client import ConflictError, JobNotFoundError, UnreachableError
from cordee.coordinator.core.model import JobError, JobState
from cordee.coordinator.core.record import JobRecord
from cordee.coordinator.discovery import connect
from cordee.coordinator.past import PastCoordinator, has_past, keep_command, resume_command
from cordee.coordinator.service.folder import StateFolder, is_held
from cordee.coordinator.service.job import Progress
from cordee.coordinator.service.launchers import processes
from cordee.coordinator.service.store import EventRow, JobRow, Store, StoreError, WorldRow
from cordee.coordinator.spec import parse_job


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("CORDEE_SERVER", raising=False)
    return tmp_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A state folder in which a coordinator has been."""
    with StateFolder(tmp_path / "state") as held:
        Store(held.database).close()
        return held.root


def put(folder: Path, job: str, state: JobState, *, created_at: float = 1.0, **facts: Any) -> None:
    name = job.rpartition("-")[0]
    head = {"apiVersion": "cordee.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name}}
    document = parse_job({**head, "spec": {"script": "train.py", "workers": "1:3"}}, bundled=True).to_document()
    record = JobRecord(job, 1, 3, wanted=3, state=state, created_at=created_at, **facts)
    progress = Progress(step=12, loss=0.5).to_json()
    store = Store(folder / "coordinator.db")
    store.create_job(
        JobRow(job, name, created_at, state.value, document, "0" * 64, record.to_json(), progress), "secret"
    )
    store.save(
        job, world=WorldRow(job, 1, 10.0, 0, "start", (f"{job}-w0",)), events=[EventRow(1.0, "submitted", "here")]
    )
    store.close()


def put_agent(folder: Path, job: str, process: processes.Identity | None, slot: int = 0) -> None:
    record = {"job": job, "process": None if process is None else asdict(process)}
    (folder / "agents" / f"{job}-w{slot}.json").write_text(json.dumps(record))


@pytest.fixture
def past(folder: Path) -> Iterator[PastCoordinator]:
    with PastCoordinator(folder) as opened:
        yield opened


def gone() -> processes.Identity:
    """A process that lived, and lives no more."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        identity = processes.identify(child.pid)
        assert identity is not None
        assert child.stdin is not None
        child.stdin.close()
    return identity


def test_a_job_that_has_ended_is_shown_as_its_coordinator_showed_it(folder: Path, past: PastCoordinator) -> None:
    error = JobError("ValueError: no snow", "Traceback …\nValueError: no snow", "falls-a-w0")
    put(folder, "falls-a", JobState.FAILED, finished_at=5.0, reason="the script raised", error=error)
    job = past.job("falls-a")
    assert (job["state"], job["reason"], job["seconds"], job["step"]) == ("failed", "the script raised", 4.0, 12)
    assert job["error"] == {
        "exception": "ValueError: no snow",
        "traceback": "Traceback …\nValueError: no snow",
        "worker": "falls-a-w0",
    }
    assert job["events"] == [{"time": 1.0, "kind": "submitted", "message": "here"}]
    assert (job["members"], job["workers"]["now"]) == ([], 0)
    assert job["folder"] == str(folder / "jobs" / "falls-a")
    assert past.unfinished() == []


def test_the_newest_of_a_name_is_meant_and_an_id_goes_before_a_name(folder: Path, past: PastCoordinator) -> None:
    put(folder, "falls-a", JobState.SUCCEEDED, created_at=1.0)
    put(folder, "falls-b", JobState.CANCELLED, created_at=3.0)
    put(folder, "falls-a-c", JobState.CANCELLED, created_at=2.0)  # its name is falls-a
    assert [job["id"] for job in past.jobs()] == ["falls-b", "falls-a-c", "falls-a"]
    assert past.job("falls")["id"] == "falls-b"
    assert past.job("falls-a")["id"] == "falls-a"
    with pytest.raises(JobNotFoundError, match="there is no job 'nope'"):
        past.job("nope")


def test_without_coordinator_and_workers_a_job_is_interrupted(folder: Path, past: PastCoordinator) -> None:
    put(folder, "falls-a", JobState.RECOVERING, reason="a worker was lost")
    put_agent(folder, "falls-a", None)  # killed between the promise of an agent and its pid
    put_agent(folder, "falls-a", gone(), slot=1)
    (folder / "agents" / "torn.json").write_text("{")
    job = past.job("falls")
    assert (job["state"], job["reason"]) == ("interrupted", "its coordinator is gone; it was recovering")
    assert (job["finished_at"], job["members"], job["workers"]["now"]) == (None, [], 0)
    # Not up to now, but to its coordinator's last word.
    assert job["seconds"] == pytest.approx((folder / "coordinator.db").stat().st_mtime - 1.0)
    assert [found.view["id"] for found in past.unfinished()] == ["falls-a"]


def test_while_workers_live_a_job_is_what_it_was(folder: Path, past: PastCoordinator) -> None:
    put(folder, "falls-a", JobState.RUNNING)
    put_agent(folder, "falls-a", processes.identify(os.getpid()))
    job = past.job("falls")
    assert (job["state"], job["workers"]["now"]) == ("running", 1)
    assert job["reason"] == "its coordinator is gone; 1 worker trains on without it for a while"


def test_a_coordinator_that_lives_and_does_not_answer_is_not_called_gone(folder: Path, past: PastCoordinator) -> None:
    put(folder, "falls-a", JobState.RUNNING, reason="")
    with StateFolder(folder):
        job = past.job("falls")
        assert (job["state"], job["reason"]) == (
            "running",
            "its coordinator does not answer; this is what it last wrote",
        )
        with pytest.raises(UnreachableError, match="does not answer"):
            past.cancel("falls")


def test_what_cannot_be_done_without_a_coordinator_is_refused_in_its_words(folder: Path, past: PastCoordinator) -> None:
    put(folder, "ended-a", JobState.SUCCEEDED)
    put(folder, "falls-a", JobState.RUNNING)
    with pytest.raises(ConflictError, match=r"^the job ended-a has ended \(succeeded\) and cannot be scaled$"):
        past.scale("ended", 1, 2)
    with pytest.raises(
        ConflictError, match=r"^the job falls-a cannot be cancelled: its coordinator is gone$"
    ) as caught:
        past.cancel("falls")
    assert caught.value.hint == f"to go on with it: cordee coordinator --state {folder}"


def test_logs_are_read_with_the_ranks_of_their_time(folder: Path, past: PastCoordinator) -> None:
    put(folder, "falls-a", JobState.SUCCEEDED)
    logs = folder / "jobs" / "falls-a" / "logs"
    logs.mkdir(parents=True)
    for slot in (0, 1):
        entry = {"worker": f"falls-a-w{slot}", "incarnation": "i", "stream": "stdout"}
        lines = [{**entry, "time": 11.0 + n * 2 + slot, "line": f"{n} from {slot}"} for n in range(2)]
        (logs / f"falls-a-w{slot}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [(line["rank"], line["line"]) for line in past.logs("falls", follow=True)] == [
        (0, "0 from 0"),
        (None, "0 from 1"),
        (0, "1 from 0"),
        (None, "1 from 1"),
    ]
    assert [line["line"] for line in past.logs("falls", rank=0, tail=1)] == ["1 from 0"]
    assert [line["line"] for line in past.logs("falls", worker="falls-a-w1")] == ["0 from 1", "1 from 1"]
    with pytest.raises(JobNotFoundError):
        list(past.logs("nope"))


def test_looking_changes_nothing(folder: Path, past: PastCoordinator) -> None:
    put(folder, "falls-a", JobState.RUNNING)

    def contents() -> dict[str, str]:
        digests = {}
        for path in folder.rglob("*"):
            if path.is_file() and not path.name.endswith(("-wal", "-shm")):  # SQLite's own, gone with the reader
                digests[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        return digests

    before = contents()
    past.jobs()
    past.close()
    assert contents() == before
    with pytest.raises(StoreError, match="readonly"):
        Store(folder / "coordinator.db", read_only=True).save("falls-a", record={"state": "failed"})


def test_what_a_killed_writer_left_in_the_write_ahead_log_is_read(folder: Path, past: PastCoordinator) -> None:
    put(folder, "falls-a", JobState.RUNNING)
    kill_itself = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    code = (
        "from pathlib import Path; from cordee.coordinator.service.store import EventRow, Store\n"
        f"Store(Path({str(folder / 'coordinator.db')!r})).save('falls-a', events=[EventRow(2.0, 'last', 'word')])\n"
        f"{kill_itself}"
    )
    subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert (folder / "coordinator.db-wal").stat().st_size > 0
    assert past.job("falls")["events"][-1]["message"] == "word"


def test_a_job_that_cannot_be_read_is_passed_over(folder: Path, past: PastCoordinator) -> None:
    put(folder, "falls-a", JobState.SUCCEEDED)
    put(folder, "torn-a", JobState.SUCCEEDED)
    with sqlite3.connect(folder / "coordinator.db") as database:
        database.execute("UPDATE jobs SET record = '{}' WHERE id = 'torn-a'")
    database.close()
    assert [job["id"] for job in past.jobs()] == ["falls-a"]


def test_a_folder_without_a_store_has_no_past_and_a_broken_store_is_a_sentence(tmp_path: Path) -> None:
    assert not has_past(tmp_path)
    (tmp_path / "coordinator.db").write_text("this is no database, whatever its name says" * 100)
    with PastCoordinator(tmp_path) as past, pytest.raises(StoreError, match="cannot be used"):
        past.jobs()


def test_past_jobs_are_found_where_nobody_answers(folder: Path, home: Path) -> None:
    put(folder, "named-a", JobState.SUCCEEDED)
    with connect(state=folder) as found:
        keeper, job = found.find("named")
        assert isinstance(keeper, PastCoordinator)
        assert job["id"] == "named-a"
        with pytest.raises(UnreachableError, match=f"no coordinator runs on the state folder {folder}"):
            _ = found.service
    for number, state in enumerate((JobState.RUNNING, JobState.SUCCEEDED)):
        with StateFolder(home / "data" / "cordee" / "runs" / f"run-{number}") as run:
            put(run.root, f"falls-{number}", state, created_at=10.0 + number)
    torn = home / "data" / "cordee" / "runs" / "torn"
    torn.mkdir()
    (torn / "coordinator.db").write_text("this is no database, whatever its name says" * 100)
    with connect() as everybody:
        assert [job["id"] for job in everybody.jobs()] == ["falls-1", "falls-0"]
        assert everybody.find("falls")[1]["id"] == "falls-0"  # the newest that has not ended
        assert everybody.find("falls-1")[1]["state"] == "succeeded"
        with pytest.raises(JobNotFoundError):
            everybody.find("named")


def test_a_broken_folder_that_was_named_is_an_error(folder: Path) -> None:
    (folder / "coordinator.db").write_text("this is no database, whatever its name says" * 100)
    with connect(state=folder) as named, pytest.raises(StoreError):
        named.jobs()


def test_the_command_that_goes_on_is_the_one_that_was_typed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keep_command(folder, ["cordee", "run", "my train.py", "--state", "here"])
    here = Path.cwd()
    assert resume_command(folder) == "cordee run 'my train.py' --state here"
    monkeypatch.chdir(tmp_path)
    assert resume_command(folder) == f"cd {here} && cordee run 'my train.py' --state here"
    keep_command(folder, None)
    assert resume_command(folder) == f"cordee coordinator --state {folder}"
    assert resume_command(tmp_path / "data" / "cordee" / "coordinator") == "cordee coordinator"
    (folder / "command.json").write_text("[]")
    assert resume_command(folder) == f"cordee coordinator --state {folder}"


def test_asking_whether_a_folder_is_held_keeps_nobody_out(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    with StateFolder(tmp_path):
        assert is_held(tmp_path)
    assert not is_held(tmp_path)
    asking = os.open(tmp_path / "coordinator.lock", os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH)  # as `is_held` does, for a moment
    threading.Timer(0.01, os.close, (asking,)).start()
    with StateFolder(tmp_path):
        assert is_held(tmp_path)


def test_a_run_that_was_cut_off_is_kept_however_old_it_is(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    states = {"1-ended": JobState.SUCCEEDED, "2-cut-off": JobState.RUNNING, "3-unreadable": None, "4-newest": None}
    for name, state in states.items():
        with StateFolder(runs / name) as held:
            Store(held.database).close()
            if state is not None:
                put(held.root, "digits-aaaaaa", state)
    (runs / "3-unreadable" / "coordinator.db").write_bytes(b"nothing that a database begins with")
    assert [path.name for path in prune_runs(runs, keep=1)] == ["1-ended"]
    assert sorted(path.name for path in runs.iterdir()) == ["2-cut-off", "3-unreadable", "4-newest"]
