"""Calls that read the same in PyTorch and here: the table behind the golden values and the live comparison.

`L` is either library, `F` its `nn.functional`. Inputs come from the engine's own sampler, so that they need no storing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cordee.trainer.autograd.record import Sampler

__all__ = ["CALLS", "Call", "output_weights", "run"]


@dataclass(frozen=True)
class Call:
    """`call(L, F, *floats, *constants)`: `make` gives the floating inputs, `constants` whole-number or boolean ones."""

    call: Callable[..., Any]
    make: Callable[[Sampler], list[Any]]
    constants: Callable[[Sampler], list[Any]] = lambda s: []


def _one(s: Sampler) -> list[Any]:
    return [s.normal(3, 4)]


def _positive(s: Sampler) -> list[Any]:
    return [s.positive(3, 4)]


def _distinct(s: Sampler) -> list[Any]:
    return [s.distinct(3, 4)]


def _two(s: Sampler) -> list[Any]:
    return [s.normal(3, 4), s.normal(4)]


def _signed_positive(s: Sampler) -> list[Any]:
    return [s.normal(3, 4), s.positive(3, 1)]


def _three(s: Sampler) -> list[Any]:
    return [s.normal(2, 3, 4)]


def _images(s: Sampler) -> list[Any]:
    return [s.distinct(2, 3, 6, 5)]


def _attention(s: Sampler) -> list[Any]:
    return [s.normal(2, 2, 4, 3), s.normal(2, 2, 5, 3), s.normal(2, 2, 5, 3)]


def _square_attention(s: Sampler) -> list[Any]:
    return [s.normal(2, 4, 3), s.normal(2, 4, 3), s.normal(2, 4, 3)]


def _classes(s: Sampler) -> list[Any]:
    return [s.integers(4, 3)]


CALLS: dict[str, Call] = {
    # elementwise
    "add": Call(lambda L, F, a, b: a + b, _two),
    "sub": Call(lambda L, F, a, b: a - b * 2, _two),
    "mul": Call(lambda L, F, a, b: a * b, _two),
    "div": Call(lambda L, F, a, b: a / b, _signed_positive),
    "reflected": Call(lambda L, F, a: 2.0 / a + (1.0 - a) + 2.0**a, _positive),
    "maximum": Call(lambda L, F, a, b: L.maximum(a, b), lambda s: [s.distinct(3, 4), s.distinct(4) + 0.05]),
    "minimum": Call(lambda L, F, a, b: L.minimum(a, b), lambda s: [s.distinct(3, 4), s.distinct(4) + 0.05]),
    "maximum of equals": Call(lambda L, F, a: L.maximum(a, a * 1.0) + L.minimum(a, a * 1.0), _one),
    "pow, tensors": Call(lambda L, F, a, b: a**b, lambda s: [s.positive(3, 4), s.normal(4)]),
    "pow, 2": Call(lambda L, F, a: a**2, _one),
    "pow, 3": Call(lambda L, F, a: a**3, _one),
    "pow, 0.5": Call(lambda L, F, a: a**0.5, _positive),
    "pow, -1.5": Call(lambda L, F, a: L.pow(a, -1.5), _positive),
    "neg": Call(lambda L, F, a: -a, _one),
    "abs": Call(lambda L, F, a: L.abs(a), _distinct),
    "sign": Call(lambda L, F, a: L.sign(a) * a + L.sign(a), _distinct),
    "exp": Call(lambda L, F, a: L.exp(a), _one),
    "expm1": Call(lambda L, F, a: L.expm1(a), _one),
    "log": Call(lambda L, F, a: L.log(a), _positive),
    "log1p": Call(lambda L, F, a: L.log1p(a), _positive),
    "sqrt": Call(lambda L, F, a: L.sqrt(a), _positive),
    "rsqrt": Call(lambda L, F, a: L.rsqrt(a), _positive),
    "square": Call(lambda L, F, a: L.square(a), _one),
    "reciprocal": Call(lambda L, F, a: L.reciprocal(a), _positive),
    "sin": Call(lambda L, F, a: L.sin(a), _one),
    "cos": Call(lambda L, F, a: L.cos(a), _one),
    "where": Call(lambda L, F, a, b, m: L.where(m, a, b), _two, lambda s: [s.mask(3, 4)]),
    "clamp": Call(lambda L, F, a: L.clamp(a, -0.45, 0.35) + a.clamp(min=0.2) + a.clamp(max=-0.2), _distinct),
    "clone": Call(lambda L, F, a: a.clone(), _one),
    # reductions
    "sum": Call(lambda L, F, a: a.sum(), _three),
    "sum, dims": Call(lambda L, F, a: L.sum(a, (0, 2), keepdim=True), _three),
    "mean": Call(lambda L, F, a: a.mean(), _three),
    "mean, dim": Call(lambda L, F, a: a.mean(-1), _three),
    "var": Call(lambda L, F, a: a.var(1) + L.var(a, 1, unbiased=False), _three),
    "std": Call(lambda L, F, a: a.std(-1, keepdim=True), _three),
    "amax": Call(lambda L, F, a: a.amax((0, 1)), _three),
    "amin": Call(lambda L, F, a: L.amin(a, 1), _three),
    "amax of equals": Call(lambda L, F, a: (a * 0.0).amax(1), _three),
    "max": Call(lambda L, F, a: a.max(), _three),
    "max, dim": Call(lambda L, F, a: a.max(1).values, _three),
    "max, dim, of equals": Call(lambda L, F, a: (a * 0.0).max(1).values, _three),
    "min, dim": Call(lambda L, F, a: a.min(2, keepdim=True).values, _three),
    "topk": Call(lambda L, F, a: a.topk(2, 1).values, _three),
    "cumsum": Call(lambda L, F, a: L.cumsum(a, 1), _three),
    "prod": Call(lambda L, F, a: a.prod(), _positive),
    "prod, dim": Call(lambda L, F, a: a.prod(1), _positive),
    "logsumexp": Call(lambda L, F, a: L.logsumexp(a, 1), _three),
    "norm": Call(lambda L, F, a: a.norm() + a.norm(1, 0).sum(), _one),
    # products
    "matmul": Call(lambda L, F, a, b: a @ b, lambda s: [s.normal(3, 4), s.normal(4, 2)]),
    "matmul, batches": Call(lambda L, F, a, b: L.matmul(a, b), lambda s: [s.normal(2, 1, 3, 4), s.normal(5, 4, 2)]),
    "matmul, one batch": Call(lambda L, F, a, b: a @ b, lambda s: [s.normal(2, 3, 4), s.normal(4, 2)]),
    "matmul, vectors": Call(lambda L, F, a, b: b @ a.mT + (a @ b), lambda s: [s.normal(3, 4), s.normal(4)]),
    "bmm": Call(lambda L, F, a, b: L.bmm(a, b), lambda s: [s.normal(2, 3, 4), s.normal(2, 4, 2)]),
    "outer, dot": Call(lambda L, F, a, b: L.outer(a, b) + L.dot(a, b), lambda s: [s.normal(4), s.normal(4)]),
    "addmm": Call(lambda L, F, a, b, c: L.addmm(a, b, c), lambda s: [s.normal(2), s.normal(3, 4), s.normal(4, 2)]),
    "linear": Call(lambda L, F, x, w, b: F.linear(x, w, b), lambda s: [s.normal(2, 3, 4), s.normal(5, 4), s.normal(5)]),
    "linear, no bias": Call(lambda L, F, x, w: F.linear(x, w), lambda s: [s.normal(3, 4), s.normal(5, 4)]),
    # shape
    "reshape": Call(lambda L, F, a: a.reshape(4, -1) * a.view(4, 6), _three),
    "flatten": Call(lambda L, F, a: L.flatten(a, 1), _three),
    "permute": Call(lambda L, F, a: a.permute(2, 0, 1), _three),
    "transpose": Call(lambda L, F, a: a.transpose(0, -1) * 2 + a.mT.transpose(0, 1), lambda s: [s.normal(3, 3, 3)]),
    "squeeze": Call(lambda L, F, a: a.unsqueeze(1).squeeze(1).unsqueeze(-1), _three),
    "expand": Call(lambda L, F, a: a.expand(2, 3, 4) * a.broadcast_to((2, 3, 4)), _one),
    "repeat": Call(lambda L, F, a: a.repeat(2, 1, 2), _one),
    "cat": Call(lambda L, F, a, b: L.cat([a, b.expand(2, 4), a], 0), _two),
    "stack": Call(lambda L, F, a: L.stack([a, a * a], 1), _one),
    "split": Call(lambda L, F, a: L.split(a, 3, 1)[1] * L.chunk(a, 4, 1)[0], _one),
    "unbind": Call(lambda L, F, a: L.unbind(a, 1)[2], _one),
    "pad": Call(lambda L, F, a: F.pad(a, (1, 2, 0, 1), value=0.5), _one),
    "flip": Call(lambda L, F, a: L.flip(a, (0, 1)), _one),
    "tril, triu": Call(lambda L, F, a: L.tril(a) + 2 * L.triu(a, 1), _one),
    # indexing
    "getitem": Call(lambda L, F, a: a[1:, ::2] * a[0, 1], _one),
    "getitem, new dimension": Call(lambda L, F, a: a[..., None, 1:3], _one),
    "getitem, integers": Call(lambda L, F, a, i: a[i] + a[:, i].sum(), _one, lambda s: [np.array([0, 2, 0])]),
    "getitem, pairs": Call(lambda L, F, a, i, j: a[i, j], _one, lambda s: [s.integers(3, 2, 2), s.integers(4, 2, 2)]),
    "getitem, mask": Call(lambda L, F, a, m: a[m], _one, lambda s: [s.mask(3, 4)]),
    "gather": Call(lambda L, F, a, i: L.gather(a, 1, i), _one, lambda s: [s.integers(4, 3, 5)]),
    "index_select": Call(lambda L, F, a, i: L.index_select(a, 1, i), _one, lambda s: [s.integers(4, 5)]),
    "masked_fill": Call(lambda L, F, a, m: a.masked_fill(m, -1.0), _one, lambda s: [s.mask(3, 4)]),
    "embedding": Call(lambda L, F, w, i: F.embedding(i, w), _one, lambda s: [s.integers(3, 2, 5)]),
    # activations
    "tanh": Call(lambda L, F, a: L.tanh(a), _one),
    "sigmoid": Call(lambda L, F, a: L.sigmoid(a), _one),
    "relu": Call(lambda L, F, a: F.relu(a), _distinct),
    "relu at 0": Call(lambda L, F, a: F.relu(a * 0.0), _one),
    "erf": Call(lambda L, F, a: L.erf(a * 2), _one),
    "gelu": Call(lambda L, F, a: F.gelu(a * 2), _one),
    "gelu, tanh": Call(lambda L, F, a: F.gelu(a * 2, approximate="tanh"), _one),
    "silu": Call(lambda L, F, a: F.silu(a), _one),
    "logsigmoid": Call(lambda L, F, a: F.logsigmoid(a), _one),
    "leaky_relu": Call(lambda L, F, a: F.leaky_relu(a, 0.1), _distinct),
    "elu": Call(lambda L, F, a: F.elu(a, 0.7), _distinct),
    "softplus": Call(lambda L, F, a: F.softplus(a * 9, 2.0, 5.0), _distinct),
    "softmax": Call(lambda L, F, a: F.softmax(a, 1), _three),
    "log_softmax": Call(lambda L, F, a: F.log_softmax(a, -1), _three),
    # losses
    "cross_entropy": Call(lambda L, F, a, t: F.cross_entropy(a, t), _one, _classes),
    "cross_entropy, sum": Call(lambda L, F, a, t: F.cross_entropy(a, t, reduction="sum"), _one, _classes),
    "cross_entropy, none": Call(lambda L, F, a, t: F.cross_entropy(a, t, reduction="none"), _one, _classes),
    "cross_entropy, ignoring": Call(lambda L, F, a, t: F.cross_entropy(a, t, ignore_index=1), _one, _classes),
    "cross_entropy, smoothed": Call(lambda L, F, a, t: F.cross_entropy(a, t, label_smoothing=0.2), _one, _classes),
    "cross_entropy, weighted": Call(
        lambda L, F, a, w, t: F.cross_entropy(a, t, w.detach(), label_smoothing=0.1, ignore_index=2),
        lambda s: [s.normal(3, 4), s.positive(4)],
        lambda s: [np.array([0, 2, 3])],
    ),
    "cross_entropy, images": Call(lambda L, F, a, t: F.cross_entropy(a, t), _three, lambda s: [s.integers(3, 2, 4)]),
    "cross_entropy, probabilities": Call(
        lambda L, F, a, b: F.cross_entropy(a, L.softmax(b, 1), label_smoothing=0.1),
        lambda s: [s.normal(3, 4), s.normal(3, 4)],
    ),
    "nll_loss": Call(lambda L, F, a, t: F.nll_loss(F.log_softmax(a, 1), t, ignore_index=0), _one, _classes),
    "mse_loss": Call(lambda L, F, a, b: F.mse_loss(a, b), lambda s: [s.normal(3, 4), s.normal(3, 4)]),
    "l1_loss": Call(lambda L, F, a, b: F.l1_loss(a, b), lambda s: [s.distinct(3, 4), s.distinct(3, 4) + 0.05]),
    "bce": Call(
        lambda L, F, a, b: F.binary_cross_entropy_with_logits(a, L.sigmoid(b), pos_weight=L.exp(b).detach()),
        lambda s: [s.normal(3, 4), s.normal(3, 4)],
    ),
    # images
    "conv2d": Call(
        lambda L, F, x, w, b: F.conv2d(x, w, b, stride=2, padding=1),
        lambda s: [s.normal(2, 3, 6, 5), s.normal(4, 3, 3, 3), s.normal(4)],
    ),
    "conv2d, groups": Call(
        lambda L, F, x, w: F.conv2d(x, w, padding=(1, 0), dilation=(2, 1), groups=2),
        lambda s: [s.normal(2, 4, 6, 5), s.normal(6, 2, 3, 2)],
    ),
    "conv2d, same": Call(
        lambda L, F, x, w, b: F.conv2d(x, w, b, padding="same"),
        lambda s: [s.normal(1, 2, 4, 5), s.normal(2, 2, 3, 2), s.normal(2)],
    ),
    "max_pool2d": Call(lambda L, F, a: F.max_pool2d(a, 2), _images),
    "max_pool2d, padded": Call(lambda L, F, a: F.max_pool2d(a, (3, 2), (1, 2), (1, 1)), _images),
    "max_pool2d of equals": Call(lambda L, F, a: F.max_pool2d(a * 0.0, 2), _images),
    "avg_pool2d": Call(lambda L, F, a: F.avg_pool2d(a, 2), _images),
    "avg_pool2d, padded": Call(lambda L, F, a: F.avg_pool2d(a, 3, 2, 1, count_include_pad=False), _images),
    # normalisation and attention
    "layer_norm": Call(
        lambda L, F, x, w, b: F.layer_norm(x, (4,), w, b),
        lambda s: [s.normal(2, 3, 4), s.normal(4), s.normal(4)],
    ),
    "layer_norm, two dimensions": Call(lambda L, F, x: F.layer_norm(x, (3, 4), eps=1e-3), _three),
    "attention": Call(lambda L, F, q, k, v: F.scaled_dot_product_attention(q, k, v), _attention),
    "attention, causal": Call(
        lambda L, F, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3), _square_attention
    ),
    "attention, mask": Call(
        lambda L, F, q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m),
        _attention,
        lambda s: [s.mask(4, 5) | (np.arange(5) == 0)],
    ),
    "attention, bias": Call(
        lambda L, F, q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m),
        lambda s: [*_attention(s), s.normal(2, 4, 5)],
    ),
    "dropout, none": Call(lambda L, F, a: F.dropout(a, 0.5, training=False), _one),
    "cast": Call(lambda L, F, a: a.to(L.float32).to(L.float64) * a, lambda s: [np.round(s.normal(3, 4), 2)]),
}  # fmt: skip


def output_weights(shape: tuple[int, ...]) -> Any:
    """The gradient that is sent into the result: different for each element."""
    return np.cos(np.arange(int(np.prod(shape, dtype=int)), dtype=np.float64)).reshape(shape)


def run(name: str, library: Any, make: Callable[[Any, bool], Any], dtype: Any = np.float64) -> tuple[Any, list[Any]]:
    """The result of a call, and its floating inputs with their gradients, as the library's tensors."""
    call = CALLS[name]
    inputs = [make(np.asarray(array, dtype), True) for array in call.make(Sampler(3))]
    constants = [make(array, False) for array in call.constants(Sampler(4))]
    out = call.call(library, library.nn.functional, *inputs, *constants)
    if out.requires_grad:
        out.backward(make(output_weights(tuple(out.shape)).astype(dtype), False))
    return out, inputs
