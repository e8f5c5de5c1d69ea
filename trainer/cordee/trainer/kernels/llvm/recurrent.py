"""LSTM layers: a product per step, and one loop for everything else that the step does.

In bfloat16, what is multiplied is: inputs, outputs, weights, and the gradients of the gates. Cells, gates and sums are
float32 there, too.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from cordee.trainer.kernels.llvm import mathematics as m
from cordee.trainer.kernels.llvm.layouts import KINDS, as_bits, lies
from cordee.trainer.kernels.llvm.loops import Loop, Memory, Rows
from cordee.trainer.kernels.llvm.ufuncs import family
from cordee.trainer.kernels.llvm.values import Value
from cordee.trainer.kernels.registry import KERNELS
from cordee.trainer.kernels.sequences import states_around, steps

__all__ = ["lstm_layer", "lstm_layer_grad"]

_float32 = np.dtype(np.float32)


def _step(
    k: Rows, gates: Memory, across: Memory, before: Memory, acts: Memory, bent: Memory, cell: Memory, out: Memory
) -> None:
    """From what the inputs and the state before contribute to the gates, and the cell before, to the state after."""
    units = k.sizes["u"]

    def row(r: Value) -> None:
        wide, narrow = r * (units * 4), r * units
        here, there, kept = gates.at(wide), across.at(wide), acts.at(wide)
        old, bend, new, result = (each.at(narrow) for each in (before, bent, cell, out))

        def turn(i: Value, mask: Value | None) -> None:
            places = [i, i + units, i + units * 2, i + units * 3]
            sums = [here.lanes(place, mask) + there.lanes(place, mask) for place in places]
            take, keep, give = (m.sigmoid(k, sums[each]) for each in (0, 1, 3))
            fresh = m.tanh(k, sums[2])
            state = k.fma(take, fresh, keep * old.lanes(i, mask))
            curve = m.tanh(k, state)
            for place, value in zip(places, (take, keep, fresh, give), strict=True):
                kept.put_lanes(place, value, mask)
            new.put_lanes(i, state, mask)
            bend.put_lanes(i, curve, mask)
            result.put_lanes(i, give * curve, mask)

        k.lanes(units, turn)

    k.share(row)


def _step_grad(
    k: Rows, acts: Memory, bent: Memory, before: Memory, slope: Memory, slope_cell: Memory, into: Memory, out: Memory
) -> None:
    """From the gradients of output and cell after a step to those of the gates and of the cell before."""
    units = k.sizes["u"]

    def row(r: Value) -> None:
        wide, narrow = r * (units * 4), r * units
        kept, target = acts.at(wide), into.at(wide)
        bend, old, here, there, result = (each.at(narrow) for each in (bent, before, slope, slope_cell, out))

        def turn(i: Value, mask: Value | None) -> None:
            places = [i, i + units, i + units * 2, i + units * 3]
            take, keep, fresh, give = (kept.lanes(place, mask) for place in places)
            curve, g = bend.lanes(i, mask), here.lanes(i, mask)
            through = g * give
            state = through - through * curve * curve + there.lanes(i, mask)
            slopes = [
                state * fresh * take * (1.0 - take),
                state * old.lanes(i, mask) * keep * (1.0 - keep),
                state * take * (1.0 - fresh * fresh),
                g * curve * give * (1.0 - give),
            ]
            for place, value in zip(places, slopes, strict=True):
                target.put_lanes(place, value, mask)
            result.put_lanes(i, state * keep, mask)

        k.lanes(units, turn)

    k.share(row)


@functools.cache
def _ufuncs() -> dict[str, Any]:
    forward = "(r,w),(r,w),(r,u)->(r,w),(r,u),(r,u),(r,u)"
    backward = "(r,w),(r,u),(r,u),(r,u),(r,u)->(r,w),(r,u)"
    kinds = (("f", ""), ("h", "_half"))
    return family(
        "recurrent",
        [
            *(Loop(f"lstm_step{ending}", f"{x}ff->fff{x}", _step, forward, "r") for x, ending in kinds),
            *(Loop(f"lstm_step_grad{ending}", f"fffff->{x}f", _step_grad, backward, "r") for x, ending in kinds),
        ],
    )


def _fit(dtype: Any, *expected: tuple[Any, tuple[int, ...]]) -> bool:
    """Whether each array that is there lies in its shape."""
    return all(a is None or lies(a, shape, dtype) for a, shape in expected)


def lstm_layer(
    gates: Any, hidden: Any, cell: Any, weight: Any, projection: Any, *, sizes: tuple[int, ...], reverse: bool
) -> Any:
    (batch, units), width, total = cell.shape, hidden.shape[1], len(gates)
    states = (hidden, (batch, width)), (cell, (batch, units))
    weights = (weight, (4 * units, width)), (projection, (width, units))
    dtype = gates.dtype
    if not gates.size or not _taken(dtype, projection):
        return NotImplemented
    if not _fit(dtype, (gates, (total, 4 * units)), *states, *weights):
        return NotImplemented
    step, times = _ufuncs()["lstm_step" + KINDS[dtype]], KERNELS["multiplier"](np, weight.T)
    even = min(sizes) == batch
    before_h, out, h = states_around(np, hidden, total, reverse, even)
    before_c, after_c, c = states_around(np, cell.astype(np.float32, copy=False), total, reverse, even)
    acts, product = np.empty(gates.shape, np.float32), np.empty((batch, 4 * units), np.float32)
    bent = np.empty((total, units), np.float32)
    full = out if projection is None else np.empty_like(bent)
    given, result = as_bits(gates), as_bits(full)
    for rows, n in steps(sizes, reverse):
        if not even:
            before_h[rows], before_c[rows] = h[:n], c[:n]
        times(before_h[rows], product[:n])
        step(given[rows], product[:n], before_c[rows], out=(acts[rows], bent[rows], after_c[rows], result[rows]))
        if projection is not None:
            np.matmul(full[rows], projection.T, out=out[rows])
        if not even:
            h[:n], c[:n] = out[rows], after_c[rows]
    return (out, h.copy(), c.astype(dtype)), (acts, bent, before_h, before_c, full)


def _taken(dtype: Any, projection: Any) -> bool:
    return dtype in KINDS and (projection is None or dtype is _float32)


def lstm_layer_grad(
    g_out: Any, g_h: Any, g_c: Any, acts: Any, bent: Any, before_h: Any, before_c: Any, full: Any, weight: Any,
    projection: Any, *, sizes: tuple[int, ...], reverse: bool, needs: tuple[bool, ...],
) -> Any:  # fmt: skip
    (total, units), width, batch = before_c.shape, before_h.shape[1], max(sizes, default=0)
    dtype = weight.dtype
    if not acts.size or not _taken(dtype, projection):
        return NotImplemented
    if not _fit(_float32, (acts, (total, 4 * units)), *((each, (total, units)) for each in (bent, before_c))):
        return NotImplemented
    others = (before_h, (total, width)), (full, (total, units)), (weight, (4 * units, width))
    if not _fit(dtype, *others, (projection, (width, units))):
        return NotImplemented
    if any(g is not None and g.dtype is not dtype for g in (g_out, g_h, g_c)):
        return NotImplemented
    step, times = _ufuncs()["lstm_step_grad" + KINDS[dtype]], KERNELS["multiplier"](np, weight)
    dh = np.zeros((batch, width), np.float32) if g_h is None else g_h.astype(np.float32, "C")
    dc = np.zeros((batch, units), np.float32) if g_c is None else g_c.astype(np.float32, "C")
    slopes = None if g_out is None else g_out.astype(np.float32, copy=False)
    before, d = np.empty_like(dc), np.empty(acts.shape, dtype)
    into = as_bits(d)
    d_out: Any = None if projection is None else np.empty_like(before_h)
    for rows, n in reversed(steps(sizes, reverse)):
        here = dh[:n]
        if slopes is not None:
            here += slopes[rows]
        if projection is not None:
            d_out[rows] = here
            here = here @ projection
        step(acts[rows], bent[rows], before_c[rows], here, dc[:n], out=(into[rows], before[:n]))
        dc[:n] = before[:n]
        times(d[rows], dh[:n])
    multiply = KERNELS["multiply"]
    d_projection = multiply(np, d_out.T, full) if projection is not None and needs[1] else None
    d_weight = multiply(np, d.T, before_h) if needs[0] else None
    return d, dh.astype(dtype, copy=False), dc.astype(dtype, copy=False), d_weight, d_projection
