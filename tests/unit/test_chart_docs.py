"""The chart's schema and README say what its values.yaml says."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "cordee"
SCRIPT = ROOT / "scripts" / "make_chart_docs.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_chart_docs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for a class's module
    spec.loader.exec_module(module)
    return module


def test_schema_and_readme_have_not_drifted() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_comment_describes_its_field_and_adds_to_its_schema(script: ModuleType) -> None:
    text = "# About a.\n# More of it.\n# @schema {minimum: 1}\na: 3\n\n# Not about b.\n\nb:\n  # Inner.\n  c: {}\n"
    a, b = script.read_values(text)
    assert a.description == "About a. More of it."
    assert script.schema_of(a) == {"description": a.description, "type": "integer", "default": 3, "minimum": 1}
    assert b.description == ""
    assert script.schema_of(b)["additionalProperties"] is False
    assert "additionalProperties" not in script.schema_of(b)["properties"]["c"]


def test_a_field_without_a_description_is_refused(script: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"values.yaml:2: a\.b has no comment"):
        script.read_values("a:\n  b: 1\n")


def test_every_default_meets_the_schema_and_nothing_else_is_a_value() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

    def walk(schema: dict[str, object], value: object, path: str) -> None:
        properties = schema.get("properties")
        if isinstance(value, dict) and isinstance(properties, dict):
            assert set(value) <= set(properties), path
            for key, inner in value.items():
                walk(properties[key], inner, f"{path}.{key}")
        elif "default" in schema:
            assert schema["default"] == value, path

    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == {*values, "global"}
    walk(schema, values, "")


def test_the_charts_version_is_the_packages() -> None:
    import tomllib

    package = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == package
    assert chart["kubeVersion"].startswith(">=1.29")
    changes = yaml.safe_load(chart["annotations"]["artifacthub.io/changes"])
    assert {"kind", "description"} <= set(changes[0])
