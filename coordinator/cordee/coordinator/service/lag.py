"""How late the event loop is: what a recovery waits for before it is even looked at.

Everything of the coordinator runs on one loop, so what blocks it (a store on a slow disk, a scrape of a thousand
workers) delays every answer to a loss. A task that asks to be woken up twice a second sees by how much.
"""

import asyncio
from collections.abc import Callable
from typing import Final

__all__ = ["watch_lag"]

_EVERY_SECONDS: Final = 0.5


async def watch_lag(observe: Callable[[float], object], every_seconds: float = _EVERY_SECONDS) -> None:
    """Tells, for ever, how much later than asked the running loop wakes up."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + every_seconds
        await asyncio.sleep(every_seconds)
        observe(max(loop.time() - due, 0.0))
