"""Runs the user's script as `python script.py` would, and says whose fault it is when it fails."""

from __future__ import annotations

import errno
import os
import sys
import traceback
import types
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

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
    process = os.getpid()
    try:
        exec(compile(text, str(path), "exec", dont_inherit=True), module.__dict__)  # noqa: S102  its whole purpose
    except BaseException as error:
        if os.getpid() != process:
            _end_child(error)
        if not isinstance(error, SystemExit):
            raise
        if error.code not in (None, 0):
            raise ScriptExitError(f"sys.exit({error.code!r})") from error
    if os.getpid() != process:
        _end_child(SystemExit(0))


def _end_child(error: BaseException) -> NoReturn:
    """Ends a process that the script forked and let run to the script's end, as Python would: what follows there is the
    worker's to do, once."""
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        code = error.code or 0
    else:
        code = 1
        if isinstance(error, SystemExit):
            sys.stderr.write(f"{error.code}\n")
        else:
            sys.excepthook(type(error), error, error.__traceback__)
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(code & 0xFF)


def is_machine_fault(error: BaseException) -> bool:
    """Whether the same script might succeed when it is started again: memory or a disk failed it."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _MACHINE_ERRNOS)


def name_failure(error: BaseException) -> str:
    """What kind of failure it is, without what is different each time: `OSError (ENOSPC)`."""
    number = error.errno if isinstance(error, OSError) else None
    named = "" if number is None else f" ({errno.errorcode.get(number, number)})"
    return f"{type(error).__name__}{named}"


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
