"""LSTM and GRU layers on a GPU: a product per step by cuBLASLt, and one kernel for everything else that the step does.

In bfloat16 and float16, what is multiplied is: inputs, outputs, weights, and the gradients of the gates. Cells, gates,
the GRU's states and sums are float32 there, too. It has not yet run on a device.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from cordee.trainer.kernels.cuda.launch import KINDS, blocks, function, pointer
from cordee.trainer.kernels.registry import KERNELS
from cordee.trainer.kernels.sequences import states_around, steps

__all__ = ["gru_layer", "gru_layer_grad", "lstm_layer", "lstm_layer_grad"]

_THREADS = 256
_float32 = np.dtype(np.float32)


def _cupy() -> Any:
    return importlib.import_module("cupy")


def _run(kind: str, name: str, n: int, units: int, *arrays: Any) -> None:
    """The kernel of a step of so many rows; arrays that are not there are None."""
    function("steps", kind, name)(
        blocks(n * units, _THREADS), (_THREADS,), (*map(pointer, arrays), np.int64(n * units), np.int32(units))
    )  # fmt: skip


def _fit(dtype: Any, *expected: tuple[Any, tuple[int, ...]]) -> bool:
    """Whether each array that is there has its shape and this dtype, and no gaps."""
    return all(a is None or (a.shape == shape and a.dtype == dtype and a.flags.c_contiguous) for a, shape in expected)


def _slopes(g: Any, batch: int, width: int) -> Any:
    """Of the last states, in float32, to be written to."""
    return _cupy().zeros((batch, width), np.float32) if g is None else g.astype(np.float32, order="C")


# -- LSTM --------------------------------------------------------------------------------------------------------------


def _taken(dtype: Any, projection: Any) -> bool:
    return dtype in KINDS and (projection is None or dtype == _float32)


def lstm_layer(
    gates: Any, hidden: Any, cell: Any, weight: Any, projection: Any, *, sizes: tuple[int, ...], reverse: bool
) -> Any:
    (batch, units), width, total = cell.shape, hidden.shape[1], len(gates)
    dtype, cupy = gates.dtype, _cupy()
    operands = (
        (gates, (total, 4 * units)), (hidden, (batch, width)), (cell, (batch, units)), (weight, (4 * units, width)),
        (projection, (width, units)),
    )  # fmt: skip
    if not gates.size or not _taken(dtype, projection) or not _fit(dtype, *operands):
        return NotImplemented
    times, even = KERNELS["multiplier"](cupy, weight.T), min(sizes) == batch
    before_h, out, h = states_around(_cupy(), hidden, total, reverse, even)
    before_c, after_c, c = states_around(_cupy(), cell.astype(np.float32, copy=False), total, reverse, even)
    acts, across = cupy.empty(gates.shape, np.float32), cupy.empty((batch, 4 * units), np.float32)
    bent = cupy.empty((total, units), np.float32)
    full = out if projection is None else cupy.empty_like(bent)
    for rows, n in steps(sizes, reverse):
        if not even:
            before_h[rows], before_c[rows] = h[:n], c[:n]
        times(before_h[rows], across[:n])
        _run(KINDS[dtype], "lstm_step", n, units, gates[rows], across[:n], before_c[rows], acts[rows], bent[rows],
             after_c[rows], full[rows])  # fmt: skip
        if projection is not None:
            KERNELS["multiply"](cupy, full[rows], projection.T, out=out[rows])
        if not even:
            h[:n], c[:n] = out[rows], after_c[rows]
    return (out, h.copy(), c.astype(dtype)), (acts, bent, before_h, before_c, full)


def lstm_layer_grad(
    g_out: Any, g_h: Any, g_c: Any, acts: Any, bent: Any, before_h: Any, before_c: Any, full: Any, weight: Any,
    projection: Any, *, sizes: tuple[int, ...], reverse: bool, needs: tuple[bool, ...],
) -> Any:  # fmt: skip
    (total, units), width, batch = before_c.shape, before_h.shape[1], max(sizes, default=0)
    dtype, cupy = weight.dtype, _cupy()
    singles = (acts, (total, 4 * units)), (bent, (total, units)), (before_c, (total, units))
    others = (before_h, (total, width)), (full, (total, units)), (weight, (4 * units, width))
    if not acts.size or not _taken(dtype, projection) or not _fit(_float32, *singles):
        return NotImplemented
    if not _fit(dtype, *others, (projection, (width, units))):
        return NotImplemented
    if any(g is not None and g.dtype != dtype for g in (g_out, g_h, g_c)):
        return NotImplemented
    times = KERNELS["multiplier"](cupy, weight)
    dh, dc = _slopes(g_h, batch, width), _slopes(g_c, batch, units)
    slopes = None if g_out is None else cupy.ascontiguousarray(g_out)
    d = cupy.empty(acts.shape, dtype)
    d_out: Any = None if projection is None else cupy.empty_like(before_h)
    for rows, n in reversed(steps(sizes, reverse)):
        here, given = dh[:n], None if slopes is None else slopes[rows]
        if projection is not None:
            if given is not None:
                here += given
            d_out[rows] = here
            here, given = KERNELS["multiply"](cupy, here, projection), None
        _run(KINDS[dtype], "lstm_step_grad", n, units, acts[rows], bent[rows], before_c[rows], here, given,
             dc[:n], d[rows])  # fmt: skip
        times(d[rows], dh[:n])
    multiply = KERNELS["multiply"]
    d_projection = multiply(cupy, d_out.T, full) if d_out is not None and needs[1] else None
    d_weight = multiply(cupy, d.T, before_h).astype(dtype, copy=False) if needs[0] else None
    return d, dh.astype(dtype, copy=False), dc.astype(dtype, copy=False), d_weight, d_projection


# -- GRU ---------------------------------------------------------------------------------------------------------------


def gru_layer(
    gates: Any, hidden: Any, weight: Any, bias: Any, *, sizes: tuple[int, ...], reverse: bool
) -> Any:  # fmt: skip
    (batch, units), total, dtype, cupy = hidden.shape, len(gates), gates.dtype, _cupy()
    operands = (
        (gates, (total, 3 * units)), (hidden, (batch, units)), (weight, (3 * units, units)), (bias, (3 * units,)),
    )  # fmt: skip
    if not gates.size or dtype not in KINDS or not _fit(dtype, *operands):
        return NotImplemented
    times, even = KERNELS["multiplier"](cupy, weight.T), min(sizes) == batch
    before, out, h = states_around(_cupy(), hidden, total, reverse, even)
    known, after, wide = before, out, h
    if dtype != _float32:  # only what is multiplied is rounded with every step
        known, after, wide = states_around(_cupy(), hidden.astype(np.float32), total, reverse, even)
    acts, across = cupy.empty(gates.shape, np.float32), cupy.empty((batch, 3 * units), np.float32)
    fresh = cupy.empty((total, units), np.float32)
    added = None if bias is None else bias.astype(np.float32, copy=False)
    for rows, n in steps(sizes, reverse):
        if not even:
            before[rows], known[rows] = h[:n], wide[:n]
        times(before[rows], across[:n])
        _run(KINDS[dtype], "gru_step", n, units, gates[rows], across[:n], added, known[rows], acts[rows], fresh[rows],
             after[rows], out[rows])  # fmt: skip
        if not even:
            h[:n], wide[:n] = out[rows], after[rows]
    return (out, h.copy()), (acts, known, fresh)


def gru_layer_grad(
    g_out: Any, g_h: Any, acts: Any, before: Any, fresh: Any, weight: Any, *, sizes: tuple[int, ...], reverse: bool,
    needs: tuple[bool, ...],
) -> Any:  # fmt: skip
    (total, units), batch, dtype, cupy = before.shape, max(sizes, default=0), weight.dtype, _cupy()
    singles = (acts, (total, 3 * units)), (before, (total, units)), (fresh, (total, units))
    if not acts.size or dtype not in KINDS or not _fit(_float32, *singles):
        return NotImplemented
    if not _fit(dtype, (weight, (3 * units, units))) or any(g is not None and g.dtype != dtype for g in (g_out, g_h)):
        return NotImplemented
    times, multiply = KERNELS["multiplier"](cupy, weight), KERNELS["multiply"]
    dh, through = _slopes(g_h, batch, units), cupy.empty((batch, units), np.float32)
    slopes = None if g_out is None else cupy.ascontiguousarray(g_out)
    d, d_hidden = cupy.empty(acts.shape, dtype), cupy.empty(acts.shape, dtype)
    for rows, n in reversed(steps(sizes, reverse)):
        given = None if slopes is None else slopes[rows]
        _run(KINDS[dtype], "gru_step_grad", n, units, acts[rows], fresh[rows], before[rows], given, dh[:n],
             d[rows], d_hidden[rows])  # fmt: skip
        times(d_hidden[rows], through[:n])
        dh[:n] += through[:n]
    d_weight = d_bias = None
    if needs[0]:
        d_weight = multiply(cupy, d_hidden.T, before.astype(dtype, copy=False)).astype(dtype, copy=False)
    if needs[1]:
        d_bias = KERNELS["total"](cupy, d_hidden, axis=0, keepdims=False)
    return d, dh.astype(dtype, copy=False), d_weight, d_bias
