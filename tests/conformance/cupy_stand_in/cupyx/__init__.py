"""`cupyx` of the stand-in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["RAISING", "empty_pinned", "errstate"]

RAISING = [False]


@contextlib.contextmanager
def errstate(*, divide: Any = None, over: Any = None, under: Any = None, invalid: Any = None, linalg: Any = None,
             fallback_mode: Any = None) -> Iterator[None]:  # fmt: skip
    before, RAISING[0] = RAISING[0], linalg == "raise"
    try:
        yield
    finally:
        RAISING[0] = before


def empty_pinned(shape: Any, dtype: Any = float, order: Any = "C") -> Any:
    return np.empty(shape, dtype, order=order)
