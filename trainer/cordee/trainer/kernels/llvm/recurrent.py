"""LSTM layers: a product per step, and one loop for everything else that the step does."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from cordee.trainer.kernels.llvm import mathematics as m
from cordee.trainer.kernels.llvm.layouts import lies
from cordee.trainer.kernels.llvm.loops import Loop, Memory, Rows
from cordee.trainer.kernels.llvm.ufuncs import family
from cordee.trainer.kernels.llvm.values import Value
from cordee.trainer.kernels.registry import KERNELS

__all__ = ["lstm_layer", "lstm_layer_grad"]


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
    return family(
        "recurrent",
        [
            Loop("lstm_step", "fff->ffff", _step, "(r,w),(r,w),(r,u)->(r,w),(r,u),(r,u),(r,u)", "r"),
            Loop("lstm_step_grad", "fffff->ff", _step_grad, "(r,w),(r,u),(r,u),(r,u),(r,u)->(r,w),(r,u)", "r"),
        ],
    )


def _steps(sizes: tuple[int, ...], reverse: bool) -> list[tuple[slice, int]]:
    """The rows of each step, and how many they are, in the order in which steps are taken."""
    steps, start = [], 0
    for size in sizes:
        steps.append((slice(start, start + size), size))
        start += size
    return steps[::-1] if reverse else steps


def _fit(*expected: tuple[Any, tuple[int, ...]]) -> bool:
    """Whether each array that is there lies in its shape."""
    return all(a is None or lies(a, shape) for a, shape in expected)


def lstm_layer(
    gates: Any, hidden: Any, cell: Any, weight: Any, projection: Any, *, sizes: tuple[int, ...], reverse: bool
) -> Any:
    (batch, units), width = cell.shape, hidden.shape[1]
    total = len(gates)
    states = (hidden, (batch, width)), (cell, (batch, units))
    weights = (weight, (4 * units, width)), (projection, (width, units))
    if not gates.size or not _fit((gates, (total, 4 * units)), *states, *weights):
        return NotImplemented
    step, times = _ufuncs()["lstm_step"], KERNELS["multiplier"](np, weight.T)
    even = min(sizes) == batch
    before_h, out, h = _states(hidden, total, reverse, even)
    before_c, after_c, c = _states(cell, total, reverse, even)
    acts, product = np.empty_like(gates), np.empty((batch, 4 * units), np.float32)
    bent = np.empty((total, units), np.float32)
    full = out if projection is None else np.empty_like(bent)
    for rows, n in _steps(sizes, reverse):
        if not even:
            before_h[rows], before_c[rows] = h[:n], c[:n]
        times(before_h[rows], product[:n])
        step(gates[rows], product[:n], before_c[rows], out=(acts[rows], bent[rows], after_c[rows], full[rows]))
        if projection is not None:
            np.matmul(full[rows], projection.T, out=out[rows])
        if not even:
            h[:n], c[:n] = out[rows], after_c[rows]
    return (out, h.copy(), c.copy()), (acts, bent, before_h, before_c, full)


def _states(start: Any, total: int, reverse: bool, even: bool) -> tuple[Any, Any, Any]:
    """Where the states before and after each step lie, and the last ones, which are those to start from at first.

    With as many rows in each step, what is after one is before the next: the two are parts of one array then.
    """
    (batch, width), dtype = start.shape, start.dtype
    if not even:
        return np.empty((total, width), dtype), np.empty((total, width), dtype), start.copy()
    both = np.empty((batch + total, width), dtype)
    early, late = both[:total], both[batch:]
    if reverse:
        both[total:] = start
        return late, early, both[:batch]
    both[:batch] = start
    return early, late, both[total:]


def lstm_layer_grad(
    g_out: Any, g_h: Any, g_c: Any, acts: Any, bent: Any, before_h: Any, before_c: Any, full: Any, weight: Any,
    projection: Any, *, sizes: tuple[int, ...], reverse: bool, needs: tuple[bool, ...],
) -> Any:  # fmt: skip
    (total, units), width, batch = before_c.shape, before_h.shape[1], max(sizes, default=0)
    kept = ((each, (total, units)) for each in (bent, before_c, full))
    weights = (weight, (4 * units, width)), (projection, (width, units))
    if not acts.size or not _fit((acts, (total, 4 * units)), (before_h, (total, width)), *kept, *weights):
        return NotImplemented
    if any(g is not None and g.dtype != np.float32 for g in (g_out, g_h, g_c)):
        return NotImplemented
    step, times = _ufuncs()["lstm_step_grad"], KERNELS["multiplier"](np, weight)
    dh = np.zeros((batch, width), np.float32) if g_h is None else g_h.copy("C")
    dc = np.zeros((batch, units), np.float32) if g_c is None else g_c.copy("C")
    before = np.empty_like(dc)
    d = np.empty_like(acts)
    d_out: Any = None if projection is None else np.empty_like(before_h)
    for rows, n in reversed(_steps(sizes, reverse)):
        here = dh[:n]
        if g_out is not None:
            here += g_out[rows]
        if projection is not None:
            d_out[rows] = here
            here = here @ projection
        step(acts[rows], bent[rows], before_c[rows], here, dc[:n], out=(d[rows], before[:n]))
        dc[:n] = before[:n]
        times(d[rows], dh[:n])
    multiply = KERNELS["multiply"]
    d_projection = multiply(np, d_out.T, full) if projection is not None and needs[1] else None
    return d, dh, dc, multiply(np, d.T, before_h) if needs[0] else None, d_projection
