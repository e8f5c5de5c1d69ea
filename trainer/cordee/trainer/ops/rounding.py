"""Rounding, and division that leaves a remainder.

A rounded value does not change with its input, so its gradient is 0 everywhere; that of a remainder is 1. Whole numbers
divided by a whole zero are refused, as in PyTorch: NumPy would say 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cordee.trainer.autograd.graph import Operand, binary, unary
from cordee.trainer.autograd.record import NO_ERRORS, Sampler, op
from cordee.trainer.ops.cases import clash, corner_values
from cordee.trainer.tensors import Tensor

__all__: list[str] = [
    "ceil", "fix", "floor", "floor_divide", "fmod", "frac", "remainder", "round", "trunc",
]  # fmt: skip

METHODS = "ceil fix floor floor_divide fmod frac remainder round trunc"
INPLACE = "ceil fix floor floor_divide fmod frac remainder round trunc"


def _whole(name: str) -> Any:
    """The rounding function of that name; whole numbers are round already."""

    def compute(xp: Any, a: Any) -> Any:
        return a.copy() if a.dtype.kind in "iub" else getattr(xp, name)(a)

    return compute


floor = unary(op(
    "floor", "rounded down; gradient 0",
    forward=_whole("floor"), vjps=(lambda F, g, out, a: g * 0.0,),
    saves=("",), elementwise=True, expr="floor(a)", samples=corner_values, reference=np.floor, errors=NO_ERRORS,
))  # fmt: skip

ceil = unary(op(
    "ceil", "rounded up; gradient 0",
    forward=_whole("ceil"), vjps=(lambda F, g, out, a: g * 0.0,),
    saves=("",), elementwise=True, expr="ceil(a)", samples=corner_values, reference=np.ceil, errors=NO_ERRORS,
))  # fmt: skip

trunc = unary(op(
    "trunc", "rounded towards 0; gradient 0",
    forward=_whole("trunc"), vjps=(lambda F, g, out, a: g * 0.0,),
    saves=("",), elementwise=True, expr="trunc(a)", samples=corner_values, reference=np.trunc, errors=NO_ERRORS,
))  # fmt: skip

frac = unary(op(
    "frac", "what trunc cuts off",
    forward=lambda xp, a: a - xp.trunc(a), vjps=(lambda F, g, out, a: g,),
    saves=("",), elementwise=True, expr="a - trunc(a)", samples=corner_values,
    reference=lambda a: np.fmod(a, 1.0), errors=NO_ERRORS,
))  # fmt: skip


def _round(xp: Any, a: Any, *, decimals: int) -> Any:
    if a.dtype.kind in "iub":
        return a.copy()
    if decimals == 0:
        return xp.rint(a)
    scale = 10.0 ** abs(decimals)
    return xp.rint(a * scale) / scale if decimals > 0 else xp.rint(a / scale) * scale


ROUND = op(
    "round", "rounded to the nearest whole number (or to decimals), halves to the even one; gradient 0",
    forward=_round, vjps=(lambda F, g, out, a, *, decimals: g * 0.0,),
    saves=("",), elementwise=True, expr="rint(a)", reference=np.round,
    samples=lambda s: [
        s.case(0.9 * s.distinct(2, 3), decimals=0),
        s.case(s.distinct(3) + 0.03, decimals=1),
        s.case(100.0 * s.distinct(), decimals=-1),
    ],
    errors=NO_ERRORS,
)  # fmt: skip


def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """Rounded to the nearest multiple of 10^-decimals, halves to the even one."""
    return ROUND.run(input, decimals=decimals)


fix = trunc


# -- division ----------------------------------------------------------------------------------------------------------


def _divisors(s: Sampler) -> list[Any]:
    """Quotients away from whole numbers."""
    return [
        s.case(s.integers(9, 2, 3) + 0.3, 1.0 + s.integers(3, 2, 3)),
        s.case(s.integers(9, 2, 3) - 4.3, 2.0),
        s.case(s.integers(9, 3, 1) - 4.4, np.array([1.0, -3.0])),
        s.case(7.7, np.array([2.0, 3.0])),
    ]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) or getattr(getattr(value, "dtype", None), "kind", "f") in "iub"


def _refuse_zero(a: Any, b: Any) -> None:
    if _is_whole(a) and _is_whole(b) and (not b if isinstance(b, int) else not b.all()):
        raise ZeroDivisionError("a whole number cannot be divided by a whole zero")


_BLOCK = 1 << 14
"""Elements that are divided in double precision at once: they stay in the cache."""
_EXACT = 2.0**28
"""Below it, the product of a quotient and a divisor of single precision is exact in double precision."""


def _remainder(xp: Any, a: Any, b: Any) -> Any:
    _refuse_zero(a, b)
    if xp is np and type(b) in (float, int) and type(a) is np.ndarray and a.dtype == np.float32 and a.size >= _BLOCK:
        divisor = np.float32(b)
        if divisor and np.isfinite(divisor) and a.flags.c_contiguous:
            return _remainder_of_many(a, divisor)
    return xp.remainder(a, b)


def _remainder_of_many(a: Any, b: Any) -> Any:
    """The same bits as NumPy's, which divides one number at a time."""
    out, wide = np.empty(a.shape, a.dtype), np.float64(b)
    given, results = a.reshape(-1), out.reshape(-1)
    both = np.empty((2, _BLOCK))
    for start in range(0, a.size, _BLOCK):
        part, target = given[start : start + _BLOCK], results[start : start + _BLOCK]
        values, quotients = both[:, : part.size]
        values[...] = part
        np.floor(np.divide(values, wide, out=quotients), out=quotients)
        if not np.abs(quotients).max() < _EXACT:  # or something is no number
            np.remainder(part, b, out=target)
            continue
        values -= np.multiply(quotients, wide, out=quotients)
        np.copysign(values, wide, out=target, casting="same_kind")  # of zeros; all else has this sign
    return out


def _fmod(xp: Any, a: Any, b: Any) -> Any:
    _refuse_zero(a, b)
    return xp.fmod(a, b)


remainder = binary(op(
    "remainder", "what is left of a after whole multiples of b; of b's sign",
    forward=_remainder,
    vjps=(lambda F, g, out, a, b: g, lambda F, g, out, a, b: -g * F.quotient(a, b, mode="floor")),
    saves=("", "a b"), elementwise=True, expr="floormod(a, b)", samples=_divisors, reference=np.remainder,
    errors=clash,
))  # fmt: skip

fmod = binary(op(
    "fmod", "what is left of a after whole multiples of b; of a's sign",
    forward=_fmod,
    vjps=(lambda F, g, out, a, b: g, lambda F, g, out, a, b: -g * F.quotient(a, b, mode="trunc")),
    saves=("", "a b"), elementwise=True, expr="fmod(a, b)", samples=_divisors, reference=np.fmod, errors=clash,
))  # fmt: skip


def _quotient(xp: Any, a: Any, b: Any, *, mode: str) -> Any:
    _refuse_zero(a, b)
    if mode == "floor":
        return xp.floor_divide(a, b)
    if _is_whole(a) and _is_whole(b):
        down = xp.floor_divide(a, b)
        return down + ((xp.remainder(a, b) != 0) & ((a < 0) != (b < 0)))
    return xp.trunc(a / b)


QUOTIENT = op(
    "quotient", "a / b, rounded down or towards 0; gradient 0",
    forward=_quotient,
    vjps=(lambda F, g, out, a, b, *, mode: g * 0.0, lambda F, g, out, a, b, *, mode: g * 0.0),
    saves=("", ""), elementwise=True, expr="floor(a / b)",
    reference=lambda a, b, mode: np.floor(a / b) if mode == "floor" else np.trunc(a / b),
    samples=lambda s: [
        s.case(*case.inputs, mode=mode) for mode in ("floor", "trunc") for case in _divisors(s)
    ],
    errors=lambda s: [s.case(*case.inputs, mode="floor") for case in clash(s)],
)  # fmt: skip


def floor_divide(input: Operand, other: Operand) -> Tensor:
    """`input / other`, rounded down.

    Raises:
        ZeroDivisionError: whole numbers by a whole zero.
    """
    return QUOTIENT.run(input, other, mode="floor")


def rounded_division(input: Operand, other: Operand, rounding_mode: str) -> Tensor:
    """`input / other`, rounded by mode ("trunc" or "floor").

    Raises:
        ValueError: another mode.
    """
    if rounding_mode not in ("trunc", "floor"):
        raise ValueError(f"div: rounding_mode is None, 'trunc' or 'floor', not {rounding_mode!r}")
    return QUOTIENT.run(input, other, mode=rounding_mode)
