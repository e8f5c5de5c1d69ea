"""The custom resource TrainingJob as the API server is told of it: the job file's schema, with rules and a status.

The schema is the job file's own (`spec.JobSpec`), so that one file serves both; what pydantic checks by code is said
again here in CEL, so that `kubectl apply` refuses at once what the coordinator would refuse later. Whatever no rule can
see still gets `Accepted: False` from the controller. `scripts/make_crd.py` writes the result for the chart.
"""

from typing import Any, Final

from cordee.coordinator.spec import API_VERSION, KIND, MAX_NAME_LENGTH, JobSpec
from cordee.coordinator.spec_fields import ENV_NAME, KERNEL_VARIABLES, PLACE_FORMS
from cordee.coordinator.spec_source import BUNDLE_PATTERN, OBJECT_NAME_PATTERN
from cordee.k8s.status import MAX_MEMBERS, STATES
from cordee.k8s.structural import Schema, structural

__all__ = ["CATEGORIES", "GROUP", "ID_LENGTH", "MUTABLE", "PLURAL", "SHORT_NAME", "VERSION", "trainingjob_crd"]

GROUP, _, VERSION = API_VERSION.partition("/")
PLURAL: Final = "trainingjobs"
SHORT_NAME: Final = "tj"
CATEGORIES: Final = ("all", "cordee")
MUTABLE: Final = frozenset({"workers", "ttlSecondsAfterFinished"})
"""What of a spec may be changed; all else is decided when the object is made."""
ID_LENGTH: Final = MAX_NAME_LENGTH + 7
"""A job that was submitted has an object that is named as its id: its name, and seven characters more."""

_CLIENT_SIDE: Final = ("source",)
"""What of a job file means the machine that it is submitted from."""
_MAX_PATH: Final = 1024
_MAX_OF_A_POD: Final = 256
"""Volumes, tolerations and the like of a pod, at most."""

# Bounds of what may be long. They let the API server know what a rule costs at most, and refuse what would not fit into
# an object anyway.
_BOUNDS: Final[dict[tuple[str, ...], Schema]] = {
    ("script",): {"minLength": 1, "maxLength": _MAX_PATH},
    ("args",): {"maxItems": 4096},
    ("env",): {"maxProperties": 1024},
    ("checkpoint", "storage"): {"maxLength": _MAX_PATH},
    ("warmStart",): {"maxLength": _MAX_PATH},
    ("sourceFrom", "configMap"): {"minLength": 1, "maxLength": 253, "pattern": f"^{OBJECT_NAME_PATTERN}$"},
    ("sourceFrom", "image", "path"): {"maxLength": _MAX_PATH},
    ("sourceFrom", "bundle"): {"minLength": 64, "maxLength": 64, "pattern": f"^{BUNDLE_PATTERN}$"},
}

_PLACE: Final = {
    "rule": "self.matches('^(/|(s3|gs|az)://[^/@?#]+(/[^?#]*)?$|file:///[^?#]*[^?#/][^?#]*$)')",
    "message": f"must be {PLACE_FORMS}; a path is absolute; credentials do not belong into it",
}
_NO_WAY_OUT: Final = "!self.split('/').exists(part, part == '..')"

_ENV_NAMES: Final = [
    {
        "rule": f"self.all(name, name.matches('^{ENV_NAME}$'))",
        "message": "names of environment variables are letters, digits and '_'",
    },
    {
        "rule": "self.all(name, !name.startsWith('CORDEE_'))",
        "message": "names that begin with CORDEE_ are Cordee's own; choose another name",
    },
]
_JOB_ENV_NAMES: Final = [
    _ENV_NAMES[0],
    {**_ENV_NAMES[1], "rule": f"self.all(name, !name.startsWith('CORDEE_') || name in {list(KERNEL_VARIABLES)})"},
]

_RULES: Final[dict[tuple[str, ...], list[Schema]]] = {
    ("script",): [
        {
            "rule": f"!self.startsWith('/') && !self.contains('\\\\') && {_NO_WAY_OUT}",
            "message": "must be a path inside the source, such as train.py: relative, without '..'",
        }
    ],
    ("env",): _JOB_ENV_NAMES,
    ("pod", "secretEnv"): _ENV_NAMES,
    ("workers",): [{"rule": "self.min <= self.max", "message": "min must be at most max"}],
    ("checkpoint", "storage"): [_PLACE],
    ("warmStart",): [_PLACE],
    ("sourceFrom",): [
        {
            "rule": "[has(self.configMap), has(self.image), has(self.bundle)].filter(given, given).size() == 1",
            "message": "must have exactly one of configMap, image and bundle",
        }
    ],
    ("sourceFrom", "image", "path"): [
        {
            "rule": f"self.startsWith('/') && {_NO_WAY_OUT}",
            "message": "must be an absolute path in the workers' image, such as /workspace, without '..'",
        }
    ],
}


def trainingjob_crd() -> Schema:
    """The whole CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": [SHORT_NAME],
                "categories": list(CATEGORIES),
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _schema()},
                    "additionalPrinterColumns": _columns(),
                    "selectableFields": [{"jsonPath": ".status.state"}],
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.workers.max",
                            "statusReplicasPath": ".status.workers.running",
                            "labelSelectorPath": ".status.workers.selector",
                        },
                    },
                }
            ],
        },
    }


def _schema() -> Schema:
    name = "self.metadata.name"
    return {
        "description": "A training job of Cordee: as many workers as there are, the same weights whatever fails.",
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": _spec(),
            "status": _status(),
        },
        "x-kubernetes-validations": [
            {
                "rule": f"{name}.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
                "message": "metadata.name must be a DNS label: lower-case letters, digits and '-'",
            },
            {
                "rule": f"{name}.size() <= {MAX_NAME_LENGTH} || "
                f"!has(self.spec.sourceFrom.configMap) && {name}.size() <= {ID_LENGTH}",
                "message": f"metadata.name must be at most {MAX_NAME_LENGTH} characters: workers' names begin with it",
            },
        ],
    }


def _spec() -> Schema:
    spec = structural(JobSpec.model_json_schema(by_alias=True, mode="validation"))
    for name in _CLIENT_SIDE:
        del spec["properties"][name]
    source = spec["properties"]["sourceFrom"]
    for part in (source, *source["properties"].values()):
        del part["nullable"]  # whether one is given is a question of its presence
    _open(spec["properties"]["pod"])
    spec["properties"]["script"]["description"] = "the training script, relative to the source's root"
    spec["properties"]["workers"]["description"] = "how many workers; may be changed while the job runs"
    for path, bounds in _BOUNDS.items():
        _at(spec, path).update(bounds)
    for path, rules in _RULES.items():
        _at(spec, path)["x-kubernetes-validations"] = rules
    spec["required"] = ["script", "sourceFrom"]
    spec["x-kubernetes-validations"] = [_immutable(name) for name in spec["properties"] if name not in MUTABLE]
    return spec


def _open(pod: Schema) -> None:
    """What is left out of a pod is the coordinator's to decide, so there are no defaults; and nothing is endless."""
    pod.pop("default", None)
    bound = {"array": "maxItems", "object": "maxProperties"}.get(pod.get("type", ""))
    if bound and "properties" not in pod and not pod.get("x-kubernetes-preserve-unknown-fields"):
        pod[bound] = _MAX_OF_A_POD
    for part in (*pod.get("properties", {}).values(), pod.get("items"), pod.get("additionalProperties")):
        if part is not None:
            _open(part)


def _at(schema: Schema, path: tuple[str, ...]) -> Schema:
    for name in path:
        schema = schema["properties"][name]
    return schema


def _immutable(name: str) -> Schema:
    mine, old = f"self.{name}", f"oldSelf.{name}"
    return {
        "rule": f"has({mine}) == has({old}) && (!has({mine}) || {mine} == {old})",
        "message": f"{name} cannot be changed once the job exists, only workers can; make another job",
        "fieldPath": f".{name}",
        "reason": "FieldValueForbidden",
    }


def _text(description: str, **more: Any) -> Schema:
    return {"type": "string", "description": description, **more}


def _count(description: str) -> Schema:
    return {"type": "integer", "format": "int64", "minimum": 0, "description": description}


def _status() -> Schema:
    time = {"format": "date-time"}
    return {
        "type": "object",
        "description": "What the coordinator says about the job.",
        "properties": {
            "observedGeneration": _count("the object's generation that this is about"),
            "state": _text("pending, starting, running, recovering, succeeded, failed or cancelled", enum=list(STATES)),
            "reason": _text("a word for programs: why it is in this state"),
            "message": _text("a sentence for people: why it is in this state"),
            "jobId": _text("the job's id, by which cordee knows it; its pods' names begin with it"),
            "generation": _count("the number of the present world; each change of the workers makes another"),
            "recoveries": _count("how often a world was lost and another one went on"),
            "step": _count("optimiser steps that are committed"),
            "stepsTotal": _count("how many there will be, if the script has said so"),
            "loss": {"type": "number", "description": "the loss that was told last"},
            "samples": _count("samples that were consumed"),
            "checkpointStep": _count("the step of the newest checkpoint"),
            "startedAt": _text("when the first world was formed", **time),
            "finishedAt": _text("when the job ended", **time),
            "weightsSha256": _text("SHA-256 of the final weights: the same whatever failed on the way"),
            "workers": {
                "type": "object",
                "description": "The workers, counted.",
                "properties": {
                    "min": _count("the job's range, as the coordinator has it now"),
                    "max": _count("the job's range, as the coordinator has it now"),
                    "wanted": _count("how many the scheduler gives it now"),
                    "running": _count("members of the present world"),
                    "summary": _text("running/max, for tables"),
                    "selector": _text("the label selector of the job's pods"),
                },
            },
            "members": {
                "type": "array",
                "maxItems": MAX_MEMBERS,
                "description": f"The workers, one by one; the first {MAX_MEMBERS}.",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {
                    "type": "object",
                    "required": ["name", "state"],
                    "properties": {
                        "name": _text("the worker, and its pod"),
                        "rank": _count("its rank in the present world; absent: it is not a member"),
                        "state": _text("what it does"),
                        "node": _text("the node that its pod is on"),
                        "restarts": _count("how often it was started again"),
                    },
                },
            },
            "conditions": {
                "type": "array",
                "maxItems": 16,
                "description": "Accepted, Running, Succeeded, Failed; Ready and Stalled as kstatus reads them.",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": {
                    "type": "object",
                    "required": ["type", "status", "lastTransitionTime", "reason", "message"],
                    "properties": {
                        "type": _text("which condition", maxLength=316),
                        "status": _text("whether it is so", enum=["True", "False", "Unknown"]),
                        "observedGeneration": _count("the object's generation that this is about"),
                        "lastTransitionTime": _text("since when", **time),
                        "reason": _text("a word for programs", minLength=1, maxLength=1024),
                        "message": _text("a sentence for people", maxLength=32768),
                    },
                },
            },
        },
    }


def _columns() -> list[Schema]:
    def column(name: str, kind: str, path: str, description: str, **more: Any) -> Schema:
        return {"name": name, "type": kind, "jsonPath": path, "description": description, **more}

    return [
        column("State", "string", ".status.state", "what the job does"),
        column("Workers", "string", ".status.workers.summary", "members of the present world, of how many at most"),
        column("Step", "integer", ".status.step", "committed optimiser steps"),
        column("Loss", "number", ".status.loss", "the loss that was told last"),
        column("Age", "date", ".metadata.creationTimestamp", "since the object was made"),
        column("Job", "string", ".status.jobId", "the job's id", priority=1),
        column("Recoveries", "integer", ".status.recoveries", "how often workers were lost", priority=1),
        column("Checkpoint", "integer", ".status.checkpointStep", "the newest checkpoint's step", priority=1),
        column("Message", "string", ".status.message", "why it is in this state", priority=1),
        column("Weights", "string", ".status.weightsSha256", "SHA-256 of the final weights", priority=1),
    ]
