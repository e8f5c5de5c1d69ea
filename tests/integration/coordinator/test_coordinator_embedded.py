"""The coordinator on a thread of its own: what `cordee run` uses."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from cordee.coordinator.errors import CoordinatorError, InvalidError
from cordee.coordinator.service.embedded import EmbeddedCoordinator
from cordee.coordinator.spec import SpecError


def coordinator_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "cordee-coordinator"]


def test_it_takes_a_job_answers_over_rest_and_leaves_nothing_behind(tmp_path: Path, tools: Any) -> None:
    data, sha256 = tools.make_bundle({"train.py": ""})
    with EmbeddedCoordinator(tmp_path, policy=tools.POLICY, agent_command=tools.AGENT_COMMAND) as coordinator:
        assert len(coordinator_threads()) == 1
        job = coordinator.submit(tools.make_document(), data, sha256)
        json.dumps(job)  # plain data
        assert (job["state"], job["workers"]["wanted"]) == ("starting", 2)
        headers = {"Authorization": f"Bearer {coordinator.token}"}
        over_rest = httpx2.get(
            f"{coordinator.rest_url}/v1/jobs/{job['id']}", headers=headers, trust_env=False, timeout=20
        )
        assert over_rest.json()["id"] == job["id"]
        assert over_rest.json().keys() == job.keys()
        deadline = time.monotonic() + 20
        while len(records := list((tmp_path / "agents").glob("*.json"))) < 2:  # the agents start beside
            assert time.monotonic() < deadline
        pids = [json.loads(record.read_text())["process"]["pid"] for record in records]
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert coordinator_threads() == []


def test_a_mistake_in_a_job_is_raised_to_the_caller(tmp_path: Path, tools: Any) -> None:
    data, sha256 = tools.make_bundle({"train.py": ""})
    with EmbeddedCoordinator(tmp_path, agent_command=tools.AGENT_COMMAND) as coordinator:
        with pytest.raises(SpecError, match=r"did you mean spec\.threads"):
            coordinator.submit(tools.make_document(thread=1), data, sha256)
        with pytest.raises(InvalidError, match="the bundle's SHA-256 is"):
            coordinator.submit(tools.make_document(), data + b" ", sha256)
        with pytest.raises(InvalidError, match="the bundle holds no such file"):
            coordinator.submit(tools.make_document(script="other.py"), data, sha256)
    assert [path.name for path in (tmp_path / "bundles").iterdir()] == [f"{sha256}.tar.gz"]


def test_a_start_that_fails_raises_and_leaves_no_thread(tmp_path: Path) -> None:
    with EmbeddedCoordinator(tmp_path):
        with pytest.raises(CoordinatorError, match="another coordinator"):
            EmbeddedCoordinator(tmp_path).start()
        assert len(coordinator_threads()) == 1


def test_stopping_twice_is_stopping_once(tmp_path: Path) -> None:
    coordinator = EmbeddedCoordinator(tmp_path).start()
    coordinator.stop()
    coordinator.stop()
