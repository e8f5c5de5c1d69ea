"""What the exit of an agent means, and how often it is started again.

A worker's process is restarted by its agent, which has a budget of its own; here it is about the agents, and about
what an agent's exit says of its worker. A bug in the user's script fails the job at once; a machine's fault is
retried within a budget per worker; a worker whose budget is used up is given up, and the job goes on without it as
long as its minimum can be met.

What is no exception can be a bug as well: a segmentation fault in a library, `os._exit`, memory that is never enough.
It shows by happening again, in the same way and at the same place, while the job does not get any further. The third
time is the last: retrying what is permanent only hides it. A signal that comes from outside (SIGKILL, SIGTERM) says
nothing of the kind, however often it comes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from cordee.coordinator.core.model import ExitCause, Policy
from cordee.coordinator.core.record import Deaths

__all__ = [
    "EXITS",
    "LONGEST_PATIENCE",
    "NOT_RUNNABLE",
    "SAME_DEATHS",
    "WORKERS_WORDS",
    "Retry",
    "Verdict",
    "count",
    "describe_exit",
    "exit_cause",
    "judge",
    "own_doing",
    "pause",
    "retry",
]


SAME_DEATHS = 3
"""So many same deaths, with no step in between, are a bug."""

LONGEST_PATIENCE = 8
"""A worker may be silent for up to so many times longer than usual, when others were given up at the same step."""

_FROM_OUTSIDE = frozenset({-1, -2, -9, -15, 71, 72, 73})
"""SIGHUP, SIGINT, SIGKILL, SIGTERM, and the codes of workers that were told to go."""

NOT_RUNNABLE = frozenset({126, 127, 128})
"""What shells and container runtimes say of a command that they cannot run. Where no worker of a job has ever come
that is its image's fault; else its machine's."""

WORKERS_WORDS = frozenset({0, 2})
"""Exit codes of agents that are their worker's: it ended without a word, or cannot run in its environment. What else
ends an agent is the machine's doing (a disk that is full, a missing file), and may pass."""


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
    2: (Verdict.CRASHED, "cannot run its worker in this environment"),
    70: (Verdict.SCRIPT_FAILED, "says that the script raised"),
    71: (Verdict.LEFT, "left in good order"),
    72: (Verdict.CRASHED, "was stopped, or heard from no coordinator for too long"),
    73: (Verdict.CRASHED, "was replaced by a newer process"),
    74: (Verdict.EXHAUSTED, "has used up its restarts: its worker crashed too often"),
}
"""The agents' exit codes with a meaning of their own. Whatever else is a crash."""


def judge(code: int | None) -> Verdict:
    return Verdict.CRASHED if code is None else EXITS.get(code, (Verdict.CRASHED, ""))[0]


def exit_cause(code: int | None) -> ExitCause:
    """What an exit code says of why an agent ended."""
    return ExitCause.NOT_STARTED if code is None else ExitCause[judge(code).name]


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


def retry(exits: tuple[float, ...], now: float, policy: Policy, heard_at: float = float("inf")) -> Retry:
    """One more exit, after the earlier ones at these times: the first restart is at once, later ones back off.

    An exit is forgotten when it is older than the window, but only once a process has come since (`heard_at`): an agent
    that takes a minute to be started, and never gets its worker to the coordinator, is not any better for being slow.
    """
    counted = (*(t for t in exits if now - t < policy.restart_window_seconds or t >= heard_at), now)
    if len(counted) > policy.restart_budget:
        return Retry(None, counted)
    return Retry(now + pause(len(counted) - 1, policy), counted)


def pause(times: int, policy: Policy) -> float:
    """How long to wait before a restart, after so many others: the first one is at once."""
    if not times:
        return 0.0
    return min(policy.restart_backoff_seconds * 2.0 ** min(times, 30), policy.restart_backoff_max_seconds)


def own_doing(code: int) -> bool:
    """Whether a worker's process that ended so did it by itself, and would do it again if it is a bug."""
    return code not in _FROM_OUTSIDE


def count(before: Deaths | None, *, worker: str, code: int, words: str, furthest: int, slack: int = 0) -> Deaths:
    """One more death by its own doing. Several workers that die so at once (the same step kills all) are one time.

    `furthest` is the furthest step that the job is known to have committed. What is known is a moment old, so `slack`
    steps more are no progress.
    """
    if before is None or (before.code, before.words) != (code, words) or furthest > before.furthest + slack:
        return Deaths(code, words, furthest, 1, (worker,))
    if worker in before.workers:
        return Deaths(code, words, before.furthest, before.times + 1, (worker,))
    return Deaths(code, words, before.furthest, before.times, (*before.workers, worker))
