"""A container's command and environment, from its pod, its image and what they refer to. Pure but for `Objects.get`."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from typing import Any, Protocol

from cluster.kubelet.images import Image

__all__ = [
    "ConfigError",
    "Objects",
    "command_of",
    "data_of",
    "environment_of",
    "expand",
    "field_of",
    "quantity",
    "resource_of",
]

Json = dict[str, Any]
_SUFFIXES = {
    **{s: Decimal(10) ** e for s, e in (("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9))},
    **{s: Decimal(10) ** e for s, e in (("T", 12), ("P", 15), ("E", 18))},
    **{s: Decimal(2) ** e for s, e in (("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60))},
}
_REFERENCE = re.compile(r"\$(\$|\([^)]*\))")


class ConfigError(Exception):
    """A container cannot be made from what its pod says: CreateContainerConfigError, tried again."""


class Objects(Protocol):
    """What a pod may refer to."""

    async def find(self, kind: str, namespace: str, name: str) -> Json | None:
        """The `configmaps` or `secrets` of that name; None where there is none."""


def quantity(text: str | float) -> Decimal:
    """Kubernetes' numbers: 500m, 1.5Gi, 2e3."""
    match = re.fullmatch(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([a-zA-Z]*)", str(text))
    if match is None or match[2] not in _SUFFIXES:
        raise ConfigError(f"{text!r} is no quantity")
    return Decimal(match[1]) * _SUFFIXES[match[2]]


def expand(text: str, known: Mapping[str, str]) -> str:
    """Kubernetes' `$(NAME)`: what is unknown stays as it is written, `$$(NAME)` is a literal."""

    def replaced(match: re.Match[str]) -> str:
        word = match[1]
        if word == "$":
            return "$"
        return known.get(word[1:-1], match[0])

    return _REFERENCE.sub(replaced, text)


def command_of(container: Json, image: Image, env: Mapping[str, str]) -> list[str]:
    """`command` replaces the image's ENTRYPOINT and forgets its CMD; `args` replaces its CMD."""
    command = [expand(word, env) for word in container.get("command") or []]
    arguments = [expand(word, env) for word in container.get("args") or []]
    if command:
        return command + arguments
    return [*image.entrypoint, *(arguments or image.command)]


def field_of(pod: Json, path: str, facts: Mapping[str, str]) -> str:
    """The downward API's fields. `facts`: status.podIP and the like, which the pod's object does not have yet."""
    if path in facts:
        return facts[path]
    if match := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
        return str((pod["metadata"].get(match[1]) or {}).get(match[2], ""))
    if path in {"metadata.labels", "metadata.annotations"}:
        entries = pod["metadata"].get(path.split(".")[1]) or {}
        return "\n".join(f'{key}="{value}"' for key, value in sorted(entries.items()))
    found: Any = pod
    for word in path.split("."):
        found = (found or {}).get(word)
    if found is None and path == "spec.serviceAccountName":
        return "default"
    if not isinstance(found, str):
        raise ConfigError(f"fieldPath {path!r} names nothing in this pod")
    return found


def resource_of(pod: Json, reference: Json, own: Json, capacity: Mapping[str, str]) -> str:
    """`limits.memory` and the like of a container; without a limit, what the node has."""
    name = reference.get("containerName")
    every = [*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or [])]
    container = next((c for c in every if c["name"] == name), None) if name else own
    if container is None:
        raise ConfigError(f"resourceFieldRef names a container {name!r}, and there is none")
    section, _, resource = reference["resource"].partition(".")
    stated = container.get("resources") or {}
    value = (stated.get(section) or {}).get(resource)
    if value is None:
        value = capacity.get(resource, "0") if section == "limits" else "0"
    divisor = quantity(reference.get("divisor") or "1") or Decimal(1)
    return str(int((quantity(value) / divisor).to_integral_value(ROUND_CEILING)))


async def environment_of(
    pod: Json,
    container: Json,
    image: Image,
    *,
    objects: Objects,
    facts: Mapping[str, str],
    capacity: Mapping[str, str],
    services: Sequence[Json],
) -> dict[str, str]:
    """The image's variables, then the Services', then `envFrom`, then `env`; each may refer to those before it."""
    namespace = pod["metadata"]["namespace"]
    env = {**image.env, **_links(pod, services)}
    for source in container.get("envFrom") or []:
        for kind, key in (("configmaps", "configMapRef"), ("secrets", "secretRef")):
            if reference := source.get(key):
                found = await _find(objects, kind, namespace, reference)
                prefix = source.get("prefix") or ""
                env |= {f"{prefix}{name}": _text(kind, value) for name, value in data_of(kind, found).items()}
    for entry in container.get("env") or []:
        name, source = entry["name"], entry.get("valueFrom")
        if not source:
            env[name] = expand(entry.get("value") or "", env)
        elif reference := source.get("fieldRef"):
            env[name] = field_of(pod, reference["fieldPath"], facts)
        elif reference := source.get("resourceFieldRef"):
            env[name] = resource_of(pod, reference, container, capacity)
        else:
            kind, key = (
                ("configmaps", "configMapKeyRef") if "configMapKeyRef" in source else ("secrets", "secretKeyRef")
            )
            reference = source[key]
            data = data_of(kind, await _find(objects, kind, namespace, reference))
            if reference["key"] in data:
                env[name] = _text(kind, data[reference["key"]])
            elif not reference.get("optional"):
                raise ConfigError(
                    f"couldn't find key {reference['key']} in {_title(kind)} {namespace}/{reference['name']}"
                )
    return env


def _links(pod: Json, services: Sequence[Json]) -> dict[str, str]:
    """The API server's address; and the namespace's Services', unless the pod wants none of them."""
    namespace, all_of_them = pod["metadata"]["namespace"], pod["spec"].get("enableServiceLinks", True)
    env: dict[str, str] = {}
    for service in services:
        meta, spec = service["metadata"], service["spec"]
        ours = (meta["namespace"], meta["name"]) == ("default", "kubernetes")
        if spec.get("clusterIP") in {None, "", "None"} or not spec.get("ports"):
            continue
        if not ours and not (all_of_them and meta["namespace"] == namespace):
            continue
        prefix = meta["name"].upper().replace("-", "_")
        address, ports = spec["clusterIP"], spec["ports"]
        env[f"{prefix}_SERVICE_HOST"] = address
        env[f"{prefix}_SERVICE_PORT"] = str(ports[0]["port"])
        env[f"{prefix}_PORT"] = f"{ports[0].get('protocol', 'TCP').lower()}://{address}:{ports[0]['port']}"
        for port in ports:
            if port.get("name"):
                env[f"{prefix}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = str(port["port"])
    return env


def data_of(kind: str, found: Json | None) -> dict[str, bytes]:
    """What a ConfigMap or a Secret holds."""
    if found is None:
        return {}
    if kind == "secrets":
        return {name: base64.b64decode(value) for name, value in (found.get("data") or {}).items()}
    text = {name: value.encode() for name, value in (found.get("data") or {}).items()}
    return text | {name: base64.b64decode(value) for name, value in (found.get("binaryData") or {}).items()}


async def _find(objects: Objects, kind: str, namespace: str, reference: Json) -> Json | None:
    found = await objects.find(kind, namespace, reference["name"])
    if found is None and not reference.get("optional"):
        raise ConfigError(f'{_title(kind).lower()} "{reference["name"]}" not found')
    return found


def _title(kind: str) -> str:
    return {"configmaps": "ConfigMap", "secrets": "Secret"}[kind]


def _text(kind: str, value: bytes) -> str:
    return value.decode(errors="replace")
