"""From the JSON Schema that pydantic writes to the structural OpenAPI v3 schema that a custom resource must have.

The API server takes less than JSON Schema: no `$ref`, no `anyOf` that brings types, no `additionalProperties: false`
(it removes what is unknown, and `kubectl` refuses it), exclusive bounds as a flag, and what may be anything says so.
"""

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["structural"]

Schema = dict[str, Any]

_NULL: Final = {"type": "null"}
_KEPT: Final = (
    "description",
    "type",
    "format",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "required",
    "x-kubernetes-int-or-string",
)


def structural(schema: Mapping[str, Any]) -> Schema:
    """A whole schema, its definitions put in where they are referred to."""
    return _convert(schema, schema.get("$defs") or {})


def _convert(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    schema = _resolved(schema, definitions)
    nullable = False
    if "anyOf" in schema:
        choices = [choice for choice in schema["anyOf"] if choice != _NULL]
        nullable = len(choices) < len(schema["anyOf"])
        if {choice.get("type") for choice in choices} == {"integer", "string"}:  # a quantity
            choices = [{"x-kubernetes-int-or-string": True}]
        # Of several forms the first is the whole one; the others are shorthands for people who write job files.
        said = {name: value for name, value in schema.items() if name != "anyOf"}
        schema = _resolved({**_resolved(choices[0], definitions), **said}, definitions)
    found: Schema = {name: schema[name] for name in _KEPT if name in schema}
    if "const" in schema:
        found["enum"] = [schema["const"]]
    if "exclusiveMinimum" in schema:
        found |= {"minimum": schema["exclusiveMinimum"], "exclusiveMinimum": True}
    if "properties" in schema:
        found["properties"] = {name: _convert(part, definitions) for name, part in schema["properties"].items()}
    elif found.get("type") == "object":
        values = schema.get("additionalProperties", True)
        values = _resolved(values, definitions) if isinstance(values, Mapping) else {}
        if values:
            found["additionalProperties"] = _convert(values, definitions)
        else:
            found["x-kubernetes-preserve-unknown-fields"] = True
    if "items" in schema:
        found["items"] = _convert(schema["items"], definitions)
    if "type" not in found and "x-kubernetes-int-or-string" not in found:
        found["x-kubernetes-preserve-unknown-fields"] = True
    if found.get("type") == "integer":
        found.setdefault("format", "int64")
    if nullable:
        found["nullable"] = True
    if schema.get("default") is not None:
        found["default"] = _default(schema["default"], found)
    return found


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    """What a reference stands for; what is said beside the reference wins."""
    found = dict(schema)
    while "$ref" in found:
        name = found.pop("$ref").rpartition("/")[2]
        found = {**definitions[name], **found}
    return found


def _default(value: Any, schema: Schema) -> Any:
    """A default as it is written: of a section only what its own fields would not have by themselves."""
    if isinstance(value, Mapping):
        fields = schema.get("properties") or {}
        return {
            name: item
            for name, item in value.items()
            if item is not None and fields.get(name, {}).get("default") != item
        }
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
