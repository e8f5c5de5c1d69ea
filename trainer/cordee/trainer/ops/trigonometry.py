"""Sine, cosine and what belongs to them: inverses, hyperbolic functions, angles, the sides of a triangle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cordee.trainer.autograd.graph import binary, unary
from cordee.trainer.autograd.record import NO_ERRORS, Sampler, op
from cordee.trainer.ops.arithmetic import as_mask
from cordee.trainer.ops.cases import any_values, clash, positive_pairs, positive_values, unit_values

__all__ = [
    "acos", "acosh", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh", "asin", "asinh", "atan",
    "atan2", "atanh", "cos", "cosh", "deg2rad", "hypot", "rad2deg", "sin", "sinc", "sinh", "tan",
]  # fmt: skip

METHODS = (
    "acos acosh arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan atan2 atanh cos cosh deg2rad "
    "hypot rad2deg sin sinc sinh tan"
)
INPLACE = (
    "acos acosh arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan atan2 atanh cos cosh deg2rad "
    "hypot rad2deg sin sinc sinh tan"
)


def _above_one(s: Sampler) -> list[Any]:
    return [s.case(s.positive(2, 3) + 1.0), s.case(s.positive() + 1.0), s.case(s.positive(0, 2) + 1.0)]


sin = unary(op(
    "sin", "the sine",
    forward=lambda xp, a: xp.sin(a), vjps=(lambda F, g, out, a: g * F.cos(a),),
    saves=("a",), elementwise=True, expr="sin(a)", dtype="float", samples=any_values, reference=np.sin,
    errors=NO_ERRORS,
))  # fmt: skip

cos = unary(op(
    "cos", "the cosine",
    forward=lambda xp, a: xp.cos(a), vjps=(lambda F, g, out, a: -g * F.sin(a),),
    saves=("a",), elementwise=True, expr="cos(a)", dtype="float", samples=any_values, reference=np.cos,
    errors=NO_ERRORS,
))  # fmt: skip

tan = unary(op(
    "tan", "the tangent",
    autocast="single on cuda",
    forward=lambda xp, a: xp.tan(a), vjps=(lambda F, g, out, a: g * (out * out + 1.0),),
    saves=("out",), elementwise=True, expr="tan(a)", dtype="float", samples=unit_values, reference=np.tan,
    errors=NO_ERRORS,
))  # fmt: skip

asin = unary(op(
    "asin", "the angle whose sine is a",
    autocast="single on cuda",
    forward=lambda xp, a: xp.arcsin(a), vjps=(lambda F, g, out, a: g * F.rsqrt(1.0 - a * a),),
    saves=("a",), elementwise=True, expr="asin(a)", dtype="float", samples=unit_values, reference=np.arcsin,
    errors=NO_ERRORS,
))  # fmt: skip

acos = unary(op(
    "acos", "the angle whose cosine is a",
    autocast="single on cuda",
    forward=lambda xp, a: xp.arccos(a), vjps=(lambda F, g, out, a: -g * F.rsqrt(1.0 - a * a),),
    saves=("a",), elementwise=True, expr="acos(a)", dtype="float", samples=unit_values, reference=np.arccos,
    errors=NO_ERRORS,
))  # fmt: skip

atan = unary(op(
    "atan", "the angle whose tangent is a",
    forward=lambda xp, a: xp.arctan(a), vjps=(lambda F, g, out, a: g / (a * a + 1.0),),
    saves=("a",), elementwise=True, expr="atan(a)", dtype="float", samples=any_values, reference=np.arctan,
    errors=NO_ERRORS,
))  # fmt: skip

sinh = unary(op(
    "sinh", "the hyperbolic sine",
    autocast="single on cuda",
    forward=lambda xp, a: xp.sinh(a), vjps=(lambda F, g, out, a: g * F.cosh(a),),
    saves=("a",), elementwise=True, expr="sinh(a)", dtype="float", samples=any_values, reference=np.sinh,
    errors=NO_ERRORS,
))  # fmt: skip

cosh = unary(op(
    "cosh", "the hyperbolic cosine",
    autocast="single on cuda",
    forward=lambda xp, a: xp.cosh(a), vjps=(lambda F, g, out, a: g * F.sinh(a),),
    saves=("a",), elementwise=True, expr="cosh(a)", dtype="float", samples=any_values, reference=np.cosh,
    errors=NO_ERRORS,
))  # fmt: skip

asinh = unary(op(
    "asinh", "the number whose hyperbolic sine is a",
    forward=lambda xp, a: xp.arcsinh(a), vjps=(lambda F, g, out, a: g * F.rsqrt(a * a + 1.0),),
    saves=("a",), elementwise=True, expr="asinh(a)", dtype="float", samples=any_values, reference=np.arcsinh,
    errors=NO_ERRORS,
))  # fmt: skip

acosh = unary(op(
    "acosh", "the number whose hyperbolic cosine is a",
    forward=lambda xp, a: xp.arccosh(a), vjps=(lambda F, g, out, a: g * F.rsqrt(a * a - 1.0),),
    saves=("a",), elementwise=True, expr="acosh(a)", dtype="float", samples=_above_one, reference=np.arccosh,
    errors=NO_ERRORS,
))  # fmt: skip

atanh = unary(op(
    "atanh", "the number whose hyperbolic tangent is a",
    forward=lambda xp, a: xp.arctanh(a), vjps=(lambda F, g, out, a: g / (1.0 - a * a),),
    saves=("a",), elementwise=True, expr="atanh(a)", dtype="float", samples=unit_values, reference=np.arctanh,
    errors=NO_ERRORS,
))  # fmt: skip

deg2rad = unary(op(
    "deg2rad", "degrees as radians",
    forward=lambda xp, a: a * (math.pi / 180.0), vjps=(lambda F, g, out, a: g * (math.pi / 180.0),),
    saves=("",), elementwise=True, expr="a * 0.017453292519943295", dtype="float", samples=any_values,
    reference=np.deg2rad, errors=NO_ERRORS,
))  # fmt: skip

rad2deg = unary(op(
    "rad2deg", "radians as degrees",
    forward=lambda xp, a: a * (180.0 / math.pi), vjps=(lambda F, g, out, a: g * (180.0 / math.pi),),
    saves=("",), elementwise=True, expr="a * 57.29577951308232", dtype="float", samples=any_values,
    reference=np.rad2deg, errors=NO_ERRORS,
))  # fmt: skip


def _sinc(xp: Any, a: Any) -> Any:
    angle = a * math.pi
    zero = angle == 0
    return (xp.sin(angle) + zero) / (angle + zero)


def _sinc_vjp(F: Any, g: Any, out: Any, a: Any) -> Any:
    zero = as_mask(F, a == 0, g)
    return g * (F.cos(a * math.pi) - out) / (a + zero)  # at 0: cos - sinc, which is 0


sinc = unary(op(
    "sinc", "sin(πa) / πa, 1 at 0",
    forward=_sinc, vjps=(_sinc_vjp,),
    saves=("a out",), elementwise=True, expr="a == 0 ? 1 : sin(pi * a) / (pi * a)", dtype="float",
    samples=positive_values, reference=np.sinc, errors=NO_ERRORS,
))  # fmt: skip

atan2 = binary(op(
    "atan2", "the angle of the point (b, a), between -π and π; gradient 0 at the origin",
    forward=lambda xp, a, b: xp.arctan2(a, b),
    vjps=(
        lambda F, g, out, a, b: g * (b / _squared_length(F, a, b)),
        lambda F, g, out, a, b: g * (-a / _squared_length(F, a, b)),
    ),
    saves=("a b", "a b"), elementwise=True, expr="atan2(a, b)", dtype="float", samples=positive_pairs,
    reference=np.arctan2, errors=clash,
))  # fmt: skip


def _squared_length(F: Any, a: Any, b: Any) -> Any:
    length = a * a + b * b
    return length + as_mask(F, length == 0, length)


hypot = binary(op(
    "hypot", "sqrt(a² + b²), without overflow",
    forward=lambda xp, a, b: xp.hypot(a, b),
    vjps=(lambda F, g, out, a, b: g * (a / out), lambda F, g, out, a, b: g * (b / out)),
    saves=("a out", "b out"), elementwise=True, expr="hypot(a, b)", dtype="float", samples=positive_pairs,
    reference=np.hypot, errors=clash,
))  # fmt: skip

arccos, arccosh, arcsin, arcsinh, arctan, arctan2, arctanh = acos, acosh, asin, asinh, atan, atan2, atanh
