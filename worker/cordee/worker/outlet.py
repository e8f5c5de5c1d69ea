"""Where an agent's log goes beyond its file, in a pod: to the agent's own stdout, and a forwarder to the coordinator.

Both are told of what has been written, and neither can hold the agent up: a stdout that nobody reads loses lines, as
the file does not; the forwarder (`cordee.worker.forwarder`) is a process of its own, and is started again when it dies.

Standard library only: the agent imports this.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence

from cordee.worker.exit_codes import describe

__all__ = ["Outlet"]

FLUSH_SECONDS = 5.0
"""For the last lines, when the agent was asked to go: within the pod's grace period."""
PATIENT_FLUSH_SECONDS = 30.0
"""When nobody has asked it to go: a coordinator that is being started again is waited for."""
PAUSE_SECONDS = 1.0
"""Before a forwarder that died is started again."""
MAX_WAITING_BYTES = 256 << 10
"""Of lines that stdout does not take at once."""


class Outlet:
    """Made by the agent; `command` starts a forwarder, `note` writes to the log."""

    def __init__(self, command: Sequence[str], note: Callable[[str], None], *, stdout: int = 1) -> None:
        self._command = list(command)
        self._note = note
        self._stdout = stdout
        self._waiting = b""
        self._wake = -1
        self._again_at: float | None = None
        self.pid: int | None = None
        """The forwarder's, while it lives."""

    def open(self) -> None:
        """Starts the forwarder."""
        with contextlib.suppress(OSError):
            os.set_blocking(self._stdout, False)
        self._start()

    def written(self, stream: str, lines: Sequence[str]) -> None:
        """These lines are in the log's file."""
        marked = lines if stream != "agent" else [f"[agent] {line}" for line in lines]
        self._show("".join(f"{line}\n" for line in marked).encode("utf-8", "backslashreplace"))
        if self._wake >= 0:
            with contextlib.suppress(OSError):  # it is full: the forwarder has been told
                os.write(self._wake, b"\n")

    def exited(self, code: int) -> None:
        """The forwarder is gone."""
        self.pid = None
        self._hang_up()
        self._again_at = time.monotonic() + PAUSE_SECONDS
        self._note(f"the forwarder of this log {describe(code)}; another goes on where it stopped")

    def deadline(self) -> float | None:
        """When `on_time` is due."""
        return self._again_at

    def on_time(self, now: float) -> None:
        if self._again_at is not None and now >= self._again_at:
            self._again_at = None
            self._start()

    def close(self, *, hurried: bool) -> None:
        """The log is closed: returns when all of it has been sent, or when it is time to go."""
        if self._waiting:
            self._show(b"")
        if self.pid is None:
            self._start()
        self._hang_up()
        until = time.monotonic() + (FLUSH_SECONDS if hurried else PATIENT_FLUSH_SECONDS)
        while self.pid is not None:
            try:
                gone, _ = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                gone = self.pid
            if gone:
                self.pid = None
            elif time.monotonic() > until:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                self.pid = None
            else:
                time.sleep(0.01)

    def _start(self) -> None:
        theirs, ours = os.pipe()
        actions = [(os.POSIX_SPAWN_DUP2, theirs, 0), (os.POSIX_SPAWN_DUP2, 2, 1)]
        try:
            # A group of its own: a terminal's Ctrl-C is for the agent, whose last lines it has to bring.
            self.pid = os.posix_spawn(
                self._command[0], self._command, os.environ, file_actions=actions, setpgroup=0, setsigmask=()
            )
        except OSError as error:
            os.close(ours)
            self._again_at = time.monotonic() + PAUSE_SECONDS
            self._note(f"the forwarder of this log cannot be started: {error}")
            return
        finally:
            os.close(theirs)
        os.set_blocking(ours, False)
        self._wake = ours

    def _hang_up(self) -> None:
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1

    def _show(self, data: bytes) -> None:
        if self._stdout < 0:
            return
        data = self._waiting + data
        try:
            written = os.write(self._stdout, data) if data else 0
        except BlockingIOError:
            written = 0
        except OSError:  # nobody will read it any more
            self._stdout = -1
            return
        self._waiting = data[written:]
        if len(self._waiting) > MAX_WAITING_BYTES:  # the rest of the line that has begun, and no other
            self._waiting = self._waiting[: self._waiting.find(b"\n") + 1]
