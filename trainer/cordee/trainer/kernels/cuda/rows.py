"""Softmax, cross-entropy, attention's weights and norms of rows on a GPU: how their kernels are launched.

The gradients of a norm's weight and bias are added up by chunks of rows, and the chunks' sums one after another, so
the bits depend on shapes alone. It has not yet run on a device.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cordee.trainer.kernels.cuda.launch import KINDS, function, kind_of, pointer

__all__ = [
    "attention_slopes", "attention_weights", "cross_entropy", "cross_entropy_grad", "layer_norm", "layer_norm_grad",
    "log_softmax", "log_softmax_grad", "rms_norm", "rms_norm_grad", "softmax", "softmax_grad",
]  # fmt: skip

_COLUMNS = 128
"""Threads of a block where each has a column."""


def _threads(length: int) -> int:
    """Of a row's block: four elements or more for each, and whole warps."""
    threads = 32
    while threads < 1024 and threads * 4 < length:
        threads *= 2
    return threads


def _kind(*arrays: Any) -> str:
    """The dtype of rows that lie one behind another, and of what else is given; "": they are not taken here."""
    first = arrays[0]
    kind = KINDS.get(first.dtype, "")
    if not first.size or not first.ndim:
        return ""
    for each in arrays:
        if each is not None and (each.dtype != first.dtype or not each.flags.c_contiguous):
            return ""
    return kind


def _launch(kind: str, name: str, num_rows: int, length: int, *args: Any) -> None:
    function("rows", kind, name)((num_rows,), (_threads(length),), args)


def _whole(*statistics: Any) -> bool:
    return all(each.dtype == np.float32 and each.flags.c_contiguous for each in statistics)


# -- softmax -----------------------------------------------------------------------------------------------------------


def _over_rows(name: str, *arrays: Any, axis: int, logarithm: bool) -> Any:
    first = arrays[0]
    kind = _kind(*arrays)
    if not kind or axis not in (-1, first.ndim - 1) or any(each.shape != first.shape for each in arrays):
        return NotImplemented
    length = first.shape[-1]
    out = importlib.import_module("cupy").empty(first.shape, first.dtype)
    _launch(kind, name, first.size // length, length, *arrays, out, np.int64(length), np.int32(logarithm))
    return out


def softmax(a: Any, *, axis: int) -> Any:
    return _over_rows("softmax", a, axis=axis, logarithm=False)


def softmax_grad(g: Any, out: Any, *, axis: int) -> Any:
    return _over_rows("softmax_grad", g, out, axis=axis, logarithm=False)


def log_softmax(a: Any, *, axis: int) -> Any:
    return _over_rows("softmax", a, axis=axis, logarithm=True)


def log_softmax_grad(g: Any, out: Any, *, axis: int) -> Any:
    return _over_rows("softmax_grad", g, out, axis=axis, logarithm=True)


# -- cross-entropy -----------------------------------------------------------------------------------------------------


def cross_entropy(logits: Any, *, target: Any, reduction: str) -> Any:
    """Rows of a class that there is not count for nothing; how many count is told with what the gradient needs."""
    kind = kind_of(logits) if logits.flags.c_contiguous else ""
    if not kind or logits.ndim != 2 or target.shape != logits.shape[:1] or target.dtype.kind not in "iu":
        return NotImplemented
    cupy: Any = importlib.import_module("cupy")
    num_rows, length = logits.shape
    losses, tops, totals = (cupy.empty(num_rows, np.float32) for _ in range(3))
    classes = cupy.ascontiguousarray(target, np.int64)
    _launch(kind, "cross_entropy", num_rows, length, logits, classes, losses, tops, totals, np.int64(length))
    out, counted = cupy.empty((), logits.dtype), cupy.empty((), np.float32)
    numbers = (np.int64(num_rows), np.int64(length), np.int32(reduction == "mean"), np.int32(reduction == "none"))
    function("rows", kind, "loss_total")((1,), (_threads(num_rows),), (losses, classes, out, counted, *numbers))
    return losses.astype(logits.dtype, copy=False) if reduction == "none" else out, (tops, totals, counted)


def cross_entropy_grad(slopes: Any, logits: Any, tops: Any, totals: Any, *, target: Any) -> Any:
    kind = _kind(logits)
    if not kind or logits.ndim != 2 or not _whole(tops, totals) or target.dtype.kind not in "iu":
        return NotImplemented
    cupy: Any = importlib.import_module("cupy")
    num_rows, length = logits.shape
    into = cupy.empty(logits.shape, logits.dtype)
    classes, slopes = cupy.ascontiguousarray(target, np.int64), cupy.ascontiguousarray(slopes, np.float32)
    _launch(
        kind, "cross_entropy_grad", num_rows, length,
        logits, classes, slopes, tops, totals, into, np.int64(length), np.int32(slopes.size > 1),
    )  # fmt: skip
    return into


# -- attention ---------------------------------------------------------------------------------------------------------


def attention_weights(scores: Any, *, scale: float, first: int | None) -> Any:
    kind = _kind(scores)
    if not kind or scores.ndim < 2:
        return NotImplemented
    *_, queries, length = scores.shape
    _launch(
        kind, "attention_weights", scores.size // length, length, scores, np.int64(length), np.int64(queries),
        np.int64(first or 0), np.float32(scale), np.int32(first is not None),
    )  # fmt: skip
    return scores


def attention_slopes(grad: Any, weights: Any, *, scale: float) -> Any:
    kind = _kind(grad, weights)
    if not kind or grad.shape != weights.shape:
        return NotImplemented
    length = grad.shape[-1]
    _launch(kind, "attention_slopes", grad.size // length, length, grad, weights, np.int64(length), np.float32(scale))
    return grad


# -- norms -------------------------------------------------------------------------------------------------------------


def _norm(input: Any, weight: Any, bias: Any, eps: float, centred: bool) -> Any:
    kind = _kind(input, weight, bias)
    if not kind or input.ndim != 2:
        return NotImplemented
    cupy: Any = importlib.import_module("cupy")
    num_rows, length = input.shape
    out, inverse = cupy.empty(input.shape, input.dtype), cupy.empty((num_rows, 1), np.float32)
    mean = cupy.empty((num_rows, 1), np.float32) if centred else None
    _launch(
        kind, "norm_rows", num_rows, length, input, pointer(weight), pointer(bias), out, pointer(mean), inverse,
        np.int64(length), np.float32(eps), np.int32(centred),
    )  # fmt: skip
    return out, mean, inverse


def _norm_grad(g: Any, input: Any, weight: Any, mean: Any, inverse: Any, needs: Sequence[bool]) -> Any:
    """By input, weight and bias; None where it is not needed."""
    kind = _kind(input, g, weight)
    if not kind or input.ndim != 2 or g.shape != input.shape or not _whole(inverse, *(() if mean is None else (mean,))):
        return NotImplemented
    cupy: Any = importlib.import_module("cupy")
    (num_rows, length), centred = input.shape, np.int32(mean is not None)
    statistics = (pointer(mean), inverse)
    into = of_weight = of_bias = None
    if needs[0]:
        into = cupy.empty(input.shape, input.dtype)
        _launch(
            kind,
            "norm_grad",
            num_rows,
            length,
            g,
            input,
            pointer(weight),
            *statistics,
            into,
            np.int64(length),
            centred,
        )
    if any(needs[1:]):
        chunks, blocks = _chunks(num_rows), -(-length // _COLUMNS)
        sums = cupy.empty((chunks, 2, length), np.float32)
        function("rows", kind, "norm_sums")(
            (blocks, chunks), (_COLUMNS,),
            (g, input, *statistics, sums, np.int64(num_rows), np.int64(length), centred),
        )  # fmt: skip
        of_weight, of_bias = cupy.empty(length, input.dtype), cupy.empty(length, input.dtype)
        function("rows", kind, "norm_totals")(
            (blocks,), (_COLUMNS,), (sums, of_weight, of_bias, np.int32(chunks), np.int64(length))
        )
    return into, of_weight if needs[1] else None, of_bias if len(needs) > 2 and needs[2] else None


def _chunks(num_rows: int) -> int:
    """Of rows: enough for all of a GPU's processors to have some, each of many rows."""
    return min(max(num_rows // 32, 1), 64)


def layer_norm(input: Any, weight: Any, bias: Any, *, eps: float) -> Any:
    found = _norm(input, weight, bias, eps, centred=True)
    return found if found is NotImplemented else (found[0], found[1:])


def layer_norm_grad(g: Any, input: Any, weight: Any, mean: Any, inverse: Any, *, needs: Sequence[bool]) -> Any:
    return _norm_grad(g, input, weight, mean, inverse, needs)


def rms_norm(input: Any, weight: Any, *, eps: float) -> Any:
    found = _norm(input, weight, None, eps, centred=False)
    return found if found is NotImplemented else (found[0], found[2])


def rms_norm_grad(g: Any, input: Any, weight: Any, inverse: Any, *, needs: Sequence[bool]) -> Any:
    found = _norm_grad(g, input, weight, None, inverse, needs)
    return found if found is NotImplemented else found[:2]
