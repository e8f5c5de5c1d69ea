"""What is made to happen in the training thread from outside: an exception out of nowhere, a sleep, an allocation.

Python runs signal handlers in the main thread, between two instructions of whatever runs there. So a handler is what
does it, in the middle of the script's own code; the signal itself is only simulated, and no system call is interrupted.
It waits while the thread is in an exchange or a rendezvous: what fails there is not the script's.
"""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Final

from cordee.worker.activity import COMPUTING, EXCHANGING, MEETING, Activity

__all__ = ["Interruptions"]

_NUMBER: Final = signal.SIGRTMAX
"""A signal that nobody else has a use for."""
_KNOCK_SECONDS: Final = 0.005


class Interruptions:
    """Made in the main thread."""

    def __init__(self, activity: Activity) -> None:
        self._activity = activity
        self._tasks: deque[Callable[[], None]] = deque()
        self._debt = 0.0
        """Seconds that the training thread is still to lose."""
        self._napping = False
        signal.signal(_NUMBER, self._handle)

    def run(self, task: Callable[[], None]) -> None:
        """Has the training thread do this as soon as it computes. Returns at once; from any thread."""
        self._tasks.append(task)
        threading.Thread(target=self._knock, name="cordee-fault", daemon=True).start()

    def slow_down(self, factor: float, seconds: float) -> None:
        """For so long, has what the training thread computes take `factor` times as long. Returns at once."""
        threading.Thread(target=self._drag, args=(factor, seconds), name="cordee-fault", daemon=True).start()

    def _knock(self) -> None:
        while self._tasks:
            _thread.interrupt_main(_NUMBER)
            time.sleep(_KNOCK_SECONDS)

    def _drag(self, factor: float, seconds: float) -> None:
        now = time.monotonic()
        until = now + seconds
        while now < until:
            time.sleep(_KNOCK_SECONDS)
            before, now = now, time.monotonic()
            if self._activity.phase == COMPUTING and not self._napping:
                self._debt += (now - before) * (factor - 1.0)
                _thread.interrupt_main(_NUMBER)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        """In the main thread."""
        if self._activity.phase in (MEETING, EXCHANGING) or self._napping:
            return
        debt, self._debt = self._debt, 0.0
        if debt > 0.0:
            self._napping = True
            try:
                time.sleep(debt)
            finally:
                self._napping = False
        if self._tasks:
            self._tasks.popleft()()
