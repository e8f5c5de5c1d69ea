"""What the array API lets one ask about a library: devices, dtypes, capabilities."""

from __future__ import annotations

from typing import Any

import numpy as np

from cordee.trainer.array import default_dtype, device_name
from cordee.trainer.array_api.dtypes import check_device, default_complex, isdtype

__all__ = ["Info"]

_NAMES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float32", "float64", "complex64", "complex128",
)  # fmt: skip


class Info:
    """What `__array_namespace_info__()` returns."""

    def capabilities(self) -> dict[str, Any]:
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> str:
        return device_name()

    def devices(self) -> list[str]:
        """The one device of this process."""
        return [device_name()]

    def default_dtypes(self, *, device: Any = None) -> dict[str, np.dtype[Any]]:
        check_device(device)
        integer = np.dtype("int64")
        return {
            "real floating": default_dtype(),
            "complex floating": default_complex(),
            "integral": integer,
            "indexing": integer,
        }

    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, np.dtype[Any]]:
        check_device(device)
        found = {name: np.dtype(name) for name in _NAMES}
        return found if kind is None else {name: dtype for name, dtype in found.items() if isdtype(dtype, kind)}


def __array_namespace_info__() -> Info:  # noqa: N807  # the standard's name
    """Devices, dtypes and capabilities, as the standard wants them to be asked for."""
    return Info()
