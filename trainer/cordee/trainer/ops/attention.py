"""Scaled dot-product attention as one op: of what lies between, backward keeps the attention weights only."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd.graph import apply
from cordee.trainer.autograd.record import op
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.activation import kept_mask
from cordee.trainer.ops.products import row_sums
from cordee.trainer.tensors import Tensor

__all__ = ["scaled_dot_product_attention"]


@functools.lru_cache(maxsize=16)
def _causal_mask(xp: Any, num_queries: int, num_keys: int, dtype: Any) -> Any:
    """0 where a key may be seen, -∞ where it comes later: adding is many times faster than choosing."""
    return xp.triu(xp.full((num_queries, num_keys), -math.inf, dtype), 1)


def _additive(xp: Any, mask: Any, scores: Any, causal: bool) -> Any:
    """The mask as numbers to add; None: there is none."""
    if causal:
        return _causal_mask(xp, *scores.shape[-2:], scores.dtype)
    if mask is not None and mask.dtype.kind == "b":
        return xp.where(mask, 0.0, -math.inf).astype(scores.dtype)
    return mask


def _attention(
    xp: Any, query: Any, key: Any, value: Any, mask: Any, *, scale: float, causal: bool, kept: Any, keep_scale: float
) -> Any:
    scores = (query * scale) @ key.swapaxes(-1, -2)
    added = _additive(xp, mask, scores, causal)
    if added is not None:
        scores = scores + added
    scores -= scores.max(axis=-1, keepdims=True)
    weights = xp.exp(scores, out=scores)
    weights /= row_sums(xp, weights)
    used = weights if kept is None else weights * kept * keep_scale
    return used @ value, weights


def _weights(F: Any, query: Any, key: Any, mask: Any, scale: float, causal: bool) -> Any:
    """The attention weights in the rules' vocabulary."""
    scores = F.matmul(query * scale, key.swapaxes(-1, -2))
    if mask is None or mask.dtype.kind == "b":
        mask = _additive(array_module(scores.data), None if mask is None else mask.data, scores, causal)
    if mask is not None:
        scores = scores + mask
    return F.softmax(scores, axis=-1)


def _attention_vjp(
    F: Any, g: Any, out: Any, query: Any, key: Any, value: Any, mask: Any,
    *, needs: Any, aux: Any, scale: float, causal: bool, kept: Any, keep_scale: float,
) -> Any:  # fmt: skip
    weights = aux if F.raw else _weights(F, query, key, mask, scale, causal)
    value_grad = query_grad = key_grad = scores_grad = None
    if needs[2]:
        used = weights if kept is None else weights * kept * keep_scale
        value_grad = F.matmul(used.swapaxes(-1, -2), g)
    if needs[0] or needs[1] or needs[3]:
        weights_grad = F.matmul(g, value.swapaxes(-1, -2))
        if kept is not None:
            weights_grad = weights_grad * kept * keep_scale
        if F.raw:
            along = F.xp.einsum("...k,...k->...", weights_grad, weights)[..., None]
            scores_grad = weights_grad
            scores_grad -= along
            scores_grad *= weights
        else:
            scores_grad = (weights_grad - F.sum(weights_grad * weights, axis=-1, keepdims=True)) * weights
        if needs[0]:
            query_grad = F.matmul(scores_grad, key) * scale
        if needs[1]:
            key_grad = F.matmul(scores_grad.swapaxes(-1, -2), query * scale)
    return query_grad, key_grad, value_grad, scores_grad if needs[3] else None


def _attention_reference(
    query: Any, key: Any, value: Any, mask: Any, scale: float, causal: bool, kept: Any, keep_scale: float
) -> Any:
    scores = np.einsum("...qe,...ke->...qk", query, key) * scale
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:]).astype(bool), scores, -np.inf)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    weights = np.exp(scores)
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("...qk,...kv->...qv", weights if kept is None else weights * kept * keep_scale, value)


_PLAIN: dict[str, Any] = {"scale": 0.7, "causal": False, "kept": None, "keep_scale": 1.0}

ATTENTION = op(
    "attention", "softmax(query · keyᵀ · scale + mask) · value",
    forward=_attention, vjp=_attention_vjp, aux=True, broadcasts=True, reference=_attention_reference,
    saves=("query key value mask", "query key value mask", "query key mask", "query key value mask"),
    samples=lambda s: [
        s.case(s.normal(2, 3, 2), s.normal(2, 4, 2), s.normal(2, 4, 3), None, **_PLAIN),
        s.case(s.normal(2, 3, 2), s.normal(2, 3, 2), s.normal(2, 3, 2), None, **_PLAIN | {"causal": True}),
        s.case(s.normal(2, 3, 2), s.normal(1, 4, 2), s.normal(2, 4, 3), s.normal(3, 4), **_PLAIN),
        s.case(s.normal(3, 2), s.normal(4, 2), s.normal(4, 2), s.mask(3, 4) | (np.arange(4) == 0), **_PLAIN),
        s.case(*(s.normal(n, 2) for n in (3, 4, 4)), None, **_PLAIN | {"kept": s.mask(3, 4), "keep_scale": 2.0}),
    ],
)  # fmt: skip


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax(query · keyᵀ · scale + mask) · value, over `(…, L, E)`, `(…, S, E)` and `(…, S, Ev)`.

    A boolean mask says which keys a query may see; a floating one is added to the scores. The scale
    is 1/√E unless given.
    """
    if attn_mask is not None and is_causal:
        raise ValueError("scaled_dot_product_attention: give attn_mask or is_causal, not both")
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise ShapeError(
            "scaled_dot_product_attention: query and key must agree in the last dimension, "
            "key and value in the one before; "
            f"query has shape {query.shape}, key {key.shape}, value {value.shape}"
        )
    kept = None
    if dropout_p:
        batch = np.broadcast_shapes(query.shape[:-2], key.shape[:-2])
        kept = kept_mask((*batch, query.shape[-2], key.shape[-2]), dropout_p, array_module(query.data))
    return apply(
        ATTENTION,
        query,
        key,
        value,
        attn_mask,
        scale=1.0 / math.sqrt(query.shape[-1]) if scale is None else scale,
        causal=is_causal,
        kept=kept,
        keep_scale=1.0 / (1.0 - dropout_p) if dropout_p < 1.0 else 0.0,
    )
