"""Elements taken from lines, and added to them, by places along the last dimension: the same for all, or each its own.

`a` has shape (lines, n), `index` (m,) or (lines, m), of int64 numbers from 0 to before n, which somebody has checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cordee.trainer.kernels import kernel

__all__: list[str] = []

FEWEST = 4096
"""Elements from which on a kernel is asked for."""


@kernel
def take_from_lines(xp: Any, a: Any, index: Any) -> Any:
    """The elements at these places, (lines, m)."""
    return a[:, index] if index.ndim == 1 else xp.take_along_axis(a, index, 1)


@kernel
def add_to_lines(xp: Any, out: Any, index: Any, a: Any) -> None:
    """Adds `a (lines, m)` to lines in place, in the order of `a`. (Only of NumPy's arrays: see `are_lines`.)"""
    lines, n = out.shape
    places = index + (np.arange(lines) * n).reshape(-1, 1)
    np.add.at(out.reshape(-1), places.reshape(-1), a.reshape(-1))


def are_lines(xp: Any, a: Any, index: Any) -> bool:
    """Whether the kernels are for them: large, of NumPy, float32, in row-major order."""
    return (
        xp is np
        and a.dtype == np.float32
        and a.ndim > 1
        and index.dtype == np.int64
        and index.size * (a.size // max(a.shape[-1], 1) if index.ndim == 1 else 1) >= FEWEST
        and bool(a.flags.c_contiguous)
    )


def last_alone(shape: tuple[int, ...], index: Any) -> Any:
    """The vector of places that an index of whole slices ends in, none of them negative; None of other indices, and of
    places that there are not."""
    if type(index) is not tuple or len(index) != len(shape) or len(shape) < 2:
        return None
    places = index[-1]
    if type(places) is not np.ndarray or places.ndim != 1 or places.dtype != np.int64:
        return None
    if any(part != slice(None) if type(part) is slice else True for part in index[:-1]):
        return None
    places = np.where(places < 0, places + shape[-1], places)
    return None if places.size and places.view(np.uint64).max() >= shape[-1] else places
