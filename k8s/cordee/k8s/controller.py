"""The controller of TrainingJob objects: what `reconcile` decides, carried out against the API server.

It runs in the coordinator's process, on its loop, beside REST; requests go out in threads. The objects are followed by
a watch that survives whatever breaks, and the jobs tell when they change; both end in one queue of names, and a name is
looked at by one worker at a time. Nothing of it is kept anywhere: which object is which job follows from the store (an
object's uid is its submission's key) and from a label. While the API server is away jobs go on, and what was missed is
made up for afterwards.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from cordee.coordinator.config import Kubernetes
from cordee.coordinator.core.record import JobRecord
from cordee.coordinator.errors import CoordinatorError, InvalidError
from cordee.coordinator.service.controller import Controller
from cordee.coordinator.service.job import Job
from cordee.coordinator.service.launchers.base import Launcher
from cordee.k8s import reconcile
from cordee.k8s.api import Api, Json
from cordee.k8s.errors import ApiError
from cordee.k8s.facts import document_of, facts_of, key_of, object_of
from cordee.k8s.names import JOB_LABEL
from cordee.k8s.objects import Objects
from cordee.k8s.owners import Owner, Owners
from cordee.k8s.parting import part
from cordee.k8s.reconcile import Memory, Refusal, Rest, Step, Thing, next_step
from cordee.k8s.sources import SourceMissingError, bundle_of
from cordee.k8s.telling import Telling
from cordee.k8s.watch import Change, Collection, Kind, Watcher, on_loop
from cordee.k8s.workqueue import WorkQueue

__all__ = ["ObjectsFront", "open_front"]

_log = logging.getLogger(__name__)

_WORKERS: Final = 8
_NUM_DELETED: Final = 256
_MAX_STEPS: Final = 16
"""Steps of one look at an object; there is never reason for so many."""
_RETRY_SECONDS: Final = 0.5
_MAX_RETRY_SECONDS: Final = 30.0
_SOURCE_SECONDS: Final = 5.0
"""A source that is not there yet is looked for so often."""
_PROGRESS_PER_SECOND: Final = 20.0
"""So many statuses a second that tell of progress only, all jobs together."""
_REFUSED: Final = (400, 409, 413, 422)
"""The server does not want this object, and will not."""


def open_front(settings: Kubernetes, launcher: Launcher) -> "ObjectsFront":
    """The front that a configuration asks for, beside its launcher."""
    return ObjectsFront(Api.connect(settings), settings.instance, launcher)


class ObjectsFront:
    """TrainingJob objects as a way in and out of a coordinator. Used on its event loop."""

    def __init__(self, api: Api, coordinator: str, launcher: Launcher | None = None) -> None:
        self._api = api
        self._objects = Objects(api, _WORKERS)
        self._coordinator = coordinator
        self._owners: Owners = getattr(launcher, "owners", None) or Owners()
        self._owners.expected = True
        self._nodes: Mapping[str, str] = getattr(launcher, "nodes", {})
        self._queue = WorkQueue()
        self._synced = asyncio.Event()
        self._known: dict[str, Json] = {}
        self._deleted: deque[str] = deque(maxlen=_NUM_DELETED)
        """Uids of objects that are gone: an answer about one may come after the news of its end."""
        self._names: dict[str, str] = {}
        """The object's name of every job that has one."""
        self._parting: dict[str, Job] = {}
        """By their objects' names, jobs that have been removed and whose end their objects have yet to tell."""
        self._memories: dict[str, Memory] = {}
        self._telling = Telling(self._objects, coordinator, self._namespace_ends)
        self._records: dict[str, JobRecord] = {}
        """What every job had decided when it was looked at last."""
        self._failures: dict[str, int] = {}
        self._tasks: list[asyncio.Task[None]] = []

    # -- life

    async def start(self, controller: Controller) -> None:
        """Follow objects and jobs from now on."""
        self._controller = controller
        loop = asyncio.get_running_loop()
        self._watcher = Watcher(
            self._api,
            Collection(self._objects.path),
            on_loop(loop, self._changed),
            on_synced=lambda: loop.call_soon_threadsafe(self._synced.set),
        )
        self._unsubscribe = controller.subscribe(self._touched)
        self._watcher.start()
        self._tasks = [loop.create_task(self._work()) for _ in range(_WORKERS)]
        for job in controller.every():
            self._touched(job)

    async def close(self) -> None:
        """Stop; objects and jobs stay as they are, unless they could not go without us."""
        self._unsubscribe()
        self._queue.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await part(self._objects, self._coordinator, self._known.values(), self._is_over)
        await asyncio.to_thread(self._watcher.stop)
        self._objects.close()

    # -- what happens

    def _changed(self, changes: Sequence[Change]) -> None:
        for change in changes:
            name = change.object["metadata"]["name"]
            if change.kind is Kind.DELETED:
                self._removed(change.object)
            elif not self._seen(change.object):
                continue
            self._queue.add(name)

    def _seen(self, data: Json) -> bool:
        """The object as somebody told it. Whether that is news: what is not newer than what is known is passed over."""
        metadata = data["metadata"]
        known = self._known.get(metadata["name"])
        if metadata["uid"] in self._deleted or (
            known is not None
            and known["metadata"]["uid"] == metadata["uid"]
            and int(metadata["resourceVersion"]) <= int(known["metadata"]["resourceVersion"])
        ):
            return False
        self._known[metadata["name"]] = data
        job = self._job_of(data)
        if job is not None:
            self._bind(job, metadata["name"], metadata["uid"])
        return True

    def _removed(self, data: Json) -> None:
        name = data["metadata"]["name"]
        known = self._known.get(name)
        self._deleted.append(data["metadata"]["uid"])
        if known is not None and known["metadata"]["uid"] == data["metadata"]["uid"]:
            del self._known[name]
            self._memories.pop(name, None)
            self._telling.forget(name)
        job = self._job_of(data)
        if job is not None:
            self._names.pop(job.id, None)
            self._owners.note(job.id, None)
            self._remember(job.id, bereft=True, wanted=False)
            self._queue.add(job.id)

    def _touched(self, job: Job) -> None:
        name = self._names.get(job.id, job.id)
        if self._controller.find_id(job.id) is None:  # it has been removed
            self._names.pop(job.id, None)
            self._records.pop(job.id, None)
            self._owners.forget(job.id)
            if name in self._known:
                self._parting[name] = job
            self._queue.add(name)
            return
        memory = self._memory(name)
        if name not in self._known and not job.ended and not memory.wanted:
            memory = self._remember(name, wanted=True)
        soon = _RETRY_SECONDS if name in self._failures else 0.0
        if job.ended:
            self._queue.add(name, soon)
        elif name not in self._queue or self._records.get(job.id) is not job.machine.record:
            # One that waits until its progress is due must not wait so long with anything else.
            due = max(memory.written_at + reconcile.STATUS_SECONDS, memory.settled_at) - self._controller.now()
            self._queue.add(name, max(due, soon), calm=name in self._known)

    def _bind(self, job: Job, name: str, uid: str) -> None:
        if self._names.get(job.id) != name:
            self._names[job.id] = name
            if name != job.id:
                self._memories.pop(job.id, None)
        if not job.machine.done:
            self._owners.note(job.id, Owner(name, uid))

    def _namespace_ends(self, name: str) -> None:
        self._remember(name, ending=True)
        self._queue.add(name)

    # -- who is who

    def _is_over(self, data: Json) -> bool:
        job = self._job_of(data)
        return job is None or job.ended

    def _job_of(self, data: Json) -> Job | None:
        """The job of an object: the one that was made from it, or the one that it was made for."""
        metadata = data["metadata"]
        job = self._controller.submitted(key_of(metadata["uid"]))
        if job is None and (metadata.get("labels") or {}).get(JOB_LABEL) == metadata["name"]:
            job = self._controller.find_id(metadata["name"])
        return job

    def _memory(self, name: str) -> Memory:
        return self._memories.get(name) or Memory(self._coordinator)

    def _remember(self, name: str, **changes: Any) -> Memory:
        self._memories[name] = replace(self._memory(name), **changes)
        return self._memories[name]

    # -- work

    async def _work(self) -> None:
        await self._synced.wait()
        while True:
            name = await self._queue.get()
            try:
                await self._look(name)
                self._failures.pop(name, None)
            except CoordinatorError as error:  # nobody else would look at it again: its object stays as it is
                self._again(name, error)
            except Exception:
                _log.exception("the object %s could not be looked after", name)
                self._again(name, None)
            finally:
                self._queue.done(name)

    def _again(self, name: str, error: CoordinatorError | None) -> None:
        """Later, and later each time."""
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        delay = min(_RETRY_SECONDS * 2 ** min(failures - 1, 16), _MAX_RETRY_SECONDS)
        if error is not None and failures in (3, 10):  # a conflict, or a server that is away for a moment, is usual
            _log.warning("the object %s: %s; it is tried again", name, error)
        self._queue.add(name, delay)

    async def _look(self, name: str) -> None:
        for _ in range(_MAX_STEPS):
            if self._controller.closing:
                return
            data = self._known.get(name)
            job = self._controller.find_id(name) if data is None else self._job_of(data) or self._parting.get(name)
            if data is None and job is not None and self._names.get(job.id, name) != name:
                return  # its object has another name
            thing = None if data is None else Thing.read(data)
            if job is not None:
                self._records[job.id] = job.machine.record
            facts = None if job is None else facts_of(job, self._nodes)
            self._pace(name)
            step = next_step(thing, facts, self._memory(name), self._controller.now())
            if isinstance(step, Rest):
                told = step.until is None or step.until > self._controller.now() + reconcile.STATUS_SECONDS
                if told and self._parting.pop(name, None) is not None:
                    continue
                await self._rest(step, name, data, job)
                return
            await self._do(step, name, data, job)
        _log.error("the object %s does not come to rest", name)
        self._queue.add(name, _MAX_RETRY_SECONDS)

    async def _rest(self, step: Rest, name: str, data: Json | None, job: Job | None) -> None:
        """Tell what is new, and come back when it is time."""
        until = step.until
        if data is not None and job is not None:
            settled_at = self._memory(name).settled_at
            if job.ended or self._controller.now() >= settled_at:
                await self._telling.news(self._controller, data, job)
            else:
                until = settled_at if until is None else min(until, settled_at)
        if until is not None:
            self._queue.add(name, max(until - self._controller.now(), 0.05), calm=True)

    def _pace(self, name: str) -> None:
        """The more jobs run, the less often each one's progress is written."""
        pause = max(reconcile.STATUS_SECONDS, self._controller.num_open / _PROGRESS_PER_SECOND)
        if self._memory(name).progress_seconds != pause:
            self._remember(name, progress_seconds=pause)

    async def _do(self, step: Step, name: str, data: Json | None, job: Job | None) -> None:
        match step:
            case reconcile.Make():
                assert job is not None
                await self._make(job)
            case reconcile.Cancel():
                assert job is not None
                await self._controller.cancel(job.id, by="the deletion of its TrainingJob object")
            case _:
                assert data is not None
                await self._do_with(step, name, data, job)

    async def _do_with(self, step: Step, name: str, data: Json, job: Job | None) -> None:
        objects = self._objects
        match step:
            case reconcile.Claim():
                await self._changing(data, objects.claim(data, self._coordinator))
            case reconcile.Release():
                await self._changing(data, objects.release(data))
                if job is not None:
                    self._owners.forget(job.id)
            case reconcile.Submit():
                await self._submit(name, data)
            case reconcile.Scale(minimum, maximum):
                assert job is not None
                try:
                    await self._controller.scale(job.id, minimum, maximum, by="an edit of its TrainingJob object")
                except InvalidError as error:
                    self._remember(name, unscaled=data["metadata"]["generation"])
                    self._controller.note(job, "refused", f"{minimum}:{maximum} workers, by its object: {error}")
            case reconcile.SetWorkers(minimum, maximum):
                await self._changing(data, objects.set_workers(data, minimum, maximum))
            case reconcile.WriteStatus(status):
                await self._changing(data, objects.write_status(data, status))
                self._remember(name, written_at=self._controller.now())
            case reconcile.Delete():
                with contextlib.suppress(ApiError):  # it is gone, or will be asked for again
                    await objects.delete(data)
                self._known.pop(name, None)

    async def _changing(self, data: Json, request: Awaitable[Json]) -> None:
        """Take in the answer: the object as it is now."""
        try:
            self._seen(await request)
        except ApiError as error:
            if error.status != 404:
                raise
            self._removed(data)

    async def _make(self, job: Job) -> None:
        body = object_of(job, namespace=self._objects.namespace, coordinator=self._coordinator)
        try:
            made = await self._objects.create(body)
        except ApiError as error:
            if error.status == 409 and self._job_of(found := await self._objects.get(job.id)) is job:
                self._seen(found)
                return
            if error.status not in _REFUSED:
                raise
            _log.warning("the job %s has no object: %s", job.id, error.message)
            self._remember(job.id, unmade=True)
            self._owners.note(job.id, None)
        else:
            self._seen(made)
            self._remember(job.id, settled_at=self._controller.now() + reconcile.SETTLE_SECONDS)

    async def _submit(self, name: str, data: Json) -> None:
        generation = data["metadata"]["generation"]
        try:
            bundle = await bundle_of(data, self._objects, self._controller)
            document = document_of(data, bundle)
            view = await self._controller.submit(
                document, bundle, key=key_of(data["metadata"]["uid"]), by=f"the object {name}"
            )
        except SourceMissingError as error:
            again_at = self._controller.now() + _SOURCE_SECONDS
            await self._refuse(data, Refusal(generation, "SourceMissing", str(error), again_at))
        except InvalidError as error:
            hint = f" ({error.hint})" if error.hint else ""
            await self._refuse(data, Refusal(generation, "Invalid", f"{error.message}{hint}"))
        else:
            job = self._controller.find_id(view.id)
            assert job is not None
            self._remember(name, refusal=None, settled_at=self._controller.now() + reconcile.SETTLE_SECONDS)
            self._bind(job, name, data["metadata"]["uid"])

    async def _refuse(self, data: Json, refusal: Refusal) -> None:
        """It cannot be a job, or not yet: remember why, and say it once with an event."""
        name = data["metadata"]["name"]
        known = self._memory(name).refusal
        if known is None or replace(known, retry_at=refusal.retry_at) != refusal:
            await self._telling.refused(data, refusal, self._controller.now())
        self._remember(name, refusal=refusal)
