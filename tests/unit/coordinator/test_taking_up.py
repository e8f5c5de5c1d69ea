"""A coordinator that takes up what another one has left: what it cannot read it leaves alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

from cordee.coordinator.core.record import JobRecord
from cordee.coordinator.service.controller import Controller
from cordee.coordinator.service.folder import StateFolder
from cordee.coordinator.service.job import Progress
from cordee.coordinator.service.launchers.base import AgentExit, AgentStatus, Launcher
from cordee.coordinator.service.store import JobRow, Store

NEWER = {
    "apiVersion": "cordee.dev/v1alpha1",
    "kind": "TrainingJob",
    "metadata": {"name": "new"},
    "spec": {"script": "a.py", "fieldOfANewerCordee": True},
}


class _Running:
    """A launcher of two agents: of a job that there is, and of one that there is not."""

    name = where = "nowhere"

    def __init__(self) -> None:
        self.stopped: list[str] = []

    def capacity(self) -> int:
        return 8

    async def home(self) -> None:
        return None

    async def list(self) -> list[AgentStatus]:
        return [AgentStatus("new-1-w0", "new-1"), AgentStatus("gone-1-w0", "gone-1")]

    async def stop(self, worker: str, **_: object) -> bool:
        self.stopped.append(worker)
        return True

    async def exits(self) -> AsyncIterator[AgentExit]:
        await asyncio.Event().wait()
        yield AgentExit("nobody", "nobody", 0)


async def test_workers_of_a_job_that_cannot_be_read_train_on(tmp_path: Path) -> None:
    with StateFolder(tmp_path) as folder:
        store, launcher = Store(folder.database), _Running()
        record = JobRecord(job="new-1", minimum=1, maximum=1, created_at=1.0)
        store.create_job(JobRow("new-1", "new", 1.0, "running", NEWER, None, record.to_json()), "token")
        controller = Controller(
            folder=folder,
            store=store,
            launcher=cast("Launcher", launcher),
            version="1",
            coordinator_address="",
            orphan_seconds=60.0,
        )
        await controller.start()
        assert launcher.stopped == ["gone-1-w0"]
        assert not list(controller.every())
        await controller.close()
        store.close()


def test_progress_that_a_newer_coordinator_has_written_can_be_read() -> None:
    assert Progress.from_json({"step": 3, "new": 1}) == Progress(step=3)
