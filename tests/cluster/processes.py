"""Servers that live no longer than the process that started them, and whose last words are told when they fail."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["Server", "wait_until"]

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_starter = ThreadPoolExecutor(1, thread_name_prefix="starter")


def _die_with_parent() -> None:
    """In the child, before it becomes the server: a test process that is killed leaves nothing behind."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Server:
    """A program that serves until it is stopped; what it says goes to `log`. May be started from any thread."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] = {}) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the running process; None: it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        assert self.pid is None, f"{self.name} runs already"
        # Linux takes the end of the thread that started it for the end of the parent: that thread is ours, and stays.
        _starter.submit(self._start).result()

    def _start(self) -> None:
        with self.log.open("ab") as log:
            # In a session of its own, so that Ctrl-C at the terminal leaves the order of stopping to us.
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._environment},
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one call into libc, no lock
            )

    def stop(self, signal_number: int = signal.SIGTERM, patience_seconds: float = 10.0) -> None:
        """Asks it to end, and makes it."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal_number)
            try:
                self._process.wait(patience_seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

    def check(self) -> None:
        """Raises when it ended by itself."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise RuntimeError(f"{self.name} ended with {code}; the end of {self.log}:\n{self.last_words()}")

    def last_words(self, num_lines: int = 25) -> str:
        """The end of its log."""
        if not self.log.exists():
            return "(it said nothing)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-num_lines:])


def wait_until(
    holds: Callable[[], bool], what: str, timeout_seconds: float = 60.0, watched: Sequence[Server] = ()
) -> None:
    """Waits for a state that no event announces; raises at once when a `watched` server ends."""
    deadline = time.monotonic() + timeout_seconds
    while not holds():
        for server in watched:
            server.check()
        if time.monotonic() > deadline:
            words = "\n".join(f"--- {server.name}\n{server.last_words()}" for server in watched)
            raise TimeoutError(f"{what}: not within {timeout_seconds:g} s\n{words}")
        time.sleep(0.02)
