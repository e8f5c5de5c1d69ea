"""What the exit of an agent means, and how often it is started again.

A worker's process is restarted by its agent, which has a budget of its own; here it is about the agents, and about
what an agent's exit says of its worker. A bug in the user's script fails the job at once; a machine's fault is retried
within a budget per worker; a worker whose budget is used up is given up, and the job goes on without it as long as its
minimum can be met.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from cordee.coordinator.core.model import Policy

__all__ = ["EXITS", "Retry", "Verdict", "describe_exit", "judge", "retry"]


class Verdict(Enum):
    CRASHED = "crashed"
    """A fault: start it again, within the budget."""
    LEFT = "left"
    """It went in good order: a replacement is wanted, and nobody is to blame."""
    SCRIPT_FAILED = "script failed"
    EXHAUSTED = "exhausted"
    """The agent's own budget of restarts is used up."""


EXITS: dict[int, tuple[Verdict, str]] = {
    0: (Verdict.CRASHED, "ended without a result that was heard of"),
    70: (Verdict.SCRIPT_FAILED, "says that the script raised"),
    71: (Verdict.LEFT, "left in good order"),
    72: (Verdict.CRASHED, "was stopped, or heard from no coordinator for too long"),
    73: (Verdict.CRASHED, "was replaced by a newer process"),
    74: (Verdict.EXHAUSTED, "has used up its restarts: its worker crashed too often"),
}
"""The agents' exit codes with a meaning of their own. Whatever else is a crash."""


def judge(code: int | None) -> Verdict:
    return Verdict.CRASHED if code is None else EXITS.get(code, (Verdict.CRASHED, ""))[0]


def describe_exit(code: int | None, message: str = "") -> str:
    """A predicate: what an agent did, for sentences that begin with it."""
    if code is None:
        return f"could not be run: {message}" if message else "is gone"
    if code in EXITS:
        words = EXITS[code][1]
    else:
        words = f"was ended by signal {-code}" if code < 0 else f"exited with code {code}"
    return f"{words}: {message}" if message else words


@dataclass(frozen=True, slots=True)
class Retry:
    """When to start again (None: not any more), and the exits that count from now on."""

    at: float | None
    exits: tuple[float, ...]


def retry(exits: tuple[float, ...], now: float, policy: Policy) -> Retry:
    """One more exit, after the earlier ones at these times: the first restart is at once, later ones back off."""
    counted = (*(t for t in exits if now - t < policy.restart_window_seconds), now)
    if len(counted) > policy.restart_budget:
        return Retry(None, counted)
    if len(counted) == 1:
        return Retry(now, counted)
    delay = policy.restart_backoff_seconds * 2.0 ** (len(counted) - 1)
    return Retry(now + min(delay, policy.restart_backoff_max_seconds), counted)
