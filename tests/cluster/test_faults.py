"""What clusters do to pods: each fault is told apart, said in a sentence, and dealt with, and the training goes on.

The nodes run the pods, the scheduler preempts, the API server counts quotas; the coordinator is a process beside them.
Faults that follow each other on one job show as well that what was dealt with leaves nothing behind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.kubelet.cluster import Cluster
from cluster.kubelet.images import CORDEE
from cluster.outside import Outside, trains
from cluster.processes import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]

DOUBT_SECONDS = 6.0
ENDLESS = ("--epochs", "100000", "--pause", "0.03")
WORLD = re.compile(r"generation \d+ \((\w+)\) from step (\d+)")


@pytest.fixture(scope="module")
def beside(three_nodes: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    found = Outside(three_nodes, tmp_path_factory.mktemp("outside"), doubt_seconds=DOUBT_SECONDS)
    yield found
    found.close()


@pytest.fixture
def outside(beside: Outside, cluster: Cluster) -> Iterator[Outside]:
    """The coordinator, without a job. Afterwards the nodes are repaired."""
    yield beside
    print(beside.coordinator.last_words(40))
    beside.clear()


def test_pods_that_are_taken_leave_at_a_step_boundary_and_cost_no_restart(outside: Outside, cluster: Cluster) -> None:
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app.kubernetes.io/component": "worker"}},
    }
    job = outside.submit(
        "taken",
        args=ENDLESS,
        workers={"min": 1, "max": 3},
        failurePolicy={"restarts": 0},  # one death that counts, and its worker is given up
        pod={"topologySpreadConstraints": [spread]},
    )
    outside.until_workers(job, 3)

    # Somebody deletes a pod.
    outside.kubectl("delete", "pod", f"{job}-w1", "--wait=false")
    assert outside.until_told(job, "taken", f"{job}-w1's").startswith(f"{job}-w1's pod was deleted by somebody")
    outside.until_workers(job, 3)

    # A node is drained.
    node = outside.node(f"{job}-w2")
    cluster.drain(node)
    assert "was evicted, as when a node is drained" in outside.until_told(job, "taken", f"{job}-w2's")
    outside.until_workers(job, 3)
    assert outside.node(f"{job}-w2") != node
    cluster.uncordon(node)

    # A node is short of something.
    cluster.fail(outside.namespace, f"{job}-w2", "Evicted", "The node was low on resource: memory.")
    words = outside.until_told(job, "taken", "was evicted by its node")
    assert words == f"{job}-w2's pod was evicted by its node: The node was low on resource: memory."
    outside.until_workers(job, 3)

    # All three left between two steps: nothing was lost, and the worlds after them began where they left.
    left = [int(words.rpartition(" ")[2]) for words in outside.history(job, "drained")]
    worlds = [found.groups() for words in outside.history(job, "world") if (found := WORLD.match(words))]
    assert [int(step) for cause, step in worlds if cause == "drain"] == left
    assert len(left) == 3
    assert outside.job(job)["recoveries"] == 0

    # A pod is deleted, and the next one's image cannot be pulled any more: the others train on, however long.
    cluster.fail_pulls(CORDEE)
    outside.kubectl("delete", "pod", f"{job}-w0", "--wait=false")
    view = outside.until_reason(job, "trains with 2 of 3 workers", f"{job}-w0's pod cannot get its image {CORDEE}")
    assert trains(view) == 2
    step, seconds = view["step"], view["seconds"]
    view = outside.until(job, lambda view: view["seconds"] > seconds + DOUBT_SECONDS + 1.0, "a while")
    assert (trains(view), view["step"] > step) == (2, True)
    assert "cannot get its image" in outside.object(job)["status"]["message"]
    cluster.fail_pulls(CORDEE, False)
    outside.until_workers(job, 3)
    assert outside.job(job)["reason"] == ""

    # A node is lost.
    cluster.vanish(outside.node(f"{job}-w1"))
    outside.until(job, lambda view: view["recoveries"] > 0, "a recovery")
    outside.until_told(job, "unreachable", f"{job}-w1's pod is on a node that does not answer")
    outside.until_told(job, "taken", f"{job}-w1's", "is given up: its node has not said that it ended")
    outside.until_workers(job, 3)

    kinds = {event["kind"] for event in outside.job(job)["events"]}
    assert not kinds & {"agent_exited", "given_up"}


def test_a_job_takes_the_room_there_is_and_says_what_it_waits_for(outside: Outside, cluster: Cluster) -> None:
    plane = outside.plane
    cluster.add_node("tight-1", capacity={"cpu": "2"}, labels={"pool": "tight"})
    quota = {"metadata": {"name": "small"}, "spec": {"hard": {"requests.cpu": "1"}}}
    outside.apply({"apiVersion": "v1", "kind": "ResourceQuota", **quota})
    path = f"/api/v1/namespaces/{outside.namespace}/resourcequotas/small"
    wait_until(lambda: "used" in plane.request("GET", path)[1].get("status", {}), "the quota counts")
    job = outside.submit(
        "roomy", args=ENDLESS, workers={"min": 2, "max": 3}, pod={"nodeSelector": {"pool": "tight"}}
    )  # fmt: skip
    try:
        # The quota allows one, which is less than the job's minimum: it waits, and says for what.
        view = outside.until_reason(job, "1 of 3 workers are ready", "waits for quota", "exceeded quota: small")
        assert view["state"] == "starting"

        # The quota is raised: now the node is full, and two train.
        plane.request("PATCH", path, {"spec": {"hard": {"requests.cpu": "8"}}})
        view = outside.until_reason(job, "trains with 2 of 3 workers", "waits for a node", "Insufficient cpu")
        assert "Insufficient cpu" in outside.status(job)
        assert "Insufficient cpu" in outside.object(job)["status"]["message"]

        # There is room again.
        cluster.add_node("tight-2", capacity={"cpu": "1"}, labels={"pool": "tight"})
        outside.until_workers(job, 3)

        # Somebody more important comes: one makes room, the others go on, and it comes back when there is room again.
        plane.apply(IMPORTANT)
        outside.apply(vip(outside.namespace))
        outside.until_told(job, "taken", "was preempted by a pod of higher priority")
        view = outside.until_reason(job, "trains with 2 of 3 workers", "waits for a node")
        outside.until_further(job)
        assert outside.job(job)["recoveries"] == 0
        outside.kubectl("delete", "pod", "vip", "--wait=false")
        outside.until_workers(job, 3)
        assert outside.job(job)["reason"] == ""
    finally:
        outside.clear()
        outside.kubectl("delete", "resourcequota", "small")
        outside.kubectl("delete", "pod", "vip", "--ignore-not-found", "--wait=false")
        plane.kubectl("delete", "priorityclass", "important", "--ignore-not-found")
        for name in ("tight-1", "tight-2"):
            if name in cluster.nodes:
                cluster.take_away(name)


def test_what_may_never_come_is_waited_for_a_while(outside: Outside) -> None:
    one = {"min": 1, "max": 1}
    missing = outside.submit("image", workers=one, pod={"image": "registry.example/no/such:1.0"})
    entry = {"name": "credentials", "key": "password"}
    secret = outside.submit("secret", args=ENDLESS, workers=one, pod={"secretEnv": {"PASSWORD": entry}})

    # A Secret that is not there, and then it is.
    words = outside.until_told(secret, "config", 'secret "credentials" not found')
    assert words.startswith(f"{secret}-w0's pod cannot be started by its node")
    assert words in outside.job(secret)["reason"] or trains(outside.job(secret))
    outside.kubectl("create", "secret", "generic", "credentials", "--from-literal=password=x")
    outside.until_workers(secret, 1)
    assert outside.job(secret)["reason"] == ""

    # An image that nobody can pull.
    wait_until(lambda: outside.job(missing)["state"] == "failed", "the job fails", 30)
    sentence = outside.job(missing)["reason"]
    assert sentence.startswith(f"{missing}-w0's pod cannot get its image registry.example/no/such:1.0: ")
    assert sentence in outside.status(missing)
    wait_until(lambda: outside.object(missing)["status"]["state"] == "failed", "its object says so")
    assert outside.object(missing)["status"]["message"] == sentence


def test_too_much_memory_is_the_jobs_own_doing(outside: Outside) -> None:
    pod = {"resources": {"memory": "256Mi"}}
    one = {"min": 1, "max": 1}
    job = outside.submit("hungry", script="hoards.py", args=("400",), workers=one, pod=pod)
    wait_until(lambda: outside.job(job)["state"] == "failed", "the job fails", 60)
    limit = "used more memory than its limit of 256Mi: raise spec.pod.resources.memory"
    reason = outside.job(job)["reason"]
    assert limit in reason
    assert reason.endswith("before the first step, 3 times, and the job got no further: it is not tried again")
    assert [limit in words for words in outside.history(job, "agent_exited")] == [True, True]


IMPORTANT: dict[str, Any] = {
    "apiVersion": "scheduling.k8s.io/v1",
    "kind": "PriorityClass",
    "metadata": {"name": "important"},
    "value": 1000,
}


def vip(namespace: str) -> dict[str, Any]:
    """Somebody else's pod, which is worth more than a job's."""
    container = {
        "name": "main",
        "image": "busybox:test",
        "command": ["sleep", "600"],
        "resources": {"requests": {"cpu": "1"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "vip", "namespace": namespace},
        "spec": {
            "priorityClassName": "important",
            "nodeSelector": {"pool": "tight"},
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
        },
    }
