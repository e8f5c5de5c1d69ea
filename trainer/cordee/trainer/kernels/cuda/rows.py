"""Softmax, cross-entropy and norms of rows on a GPU: a block per row, its sums in one fixed order, nothing atomic.

float32, bfloat16 and float16 come and go; what is added up is float32. A row is read once per pass: short ones are
still in the first cache by then. The gradients of a norm's weight and bias are added up by chunks of rows, and the
chunks' sums one after another, so the bits depend on shapes alone. It has not yet run on a device.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from cordee.trainer.kernels.cuda.fused import PREAMBLE

__all__ = [
    "KERNELS", "KINDS", "cross_entropy", "cross_entropy_grad", "layer_norm", "layer_norm_grad", "log_softmax",
    "log_softmax_grad", "rms_norm", "rms_norm_grad", "softmax", "softmax_grad", "source",
]  # fmt: skip

KINDS = {
    "float32": """
typedef float T;
__device__ __forceinline__ float load(const T* p, long long i) { return p[i]; }
__device__ __forceinline__ void store(T* p, long long i, float x) { p[i] = x; }
""",
    "bfloat16": """
typedef unsigned short T;
__device__ __forceinline__ float load(const T* p, long long i) { return from_bits(p[i]); }
__device__ __forceinline__ void store(T* p, long long i, float x) { p[i] = to_bits(x); }
""",
    "float16": """
typedef unsigned short T;
#ifdef __CUDACC__
__device__ __forceinline__ float from_half(unsigned short x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}
__device__ __forceinline__ unsigned short to_half(float x) {
    unsigned short y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
#endif
__device__ __forceinline__ float load(const T* p, long long i) { return from_half(p[i]); }
__device__ __forceinline__ void store(T* p, long long i, float x) { p[i] = to_half(x); }
""",
}
"""By dtype: how an element is read and written."""

_REDUCTIONS = """
// Over all threads of the block, which all get it: within warps first, then over the warps, each time in one order.
__device__ float block_reduce(float value, bool largest) {
    __shared__ float parts[32];
    for (int apart = 16; apart > 0; apart >>= 1) {
        float other = __shfl_xor_sync(0xffffffffu, value, apart);
        value = largest ? fmaxf(value, other) : value + other;
    }
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, num_warps = blockDim.x >> 5;
    __syncthreads();  // the parts of the time before have been read
    if (lane == 0) parts[warp] = value;
    __syncthreads();
    value = lane < num_warps ? parts[lane] : (largest ? -INFINITY : 0.0f);
    for (int apart = 16; apart > 0; apart >>= 1) {
        float other = __shfl_xor_sync(0xffffffffu, value, apart);
        value = largest ? fmaxf(value, other) : value + other;
    }
    return value;
}
__device__ float block_sum(float value) { return block_reduce(value, false); }
__device__ float block_max(float value) { return block_reduce(value, true); }
"""

_SOFTMAX = """
__device__ float row_max(const T* a, long long length) {
    float top = -INFINITY;
    for (long long i = threadIdx.x; i < length; i += blockDim.x) top = fmaxf(top, load(a, i));
    return block_max(top);  // a NaN is not seen here, and makes the sum one
}
__device__ float row_total(const T* a, long long length, float top) {
    float total = 0.0f;
    for (long long i = threadIdx.x; i < length; i += blockDim.x) total += expf(load(a, i) - top);
    return block_sum(total);
}

extern "C" __global__ void softmax(const T* a, T* out, long long length, int logarithm) {
    a += blockIdx.x * length;
    out += blockIdx.x * length;
    float top = row_max(a, length), total = row_total(a, length, top);
    float shift = logf(total);
    for (long long i = threadIdx.x; i < length; i += blockDim.x) {
        float x = load(a, i) - top;
        store(out, i, logarithm ? x - shift : expf(x) / total);
    }
}

extern "C" __global__ void softmax_grad(const T* g, const T* out, T* into, long long length, int logarithm) {
    g += blockIdx.x * length;
    out += blockIdx.x * length;
    into += blockIdx.x * length;
    float total = 0.0f;
    for (long long i = threadIdx.x; i < length; i += blockDim.x)
        total += load(g, i) * (logarithm ? 1.0f : load(out, i));
    total = block_sum(total);
    for (long long i = threadIdx.x; i < length; i += blockDim.x) {
        float slope = load(g, i), value = load(out, i);
        store(into, i, logarithm ? slope - expf(value) * total : (slope - total) * value);
    }
}

extern "C" __global__ void cross_entropy(
    const T* a, const long long* target, float* losses, float* tops, float* totals, long long length) {
    a += blockIdx.x * length;
    float top = row_max(a, length), total = row_total(a, length, top);
    if (threadIdx.x == 0) {
        long long chosen = target[blockIdx.x];
        bool inside = chosen >= 0 && chosen < length;
        losses[blockIdx.x] = inside ? logf(total) - (load(a, chosen) - top) : NAN;
        tops[blockIdx.x] = top;
        totals[blockIdx.x] = total;
    }
}

extern "C" __global__ void cross_entropy_grad(
    const T* a, const long long* target, const float* slopes, const float* tops, const float* totals, T* into,
    long long length, int slope_step) {
    a += blockIdx.x * length;
    into += blockIdx.x * length;
    float slope = slopes[blockIdx.x * (long long)slope_step], top = tops[blockIdx.x];
    float factor = slope / totals[blockIdx.x];
    long long chosen = target[blockIdx.x];
    for (long long i = threadIdx.x; i < length; i += blockDim.x)
        store(into, i, expf(load(a, i) - top) * factor - (i == chosen ? slope : 0.0f));
}
"""

_NORMS = """
// Layer norm (centred) or RMS norm. weight, bias and mean may be null.
extern "C" __global__ void norm_rows(
    const T* input, const T* weight, const T* bias, T* out, float* mean, float* inverse, long long length, float eps,
    int centred) {
    input += blockIdx.x * length;
    out += blockIdx.x * length;
    float middle = 0.0f, square = 0.0f;
    if (centred) {
        for (long long i = threadIdx.x; i < length; i += blockDim.x) middle += load(input, i);
        middle = block_sum(middle) / length;
    }
    for (long long i = threadIdx.x; i < length; i += blockDim.x) {
        float x = load(input, i) - middle;
        square += x * x;
    }
    float factor = 1.0f / sqrtf(block_sum(square) / length + eps);
    for (long long i = threadIdx.x; i < length; i += blockDim.x) {
        float x = (load(input, i) - middle) * factor;
        if (weight) x *= load(weight, i);
        if (bias) x += load(bias, i);
        store(out, i, x);
    }
    if (threadIdx.x == 0) {
        if (centred) mean[blockIdx.x] = middle;
        inverse[blockIdx.x] = factor;
    }
}

extern "C" __global__ void norm_grad(
    const T* g, const T* input, const T* weight, const float* mean, const float* inverse, T* into, long long length,
    int centred) {
    g += blockIdx.x * length;
    input += blockIdx.x * length;
    into += blockIdx.x * length;
    float middle = centred ? mean[blockIdx.x] : 0.0f, factor = inverse[blockIdx.x], along = 0.0f, level = 0.0f;
    for (long long i = threadIdx.x; i < length; i += blockDim.x) {
        float slope = load(g, i) * (weight ? load(weight, i) : 1.0f);
        along += slope * ((load(input, i) - middle) * factor);
        level += slope;
    }
    along = block_sum(along) / length;
    level = centred ? block_sum(level) / length : 0.0f;
    for (long long i = threadIdx.x; i < length; i += blockDim.x) {
        float slope = load(g, i) * (weight ? load(weight, i) : 1.0f);
        store(into, i, (slope - level - (load(input, i) - middle) * factor * along) * factor);
    }
}

// A thread per column and chunk of rows: sums (chunks, 2, length), of the weight's gradient and of the bias'.
extern "C" __global__ void norm_sums(
    const T* g, const T* input, const float* mean, const float* inverse, float* sums, long long num_rows,
    long long length, int centred) {
    long long column = (long long)blockIdx.x * blockDim.x + threadIdx.x, chunk = blockIdx.y;
    if (column >= length) return;
    float of_weight = 0.0f, of_bias = 0.0f;
    for (long long r = chunk * num_rows / gridDim.y; r < (chunk + 1) * num_rows / gridDim.y; ++r) {
        float slope = load(g, r * length + column);
        of_weight += slope * ((load(input, r * length + column) - (centred ? mean[r] : 0.0f)) * inverse[r]);
        of_bias += slope;
    }
    sums[2 * chunk * length + column] = of_weight;
    sums[(2 * chunk + 1) * length + column] = of_bias;
}

extern "C" __global__ void norm_totals(const float* sums, T* of_weight, T* of_bias, int chunks, long long length) {
    long long column = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= length) return;
    float weight_total = 0.0f, bias_total = 0.0f;
    for (int chunk = 0; chunk < chunks; ++chunk) {
        weight_total += sums[2 * chunk * length + column];
        bias_total += sums[(2 * chunk + 1) * length + column];
    }
    store(of_weight, column, weight_total);
    store(of_bias, column, bias_total);
}
"""

KERNELS = (
    "softmax", "softmax_grad", "cross_entropy", "cross_entropy_grad",
    "norm_rows", "norm_grad", "norm_sums", "norm_totals",
)  # fmt: skip
"""What is in the source."""

_COLUMNS = 128
"""Threads of a block where each has a column."""
_NOTHING = np.uint64(0)
"""A null pointer."""


def source(kind: str) -> str:
    """The source for a dtype."""
    return PREAMBLE + KINDS[kind] + _REDUCTIONS + _SOFTMAX + _NORMS


@functools.cache
def _function(kind: str, name: str) -> Any:
    return _module(kind).get_function(name)


@functools.cache
def _module(kind: str) -> Any:
    return importlib.import_module("cupy").RawModule(code=source(kind), options=("-std=c++17",))


def _threads(length: int) -> int:
    """Of a row's block: four elements or more for each, and whole warps."""
    threads = 32
    while threads < 1024 and threads * 4 < length:
        threads *= 2
    return threads


_DTYPES = {np.dtype(np.float32): "float32", np.dtype(ml_dtypes.bfloat16): "bfloat16", np.dtype(np.float16): "float16"}


def _kind(*arrays: Any) -> str:
    """The dtype of rows that lie one behind another, and of what else is given; "": they are not taken here."""
    first = arrays[0]
    kind = _DTYPES.get(first.dtype, "")
    if not first.size or not first.ndim:
        return ""
    for each in arrays:
        if each is not None and (each.dtype != first.dtype or not each.flags.c_contiguous):
            return ""
    return kind


def _launch(kind: str, name: str, num_rows: int, length: int, *args: Any) -> None:
    _function(kind, name)((num_rows,), (_threads(length),), args)


def _whole(*statistics: Any) -> bool:
    return all(each.dtype == np.float32 and each.flags.c_contiguous for each in statistics)


# -- softmax -----------------------------------------------------------------------------------------------------------


def _over_rows(name: str, *arrays: Any, axis: int, logarithm: bool) -> Any:
    first = arrays[0]
    kind = _kind(*arrays)
    if not kind or axis not in (-1, first.ndim - 1) or any(each.shape != first.shape for each in arrays):
        return NotImplemented
    length = first.shape[-1]
    out = importlib.import_module("cupy").empty(first.shape, first.dtype)
    _launch(kind, name, first.size // length, length, *arrays, out, np.int64(length), np.int32(logarithm))
    return out


def softmax(a: Any, *, axis: int) -> Any:
    return _over_rows("softmax", a, axis=axis, logarithm=False)


def softmax_grad(g: Any, out: Any, *, axis: int) -> Any:
    return _over_rows("softmax_grad", g, out, axis=axis, logarithm=False)


def log_softmax(a: Any, *, axis: int) -> Any:
    return _over_rows("softmax", a, axis=axis, logarithm=True)


def log_softmax_grad(g: Any, out: Any, *, axis: int) -> Any:
    return _over_rows("softmax_grad", g, out, axis=axis, logarithm=True)


# -- cross-entropy -----------------------------------------------------------------------------------------------------


def cross_entropy(logits: Any, *, target: Any, reduction: str) -> Any:
    """A class number outside gives NaN: the function that people call has looked at them before."""
    kind = _kind(logits)
    if not kind or logits.ndim != 2 or target.shape != logits.shape[:1] or target.dtype.kind not in "iu":
        return NotImplemented
    cupy: Any = importlib.import_module("cupy")
    num_rows, length = logits.shape
    losses, tops, totals = (cupy.empty(num_rows, np.float32) for _ in range(3))
    classes = cupy.ascontiguousarray(target, np.int64)
    _launch(kind, "cross_entropy", num_rows, length, logits, classes, losses, tops, totals, np.int64(length))
    if reduction != "none":
        losses = losses.sum()
        if reduction == "mean":
            losses = losses / num_rows
    return losses.astype(logits.dtype, copy=False), (tops, totals)


def cross_entropy_grad(slopes: Any, logits: Any, tops: Any, totals: Any, *, target: Any) -> Any:
    kind = _kind(logits)
    if not kind or logits.ndim != 2 or not _whole(tops, totals) or target.dtype.kind not in "iu":
        return NotImplemented
    cupy: Any = importlib.import_module("cupy")
    num_rows, length = logits.shape
    into = cupy.empty(logits.shape, logits.dtype)
    classes, slopes = cupy.ascontiguousarray(target, np.int64), cupy.ascontiguousarray(slopes, np.float32)
    _launch(
        kind, "cross_entropy_grad", num_rows, length,
        logits, classes, slopes, tops, totals, into, np.int64(length), np.int32(slopes.size > 1),
    )  # fmt: skip
    return into


# -- norms -------------------------------------------------------------------------------------------------------------


def _norm(input: Any, weight: Any, bias: Any, eps: float, centred: bool) -> Any:
    kind = _kind(input, weight, bias)
    if not kind or input.ndim != 2:
        return NotImplemented
    cupy: Any = importlib.import_module("cupy")
    num_rows, length = input.shape
    out, inverse = cupy.empty(input.shape, input.dtype), cupy.empty((num_rows, 1), np.float32)
    mean = cupy.empty((num_rows, 1), np.float32) if centred else None
    _launch(
        kind, "norm_rows", num_rows, length, input, _pointer(weight), _pointer(bias), out, _pointer(mean), inverse,
        np.int64(length), np.float32(eps), np.int32(centred),
    )  # fmt: skip
    return out, mean, inverse


def _pointer(a: Any) -> Any:
    return _NOTHING if a is None else a


def _norm_grad(g: Any, input: Any, weight: Any, mean: Any, inverse: Any, needs: Sequence[bool]) -> Any:
    """By input, weight and bias; None where it is not needed."""
    kind = _kind(input, g, weight)
    if not kind or input.ndim != 2 or g.shape != input.shape or not _whole(inverse, *(() if mean is None else (mean,))):
        return NotImplemented
    cupy: Any = importlib.import_module("cupy")
    (num_rows, length), centred = input.shape, np.int32(mean is not None)
    statistics = (_pointer(mean), inverse)
    into = of_weight = of_bias = None
    if needs[0]:
        into = cupy.empty(input.shape, input.dtype)
        _launch(
            kind,
            "norm_grad",
            num_rows,
            length,
            g,
            input,
            _pointer(weight),
            *statistics,
            into,
            np.int64(length),
            centred,
        )
    if any(needs[1:]):
        chunks, blocks = _chunks(num_rows), -(-length // _COLUMNS)
        sums = cupy.empty((chunks, 2, length), np.float32)
        _function(kind, "norm_sums")(
            (blocks, chunks), (_COLUMNS,),
            (g, input, *statistics, sums, np.int64(num_rows), np.int64(length), centred),
        )  # fmt: skip
        of_weight, of_bias = cupy.empty(length, input.dtype), cupy.empty(length, input.dtype)
        _function(kind, "norm_totals")(
            (blocks,), (_COLUMNS,), (sums, of_weight, of_bias, np.int32(chunks), np.int64(length))
        )
    return into, of_weight if needs[1] else None, of_bias if len(needs) > 2 and needs[2] else None


def _chunks(num_rows: int) -> int:
    """Of rows: enough for all of a GPU's processors to have some, each of many rows."""
    return min(max(num_rows // 32, 1), 64)


def layer_norm(input: Any, weight: Any, bias: Any, *, eps: float) -> Any:
    found = _norm(input, weight, bias, eps, centred=True)
    return found if found is NotImplemented else (found[0], found[1:])


def layer_norm_grad(g: Any, input: Any, weight: Any, mean: Any, inverse: Any, *, needs: Sequence[bool]) -> Any:
    return _norm_grad(g, input, weight, mean, inverse, needs)


def rms_norm(input: Any, weight: Any, *, eps: float) -> Any:
    found = _norm(input, weight, None, eps, centred=False)
    return found if found is NotImplemented else (found[0], found[2])


def rms_norm_grad(g: Any, input: Any, weight: Any, inverse: Any, *, needs: Sequence[bool]) -> Any:
    found = _norm_grad(g, input, weight, None, inverse, needs)
    return found if found is NotImplemented else found[:2]
