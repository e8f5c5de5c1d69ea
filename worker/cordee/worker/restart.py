"""When a worker that ended is started again: a pure decision over its exit codes.

The first fault is answered at once: a killed worker should be a member again in a second or two. A worker that dies
again before it has ever been a member of a world crashes at start, so it waits longer each time. And there is a
budget: a machine that fails twenty times in ten minutes is not worth the world's while.
"""

from __future__ import annotations

from cordee.worker import exit_codes

__all__ = ["RestartPolicy"]

FIRST_BACKOFF_SECONDS = 0.2
LAST_BACKOFF_SECONDS = 10.0
BUDGET = 20
WINDOW_SECONDS = 600.0


class RestartPolicy:
    """Remembers the restarts of one agent's worker."""

    def __init__(self) -> None:
        self.restarts = 0
        """All restarts so far."""
        self._moments: list[float] = []
        self._failed_starts = 0

    def ended(self, code: int, was_member: bool, now: float) -> tuple[float | None, int]:
        """`(seconds until the restart, code)`; None: no restart, the agent ends with `code`."""
        if code in exit_codes.FINAL:
            return None, code
        self._moments = [moment for moment in self._moments if now - moment < WINDOW_SECONDS]
        if len(self._moments) >= BUDGET:
            return None, exit_codes.GAVE_UP
        delay = 0.0
        if was_member:
            self._failed_starts = 0
        else:
            if self._failed_starts:
                delay = min(FIRST_BACKOFF_SECONDS * 2 ** (self._failed_starts - 1), LAST_BACKOFF_SECONDS)
            self._failed_starts += 1
        self._moments.append(now)
        self.restarts += 1
        return delay, code
