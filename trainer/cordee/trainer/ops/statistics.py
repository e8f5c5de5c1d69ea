"""Statistics: spread, quantiles, the most frequent value, covariance, counts in bins."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cordee.trainer.array import array_module, default_dtype, is_complex, is_float, promote
from cordee.trainer.autograd.casting import autocasts
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.axes import ValuesAndIndices, as_axis, count, in_one_dimension, require_float, same_shape
from cordee.trainer.ops.reduction import LENGTH, MEAN, SUM
from cordee.trainer.ops.sorting import argsort, place_of_rank
from cordee.trainer.ops.writing import add_rows
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "bincount", "corrcoef", "cov", "histc", "histogram", "median", "mode", "nanmedian", "nanquantile", "quantile",
    "std", "std_mean", "var", "var_mean",
]  # fmt: skip

METHODS = "bincount corrcoef cov histc histogram median mode nanmedian nanquantile quantile std var"


# -- spread ------------------------------------------------------------------------------------------------------------


def _freedom(input: Tensor, dim: Any, unbiased: bool, correction: float | None) -> tuple[Any, float]:
    """The dimensions, and by what the sum of squares is divided."""
    if isinstance(dim, bool):  # var(input, unbiased)
        dim, unbiased = None, dim
    axis = as_axis(dim)
    less = (1.0 if unbiased else 0.0) if correction is None else correction
    return axis, max(count(input.shape, axis) - less, 0.0)


def var(
    input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> Tensor:
    """The variance: mean squared distance from the mean, divided by n - correction (1 unless `unbiased=False`)."""
    require_float(input, "var")
    if input.dtype.itemsize == 2:  # the distances from the mean are not to be rounded
        return var(input.float(), dim, unbiased, keepdim, correction=correction).to(input.dtype)
    axis, freedom = _freedom(input, dim, unbiased, correction)
    away = input - MEAN.run(input, axis=axis, keepdims=True)
    return SUM.run(away * away, axis=axis, keepdims=keepdim) / freedom


def std(
    input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> Tensor:
    """The standard deviation: the square root of `var`; its gradient is 0 where all elements are equal."""
    require_float(input, "std")
    if input.dtype.itemsize == 2:
        return std(input.float(), dim, unbiased, keepdim, correction=correction).to(input.dtype)
    axis, freedom = _freedom(input, dim, unbiased, correction)
    away = input - MEAN.run(input, axis=axis, keepdims=True)
    return LENGTH.run(away, axis=axis, keepdims=keepdim) / math.sqrt(freedom)


def var_mean(
    input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> tuple[Tensor, Tensor]:
    """The variance and the mean."""
    spread = var(input, dim, unbiased, keepdim, correction=correction)
    return spread, input.mean(None if isinstance(dim, bool) else dim, keepdim)


def std_mean(
    input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> tuple[Tensor, Tensor]:
    """The standard deviation and the mean."""
    spread = std(input, dim, unbiased, keepdim, correction=correction)
    return spread, input.mean(None if isinstance(dim, bool) else dim, keepdim)


def cov(
    input: Tensor, *, correction: int = 1, fweights: Tensor | None = None, aweights: Tensor | None = None
) -> Tensor:
    """The covariance matrix of variables in rows, observations in columns: (V, N) to (V, V); (N,) to a number.

    `fweights` counts how often an observation was made, `aweights` how much it matters.

    Raises:
        ShapeError: more than two dimensions, or weights that are not one per observation.
    """
    if input.ndim > 2:
        raise ShapeError(f"cov needs at most 2 dimensions, not shape {input.shape}")
    if not is_float(input.dtype) and not is_complex(input.dtype):
        input = input.to(default_dtype())
    if aweights is not None:
        input = input.to(promote(input.dtype, aweights.dtype))
    if fweights is not None and fweights.dtype.kind not in "iu":
        raise TypeError(f"cov: fweights must be whole numbers, not {fweights.dtype.name}")
    rows = input.reshape(1, -1) if input.ndim < 2 else input
    n = rows.shape[1]
    weights: Tensor | None = None
    for given in (fweights, aweights):
        if given is not None:
            if given.shape != (n,):
                raise ShapeError(f"cov: weights of shape {given.shape}, but there are {n} observations")
            weights = given.to(rows.dtype) if weights is None else weights * given
    if weights is None:
        away = rows - rows.mean(1, True)
        result = away @ away.t() / max(n - correction, 0)
    else:
        total = weights.sum()
        away = rows - (rows * weights).sum(1, True) / total
        if correction == 0 or aweights is None:
            less = total * 0.0 + correction
        else:
            less = (weights * aweights).sum() / total * correction
        result = (away * weights) @ away.t() / (total - less).clamp(min=0)
    return result if len(rows) != 1 else result.reshape(())


def corrcoef(input: Tensor) -> Tensor:
    """Pearson's correlation coefficients of variables in rows, observations in columns."""
    joint = cov(input)
    if not joint.ndim:
        return joint / joint
    deviations = joint.diagonal().sqrt()
    return (joint / deviations.unsqueeze(1) / deviations.unsqueeze(0)).clamp(-1.0, 1.0)


# -- quantiles ---------------------------------------------------------------------------------------------------------

_INTERPOLATIONS = ("linear", "lower", "higher", "midpoint", "nearest")


@autocasts("single on cpu")
def quantile(
    input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """The q-quantiles (0 ≤ q ≤ 1, a number or a tensor of them): NaN where an element is.

    For a tensor of several q, they are the first dimension of the result. `interpolation` between the two nearest
    elements: "linear", "lower", "higher", "midpoint" or "nearest".
    """
    return _quantile("quantile", input, q, dim, keepdim, interpolation, ignore_nan=False)


@autocasts("single on cpu")
def nanquantile(
    input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """`quantile` of what is not NaN."""
    return _quantile("nanquantile", input, q, dim, keepdim, interpolation, ignore_nan=True)


def _quantile(
    name: str, input: Tensor, q: Any, dim: int | None, keepdim: bool, interpolation: str, *, ignore_nan: bool
) -> Tensor:
    require_float(input, name)
    if interpolation not in _INTERPOLATIONS:
        raise ValueError(f"{name}: interpolation is one of {', '.join(_INTERPOLATIONS)}, not {interpolation!r}")
    if not input.numel():
        raise ValueError(f"{name} of no elements (input of shape {input.shape})")
    ndim, shape = input.ndim, input.shape
    line = input.reshape(-1) if dim is None or not ndim else input.movedim(dim, -1)
    xp = array_module(line.data)
    wanted = xp.asarray(q.data if isinstance(q, Tensor) else q, np.float64)
    if wanted.ndim > 1 or ((wanted < 0) | (wanted > 1)).any():
        raise ValueError(f"{name}: q must be a number or a vector of numbers between 0 and 1")
    missing = xp.isnan(line.data)
    n = line.shape[-1]
    last = n - 1 - (missing.sum(-1, keepdims=True) if ignore_nan else 0 * missing.sum(-1, keepdims=True))
    ranks = wanted.reshape(-1) * xp.maximum(last, 0)
    if not ignore_nan:
        ranks = xp.where(missing.any(-1, keepdims=True), n - 1, ranks)
    order = line.gather(-1, argsort(line, -1))
    exact = None
    if isinstance(q, Tensor) and q.requires_grad:
        exact = q.reshape(-1) * wrap(xp.asarray(xp.maximum(last, 0), q.dtype))
    out = _between_ranks(xp, order, ranks, interpolation, exact)
    if dim is not None and ndim:
        out = out.movedim(-1, 0)
        if keepdim:
            out = out.unsqueeze(dim if dim < 0 else dim + 1)
    elif keepdim:
        out = out.reshape(-1, *(1,) * len(shape))
    return out if wanted.ndim else out.squeeze(0)


def _between_ranks(xp: Any, order: Tensor, ranks: Any, interpolation: str, exact: Tensor | None) -> Tensor:
    """The elements at these ranks of what is in order; `exact`: the ranks again, if they want a gradient."""
    if interpolation == "nearest":
        return order.gather(-1, wrap(xp.rint(ranks).astype(np.int64)))
    low, high = xp.floor(ranks), xp.ceil(ranks)
    if interpolation == "lower":
        return order.gather(-1, wrap(low.astype(np.int64)))
    upper = order.gather(-1, wrap(high.astype(np.int64)))
    if interpolation == "higher":
        return upper
    lower = order.gather(-1, wrap(low.astype(np.int64)))
    if exact is not None and interpolation == "linear":
        return lower + (upper - lower) * (exact - wrap(xp.asarray(low, exact.dtype)))
    weight = wrap(xp.asarray(0.5 * (high > low) if interpolation == "midpoint" else ranks - low, order.dtype))
    return lower + (upper - lower) * weight


def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The median: of an even number of elements, the lower of the two in the middle. NaN if an element is.

    Without `dim`, of all elements (equal ones share the gradient); with it, `(values, indices)`.
    """
    return _median(input, dim, keepdim, False)


def nanmedian(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """`median` of what is not NaN."""
    return _median(input, dim, keepdim, True)


def _median(input: Tensor, dim: int | None, keepdim: bool, ignore_nan: bool) -> Any:
    name = "nanmedian" if ignore_nan else "median"
    if dim is None:
        if not input.numel():
            raise ValueError(f"{name} of no elements (input of shape {input.shape})")
        middle = _median(input.detach().reshape(-1), 0, False, ignore_nan).values
        if input.dtype.kind in "iub":
            return middle
        hit = (input.detach() == middle) | (input.isnan() & middle.isnan())
        away = input.masked_fill(hit.logical_not(), 0.0) - middle.masked_fill(middle.isnan(), 0.0)
        return middle + away.masked_fill(hit.logical_not(), 0.0).sum() / hit.sum()
    if not input.ndim:
        return in_one_dimension(_median, input, 0, True, ignore_nan)
    same_shape(input.shape, axis=dim)
    n = input.shape[dim]
    if not n:
        raise ValueError(f"{name}: dimension {dim} of shape {input.shape} has no elements")
    data = input.data
    xp = array_module(data)
    missing = data != data  # noqa: PLR0124 (NaN)
    numbers = n - missing.sum(dim, keepdims=True)
    if ignore_nan:
        indices = xp.take_along_axis(argsort(input, dim).data, xp.maximum(numbers - 1, 0) // 2, dim)
    else:
        middle = place_of_rank(input, (n - 1) // 2, dim).data
        indices = xp.where(numbers < n, missing.argmax(dim, keepdims=True), middle)
    places = wrap(indices)
    values = input.gather(dim, places)
    return ValuesAndIndices(values, places) if keepdim else ValuesAndIndices(values.squeeze(dim), places.squeeze(dim))


def mode(input: Tensor, dim: int = -1, keepdim: bool = False) -> ValuesAndIndices:
    """The most frequent element along a dimension (the smallest, if several), and where it is last."""
    if not input.ndim:
        return in_one_dimension(mode, input, 0, True)  # type: ignore[no-any-return]
    same_shape(input.shape, axis=dim)
    if not input.shape[dim]:
        raise ValueError(f"mode: dimension {dim} of shape {input.shape} has no elements")
    from cordee.trainer.ops.scan import accumulate

    xp = array_module(input.data)
    order = xp.moveaxis(argsort(input, dim).data, dim, -1)
    line = xp.take_along_axis(xp.moveaxis(input.data, dim, -1), order, -1)
    place = xp.broadcast_to(xp.arange(line.shape[-1]), line.shape)
    new = xp.ones(line.shape, bool)
    new[..., 1:] = line[..., 1:] != line[..., :-1]
    starts = accumulate(xp, xp.maximum, xp.where(new, place, 0), -1)
    longest = (place - starts).argmax(-1, keepdims=True)
    places = wrap(xp.moveaxis(xp.take_along_axis(order, longest, -1), -1, dim))
    values = input.gather(dim, places)
    return ValuesAndIndices(values, places) if keepdim else ValuesAndIndices(values.squeeze(dim), places.squeeze(dim))


# -- counts ------------------------------------------------------------------------------------------------------------


def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often each number from 0 on occurs in a vector of whole numbers; with weights, their sums.

    Raises:
        ShapeError: not a vector, or negative numbers in it, or weights of another shape.
    """
    data = input.data
    if data.ndim != 1 or data.dtype.kind not in "iub" or (data < 0).any():
        raise ShapeError(f"bincount needs a vector of whole numbers from 0 on, not {data.dtype.name} {data.shape}")
    if weights is not None and weights.shape != input.shape:
        raise ShapeError(f"bincount: input of shape {input.shape} and weights of shape {weights.shape} must be alike")
    xp = array_module(data)
    if weights is None:
        return wrap(xp.bincount(data, minlength=minlength))
    if xp is np:
        counts = np.bincount(data, weights.data, minlength)
    else:  # CuPy's adds in the order in which threads arrive
        counts = xp.zeros(max(minlength, int(data.max()) + 1 if data.size else 0), np.float64)
        add_rows(xp, counts, data, weights.data.astype(np.float64))
    if weights.dtype == np.float32:
        counts = counts.astype(np.float32)
    return wrap(counts)


def _bin_range(xp: Any, data: Any, low: float, high: float) -> tuple[float, float]:
    if low == high == 0 and data.size:
        low, high = float(data.min()), float(data.max())
    if low == high:
        low, high = low - 1, high + 1
    if low > high or not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"bins from {low} to {high}: the lower bound must be below the upper, and both finite")
    return low, high


def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """How many elements are in each of `bins` equal bins between min and max (by default those of the data)."""
    require_float(input, "histc")
    if bins < 1:
        raise ValueError(f"histc: bins must be at least 1, not {bins}")
    data = input.data.reshape(-1)
    xp = array_module(data)
    low, high = _bin_range(xp, data, min, max)
    inside = data[(data >= low) & (data <= high)].astype(np.float64)
    places = xp.minimum(((inside - low) / (high - low) * bins).astype(np.int64), bins - 1)
    return wrap(xp.bincount(places, minlength=bins).astype(input.dtype))


def histogram(
    input: Tensor,
    bins: int | Tensor,
    *,
    range: tuple[float, float] | None = None,
    weight: Tensor | None = None,
    density: bool = False,
) -> tuple[Tensor, Tensor]:
    """`(hist, bin_edges)`: counts (or sums of weights, or densities) in equal bins, or between the edges given."""
    require_float(input, "histogram")
    data = input.data.reshape(-1)
    xp = array_module(data)
    if isinstance(bins, Tensor):
        edges = bins.data
    else:
        low, high = _bin_range(xp, data, *(range or (0, 0)))
        edges = xp.linspace(low, high, bins + 1, dtype=input.dtype)
    counts, _ = xp.histogram(data, edges, weights=None if weight is None else weight.data.reshape(-1), density=density)
    return wrap(counts.astype(input.dtype)), wrap(edges)
