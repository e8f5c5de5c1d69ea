"""Softmax and its logarithm over the rows of a matrix, and their gradients."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from cordee.trainer.kernels.llvm import mathematics as m
from cordee.trainer.kernels.llvm.layouts import KINDS, as_bits, from_bits, lies
from cordee.trainer.kernels.llvm.loops import Loop, Memory, Rows
from cordee.trainer.kernels.llvm.ufuncs import family
from cordee.trainer.kernels.llvm.values import Value

__all__ = ["log_softmax", "log_softmax_grad", "softmax", "softmax_grad"]

_float32 = np.dtype(np.float32)


def _softmax(k: Rows, a: Memory, out: Memory) -> None:
    length = k.sizes["n"]

    def row(r: Value) -> None:
        source, target = a.at(r * length), out.at(r * length)
        top = k.max_lanes(length, source.lanes)

        def term(i: Value, mask: Value | None) -> Value:
            e = m.exp(k, source.lanes(i, mask) - top)
            target.put_lanes(i, e, mask)
            return e

        factor = 1.0 / k.sum_lanes(length, term)
        k.lanes(length, lambda i, mask: target.put_lanes(i, target.lanes(i, mask) * factor, mask))

    k.share(row)


def _softmax_half(k: Rows, a: Memory, out: Memory) -> None:
    """The exponentials twice: kept between, they would be rounded."""
    length = k.sizes["n"]

    def row(r: Value) -> None:
        source, target = a.at(r * length), out.at(r * length)
        top = k.max_lanes(length, source.lanes)

        def term(i: Value, mask: Value | None) -> Value:
            return m.exp(k, source.lanes(i, mask) - top)

        factor = 1.0 / k.sum_lanes(length, term)
        k.lanes(length, lambda i, mask: target.put_lanes(i, term(i, mask) * factor, mask))

    k.share(row)


def _softmax_grad(k: Rows, g: Memory, out: Memory, into: Memory) -> None:
    length = k.sizes["n"]

    def row(r: Value) -> None:
        slope, value, target = (each.at(r * length) for each in (g, out, into))
        along = k.sum_lanes(length, lambda i, mask: slope.lanes(i, mask) * value.lanes(i, mask))
        k.lanes(
            length,
            lambda i, mask: target.put_lanes(i, (slope.lanes(i, mask) - along) * value.lanes(i, mask), mask),
        )

    k.share(row)


def _log_softmax(k: Rows, a: Memory, out: Memory) -> None:
    length = k.sizes["n"]

    def row(r: Value) -> None:
        source, target = a.at(r * length), out.at(r * length)
        top = k.max_lanes(length, source.lanes)
        total = k.sum_lanes(length, lambda i, mask: m.exp(k, source.lanes(i, mask) - top))
        shift = m.log(k, total)
        k.lanes(length, lambda i, mask: target.put_lanes(i, source.lanes(i, mask) - top - shift, mask))

    k.share(row)


def _log_softmax_grad(k: Rows, g: Memory, out: Memory, into: Memory) -> None:
    length = k.sizes["n"]

    def row(r: Value) -> None:
        slope, value, target = (each.at(r * length) for each in (g, out, into))
        total = k.sum_lanes(length, slope.lanes)
        k.lanes(
            length,
            lambda i, mask: target.put_lanes(i, slope.lanes(i, mask) - m.exp(k, value.lanes(i, mask)) * total, mask),
        )

    k.share(row)


@functools.cache
def _ufuncs() -> dict[str, Any]:
    one, two = "(r,n)->(r,n)", "(r,n),(r,n)->(r,n)"
    loops = [Loop("softmax", "f->f", _softmax, one, "r"), Loop("softmax_half", "h->h", _softmax_half, one, "r")]
    for x, ending in (("f", ""), ("h", "_half")):
        loops += [
            Loop(f"softmax_grad{ending}", f"{x}{x}->{x}", _softmax_grad, two, "r"),
            Loop(f"log_softmax{ending}", f"{x}->{x}", _log_softmax, one, "r"),
            Loop(f"log_softmax_grad{ending}", f"{x}{x}->{x}", _log_softmax_grad, two, "r"),
        ]
    return family("softmax", loops)


def _over_rows(name: str, *arrays: Any, axis: int) -> Any:
    """A ufunc over the last dimension of contiguous arrays, float32 or bfloat16."""
    shape, dtype = arrays[0].shape, arrays[0].dtype
    if not shape or axis not in (-1, len(shape) - 1) or dtype not in KINDS:
        return NotImplemented
    for a in arrays:
        if not a.size or not lies(a, shape, dtype):
            return NotImplemented
    loop = _ufuncs()[name + KINDS[dtype]]
    if dtype is _float32 and len(shape) == 2:
        return loop(*arrays)
    return from_bits(loop(*[as_bits(a).reshape(-1, shape[-1]) for a in arrays]), dtype).reshape(shape)


def softmax(a: Any, *, axis: int) -> Any:
    return _over_rows("softmax", a, axis=axis)


def softmax_grad(g: Any, out: Any, *, axis: int) -> Any:
    return _over_rows("softmax_grad", g, out, axis=axis)


def log_softmax(a: Any, *, axis: int) -> Any:
    return _over_rows("log_softmax", a, axis=axis)


def log_softmax_grad(g: Any, out: Any, *, axis: int) -> Any:
    return _over_rows("log_softmax_grad", g, out, axis=axis)
