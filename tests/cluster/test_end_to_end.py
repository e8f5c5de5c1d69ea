"""Cordee on Kubernetes, whole: what users do, what clusters do to them, and the same weights at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.control_plane import ControlPlane
from cluster.kubelet.cluster import Cluster
from cluster.processes import wait_until
from cluster.release import SCRIPTS, Platform, undisturbed

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(400)]

DIGITS = SCRIPTS / "digits_slowly.py"


@pytest.fixture
def make_platform(
    cluster: Cluster, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> Iterator[Callable[[], Platform]]:
    """Cordee's place in a namespace that enforces `restricted` pod security; what it said is shown on a failure."""
    made: list[Platform] = []

    def make() -> Platform:
        made.append(Platform(control_plane, namespace, tmp_path))
        return made[-1]

    yield make
    for platform in made:
        print(platform.said())
        platform.close()


def test_whatever_happens_the_job_ends_with_the_weights_of_one_machine(
    make_platform: Callable[[], Platform], cluster: Cluster, control_plane: ControlPlane
) -> None:
    epochs = "90"
    wanted = undisturbed(DIGITS, "--epochs", epochs)
    platform = make_platform()
    rendered = platform.apply()
    platform.connect()
    words = ["--epochs", epochs, "--pause", "0.05", "--until-workers", "4"]
    job = platform.submit(DIGITS, "--workers", "1:3", arguments=words)
    platform.wait_for_workers(job, 3)
    pods = platform.pods(job)
    assert {pod["spec"]["automountServiceAccountToken"] for pod in pods.values()} == {False}
    owners = {reference["kind"] for pod in pods.values() for reference in pod["metadata"]["ownerReferences"]}
    assert owners == {"TrainingJob"}

    def step() -> int:
        return int(platform.thing(job)["status"]["step"])

    # Somebody deletes a pod: it leaves at a step boundary, and another one takes its place.
    platform.kubectl("delete", "pod", f"{job}-w1", "--wait=false")
    wait_until(lambda: platform.pods(job).get(f"{job}-w1", pods[f"{job}-w1"])["metadata"]["uid"]
               != pods[f"{job}-w1"]["metadata"]["uid"], "another pod for w1")  # fmt: skip
    platform.wait_for_workers(job, 3)

    # One is evicted, by the API that drains use.
    cluster.evict(platform.namespace, f"{job}-w2")
    platform.wait_for_step(job, step() + 20)
    platform.wait_for_workers(job, 3)

    # The API server is away for a while: nobody trains any slower for it.
    control_plane.restart_api_server(down_seconds=2.0)
    platform.wait_for_step(job, step() + 20)

    # The coordinator's pod is killed: training goes on, the next one finds it.
    before = platform.coordinator()
    platform.kubectl("delete", "pod", before, "--grace-period=0", "--force")
    wait_until(lambda: platform.coordinator() not in ("", before), "another coordinator")
    platform.kubectl("rollout", "status", f"deployment/{platform.name}", "--timeout=120s")
    platform.wait_for_step(job, step() + 20)
    platform.wait_for_workers(job, 3)

    # A node vanishes, with whatever ran on it.
    coordinators = platform.get(f"pod/{platform.coordinator()}")["spec"]["nodeName"]
    nodes = {name: pod["spec"]["nodeName"] for name, pod in platform.pods(job).items()}
    gone = next((node for node in nodes.values() if node != coordinators), None)
    if gone is not None:
        cluster.vanish(gone)
        platform.wait_for_step(job, step() + 20)
        wait_until(
            lambda: all(pod["spec"].get("nodeName") != gone for pod in platform.pods(job).values()),
            "no pod of the job on the lost node",
        )
    platform.wait_for_workers(job, 3)

    # A fourth one comes, for whom nobody has to be slow any more.
    platform.kubectl("scale", f"trainingjob/{job}", "--replicas=4")
    platform.cordee("wait", job, "--timeout", "50", check=False)
    wait_until(lambda: platform.thing(job)["status"]["state"] == "succeeded", "the end", 120)
    ended = platform.status(job)
    assert ended["weights_sha256"] == wanted
    assert ended["samples"] == 1797 * int(epochs)
    assert ended["recoveries"] >= 1
    told = {event["kind"] for event in ended["events"]}
    assert "world" in told
    assert json.loads(platform.cordee("jobs", "-o", "json"))

    # What it left can be had, and it leaves nothing behind.
    assert f"weights {wanted}" in platform.cordee("logs", job)
    platform.cordee("fetch", job, "--to", "fetched")
    platform.kubectl("delete", f"trainingjob/{job}")
    assert not platform.pods(job)
    control_plane.run("kubectl", "delete", "--namespace", platform.namespace, "-f", "-", stdin=rendered)


def test_a_release_goes_with_all_it_made(make_platform: Callable[[], Platform], control_plane: ControlPlane) -> None:
    platform = make_platform()
    platform.install()
    platform.connect()
    manifest = {
        "apiVersion": "cordee.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "applied"},
        "spec": {
            "script": "digits_slowly.py",
            "args": ["--epochs", "400", "--pause", "0.05"],
            "sourceFrom": {"configMap": "source"},
            "workers": {"min": 1, "max": 1},
        },
    }
    platform.kubectl("create", "configmap", "source", f"--from-file={DIGITS}")
    control_plane.apply(manifest, namespace=platform.namespace)
    platform.wait_for_workers("applied", 1)
    platform.kubectl("scale", "trainingjob/applied", "--replicas=2")
    platform.wait_for_workers("applied", 2)
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "applied"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "cordee.dev/v1alpha1", "kind": "TrainingJob", "name": "applied"},
            # Its bounds hold whatever it is measured by, and here nothing is: there is no metrics server.
            "minReplicas": 3,
            "maxReplicas": 3,
        },
    }
    control_plane.apply(autoscaler, namespace=platform.namespace)
    platform.wait_for_workers("applied", 3)
    platform.kubectl("delete", "horizontalpodautoscaler/applied")
    assert "applied" in platform.cordee("jobs")
    platform.helm("uninstall", platform.release, "--namespace", platform.namespace, "--wait", "--timeout", "120s")
    kinds = "pods,deployments,services,secrets,configmaps,networkpolicies,roles,rolebindings,serviceaccounts,leases"
    wait_until(lambda: not left(platform, kinds), "nothing left", 60)


def left(platform: Platform, kinds: str) -> set[str]:
    found = json.loads(platform.kubectl("get", kinds, "--output", "json"))["items"]
    names = {f"{item['kind']}/{item['metadata']['name']}" for item in found}
    return names - {"ConfigMap/kube-root-ca.crt", "ConfigMap/source", "ServiceAccount/default"}
