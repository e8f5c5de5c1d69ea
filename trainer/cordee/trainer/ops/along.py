"""The records of gather and scatter: elements taken from, or brought to, the places along one dimension.

The index may be smaller than the tensor in the other dimensions: it then speaks of the corner at 0. Indices are counted
from the front only, as in PyTorch. Sums have one order on every device (see `writing.py`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd.record import Sampler, Shape, op
from cordee.trainer.errors import ShapeError, TrainerIndexError
from cordee.trainer.ops.elementwise import as_mask
from cordee.trainer.ops.lines import add_to_lines, are_lines, take_from_lines
from cordee.trainer.ops.places import check_range
from cordee.trainer.ops.writing import add_rows, assign_at, last_named, stable_order

__all__ = ["GATHER", "REDUCTIONS", "SCATTER", "SCATTER_ADD", "SCATTER_REDUCE"]


# -- places along a dimension ------------------------------------------------------------------------------------------


def _check(shape: tuple[int, ...], index: Any, axis: int) -> int:
    """The axis counted from the front. What it refuses is told by the shape rule."""
    ndim = len(shape)
    if index.ndim != ndim or not -ndim <= axis < ndim:
        raise ValueError("the index does not fit")
    axis %= ndim
    for dim, (n, m) in enumerate(zip(index.shape, shape, strict=True)):
        if n > m and dim != axis:
            raise ValueError("the index does not fit")
    check_range(index, axis, shape[axis])
    return axis


def _linear(xp: Any, shape: tuple[int, ...], index: Any, axis: int) -> Any:
    """The named places in row-major order, in the index's shape."""
    axis = _check(shape, index, axis)
    places, step = index.astype(np.intp) * math.prod(shape[axis + 1 :]), 1
    for dim in range(len(shape) - 1, -1, -1):
        if dim != axis and index.shape[dim] != 1:
            places += (xp.arange(index.shape[dim]) * step).reshape(-1, *(1,) * (len(shape) - dim - 1))
        step *= shape[dim]
    return places


def _corner(shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(0, n) for n in shape)


def _like_index(a: Any, index: Any) -> Any:
    """The part of the source that the index speaks of."""
    if not hasattr(a, "shape") or a.shape == index.shape:
        return a
    if a.ndim != index.ndim or any(n < m for n, m in zip(a.shape, index.shape, strict=True)):
        raise ValueError("the source does not fit")
    return a[_corner(index.shape)]


def _index_rule(a: tuple[int, ...], index: tuple[int, ...], axis: int) -> None:
    if len(index) != len(a):
        raise ShapeError(f"index has {len(index)} dimensions, the tensor {len(a)}; they must be equal")
    if not -len(a) <= axis < len(a):
        raise TrainerIndexError(f"there is no dimension {axis} in a tensor of {len(a)} dimensions")
    for dim, (n, m) in enumerate(zip(index, a, strict=True)):
        if n > m and dim != axis % len(a):
            raise ShapeError(f"index has size {n} in dimension {dim}, the tensor only {m}: at most {m} fits")


def _source_rule(a: tuple[int, ...], index: tuple[int, ...], src: tuple[int, ...], *, axis: int, **_: Any) -> Shape:
    _index_rule(a, index, axis)
    if src != () or not index:
        if len(src) != len(index):
            raise ShapeError(f"src has {len(src)} dimensions, index {len(index)}; they must be equal")
        for dim, (n, m) in enumerate(zip(src, index, strict=True)):
            if n < m:
                raise ShapeError(f"src has size {n} in dimension {dim}, index {m}: at least {m} is needed")
    return a


# -- gather ------------------------------------------------------------------------------------------------------------


def _gather(xp: Any, a: Any, index: Any, *, axis: int) -> Any:
    at = _check(a.shape, index, axis)
    if at == a.ndim - 1 and a.shape[:-1] == index.shape[:-1] and are_lines(xp, a, index):
        return take_from_lines(xp, a.reshape(-1, a.shape[-1]), index.reshape(-1, index.shape[-1])).reshape(index.shape)
    grid = list(xp.ogrid[_corner(index.shape)])
    grid[at] = index
    return a[tuple(grid)]


def _gather_shape(a: tuple[int, ...], index: tuple[int, ...], *, axis: int) -> Shape:
    _index_rule(a, index, axis)
    return index


GATHER = op(
    "gather", "along a dimension, the elements that an index names",
    forward=_gather,
    vjps=(lambda F, g, out, a, index, *, axis: F.ungather(g, index, axis=axis, shape=a), None),
    saves=("index", ""), shape=_gather_shape, dtype="first",
    reference=lambda a, index, axis: np.take_along_axis(
        a[tuple(slice(None) if d == axis % a.ndim else slice(0, n) for d, n in enumerate(index.shape))], index, axis
    ),
    samples=lambda s: [
        s.case(s.normal(3, 4), s.integers(4, 3, 2), axis=1),
        s.case(s.normal(3, 4), s.integers(3, 5, 2), axis=0),
        s.case(s.normal(2, 3, 2), s.integers(2, 1, 3, 4), axis=-1),
        s.case(s.normal(3, 4), s.integers(4, 3, 0), axis=1),
    ],
    errors=lambda s: [
        s.case(s.normal(3, 4), np.array([[0, 4]] * 3), axis=1),
        s.case(s.normal(3, 4), np.array([[-1]] * 3), axis=1),
        s.case(s.normal(3, 4), s.integers(3, 5, 1), axis=1),
        s.case(s.normal(3, 4), s.integers(3, 3), axis=1),
    ],
)  # fmt: skip


def _ungather(xp: Any, a: Any, index: Any, *, axis: int, shape: tuple[int, ...]) -> Any:
    out = xp.zeros(shape, a.dtype)
    _add_along(xp, out, index, a, axis)
    return out


def _add_along(xp: Any, out: Any, index: Any, a: Any, axis: int) -> None:
    """Adds in place, in the order of `a`; `out` lies in row-major order."""
    if axis in (-1, out.ndim - 1) and out.shape[:-1] == index.shape[:-1] and are_lines(xp, out, index):
        _check(out.shape, index, axis)
        add_to_lines(xp, out.reshape(-1, out.shape[-1]), *(x.reshape(-1, index.shape[-1]) for x in (index, a)))
        return
    add_rows(xp, out.reshape(-1), _linear(xp, out.shape, index, axis).reshape(-1), a.reshape(-1))


def _ungather_shape(a: tuple[int, ...], index: tuple[int, ...], *, axis: int, shape: tuple[int, ...]) -> Shape:
    _index_rule(shape, index, axis)
    if a != index:
        raise ShapeError(f"shape {a} is not that of the index, {index}")
    return shape


def _add_reference(out: Any, index: Any, src: Any, axis: int) -> Any:
    for place in np.ndindex(index.shape):
        target = list(place)
        target[axis] = index[place]
        out[tuple(target)] += src[place]
    return out


UNGATHER = op(
    "ungather", "zeros, and elements added at the places that an index names: the gradient of gather",
    forward=_ungather,
    vjps=(lambda F, g, out, a, index, *, axis, shape: F.gather(g, index, axis=axis), None),
    saves=("index", ""), shape=_ungather_shape, dtype="first",
    reference=lambda a, index, axis, shape: _add_reference(np.zeros(shape), index, a, axis),
    samples=lambda s: [
        s.case(s.normal(3, 5), s.integers(4, 3, 5), axis=1, shape=(3, 4)),
        s.case(s.normal(2, 3, 4), s.integers(2, 2, 3, 4), axis=0, shape=(2, 3, 5)),
    ],
    errors=lambda s: [s.case(s.normal(3, 2), np.array([[0, 4]] * 3), axis=1, shape=(3, 4))],
)  # fmt: skip


# -- scatter -----------------------------------------------------------------------------------------------------------


def _scatter(xp: Any, a: Any, index: Any, src: Any, *, axis: int) -> Any:
    out = a.copy()
    src = _like_index(src, index)
    assign_at(xp, out.reshape(-1), _linear(xp, a.shape, index, axis), src)
    return out


def _to_source(F: Any, d: Any, shape: tuple[int, ...]) -> Any:
    """The gradient in the source's shape: zero where the index did not speak of it."""
    if d.shape == shape:
        return d
    return F.pad(d, widths=tuple((0, n - m) for n, m in zip(shape, d.shape, strict=True)), value=0.0)


def _scatter_source_vjp(F: Any, g: Any, out: Any, a: Any, index: Any, src: Any, *, axis: int) -> Any:
    raw = index if F.raw else index.data
    xp = array_module(raw)
    last = last_named(xp, _linear(xp, a, raw, axis).reshape(-1)).reshape(raw.shape)
    return _to_source(F, F.gather(g, index, axis=axis) * last.astype(g.dtype), src)


def _scatter_reference(a: Any, index: Any, src: Any, axis: int) -> Any:
    out = np.array(a)
    for place in np.ndindex(index.shape):
        target = list(place)
        target[axis] = index[place]
        out[tuple(target)] = src[place] if hasattr(src, "shape") else src
    return out


def _scatter_cases(s: Sampler) -> list[Any]:
    return [
        s.case(s.normal(3, 4), s.integers(4, 3, 2), s.normal(3, 2), axis=1),
        s.case(s.normal(3, 4), s.integers(3, 2, 3), s.normal(3, 4), axis=0),
        s.case(s.normal(4), np.array([1, 1, 3]), s.normal(3), axis=-1),
        s.case(s.normal(3, 4), s.integers(4, 3, 0), s.normal(3, 2), axis=1),
    ]


def _scatter_errors(s: Sampler) -> list[Any]:
    return [
        s.case(s.normal(3, 4), np.array([[0, 4]] * 3), s.normal(3, 2), axis=1),
        s.case(s.normal(3, 4), s.integers(4, 3, 2), s.normal(3, 1), axis=1),
        s.case(s.normal(3, 4), s.integers(3, 5, 1), s.normal(5, 1), axis=1),
        s.case(s.normal(3, 4), s.integers(3, 2), s.normal(2), axis=1),
    ]


SCATTER = op(
    "scatter", "a copy with elements of src at the places that an index names; of two for one place, the last",
    forward=_scatter,
    vjps=(
        lambda F, g, out, a, index, src, *, axis: F.scatter(g, index, 0.0, axis=axis), None, _scatter_source_vjp,
    ),
    saves=("index", "", "index"), shape=_source_rule, dtype="first", errors=_scatter_errors,
    reference=_scatter_reference,
    samples=lambda s: [*_scatter_cases(s), s.case(s.normal(3, 4), s.integers(4, 3, 2), 2.0, axis=1)],
)  # fmt: skip


def _scatter_add(xp: Any, a: Any, index: Any, src: Any, *, axis: int) -> Any:
    out, src = a.copy(), _like_index(src, index)
    if not hasattr(src, "shape"):
        src = xp.full(index.shape, src, a.dtype)
    _add_along(xp, out, index, src.astype(a.dtype, copy=False), axis)
    return out


SCATTER_ADD = op(
    "scatter_add", "a copy with elements of src added at the places that an index names",
    forward=_scatter_add,
    vjps=(
        lambda F, g, out, a, index, src, *, axis: g,
        None,
        lambda F, g, out, a, index, src, *, axis: _to_source(F, F.gather(g, index, axis=axis), src),
    ),
    saves=("", "", "index"), shape=_source_rule, dtype="first", samples=_scatter_cases, errors=_scatter_errors,
    reference=lambda a, index, src, axis: _add_reference(np.array(a), index, src, axis),
)  # fmt: skip


# -- products and extremes ---------------------------------------------------------------------------------------------


def _scatter_reduce(xp: Any, a: Any, index: Any, src: Any, *, axis: int, reduce: str) -> Any:
    out = a.copy()
    flat, places = out.reshape(-1), _linear(xp, a.shape, index, axis).reshape(-1)
    values = _like_index(src, index).astype(a.dtype, copy=False).reshape(-1)
    if xp is np:
        getattr(np, REDUCTIONS[reduce]).at(flat, places, values)
        return out
    order = stable_order(xp, places)  # one round for the first mention of every place, one for the second, …
    places, values = places[order], values[order]
    while places.size:
        first = xp.concatenate((xp.ones(1, bool), places[1:] != places[:-1]))
        flat[places[first]] = getattr(xp, REDUCTIONS[reduce])(flat[places[first]], values[first])
        places, values = places[~first], values[~first]
    return out


REDUCTIONS = {"prod": "multiply", "amax": "maximum", "amin": "minimum"}


def _scatter_reduce_vjp(
    F: Any, g: Any, out: Any, a: Any, index: Any, src: Any, *, needs: Any, axis: int, reduce: str
) -> Any:
    shape = src.shape
    part = F.getitem(src, index=_corner(index.shape)) if src.shape != index.shape else src
    if reduce != "prod":  # shared between all that are equal to the result
        own, others = as_mask(F, a == out, g), as_mask(F, part == F.gather(out, index, axis=axis), g)
        count = F.scatter_add(own, index, others, axis=axis)
        share = g / (count + as_mask(F, count == 0, g))
        given = F.gather(share, index, axis=axis) * others if needs[2] else None
        return share * own, None, None if given is None else _to_source(F, given, shape)
    ones = array_module(a if F.raw else a.data).ones(a.shape, a.dtype)
    mine = g * F.scatter_reduce(ones, index, part, axis=axis, reduce="prod") if needs[0] else None
    if not needs[2]:
        return mine, None, None
    zero = as_mask(F, part == 0, g)
    rest = F.scatter_reduce(a, index, part + zero, axis=axis, reduce="prod")  # as if zeros were ones
    lonely = zero * as_mask(F, F.gather(F.ungather(zero, index, axis=axis, shape=a.shape), index, axis=axis) == 1, g)
    without = F.gather(out, index, axis=axis) / (part + zero) * (1.0 - zero) + F.gather(rest, index, axis=axis) * lonely
    return mine, None, _to_source(F, F.gather(g, index, axis=axis) * without, shape)


def _reduce_reference(a: Any, index: Any, src: Any, axis: int, reduce: str) -> Any:
    out, combine = np.array(a), getattr(np, REDUCTIONS[reduce])
    for place in np.ndindex(index.shape):
        target = list(place)
        target[axis] = index[place]
        out[tuple(target)] = combine(out[tuple(target)], src[place])
    return out


SCATTER_REDUCE = op(
    "scatter_reduce", "a copy with elements of src multiplied into, or the extreme taken at, the places of an index",
    forward=_scatter_reduce, vjp=_scatter_reduce_vjp, saves=("a index src out", "", "a index src out"),
    shape=_source_rule, dtype="first", reference=_reduce_reference,
    samples=lambda s: [
        s.case(s.distinct(3, 4), s.integers(4, 3, 2), s.distinct(3, 2) + 0.05, axis=1, reduce=reduce)
        for reduce in REDUCTIONS
    ] + [
        s.case(s.distinct(2, 3), s.integers(2, 5, 3), s.distinct(6, 3) + 0.05, axis=0, reduce=reduce)
        for reduce in REDUCTIONS
    ],
    errors=lambda s: [
        s.case(s.normal(3, 4), np.array([[0, 4]] * 3), s.normal(3, 2), axis=1, reduce="prod"),
        s.case(s.normal(3, 4), s.integers(4, 3, 2), s.normal(3, 1), axis=1, reduce="amax"),
    ],
)  # fmt: skip
