"""Cross-entropy of class numbers, and its gradient: one pass over the logits each, from memory's point of view.

What the gradient needs beside the logits is each row's largest one and its sum of exponentials, not the probabilities:
to work them out again costs less than to keep them.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from cordee.trainer.kernels.llvm import mathematics as m
from cordee.trainer.kernels.llvm.layouts import lies
from cordee.trainer.kernels.llvm.loops import Loop, Memory, Rows
from cordee.trainer.kernels.llvm.ufuncs import family
from cordee.trainer.kernels.llvm.values import Value

__all__ = ["cross_entropy", "cross_entropy_grad"]


def _cross_entropy(k: Rows, a: Memory, target: Memory, losses: Memory, tops: Memory, totals: Memory) -> None:
    length = k.sizes["n"]

    def row(r: Value) -> None:
        source = a.at(r * length)
        top = k.max_lanes(length, source.lanes)
        total = k.sum_lanes(length, lambda i, mask: m.exp(k, source.lanes(i, mask) - top))
        losses.put(r, m.log(k, total) - (source.get(target.get(r)) - top))
        tops.put(r, top)
        totals.put(r, total)

    k.share(row)


def _cross_entropy_grad(
    k: Rows, a: Memory, target: Memory, slopes: Memory, tops: Memory, totals: Memory, into: Memory
) -> None:
    length = k.sizes["n"]

    def row(r: Value) -> None:
        source, place = a.at(r * length), into.at(r * length)
        slope, top = slopes.get(r), tops.get(r)
        factor = slope / totals.get(r)
        k.lanes(length, lambda i, mask: place.put_lanes(i, m.exp(k, source.lanes(i, mask) - top) * factor, mask), 2)
        chosen = target.get(r)
        inside = (chosen >= 0) & (chosen < length)
        k.when(inside, lambda: place.put(chosen, place.get(chosen) - slope))

    k.share(row)


@functools.cache
def _ufuncs() -> dict[str, Any]:
    return family(
        "losses",
        [
            Loop("cross_entropy", "fq->fff", _cross_entropy, "(r,n),(r)->(r),(r),(r)", "r"),
            Loop("cross_entropy_grad", "fqfff->f", _cross_entropy_grad, "(r,n),(r),(r),(r),(r)->(r,n)", "r"),
        ],
    )


def _classes(target: Any, num_rows: int, num_classes: int) -> Any:
    """The class numbers as the loops take them; None where there is one that is no class."""
    if target.shape != (num_rows,) or target.dtype.kind not in "iu":
        return None
    classes = np.ascontiguousarray(target, np.int64)
    largest = np.maximum.reduce(classes.view(np.uint64))  # negative ones look huge
    return classes if largest < num_classes else None


def cross_entropy(logits: Any, *, target: Any, reduction: str) -> Any:
    if logits.ndim != 2 or not logits.size or not lies(logits, logits.shape):
        return NotImplemented
    classes = _classes(target, *logits.shape)
    if classes is None:
        return NotImplemented
    losses, tops, totals = _ufuncs()["cross_entropy"](logits, classes)
    if reduction != "none":
        losses = np.add.reduce(losses)
        if reduction == "mean":
            losses = losses / len(logits)
    return losses, (tops, totals)


def cross_entropy_grad(slopes: Any, logits: Any, tops: Any, totals: Any, *, target: Any) -> Any:
    if not logits.size or not lies(logits, logits.shape) or slopes.dtype != np.float32 or tops.dtype != np.float32:
        return NotImplemented
    classes = _classes(target, *logits.shape)
    if classes is None:
        return NotImplemented
    rows = np.full(len(logits), slopes) if slopes.size == 1 else np.ascontiguousarray(slopes)
    return _ufuncs()["cross_entropy_grad"](logits, classes, rows, tops, totals)
