"""A coordinator outside the cluster, by its configuration file, whose workers are pods in it; and what pods suffer
under a real scheduler and a kubelet, as a user reads it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.certificates import Authority
from cluster.control_plane import ControlPlane
from cluster.kubelet.cluster import Cluster
from cluster.processes import Server, wait_until
from cluster.release import SCRIPTS, undisturbed

# Long: test_faults.py and test_end_to_end.py come by most of it every time.
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(300)]

DIGITS = SCRIPTS / "digits_slowly.py"
PATIENCE_SECONDS = 90.0


class Outside:
    """`cordee coordinator --config FILE` on this machine, reached from pods by the cluster network's gateway."""

    def __init__(self, plane: ControlPlane, cluster: Cluster, namespace: str, folder: Path) -> None:
        self.plane, self.namespace, self.folder = plane, namespace, folder
        host = cluster.network.gateway
        rest, grpc = _free_port(host), _free_port(host)
        authority = Authority()
        certificate, key = authority.issue("coordinator", hosts=[host]).write(folder, "tls")
        (folder / "ca.crt").write_bytes(authority.certificate)
        plane.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "authority"},
                "stringData": {"ca.crt": authority.certificate.decode()},
            },
            namespace=namespace,
        )
        # A job's own policy lets its workers reach each other; that they reach this coordinator is its owner's concern.
        spec = {
            "podSelector": {"matchLabels": {"app.kubernetes.io/component": "worker"}},
            "policyTypes": ["Egress"],
            "egress": [{"to": [{"ipBlock": {"cidr": f"{host}/32"}}], "ports": [{"port": rest}, {"port": grpc}]}],
        }
        plane.apply(
            {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "door"}, "spec": spec},
            namespace=namespace,
        )
        (folder / "token").write_text("the-administrators-token\n")
        config = {
            "apiVersion": "cordee.dev/v1alpha1",
            "kind": "CoordinatorConfig",
            "state": str(folder / "state"),
            "listen": {"host": host, "restPort": rest, "grpcPort": grpc},
            "advertise": {"rest": f"https://{host}:{rest}", "grpc": f"{host}:{grpc}"},
            "tls": {"certificate": str(certificate), "key": str(key), "authority": str(folder / "ca.crt")},
            "auth": {"tokenFile": str(folder / "token")},
            "launcher": "kubernetes",
            "kubernetes": {
                "kubeconfig": str(plane.kubeconfig),
                "namespace": namespace,
                "image": "cordee:test",
                "authority": {"name": "authority", "key": "ca.crt"},
                "customResources": False,
                "networkPolicies": True,
                "protectedSecrets": ["authority"],
            },
        }
        (folder / "coordinator.yaml").write_text(yaml.safe_dump(config))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CORDEE_")}
        self.environment = {
            **kept,
            "NO_COLOR": "1",
            "XDG_DATA_HOME": str(folder / "data"),
            "CORDEE_SERVER": f"https://{host}:{rest}",
            "CORDEE_TOKEN": "the-administrators-token",
            "CORDEE_CA": str(folder / "ca.crt"),
        }
        command = [sys.executable, "-m", "cordee.coordinator.cli", "coordinator", "--config"]
        self.server = Server("coordinator", [*command, str(folder / "coordinator.yaml")], folder / "log", kept)

    def cordee(self, *words: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "cordee.coordinator.cli", *words]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code, (
            f"cordee {' '.join(words)}\n{done.stdout}{done.stderr}{self.server.last_words()}"
        )
        return done.stdout or done.stderr

    def submit(self, workers: str = "1", pod: dict[str, Any] | None = None, epochs: int = 3, pause: float = 0.0) -> str:
        spec = {
            "script": DIGITS.name,
            "args": ["--epochs", str(epochs), "--pause", str(pause)],
            "workers": workers,
            "device": "cpu",
            "pod": pod or {},
        }
        job = {"apiVersion": "cordee.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "digits"}, "spec": spec}
        path = SCRIPTS / f"{self.namespace}.yaml"
        path.write_text(json.dumps(job))
        try:
            return str(json.loads(self.cordee("submit", str(path), "-o", "json"))["id"])
        finally:
            path.unlink()

    def status(self, job: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.cordee("status", job, "-o", "json"))
        return found

    def until(self, job: str, holds: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """The job once this is so of it."""
        seen: dict[str, Any] = {}

        def look() -> bool:
            seen.clear()
            seen.update(self.status(job))
            return holds(seen)

        try:
            wait_until(look, what, PATIENCE_SECONDS, [self.server])
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{json.dumps(seen, indent=1)}") from error
        return seen

    def told(self, job: str, kind: str) -> list[str]:
        return [event["message"] for event in self.status(job)["events"] if event["kind"] == kind]

    def pods(self) -> dict[str, Any]:
        found = self.plane.get("pods", "--namespace", self.namespace)["items"]
        return {pod["metadata"]["name"]: pod for pod in found}


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _outside(plane: ControlPlane, cluster: Cluster, namespace: str, folder: Path) -> Iterator[Outside]:
    outside = Outside(plane, cluster, namespace, folder)
    outside.server.start()
    try:
        ready = "cordee coordinator at"
        wait_until(lambda: ready in outside.server.last_words(), "the coordinator", 60, [outside.server])
        yield outside
    finally:
        outside.server.stop()
        print(outside.server.last_words(40))


@pytest.fixture
def outside(cluster: Cluster, control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Outside]:
    with _outside(control_plane, cluster, namespace, tmp_path) as found:
        yield found


def test_a_job_trains_in_three_pods_one_is_killed_and_the_weights_are_one_machines(
    outside: Outside, cluster: Cluster
) -> None:
    job = outside.submit("1:3", epochs=40, pause=0.05)
    outside.until(job, lambda seen: seen["workers"]["now"] == 3, "three workers")
    assert all(f"{job}-w{k}" in outside.pods() for k in range(3))
    generation = outside.status(job)["generation"]
    cluster.crash(outside.namespace, f"{job}-w1")
    outside.until(job, lambda seen: seen["generation"] > generation and seen["workers"]["now"] == 3, "w1 again")
    ended = outside.until(job, lambda seen: seen["state"] not in ("starting", "running", "recovering"), "the end")
    assert ended["state"] == "succeeded", ended
    assert ended["weights_sha256"] == undisturbed(DIGITS, "--epochs", "40")
    assert ended["recoveries"] >= 1
    wait_until(lambda: not outside.pods(), "no pod is left", PATIENCE_SECONDS)
    policies = ("networkpolicies", "--namespace", outside.namespace)
    wait_until(
        lambda: [found["metadata"]["name"] for found in outside.plane.get(*policies)["items"]] == ["door"],
        "no policy of the job is left",
    )


def test_what_pods_wait_for_is_read_in_the_jobs_state(outside: Outside, cluster: Cluster) -> None:
    """A scheduler that finds no room, and an image that cannot be pulled, while the rest trains."""
    job = outside.submit(pod={"resources": {"gpu": 8}})
    seen = outside.until(job, lambda seen: "waits for a node" in seen["reason"], "the scheduler's word")
    assert "Insufficient nvidia.com/gpu" in seen["reason"]
    assert seen["state"] == "starting"
    outside.cordee("cancel", job)
    cluster.fail_pulls("nowhere:1")
    job = outside.submit(pod={"image": "nowhere:1"})
    outside.until(job, lambda seen: "cannot get its image nowhere:1" in seen["reason"], "the kubelet's word")
    outside.cordee("cancel", job)
    # With room for two of three, two train, and the third is waited for by nobody.
    spread = {
        "affinity": {
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [
                    {"labelSelector": {"matchLabels": {"team": "a"}}, "topologyKey": "kubernetes.io/hostname"}
                ]
            }
        },
        "labels": {"team": "a"},
    }
    cluster.plane.kubectl("cordon", "a")
    job = outside.submit("2:3", pod=spread, epochs=20)
    ended = outside.until(job, lambda seen: seen["state"] == "succeeded", "the end")
    assert ended["weights_sha256"] == undisturbed(DIGITS, "--epochs", "20")
    assert outside.told(job, "unschedulable")


def test_memory_over_its_limit_is_said_with_the_field_that_raises_it(outside: Outside) -> None:
    job = outside.submit(pod={"resources": {"memory": "12Mi"}})
    outside.until(job, lambda _seen: bool(outside.told(job, "agent_exited")), "the first death")
    words = outside.told(job, "agent_exited")[0]
    assert re.search(r"used more memory than its limit of 12Mi: raise spec\.pod\.resources\.memory", words)
    outside.until(job, lambda seen: seen["state"] == "failed", "the end of what will never fit")


def test_what_the_platform_takes_is_replaced_at_once_and_costs_no_restarts(outside: Outside, cluster: Cluster) -> None:
    job = outside.submit("1:2", epochs=400, pause=0.05)
    outside.until(job, lambda seen: seen["workers"]["now"] == 2, "two workers")
    assert cluster.evict(outside.namespace, f"{job}-w1") == 201
    outside.until(job, lambda _seen: bool(outside.told(job, "taken")), "the eviction")
    assert "was evicted, as when a node is drained" in outside.told(job, "taken")[0]
    outside.until(job, lambda seen: seen["workers"]["now"] == 2, "two workers again")
    # A node without power: the others train on; the pod is given up, and comes up elsewhere.
    node = outside.pods()[f"{job}-w1"]["spec"]["nodeName"]
    cluster.vanish(node)
    outside.until(job, lambda _seen: len(outside.told(job, "taken")) > 1, "the loss of the node")
    outside.until(job, lambda seen: seen["workers"]["now"] == 2, "two workers, elsewhere")
    assert not outside.told(job, "agent_exited")
    outside.cordee("cancel", job)


def test_a_quota_is_waited_for_and_a_pod_that_never_can_be_fails_its_job(outside: Outside) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small"},
        "spec": {"hard": {"pods": "1"}},
    }
    outside.plane.apply(quota, namespace=outside.namespace)

    def counted() -> bool:
        return bool(
            outside.plane.get("resourcequota/small", "--namespace", outside.namespace).get("status", {}).get("hard")
        )

    wait_until(counted, "the quota is counted")
    job = outside.submit("1:2", epochs=400, pause=0.05)
    seen = outside.until(job, lambda seen: seen["state"] == "running" and "quota" in seen["reason"], "one of two")
    assert seen["reason"].startswith("trains with 1 of 2 workers; ")
    outside.plane.kubectl("delete", "resourcequota/small", "--namespace", outside.namespace)
    outside.until(job, lambda seen: seen["workers"]["now"] == 2, "two of two")
    outside.cordee("cancel", job)
    job = outside.submit(pod={"template": {"spec": {"hostnam": "x"}}})
    seen = outside.until(job, lambda seen: seen["state"] == "failed", "the refusal")
    assert 'unknown field "spec.hostnam"' in seen["reason"]


def test_what_no_pod_may_be_is_refused_at_submission(outside: Outside) -> None:
    with pytest.raises(AssertionError, match="reads authority, which is the platform's own"):
        outside.submit(pod={"envFrom": [{"secretRef": {"name": "authority"}}]})
