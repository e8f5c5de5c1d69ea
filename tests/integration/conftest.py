"""Runs jobs as a user does, by the command line, and follows them by the lines their script writes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

SCRIPTS = Path(__file__).resolve().parent / "scripts"
DEADLINE_SECONDS = 60.0


@dataclass(frozen=True)
class Commit:
    """A committed step, as the process that committed it wrote it down."""

    worker: str
    pid: int
    step: int
    generation: int
    size: int
    rank: int
    loss: float


class Job:
    """A `cordee` command in the making of a job, with its state folder and the log of its script."""

    def __init__(self, folder: Path, script: str, environment: dict[str, str]) -> None:
        self.state = folder / "state"
        self.log = folder / "log"
        self.log.mkdir()
        self.script = SCRIPTS / script
        self.environment = environment
        self.process: subprocess.Popen[str] | None = None
        self._read: dict[Path, int] = {}
        self._commits: list[Commit] = []

    def slow_down(self, seconds: float = 0.02) -> None:
        """Makes every shard take longer until `finish`: a test gets through its scenario before the run ends."""
        draft = self.log / "slow.new"
        draft.write_text(str(seconds))
        draft.rename(self.log / "slow")

    def cordee(self, *arguments: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Runs another `cordee` command to its end, against the same state folder."""
        return subprocess.run(
            [sys.executable, "-m", "cordee.coordinator.cli", *arguments],
            env=self.environment, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def start(self, *options: str, arguments: tuple[str, ...] = ()) -> None:
        """Starts `cordee run` in the background."""
        command = [sys.executable, "-m", "cordee.coordinator.cli", "run", str(self.script), *options]
        command += ["--state", str(self.state), "-o", "json", "--", "--log", str(self.log), *arguments]
        self.process = subprocess.Popen(
            command,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, timeout: float = 120) -> tuple[int, dict[str, Any], str]:
        """Waits for `cordee run`: its exit code, the JSON it printed, what it said on stderr."""
        assert self.process is not None
        (self.log / "slow").unlink(missing_ok=True)
        stdout, stderr = self.process.communicate(timeout=timeout)
        try:
            result = json.loads(stdout)
        except ValueError as error:
            raise AssertionError(f"not one JSON object: {stdout!r}\n{stderr}") from error
        return self.process.returncode, result, stderr

    def commits(self) -> list[Commit]:
        # Only what is new is read: this is asked a hundred times a second, on the cores that the job trains on.
        for path in self.log.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            self._commits += [Commit(**json.loads(line)) for line in whole.splitlines()]
        self._commits.sort(key=lambda commit: (commit.step, commit.generation, commit.rank))
        return self._commits.copy()

    def wait_for(self, wanted: Callable[[list[Commit]], bool], what: str) -> list[Commit]:
        """Waits until the commits so far are as `wanted`."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline:
            commits = self.commits()
            if wanted(commits):
                return commits
            if self.process is not None and self.process.poll() is not None:
                commits = self.commits()
                if wanted(commits):
                    return commits
                raise AssertionError(f"the run ended before {what}: {self.process.communicate()}")
            time.sleep(0.01)  # other processes write files: there is no event to await
        raise AssertionError(f"not within {DEADLINE_SECONDS:.0f} s: {what}; {self.commits()[-5:]}")

    def members(self) -> dict[str, int]:
        """Worker → pid in the newest world that committed a step."""
        commits = self.commits()
        generation = max(commit.generation for commit in commits)
        return {commit.worker: commit.pid for commit in commits if commit.generation == generation}

    def processes(self) -> list[psutil.Process]:
        """Every process that belongs to this job's state folder or log, this test aside."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                named = any(str(self.log.parent) in part for part in process.cmdline())
                inside = str(self.state) in process.environ().get("CORDEE_WORKDIR", "")
                if process.pid != os.getpid() and (named or inside):
                    found.append(process)
        return found

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.communicate()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """What a user's shell gives a command, with a data folder of the test's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CORDEE_")}
    return {
        **kept,
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "NO_COLOR": "1",
        "CORDEE_DEVICE": os.environ["CORDEE_DEVICE"],
    }


@pytest.fixture
def make_job(tmp_path: Path, environment: dict[str, str]) -> Iterator[Callable[..., Job]]:
    """Makes jobs, each in a folder of its own; whatever they leave running is killed at the end."""
    jobs: list[Job] = []

    def make(script: str = "train.py") -> Job:
        folder = tmp_path / f"job{len(jobs)}"
        folder.mkdir()
        jobs.append(Job(folder, script, environment))
        return jobs[-1]

    yield make
    for job in jobs:
        job.stop()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """The weights that plain `python` ends with, per set of script arguments: what every other history must end
    with."""
    known: dict[tuple[str, ...], str] = {}

    def weights(*arguments: str) -> str:
        if arguments not in known:
            log = tmp_path_factory.mktemp("plain")
            subprocess.run(
                [sys.executable, str(SCRIPTS / "train.py"), "--log", str(log), *arguments],
                check=True, capture_output=True, timeout=120,
                env={name: value for name, value in os.environ.items() if name not in ("CORDEE_WORKER", "CORDEE_JOB")},
            )  # fmt: skip
            known[arguments] = (log / "alone.sha256").read_text()
        return known[arguments]

    return weights
