"""Activations: elementwise functions between layers, and softmax along a dimension, in as few passes as it takes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cordee.trainer import random
from cordee.trainer.array import array_module
from cordee.trainer.autograd.graph import apply_one, unary
from cordee.trainer.autograd.record import Sampler, op
from cordee.trainer.ops.elementwise import as_mask
from cordee.trainer.ops.products import row_sums
from cordee.trainer.ops.special import erf as _erf
from cordee.trainer.tensors import Tensor

__all__ = [
    "dropout", "elu", "erf", "gelu", "leaky_relu", "log_softmax", "logsigmoid", "relu", "sigmoid", "silu", "softmax",
    "softplus", "tanh",
]  # fmt: skip

METHODS = "erf log_softmax relu sigmoid softmax tanh"
INPLACE = "erf relu sigmoid tanh"


def _values(s: Sampler) -> list[Any]:
    return [s.case(s.normal(2, 3)), s.case(s.normal()), s.case(s.normal(0, 2)), s.case(3.0 * s.normal(5))]


def _corner_values(s: Sampler) -> list[Any]:
    return [s.case(s.distinct(2, 3)), s.case(s.distinct(5))]


def _erf_reference(a: Any) -> Any:
    return np.vectorize(math.erf, otypes=[np.float64])(a)


# -- elementwise -------------------------------------------------------------------------------------------------------

tanh = unary(op(
    "tanh", "the hyperbolic tangent",
    forward=lambda xp, a: xp.tanh(a), vjps=(lambda F, g, out, a: g * (1.0 - out * out),),
    saves=("out",), elementwise=True, expr="tanh(a)", samples=_values, reference=np.tanh,
))  # fmt: skip


def _sigmoid(xp: Any, a: Any) -> Any:
    out = xp.tanh(a * 0.5)  # which cannot overflow, as exp(-a) can
    out *= 0.5
    out += 0.5
    return out


sigmoid = unary(op(
    "sigmoid", "1 / (1 + exp(-a))",
    forward=_sigmoid, vjps=(lambda F, g, out, a: g * (out * (1.0 - out)),),
    saves=("out",), elementwise=True, expr="1 / (1 + exp(-a))", samples=_values,
    reference=lambda a: 1 / (1 + np.exp(-a)),
))  # fmt: skip

relu = unary(op(
    "relu", "max(a, 0); gradient 0 at 0",
    forward=lambda xp, a: xp.maximum(a, 0), vjps=(lambda F, g, out, a: g * (out > 0),),
    saves=("out",), elementwise=True, expr="max(a, 0)", samples=_corner_values,
    reference=lambda a: np.where(a > 0, a, 0),
))  # fmt: skip

erf = unary(op(
    "erf", "the error function",
    forward=_erf, vjps=(lambda F, g, out, a: g * (F.exp(-(a * a)) * (2.0 / math.sqrt(math.pi))),),
    saves=("a",), elementwise=True, expr="erf(a)", samples=_values, reference=_erf_reference,
))  # fmt: skip

silu = unary(op(
    "silu", "a · sigmoid(a)",
    forward=lambda xp, a: a * _sigmoid(xp, a), vjps=(lambda F, g, out, a: _silu_vjp(F, g, F.sigmoid(a), a),),
    saves=("a",), elementwise=True, expr="a / (1 + exp(-a))", samples=_values, reference=lambda a: a / (1 + np.exp(-a)),
))  # fmt: skip


def _silu_vjp(F: Any, g: Any, s: Any, a: Any) -> Any:
    return g * (s * (1.0 + a * (1.0 - s)))


logsigmoid = unary(op(
    "logsigmoid", "log(sigmoid(a)), without overflow",
    forward=lambda xp, a: xp.minimum(a, 0) - xp.log1p(xp.exp(-xp.abs(a))),
    vjps=(lambda F, g, out, a: g * F.sigmoid(-a),),
    saves=("a",), elementwise=True, expr="min(a, 0) - log1p(exp(-abs(a)))", samples=_values,
    reference=lambda a: -np.log(1 + np.exp(-a)),
))  # fmt: skip

_gelu_exact = unary(op(
    "gelu", "a · Φ(a), Φ the normal distribution",
    forward=lambda xp, a: a * _phi(xp, a), vjps=(lambda F, g, out, a: _gelu_vjp(F, g, a),),
    saves=("a",), elementwise=True, expr="a * 0.5 * (1 + erf(a * 0.7071067811865476))", samples=_values,
    reference=lambda a: a * 0.5 * (1 + _erf_reference(a / math.sqrt(2))),
))  # fmt: skip


def _phi(xp: Any, a: Any) -> Any:
    out = _erf(xp, a * math.sqrt(0.5))
    out += 1.0
    out *= 0.5
    return out


def _gelu_vjp(F: Any, g: Any, a: Any) -> Any:
    phi = F.erf(a * math.sqrt(0.5)) * 0.5 + 0.5
    return g * (phi + a * (F.exp(a * a * -0.5) * (1.0 / math.sqrt(2 * math.pi))))


_K0, _K1 = math.sqrt(2 / math.pi), 0.044715


def _gelu_tanh(xp: Any, a: Any) -> Any:
    out = a * a
    out *= _K0 * _K1
    out += _K0
    out *= a
    out = xp.tanh(out)
    out += 1.0
    out *= a
    out *= 0.5
    return out


def _gelu_tanh_vjp(F: Any, g: Any, out: Any, a: Any) -> Any:
    if F.raw:
        return _gelu_tanh_grad(F.xp, g, a)
    squared = a * a
    t = F.tanh(a * (squared * (_K0 * _K1) + _K0))
    slope = (squared * (3 * _K0 * _K1) + _K0) * (1.0 - t * t)
    return g * ((t + 1.0 + a * slope) * 0.5)


def _gelu_tanh_grad(xp: Any, g: Any, a: Any) -> Any:
    """The same, with two arrays instead of a dozen."""
    slope = a * a
    t = slope * (_K0 * _K1)
    t += _K0
    t *= a
    t = xp.tanh(t)
    slope *= 3 * _K0 * _K1
    slope += _K0
    slope *= a
    slope *= 1.0 - t * t
    t += 1.0
    t += slope
    t *= 0.5
    t *= g
    return t


_gelu_by_tanh = unary(op(
    "gelu_tanh", "the usual approximation of gelu by tanh",
    forward=_gelu_tanh, vjps=(_gelu_tanh_vjp,), saves=("a",), elementwise=True, samples=_values,
    expr="0.5 * a * (1 + tanh(0.7978845608028654 * (a + 0.044715 * a * a * a)))",
    reference=lambda a: 0.5 * a * (1 + np.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3))),
))  # fmt: skip


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """a · Φ(a); `approximate="tanh"`: the usual formula for it, which is faster."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate is 'none' or 'tanh', not {approximate!r}")
    return (_gelu_by_tanh if approximate == "tanh" else _gelu_exact)(input)


LEAKY_RELU = op(
    "leaky_relu", "a above 0, slope · a below",
    forward=lambda xp, a, *, slope: xp.maximum(a, 0) + xp.minimum(a, 0) * slope,
    vjps=(lambda F, g, out, a, *, slope: g * (as_mask(F, a > 0, g) * (1.0 - slope) + slope),),
    saves=("a",), elementwise=True, expr="a > 0 ? a : a * slope",
    reference=lambda a, slope: np.where(a > 0, a, slope * a),
    samples=lambda s: [s.case(s.distinct(2, 3), slope=0.1)],
)  # fmt: skip


def _elu_vjp(F: Any, g: Any, out: Any, a: Any, *, alpha: float) -> Any:
    above = as_mask(F, a > 0, g)
    return g * (above + (1.0 - above) * F.exp(F.clamp(a, min=None, max=0.0)) * alpha)


ELU = op(
    "elu", "a above 0, alpha · (exp(a) - 1) below",
    forward=lambda xp, a, *, alpha: xp.maximum(a, 0) + xp.expm1(xp.minimum(a, 0)) * alpha,
    vjps=(_elu_vjp,),
    saves=("a",), elementwise=True, expr="a > 0 ? a : alpha * expm1(a)",
    reference=lambda a, alpha: np.where(a > 0, a, alpha * np.expm1(a)),
    samples=lambda s: [s.case(s.distinct(2, 3), alpha=1.0), s.case(s.distinct(5), alpha=0.5)],
)  # fmt: skip


def _softplus(xp: Any, a: Any, *, beta: float, threshold: float) -> Any:
    scaled = a * beta
    return xp.where(scaled > threshold, a, (xp.maximum(scaled, 0) + xp.log1p(xp.exp(-xp.abs(scaled)))) / beta)


SOFTPLUS = op(
    "softplus", "log(1 + exp(beta · a)) / beta; a itself above the threshold",
    forward=_softplus,
    vjps=(lambda F, g, out, a, *, beta, threshold: g * F.where(a * beta > threshold, 1.0, F.sigmoid(a * beta)),),
    saves=("a",), elementwise=True, expr="log1p(exp(beta * a)) / beta",
    reference=lambda a, beta, threshold: np.where(a * beta > threshold, a, np.log1p(np.exp(a * beta)) / beta),
    samples=lambda s: [
        s.case(s.normal(2, 3), beta=1.0, threshold=20.0),
        s.case(20.0 * s.distinct(5), beta=2.0, threshold=5.0),
    ],
)  # fmt: skip


def leaky_relu(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """`input` above 0, `negative_slope * input` below."""
    return apply_one(LEAKY_RELU, input, slope=negative_slope)


def elu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """`input` above 0, `alpha * (exp(input) - 1)` below."""
    return apply_one(ELU, input, alpha=alpha)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """`log(1 + exp(beta * input)) / beta`; the input itself where `beta * input` is above the threshold."""
    return apply_one(SOFTPLUS, input, beta=beta, threshold=threshold)


# -- along a dimension -------------------------------------------------------------------------------------------------


def _softmax(xp: Any, a: Any, *, axis: int) -> Any:
    out = a - a.max(axis=axis, keepdims=True)
    out = xp.exp(out, out=out)
    out /= _sums(xp, out, axis)
    return out


def _sums(xp: Any, a: Any, axis: int) -> Any:
    return row_sums(xp, a) if axis in (-1, a.ndim - 1) else a.sum(axis=axis, keepdims=True)


def _softmax_vjp(F: Any, g: Any, out: Any, a: Any, *, axis: int) -> Any:
    weighted = g * out
    return weighted - out * F.sum(weighted, axis=axis, keepdims=True)


def _log_softmax(xp: Any, a: Any, *, axis: int) -> Any:
    out = a - a.max(axis=axis, keepdims=True)
    out -= xp.log(_sums(xp, xp.exp(out), axis))
    return out


def _softmax_cases(s: Sampler) -> list[Any]:
    return [s.case(s.normal(2, 3), axis=-1), s.case(s.normal(2, 3, 2), axis=1), s.case(5.0 * s.normal(4), axis=0)]


def _bad_axis(s: Sampler) -> list[Any]:
    return [s.case(s.normal(2, 3), axis=2)]


def _explain_axis(a: tuple[int, ...], *, axis: int) -> str:
    return f"there is no dimension {axis} in a tensor of {len(a)} dimensions"


SOFTMAX = op(
    "softmax", "exponentials along a dimension, made to add up to 1",
    forward=_softmax, vjps=(_softmax_vjp,), saves=("out",), samples=_softmax_cases, errors=_bad_axis,
    explain=_explain_axis,
    reference=lambda a, axis: np.exp(a) / np.exp(a).sum(axis, keepdims=True),
)  # fmt: skip

LOG_SOFTMAX = op(
    "log_softmax", "the logarithm of softmax, without overflow",
    forward=_log_softmax,
    vjps=(lambda F, g, out, a, *, axis: g - F.exp(out) * F.sum(g, axis=axis, keepdims=True),),
    saves=("out",), samples=_softmax_cases, errors=_bad_axis, explain=_explain_axis,
    reference=lambda a, axis: a - np.log(np.exp(a).sum(axis, keepdims=True)),
)  # fmt: skip


def softmax(input: Tensor, dim: int) -> Tensor:
    """Exponentials along a dimension, made to add up to 1."""
    return apply_one(SOFTMAX, input, axis=dim)


def log_softmax(input: Tensor, dim: int) -> Tensor:
    """The logarithm of softmax along a dimension, without overflow."""
    return apply_one(LOG_SOFTMAX, input, axis=dim)


# -- dropout -----------------------------------------------------------------------------------------------------------


def _dropout(xp: Any, a: Any, *, kept: Any, scale: float) -> Any:
    out = a * kept
    out *= scale
    return out


DROPOUT = op(
    "dropout", "zero where not kept, scaled up elsewhere",
    forward=_dropout, vjps=(lambda F, g, out, a, *, kept, scale: F.dropout(g, kept=kept, scale=scale),), saves=("",),
    reference=lambda a, kept, scale: np.where(kept, a * scale, 0.0),
    samples=lambda s: [s.case(s.normal(3, 4), kept=s.mask(3, 4), scale=2.0)],
)  # fmt: skip


def kept_mask(shape: tuple[int, ...], p: float, xp: Any) -> Any:
    """Which elements dropout keeps: a draw keyed as `cordee.trainer.random` describes."""
    return xp.asarray(random.generator().random(shape, dtype=np.float32) >= p)


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """In training: zeroes each element with probability p and scales the others by 1 / (1 - p)."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout: p must be between 0 and 1, not {p}")
    if not training or p == 0.0:
        return input
    scale = 1.0 / (1.0 - p) if p < 1.0 else 0.0
    return apply_one(DROPOUT, input, kept=kept_mask(input.shape, p, array_module(input.data)), scale=scale)
