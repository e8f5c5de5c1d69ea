"""`cupy.linalg` of the stand-in. As CuPy's, it refuses singular matrices only inside `cupyx.errstate(linalg="raise")`."""

from typing import Any

from cupy._calls import function
from numpy.linalg import LinAlgError

__all__ = ["LinAlgError"]


def __getattr__(name: str) -> Any:
    return function(f"linalg.{name}")
