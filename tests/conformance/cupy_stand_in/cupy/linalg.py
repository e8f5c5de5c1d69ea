"""`cupy.linalg` of the stand-in: outside `cupyx.errstate(linalg="raise")`, CuPy would not tell of singular matrices."""

from typing import Any

from numpy.linalg import LinAlgError

from cupy._calls import function

__all__ = ["LinAlgError"]


def __getattr__(name: str) -> Any:
    return function(f"linalg.{name}")
