"""How a command ends: the exit codes, and one sentence instead of a traceback.

Whatever is wrong with the user's input or world is a `CoordinatorError` (`SpecError` for job files); `guarded` turns it
into `error: …` and, where something can be done about it, `hint: …` on stderr. Anything else is a bug of ours and says
so. With `--debug`, or CORDEE_DEBUG=1, the traceback comes out instead.
"""

import functools
import os
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Final, ParamSpec, TypeVar

import typer

from cordee.coordinator.errors import CoordinatorError

__all__ = [
    "ExitCode",
    "UsageError",
    "code_for",
    "debug",
    "exit_code_of_state",
    "guarded",
    "hint",
    "report",
    "say",
    "set_debug",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class ExitCode(IntEnum):
    """What the process's exit code says. Documented, and frozen by a test."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    FAILED = 100
    UNFINISHED = 101
    NOT_FOUND = 102
    CANCELLED = 103


_BY_STATE: Final = {
    "succeeded": ExitCode.DONE,
    "failed": ExitCode.FAILED,
    "cancelled": ExitCode.CANCELLED,
}
_BY_CODE: Final = {
    "usage": ExitCode.USAGE,
    "invalid": ExitCode.USAGE,
    "too_large": ExitCode.USAGE,
    "not_found": ExitCode.NOT_FOUND,
}


class UsageError(CoordinatorError):
    """The command was called wrongly."""

    code = "usage"


def exit_code_of_state(state: str) -> ExitCode:
    """A job's state as an exit code; every state that is not an end is `UNFINISHED`."""
    return _BY_STATE.get(state, ExitCode.UNFINISHED)


def code_for(error: Exception) -> ExitCode:
    """Which exit code an error has."""
    from cordee.coordinator.spec import SpecError

    if isinstance(error, SpecError):
        return ExitCode.USAGE
    return _BY_CODE.get(getattr(error, "code", ""), ExitCode.ERROR)


def set_debug(on: bool) -> None:
    """Whether errors come out as tracebacks."""
    if on:
        os.environ["CORDEE_DEBUG"] = "1"


def debug() -> bool:
    """Whether errors come out as tracebacks."""
    return os.environ.get("CORDEE_DEBUG", "") not in {"", "0"}


def say(text: str = "") -> None:
    """A line for people, on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def report(message: str, advice: str = "") -> None:
    """An error, in one form everywhere."""
    for line in message.splitlines() or [""]:
        say(f"{_coloured('error:', '1;31')} {line}")
    if advice:
        hint(advice)


def hint(text: str) -> None:
    """What can be done."""
    say(f"{_coloured('hint:', '36')} {text}")


def _coloured(word: str, colour: str) -> str:
    return f"\x1b[{colour}m{word}\x1b[0m" if sys.stderr.isatty() and not os.environ.get("NO_COLOR") else word


def guarded(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """A command whose expected errors are sentences with the right exit code."""

    @functools.wraps(command)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        from cordee.coordinator.spec import SpecError

        try:
            return command(*args, **kwargs)
        except (CoordinatorError, SpecError) as error:
            if debug():
                raise
            report(str(error), getattr(error, "hint", ""))
            raise typer.Exit(code_for(error)) from None

    return wrapper
