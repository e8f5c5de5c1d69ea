"""What Linux tells about processes: who they are beyond a reusable number, when they end, and whom they left behind.

A pid alone names nobody: it is given to another process once its owner is gone. A pid, its start time and the boot
together do, and a pidfd holds on to one process for good.
"""

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Identity",
    "boot_id",
    "identify",
    "is_alive",
    "kill_leftovers",
    "leads_session",
    "send_signal",
    "stragglers",
]

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, for as long as this machine runs."""

    pid: int
    start_ticks: int
    boot: str


@dataclass(frozen=True, slots=True)
class _Stat:
    state: str
    session: int
    start_ticks: int


def boot_id() -> str:
    """A word that changes with every boot."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _stat(pid: int) -> _Stat | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The command's name is in parentheses and may hold anything, parentheses too: fields count from the last one.
    fields = text[text.rindex(")") + 2 :].split()
    return _Stat(state=fields[0], session=int(fields[3]), start_ticks=int(fields[19]))


def identify(pid: int) -> Identity | None:
    """Who has this pid now; None when nobody does."""
    stat = _stat(pid)
    return Identity(pid, stat.start_ticks, boot_id()) if stat is not None else None


def is_alive(process: Identity) -> bool:
    """Whether this very process runs still. A zombie does not."""
    stat = _stat(process.pid)
    return (
        stat is not None
        and stat.start_ticks == process.start_ticks
        and stat.state not in {"Z", "X"}
        and boot_id() == process.boot
    )


def send_signal(process: Identity, number: signal.Signals, *, group: bool = False) -> bool:
    """Signal the process, or the group it leads. False when it is gone."""
    if not is_alive(process):
        return False
    with contextlib.suppress(ProcessLookupError):
        if group:
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)
        return True
    return False


def leads_session(pid: int) -> bool:
    """Whether this process leads a session of its own. One that is gone leads none."""
    stat = _stat(pid)
    return stat is not None and stat.session == pid


def stragglers(environment: dict[str, str], *, session: int | None = None) -> list[int]:
    """Pids that carry all of `environment`, or live in `session`: what an agent left behind when it was killed."""
    wanted = {f"{name}={value}".encode() for name, value in environment.items()}
    found: list[int] = []
    for entry in os.scandir(_PROC):
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        stat = _stat(pid)
        if stat is None or stat.state in {"Z", "X"} or pid == os.getpid():
            continue
        if session is not None and stat.session == session:
            found.append(pid)
            continue
        with contextlib.suppress(OSError):  # another user's, or gone
            if wanted <= set(Path(entry.path, "environ").read_bytes().split(b"\0")):
                found.append(pid)
    return found


def kill_leftovers(environment: dict[str, str], *, session: int | None = None) -> int:
    """Kill every straggler; how many there were."""
    pids = stragglers(environment, session=session)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return len(pids)
