"""Lists of jobs: a page follows another whatever happens in between, and the newest of what has ended is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cordee.coordinator.cli import app
from cordee.coordinator.core.job import JobMachine
from cordee.coordinator.core.model import JobState
from cordee.coordinator.core.record import JobRecord
from cordee.coordinator.errors import InvalidError
from cordee.coordinator.service.folder import StateFolder
from cordee.coordinator.service.job import Job
from cordee.coordinator.service.listing import page_of
from cordee.coordinator.service.store import JobRow, Store
from cordee.coordinator.spec import parse_job

HEAD = {"apiVersion": "cordee.dev/v1alpha1", "kind": "TrainingJob"}


def record(identity: str, created_at: float, state: JobState) -> JobRecord:
    return JobRecord(identity, 1, 1, created_at=created_at, state=state)


def make(identity: str, created_at: float = 1.0, state: JobState = JobState.RUNNING) -> Job:
    name = identity.rpartition("-")[0]
    document = parse_job({**HEAD, "metadata": {"name": name}, "spec": {"script": "train.py"}}, bundled=True)
    machine = JobMachine(record(identity, created_at, state))
    return Job(id=identity, document=document, bundle=None, token="", folder="/f", machine=machine)


# Times that are equal, and such as no decimal of a few digits holds.
TIMES = st.sampled_from((1.0, 1732270000.1234567, 1732270000.1234568)) | st.floats(0.0, 2e9)


@given(
    st.lists(TIMES, min_size=1, max_size=20),
    st.lists(st.tuples(st.sampled_from(("submit", "remove", "end")), st.integers(0, 30)), max_size=12),
    st.integers(1, 7),
)
def test_a_job_that_is_there_all_the_while_is_told_once(
    times: list[float], happens: list[tuple[str, int]], limit: int
) -> None:
    jobs = {f"a-{number}": make(f"a-{number}", time) for number, time in enumerate(times)}
    there = dict(jobs)
    removed: set[str] = set()
    told: list[str] = []
    after = None
    while True:
        page = page_of(jobs.values(), after=after, limit=limit)
        assert len(page.jobs) <= limit
        told += [job.id for job in page.jobs]
        if (after := page.next) is None:
            break
        if happens:
            what, number = happens.pop()
            if what == "submit":
                jobs[f"new-{number}"] = make(f"new-{number}", 3e9 + number)
            elif what == "remove" and jobs.pop(f"a-{number}", None) is not None:
                removed.add(f"a-{number}")
            elif f"a-{number}" in jobs:
                jobs[f"a-{number}"] = make(f"a-{number}", times[number], JobState.SUCCEEDED)
    assert len(told) == len(set(told))
    in_order = sorted(there, key=lambda name: (there[name].created_at, name), reverse=True)
    assert [name for name in told if name not in removed] == [name for name in in_order if name not in removed]


def test_states_and_the_beginning_of_a_name_choose() -> None:
    states = (JobState.PENDING, JobState.RUNNING, JobState.FAILED, JobState.SUCCEEDED)
    jobs = [
        make(f"{name}-{state.value}", float(at), state) for name in ("digits", "dig") for at, state in enumerate(states)
    ]

    def ids(**wanted: object) -> list[str]:
        return [job.id for job in page_of(jobs, limit=100, **wanted).jobs]  # type: ignore[arg-type]

    assert ids(states=("failed", "pending"), name_prefix="digi") == ["digits-failed", "digits-pending"]
    assert ids(states=("active",)) == ["digits-running", "dig-running", "digits-pending", "dig-pending"]
    assert ids(states=("ended", "running"), name_prefix="digits") == [
        "digits-succeeded",
        "digits-failed",
        "digits-running",
    ]
    assert ids(name_prefix="x") == []


@pytest.mark.parametrize("place", ["", "1", "a-1", "41d9.a-1", "41d9d02a4c07e6b7.A", "41d9d02a4c07e6b7.a\n"])
def test_what_is_no_place_in_the_list_is_refused(place: str) -> None:
    with pytest.raises(InvalidError, match="no place in the list of jobs"):
        page_of([make("a-1")], after=place, limit=1)


def test_the_command_shows_what_is_active_and_the_newest_of_what_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    states = (JobState.RUNNING, JobState.FAILED, JobState.SUCCEEDED, JobState.SUCCEEDED)
    with StateFolder(tmp_path / "state") as folder:
        store = Store(folder.database)
        for number, state in enumerate(states):
            identity, at = f"falls-{number}", float(number)
            document = make(identity).document.to_document()
            store.create_job(
                JobRow(identity, "falls", at, state.value, document, None, record(identity, at, state).to_json()), ""
            )
        store.close()

    def listed(*words: str) -> tuple[list[str], str]:
        done = CliRunner().invoke(app, ["jobs", "--state", str(tmp_path / "state"), *words])
        assert done.exit_code == 0, done.output
        return [line.split()[0] for line in done.stdout.splitlines()[1:]], done.stderr

    assert listed()[0] == ["falls-3", "falls-2", "falls-1", "falls-0"]
    shown, said = listed("--ended", "1")
    assert shown == ["falls-3", "falls-0"]
    assert "more jobs have ended: cordee jobs --all shows them" in said
    shown, said = listed("--ended", "1", "--all")
    assert (len(shown), "more jobs" in said) == (4, False)
    assert listed("--ended", "3", "--status", "failed", "--status", "interrupted")[0] == ["falls-1", "falls-0"]
    assert listed("--name", "other") == ([], "no such jobs\n")
