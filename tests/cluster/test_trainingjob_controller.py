"""Jobs by kubectl and by cordee are the same jobs: a real API server, a real coordinator, workers that really train.

The coordinator is a process beside the cluster and its agents are processes, too, so that nothing here needs a node. It
has no more rights than the chart gives it.
"""

from __future__ import annotations

import json
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.control_plane import ControlPlane
from cluster.processes import Server, wait_until
from cordee.coordinator.bundle import pack_files
from cordee.coordinator.client import Client, read_endpoint
from cordee.coordinator.views import JobView
from cordee.k8s.crd import GROUP, PLURAL, VERSION

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
CRD = ROOT / "helm" / "cordee" / "files" / "crds" / "trainingjobs.yaml"
DIGITS = (ROOT / "examples" / "digits.py").read_text(encoding="utf-8")
RIGHTS = [
    {"apiGroups": [GROUP], "resources": [PLURAL], "verbs": ["get", "list", "watch", "create", "patch", "delete"]},
    {"apiGroups": [GROUP], "resources": [f"{PLURAL}/status"], "verbs": ["patch"]},
    {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
    {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]},
]


class Cluster:
    """A namespace with TrainingJobs in it, and the coordinator that looks after them."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.plane = plane
        self.namespace = f"jobs-{uuid.uuid4().hex[:8]}"
        self.state = folder / "state"
        plane.create_namespace(self.namespace)
        user = f"coordinator-{self.namespace}"
        rbac = "rbac.authorization.k8s.io"
        plane.apply(
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "Role",
                "metadata": {"name": "coordinator", "namespace": self.namespace},
                "rules": RIGHTS,
            },
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "RoleBinding",
                "metadata": {"name": "coordinator", "namespace": self.namespace},
                "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "coordinator"},
                "subjects": [{"kind": "User", "name": user, "apiGroup": rbac}],
            },
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "code", "namespace": self.namespace},
                "data": {"digits.py": DIGITS},
            },
        )
        script = str(Path(__file__).with_name("object_coordinator.py"))
        kubeconfig = str(plane.kubeconfig_for(user))
        command = [sys.executable, script, str(self.state), kubeconfig, self.namespace]
        self.coordinator = Server("coordinator", command, folder / "coordinator.log")

    def start(self) -> None:
        """Start the coordinator, and wait until it answers."""
        self.coordinator.start()
        wait_until(self._answers, "the coordinator does not answer", watched=[self.coordinator])

    def _answers(self) -> bool:
        endpoint = read_endpoint(self.state)
        if endpoint is None:
            return False
        with Client(endpoint) as client:
            return client.is_alive()

    def client(self) -> Client:
        endpoint = read_endpoint(self.state)
        assert endpoint is not None
        return Client(endpoint)

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        return self.plane.kubectl("--namespace", self.namespace, *words, stdin=stdin)

    def apply(self, name: str, *, epochs: int = 3, **spec: Any) -> str:
        """`kubectl apply` a job whose source is the ConfigMap."""
        return self.kubectl("apply", "-f", "-", stdin=json.dumps(job(name, epochs=epochs, **spec)))

    def read(self, name: str) -> dict[str, Any]:
        status, answer = self.plane.request("GET", self.path(name))
        assert status == 200, answer
        return dict(answer)

    def warned(self, name: str, reason: str) -> str:
        """The types of an object's events for a reason."""
        about = f"--field-selector=involvedObject.name={name},reason={reason}"
        return self.kubectl("get", "events", about, "--output=jsonpath={.items[*].type}")

    def path(self, name: str) -> str:
        return f"/apis/{GROUP}/{VERSION}/namespaces/{self.namespace}/{PLURAL}/{name}"

    def exists(self, name: str) -> bool:
        return bool(self.plane.request("GET", self.path(name))[0] == 200)

    def until(self, condition: Callable[[], bool], complaint: str, seconds: float = 60.0) -> None:
        def holds() -> bool:
            if condition():
                return True
            time.sleep(0.2)  # each question is a connection of its own
            return False

        wait_until(holds, complaint, timeout_seconds=seconds, watched=[self.coordinator])

    def until_status(self, name: str, condition: Callable[[dict[str, Any]], bool], seconds: float = 60.0) -> None:
        def holds() -> bool:
            return condition(self.read(name).get("status", {}))

        self.until(holds, f"the status of {name} does not come to it", seconds)

    def submit(self, *, epochs: int = 3, workers: tuple[int, int] = (1, 2)) -> JobView:
        """A job over REST, as `cordee submit` sends it."""
        bundle = pack_files({"digits.py": DIGITS.encode()})
        document = job("digits", epochs=epochs, workers={"min": workers[0], "max": workers[1]})
        del document["spec"]["sourceFrom"]
        with self.client() as client:
            return client.submit(document, bundle.data, bundle.sha256)

    def job(self, ref: str) -> JobView:
        with self.client() as client:
            return client.job(ref)


def job(name: str, *, epochs: int = 3, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": {
            "script": "digits.py",
            "args": ["--epochs", str(epochs)],
            "workers": {"min": 1, "max": 2},
            "sourceFrom": {"configMap": "code"},
            **spec,
        },
    }


@pytest.fixture(scope="module")
def home(api_server: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    api_server.kubectl("apply", "--server-side", "-f", str(CRD))
    api_server.kubectl("wait", "--for=condition=Established", f"crd/{PLURAL}.{GROUP}", "--timeout=30s")
    cluster = Cluster(api_server, tmp_path_factory.mktemp("coordinator"))
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.coordinator.stop()


@pytest.fixture
def cluster(home: Cluster) -> Iterator[Cluster]:
    """The coordinator and its namespace; no job of a test is left to the next one."""
    try:
        yield home
    finally:
        print(home.coordinator.last_words(40))
        if home.coordinator.pid is None:
            home.start()
        home.kubectl("delete", "tj", "--all", "--timeout=60s")
        home.until(lambda: not agents(home.state), "agents are left")


def agents(state: Path) -> list[int]:
    from cordee.coordinator.service.launchers.process import living_agents

    return list(living_agents(state))


def test_kubectl_makes_a_job_sees_it_end_and_deletes_it(cluster: Cluster) -> None:
    cluster.apply("digits")
    cluster.kubectl("wait", "--for=condition=Succeeded", "tj/digits", "--timeout=90s")
    thing = cluster.read("digits")
    status = thing["status"]
    mine = cluster.job("digits")
    assert (status["jobId"], status["weightsSha256"]) == (mine["id"], mine["weights_sha256"])
    assert status["state"] == mine["state"] == "succeeded"
    assert status["step"] == status["stepsTotal"] == mine["step"]
    assert status["observedGeneration"] == thing["metadata"]["generation"]
    assert status["finishedAt"] >= status["startedAt"]
    cluster.until(lambda: "finalizers" not in cluster.read("digits")["metadata"], "it cannot be deleted without us")
    told = cluster.kubectl("describe", "tj", "digits")
    assert "cordee.dev/coordinator" in told
    assert "digits.py, 1:2 workers by the object digits" in told
    assert told.count("generation 1 (start)") == 1
    cluster.until(lambda: cluster.warned("digits", "Succeeded") == "Normal", "nobody tells of its end")
    cluster.kubectl("delete", "tj", "digits", "--timeout=30s")
    assert cluster.job(mine["id"])["weights_sha256"] == mine["weights_sha256"], "nothing is lost"


def test_a_job_over_rest_is_an_object_and_ends_with_the_same_weights_as_one_by_kubectl(cluster: Cluster) -> None:
    submitted = cluster.submit(workers=(1, 1))
    name = submitted["id"]
    cluster.until(lambda: cluster.exists(name), "the job has no object")
    thing = cluster.read(name)
    assert thing["metadata"]["labels"]["cordee.dev/job"] == name
    assert thing["spec"]["sourceFrom"]["bundle"] == pack_files({"digits.py": DIGITS.encode()}).sha256
    cluster.apply("twin", workers={"min": 1, "max": 2})
    cluster.kubectl("wait", "--for=condition=Succeeded", f"tj/{name}", "tj/twin", "--timeout=90s")
    assert cluster.read("twin")["status"]["weightsSha256"] == cluster.read(name)["status"]["weightsSha256"]
    with cluster.client() as client:
        assert {one["name"] for one in client.jobs()} >= {"digits", "twin"}
    again = cluster.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(job("third")))
    version = cluster.read("third")["metadata"]["generation"]
    assert again == cluster.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(job("third")))
    assert cluster.read("third")["metadata"]["generation"] == version


def test_workers_are_changed_from_both_sides_and_a_deletion_cancels(cluster: Cluster) -> None:
    cluster.apply("wide", epochs=2000, workers={"min": 1, "max": 1})
    cluster.until_status("wide", lambda status: status.get("workers", {}).get("running") == 1)
    cluster.kubectl("scale", "tj/wide", "--replicas=2")
    cluster.until_status("wide", lambda status: status["workers"]["running"] == 2)
    assert cluster.job("wide")["workers"]["max"] == 2
    with cluster.client() as client:
        client.scale("wide", 1, 3)
    cluster.until(lambda: cluster.read("wide")["spec"]["workers"]["max"] == 3, "the object does not follow")
    cluster.until_status("wide", lambda status: status["observedGeneration"] == 3)
    cluster.until_status("wide", lambda status: status["workers"]["running"] == 3)
    assert cluster.read("wide")["metadata"]["generation"] == 3, "an echo of an echo"
    assert {member["state"] for member in cluster.read("wide")["status"]["members"]} == {"training"}

    cluster.kubectl("patch", "tj", "wide", "--type=merge", "-p", '{"spec": {"workers": {"min": 9, "max": 9}}}')
    cluster.until_status("wide", lambda status: status["observedGeneration"] == 4)
    assert cluster.job("wide")["workers"]["max"] == 3
    cluster.until(
        lambda: "this coordinator runs 8 workers at most" in cluster.kubectl("describe", "tj", "wide"),
        "nobody says why the range was refused",
    )
    cluster.kubectl("delete", "tj", "wide", "--timeout=60s")
    ended = cluster.job("wide")
    assert (ended["state"], ended["reason"]) == ("cancelled", "cancelled by the deletion of its TrainingJob object")
    assert not agents(cluster.state), "its agents went before it"


def test_a_job_that_cordee_cancels_says_so_and_one_that_it_removes_takes_its_object_along(cluster: Cluster) -> None:
    submitted = cluster.submit(epochs=2000)
    name = submitted["id"]
    cluster.until(lambda: cluster.exists(name), "the job has no object")
    with cluster.client() as client:
        client.cancel(name)
    cluster.until_status(name, lambda status: status.get("state") == "cancelled")
    conditions = {each["type"]: each["status"] for each in cluster.read(name)["status"]["conditions"]}
    assert (conditions["Succeeded"], conditions["Failed"], conditions["Stalled"]) == ("False", "False", "True")
    cluster.until(lambda: "finalizers" not in cluster.read(name)["metadata"], "its agents do not go")
    with cluster.client() as client:
        client.delete(name)
    cluster.until(lambda: not cluster.exists(name), "its object does not go")


def test_neither_the_api_server_nor_the_coordinator_is_needed_for_training(cluster: Cluster) -> None:
    cluster.apply("lasting", epochs=4000)
    cluster.until_status("lasting", lambda status: status.get("state") == "running")
    before = cluster.read("lasting")["status"]
    cluster.plane.restart_api_server(down_seconds=2.0, kill=True)
    cluster.until_status("lasting", lambda status: status["step"] > before["step"])
    cluster.coordinator.stop(signal.SIGKILL)
    cluster.kubectl("scale", "tj/lasting", "--replicas=3")
    alone = cluster.read("lasting")["status"]
    cluster.start()
    cluster.until_status("lasting", lambda status: status["workers"]["max"] == 3 and status["step"] > alone["step"])
    after = cluster.read("lasting")["status"]
    assert (after["jobId"], after["recoveries"], after["startedAt"]) == (before["jobId"], 0, before["startedAt"])
    with cluster.client() as client:
        assert [one["id"] for one in client.jobs() if one["name"] == "lasting"] == [before["jobId"]]
    assert cluster.kubectl("describe", "tj", "lasting").count("generation 1 (start)") == 1


def test_what_cannot_be_a_job_says_why_and_what_comes_late_is_waited_for(cluster: Cluster) -> None:
    long = job("n" * 44, sourceFrom={"image": {"path": "/workspace"}})
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(long))
    cluster.apply("late", sourceFrom={"configMap": "later"})
    cluster.until_status("n" * 44, lambda status: "conditions" in status)
    accepted = next(each for each in cluster.read("n" * 44)["status"]["conditions"] if each["type"] == "Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "Invalid")
    assert "a name is 1 to 40 lower-case letters" in accepted["message"]
    assert cluster.read("n" * 44)["status"]["state"] == "failed"
    cluster.until_status("late", lambda status: status.get("reason") == "SourceMissing")
    assert cluster.warned("late", "SourceMissing") == cluster.warned("n" * 44, "Invalid") == "Warning"
    cluster.kubectl("create", "configmap", "later", f"--from-literal=digits.py={DIGITS}")
    cluster.kubectl("wait", "--for=condition=Succeeded", "tj/late", "--timeout=90s")
    cluster.kubectl("delete", "tj", "--all", "--timeout=30s")


def test_an_ended_jobs_object_goes_by_itself(cluster: Cluster) -> None:
    cluster.apply("brief", epochs=1, ttlSecondsAfterFinished=1)
    cluster.until(lambda: not cluster.exists("brief"), "it stays")
    assert cluster.job("brief")["state"] == "succeeded"


def test_a_namespace_that_is_deleted_does_not_wait_for_a_coordinator_that_has_gone(
    api_server: ControlPlane, home: Cluster, tmp_path: Path
) -> None:
    """There is no controller of namespaces here, so that the order is this test's: coordinator first, jobs later."""
    del home  # the definition is there
    mine = Cluster(api_server, tmp_path)
    mine.start()
    try:
        mine.apply("training", epochs=4000)
        mine.until_status("training", lambda status: status.get("state") == "running")
        api_server.kubectl("delete", "namespace", mine.namespace, "--wait=false")
        began = time.monotonic()
        mine.coordinator.stop()
        assert time.monotonic() - began < 30.0
        assert "finalizers" not in mine.read("training")["metadata"]
        api_server.kubectl("--namespace", mine.namespace, "delete", "tj", "training", "--timeout=20s")
        mine.start()
        mine.until(lambda: not agents(mine.state), "the job goes on without its object")
    finally:
        mine.coordinator.stop()
