"""How an agent gets a worker's process: a fork of its zygote, or, where that cannot be had, a fresh interpreter.

The zygote (`cordee.worker.zygote`) is asked and answers later; meanwhile the agent does what else there is to do. One
that has died, is stopped or does not answer is replaced, in its own time, and whoever waits for it is told to start
afresh: a warm process may make a start faster, never later.

Standard library only: the agent imports this.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence

from cordee.worker import exit_codes
from cordee.worker.logfile import LineSplitter
from cordee.worker.orphans import kill_group

__all__ = ["Spawner"]

IMPORT_SECONDS = 30.0
"""For the first zygote to be ready. What has kept it from that keeps a fresh worker from it as well."""
FORK_SECONDS = 2.0
FIRST_PAUSE_SECONDS = 2.0
"""Before the next zygote is started: its imports are not to compete with those of a worker that was started afresh."""
LAST_PAUSE_SECONDS = 60.0
_DEFAULTED = (signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores these, and a child would inherit that."""


class Spawner:
    """`started(pid)` is called when the process that was asked for runs, `lost()` when the zygote failed to make it:
    then ask again."""

    def __init__(
        self,
        command: Sequence[str],
        zygote_command: Sequence[str] | None,
        selector: selectors.BaseSelector,
        *,
        started: Callable[[int], None],
        lost: Callable[[], None],
        note: Callable[[str], None],
    ) -> None:
        self._command = list(command)
        self._zygote_command = list(zygote_command) if zygote_command else None
        self._selector = selector
        self._started = started
        self._lost = lost
        self._note = note
        self.zygote: int | None = None
        """Its pid, while it lives."""
        self._control: socket.socket | None = None
        self._output: dict[int, LineSplitter] = {}
        self._ready = False
        self._awaited = True  # the first one, by the first worker
        self._answer_by: float | None = None
        self._open_at: float | None = None
        self._pause = FIRST_PAUSE_SECONDS

    def open(self) -> None:
        """Starts the zygote, once."""
        if self._zygote_command is None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            theirs.set_inheritable(True)
            # A pipe, as its workers will have: a Python stream asks once, at its start, what kind of file it writes to.
            output, end = os.pipe()
            try:
                self.zygote = _spawn([*self._zygote_command, str(theirs.fileno())], os.environ, end, end)
            except OSError as error:
                ours.close()
                os.close(output)
                self._rest(f"could not be started: {error}")
                return
            finally:
                os.close(end)
        self._control = ours
        self._ready = False
        os.set_blocking(output, False)
        self._output[output] = LineSplitter()
        self._selector.register(output, selectors.EVENT_READ, self._on_output)
        self._selector.register(ours, selectors.EVENT_READ, self._on_control)

    def start(self, environment: Mapping[str, str], descriptors: Sequence[int]) -> int | None:
        """The new process's pid; None: the zygote was asked for it. Raises `OSError`."""
        if self._control is not None and (self._ready or self._awaited):
            request = {"agent": os.getpid(), "environment": dict(environment)}
            try:
                socket.send_fds(self._control, [json.dumps(request).encode()], descriptors)
            except OSError as error:
                self._rest(f"could not be asked: {error}")
            else:
                self._answer_by = time.monotonic() + (FORK_SECONDS if self._ready else IMPORT_SECONDS)
                return None
        self._awaited = False
        stdout, stderr, lifeline, stacks = descriptors
        for descriptor in (lifeline, stacks):
            os.set_inheritable(descriptor, True)
        told = {**os.environ, **environment, "CORDEE_LIFELINE": str(lifeline), "CORDEE_STACKS": str(stacks)}
        return _spawn(self._command, told, stdout, stderr)

    # --- the zygote ---

    def deadline(self) -> float | None:
        """When `on_time` is due."""
        return min((due for due in (self._answer_by, self._open_at) if due is not None), default=None)

    def on_time(self, now: float) -> None:
        if self._answer_by is not None and now >= self._answer_by:
            self._fail("does not answer")
        if self._open_at is not None and now >= self._open_at:
            self._open_at = None
            self.open()

    def late(self, seconds: float) -> None:
        """The agent itself was not run for so long."""
        if self._answer_by is not None:
            self._answer_by += seconds

    def exited(self, code: int) -> None:
        """The zygote is gone."""
        if self._control is not None:
            self._on_control(self._control.fileno())  # it may have spoken as it died
        if self.zygote is not None:
            self.zygote = None
            self._fail(exit_codes.describe(code))

    def stopped(self) -> None:
        """Somebody has stopped the zygote."""
        self._fail("was stopped")

    def close(self) -> None:
        """Ends the zygote."""
        self._zygote_command = None
        self._close_zygote()

    def _on_output(self, fd: int) -> None:
        """What a library says as it is imported."""
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return
        splitter = self._output[fd]
        for line in splitter.feed(data, 0.0) if data else splitter.flush():
            self._note(f"the warm process says: {line}")
        if not data:
            self._selector.unregister(fd)
            del self._output[fd]
            os.close(fd)

    def _on_control(self, _fd: int) -> None:
        assert self._control is not None
        try:
            try:
                message = self._control.recv(4096, socket.MSG_DONTWAIT)
            except ConnectionResetError:  # it ended with a request unread; what it said before that comes after
                message = self._control.recv(4096, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        kind, _, rest = message.decode("utf-8", "replace").partition(" ")
        if kind == "ready":
            self._ready, self._awaited = True, False
            self._pause = FIRST_PAUSE_SECONDS
            if self._answer_by is not None:
                self._answer_by = time.monotonic() + FORK_SECONDS
        elif kind == "pid":
            self._answer_by = None
            self._started(int(rest))
        elif kind == "refused":
            self._fail(f"could not fork: {rest}")
        elif kind == "error":
            self._zygote_command = None  # the next one would fail as well
            self._fail(rest)
        else:
            self._hang_up()  # its exit says why

    def _fail(self, why: str) -> None:
        waiting = self._answer_by is not None
        self._rest(why)
        if waiting:
            self._lost()

    def _rest(self, why: str) -> None:
        """No zygote for a while."""
        self._close_zygote()
        self._awaited = False
        if self._zygote_command is not None:
            self._open_at = time.monotonic() + self._pause
            self._pause = min(self._pause * 2, LAST_PAUSE_SECONDS)
        self._note(f"the warm process {why}: until there is another, a worker takes longer to start")

    def _close_zygote(self) -> None:
        self._answer_by = None
        self._hang_up()
        if self.zygote is not None:
            kill_group(self.zygote)  # it is ours until it is reaped; and what it has forked and not made a worker yet
            self.zygote = None

    def _hang_up(self) -> None:
        self._ready = False
        if self._control is not None:
            self._selector.unregister(self._control)
            self._control.close()
            self._control = None


def _spawn(command: list[str], environment: Mapping[str, str], stdout: int, stderr: int) -> int:
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, stdout, 1),
        (os.POSIX_SPAWN_DUP2, stderr, 2),
    ]
    # A group of its own: a terminal's Ctrl-C is for the agent, and the process's own children are found by it.
    return os.posix_spawn(
        command[0], command, environment, file_actions=actions, setpgroup=0, setsigmask=(), setsigdef=_DEFAULTED
    )
