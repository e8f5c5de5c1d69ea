"""Patches of pods, merged as `kubectl patch` does it (Kubernetes' "strategic merge patch"), without a cluster's schema.

Mappings are merged key by key, and null takes a key away. Lists whose items have a name are merged by it; which ones,
and by which field, Kubernetes' own types say (`patchMergeKey`), of which those of a pod stand here. Other lists are
replaced. `{"name": …, "$patch": "delete"}` takes an item away.
"""

import copy
from typing import Any, Final

from cordee.k8s.api import Json

__all__ = ["merge"]

_KEYS: Final[dict[str, str]] = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "resourceClaims": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "ownerReferences": "uid",
}
_DIRECTIVE: Final = "$patch"


def merge(target: Json, patch: Json) -> Json:
    """The target with the patch; neither is changed. Raises ValueError for what is no patch."""
    merged = dict(target)
    for key, value in patch.items():
        if key == _DIRECTIVE:
            continue
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            known = merged.get(key)
            base = known if isinstance(known, dict) and value.get(_DIRECTIVE) != "replace" else {}
            merged[key] = merge(base, value)
        elif isinstance(value, list) and key in _KEYS:
            known = merged.get(key)
            merged[key] = _merge_list(known if isinstance(known, list) else [], value, key, _KEYS[key])
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _merge_list(target: list[Any], patch: list[Any], field: str, key: str) -> list[Any]:
    if any(isinstance(item, dict) and item.get(_DIRECTIVE) == "replace" for item in patch):
        target, patch = [], [item for item in patch if item.get(_DIRECTIVE) != "replace"]
    merged = list(target)
    for item in patch:
        if not isinstance(item, dict) or key not in item:
            raise ValueError(f"an item of {field} has no {key}")
        place = next((k for k, known in enumerate(merged) if known.get(key) == item[key]), None)
        if item.get(_DIRECTIVE) == "delete":
            if place is not None:
                del merged[place]
        elif place is None:
            merged.append(merge({}, item))
        else:
            merged[place] = merge(merged[place], item)
    return merged
