"""Pods from jobs: restricted by default, what a job asks for, and what it cannot have by whatever field."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cordee.coordinator.config import Advertise, Config
from cordee.coordinator.errors import InvalidError
from cordee.coordinator.service.launchers.base import AgentSpec
from cordee.coordinator.spec import JobSpec
from cordee.k8s.merging import merge
from cordee.k8s.owners import Owner
from cordee.k8s.pods import pod_environment, pod_manifest

GOLDEN = Path(__file__).parent / "golden"
IMAGE = "registry.example/cordee@sha256:" + "0" * 64
PLATFORM = {
    "apiVersion": "cordee.dev/v1alpha1",
    "kind": "CoordinatorConfig",
    "launcher": "kubernetes",
    "tls": {"certificate": "/tls/tls.crt", "key": "/tls/tls.key"},
    "kubernetes": {
        "instance": "research",
        "image": IMAGE,
        "imagePullSecrets": ["registry"],
        "serviceAccount": "cordee-worker",
        "allowedServiceAccounts": ["reader"],
        "protectedSecrets": ["cordee-token", "cordee-tls", "storage-key"],
        "protectedClaims": ["cordee-state"],
        "authority": {"name": "cordee-tls", "key": "ca.crt"},
        "storage": {"url": "s3://bucket/jobs", "secret": "storage-key"},
    },
}


def config(**kubernetes: Any) -> Config:
    return Config.model_validate({**PLATFORM, "kubernetes": {**PLATFORM["kubernetes"], **kubernetes}})  # type: ignore[dict-item]


def job(pod: dict[str, Any] | None = None, **fields: Any) -> JobSpec:
    return JobSpec.model_validate({"script": "train.py", **fields, "pod": pod or {}})


def make(pod: dict[str, Any] | None = None, where: Config | None = None, **fields: Any) -> dict[str, Any]:
    where, spec = where or config(), job(pod, **fields)
    told = {"GREETING": "a $(HOME) $$ b", "CORDEE_JOB": "digits-abc", **pod_environment(where, "digits-abc", spec)}
    agent = AgentSpec("digits-abc-w0", "digits-abc", Path("/state/jobs/digits-abc"), told, spec)
    return pod_manifest(agent, where, "team", owner=Owner("digits-abc", "u-1"))


def worker(pod: dict[str, Any]) -> dict[str, Any]:
    return next(container for container in pod["spec"]["containers"] if container["name"] == "worker")


EVERYTHING = {
    "image": "other:1",
    "imagePullPolicy": "Always",
    "imagePullSecrets": ["mine"],
    "resources": {"gpu": 2, "cpu": "1500m", "memory": "8Gi", "sharedMemory": "2Gi", "ephemeralStorage": "10G"},
    "secretEnv": {"PASSWORD": {"name": "database", "key": "password"}},
    "envFrom": [{"configMapRef": {"name": "more"}}],
    "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": True}],
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "nodeSelector": {"zone": "a"},
    "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "priorityClassName": "batch",
    "serviceAccountName": "reader",
    "runtimeClassName": "gvisor",
    "schedulerName": "gang",
    "labels": {"team": "vision"},
    "annotations": {"example.com/cost": "42"},
    "terminationGracePeriodSeconds": 60,
    "template": {
        "spec": {
            "hostname": "w",
            "containers": [
                {"name": "worker", "env": [{"name": "EXTRA", "value": "1"}], "stdin": True},
                {"name": "sidecar", "image": "sidecar:1"},
            ],
        }
    },
}


@pytest.mark.parametrize(("name", "pod", "fields"), [("plain", {}, {}), ("everything", EVERYTHING, {"device": "cuda"})])
def test_the_manifest_is_the_golden_one(name: str, pod: dict[str, Any], fields: dict[str, Any]) -> None:
    """Written anew with CORDEE_GOLDEN=1; to be read, as a diff, before it is committed."""
    import os

    made = json.dumps(make(pod, **fields), indent=1, sort_keys=True) + "\n"
    path = GOLDEN / f"{name}.json"
    if os.environ.get("CORDEE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(made)
    assert made == path.read_text()


def test_what_restricted_demands_is_there() -> None:
    pod = make()
    spec, context = pod["spec"], worker(pod)["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert context == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert spec["automountServiceAccountToken"] is False


def test_no_secret_is_written_into_a_pod() -> None:
    names = {item["name"] for item in worker(make())["env"]}
    assert "CORDEE_TOKEN" not in names
    assert "CORDEE_TOKEN_FILE" in names
    [identity] = [volume for volume in make()["spec"]["volumes"] if volume["name"] == "cordee-identity"]
    assert identity["projected"]["sources"][0]["serviceAccountToken"]["audience"] == "cordee.dev/job/digits-abc"


@pytest.mark.parametrize(("device", "pod", "expected"), [
    ("cpu", {}, None), ("auto", {}, None), ("cuda", {}, "1"),
    ("cuda", {"resources": {"gpu": 0}}, None), ("cpu", {"resources": {"gpu": 4}}, "4"),
])  # fmt: skip
def test_a_gpu_is_asked_for_where_the_job_computes_on_one(
    device: str, pod: dict[str, Any], expected: str | None
) -> None:
    assert worker(make(pod, device=device))["resources"]["limits"].get("nvidia.com/gpu") == expected


def test_without_storage_there_are_no_checkpoints_in_pods() -> None:
    told = pod_environment(config(storage={}), "j-1", job())
    assert (told["CORDEE_CHECKPOINT_SECONDS"], told["CORDEE_CHECKPOINT_STEPS"]) == ("0", "0")
    told = pod_environment(config(storage={"claim": "shared"}), "j-1", job())
    assert told["CORDEE_CHECKPOINT_STORAGE"] == "/var/lib/cordee/storage/j-1"
    assert "CORDEE_CHECKPOINT_SECONDS" not in told
    told = pod_environment(config(), "j-1", job(checkpoint={"storage": "gs://own/place"}))
    assert told["CORDEE_CHECKPOINT_STORAGE"] == "gs://own/place/j-1"


def test_the_coordinators_defaults_are_under_the_jobs_wishes() -> None:
    where = config(pod={
        "resources": {"memory": "1Gi", "cpu": 4},
        "nodeSelector": {"pool": "train", "zone": "b"},
        "tolerations": [{"key": "train", "operator": "Exists"}],
        "template": {"spec": {"dnsPolicy": "Default"}},
    })  # fmt: skip
    pod = make({"resources": {"memory": "2Gi"}, "nodeSelector": {"zone": "a"}}, where)
    assert worker(pod)["resources"]["requests"] == {"cpu": "4", "memory": "2Gi"}
    assert pod["spec"]["nodeSelector"] == {"pool": "train", "zone": "a"}
    assert pod["spec"]["tolerations"][0] == {"key": "train", "operator": "Exists"}
    assert pod["spec"]["dnsPolicy"] == "Default"


def template(**spec: Any) -> dict[str, Any]:
    return {"template": {"spec": spec}}


def in_worker(**container: Any) -> dict[str, Any]:
    return template(containers=[{"name": "worker", **container}])


IDENTITY = {"mountPath": "/", "name": "cordee-identity"}
VOLUME = {"name": "v", "hostPath": {"path": "/"}}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"volumes": [VOLUME]}, "hostPath"),
    (template(volumes=[VOLUME]), "hostPath"),
    (template(volumes=[{"name": "cordee-work", "emptyDir": None, "hostPath": {"path": "/"}}]), "hostPath"),
    ({"volumes": [{"name": "v", "nfs": {"server": "a", "path": "/"}}]}, "kind nfs"),
    ({"volumes": [{"name": "v", "secret": {"secretName": "sh.helm.release.v1.demo.v1"}}]}, "sh.helm.release"),
    ({"secretEnv": {"A": {"name": "sh.helm.release.v1.demo.v1", "key": "release"}}}, "sh.helm.release"),
    (template(volumes=[{"name": "v", "projected": {"sources": [{"secret": {"name": "sh.helm.release.v1.d.v2"}}]}}]),
     "sh.helm.release"),
    ({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "cordee-state"}}]}, "cordee-state"),
    (template(volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "cordee-state"}}]), "cordee-state"),
    (template(volumes=[{"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {
        "dataSource": {"kind": "PersistentVolumeClaim", "name": "cordee-state"}}}}}]), "cordee-state"),
    (template(volumes=[{"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {
        "dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "cordee-state"}}}}}]), "cordee-state"),
    ({"annotations": {"container.apparmor.security.beta.kubernetes.io/worker": "unconfined"}}, "AppArmor"),
    (in_worker(securityContext={"seLinuxOptions": {"type": "spc_t"}}), "SELinux"),
    (template(hostNetwork=True), "hostNetwork"),
    (template(hostPID=True), "hostPID"),
    (template(hostIPC=True), "hostIPC"),
    (template(nodeName="a"), "nodeName"),
    (template(restartPolicy="Always"), "restartPolicy"),
    (in_worker(securityContext={"privileged": True}), "privileged"),
    (in_worker(securityContext={"allowPrivilegeEscalation": True}), "gain privileges"),
    (in_worker(securityContext={"capabilities": {"add": ["SYS_ADMIN"]}}), "SYS_ADMIN"),
    (in_worker(securityContext={"runAsUser": 0}), "root"),
    (in_worker(securityContext={"seccompProfile": {"type": "Unconfined"}}), "seccomp"),
    (in_worker(ports=[{"containerPort": 1, "hostPort": 1}]), "port of the host"),
    (in_worker(command=["sh"]), "command"),
    (in_worker(env=[{"name": "CORDEE_JOB", "value": "other"}]), "CORDEE_JOB"),
    (in_worker(env=[{"name": "CORDEE_JOB", "$patch": "delete"}]), "CORDEE_"),
    (in_worker(env=[{"name": "CORDEE_NEW", "value": "x"}]), "CORDEE_NEW"),
    (in_worker(volumeMounts=[{"mountPath": "/var/run/secrets/cordee", "name": "cordee-work"}]), "identity|cordee"),
    (in_worker(volumeMounts=[{"mountPath": "/var/run/secrets", "name": "cordee-work"}]), "over"),
    (in_worker(volumeMounts=[{"mountPath": "/var/run/secrets/cordee/token", "name": "cordee-tmp"}]), "over"),
    (in_worker(volumeMounts=[{"mountPath": "/mine", "name": "cordee-identity"}]), "elsewhere"),
    ({"volumeMounts": [{"mountPath": "/mine", "name": "cordee-identity"}]}, "elsewhere"),
    ({"volumes": [{"name": "cordee-identity", "emptyDir": {}}]}, "cordee-identity"),
    (template(volumes=[{"name": "cordee-identity", "projected": {"sources": []}}]), "cordee-identity"),
    (template(volumes=[{"name": "cordee-identity", "$patch": "delete"}]), "cordee-identity"),
    (template(containers=[{"name": "y", "volumeMounts": [IDENTITY]}]), "elsewhere"),
    (template(containers=[{"name": "worker", "$patch": "delete"}]), "containers named worker"),
    (template(initContainers=[{"name": "i", "securityContext": {"privileged": True}}]), "privileged"),
    (template(ephemeralContainers=[{"name": "i"}]), "ephemeral"),
    ({"serviceAccountName": "admin"}, "service account admin"),
    (template(serviceAccountName="admin"), "service account admin"),
    (template(serviceAccount="admin"), "service account admin"),
    (template(automountServiceAccountToken=True), "token for the API server"),
    ({"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}, "token"),
    ({"secretEnv": {"A": {"name": "cordee-token", "key": "token"}}}, "cordee-token"),
    ({"envFrom": [{"secretRef": {"name": "cordee-token"}}]}, "cordee-token"),
    ({"envFrom": [{"configMapRef": {"name": "cordee-token"}}]}, "cordee-token"),
    ({"volumes": [{"name": "v", "secret": {"secretName": "cordee-tls"}}]}, "cordee-tls"),
    ({"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "cordee-tls"}}]}}]}, "cordee-tls"),
    ({"volumes": [{"name": "v", "configMap": {"name": "cordee-tls"}}]}, "cordee-tls"),
    ({"imagePullSecrets": ["cordee-token"]}, "cordee-token"),
    ({"volumes": [{"name": "v", "secret": {"secretName": "storage-key"}}]}, "storage-key"),
    (in_worker(env=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "cordee-tls", "key": "k"}}}]), "cordee-tls"),
    ({"template": {"metadata": {"labels": {"cordee.dev/job": "other"}}}}, "cordee.dev/job"),
    ({"template": {"metadata": {"labels": {"app.kubernetes.io/instance": "other"}}}}, "instance"),
    ({"template": {"metadata": {"labels": {"cordee.dev/leader": "true"}}}}, "cordee.dev/leader"),
    ({"template": {"metadata": {"labels": {"cordee.dev/worker": None}}}}, "cordee.dev/worker"),
    ({"template": {"metadata": {"name": "other"}}}, "name"),
    ({"template": {"metadata": {"namespace": "kube-system"}}}, "namespace"),
    ({"template": {"metadata": {"ownerReferences": None}}}, "ownerReferences"),
    ({"template": {"metadata": {"finalizers": ["a/b"]}}}, "finalizers"),
    ({"template": {"kind": "Job"}}, "kind"),
    ({"template": {"spec": None}}, "no pod"),
    ({"template": {"spec": {"containers": ["worker"]}}}, "no pod"),
    ({"priorityClassName": "system-node-critical"}, "system-node-critical"),
    (template(securityContext={"runAsNonRoot": None}), "runAsNonRoot"),
    (template(securityContext={"sysctls": [{"name": "a", "value": "1"}]}), "sysctls"),
]  # fmt: skip


@pytest.mark.parametrize(("pod", "said"), REFUSED, ids=range(len(REFUSED)))
def test_what_a_pod_must_not_have_is_refused_with_a_sentence(pod: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidError) as caught:
        make(pod)
    assert re.search(said, caught.value.message)
    assert caught.value.message.startswith("spec.pod")


def test_an_image_there_must_be() -> None:
    with pytest.raises(InvalidError, match=r"spec\.pod\.image is missing"):
        make({}, config(image=None))


def test_a_service_account_that_is_allowed_may_have_its_token() -> None:
    pod = make({"serviceAccountName": "reader", **template(automountServiceAccountToken=True)})
    assert pod["spec"]["serviceAccountName"] == "reader"


# -- properties


def unfolded(text: str, known: dict[str, str]) -> str:
    """What a container gets to see of a value: Kubernetes' third_party/forked/golang/expansion, in Python."""
    out, k = [], 0
    while k < len(text):
        if text[k] == "$" and k + 1 < len(text):
            if text[k + 1] == "$":
                out.append("$")
                k += 2
                continue
            if text[k + 1] == "(" and ")" in text[k + 2 :]:
                end = text.index(")", k + 2)
                name = text[k + 2 : end]
                out.append(known.get(name, f"$({name})"))
                k = end + 1
                continue
        out.append(text[k])
        k += 1
    return "".join(out)


@given(st.text("$()HOMEab\n", max_size=30))
def test_a_variable_reaches_the_script_as_it_was_written(value: str) -> None:
    where, spec = config(), job()
    agent = AgentSpec("j-w0", "j", Path("/"), {"X": value, "HOME": "/h"}, spec)
    [item] = [i for i in worker(pod_manifest(agent, where, "n"))["env"] if i["name"] == "X"]
    assert unfolded(item["value"], {"HOME": "/h"}) == value


NAMES = st.sampled_from(
    [
        "containers",
        "worker",
        "name",
        "env",
        "value",
        "volumes",
        "volumeMounts",
        "mountPath",
        "hostPath",
        "securityContext",
        "privileged",
        "capabilities",
        "add",
        "hostNetwork",
        "labels",
        "cordee.dev/job",
        "metadata",
        "spec",
        "$patch",
        "CORDEE_JOB",
        "cordee-identity",
        "/var/run/secrets/cordee",
        "secret",
        "secretName",
        "cordee-tls",
        "projected",
        "serviceAccountName",
        "admin",
        "initContainers",
        "restartPolicy",
        "delete",
        "replace",
        "x",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
CONTAINERS = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from(["worker", "other"])}, optional={
        "env": JSON, "volumeMounts": JSON, "securityContext": JSON, "command": JSON, "$patch": NAMES, "envFrom": JSON,
    }), max_size=2,
)  # fmt: skip
PATCHES = st.dictionaries(NAMES, JSON, max_size=3) | st.fixed_dictionaries(
    {},
    optional={
        "metadata": JSON,
        "spec": st.fixed_dictionaries({}, optional={
            "containers": CONTAINERS | JSON, "initContainers": CONTAINERS, "volumes": JSON, "hostPID": JSON,
            "securityContext": JSON, "serviceAccountName": JSON, "restartPolicy": JSON,
        }),
    },
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(PATCHES)
def test_no_patch_gets_past_the_guard(patch: dict[str, Any]) -> None:
    plain = make()
    try:
        pod = make({"template": patch})
    except InvalidError:
        return
    for label, value in plain["metadata"]["labels"].items():
        assert pod["metadata"]["labels"][label] == value
    assert pod["metadata"]["name"] == plain["metadata"]["name"]
    assert [v for v in pod["spec"]["volumes"] if v["name"] == "cordee-identity"] == [
        v for v in plain["spec"]["volumes"] if v["name"] == "cordee-identity"
    ]
    ours = [i for i in worker(plain)["env"] if i["name"].startswith("CORDEE_")]
    assert [i for i in worker(pod)["env"] if i["name"].startswith("CORDEE_")] == ours
    assert not any("hostPath" in volume for volume in pod["spec"]["volumes"])
    assert not any(pod["spec"].get(field) for field in ("hostPID", "hostNetwork", "hostIPC", "nodeName"))
    for container in (*pod["spec"]["containers"], *pod["spec"].get("initContainers", ())):
        context = container["securityContext"]
        assert not context.get("privileged")
        assert not context["capabilities"].get("add")
        assert "cordee-tls" not in json.dumps([container.get("env"), container.get("envFrom")])
    assert pod["spec"].get("serviceAccountName") in ("cordee-worker", None)
    others = [v for v in pod["spec"]["volumes"] if v["name"] != "cordee-identity"]
    assert "cordee-tls" not in json.dumps(others)


@given(st.dictionaries(NAMES, JSON, max_size=4), st.dictionaries(NAMES, JSON, max_size=4))
def test_merging_leaves_what_it_merges_alone(target: dict[str, Any], patch: dict[str, Any]) -> None:
    before = json.dumps([target, patch])
    try:
        merged = merge(target, patch)
    except ValueError:
        return
    finally:
        assert json.dumps([target, patch]) == before
    assert all(key in merged for key, value in patch.items() if value is not None and key != "$patch")
    assert not any(key in merged for key, value in patch.items() if value is None)
    assert merge(target, {}) == target


def test_a_pods_logs_and_results_travel_to_where_the_coordinator_can_be_reached() -> None:
    where = config().model_copy(update={"advertise": Advertise(rest="https://cordee.here.svc:8470/")})
    found = {entry["name"]: entry.get("value") for entry in worker(make(where=where))["env"]}
    assert found["CORDEE_UPLOADS"] == "https://cordee.here.svc:8470/v1/workers/digits-abc-w0"
