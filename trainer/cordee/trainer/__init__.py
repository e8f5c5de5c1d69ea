"""What a training script imports: tensors, automatic differentiation, modules, optimisers, data, the elastic step.

The names are PyTorch's where PyTorch has one. Importing this package costs NumPy and little more; the submodules `nn`,
`optim`, `data`, `elastic` and `checkpoint` come when they are first named.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cordee.trainer import autograd, errors, ops, random
from cordee.trainer.array import (
    bfloat16,
    complex64,
    complex128,
    device_name,
    float16,
    float32,
    float64,
    get_num_threads,
    int8,
    int16,
    int32,
    int64,
    set_default_dtype,
    set_device,
    set_num_threads,
    uint8,
    uint16,
    uint32,
    uint64,
)
from cordee.trainer.array import boolean as bool
from cordee.trainer.array import default_dtype as get_default_dtype
from cordee.trainer.autograd import enable_grad, inference_mode, is_grad_enabled, no_grad, set_grad_enabled
from cordee.trainer.errors import DeviceError, GraphError, LinAlgError, ShapeError, TrainerError, TrainerIndexError
from cordee.trainer.ops import *  # noqa: F403
from cordee.trainer.printing import get_printoptions, set_printoptions
from cordee.trainer.random import initial_seed, manual_seed, seed
from cordee.trainer.tensors import Tensor

if TYPE_CHECKING:
    from cordee.trainer import (
        array_api,
        checkpoint,
        data,
        elastic,
        fft,
        fit,
        func,
        interop,
        linalg,
        nn,
        optim,
        signal,
        special,
    )
    from cordee.trainer.interop import from_dlpack, load, save

float = float32
double = float64
half = float16
cfloat = complex64
cdouble = complex128
int = int32
long = int64
short = int16

__all__ = [
    "DeviceError",
    "GraphError",
    "LinAlgError",
    "ShapeError",
    "Tensor",
    "TrainerError",
    "TrainerIndexError",
    "array_api",
    "autograd",
    "bfloat16",
    "bool",
    "cdouble",
    "cfloat",
    "checkpoint",
    "complex64",
    "complex128",
    "data",
    "device_name",
    "double",
    "elastic",
    "enable_grad",
    "errors",
    "fft",
    "fit",
    "float",
    "float16",
    "float32",
    "float64",
    "from_dlpack",
    "func",
    "get_default_dtype",
    "get_num_threads",
    "get_printoptions",
    "half",
    "inference_mode",
    "initial_seed",
    "int",
    "int8",
    "int16",
    "int32",
    "int64",
    "interop",
    "is_grad_enabled",
    "linalg",
    "load",
    "long",
    "manual_seed",
    "nn",
    "no_grad",
    "optim",
    "random",
    "save",
    "seed",
    "set_default_dtype",
    "set_device",
    "set_grad_enabled",
    "set_num_threads",
    "set_printoptions",
    "short",
    "signal",
    "special",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
]
__all__ += ops.__all__

_LAZY = frozenset(
    (
        "array_api",
        "checkpoint",
        "data",
        "elastic",
        "fft",
        "fit",
        "func",
        "interop",
        "linalg",
        "nn",
        "optim",
        "signal",
        "special",
    )
)
_LAZY_FUNCTIONS = frozenset(("from_dlpack", "load", "save"))  # of interop, whose formats need not be loaded before


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"cordee.trainer.{name}")
    if name in _LAZY_FUNCTIONS:
        return getattr(importlib.import_module("cordee.trainer.interop"), name)
    raise AttributeError(f"module 'cordee.trainer' has no attribute {name!r}")
