"""What cuBLASLt does with what it is told, on the host: for tests of who tells it, where there is no GPU.

The functions are those of `nvmath.bindings.cublasLt` that the engine calls, with the same arguments: descriptors are
filled from memory, attribute by attribute, and a product is computed from addresses, columns first, as cublasLt.h says.
Stricter than cuBLASLt: attributes of the wrong size, epilogues that do not fit and descriptors that are gone raise.
"""

from __future__ import annotations

import ctypes
import itertools
from typing import Any

import ml_dtypes
import numpy as np

__all__ = [
    "MatmulHeuristicResult", "alive", "create", "get_version", "matmul", "matmul_algo_get_heuristic",
    "matmul_desc_create", "matmul_desc_destroy", "matmul_desc_set_attribute", "matmul_preference_create",
    "matmul_preference_destroy", "matmul_preference_set_attribute", "matrix_layout_create", "matrix_layout_destroy",
    "matrix_layout_set_attribute", "products", "refuse",
]  # fmt: skip

_TYPES = {0: np.float32, 1: np.float64, 2: np.float16, 14: ml_dtypes.bfloat16}
_ATTRIBUTES = {
    "desc": {3: ("transa", np.int32), 4: ("transb", np.int32), 7: ("epilogue", np.uint32), 8: ("bias", np.int64),
             26: ("bias_type", np.int32)},
    "layout": {5: ("count", np.int32), 6: ("step", np.int64)},
    "preference": {1: ("workspace", np.uint64), 3: ("reduction", np.uint32), 5: ("align_a", np.uint32),
                   6: ("align_b", np.uint32), 7: ("align_c", np.uint32), 8: ("align_d", np.uint32)},
}  # fmt: skip

alive: dict[int, dict[str, Any]] = {}
"""The descriptors that have not been destroyed."""
products: list[dict[str, Any]] = []
"""What was computed, with what was asked of the algorithm."""
refuse: list[int] = []
"""Epilogues for which there is no algorithm, for a test."""
_numbers = itertools.count(4096, 16)


def _make(kind: str, **what: Any) -> int:
    number = next(_numbers)
    alive[number] = {"": kind, **what}
    return number


def _tell(kind: str, number: int, attribute: int, buffer: int, size: int) -> None:
    name, dtype = _ATTRIBUTES[kind][attribute]
    if alive[number][""] != kind or size != np.dtype(dtype).itemsize:
        raise ValueError(f"{name} of a {alive[number]['']} in {size} bytes")
    alive[number][name] = np.frombuffer(ctypes.string_at(buffer, size), dtype)[0].item()


def create() -> int:
    return 1


def get_version() -> int:
    return 120903


def matmul_desc_create(compute_type: int, scale_type: int) -> int:
    return _make("desc", compute=compute_type, scale=scale_type, transa=0, transb=0, epilogue=1, bias=0)


def matmul_desc_set_attribute(matmul_desc: int, attr: int, buf: int, size_in_bytes: int) -> None:
    _tell("desc", matmul_desc, attr, buf, size_in_bytes)


def matmul_desc_destroy(matmul_desc: int) -> None:
    del alive[matmul_desc]


def matrix_layout_create(type: int, rows: int, cols: int, ld: int) -> int:
    if ld < rows:
        raise ValueError(f"columns of {rows} rows cannot be {ld} elements apart")
    return _make("layout", type=type, rows=rows, columns=cols, leading=ld, count=1, step=0)


def matrix_layout_set_attribute(mat_layout: int, attr: int, buf: int, size_in_bytes: int) -> None:
    _tell("layout", mat_layout, attr, buf, size_in_bytes)


def matrix_layout_destroy(mat_layout: int) -> None:
    del alive[mat_layout]


def matmul_preference_create() -> int:
    return _make("preference")


def matmul_preference_set_attribute(pref: int, attr: int, buf: int, size_in_bytes: int) -> None:
    _tell("preference", pref, attr, buf, size_in_bytes)


def matmul_preference_destroy(pref: int) -> None:
    del alive[pref]


class MatmulHeuristicResult:
    """Room for algorithms: a number each."""

    def __init__(self, size: int = 1) -> None:
        self._memory = np.zeros(12 * size, np.int64)
        self.ptr = self._memory.ctypes.data


_wishes: dict[int, dict[str, Any]] = {}


def matmul_algo_get_heuristic(
    light_handle: int, operation_desc: int, adesc: int, bdesc: int, cdesc: int, ddesc: int, preference: int,
    requested_algo_count: int, heuristic_results_array: int, return_algo_count: int,
) -> None:  # fmt: skip
    number = next(_numbers)
    _wishes[number] = dict(alive[preference])
    ctypes.c_int64.from_address(heuristic_results_array).value = number
    ctypes.c_int32.from_address(return_algo_count).value = int(alive[operation_desc]["epilogue"] not in refuse)


def _matrices(address: int, layout: dict[str, Any]) -> Any:
    """(count, rows, columns), as a view of that memory."""
    dtype = np.dtype(_TYPES[layout["type"]])
    extent = (layout["columns"] - 1) * layout["leading"] + layout["rows"] + (layout["count"] - 1) * layout["step"]
    memory = np.frombuffer((ctypes.c_char * (extent * dtype.itemsize)).from_address(address), dtype)
    steps = (layout["step"], 1, layout["leading"])
    shape = (layout["count"], layout["rows"], layout["columns"])
    return np.lib.stride_tricks.as_strided(memory, shape, [n * dtype.itemsize for n in steps])


def matmul(
    light_handle: int, compute_desc: int, alpha: int, a: int, adesc: int, b: int, bdesc: int, beta: int, c: int,
    cdesc: int, d: int, ddesc: int, algo: int, workspace: int, workspace_size_in_bytes: int, stream: int,
) -> None:  # fmt: skip
    described, layouts = alive[compute_desc], [alive[each] for each in (adesc, bdesc, ddesc)]
    wishes = _wishes[ctypes.c_int64.from_address(algo).value]
    for name, address in (("a", a), ("b", b), ("c", c), ("d", d)):
        if address % wishes[f"align_{name}"]:
            raise ValueError(f"{name} lies at {address}, the algorithm was chosen for {wishes[f'align_{name}']} bytes")
    if workspace_size_in_bytes < wishes["workspace"] or c != d or cdesc != ddesc:
        raise ValueError("a smaller workspace, or another matrix to add to, than the algorithm was chosen for")
    wide = np.float64 if described["scale"] == 1 else np.float32
    scale = {np.float32: ctypes.c_float, np.float64: ctypes.c_double}[wide]
    left, right, out = (_matrices(*each) for each in zip((a, b, d), layouts, strict=True))
    left = (left.swapaxes(1, 2) if described["transa"] else left).astype(wide)
    right = (right.swapaxes(1, 2) if described["transb"] else right).astype(wide)
    result = scale.from_address(alpha).value * (left @ right)
    if scale.from_address(beta).value:
        result += scale.from_address(beta).value * out
    if described["epilogue"] != 1:
        dtype = np.dtype(_TYPES[described["bias_type"]])
        length = {4: out.shape[1], 512: out.shape[2]}[described["epilogue"]]
        vector = np.frombuffer((ctypes.c_char * (length * dtype.itemsize)).from_address(described["bias"]), dtype)
        if described["epilogue"] == 4:
            result = result + vector.astype(wide)[None, :, None]
        else:
            vector[:] = right.sum(1)[0]
    out[...] = result
    products.append({**described, "wishes": wishes, "layouts": [dict(each) for each in layouts]})
