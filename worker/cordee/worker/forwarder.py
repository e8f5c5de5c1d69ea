"""The process beside an agent that brings its log to the coordinator, where no folder is shared (a pod).

    python -P -m cordee.worker.forwarder        (started by cordee.worker.agent, which holds the other end of its stdin)

The files that the agent and its worker append to are the buffer: what has not arrived is read from them again, however
long the coordinator is away. A file is known to the coordinator by a digest of the pod's folder and of the file's first
line, so that neither a rotation nor a restart of this process changes whose bytes they are; and the coordinator answers
with how many of its bytes it has. So an answer that is lost costs nothing: what was sent again is not written again.

A byte on stdin says that there is something new, its end that the agent has ended: then what is left is sent, and this
process ends. The ledger is looked at from time to time. What the script keeps in its output folder goes at the end.
"""

from __future__ import annotations

import hashlib
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING

from cordee.worker.uplink import AwayError, RefusedError, Uplink

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Forwarder", "ledger_arrived", "main"]

BATCH_BYTES = 512 << 10
GATHER_SECONDS = 0.1
"""Between two looks: lines that come one by one travel together."""
LOOK_SECONDS = 1.0
"""A look without a word from the agent."""
LEDGER_LOOK_SECONDS = 0.25
"""The same where a ledger is kept: the worker writes it, and the agent does not know when."""
LAST_PAUSE_SECONDS = 5.0
"""Between two tries, while the coordinator is away."""
LAST_TRIES_SECONDS = 0.5
"""The same once the agent has ended: one that is back is to be found before patience is lost."""
END_SECONDS = 60.0
"""A forwarder whose agent is gone ends after this, whatever has not been sent. The agent's own bound is shorter."""
MAX_FIRST_LINE_BYTES = 1 << 20
ARRIVED = "ledger/samples.arrived"
"""How much of the ledger has arrived, for the worker: it keeps the rest."""


class Tail:
    """One file that grows, and how much of it has arrived."""

    def __init__(self, path: str, kind: str, *, lines: bool) -> None:
        self.kind = kind
        self.offset = 0
        self.name = ""
        """What the coordinator knows it by; empty: its first line is not there yet."""
        self._lines = lines
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    @property
    def inode(self) -> int:
        return os.fstat(self._fd).st_ino

    def next(self, folder: str) -> bytes:
        """What has not arrived, a batch of it; `folder` is this pod's folder's own id."""
        if not self.name:
            first, newline, _ = os.pread(self._fd, MAX_FIRST_LINE_BYTES, 0).partition(b"\n")
            if not newline:
                return b""
            self.name = hashlib.sha256(f"{folder}\n{self.kind}\n".encode() + first).hexdigest()[:32]
        data = os.pread(self._fd, BATCH_BYTES, self.offset)
        # A line that is being written may be taken back, if the disk is full: not before it is whole.
        return data[: data.rfind(b"\n") + 1] if self._lines and len(data) < BATCH_BYTES else data

    def close(self) -> None:
        os.close(self._fd)


class Forwarder:
    """Brings what is appended to a worker's log, and to its ledger, to the coordinator. `say` tells of trouble."""

    def __init__(self, workdir: str, worker: str, uplink: Uplink, say: Callable[[str], None]) -> None:
        log = f"{workdir}/logs/{worker}.jsonl"
        # The older one first: its lines are the earlier ones.
        self._places = ((f"{log}.1", "logs"), (log, "logs"), (f"{workdir}/ledger/samples.ledger", "ledger"))
        self._arrived = f"{workdir}/{ARRIVED}"
        self._folder = folder_id(workdir)
        self._uplink = uplink
        self._say = say
        self._tails: dict[int, Tail] = {}
        """By inode: a file keeps it when it is renamed."""
        self._silenced = ""

    def bring(self) -> None:
        """Sends all there is. Raises `AwayError`."""
        for inode in self._look():
            tail = self._tails[inode]
            while data := tail.next(self._folder):
                told = self._uplink.post(f"{tail.kind}?name={tail.name}&offset={tail.offset}", data)
                there = told.get("offset")
                if not isinstance(there, int):
                    raise AwayError("it answered something else than how much it has")
                tail.offset = there
                if tail.kind == "ledger":
                    self._tell(there)
        self._silenced = ""

    def trouble(self, words: str) -> None:
        """Says it once, until it is over."""
        if not self._silenced:
            self._silenced = words
            self._say(f"the coordinator does not take this worker's log now, it is sent later: {words}")

    def close(self) -> None:
        """Lets go of the files and of the connection."""
        for tail in self._tails.values():
            tail.close()
        self._tails.clear()
        self._uplink.close()

    def _look(self) -> list[int]:
        """The files there are, in the order of their lines; those that are gone are read to their end, and let go."""
        present: list[int] = []
        for path, kind in self._places:
            try:
                inode = os.stat(path).st_ino  # noqa: PTH116  pathlib costs start-up time
                if inode not in self._tails:
                    tail = Tail(path, kind, lines=kind == "logs")
                    inode = tail.inode  # it may have been renamed meanwhile
                    if inode in self._tails:
                        tail.close()
                    else:
                        self._tails[inode] = tail
            except OSError:
                continue
            if inode not in present:
                present.append(inode)
        for inode in [inode for inode in self._tails if inode not in present]:
            if self._tails[inode].next(self._folder):
                present.insert(0, inode)
            else:
                self._tails.pop(inode).close()
        return present

    def _tell(self, offset: int) -> None:
        """The worker keeps what it has noted until it is known to have arrived."""
        draft = f"{self._arrived}.new"
        try:
            with open(draft, "w", encoding="ascii") as file:  # noqa: PTH123  pathlib costs start-up time
                file.write(str(offset))
            os.replace(draft, self._arrived)  # noqa: PTH105
        except OSError as error:
            self._say(f"{self._arrived} cannot be written: {error.strerror}")


def ledger_arrived(workdir: str | os.PathLike[str]) -> int:
    """How many bytes of this folder's ledger the coordinator has."""
    try:
        with open(f"{os.fspath(workdir)}/{ARRIVED}", "rb") as file:  # noqa: PTH123
            return int(file.read() or 0)
    except (OSError, ValueError):
        return 0


def folder_id(workdir: str) -> str:
    """This folder's own id: a container that is started again in its pod finds the same, a new pod another."""
    path = f"{workdir}/forwarder.id"
    try:
        os.makedirs(workdir, exist_ok=True)  # noqa: PTH103  pathlib costs start-up time
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except OSError:
        try:
            with open(path, encoding="ascii", errors="replace") as file:  # noqa: PTH123
                return file.read() or os.urandom(16).hex()
        except OSError:
            return os.urandom(16).hex()
    identity = os.urandom(16).hex()
    with os.fdopen(fd, "w") as file:
        file.write(identity)
    return identity


def run(
    forwarder: Forwarder, wake: int, *, look_seconds: float = LOOK_SECONDS, end_seconds: float = END_SECONDS
) -> bool:
    """Until the other end of `wake` is closed and all is sent; False: not all was."""
    pause = GATHER_SECONDS
    until: float | None = None
    while True:
        try:
            forwarder.bring()
            if until is not None:
                return True
            pause = GATHER_SECONDS
        except (AwayError, RefusedError) as error:
            forwarder.trouble(str(error))
            pause = min(2 * pause, LAST_PAUSE_SECONDS)
        if until is None:
            if _rest(wake, pause, look_seconds):
                until = time.monotonic() + end_seconds
        elif time.monotonic() > until:
            return False
        else:
            time.sleep(min(pause, LAST_TRIES_SECONDS))


def _rest(wake: int, pause: float, look_seconds: float) -> bool:
    """Waits for `pause`, and then for a word, but not for long. True, at once: the other end is closed."""
    poll = select.poll()
    poll.register(wake, 0)  # of its end one is told without having asked
    if poll.poll(pause * 1000):
        return True
    poll.register(wake, select.POLLIN)
    poll.poll(look_seconds * 1000)
    return not os.read(wake, 1 << 16) if poll.poll(0) else False


def main() -> int:
    """The forwarder's life."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # for the agent, after whose last word this process goes

    def say(text: str) -> None:
        sys.stderr.write(f"cordee: {text}\n")
        sys.stderr.flush()

    uplink = Uplink.from_environment(os.environ)
    if uplink is None:
        say("CORDEE_UPLOADS is not set")
        return 2
    workdir = os.environ["CORDEE_WORKDIR"]
    look_seconds = LEDGER_LOOK_SECONDS if os.environ.get("CORDEE_LEDGER") == "1" else LOOK_SECONDS
    whole = run(Forwarder(workdir, os.environ["CORDEE_WORKER"], uplink, say), 0, look_seconds=look_seconds)
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
