"""The test kubelet, by what a user of a real cluster would see of it."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
from typing import Any

import pytest

from cluster import binaries
from cluster.kubelet import firewall
from cluster.kubelet.cluster import SHELL, Cluster
from cluster.kubelet.images import CORDEE
from cluster.processes import wait_until

# Long: what it does day by day is done by every test that trains in pods.
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(180)]

RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
# Answers with its pod's name; /ready says whether it wants to.
SERVER = """
import http.server, os, socket
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if self.path == "/ready" and os.path.exists("/data/away") else 200)
        self.end_headers()
        self.wfile.write(socket.gethostname().encode())
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""


def template(script: str, **spec: Any) -> dict[str, Any]:
    """A pod's spec: one container that runs a shell script, and meets the `restricted` standard."""
    container = {"name": "main", "image": SHELL, "command": ["sh", "-c", script], "securityContext": RESTRICTED}
    container |= spec.pop("container", {})
    return {"terminationGracePeriodSeconds": 5, **spec, "containers": [container]}


def pod(name: str, script: str, **spec: Any) -> dict[str, Any]:
    meta = {"name": name, "labels": {"app": name}, "annotations": {"note": "a word"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta,
        "spec": template(script, **{"restartPolicy": "Never", **spec}),
    }


def volume(name: str, path: str, **source: Any) -> dict[str, Any]:
    """A volume, and the container that mounts it."""
    return {
        "volumes": [{"name": name, **source}],
        "container": {"volumeMounts": [{"name": name, "mountPath": path}]},
    }


class Pods:
    """The pods of one namespace."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.plane, self.namespace = cluster.plane, namespace

    def kubectl(self, *arguments: str) -> str:
        return self.plane.kubectl("--namespace", self.namespace, *arguments)

    def apply(self, *objects: dict[str, Any]) -> None:
        self.plane.apply(*objects, namespace=self.namespace)

    def get(self, name: str, kind: str = "pod") -> dict[str, Any]:
        found: dict[str, Any] = self.plane.get(kind, name, "--namespace", self.namespace)
        return found

    def names(self, selector: str) -> list[str]:
        found = self.plane.get("pods", "--namespace", self.namespace, "-l", selector)
        return [item["metadata"]["name"] for item in found["items"]]

    def state(self, name: str) -> dict[str, Any]:
        """Of the first container."""
        statuses = self.get(name)["status"].get("containerStatuses") or [{}]
        return dict(statuses[0])

    def reason(self, name: str) -> str:
        """Why the first container waits."""
        return str(self.state(name).get("state", {}).get("waiting", {}).get("reason", ""))

    def logs(self, name: str, *arguments: str) -> str:
        return self.kubectl("logs", name, *arguments)

    def finish(self, *names: str) -> None:
        for name in names:
            try:
                wait_until(
                    lambda name=name: self.get(name)["status"]["phase"] == "Succeeded", f"{name} is not done", 40
                )
            except TimeoutError as error:
                raise TimeoutError(f"{error}\n{self.kubectl('describe', 'pod', name)}") from None

    def running(self, name: str) -> None:
        wait_until(lambda: "running" in self.state(name).get("state", {}), f"{name} does not run")

    def exists(self, name: str) -> bool:
        return self.plane.request("GET", f"/api/v1/namespaces/{self.namespace}/pods/{name}")[0] == 200


@pytest.fixture
def pods(cluster: Cluster, namespace: str) -> Pods:
    return Pods(cluster, namespace)


def test_a_container_is_what_its_security_context_says(pods: Pods) -> None:
    script = """
        id -u; grep -E 'CapEff|SigBlk|SigIgn' /proc/self/status
        touch /etc/x 2>/dev/null || echo no; touch /data/x && echo yes
    """
    pods.apply(pod("one", script, **volume("data", "/data", emptyDir={})))
    pods.finish("one")
    nothing = "0" * 16
    kept = [f"SigBlk:\t{nothing}", f"SigIgn:\t{nothing}", f"CapEff:\t{nothing}"]
    assert pods.logs("one").splitlines() == ["65532", *kept, "no", "yes"]


def test_this_checkout_s_image_runs_on_a_read_only_root_without_rights(pods: Pods) -> None:
    image = {"image": CORDEE, "command": None, "args": ["--version"]}
    pods.apply(pod("one", "", container=image))
    pods.finish("one")
    assert pods.logs("one").startswith("cordee ")


def test_environment_and_downward_api(pods: Pods) -> None:
    pods.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"A": "1", "B": "2"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"password": "secret"}},
    )
    env = [
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "password"}}},
        {"name": "URL", "value": "http://$(LABEL):$(FROM_A)/$(NONE)/$$(LABEL)"},
    ]
    container = {
        "env": env,
        "envFrom": [{"configMapRef": {"name": "c"}, "prefix": "FROM_"}],
        "resources": {"limits": {"memory": "64Mi"}},
    }
    pods.apply(pod("one", 'echo "$IP $LABEL $MEMORY $PASSWORD $URL $FROM_B"; cat /etc/hostname', container=container))
    pods.finish("one")
    address = pods.get("one")["status"]["podIP"]
    assert pods.logs("one").splitlines() == [f"{address} one 64 secret http://one:1/$(NONE)/$(LABEL) 2", "one"]


def test_secrets_and_tokens_are_mounted_and_renewed(pods: Pods) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"key": "old"}}
    pods.apply(secret)
    sources = [
        {"serviceAccountToken": {"path": "token", "audience": "somebody", "expirationSeconds": 600}},
        {"secret": {"name": "s", "items": [{"key": "key", "path": "deep/key"}]}},
        {"secret": {"name": "missing", "optional": True}},
        {"downwardAPI": {"items": [{"path": "note", "fieldRef": {"fieldPath": "metadata.annotations['note']"}}]}},
    ]
    script = """
        cd /identity; for word in "$(echo *)" "$(stat -L -c '%a %u %g' token)" "$(cat note)" "$(cat token)" ready
        do echo "$word"; done
        while [ "$(cat deep/key)" = old ]; do sleep 0.1; done; cat deep/key
    """
    one = volume("identity", "/identity", projected={"sources": sources, "defaultMode": 0o400})
    pods.apply(pod("one", script, securityContext={"fsGroup": 4242}, **one))
    pods.running("one")
    wait_until(lambda: "ready" in pods.logs("one"), "the pod does not see its volume")
    pods.apply({**secret, "stringData": {"key": "new"}})
    pods.finish("one")
    names, mode, note, token, _, key = pods.logs("one").splitlines()
    assert (names, mode, note, key) == ("deep note token", "640 65532 4242", "a word", "new")
    claims = token.split(".")[1]
    body = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    assert body["aud"] == ["somebody"]
    assert body["kubernetes.io"]["pod"]["name"] == "one"


def test_a_pod_reaches_the_api_server_as_its_service_account(pods: Pods) -> None:
    script = """
import ssl, urllib.error, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount/"
context = ssl.create_default_context(cafile=folder + "ca.crt")
headers = {"Authorization": "Bearer " + open(folder + "token").read()}
try:
    request = urllib.request.Request("https://kubernetes.default.svc/api/v1/pods", headers=headers)
    urllib.request.urlopen(request, context=context)
except urllib.error.HTTPError as error:
    print(error.read().decode())
"""
    pods.apply(pod("one", "", container={"image": CORDEE, "command": ["python", "-c", script]}))
    pods.finish("one")
    assert f"system:serviceaccount:{pods.namespace}:default" in pods.logs("one")


def test_a_service_leads_to_ready_pods_by_its_name(pods: Pods) -> None:
    probe = {"httpGet": {"path": "/ready", "port": "web"}, "periodSeconds": 1, "failureThreshold": 1}
    container = {
        "image": CORDEE,
        "command": ["python", "-c", SERVER],
        "ports": [{"name": "web", "containerPort": 8080}],
        "readinessProbe": probe,
        "startupProbe": {**probe, "failureThreshold": 30},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    labels = {"app": "web"}
    # A first process without a handler is deaf to SIGTERM, here as in every container.
    spec = template(
        "", container=container, volumes=[{"name": "data", "emptyDir": {}}], terminationGracePeriodSeconds=1
    )
    pods.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web"},
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": "web"}]},
        },
    )
    pods.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    first, second = pods.names("app=web")
    client = """
import http.client, sys, time
while True:
    try:
        connection = http.client.HTTPConnection(sys.argv[1], 80, timeout=5)
        connection.request("GET", "/")
        print(connection.getresponse().read().decode(), flush=True)
    except OSError as error:
        print(repr(error), flush=True)
    time.sleep(0.05)
"""
    name = f"web.{pods.namespace}.svc"
    pods.apply(pod("client", "", container={"image": CORDEE, "command": ["python", "-c", client, name]}))
    pods.running("client")
    wait_until(lambda: set(pods.logs("client", "--tail=20").split()) == {first, second}, "not both pods answer")
    # By kubectl, too: what a user would do to look into it.
    pods.kubectl("exec", first, "--", "touch", "/data/away")
    wait_until(lambda: set(pods.logs("client", "--tail=20").split()) == {second}, "the unready pod still answers")
    assert pods.get(first)["status"]["phase"] == "Running"
    pods.kubectl("scale", "deployment/web", "--replicas=0")
    wait_until(lambda: "Error" in pods.logs("client", "--tail=1"), "somebody still answers")


@pytest.mark.skipif(firewall.missing() is not None, reason=str(firewall.missing()))
def test_a_pod_is_closed_from_its_first_moment_and_by_its_labels_of_now(pods: Pods) -> None:
    """A policy that was there before the pod is in force before its first word; a later one, and labels, soon."""
    closed = {"podSelector": {"matchExpressions": [{"key": "open", "operator": "DoesNotExist"}]},
              "policyTypes": ["Egress"]}  # fmt: skip
    ask = """
import itertools, socket, sys
for number in itertools.count():
    try:
        socket.create_connection((sys.argv[1], 8080), timeout=0.3).close()
        print(number, "reached", flush=True)
    except TimeoutError:
        print(number, "silence", flush=True)
"""
    server = pod("server", "", container={"image": CORDEE, "command": ["python", "-c", SERVER]})
    server["metadata"]["labels"]["open"] = "yes"
    pods.apply(server)
    pods.running("server")
    address = pods.get("server")["status"]["podIP"]
    wait_until(lambda: _answers(address), "the server does not answer")
    client = pod("client", "", container={"image": CORDEE, "command": ["python", "-c", ask, address]})
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": closed}
    pods.apply(policy, client)
    pods.running("client")
    wait_until(lambda: "1 silence" in pods.logs("client"), "nothing was tried")
    assert "reached" not in pods.logs("client")
    for change, word in (
        (("label", "pod", "client", "open=yes"), "reached"),
        (("label", "pod", "client", "open-"), "silence"),
        (("delete", "networkpolicy", "p"), "reached"),
    ):
        pods.kubectl(*change)
        wait_until(lambda word=word: word in pods.logs("client", "--tail=1"), f"{change}: no {word}")


def test_restarts_back_off_and_are_counted(pods: Pods) -> None:
    script = "echo run >> /data/runs; echo attempt $(wc -l < /data/runs); test $(wc -l < /data/runs) -ge 3"
    pods.apply(pod("one", script, restartPolicy="OnFailure", **volume("data", "/data", emptyDir={})))
    wait_until(lambda: pods.reason("one") == "CrashLoopBackOff", "no back-off")
    pods.finish("one")
    state = pods.state("one")
    assert state["restartCount"] == 2
    assert (state["state"]["terminated"]["exitCode"], state["state"]["terminated"]["reason"]) == (0, "Completed")
    assert (state["lastState"]["terminated"]["exitCode"], state["lastState"]["terminated"]["reason"]) == (1, "Error")
    assert (pods.logs("one"), pods.logs("one", "--previous")) == ("attempt 3\n", "attempt 2\n")


def test_a_job_completes_after_a_restart(pods: Pods) -> None:
    both = volume("data", "/data", emptyDir={})
    spec = template("test -e /data/once || { touch /data/once; exit 7; }", restartPolicy="OnFailure", **both)
    job = {"backoffLimit": 1, "template": {"spec": spec}}
    pods.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work"}, "spec": job})
    pods.kubectl("wait", "--for=condition=Complete", "job/work", "--timeout=60s")
    (name,) = pods.names("job-name=work")
    assert pods.state(name)["lastState"]["terminated"]["exitCode"] == 7


def test_init_containers_go_first_and_sidecars_last(pods: Pods) -> None:
    def inner(name: str, script: str, **more: Any) -> dict[str, Any]:
        mounts = [{"name": "data", "mountPath": "/data"}]
        command = ["sh", "-c", script]
        return {
            "name": name,
            "image": SHELL,
            "command": command,
            "securityContext": RESTRICTED,
            "volumeMounts": mounts,
            **more,
        }

    sidecar = (
        "trap 'echo sidecar ends >> /data/log; exit 0' TERM; echo sidecar >> /data/log; while :; do sleep 0.1; done"
    )
    spec = template("", restartPolicy="Never", volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}])
    spec["initContainers"] = [
        inner("side", sidecar, restartPolicy="Always"),
        inner("first", "sleep 0.5; echo first >> /data/log"),
    ]
    spec["containers"] = [inner("main", "echo main >> /data/log")]
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Mi"}}}
    pods.apply(
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec": claim},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec},
    )
    pods.finish("one")
    reader = volume("data", "/data", persistentVolumeClaim={"claimName": "c"})
    pods.apply(pod("two", "cat /data/log", **reader))
    pods.finish("two")
    assert pods.logs("two").splitlines() == ["sidecar", "first", "main", "sidecar ends"]


def test_deletion_gives_the_grace_period_and_no_more(pods: Pods) -> None:
    polite = "trap 'echo goodbye; sleep 1; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    hook = {"lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo hook > /proc/1/fd/1"]}}}}
    pods.apply(
        pod("polite", polite, terminationGracePeriodSeconds=30, container=hook),
        pod("stubborn", "trap '' TERM; echo up; while :; do sleep 0.1; done", terminationGracePeriodSeconds=2),
    )
    for name in ("polite", "stubborn"):
        pods.running(name)
        wait_until(lambda name=name: "up" in pods.logs(name), f"{name} is not up")
    follower = subprocess.Popen(
        [binaries.binary("kubectl"), "--namespace", pods.namespace, "logs", "--follow", "polite"],
        env=pods.plane.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    seen = pods.plane.kubectl("get", "pod", "polite", "--namespace", pods.namespace, "-o", "jsonpath={.metadata.uid}")
    pods.kubectl("delete", "pod", "polite", "stubborn")
    assert not pods.exists("polite")
    assert not pods.exists("stubborn")
    assert follower.communicate(timeout=20)[0].splitlines() == ["up", "hook", "goodbye"]
    events = pods.plane.get("events", "--namespace", pods.namespace, "--field-selector", f"involvedObject.uid={seen}")
    assert "Killing" in {event["reason"] for event in events["items"]}


def test_too_much_memory_kills(pods: Pods) -> None:
    greedy = {
        "image": CORDEE,
        "command": ["python", "-c", "import time; held = bytearray(200 << 20); time.sleep(60)"],
        "resources": {"limits": {"memory": "64Mi"}},
    }
    pods.apply(pod("one", "", container=greedy))
    wait_until(lambda: pods.get("one")["status"]["phase"] == "Failed", "it lives")
    ended = pods.state("one")["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")


def test_what_keeps_a_container_from_starting_is_told_apart(pods: Pods, cluster: Cluster) -> None:
    cluster.fail_pulls(SHELL)
    pods.apply(pod("pull", "echo pulled"))
    reference = [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "later", "key": "x"}}}]
    root = {**RESTRICTED, "runAsUser": None, "runAsGroup": 0}
    pods.apply(
        pod("config", 'echo "$X"', container={"image": CORDEE, "command": ["sh", "-c", 'echo "$X"'], "env": reference})
    )
    pods.apply(pod("root", "id", container={"securityContext": root}))
    pods.apply(pod("nothing", "", container={"image": CORDEE, "command": ["/no/such/program"]}))
    wait_until(lambda: pods.reason("pull") == "ImagePullBackOff", "it was pulled")
    wait_until(lambda: pods.reason("config") == "CreateContainerConfigError", "it was configured")
    wait_until(lambda: pods.get("nothing")["status"]["phase"] == "Failed", "it was started")
    assert pods.state("nothing")["state"]["terminated"]["reason"] == "StartError"
    cluster.fail_pulls(SHELL, False)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "later"}, "stringData": {"x": "came"}}
    pods.apply(secret)
    pods.finish("pull", "config")
    assert (pods.logs("pull"), pods.logs("config")) == ("pulled\n", "came\n")
    # The shell's image has no user of its own.
    wait_until(lambda: pods.reason("root") == "CreateContainerConfigError", "root was allowed")


def test_a_liveness_probe_restarts_and_the_last_words_are_kept(pods: Pods) -> None:
    container = {
        "livenessProbe": {
            "exec": {"command": ["test", "!", "-e", "/data/ill"]},
            "periodSeconds": 1,
            "failureThreshold": 1,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    script = """
        echo up; test -e /data/once && exec sleep 60
        touch /data/once /data/ill; trap 'rm /data/ill; exit 9' TERM; while :; do sleep 0.1; done
    """
    both = volume("data", "/data", emptyDir={})
    pods.apply(
        pod(
            "one", script, restartPolicy="Always", volumes=both["volumes"], container={**both["container"], **container}
        )
    )
    wait_until(lambda: pods.state("one").get("restartCount") == 1, "it was not restarted")
    last = pods.state("one")["lastState"]["terminated"]
    assert (last["exitCode"], last["message"]) == (9, "up\n")
    pods.running("one")


def test_eviction_honours_budgets_and_drains_a_node(pods: Pods, cluster: Cluster) -> None:
    budget = {"minAvailable": 1, "selector": {"matchLabels": {"app": "one"}}}
    pods.apply(
        {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"}, "spec": budget},
        pod("one", "trap 'exit 0' TERM; while :; do sleep 0.1; done"),
    )
    pods.running("one")
    wait_until(lambda: "disruptionsAllowed" in pods.get("b", "pdb").get("status", {}), "nobody counts the budget")
    assert cluster.evict(pods.namespace, "one") == 429
    pods.kubectl("delete", "pdb", "b")
    node = pods.get("one")["spec"]["nodeName"]
    cluster.drain(node)
    assert not pods.exists("one")
    pods.apply(pod("two", "true"))
    pods.finish("two")
    assert pods.get("two")["spec"]["nodeName"] != node


def test_the_node_s_own_verdict(pods: Pods, cluster: Cluster) -> None:
    pods.apply(pod("one", "sleep 60", terminationGracePeriodSeconds=1), pod("two", "sleep 60", activeDeadlineSeconds=1))
    pods.running("one")
    cluster.fail(pods.namespace, "one")
    for name, reason in (("one", "Evicted"), ("two", "DeadlineExceeded")):
        wait_until(lambda name=name: pods.get(name)["status"]["phase"] == "Failed", f"{name} goes on")
        assert pods.get(name)["status"]["reason"] == reason
    found = {c["type"]: c["status"] for c in pods.get("one")["status"]["conditions"]}
    assert (found["DisruptionTarget"], found["Ready"]) == ("True", "False")


def test_a_lost_node_s_pods_are_replaced_and_it_falls_silent(pods: Pods, cluster: Cluster) -> None:
    labels = {"app": "web"}
    spec = template("", container={"image": CORDEE, "command": ["python", "-c", SERVER]})
    pods.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web"},
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
        }
    )
    pods.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    (name,) = pods.names("app=web")
    lost = pods.get(name)
    node, address = lost["spec"]["nodeName"], lost["status"]["podIP"]
    wait_until(lambda: _answers(address), "the server does not answer")
    with socket.create_connection((address, 8080), timeout=5) as connection:
        cluster.vanish(node)
        connection.settimeout(0.5)
        # No reset, no end: nothing.
        with pytest.raises(TimeoutError):
            connection.recv(1)
    wait_until(lambda: len(pods.names("app=web")) == 2, "no replacement")
    (other,) = set(pods.names("app=web")) - {name}
    pods.running(other)
    assert pods.get(other)["spec"]["nodeName"] != node
    assert "deletionTimestamp" in pods.get(name)["metadata"]
    cluster.come_back(node)
    wait_until(lambda: not pods.exists(name), "the node that is back does not clean up")


def test_a_partition_and_a_kubelet_s_restart_leave_processes_alone(pods: Pods, cluster: Cluster) -> None:
    script = "trap 'exit 0' TERM; n=0; while :; do echo $n; n=$((n+1)); sleep 0.1; done"
    tolerations = [{"operator": "Exists", "effect": "NoExecute"}]
    pods.apply(pod("one", script, tolerations=tolerations))
    pods.running("one")
    node = pods.get("one")["spec"]["nodeName"]
    cluster.restart(node)
    cluster.partition(node)

    def ready() -> str:
        conditions = pods.get(node, "node")["status"]["conditions"]
        return next(c["status"] for c in conditions if c["type"] == "Ready")

    wait_until(lambda: ready() == "Unknown", "nobody misses the node")
    cluster.heal(node)
    wait_until(lambda: ready() == "True", "the node is not back")
    numbers = [int(line) for line in pods.logs("one").split()]
    assert numbers == list(range(len(numbers)))
    assert pods.state("one")["restartCount"] == 0


def test_pods_outlive_the_api_server(pods: Pods) -> None:
    both = volume("data", "/data", emptyDir={})
    pods.apply(pod("one", "sleep 1; echo done", **both))
    pods.running("one")
    pods.plane.restart_api_server(down_seconds=2.0, kill=True)
    pods.finish("one")
    pods.apply(pod("two", "echo new"))
    pods.finish("two")
    assert (pods.logs("one"), pods.logs("two")) == ("done\n", "new\n")


def test_hollow_nodes_hold_pods_in_name_only(pods: Pods, cluster: Cluster) -> None:
    taint = {"key": "hollow", "value": "true", "effect": "NoSchedule"}
    cluster.add_node(
        "hollow", hollow=True, capacity={"pods": "200", "cpu": "1000"}, taints=[taint], labels={"hollow": "true"}
    )
    spec = template("", nodeSelector={"hollow": "true"}, tolerations=[{"key": "hollow", "operator": "Exists"}])
    labels = {"app": "many"}
    pods.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "many"},
            "spec": {
                "replicas": 50,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec},
            },
        }
    )
    pods.kubectl("rollout", "status", "deployment/many", "--timeout=60s")
    pods.kubectl("delete", "deployment", "many", "--cascade=foreground")
    assert pods.names("app=many") == []
    cluster.take_away("hollow")


def _answers(address: str) -> bool:
    try:
        socket.create_connection((address, 8080), timeout=1).close()
    except OSError:
        return False
    return True
