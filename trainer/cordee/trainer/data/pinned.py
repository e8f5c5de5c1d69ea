"""Page-locked host memory, from which a GPU copies while it computes. On a CPU there is nothing to pin."""

from __future__ import annotations

from typing import Any

import numpy as np

from cordee.trainer.array import default_module
from cordee.trainer.data.batch import map_leaves

__all__ = ["pin"]


def pin(fields: Any) -> Any:
    """`fields` with its host arrays copied into page-locked memory, if tensors live on a CUDA device."""
    xp = default_module()
    if xp is np:
        return fields
    return map_leaves(lambda value: _pinned(xp, value) if isinstance(value, np.ndarray) else value, fields)


def _pinned(xp: Any, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.nbytes == 0:
        return array
    memory = xp.cuda.alloc_pinned_memory(array.nbytes)
    copy: np.ndarray[Any, Any] = np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)
    copy[...] = array
    return copy
