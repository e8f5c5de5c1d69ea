"""Recurrent layers: each direction of each layer is one op over the whole sequence, with its gradient written by hand.

What the inputs contribute to the gates comes from one product beforehand (`linear`); here is what depends on the step
before. Rows lie one step after the other: step t has `sizes[t]` rows, which never grow with t, those of the sequences
that are that long. So padded batches (all sizes alike) and packed ones take the same way.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cordee.trainer.autograd.record import op
from cordee.trainer.errors import ShapeError
from cordee.trainer.kernels import kernel
from cordee.trainer.ops.activation import relu, sigmoid, tanh
from cordee.trainer.ops.composed import composed_vjp
from cordee.trainer.ops.products import multiplier, multiply
from cordee.trainer.ops.recurrent_lstm import LSTM_LAYER
from cordee.trainer.ops.recurrent_steps import (
    alike,
    check_gates,
    in_order,
    kept,
    sigmoid_reference,
    steps_of,
    widened,
    widened_vjp,
    widest,
)

__all__ = ["GRU_LAYER", "LSTM_LAYER", "RNN_LAYER"]

# -- GRU ---------------------------------------------------------------------------------------------------------------


@kernel
def gru_layer(xp: Any, gates: Any, hidden: Any, weight: Any, bias: Any, *, sizes: Any, reverse: bool) -> Any:
    """`(output, hidden), aux`; aux: gates, states before each step, and what those contribute to the new one."""
    if gates.dtype.itemsize == 2:
        return widened(gru_layer, xp, gates, hidden, weight, bias, sizes=sizes, reverse=reverse)
    units = hidden.shape[1]
    h = hidden.copy()
    total, dtype = gates.shape[0], gates.dtype
    acts = xp.empty((total, 3 * units), dtype)
    out, before, fresh = (xp.empty((total, units), dtype) for _ in range(3))
    times, through = multiplier(xp, weight.T), xp.empty((len(hidden), 3 * units), dtype)
    for start, stop, n in steps_of(sizes, reverse):
        known, a, z = h[:n], acts[start:stop], through[:n]
        before[start:stop] = known
        times(known, z)
        if bias is not None:
            z += bias
        fresh[start:stop] = z[:, 2 * units :]
        both = a[:, : 2 * units]
        xp.add(z[:, : 2 * units], gates[start:stop, : 2 * units], out=both)
        both *= 0.5
        xp.tanh(both, out=both)
        both *= 0.5
        both += 0.5
        new = a[:, 2 * units :]
        xp.multiply(a[:, :units], z[:, 2 * units :], out=new)
        new += gates[start:stop, 2 * units :]
        xp.tanh(new, out=new)
        known -= new
        known *= a[:, units : 2 * units]
        known += new
        out[start:stop] = known
    return (out, h), (acts, before, fresh)


def _gru_vjp(
    F: Any, g: Any, out: Any, gates: Any, hidden: Any, weight: Any, bias: Any, *, sizes: Any, reverse: bool,
    aux: Any, needs: Any,
) -> Any:  # fmt: skip
    if not F.raw:

        def composed(*inputs: Any) -> Any:
            return _gru_composed(*inputs, sizes=sizes, reverse=reverse)

        return composed_vjp(composed, g, (gates, hidden, weight, bias), needs)
    acts, before, fresh = aux
    return gru_layer_grad(
        F.xp,
        *g,
        acts,
        before,
        fresh,
        weight,
        sizes=sizes,
        reverse=reverse,
        needs=(needs[2], bias is not None and needs[3]),
    )


@kernel
def gru_layer_grad(
    xp: Any, g_out: Any, g_h: Any, acts: Any, before: Any, fresh: Any, weight: Any, *, sizes: Any, reverse: bool,
    needs: Any,
) -> Any:  # fmt: skip
    """The gradients of gates, state, weight and bias, the last two as far as they are needed."""
    if weight.dtype.itemsize == 2:
        wide = map(widest, (g_out, g_h, acts, before, fresh, weight))
        found = gru_layer_grad(xp, *wide, sizes=sizes, reverse=reverse, needs=needs)
        return tuple([None if each is None else each.astype(weight.dtype) for each in found])
    units = before.shape[1]
    dh = xp.zeros((max(sizes, default=0), units), acts.dtype) if g_h is None else g_h.copy()
    d = xp.empty_like(acts)
    d_hidden = xp.empty_like(acts)
    times, through = multiplier(xp, weight), xp.empty_like(dh)
    for start, stop, n in reversed(steps_of(sizes, reverse)):
        here = dh[:n]
        if g_out is not None:
            here += g_out[start:stop]
        r, z, new = (acts[start:stop, k * units : (k + 1) * units] for k in range(3))
        dz, dz_hidden = d[start:stop], d_hidden[start:stop]
        d_new = here * (1.0 - z)
        d_new *= 1.0 - new * new
        dz[:, 2 * units :] = d_new
        xp.multiply(d_new, r, out=dz_hidden[:, 2 * units :])
        dz[:, :units] = d_new * fresh[start:stop] * r * (1.0 - r)
        dz[:, units : 2 * units] = here * (before[start:stop] - new) * z * (1.0 - z)
        dz_hidden[:, : 2 * units] = dz[:, : 2 * units]
        here *= z
        times(dz_hidden, through[:n])
        here += through[:n]
    d_weight = multiply(xp, d_hidden.T, before) if needs[0] else None
    return d, dh, d_weight, d_hidden.sum(axis=0) if needs[1] else None


def _gru_composed(gates: Any, h: Any, weight: Any, bias: Any, *, sizes: Any, reverse: bool) -> Any:
    rows, units = [], h.shape[1]
    for start, stop, n in steps_of(sizes, reverse):
        x, known = gates[start:stop], h[:n]
        z = known @ weight.mT if bias is None else known @ weight.mT + bias
        r = sigmoid(x[:, :units] + z[:, :units])
        keep = sigmoid(x[:, units : 2 * units] + z[:, units : 2 * units])
        new = tanh(x[:, 2 * units :] + r * z[:, 2 * units :])
        new = new + keep * (known - new)
        rows.append((start, new))
        h = kept(new, h, n)
    return in_order(rows), h


def _gru_reference(gates: Any, hidden: Any, weight: Any, bias: Any, sizes: Any, reverse: bool) -> Any:
    h, out = hidden.copy(), np.zeros((len(gates), hidden.shape[1]))
    for start, stop, n in steps_of(sizes, reverse):
        xr, xz, xn = np.split(gates[start:stop], 3, axis=1)
        hr, hz, hn = np.split(h[:n] @ weight.T + (0 if bias is None else bias), 3, axis=1)
        keep = sigmoid_reference(xz + hz)
        new = np.tanh(xn + sigmoid_reference(xr + hr) * hn)
        out[start:stop] = h[:n] = (1 - keep) * new + keep * h[:n]
    return out, h


def _gru_shape(gates: Any, hidden: Any, weight: Any, bias: Any, *, sizes: Any, reverse: bool) -> Any:
    units = check_gates(gates, hidden, weight, sizes, 3)
    if units != hidden[1]:
        raise ShapeError(f"gates of {units} units need hidden states of as many, not {hidden[1]}")
    if bias is not None and bias != gates[1:]:
        raise ShapeError(f"the bias must be ({gates[1]},), not {bias}")
    return (gates[0], units), hidden


GRU_LAYER = op(
    "gru_layer", "one direction of a GRU: r, z = σ(gates + W · h); n = tanh(gates + r (W · h)); h = n + z (h - n)",
    autocast="low",
    forward=gru_layer, vjp=_gru_vjp, aux=True, outputs=("output", "hidden"), reference=_gru_reference,
    saves=tuple(["gates hidden weight bias"] * 4), shape=_gru_shape, dtype=alike(2),
    samples=lambda s: [
        s.case(s.normal(6, 6), s.normal(3, 2), s.normal(6, 2), s.normal(6), sizes=(3, 2, 1), reverse=False),
        s.case(s.normal(5, 3), s.normal(2, 1), s.normal(3, 1), s.normal(3), sizes=(2, 2, 1), reverse=True),
        s.case(s.normal(4, 6), s.normal(2, 2), s.normal(6, 2), None, sizes=(2, 2), reverse=False),
    ],
    errors=lambda s: [
        s.case(s.normal(4, 6), s.normal(2, 2), s.normal(6, 3), None, sizes=(2, 2), reverse=False),
        s.case(s.normal(4, 6), s.normal(3, 2), s.normal(6, 2), s.normal(5), sizes=(3, 1), reverse=False),
    ],
)  # fmt: skip


# -- plain -------------------------------------------------------------------------------------------------------------


def _rnn(xp: Any, gates: Any, hidden: Any, weight: Any, *, sizes: Any, reverse: bool, nonlinearity: str) -> Any:
    if gates.dtype.itemsize == 2:
        options = {"sizes": sizes, "reverse": reverse, "nonlinearity": nonlinearity}
        return widened(_rnn, xp, gates, hidden, weight, **options)
    h = hidden.copy()
    out = xp.empty((gates.shape[0], hidden.shape[1]), gates.dtype)
    before = xp.empty_like(out)
    times = multiplier(xp, weight.T)
    for start, stop, n in steps_of(sizes, reverse):
        known, new = h[:n], out[start:stop]
        before[start:stop] = known
        times(known, new)
        new += gates[start:stop]
        if nonlinearity == "tanh":
            xp.tanh(new, out=new)
        else:
            xp.maximum(new, 0, out=new)
        known[...] = new
    return (out, h), (out, before)


def _rnn_vjp(
    F: Any, g: Any, out: Any, gates: Any, hidden: Any, weight: Any, *, sizes: Any, reverse: bool, nonlinearity: str,
    aux: Any, needs: Any,
) -> Any:  # fmt: skip
    if not F.raw:

        def composed(*inputs: Any) -> Any:
            return _rnn_composed(*inputs, sizes=sizes, reverse=reverse, nonlinearity=nonlinearity)

        return composed_vjp(composed, g, (gates, hidden, weight), needs)
    if gates.dtype.itemsize == 2:
        options = {"sizes": sizes, "reverse": reverse, "nonlinearity": nonlinearity, "aux": aux, "needs": needs}
        return widened_vjp(_rnn_vjp, F, g, out, gates, hidden, weight, **options)
    xp = F.xp
    result, before = aux
    g_out, g_h = g
    dh = xp.zeros((max(sizes, default=0), before.shape[1]), result.dtype) if g_h is None else g_h.copy()
    d, times = xp.empty_like(result), multiplier(xp, weight)
    for start, stop, n in reversed(steps_of(sizes, reverse)):
        here, new = dh[:n], result[start:stop]
        if g_out is not None:
            here += g_out[start:stop]
        slope = 1.0 - new * new if nonlinearity == "tanh" else new > 0
        xp.multiply(here, slope, out=d[start:stop])
        times(d[start:stop], dh[:n])
    return d, dh, multiply(xp, d.T, before) if needs[2] else None


def _rnn_composed(gates: Any, h: Any, weight: Any, *, sizes: Any, reverse: bool, nonlinearity: str) -> Any:
    rows, bend = [], tanh if nonlinearity == "tanh" else relu
    for start, stop, n in steps_of(sizes, reverse):
        new = bend(gates[start:stop] + h[:n] @ weight.mT)
        rows.append((start, new))
        h = kept(new, h, n)
    return in_order(rows), h


def _rnn_reference(gates: Any, hidden: Any, weight: Any, sizes: Any, reverse: bool, nonlinearity: str) -> Any:
    h, out = hidden.copy(), np.zeros((len(gates), hidden.shape[1]))
    for start, stop, n in steps_of(sizes, reverse):
        new = gates[start:stop] + h[:n] @ weight.T
        out[start:stop] = h[:n] = np.tanh(new) if nonlinearity == "tanh" else np.maximum(new, 0)
    return out, h


def _rnn_shape(gates: Any, hidden: Any, weight: Any, *, sizes: Any, reverse: bool, nonlinearity: str) -> Any:
    units = check_gates(gates, hidden, weight, sizes, 1)
    if units != hidden[1]:
        raise ShapeError(f"gates of {units} units need hidden states of as many, not {hidden[1]}")
    return gates, hidden


RNN_LAYER = op(
    "rnn_layer", "one direction of a plain recurrent layer: h = tanh(gates + weight · h), or relu",
    autocast="low",
    forward=_rnn, vjp=_rnn_vjp, aux=True, outputs=("output", "hidden"), reference=_rnn_reference,
    saves=tuple(["gates hidden weight"] * 3), shape=_rnn_shape, dtype=alike(2),
    samples=lambda s: [
        s.case(
            s.normal(6, 2), s.normal(3, 2), s.normal(2, 2), sizes=(3, 2, 1), reverse=False, nonlinearity="tanh"
        ),
        s.case(
            s.normal(4, 2), s.normal(2, 2), s.normal(2, 2), sizes=(2, 2), reverse=True, nonlinearity="relu"
        ),
    ],
    errors=lambda s: [
        s.case(s.normal(4, 2), s.normal(2, 2), s.normal(3, 2), sizes=(2, 2), reverse=True, nonlinearity="tanh"),
    ],
)  # fmt: skip
