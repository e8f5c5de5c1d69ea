"""Nested Python values as JSON and arrays apart, and back: how state of the user's own travels, without pickle.

Numbers, strings, bytes, arrays, tensors, and lists, tuples, sets, deques and dictionaries of them come back as they
were, with their types and every bit. Anything else is refused with a sentence that says where it is.
"""

from __future__ import annotations

import base64
import math
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import numpy as np

from cordee.trainer.array import array_module, as_array, to_numpy
from cordee.trainer.tensors import Tensor

__all__ = ["NotPlainError", "References", "copied", "flatten", "same", "same_bits", "unflatten"]

_PLAIN = (bool, int, str, type(None))


class NotPlainError(TypeError):
    """A value has no plain form."""


class References:
    """Objects that a value may refer to, by name: they are not part of the state, but keys of it may be."""

    def __init__(self, named: Mapping[str, Any]) -> None:
        self.named = dict(named)
        self._names = {id(thing): name for name, thing in named.items()}

    def name(self, thing: Any) -> str | None:
        """Of a thing that is one of them."""
        return self._names.get(id(thing))

    def name_of_id(self, number: Any) -> str | None:
        """Of the thing whose `id()` is this number: dictionaries have been written with such keys."""
        return self._names.get(number) if type(number) is int else None


_NOBODY = References({})


def flatten(value: Any, references: References = _NOBODY) -> tuple[Any, dict[str, Any]]:
    """A value in JSON's types, and its arrays by their place in it. The arrays are those of the value, not copies.

    Raises:
        NotPlainError: something in it has no plain form; the sentence says where.
    """
    arrays: dict[str, Any] = {}
    places: dict[int, str] = {}  # an array that is there twice is one afterwards, too

    def walk(value: Any, path: str) -> Any:
        if type(value) in _PLAIN:
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"float": str(value)}
        name = references.name(value)
        if name is not None:
            return {"is": name}
        if isinstance(value, (np.ndarray, Tensor)) or hasattr(value, "__cuda_array_interface__"):
            array = value.data if isinstance(value, Tensor) else value
            if array.dtype.hasobject or array.dtype.names:
                raise NotPlainError(f"{_at(path)} is an array of {array.dtype}: only arrays of numbers travel")
            place = places.get(id(array), path)
            while place in arrays and places.get(id(array)) != place:
                place += "'"
            arrays[place], places[id(array)] = array, place
            if not _is_common(array.dtype):
                arrays[place] = np.ascontiguousarray(to_numpy(array)).reshape(-1).view(np.uint8)
                kept = {"dtype": array.dtype.str, "shape": list(array.shape), "tensor": isinstance(value, Tensor)}
                return {"packed": place, **kept}
            kind = "array" if isinstance(value, np.ndarray) else "device"
            return {"tensor" if isinstance(value, Tensor) else kind: place}
        if isinstance(value, np.generic):
            dtype = value.dtype.str if value.dtype.kind in "biufcSUmM" else value.dtype.name
            return {"scalar": base64.b64encode(value.tobytes()).decode(), "dtype": dtype}
        if isinstance(value, Mapping):
            items = [[key(k, path), walk(v, _join(path, k))] for k, v in value.items()]
            return {"dict": items, **_kind_of_mapping(value)}
        if isinstance(value, (list, tuple, deque)) and not hasattr(value, "_fields"):
            items = [walk(each, _join(path, i)) for i, each in enumerate(value)]
            if isinstance(value, deque):
                return {"deque": items, "maxlen": value.maxlen}
            return items if isinstance(value, list) else {"tuple": items}
        if isinstance(value, (set, frozenset)):
            return {type(value).__name__: sorted((walk(each, path) for each in value), key=repr)}
        if isinstance(value, (bytes, bytearray)):
            return {type(value).__name__: base64.b64encode(value).decode()}
        if isinstance(value, (bool, int, str, float)):  # a subclass, such as an enumeration's
            return walk(value.value if isinstance(value, Enum) else _base(value), path)
        if isinstance(value, complex):
            return {"complex": [walk(value.real, path), walk(value.imag, path)]}
        raise NotPlainError(
            f"{_at(path)} is a {type(value).__name__}; what travels is made of numbers, strings, arrays, tensors, and "
            "lists, tuples, sets and dictionaries of them"
        )

    def key(value: Any, path: str) -> Any:
        name = references.name_of_id(value)
        return {"id": name} if name is not None else walk(value, _join(path, value))

    return walk(value, ""), arrays


def unflatten(plain: Any, arrays: Mapping[str, Any], references: References = _NOBODY) -> Any:
    """The value that `flatten` took apart. Its arrays are new ones."""
    made: dict[str, Any] = {}

    def walk(plain: Any) -> Any:
        if isinstance(plain, list):
            return [walk(each) for each in plain]
        if not isinstance(plain, Mapping):
            return plain
        kind = next(iter(plain))
        return made_of[kind](plain, walk)

    def device_array(place: str) -> Any:
        if place not in made:
            there = as_array(arrays[place])
            made[place] = array_module(there).array(there)
        return made[place]

    def host_array(place: str) -> Any:
        if place not in made:
            made[place] = np.array(to_numpy(arrays[place]))
        return made[place]

    def packed(plain: Mapping[str, Any]) -> Any:
        place = plain["packed"]
        if place not in made:
            data = np.ascontiguousarray(to_numpy(arrays[place]))
            made[place] = np.frombuffer(data.tobytes(), np.dtype(plain["dtype"])).reshape(plain["shape"]).copy()
        return Tensor(as_array(made[place])) if plain["tensor"] else made[place]

    made_of: dict[str, Callable[[Any, Any], Any]] = {
        **_SIMPLE,
        "is": lambda plain, _: references.named[plain["is"]],
        "id": lambda plain, _: id(references.named[plain["id"]]),
        "array": lambda plain, _: host_array(plain["array"]),
        "device": lambda plain, _: device_array(plain["device"]),
        "packed": lambda plain, _: packed(plain),
        "tensor": lambda plain, _: Tensor(device_array(plain["tensor"])),
    }
    return walk(plain)


_MAPPINGS: dict[str, Any] = {"OrderedDict": OrderedDict, "Counter": Counter}
_FACTORIES: dict[str, Any] = {
    kind.__name__: kind for kind in (bool, int, float, complex, str, bytes, list, tuple, dict, set, deque)
}


def _kind_of_mapping(value: Any) -> dict[str, str]:
    """What is to be told beside a mapping's items; nothing of a plain dictionary."""
    name = type(value).__name__
    if _MAPPINGS.get(name) is type(value):
        return {"of": name}
    factory: Any = getattr(value, "default_factory", None)
    name = getattr(factory, "__name__", "")
    is_known = type(value) is defaultdict and name in _FACTORIES and _FACTORIES[name] is factory
    return {"default": name} if is_known else {}


def _mapping(plain: Mapping[str, Any], items: dict[Any, Any]) -> Any:
    if "default" in plain:
        return defaultdict(_FACTORIES[plain["default"]], items)
    return _MAPPINGS[plain["of"]](items) if "of" in plain else items


_SIMPLE: dict[str, Callable[[Any, Any], Any]] = {
    "float": lambda plain, _: float(plain["float"]),
    "complex": lambda plain, walk: complex(*map(walk, plain["complex"])),
    "scalar": lambda plain, _: np.frombuffer(base64.b64decode(plain["scalar"]), np.dtype(plain["dtype"]))[0],
    "dict": lambda plain, walk: _mapping(plain, {walk(key): walk(value) for key, value in plain["dict"]}),
    "tuple": lambda plain, walk: tuple(map(walk, plain["tuple"])),
    "deque": lambda plain, walk: deque(map(walk, plain["deque"]), plain["maxlen"]),
    "set": lambda plain, walk: set(map(walk, plain["set"])),
    "frozenset": lambda plain, walk: frozenset(map(walk, plain["frozenset"])),
    "bytes": lambda plain, _: base64.b64decode(plain["bytes"]),
    "bytearray": lambda plain, _: bytearray(base64.b64decode(plain["bytearray"])),
}


def _is_common(dtype: Any) -> bool:
    """Whether files of arrays know such numbers; others travel as bytes. So do those of the other order of bytes, which
    a dtype's name does not tell."""
    return dtype.isnative and dtype.name in _COMMON


_COMMON = frozenset(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)) | {
    "bool", "complex64", "bfloat16", "float16", "float32", "float64",
}  # fmt: skip


def copied(flat: tuple[Any, Mapping[str, Any]]) -> tuple[Any, dict[str, Any]]:
    """The same, with arrays that nobody else has."""
    return flat[0], {place: array_module(array).array(array) for place, array in flat[1].items()}


def same(one: tuple[Any, Mapping[str, Any]], other: tuple[Any, Mapping[str, Any]]) -> bool:
    """Whether two flattened values are the same, bit for bit."""
    if one[0] != other[0] or one[1].keys() != other[1].keys():
        return False
    return all(same_bits(array, other[1][name]) for name, array in one[1].items())


def same_bits(one: Any, other: Any) -> bool:
    """Whether two arrays have the same shape, dtype and bytes: NaN is NaN, and -0.0 is not 0.0."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    xp = array_module(one)
    one, other = (xp.ascontiguousarray(array).reshape(-1) for array in (one, other))
    whole = one.nbytes % 8 == 0 and all(xp is not np or a.ctypes.data % 8 == 0 for a in (one, other))
    kind = np.uint64 if whole else np.uint8
    return bool((one.view(kind) == other.view(kind)).all())


def _join(path: str, key: Any) -> str:
    text = key if isinstance(key, (str, int)) else type(key).__name__
    return f"{path}/{text}" if path else str(text)


def _at(path: str) -> str:
    return f"what is under {path!r}" if path else "it"


def _base(value: Any) -> Any:
    return next(kind(value) for kind in (bool, int, float, str) if isinstance(value, kind))
