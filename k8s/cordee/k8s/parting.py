"""What a coordinator lets go of as it stops, because nobody could afterwards.

A namespace that is being deleted takes roles and coordinators along in whatever order, and then waits for the
finalizers of what is in it, for ever. So whoever stops in such a namespace removes its own; elsewhere the next
coordinator goes on with the objects, and only those that are being deleted and whose job is over are let go of.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Final

from cordee.k8s.api import Json
from cordee.k8s.errors import ApiError, KubernetesError
from cordee.k8s.objects import Objects
from cordee.k8s.reconcile import Thing

__all__ = ["part"]

_SECONDS: Final = 5.0
_CONFLICT: Final = 409


async def part(objects: Objects, coordinator: str, known: Iterable[Json], is_over: Callable[[Json], bool]) -> None:
    """Lets go of what must be let go of. Never takes long, and never fails: there may be no rights left."""
    things = [(data, Thing.read(data)) for data in known]
    held = [(data, thing) for data, thing in things if thing.finalizer and thing.coordinator == coordinator]
    if not held:
        return
    with contextlib.suppress(TimeoutError, KubernetesError):
        async with asyncio.timeout(_SECONDS):
            everything = await objects.namespace_ends()
            going = [data for data, thing in held if everything or (thing.deleting and is_over(data))]
            await asyncio.gather(*(_let_go(objects, data) for data in going), return_exceptions=True)


async def _let_go(objects: Objects, data: Json) -> None:
    try:
        await objects.release(data)
    except ApiError as error:
        if error.status != _CONFLICT:
            raise
        await objects.release(await objects.get(data["metadata"]["name"]))
