"""How this process lets go: of its world when it is asked to, of everything when it is told to.

Asked (SIGTERM): the coordinator hears that this worker is leaving, training goes on to the next step boundary, and the
rendezvous there ends the process. Told (the session has ended): whatever the main thread does is broken off by an
exception that a script does not catch; should it not come out in a few seconds (in a moment, if the script is stuck and
holds its peers up), the process ends without it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from cordee.rpc.v1 import worker_pb2 as pb
from cordee.worker import exit_codes
from cordee.worker.session import Session

__all__ = ["Departure"]

LEAVE_SECONDS = 5.0
"""For the script's `finally` blocks, once the process has been told to go."""
STUCK_SECONDS = 0.2
"""For those of a script that is stuck: its peers wait."""


class Departure:
    """Made in the main thread, before the session starts."""

    def __init__(self, session: Session, announce: Callable[[int], None] = lambda _code: None) -> None:
        self.break_off: Callable[[str], None] | None = None
        """Makes an exchange that the main thread is blocked in fail at once."""
        self._announce = announce
        """Tells the agent which code this process ends with."""
        self.saving: Callable[[], bool] = lambda: False
        """Whether the run is writing a checkpoint; a worker that is drained is given the time for it."""
        self._session = session
        self._asked = False
        self._finishing = False
        self._main = threading.main_thread()
        session.on_end = self._told
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._unforked = threading.local()
        os.register_at_fork(
            before=self._hold_signals, after_in_parent=self._release_signals, after_in_child=self._disown
        )

    def finishing(self) -> None:
        """The script is over: from here on the main thread waits for the session's end by itself."""
        self._finishing = True

    # A process that the script forks is no worker: a signal ends it, as whoever sends one expects. Signals are held
    # back around the fork, so that none finds the child with the worker's handlers.

    def _hold_signals(self) -> None:
        self._unforked.mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))

    def _release_signals(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._unforked.mask)

    def _disown(self) -> None:
        defaults = ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler))
        for number, default in defaults:
            if signal.getsignal(number) == self._on_signal:  # else the script has set one of its own
                signal.signal(number, default)
        self._release_signals()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._finishing:
            return
        if self._session.ended:
            if not self._session.left:
                raise self._session.leave()
            return
        if self._asked:
            self._announce(exit_codes.DRAINED)
            os._exit(exit_codes.DRAINED)
        self._asked = True
        self._session.post(pb.WorkerMessage(leaving=pb.Leaving(reason=signal.Signals(number).name)))

    def _told(self, code: int, message: str) -> None:
        """On the session's thread."""
        if self._finishing:
            return
        if self.break_off is not None:
            self.break_off(message)
        signal.pthread_kill(self._main.ident or 0, signal.SIGTERM)
        self._main.join(STUCK_SECONDS if self._session.stuck else LEAVE_SECONDS)
        while code == exit_codes.DRAINED and self.saving() and self._main.is_alive():
            self._main.join(0.1)  # what it saves may be all that is left; the agent's grace ends even that
        self.end(code, f"cordee: {message}\n")

    def end(self, code: int, text: str = "") -> NoReturn:
        """Ends this process now, with what has been printed so far. No thread or handler of the script can hold it."""
        try:
            sys.stderr.write(text)
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        except (OSError, ValueError):
            pass  # the agent that reads them is gone
        self._announce(code)
        os._exit(code)
