"""A coordinator beside the cluster whose workers are pods in it: ready in a second, and as patient as a test wants.

The chart's coordinator, in a pod, is `cluster.release`. This one speaks TLS to its workers as well, and knows them by
their pods' tokens.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from cluster.control_plane import ControlPlane
from cluster.kubelet.cluster import Cluster
from cluster.kubelet.images import CORDEE
from cluster.processes import Server, wait_until
from cluster.release import SCRIPTS
from cordee.coordinator.bundle import pack_files
from cordee.coordinator.client import Client, read_endpoint
from cordee.coordinator.views import TERMINAL_STATES, JobView
from cordee.k8s.crd import GROUP, PLURAL, VERSION

__all__ = ["Outside"]

_CRD: Final = Path(__file__).parents[2] / "helm" / "cordee" / "files" / "crds" / "trainingjobs.yaml"
_PATIENCE: Final = 90.0


class Outside:
    """One coordinator and its namespace, in which `restricted` pod security is enforced."""

    def __init__(self, cluster: Cluster, folder: Path, *, doubt_seconds: float) -> None:
        self.plane: ControlPlane = cluster.plane
        self.namespace = f"faults-{uuid.uuid4().hex[:8]}"
        self.plane.create_namespace(self.namespace, {"pod-security.kubernetes.io/enforce": "restricted"})
        self.plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(_CRD))
        self.plane.kubectl("wait", "--for=condition=Established", f"crd/{PLURAL}.{GROUP}", "--timeout=30s")
        self._state = folder / "state"
        authority = folder / "ca.crt"
        authority.write_bytes(self.plane.authority.certificate)
        self.kubectl("create", "secret", "generic", "authority", f"--from-file=ca.crt={authority}")
        host = cluster.network.gateway
        certificate, key = self.plane.authority.issue("coordinator", hosts=[host]).write(folder, "coordinator")
        config = {
            "apiVersion": "cordee.dev/v1alpha1",
            "kind": "CoordinatorConfig",
            "state": str(self._state),
            "listen": {"host": host},
            "launcher": "kubernetes",
            "tls": {"certificate": str(certificate), "key": str(key), "authority": str(authority)},
            "kubernetes": {
                "kubeconfig": str(self.plane.kubeconfig),
                "namespace": self.namespace,
                "image": CORDEE,
                "authority": {"name": "authority", "key": "ca.crt"},
            },
        }
        file = folder / "coordinator.yaml"
        file.write_text(json.dumps(config))
        script = str(Path(__file__).with_name("pod_coordinator.py"))
        command = [sys.executable, script, str(file), str(doubt_seconds)]
        self.coordinator = Server("coordinator", command, folder / "coordinator.log")
        self.coordinator.start()
        wait_until(self._answers, "the coordinator answers", watched=[self.coordinator])

    def _answers(self) -> bool:
        endpoint = read_endpoint(self._state)
        if endpoint is None:
            return False
        with Client(endpoint) as client:
            return client.is_alive()

    def close(self) -> None:
        self.coordinator.stop()
        self.plane.kubectl("delete", "namespace", self.namespace, "--wait=false")

    # -- jobs

    def client(self) -> Client:
        endpoint = read_endpoint(self._state)
        assert endpoint is not None
        return Client(endpoint)

    def submit(self, name: str, *, script: str = "digits_slowly.py", args: tuple[str, ...] = (), **spec: Any) -> str:
        """The job's id."""
        bundle = pack_files({script: (SCRIPTS / script).read_bytes()})
        document = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "TrainingJob",
            "metadata": {"name": name},
            "spec": {"script": script, "args": list(args), **spec},
        }
        with self.client() as client:
            return client.submit(document, bundle.data, bundle.sha256)["id"]

    def job(self, job: str) -> JobView:
        with self.client() as client:
            return client.job(job)

    def status(self, job: str) -> str:
        """What `cordee status` prints."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CORDEE_")}
        command = [sys.executable, "-m", "cordee.coordinator.cli", "status", job, "--state", str(self._state)]
        done = subprocess.run(
            command, env={**environment, "NO_COLOR": "1"}, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def history(self, job: str, kind: str | None = None) -> list[str]:
        """The sentences of the job's history, all or of one kind."""
        return [event["message"] for event in self.job(job)["events"] if kind in (None, event["kind"])]

    def until(self, job: str, holds: Callable[[JobView], object], what: str, seconds: float = _PATIENCE) -> JobView:
        """The job, once this holds of it."""
        seen: list[JobView] = []

        def check() -> bool:
            seen[:] = [self.job(job)]
            if holds(seen[0]):
                return True
            over = seen[0]["state"] in TERMINAL_STATES
            assert not over, f"{what}: the job has ended: {seen[0]['state']}: {seen[0]['reason']}"
            return False

        try:
            wait_until(check, what, seconds, watched=[self.coordinator])
        except TimeoutError as error:
            told = "\n".join(f"{event['kind']}: {event['message']}" for event in seen[0]["events"])
            raise TimeoutError(f"{error}\n{seen[0]['state']}: {seen[0]['reason']}\n{told}") from None
        return seen[0]

    def until_workers(self, job: str, count: int) -> JobView:
        """The job, once so many workers train."""
        return self.until(job, lambda view: trains(view) == count, f"{count} workers of {job} train")

    def until_further(self, job: str, steps: int = 10) -> JobView:
        """The job, so many steps later."""
        wanted = self.job(job)["step"] + steps
        return self.until(job, lambda view: view["step"] >= wanted, f"{job} goes on")

    def until_told(self, job: str, kind: str, *words: str) -> str:
        """The first sentence of this kind in the job's history with all these words in it."""

        def found() -> list[str]:
            return [text for text in self.history(job, kind) if all(word in text for word in words)]

        self.until(job, lambda _: found(), f"'{kind}' is told of {job}, with {words}")
        return found()[0]

    def until_reason(self, job: str, *words: str) -> JobView:
        """The job, once its reason has all these words in it."""
        return self.until(job, lambda view: all(word in view["reason"] for word in words), f"{job} says {words}")

    def clear(self) -> None:
        """No job any more, and none of its pods."""
        self.kubectl("delete", PLURAL, "--all", "--timeout=60s")
        wait_until(lambda: not self.pods(), "no pod is left")

    # -- the cluster

    def kubectl(self, *words: str) -> str:
        return self.plane.kubectl(*words, "--namespace", self.namespace)

    def apply(self, thing: Mapping[str, Any]) -> None:
        self.plane.apply(dict(thing), namespace=self.namespace)

    def object(self, job: str) -> Any:
        """The job's TrainingJob."""
        path = f"/apis/{GROUP}/{VERSION}/namespaces/{self.namespace}/{PLURAL}/{job}"
        status, answer = self.plane.request("GET", path)
        assert status == 200, answer
        return answer

    def pods(self, job: str | None = None) -> dict[str, Any]:
        """The pods of a job, or of all, by name."""
        label = "cordee.dev/job" if job is None else f"cordee.dev/job={job}"
        path = f"/api/v1/namespaces/{self.namespace}/pods?labelSelector={label}"
        status, answer = self.plane.request("GET", path)
        assert status == 200, answer
        return {pod["metadata"]["name"]: pod for pod in answer["items"]}

    def node(self, pod: str) -> str:
        """Where a pod runs."""
        return str(self.plane.get("pod", pod, "--namespace", self.namespace)["spec"]["nodeName"])


def trains(view: JobView) -> int:
    """How many workers train in the job's present world."""
    return view["workers"]["now"] if view["state"] == "running" else 0
