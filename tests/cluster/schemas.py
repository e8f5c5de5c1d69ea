"""JSON schemas for kubeconform, of what the API server itself says of its kinds, custom ones included.

kubeconform usually fetches schemas from the internet, of some release of Kubernetes; these are those of the API server
that the objects are meant for. Strict: a field that a schema does not name is a mistake.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cluster.control_plane import ControlPlane

__all__ = ["LOCATION", "described", "write_schemas"]

LOCATION = "{{ .ResourceKind }}-{{ .ResourceAPIVersion }}.json"
_REF = "#/components/schemas/"
_KINDS = "x-kubernetes-group-version-kind"


def write_schemas(plane: ControlPlane, folder: Path, versions: Iterable[str]) -> str:
    """Writes a schema for every kind of some API versions, and returns where kubeconform finds them."""
    paths = described(plane)
    for version in versions:
        path = f"api/{version}" if "/" not in version else f"apis/{version}"
        schemas = _document(plane, paths[path]["serverRelativeURL"])["components"]["schemas"]
        strict = {name: _strict(schema) for name, schema in schemas.items()}
        for name, schema in schemas.items():
            for kind in schema.get(_KINDS, []):
                if (f"{kind['group']}/{kind['version']}").lstrip("/") != version:
                    continue
                whole = {"$ref": f"{_REF}{name}", "components": {"schemas": strict}}
                file = folder / f"{kind['kind'].lower()}-{kind['version']}.json"
                file.write_text(json.dumps(whole))
    return f"{folder}/{LOCATION}"


def described(plane: ControlPlane) -> dict[str, Any]:
    """The API versions that the API server describes, and where: custom ones a moment after they are served."""
    return dict(_document(plane, "/openapi/v3")["paths"])


def _document(plane: ControlPlane, path: str) -> Any:
    _, answer = plane.request("GET", path)
    return json.loads(answer) if isinstance(answer, str) else answer


def _strict(schema: Any) -> Any:
    """A schema by which unknown fields are mistakes, without the words that are OpenAPI's own."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    # A property may have any name, that of a word of the schema language as well.
    words = {key: value for key, value in schema.items() if not key.startswith("x-") and key != "properties"}
    result = {key: _strict(value) for key, value in words.items() if key not in ("description", "default", "example")}
    if "properties" in schema:
        result["properties"] = {key: _strict(value) for key, value in schema["properties"].items()}
    if not schema.get("properties"):
        pass
    elif "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        result.pop("type", None)
    if schema.get("nullable") and "type" in result:
        result["type"] = [result["type"], "null"]
    return result
