"""How much longer than usual a worker may be silent, because the ones before it were killed for their silence.

A call in native code may hold the interpreter's lock for longer than the limit, and be right. It looks like a process
that hangs, and the next one comes to the same call. So the limit doubles each time, up to eight times, and what is slow
but right gets through at last; a step further than any before brings the usual limit back. What is silent for that long
as well is not slow: the coordinator hears of it, and counts.

Standard library only: the agent imports this.
"""

from __future__ import annotations

__all__ = ["DOUBLINGS", "Patience"]

DOUBLINGS = 3


class Patience:
    """Remembers the silences of one agent's worker, over its processes."""

    def __init__(self) -> None:
        self._silences = 0
        self._furthest = 0
        """What its processes may have come to."""
        self._last = 0
        self._stride = 0
        """The most steps from one word to the next, in one process."""

    @property
    def factor(self) -> int:
        """How many times as long as usual the worker may be silent."""
        return 1 << min(self._silences, DOUBLINGS)

    def committed(self, step: int) -> None:
        """It says that this is its last step. One that was made before, and is made again, says nothing."""
        if self._last:
            self._stride = max(self._stride, step - self._last)
        self._last = step
        if step > self._furthest:
            self._furthest = step
            self._silences = 0

    def silenced(self) -> None:
        """It was killed for its silence."""
        self._silences += 1
        # It told of its steps a few times a second, and may have made some more: making these again is no step further.
        self._furthest = max(self._furthest, self._last + self._stride)
        self._last = 0  # the next process is another one
