"""The socket that ties a worker to its agent: each learns by it that the other is gone.

An agent that was killed cannot kill its worker, and a worker without an agent would train on unseen, unlogged, and
beside its own replacement. So the worker reads from a socket that only the agent holds the other end of; the kernel
closes that end when the agent dies. The kernel's parent-death signal does the same for a worker that is stopped or
holds the interpreter lock.

In the other direction go the words of `cordee.worker.lifeword`. One of them, that this process lives, is said several
times a second by a thread: an agent that hears nothing knows that this process is not run, or that its interpreter lock
is held (`cordee.worker.watch`).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading

from cordee.worker import lifeword
from cordee.worker.forks import close_in_children

__all__ = ["ENVIRONMENT", "Lifeline", "die_with_parent"]

ENVIRONMENT = "CORDEE_LIFELINE"
"""Holds the number of the inherited file descriptor."""
BEAT_SECONDS = 0.25
_PR_SET_PDEATHSIG = 1


class Lifeline:
    """The worker's end. Without an agent (the variable is not set) nothing is held and nothing happens."""

    def __init__(self) -> None:
        number = os.environ.pop(ENVIRONMENT, "")
        self._socket = socket.socket(fileno=int(number)) if number.isdigit() else None
        self._owner = os.getpid()
        self._step = 0

    def hold(self) -> None:
        """From now on this process ends with its agent, and says that it lives."""
        if self._socket is None:
            return
        self._socket.set_inheritable(False)
        close_in_children(self._socket)
        if sys.platform == "linux":
            die_with_parent()
        threading.Thread(target=self._watch, name="cordee-lifeline", daemon=True).start()

    @property
    def agent(self) -> int | None:
        """The process that holds the other end; None: there is no agent."""
        return None if self._socket is None else os.getppid()

    def became_member(self) -> None:
        """Tells the agent."""
        self._say(lifeword.MEMBER)

    def committed(self, step: int) -> None:
        """The step is committed. The first one is told at once, later ones with the next beat."""
        first = not self._step
        self._step = step
        if first:
            self._say(lifeword.BEAT, step)

    def ending(self, code: int) -> None:
        """This process is about to end, with this code, and means it."""
        if os.getpid() == self._owner:
            self._say(lifeword.ENDING, code)

    def because(self, why: str) -> None:
        """What it is about to end of: two ends that differ in this are not the same."""
        if self._socket is not None and os.getpid() == self._owner:
            with contextlib.suppress(OSError):
                self._socket.send(lifeword.say_why(why), socket.MSG_DONTWAIT)

    def _say(self, kind: str, number: int = 0) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # the agent is gone, or was not run for a minute
                self._socket.send(lifeword.say(kind, number), socket.MSG_DONTWAIT)

    def _watch(self) -> None:
        assert self._socket is not None
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        with contextlib.suppress(OSError):
            while not poll.poll(BEAT_SECONDS * 1000) or self._socket.recv(64):
                self._say(lifeword.BEAT, self._step)
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)  # and whatever processes the script has started
        os._exit(1)


def die_with_parent() -> None:
    """The kernel kills this process when its parent ends, whatever it is doing then. Linux only."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
