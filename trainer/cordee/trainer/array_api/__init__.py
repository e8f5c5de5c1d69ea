"""The functions of the Python array API standard (2024.12) on Cordee's tensors.

Code that is written against the standard (SciPy's, scikit-learn's) takes `xp = x.__array_namespace__()` and finds this
module. Names, argument names and dtype rules are the standard's, everything is computed by Cordee's own operations, so
gradients flow as ever. Where the standard and PyTorch disagree about the tensor itself, PyTorch wins: `x.size` is a
method (`x.numel()` counts), and `x.T` and in-place operators follow PyTorch.

https://data-apis.org/array-api/2024.12/
"""

from __future__ import annotations

import math
import sys
from typing import Any

from cordee.trainer.array import (
    boolean as bool,
)
from cordee.trainer.array import (
    complex64,
    complex128,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)
from cordee.trainer.array_api import creation, dtypes, elementwise, fft, linalg, manipulation, searching, statistics
from cordee.trainer.array_api.creation import *  # noqa: F403
from cordee.trainer.array_api.dtypes import *  # noqa: F403
from cordee.trainer.array_api.elementwise import *  # noqa: F403
from cordee.trainer.array_api.info import __array_namespace_info__
from cordee.trainer.array_api.linalg import matmul, matrix_transpose, tensordot, vecdot
from cordee.trainer.array_api.manipulation import *  # noqa: F403
from cordee.trainer.array_api.searching import *  # noqa: F403
from cordee.trainer.array_api.statistics import *  # noqa: F403

__array_api_version__ = "2024.12"
_VERSIONS = ("2021.12", "2022.12", "2023.12", __array_api_version__)

e, inf, nan, pi, newaxis = math.e, math.inf, math.nan, math.pi, None

__all__ = [
    "__array_api_version__",
    "__array_namespace_info__",
    "bool",
    "complex64",
    "complex128",
    "e",
    "fft",
    "float32",
    "float64",
    "inf",
    "int8",
    "int16",
    "int32",
    "int64",
    "linalg",
    "matmul",
    "matrix_transpose",
    "nan",
    "newaxis",
    "pi",
    "tensordot",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "vecdot",
]
for _part in (creation, dtypes, elementwise, manipulation, searching, statistics):
    __all__ += _part.__all__


def namespace(api_version: str | None = None) -> Any:
    """This module, for `Tensor.__array_namespace__`; raises `ValueError` for a version that it does not follow."""
    if api_version is not None and api_version not in _VERSIONS:
        raise ValueError(f"array API version {api_version!r} is not supported; known are {', '.join(_VERSIONS)}")
    return sys.modules[__name__]
