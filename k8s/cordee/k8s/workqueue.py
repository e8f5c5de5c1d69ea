"""Names that are to be looked at: each once, however often it was asked for, and by one worker at a time.

What makes training begin, or end, goes before what only tells of it: a name that is asked for calmly comes when nothing
else waits, but within seconds also when something always does.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

__all__ = ["PATIENCE_SECONDS", "WorkQueue"]

PATIENCE_SECONDS: Final = 2.0
"""A name that waits calmly for so long has its turn with the others."""


@dataclass(frozen=True, slots=True)
class _Later:
    timer: asyncio.TimerHandle
    calm: bool


class WorkQueue:
    """Used on one event loop."""

    def __init__(self) -> None:
        self._urgent: dict[str, None] = {}
        self._calm: dict[str, float] = {}  # since when they wait
        self._again: dict[str, bool] = {}  # asked for while they are looked at; whether calmly
        self._busy: set[str] = set()
        self._later: dict[str, _Later] = {}
        self._wake = asyncio.Event()
        self._was_calm = False

    def __contains__(self, name: str) -> bool:
        """Whether it waits to be looked at, now or later. One that is being looked at does not: what changes meanwhile
        may have been looked at already."""
        return name in self._urgent or name in self._calm or name in self._again or name in self._later

    def add(self, name: str, delay: float = 0.0, *, calm: bool = False) -> None:
        """Have a name looked at, not before the delay is over. One that is asked for already comes when it is due
        first; one that is being looked at comes again afterwards."""
        if name in self._urgent or (calm and (name in self._calm or name in self._again)):
            return
        loop = asyncio.get_running_loop()
        known = self._later.get(name)
        if delay > 0.0:
            waits = name in self._calm or name in self._again
            if not waits and (known is None or known.timer.when() > loop.time() + delay):
                self._drop_timer(name)
                self._later[name] = _Later(loop.call_later(delay, self._due, name), calm)
            return
        self._drop_timer(name)
        if name in self._busy:
            self._again[name] = calm and self._again.get(name, True)
            return
        if calm:
            self._calm[name] = loop.time()
        else:
            self._calm.pop(name, None)
            self._urgent[name] = None
        self._wake.set()

    async def get(self) -> str:
        """The next name. `done` must be called with it."""
        while not (self._urgent or self._calm):
            self._wake.clear()
            await self._wake.wait()
        self._was_calm = not self._urgent or (self._is_overdue() and not self._was_calm)
        waiting = self._calm if self._was_calm else self._urgent
        name = next(iter(waiting))
        del waiting[name]
        self._busy.add(name)
        return name

    def done(self, name: str) -> None:
        """It has been looked at."""
        self._busy.discard(name)
        calm = self._again.pop(name, None)
        if calm is not None:
            self.add(name, calm=calm)

    def close(self) -> None:
        """Nothing comes any more by itself."""
        for later in self._later.values():
            later.timer.cancel()
        self._later.clear()

    def _is_overdue(self) -> bool:
        since = next(iter(self._calm.values()), None)
        return since is not None and asyncio.get_running_loop().time() - since >= PATIENCE_SECONDS

    def _due(self, name: str) -> None:
        self.add(name, calm=self._later[name].calm)

    def _drop_timer(self, name: str) -> None:
        later = self._later.pop(name, None)
        if later is not None:
            later.timer.cancel()
