"""What a training script imports: tensors, automatic differentiation, modules, optimisers, data, the elastic step.

The names are PyTorch's where PyTorch has one. Importing this package costs NumPy and little more; the submodules `nn`,
`optim`, `data`, `elastic` and `checkpoint` come when they are first named.
"""

from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np

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
from cordee.trainer.devices import device
from cordee.trainer.errors import DeviceError, GraphError, LinAlgError, ShapeError, TrainerError, TrainerIndexError
from cordee.trainer.ops import *  # noqa: F403
from cordee.trainer.printing import get_printoptions, set_printoptions
from cordee.trainer.random import get_state as get_rng_state
from cordee.trainer.random import initial_seed, manual_seed, seed
from cordee.trainer.random import set_state as set_rng_state
from cordee.trainer.tensors import Tensor

if TYPE_CHECKING:
    from cordee.trainer import (
        amp,
        array_api,
        backends,
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
    from cordee.trainer import devices as cuda
    from cordee.trainer.amp import (
        autocast,
        clear_autocast_cache,
        get_autocast_dtype,
        is_autocast_available,
        is_autocast_cache_enabled,
        is_autocast_enabled,
        set_autocast_cache_enabled,
        set_autocast_dtype,
        set_autocast_enabled,
    )
    from cordee.trainer.backends import get_float32_matmul_precision, set_float32_matmul_precision
    from cordee.trainer.func import vmap
    from cordee.trainer.interop import from_dlpack, load, save

float = float32
double = float64
half = float16
cfloat = complex64
cdouble = complex128
int = int32
long = int64
short = int16

Size: type[tuple[Any, ...]] = tuple
dtype = np.dtype
e, inf, nan, newaxis, pi = math.e, math.inf, math.nan, None, math.pi

__all__ = [
    "DeviceError",
    "GraphError",
    "LinAlgError",
    "ShapeError",
    "Size",
    "Tensor",
    "TrainerError",
    "TrainerIndexError",
    "amp",
    "array_api",
    "autocast",
    "autograd",
    "backends",
    "bfloat16",
    "bool",
    "cdouble",
    "cfloat",
    "checkpoint",
    "clear_autocast_cache",
    "complex64",
    "complex128",
    "cuda",
    "data",
    "device",
    "device_name",
    "double",
    "dtype",
    "e",
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
    "get_autocast_dtype",
    "get_default_dtype",
    "get_float32_matmul_precision",
    "get_num_threads",
    "get_printoptions",
    "get_rng_state",
    "half",
    "inf",
    "inference_mode",
    "initial_seed",
    "int",
    "int8",
    "int16",
    "int32",
    "int64",
    "interop",
    "is_autocast_available",
    "is_autocast_cache_enabled",
    "is_autocast_enabled",
    "is_grad_enabled",
    "linalg",
    "load",
    "long",
    "manual_seed",
    "nan",
    "newaxis",
    "nn",
    "no_grad",
    "optim",
    "pi",
    "random",
    "save",
    "seed",
    "set_autocast_cache_enabled",
    "set_autocast_dtype",
    "set_autocast_enabled",
    "set_default_dtype",
    "set_device",
    "set_float32_matmul_precision",
    "set_grad_enabled",
    "set_num_threads",
    "set_printoptions",
    "set_rng_state",
    "short",
    "signal",
    "special",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "vmap",
]
__all__ += ops.__all__

_LAZY = frozenset(
    (
        "amp",
        "array_api",
        "backends",
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
_ELSEWHERE = {"cuda": ("devices", None), "from_dlpack": ("interop", "from_dlpack"), "load": ("interop", "load"),
              "save": ("interop", "save"), "vmap": ("func", "vmap"),
              "get_float32_matmul_precision": ("backends", "get_float32_matmul_precision"),
              "set_float32_matmul_precision": ("backends", "set_float32_matmul_precision"),
              **{name: ("amp", name) for name in (
                  "autocast", "clear_autocast_cache", "get_autocast_dtype", "is_autocast_available",
                  "is_autocast_cache_enabled", "is_autocast_enabled", "set_autocast_cache_enabled",
                  "set_autocast_dtype", "set_autocast_enabled",
              )}}  # fmt: skip
"""What other modules are asked for when it is first named: formats of files need not be loaded before."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"cordee.trainer.{name}")
    if name in _ELSEWHERE:
        module, attribute = _ELSEWHERE[name]
        found = importlib.import_module(f"cordee.trainer.{module}")
        return found if attribute is None else getattr(found, attribute)
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("cordee")
    raise AttributeError(importlib.import_module("cordee.trainer.absent").refusal(name))


def __dir__() -> list[str]:
    return sorted({*__all__, "__all__", "__doc__", "__file__", "__name__", "__path__", "__version__"})
