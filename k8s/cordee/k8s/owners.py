"""Which TrainingJob object a job's pods belong to.

Pods name their owner when they are made, so that whoever deletes the object deletes them, too. A job that was submitted
over REST gets its object a moment after it was taken in: the launcher waits here until the object is there, or until
it is clear that there will be none.
"""

import asyncio
from dataclasses import dataclass

from cordee.coordinator.spec import API_VERSION, KIND

__all__ = ["Owner", "Owners"]


@dataclass(frozen=True, slots=True)
class Owner:
    """An object that owns pods."""

    name: str
    uid: str

    def reference(self) -> dict[str, object]:
        """As it stands in `metadata.ownerReferences`."""
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }


class Owners:
    """What the controller of the objects knows, for the launcher. Used on one event loop."""

    def __init__(self) -> None:
        self.expected = False
        """Whether there are objects at all; set by whoever makes them."""
        self._known: dict[str, Owner | None] = {}
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}

    def note(self, job: str, owner: Owner | None) -> None:
        """The job's object; None: there is none, and nobody needs to wait for it."""
        self._known[job] = owner
        for waiter in self._waiting.pop(job, ()):
            if not waiter.done():
                waiter.set_result(None)

    def forget(self, job: str) -> None:
        """The job has no pods any more, and will have none."""
        self._known.pop(job, None)

    async def owner(self, job: str, timeout_seconds: float) -> Owner | None:
        """The job's object, waited for so long at most. At once where no objects are made."""
        if self.expected and job not in self._known:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(job, []).append(waiter)
            await asyncio.wait((waiter,), timeout=timeout_seconds)
        return self._known.get(job)
