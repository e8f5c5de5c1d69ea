"""Values as strict JSON has them, and back: no tuples, no infinities, no numbers of NumPy's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cordee.trainer.tensors import Tensor

__all__ = ["from_json", "number", "to_json"]


def number(value: Any) -> Any:
    """A tensor or NumPy array of one element, or a NumPy number, as a Python number; anything else as it is."""
    if isinstance(value, (Tensor, np.generic)) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    if isinstance(value, (tuple, list)):
        return type(value)(number(each) for each in value)
    return value


def to_json(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, (tuple, list)):
        return [to_json(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): to_json(each) for key, each in value.items()}
    return number(value)


def from_json(value: Any) -> Any:
    """Lists stay lists: who knows that a value is a tuple makes it one."""
    if isinstance(value, Mapping):
        if value.keys() == {"float"}:
            return float(value["float"])
        return {key: from_json(each) for key, each in value.items()}
    if isinstance(value, list):
        return [from_json(each) for each in value]
    return value
