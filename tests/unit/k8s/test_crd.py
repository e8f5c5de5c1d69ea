"""The custom resource's schema: structural, bounded, the job file's own, and committed as it is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from cordee.coordinator.spec import JobSpec
from cordee.k8s.crd import MUTABLE, trainingjob_crd
from cordee.k8s.status import STATES, JobFacts, MemberFacts, accepted_status, refused_status
from cordee.k8s.structural import structural

ROOT = Path(__file__).parents[3]
VERSION = trainingjob_crd()["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]
SPEC = SCHEMA["properties"]["spec"]


def parts(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from parts(part, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            yield from parts(schema[name], f"{path}[{name}]")


def test_the_files_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "make_crd.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_schema_is_structural() -> None:
    foreign = {"$ref", "anyOf", "oneOf", "allOf", "not", "$defs", "title", "const", "exclusiveMaximum"}
    for path, part in parts(SCHEMA):
        assert not foreign & set(part), path
        free = part.get("x-kubernetes-preserve-unknown-fields") or part.get("x-kubernetes-int-or-string")
        assert "type" in part or free, path
        assert not ("properties" in part and "additionalProperties" in part), path
        assert isinstance(part.get("exclusiveMinimum", True), bool), path


def test_only_the_parts_that_kubernetes_knows_better_take_what_is_unknown() -> None:
    free = [path for path, part in parts(SCHEMA) if part.get("x-kubernetes-preserve-unknown-fields")]
    assert [path for path in free if not path.startswith(".spec.pod")] == []


def test_every_field_is_described() -> None:
    bare = [path for path, part in parts(SPEC) if "description" not in part and not path.endswith("]")]
    assert [path for path in bare if not path.startswith(".pod.")] == []


def test_the_spec_is_the_job_files_without_the_clients_machine() -> None:
    fields = {info.alias or name for name, info in JobSpec.model_fields.items()}
    assert set(SPEC["properties"]) == fields - {"source"}
    assert SPEC["required"] == ["script", "sourceFrom"]


def test_all_but_the_workers_is_fixed() -> None:
    fixed = {rule["fieldPath"].removeprefix(".") for rule in SPEC["x-kubernetes-validations"]}
    assert fixed == set(SPEC["properties"]) - MUTABLE
    assert {"workers", "ttlSecondsAfterFinished"} == MUTABLE


def test_the_scale_subresource_names_fields_that_are_there() -> None:
    for path in VERSION["subresources"]["scale"].values():
        assert at(path)["type"] in {"integer", "string"}
    for column in VERSION["additionalPrinterColumns"]:
        if not column["jsonPath"].startswith(".metadata"):
            assert at(column["jsonPath"])["type"] == column["type"], column


def at(path: str) -> dict[str, Any]:
    part: dict[str, Any] = SCHEMA
    for name in path.strip(".").split("."):
        part = part["properties"][name]
    return part


def unknown(value: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Fields that the API server would drop."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name not in schema.get("properties", {}):
                yield f"{path}.{name}"
            else:
                yield from unknown(inner, schema["properties"][name], f"{path}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from unknown(inner, schema["items"], f"{path}[]")


def test_what_the_status_says_is_in_the_schema() -> None:
    job = JobFacts(
        id="digits-abc",
        name="digits",
        loss=0.5,
        steps_total=10,
        checkpoint_step=5,
        started_at=1.0,
        finished_at=2.0,
        weights_sha256="f" * 64,
        members=(MemberFacts("digits-abc-w0", "training", 0, 1, "node"),),
    )
    status = at(".status")
    for shown in (accepted_status(job, 1, {}, 3.0), refused_status("no", "Invalid", 1, {}, 3.0)):
        assert list(unknown(shown, status)) == []
    full = accepted_status(job, 1, {}, 3.0)
    assert set(full) == set(status["properties"])
    assert status["properties"]["state"]["enum"] == list(STATES)


class Inner(BaseModel):
    """An inner section."""

    size: float = Field(default=2.0, gt=0)
    kind: Literal["one"] = "one"


class Outer(BaseModel):
    """A section."""

    inner: Inner = Field(default=Inner(size=3.0), description="said of the field")
    maybe: int | None = None
    several: Inner | int | str = Inner()
    free: dict[str, Any] = Field(default_factory=dict)
    anything: Any = None
    amount: int | str | None = None
    words: dict[str, str] = Field(default_factory=dict)
    things: list[dict[str, Any]] = Field(default_factory=list)


def test_structural_resolves_references_forms_and_bounds() -> None:
    found = structural(Outer.model_json_schema())["properties"]
    inner = {
        "type": "object",
        "properties": {
            "size": {"type": "number", "minimum": 0, "exclusiveMinimum": True, "default": 2},
            "kind": {"type": "string", "enum": ["one"], "default": "one"},
        },
    }
    assert found["inner"] == {**inner, "description": "said of the field", "default": {"size": 3.0}}
    assert found["maybe"] == {"type": "integer", "format": "int64", "nullable": True}
    assert found["several"] == {**inner, "description": "An inner section.", "default": {}}
    assert found["free"] == {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    assert found["anything"] == {"x-kubernetes-preserve-unknown-fields": True}
    assert found["amount"] == {"x-kubernetes-int-or-string": True, "nullable": True}
    assert found["words"] == {"type": "object", "additionalProperties": {"type": "string"}}
    assert found["things"]["items"] == {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


@pytest.mark.parametrize("name", ["job", "config"])
def test_the_published_schemas_say_what_they_are(name: str) -> None:
    schema = json.loads((ROOT / "docs" / "reference" / "schemas" / f"{name}.json").read_text(encoding="utf-8"))
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert schema["$id"].startswith("https://cordee.dev/v1alpha1/")
