"""Runs the user's script as `python script.py` would, and says whose fault it is when it fails."""

from __future__ import annotations

import errno
import sys
import traceback
import types
from collections.abc import Sequence
from pathlib import Path

from cordee.worker.wire import fit

__all__ = ["ScriptExitError", "describe_failure", "is_machine_fault", "run_script"]

MAX_TRACEBACK_CHARACTERS = 60_000
_MACHINE_ERRNOS = frozenset({errno.ENOMEM, errno.EIO, errno.ESTALE, errno.EREMOTEIO})
"""A disk or a mount that fails reading. A full disk or a missing file is for the user to hear of at once."""


class ScriptExitError(Exception):
    """The script called `sys.exit` with a code other than 0."""


def run_script(source: Path, script: str, args: Sequence[str]) -> None:
    """Runs `source/script` as the main module, with its folder first on `sys.path` and `sys.argv` set.

    Returns when it ends normally, be it by `sys.exit(0)`; otherwise its exception comes out, `sys.exit(3)` as
    `ScriptExitError`.
    """
    path = source / script
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"the job's source holds no {script!r}") from None
    module = types.ModuleType("__main__")
    module.__file__ = str(path)
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    sys.argv = [script, *args]
    sys.path.insert(0, str(path.parent))
    try:
        exec(compile(text, str(path), "exec", dont_inherit=True), module.__dict__)  # noqa: S102  its whole purpose
    except SystemExit as stop:
        if stop.code not in (None, 0):
            raise ScriptExitError(f"sys.exit({stop.code!r})") from stop


def is_machine_fault(error: BaseException) -> bool:
    """Whether the same script might succeed when it is started again: memory or a disk failed it."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _MACHINE_ERRNOS)


def describe_failure(error: BaseException, source: Path) -> tuple[str, str]:
    """One line, and the traceback that plain `python` would print: from the script's frame on, paths in the source."""
    shown = error.__cause__ if isinstance(error, ScriptExitError) and error.__cause__ is not None else error
    theirs = _after_ours(shown.__traceback__)
    text = "".join(traceback.TracebackException(type(shown), shown, theirs, compact=True).format())
    detail = _said(error)
    line = f"{type(error).__name__}: {detail}" if detail else type(error).__name__
    if isinstance(error, ScriptExitError):
        line = f"SystemExit: the script called {detail}"
    return fit(line), fit(text.replace(f"{source}/", ""), MAX_TRACEBACK_CHARACTERS)


def _after_ours(trace: types.TracebackType | None) -> types.TracebackType | None:
    """From the script's first frame on; None: it failed before the script ran, and its sentence says all."""
    while trace is not None and trace.tb_frame.f_code is not run_script.__code__:
        trace = trace.tb_next
    return None if trace is None else trace.tb_next


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(its text cannot be had: its __str__ raises)"
