"""Scaled dot-product attention as one op: of what lies between, backward keeps the attention weights only."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd.casting import autocasts
from cordee.trainer.autograd.graph import apply
from cordee.trainer.autograd.record import Shape, broadcast_shape, op, shape_of
from cordee.trainer.errors import ShapeError
from cordee.trainer.kernels import kernel
from cordee.trainer.ops.dropping import kept_mask
from cordee.trainer.ops.products import multiply, row_sums
from cordee.trainer.tensors import Tensor

__all__ = ["scaled_dot_product_attention"]


@functools.lru_cache(maxsize=16)
def _causal_mask(xp: Any, num_queries: int, num_keys: int, first: int, dtype: Any) -> Any:
    """0 where a key may be seen, -∞ where it comes later: adding is many times faster than choosing."""
    return xp.triu(xp.full((num_queries, num_keys), -math.inf, dtype), first + 1)


def _additive(xp: Any, mask: Any, scores: Any, causal: bool) -> Any:
    """The mask as numbers to add; None: there is none."""
    if causal:
        return _causal_mask(xp, *scores.shape[-2:], 0, scores.dtype)
    if mask is not None and mask.dtype.kind == "b":
        return xp.where(mask, 0.0, -math.inf).astype(scores.dtype)
    return mask


def _attention(
    xp: Any, query: Any, key: Any, value: Any, mask: Any, *, scale: float, causal: bool, kept: Any, keep_scale: float
) -> Any:
    """And what it was computed in: parts of the samples, and of each part the blocks of queries."""
    if key.shape[-2] != value.shape[-2]:
        raise ValueError("each key needs a value")
    if query.dtype.itemsize == 2:
        found = _flash_attention(xp, query, key, value, scale=scale, causal=causal) if mask is kept is None else None
        if found is not None:
            return found
        wide: list[Any] = [*(a.astype(np.float32) for a in (query, key, value)), mask]
        out, blocks = _attention(xp, *wide, scale=scale, causal=causal, kept=kept, keep_scale=keep_scale)
        return out.astype(query.dtype), blocks
    how: dict[str, Any] = {"mask": mask, "scale": scale, "causal": causal, "kept": kept, "keep_scale": keep_scale}
    outs, blocks = [], []
    parts = _parts(xp, query, key, value, mask is None and kept is None)
    for part in parts:
        out, found = _attention_part(xp, query[part], key[part], value[part], **how)
        outs.append(out)
        blocks.append(found)
    out = outs[0] if len(outs) == 1 else xp.concatenate(outs)
    out = out if out.dtype is value.dtype else out.astype(np.result_type(query, key, value))
    return out, list(zip(parts, blocks, strict=True))


_CACHED_BYTES = 1 << 20


def _parts(xp: Any, query: Any, key: Any, value: Any, plain: bool) -> list[Any]:
    """Indices of samples that are computed together: so many that their scores stay in the cache; or `...`, all."""
    batch = query.shape[:-2]
    if xp is not np or not plain or not batch or batch != key.shape[:-2] or batch != value.shape[:-2]:
        return [...]
    each = math.prod(batch[1:]) * query.shape[-2] * key.shape[-2] * query.dtype.itemsize
    count = max(_CACHED_BYTES // max(each, 1), 1)
    return [slice(i, i + count) for i in range(0, batch[0], count)] if count < batch[0] else [...]


def _attention_part(
    xp: Any, query: Any, key: Any, value: Any, mask: Any, scale: float, causal: bool, kept: Any, keep_scale: float
) -> Any:
    """And the blocks of queries: the first, the last, how many keys they see, the weights."""
    if mask is not None or not key.shape[-2]:
        weights = _masked_weights(xp, query, key, mask, scale, causal)
        blocks = [(0, query.shape[-2], key.shape[-2], weights)]
    else:
        turned = key.swapaxes(-1, -2)
        blocks = []
        for first, last, keys in _blocks(query.shape[-2], key.shape[-2], causal and kept is None):
            scores = multiply(xp, query[..., first:last, :], turned[..., :keys])
            weights = _attention_weights(xp, scores, scale=scale, first=first if causal else None)
            blocks.append((first, last, keys, weights))
    parts = []
    for _, _, keys, weights in blocks:
        used = weights if kept is None else weights * kept * keep_scale
        parts.append(multiply(xp, used, value[..., :keys, :]))
    return parts[0] if len(parts) == 1 else xp.concatenate(parts, axis=-2), blocks


_BLOCK = 64


def _blocks(num_queries: int, num_keys: int, causal: bool) -> list[tuple[int, int, int]]:
    """Which queries are computed together: all; those that see the keys before them alone, so many at a time, with the
    keys that one of them sees."""
    size = max(_BLOCK, num_queries // 8)
    if not causal or num_queries < 2 * size:
        return [(0, num_queries, num_keys)]
    firsts = range(0, num_queries, size)
    ends = [min(first + size, num_queries) for first in firsts]
    return [(first, last, min(last, num_keys)) for first, last in zip(firsts, ends, strict=True)]


@kernel
def _attention_weights(xp: Any, scores: Any, *, scale: float, first: int | None) -> Any:
    """Softmax of `scores · scale` along the last dimension, in place. Unless `first` is None, row i (of the second-last
    dimension) sees the columns up to number `first + i` only."""
    scores *= scale
    if first is not None:
        scores += _causal_mask(xp, *scores.shape[-2:], first, scores.dtype)
    scores -= scores.max(axis=-1, keepdims=True)
    weights = xp.exp(scores, out=scores)
    weights /= row_sums(xp, weights)
    return weights


@kernel
def _attention_slopes(xp: Any, grad: Any, weights: Any, *, scale: float) -> Any:
    """From the weights' gradient that of the scores, before they were multiplied by `scale`; in place."""
    grad -= xp.einsum("...k,...k->...", grad, weights)[..., None]
    grad *= weights
    if scale != 1:
        grad *= scale
    return grad


def _masked_weights(xp: Any, query: Any, key: Any, mask: Any, scale: float, causal: bool) -> Any:
    scores = (query * scale) @ key.swapaxes(-1, -2)
    added = _additive(xp, mask, scores, causal)
    if added is not None:
        in_place = added.ndim <= scores.ndim and np.broadcast_shapes(added.shape, scores.shape) == scores.shape
        scores = xp.add(scores, added, out=scores if in_place else None)
    if not scores.shape[-1]:  # nothing to attend to
        return scores
    top = scores.max(axis=-1, keepdims=True)
    xp.maximum(top, np.finfo(scores.dtype).min, out=top)  # a query that may see nothing gets zeros
    scores -= top
    weights = xp.exp(scores, out=scores)
    sums = row_sums(xp, weights)
    weights /= sums + (sums == 0)
    return weights


@kernel
def _flash_attention(xp: Any, query: Any, key: Any, value: Any, *, scale: float, causal: bool) -> Any:
    """The result, and as a tuple what its gradient needs, without the weights ever being in memory; None: nobody here
    computes it so."""
    return None


@kernel
def _flash_attention_grad(
    xp: Any, g: Any, query: Any, key: Any, value: Any, kept: Any, *, scale: float, causal: bool
) -> Any:
    """By query, key and value, from what `_flash_attention` has kept."""
    raise AssertionError("who computes attention so computes its gradient, too")


def _weights(F: Any, query: Any, key: Any, mask: Any, scale: float, causal: bool) -> Any:
    """The attention weights in the rules' vocabulary."""
    scores = F.matmul(query * scale, key.swapaxes(-1, -2))
    xp = array_module(scores.data)
    if mask is None or mask.dtype.kind == "b":
        added = _additive(xp, None if mask is None else mask.data, scores, causal)
    else:
        added = mask
    if added is not None:
        scores = scores + added
    if not scores.shape[-1]:
        return scores
    if mask is None:
        return F.softmax(scores, axis=-1)
    seeing = scores.data.max(axis=-1, keepdims=True) > -math.inf
    return F.softmax(F.where(seeing, scores, 0.0), axis=-1) * seeing


def _attention_vjp(
    F: Any, g: Any, out: Any, query: Any, key: Any, value: Any, mask: Any,
    *, needs: Any, aux: Any, scale: float, causal: bool, kept: Any, keep_scale: float,
) -> Any:  # fmt: skip
    if F.raw and isinstance(aux, tuple):
        return *_flash_attention_grad(F.xp, g, query, key, value, aux, scale=scale, causal=causal), None
    if F.raw and g.dtype.itemsize == 2:
        wide = [a.astype(np.float32) for a in (g, query, key, value)]
        grads = _attention_grad(F, wide[0], tuple(wide[1:]), aux, needs, scale, kept, keep_scale)
        return tuple([None if grad is None else grad.astype(g.dtype) for grad in grads])
    if F.raw:
        return _attention_grad(F, g, (query, key, value), aux, needs, scale, kept, keep_scale)
    if g.dtype.itemsize == 2:  # the weights, worked out anew, would be rounded on the way
        single, half = np.dtype(np.float32), g.dtype
        how = {"needs": needs, "aux": aux, "scale": scale, "causal": causal, "kept": kept, "keep_scale": keep_scale}
        g, query, key, value = (F.cast(a, dtype=single, source=half) for a in (g, query, key, value))
        grads = _attention_vjp(F, g, None, query, key, value, mask, **how)
        return tuple([None if grad is None else F.cast(grad, dtype=half, source=single) for grad in grads])
    weights = _weights(F, query, key, mask, scale, causal)
    value_grad = query_grad = key_grad = scores_grad = None
    if needs[2]:
        used = weights if kept is None else weights * kept * keep_scale
        value_grad = F.matmul(used.swapaxes(-1, -2), g)
    if needs[0] or needs[1] or needs[3]:
        weights_grad = F.matmul(g, value.swapaxes(-1, -2))
        if kept is not None:
            weights_grad = weights_grad * kept * keep_scale
        scores_grad = (weights_grad - F.sum(weights_grad * weights, axis=-1, keepdims=True)) * weights
        if needs[0]:
            query_grad = F.matmul(scores_grad, key) * scale
        if needs[1]:
            key_grad = F.matmul(scores_grad.swapaxes(-1, -2), query * scale)
    return query_grad, key_grad, value_grad, scores_grad if needs[3] else None


def _attention_grad(
    F: Any, g: Any, operands: tuple[Any, ...], aux: Any, needs: Any, scale: float, kept: Any, keep_scale: float
) -> Any:
    """The same on arrays, part by part."""
    found = []
    for part, blocks in aux:
        query, key, value = (a if isinstance(a, tuple) else a[part] for a in operands)  # not kept: its shape
        found.append(_part_grad(F, g[part], query, key, value, blocks, needs, scale, kept, keep_scale))
    if len(found) == 1:
        return found[0]
    return tuple(None if grads[0] is None else F.xp.concatenate(grads) for grads in zip(*found, strict=True))


def _part_grad(
    F: Any, g: Any, query: Any, key: Any, value: Any, blocks: Any, needs: Any, scale: float, kept: Any,
    keep_scale: float,
) -> Any:  # fmt: skip
    """Block by block: the last one, which sees all keys that are seen, before the others."""
    key_grad = value_grad = scores_grad = None
    query_grads: list[Any] = []
    for first, last, keys, weights in reversed(blocks):
        slope = g[..., first:last, :]
        if needs[2]:
            used = weights if kept is None else weights * kept * keep_scale
            value_grad = _added(F, value_grad, F.matmul(used.swapaxes(-1, -2), slope), shape_of(value)[-2])
        if not (needs[0] or needs[1] or needs[3]):
            continue
        weights_grad = F.matmul(slope, value.swapaxes(-1, -2)[..., :keys])
        if kept is not None:
            weights_grad = weights_grad * kept * keep_scale
        # The mask was added behind the scale.
        scores_grad = _attention_slopes(F.xp, weights_grad, weights, scale=1.0 if needs[3] else scale)
        scaled = scores_grad * scale if needs[3] and (needs[0] or needs[1]) else scores_grad
        if needs[0]:
            query_grads.append(F.matmul(scaled, key[..., :keys, :]))
        if needs[1]:
            more = F.matmul(scaled.swapaxes(-1, -2), query[..., first:last, :])
            key_grad = _added(F, key_grad, more, shape_of(key)[-2])
    query_grad = None
    if query_grads:
        query_grad = query_grads[0] if len(query_grads) == 1 else F.xp.concatenate(query_grads[::-1], axis=-2)
    return query_grad, key_grad, value_grad, scores_grad if needs[3] else None


def _added(F: Any, total: Any, more: Any, length: int) -> Any:
    """With what the first rows get; before the first addition, there is nothing in any."""
    rows = more.shape[-2]
    if total is None and rows == length:
        return more
    if total is None:
        total = F.xp.zeros((*more.shape[:-2], length, more.shape[-1]), more.dtype)
    total[..., :rows, :] += more
    return total


def _attention_reference(
    query: Any, key: Any, value: Any, mask: Any, scale: float, causal: bool, kept: Any, keep_scale: float
) -> Any:
    scores = np.einsum("...qe,...ke->...qk", query, key) * scale
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:]).astype(bool), scores, -np.inf)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    weights = np.exp(scores)
    weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-300)  # where there is nothing to see: zeros
    return np.einsum("...qk,...kv->...qv", weights if kept is None else weights * kept * keep_scale, value)


def _attention_shape(
    query: Any, key: Any, value: Any, mask: Any, *, scale: float, causal: bool, kept: Any, keep_scale: float
) -> Shape:
    for name, shape in (("query", query), ("key", key), ("value", value)):
        if len(shape) < 2:
            raise ShapeError(f"{name} must have at least two dimensions (…, length, size), not {len(shape)}")
    if query[-1] != key[-1]:
        raise ShapeError(f"query and key must agree in the last dimension, which is {query[-1]} and {key[-1]}")
    if key[-2] != value[-2]:
        raise ShapeError(f"key and value must be equally long in dimension -2, they are {key[-2]} and {value[-2]} long")
    if mask is not None:
        broadcast_shape(mask[-2:], (query[-2], key[-2]))
        if any(n not in (1, m) for n, m in zip(mask[-2:][::-1], (key[-2], query[-2]), strict=False)):
            raise ShapeError(f"a mask for {query[-2]} queries and {key[-2]} keys cannot have shape {mask}")
    batch = broadcast_shape(query[:-2], key[:-2], value[:-2], None if mask is None else mask[:-2])
    return (*batch, query[-2], value[-1])


_PLAIN: dict[str, Any] = {"scale": 0.7, "causal": False, "kept": None, "keep_scale": 1.0}

ATTENTION = op(
    "attention", "softmax(query · keyᵀ · scale + mask) · value",
    autocast="low",
    forward=_attention, vjp=_attention_vjp, aux=True, broadcasts=True, reference=_attention_reference,
    shape=_attention_shape, dtype=lambda query, key, value, mask, **_: np.result_type(query, key, value),
    saves=("query key value mask",) * 4,
    samples=lambda s: [
        s.case(s.normal(2, 3, 2), s.normal(2, 4, 2), s.normal(2, 4, 3), None, **_PLAIN),
        s.case(s.normal(2, 3, 2), s.normal(2, 3, 2), s.normal(2, 3, 2), None, **_PLAIN | {"causal": True}),
        s.case(s.normal(2, 3, 2), s.normal(1, 4, 2), s.normal(2, 4, 3), s.normal(3, 4), **_PLAIN),
        s.case(s.normal(3, 2), s.normal(4, 2), s.normal(4, 2), s.mask(3, 4) | (np.arange(4) == 0), **_PLAIN),
        s.case(*(s.normal(n, 2) for n in (3, 4, 4)), None, **_PLAIN | {"kept": s.mask(3, 4), "keep_scale": 2.0}),
        s.case(s.normal(2, 3, 2), s.normal(4, 2), s.normal(4, 2), np.arange(12).reshape(3, 4) > 3, **_PLAIN),
        s.case(s.normal(3, 2), s.normal(0, 2), s.normal(0, 2), None, **_PLAIN),
    ],
    errors=lambda s: [
        s.case(s.normal(3, 2), s.normal(4, 3), s.normal(4, 2), None, **_PLAIN),
        s.case(s.normal(3, 2), s.normal(4, 2), s.normal(5, 2), None, **_PLAIN),
        s.case(s.normal(3, 2), s.normal(4, 2), s.normal(4, 2), s.normal(3, 5), **_PLAIN),
        s.case(s.normal(2, 3, 2), s.normal(3, 4, 2), s.normal(4, 2), None, **_PLAIN),
    ],
)  # fmt: skip


@autocasts("low")
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(query · keyᵀ · scale + mask) · value, over `(…, L, E)`, `(…, S, E)` and `(…, S, Ev)`.

    Args:
        attn_mask: boolean: which keys a query may see; floating: added to the scores. A query that may see nothing
            gets zeros.
        dropout_p: the probability with which a weight is dropped, whatever the mode: pass 0 outside training.
        is_causal: query i sees the keys up to number i; instead of a mask.
        scale: 1/√E unless given.
        enable_gqa: key and value may have fewer heads (dimension -3) than the query: each serves several in a row.

    Raises:
        ShapeError: lengths, sizes or batch dimensions that do not go together.
        ValueError: a mask together with `is_causal`; a probability outside 0 to 1.
    """
    if attn_mask is not None and is_causal:
        raise ValueError("scaled_dot_product_attention: give attn_mask or is_causal, not both")
    if not 0.0 <= dropout_p <= 1.0:
        raise ValueError(f"scaled_dot_product_attention: dropout_p must be between 0 and 1, not {dropout_p}")
    plain = attn_mask is None and not dropout_p
    if query.data.dtype.itemsize < 4 and not (plain and _flash_attention.providers(array_module(query.data))):
        # Scores would overflow.
        mask = attn_mask if attn_mask is None or attn_mask.dtype.kind == "b" else attn_mask.float()
        wide = (query.float(), key.float(), value.float(), mask)
        return scaled_dot_product_attention(*wide, dropout_p, is_causal, scale, enable_gqa).to(query.dtype)
    if enable_gqa:
        key, value = _repeat_heads("key", key, query), _repeat_heads("value", value, query)
    kept = None
    if dropout_p:
        shapes = [t.shape[:-2] for t in (query, key, attn_mask) if t is not None]
        batch = np.broadcast_shapes(*shapes)
        kept = kept_mask((*batch, query.shape[-2], key.shape[-2]), dropout_p, array_module(query.data))
    return apply(  # type: ignore[no-any-return]
        ATTENTION,
        query,
        key,
        value,
        attn_mask,
        scale=1.0 / math.sqrt(max(query.shape[-1], 1)) if scale is None else scale,
        causal=is_causal,
        kept=kept,
        keep_scale=1.0 / (1.0 - dropout_p) if dropout_p < 1.0 else 0.0,
    )


def _repeat_heads(name: str, tensor: Tensor, query: Tensor) -> Tensor:
    """Each head as often as it takes to have one for each of the query's."""
    if tensor.ndim < 3 or query.ndim < 3 or not tensor.shape[-3] or query.shape[-3] % tensor.shape[-3]:
        raise ShapeError(
            f"scaled_dot_product_attention: the query's heads (dimension -3 of shape {query.shape}) must be a multiple "
            f"of the {name}'s (shape {tensor.shape})"
        )
    *batch, heads, length, size = tensor.shape
    times = query.shape[-3] // heads
    if times == 1:
        return tensor
    spaced = tensor.reshape(*batch, heads, 1, length, size)
    return spaced.expand(*batch, heads, times, length, size).reshape(*batch, heads * times, length, size)
