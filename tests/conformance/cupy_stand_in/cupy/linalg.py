"""`cupy.linalg` of the stand-in. As CuPy's, it refuses singular matrices only inside `cupyx.errstate(linalg="raise")`."""

from typing import Any

from numpy.linalg import LinAlgError

from cupy._calls import function

__all__ = ["LinAlgError"]


def __getattr__(name: str) -> Any:
    return function(f"linalg.{name}")
