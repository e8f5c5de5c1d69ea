"""A state folder, the coordinators that live on it one after the other, and what must hold of the job they look after.

Coordinators are processes: the service itself, or the same with a crash point (`killed_coordinator`).
"""

import contextlib
import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cordee.coordinator.cli.prepare import Wish, prepare
from cordee.coordinator.client import Client, read_endpoint

__all__ = ["SECONDS", "Trial"]

LAUNCHER = Path(__file__).with_name("killed_coordinator.py")
SECONDS = 60.0
_ANY_PORTS = ("--port", "0", "--grpc-port", "0")  # the ones it had last time, or any


class Watch(threading.Thread):
    """Looks, again and again, for a worker or an agent that runs twice."""

    def __init__(self, log: Path, state: Path) -> None:
        super().__init__(name="watch", daemon=True)
        self._log, self._state, self._ended = log, f"{state}/", threading.Event()
        self.looks = 0
        self.most: Counter[str] = Counter()

    def run(self) -> None:
        while not self._ended.wait(0.1):
            found: Counter[str] = Counter()
            for process in Path("/proc").iterdir():
                if process.name.isdigit():
                    with contextlib.suppress(OSError):  # it has ended
                        found.update(self._roles(process))
            self.most |= found
            self.looks += 1

    def _roles(self, process: Path) -> Iterator[str]:
        environment = (process / "environ").read_bytes().decode(errors="replace").split("\0")
        told = dict(pair.split("=", 1) for pair in environment if pair.startswith("CORDEE_"))
        if not told.get("CORDEE_WORKDIR", "").startswith(self._state):
            return
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        if fields[0] not in "ZX" and fields[3] == process.name:  # it leads its session
            yield f"agent of {told['CORDEE_WORKER']}"
        for link in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                if (path := link.readlink()).parent == self._log:  # the script has begun: this is who trains
                    yield f"process of {path.name.partition('.')[0]}"

    def end(self) -> None:
        self._ended.set()
        self.join()


class Trial:
    """A state folder, its coordinators one after the other, and a job."""

    def __init__(self, job: Any) -> None:
        self.job, self.state = job, job.state
        self.processes: list[subprocess.Popen[str]] = []
        self.watch = Watch(job.log, job.state)
        self.id = ""

    def serve(self, plan: dict[str, Any] | None = None, *options: str) -> subprocess.Popen[str]:
        """A coordinator, as soon as it answers: the service itself, or one with a crash point."""
        process = self.spawn(plan, *options)
        self.until(lambda: process.poll() is not None or self._answers(process), "a coordinator answers")
        assert process.poll() is None, self.said()
        return process

    def spawn(self, plan: dict[str, Any] | None = None, *options: str) -> subprocess.Popen[str]:
        program = ["-m", "cordee.coordinator.cli", "coordinator"] if plan is None else [LAUNCHER, json.dumps(plan)]
        with (self.job.log / f"coordinator{len(self.processes)}.txt").open("w") as said:
            process = subprocess.Popen(
                [sys.executable, *program, "--state", str(self.state), "--slots", "4", *_ANY_PORTS, *options],
                env=self.job.environment, stdin=subprocess.DEVNULL, stderr=said, text=True, cwd=self.state.parent,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def _answers(self, process: subprocess.Popen[str]) -> bool:
        with contextlib.suppress(OSError, ValueError):
            if json.loads((self.state / "endpoint.json").read_text())["pid"] == process.pid:
                with self.client() as client:
                    return client.is_alive()
        return False

    def said(self) -> str:
        """What the newest coordinator wrote for people."""
        return (self.job.log / f"coordinator{len(self.processes) - 1}.txt").read_text()

    def client(self) -> Client:
        endpoint = read_endpoint(self.state)
        assert endpoint is not None
        return Client(endpoint)

    def submit(self, workers: str = "2:2", **more: Any) -> str:
        wish = Wish(script=self.job.script, args=("--log", str(self.job.log)), workers=workers)
        prepared = prepare(wish)
        document = prepared.document.to_document()
        document["spec"] |= more
        with self.client() as client:
            self.id = client.submit(document, prepared.bundle.data, prepared.bundle.sha256)["id"]
        return self.id

    def until(self, wanted: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + SECONDS
        while not (value := wanted()):
            assert time.monotonic() < deadline, f"not within {SECONDS:.0f} s: {what}\n{self.said()}"
            time.sleep(0.02)
        return value

    def until_killed(self, process: subprocess.Popen[str]) -> None:
        assert process.wait(SECONDS) == -signal.SIGKILL, f"the crash point was not reached\n{self.said()}"

    def until_trained(self, num_steps: int = 3) -> None:
        """So many steps more than there are now."""
        steps = max((commit.step for commit in self.job.commits()), default=0)
        self.job.wait_for(lambda commits: commits and commits[-1].step >= steps + num_steps, "training goes on")

    def view(self, ref: str = "") -> Any:
        with self.client() as client:
            return client.job(ref or self.id)

    def until_ended(self, state: str = "succeeded", ref: str = "") -> Any:
        (self.job.log / "slow").unlink(missing_ok=True)
        view = self.until(lambda: (v := self.view(ref))["finished_at"] and v, "the job ends")
        assert view["state"] == state, (view["reason"], view["error"], view["events"], self.said())
        return view

    def check(self, weights: str | None = None) -> None:
        """What is asked of every history. `weights`: what the job is to have ended with, if it did not fail."""
        if weights is not None:
            assert self.view()["weights_sha256"] == weights
        self.until(lambda: not self._agents(), "every agent of a job that has ended is gone")
        self.watch.end()
        assert self.watch.looks > 0
        assert {who: count for who, count in self.watch.most.items() if count > 1} == {}
        commits = self.job.commits()
        for _worker, own in itertools.groupby(sorted(commits, key=lambda c: (c.worker, c.pid)), lambda c: c.worker):
            steps = sorted(commit.step for commit in own)
            assert len(set(steps)) == len(steps), "a worker has committed a step twice"

    def _agents(self) -> list[Path]:
        return list((self.state / "agents").glob("*.json"))

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
