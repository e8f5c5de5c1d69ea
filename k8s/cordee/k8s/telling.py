"""What happens to jobs, recorded as Events of their objects: `happenings` says what, this carries it out."""

import logging
from collections.abc import Callable

from cordee.coordinator.service.controller import Controller
from cordee.coordinator.service.job import Job
from cordee.k8s.api import Json
from cordee.k8s.errors import ApiError
from cordee.k8s.happenings import MAX_AGE_SECONDS, Post, Repeat, Teller
from cordee.k8s.objects import Objects
from cordee.k8s.reconcile import Refusal

__all__ = ["Telling"]

_log = logging.getLogger(__name__)

_PAGE = 1000


class Telling:
    """The events of one namespace's objects. `ends` is told of an object whose namespace is being deleted."""

    def __init__(self, objects: Objects, coordinator: str, ends: Callable[[str], None]) -> None:
        self._objects, self._coordinator, self._ends = objects, coordinator, ends
        self._tellers: dict[str, Teller] = {}

    def forget(self, name: str) -> None:
        """The object is gone."""
        self._tellers.pop(name, None)

    async def news(self, controller: Controller, data: Json, job: Job) -> None:
        """Record what is new in the job's history, and its end."""
        name, teller, record = data["metadata"]["name"], self._teller(data), job.machine.record
        since = controller.now() - MAX_AGE_SECONDS
        if job.events and job.events[-1] is not teller.seen:
            newest = job.events[-1]
            page = controller.history(job.id, after=teller.last, limit=_PAGE)
            told = [(event.id, event.kind, event.message, event.time) for event in page.events]
            for each in teller.tell_all(told, since):
                await self._record(name, each)
            if not page.more:
                teller.seen = newest
        if job.ended and not teller.ended and record.finished_at is not None and record.finished_at >= since:
            await self._record(name, teller.tell_end(record.state.value, record.reason, record.finished_at))

    async def refused(self, data: Json, refusal: Refusal, now: float) -> None:
        """Record that the object is no job, or not yet."""
        told = self._teller(data).tell_refusal(refusal.generation, refusal.reason, refusal.sentence, now)
        await self._record(data["metadata"]["name"], told)

    def _teller(self, data: Json) -> Teller:
        metadata = data["metadata"]
        name, uid = metadata["name"], metadata["uid"]
        teller = self._tellers.get(name)
        if teller is None or teller.uid != uid:
            teller = Teller(name=name, namespace=self._objects.namespace, uid=uid, instance=self._coordinator)
            self._tellers[name] = teller
        return teller

    async def _record(self, name: str, told: Post | Repeat) -> None:
        try:
            if isinstance(told, Post):
                await self._objects.post_event(told.body)
            else:
                await self._objects.repeat_event(told.name, told.patch)
        except ApiError as error:
            if error.namespace_ends:
                self._ends(name)
            elif error.status not in (404, 409):  # forgotten by the server; told before a restart
                _log.warning("an event of the object %s is not recorded: %s", name, error.message)
