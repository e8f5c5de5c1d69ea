"""When a worker that ended is started again: a pure decision over its exit codes and what it had achieved.

The first fault is answered at once: a killed worker should be a member again in a fraction of a second. A process that
dies before it has committed a step has only taken time: a crash at start, or in the same place again and again. Each
such one in a row waits longer; a committed step forgives them all.

And there is a budget: a machine that fails twenty times in ten minutes is not worth the world's while. A process that
got further than any before it, and took its time to, was worth its restart, however it ended: it is not counted. So
faults that keep coming from outside use nothing up as long as there are steps between them.
"""

from __future__ import annotations

from cordee.worker import exit_codes

__all__ = ["BUDGET", "WINDOW_SECONDS", "WORTH_SECONDS", "RestartPolicy"]

FIRST_BACKOFF_SECONDS = 0.2
LAST_BACKOFF_SECONDS = 10.0
BUDGET = 20
"""Restarts within a window. CORDEE_RESTARTS sets another number; 0: none at all."""
WINDOW_SECONDS = 600.0
"""CORDEE_RESTART_WINDOW_SECONDS sets another."""
WORTH_SECONDS = 5.0
"""Ten times what it takes to be a member again: one that dies sooner costs its world too much, steps or not."""


class RestartPolicy:
    """Remembers the restarts of one agent's worker."""

    def __init__(self, budget: int = BUDGET, window_seconds: float = WINDOW_SECONDS) -> None:
        self.restarts = 0
        """All restarts so far."""
        self._budget = budget
        self._window_seconds = window_seconds
        self._moments: list[float] = []
        """When a process ended that was not worth it."""
        self._fruitless = 0
        self._furthest = 0

    def ended(self, code: int, *, step: int, lived: float, now: float) -> tuple[float | None, int]:
        """`(seconds until the restart, code)`; None: no restart, the agent ends with `code`.

        `step` is the last one that the process committed, 0: none; `lived` is for how many seconds it ran.
        """
        if code in exit_codes.FINAL:
            return None, code
        # One that only makes again what was made before gets nowhere: it dies at the same place each time.
        worth = step > self._furthest and lived >= WORTH_SECONDS and self._budget > 0
        self._furthest = max(self._furthest, step)
        self._moments = [moment for moment in self._moments if now - moment < self._window_seconds]
        if not worth:
            if len(self._moments) >= self._budget:
                return None, exit_codes.GAVE_UP
            self._moments.append(now)
        delay = 0.0
        if step:
            self._fruitless = 0
        else:
            if self._fruitless:
                delay = min(FIRST_BACKOFF_SECONDS * 2 ** (self._fruitless - 1), LAST_BACKOFF_SECONDS)
            self._fruitless += 1
        self.restarts += 1
        return delay, code
