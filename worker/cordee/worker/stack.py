"""Where the main thread stands, from another thread's point of view: what a stuck worker leaves behind."""

from __future__ import annotations

import sys
import threading
import traceback
from types import FrameType
from typing import Final

from cordee.worker.wire import fit

__all__ = ["main_stack"]

MAX_STACK_CHARACTERS: Final = 8_000
_RUNNER: Final = ("cordee.worker.script", "run_script")


def main_stack() -> str:
    """The main thread's Python frames, innermost last as in a traceback: from the script's first frame on and with
    paths in the job's source, if the script runs. Empty: there is no such thread any more."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    frames: list[FrameType] = []
    while frame is not None and (frame.f_globals.get("__name__"), frame.f_code.co_name) != _RUNNER:
        frames.insert(0, frame)
        frame = frame.f_back
    # By hand: a walk of the standard library's follows `f_back`, and so into frames that are not asked for.
    summary = traceback.StackSummary.extract((each, each.f_lineno) for each in frames)
    text = "".join(summary.format())
    if frame is not None:
        text = text.replace(f"{frame.f_locals.get('source')}/", "")
    return fit(text, MAX_STACK_CHARACTERS)
