"""The process that is a pod's entry point: starts its worker, writes its log, starts it again when it dies.

    python -m cordee.worker.agent        (started by a launcher, which sets the CORDEE_* environment)

One thread, one selector, no imports beyond the standard library's small ones: an agent is started for every worker, and
is there before its worker in about 30 ms. It needs no coordinator: exit codes decide (`cordee.worker.exit_codes`), and
how often (`restart`); a worker that is stopped or gives no sign of life is killed (`watch`); how one ended, and where
it stood, is told by the next (`postmortem`), which is a fork of a warm process (`spawner`, `zygote`).

What the agent is sent (SIGTERM, SIGINT) it passes on: the worker leaves its world at the next step boundary; one that
does not in time, or a second signal, and it is killed. A killed agent takes its worker with it (`lifeline`).
"""

from __future__ import annotations

import os
import selectors
import signal
import sys
import time
from collections.abc import Sequence

from cordee.worker import exit_codes, watch
from cordee.worker.child import Child
from cordee.worker.logfile import LogFile
from cordee.worker.memory import Memory
from cordee.worker.orphans import adopt_orphans, end_orphans, kill_group
from cordee.worker.outlet import Outlet
from cordee.worker.patience import Patience
from cordee.worker.postmortem import ENVIRONMENT, PostMortem
from cordee.worker.restart import BUDGET, WINDOW_SECONDS, RestartPolicy
from cordee.worker.spawner import Spawner

__all__ = ["Agent", "main"]

GRACE_SECONDS = 30.0
"""From SIGTERM to SIGKILL (Kubernetes' own default). CORDEE_GRACE_SECONDS sets another."""
LATE_SECONDS = 1.0
"""An agent that the machine has not run for so long beyond what it slept judges nobody by that time."""
_STACK_POLL_SECONDS = 0.02


class Agent:
    """Runs one worker until it has ended for good. `command` is what a worker is started with, where it is not forked
    from the process that `zygote_command` starts; `forwarder_command`, where its log is to leave this machine."""

    def __init__(
        self,
        command: Sequence[str],
        log: LogFile,
        *,
        zygote_command: Sequence[str] | None = None,
        forwarder_command: Sequence[str] | None = None,
        grace_seconds: float = GRACE_SECONDS,
        heartbeat_seconds: float = watch.HEARTBEAT_SECONDS,
        stopped_seconds: float = watch.STOPPED_SECONDS,
        policy: RestartPolicy | None = None,
    ) -> None:
        self._log = log
        self._grace_seconds = grace_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._stopped_seconds = stopped_seconds
        self._policy = policy or RestartPolicy()
        self._patience = Patience()
        self._memory = Memory()
        self._selector = selectors.DefaultSelector()
        self._spawner = Spawner(
            command, zygote_command, self._selector, started=self._started, lost=self._start, note=self._note
        )
        self._outlet = Outlet(forwarder_command, self._note) if forwarder_command else None
        if self._outlet is not None:
            log.on_written = self._outlet.written
        self._child: Child | None = None
        self._incarnation = ""
        self._previous: PostMortem | None = None
        self._reaped: dict[int, int] = {}
        """Exit codes of adopted children while a worker is being forked: it may die before it is known."""
        self._restart_at: float | None = None
        self._stack_bytes = -1
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
        self._spawner.open()
        if not adopt_orphans():
            self._spawner.close()  # what it forks could not be ours
        self._start()
        if self._outlet is not None:
            self._outlet.open()
        now = time.monotonic()
        while self._ended is None:
            timeout = self._timeout(now)
            # Once more when time was up: one that goes on after a stop is told of the time first, not of what came.
            events = self._selector.select(timeout) or self._selector.select(0)
            slept_until, now = now + (timeout or 0.0), time.monotonic()
            if timeout is not None and now - slept_until > LATE_SECONDS:
                self._late(now, now - slept_until)
            for key, _ in events:
                if key.fd in self._selector.get_map():  # else closed by what came before it in this round
                    key.data(key.fd)
            now = time.monotonic()
            self._on_time(now)
        self._spawner.close()
        self._log.close()
        if self._outlet is not None:
            self._outlet.close(hurried=self._asked_to_leave)
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
        child = self._child
        if child is None or child.watch is None or child.pid is None:
            self._end(exit_codes.DRAINED, f"{name}: no worker runs; the agent ends")
        elif again:
            child.watch.killed(time.monotonic(), f"was killed: {name} came again")
            self._kill(child)
        else:
            child.watch.leave(time.monotonic(), self._grace_seconds)
            self._note(f"{name}: the worker is asked to leave at its next step, within {self._grace_seconds:g} s")
            os.kill(child.pid, signal.SIGTERM)

    def _reap(self) -> None:
        """Looks after children that have ended, were stopped or go on."""
        self._look(self._spawner.zygote)
        if self._child is not None:
            self._look(self._child.pid)
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            pid = found.si_pid
            ours = self._child is not None and pid == self._child.pid
            if ours:
                kill_group(pid)  # what the script has left behind; its id is ours until it is reaped
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if ours:
                self._worker_ended(code)
            elif pid == self._spawner.zygote:
                self._spawner.exited(code)
            elif self._outlet is not None and pid == self._outlet.pid:
                self._outlet.exited(code)
            elif self._child is not None and self._child.pid is None:
                self._reaped[pid] = code

    def _look(self, pid: int | None) -> None:
        """Whether this child was stopped, or goes on."""
        if pid is None:
            return
        now = time.monotonic()
        while True:
            try:
                found = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WCONTINUED | os.WNOHANG)
            except ChildProcessError:
                return
            if found is None:
                return
            if pid == self._spawner.zygote:
                if found.si_code == os.CLD_STOPPED:
                    self._spawner.stopped()
                    return
            elif self._child is not None and self._child.watch is not None:
                if found.si_code == os.CLD_STOPPED:
                    self._child.watch.stopped(now, signal.Signals(found.si_status).name)
                else:
                    self._child.watch.continued(now)

    def _late(self, now: float, seconds: float) -> None:
        self._spawner.late(seconds)
        if self._child is not None and self._child.watch is not None:
            self._child.watch.late(now)

    def _on_time(self, now: float) -> None:
        self._spawner.on_time(now)
        if self._outlet is not None:
            self._outlet.on_time(now)
        child = self._child
        if child is not None:
            child.on_time(now)
            if child.watch is not None:
                self._judge(child, child.watch, now)
        if self._restart_at is not None and now >= self._restart_at and self._ended is None:
            self._restart_at = None
            self._start()

    def _judge(self, child: Child, dog: watch.Watch, now: float) -> None:
        if dog.asked:  # once nothing more is written, there is nothing more to wait for
            size = child.stack_bytes()
            if size and size == self._stack_bytes:
                dog.stacks_written(now)
            self._stack_bytes = size
        match dog.check(now):
            case watch.ASK:
                assert child.pid is not None
                self._stack_bytes = child.stack_bytes()
                os.kill(child.pid, signal.SIGUSR1)
            case watch.KILL:
                self._kill(child)
            case watch.ABANDON:
                self._note("the worker was killed and does not die: the agent goes on without it")
                self._worker_ended(-signal.SIGKILL)

    def _timeout(self, now: float) -> float | None:
        moments = [self._spawner.deadline(), self._restart_at]
        if self._outlet is not None:
            moments.append(self._outlet.deadline())
        if self._child is not None:
            moments.append(self._child.deadline())
            if self._child.watch is not None:
                moments.append(self._child.watch.deadline())
                if self._child.watch.asked:
                    moments.append(now + _STACK_POLL_SECONDS)
        due = [moment for moment in moments if moment is not None]
        return max(0.0, min(due) - now) if due else None

    # --- the worker's process ---

    def _start(self) -> None:
        if self._child is not None:  # the zygote was asked for it, and is lost: should it be there, it ends by this
            self._child.close()
        self._reaped.clear()
        self._child = child = Child(self._selector, self._log, self._memory)
        self._incarnation = child.incarnation
        environment = {"CORDEE_INCARNATION": child.incarnation}
        if self._previous is not None:
            environment[ENVIRONMENT] = self._previous.encode()
        try:
            pid = self._spawner.start(environment, child.theirs)
        except OSError as error:
            self._child = None
            child.close()
            self._settled(exit_codes.CRASHED, f"could not be started: {error}")
            return
        if pid is not None:
            self._started(pid)

    def _started(self, pid: int) -> None:
        child = self._child
        assert child is not None
        dog = watch.Watch(
            time.monotonic(),
            heartbeat_seconds=self._heartbeat_seconds,
            stopped_seconds=self._stopped_seconds,
            patience=self._patience,
        )
        child.started(pid, dog)
        code = self._reaped.pop(pid, None)
        if code is not None:
            self._worker_ended(code)

    def _kill(self, child: Child) -> None:
        assert child.watch is not None
        assert child.pid is not None
        child.note([f"the worker {child.watch.reason}"])
        kill_group(child.pid)

    def _worker_ended(self, code: int) -> None:
        child, self._child = self._child, None
        assert child is not None
        end_orphans(self._spawner.zygote, None if self._outlet is None else self._outlet.pid)
        lived = child.lived(time.monotonic())
        code, found = child.ended(code, asked=self._asked_to_leave, patience=self._patience)
        self._previous = found
        self._settled(code, found.words, found.step, lived)

    def _settled(self, code: int, words: str, step: int = 0, lived: float = 0.0) -> None:
        now = time.monotonic()
        delay, code = self._policy.ended(code, step=step, lived=lived, now=now)
        if self._asked_to_leave and (delay is not None or code == exit_codes.GAVE_UP):
            self._end(exit_codes.DRAINED, f"the worker {words} while it was leaving")
        elif delay is None:
            self._end(code, f"the worker {words}" + ("; the agent gives up" if code == exit_codes.GAVE_UP else ""))
            if code == exit_codes.GAVE_UP:  # for the coordinator, which reads an agent's last line and nobody's log
                last = self._previous.last_words() if self._previous is not None else words
                sys.stderr.write(f"the last time it {last}\n")
        else:
            when = f"in {delay:g} s" if delay else "at once"
            self._note(f"the worker {words}; it is started again {when} (restart {self._policy.restarts})")
            self._restart_at = now + delay

    def _end(self, code: int, words: str) -> None:
        self._note(f"{words} (exit code {code})")
        self._ended = code

    def _note(self, text: str) -> None:
        self._log.write("agent", self._incarnation, [text])


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
    # -P: neither the folder the agent was started in nor a user's `queue.py` there is on the worker's path.
    python = [sys.executable, "-P", "-m"]
    return Agent(
        [*python, "cordee.worker.main"],
        LogFile(f"{os.environ['CORDEE_WORKDIR']}/logs/{worker}.jsonl", worker),
        zygote_command=[*python, "cordee.worker.zygote"],
        forwarder_command=[*python, "cordee.worker.forwarder"] if os.environ.get("CORDEE_UPLOADS") else None,
        grace_seconds=_number("CORDEE_GRACE_SECONDS", GRACE_SECONDS, least=0),
        heartbeat_seconds=_number("CORDEE_HEARTBEAT_TIMEOUT_SECONDS", watch.HEARTBEAT_SECONDS),
        stopped_seconds=_number("CORDEE_STOPPED_SECONDS", watch.STOPPED_SECONDS),
        policy=RestartPolicy(
            int(_number("CORDEE_RESTARTS", BUDGET, least=0)), _number("CORDEE_RESTART_WINDOW_SECONDS", WINDOW_SECONDS)
        ),
    ).run()


def _number(name: str, default: float, least: float = 0.001) -> float:
    """A number from the environment; what is none, or makes no sense, counts as not set."""
    try:
        number = float(os.environ.get(name, ""))
    except ValueError:
        return default
    return number if least <= number < float("inf") else default


if __name__ == "__main__":
    sys.exit(main())
