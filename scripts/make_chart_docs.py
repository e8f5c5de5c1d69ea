"""Writes the chart's values.schema.json and the tables of its README from the comments of values.yaml.

    python scripts/make_chart_docs.py            # rewrites them, and the table of docs/reference/coordinator-config.md
    python scripts/make_chart_docs.py --check    # changes nothing; exit code 1 when one of them is not up to date

So a value is described once, beside its default. The comment right above a field is its description; a line
`# @schema {…}` in it adds to the JSON Schema that follows from the default. A mapping with fields takes no others: a
mistyped value is refused at install, with its place. An empty mapping or list takes whatever Kubernetes does, and so
does one that says `additionalProperties`: fields of pods are Kubernetes' to check. What goes into the coordinator's
configuration is as strict as that: an `@schema` may refer to `#/definitions/Config`, `PodSpec`, `resources` and
`quantity`.
"""

import argparse
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cordee.coordinator.config import config_schema
from cordee.coordinator.spec_pod import PodSpec

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "helm" / "cordee"
VALUES, SCHEMA, README = CHART / "values.yaml", CHART / "values.schema.json", CHART / "README.md"
CONFIG = ROOT / "docs" / "reference" / "coordinator-config.md"
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}

QUANTITY = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?$"


@dataclass
class Value:
    """One field of values.yaml."""

    path: tuple[str, ...]
    default: Any
    description: str
    schema: dict[str, Any]
    fields: list["Value"] = field(default_factory=list)


def read_values(text: str) -> list[Value]:
    """The fields of values.yaml, in its order, with what their comments say."""
    node = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(node, yaml.MappingNode)
    return _fields(node, yaml.safe_load(text), text.splitlines(), ())


def _fields(node: yaml.MappingNode, defaults: dict[str, Any], lines: list[str], above: tuple[str, ...]) -> list[Value]:
    found = []
    for key, value in node.value:
        path = (*above, key.value)
        description, schema = _comment(lines, key.start_mark.line, path)
        default = defaults[key.value]
        entry = Value(path, default, description, schema)
        if isinstance(value, yaml.MappingNode) and default and "additionalProperties" not in schema:
            entry.fields = _fields(value, default, lines, path)
        elif not description:
            line = key.start_mark.line + 1
            raise SystemExit(f"{VALUES.name}:{line}: {'.'.join(path)} has no comment that describes it")
        found.append(entry)
    return found


def _comment(lines: list[str], line: int, path: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """The comment right above a line: its text, and what its `@schema` says."""
    first = line
    while first and re.match(r"\s*#", lines[first - 1]):
        first -= 1
    words, schema = [], {}
    for text in lines[first:line]:
        said = text.strip().removeprefix("#").strip()
        if said.startswith("@schema"):
            schema = yaml.safe_load(said.removeprefix("@schema"))
            if not isinstance(schema, dict):
                raise SystemExit(f"{VALUES.name}:{line}: the @schema of {'.'.join(path)} is no mapping")
        else:
            words.append(said)
    return " ".join(words), schema


def schema_of(value: Value) -> dict[str, Any]:
    """The JSON Schema of one field."""
    result: dict[str, Any] = {"description": value.description} if value.description else {}
    if "enum" not in value.schema and "const" not in value.schema:
        result["type"] = TYPES[type(value.default)]
    if value.fields:
        result |= {"additionalProperties": False, "properties": {f.path[-1]: schema_of(f) for f in value.fields}}
    else:
        result["default"] = value.default
    return result | value.schema


def definitions() -> dict[str, Any]:
    """What values refer to: the coordinator's configuration, a job's `spec.pod`, and Kubernetes' quantities."""
    config = config_schema()
    pod = PodSpec.model_json_schema(by_alias=True, mode="validation")
    found = {**config.pop("$defs"), **pod.pop("$defs"), "Config": config, "PodSpec": pod}
    in_lists = {
        option["items"].get("$ref", "").rsplit("/", 1)[-1]
        for section in found.values()
        for option in section.get("properties", {}).values()
        if "items" in option
    }
    for name, section in found.items():
        if name not in {*in_lists, "SecretEntry"}:
            section.pop("required", None)  # it goes over what the chart says; what lies in a list is whole
    found["Kubernetes"]["properties"]["pod"] = {"$ref": "#/$defs/PodSpec"}
    for name in ("cpu", "memory", "sharedMemory", "ephemeralStorage"):
        kinds = found["PodResources"]["properties"][name]["anyOf"]
        next(kind for kind in kinds if kind["type"] == "string")["pattern"] = QUANTITY
    found = {name: _draft_7(section) for name, section in found.items()}
    quantities = {"type": "object", "additionalProperties": {"$ref": "#/definitions/quantity"}}
    return {
        **dict(sorted(found.items())),
        "quantity": {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": QUANTITY}]},
        "resources": {"type": "object", "properties": {"requests": quantities, "limits": quantities}},
    }


def _draft_7(schema: Any) -> Any:
    """A schema of Pydantic's without the names that it makes up, and with references as they are written there."""
    if isinstance(schema, list):
        return [_draft_7(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:  # whatever stands beside it does not count in draft 7
        return {"$ref": schema["$ref"].replace("#/$defs/", "#/definitions/")}
    dropped = {"$schema", "$id", "default"} | ({"title"} if isinstance(schema.get("title"), str) else set())
    return {name: _draft_7(part) for name, part in schema.items() if name not in dropped}


def whole_schema(values: list[Value]) -> str:
    """values.schema.json. Draft 7 is what editors and every Helm that there is can read."""
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart cordee",
        "description": "Written by scripts/make_chart_docs.py from values.yaml.",
        "type": "object",
        "additionalProperties": False,
        "properties": {value.path[-1]: schema_of(value) for value in values}
        | {"global": {"description": "What a chart around this one shares; not used here.", "type": "object"}},
        "definitions": definitions(),
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def table(values: list[Value]) -> str:
    """The README's tables: one for what stands alone, one for each section."""
    alone = [value for value in values if not value.fields]
    parts = ["### General", "", *_rows(alone), ""]
    for value in values:
        if value.fields:
            parts += [f"### `{value.path[0]}`", ""]
            parts += [value.description, ""] if value.description else []
            parts += [*_rows(list(_leaves(value))), ""]
    return "\n".join(parts).rstrip() + "\n"


def _leaves(value: Value) -> list[Value]:
    """A section's own fields; the description of a group of fields is that of its first one's group."""
    found: list[Value] = []
    for entry in value.fields:
        found += [entry, *_leaves(entry)] if entry.fields and entry.description else _leaves(entry) or [entry]
    return found


def _rows(values: list[Value]) -> list[str]:
    rows = ["| value | what it is | default |", "|---|---|---|"]
    for value in values:
        default = "" if value.fields else f"`{_inline(value.default)}`"
        rows.append(f"| `{'.'.join(value.path)}` | {value.description.replace('|', chr(92) + '|')} | {default} |")
    return rows


def _inline(default: Any) -> str:
    """A default on one line, as YAML."""
    text = yaml.safe_dump(default, default_flow_style=True, width=10_000, sort_keys=False).strip()
    return text.removesuffix("...").strip().replace("|", "\\|")


def config_table() -> str:
    """The fields of the coordinator's configuration file, whose sections and descriptions are its model's."""
    schema = config_schema()
    rows = ["| field | what it is | default |", "|---|---|---|"]

    def walk(section: dict[str, Any], path: str) -> None:
        for name, found in section["properties"].items():
            kinds = [found, *found.get("anyOf", []), *([found["items"]] if "items" in found else [])]
            inner = next((schema["$defs"][kind["$ref"].rsplit("/", 1)[-1]] for kind in kinds if "$ref" in kind), None)
            said = found.get("description") or " ".join((inner or {}).get("description", "").split())
            optional = name not in section.get("required", ())
            default = found.get("default")
            shown = "" if default is None or isinstance(default, dict) else f"`{_inline(default)}`"
            rows.append(
                f"| `{path}{name}` | {said.replace('|', chr(92) + '|')} | {shown if optional else 'required'} |"
            )
            if inner:
                walk(inner, f"{path}{name}[]." if "items" in found else f"{path}{name}.")

    walk(schema, "")
    return "\n".join(rows) + "\n"


def with_table(path: Path, what: str, table: str) -> str:
    """A page with what is between its marks anew."""
    begin, end = f"<!-- {what}: written by scripts/make_chart_docs.py -->", f"<!-- end of {what} -->"
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, last, after = rest.partition(end)
    if not found or not last:
        raise SystemExit(f"{path}: the table's place is marked by '{begin}' and '{end}'")
    return f"{before}{begin}\n\n{table}\n{end}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, and fail if something would change")
    arguments = parser.parse_args()
    values = read_values(VALUES.read_text(encoding="utf-8"))
    written = {
        SCHEMA: whole_schema(values),
        README: with_table(README, "values", table(values)),
        CONFIG: with_table(CONFIG, "fields", config_table()),
    }
    stale = [path for path, text in written.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if arguments.check:
        for path in stale:
            print(f"{path} is not up to date: run {Path(__file__).name}", file=sys.stderr)  # noqa: T201
        return 1 if stale else 0
    for path in stale:
        path.write_text(written[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
