"""Softmax along a dimension, its logarithm, and draws from it."""

from __future__ import annotations

from typing import Any

import numpy as np

from cordee.trainer import random
from cordee.trainer.array import DTypeLike, array_module, is_float
from cordee.trainer.autograd.record import Sampler, Shape, op
from cordee.trainer.errors import TrainerIndexError
from cordee.trainer.kernels import kernel
from cordee.trainer.ops.products import row_sums
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["gumbel_softmax", "log_softmax", "softmax", "softmin"]

METHODS = "log_softmax softmax"


def _in_single(xp: Any, compute: Any, *arrays: Any, axis: int) -> Any:
    """In 16 bits only the result is rounded, not what lies between."""
    return compute(xp, *[a.astype(np.float32) for a in arrays], axis=axis).astype(arrays[0].dtype)


@kernel
def _softmax(xp: Any, a: Any, *, axis: int) -> Any:
    if a.dtype.itemsize == 2:
        return _in_single(xp, _softmax, a, axis=axis)
    if not a.size:
        return a - a.sum(axis=axis, keepdims=True)
    out = a - a.max(axis=axis, keepdims=True)
    if not a.ndim:
        return xp.exp(out)
    out = xp.exp(out, out=out)
    out /= _sums(xp, out, axis)
    return out


def _sums(xp: Any, a: Any, axis: int) -> Any:
    return row_sums(xp, a) if axis in (-1, a.ndim - 1) else a.sum(axis=axis, keepdims=True)


def _softmax_vjp(F: Any, g: Any, out: Any, a: Any, *, axis: int) -> Any:
    return _softmax_grad(F.xp, g, out, axis=axis) if F.raw else _softmax_slope(F, g, out, axis)


@kernel
def _softmax_grad(xp: Any, g: Any, out: Any, *, axis: int) -> Any:
    if out.dtype.itemsize == 2:
        return _in_single(xp, _softmax_grad, g, out, axis=axis)
    weighted = g * out
    return weighted - out * weighted.sum(axis=axis, keepdims=True)


def _softmax_slope(F: Any, g: Any, out: Any, axis: int) -> Any:
    weighted = g * out
    return weighted - out * F.sum(weighted, axis=axis, keepdims=True)


@kernel
def _log_softmax(xp: Any, a: Any, *, axis: int) -> Any:
    if a.dtype.itemsize == 2:
        return _in_single(xp, _log_softmax, a, axis=axis)
    if not a.size or not a.ndim:
        return xp.log(_softmax.reference(xp, a, axis=axis))
    out = a - a.max(axis=axis, keepdims=True)
    out -= xp.log(_sums(xp, xp.exp(out), axis))
    return out


def _log_softmax_vjp(F: Any, g: Any, out: Any, a: Any, *, axis: int) -> Any:
    if F.raw:
        return _log_softmax_grad(F.xp, g, out, axis=axis)
    return g - F.exp(out) * F.sum(g, axis=axis, keepdims=True)


@kernel
def _log_softmax_grad(xp: Any, g: Any, out: Any, *, axis: int) -> Any:
    if out.dtype.itemsize == 2:
        return _in_single(xp, _log_softmax_grad, g, out, axis=axis)
    return g - xp.exp(out) * g.sum(axis=axis, keepdims=True)


def _softmax_cases(s: Sampler) -> list[Any]:
    return [
        s.case(s.normal(2, 3), axis=-1),
        s.case(s.normal(2, 3, 2), axis=1),
        s.case(5.0 * s.normal(4), axis=0),
        s.case(s.normal(), axis=-1),
        s.case(s.normal(2, 0), axis=1),
    ]


def _bad_axis(s: Sampler) -> list[Any]:
    return [s.case(s.normal(2, 3), axis=2), s.case(s.normal(0, 3), axis=-3)]


def _same_shape(a: Shape, *, axis: int) -> Shape:
    ndim = max(len(a), 1)
    if not -ndim <= axis < ndim:
        raise TrainerIndexError(f"there is no dimension {axis} in a tensor of {len(a)} dimensions")
    return a


SOFTMAX = op(
    "softmax", "exponentials along a dimension, made to add up to 1",
    autocast="single on cuda",
    forward=_softmax,
    vjps=(_softmax_vjp,), saves=("out",), samples=_softmax_cases, errors=_bad_axis, shape=_same_shape, dtype="float",
    reference=lambda a, axis: np.exp(a) / np.exp(a).sum(axis, keepdims=True),
)  # fmt: skip

LOG_SOFTMAX = op(
    "log_softmax", "the logarithm of softmax, without overflow",
    autocast="single on cuda",
    forward=_log_softmax,
    vjps=(_log_softmax_vjp,),
    saves=("out",), samples=_softmax_cases, errors=_bad_axis, shape=_same_shape, dtype="float",
    reference=lambda a, axis: a - np.log(np.exp(a).sum(axis, keepdims=True)),
)  # fmt: skip


def _floating(input: Tensor, dtype: DTypeLike, name: str) -> Tensor:
    if dtype is not None:
        input = input.to(dtype)
    if not is_float(input.dtype):
        raise TypeError(f"{name} needs a floating-point tensor, not {input.dtype.name}: convert it by .float()")
    return input


def softmax(input: Tensor, dim: int, *, dtype: DTypeLike = None) -> Tensor:
    """Exponentials along a dimension, made to add up to 1."""
    return SOFTMAX.run(_floating(input, dtype, "softmax"), axis=dim)


def log_softmax(input: Tensor, dim: int, *, dtype: DTypeLike = None) -> Tensor:
    """The logarithm of softmax along a dimension, without overflow."""
    return LOG_SOFTMAX.run(_floating(input, dtype, "log_softmax"), axis=dim)


def softmin(input: Tensor, dim: int, *, dtype: DTypeLike = None) -> Tensor:
    """`softmax` of the negated input."""
    return softmax(-input, dim, dtype=dtype)


def gumbel_softmax(logits: Tensor, tau: float = 1.0, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Tensor:
    """A draw from the categories, relaxed so that it has a gradient (Jang et al., 2016).

    With `hard`, one-hot values, whose gradient is that of the relaxed ones. `eps` is accepted for PyTorch's sake.
    """
    xp = array_module(logits.data)
    noise = random.generator().gumbel(size=logits.shape)
    soft = softmax((logits + wrap(xp.asarray(noise, logits.dtype))) / tau, dim)
    if not hard:
        return soft
    first = soft.data.argmax(axis=dim, keepdims=True)
    chosen = xp.zeros(logits.shape, logits.dtype)
    xp.put_along_axis(chosen, first, 1.0, dim)
    return wrap(chosen) - soft.detach() + soft
