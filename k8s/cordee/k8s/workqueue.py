"""Names that are to be looked at: each once, however often it was asked for, and by one worker at a time."""

import asyncio
from collections import deque

__all__ = ["WorkQueue"]


class WorkQueue:
    """Used on one event loop."""

    def __init__(self) -> None:
        self._ready: deque[str] = deque()
        self._queued: set[str] = set()
        self._busy: set[str] = set()
        self._later: dict[str, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()

    def __contains__(self, name: str) -> bool:
        """Whether it waits to be looked at, now or later. One that is being looked at does not: what changes meanwhile
        may have been looked at already."""
        return name in self._queued or name in self._later

    def add(self, name: str, delay: float = 0.0) -> None:
        """Have a name looked at, not before the delay is over. One that is asked for already comes when it is due
        first; one that is being looked at comes again afterwards."""
        if name in self._queued:
            return
        loop = asyncio.get_running_loop()
        timer = self._later.get(name)
        if delay > 0.0:
            if timer is None or timer.when() > loop.time() + delay:
                self._drop_timer(name)
                self._later[name] = loop.call_later(delay, self.add, name)
            return
        self._drop_timer(name)
        self._queued.add(name)
        if name not in self._busy:
            self._ready.append(name)
            self._wake.set()

    async def get(self) -> str:
        """The next name. `done` must be called with it."""
        while not self._ready:
            self._wake.clear()
            await self._wake.wait()
        name = self._ready.popleft()
        self._queued.discard(name)
        self._busy.add(name)
        return name

    def done(self, name: str) -> None:
        """It has been looked at."""
        self._busy.discard(name)
        if name in self._queued:
            self._ready.append(name)
            self._wake.set()

    def close(self) -> None:
        """Nothing comes any more by itself."""
        for timer in self._later.values():
            timer.cancel()
        self._later.clear()

    def _drop_timer(self, name: str) -> None:
        timer = self._later.pop(name, None)
        if timer is not None:
            timer.cancel()
