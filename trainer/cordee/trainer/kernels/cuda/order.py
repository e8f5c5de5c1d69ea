"""What sorts row numbers on a GPU, equal ones in the order in which they come.

CuPy's sorts are Thrust's, which waits for the end, and so cannot be recorded in a graph. Row numbers are small: here
they are sorted digit by digit, of 4 bits, from the last on. A thread counts its 16 elements' digits, the counts are
added up over digits and threads, and each thread puts its elements, in their order, behind those of the threads before.
It has not yet run on a device.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy as np

from cordee.trainer.kernels.cuda.launch import blocks, pointer

__all__ = ["KERNELS", "SOURCE", "row_order"]

SOURCE = """
// Rows that there are not come last.
__device__ __forceinline__ int digit_of(long long row, long long height, int shift) {
    if (row < 0 || row > height) row = height;
    return (int)(row >> shift) & 15;
}

extern "C" __global__ void digit_counts(
    const long long* rows, const long long* order, long long* counts, long long count, long long chunks,
    long long height, int shift) {
    long long chunk = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (chunk >= chunks) return;
    int found[16] = {0};
    for (long long i = 16 * chunk; i < count && i < 16 * chunk + 16; ++i)
        ++found[digit_of(rows[order ? order[i] : i], height, shift)];
    for (int digit = 0; digit < 16; ++digit) counts[digit * chunks + chunk] = found[digit];
}

// until: by digit and chunk, how many elements come up to those.
extern "C" __global__ void digit_places(
    const long long* rows, const long long* order, const long long* until, long long* into, long long count,
    long long chunks, long long height, int shift) {
    long long chunk = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (chunk >= chunks) return;
    long long next[16];
    for (int digit = 0; digit < 16; ++digit) {
        long long here = digit * chunks + chunk;
        next[digit] = here ? until[here - 1] : 0;
    }
    for (long long i = 16 * chunk; i < count && i < 16 * chunk + 16; ++i) {
        long long element = order ? order[i] : i;
        into[next[digit_of(rows[element], height, shift)]++] = element;
    }
}
"""
KERNELS = ("digit_counts", "digit_places")
"""What is in the source."""

_THREADS = 128


@functools.cache
def _kernel(name: str) -> Any:
    return importlib.import_module("cupy").RawKernel(SOURCE, name)


def row_order(rows: Any, *, height: int) -> Any:
    """What sorts a vector of rows of a table of this height."""
    if rows.dtype != np.int64 or rows.ndim != 1 or not rows.size or not rows.flags.c_contiguous:
        return NotImplemented
    cupy: Any = importlib.import_module("cupy")
    chunks, order = -(-rows.size // 16), None
    sizes = (np.int64(rows.size), np.int64(chunks), np.int64(height))
    for shift in range(0, max(height.bit_length(), 1), 4):
        counts, into = cupy.empty(16 * chunks, np.int64), cupy.empty(rows.size, np.int64)
        grid = blocks(chunks, _THREADS)
        _kernel("digit_counts")(grid, (_THREADS,), (rows, pointer(order), counts, *sizes, np.int32(shift)))
        until = cupy.cumsum(counts)  # of whole numbers: in whatever order
        _kernel("digit_places")(grid, (_THREADS,), (rows, pointer(order), until, into, *sizes, np.int32(shift)))
        order = into
    return order
