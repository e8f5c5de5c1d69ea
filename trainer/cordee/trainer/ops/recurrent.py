"""Recurrent layers: each direction of each layer is one op over the whole sequence, with its gradient written by hand.

What the inputs contribute to the gates comes from one product beforehand (`linear`); here is what depends on the step
before. Rows lie one step after the other: step t has `sizes[t]` rows, which never grow with t, those of the sequences
that are that long. So padded batches (all sizes alike) and packed ones take the same way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from cordee.trainer.array import promote
from cordee.trainer.autograd.record import Sampler, op
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.activation import relu, sigmoid, tanh
from cordee.trainer.ops.company import cat
from cordee.trainer.ops.composed import composed_vjp
from cordee.trainer.ops.products import linear

__all__ = ["GRU_LAYER", "LSTM_LAYER", "RNN_LAYER"]


def _steps(sizes: tuple[int, ...], reverse: bool) -> list[tuple[int, int, int]]:
    """First row, row after the last, and number of rows of each step, in the order in which they are taken."""
    steps, start = [], 0
    for size in sizes:
        steps.append((start, start + size, size))
        start += size
    return steps[::-1] if reverse else steps


def _in_order(rows: Iterable[tuple[int, Any]]) -> Any:
    return cat([value for _, value in sorted(rows, key=lambda pair: pair[0])], 0)


def _kept(new: Any, old: Any, size: int) -> Any:
    """The state after a step: new for the sequences that are still there, old for the others."""
    return new if size == old.shape[0] else cat([new, old[size:]], 0)


def _sigmoid_reference(a: Any) -> Any:
    return 1 / (1 + np.exp(-a))


def _check(gates: Any, hidden: Any, weight: Any, sizes: tuple[int, ...], gates_per_unit: int) -> int:
    """What the shapes must be; returns the number of units."""
    if len(gates) != 2 or gates[0] != sum(sizes):
        raise ShapeError(f"steps of {sum(sizes)} rows in all need gates of shape ({sum(sizes)}, …), not {gates}")
    if gates[1] % gates_per_unit or weight != (gates[1], hidden[1]):
        raise ShapeError(
            f"the hidden weight must be ({gates[1]}, {hidden[1]}), gates by hidden size, in whole gates of "
            f"{gates_per_unit} per unit; it is {weight}"
        )
    if sizes and hidden[0] != max(sizes):
        raise ShapeError(f"{max(sizes)} sequences need as many hidden states, not {hidden[0]}")
    return int(gates[1]) // gates_per_unit


def _widened(forward: Any, xp: Any, *inputs: Any, **params: Any) -> Any:
    """A layer's forward in single precision, of 16 bits: states are rounded once, at the end, not with every step."""
    out, aux = forward(xp, *[_wide(x) for x in inputs], **params)
    return tuple([each.astype(inputs[0].dtype) for each in out]), aux


def _widened_vjp(vjp: Any, F: Any, g: Any, out: Any, *inputs: Any, **params: Any) -> Any:
    """Its gradients, likewise."""
    found = vjp(F, tuple(map(_wide, g)), out, *[_wide(x) for x in inputs], **params)
    return tuple([None if each is None else each.astype(inputs[0].dtype) for each in found])


def _wide(a: Any) -> Any:
    return a if a is None or a.dtype.itemsize > 2 else a.astype(np.float32)


# -- LSTM --------------------------------------------------------------------------------------------------------------


def _lstm(
    xp: Any, gates: Any, hidden: Any, cell: Any, weight: Any, projection: Any, *, sizes: Any, reverse: bool
) -> Any:
    if gates.dtype.itemsize == 2:
        return _widened(_lstm, xp, gates, hidden, cell, weight, projection, sizes=sizes, reverse=reverse)
    units = cell.shape[1]
    h, c = hidden.copy(), cell.copy()
    total, dtype = gates.shape[0], gates.dtype
    # sigmoid(x) = tanh(x / 2) / 2 + 1/2: so one tanh does for all four gates.
    scale = xp.full(4 * units, 0.5, dtype)
    scale[2 * units : 3 * units] = 1.0
    shift = 1.0 - scale
    acts = gates * scale
    across = (weight * scale[:, None]).T
    bent, before_c = xp.empty((total, units), dtype), xp.empty((total, units), dtype)
    before_h = xp.empty((total, hidden.shape[1]), dtype)
    full = xp.empty((total, units), dtype)
    out = full if projection is None else xp.empty((total, hidden.shape[1]), dtype)
    for start, stop, n in _steps(sizes, reverse):
        z, bend, known_h, known_c = acts[start:stop], bent[start:stop], h[:n], c[:n]
        before_h[start:stop] = known_h
        before_c[start:stop] = known_c
        z += known_h @ across
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


def _lstm_vjp(
    F: Any, g: Any, out: Any, gates: Any, hidden: Any, cell: Any, weight: Any, projection: Any, *, sizes: Any,
    reverse: bool, aux: Any, needs: Any,
) -> Any:  # fmt: skip
    if not F.raw:

        def composed(*inputs: Any) -> Any:
            return _lstm_composed(*inputs, sizes=sizes, reverse=reverse)

        return composed_vjp(composed, g, (gates, hidden, cell, weight, projection), needs)
    if gates.dtype.itemsize == 2:
        options = {"sizes": sizes, "reverse": reverse, "aux": aux, "needs": needs}
        return _widened_vjp(_lstm_vjp, F, g, out, gates, hidden, cell, weight, projection, **options)
    xp = F.xp
    acts, bent, before_h, before_c, full = aux
    total, units = before_c.shape
    g_out, g_h, g_c = g
    batch = max(sizes, default=0)
    dh = xp.zeros((batch, before_h.shape[1]), acts.dtype) if g_h is None else g_h.copy()
    dc = xp.zeros((batch, units), acts.dtype) if g_c is None else g_c.copy()
    d = xp.empty((total, 4, units), acts.dtype)
    by_cell, by_output, to_cell = _lstm_slopes(xp, acts.reshape(total, 4, units), bent, before_c)
    d_out = None if projection is None else xp.empty_like(before_h)
    forget = acts[:, units : 2 * units]
    for start, stop, n in reversed(_steps(sizes, reverse)):
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
        dh[:n] = dz.reshape(n, 4 * units) @ weight
    d = d.reshape(total, 4 * units)
    d_projection = d_out.T @ full if d_out is not None and needs[4] else None
    return d, dh, dc, d.T @ before_h if needs[3] else None, d_projection


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
    for start, stop, n in _steps(sizes, reverse):
        z = gates[start:stop] + h[:n] @ weight.mT
        i, f, o = sigmoid(z[:, :units]), sigmoid(z[:, units : 2 * units]), sigmoid(z[:, 3 * units :])
        cell = f * c[:n] + i * tanh(z[:, 2 * units : 3 * units])
        new = o * tanh(cell)
        if projection is not None:
            new = linear(new, projection)
        rows.append((start, new))
        h, c = _kept(new, h, n), _kept(cell, c, n)
    return _in_order(rows), h, c


def _lstm_reference(gates: Any, hidden: Any, cell: Any, weight: Any, projection: Any, sizes: Any, reverse: bool) -> Any:
    h, c, out = hidden.copy(), cell.copy(), np.zeros((len(gates), hidden.shape[1]))
    for start, stop, n in _steps(sizes, reverse):
        i, f, g, o = np.split(gates[start:stop] + h[:n] @ weight.T, 4, axis=1)
        c[:n] = _sigmoid_reference(f) * c[:n] + _sigmoid_reference(i) * np.tanh(g)
        new = _sigmoid_reference(o) * np.tanh(c[:n])
        out[start:stop] = h[:n] = new if projection is None else new @ projection.T
    return out, h, c


def _lstm_shape(gates: Any, hidden: Any, cell: Any, weight: Any, projection: Any, *, sizes: Any, reverse: bool) -> Any:
    units = _check(gates, hidden, weight, sizes, 4)
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


def _three_alike(*dtypes: Any, **_: Any) -> Any:
    return (promote(*[dtype for dtype in dtypes if dtype is not None]),) * 3


def _two_alike(*dtypes: Any, **_: Any) -> Any:
    return (promote(*[dtype for dtype in dtypes if dtype is not None]),) * 2


LSTM_LAYER = op(
    "lstm_layer", "one direction of an LSTM: i, f, g, o = gates + W · h; c = σ(f) c + σ(i) tanh(g); h = σ(o) tanh(c)",
    autocast="low",
    forward=_lstm, vjp=_lstm_vjp, aux=True, outputs=("output", "hidden", "cell"), reference=_lstm_reference,
    saves=tuple(["gates hidden cell weight projection"] * 5), shape=_lstm_shape, dtype=_three_alike,
    samples=_lstm_cases,
    errors=lambda s: [
        s.case(s.normal(4, 8), s.normal(2, 2), s.normal(2, 2), s.normal(8, 3), None, sizes=(2, 2), reverse=False),
        s.case(s.normal(4, 8), s.normal(2, 2), s.normal(2, 3), s.normal(8, 2), None, sizes=(2, 2), reverse=False),
    ],
)  # fmt: skip


# -- GRU ---------------------------------------------------------------------------------------------------------------


def _gru(xp: Any, gates: Any, hidden: Any, weight: Any, bias: Any, *, sizes: Any, reverse: bool) -> Any:
    if gates.dtype.itemsize == 2:
        return _widened(_gru, xp, gates, hidden, weight, bias, sizes=sizes, reverse=reverse)
    units = hidden.shape[1]
    h = hidden.copy()
    total, dtype = gates.shape[0], gates.dtype
    acts = xp.empty((total, 3 * units), dtype)
    out, before, fresh = (xp.empty((total, units), dtype) for _ in range(3))
    across = weight.T
    for start, stop, n in _steps(sizes, reverse):
        known, a = h[:n], acts[start:stop]
        before[start:stop] = known
        z = known @ across
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
    if gates.dtype.itemsize == 2:
        options = {"sizes": sizes, "reverse": reverse, "aux": aux, "needs": needs}
        return _widened_vjp(_gru_vjp, F, g, out, gates, hidden, weight, bias, **options)
    xp = F.xp
    acts, before, fresh = aux
    units = before.shape[1]
    g_out, g_h = g
    dh = xp.zeros((max(sizes, default=0), units), acts.dtype) if g_h is None else g_h.copy()
    d = xp.empty_like(acts)
    d_hidden = xp.empty_like(acts)
    for start, stop, n in reversed(_steps(sizes, reverse)):
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
        here += dz_hidden @ weight
    d_weight = d_hidden.T @ before if needs[2] else None
    return d, dh, d_weight, d_hidden.sum(axis=0) if bias is not None and needs[3] else None


def _gru_composed(gates: Any, h: Any, weight: Any, bias: Any, *, sizes: Any, reverse: bool) -> Any:
    rows, units = [], h.shape[1]
    for start, stop, n in _steps(sizes, reverse):
        x, known = gates[start:stop], h[:n]
        z = known @ weight.mT if bias is None else known @ weight.mT + bias
        r = sigmoid(x[:, :units] + z[:, :units])
        keep = sigmoid(x[:, units : 2 * units] + z[:, units : 2 * units])
        new = tanh(x[:, 2 * units :] + r * z[:, 2 * units :])
        new = new + keep * (known - new)
        rows.append((start, new))
        h = _kept(new, h, n)
    return _in_order(rows), h


def _gru_reference(gates: Any, hidden: Any, weight: Any, bias: Any, sizes: Any, reverse: bool) -> Any:
    h, out = hidden.copy(), np.zeros((len(gates), hidden.shape[1]))
    for start, stop, n in _steps(sizes, reverse):
        xr, xz, xn = np.split(gates[start:stop], 3, axis=1)
        hr, hz, hn = np.split(h[:n] @ weight.T + (0 if bias is None else bias), 3, axis=1)
        keep = _sigmoid_reference(xz + hz)
        new = np.tanh(xn + _sigmoid_reference(xr + hr) * hn)
        out[start:stop] = h[:n] = (1 - keep) * new + keep * h[:n]
    return out, h


def _gru_shape(gates: Any, hidden: Any, weight: Any, bias: Any, *, sizes: Any, reverse: bool) -> Any:
    units = _check(gates, hidden, weight, sizes, 3)
    if units != hidden[1]:
        raise ShapeError(f"gates of {units} units need hidden states of as many, not {hidden[1]}")
    if bias is not None and bias != gates[1:]:
        raise ShapeError(f"the bias must be ({gates[1]},), not {bias}")
    return (gates[0], units), hidden


GRU_LAYER = op(
    "gru_layer", "one direction of a GRU: r, z = σ(gates + W · h); n = tanh(gates + r (W · h)); h = n + z (h - n)",
    autocast="low",
    forward=_gru, vjp=_gru_vjp, aux=True, outputs=("output", "hidden"), reference=_gru_reference,
    saves=tuple(["gates hidden weight bias"] * 4), shape=_gru_shape, dtype=_two_alike,
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
        return _widened(_rnn, xp, gates, hidden, weight, **options)
    h = hidden.copy()
    out = xp.empty((gates.shape[0], hidden.shape[1]), gates.dtype)
    before = xp.empty_like(out)
    across = weight.T
    for start, stop, n in _steps(sizes, reverse):
        known, new = h[:n], out[start:stop]
        before[start:stop] = known
        xp.matmul(known, across, out=new)
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
        return _widened_vjp(_rnn_vjp, F, g, out, gates, hidden, weight, **options)
    xp = F.xp
    result, before = aux
    g_out, g_h = g
    dh = xp.zeros((max(sizes, default=0), before.shape[1]), result.dtype) if g_h is None else g_h.copy()
    d = xp.empty_like(result)
    for start, stop, n in reversed(_steps(sizes, reverse)):
        here, new = dh[:n], result[start:stop]
        if g_out is not None:
            here += g_out[start:stop]
        slope = 1.0 - new * new if nonlinearity == "tanh" else new > 0
        xp.multiply(here, slope, out=d[start:stop])
        dh[:n] = d[start:stop] @ weight
    return d, dh, d.T @ before if needs[2] else None


def _rnn_composed(gates: Any, h: Any, weight: Any, *, sizes: Any, reverse: bool, nonlinearity: str) -> Any:
    rows, bend = [], tanh if nonlinearity == "tanh" else relu
    for start, stop, n in _steps(sizes, reverse):
        new = bend(gates[start:stop] + h[:n] @ weight.mT)
        rows.append((start, new))
        h = _kept(new, h, n)
    return _in_order(rows), h


def _rnn_reference(gates: Any, hidden: Any, weight: Any, sizes: Any, reverse: bool, nonlinearity: str) -> Any:
    h, out = hidden.copy(), np.zeros((len(gates), hidden.shape[1]))
    for start, stop, n in _steps(sizes, reverse):
        new = gates[start:stop] + h[:n] @ weight.T
        out[start:stop] = h[:n] = np.tanh(new) if nonlinearity == "tanh" else np.maximum(new, 0)
    return out, h


def _rnn_shape(gates: Any, hidden: Any, weight: Any, *, sizes: Any, reverse: bool, nonlinearity: str) -> Any:
    units = _check(gates, hidden, weight, sizes, 1)
    if units != hidden[1]:
        raise ShapeError(f"gates of {units} units need hidden states of as many, not {hidden[1]}")
    return gates, hidden


RNN_LAYER = op(
    "rnn_layer", "one direction of a plain recurrent layer: h = tanh(gates + weight · h), or relu",
    autocast="low",
    forward=_rnn, vjp=_rnn_vjp, aux=True, outputs=("output", "hidden"), reference=_rnn_reference,
    saves=tuple(["gates hidden weight"] * 3), shape=_rnn_shape, dtype=_two_alike,
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
