"""The chart's test, upgrade and uninstall, with pods that run: `helm test` trains, and jobs are taken along."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.control_plane import ControlPlane
from cluster.kubelet.cluster import Cluster
from cluster.kubelet.firewall import missing as firewall_missing
from cluster.processes import wait_until
from cluster.reach import PodPlace, listener, listening, reached
from cluster.release import SCRIPTS, Platform

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def platform(cluster: Cluster, control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Platform]:
    it = Platform(control_plane, namespace, tmp_path)
    yield it
    print(it.said())
    it.close()


def test_the_charts_test_trains_behind_mutual_tls(platform: Platform) -> None:
    """Nobody comes in without a certificate, so workers and the test show theirs; probes need none."""
    platform.install(**{"tls.mutual.enabled": True, "test.workers": 2})
    said = platform.helm("test", platform.release, "--namespace", platform.namespace, "--timeout", "120s", "--logs")
    assert "Phase:          Succeeded" in said
    jobs = json.loads(platform.kubectl("get", "trainingjobs", "--output", "json"))["items"]
    assert [job["status"]["state"] for job in jobs] == ["succeeded"]
    assert jobs[0]["spec"]["workers"] == {"min": 2, "max": 2}


@pytest.fixture
def monitoring(control_plane: ControlPlane) -> Iterator[str]:
    """The namespace where the chart's defaults look for Prometheus."""
    control_plane.create_namespace("monitoring")
    yield "monitoring"
    control_plane.kubectl("delete", "namespace", "monitoring", "--wait=false")


def test_a_job_trains_behind_closed_doors_and_on_over_an_upgrade_and_goes_with_the_release(
    platform: Platform, make_namespace: Callable[..., str], monitoring: str
) -> None:
    plane, elsewhere = platform.plane, make_namespace()
    # Not even who is called as the platform's own pods are, where that is not their place.
    names = {"app.kubernetes.io/instance": platform.release, "app.kubernetes.io/name": "cordee"}
    strangers = [
        (PodPlace(platform.namespace, "stranger"), {"app": "stranger"}),
        (PodPlace(elsewhere, "impostor"), {**names, "app.kubernetes.io/component": "worker"}),
        (PodPlace(monitoring, "prometheus"), {"app": "prometheus"}),
    ]
    for pod, labels in strangers:
        plane.apply(listener(pod.name, labels), namespace=pod.namespace)
    platform.install()
    platform.connect()
    before = platform.coordinator()
    arguments = ["--epochs", "4000", "--pause", "0.05"]
    job = platform.submit(SCRIPTS / "digits_slowly.py", "--workers", "2", arguments=arguments)
    other = platform.submit(SCRIPTS / "digits_slowly.py", "--workers", "1", arguments=arguments)
    platform.wait_for_workers(job, 2)
    platform.wait_for_workers(other, 1)
    pods = {name: pod["metadata"]["uid"] for name, pod in platform.pods(job).items()}
    policy = platform.get(f"networkpolicy/{job}")
    assert policy["spec"]["podSelector"]["matchLabels"]["cordee.dev/job"] == job
    if not firewall_missing():
        check_doors(platform, [pod for pod, _ in strangers], job, other)

    words = ["upgrade", platform.release, str(Path(__file__).parents[2] / "helm" / "cordee"), "--reuse-values"]
    more = ["--namespace", platform.namespace, "--set", "workers.maxWorkers=9", "--wait", "--timeout", "120s"]
    platform.helm(*words, *more)
    assert platform.coordinator() != before
    step = int(platform.thing(job)["status"]["step"])
    platform.wait_for_step(job, step + 5)
    assert {name: pod["metadata"]["uid"] for name, pod in platform.pods(job).items()} == pods

    platform.helm("uninstall", platform.release, "--namespace", platform.namespace, "--timeout", "180s")
    assert not platform.pods(job)
    assert not platform.pods(other)
    platform.kubectl("delete", "pod", "stranger", "--wait=false")
    kinds = "trainingjobs,pods,networkpolicies,deployments,secrets,configmaps,roles,services"

    def left() -> set[str]:
        found = json.loads(platform.kubectl("get", kinds, "--output", "json"))["items"]
        return {o["metadata"]["name"] for o in found} - {"kube-root-ca.crt"}

    wait_until(lambda: not left(), "the coordinator's own pod is gone as well", 60)
    if why := firewall_missing():
        pytest.skip(f"all but who reaches whom: {why}")


def check_doors(platform: Platform, strangers: list[PodPlace], job: str, other: str) -> None:
    """With the chart's defaults: everybody tries to reach everybody else."""
    plane = platform.plane

    def service(name: str, *ports: int) -> set[tuple[str, int]]:
        return {(platform.get(f"service/{name}")["spec"]["clusterIP"], port) for port in ports}

    stranger, impostor, prometheus = strangers
    for pod in strangers:
        plane.kubectl("wait", "--for=condition=Ready", "--timeout=60s", "--namespace", pod.namespace, f"pod/{pod.name}")
    workers = [PodPlace(platform.namespace, f"{job}-w{rank}") for rank in range(2)]
    lonely = PodPlace(platform.namespace, f"{other}-w0")
    coordinator = PodPlace(platform.namespace, platform.coordinator())
    ports = {pod: listening(plane, pod) for pod in (*workers, lonely, *strangers, coordinator)}
    assert all(ports.values())
    peers = ports[workers[0]] | ports[workers[1]]
    address = coordinator.address(plane)
    doors = {(address, 8470), (address, 8471)} | service(platform.name, 8470, 8471)
    metrics = {(address, 9090)} | service(f"{platform.name}-metrics", 9090)
    assert ports[coordinator] <= doors | metrics  # there is no other
    api_server = {(plane.get("service", "kubernetes", "--namespace", "default")["spec"]["clusterIP"], 443)}
    # Who is none of ours is open to all but ours.
    open_to_all = ports[stranger] | ports[impostor] | ports[prometheus] | api_server
    expected = {
        **dict.fromkeys(workers, peers | doors),
        lonely: ports[lonely] | doors,
        coordinator: doors | metrics | api_server,
        stranger: open_to_all,
        impostor: open_to_all,
        prometheus: open_to_all | metrics,
    }
    places = set().union(*ports.values(), doors, metrics, api_server)
    found = reached(plane, places, expected)
    too_open = {(pod.name, place) for pod, wanted in expected.items() for place in found[pod] - wanted}
    too_tight = {(pod.name, place) for pod, wanted in expected.items() for place in wanted - found[pod]}
    assert (too_open, too_tight) == (set(), set())
