"""Arrays below tensors: which module computes on them, on which device, with which dtypes and how many threads.

Every operation is written once, against `xp`, the module of the array it was given (NumPy, or CuPy on a GPU). So
nothing above this file asks where it runs. All tensors of a process live on one device, chosen by `CORDEE_DEVICE`
(`cpu`, `cuda`, or `auto`: CUDA where CuPy and a device are there). The CUDA side has not yet run on a device.

BLAS threads default to one: a product split over another number of threads may round differently, and the same script
must give the same bits under plain `python` and in a worker. `CORDEE_THREADS` or `set_num_threads` choose another.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import threadpoolctl  # type: ignore[import-untyped]

from cordee.trainer.errors import DeviceError
from cordee.trainer.heap import keep_freed_memory

__all__ = [
    "Array",
    "DTypeLike",
    "array_module",
    "as_array",
    "default_dtype",
    "default_module",
    "device_lack",
    "device_name",
    "get_num_threads",
    "get_tf32",
    "is_complex",
    "is_float",
    "on_num_threads",
    "promote",
    "set_default_dtype",
    "set_device",
    "set_num_threads",
    "set_tf32",
    "to_numpy",
]

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]  # or cupy.ndarray, which has the same methods
DTypeLike: TypeAlias = Any

float16, float32, float64 = np.dtype("float16"), np.dtype("float32"), np.dtype("float64")
int8, int16, int32, int64 = np.dtype("int8"), np.dtype("int16"), np.dtype("int32"), np.dtype("int64")
uint8, uint16, uint32, uint64 = np.dtype("uint8"), np.dtype("uint16"), np.dtype("uint32"), np.dtype("uint64")
boolean = np.dtype("bool")
complex64, complex128 = np.dtype("complex64"), np.dtype("complex128")
bfloat16 = np.dtype(ml_dtypes.bfloat16)

_ndarray = np.ndarray


class _State:
    """What is chosen once per process."""

    module: Any = None  # resolved at first use, so that importing costs nothing
    dtype: np.dtype[Any] = float32
    threads: int = 1
    tf32: bool | None = None  # as the environment says
    watchers: tuple[Callable[[int], None], ...] = ()  # are told of another number of threads


def array_module(*operands: Any) -> Any:
    """NumPy or CuPy, whichever the first array among the operands belongs to (the default one if there is none)."""
    for operand in operands:
        kind = type(operand)
        if kind is _ndarray or isinstance(operand, (np.ndarray, np.generic)):
            return np
        if kind.__module__.partition(".")[0] == "cupy":
            return sys.modules["cupy"]
    return default_module()


def default_module() -> Any:
    """The module on which new tensors are made."""
    if _State.module is None:
        set_device(os.environ.get("CORDEE_DEVICE", "auto"))
    return _State.module


def set_device(device: str) -> None:
    """Choose where new tensors live: `cpu`, `cuda`, or `auto`."""
    if device not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"unknown device {device!r}: CORDEE_DEVICE is one of cpu, cuda, auto")
    module, lack = (np, "") if device == "cpu" else _cupy_with_device()
    if device == "cuda" and lack:
        raise DeviceError(f"CORDEE_DEVICE is cuda, but {lack}; or use cpu")
    _State.module = module
    if _State.tf32 is not None:
        set_tf32(_State.tf32)


def device_lack() -> str:
    """What keeps this process from computing on a GPU; "" if nothing does."""
    return _cupy_with_device()[1]


def _cupy_with_device() -> tuple[Any, str]:
    """CuPy, where it is installed and sees a device; else NumPy, and what is missing. The search imports nothing."""
    if importlib.util.find_spec("cupy") is None:
        return np, "CuPy is not installed: pip install 'cordee[cuda]', in a container take the image's variant -cuda"
    cupy = importlib.import_module("cupy")
    why = "it counts none"
    try:
        if cupy.cuda.runtime.getDeviceCount() > 0:
            return cupy, ""
    except cupy.cuda.runtime.CUDARuntimeError as error:
        why = str(error)  # of a container without GPUs: that its driver is insufficient, for it has none
    return np, f"CuPy sees no device ({why}): give a container one by --gpus, a pod by resources.gpu"


def device_name(array: Any = None) -> str:
    """`cpu` or `cuda`: where this array is, or where new ones are made."""
    module = default_module() if array is None else array_module(array)
    return "cpu" if module is np else "cuda"


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether numbers of this dtype are real and may require a gradient. (bfloat16 is no kind that NumPy knows.)"""
    return dtype.kind == "f" or dtype == bfloat16


def is_complex(dtype: np.dtype[Any]) -> bool:
    """Whether numbers of this dtype are complex."""
    return dtype.kind == "c"


_CATEGORY = {"b": 0, "u": 1, "i": 1, "f": 2, "c": 3}
_NUMBER_CATEGORY: dict[Any, int] = {bool: 0, int: 1, float: 2, complex: 3}


def promote(*dtypes: Any) -> np.dtype[Any]:
    """The dtype of arithmetic between tensors of these dtypes and numbers of these Python types (None: no operand).

    Floating dtypes are never widened by integers or numbers, as in PyTorch (NumPy makes float64 of int64 and float32).
    A number of a higher category (a float beside integers) brings the default dtype.
    """
    found = [dtype for dtype in dtypes if isinstance(dtype, np.dtype)]
    highest = max((_category(dtype) for dtype in found), default=-1)
    deciding = [dtype for dtype in found if _category(dtype) == highest]
    if bfloat16 in deciding and any(dtype != bfloat16 for dtype in deciding):  # NumPy knows no wider one of both
        deciding = [float32 if dtype == bfloat16 else dtype for dtype in deciding]
    result = np.result_type(*deciding) if deciding else boolean
    number = max((_NUMBER_CATEGORY[kind] for kind in dtypes if kind in _NUMBER_CATEGORY), default=-1)
    if number <= highest:
        return result
    if number == 3:
        return complex128 if result == float64 or default_dtype() == float64 else complex64
    return (boolean, int64, default_dtype())[number]


def _category(dtype: np.dtype[Any]) -> int:
    return 2 if dtype == bfloat16 else _CATEGORY[dtype.kind]


def default_dtype() -> np.dtype[Any]:
    """The dtype of tensors made from Python floats; float32 unless chosen otherwise."""
    return _State.dtype


def set_default_dtype(dtype: DTypeLike) -> None:
    """Choose the dtype of tensors made from Python floats."""
    chosen = np.dtype(dtype)
    if not is_float(chosen):
        raise ValueError(f"the default dtype must be a floating one, not {chosen.name}")
    _State.dtype = chosen


def as_array(data: Any, dtype: DTypeLike = None) -> Array:
    """Any nested list, number or array as an array on the default device. Python floats take the default dtype."""
    xp = default_module()
    if dtype is None and not hasattr(data, "dtype"):
        array = xp.asarray(data)
        if array.dtype == float64:
            array = array.astype(default_dtype())
        elif array.dtype == complex128 and default_dtype() != float64:
            array = array.astype(complex64)
        return array  # type: ignore[no-any-return]
    return _with_common_dtype(xp.asarray(data, dtype=dtype))


def _with_common_dtype(array: Any) -> Array:
    """The array with its dtype's one object: what comes out of a pickle brings another that equals it, and kernels,
    which ask for that one by `is`, would leave such an array to NumPy."""
    dtype = array.dtype
    common = np.dtype(dtype.type)
    return array if common is dtype or common != dtype else array.view(common)  # type: ignore[no-any-return]


def to_numpy(array: Any) -> Array:
    """The array's values on the host, as a NumPy array (no copy when it is there already)."""
    return array.get() if hasattr(array, "get") else np.asarray(array)


def set_num_threads(num_threads: int) -> None:
    """Let BLAS use this many threads. Part of what identifies the numbers: see the head of this file."""
    if num_threads < 1:
        raise ValueError(f"the number of threads must be at least 1, not {num_threads}")
    threadpoolctl.threadpool_limits(limits=num_threads, user_api="blas")
    _State.threads = num_threads
    for watcher in _State.watchers:
        watcher(num_threads)


def on_num_threads(watcher: Callable[[int], None]) -> None:
    """Calls `watcher(num_threads)` whenever `set_num_threads` is called, from now on."""
    _State.watchers += (watcher,)


def get_num_threads() -> int:
    """How many threads BLAS may use."""
    return _State.threads


def set_tf32(allowed: bool) -> None:
    """Let products of float32 on a GPU be computed in TF32, or not. Part of what identifies the numbers."""
    _State.tf32 = allowed
    if _State.module not in (None, np):  # else it is told when it is chosen
        core = importlib.import_module("cupy._core._routines_linalg")
        core.set_compute_type(float32, core.COMPUTE_TYPE_TF32 if allowed else core.COMPUTE_TYPE_DEFAULT)


def get_tf32() -> bool:
    """Whether products of float32 on a GPU may be computed in TF32."""
    if _State.tf32 is None:
        return int(os.environ.get("CUPY_TF32", "0")) > 0
    return _State.tf32


def _threads_from_environment() -> int:
    text = os.environ.get("CORDEE_THREADS", "1")
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"CORDEE_THREADS must be a whole number of at least 1, not {text!r}")
    return int(text)


# log(0) is -inf and 0/0 is NaN, in silence, as in PyTorch; `autograd.detect_anomaly` finds where they come from.
np.seterr(all="ignore")
set_num_threads(_threads_from_environment())
keep_freed_memory()
