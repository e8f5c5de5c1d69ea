"""In which precision products are computed; here only noted, as CuPy does by dtype."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

__all__ = ["COMPUTE_TYPE_DEFAULT", "COMPUTE_TYPE_TF32", "get_compute_type", "set_compute_type"]

COMPUTE_TYPE_DEFAULT, COMPUTE_TYPE_TF32 = 1, 7
_TYPES: dict[Any, int] = {}


def get_compute_type(dtype: Any) -> int:
    allowed = np.dtype(dtype) == np.float32 and int(os.getenv("CUPY_TF32", "0")) > 0
    return _TYPES.setdefault(np.dtype(dtype), COMPUTE_TYPE_TF32 if allowed else COMPUTE_TYPE_DEFAULT)


def set_compute_type(dtype: Any, compute_type: int) -> None:
    if compute_type not in (COMPUTE_TYPE_DEFAULT, COMPUTE_TYPE_TF32):
        raise ValueError(f"Unknown compute type: {compute_type}")
    _TYPES[np.dtype(dtype)] = compute_type
