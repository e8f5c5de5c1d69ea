"""Attention of many heads, with PyTorch's options and names."""

from __future__ import annotations

import math
from typing import Any

from cordee.trainer.array import DTypeLike, array_module, is_float
from cordee.trainer.errors import ShapeError
from cordee.trainer.nn import functional, init
from cordee.trainer.nn.linear import Linear
from cordee.trainer.nn.module import Module
from cordee.trainer.nn.parameter import Parameter, empty_parameter
from cordee.trainer.ops import cat, linear, logical_or
from cordee.trainer.ops.elementwise import where
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["MultiheadAttention"]


class MultiheadAttention(Module):
    """Attention with `num_heads` heads of `embed_dim / num_heads` each ("Attention Is All You Need", 2017).

    `layer(query, key, value)` takes `(L, N, E)`, `(S, N, kdim)` and `(S, N, vdim)` (or `(N, L, E)` and so on with
    `batch_first`, or `(L, E)` and so on without a batch) and returns the output like the query, and the weights.

    Args:
        dropout: of the weights, in training.
        bias: of the projections.
        add_bias_kv: appends a learnt key and value to the sequences.
        add_zero_attn: appends a key and value of zeros.
        kdim: features of keys, if not `embed_dim`; `vdim`: of values.
    """

    in_proj_weight: Parameter | None
    q_proj_weight: Parameter | None
    k_proj_weight: Parameter | None
    v_proj_weight: Parameter | None
    in_proj_bias: Parameter | None
    bias_k: Parameter | None
    bias_v: Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: DTypeLike = None,
    ) -> None:
        if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"embed_dim ({embed_dim}) must be a multiple of num_heads ({num_heads}), both positive")
        self.embed_dim = embed_dim
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.dropout = dropout
        self.batch_first = batch_first
        self.add_zero_attn = add_zero_attn

        def made(*shape: int) -> Parameter:
            return empty_parameter(shape, dtype, device)

        together = self.kdim == self.vdim == embed_dim
        self.in_proj_weight = made(3 * embed_dim, embed_dim) if together else None
        self.q_proj_weight = None if together else made(embed_dim, embed_dim)
        self.k_proj_weight = None if together else made(embed_dim, self.kdim)
        self.v_proj_weight = None if together else made(embed_dim, self.vdim)
        self.in_proj_bias = made(3 * embed_dim) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias, device=device, dtype=dtype)
        self.bias_k = made(1, 1, embed_dim) if add_bias_kv else None
        self.bias_v = made(1, 1, embed_dim) if add_bias_kv else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                init.zeros_(bias)
        for extra in (self.bias_k, self.bias_v):
            if extra is not None:
                init.xavier_normal_(extra)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The output, and with `need_weights` the weights `(N, L, S)`, or `(N, num_heads, L, S)` of all heads.

        Args:
            key_padding_mask: `(N, S)`; True: this key is not looked at. A floating mask is added to the scores.
            attn_mask: `(L, S)` or `(N * num_heads, L, S)`; True: not allowed; or floating, added to the scores.
            is_causal: a query sees the keys up to its own place. (PyTorch wants `attn_mask` to say the same beside.)
        """
        self._check(query, key, value)
        batched = query.ndim == 3
        axis = 1 if batched and self.batch_first else 0
        projected = self._project(query, key, value)
        if not batched:
            projected = [tensor.unsqueeze(0) for tensor in projected]
        elif axis == 0:
            projected = [tensor.transpose(0, 1) for tensor in projected]  # (N, L, E) from here on
        batch, length, _ = projected[0].shape
        if self.bias_k is not None and self.bias_v is not None:
            projected[1] = cat([projected[1], self.bias_k.expand(batch, 1, self.embed_dim)], 1)
            projected[2] = cat([projected[2], self.bias_v.expand(batch, 1, self.embed_dim)], 1)
        q, k, v = (
            tensor.reshape(batch, tensor.shape[1], self.num_heads, self.head_dim).transpose(1, 2)
            for tensor in projected
        )
        if self.add_zero_attn:
            nothing = wrap(array_module(k.data).zeros((batch, self.num_heads, 1, self.head_dim), k.dtype))
            k, v = cat([k, nothing], 2), cat([v, nothing], 2)
        mask = self._mask(key_padding_mask, attn_mask, is_causal, batch, length, key, k)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            out, weights = _attend(q, k, v, mask, dropout)
        else:
            seen = mask if mask is None or is_float(mask.dtype) else ~mask
            out = functional.scaled_dot_product_attention(q, k, v, seen, dropout)
        out = self.out_proj(out.transpose(1, 2).reshape(batch, length, self.embed_dim))
        if weights is not None:
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        return (out.squeeze(0) if not batched else out if axis else out.transpose(0, 1)), weights

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        widths = (self.embed_dim, self.kdim, self.vdim)
        named = (("query", query), ("key", key), ("value", value))
        for (name, tensor), width in zip(named, widths, strict=True):
            if tensor.ndim not in (2, 3) or tensor.ndim != query.ndim or tensor.shape[-1] != width:
                raise ShapeError(
                    f"MultiheadAttention: {name} has shape {tensor.shape}; it must have {width} features in the last "
                    f"of 3 dimensions (2 without a batch), like the others"
                )
        if key.shape[:-1] != value.shape[:-1]:
            raise ShapeError(
                f"MultiheadAttention: key has shape {key.shape}, value {value.shape}; they must be alike but for the "
                "features"
            )

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        weight, bias, width = self.in_proj_weight, self.in_proj_bias, self.embed_dim
        if weight is not None and query is key and key is value:
            return list(linear(query, weight, bias).chunk(3, -1))
        if weight is not None:
            weights: Any = weight.split(width, 0)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases: Any = (None,) * 3 if bias is None else bias.split(width, 0)
        return [linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]

    def _mask(
        self,
        padding: Tensor | None,
        mask: Tensor | None,
        is_causal: bool,
        batch: int,
        length: int,
        key: Tensor,
        k: Tensor,
    ) -> Tensor | None:
        """Both masks in one, over the keys with those that were appended: True for what is hidden, or to be added."""
        xp = array_module(k.data)
        source = key.shape[0] if key.ndim == 2 or not self.batch_first else key.shape[1]
        found: list[Tensor] = []
        if is_causal and mask is None:
            mask = wrap(~xp.tri(length, source, dtype=bool))
        if mask is not None:
            shapes = ((length, source), (batch * self.num_heads, length, source))
            if mask.shape not in shapes:
                raise ShapeError(f"MultiheadAttention: attn_mask must be {shapes[0]} or {shapes[1]}, not {mask.shape}")
            found.append(mask if mask.ndim == 2 else mask.reshape(batch, self.num_heads, length, source))
        if padding is not None:
            expected = (batch, source) if key.ndim == 3 else (source,)
            if padding.shape != expected:
                raise ShapeError(f"MultiheadAttention: key_padding_mask must be {expected}, not {padding.shape}")
            found.append(padding.reshape(batch, 1, 1, source))
        if not found:
            return None
        appended = k.shape[2] - source
        if appended:
            found = [cat([m, wrap(xp.zeros((*m.shape[:-1], appended), m.dtype))], -1) for m in found]
        if any(is_float(m.dtype) for m in found):
            found = [m if is_float(m.dtype) else where(m, -math.inf, wrap(xp.zeros((), k.dtype))) for m in found]
            return found[0] if len(found) == 1 else found[0] + found[1]
        return found[0] if len(found) == 1 else logical_or(*found)

    def extra_repr(self) -> str:
        text = f"embed_dim={self.embed_dim}, num_heads={self.num_heads}"
        for name, usual in (
            ("dropout", 0.0),
            ("kdim", self.embed_dim),
            ("vdim", self.embed_dim),
            ("batch_first", False),
        ):
            if getattr(self, name) != usual:
                text += f", {name}={getattr(self, name)}"
        return text


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> tuple[Tensor, Tensor]:
    """Output and weights of softmax(q · kᵀ / √D + mask) · v."""
    scores = (q * (1.0 / math.sqrt(q.shape[-1]))) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask if is_float(mask.dtype) else scores.masked_fill(mask, -math.inf)
    weights = functional.softmax(scores, -1)
    if dropout:
        weights = functional.dropout(weights, dropout)
    return weights @ v, weights
