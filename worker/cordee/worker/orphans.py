"""Processes that a dead worker has left behind: an agent that adopts them can end them, whatever they did to get away.

Killing the worker's process group takes most. Those with a session of their own (data workers, a daemon that a script
has started) become children of the agent, and hold a GPU's memory or a port that the next worker needs.

Standard library only: the agent imports this.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

__all__ = ["adopt_orphans", "end_orphans", "kill_group"]

WAIT_SECONDS = 0.05
"""For the killed ones to be gone, so that their own children show up as ours."""
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> bool:
    """From now on what its descendants leave behind becomes this process's child. Linux only; whether it is so."""
    if sys.platform != "linux":
        return False
    import ctypes  # takes longer than all the rest of an agent: its zygote starts meanwhile

    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def kill_group(pid: int) -> None:
    """Kills the group that this process leads, if anybody is left in it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def end_orphans(*spared: int | None) -> int:
    """Kills all children of this process but these, and what they leave behind in turn; how many."""
    number = 0
    until = time.monotonic() + WAIT_SECONDS
    while orphans := [pid for pid in _children() if pid not in spared]:
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                number += os.waitpid(pid, os.WNOHANG)[0] == pid
        if time.monotonic() > until:
            break
        time.sleep(0.001)
    return number


def _children() -> list[int]:
    """This process's children, the dead that nobody has waited for included; none where the kernel does not tell."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:  # noqa: PTH123  pathlib costs start-up time
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []
