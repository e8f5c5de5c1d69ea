"""The LSTM: one direction of a layer is one op over the whole sequence; see `recurrent.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from cordee.trainer.autograd.record import Sampler, op
from cordee.trainer.errors import ShapeError
from cordee.trainer.kernels import kernel
from cordee.trainer.ops.activation import sigmoid, tanh
from cordee.trainer.ops.composed import composed_vjp
from cordee.trainer.ops.linear_maps import linear
from cordee.trainer.ops.products import multiplier, multiply
from cordee.trainer.ops.recurrent_steps import (
    alike,
    check_gates,
    in_order,
    kept,
    sigmoid_reference,
    steps_of,
    widened,
    widest,
)

__all__ = ["LSTM_LAYER"]


@kernel
def lstm_layer(
    xp: Any, gates: Any, hidden: Any, cell: Any, weight: Any, projection: Any, *, sizes: Any, reverse: bool
) -> Any:
    """`(output, hidden, cell), aux`; aux: gates, tanh of the cell, both states before each step, output unprojected.

    Those are `(R, …)`, a row per row of `gates`; the states returned are the ones after the last step.
    """
    if gates.dtype.itemsize == 2:
        return widened(lstm_layer, xp, gates, hidden, cell, weight, projection, sizes=sizes, reverse=reverse)
    units = cell.shape[1]
    h, c = hidden.copy(), cell.copy()
    total, dtype = gates.shape[0], gates.dtype
    # sigmoid(x) = tanh(x / 2) / 2 + 1/2: so one tanh does for all four gates.
    scale = xp.full(4 * units, 0.5, dtype)
    scale[2 * units : 3 * units] = 1.0
    shift = 1.0 - scale
    acts = gates * scale
    times, through = multiplier(xp, (weight * scale[:, None]).T), xp.empty((len(hidden), 4 * units), dtype)
    bent, before_c = xp.empty((total, units), dtype), xp.empty((total, units), dtype)
    before_h = xp.empty((total, hidden.shape[1]), dtype)
    full = xp.empty((total, units), dtype)
    out = full if projection is None else xp.empty((total, hidden.shape[1]), dtype)
    for start, stop, n in steps_of(sizes, reverse):
        z, bend, known_h, known_c = acts[start:stop], bent[start:stop], h[:n], c[:n]
        before_h[start:stop] = known_h
        before_c[start:stop] = known_c
        times(known_h, through[:n])
        z += through[:n]
        xp.tanh(z, out=z)
        z *= scale
        z += shift
        known_c *= z[:, units : 2 * units]
        known_c += z[:, :units] * z[:, 2 * units : 3 * units]
        xp.tanh(known_c, out=bend)
        xp.multiply(z[:, 3 * units :], bend, out=full[start:stop])
        if projection is not None:
            xp.matmul(full[start:stop], projection.T, out=out[start:stop])
        known_h[...] = out[start:stop]
    return (out, h, c), (acts, bent, before_h, before_c, full)


@kernel
def lstm_layer_grad(
    xp: Any, g_out: Any, g_h: Any, g_c: Any, acts: Any, bent: Any, before_h: Any, before_c: Any, full: Any, weight: Any,
    projection: Any, *, sizes: Any, reverse: bool, needs: Any,
) -> Any:  # fmt: skip
    """The gradients of gates, states, weight and projection, the last two as far as they are needed."""
    if weight.dtype.itemsize == 2:
        wide = map(widest, (g_out, g_h, g_c, acts, bent, before_h, before_c, full, weight, projection))
        found = lstm_layer_grad(xp, *wide, sizes=sizes, reverse=reverse, needs=needs)
        return tuple([None if each is None else each.astype(weight.dtype) for each in found])
    total, units = before_c.shape
    batch = max(sizes, default=0)
    dh = xp.zeros((batch, before_h.shape[1]), acts.dtype) if g_h is None else g_h.copy()
    dc = xp.zeros((batch, units), acts.dtype) if g_c is None else g_c.copy()
    d = xp.empty((total, 4, units), acts.dtype)
    by_cell, by_output, to_cell = _lstm_slopes(xp, acts.reshape(total, 4, units), bent, before_c)
    d_out = None if projection is None else xp.empty_like(before_h)
    forget, times = acts[:, units : 2 * units], multiplier(xp, weight)
    for start, stop, n in reversed(steps_of(sizes, reverse)):
        here, d_cell, dz = dh[:n], dc[:n], d[start:stop]
        if g_out is not None:
            here += g_out[start:stop]
        if d_out is not None:
            d_out[start:stop] = here
            here = here @ projection
        d_cell += here * to_cell[start:stop]
        xp.multiply(by_cell[start:stop], d_cell[:, None, :], out=dz[:, :3])
        xp.multiply(here, by_output[start:stop], out=dz[:, 3])
        d_cell *= forget[start:stop]
        times(dz.reshape(n, 4 * units), dh[:n])
    d = d.reshape(total, 4 * units)
    d_projection = multiply(xp, d_out.T, full) if d_out is not None and needs[1] else None
    return d, dh, dc, multiply(xp, d.T, before_h) if needs[0] else None, d_projection


def _lstm(
    xp: Any, gates: Any, hidden: Any, cell: Any, weight: Any, projection: Any, *, sizes: Any, reverse: bool
) -> Any:
    return lstm_layer(xp, gates, hidden, cell, weight, projection, sizes=sizes, reverse=reverse)


def _lstm_vjp(
    F: Any, g: Any, out: Any, gates: Any, hidden: Any, cell: Any, weight: Any, projection: Any, *, sizes: Any,
    reverse: bool, aux: Any, needs: Any,
) -> Any:  # fmt: skip
    if not F.raw:

        def composed(*inputs: Any) -> Any:
            return _lstm_composed(*inputs, sizes=sizes, reverse=reverse)

        return composed_vjp(composed, g, (gates, hidden, cell, weight, projection), needs)
    grads: Any = lstm_layer_grad(F.xp, *g, *aux, weight, projection, sizes=sizes, reverse=reverse, needs=needs[3:])
    return grads


def _lstm_slopes(xp: Any, acts: Any, bent: Any, before_c: Any) -> tuple[Any, Any, Any]:
    """For all steps at once: what the gates' gradients are per gradient of cell and output, and the cell's per output.

    They are for i, f, g: `(R, 3, units)`, for o: `(R, units)`, and `(R, units)`.
    """
    i, _, new, o = (acts[:, k] for k in range(4))
    by_cell = xp.empty((acts.shape[0], 3, acts.shape[2]), acts.dtype)
    kept = by_cell[:, :2]
    xp.subtract(1.0, acts[:, :2], out=kept)
    kept *= acts[:, :2]
    kept[:, 0] *= new
    kept[:, 1] *= before_c
    xp.multiply(new, new, out=by_cell[:, 2])
    xp.subtract(1.0, by_cell[:, 2], out=by_cell[:, 2])
    by_cell[:, 2] *= i
    by_output = o * bent
    to_cell = o - by_output * bent
    by_output *= 1.0 - o
    return by_cell, by_output, to_cell


def _lstm_composed(gates: Any, h: Any, c: Any, weight: Any, projection: Any, *, sizes: Any, reverse: bool) -> Any:
    rows, units = [], c.shape[1]
    for start, stop, n in steps_of(sizes, reverse):
        z = gates[start:stop] + h[:n] @ weight.mT
        i, f, o = sigmoid(z[:, :units]), sigmoid(z[:, units : 2 * units]), sigmoid(z[:, 3 * units :])
        cell = f * c[:n] + i * tanh(z[:, 2 * units : 3 * units])
        new = o * tanh(cell)
        if projection is not None:
            new = linear(new, projection)
        rows.append((start, new))
        h, c = kept(new, h, n), kept(cell, c, n)
    return in_order(rows), h, c


def _lstm_reference(gates: Any, hidden: Any, cell: Any, weight: Any, projection: Any, sizes: Any, reverse: bool) -> Any:
    h, c, out = hidden.copy(), cell.copy(), np.zeros((len(gates), hidden.shape[1]))
    for start, stop, n in steps_of(sizes, reverse):
        i, f, g, o = np.split(gates[start:stop] + h[:n] @ weight.T, 4, axis=1)
        c[:n] = sigmoid_reference(f) * c[:n] + sigmoid_reference(i) * np.tanh(g)
        new = sigmoid_reference(o) * np.tanh(c[:n])
        out[start:stop] = h[:n] = new if projection is None else new @ projection.T
    return out, h, c


def _lstm_shape(gates: Any, hidden: Any, cell: Any, weight: Any, projection: Any, *, sizes: Any, reverse: bool) -> Any:
    units = check_gates(gates, hidden, weight, sizes, 4)
    if cell != (hidden[0], units):
        raise ShapeError(f"the cell must be ({hidden[0]}, {units}), sequences by units, not {cell}")
    if projection is not None and projection != (hidden[1], units):
        raise ShapeError(f"the projection must be ({hidden[1]}, {units}), not {projection}")
    return (gates[0], hidden[1]), hidden, cell


def _lstm_cases(s: Sampler) -> list[Any]:
    return [
        s.case(s.normal(6, 8), s.normal(3, 2), s.normal(3, 2), s.normal(8, 2), None, sizes=(3, 2, 1), reverse=False),
        s.case(s.normal(5, 4), s.normal(2, 1), s.normal(2, 1), s.normal(4, 1), None, sizes=(2, 2, 1), reverse=True),
        s.case(
            s.normal(4, 12), s.normal(2, 2), s.normal(2, 3), s.normal(12, 2), s.normal(2, 3),
            sizes=(2, 2), reverse=False,
        ),
    ]  # fmt: skip


LSTM_LAYER = op(
    "lstm_layer", "one direction of an LSTM: i, f, g, o = gates + W · h; c = σ(f) c + σ(i) tanh(g); h = σ(o) tanh(c)",
    autocast="low",
    forward=_lstm, vjp=_lstm_vjp, aux=True, outputs=("output", "hidden", "cell"), reference=_lstm_reference,
    saves=tuple(["gates hidden cell weight projection"] * 5), shape=_lstm_shape, dtype=alike(3),
    samples=_lstm_cases,
    errors=lambda s: [
        s.case(s.normal(4, 8), s.normal(2, 2), s.normal(2, 2), s.normal(8, 3), None, sizes=(2, 2), reverse=False),
        s.case(s.normal(4, 8), s.normal(2, 2), s.normal(2, 3), s.normal(8, 2), None, sizes=(2, 2), reverse=False),
    ],
)  # fmt: skip
