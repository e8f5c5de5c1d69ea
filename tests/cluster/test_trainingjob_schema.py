"""TrainingJob objects as the API server takes them: what it refuses and in which words, defaults, scale, status."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.control_plane import ControlPlane
from cordee.coordinator.spec import parse_job
from cordee.k8s.crd import GROUP, PLURAL, VERSION
from cordee.k8s.status import JobFacts, MemberFacts, accepted_status

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

CRD = Path(__file__).parents[2] / "helm" / "cordee" / "files" / "crds" / "trainingjobs.yaml"
NAMESPACE = "default"
JOBS = f"/apis/{GROUP}/{VERSION}/namespaces/{NAMESPACE}/{PLURAL}"


@pytest.fixture(scope="module")
def plane(api_server: ControlPlane) -> ControlPlane:
    api_server.kubectl("apply", "--server-side", "-f", str(CRD))
    api_server.kubectl("wait", "--for=condition=Established", f"crd/{PLURAL}.{GROUP}", "--timeout=30s")
    return api_server


@pytest.fixture(autouse=True)
def _no_jobs_stay(plane: ControlPlane) -> Iterator[None]:
    yield
    assert plane.request("DELETE", JOBS)[0] == 200


def job(name: str = "digits", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainingJob",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"script": "train.py", "sourceFrom": {"configMap": "code"}, **spec},
    }


def create(plane: ControlPlane, thing: dict[str, Any]) -> str:
    """What the API server says to a new object: `created`, or why not."""
    status, answer = plane.request("POST", f"{JOBS}?fieldValidation=Strict", thing)
    return "created" if status == 201 else str(answer["message"])


def explained(plane: ControlPlane, field: str, *, seconds: float = 20.0) -> str:
    """What kubectl says of a field, once the API server has published the schema, a moment after the resource."""
    until = time.monotonic() + seconds
    while True:
        try:
            return plane.kubectl("explain", field)
        except RuntimeError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.1)


def patch(plane: ControlPlane, spec: dict[str, Any], name: str = "digits") -> str:
    status, answer = plane.request("PATCH", f"{JOBS}/{name}", {"spec": spec})
    return "patched" if status == 200 else str(answer["message"])


def read(plane: ControlPlane, name: str = "digits", part: str = "") -> Any:
    status, answer = plane.request("GET", f"{JOBS}/{name}{part}")
    assert status == 200
    return answer


def test_it_is_established_and_structural(plane: ControlPlane) -> None:
    crd = plane.get("crd", f"{PLURAL}.{GROUP}")
    conditions = {condition["type"]: condition["status"] for condition in crd["status"]["conditions"]}
    assert conditions == {"Established": "True", "NamesAccepted": "True"}  # no NonStructuralSchema among them


def test_kubectl_knows_it_by_its_short_name_and_explains_it(plane: ControlPlane) -> None:
    known = plane.kubectl("api-resources", "--api-group", GROUP, "-o", "wide")
    assert " tj " in known
    assert "all,cordee" in known
    assert "how long the job may be below workers.min" in explained(
        plane, "trainingjob.spec.failurePolicy.minimumTimeoutSeconds"
    )


def test_a_job_may_say_which_kernels_compute(plane: ControlPlane) -> None:
    assert create(plane, job(env={"CORDEE_KERNELS": "numpy", "CORDEE_KERNEL_CACHE": "/cache"})) == "created"


def test_defaults_are_those_of_the_job_file(plane: ControlPlane) -> None:
    plane.apply(job())
    stored = read(plane)["spec"]
    assert stored["workers"] == {"min": 1, "max": 1}
    assert stored["checkpoint"] == {"intervalSeconds": 30, "intervalSteps": 0, "keep": 3, "keepSeconds": 0}
    written = {**job(), "metadata": {"name": "digits"}}
    short = parse_job({**written, "spec": {"script": "train.py"}})
    assert parse_job({**written, "spec": {**stored, "sourceFrom": None}}) == short


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"workers": {"min": 3, "max": 1}}, "spec.workers: Invalid value: min must be at most max"),
        ({"workers": {"min": 0, "max": 1}}, "spec.workers.min in body should be greater than or equal to 1"),
        ({"workers": 3}, 'spec.workers in body must be of type object: "integer"'),
        ({"env": {"CORDEE_JOB": "x"}}, "names that begin with CORDEE_ are Cordee's own; choose another name"),
        ({"env": {"CORDEE_KERNELS": "numpy", "CORDEE_X": "x"}}, "names that begin with CORDEE_ are Cordee's own"),
        ({"env": {"a b": "x"}}, "names of environment variables are letters, digits and '_'"),
        ({"script": "/train.py"}, 'spec.script: Invalid value: "/train.py": must be a path inside the source'),
        ({"script": "a/../../b.py"}, "must be a path inside the source, such as train.py: relative, without '..'"),
        ({"sourceFrom": {}}, "spec.sourceFrom: Invalid value: must have exactly one of configMap, image and bundle"),
        ({"sourceFrom": {"configMap": "a", "bundle": "0" * 64}}, "must have exactly one of"),
        ({"sourceFrom": {"image": {"path": "work"}}}, "spec.sourceFrom.image.path in body should match '^/'"),
        ({"sourceFrom": {"image": {"path": "/a/../b"}}}, "must be an absolute path in the workers' image"),
        ({"sourceFrom": {"bundle": "abc"}}, "spec.sourceFrom.bundle in body should be at least 64 chars long"),
        (
            {"checkpoint": {"storage": "ftp://host/x"}},
            "s3://bucket/prefix, gs://bucket/prefix or az://container/prefix",
        ),
        ({"checkpoint": {"storage": "s3://key@bucket/x"}}, "credentials do not belong into it"),
        ({"warmStart": "weights"}, 'spec.warmStart: Invalid value: "weights": must be a path'),
        ({"failurePolicy": {"windowSeconds": 0}}, "spec.failurePolicy.windowSeconds in body should be greater than 0"),
        ({"pod": {"secretEnv": {"CORDEE_X": {"name": "a", "key": "b"}}}}, "begin with CORDEE_ are Cordee's own"),
        ({"pod": {"resources": {"memory": 1.5}}}, "spec.pod.resources.memory in body must be of type"),
        ({"device": "tpu"}, 'spec.device: Unsupported value: "tpu"'),
        ({"threads": "2"}, 'spec.threads in body must be of type integer: "string"'),
        ({"thrads": 2}, 'unknown field "spec.thrads"'),
    ],
)
def test_a_mistake_is_refused_with_a_sentence(plane: ControlPlane, spec: dict[str, Any], sentence: str) -> None:
    assert sentence in create(plane, job(**spec))


@pytest.mark.parametrize("place", ["/data/a", "s3://bucket", "s3://bucket/a/b", "gs://b/x", "az://c/x", "file:///data"])
def test_every_place_that_the_job_file_takes_is_taken(plane: ControlPlane, place: str) -> None:
    assert create(plane, job(checkpoint={"storage": place}, warmStart=place)) == "created"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("a.b", "metadata.name must be a DNS label"), ("a" * 41, "metadata.name must be at most 40 characters")],
)
def test_a_name_that_no_worker_could_have_is_refused(plane: ControlPlane, name: str, sentence: str) -> None:
    assert sentence in create(plane, job(name))


def test_an_object_of_a_submitted_job_may_be_named_as_its_id(plane: ControlPlane) -> None:
    assert create(plane, job("a" * 40 + "-abc234", sourceFrom={"bundle": "0" * 64})) == "created"


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("script", {"script": "other.py"}),
        ("threads", {"threads": 2}),
        ("env", {"env": {"A": "b"}}),
        ("sourceFrom", {"sourceFrom": {"configMap": "other"}}),
        ("checkpoint", {"checkpoint": {"keep": 7}}),
        ("chaos", {"chaos": True}),
        ("pod", {"pod": {"image": "other"}}),
        ("pod", {"pod": {"tolerations": []}}),
        ("pod", {"pod": {"template": {"spec": {"hostNetwork": True}}}}),
    ],
)
def test_nothing_but_the_workers_can_be_changed(plane: ControlPlane, field: str, change: dict[str, Any]) -> None:
    pod = {
        "image": "one",
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "resources": {"cpu": 2, "memory": "1Gi"},
    }
    assert create(plane, job(pod=pod)) == "created"
    assert read(plane)["spec"]["pod"] == pod
    assert f"spec.{field}: Forbidden: {field} cannot be changed once the job exists" in patch(plane, change)
    assert patch(plane, {"workers": {"max": 4}, "ttlSecondsAfterFinished": 4}) == "patched"


def test_it_is_scaled_like_a_deployment_within_its_range(plane: ControlPlane) -> None:
    plane.apply(job(workers={"min": 2, "max": 3}))
    assert "scaled" in plane.kubectl("scale", "tj/digits", "--replicas=5")
    scale = read(plane, part="/scale")
    assert (scale["kind"], scale["spec"]["replicas"]) == ("Scale", 5)
    with pytest.raises(RuntimeError, match="min must be at most max"):
        plane.kubectl("scale", "tj/digits", "--replicas=1")
    assert read(plane)["spec"]["workers"] == {"min": 2, "max": 5}


def test_applying_twice_on_the_servers_side_changes_nothing(plane: ControlPlane) -> None:
    def apply() -> str:
        plane.apply(job())
        return str(read(plane)["metadata"]["resourceVersion"])

    assert apply() == apply()


def test_the_status_is_shown_in_columns_and_waited_for(plane: ControlPlane) -> None:
    plane.apply(job())
    facts = JobFacts(
        id="digits-abc234",
        name="digits",
        state="running",
        maximum=3,
        running=2,
        step=7,
        loss=0.25,
        members=(MemberFacts("digits-abc234-w0", "training", 0, 1, "a"),),
    )
    status = accepted_status(facts, 1, {}, 1.0)
    assert plane.request("PATCH", f"{JOBS}/digits/status", {"status": status})[0] == 200
    assert read(plane)["status"] == status
    table = plane.kubectl("get", "tj", "-n", NAMESPACE).splitlines()
    assert table[0].split() == ["NAME", "STATE", "WORKERS", "STEP", "LOSS", "AGE"]
    assert table[1].split()[:5] == ["digits", "running", "2/3", "7", "0.25"]
    assert read(plane, part="/scale")["status"] == {"replicas": 2, "selector": "cordee.dev/job=digits-abc234"}
    assert "condition met" in plane.kubectl("wait", "--for=condition=Running", "tj/digits", "--timeout=5s")
    assert "digits" in plane.kubectl("get", "tj", "--field-selector", "status.state=running", "-o", "name")
    assert "digits" not in plane.kubectl("get", "tj", "--field-selector", "status.state=failed", "-o", "name")
    over = {"status": {"members": [{"name": f"w{n}", "state": "training"} for n in range(65)]}}
    code, answer = plane.request("PATCH", f"{JOBS}/digits/status", over)
    assert (code, "must have at most 64 items" in answer["message"]) == (422, True)


@pytest.mark.parametrize("page", ["reference/training-job.md", "how-to/jobs-with-kubectl.md"])
def test_what_the_pages_apply_is_taken(plane: ControlPlane, page: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8")
    things = [yaml.safe_load(block.split("```")[0]) for block in text.split("```yaml\n")[1:]]
    things += [yaml.safe_load(block.split("END\n")[0]) for block in text.split("<<'END'\n")[1:]]
    assert things
    for thing in things:
        said = plane.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(thing))
        assert "created (server dry run)" in said
