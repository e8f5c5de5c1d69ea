"""What `helm uninstall` takes along: jobs and pods of its release, of no other, with a coordinator or without."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.chart import CHART
from cluster.control_plane import ControlPlane
from cluster.processes import wait_until
from cordee.coordinator.config import Kubernetes
from cordee.k8s.api import MERGE_PATCH, Api
from cordee.k8s.cleanup import clean

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture
def api(control_plane: ControlPlane, namespace: str) -> Iterator[Api]:
    control_plane.apply((CHART / "files" / "crds" / "trainingjobs.yaml").read_text(encoding="utf-8"))
    control_plane.kubectl("wait", "--for=condition=Established", "crd/trainingjobs.cordee.dev", "--timeout=30s")
    it = Api.connect(Kubernetes(kubeconfig=str(control_plane.kubeconfig), namespace=namespace))
    yield it
    for job in it.request("GET", jobs_path(it))["items"]:  # or their definition would wait for them
        let_go(it, job["metadata"]["name"])
    it.close()
    control_plane.kubectl("delete", "crd", "trainingjobs.cordee.dev")


def jobs_path(api: Api) -> str:
    return f"/apis/cordee.dev/v1alpha1/namespaces/{api.namespace}/trainingjobs"


def let_go(api: Api, name: str) -> None:
    api.request("PATCH", f"{jobs_path(api)}/{name}", body={"metadata": {"finalizers": []}}, content_type=MERGE_PATCH)


def make_job(api: Api, name: str, instance: str, finalizers: tuple[str, ...] = ("cordee.dev/job",)) -> dict[str, Any]:
    labels = {"cordee.dev/coordinator": instance, "cordee.dev/job": name}
    body = {
        "apiVersion": "cordee.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name, "labels": labels, "finalizers": list(finalizers)},
        "spec": {"script": "train.py", "sourceFrom": {"configMap": "source"}},
    }
    return api.request("POST", jobs_path(api), body=body)


def make_pod(api: Api, name: str, job: str, instance: str, owner: dict[str, Any] | None) -> None:
    labels = {
        "app.kubernetes.io/managed-by": "cordee",
        "app.kubernetes.io/instance": instance,
        "cordee.dev/job": job,
    }
    secure = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    reference = owner and {
        "apiVersion": "cordee.dev/v1alpha1",
        "kind": "TrainingJob",
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
    }
    body = {
        "metadata": {"name": name, "labels": labels, "ownerReferences": [reference] if reference else []},
        "spec": {
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "worker", "image": "none", "securityContext": secure}],
        },
    }
    api.request("POST", f"/api/v1/namespaces/{api.namespace}/pods", body=body)


def make_policy(api: Api, job: str) -> None:
    body = {"metadata": {"name": job}, "spec": {"podSelector": {}}}
    api.request("POST", f"/apis/networking.k8s.io/v1/namespaces/{api.namespace}/networkpolicies", body=body)


def things(plane: ControlPlane, namespace: str) -> set[str]:
    found = plane.get("trainingjobs,pods,networkpolicies", "--namespace", namespace)["items"]
    return {f"{o['kind']}/{o['metadata']['name']}" for o in found}


def test_without_a_coordinator_it_lets_go_of_the_jobs_itself(
    api: Api, control_plane: ControlPlane, namespace: str
) -> None:
    owner = make_job(api, "a", "rel")
    make_job(api, "ended", "rel", ())
    make_job(api, "b", "other")
    make_pod(api, "a-w0", "a", "rel", owner)
    make_pod(api, "lonely-w0", "lonely", "rel", None)
    make_pod(api, "b-w0", "b", "other", None)
    for name in ("a", "lonely", "b"):
        make_policy(api, name)
    assert clean(api, "rel", seconds=0.5) == []
    left = {"TrainingJob/b", "Pod/b-w0", "NetworkPolicy/b"}
    wait_until(lambda: things(control_plane, namespace) == left, "the other release's things are left", 30)


def test_a_coordinator_that_is_there_lets_go_first(api: Api) -> None:
    make_job(api, "a", "rel")
    path = f"{jobs_path(api)}/a"

    def answer() -> None:
        wait_until(lambda: "deletionTimestamp" in api.request("GET", path)["metadata"], "it is being deleted", 30)
        let_go(api, "a")

    coordinator = threading.Thread(target=answer)
    coordinator.start()
    assert clean(api, "rel", seconds=30.0, last_seconds=0.0) == []
    coordinator.join()


def test_what_somebody_else_holds_is_named(api: Api) -> None:
    make_job(api, "a", "rel", ("cordee.dev/job", "example.org/theirs"))
    assert clean(api, "rel", seconds=0.0, last_seconds=0.0) == ["training job a"]
    assert api.request("GET", f"{jobs_path(api)}/a")["metadata"]["finalizers"] == ["example.org/theirs"]


def test_without_the_custom_resource_there_is_nothing_to_do(control_plane: ControlPlane, namespace: str) -> None:
    api = Api.connect(Kubernetes(kubeconfig=str(control_plane.kubeconfig), namespace=namespace))
    assert clean(api, "rel", seconds=0.0) == []
    api.close()
