"""The control plane of these tests is alive: what tests rely on it for happens, by its own doing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.control_plane import ControlPlane
from cluster.processes import Server, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod_spec(**more: Any) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": "none",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    return {"securityContext": RESTRICTED, "containers": [container], **more}


def deployment(name: str, replicas: int, **more: Any) -> dict[str, Any]:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": pod_spec(**more)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


@pytest.fixture
def node(control_plane: ControlPlane, request: pytest.FixtureRequest) -> Any:
    """A node object, on which nothing runs."""
    name = f"node-{os.urandom(3).hex()}"
    control_plane.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"test": name}}})
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    condition = {
        "type": "Ready",
        "status": "True",
        "reason": "Test",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    status = {"capacity": {"cpu": "4", "memory": "8Gi", "pods": "20"}, "conditions": [condition]}
    code, answer = control_plane.request("PATCH", f"/api/v1/nodes/{name}/status", {"status": status})
    assert code == 200, answer
    yield name
    control_plane.kubectl("delete", "node", name)


def pods_of(plane: ControlPlane, namespace: str) -> list[Any]:
    found = plane.request("GET", f"/api/v1/namespaces/{namespace}/pods")[1]["items"]
    assert isinstance(found, list)
    return found


def test_pods_of_a_deployment_are_scheduled_and_go_with_their_owner(
    control_plane: ControlPlane, namespace: str, node: str
) -> None:
    control_plane.apply(deployment("web", 2, nodeSelector={"test": node}), namespace=namespace)

    def both_are_bound() -> bool:
        return [pod["spec"].get("nodeName") for pod in pods_of(control_plane, namespace)] == [node, node]

    wait_until(both_are_bound, "two pods on the node", 30)
    # A pod that a node might run waits for that node's word; these have none.
    control_plane.kubectl("delete", "deployment", "web", "--namespace", namespace, "--cascade=background")
    wait_until(
        lambda: all(pod["metadata"].get("deletionTimestamp") for pod in pods_of(control_plane, namespace)),
        "the garbage collector deletes what the deployment owned",
        30,
    )
    control_plane.kubectl("delete", "pods", "--all", "--namespace", namespace, "--grace-period=0", "--force")
    wait_until(lambda: not pods_of(control_plane, namespace), "no pod is left", 30)


def test_a_pod_that_is_not_restricted_is_refused(control_plane: ControlPlane, namespace: str) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "root"},
        "spec": {"containers": [{"name": "a", "image": "b"}]},
    }
    code, answer = control_plane.request("POST", f"/api/v1/namespaces/{namespace}/pods", pod)
    assert code == 403
    assert "restricted" in answer["message"]


def test_a_watch_sends_bookmarks_and_a_restart_ends_its_history(control_plane: ControlPlane, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    before = control_plane.request("GET", path)[1]["metadata"]["resourceVersion"]
    with control_plane.connection() as connection:
        # `sendInitialEvents` asks for a bookmark at once; the periodic ones come every minute.
        query = "watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
        connection.request("GET", f"{path}?{query}")
        stream = connection.getresponse()
        kinds = []
        while "BOOKMARK" not in kinds:
            kinds.append(json.loads(stream.readline())["type"])
    # What every namespace has from the beginning, then the bookmark.
    assert kinds[-1] == "BOOKMARK"
    assert set(kinds[:-1]) <= {"ADDED"}

    control_plane.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "later"}}, namespace=namespace)
    control_plane.restart_api_server()
    _, event = control_plane.request("GET", f"{path}?watch=1&resourceVersion={before}&timeoutSeconds=5")
    assert event["type"] == "ERROR"
    assert event["object"]["code"] == 410


def test_a_token_bound_to_a_pod_is_reviewed_with_its_audience(
    control_plane: ControlPlane, namespace: str, node: str
) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "worker"},
        "spec": pod_spec(nodeSelector={"test": node}),
    }
    control_plane.apply(pod, namespace=namespace)
    uid = control_plane.get("pod", "worker", "--namespace", namespace)["metadata"]["uid"]
    bound = {"kind": "Pod", "apiVersion": "v1", "name": "worker", "uid": uid}
    spec = {"audiences": ["cordee.dev/job/a"], "expirationSeconds": 600, "boundObjectRef": bound}

    def token() -> str:
        account = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
        return str(control_plane.request("POST", f"{account}/token", {"spec": spec})[1]["status"]["token"])

    def review(token: str, audience: str) -> Any:
        body = {"spec": {"token": token, "audiences": [audience]}}
        return control_plane.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body)[1]["status"]

    first, second = token(), token()
    accepted = review(first, "cordee.dev/job/a")
    assert accepted["authenticated"] is True
    assert accepted["user"]["username"] == f"system:serviceaccount:{namespace}:default"
    assert accepted["user"]["extra"]["authentication.kubernetes.io/pod-name"] == ["worker"]
    assert accepted["user"]["extra"]["authentication.kubernetes.io/pod-uid"] == [uid]
    assert not review(first, "cordee.dev/job/b").get("authenticated")
    # With its pod, a token dies; the answer about the first is remembered for ten seconds.
    control_plane.kubectl("delete", "pod", "worker", "--namespace", namespace, "--grace-period=0", "--force")
    wait_until(lambda: not review(second, "cordee.dev/job/a").get("authenticated"), "the token is worth nothing", 30)


def test_a_service_account_may_do_what_its_role_says_and_no_more(control_plane: ControlPlane, namespace: str) -> None:
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
    }
    control_plane.apply(role, binding, namespace=namespace)
    own = control_plane.kubeconfig_for_service_account(namespace, "default")
    wait_until(
        lambda: control_plane.kubectl("auth", "can-i", "list", "pods", kubeconfig=own, check=False).strip() == "yes",
        "the binding is seen",
        10,
    )
    assert control_plane.get("pods", kubeconfig=own)["items"] == []
    with pytest.raises(RuntimeError, match="forbidden"):
        control_plane.kubectl("get", "secrets", kubeconfig=own)
    with pytest.raises(RuntimeError, match="forbidden"):
        control_plane.kubectl("get", "pods", "--namespace", "kube-system", kubeconfig=own)
    stranger = control_plane.kubeconfig_for("stranger", namespace=namespace)
    with pytest.raises(RuntimeError, match=r'User "stranger" cannot list'):
        control_plane.kubectl("get", "pods", kubeconfig=stranger)


def test_a_server_dies_with_its_starter(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from cluster.processes import Server\n"
        "server = Server('sleeper', ['sleep', '600'], Path(sys.argv[1])); server.start()\n"
        "print(server.pid, flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        server = psutil.Process(int(starter.stdout.readline()))
        starter.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs([server], timeout=10)
    assert not alive


def test_a_server_that_ends_by_itself_is_reported_with_its_last_words(tmp_path: Path) -> None:
    server = Server("failing", ["sh", "-c", "echo no such thing >&2; exit 3"], tmp_path / "log")
    server.start()
    with pytest.raises(RuntimeError, match=r"failing ended with 3.*\n.*no such thing"):
        wait_until(lambda: False, "never", 10, [server])
    server.stop()


def test_two_control_planes_share_nothing(tmp_path: Path) -> None:
    one, other = ControlPlane(tmp_path / "a"), ControlPlane(tmp_path / "b")
    assert one.address != other.address
    assert one.service_range != other.service_range
    one.stop()
    other.stop()
