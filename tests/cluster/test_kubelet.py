"""The test kubelet, by what a user of a real cluster would see of it."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.kubelet.cluster import SHELL, Cluster
from cluster.processes import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod(name: str, script: str, **spec: Any) -> dict[str, Any]:
    """A pod of one container that runs a shell script, and meets the `restricted` standard."""
    container = {"name": "main", "image": SHELL, "command": ["sh", "-c", script], "securityContext": RESTRICTED}
    container |= spec.pop("container", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 5, **spec, "containers": [container]},
    }


class Pods:
    """The pods of one namespace."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.plane, self.namespace = cluster.plane, namespace

    def apply(self, *objects: dict[str, Any]) -> None:
        self.plane.apply(*objects, namespace=self.namespace)

    def get(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.plane.get("pod", name, "--namespace", self.namespace)
        return found

    def logs(self, name: str, *arguments: str) -> str:
        return self.plane.kubectl("logs", name, "--namespace", self.namespace, *arguments)

    def wait_phase(self, name: str, *phases: str) -> dict[str, Any]:
        wait_until(lambda: self.get(name)["status"]["phase"] in phases, f"pod {name} is not {' or '.join(phases)}")
        return self.get(name)


@pytest.fixture
def pods(cluster: Cluster, namespace: str) -> Pods:
    return Pods(cluster, namespace)


def test_a_container_is_what_its_security_context_says(pods: Pods) -> None:
    script = "id -u; grep CapEff /proc/self/status; touch /etc/x 2>/dev/null || echo no; touch /data/x && echo yes"
    volumes = {"volumes": [{"name": "data", "emptyDir": {}}]}
    mounts = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    pods.apply(pod("one", script, container=mounts, **volumes))
    assert pods.wait_phase("one", "Succeeded", "Failed")["status"]["phase"] == "Succeeded"
    lines = pods.logs("one").splitlines()
    assert lines == ["65532", "CapEff:\t0000000000000000", "no", "yes"]
