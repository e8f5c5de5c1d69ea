"""Ready is who can write down what it is told."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cordee.coordinator.service import health


async def test_a_coordinator_that_cannot_write_is_alive_and_not_ready(
    start: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_AGAIN_SECONDS", 0.0)
    async with start(tmp_path / "state") as coordinator:

        async def asked() -> tuple[int, list[str]]:
            assert (await coordinator.http.get("/healthz")).status_code == 200
            answer = await coordinator.http.get("/readyz", headers={"Authorization": ""})
            return answer.status_code, answer.json()["problems"]

        assert await asked() == (200, [])
        database = coordinator.server.controller._store._database
        database.pragma("busy_timeout=10")
        other = sqlite3.connect(tmp_path / "state" / "coordinator.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert await asked() == (503, ["the database cannot be written"])
        other.execute("ROLLBACK")
        other.close()
        assert await asked() == (200, [])
        database.pragma("query_only=ON")
        assert await asked() == (503, ["the database cannot be written"])
        database.pragma("query_only=OFF")
        monkeypatch.setattr(health, "_MIN_FREE_BYTES", 1 << 60)
        assert await asked() == (503, ["the disk of the state folder is full"])


async def test_one_that_ends_is_not_ready(start: Callable[..., Any], tmp_path: Path) -> None:
    async with start(tmp_path / "state") as coordinator:
        readiness = health.Readiness(coordinator.server.controller, tmp_path)
        assert readiness.problems() == []
        await coordinator.server.stop(stop_jobs=False)
        assert readiness.problems() == ["this coordinator is ending"]
