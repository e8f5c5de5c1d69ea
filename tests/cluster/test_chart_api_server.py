"""The chart before a real API server: every object, over all values, is valid, admitted and without a warning.

Two judges: kubeconform, by the schemas of this API server, and the API server itself, in a server-side dry run, in a
namespace that enforces `restricted` pod security.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import binaries
from cluster.chart import CASES, CHART, Rendered, render
from cluster.control_plane import ControlPlane
from cluster.processes import wait_until
from cluster.schemas import described, write_schemas

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

OPERATORS = Path(__file__).parent / "operators"
NAMESPACE = "training"
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def server(api_server: ControlPlane) -> ControlPlane:
    """An API server with the operators' kinds, ours, and the namespace that the chart is rendered for."""
    kinds = [
        file.read_text(encoding="utf-8") for file in (*OPERATORS.glob("*.yaml"), *(CHART / "files/crds").glob("*.yaml"))
    ]
    api_server.apply(*kinds)
    for kind in ("trainingjobs.cordee.dev", "issuers.cert-manager.io", "servicemonitors.monitoring.coreos.com"):
        api_server.kubectl("wait", "--for=condition=Established", f"crd/{kind}", "--timeout=30s")
    api_server.create_namespace(NAMESPACE, RESTRICTED)
    # Pods of hooks are tried as they are, and a pod's account must be there, in a dry run as well.
    accounts = {pod.get("serviceAccountName", "default") for name in CASES for pod in render(case=name).pods.values()}
    for account in sorted(accounts):
        made = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}}
        api_server.apply(made, namespace=NAMESPACE)
    return api_server


def versions(rendered: Iterator[Any] | Rendered) -> set[str]:
    return {o["apiVersion"] for o in rendered}


@pytest.fixture(scope="module")
def schemas(server: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> str:
    used = {version for name in CASES for version in versions(render(case=name))}

    custom = {f"apis/{version}" for version in used if "/" in version}
    wait_until(lambda: custom <= set(described(server)), "all kinds are described", 30)
    return write_schemas(server, tmp_path_factory.mktemp("schemas"), used)


def kubeconform(schemas: str, text: str) -> tuple[int, dict[str, Any]]:
    command = [
        str(binaries.binary("kubeconform")),
        "-strict",
        "-output",
        "json",
        "-summary",
        "-schema-location",
        schemas,
    ]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, json.loads(done.stdout)


@case
def test_every_object_conforms_to_its_kinds_schema(schemas: str, case: str) -> None:
    rendered = render(case=case)
    code, said = kubeconform(schemas, rendered.text)
    assert said.get("resources", []) == []
    assert code == 0
    assert said["summary"] == {"valid": len(rendered.objects), "invalid": 0, "errors": 0, "skipped": 0}


def test_the_schemas_refuse_what_they_do_not_know(schemas: str) -> None:
    wrong = {"Service": ("spec", "portz"), "Deployment": ("spec", "replica"), "ServiceMonitor": ("spec", "endpoint")}
    for kind, (part, name) in wrong.items():
        o = json.loads(json.dumps(render(case="monitoring").all(kind)[0]))
        o[part][name] = 1
        code, said = kubeconform(schemas, json.dumps(o))
        assert code == 1
        assert name in json.dumps(said["resources"])


@case
def test_the_api_server_takes_every_object_without_a_warning(server: ControlPlane, case: str) -> None:
    rendered = render(case=case)
    done = server.run(
        "kubectl",
        "apply",
        "--server-side",
        "--dry-run=server",
        "--namespace",
        NAMESPACE,
        "-f",
        "-",
        stdin=rendered.text,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == len(rendered.objects)


@case
def test_pods_are_admitted_where_only_restricted_ones_are(server: ControlPlane, case: str) -> None:
    """Admission judges pods, not what makes them: so each template is tried as a pod."""
    for component, spec in render(case=case).pods.items():
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": component, "namespace": NAMESPACE},
            # The release's own account is not there in a dry run; priority classes of the system are not for everybody.
            "spec": {k: v for k, v in spec.items() if k != "priorityClassName"} | {"serviceAccountName": "default"},
        }
        done = server.run("kubectl", "create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""


def test_the_namespace_refuses_a_pod_that_is_not_restricted(server: ControlPlane) -> None:
    spec = json.loads(json.dumps(render().pods["test"]))
    spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", "namespace": NAMESPACE}, "spec": spec}
    done = server.run("kubectl", "create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
    assert "violates PodSecurity" in done.stderr
