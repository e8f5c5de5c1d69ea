"""What a worker's exit code tells its agent, and an agent's its launcher.

The code alone decides whether a process is started again, so that the decision needs no coordinator: a script's fault
and an order to stop are final, everything else (a signal, a crash, a code of the script's machine) is worth another
try. Plain integers and no imports: the agent must start in a blink.
"""

from __future__ import annotations

__all__ = [
    "CRASHED",
    "DRAINED",
    "FENCED",
    "FINAL",
    "FINISHED",
    "GAVE_UP",
    "SCRIPT_FAILED",
    "STOPPED",
    "UNUSABLE",
    "describe",
    "settle",
]

FINISHED = 0
"""The script ended normally."""
CRASHED = 1
"""The machine failed the script (out of memory, an unreadable disk): worth a restart."""
UNUSABLE = 2
"""The environment the process was started with is wrong: a restart would find it as wrong again."""
SCRIPT_FAILED = 70
"""The script raised: a restart would raise again."""
DRAINED = 71
"""It left its world at a step boundary, as it was asked to."""
STOPPED = 72
"""The coordinator stopped it (job cancelled, failed elsewhere, finished), or was gone for too long."""
FENCED = 73
"""A newer incarnation or generation has taken its place: a fresh process may join."""
GAVE_UP = 74
"""Of an agent: its worker died more often than its budget allows."""

FINAL = frozenset({FINISHED, UNUSABLE, SCRIPT_FAILED, DRAINED, STOPPED})
"""After these a worker is not started again, and its agent ends with the same code."""

_WORDS = {
    FINISHED: "finished",
    CRASHED: "crashed",
    UNUSABLE: "was started with an unusable environment",
    SCRIPT_FAILED: "ended: its script failed",
    DRAINED: "drained",
    STOPPED: "was stopped",
    FENCED: "was fenced by a newer incarnation",
    GAVE_UP: "gave up",
}


def describe(code: int) -> str:
    """A process's return code (negative: a signal's number) in words: `was killed by SIGKILL`."""
    if code < 0:
        import signal

        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    return _WORDS.get(code, f"exited with code {code}")


def settle(code: int, said: int | None, why: str = "") -> tuple[int, str]:
    """What a worker's end counts as, and it in words; `said`: the code it announced before it ended, if it did,
    and `why` what it said that it ends of.

    A script can end its process with any code at any moment (`os._exit(0)`); only an announced end is the worker's own.
    One that was announced counts, whatever happened while the interpreter took itself apart.
    """
    if said is not None:
        return said, f"{describe(said)}: {why}" if why else describe(said)
    if code in FINAL:
        return CRASHED, f"ended with code {code} without finishing"
    return code, describe(code)
