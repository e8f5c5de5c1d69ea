"""A release of the chart over its life, by Helm itself: installed, twice, upgraded, and gone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.chart import CHART
from cluster.control_plane import ControlPlane
from cluster.processes import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

CRD = "trainingjobs.cordee.dev"
OURS = "app.kubernetes.io/part-of=cordee"
# What a namespace has by itself, and what is written about what was there.
NOT_OURS = {"ConfigMap/kube-root-ca.crt", "ServiceAccount/default"}
WORDS = {"events", "events.events.k8s.io"}


class Helm:
    """Helm, with one control plane."""

    def __init__(self, plane: ControlPlane, kubeconfig: Path | None = None) -> None:
        self.plane, self.kubeconfig = plane, kubeconfig

    def __call__(self, *arguments: str, values: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        if arguments[0] in ("install", "upgrade"):  # no node here: the hook of an uninstall could not run
            values = {"cleanup": {"enabled": False}, **(values or {})}
        more = () if values is None else ("--values", "-")
        text = None if values is None else json.dumps(values)
        return self.plane.run("helm", *arguments, *more, stdin=text, kubeconfig=self.kubeconfig)

    def do(self, *arguments: str, values: dict[str, Any] | None = None) -> str:
        done = self(*arguments, values=values)
        assert done.returncode == 0, done.stderr
        assert "warning" not in done.stderr.lower()
        return done.stdout


@pytest.fixture
def helm(control_plane: ControlPlane, make_namespace: Callable[..., str]) -> Iterator[Helm]:
    """Helm, whose releases are uninstalled after the test, and before their namespaces are removed."""
    it = Helm(control_plane)
    yield it
    for release in json.loads(it.do("list", "--all-namespaces", "-o", "json")):
        it.do("uninstall", release["name"], "--namespace", release["namespace"])
    control_plane.kubectl("delete", "crd", CRD, "--ignore-not-found")


def next_version(folder: Path) -> str:
    """The chart as its next version."""
    chart = folder / "cordee"
    shutil.copytree(CHART, chart)
    file = chart / "Chart.yaml"
    file.write_text(re.sub(r"(?m)^version: .*", "version: 0.1.1", file.read_text(encoding="utf-8")))
    return str(chart)


def things(plane: ControlPlane, namespace: str) -> set[str]:
    """All objects of a namespace, but those that every namespace has."""
    kinds = set(plane.kubectl("api-resources", "--namespaced", "--verbs=list", "-o", "name").split()) - WORDS
    found = plane.get(",".join(sorted(kinds)), "--namespace", namespace)["items"]
    return {f"{o['kind']}/{o['metadata']['name']}" for o in found} - NOT_OURS


def secrets(plane: ControlPlane, namespace: str) -> dict[str, dict[str, str]]:
    found = plane.get("secrets", "--namespace", namespace, "-l", OURS)["items"]
    return {o["metadata"]["name"]: o["data"] for o in found}


def cluster_wide(plane: ControlPlane) -> set[str]:
    return {o["metadata"]["name"] for o in plane.get("clusterroles,clusterrolebindings", "-l", OURS)["items"]}


def test_an_upgrade_keeps_tokens_and_certificates_and_says_what_is_new(
    helm: Helm, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    notes = helm.do("install", "cordee", str(CHART), "--namespace", namespace)
    assert f"kubectl -n {namespace} port-forward service/cordee 8470:8470" in notes
    assert "There is no storage for checkpoints" in notes
    first = secrets(control_plane, namespace)
    assert set(first) == {"cordee-token", "cordee-metrics-token", "cordee-tls"}
    config = control_plane.get("configmap", "cordee-config", "--namespace", namespace)["data"]

    values = {"workers": {"maxWorkers": 8}, "service": {"type": "NodePort"}}
    notes = helm.do("upgrade", "cordee", next_version(tmp_path), "--namespace", namespace, values=values)
    assert "service.type is NodePort, and networkPolicy.clients names nobody" in notes
    assert secrets(control_plane, namespace) == first
    assert control_plane.get("configmap", "cordee-config", "--namespace", namespace)["data"] != config
    deployment = control_plane.get("deployment", "cordee", "--namespace", namespace)
    assert deployment["metadata"]["labels"]["helm.sh/chart"] == "cordee-0.1.1"
    assert "app.kubernetes.io/managed-by" in deployment["metadata"]["labels"]

    # For other names there is another certificate; the token stays.
    helm.do(
        "upgrade", "cordee", str(CHART), "--namespace", namespace, values={"tls": {"extraHosts": ["a.example.org"]}}
    )
    second = secrets(control_plane, namespace)
    assert second["cordee-token"] == first["cordee-token"]
    assert second["cordee-tls"]["ca.crt"] != first["cordee-tls"]["ca.crt"]
    # Mutual TLS comes later: the authority's key is gone, so both certificates are new, and then they stay.
    mutual = {"tls": {"extraHosts": ["a.example.org"], "mutual": {"enabled": True}}}
    helm.do("upgrade", "cordee", str(CHART), "--namespace", namespace, values=mutual)
    third = secrets(control_plane, namespace)
    assert third["cordee-tls"] != second["cordee-tls"]
    helm.do("upgrade", "cordee", next_version(tmp_path / "more"), "--namespace", namespace, values=mutual)
    assert secrets(control_plane, namespace) == third


def test_an_upgrade_to_the_same_changes_nothing(helm: Helm, control_plane: ControlPlane, namespace: str) -> None:
    """By server-side apply: nothing of ours is fought over with a controller, and nothing is written twice."""
    helm.do("install", "cordee", str(CHART), "--namespace", namespace)

    def generations() -> dict[str, Any]:
        found = control_plane.get(
            "deployments,services,networkpolicies,roles,secrets,crds", "--namespace", namespace, "-l", OURS
        )
        return {
            f"{o['kind']}/{o['metadata']['name']}": (o["metadata"].get("generation"), o.get("spec"), o.get("data"))
            for o in found["items"]
        }

    before = generations()
    helm.do("upgrade", "cordee", str(CHART), "--namespace", namespace)
    assert generations() == before
    managers = control_plane.get("deployment", "cordee", "--namespace", namespace, "--show-managed-fields")
    applied = [m for m in managers["metadata"]["managedFields"] if m["operation"] == "Apply"]
    assert [m["manager"] for m in applied] == ["helm"]


def test_uninstalling_leaves_what_it_is_told_to_keep_and_nothing_else(
    helm: Helm, control_plane: ControlPlane, namespace: str
) -> None:
    helm.do("install", "cordee", str(CHART), "--namespace", namespace, values={"rbac": {"aggregate": True}})
    wait_until(lambda: any(t.startswith("Pod/") for t in things(control_plane, namespace)), "the coordinator's pod", 30)
    assert len(cluster_wide(control_plane)) >= 3
    said = helm.do("uninstall", "cordee", "--namespace", namespace)
    assert "cordee-state" in said
    kept = {"PersistentVolumeClaim/cordee-state"}
    wait_until(lambda: things(control_plane, namespace) == kept, "only the claim is left", 60)
    assert cluster_wide(control_plane) == set()
    assert control_plane.get("crd", CRD)["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"

    # The next one finds its state again, and the resource is its own again.
    helm.do("install", "cordee", str(CHART), "--namespace", namespace)
    assert len(things(control_plane, namespace)) > 10
    values = {"persistence": {"keep": False}, "crds": {"keep": False}}
    helm.do("upgrade", "cordee", str(CHART), "--namespace", namespace, values=values)
    helm.do("uninstall", "cordee", "--namespace", namespace)
    wait_until(lambda: not things(control_plane, namespace), "nothing is left", 60)
    assert control_plane.run("kubectl", "get", "crd", CRD).returncode == 1


def test_two_releases_live_beside_each_other(
    helm: Helm, control_plane: ControlPlane, make_namespace: Callable[..., str]
) -> None:
    one, other = make_namespace(), make_namespace()
    helm.do("install", "cordee", str(CHART), "--namespace", one)
    # The same release elsewhere, and another one in the same namespace.
    notes = helm.do("install", "cordee", str(CHART), "--namespace", other)
    assert CRD not in notes.partition("Mind:")[2]  # the same resource as its own
    helm.do("install", "second", str(CHART), "--namespace", one)
    owner = control_plane.get("crd", CRD)["metadata"]["annotations"]
    assert (owner["meta.helm.sh/release-namespace"], owner["meta.helm.sh/release-name"]) == (one, "cordee")
    assert len(cluster_wide(control_plane)) == 3  # a role and a binding each, of one name
    tokens = [secrets(control_plane, n)[s]["token"] for n, s in
              ((one, "cordee-token"), (other, "cordee-token"), (one, "second-cordee-token"))]  # fmt: skip
    assert len(set(tokens)) == 3
    before = things(control_plane, one)
    helm.do("uninstall", "cordee", "--namespace", other)
    wait_until(lambda: things(control_plane, other) == {"PersistentVolumeClaim/cordee-state"}, "that one is gone", 60)
    assert {t for t in before if not t.startswith(("Pod/", "ReplicaSet/", "EndpointSlice/"))} <= things(
        control_plane, one
    )


def test_the_custom_resource_of_somebody_else_is_told_of_and_can_be_adopted(
    helm: Helm, control_plane: ControlPlane, namespace: str
) -> None:
    file = CHART / "files" / "crds" / "trainingjobs.yaml"
    control_plane.apply(file.read_text(encoding="utf-8"))
    notes = helm.do("install", "cordee", str(CHART), "--namespace", namespace)
    assert f"{CRD} was installed by somebody else" in notes
    assert "--set crds.adopt=true --take-ownership" in notes
    adopt = ("--set", "crds.adopt=true", "--take-ownership", "--force-conflicts")
    helm.do("upgrade", "cordee", str(CHART), "--namespace", namespace, *adopt)
    assert control_plane.get("crd", CRD)["metadata"]["annotations"]["meta.helm.sh/release-namespace"] == namespace
    assert CRD not in helm.do("upgrade", "cordee", str(CHART), "--namespace", namespace).partition("Mind:")[2]


def test_who_may_nothing_outside_a_namespace_installs_it_there(
    helm: Helm, control_plane: ControlPlane, namespace: str
) -> None:
    user = control_plane.kubeconfig_for("alice", namespace=namespace)
    control_plane.kubectl(
        "create", "rolebinding", "alice", "--clusterrole=admin", "--user=alice", "--namespace", namespace
    )
    own = Helm(control_plane, user)
    wait_until(lambda: own("list", "--namespace", namespace).returncode == 0, "the binding is seen", 10)
    refused = own("install", "cordee", str(CHART), "--namespace", namespace)
    assert "forbidden" in refused.stderr
    values = str(CHART / "ci" / "namespaced-values.yaml")
    notes = own.do("install", "cordee", str(CHART), "--namespace", namespace, "--values", values)
    assert "the service account cordee may create tokenreviews" in " ".join(notes.split())


def test_what_is_rendered_can_be_applied_again_and_again(control_plane: ControlPlane, namespace: str) -> None:
    """GitOps: the same text, with Secrets of the user's own; and no field is another's."""
    own = {"existingSecret": "mine"}
    values = {"auth": {"token": own, "metricsToken": own}, "tls": {"mode": "existingSecret", "existingSecret": "mine"}}

    def text() -> str:
        command = ("template", "cordee", str(CHART), "--namespace", namespace, "--no-hooks", "--values", "-")
        return control_plane.run("helm", *command, stdin=json.dumps(values)).stdout

    assert text() == text()
    for _ in range(2):
        control_plane.apply(text())
    control_plane.kubectl("delete", "-f", "-", "--wait=false", stdin=text())
