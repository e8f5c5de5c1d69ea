"""The socket that ties a worker to its agent: when the agent is gone, however it died, so is the worker.

An agent that was killed cannot kill its worker, and a worker without an agent would train on unseen, unlogged, and
beside its own replacement. So the worker reads from a socket that only the agent holds the other end of; the kernel
closes that end when the agent dies. The kernel's parent-death signal does the same for a worker that is stopped or
holds the interpreter lock. In the other direction one byte says that this worker has been a member of a world: the
agent then knows that it does not crash at start.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading

__all__ = ["ENVIRONMENT", "Lifeline"]

ENVIRONMENT = "CORDEE_LIFELINE"
"""Holds the number of the inherited file descriptor."""
_PR_SET_PDEATHSIG = 1


class Lifeline:
    """The worker's end. Without an agent (the variable is not set) nothing is held and nothing happens."""

    def __init__(self) -> None:
        number = os.environ.pop(ENVIRONMENT, "")
        self._socket = socket.socket(fileno=int(number)) if number.isdigit() else None

    def hold(self) -> None:
        """From now on this process ends with its agent."""
        if self._socket is None:
            return
        self._socket.set_inheritable(False)
        if sys.platform == "linux":
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        threading.Thread(target=self._watch, name="cordee-lifeline", daemon=True).start()

    def became_member(self) -> None:
        """Tells the agent."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send(b"m")

    def _watch(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(OSError):
            while self._socket.recv(64):
                pass
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)  # and whatever processes the script has started
        os._exit(1)
