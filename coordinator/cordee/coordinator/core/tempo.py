"""How fast a world commits steps, from the steps that its members tell of.

Steps are synchronous: one member's step is every member's. So a world that advances proves that all its members
compute, also one that the coordinator does not hear; and what a step usually takes is what a slow one is measured by.
"""

from __future__ import annotations

from collections import deque
from statistics import median

__all__ = ["Tempo"]

_STALE_SECONDS = 1.0
"""How old may be what is known of the job's step."""
_STEPS_KEPT = 9
"""The median of so many: one step that stood still for a minute changes nothing."""


class Tempo:
    def __init__(self, furthest: int = 0) -> None:
        self.furthest = furthest
        """The furthest step that the job has committed, as far as this coordinator knows."""
        self.step = furthest
        """The furthest of the current world."""
        self.advanced_at = float("-inf")
        """When the current world was last seen to advance."""
        self._known: deque[float] = deque(maxlen=_STEPS_KEPT)

    def enter(self, step: int) -> None:
        """A new world, which starts from this step."""
        self.step = step
        self.furthest = max(self.furthest, step)
        self.advanced_at = float("-inf")

    def advance(self, step: int, now: float) -> bool:
        """A member tells of this step of the current world. Whether that is news."""
        if step <= self.step:
            return False
        if self.advanced_at != float("-inf"):
            self._known.append((now - self.advanced_at) / (step - self.step))
        self.step, self.advanced_at = step, now
        self.furthest = max(self.furthest, step)
        return True

    @property
    def usual_seconds(self) -> float:
        """What a step takes; 0 while that is not known."""
        return median(self._known) if self._known else 0.0

    def further_than(self, step: int) -> bool:
        """Whether the job got further since it was known to be at this step. So many steps as may have been made by
        then, and were not known yet, are no progress."""
        return self.furthest > step + self.stale_steps

    @property
    def stale_steps(self) -> int:
        """How many steps the world may be ahead of what is known."""
        usual = self.usual_seconds
        return int(_STALE_SECONDS / usual) if usual else 0
