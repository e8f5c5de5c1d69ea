"""Exponentials and logarithms, and the functions made of them that must not overflow or lose digits on the way."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cordee.trainer.array import default_dtype
from cordee.trainer.autograd.graph import binary, unary
from cordee.trainer.autograd.record import NO_ERRORS, op
from cordee.trainer.ops.arithmetic import as_mask
from cordee.trainer.ops.cases import any_values, clash, pairs, positive_pairs, positive_values
from cordee.trainer.tensors import Tensor

__all__: list[str] = [
    "exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "logaddexp", "logaddexp2", "logit", "xlog1py", "xlogy",
]  # fmt: skip

METHODS = "exp exp2 expm1 log log1p log2 log10 logaddexp logaddexp2 logit xlogy"
INPLACE = "exp exp2 expm1 log log1p log2 log10 logit xlogy"

_LN2, _LN10 = math.log(2.0), math.log(10.0)

exp = unary(op(
    "exp", "e to the power of a",
    autocast="single on cuda",
    forward=lambda xp, a: xp.exp(a), vjps=(lambda F, g, out, a: g * out,),
    saves=("out",), elementwise=True, expr="exp(a)", dtype="float", samples=any_values, reference=np.exp,
    errors=NO_ERRORS,
))  # fmt: skip

exp2 = unary(op(
    "exp2", "2 to the power of a",
    forward=lambda xp, a: xp.exp2(a), vjps=(lambda F, g, out, a: g * (out * _LN2),),
    saves=("out",), elementwise=True, expr="exp2(a)", dtype="float", samples=any_values, reference=np.exp2,
    errors=NO_ERRORS,
))  # fmt: skip

expm1 = unary(op(
    "expm1", "exp(a) - 1, exact near 0",
    autocast="single on cuda",
    forward=lambda xp, a: xp.expm1(a), vjps=(lambda F, g, out, a: g * (out + 1.0),),
    saves=("out",), elementwise=True, expr="expm1(a)", dtype="float", samples=any_values, reference=np.expm1,
    errors=NO_ERRORS,
))  # fmt: skip

log = unary(op(
    "log", "the natural logarithm",
    autocast="single on cuda",
    forward=lambda xp, a: xp.log(a), vjps=(lambda F, g, out, a: g / a,),
    saves=("a",), elementwise=True, expr="log(a)", dtype="float", samples=positive_values, reference=np.log,
    errors=NO_ERRORS,
))  # fmt: skip

log1p = unary(op(
    "log1p", "log(1 + a), exact near 0",
    autocast="single on cuda",
    forward=lambda xp, a: xp.log1p(a), vjps=(lambda F, g, out, a: g / (a + 1.0),),
    saves=("a",), elementwise=True, expr="log1p(a)", dtype="float", samples=positive_values, reference=np.log1p,
    errors=NO_ERRORS,
))  # fmt: skip

log2 = unary(op(
    "log2", "the logarithm to base 2",
    autocast="single on cuda",
    forward=lambda xp, a: xp.log2(a), vjps=(lambda F, g, out, a: g / (a * _LN2),),
    saves=("a",), elementwise=True, expr="log2(a)", dtype="float", samples=positive_values, reference=np.log2,
    errors=NO_ERRORS,
))  # fmt: skip

log10 = unary(op(
    "log10", "the logarithm to base 10",
    autocast="single on cuda",
    forward=lambda xp, a: xp.log10(a), vjps=(lambda F, g, out, a: g / (a * _LN10),),
    saves=("a",), elementwise=True, expr="log10(a)", dtype="float", samples=positive_values, reference=np.log10,
    errors=NO_ERRORS,
))  # fmt: skip

logaddexp = binary(op(
    "logaddexp", "log(exp(a) + exp(b)), without overflow",
    forward=lambda xp, a, b: xp.logaddexp(a, b),
    vjps=(
        lambda F, g, out, a, b: g * F.sigmoid(a - b),
        lambda F, g, out, a, b: g * F.sigmoid(b - a),
    ),
    saves=("a b", "a b"), elementwise=True, dtype="float",
    expr="a == b ? a + 0.6931471805599453 : max(a, b) + log1p(exp(-abs(a - b)))", samples=pairs,
    reference=lambda a, b: np.log(np.exp(a) + np.exp(b)), errors=clash,
))  # fmt: skip

logaddexp2 = binary(op(
    "logaddexp2", "log2(2^a + 2^b), without overflow",
    forward=lambda xp, a, b: xp.logaddexp2(a, b),
    vjps=(
        lambda F, g, out, a, b: g * F.sigmoid((a - b) * _LN2),
        lambda F, g, out, a, b: g * F.sigmoid((b - a) * _LN2),
    ),
    saves=("a b", "a b"), elementwise=True, expr="max(a, b) + log2(1 + exp2(-abs(a - b)))", dtype="float",
    samples=pairs, reference=lambda a, b: np.log2(np.exp2(a) + np.exp2(b)), errors=clash,
))  # fmt: skip


def _times_log(log_name: str) -> Any:
    """a · log(b), which is 0 where a is 0, and NaN where b is."""

    def compute(xp: Any, a: Any, b: Any) -> Any:
        logarithm = getattr(xp, log_name)(b)
        return xp.where((a == 0) & ~xp.isnan(b), logarithm.dtype.type(0), a * logarithm)

    return compute


def _xlogy_vjp(F: Any, g: Any, out: Any, a: Any, b: Any) -> Any:
    if isinstance(b, (int, float)):
        slope = g * (math.log(b) if b > 0 else -math.inf if b == 0 else math.nan)
        return slope if b > 0 else F.where(a == 0, 0.0, slope)
    return F.where((a == 0) & (b <= 0), 0.0, g * F.where(b == 0, -math.inf, F.log(b + as_mask(F, b == 0, g))))


def _xlog1py_vjp(F: Any, g: Any, out: Any, a: Any, b: Any) -> Any:
    if isinstance(b, (int, float)):
        return _xlogy_vjp(F, g, out, a, b + 1.0) if b < -0.5 else g * math.log1p(b)
    return F.where((a == 0) & (b <= -1.0), 0.0, g * F.log1p(b))


xlogy = binary(op(
    "xlogy", "a · log(b), 0 where a is 0",
    forward=_times_log("log"), vjps=(_xlogy_vjp, lambda F, g, out, a, b: g * a / b),
    saves=("a b", "a b"), elementwise=True, expr="a == 0 && b == b ? 0 : a * log(b)", dtype="float",
    samples=positive_pairs, reference=lambda a, b: a * np.log(b), errors=clash,
))  # fmt: skip

xlog1py = binary(op(
    "xlog1py", "a · log(1 + b), 0 where a is 0",
    forward=_times_log("log1p"), vjps=(_xlog1py_vjp, lambda F, g, out, a, b: g * a / (b + 1.0)),
    saves=("a b", "a b"), elementwise=True, expr="a == 0 && b == b ? 0 : a * log1p(b)", dtype="float",
    samples=positive_pairs, reference=lambda a, b: a * np.log1p(b), errors=clash,
))  # fmt: skip


def _logit(xp: Any, a: Any, *, eps: float | None) -> Any:
    if a.dtype.kind in "iub":
        a = a.astype(default_dtype())
    if eps is not None:
        a = xp.where(a < eps, eps, xp.where(a > 1.0 - eps, 1.0 - eps, a)).astype(a.dtype)
    return xp.log(a / (1.0 - a))


def _logit_vjp(F: Any, g: Any, out: Any, a: Any, *, eps: float | None) -> Any:
    slope = g / (a * (1.0 - a))
    if eps is None:
        return slope
    return F.where((a < eps) | (a > 1.0 - eps), 0.0, slope)


LOGIT = op(
    "logit", "log(a / (1 - a)), the inverse of sigmoid; with eps, a is first held within [eps, 1 - eps]",
    forward=_logit, vjps=(_logit_vjp,), saves=("a",), elementwise=True, expr="log(a / (1 - a))", dtype="float",
    reference=lambda a, eps: np.log(np.clip(a, eps, None if eps is None else 1 - eps))
    - np.log(1 - np.clip(a, eps, None if eps is None else 1 - eps)),
    samples=lambda s: [
        s.case(s.unit(2, 3) * 0.5 + 0.5, eps=None),
        s.case(s.unit(5) * 0.5 + 0.5, eps=0.2),
        s.case(s.unit() * 0.5 + 0.5, eps=None),
    ],
    errors=NO_ERRORS,
)  # fmt: skip


def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """log(input / (1 - input)), the inverse of `sigmoid`; with eps, of input held within [eps, 1 - eps]."""
    return LOGIT.run(input, eps=eps)
