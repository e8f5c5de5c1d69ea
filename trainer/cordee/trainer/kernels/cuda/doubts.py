"""What is wrong with numbers on a GPU, told without waiting for it: when the device has got there.

Whether class numbers are classes, or indices inside, is in memory that the device may not have written yet. To ask for
it would stop the program until everything before has been computed, in every step. So the answer is copied beside what
is computed, and looked at when it has come: by the next question, or by whoever waits for the device anyhow. Until
then kernels leave out what is wrong. `CUDA_LAUNCH_BLOCKING=1`, CUDA's own switch for finding mistakes, has it told at
once. While a stream is being recorded nothing is asked. It has not yet run on a device.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["expect", "look"]

_MOST = 256
"""Questions of a thread that may be open: the oldest is waited for then."""


class _Doubt(NamedTuple):
    answer: Any
    """Pinned memory of the host, which the device writes to."""
    event: Any
    """It has, when this has happened."""
    explain: Callable[[bool], Exception]


class _Open(threading.local):
    """By thread: an error is raised where its cause was."""

    def __init__(self) -> None:
        self.doubts: deque[_Doubt] = deque()


_OPEN = _Open()


def expect(wrong: Any, explain: Callable[[bool], Exception]) -> None:
    """Raise an error, now or later, if `wrong`, an array without dimensions, turns out to be true.

    Args:
        explain: makes the error; it is told whether this call raises it, or something after it.

    Raises:
        Exception: what this or an earlier question found.
    """
    cupy: Any = importlib.import_module("cupy")
    stream = cupy.cuda.get_current_stream()
    if stream.is_capturing():
        return
    answer = importlib.import_module("cupyx").empty_pinned((), bool)
    wrong.get(stream=stream, out=answer, blocking=False)
    newest = _Doubt(answer, stream.record(), explain)
    _OPEN.doubts.append(newest)
    _look(os.environ.get("CUDA_LAUNCH_BLOCKING") == "1" or len(_OPEN.doubts) > _MOST, newest)


def look(*, wait: bool = False) -> None:
    """Look at the answers that have come; `wait`: at all of them, when they have.

    Raises:
        Exception: the first thing that was wrong.
    """
    _look(wait, None)


def _look(wait: bool, newest: _Doubt | None) -> None:
    doubts = _OPEN.doubts
    while doubts and (wait or doubts[0].event.done):
        doubt = doubts.popleft()
        doubt.event.synchronize()
        if doubt.answer:
            doubts.clear()  # what came of it is no news
            error = doubt.explain(doubt is newest)
            if doubt is not newest:
                error.add_note(
                    "found by a GPU after the call that it is about: CUDA_LAUNCH_BLOCKING=1 has it raised there"
                )
            raise error
