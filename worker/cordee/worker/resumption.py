"""How long training stood still for a change of the world: from the last step before it to the first one after.

Rank 0 tells it, with where the time went as far as it saw: waiting for the world (the others had to come), connecting,
taking or giving state and whatever else came before the step, and the step itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Resumption"]


class Resumption:
    """Told what happens, in order; by the training thread only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._committed_at: float | None = None
        """When the last step was committed here; None: none was."""
        self._began: float | None = None
        """When the time began that is being measured; None: training goes on."""
        self._met_at = self._world_at = self._connected_at = 0.0
        self._generation, self._cause = 0, ""

    def meets(self) -> None:
        """A rendezvous begins, maybe after one that led to no step."""
        now = self._clock()
        if self._began is None:
            self._began = now if self._committed_at is None else self._committed_at
            self._met_at = now

    def has_world(self, generation: int, cause: str) -> None:
        """The next world is known; this worker begins to connect."""
        self._world_at = self._clock()
        self._generation, self._cause = generation, cause

    def connected(self) -> None:
        """The mesh stands."""
        self._connected_at = self._clock()

    def committed(self, step: int, step_seconds: float) -> tuple[str, float] | None:
        """A step is committed: what there is to tell if it is the first after a rendezvous, in words and seconds."""
        now = self._clock()
        self._committed_at, began, self._began = now, self._began, None
        if began is None:
            return None
        before = max(self._met_at - began, 0.0)
        parts = {
            "before": before,
            "world": self._world_at - self._met_at,
            "mesh": self._connected_at - self._world_at,
            "state": max(now - self._connected_at - step_seconds, 0.0),
            "step": step_seconds,
        }
        listed = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in parts.items())
        message = f"generation {self._generation} ({self._cause or 'unknown'}) committed step {step} first: {listed}"
        return message, now - began
