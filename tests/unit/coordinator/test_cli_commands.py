"""The commands against the service as a user runs it: what is on stdout parses, errors are sentences with their codes.

The service and whatever gets a signal are processes; commands that come and go run in this one, to save their imports.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
import yaml
from typer.testing import CliRunner, Result

from cordee.coordinator.cli import app

DEADLINE_SECONDS = 60.0
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

TRAINS = """
import sys
from cordee import trainer
from cordee.trainer import data, elastic, nn, optim

trainer.manual_seed(0)
images, labels = data.datasets.digits()
model = nn.Linear(64, 10)
optimizer = optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
dataset = data.TensorDataset(images.reshape(-1, 64)[:256] / 16, labels[:256])
loader = data.DataLoader(dataset, batch_size=64, shuffle=True, shards=8, seed=0)
run = elastic.Run(model, optimizer, loader)
for step in run.steps(epochs=int(sys.argv[1])):
    for batch in step.shards:
        step.backward(criterion(model(batch.x), batch.y))
    step.commit()
    if step.committed and step.epoch == 1 and step.epoch_end:
        print("first epoch done")
run.report(answer=42)
print("trained with", sys.argv[1:])
"""
RAISES = "import sys\nprint('so far so good')\nraise ValueError('no snow: ' + ' '.join(sys.argv[1:]))\n"
DEAF = "import ctypes\nprint('asleep', flush=True)\nctypes.PyDLL(None).sleep(600)  # holds the interpreter's lock\n"
SLEEPS = "import time\nprint('asleep', flush=True)\ntime.sleep(600)\n"


@dataclass
class Home:
    """A user with a data folder of their own, who types commands."""

    folder: Path
    environment: dict[str, str | None]

    def cordee(self, *words: str, code: int = 0) -> Result:
        with contextlib.chdir(self.folder):
            done = CliRunner().invoke(app, list(words), prog_name="cordee", env=self.environment)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, (words, done.exit_code, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr or code == 100, done.stderr
        assert not CONTROL.search(done.stdout + done.stderr), "control codes, though it is no terminal"
        return done

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.cordee(*words, "-o", "json", code=code).stdout)

    def start(self, *words: str) -> subprocess.Popen[str]:
        out = subprocess.PIPE
        command = [sys.executable, "-m", "cordee.coordinator.cli", *words]
        environment = {name: value for name, value in (os.environ | self.environment).items() if value is not None}
        return subprocess.Popen(command, env=environment, cwd=self.folder, text=True, stdout=out, stderr=out)


def read_until(stream: IO[str] | None, words: str) -> list[str]:
    """The lines up to the one that holds `words`; the test's own deadline ends a wait for ever."""
    assert stream is not None
    lines = []
    for line in stream:
        lines.append(line)
        if words in line:
            return lines
    raise AssertionError(f"{words!r} never came: {lines}")


def make_home(folder: Path) -> Home:
    for name, text in {"train.py": TRAINS, "raises.py": RAISES, "sleeps.py": SLEEPS, "deaf.py": DEAF}.items():
        (folder / name).write_text(text)
    silent = dict.fromkeys(["CORDEE_SERVER", "CORDEE_TOKEN", "CORDEE_DEBUG"])
    return Home(folder, {"XDG_DATA_HOME": str(folder / ".data"), **silent})


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path)


def stop(service: subprocess.Popen[str]) -> int:
    service.send_signal(signal.SIGTERM)
    service.communicate(timeout=DEADLINE_SECONDS)
    return service.returncode


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home in which the service runs."""
    home = make_home(tmp_path_factory.mktemp("served"))
    service = home.start("coordinator", "--port", "0", "--grpc-port", "0")
    read_until(service.stderr, "submit a job")
    yield home
    for job in home.json("jobs")["jobs"]:
        if job["state"] not in {"succeeded", "failed", "cancelled"}:
            home.cordee("cancel", job["id"])
            home.cordee("wait", job["id"], code=103)
    assert stop(service) == 0


pytestmark = pytest.mark.slow


def test_a_job_goes_its_way_from_submission_to_result(served: Home) -> None:
    submitted = served.cordee("submit", "train.py", "3", "--workers", "1:2", "--name", "way", "--", "--flag")
    job_id = submitted.stdout.splitlines()[0]
    assert submitted.stdout == f"{job_id}\n"
    assert re.fullmatch(r"way-[a-z2-7]{6}", job_id)
    assert f"cordee logs -f {job_id}" in submitted.stderr
    assert served.cordee("wait", "way").stdout == f"{job_id} succeeded\n"
    job = served.json("status", job_id)
    assert (job["state"], job["step"], job["samples"], job["metrics"]) == ("succeeded", 12, 768, {"answer": 42.0})
    assert (job["workers"]["min"], job["workers"]["max"], job["args"]) == (1, 2, ["3", "--flag"])
    assert Path(job["weights_path"]).is_file()
    assert yaml.safe_load(served.cordee("status", "way", "-o", "yaml").stdout) == job
    assert served.json("wait", "way") == job
    assert [job["id"] for job in served.json("jobs")["jobs"] if job["name"] == "way"] == [job_id]
    assert yaml.safe_load(served.cordee("jobs", "-o", "yaml").stdout)["jobs"]
    details = served.cordee("status", "way").stdout
    assert f"sha256 {job['weights_sha256']}" in details
    assert "answer 42" in details
    assert "train.py 3 --flag" in served.cordee("jobs", "-o", "wide").stdout
    assert "trained with ['3', '--flag']\n" in served.cordee("logs", "way", "--rank", "0").stdout
    assert "[0] trained with ['3', '--flag']\n" in served.cordee("logs", "way", "-f").stdout
    assert len(served.cordee("logs", "way", "--rank", "0", "--tail", "1").stdout.splitlines()) == 1
    given = [json.loads(line) for line in served.cordee("logs", "way", "-f", "-o", "json").stdout.splitlines()]
    assert given == yaml.safe_load(served.cordee("logs", "way", "-f", "-o", "yaml").stdout)
    assert {*given[0]} == {"time", "worker", "rank", "stream", "line"}
    assert 0 in [line["rank"] for line in given]
    none = served.cordee("logs", "way", "--rank", "7", "-o", "yaml")
    assert yaml.safe_load(none.stdout) == []
    assert "has no lines of rank 7 (yet)" in none.stderr
    wide = served.cordee("logs", "way", "-o", "wide", "--rank", "0", "--tail", "1").stdout
    at = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"
    assert re.fullmatch(rf"{at}  {job_id}-w\d  0  (stdout|stderr|agent)  .*\n", wide)
    assert served.cordee("cancel", "way", code=1).stderr.startswith("error: ")


def test_a_script_that_raises_fails_the_job_with_its_traceback(served: Home) -> None:
    followed = served.cordee("submit", "raises.py", "--follow", "--", "at all", code=100)
    job_id, *output = followed.stdout.splitlines()
    assert output == ["so far so good"]
    assert followed.stderr.count("Traceback (most recent call last)") == 1
    assert f"error: the script failed on {job_id}-w0: ValueError: no snow: at all" in followed.stderr
    assert served.cordee("wait", job_id, code=100).stdout == f"{job_id} failed\n"
    status = served.cordee("status", job_id).stdout
    assert 'raise ValueError("no snow' in status or "raise ValueError('no snow" in status
    assert served.json("status", job_id)["error"]["exception"] == "ValueError: no snow: at all"


def test_a_job_is_scaled_waited_for_and_cancelled(served: Home) -> None:
    job = served.json("submit", "sleeps.py", "--workers", "1")
    scaled = served.json("scale", job["id"], "1:2")
    assert (scaled["workers"]["min"], scaled["workers"]["max"]) == (1, 2)
    waited = served.cordee("wait", job["id"], "--timeout", "0.2", code=101)
    assert waited.stdout.startswith(job["id"])
    assert "the job goes on" in waited.stderr
    follower = served.start("logs", "-f", job["id"])
    assert "asleep" in read_until(follower.stdout, "asleep")[-1]
    served.cordee("cancel", "sleeps")
    assert served.cordee("wait", job["id"], code=103).stdout == f"{job['id']} cancelled\n"
    follower.communicate(timeout=DEADLINE_SECONDS)
    assert follower.returncode == 0
    assert "error: " in served.cordee("scale", job["id"], "2", code=1).stderr


def test_leaving_a_follower_leaves_the_job(served: Home) -> None:
    follower = served.start("submit", "sleeps.py", "--name", "left", "--follow")
    read_until(follower.stdout, "asleep")
    follower.send_signal(signal.SIGINT)
    _, told = follower.communicate(timeout=DEADLINE_SECONDS)
    assert follower.returncode == 101
    assert "the job goes on; to see it again: cordee wait left-" in told
    assert served.json("status", "left")["state"] in {"starting", "running"}
    served.cordee("cancel", "left")


def test_a_dry_run_says_where_and_starts_nothing(served: Home) -> None:
    before = served.json("jobs")["jobs"]
    plan = served.json("submit", "train.py", "--dry-run", "--workers", "1:2")
    assert plan["valid"] is True
    assert plan["placement"]["launcher"] == "process"
    assert "valid: train (train.py, workers 1:2" in served.cordee("submit", "train.py", "--dry-run", "-w", "1:2").stdout
    assert served.json("jobs")["jobs"] == before


def test_an_unknown_job_is_exit_code_102(served: Home) -> None:
    for words in (["status"], ["logs"], ["cancel"], ["wait"]):
        done = served.cordee(*words, "nobody", code=102)
        assert done.stderr == "error: there is no job 'nobody'\nhint: cordee jobs lists those there are\n"
        assert done.stdout == ""
    served.cordee("scale", "nobody", "1:2", code=102)


def test_job_names_are_completed(served: Home) -> None:
    job = served.json("submit", "raises.py", "--name", "completable")
    environment = {"_CORDEE_COMPLETE": "complete_bash", "COMP_WORDS": "cordee status completab", "COMP_CWORD": "2"}
    done = CliRunner().invoke(app, [], prog_name="cordee", env=served.environment | environment)
    assert set(done.stdout.split()) == {"completable", job["id"]}


def test_a_second_coordinator_on_a_folder_and_a_port_in_use_are_sentences(served: Home, home: Home) -> None:
    second = served.cordee("coordinator", code=1)
    assert "another coordinator" in second.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for option in ("--port", "--grpc-port"):
            done = home.cordee("coordinator", option, port, code=1)
            assert f"127.0.0.1:{port}" in done.stderr
            assert f"hint: choose another port with {option}" in done.stderr


def test_a_coordinator_that_is_not_there_is_a_sentence(home: Home) -> None:
    for words in (["jobs"], ["status", "x"], ["submit", "train.py"], ["logs", "x"], ["wait", "x"], ["scale", "x", "2"]):
        done = home.cordee(*words, code=1)
        assert done.stdout == ""
        assert done.stderr.startswith(
            "error: no coordinator runs here, and none was named\nhint: start the service with"
        )
    done = home.cordee("jobs", "--server", "http://127.0.0.1:9", code=1)
    assert "coordinator at http://127.0.0.1:9: nobody listens there" in done.stderr
    done = home.cordee("jobs", "--state", "none", code=1)
    assert f"hint: start one: cordee coordinator --state {home.folder / 'none'}" in done.stderr


def test_a_restarted_coordinator_lists_the_same_jobs(home: Home) -> None:
    service = home.start("coordinator", "--state", "here")
    read_until(service.stderr, "submit a job: cordee submit SCRIPT --state ")
    job = home.json("submit", "sleeps.py", "--state", "here")
    follower = home.start("wait", job["id"], "--state", "here")
    read_until(follower.stderr, "starting")
    service.kill()
    service.communicate(timeout=DEADLINE_SECONDS)
    service = home.start("coordinator", "--state", "here")
    read_until(service.stderr, "submit a job")
    assert [found["id"] for found in home.json("jobs", "--state", "here")["jobs"]] == [job["id"]]
    home.cordee("cancel", job["id"], "--state", "here")
    out, _ = follower.communicate(timeout=DEADLINE_SECONDS)
    assert (follower.returncode, out) == (103, f"{job['id']} cancelled\n")  # it has waited through the kill
    assert stop(service) == 0


def test_a_run_trains_and_prints_exactly_one_json_object_of_exactly_these_fields(home: Home) -> None:
    done = home.cordee("run", "train.py", "--workers", "1:2", "3", "-o", "json", "--lr", "0.1", "--", "--workers", "x")
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert list(result) == [
        "job",
        "state",
        "steps",
        "samples",
        "generations",
        "recoveries",
        "weights_sha256",
        "seconds",
        "metrics",
    ]
    assert (result["state"], result["steps"], result["samples"], result["metrics"]) == (
        "succeeded",
        12,
        768,
        {"answer": 42.0},
    )
    assert (result["generations"] >= 1, result["recoveries"], len(result["weights_sha256"])) == (True, 0, 64)
    assert "trained with ['3', '--lr', '0.1', '--workers', 'x']\n" in done.stderr
    folder = Path(re.findall(r"^  folder +(.+)$", done.stderr, re.MULTILINE)[0])
    weights = Path(re.findall(r"^  weights +(.+)$", done.stderr, re.MULTILINE)[0])
    assert folder.parent == home.folder / ".data" / "cordee" / "runs"
    assert weights.is_file()
    assert weights.is_relative_to(folder)
    assert not processes_of(result["job"])


def test_a_run_shows_the_script_s_lines_on_stdout_and_the_progress_on_stderr(home: Home) -> None:
    done = home.cordee("run", "train.py", "2", "--state", "here", "--worker", "x")
    assert done.stdout == "first epoch done\ntrained with ['2', '--worker', 'x']\n"
    assert "note: --worker is no option of cordee's and goes to the script; did you mean --workers?" in done.stderr
    assert f"state folder {home.folder / 'here'}" in done.stderr
    assert re.search(r"cordee: train-\w{6}: starting, .*workers 0/1", done.stderr)
    assert re.search(
        r"^train-\w{6} succeeded in .*: 8 steps, 512 samples, 1 generation, 0 recoveries$", done.stderr, re.MULTILINE
    )
    assert "  answer   42\n" in done.stderr


def test_a_run_whose_script_raises_ends_with_the_traceback_once_and_code_100(home: Home) -> None:
    done = home.cordee("run", "raises.py", "at", "all", "-o", "json", code=100)
    assert json.loads(done.stdout)["state"] == "failed"
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert "ValueError: no snow: at all" in done.stderr


def test_a_run_says_when_a_worker_is_started_again(home: Home) -> None:
    dies_once = """
        import os, pathlib, signal
        marker = pathlib.Path(os.environ["CORDEE_OUTPUT_DIR"], "been here")
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGSEGV)
        print("second life")
    """
    (home.folder / "dies_once.py").write_text(textwrap.dedent(dies_once))
    done = home.cordee("run", "dies_once.py", "--workers", "1")
    assert done.stdout == "second life\n"
    assert "cordee: w0: the worker was killed by SIGSEGV; it is started again at once (restart 1)\n" in done.stderr


def test_a_signal_cancels_a_run_and_leaves_no_worker(home: Home) -> None:
    run = home.start("run", "sleeps.py", "--workers", "2", "-o", "json")
    read_until(run.stderr, "asleep")
    run.send_signal(signal.SIGTERM)
    out, told = run.communicate(timeout=DEADLINE_SECONDS)
    assert run.returncode == 103, told
    result = json.loads(out)
    assert result["state"] == "cancelled"
    assert "cancelled by the user" not in told  # what its worker says as it stops is no output of the script
    assert not processes_of(result["job"])


def test_a_second_signal_kills_a_worker_that_hears_nothing(home: Home) -> None:
    run = home.start("run", "deaf.py", "-o", "json")
    read_until(run.stderr, "asleep")
    run.send_signal(signal.SIGINT)
    read_until(run.stderr, "cancelling")
    run.send_signal(signal.SIGINT)
    out, told = run.communicate(timeout=DEADLINE_SECONDS)
    assert run.returncode == 103, told
    assert not processes_of(json.loads(out)["job"])


def test_a_run_in_one_terminal_is_scaled_from_another(home: Home) -> None:
    run = home.start("run", "sleeps.py", "--workers", "2")
    read_until(run.stdout, "asleep")
    assert home.json("scale", "sleeps", "1:3")["workers"]["max"] == 3
    assert [job["name"] for job in home.json("jobs")["jobs"]] == ["sleeps"]
    assert "error: no coordinator runs here" in home.cordee("submit", "train.py", code=1).stderr
    home.cordee("cancel", "sleeps")
    run.communicate(timeout=DEADLINE_SECONDS)
    assert run.returncode == 103
    (job,) = home.json("jobs")["jobs"]  # its endpoint file is still there, and not believed
    assert job["state"] == "cancelled"


def test_a_run_that_has_ended_is_still_known(home: Home) -> None:
    assert home.cordee("run", "raises.py", "at", "all", code=100).stdout == "so far so good\n"
    job = home.json("status", "raises")
    assert (job["state"], job["members"], job["error"]["exception"]) == ("failed", [], "ValueError: no snow: at all")
    assert yaml.safe_load(home.cordee("status", job["id"], "-o", "yaml").stdout) == job
    assert home.json("jobs")["jobs"] == [job] == home.json("jobs", "--state", folder_of(job))["jobs"]
    assert "raises.py at all" in home.cordee("jobs", "-o", "wide").stdout
    details = home.cordee("status", "raises", "-o", "wide").stdout
    assert "Traceback (most recent call last)" in details
    assert "WORKER" not in details
    assert home.cordee("logs", "raises", "--rank", "0").stdout == ""  # it never was in a world
    assert "[w0] so far so good\n" in home.cordee("logs", "raises", "-f").stdout
    waited = home.cordee("wait", "raises", code=100)
    assert waited.stdout == f"{job['id']} failed\n"
    assert "error: the script failed" in waited.stderr
    for words in (["scale", "raises", "2"], ["cancel", "raises"]):
        done = home.cordee(*words, code=1)
        assert done.stderr.startswith(f"error: the job {job['id']} has ended (failed) and cannot be ")
    home.cordee("status", "nobody", code=102)


def test_a_run_that_was_killed_is_interrupted_and_keeps_its_folder_until_it_is_ended(home: Home) -> None:
    run = home.start("run", "sleeps.py", "--state", "here", "--workers", "2")
    read_until(run.stdout, "asleep")
    run.kill()
    run.communicate(timeout=DEADLINE_SECONDS)
    job = home.json("jobs", "--state", "here")["jobs"][0]
    assert "its coordinator is gone; 2 workers train on" in job["reason"]
    hint = "hint: to go on with it: cordee run sleeps.py --state here --workers 2"
    assert hint in home.cordee("status", "sleeps", "--state", "here").stderr
    assert hint in home.cordee("wait", "sleeps", "--state", "here", code=101).stderr
    assert hint in home.cordee("scale", "sleeps", "1", "--state", "here", code=1).stderr
    for words in (["train.py", "3"], ["sleeps.py", "--threads", "2"], ["sleeps.py", "--dry-run", "--name", "other"]):
        done = home.cordee("run", *words, "--state", "here", code=1)
        assert f"holds an unfinished job, {job['id']}, and this command asks for another one" in done.stderr
        assert f"to end it: cordee cancel {job['id']} --state " in done.stderr
    (home.folder / "sleeps.py").write_text(SLEEPS + "\n")
    done = home.cordee("run", "sleeps.py", "--state", "here", code=1)
    assert "(not the same: files in the source folder)" in done.stderr
    assert processes_of(job["id"])
    assert job["id"] in home.cordee("cancel", "sleeps", "--state", "here").stdout
    assert not processes_of(job["id"])
    assert home.json("status", "sleeps", "--state", "here")["state"] == "cancelled"
    # The folder is free, and its own files are no part of the source beside it.
    assert "first epoch done" in home.cordee("run", "train.py", "1", "--state", "here").stdout


def test_a_token_is_not_sent_in_the_clear(home: Home) -> None:
    home.environment |= {"CORDEE_TOKEN": "secret", "HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": ""}
    error, hint, *_ = home.cordee("jobs", "--server", "http://training.example", code=2).stderr.splitlines()
    assert error.startswith("error: the token is not sent to http://training.example")
    assert "https" in hint
    home.environment |= {"CORDEE_SERVER": "http://127.0.0.1:9"}
    assert "no connection" in home.cordee("jobs", code=1).stderr


def test_a_run_s_dry_run_starts_nothing_and_leaves_nothing(home: Home) -> None:
    plan = home.json("run", "train.py", "--dry-run", "--workers", "64")
    assert plan["placement"]["workers_now"] == 64
    assert not (home.folder / ".data").exists()


def test_on_a_terminal_the_progress_is_live_and_the_terminal_is_left_as_it_was(home: Home) -> None:
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in (os.environ | home.environment).items() if value is not None}
    command = [sys.executable, "-m", "cordee.coordinator.cli", "run", "train.py", "3", "--workers", "2"]
    run = subprocess.Popen(
        command, env=environment | {"TERM": "xterm"}, cwd=home.folder, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    written = b""
    with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
        while chunk := os.read(ours, 65536):
            written += chunk
    os.close(ours)
    assert run.wait(timeout=DEADLINE_SECONDS) == 0
    shown = written.decode()
    assert "trained with ['3']" in shown
    assert "step 12/12" in shown or "epoch" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor is hidden once, and shown again
    assert "\x1b" not in shown[shown.index("succeeded in ") :]


def folder_of(job: Any) -> str:
    return str(Path(job["folder"]).parents[1])


def processes_of(job: str) -> list[str]:
    """The processes of a job that live: its id is in their environment."""
    living = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("CORDEE_JOB") == job and process.status() != psutil.STATUS_ZOMBIE:
                living.append(" ".join(process.cmdline()))
    return living
