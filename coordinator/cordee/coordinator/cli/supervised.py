"""A coordinator as a child process that is started again whenever it dies: one that can be killed in earnest.

`cordee run` has its coordinator inside itself; under `--chaos` with a dead coordinator in the plan it has this one.
Both offer the same: `submit` and `kill_jobs`. The child obeys words on its standard input (`serve`), so it also learns
of this process's death.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from cordee.coordinator.errors import CoordinatorError

if TYPE_CHECKING:
    from cordee.coordinator.cli.follow import Interrupts
    from cordee.coordinator.client import Client
    from cordee.coordinator.views import JobView

__all__ = ["SupervisedCoordinator", "supervised"]

_COMMAND: Final = (sys.executable, "-P", "-m", "cordee.coordinator.cli", "coordinator", "--supervised")
_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 20.0
_MAX_QUICK_DEATHS: Final = 5
_QUICK_SECONDS: Final = 2.0


class SupervisedCoordinator:
    """`cordee coordinator` on a folder, living again after every death until it is told to stop."""

    def __init__(self, folder: Path, *, slots: int) -> None:
        self._folder = folder
        self._command = [*_COMMAND, "--state", str(folder), "--port", "0", "--grpc-port", "0", "--slots", str(slots)]
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._stopping = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="cordee-supervisor", daemon=True)
        self._outages: list[tuple[float, float | None]] = []
        self._client: Client | None = None

    def start(self) -> "Client":
        """Start it; a client of it when it answers."""
        from cordee.coordinator.client import Client, read_endpoint

        self._folder.mkdir(parents=True, exist_ok=True)
        self._log = (self._folder / "coordinator.log").open("ab")
        began = time.time()
        child = self._spawn()
        deadline = time.monotonic() + _START_SECONDS
        written = self._folder / "endpoint.json"
        while True:
            if child.poll() is not None or time.monotonic() > deadline:
                child.kill()
                raise CoordinatorError("the coordinator did not start", f"see {self._folder / 'coordinator.log'}")
            # One of an earlier run on this folder may still lie there.
            if written.is_file() and written.stat().st_mtime >= began - 1.0 and (end := read_endpoint(self._folder)):
                self._client = Client(end)
                if self._client.is_alive():
                    break
                self._client.close()
            time.sleep(0.05)
        self._keeper.start()
        return self._client

    def submit(self, document: Mapping[str, Any], bundle: bytes, sha256: str) -> "JobView":
        """Take a job in."""
        assert self._client is not None
        return self._client.submit(document, bundle, sha256)

    def kill(self) -> None:
        """`kill -9`."""
        with self._lock:
            assert self._child is not None
            if self._child.poll() is None:
                os.kill(self._child.pid, signal.SIGKILL)
                self._child.wait()
                if not self._outages or self._outages[-1][1] is not None:
                    self._outages.append((time.time(), None))  # else it was killed before it answered again

    @property
    def outages(self) -> list[tuple[float, float | None]]:
        """From when to when it was away."""
        return list(self._outages)

    def kill_jobs(self) -> None:
        """Cancel every job and kill its processes now. Returns at once."""
        self._tell(b"kill\n")

    def stop(self) -> None:
        """Stop it for good; its jobs are cancelled, and their processes are gone on return."""
        self._stopping.set()
        if self._keeper.is_alive():
            self._keeper.join(_START_SECONDS)
        child = self._child
        if child is not None:
            self._tell(b"stop\n")
            try:
                child.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(_STOP_SECONDS)
                child.kill()
                child.wait()
            if child.stdin is not None:
                with contextlib.suppress(OSError):
                    child.stdin.close()
        if self._client is not None:
            self._client.close()
        if self._log is not None:
            self._log.close()

    def _spawn(self) -> "subprocess.Popen[bytes]":
        # A session of its own: Ctrl-C at the terminal is for the command to deal with.
        child = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=self._log, stderr=self._log, start_new_session=True
        )
        self._child = child
        return child

    def _tell(self, word: bytes) -> None:
        with self._lock:
            if self._child is not None and self._child.stdin is not None:
                with contextlib.suppress(OSError):  # it is dead; the next one will hear nothing of it
                    self._child.stdin.write(word)
                    self._child.stdin.flush()

    def _keep(self) -> None:
        """Start it again whenever it has died, unless it cannot live at all."""
        assert self._client is not None
        deaths = 0
        while not self._stopping.wait(0.02):
            child = self._child
            if child is None or child.poll() is None:
                continue
            began = time.monotonic()
            with self._lock:
                if not self._outages or self._outages[-1][1] is not None:
                    self._outages.append((time.time(), None))  # nobody killed it
                if self._child is not None and self._child.stdin is not None:
                    with contextlib.suppress(OSError):
                        self._child.stdin.close()
                child = self._spawn()
            while not self._client.is_alive() and child.poll() is None and not self._stopping.is_set():
                time.sleep(0.02)
            if self._client.is_alive():
                self._outages[-1] = (self._outages[-1][0], time.time())
                deaths = 0
            elif time.monotonic() - began < _QUICK_SECONDS:
                deaths += 1
                if deaths >= _MAX_QUICK_DEATHS:
                    return


@contextlib.contextmanager
def supervised(
    folder: Path, interrupts: "Interrupts", *, slots: int = 0
) -> "Iterator[tuple[SupervisedCoordinator, Client]]":
    """A supervised coordinator with at least so many slots, and a client of it. At the end no worker of it is left."""
    from cordee.coordinator.service.launchers.process import default_slots

    coordinator = SupervisedCoordinator(folder, slots=max(default_slots(), slots))
    try:
        client = coordinator.start()
        yield coordinator, client
    finally:
        with interrupts.to(lambda _number: coordinator.kill_jobs()):
            coordinator.stop()
