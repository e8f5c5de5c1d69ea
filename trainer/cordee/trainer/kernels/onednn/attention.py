"""Attention of bfloat16: products by oneDNN, added up in float32, and softmax by generated loops, a block at a time.

The weights are kept for the gradient, in bfloat16. Blocks are rows of queries with the keys that one of them sees; a
gradient by keys or values is one product for all queries that see a block of them, so that it is rounded once. Results
lie in memory as the operands do, heads behind places or before: what splits and joins heads then copies nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from cordee.trainer.array import bfloat16
from cordee.trainer.kernels import team
from cordee.trainer.kernels.onednn.library import has_bfloat16
from cordee.trainer.kernels.registry import KERNELS, in_use

__all__ = ["flash_attention", "flash_attention_grad"]

_LEAST = 1 << 16
"""Multiplications for the scores, from which on attention is computed here."""
_BLOCK = 64
_CACHED_BYTES = 1 << 20
"""Of scores, for each thread."""


def flash_attention(query: Any, key: Any, value: Any, *, scale: float, causal: bool) -> Any:
    """And its weights, for the gradient."""
    ndim, batch = query.ndim, query.shape[:-2]
    if not 2 <= ndim <= 4 or key.shape[:-2] != batch or value.shape[:-2] != batch:
        return NotImplemented
    if any(a.dtype is not bfloat16 for a in (query, key, value)) or not has_bfloat16() or "llvm" not in in_use():
        return NotImplemented
    num_queries, num_keys = query.shape[-2], key.shape[-2]
    if not value.size or query.size * num_keys < _LEAST:
        return NotImplemented
    from cordee.trainer.kernels.llvm.attention import weights_to_rows

    multiply = KERNELS["multiply"]
    out = _like(query, value.shape[-1])
    all_weights = np.empty((*batch, num_queries, num_keys), bfloat16)
    for q, k, v, weights, target in _parts(num_queries, num_keys, query, key, value, all_weights, out):
        turned = k.swapaxes(-1, -2)
        for first, last, keys in _blocks(num_queries, num_keys, causal):
            scores = np.empty((*q.shape[:2], last - first, keys), np.float32)
            multiply(np, q[:, :, first:last], turned[..., :keys], out=scores)
            weights_to_rows(scores, weights, scale=scale, first=first, causal=causal)
            multiply(np, weights[:, :, first:last, :keys], v[:, :, :keys], out=target[:, :, first:last])
    return out, (all_weights,)


def flash_attention_grad(
    g: Any, query: Any, key: Any, value: Any, kept: Any, *, scale: float, causal: bool
) -> tuple[Any, Any, Any]:
    """By query, key and value."""
    from cordee.trainer.kernels.llvm.attention import slopes_to_rows

    multiply, num_queries, num_keys = KERNELS["multiply"], query.shape[-2], key.shape[-2]
    if g.dtype is not bfloat16:
        g = g.astype(bfloat16)
    grads = tuple(_like(a, a.shape[-1]) for a in (query, key, value))
    parts = _parts(num_queries, num_keys, g, query, key, value, *kept, *grads)
    for slope, q, k, v, weights, dq, dk, dv in parts:
        scores_grad, turned = np.empty(weights.shape, bfloat16), v.swapaxes(-1, -2)
        for first, last, keys in _blocks(num_queries, num_keys, causal):
            weights_grad = np.empty((*q.shape[:2], last - first, keys), np.float32)
            multiply(np, slope[:, :, first:last], turned[..., :keys], out=weights_grad)
            slopes_to_rows(weights_grad, weights, scores_grad, scale=scale, first=first)
            multiply(np, scores_grad[:, :, first:last, :keys], k[:, :, :keys], out=dq[:, :, first:last])
        for first, last in _seen(num_queries, num_keys, causal):
            start = first if causal else 0  # the first query that sees them
            for matrix, rows, into in ((weights, slope, dv), (scores_grad, q, dk)):
                seeing = matrix[:, :, start:, first:last].swapaxes(-1, -2)
                multiply(np, seeing, rows[:, :, start:], out=into[:, :, first:last])
        if causal and num_keys > num_queries:
            dk[:, :, num_queries:] = dv[:, :, num_queries:] = 0
    return grads


def _like(a: Any, length: int) -> Any:
    """Memory for a result that lies as `a` does, with rows of this length."""
    return np.empty_like(a, shape=(*a.shape[:-1], length))


def _parts(num_queries: int, num_keys: int, *arrays: Any) -> Iterator[list[Any]]:
    """The arrays with four dimensions, of as many matrices at a time as have scores that stay in the cache."""
    wide = [a if a.ndim == 4 else a[None] if a.ndim == 3 else a[None, None] for a in arrays]
    samples, heads = wide[0].shape[:2]
    count = max(_CACHED_BYTES * team.size() // (_rows(num_queries) * num_keys * 4), 1)
    together = max(count // heads, 1)
    for n in range(0, samples, together):
        for h in range(0, heads, count):
            yield [a[n : n + together, h : h + count] for a in wide]


def _rows(num_queries: int) -> int:
    """How many queries are computed together."""
    return max(_BLOCK, -(-num_queries // 8))


def _blocks(num_queries: int, num_keys: int, causal: bool) -> list[tuple[int, int, int]]:
    """The first and the last of a block's queries, and how many keys one of them sees."""
    size = _rows(num_queries)
    ends = [(first, min(first + size, num_queries)) for first in range(0, num_queries, size)]
    return [(first, last, min(last, num_keys) if causal else num_keys) for first, last in ends]


def _seen(num_queries: int, num_keys: int, causal: bool) -> list[tuple[int, int]]:
    """The first and the last of keys that the same queries see."""
    if not causal:
        return [(0, num_keys)]
    return [(first, keys) for first, _, keys in _blocks(num_queries, num_keys, True) if first < num_keys]
