"""The process that is a pod's entry point: starts its worker, writes its log, starts it again when it dies.

    python -m cordee.worker.agent        (started by a launcher, which sets the CORDEE_* environment)

One thread, one selector, no imports beyond the standard library's small ones: an agent is started for every worker, and
is there before its worker in about 30 ms. It decides from exit codes alone (`cordee.worker.exit_codes`), so it needs no
coordinator. What it is sent (SIGTERM, SIGINT) it passes on: the worker leaves its world at the next step boundary; one
that does not in time, or a second signal, and it is killed. A killed agent takes its worker with it
(`cordee.worker.lifeline`).
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from cordee.worker import exit_codes
from cordee.worker.logfile import LineSplitter, LogFile
from cordee.worker.restart import RestartPolicy

__all__ = ["Agent", "main"]

GRACE_SECONDS = 30.0
"""From SIGTERM to SIGKILL (Kubernetes' own default). CORDEE_GRACE_SECONDS sets another."""
_READ_BYTES = 1 << 16
_DRAIN_SECONDS = 0.2
"""For the last output of a dead worker, should another process hold its pipe open."""


class Agent:
    """Runs one worker until it has ended for good. `command` is what a worker is started with."""

    def __init__(self, command: Sequence[str], worker: str, log: LogFile, grace_seconds: float) -> None:
        self._command = list(command)
        self._worker = worker
        self._log = log
        self._grace_seconds = grace_seconds
        self._policy = RestartPolicy()
        self._selector = selectors.DefaultSelector()
        self._process: subprocess.Popen[bytes] | None = None
        self._incarnation = ""
        self._lifeline: socket.socket | None = None
        self._was_member = False
        self._streams: dict[int, tuple[str, LineSplitter]] = {}
        self._restart_at: float | None = None
        self._kill_at: float | None = None
        self._asked_to_leave = False
        self._ended: int | None = None
        self._wake_read, self._wake_write = os.pipe()
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)

    def run(self) -> int:
        """Returns the agent's exit code."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # what arrives is read from the wake-up pipe
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._on_signals)
        self._start()
        while self._ended is None:
            for key, _ in self._selector.select(self._timeout()):
                if key.fd in self._selector.get_map():  # else closed by what came before it in this round
                    key.data(key.fd)
            self._on_time(time.monotonic())
        self._log.close()
        return self._ended

    # --- what happens ---

    def _on_signals(self, fd: int) -> None:
        try:
            numbers = os.read(fd, 256)
        except BlockingIOError:
            return
        for number in numbers:
            if number in (signal.SIGTERM, signal.SIGINT):
                self._leave(signal.Signals(number).name)
        self._reap()

    def _leave(self, name: str) -> None:
        again, self._asked_to_leave = self._asked_to_leave, True
        if self._process is None:
            self._end(exit_codes.DRAINED, f"{name}: no worker runs; the agent ends")
        elif again:
            self._kill(f"{name} again")
        else:
            self._kill_at = time.monotonic() + self._grace_seconds
            self._note(f"{name}: the worker is asked to leave at its next step, within {self._grace_seconds:g} s")
            self._process.send_signal(signal.SIGTERM)

    def _on_output(self, fd: int) -> None:
        stream, splitter = self._streams[fd]
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._log.write(stream, self._incarnation, splitter.feed(data, time.monotonic()))
        else:
            self._close_stream(fd)

    def _on_lifeline(self, _fd: int) -> None:
        assert self._lifeline is not None
        try:
            said = self._lifeline.recv(64)
        except OSError:
            said = b""
        if said:
            self._was_member = True
        elif self._lifeline.fileno() in self._selector.get_map():
            self._selector.unregister(self._lifeline)  # the worker's own end tells the rest

    def _on_time(self, now: float) -> None:
        for stream, splitter in self._streams.values():
            if splitter.deadline is not None and now >= splitter.deadline:
                self._log.write(stream, self._incarnation, splitter.flush())
        if self._kill_at is not None and now >= self._kill_at:
            self._kill(f"the worker did not leave within {self._grace_seconds:g} s")
        if self._restart_at is not None and now >= self._restart_at and self._ended is None:
            self._restart_at = None
            self._start()

    def _timeout(self) -> float | None:
        moments = [splitter.deadline for _, splitter in self._streams.values()]
        due = [moment for moment in (*moments, self._kill_at, self._restart_at) if moment is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    # --- the worker's process ---

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._incarnation = os.urandom(8).hex()
        self._was_member = False
        environment = {
            **os.environ,
            "CORDEE_INCARNATION": self._incarnation,
            "CORDEE_LIFELINE": str(theirs.fileno()),
        }
        try:
            self._process = subprocess.Popen(
                self._command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                process_group=0,  # a terminal's Ctrl-C is for the agent; and the worker's own children are found by it
            )
        except OSError as error:
            ours.close()
            self._ended_with(exit_codes.CRASHED, f"could not be started: {error}")
            return
        finally:
            theirs.close()
        ours.setblocking(False)
        self._lifeline = ours
        self._selector.register(ours, selectors.EVENT_READ, self._on_lifeline)
        for name, pipe in (("stdout", self._process.stdout), ("stderr", self._process.stderr)):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            self._streams[pipe.fileno()] = (name, LineSplitter())
            self._selector.register(pipe.fileno(), selectors.EVENT_READ, self._on_output)

    def _kill(self, reason: str) -> None:
        self._kill_at = None
        if self._process is not None:
            self._note(f"{reason}: the worker is killed")
            self._kill_group(self._process.pid)

    def _reap(self) -> None:
        process = self._process
        if process is None or os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return
        self._kill_group(process.pid)  # what the script has left behind; its id is ours until it is reaped
        process.wait()
        self._drain(process)
        self._process = None
        self._ended_with(process.returncode, exit_codes.describe(process.returncode))

    def _drain(self, process: subprocess.Popen[bytes]) -> None:
        """Reads what the dead worker had still written, then closes everything that belonged to it."""
        until = time.monotonic() + _DRAIN_SECONDS
        while self._streams and time.monotonic() < until:
            with selectors.DefaultSelector() as selector:
                for fd in self._streams:
                    selector.register(fd, selectors.EVENT_READ)
                ready = selector.select(max(0.0, until - time.monotonic()))
            for key, _ in ready:
                self._on_output(key.fd)
        for fd in list(self._streams):
            self._close_stream(fd)
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
        if self._lifeline is not None:
            self._on_lifeline(self._lifeline.fileno())  # it may have told of a membership as it died
            if self._lifeline.fileno() in self._selector.get_map():
                self._selector.unregister(self._lifeline)
            self._lifeline.close()
            self._lifeline = None

    def _close_stream(self, fd: int) -> None:
        self._selector.unregister(fd)
        stream, splitter = self._streams.pop(fd)
        self._log.write(stream, self._incarnation, splitter.flush())

    def _ended_with(self, code: int, words: str) -> None:
        self._kill_at = None
        now = time.monotonic()
        delay, code = self._policy.ended(code, self._was_member, now)
        if self._asked_to_leave and (delay is not None or code == exit_codes.GAVE_UP):
            self._end(exit_codes.DRAINED, f"the worker {words} while it was leaving")
        elif delay is None:
            self._end(code, f"the worker {words}" + ("; the agent gives up" if code == exit_codes.GAVE_UP else ""))
            if code == exit_codes.GAVE_UP:  # for the coordinator, which reads an agent's last line and nobody's log
                sys.stderr.write(f"the last time it {words}\n")
        else:
            when = f"in {delay:g} s" if delay else "at once"
            self._note(f"the worker {words}; it is started again {when} (restart {self._policy.restarts})")
            self._restart_at = now + delay

    def _end(self, code: int, words: str) -> None:
        self._note(f"{words} (exit code {code})")
        self._ended = code

    def _note(self, text: str) -> None:
        self._log.write("agent", self._incarnation, [text])

    @staticmethod
    def _kill_group(pid: int) -> None:
        try:
            os.killpg(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # nobody is left in it


def main() -> int:
    """The agent's entry point; returns its exit code."""
    missing = [name for name in ("CORDEE_WORKER", "CORDEE_WORKDIR") if not os.environ.get(name)]
    if missing:
        sys.stderr.write(
            f"cordee: {' and '.join(missing)} not set. The agent is started by a launcher of Cordee's coordinator; "
            "to train without one run the script itself: python script.py\n"
        )
        return exit_codes.UNUSABLE
    worker = os.environ["CORDEE_WORKER"]
    log = LogFile(f"{os.environ['CORDEE_WORKDIR']}/logs/{worker}.jsonl", worker)
    # -P: neither the folder the agent was started in nor a user's `queue.py` there is on the worker's path.
    command = [sys.executable, "-P", "-m", "cordee.worker.main"]
    return Agent(command, worker, log, _grace_seconds(os.environ.get("CORDEE_GRACE_SECONDS", ""))).run()


def _grace_seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return GRACE_SECONDS


if __name__ == "__main__":
    sys.exit(main())
