"""Faults on request: only into jobs that allow it, only of kinds that there are, and to the right processes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from cordee.coordinator.errors import InvalidError
from cordee.coordinator.faults import FAULTS, check_fault


async def two_workers(coordinator: Any, tools: Any, **spec: Any) -> tuple[dict[str, Any], list[Any]]:
    job = await coordinator.submit(tools.make_document(workers=(2, 2), **spec))
    peers = [await (await coordinator.peer(job["id"], index)).attach() for index in range(2)]
    return job, peers


async def inject(coordinator: Any, job: dict[str, Any], **body: Any) -> Any:
    return await coordinator.http.post(f"/v1/jobs/{job['id']}/faults", json=body)


async def test_a_fault_reaches_its_worker_and_the_jobs_history(coordinator: Any, tools: Any) -> None:
    job, (_, second) = await two_workers(coordinator, tools, chaos=True)
    before = time.time()
    answer = await inject(coordinator, job, kind="slow", worker=second.worker, amount=5)
    assert answer.status_code == 202, answer.text
    said = answer.json()
    assert said.pop("time") == pytest.approx(before, abs=20)
    assert said == {"kind": "slow", "worker": second.worker, "peer": "", "seconds": 10.0, "amount": 5.0}
    told = await second.expect("fault")
    assert (told.kind, told.seconds, told.peer, told.amount) == ("slow", 10.0, "", 5.0)
    [event] = [event for event in (await coordinator.view(job["id"]))["events"] if event["kind"] == "fault"]
    assert event["message"] == f"slow on {second.worker} for 10 s, amount 5"
    assert event["time"] == answer.json()["time"]


async def test_a_partition_is_told_to_both_ends(coordinator: Any, tools: Any) -> None:
    job, (first, second) = await two_workers(coordinator, tools, chaos=True)
    await inject(coordinator, job, kind="partition", worker=first.worker, peer=second.worker, seconds=2)
    assert (await first.expect("fault")).peer == second.worker
    assert (await second.expect("fault")).peer == first.worker


async def test_what_cannot_be_injected_is_refused_with_a_reason(coordinator: Any, tools: Any) -> None:
    job, (first, _) = await two_workers(coordinator, tools, chaos=True)
    worker = first.worker
    for body, words in (
        ({"kind": "earthquake", "worker": worker}, "no fault 'earthquake'"),
        ({"kind": "kill", "worker": "someone"}, "no worker 'someone'"),
        ({"kind": "kill", "worker": worker, "seconds": 3}, "has no seconds"),
        ({"kind": "stop", "worker": worker, "seconds": -1}, "must be from 0"),
        ({"kind": "partition", "worker": worker}, "needs a peer"),
        ({"kind": "partition", "worker": worker, "peer": worker}, "its own peer"),
    ):
        answer = await inject(coordinator, job, **body)
        assert answer.status_code == 422, body
        assert words in answer.json()["error"]["message"]
    await first.drop()
    await coordinator.view_when(
        job["id"], lambda view: next(m for m in view["members"] if m["worker"] == worker)["pid"] is None
    )
    answer = await inject(coordinator, job, kind="kill", worker=worker)
    assert answer.status_code == 409
    assert "is not attached" in answer.json()["error"]["message"]


async def test_a_job_without_chaos_is_left_alone(coordinator: Any, tools: Any) -> None:
    job, (first, _) = await two_workers(coordinator, tools)
    answer = await inject(coordinator, job, kind="kill", worker=first.worker)
    assert answer.status_code == 409
    assert "--allow-chaos" in answer.json()["error"]["hint"]
    assert not [event for event in (await coordinator.view(job["id"]))["events"] if event["kind"] == "fault"]


async def test_the_worker_hears_from_its_environment_whether_faults_are_allowed(coordinator: Any, tools: Any) -> None:
    for chaos in (False, True):
        job = await coordinator.submit(tools.make_document(chaos=chaos))
        assert (await coordinator.environment(job["id"]))["CORDEE_CHAOS"] == ("1" if chaos else "")


@pytest.mark.parametrize("kind", FAULTS)
def test_every_kind_can_be_asked_for_by_its_name_alone(kind: str) -> None:
    peer = "job-w1" if FAULTS[kind].peer == "both" else ""
    fault = check_fault(kind, "job-w0", None, peer, None)
    assert (fault.seconds, fault.amount) == (FAULTS[kind].seconds, FAULTS[kind].amount)
    assert str(fault).startswith(f"{kind} on job-w0")
    with pytest.raises(InvalidError):
        check_fault(kind, "job-w0", 1e9, peer, None)


def test_the_reference_page_tells_every_kind() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "faults.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]
    peers = {"none": "", "optional": "optional", "both": "required"}
    assert rows == [
        [
            f"`{kind.name}`",
            kind.summary,
            f"{kind.seconds:g}" if kind.seconds else "",
            f"{kind.amount:g}" if kind.amount else "",
            peers[kind.peer],
        ]
        for kind in FAULTS.values()
    ]
