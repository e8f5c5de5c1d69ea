"""One process of a worker, as its agent sees it: what it prints, what it says on its lifeline, and how it ended.

Standard library only: the agent imports this.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time

from cordee.worker import exit_codes, lifeword
from cordee.worker.logfile import LineSplitter, LogFile
from cordee.worker.memory import Memory, Recent
from cordee.worker.patience import Patience
from cordee.worker.postmortem import PostMortem, tidy_stacks
from cordee.worker.watch import Watch

__all__ = ["Child"]

_READ_BYTES = 1 << 16
_DRAIN_SECONDS = 0.2
"""For the last output of a dead worker, should another process hold its pipe open."""


class Child:
    """Made before its process is; `theirs` are the ends to give to that: stdout, stderr, lifeline, stacks."""

    def __init__(self, selector: selectors.BaseSelector, log: LogFile, memory: Memory) -> None:
        self.incarnation = os.urandom(8).hex()
        self.pid: int | None = None
        self.watch: Watch | None = None
        """From the moment it runs."""
        self.member = False
        self.step = 0
        """The last step it committed, as far as it told."""
        self._since: float | None = None
        self._said: int | None = None
        self._why = ""
        self._selector = selector
        self._log = log
        self._kills = Recent(memory, time.monotonic())
        self._lifeline, lifeline = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lifeline.setblocking(False)
        self._stacks = os.memfd_create("cordee-stacks")
        self._streams: dict[int, tuple[str, LineSplitter]] = {}
        self.theirs = []
        for name in ("stdout", "stderr"):
            ours, end = os.pipe()
            os.set_blocking(ours, False)
            self.theirs.append(end)
            self._streams[ours] = (name, LineSplitter())
            selector.register(ours, selectors.EVENT_READ, self._on_output)
        self.theirs += [lifeline.detach(), os.dup(self._stacks)]
        selector.register(self._lifeline, selectors.EVENT_READ, self._on_lifeline)

    def started(self, pid: int, watch: Watch) -> None:
        """Its process runs, and has its ends."""
        self.pid, self.watch, self._since = pid, watch, time.monotonic()
        self._release()

    def lived(self, now: float) -> float:
        """For how many seconds it has run."""
        return 0.0 if self._since is None else now - self._since

    def note(self, lines: list[str]) -> None:
        """What the agent has to say of it."""
        self._log.write("agent", self.incarnation, lines)

    # --- while it runs ---

    def deadline(self) -> float | None:
        """When `on_time` is due."""
        due = [splitter.deadline for _, splitter in self._streams.values()]
        return min((moment for moment in due if moment is not None), default=None)

    def on_time(self, now: float) -> None:
        """Shows lines that stay unfinished."""
        for stream, splitter in self._streams.values():
            if splitter.deadline is not None and now >= splitter.deadline:
                self._log.write(stream, self.incarnation, splitter.flush())

    def stack_bytes(self) -> int:
        """How much of its stacks is written."""
        return os.fstat(self._stacks).st_size

    def _on_output(self, fd: int) -> None:
        stream, splitter = self._streams[fd]
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._log.write(stream, self.incarnation, splitter.feed(data, time.monotonic()))
        else:
            self._close_stream(fd)

    def _on_lifeline(self, _fd: int) -> None:
        while True:
            try:
                word = self._lifeline.recv(lifeword.WORD_BYTES)
            except BlockingIOError:
                return
            except OSError:
                word = b""
            if not word:
                self._selector.unregister(self._lifeline)  # the process's own end tells the rest
                return
            self._why = lifeword.why(word) or self._why
            self._hear(*lifeword.parse(word))

    def _hear(self, kind: str, number: int) -> None:
        now = time.monotonic()
        self._kills.alive(now)
        if kind == lifeword.MEMBER:
            self.member = True
        elif kind == lifeword.BEAT:
            self.step = max(self.step, number)
        elif kind == lifeword.ENDING:
            self._said = number
        if self.watch is not None:
            if self._said is not None:
                self.watch.ending(now)
            else:
                self.watch.heard(now, member=self.member, step=self.step)

    # --- when it is gone ---

    def ended(self, code: int, *, asked: bool, patience: Patience) -> tuple[int, PostMortem]:
        """Reads what the dead process left, and closes everything that belonged to it: the code that its end counts
        as, and the post-mortem. `patience` is what the next one will have."""
        self._drain()
        settled, words = exit_codes.settle(code, self._said, self._why)
        silent, starved = False, ""
        if code == -signal.SIGKILL and self._said is None and not (self.watch is not None and self.watch.reason):
            starved = self._kills.words()
            words = starved or words
        if self.watch is not None and self.watch.reason and self._said is None:
            words, silent = self.watch.reason, self.watch.silent
        stack = tidy_stacks(os.pread(self._stacks, _READ_BYTES, 0))
        self.close()
        if stack:
            self.note(stack.split("\n"))
        asked = asked or settled in (exit_codes.DRAINED, exit_codes.STOPPED, exit_codes.FENCED)
        return settled, PostMortem(
            self.incarnation,
            code,
            words,
            stack,
            self.step,
            asked,
            silent=silent,
            patience=patience.factor,
            out_of_memory=bool(starved),
        )

    def close(self) -> None:
        """Lets go of everything: should its process live, it ends."""
        for fd in list(self._streams):
            self._close_stream(fd)
        if self._lifeline.fileno() in self._selector.get_map():
            self._selector.unregister(self._lifeline)
        self._lifeline.close()
        os.close(self._stacks)
        self._release()

    def _drain(self) -> None:
        until = time.monotonic() + _DRAIN_SECONDS
        while self._streams and time.monotonic() < until:
            with selectors.DefaultSelector() as selector:
                for fd in self._streams:
                    selector.register(fd, selectors.EVENT_READ)
                ready = selector.select(max(0.0, until - time.monotonic()))
            for key, _ in ready:
                self._on_output(key.fd)
        if self._lifeline.fileno() in self._selector.get_map():
            self._on_lifeline(self._lifeline.fileno())  # it may have spoken as it died

    def _close_stream(self, fd: int) -> None:
        self._selector.unregister(fd)
        stream, splitter = self._streams.pop(fd)
        self._log.write(stream, self.incarnation, splitter.flush())
        os.close(fd)

    def _release(self) -> None:
        for fd in self.theirs:
            os.close(fd)
        self.theirs = []
