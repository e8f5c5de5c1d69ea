"""The chart's test, upgrade and uninstall, with pods that run: `helm test` trains, and jobs are taken along."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.control_plane import ControlPlane
from cluster.kubelet.cluster import Cluster
from cluster.processes import wait_until
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


def test_a_job_trains_on_over_an_upgrade_and_goes_with_the_release(platform: Platform) -> None:
    platform.install()
    platform.connect()
    before = platform.coordinator()
    arguments = ["--epochs", "4000", "--pause", "0.05"]
    job = platform.submit(SCRIPTS / "digits_slowly.py", "--workers", "2", arguments=arguments)
    platform.wait_for_workers(job, 2)
    pods = {name: pod["metadata"]["uid"] for name, pod in platform.pods(job).items()}
    policy = platform.get(f"networkpolicy/{job}")
    assert policy["spec"]["podSelector"]["matchLabels"]["cordee.dev/job"] == job

    words = ["upgrade", platform.release, str(Path(__file__).parents[2] / "helm" / "cordee"), "--reuse-values"]
    more = ["--namespace", platform.namespace, "--set", "workers.maxWorkers=9", "--wait", "--timeout", "120s"]
    platform.helm(*words, *more)
    assert platform.coordinator() != before
    step = int(platform.thing(job)["status"]["step"])
    platform.wait_for_step(job, step + 5)
    assert {name: pod["metadata"]["uid"] for name, pod in platform.pods(job).items()} == pods

    platform.helm("uninstall", platform.release, "--namespace", platform.namespace, "--timeout", "180s")
    assert not platform.pods(job)
    kinds = "trainingjobs,pods,networkpolicies,deployments,secrets,configmaps,roles,services"

    def left() -> set[str]:
        found = json.loads(platform.kubectl("get", kinds, "--output", "json"))["items"]
        return {o["metadata"]["name"] for o in found} - {"kube-root-ca.crt"}

    wait_until(lambda: not left(), "the coordinator's own pod is gone as well", 60)
