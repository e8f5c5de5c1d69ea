"""Resampling along a dimension: every new place is a weighted sum of a few old ones.

Interpolation of every kind and adaptive averages are this, one dimension after the other, with another table of places
and weights. So is the gradient, by the table transposed.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from cordee.trainer.array import Array
from cordee.trainer.autograd.record import Sampler, Shape, op
from cordee.trainer.errors import ShapeError

__all__ = ["Taps"]


class Taps:
    """For each of `places.shape[1]` new places, which old ones it takes (one per row), and with which weights.

    A weight of 0 takes nothing, whatever stands there.
    """

    def __init__(self, places: Array, weights: Array, size: int) -> None:
        self.places = np.asarray(places, np.int64)
        self.weights = np.asarray(weights, np.float64)
        self.size = size
        """How many old places there are."""
        if self.places.shape != self.weights.shape:
            raise ValueError(f"{self.places.shape} places need as many weights, not {self.weights.shape}")
        # A tap without weight repeats another of its place, so that what it multiplies by 0 is looked at anyway.
        used = self.weights != 0
        some = np.take_along_axis(self.places, used.argmax(0)[None], 0)
        self.places = np.where(used, self.places, some)
        self.unused = np.flatnonzero(~used.any(0))
        self._tables: dict[Any, list[tuple[Any, Any]]] = {}

    def __repr__(self) -> str:
        return f"Taps({self.size} to {self.places.shape[1]})"

    @functools.cached_property
    def transposed(self) -> Taps:
        """The table of the gradient."""
        taps, places = np.nonzero(self.weights)
        order = np.lexsort((places, self.places[taps, places]))
        taps, places = taps[order], places[order]
        old = self.places[taps, places]
        counts = np.bincount(old, minlength=self.size)
        slots = np.arange(len(old)) - np.repeat(np.cumsum(counts) - counts, counts)
        shape = (max(int(counts.max(initial=0)), 1), self.size)
        found, weights = np.zeros(shape, np.int64), np.zeros(shape)
        found[slots, old], weights[slots, old] = places, self.weights[taps, places]
        made = Taps(found, weights, self.places.shape[1])
        made.__dict__["transposed"] = self
        return made

    def table(self, xp: Any, dtype: Any) -> list[tuple[Any, Any]]:
        """The taps, as what indexes a dimension (a slice where it can), and weights (None: all are 1)."""
        known = self._tables.get((xp.__name__, dtype))
        if known is None:
            known = self._tables[xp.__name__, dtype] = [
                (_as_slice(xp, places), None if (weights == 1).all() else xp.asarray(weights.astype(dtype)))
                for places, weights in zip(self.places, self.weights, strict=True)
            ]
        return known


def _as_slice(xp: Any, places: Array) -> Any:
    """Evenly spaced, growing places as a slice, which reads without a copy; others as an array."""
    steps = np.diff(places)
    if len(places) and (len(places) == 1 or (steps[0] > 0 and (steps == steps[0]).all())):
        step = int(steps[0]) if len(steps) else 1
        return slice(int(places[0]), int(places[-1]) + 1, step)
    return xp.asarray(places)


def _resample(xp: Any, a: Any, *, axis: int, taps: Taps) -> Any:
    if a.shape[axis] != taps.size:
        raise ValueError("the dimension does not fit the table")
    total: Any = None
    lead = (slice(None),) * axis
    for places, weights in taps.table(xp, a.dtype):
        if isinstance(places, slice):
            part, owned = a[(*lead, places)], False
        else:
            part, owned = a.take(places, axis), True
        if weights is not None:
            along = weights.reshape(-1, *(1,) * (a.ndim - 1 - axis))
            part, owned = xp.multiply(part, along, out=part) if owned else part * along, True
        if total is None:
            total = part if owned else part.copy()
        else:
            total += part
    if len(taps.unused):
        total[(*lead, xp.asarray(taps.unused))] = 0
    return total


def _resample_shape(a: Any, *, axis: int, taps: Taps) -> Shape:
    if not 0 <= axis < len(a):
        raise ShapeError(f"there is no dimension {axis} among {len(a)}")
    if a[axis] != taps.size:
        raise ShapeError(f"dimension {axis} has size {a[axis]}, the table is for {taps.size}")
    return (*a[:axis], taps.places.shape[1], *a[axis + 1 :])


def _reference(a: Any, axis: int, taps: Taps) -> Any:
    """As a product with a matrix."""
    matrix = np.zeros((taps.places.shape[1], taps.size))
    for places, weights in zip(taps.places, taps.weights, strict=True):
        matrix[np.arange(len(places)), places] += weights
    return np.moveaxis(np.tensordot(matrix, a, (1, axis)), 0, axis)


def _samples(s: Sampler) -> list[Any]:
    halves = Taps(np.array([[0, 1, 1, 3]]), np.ones((1, 4)), 4)
    mixed = Taps(np.array([[0, 1, 2], [1, 2, 2]]), np.array([[0.3, 0.6, 1.0], [0.7, 0.4, 0.0]]), 3)
    thinned = Taps(np.array([[0, 2]]), np.ones((1, 2)), 4)
    return [
        s.case(s.normal(2, 4, 3), axis=1, taps=halves),
        s.case(s.normal(2, 3), axis=1, taps=mixed),
        s.case(s.normal(4, 2), axis=0, taps=thinned),
        s.case(s.normal(0, 3), axis=1, taps=mixed.transposed),
    ]


RESAMPLE = op(
    "resample", "along a dimension, weighted sums of a few places each: interpolation, adaptive averages",
    forward=_resample, saves=("",), shape=_resample_shape, dtype="first", reference=_reference, samples=_samples,
    vjps=(lambda F, g, out, a, *, axis, taps: F.resample(g, axis=axis, taps=taps.transposed),),
    errors=lambda s: [s.case(s.normal(2, 5), axis=1, taps=Taps(np.zeros((1, 2)), np.ones((1, 2)), 4))],
)  # fmt: skip
