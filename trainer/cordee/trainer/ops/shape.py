"""Another shape for the same elements: dimensions joined, split, dropped, exchanged. Mostly views, which cost nothing.

`view` is `reshape`: it shares memory wherever the layout allows it, and copies where it does not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cordee.trainer.autograd.record import Shape, op
from cordee.trainer.errors import ShapeError, TrainerIndexError
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "adjoint", "flatten", "moveaxis", "movedim", "permute", "ravel", "reshape", "squeeze", "swapaxes", "swapdims", "t",
    "transpose", "unflatten", "unsqueeze", "view",
]  # fmt: skip

METHODS = (
    "adjoint flatten moveaxis movedim permute ravel reshape squeeze swapaxes swapdims t transpose unflatten "
    "unsqueeze view"
)


def sizes_of(shape: tuple[Any, ...]) -> tuple[int, ...]:
    """`f(2, 3)` and `f((2, 3))` mean the same."""
    if len(shape) != 1 or type(shape[0]) is int:
        return shape
    return tuple(shape[0]) if hasattr(shape[0], "__iter__") else shape


def dimension(name: str, input: Tensor, dim: int, new: int = 0) -> int:
    """A dimension counted from the front; `new`: how many more there will be.

    Raises:
        TrainerIndexError: there is no such dimension; it says which there are.
    """
    count = input.ndim + new
    if not -count <= dim < count:
        valid = f"valid: {-count} to {count - 1}" if count else "it has none"
        place = f"shape {input.shape}" if not new else f"a result of {count} dimensions"
        raise TrainerIndexError(f"{name}: there is no dimension {dim} in {place} ({valid})")
    return dim % count


def dimensions(name: str, input: Tensor, dims: int | Sequence[int]) -> tuple[int, ...]:
    """Dimensions counted from the front, each given once.

    Raises:
        TrainerIndexError: one does not exist.
        ShapeError: one is given twice.
    """
    found = tuple(dimension(name, input, d) for d in ((dims,) if isinstance(dims, int) else dims))
    if len(set(found)) != len(found):
        raise ShapeError(f"{name}: {dims} names a dimension of shape {input.shape} twice")
    return found


# -- reshape -----------------------------------------------------------------------------------------------------------


def _reshape_shape(a: tuple[int, ...], *, shape: tuple[int, ...]) -> Shape:
    total, rest = math.prod(a), math.prod(n for n in shape if n != -1)
    unknown = sum(n == -1 for n in shape)
    if unknown > 1 or any(n < -1 for n in shape):
        raise ShapeError(f"shape {shape} may hold one -1 and otherwise sizes of at least 0")
    if not unknown:
        if rest != total:
            raise ShapeError(f"{total} elements do not fill shape {shape}, which takes {rest}")
        return shape
    if not rest or total % rest:
        raise ShapeError(f"{total} elements cannot be divided over the other sizes of shape {shape}, which take {rest}")
    return tuple(total // rest if n == -1 else n for n in shape)


RESHAPE = op(
    "reshape", "the same elements in row-major order, in another shape",
    forward=lambda xp, a, *, shape: a.reshape(shape),
    vjps=(lambda F, g, out, a, *, shape: g.reshape(a),),  # what arrays and tensors both have
    saves=("",), reference=np.reshape, shape=_reshape_shape, dtype="first", view=True,
    samples=lambda s: [
        s.case(s.normal(2, 3), shape=(3, 2)),
        s.case(s.normal(4), shape=(2, -1)),
        s.case(s.normal(1), shape=()),
        s.case(s.normal(0, 3), shape=(3, 0)),
    ],
    errors=lambda s: [
        s.case(s.normal(2, 3), shape=(4, 2)),
        s.case(s.normal(2, 3), shape=(4, -1)),
        s.case(s.normal(2, 3), shape=(-1, -1)),
    ],
)  # fmt: skip


def reshape(input: Tensor, shape: Any = (), *more: int) -> Tensor:
    """The same elements in another shape; one size may be -1.

    Raises:
        ShapeError: the elements do not fill that shape.
    """
    if type(shape) is not tuple:
        shape = (shape, *more) if more else sizes_of((shape,))
    return RESHAPE.run(input, shape)


def view(input: Tensor, *shape: Any) -> Tensor:
    """`reshape`; or, given a dtype, the same bytes read as that dtype (outside the graph)."""
    if len(shape) == 1 and not isinstance(shape[0], (int, tuple)) and not hasattr(shape[0], "__iter__"):
        try:
            return wrap(input.data.view(np.dtype(shape[0])))
        except ValueError as error:
            raise ShapeError(f"view: shape {input.shape} of {input.dtype.name}: {error}") from error
    return RESHAPE.run(input, shape=sizes_of(shape))


def ravel(input: Tensor) -> Tensor:
    """All elements in one dimension."""
    return RESHAPE.run(input, shape=(-1,) if input.data.size else (0,))


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The dimensions from start_dim to end_dim as one.

    Raises:
        ShapeError: start_dim comes after end_dim.
    """
    old = input.shape
    if not old:
        return reshape(input, 1)
    start, end = dimension("flatten", input, start_dim), dimension("flatten", input, end_dim)
    if start > end:
        raise ShapeError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim} in shape {old}")
    return reshape(input, (*old[:start], math.prod(old[start : end + 1]), *old[end + 1 :]))


def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """One dimension as several; one of the sizes may be -1."""
    old, at = input.shape, dimension("unflatten", input, dim)
    try:
        inner = _reshape_shape((old[at],), shape=tuple(sizes))
    except ShapeError as error:
        raise ShapeError(f"unflatten: dimension {dim} of shape {old}: {error}") from None
    return reshape(input, (*old[:at], *inner, *old[at + 1 :]))


def squeeze(input: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """Without dimensions of size 1: all such, or those of the given ones."""
    old = input.shape
    if dim is None or not old:
        drop: Any = range(len(old))
    else:
        drop = dimensions("squeeze", input, dim)
    return RESHAPE.run(input, shape=tuple([n for i, n in enumerate(old) if n != 1 or i not in drop]))


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With a new dimension of size 1 at `dim`."""
    old = input.data.shape
    at = dim if 0 <= dim <= len(old) else dimension("unsqueeze", input, dim, new=1)
    return RESHAPE.run(input, shape=(*old[:at], 1, *old[at:]))


# -- order of dimensions -----------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def _inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    """The order that undoes an order."""
    return tuple(sorted(range(len(axes)), key=lambda i: axes[i] % len(axes)))


@functools.lru_cache(maxsize=256, typed=True)
def _swapped(ndim: int, dim0: int, dim1: int) -> tuple[int, ...]:
    """The order with two dimensions exchanged."""
    axes = list(range(ndim))
    axes[dim0], axes[dim1] = axes[dim1], axes[dim0]
    return tuple(axes)


def _permute_vjp(F: Any, g: Any, out: Any, a: Any, *, axes: tuple[int, ...]) -> Any:
    return g.transpose(_inverse(axes)) if F.raw else F.permute(g, axes=_inverse(axes))


def _permute_shape(a: tuple[int, ...], *, axes: tuple[int, ...]) -> Shape:
    n = len(a)
    if sorted(axis % n if -n <= axis < n else n for axis in axes) != list(range(n)):
        raise ShapeError(f"{axes} does not name each of the {n} dimensions once")
    return tuple(a[axis] for axis in axes)


PERMUTE = op(
    "permute", "the dimensions in another order",
    forward=lambda xp, a, *, axes: a.transpose(axes),
    vjps=(_permute_vjp,),
    saves=("",), reference=np.transpose, shape=_permute_shape, dtype="first", view=True,
    samples=lambda s: [
        s.case(s.normal(2, 3, 4), axes=(2, 0, 1)),
        s.case(s.normal(2, 3), axes=(-1, 0)),
        s.case(s.normal(2, 0, 3), axes=(2, 1, 0)),
        s.case(s.normal(), axes=()),
    ],
    errors=lambda s: [
        s.case(s.normal(2, 3), axes=(0, 0)),
        s.case(s.normal(2, 3), axes=(0,)),
        s.case(s.normal(2, 3), axes=(0, 2)),
    ],
)  # fmt: skip


def permute(input: Tensor, dims: Any = (), *more: int) -> Tensor:
    """The dimensions in the given order."""
    return PERMUTE.run(input, axes=sizes_of((dims, *more)))


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dimensions exchanged."""
    ndim = input.data.ndim
    try:
        axes = _swapped(ndim, dim0, dim1)
    except IndexError:
        axes = ()
        if ndim or dim0 not in (0, -1) or dim1 not in (0, -1):  # a tensor without dimensions has one to speak of
            raise TrainerIndexError(
                f"transpose: there are no dimensions {dim0} and {dim1} in shape {input.shape}"
            ) from None
    return PERMUTE.run(input, axes)


swapaxes = transpose
swapdims = transpose


def t(input: Tensor) -> Tensor:
    """A matrix transposed; a vector as it is.

    Raises:
        ShapeError: there are more than two dimensions.
    """
    if input.ndim > 2:
        raise ShapeError(f"t: needs at most two dimensions, not shape {input.shape}: transpose(dim0, dim1) names two")
    return PERMUTE.run(input, axes=tuple(reversed(range(input.ndim))))


def reverse_dims(input: Tensor) -> Tensor:
    """All dimensions in reverse order: `.T`."""
    return PERMUTE.run(input, axes=tuple(reversed(range(input.ndim))))


def matrix_transpose(input: Tensor) -> Tensor:
    """The last two dimensions exchanged: `.mT`.

    Raises:
        ShapeError: there are fewer than two dimensions.
    """
    if input.ndim < 2:
        raise ShapeError(f"mT: needs at least two dimensions, not shape {input.shape}")
    return transpose(input, -2, -1)


def adjoint(input: Tensor) -> Tensor:
    """Matrices transposed and conjugated: `.mH`."""
    turned = matrix_transpose(input)
    return turned.conj() if input.dtype.kind == "c" else turned


def movedim(input: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """Dimensions moved to other places; the others keep their order.

    Raises:
        ShapeError: a dimension is named twice, or there is not one destination for each source.
    """
    sources, places = dimensions("movedim", input, source), dimensions("movedim", input, destination)
    if len(sources) != len(places):
        raise ShapeError(f"movedim: {len(sources)} dimensions {source} for {len(places)} places {destination}")
    axes = [axis for axis in range(input.ndim) if axis not in sources]
    for place, axis in sorted(zip(places, sources, strict=True)):
        axes.insert(place, axis)
    return PERMUTE.run(input, axes=tuple(axes))


moveaxis = movedim
