"""From attention's scores to its weights, and from the weights' gradient to the scores': each in one pass.

Of float32 in place. Of bfloat16 the scores and the weights' gradients, which are sums, are float32, of a block of
queries at a time; weights and the scores' gradients become rows of matrices of all queries, rounded once.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from cordee.trainer.kernels.llvm import mathematics as m
from cordee.trainer.kernels.llvm.layouts import as_bits, lies, number
from cordee.trainer.kernels.llvm.loops import Loop, Memory, Rows
from cordee.trainer.kernels.llvm.ufuncs import family
from cordee.trainer.kernels.llvm.values import Value

__all__ = ["attention_slopes", "attention_weights", "slopes_to_rows", "weights_to_rows"]


def _soften(k: Rows, place: Memory, target: Memory, visible: Value, length: Value, factor: Value) -> None:
    """The softmax of a row's first columns, of scores times a factor (which it writes over), and zeros behind them."""
    top = k.max_lanes(visible, lambda i, mask: place.lanes(i, mask) * factor)

    def term(i: Value, mask: Value | None) -> Value:
        e = m.exp(k, place.lanes(i, mask) * factor - top)
        place.put_lanes(i, e, mask)
        return e

    share = 1.0 / k.sum_lanes(visible, term)
    k.lanes(visible, lambda i, mask: target.put_lanes(i, place.lanes(i, mask) * share, mask), 2)
    k.clear(length - visible, target.at(visible))


def _attention_weights(k: Rows, scale: Memory, first: Memory, queries: Memory, scores: Memory) -> None:
    """`first`: how many columns a row sees beside the one of its own number; `queries`: after how many rows numbers
    begin anew."""
    zero, length = k.index(0), k.sizes["n"]
    factor, before, period = scale.get(zero), first.get(zero), queries.get(zero)

    def row(r: Value) -> None:
        place = scores.at(r * length)
        visible = before + (r - r / period * period) + 1
        visible = k.where(visible < length, visible, length)
        _soften(k, place, place, visible, length, factor)

    k.share(row)


def _attention_slopes(k: Rows, weights: Memory, scale: Memory, grad: Memory) -> None:
    length = k.sizes["n"]
    factor = scale.get(k.index(0))

    def row(r: Value) -> None:
        weight, slope = weights.at(r * length), grad.at(r * length)
        along = k.sum_lanes(length, lambda i, mask: slope.lanes(i, mask) * weight.lanes(i, mask))

        def write(i: Value, mask: Value | None) -> None:
            slope.put_lanes(i, (slope.lanes(i, mask) - along) * (weight.lanes(i, mask) * factor), mask)

        k.lanes(length, write, 2)

    k.share(row)


def _weights_to_rows(k: Rows, scale: Memory, numbers: Memory, scores: Memory, weights: Memory) -> None:
    """`numbers`: the first of the rows to write, and how many columns that one sees beside its own."""
    zero, rows, length = k.index(0), k.sizes["r"], k.sizes["n"]
    factor, first, before = scale.get(zero), numbers.get(zero), numbers.get(k.index(1))

    def matrix(b: Value) -> None:
        def row(r: Value) -> None:
            place, target = (
                scores.at((b * rows + r) * length),
                weights.at((b * k.sizes["l"] + first + r) * k.sizes["m"]),
            )
            visible = before + r + 1
            visible = k.where(visible < length, visible, length)
            _soften(k, place, target, visible, length, factor)

        k.count(zero, rows, 1, row)

    k.share(matrix)


def _slopes_to_rows(k: Rows, grad: Memory, weights: Memory, scale: Memory, first: Memory, slopes: Memory) -> None:
    zero, rows, length = k.index(0), k.sizes["r"], k.sizes["n"]
    factor, start = scale.get(zero), first.get(zero)

    def matrix(b: Value) -> None:
        def row(r: Value) -> None:
            at = (b * k.sizes["l"] + start + r) * k.sizes["m"]
            weight, slope, target = weights.at(at), grad.at((b * rows + r) * length), slopes.at(at)
            along = k.sum_lanes(length, lambda i, mask: slope.lanes(i, mask) * weight.lanes(i, mask))

            def write(i: Value, mask: Value | None) -> None:
                target.put_lanes(i, (slope.lanes(i, mask) - along) * (weight.lanes(i, mask) * factor), mask)

            k.lanes(length, write, 2)

        k.count(zero, rows, 1, row)

    k.share(matrix)


@functools.cache
def _ufuncs() -> dict[str, Any]:
    """What is changed in place is a result alone: NumPy would copy an operand that lies where a result does."""
    return family(
        "attention",
        [
            Loop("attention_weights", "fqq->f", _attention_weights, "(),(),()->(r,n)", "r"),
            Loop("attention_slopes", "ff->f", _attention_slopes, "(r,n),()->(r,n)", "r"),
            Loop("weights_to_rows", "fq->fh", _weights_to_rows, "(),(p)->(b,r,n),(b,l,m)", "b"),
            Loop("slopes_to_rows", "fhfq->h", _slopes_to_rows, "(b,r,n),(b,l,m),(),()->(b,l,m)", "b"),
        ],
    )


def attention_weights(scores: Any, *, scale: float, first: int | None) -> Any:
    if scores.ndim < 2 or not scores.size or not lies(scores, scores.shape):
        return NotImplemented
    queries, length = scores.shape[-2:]
    seen = length if first is None else first
    _ufuncs()["attention_weights"](number(scale), seen, queries, out=scores.reshape(-1, length))
    return scores


def attention_slopes(grad: Any, weights: Any, *, scale: float) -> Any:
    if not grad.size or not lies(grad, grad.shape) or not lies(weights, grad.shape):
        return NotImplemented
    length = grad.shape[-1]
    _ufuncs()["attention_slopes"](weights.reshape(-1, length), number(scale), out=grad.reshape(-1, length))
    return grad


def weights_to_rows(scores: Any, weights: Any, *, scale: float, first: int, causal: bool) -> None:
    """Of matrices of bfloat16, `weights`, the rows from number `first` on; the scores are used up."""
    before = first if causal else scores.shape[-1]
    out = (scores.reshape(-1, *scores.shape[-2:]), as_bits(weights).reshape(-1, *weights.shape[-2:]))
    _ufuncs()["weights_to_rows"](number(scale), np.array((first, before)), out=out)


def slopes_to_rows(grad: Any, weights: Any, slopes: Any, *, scale: float, first: int) -> None:
    """Of matrices of bfloat16, `slopes`, the same rows of the scores' gradient, from the weights'."""
    all_weights, into = (as_bits(each).reshape(-1, *each.shape[-2:]) for each in (weights, slopes))
    _ufuncs()["slopes_to_rows"](grad.reshape(-1, *grad.shape[-2:]), all_weights, number(scale), first, out=into)
