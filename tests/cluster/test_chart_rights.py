"""What the chart's service accounts may do, found out by being them: what they need, and no more."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any

import pytest

from cluster.chart import CHART, render
from cluster.control_plane import API_PORT, ControlPlane
from cluster.processes import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

NAMESPACE = "rights"
NEEDED = {
    ("", "pods"): {"get", "list", "watch", "create", "delete"},
    ("events.k8s.io", "events"): {"create", "patch"},
    ("", "configmaps"): {"get"},
    ("", f"namespaces:{NAMESPACE}"): {"get"},
    ("cordee.dev", "trainingjobs"): {"get", "list", "watch", "create", "patch", "delete"},
    ("cordee.dev", "trainingjobs/status"): {"patch"},
    ("cordee.dev", "trainingjobs/finalizers"): {"update"},
    ("networking.k8s.io", "networkpolicies"): {"create", "delete"},
    ("authorization.k8s.io", "localsubjectaccessreviews"): {"create"},
}
"""What the coordinator does: all of it is needed, and nothing else is given."""
EVERYWHERE = {("authentication.k8s.io", "tokenreviews"): {"create"}}
EVERYBODY = {
    ("authorization.k8s.io", "selfsubjectaccessreviews"): {"create"},
    ("authorization.k8s.io", "selfsubjectrulesreviews"): {"create"},
    ("authentication.k8s.io", "selfsubjectreviews"): {"create"},
}
"""What every account may, by Kubernetes' own roles: ask about itself."""

Rights = dict[tuple[str, str], set[str]]


class Account:
    """A service account: speaks with the API server by its token."""

    def __init__(self, plane: ControlPlane, namespace: str, name: str) -> None:
        self._plane = plane
        self._token = plane.kubectl("create", "token", name, "--namespace", namespace).strip()

    def do(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> tuple[int, Any]:
        context = ssl.create_default_context(cafile=str(self._plane.ca_file))
        connection = http.client.HTTPSConnection(self._plane.address, API_PORT, context=context, timeout=10)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def rights(self, namespace: str) -> Rights:
        """Everything that it may do in a namespace, and everywhere, by the API server's own account."""
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": namespace},
        }
        code, answer = self.do("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", body)
        assert code == 201
        assert not answer["status"]["incomplete"]
        found: Rights = {}
        for rule in answer["status"]["resourceRules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    key = (
                        (group, resource)
                        if not rule.get("resourceNames")
                        else (group, f"{resource}:{rule['resourceNames'][0]}")
                    )
                    found.setdefault(key, set()).update(rule["verbs"])
        return found


@pytest.fixture(scope="module")
def server(api_server: ControlPlane) -> ControlPlane:
    api_server.apply(*(file.read_text(encoding="utf-8") for file in (CHART / "files" / "crds").glob("*.yaml")))
    api_server.create_namespace(NAMESPACE)
    api_server.create_namespace("elsewhere")
    api_server.kubectl("wait", "--for=condition=Established", "crd/trainingjobs.cordee.dev", "--timeout=30s")
    return api_server


def install(server: ControlPlane, release: str, **arguments: Any) -> tuple[Account, Account]:
    """The accounts of a release and their rights: the coordinator's and the workers'."""
    rendered = render(release=release, namespace=NAMESPACE, **arguments)
    kinds = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
    server.apply(*(o for o in rendered if o["kind"] in kinds))
    names = [o["metadata"]["name"] for o in rendered.all("ServiceAccount")]
    (workers,) = [name for name in names if name.endswith("-workers")]
    (coordinator,) = [name for name in names if name != workers]
    first = Account(server, NAMESPACE, coordinator)
    wait_until(lambda: ("", "pods") in first.rights(NAMESPACE), "the binding is seen", 10)
    return first, Account(server, NAMESPACE, workers)


@pytest.fixture(scope="module")
def accounts(server: ControlPlane) -> tuple[Account, Account]:
    return install(server, "rel")


@pytest.fixture
def coordinator(accounts: tuple[Account, Account]) -> Account:
    return accounts[0]


def test_the_coordinator_has_the_rights_that_it_needs_and_no_others(coordinator: Account) -> None:
    assert coordinator.rights(NAMESPACE) == NEEDED | EVERYWHERE | EVERYBODY


def test_beyond_its_namespace_it_may_only_ask_whose_a_token_is(coordinator: Account) -> None:
    assert coordinator.rights("elsewhere") == EVERYWHERE | EVERYBODY


def test_workers_have_no_rights(accounts: tuple[Account, Account]) -> None:
    assert accounts[1].rights(NAMESPACE) == EVERYBODY


def test_several_coordinators_may_hold_their_lease_and_mark_the_leader(server: ControlPlane) -> None:
    first, _ = install(server, "many", case="several-coordinators")
    more = {
        ("", "pods"): NEEDED[("", "pods")] | {"patch"},
        ("coordination.k8s.io", "leases"): {"create"},
        ("coordination.k8s.io", "leases:many-cordee"): {"get", "update"},
    }
    assert first.rights(NAMESPACE) == NEEDED | more | EVERYWHERE | EVERYBODY


def test_without_policies_of_jobs_and_tokens_of_users_their_rights_are_not_there(server: ControlPlane) -> None:
    values = {"networkPolicy": {"perJob": False}, "auth": {"tokenReview": {"enabled": False}}}
    first, _ = install(server, "less", values=values)
    gone = {("networking.k8s.io", "networkpolicies"), ("authorization.k8s.io", "localsubjectaccessreviews")}
    assert first.rights(NAMESPACE) == {k: v for k, v in (NEEDED | EVERYWHERE | EVERYBODY).items() if k not in gone}


def test_what_the_coordinator_does_is_done(coordinator: Account, server: ControlPlane) -> None:
    """Not by asking, but by doing it."""
    here = f"/namespaces/{NAMESPACE}"
    worker = {**render().pods["test"], "serviceAccountName": "rel-cordee-workers"}
    pod = {"metadata": {"name": "job-w0"}, "spec": worker}
    assert coordinator.do("POST", f"/api/v1{here}/pods", pod)[0] == 201
    code, pods = coordinator.do("GET", f"/api/v1{here}/pods")
    assert code == 200
    assert [p["metadata"]["name"] for p in pods["items"]] == ["job-w0"]
    watch = f"/api/v1{here}/pods?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3Djob-w0"
    assert coordinator.do("GET", watch)[1]["type"] == "ADDED"
    assert coordinator.do("DELETE", f"/api/v1{here}/pods/job-w0?gracePeriodSeconds=0")[0] == 200

    job = {
        "apiVersion": "cordee.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "job", "finalizers": ["cordee.dev/job"]},
        "spec": {"script": "train.py", "sourceFrom": {"configMap": "source"}},
    }
    jobs = f"/apis/cordee.dev/v1alpha1{here}/trainingjobs"
    code, made = coordinator.do("POST", jobs, job)
    assert code == 201, made
    merge = "application/merge-patch+json"
    assert coordinator.do("PATCH", f"{jobs}/job", {"metadata": {"labels": {"a": "b"}}}, merge)[0] == 200
    assert coordinator.do("PATCH", f"{jobs}/job/status", {"status": {}}, merge)[0] == 200
    owner = {"apiVersion": "cordee.dev/v1alpha1", "kind": "TrainingJob", "name": "job", "uid": made["metadata"]["uid"]}
    policy = {
        "metadata": {"name": "job", "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}]},
        "spec": {"podSelector": {"matchLabels": {"cordee.dev/job": "job"}}, "policyTypes": ["Ingress", "Egress"]},
    }
    policies = f"/apis/networking.k8s.io/v1{here}/networkpolicies"
    code, answer = coordinator.do("POST", policies, policy)
    assert code == 201, answer
    assert coordinator.do("DELETE", f"{policies}/job")[0] == 200
    event = {
        "metadata": {"name": "job.1"},
        "eventTime": "2026-04-01T00:00:00.000000Z",
        "regarding": {"kind": "TrainingJob", "name": "job", "namespace": NAMESPACE},
        "reportingController": "cordee.dev/coordinator",
        "reportingInstance": "rel",
        "action": "Start",
        "reason": "Started",
        "note": "it is started",
        "type": "Normal",
    }
    assert coordinator.do("POST", f"/apis/events.k8s.io/v1{here}/events", event)[0] == 201
    assert coordinator.do("PATCH", f"{jobs}/job", {"metadata": {"finalizers": []}}, merge)[0] == 200
    assert coordinator.do("DELETE", f"{jobs}/job")[0] == 200

    server.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "source"}}, namespace=NAMESPACE)
    assert coordinator.do("GET", f"/api/v1{here}/configmaps/source")[0] == 200
    assert coordinator.do("GET", f"/api/v1{here}")[1]["metadata"]["uid"]
    review = {"spec": {"token": "nonsense", "audiences": ["cordee"]}}
    assert coordinator.do("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review)[0] == 201
    attributes = {"namespace": NAMESPACE, "verb": "create", "group": "cordee.dev", "resource": "trainingjobs"}
    access = {"metadata": {"namespace": NAMESPACE}, "spec": {"user": "alice", "resourceAttributes": attributes}}
    code, answer = coordinator.do("POST", f"/apis/authorization.k8s.io/v1{here}/localsubjectaccessreviews", access)
    assert code == 201, answer


FORBIDDEN = [
    ("GET", "/api/v1/namespaces/{here}/secrets"),
    ("GET", "/api/v1/namespaces/{here}/secrets/rel-cordee-token"),
    ("GET", "/api/v1/namespaces/{here}/configmaps"),
    ("GET", "/api/v1/namespaces/{here}/serviceaccounts"),
    ("POST", "/api/v1/namespaces/{here}/serviceaccounts/rel-cordee-workers/token"),
    ("POST", "/api/v1/namespaces/{here}/pods/job-w0/exec?command=sh"),
    ("PATCH", "/api/v1/namespaces/{here}/pods/job-w0"),
    ("POST", "/apis/apps/v1/namespaces/{here}/deployments"),
    ("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/{here}/rolebindings"),
    ("PUT", "/apis/rbac.authorization.k8s.io/v1/namespaces/{here}/roles/rel-cordee"),
    ("GET", "/apis/coordination.k8s.io/v1/namespaces/{here}/leases"),
    ("GET", "/api/v1/namespaces/elsewhere/pods"),
    ("POST", "/api/v1/namespaces/elsewhere/pods"),
    ("GET", "/api/v1/namespaces/elsewhere/secrets"),
    ("GET", "/apis/cordee.dev/v1alpha1/namespaces/elsewhere/trainingjobs"),
    ("GET", "/apis/cordee.dev/v1alpha1/trainingjobs"),
    ("GET", "/api/v1/pods"),
    ("GET", "/api/v1/secrets"),
    ("GET", "/api/v1/nodes"),
    ("GET", "/api/v1/namespaces"),
    ("GET", "/api/v1/namespaces/elsewhere"),
    ("PATCH", "/api/v1/namespaces/{here}"),
    ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles"),
    ("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"),
    ("DELETE", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/trainingjobs.cordee.dev"),
    ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews"),
]


@pytest.mark.parametrize(("method", "path"), FORBIDDEN)
def test_what_is_not_the_coordinators_is_refused(accounts: tuple[Account, Account], method: str, path: str) -> None:
    for account in accounts:
        code, answer = account.do(method, path.format(here=NAMESPACE), {} if method != "GET" else None)
        assert code == 403
        assert answer["reason"] == "Forbidden"


def test_editors_of_the_namespace_may_have_training_jobs_where_that_is_wanted(api_server: ControlPlane) -> None:
    rendered = render({"rbac": {"aggregate": True}}, namespace=NAMESPACE)
    for verb in ("view", "edit"):
        (role,) = [o for o in rendered.all("ClusterRole") if o["metadata"]["name"].endswith(f":{verb}")]
        label = f"rbac.authorization.k8s.io/aggregate-to-{verb}"
        assert role["metadata"]["labels"][label] == "true"
        base = api_server.get("clusterrole", verb)
        assert {"matchLabels": {label: "true"}} in base["aggregationRule"]["clusterRoleSelectors"]
