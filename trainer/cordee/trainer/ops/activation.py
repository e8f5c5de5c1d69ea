"""Smooth activations: elementwise functions between layers, in as few passes as it takes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cordee.trainer.autograd.graph import unary
from cordee.trainer.autograd.record import NO_ERRORS, Sampler, op
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.arithmetic import as_mask
from cordee.trainer.ops.special import erf as _erf
from cordee.trainer.tensors import Tensor

__all__ = [
    "gelu", "glu", "hardsigmoid", "hardswish", "logsigmoid", "mish", "relu", "sigmoid", "silu", "softplus", "softsign",
    "tanh", "tanhshrink",
]  # fmt: skip

METHODS = "relu sigmoid tanh"
INPLACE = "relu sigmoid tanh"


def _values(s: Sampler) -> list[Any]:
    return [s.case(s.normal(2, 3)), s.case(s.normal()), s.case(s.normal(0, 2)), s.case(3.0 * s.normal(5))]


def _corner_values(s: Sampler) -> list[Any]:
    return [s.case(s.distinct(2, 3)), s.case(5.0 * s.distinct(7)), s.case(s.distinct(0, 2))]


def _erf_reference(a: Any) -> Any:
    return np.vectorize(math.erf, otypes=[np.float64])(a)


relu = unary(op(
    "relu", "max(a, 0); gradient 0 at 0",
    forward=lambda xp, a: xp.maximum(a, 0), vjps=(lambda F, g, out, a: g * (out > 0),),
    saves=("out",), elementwise=True, expr="max(a, 0)", samples=_corner_values,
    reference=lambda a: np.where(a > 0, a, 0), errors=NO_ERRORS,
))  # fmt: skip

tanh = unary(op(
    "tanh", "the hyperbolic tangent",
    forward=lambda xp, a: xp.tanh(a), vjps=(lambda F, g, out, a: g * (1.0 - out * out),),
    saves=("out",), elementwise=True, expr="tanh(a)", dtype="float", samples=_values, reference=np.tanh,
    errors=NO_ERRORS,
))  # fmt: skip


def _sigmoid(xp: Any, a: Any) -> Any:
    out = xp.tanh(a * 0.5)  # which cannot overflow, as exp(-a) can
    out *= 0.5
    out += 0.5
    return out


sigmoid = unary(op(
    "sigmoid", "1 / (1 + exp(-a))",
    forward=_sigmoid, vjps=(lambda F, g, out, a: g * (out * (1.0 - out)),),
    saves=("out",), elementwise=True, expr="1 / (1 + exp(-a))", dtype="float", samples=_values,
    reference=lambda a: 1 / (1 + np.exp(-a)), errors=NO_ERRORS,
))  # fmt: skip

silu = unary(op(
    "silu", "a · sigmoid(a)",
    forward=lambda xp, a: a * _sigmoid(xp, a), vjps=(lambda F, g, out, a: _silu_vjp(F, g, F.sigmoid(a), a),),
    saves=("a",), elementwise=True, expr="a / (1 + exp(-a))", dtype="float", samples=_values,
    reference=lambda a: a / (1 + np.exp(-a)), errors=NO_ERRORS,
))  # fmt: skip


def _silu_vjp(F: Any, g: Any, s: Any, a: Any) -> Any:
    return g * (s * (1.0 + a * (1.0 - s)))


logsigmoid = unary(op(
    "logsigmoid", "log(sigmoid(a)), without overflow",
    forward=lambda xp, a: xp.minimum(a, 0) - xp.log1p(xp.exp(-xp.abs(a))),
    vjps=(lambda F, g, out, a: g * F.sigmoid(-a),),
    saves=("a",), elementwise=True, expr="min(a, 0) - log1p(exp(-abs(a)))", dtype="float", samples=_values,
    reference=lambda a: -np.log(1 + np.exp(-a)), errors=NO_ERRORS,
))  # fmt: skip


# -- gelu --------------------------------------------------------------------------------------------------------------

_gelu_exact = unary(op(
    "gelu", "a · Φ(a), Φ the normal distribution",
    forward=lambda xp, a: a * _phi(xp, a), vjps=(lambda F, g, out, a: _gelu_vjp(F, g, a),),
    saves=("a",), elementwise=True, expr="a * 0.5 * (1 + erf(a * 0.7071067811865476))", dtype="float", samples=_values,
    reference=lambda a: a * 0.5 * (1 + _erf_reference(a / math.sqrt(2))), errors=NO_ERRORS,
))  # fmt: skip


def _phi(xp: Any, a: Any) -> Any:
    out = _erf(xp, a * math.sqrt(0.5))
    out += 1.0
    out *= 0.5
    return out


def _gelu_vjp(F: Any, g: Any, a: Any) -> Any:
    if F.raw:
        return _gelu_grad(F.xp, g, a)
    phi = F.erf(a * math.sqrt(0.5)) * 0.5 + 0.5
    return g * (phi + a * (F.exp(a * a * -0.5) * (1.0 / math.sqrt(2 * math.pi))))


def _gelu_grad(xp: Any, g: Any, a: Any) -> Any:
    """The same, with two arrays instead of eight."""
    if not a.ndim:
        a = a.reshape(1)
        return _gelu_grad(xp, g, a).reshape(())
    bell = a * a
    bell *= -0.5
    xp.exp(bell, out=bell)
    bell *= 1.0 / math.sqrt(2 * math.pi)
    bell *= a
    bell += _phi(xp, a)
    bell *= g
    return bell


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
    """The same, with three arrays instead of a dozen."""
    if not a.ndim:
        return _gelu_tanh_grad(xp, g, a.reshape(1)).reshape(())
    slope = a * a
    t = slope * (_K0 * _K1)
    t += _K0
    t *= a
    xp.tanh(t, out=t)
    slope *= 3 * _K0 * _K1
    slope += _K0
    slope *= a
    rest = t * t
    xp.subtract(1.0, rest, out=rest)
    slope *= rest
    t += 1.0
    t += slope
    t *= 0.5
    t *= g
    return t


_gelu_by_tanh = unary(op(
    "gelu_tanh", "the usual approximation of gelu by tanh",
    forward=_gelu_tanh, vjps=(_gelu_tanh_vjp,), saves=("a",), elementwise=True, dtype="float", samples=_values,
    expr="a / (1 + exp(-1.5957691216057308 * (a + 0.044715 * a * a * a)))",
    reference=lambda a: 0.5 * a * (1 + np.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3))), errors=NO_ERRORS,
))  # fmt: skip


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """a · Φ(a); `approximate="tanh"`: the usual formula for it, which is faster (Hendrycks and Gimpel, 2016)."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate is 'none' or 'tanh', not {approximate!r}")
    return (_gelu_by_tanh if approximate == "tanh" else _gelu_exact)(input)


# -- softplus and its kin ----------------------------------------------------------------------------------------------


def _softplus(xp: Any, a: Any, *, beta: float, threshold: float) -> Any:
    scaled = a * beta
    return xp.where(scaled > threshold, a, (xp.maximum(scaled, 0) + xp.log1p(xp.exp(-xp.abs(scaled)))) / beta)


SOFTPLUS = op(
    "softplus", "log(1 + exp(beta · a)) / beta; a itself above the threshold",
    autocast="single on cuda",
    forward=_softplus,
    vjps=(lambda F, g, out, a, *, beta, threshold: g * F.where(a * beta > threshold, 1.0, F.sigmoid(a * beta)),),
    saves=("a",), elementwise=True, dtype="float",
    expr="a * beta > threshold ? a : (max(a * beta, 0) + log1p(exp(-abs(a * beta)))) / beta",
    reference=lambda a, beta, threshold: np.where(a * beta > threshold, a, np.log1p(np.exp(a * beta)) / beta),
    samples=lambda s: [
        s.case(s.normal(2, 3), beta=1.0, threshold=20.0),
        s.case(20.0 * s.distinct(5), beta=2.0, threshold=5.0),
        s.case(s.normal(), beta=1.0, threshold=20.0),
    ],
    errors=NO_ERRORS,
)  # fmt: skip


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """`log(1 + exp(beta * input)) / beta`; the input itself where `beta * input` is above the threshold."""
    return SOFTPLUS.run(input, beta=beta, threshold=threshold)


def _log1p_exp(xp: Any, a: Any) -> Any:
    return xp.maximum(a, 0) + xp.log1p(xp.exp(-xp.abs(a)))


def _mish_vjp(F: Any, g: Any, out: Any, a: Any) -> Any:
    t = F.tanh(F.softplus(a, beta=1.0, threshold=1e9))
    return g * (t + a * (1.0 - t * t) * F.sigmoid(a))


mish = unary(op(
    "mish", "a · tanh(softplus(a)) (Misra, 2019)",
    forward=lambda xp, a: a * xp.tanh(_log1p_exp(xp, a)), vjps=(_mish_vjp,),
    saves=("a",), elementwise=True, expr="a * tanh(log1p(exp(a)))", dtype="float", samples=_values,
    reference=lambda a: a * np.tanh(np.log1p(np.exp(a))), errors=NO_ERRORS,
))  # fmt: skip


def _softsign_vjp(F: Any, g: Any, out: Any, a: Any) -> Any:
    wide = F.abs(a) + 1.0
    return g / (wide * wide)


softsign = unary(op(
    "softsign", "a / (1 + |a|)",
    forward=lambda xp, a: a / (xp.abs(a) + 1), vjps=(_softsign_vjp,),
    saves=("a",), elementwise=True, expr="a / (1 + abs(a))", dtype="float", samples=_corner_values,
    reference=lambda a: a / (1 + np.abs(a)), errors=NO_ERRORS,
))  # fmt: skip


def tanhshrink(input: Tensor) -> Tensor:
    """input - tanh(input)."""
    return input - tanh(input)


# -- straight lines for sigmoid and silu -------------------------------------------------------------------------------

hardsigmoid = unary(op(
    "hardsigmoid", "a / 6 + 1/2, held between 0 and 1",
    forward=lambda xp, a: xp.minimum(xp.maximum(a / 6 + 0.5, 0), 1),
    vjps=(lambda F, g, out, a: g * (as_mask(F, F.between(a, min=-3.0, max=3.0), g) * (1.0 / 6.0)),),
    saves=("a",), elementwise=True, expr="clamp(a / 6 + 0.5, 0, 1)", dtype="float", samples=_corner_values,
    reference=lambda a: np.clip(a / 6 + 0.5, 0, 1), errors=NO_ERRORS,
))  # fmt: skip


def _hardswish_vjp(F: Any, g: Any, out: Any, a: Any) -> Any:
    return g * (as_mask(F, F.between(a, min=-3.0, max=3.0), g) * (a * (1.0 / 3.0) + 0.5) + as_mask(F, a >= 3.0, g))


hardswish = unary(op(
    "hardswish", "a · hardsigmoid(a)",
    forward=lambda xp, a: a * xp.minimum(xp.maximum(a / 6 + 0.5, 0), 1), vjps=(_hardswish_vjp,),
    saves=("a",), elementwise=True, expr="a * clamp(a / 6 + 0.5, 0, 1)", dtype="float", samples=_corner_values,
    reference=lambda a: a * np.clip(a / 6 + 0.5, 0, 1), errors=NO_ERRORS,
))  # fmt: skip


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """One half of a dimension, times the sigmoid of the other half (Dauphin et al., 2016).

    Raises:
        ShapeError: the dimension has an odd size.
    """
    if not input.ndim or input.shape[dim] % 2:
        raise ShapeError(f"glu: dimension {dim} of an input of shape {input.shape} cannot be halved")
    half = input.shape[dim] // 2
    return input.narrow(dim, 0, half) * sigmoid(input.narrow(dim, half, half))
