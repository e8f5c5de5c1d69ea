"""What the chart makes: laws that hold for all values of helm/cordee/ci. What each value does: test_chart_values."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cluster.chart import CASES, needs_helm, render
from cordee.coordinator.config import Config, load_config

pytestmark = needs_helm

CLUSTER_SCOPED = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
IDENTITY = {"app.kubernetes.io/name": "cordee", "app.kubernetes.io/instance": "rel"}
case = pytest.mark.parametrize("case", CASES)


def config_of(values: dict[str, Any] | None = None, *, folder: Path, case: str | None = None) -> Config:
    path = folder / "config.yaml"
    path.write_text(render(values, case=case).config)
    return load_config(path)


def volume_sources(pod: dict[str, Any]) -> list[tuple[str, str]]:
    """What a pod's volumes are made of: kind and name."""
    found = []
    for volume in pod["volumes"]:
        for source in [volume, *volume.get("projected", {}).get("sources", [])]:
            if "secret" in source:
                found.append(("Secret", source["secret"].get("secretName") or source["secret"]["name"]))
            if "configMap" in source:
                found.append(("ConfigMap", source["configMap"]["name"]))
            if "persistentVolumeClaim" in source:
                found.append(("PersistentVolumeClaim", source["persistentVolumeClaim"]["claimName"]))
    return found


# --- laws


@case
def test_the_configuration_is_one_that_the_coordinator_takes(case: str, tmp_path: Path) -> None:
    config = config_of(case=case, folder=tmp_path)
    assert config.launcher == "kubernetes"
    assert config.listen.metrics_port == 9090


def test_how_long_jobs_are_kept_is_told_to_the_coordinator(tmp_path: Path) -> None:
    kept = config_of(folder=tmp_path).retention
    assert (kept.max_jobs, kept.max_age_days) == (1000, None)
    kept = config_of({"retention": {"maxJobs": 0, "maxAgeDays": 30.5}}, folder=tmp_path).retention
    assert (kept.max_jobs, kept.max_age_days) == (None, 30.5)


def test_roles_are_told_to_the_coordinator(tmp_path: Path) -> None:
    auth = config_of(case="existing-secrets", folder=tmp_path).auth
    assert [(token.name, token.role) for token in auth.tokens] == [("nightly", "editor"), ("alice", "viewer")]
    assert auth.oidc is not None
    assert (auth.oidc.role, auth.oidc.groups, auth.oidc.editor_groups) == ("viewer", ("ml",), ())
    assert auth.oidc.admin_groups == ("platform",)


@case
def test_every_file_of_the_configuration_is_mounted(case: str, tmp_path: Path) -> None:
    rendered = render(case=case)
    config = config_of(case=case, folder=tmp_path)
    (container,) = rendered.one("Deployment")["spec"]["template"]["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    there = set()
    for volume in rendered.one("Deployment")["spec"]["template"]["spec"]["volumes"]:
        for source in volume.get("projected", {}).get("sources", []):
            (origin,) = source.values()
            there |= {f"{mounts[volume['name']]}/{item['path']}" for item in origin.get("items", [])}
    files = [config.auth.token_file, config.auth.metrics_token_file, *(token.file for token in config.auth.tokens)]
    if config.tls:
        files += [config.tls.certificate, config.tls.key, config.tls.authority, config.tls.client_authority]
    if config.auth.oidc:
        files.append(config.auth.oidc.authority)
    if config.database:
        files.append(config.database.url_file)
    assert {file for file in files if file} == there


@case
def test_objects_are_named_once_in_63_characters_and_labelled(case: str) -> None:
    rendered = render(case=case)
    names = Counter((o["kind"], o["metadata"]["name"]) for o in rendered)
    assert max(names.values()) == 1
    ours = [o for o in rendered if "labels" in o["metadata"]]
    assert len(ours) >= len(rendered.objects) - 2  # all but the extra objects of one case
    for o in ours:
        assert IDENTITY.items() <= o["metadata"]["labels"].items(), o["metadata"]["name"]
        if o["kind"] in CLUSTER_SCOPED:
            assert "namespace" not in o["metadata"]
        else:
            assert o["metadata"]["namespace"] == "training"
            assert NAME.fullmatch(o["metadata"]["name"])
        for value in o["metadata"]["labels"].values():
            assert re.fullmatch(r"([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?", value)


@case
def test_two_releases_share_no_object(case: str) -> None:
    def names(release: str, namespace: str) -> set[tuple[str, ...]]:
        account = {"serviceAccount": {"name": f"{release}-account"}}  # a name of the user's, in two cases
        override = {"fullnameOverride": f"{release}-cordee", "coordinator": account, "extraObjects": []}
        rendered = render(override, case=case, release=release, namespace=namespace)
        kinds = [o for o in rendered if o["kind"] != "CustomResourceDefinition"]
        return {(o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]) for o in kinds}

    assert not names("one", "a") & names("one", "b")
    assert not names("one", "a") & names("two", "a")


@case
def test_pods_meet_the_restricted_standard_and_write_nowhere_but_in_volumes(case: str) -> None:
    for pod in render(case=case).pods.values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["securityContext"].get("runAsUser", 65532) == 65532
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]
            # No secret stands in an object's text: not in the environment, not in arguments.
            assert all("value" not in e or "token" not in e["name"].lower() for e in container["env"])


@case
def test_only_the_coordinator_has_a_token_of_the_api_server(case: str) -> None:
    rendered = render(case=case)
    with_token = {name for name, pod in rendered.pods.items() if pod["automountServiceAccountToken"]}
    # The hook that takes jobs along before an uninstall works as the coordinator.
    assert with_token == {"coordinator", "cleanup"}
    assert set(rendered.pods) == {"coordinator", "cleanup", "test"}
    assert all(account["automountServiceAccountToken"] is False for account in rendered.all("ServiceAccount"))


@case
def test_environment_and_mounts_have_no_name_twice(case: str) -> None:
    """Server-side apply refuses lists that have a key twice."""
    for pod in render(case=case).pods.values():
        for container in pod["containers"]:
            for names in ([e["name"] for e in container["env"]], [m["mountPath"] for m in container["volumeMounts"]]):
                assert len(set(names)) == len(names)
        names = [volume["name"] for volume in pod["volumes"]]
        assert len(set(names)) == len(names)


@case
def test_the_coordinator_may_nothing_beyond_its_namespace_but_ask_whose_a_token_is(case: str) -> None:
    rendered = render(case=case)
    bound = {o["roleRef"]["name"] for o in rendered.all("ClusterRoleBinding")}
    for role in rendered.all("ClusterRole"):
        if role["metadata"]["name"] in bound:
            assert role["rules"] == [
                {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}
            ]
    for rule in (rule for role in rendered.all("Role") for rule in role["rules"]):
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        assert not {"secrets", "nodes", "serviceaccounts", "pods/exec"} & set(rule["resources"])
    for account in rendered.all("ServiceAccount", "workers"):
        subjects = [s["name"] for o in rendered if o["kind"].endswith("Binding") for s in o["subjects"]]
        assert account["metadata"]["name"] not in subjects


@case
def test_what_jobs_may_not_mount_is_everything_that_the_coordinator_mounts(case: str, tmp_path: Path) -> None:
    protected = set(config_of(case=case, folder=tmp_path).kubernetes.protected_secrets)
    rendered = render(case=case)
    used = {name for kind, name in volume_sources(rendered.one("Deployment")["spec"]["template"]["spec"])
            if kind in ("Secret", "ConfigMap")}  # fmt: skip
    public = {"login-ca"}  # an authority's certificate
    assert used - public <= protected
    assert {o["metadata"]["name"] for o in rendered.all("Secret")} <= protected


@case
def test_selectors_find_the_pods_they_are_for(case: str) -> None:
    rendered = render(case=case)
    labels = rendered.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    leader = {"cordee.dev/leader": "true"}  # the coordinator's own to give
    assert rendered.one("Deployment")["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for service in rendered.all("Service"):
        assert service["spec"]["selector"].items() <= (labels | leader).items()
        ports = {p["name"] for c in rendered.pods["coordinator"]["containers"] for p in c["ports"]}
        assert {p["targetPort"] for p in service["spec"]["ports"]} <= ports
    for kind in ("PodDisruptionBudget", "PodMonitor"):
        for o in rendered.all(kind):
            assert o["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for monitor in rendered.all("ServiceMonitor"):
        (found,) = [
            s for s in rendered.all("Service")
            if monitor["spec"]["selector"]["matchLabels"].items() <= s["metadata"]["labels"].items()
        ]  # fmt: skip
        assert {p["name"] for p in found["spec"]["ports"]} == {"metrics"}


@case
def test_hooks_go_when_they_succeed_and_make_way_for_the_next(case: str) -> None:
    hooks = [o for o in render(case=case) if "helm.sh/hook" in o["metadata"].get("annotations", {})]
    assert {(o["kind"], o["metadata"]["annotations"]["helm.sh/hook"]) for o in hooks} == {
        ("Pod", "test"),
        ("ConfigMap", "test"),
        ("Pod", "pre-delete"),
    }
    for o in hooks:
        assert o["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
