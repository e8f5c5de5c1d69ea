"""Matrix products on a GPU by cuBLASLt, through nvmath's bindings: with a bias added, or a bias' gradient, on the way.

CuPy's own products go through cuBLAS, which it refuses while a step is recorded as a graph, and know no epilogue. Here
everything that a call needs is there before it: our handle, a workspace per stream, a plan per shape. cuBLASLt counts
columns first, so what it computes is bᵀ · aᵀ, which is our a · b transposed, in place of a · b: no operand is copied
whose rows or columns lie in one piece.

float32 (in TF32 where that is allowed), float64, and bfloat16 and float16, which are added up in float32. A product cut
along its sums is put together in the type of those, outside the result, in one order. Which algorithm is chosen depends
on addresses, too, in as far as they are multiples of 16 bytes: what does not lie at one is copied. So the same shapes
give the same bits on the same kind of GPU, wherever the numbers lie. It has not yet run on a device.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from cordee.trainer.array import device_lack, get_tf32
from cordee.trainer.kernels.cuda.memory import PLACE_BYTES, aligned, workspace
from cordee.trainer.kernels.registry import KERNELS

__all__ = ["WORKSPACE_BYTES", "identity", "lack", "multiplier", "multiply"]

WORKSPACE_BYTES = 32 << 20
"""As NVIDIA recommends for Hopper."""
_MAX_PLANS = 1024

# As cublasLt.h numbers them.
_TYPES = {
    np.dtype(np.float32): 0, np.dtype(np.float64): 1, np.dtype(np.float16): 2, np.dtype(ml_dtypes.bfloat16): 14,
}  # fmt: skip
_COMPUTE_32F, _COMPUTE_64F, _COMPUTE_32F_FAST_TF32 = 68, 70, 77
_TRANSA, _TRANSB, _EPILOGUE, _BIAS_POINTER, _BIAS_DATA_TYPE = 3, 4, 7, 8, 26
_DEFAULT, _BIAS, _BGRADB = 1, 4, 512
_BATCH_COUNT, _STRIDED_BATCH_OFFSET = 5, 6
_MAX_WORKSPACE_BYTES, _REDUCTION_SCHEME_MASK, _MIN_ALIGNMENT = 1, 3, (5, 6, 7, 8)
_REDUCTION_IN_COMPUTE_TYPE = 2

_float32, _float64 = np.dtype(np.float32), np.dtype(np.float64)


def lack() -> str:
    """What keeps these kernels from working here; "" if nothing does."""
    if missing := device_lack():
        return missing
    try:
        _library().get_version()
    except Exception as error:  # the bindings are there, the library itself or a driver is not
        return f"cuBLASLt cannot be loaded ({error}): pip install 'cordee[cuda-libraries]'"
    return ""


def identity() -> str:
    """cuBLASLt's version, and whether it may use TF32."""
    return f"cublasLt {_library().get_version()}{', tf32' if get_tf32() else ''}"


@functools.cache
def _library() -> Any:
    return importlib.import_module("nvmath.bindings.cublasLt")


@functools.cache
def _handle() -> int:
    return int(_library().create())


# -- how operands lie --------------------------------------------------------------------------------------------------


class _Matrix(NamedTuple):
    """A batch of matrices in memory, as cuBLASLt is told: columns first."""

    rows: int
    columns: int
    leading: int
    """Elements from one column to the next."""
    batch: int
    """Elements from one matrix to the next; 0: all are the same."""
    transposed: bool
    """Whether what is meant is the transpose of it."""
    kind: int


def _matrix(a: Any, batch: tuple[int, ...]) -> tuple[Any, _Matrix]:
    """`a (…, m, n)` as cuBLASLt sees aᵀ; as a copy where its rows and its columns both lie in pieces."""
    a = aligned(a)
    found = _layout(a.shape, _steps(a), batch)
    if found is None:
        cupy: Any = importlib.import_module("cupy")
        a = cupy.ascontiguousarray(a)
        found = _layout(a.shape, _steps(a), batch)
        if found is None:  # some of its matrices are to be used again, not all of them
            a = cupy.ascontiguousarray(cupy.broadcast_to(a, (*batch, *a.shape[-2:])))
            found = _layout(a.shape, _steps(a), batch)
        assert found is not None
    return a, _Matrix(*found, _TYPES[a.dtype])


def _steps(a: Any) -> tuple[int, ...]:
    itemsize = a.itemsize
    return tuple([stride // itemsize for stride in a.strides])


@functools.lru_cache(maxsize=4096)
def _layout(
    shape: tuple[int, ...], strides: tuple[int, ...], batch: tuple[int, ...]
) -> tuple[int, int, int, int, bool] | None:
    """Rows, columns, leading, batch, transposed; None: memory is in pieces."""
    (*_, m, n), (*_, down, right) = shape, strides
    down, right = down if m > 1 else n, right if n > 1 else 1
    step = _step(shape[:-2], strides[:-2], batch)
    if step is None:
        return None
    if right == 1 and down >= n:  # rows one behind another: a row is a column of the transpose
        return n, m, down, step, False
    if (down == 1 or m == 1) and right >= m:
        return m, n, right, step, True
    return None


def _step(shape: Sequence[int], strides: Sequence[int], batch: Sequence[int]) -> int | None:
    """From one matrix to the next where all steps are alike; None: they are not."""
    missing = len(batch) - len(shape)
    pairs = [(0, n) for n in batch[:missing]]
    pairs += [(stride if size > 1 else 0, n) for size, stride, n in zip(shape, strides, batch[missing:], strict=True)]
    pairs = [pair for pair in pairs if pair[1] > 1]
    for (outer, _), (inner, n) in itertools.pairwise(pairs):
        if outer != inner * n:
            return None
    return pairs[-1][0] if pairs else 0


# -- plans -------------------------------------------------------------------------------------------------------------


class _Plan:
    """What cuBLASLt was told of a product, and the algorithm that it chose."""

    def __init__(
        self, a: _Matrix, b: _Matrix, out: _Matrix, count: int, epilogue: int, bias_kind: int, tf32: bool
    ) -> None:
        library = _library()
        wide = out.kind == _TYPES[_float64]
        compute = _COMPUTE_64F if wide else _COMPUTE_32F_FAST_TF32 if tf32 else _COMPUTE_32F
        scale = _float64 if wide else _float32
        self.one, self.zero = np.ones(1, scale), np.zeros(1, scale)
        self.bias = np.zeros(1, np.int64)
        self.bias_address = self.bias.ctypes.data
        self.scales = (self.one.ctypes.data, self.zero.ctypes.data)
        self.description = library.matmul_desc_create(compute, _TYPES[scale])
        self.layouts: list[int] = []
        self.found = False
        try:
            self._describe(library, a, b, out, count, epilogue, bias_kind)
            self._choose(library)
        except BaseException:
            self.destroy()
            raise

    def _describe(
        self, library: Any, a: _Matrix, b: _Matrix, out: _Matrix, count: int, epilogue: int, bias_kind: int
    ) -> None:
        def tell(attribute: int, value: int, dtype: Any) -> None:
            told = np.array([value], dtype)
            library.matmul_desc_set_attribute(self.description, attribute, told.ctypes.data, told.nbytes)

        tell(_TRANSA, a.transposed, np.int32)
        tell(_TRANSB, b.transposed, np.int32)
        tell(_EPILOGUE, epilogue, np.uint32)
        if epilogue != _DEFAULT:
            tell(_BIAS_DATA_TYPE, bias_kind, np.int32)
            tell(_BIAS_POINTER, 256, np.int64)  # an aligned place, for the choice; each call tells its own
        for matrix in (a, b, out):
            layout = library.matrix_layout_create(matrix.kind, matrix.rows, matrix.columns, matrix.leading)
            self.layouts.append(layout)
            if count > 1:
                for attribute, value in (
                    (_BATCH_COUNT, np.array([count], np.int32)),
                    (_STRIDED_BATCH_OFFSET, np.array([matrix.batch], np.int64)),
                ):
                    library.matrix_layout_set_attribute(layout, attribute, value.ctypes.data, value.nbytes)

    def _choose(self, library: Any) -> None:
        """The first of cuBLASLt's heuristics: never by timing, which would choose differently from run to run."""
        preference = library.matmul_preference_create()
        try:
            wishes: list[tuple[int, Any]] = [
                (_MAX_WORKSPACE_BYTES, np.array([WORKSPACE_BYTES], np.uint64)),
                (_REDUCTION_SCHEME_MASK, np.array([_REDUCTION_IN_COMPUTE_TYPE], np.uint32)),
            ]
            wishes += [(attribute, np.array([PLACE_BYTES], np.uint32)) for attribute in _MIN_ALIGNMENT]
            for attribute, value in wishes:
                library.matmul_preference_set_attribute(preference, attribute, value.ctypes.data, value.nbytes)
            self.chosen, count = library.MatmulHeuristicResult(1), np.zeros(1, np.int32)
            a, b, out = self.layouts
            try:
                library.matmul_algo_get_heuristic(
                    _handle(), self.description, a, b, out, out, preference, 1, self.chosen.ptr, count.ctypes.data
                )
            except Exception as error:
                if getattr(error, "status", None) != _NOT_SUPPORTED:
                    raise
            self.found = bool(count[0])
        finally:
            library.matmul_preference_destroy(preference)

    def run(self, a: int, b: int, out: int, bias: int) -> None:
        """Of these addresses, on the current stream."""
        library = _library()
        stream = importlib.import_module("cupy").cuda.get_current_stream()
        if bias:
            self.bias[0] = bias
            library.matmul_desc_set_attribute(self.description, _BIAS_POINTER, self.bias_address, 8)
        of_a, of_b, of_out = self.layouts
        library.matmul(
            _handle(), self.description, self.scales[0], a, of_a, b, of_b, self.scales[1], out, of_out, out, of_out,
            self.chosen.ptr,  # the algorithm is what it begins with
            workspace(WORKSPACE_BYTES, stream), WORKSPACE_BYTES, stream.ptr,
        )  # fmt: skip

    def destroy(self) -> None:
        library = _library()
        library.matmul_desc_destroy(self.description)
        for layout in self.layouts:
            library.matrix_layout_destroy(layout)


_NOT_SUPPORTED = 15  # CUBLAS_STATUS_NOT_SUPPORTED
_plans: OrderedDict[Any, _Plan] = OrderedDict()


def _plan(*key: Any) -> _Plan:
    plan = _plans.get(key)
    if plan is None:
        if len(_plans) >= _MAX_PLANS:
            _plans.popitem(last=False)[1].destroy()
        plan = _plans[key] = _Plan(*key)
    else:
        _plans.move_to_end(key)
    return plan


# -- products ----------------------------------------------------------------------------------------------------------


def multiply(a: Any, b: Any, *, out: Any = None, bias: Any = None, row_sums: Any = None) -> Any:
    """`a (…, m, k) @ b (…, k, n)`, into `out` if it is given, plus `bias (n,)`.

    Into `row_sums (m,)`, if it is given, go the sums of the rows of `a`: where `a` is a gradient transposed and `b` the
    input, they are the bias' gradient, while the product is the weight's.

    Returns `NotImplemented` for other dtypes, nothing to add up, and what cuBLASLt has no algorithm for.
    """
    kind = a.dtype
    if kind not in _TYPES or b.dtype != kind or a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        return NotImplemented
    if not a.size or not b.size:
        return NotImplemented
    if a.ndim > 2 and b.ndim == 2 and out is None and row_sums is None:  # one large product
        flat = multiply(a.reshape(-1, a.shape[-1]), b, bias=bias)
        return flat if flat is NotImplemented else flat.reshape(*a.shape[:-1], b.shape[-1])
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    count, shape = math.prod(batch), (*batch, a.shape[-2], b.shape[-1])
    cupy: Any = importlib.import_module("cupy")
    wanted = out
    if out is None or out.data.ptr % PLACE_BYTES:
        out = cupy.empty(shape, kind if out is None else out.dtype)
    if not _fits(out if wanted is None else wanted, shape, kind, count):
        return NotImplemented
    if not _fits_vectors(out, a, bias, row_sums, count):
        return NotImplemented
    a, of_a = _matrix(a, batch)
    b, of_b = _matrix(b, batch)
    _, of_out = _matrix(out, batch)
    vector = row_sums if bias is None else aligned(bias)
    if row_sums is not None and row_sums.data.ptr % PLACE_BYTES:
        vector = cupy.empty_like(row_sums)
    epilogue = _DEFAULT if vector is None else _BGRADB if bias is None else _BIAS
    bias_kind = _TYPES[out.dtype if vector is None else vector.dtype]
    plan = _plan(of_b, of_a, of_out, count, epilogue, bias_kind, kind == _float32 and get_tf32())
    if not plan.found:
        return NotImplemented if row_sums is None else _apart(a, b, wanted, row_sums)
    plan.run(b.data.ptr, a.data.ptr, out.data.ptr, 0 if vector is None else vector.data.ptr)
    if row_sums is not None and vector is not row_sums:
        row_sums[...] = vector
    if wanted is None or wanted is out:
        return out
    wanted[...] = out
    return wanted


def _apart(a: Any, b: Any, out: Any, row_sums: Any) -> Any:
    """The product, and then the sums of the rows as one with ones: where there is no algorithm for both."""
    ones = importlib.import_module("cupy").ones((a.shape[-1], 1), a.dtype)
    if multiply(a, ones, out=row_sums.reshape(-1, 1)) is NotImplemented:
        return NotImplemented
    return multiply(a, b, out=out)


def multiplier(b: Any) -> Any:
    """`times(a, out)`, which writes a @ b to out, for many a: cuBLASLt has no other layout to prepare."""
    if b.dtype not in _TYPES or b.ndim != 2 or not b.size:
        return NotImplemented
    b = aligned(b)

    def times(a: Any, out: Any) -> None:
        if multiply(a, b, out=out) is NotImplemented:
            KERNELS["multiplier"].reference(importlib.import_module("cupy"), b)(a, out)

    return times


def _fits(out: Any, shape: tuple[int, ...], kind: Any, count: int) -> bool:
    """Whether the result may go there: its rows one behind another, as they are or widened."""
    if out.shape != shape or (out.dtype != kind and not (out.dtype == _float32 and kind.itemsize == 2)):
        return False
    return bool(out.flags.c_contiguous) or (
        count == 1 and out.strides[-1] == out.itemsize and out.strides[-2] >= out.shape[-1] * out.itemsize
    )


def _fits_vectors(out: Any, a: Any, bias: Any, row_sums: Any, count: int) -> bool:
    if bias is not None and (row_sums is not None or bias.shape != out.shape[-1:]):
        return False
    if row_sums is not None and (count > 1 or row_sums.shape != (a.shape[-2],)):
        return False
    return all(each is None or (each.dtype == out.dtype and each.flags.c_contiguous) for each in (bias, row_sums))
