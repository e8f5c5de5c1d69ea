"""Philox on a GPU: the very words that NumPy's generator of that name draws on the host.

A draw's place is its counter and key (see `cordee.trainer.random`), so word i is computed without those before it, and
dropout has the same mask on both. Philox-4x64 with ten rounds (Salmon, Moraes, Dror and Shaw 2011).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["SOURCE", "kept_bytes", "random_words", "words"]

SOURCE = r"""
__device__ __forceinline__ void philox_round(unsigned long long* c, unsigned long long k0, unsigned long long k1) {
    const unsigned long long m0 = 0xD2E7470EE14C6C93ULL, m1 = 0xCA5A826395121157ULL;
    unsigned long long high0 = __umul64hi(m0, c[0]), low0 = m0 * c[0];
    unsigned long long high1 = __umul64hi(m1, c[2]), low1 = m1 * c[2];
    unsigned long long c1 = c[1], c3 = c[3];
    c[0] = high1 ^ c1 ^ k0;
    c[1] = low1;
    c[2] = high0 ^ c3 ^ k1;
    c[3] = low0;
}

__device__ __forceinline__ void philox_block(
    unsigned long long* c, unsigned long long k0, unsigned long long k1) {
    for (int round = 0; round < 10; ++round) {
        philox_round(c, k0, k1);
        k0 += 0x9E3779B97F4A7C15ULL;
        k1 += 0xBB67AE8584CAA73BULL;
    }
}

extern "C" __global__ void philox_words(
    unsigned long long* out, long long count, unsigned long long key0, unsigned long long key1,
    unsigned long long c0, unsigned long long c1, unsigned long long c2, unsigned long long c3) {
    long long block = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (4 * block >= count) return;
    // NumPy counts up before it draws; the carry runs through all four words.
    unsigned long long c[4] = {c0 + (unsigned long long)block + 1, c1, c2, c3};
    if (c[0] < c0 || (c[0] == c0 && block != 0)) { if (++c[1] == 0) { if (++c[2] == 0) ++c[3]; } }
    philox_block(c, key0, key1);
    for (int i = 0; i < 4; ++i) if (4 * block + i < count) out[4 * block + i] = c[i];
}

// A thread per 64 bytes: how many of them are just at the border.
extern "C" __global__ void philox_undecided(
    const unsigned char* draws, long long* numbers, long long count, int border) {
    long long chunk = (long long)blockIdx.x * blockDim.x + threadIdx.x, found = 0;
    if (64 * chunk >= count) return;
    for (long long i = 64 * chunk; i < count && i < 64 * chunk + 64; ++i) found += draws[i] == border;
    numbers[chunk] = found;
}

// What is kept: bytes above the border; of those at it, the k-th is decided by the k-th word from `place` on of the
// block that the counter is at, as NumPy's generator makes a number from 0 to 1 of a word. `until`: by chunk, how many
// are at the border in it and before.
extern "C" __global__ void philox_kept(
    const unsigned char* draws, const long long* until, bool* kept, long long count, int border, double rest,
    long long place, unsigned long long key0, unsigned long long key1,
    unsigned long long c0, unsigned long long c1, unsigned long long c2, unsigned long long c3) {
    long long chunk = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (64 * chunk >= count) return;
    long long word = place + (chunk ? until[chunk - 1] : 0);
    for (long long i = 64 * chunk; i < count && i < 64 * chunk + 64; ++i) {
        if (draws[i] != border) {
            kept[i] = draws[i] > border;
            continue;
        }
        unsigned long long c[4] = {c0 + (unsigned long long)(word / 4), c1, c2, c3};
        if (c[0] < c0) { if (++c[1] == 0) { if (++c[2] == 0) ++c[3]; } }
        philox_block(c, key0, key1);
        kept[i] = (double)(c[word % 4] >> 11) * (1.0 / 9007199254740992.0) >= rest;
        ++word;
    }
}
"""

_THREADS = 256


@functools.cache
def _kernel(name: str) -> Any:
    return importlib.import_module("cupy").RawKernel(SOURCE, name)


def words(key: Sequence[int], counter: Sequence[int], count: int) -> Any:
    """The first `count` words of 64 bits at this place, as NumPy's `Philox(key=…, counter=…)` draws them."""
    cupy: Any = importlib.import_module("cupy")
    out = cupy.empty(count, cupy.uint64)
    blocks = -(-count // (4 * _THREADS))
    if count:
        _kernel("philox_words")(
            (blocks,), (_THREADS,), (out, count, *map(cupy.uint64, key), *map(cupy.uint64, counter))
        )
    return out


def random_words(generator: np.random.Generator, count: int) -> Any:
    """The next words of a generator of that kind, on the device; the generator goes on behind them."""
    bits = generator.bit_generator
    state: Any = bits.state
    if state["bit_generator"] != "Philox" or state["buffer_pos"] != 4:  # in the middle of four words
        return NotImplemented
    place = state["state"]
    drawn = words([*map(int, place["key"])], [*map(int, place["counter"])], count)
    bits.advance(count // 4)  # type: ignore[attr-defined]
    generator.integers(0, 1 << 64, count % 4, np.uint64)  # the rest of the last four
    return drawn


_CHUNK = 64


def kept_bytes(draws: Any, generator: np.random.Generator, *, border: int, rest: float) -> Any:
    """By the generator's words behind those that the bytes are from; nobody waits to hear how many it takes.

    The generator is then where it was: nothing else may be drawn from it.
    """
    state: Any = generator.bit_generator.state
    if state["bit_generator"] != "Philox" or not draws.size or not draws.flags.c_contiguous:
        return NotImplemented
    cupy: Any = importlib.import_module("cupy")
    count = draws.size
    chunks = -(-count // _CHUNK)
    grid = (-(-chunks // _THREADS),)
    undecided = cupy.empty(chunks, cupy.int64)
    _kernel("philox_undecided")(grid, (_THREADS,), (draws, undecided, np.int64(count), np.int32(border)))
    until = cupy.cumsum(undecided)  # of whole numbers: in whatever order
    kept = cupy.empty(draws.shape, bool)
    place = [cupy.uint64(int(word)) for part in ("key", "counter") for word in state["state"][part]]
    numbers = (np.int64(count), np.int32(border), np.float64(rest), np.int64(state["buffer_pos"]))
    _kernel("philox_kept")(grid, (_THREADS,), (draws, until, kept, *numbers, *place))
    return kept
