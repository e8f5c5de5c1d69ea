"""Faults that only a coordinator can tell apart, injected into a whole job as its users would: it gets round them, says
what it found, and ends with the weights of an undisturbed run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from cordee.coordinator.client import Client, read_endpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

EPOCHS = 8
ARGUMENTS = ("--epochs", str(EPOCHS))


def wait_until(job: Any, holds: Callable[[], bool], what: str) -> None:
    job.wait_for(lambda _commits: holds(), what)


def test_cut_links_and_stuck_workers_are_found_and_named_and_cost_no_bit(
    make_job: Callable[[], Any], undisturbed: Callable[..., str]
) -> None:
    job = make_job()
    job.slow_down()
    document = {
        "apiVersion": "cordee.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "disturbed"},
        "spec": {"script": str(job.script), "chaos": True, "failurePolicy": {"stuckSeconds": 1.5}},
    }
    path = job.log.parent / "job.yaml"
    path.write_text(json.dumps(document))  # JSON is YAML
    job.script = path
    job.start("--workers", "1:3", arguments=ARGUMENTS)
    job.wait_for(lambda commits: any(commit.size == 3 for commit in commits), "three workers train")
    endpoint = read_endpoint(job.state)
    assert endpoint is not None
    with Client(endpoint) as client:

        def ranks() -> list[str]:
            members = [member for member in client.job("disturbed")["members"] if member["rank"] is not None]
            return [member["worker"] for member in sorted(members, key=lambda member: member["rank"] or 0)]

        def said(kind: str, words: str = "") -> bool:
            events = client.job("disturbed")["events"]
            return any(event["kind"] == kind and words in event["message"] for event in events)

        def trains(size: int) -> Callable[[], bool]:
            before = max(commit.step for commit in job.commits())
            return lambda: any(commit.step > before and commit.size == size for commit in job.commits())

        # A small model takes one round of messages: who hears everybody is a step ahead of the two that are cut.
        first, second, third = ranks()
        before = max(commit.generation for commit in job.commits())
        client.inject("disturbed", "partition", second, peer=third, seconds=4.0)
        wait_until(job, lambda: said("isolated", "cannot reach each other"), "the cut link is found")
        wait_until(job, trains(2), "two go on")
        wait_until(job, trains(3), "all three train again")
        # However long the link is cut: one world without the one that stays out, and one with it again.
        sizes = {commit.generation: commit.size for commit in job.commits() if commit.generation >= before}
        assert sizes == {before: 3, before + 1: 2, before + 2: 3}
        assert said("link", f"{third} comes back after")

        client.inject("disturbed", "drop", first, peer=second)
        wait_until(job, trains(3), "a connection that broke is made again")

        _, victim, _ = ranks()
        client.inject("disturbed", "hang", victim)
        wait_until(job, lambda: said("stuck", victim), "the stuck one is named")
        wait_until(job, lambda: said("stack", "hang_for_ever"), "its stack is told")
        wait_until(job, trains(3), "another process takes its place")
    code, result, stderr = job.finish()
    assert code == 0, stderr
    assert result["weights_sha256"] == undisturbed(*ARGUMENTS)
    assert result["samples"] == EPOCHS * 1797
