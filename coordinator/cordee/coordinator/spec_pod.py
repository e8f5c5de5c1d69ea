"""`spec.pod`: what a job's agents are as pods, where the coordinator runs them on Kubernetes.

Our own fields are as strict as the rest of the job file. What stands here as Kubernetes' own objects (volumes,
tolerations, affinity, …) is written as in any pod, and checked by whoever knows it: the API server. `template` is a
patch of the whole pod for everything that has no field here, merged as `kubectl patch` does it: mappings by key, and
the lists of containers, volumes and variables by the names of their items.

Nothing here is looked at by the launcher `process`.
"""

import re
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue

from cordee.coordinator.spec_fields import SpecModel, wrong
from cordee.coordinator.spec_problems import brief, given

__all__ = ["LABEL_PREFIX", "PodResources", "PodSpec", "SecretEntry", "quantity"]

LABEL_PREFIX: Final = "cordee.dev/"
"""Labels and annotations that begin so are ours."""

Object = dict[str, JsonValue]
"""An object of Kubernetes."""

_QUANTITY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)((?:[KMGTPE]i)|[numkMGTPE]|[eE][+-]?\d{1,2})?")
_FACTORS: Final = {
    "": Decimal(1),
    **{name: Decimal(10) ** (3 * power) for power, name in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{name: Decimal(1024) ** power for power, name in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
    **{name: Decimal(10) ** (-3 * power) for power, name in enumerate(("m", "u", "n"), 1)},
}
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def quantity(text: str) -> Decimal:
    """How much a Kubernetes quantity is: `1500m` is 1.5, `2Gi` is 2147483648. Raises ValueError when it is none."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a quantity")
    number, suffix = Decimal(match[1]), match[2] or ""
    if suffix[:1] in ("e", "E") and len(suffix) > 1 and suffix != "Ei":
        return number.scaleb(int(suffix[1:]))
    return number * _FACTORS[suffix]


def _read_quantity(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        hint = f'write it in quotes, "{value}"' if isinstance(value, float) else 'give one such as "500m", 2 or "8Gi"'
        raise wrong(f"is {given(value)}; {hint}")
    return value


def _check_quantity(text: str) -> str:
    try:
        amount = quantity(text)
    except ValueError:
        raise wrong(f'is {brief(text)}, which is no quantity; give one such as "500m", 2 or "8Gi"') from None
    if amount <= 0:
        raise wrong(f"is {brief(text)}; it must be more than 0")
    return text


def _check_bytes(text: str) -> str:
    if quantity(text) != quantity(text).to_integral_value():
        raise wrong(f'is {brief(text)}, a part of a byte; give an amount of memory such as "512Mi" or "8Gi"')
    return text


def _check_object_name(text: str) -> str:
    if len(text) > 253 or not _SUBDOMAIN.fullmatch(text):
        raise wrong(f"is {brief(text)}; a name in Kubernetes is lower-case letters, digits, '-' and '.'")
    return text


def _check_image(text: str) -> str:
    if not text or text != text.strip() or re.search(r"\s", text) or "://" in text:
        raise wrong(f"is {brief(text)}; give an image such as registry.example/team/cordee:1.0 or one with @sha256:…")
    return text


def _check_env_names(names: dict[str, Any]) -> dict[str, Any]:
    for name in names:
        if not _ENV_NAME.fullmatch(name):
            raise wrong(f"has a variable named {brief(name)}; names are letters, digits and '_'")
        if name.startswith("CORDEE_"):
            raise wrong(f"sets {name}, but names that begin with CORDEE_ are Cordee's own; choose another name")
    return names


def _check_key(key: str) -> str:
    prefix, slash, name = key.rpartition("/")
    if not _LABEL_NAME.fullmatch(name) or (slash and not _SUBDOMAIN.fullmatch(prefix)):
        raise wrong(f"has the key {brief(key)}; a key is letters, digits, '-', '_' and '.', with a domain and / or not")
    if prefix in ("cordee.dev", "app.kubernetes.io") or prefix.endswith(".cordee.dev"):
        raise wrong(f"sets {key}, but keys of {prefix} are Cordee's own here; choose another key")
    return key


def _check_labels(labels: dict[str, str]) -> dict[str, str]:
    for key, value in labels.items():
        _check_key(key)
        if value and not _LABEL_NAME.fullmatch(value):
            raise wrong(f"gives {key} the value {brief(value)}; a label's is at most 63 letters, digits, '-', '_', '.'")
    return labels


def _check_annotations(annotations: dict[str, str]) -> dict[str, str]:
    for key in annotations:
        _check_key(key)
    return annotations


def _check_named(items: tuple[Object, ...]) -> tuple[Object, ...]:
    for item in items:
        if not isinstance(item.get("name"), str):
            raise wrong("has an item without a name")
    return items


ObjectName = Annotated[str, AfterValidator(_check_object_name)]
Amount = Annotated[
    str, BeforeValidator(_read_quantity, json_schema_input_type=int | str), AfterValidator(_check_quantity)
]
Bytes = Annotated[Amount, AfterValidator(_check_bytes)]
Objects = Annotated[tuple[Object, ...], Field(strict=False)]
NamedObjects = Annotated[Objects, AfterValidator(_check_named)]


class SecretEntry(SpecModel):
    """One entry of a Secret in the job's namespace."""

    name: ObjectName = Field(description="the Secret")
    key: str = Field(min_length=1, description="its entry")


class PodResources(SpecModel):
    """What one worker's pod is given. What is asked for is what it gets; the CPU alone is not limited."""

    gpu: int | None = Field(
        default=None, ge=0, le=64, description="nvidia.com/gpu (default: 1 where spec.device is cuda, else 0)"
    )
    cpu: Amount | None = Field(default=None, description="cores (default: spec.threads)")
    memory: Bytes | None = Field(default=None, description="memory: what a pod is killed for that takes more")
    shared_memory: Bytes | None = Field(
        default=None, description="the size of /dev/shm, which counts as memory (default: as much as the pod has)"
    )
    ephemeral_storage: Bytes | None = Field(
        default=None, description="disk for the working folder, /tmp and what is written to the log"
    )


class PodSpec(SpecModel):
    """The agents' pods. Whatever is left out is the coordinator's default."""

    image: Annotated[str, AfterValidator(_check_image)] | None = Field(
        default=None, description="an image with Cordee in it (default: the coordinator's)"
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        default=None, description="when the image is pulled"
    )
    image_pull_secrets: Annotated[tuple[ObjectName, ...], Field(strict=False)] = Field(
        default=(), description="Secrets that give access to the image"
    )
    resources: PodResources = Field(default=PodResources(), description="what each pod is given")
    secret_env: Annotated[dict[str, SecretEntry], AfterValidator(_check_env_names)] = Field(
        default_factory=dict, description="variables whose values are entries of Secrets: {NAME: {name: …, key: …}}"
    )
    env_from: Objects = Field(default=(), description="whole Secrets and ConfigMaps as variables, as in any pod")
    volumes: NamedObjects = Field(default=(), description="more volumes, as in any pod")
    volume_mounts: NamedObjects = Field(default=(), description="where they are mounted, as in any container")
    tolerations: Objects = Field(default=(), description="the taints of nodes that are put up with")
    node_selector: dict[str, str] = Field(default_factory=dict, description="labels that a node must have")
    affinity: Object = Field(default_factory=dict, description="which nodes, and beside which pods")
    topology_spread_constraints: Objects = Field(default=(), description="how pods are spread")
    priority_class_name: ObjectName | None = Field(default=None, description="who goes first, and who is evicted last")
    service_account_name: ObjectName | None = Field(
        default=None, description="another service account; the coordinator has a list of those that are allowed"
    )
    runtime_class_name: ObjectName | None = Field(default=None, description="another container runtime")
    scheduler_name: ObjectName | None = Field(default=None, description="another scheduler")
    labels: Annotated[dict[str, str], AfterValidator(_check_labels)] = Field(
        default_factory=dict, description="more labels of the pods"
    )
    annotations: Annotated[dict[str, str], AfterValidator(_check_annotations)] = Field(
        default_factory=dict, description="annotations of the pods"
    )
    termination_grace_period_seconds: int | None = Field(
        default=None, ge=1, le=86_400, description="how long a pod that must go has: a worker needs one step (30)"
    )
    template: Object = Field(
        default_factory=dict,
        description="a patch of the pod for everything else: {metadata: …, spec: …}; its container is 'worker'",
    )

    def to_document(self) -> dict[str, Any]:
        """Only what was set: what is left out stays the coordinator's to decide."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
