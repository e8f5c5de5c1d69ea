"""What `save` is given in daily life: a dictionary of states, numbers and texts, as one file of tensors.

The tensors go into a safetensors file under their paths (`model/0.weight`), so that any reader of the format finds
them; what is around them (dictionaries, lists, tuples, numbers, texts) is JSON in the file's metadata. Nothing in it
could run. A tensor that is there twice is written once, and is one tensor again when it is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cordee.trainer.interop.safetensors import WeightsError
from cordee.trainer.tensors import Tensor

__all__ = ["METADATA", "flattened", "is_plain", "rebuilt"]

METADATA = "cordee.structure"

_AS_IT_IS = (str, int, bool, type(None))


def is_plain(obj: Any) -> bool:
    """Whether this is a dictionary of tensors by name, which safetensors holds by itself."""
    return isinstance(obj, Mapping) and all(isinstance(name, str) and _is_array(value) for name, value in obj.items())


def _is_array(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray)) or hasattr(value, "__cuda_array_interface__")


def flattened(obj: Any) -> tuple[dict[str, Any], str]:
    """All tensors by path, and the structure around them as JSON.

    Raises:
        TypeError: there is something else in it; says what, and where.
    """
    tensors: dict[str, Any] = {}
    names: dict[int, str] = {}  # by the identity of the array

    def note(value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, _AS_IT_IS):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": str(value)}
        if _is_array(value):
            array = value.data if isinstance(value, Tensor) else value
            name = names.get(id(array))
            if name is None:
                name = "/".join(path) or "tensor"
                while name in tensors:
                    name += "'"
                names[id(array)] = name
                tensors[name] = value
            return {"tensor": name}
        if isinstance(value, Mapping):
            wrong = [key for key in value if not isinstance(key, (*_AS_IT_IS, float))]
            if wrong:
                raise TypeError(f"save: a key of {_place(path)} is a {type(wrong[0]).__name__}, not a text or a number")
            return {"dict": [[key, note(each, (*path, str(key)))] for key, each in value.items()]}
        if isinstance(value, (list, tuple)):
            kind = "list" if isinstance(value, list) else "tuple"
            return {kind: [note(each, (*path, str(index))) for index, each in enumerate(value)]}
        advice = f"save its state_dict() instead{'' if path else ': save(x.state_dict(), f)'}"
        if not hasattr(value, "state_dict"):
            advice = "files hold tensors, numbers, texts, and dictionaries, lists and tuples of these"
        raise TypeError(f"save: {_place(path)} is a {type(value).__name__}: {advice}")

    return tensors, json.dumps(note(obj, ()), allow_nan=False)


def _place(path: tuple[str, ...]) -> str:
    return "[" + "][".join(map(repr, path)) + "]" if path else "this"


def rebuilt(tensors: Mapping[str, Tensor], structure: str) -> Any:
    """What was saved, from its tensors and the structure around them.

    Raises:
        WeightsError: the structure is none, or speaks of tensors that are not there.
    """

    def make(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        ((kind, held),) = value.items()
        if kind == "tensor":
            return tensors[held]
        if kind == "float":
            return float(held)
        if kind == "dict":
            return {key: make(each) for key, each in held}
        return {"list": list, "tuple": tuple}[kind](make(each) for each in held)

    try:
        return make(json.loads(structure))
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError("load: what the file says of its structure is damaged") from error
