"""When a worker is given up: the agent's watchdog over one process, as decisions without a clock or a signal.

A worker says several times a second that it lives, from a thread of its own. One whose interpreter lock is held, or
that the kernel does not run, says nothing; one that was stopped by a signal is seen at once: the agent is its parent.
Both cannot help themselves: they are killed, and the next process takes their place in a fraction of a second. How long
a living worker computes is none of the watchdog's business: that is for who sees its peers.

A silent worker is first asked for its stacks (a signal that works while the lock is held); one that speaks up after
all lives on. Time in which the agent itself was not run counts for nothing. And where the last process was killed for
its silence, the next one has twice the time (`patience`).
"""

from __future__ import annotations

from cordee.worker.patience import Patience

__all__ = [
    "ABANDON",
    "ASK",
    "HEARTBEAT_SECONDS",
    "KILL",
    "START_SECONDS",
    "STOPPED_SECONDS",
    "Watch",
]

HEARTBEAT_SECONDS = 3.0
"""A member is given up after so long without a word. CORDEE_HEARTBEAT_TIMEOUT_SECONDS sets another."""
START_SECONDS = 30.0
"""One that was never a member: its imports may hold the interpreter lock for long."""
STOPPED_SECONDS = 0.25
"""For SIGCONT to follow a stop. CORDEE_STOPPED_SECONDS sets another."""
STACK_SECONDS = 0.2
"""For a silent worker's stacks to be written."""
ENDING_SECONDS = 60.0
"""For the interpreter's own end, once the worker has said that it ends."""
DEATH_SECONDS = 5.0
"""A killed process is gone in moments, unless the kernel cannot let go of it (a dead mount, a GPU's driver)."""

ASK = "ask"
"""Ask for the stacks."""
KILL = "kill"
ABANDON = "abandon"
"""It was killed and does not die: go on without it."""


class Watch:
    """One process's watchdog: told what happens, asked (`check`) at every `deadline` what to do."""

    def __init__(
        self,
        now: float,
        *,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        stopped_seconds: float = STOPPED_SECONDS,
        patience: Patience | None = None,
    ) -> None:
        self.reason = ""
        """Why it was killed: `gave no sign of life for 3 s`. Empty: it was not."""
        self.silent = False
        """Whether it was killed for its silence."""
        self._patience = patience or Patience()
        self._heartbeat_seconds = heartbeat_seconds
        self._stopped_seconds = stopped_seconds
        self._limit = max(heartbeat_seconds, START_SECONDS)
        self._heard = now
        self._stopped: tuple[float, str] | None = None
        self._leave: tuple[float, str] | None = None
        self._asked: float | None = None
        self._killed: float | None = None

    # --- what happens ---

    def heard(self, now: float, *, member: bool, step: int = 0) -> None:
        """It said something; `step` is the last that it committed."""
        self._heard = now
        self._patience.committed(step)
        self._asked = None
        if member and self._limit > self._heartbeat_seconds:
            self._limit = self._heartbeat_seconds

    def ending(self, now: float) -> None:
        """It ends by itself: what comes now is the interpreter's business, and takes what it takes."""
        self._heard = now
        self._asked = None
        self._limit = max(self._heartbeat_seconds, ENDING_SECONDS)

    def stopped(self, now: float, signal_name: str) -> None:
        """The kernel stopped it."""
        if self._stopped is None:
            self._stopped = now, signal_name

    def continued(self, now: float) -> None:
        self._stopped = None
        self._heard = now

    def late(self, now: float) -> None:
        """The agent itself was not run for a while: nothing that has not come in meanwhile tells anything."""
        self._heard = now
        self._asked = None
        if self._stopped is not None:
            self._stopped = now, self._stopped[1]

    def leave(self, now: float, seconds: float) -> None:
        """It was asked to go, within `seconds`."""
        self._leave = now + seconds, f"did not leave within {seconds:g} s"

    def stacks_written(self, now: float) -> None:
        """What it was asked for is there."""
        if self._asked is not None:
            self._asked = min(self._asked, now)

    def killed(self, now: float, reason: str) -> None:
        """It was killed, because it …"""
        if self._killed is None:
            self._killed, self.reason = now, reason

    # --- what to do ---

    @property
    def asked(self) -> bool:
        """Whether its stacks are being waited for."""
        return self._asked is not None and self._killed is None

    def deadline(self) -> float:
        """When to `check` next."""
        if self._killed is not None:
            return self._killed + DEATH_SECONDS
        if self._stopped is not None:
            due = self._stopped[0] + self._stopped_seconds
        else:
            due = self._heard + self._silence if self._asked is None else self._asked
        return due if self._leave is None else min(due, self._leave[0])

    def check(self, now: float) -> str | None:
        """`ASK`, `KILL` (then `reason` says why), `ABANDON`, or None."""
        if now < self.deadline():
            return None
        if self._killed is not None:
            return ABANDON
        if self._leave is not None and now >= self._leave[0]:
            self.killed(now, f"{self._leave[1]} and was killed")
        elif self._stopped is not None:
            self.killed(now, f"was stopped by {self._stopped[1]} for {self._stopped_seconds:g} s and killed")
        elif self._asked is None:
            self._asked = now + STACK_SECONDS
            return ASK
        else:
            self.killed(now, f"gave no sign of life for {self._silence:g} s and was killed")
            self.silent = True
            self._patience.silenced()
        return KILL

    @property
    def _silence(self) -> float:
        """How long it may be silent."""
        return self._limit * self._patience.factor
