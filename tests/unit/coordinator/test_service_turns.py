"""What a turn writes at once, and what may wait to be written with that of other jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from cordee.coordinator.core import events
from cordee.coordinator.core.model import Outlook, Policy
from cordee.coordinator.core.record import JobRecord
from cordee.coordinator.service.job import Clock, Job
from cordee.coordinator.service.launchers.base import AgentExit, AgentSpec, Launcher
from cordee.coordinator.service.loading import load_job
from cordee.coordinator.service.metrics import Metrics
from cordee.coordinator.service.store import JobRow, Store
from cordee.coordinator.service.turns import Turns
from cordee.coordinator.spec import JobDocument, parse_job

DOCUMENT: JobDocument = parse_job(
    {
        "apiVersion": "cordee.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "a"},
        "spec": {"script": "a.py", "workers": {"min": 1, "max": 1}, "sourceFrom": {"image": {"path": "/src"}}},
    },
    bundled=True,
)


class _Started:
    """A launcher whose agents begin, and of whom nothing is heard."""

    name = where = "nowhere"

    def __init__(self) -> None:
        self.started: list[str] = []

    def capacity(self) -> int:
        return 8

    def environment(self, *_: object) -> dict[str, str]:
        return {}

    async def start(self, spec: AgentSpec) -> None:
        self.started.append(spec.worker)

    async def stop(self, *_: object, **__: object) -> bool:
        return False

    async def exits(self) -> AsyncIterator[AgentExit]:
        await asyncio.Event().wait()
        yield AgentExit("nobody", "nobody", 0)


class Scene:
    def __init__(self, folder: Path) -> None:
        self.store, self.launcher = Store(folder / "coordinator.db"), _Started()
        self.writes = 0
        self.store.on_write = self._written
        launcher = cast("Launcher", self.launcher)
        self.turns = Turns(
            store=self.store,
            launcher=launcher,
            metrics=Metrics(list, version="1"),
            clock=Clock(),
            environment=lambda _job, _worker: {},
        )

    def _written(self, _seconds: float) -> None:
        self.writes += 1

    def submit(self, name: str) -> Job:
        record = JobRecord(job=name, minimum=1, maximum=1, created_at=1.0)
        row = JobRow(name, "a", 1.0, record.state.value, DOCUMENT.to_document(), None, record.to_json())
        told = self.store.create_job(row, f"token-{name}", events=[self.turns.sentence("submitted", name)])
        job = load_job(row, DOCUMENT, "", "", told, Path("/nowhere"), cast("Launcher", self.launcher), Policy())
        self.turns.add(job)
        self.turns.reschedule()
        return job

    def wait(self, job: Job, why: str) -> None:
        """The substrate says why its worker does not run yet."""
        self.turns.feed(job, events.AgentNoted(f"{job.id}-w0", "", why, Outlook.PASSING))

    def stored(self) -> dict[str, tuple[str, str]]:
        return {row.id: (row.record["state"], row.record["reason"]) for row in self.store.jobs()}


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    await scene.turns.close()
    scene.store.close()


async def test_a_sentence_waits_to_be_written_and_a_state_does_not(scene: Scene) -> None:
    first, second = scene.submit("a-1"), scene.submit("a-2")
    for job in (first, second):
        scene.wait(job, "no room")
    writes, before = scene.writes, scene.stored()
    for number in range(5):
        for job in (first, second):
            scene.wait(job, f"no room, {number} times")
            assert job.machine.record.reason.endswith(f"{number} times"), "people see it at once"
    assert (scene.writes, scene.stored()) == (writes, before)
    scene.turns.feed(first, events.CancelRequested())
    assert scene.stored()["a-1"][0] == first.machine.state.value == "cancelled"
    assert scene.stored()["a-2"] == before["a-2"]
    assert scene.writes == writes + 1
    await scene.turns.close()
    assert scene.stored()["a-2"] == (second.machine.state.value, second.machine.record.reason)
    assert scene.writes == writes + 2


async def test_what_waited_is_written_within_seconds_all_jobs_together(scene: Scene) -> None:
    jobs = [scene.submit(f"a-{number}") for number in range(3)]
    for words in ("no room", "no room for it"):
        for job in jobs:
            scene.wait(job, words)
    writes = scene.writes
    scene.turns.begin()
    async with asyncio.timeout(20.0):
        while not all(job.record_saved for job in jobs):
            await asyncio.sleep(0.01)
    assert all(reason.endswith("no room for it") for _, reason in scene.stored().values())
    assert scene.writes == writes + 1


async def test_a_grant_is_given_once_there_is_room(scene: Scene) -> None:
    jobs = [scene.submit(f"a-{number}") for number in range(10)]
    assert [job.machine.record.wanted for job in jobs] == [1] * 8 + [0] * 2
    scene.turns.feed(jobs[3], events.CancelRequested())
    scene.turns.feed(jobs[3], events.AgentExited("a-3-w0", 0))
    assert [job.machine.record.wanted for job in jobs[8:]] == [1, 0]
    assert "a-3" not in scene.turns.open
    await asyncio.sleep(0)
    assert "a-8-w0" in scene.launcher.started


async def test_a_history_is_read_from_memory_as_far_as_it_goes(scene: Scene) -> None:
    job = scene.submit("a-1")
    for number in range(60):
        scene.turns.note(job, "note", str(number))
    stored = scene.store.history("a-1", after=0, limit=1000)
    assert job.events_after(0) is None, "the first ones are in the store only"
    for row in stored[-50:]:
        assert job.events_after(row.number) == [each for each in stored if each.number > row.number]
    young = scene.submit("a-2")
    assert young.events_after(0) == scene.store.history("a-2", after=0, limit=1000)
