"""What a person sees: news at once, progress now and then, columns that nothing cuts, no control codes of others."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordee.coordinator.cli.display import PlainDisplay, state_words
from cordee.coordinator.cli.output import clean, columns, duration, job_details, job_table, printable
from cordee.coordinator.cli.runs import new_run_folder, prune_runs
from cordee.coordinator.cli.summary import summarise
from cordee.coordinator.service.folder import StateFolder
from cordee.coordinator.views import JobView, LogLine


def job(**changes: Any) -> JobView:
    whole: JobView = {
        "id": "digits-abc234",
        "name": "digits",
        "state": "running",
        "reason": "",
        "created_at": 1_000_000.0,
        "started_at": 1_000_001.0,
        "finished_at": None,
        "seconds": 12.5,
        "script": "digits.py",
        "args": ["--epochs", "3"],
        "workers": {"min": 1, "max": 3, "wanted": 3, "now": 3},
        "threads": 1,
        "device": "cpu",
        "launcher": "process",
        "generation": 2,
        "generations": 2,
        "recoveries": 0,
        "step": 10,
        "steps_total": 100,
        "epoch": 1,
        "epochs": 10,
        "loss": 0.51234567,
        "samples": 640,
        "samples_per_second": 12345.6,
        "step_seconds": 0.01,
        "data_seconds": 0.0,
        "metrics": {"accuracy": 0.97, "missing": None},
        "weights_sha256": None,
        "weights_path": None,
        "members": [
            {
                "worker": "digits-abc234-w0",
                "rank": 0,
                "state": "training",
                "step": 10,
                "restarts": 1,
                "pid": 42,
                "shard_seconds": 0.01234,
                "slow": True,
            }
        ],
        "events": [{"time": 1_000_000.5, "kind": "start", "message": "3 workers"}],
        "error": None,
        "folder": "/data/jobs/digits-abc234",
    }
    return {**whole, **changes}  # type: ignore[typeddict-item]


def line(text: str, stream: str = "stdout") -> LogLine:
    return {"time": 0.0, "worker": "digits-abc234-w0", "rank": 0, "stream": stream, "line": text}


class Watch:
    """A clock that goes when it is told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_tell_news_at_once_and_progress_every_few_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch()
    display = PlainDisplay(io.StringIO(), clock=watch)

    def told(seconds: float, **changes: Any) -> str:
        watch.now += seconds
        display.update(job(**changes))
        return capsys.readouterr().err

    assert told(0) == (
        "cordee: digits-abc234: running, epoch 1/10, step 10/100, loss 0.5123, 12,346 samples/s, workers 3/3\n"
    )
    assert told(0.1, step=11) == ""
    assert told(4.0, step=50) == ""
    assert "step 60/100" in told(1.0, step=60)
    assert told(60.0, step=60) == ""  # nothing has happened
    assert "recoveries 1" in told(0.1, step=60, recoveries=1)
    assert "waits for data 25% of the time" in told(60.0, step=61, data_seconds=0.0025)
    assert "workers 2/3" in told(0.1, workers={"min": 1, "max": 3, "wanted": 3, "now": 2}, recoveries=1)
    assert "recovering, waiting for workers" in told(0.1, state="recovering", reason="waiting for workers")
    assert told(0.5, step=70, epoch=2, state="recovering", reason="waiting for workers") == ""
    assert "epoch 3/10" in told(2.0, step=70, epoch=3, state="recovering", reason="waiting for workers")


def test_script_lines_go_where_they_belong_and_are_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    display = PlainDisplay(out)
    display.line(line("hello"))
    display.line(line("Traceback:", "stderr"))
    display.line(line("  File x", "stderr"))
    assert out.getvalue() == "hello\n"
    assert capsys.readouterr().err == "Traceback:\n  File x\n"
    assert display.has_shown("Traceback:\n  File x\n")
    assert not display.has_shown("Traceback:\n  File y\n")
    assert not display.has_shown("")


def test_a_reason_is_not_said_twice() -> None:
    assert (
        state_words(job(state="cancelled", reason="cancelled by the user", epoch=None, step=0))[0]
        == "cancelled by the user"
    )
    assert state_words(job(state="running", reason="all is well"))[0] == "running"


def test_what_is_not_known_yet_is_a_dash_and_never_fails() -> None:
    empty = dict.fromkeys(
        ["epoch", "epochs", "loss", "samples_per_second", "steps_total", "step_seconds", "started_at"]
    )
    bare = job(**empty, metrics={}, members=[], events=[], step=0)
    assert "-" in job_table([bare], wide=True)
    assert "progress    -" in job_details(bare, wide=True)
    assert state_words(bare) == ["running", "workers 3/3"]


def test_tables_cut_nothing_and_have_a_line_per_job() -> None:
    long = job(id="a" * 47, script="x" * 300)
    lines = job_table([job(), long], wide=True).splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("a" * 47)
    assert "x" * 300 in lines[2]
    assert lines[0].index("STATE") == lines[1].index("running") == lines[2].index("running")


def test_details_hold_workers_events_and_the_traceback() -> None:
    failed = job(state="failed", error={"exception": "E: x", "traceback": "Traceback\n  here\n", "worker": "w"})
    details = job_details(failed, wide=False)
    for words in ("digits-abc234-w0  0     training", "start  +0.5s  3 workers", "Traceback\n  here", "accuracy 0.97"):
        assert words in details, details


HOSTILE = "\x1b[2J\x07\r\x9b1;1Hx\ny\u202e"


def test_no_text_of_a_job_reaches_the_terminal_as_a_control_code() -> None:
    nasty = job(
        reason=HOSTILE,
        state="failed",
        script=HOSTILE,
        args=[HOSTILE],
        metrics={HOSTILE: 1.0},
        weights_path=HOSTILE,
        weights_sha256="0" * 64,
        members=[
            {
                "worker": HOSTILE,
                "rank": 0,
                "state": HOSTILE,
                "step": 1,
                "restarts": 0,
                "pid": 1,
                "shard_seconds": None,
                "slow": False,
            }
        ],
        events=[{"time": 1.0, "kind": HOSTILE, "message": HOSTILE}],
        error={"exception": HOSTILE, "traceback": HOSTILE, "worker": HOSTILE},
        folder=HOSTILE,
    )
    for text in (job_details(nasty, wide=True), job_table([nasty], wide=True), "".join(state_words(nasty))):
        assert all(char.isprintable() or char == "\n" for char in text), text


@given(st.text())
def test_cleaned_text_is_printable(text: str) -> None:
    assert clean(text).isprintable()
    assert all(char.isprintable() or char in "\n\t" for char in printable(text))


@given(st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), min_size=1, max_size=5))
def test_columns_have_a_line_per_row(rows: list[tuple[str, str]]) -> None:
    assert len(columns(rows).split("\n")) == len(rows)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0.0s"), (0.44, "0.4s"), (9.96, "10.0s"), (12.9, "12s"), (185, "3m05s"), (7800, "2h10m"), (356400, "4d03h")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_failed_job_s_traceback_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    failed = job(state="failed", error={"exception": "E: x", "traceback": "Traceback\n  here\n", "worker": "w0"})
    for shown, times in ((True, 0), (False, 1)):
        summarise(failed, "/f", shown=lambda _text, shown=shown: shown)  # type: ignore[misc]
        told = capsys.readouterr().err
        assert told.count("Traceback") == times
        assert "error: the script failed on w0: E: x\n" in told
    summarise(job(state="failed", reason="out of restarts"), "/f", shown=lambda _text: False)
    assert "error: the job failed: out of restarts\n" in capsys.readouterr().err


def test_a_coordinator_s_folder_is_shown_as_ours_only_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(tmp_path / "result" / "model.safetensors")
    ended = job(state="succeeded", weights_path=weights, weights_sha256="0" * 64, folder=str(tmp_path))
    summarise(ended, ended["folder"])
    assert f"weights   {weights}\n" in (told := capsys.readouterr().err)
    assert f"folder    {tmp_path}\n" in told
    assert "fetch" not in job_details(ended, wide=False)
    elsewhere = {**ended, "folder": str(tmp_path / "none")}
    summarise(elsewhere, elsewhere["folder"])  # type: ignore[arg-type]
    assert "weights   with the coordinator: cordee fetch digits-abc234\n" in (told := capsys.readouterr().err)
    assert "folder" not in told
    details = job_details(elsewhere, wide=False)  # type: ignore[arg-type]
    assert "none (on the coordinator's machine)" in details
    assert "with the coordinator: cordee fetch digits-abc234 (sha256 0000" in details


def test_why_a_job_failed_is_said_once_in_its_details() -> None:
    why = "w0 was killed by SIGSEGV"
    failed = job(state="failed", reason=why, error={"exception": why, "traceback": "", "worker": "w0"})
    assert job_details(failed, wide=False).count(why) == 1
    raised = job(
        state="failed", reason="E: x", error={"exception": "E: x", "traceback": "Traceback\nE: x", "worker": ""}
    )
    assert "Traceback" in job_details(raised, wide=False)


def test_old_runs_go_and_living_ones_and_other_people_s_folders_stay(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    names = [f"2026010{day}-000000-a" for day in range(1, 7)]
    for name in names:
        with StateFolder(runs / name):
            pass
    (runs / "notes").mkdir()
    (runs / "link").symlink_to(runs / names[0])
    with StateFolder(runs / names[0]):
        assert [path.name for path in prune_runs(runs, keep=3)] == names[1:3]
        assert sorted(path.name for path in runs.iterdir()) == [names[0], *names[3:], "link", "notes"]
    assert prune_runs(tmp_path / "none") == []


def test_a_run_s_folder_is_fresh_and_named_after_its_time_and_job(tmp_path: Path) -> None:
    first, second = new_run_folder(tmp_path, "digits"), new_run_folder(tmp_path, "digits")
    assert first != second
    assert "-digits-" in first.name


def test_a_worker_is_shown_with_its_pace_and_a_stack_by_its_first_line() -> None:
    from cordee.coordinator.cli.output import job_details

    stack = {"time": 1_000_001.0, "kind": "stack", "message": "w1, as it ended:\nFile a.py\nFile b.py"}
    short = job_details(job(events=[stack]), wide=False)
    assert "12.3 ms (slow)" in short
    assert "w1, as it ended: … (all of it: -o wide)" in short
    assert "File a.py" not in short
    assert "stack: w1, as it ended:\nFile a.py\nFile b.py" in job_details(job(events=[stack]), wide=True)
