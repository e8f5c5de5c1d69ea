"""DLPack both ways: the same memory, seen by NumPy, CuPy, PyTorch and Cordee.

NumPy and CuPy do the work. Only bfloat16 is unknown to NumPy's DLPack: it travels as unsigned 16-bit numbers, and the
type code in the capsule (a public C struct, `dlpack.h`) is changed on its way out or in.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from cordee.trainer.array import as_array, bfloat16, default_module
from cordee.trainer.errors import DeviceError
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["dlpack_capsule", "dlpack_device", "from_dlpack"]

_CPU_LIKE = (1, 3)  # kDLCPU, kDLCUDAHost
_UNSIGNED, _BFLOAT = 1, 4  # kDLUInt, kDLBfloat
_VERSION = (1, 0)

# Where DLTensor starts in the managed structs of dlpack.h, by the capsule's name, and where the type code is in it.
_TENSOR_AT = {b"dltensor": 0, b"dltensor_versioned": 32}
_CODE_AT, _BITS_AT = 20, 21

_api = ctypes.pythonapi
_api.PyCapsule_IsValid.argtypes = [ctypes.py_object, ctypes.c_char_p]
_api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_api.PyCapsule_GetPointer.restype = ctypes.c_void_p


def _exchange_code(capsule: Any, old: int, new: int) -> bool:
    """Change the type code of a 16-bit capsule that nobody has consumed yet; False when it has another code."""
    name = next(name for name in _TENSOR_AT if _api.PyCapsule_IsValid(capsule, name))
    start = _api.PyCapsule_GetPointer(capsule, name) + _TENSOR_AT[name]
    code, bits = (ctypes.c_uint8.from_address(start + offset) for offset in (_CODE_AT, _BITS_AT))
    if (code.value, bits.value) != (old, 16):
        return False
    code.value = new
    return True


class _Held:
    """A producer whose capsule has been looked at already."""

    def __init__(self, capsule: Any, device: Any) -> None:
        self.capsule, self.device = capsule, device

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> Any:
        return self.device


def _capsule(producer: Any, stream: Any) -> Any:
    keywords = {} if stream is None else {"stream": stream}
    try:
        return producer.__dlpack__(max_version=_VERSION, **keywords)
    except TypeError:  # an older producer, which knows no versions
        return producer.__dlpack__(**keywords)


def from_dlpack(ext_tensor: Any, *, copy: bool | None = None) -> Tensor:
    """A tensor on the memory of any object that speaks DLPack: an array of NumPy, CuPy, PyTorch, JAX …

    `copy`: True never shares, False never copies, None copies only from the host to the device of this process. What
    the producer marks as read-only stays so: writing into the tensor raises.

    Raises `TypeError` for an object without DLPack and `DeviceError` when its memory cannot be reached from here.
    """
    if not hasattr(ext_tensor, "__dlpack__") or not hasattr(ext_tensor, "__dlpack_device__"):
        raise TypeError(f"from_dlpack: a {type(ext_tensor).__name__} does not speak DLPack (it has no __dlpack__)")
    xp, device = default_module(), tuple(map(int, ext_tensor.__dlpack_device__()))
    on_host = device[0] in _CPU_LIKE
    if xp is np and not on_host:
        raise DeviceError(
            f"from_dlpack: the memory is on a device (DLPack type {device[0]}), this process computes on the CPU"
        )
    if xp is not np and on_host and copy is False:
        raise DeviceError(
            "from_dlpack: the memory is the host's and this process computes on cuda: copy=False cannot be"
        )
    stream = None if on_host else xp.cuda.get_current_stream().ptr or 1
    capsule = _capsule(ext_tensor, stream)
    is_bfloat = _exchange_code(capsule, _BFLOAT, _UNSIGNED)
    array = (np if on_host else xp).from_dlpack(_Held(capsule, device))
    if is_bfloat:
        array = array.view(bfloat16)
    if copy:
        array = array.copy()
    return wrap(array if xp is np or not on_host else as_array(array))


def dlpack_device(tensor: Tensor) -> tuple[int, int]:
    """Where the tensor's memory is, as (DLPack's type of device, its number)."""
    return tuple(map(int, tensor.data.__dlpack_device__()))  # type: ignore[return-value]


def dlpack_capsule(tensor: Tensor, keywords: dict[str, Any]) -> Any:
    """The tensor's memory as a DLPack capsule; `keywords` are those of `__dlpack__` in the array API standard.

    Raises `BufferError` for a tensor that requires a gradient, since the other library would not record it.
    """
    if tensor.requires_grad:
        raise BufferError("__dlpack__: this tensor requires a gradient, which would be lost: export tensor.detach()")
    given = {key: value for key, value in keywords.items() if value is not None}
    array = tensor.data
    if array.dtype != bfloat16:
        return array.__dlpack__(**given)
    capsule = array.view(np.uint16).__dlpack__(**given)
    _exchange_code(capsule, _UNSIGNED, _BFLOAT)
    return capsule
