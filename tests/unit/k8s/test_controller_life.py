"""The controller against an API server of a few lines: what must not be lost while it waits for an answer, and what it
says of objects that are no jobs and of those whose namespace goes.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cordee.coordinator.core.model import JobState
from cordee.coordinator.errors import InvalidError
from cordee.coordinator.service.controller import Controller
from cordee.coordinator.service.store import StoreError
from cordee.k8s.api import Api
from cordee.k8s.controller import ObjectsFront
from cordee.k8s.errors import ApiError
from cordee.k8s.reconcile import COORDINATOR_LABEL, FINALIZER

Json = dict[str, Any]


class Server:
    """The objects and events of one namespace."""

    namespace = "here"

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.events: list[Json] = []
        self.ending = False
        self.answers = threading.Event()
        """Events are answered while it is set."""
        self.answers.set()
        self.asked = threading.Event()
        """An event has come."""
        self._version = 1
        self._ended = threading.Event()

    def add(self, name: str, **metadata: Any) -> None:
        uid = f"{name}-1234567890"
        known = {"name": name, "uid": uid, "resourceVersion": "1", "generation": 1, **metadata}
        self.objects[name] = {"metadata": known, "spec": {"workers": {"min": 1, "max": 1}}}

    def finalizers(self, name: str) -> list[str]:
        return list(self.objects[name]["metadata"].get("finalizers") or ())

    def stream(self, *_: Any, **__: Any) -> Any:
        return _Silence(self._ended)

    def close(self) -> None:
        self._ended.set()

    def request(self, method: str, path: str, *, query: Mapping[str, str], body: Any = None, **_: Any) -> Json:
        if path.endswith("/events"):
            self.asked.set()
            assert self.answers.wait(20.0)
            if self.ending:
                raise ApiError(403, "Forbidden", "being terminated", {"causes": [{"reason": "NamespaceTerminating"}]})
            if "dryRun" not in query:
                self.events.append(body)
            return {}
        if method == "GET" and path.endswith("/trainingjobs"):
            return {"metadata": {"resourceVersion": "1"}, "items": copy.deepcopy(list(self.objects.values()))}
        if "/configmaps/" in path:
            raise ApiError(404, "NotFound", "not found")
        name = path.removesuffix("/status").rsplit("/", 1)[-1]
        thing = self.objects[name]
        if method == "PATCH":
            if (
                body["metadata"].get("resourceVersion", thing["metadata"]["resourceVersion"])
                != (thing["metadata"]["resourceVersion"])
            ):
                raise ApiError(409, "Conflict", "it has changed")
            self._version += 1
            thing = self.objects[name] = merged(thing, body)
            thing["metadata"]["resourceVersion"] = str(self._version)
        return copy.deepcopy(thing)


class _Silence:
    """A watch in which nothing happens."""

    def __init__(self, ended: threading.Event) -> None:
        self._ended = ended

    def __iter__(self) -> Iterator[bytes]:
        self._ended.wait(20.0)
        return iter(())

    def close(self) -> None:
        self._ended.set()


def merged(before: Json, patch: Json) -> Json:
    after = dict(before)
    for name, value in patch.items():
        if value is None:
            after.pop(name, None)
        else:
            after[name] = merged(after.get(name) or {}, value) if isinstance(value, dict) else value
    return after


class Jobs:
    """The coordinator's side: one job at most, whose state a test sets."""

    closing = False
    num_open = 1

    def __init__(self) -> None:
        self.job: Any = None
        self.rows: list[Any] = []
        self.touched: Callable[[Any], None] = lambda _job: None
        self.refusal = ""

    def subscribe(self, listener: Callable[[Any], None]) -> Callable[[], None]:
        self.touched = listener
        return lambda: None

    def begin(self, name: str) -> None:
        record = SimpleNamespace(
            state=JobState.RUNNING, reason="", minimum=1, maximum=1, wanted=1, generation=1, recoveries=0,
            result=None, started_at=1.0, finished_at=None,
        )  # fmt: skip
        progress = SimpleNamespace(steps_total=None, loss=None, samples=0, checkpoint_step=None)
        machine = SimpleNamespace(record=record, workers=tuple, done=False)
        self.job = SimpleNamespace(
            id=name, name=name, key=f"trainingjob/{name}-1234567890", machine=machine, progress=progress,
            step=lambda _workers: 0, ended=False, events=self.rows,
        )  # fmt: skip

    def happen(self, kind: str, message: str) -> None:
        self.rows.append(SimpleNamespace(id=len(self.rows) + 1, kind=kind, message=message, time=self.now()))
        self.touched(self.job)

    def end(self, state: JobState, reason: str) -> None:
        record = self.job.machine.record
        record.state, record.reason, record.finished_at = state, reason, self.now()
        self.job.ended = True
        self.touched(self.job)

    def now(self) -> float:
        return 1e6 + asyncio.get_running_loop().time()

    def every(self) -> list[Any]:
        return []

    def find_id(self, name: str) -> Any:
        return self.job if self.job is not None and self.job.id == name else None

    def submitted(self, key: str) -> Any:
        return self.job if self.job is not None and self.job.key == key else None

    def history(self, _job: str, *, after: int, limit: int) -> Any:
        return SimpleNamespace(events=[row for row in self.rows if row.id > after][:limit], more=False)

    async def submit(self, *_: Any, **__: Any) -> Any:
        raise InvalidError(self.refusal)

    async def cancel(self, _job: str, by: str) -> None:
        self.end(JobState.CANCELLED, f"cancelled by {by}")


class Scene:
    def __init__(self) -> None:
        self.server, self.jobs = Server(), Jobs()
        self.closed = False
        self.front = ObjectsFront(cast("Api", self.server), "cordee")

    def add(self, name: str, *, taken: bool = True, **metadata: Any) -> None:
        mine = {"labels": {COORDINATOR_LABEL: "cordee"}, "finalizers": [FINALIZER]} if taken else {}
        self.server.add(name, **mine, **metadata)

    async def start(self) -> None:
        await self.front.start(cast("Controller", self.jobs))

    async def close(self) -> None:
        """Once."""
        self.server.answers.set()
        if not self.closed:
            self.closed = True
            await self.front.close()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(15.0):
            while not condition():
                await asyncio.sleep(0.01)

    def put_off(self, name: str) -> float:
        """For how long it is not looked at."""
        later = self.front._queue._later.get(name)
        return 0.0 if later is None else later.timer.when() - asyncio.get_running_loop().time()

    def state(self, name: str) -> str:
        return str(self.server.objects[name].get("status", {}).get("state"))

    def told(self, name: str) -> list[tuple[str, str]]:
        return [(each["type"], each["reason"]) for each in self.server.events if each["regarding"]["name"] == name]


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    try:
        yield scene
    finally:
        await scene.close()


async def test_a_job_that_ends_while_an_event_is_on_its_way_is_not_forgotten(scene: Scene) -> None:
    scene.add("job")
    scene.jobs.begin("job")
    await scene.start()
    await scene.until(lambda: scene.state("job") == "running")
    scene.server.asked.clear()
    scene.server.answers.clear()
    scene.jobs.happen("world", "generation 1")
    await scene.until(scene.server.asked.is_set)
    scene.jobs.end(JobState.SUCCEEDED, "done")
    scene.server.answers.set()
    await scene.until(lambda: scene.state("job") == "succeeded")


async def test_what_a_job_decides_does_not_wait_until_its_progress_is_due(scene: Scene) -> None:
    scene.jobs.num_open = 100_000
    scene.add("job")
    scene.jobs.begin("job")
    await scene.start()
    await scene.until(lambda: scene.state("job") == "running")
    scene.jobs.job.step = lambda _workers: 7
    scene.jobs.touched(scene.jobs.job)
    await scene.until(lambda: scene.put_off("job") > 1000.0)
    assert scene.server.objects["job"]["status"]["step"] == 0
    scene.jobs.job.machine.record = SimpleNamespace(
        **{**vars(scene.jobs.job.machine.record), "state": JobState.RECOVERING}
    )
    scene.jobs.touched(scene.jobs.job)
    await scene.until(lambda: scene.state("job") == "recovering")
    assert scene.server.objects["job"]["status"]["step"] == 7


async def test_an_end_is_told_once_and_as_what_it_is(scene: Scene) -> None:
    scene.add("job")
    scene.jobs.begin("job")
    await scene.start()
    scene.jobs.happen("world", "generation 1")
    await scene.until(lambda: scene.told("job") == [("Normal", "World")])
    scene.jobs.end(JobState.FAILED, "the script raised ValueError")
    await scene.until(lambda: len(scene.told("job")) > 1)
    scene.jobs.touched(scene.jobs.job)
    await scene.until(lambda: "job" not in scene.front._queue)
    assert scene.told("job") == [("Normal", "World"), ("Warning", "Failed")]
    assert scene.server.events[-1]["note"] == "the script raised ValueError"


async def test_a_job_that_is_removed_at_once_has_ended_all_the_same(scene: Scene) -> None:
    scene.add("job")
    scene.jobs.begin("job")
    await scene.start()
    await scene.until(lambda: scene.state("job") == "running")
    scene.jobs.end(JobState.SUCCEEDED, "done")
    removed, scene.jobs.job = scene.jobs.job, None
    removed.machine.done = True
    scene.jobs.touched(removed)
    await scene.until(lambda: not scene.server.finalizers("job"))
    assert scene.state("job") == "succeeded"
    await scene.until(lambda: not scene.front._parting)


async def test_what_is_refused_has_failed_and_says_so(scene: Scene) -> None:
    name = "n" * 250
    scene.add(name, taken=False)
    scene.server.objects[name]["spec"]["script"] = "train.py"
    await scene.start()
    await scene.until(lambda: scene.state(name) == "failed" and not scene.server.finalizers(name))
    assert scene.told(name) == [("Warning", "Invalid")]
    assert len(scene.server.events[0]["metadata"]["name"]) <= 253
    kinds = {each["type"]: each["status"] for each in scene.server.objects[name]["status"]["conditions"]}
    assert (kinds["Accepted"], kinds["Failed"], kinds["Stalled"]) == ("False", "True", "True")


async def test_a_source_that_is_missing_is_said_once_however_often_it_is_looked_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cordee.k8s.controller._SOURCE_SECONDS", 0.05)
    looked = 0
    request = scene.server.request

    def counted(method: str, path: str, **more: Any) -> Json:
        nonlocal looked
        looked += "/configmaps/" in path
        return request(method, path, **more)

    monkeypatch.setattr(scene.server, "request", counted)
    scene.add("late")
    scene.server.objects["late"]["spec"] |= {"script": "a.py", "sourceFrom": {"configMap": "code"}}
    await scene.start()
    await scene.until(lambda: looked >= 3)
    assert scene.told("late") == [("Warning", "SourceMissing")]
    assert scene.state("late") == "pending"
    assert "there is no ConfigMap code" in scene.server.events[0]["note"]


async def test_an_object_that_cannot_be_taken_in_now_is_tried_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    async def full(*_: Any, **__: Any) -> Any:
        nonlocal tries
        tries += 1
        raise StoreError("the disk is full") if tries == 1 else InvalidError("no such script")

    monkeypatch.setattr(scene.jobs, "submit", full)
    scene.add("job")
    scene.server.objects["job"]["spec"] |= {"script": "a.py", "sourceFrom": {"image": {"path": "/app"}}}
    await scene.start()
    await scene.until(lambda: scene.state("job") == "failed")
    assert (tries, scene.told("job")) == (2, [("Warning", "Invalid")])


@pytest.mark.parametrize("ending", [False, True])
async def test_whoever_stops_in_a_namespace_that_goes_lets_go_of_what_it_holds(scene: Scene, ending: bool) -> None:
    scene.add("job")
    scene.add("others", taken=False, labels={COORDINATOR_LABEL: "other"}, finalizers=[FINALIZER])
    scene.jobs.begin("job")
    await scene.start()
    await scene.until(lambda: scene.state("job") == "running")
    scene.server.ending = ending
    scene.server.objects["job"]["metadata"]["resourceVersion"] = "1000"  # somebody has changed it: asked again
    await scene.close()
    assert scene.server.finalizers("job") == ([] if ending else [FINALIZER])
    assert scene.server.finalizers("others") == [FINALIZER]


async def test_an_object_that_is_being_deleted_is_let_go_of_at_once_where_the_namespace_goes(scene: Scene) -> None:
    scene.add("job", deletionTimestamp="2030-01-01T00:00:00Z")
    scene.jobs.begin("job")
    scene.server.ending = True
    await scene.start()
    scene.jobs.happen("world", "generation 1")
    await scene.until(lambda: not scene.server.finalizers("job"))
    assert not scene.jobs.job.machine.done, "its pods go with the namespace"


async def test_an_object_that_is_being_deleted_waits_for_its_pods_and_for_nobody_when_its_coordinator_stops(
    scene: Scene,
) -> None:
    scene.add("job", deletionTimestamp="2030-01-01T00:00:00Z")
    scene.jobs.begin("job")
    await scene.start()
    await scene.until(lambda: scene.state("job") == "cancelled")
    assert scene.server.finalizers("job") == [FINALIZER]
    await scene.close()
    assert not scene.server.finalizers("job")
