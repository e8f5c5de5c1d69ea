"""The same elements in another order, and the triangles and diagonals of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cordee.trainer.autograd.record import Sampler, Shape, op
from cordee.trainer.errors import ShapeError, TrainerIndexError
from cordee.trainer.ops.shape import dimension, dimensions, ravel, sizes_of, transpose
from cordee.trainer.tensors import Tensor

__all__ = [
    "diag", "diag_embed", "diagflat", "diagonal", "diagonal_scatter", "flip", "fliplr", "flipud", "roll", "rot90",
    "tril", "triu",
]  # fmt: skip

METHODS = "diag diag_embed diagflat diagonal diagonal_scatter flip fliplr flipud roll rot90 tril triu"
INPLACE = "tril triu"


# -- order of the elements ---------------------------------------------------------------------------------------------


def _check_axes(a: tuple[int, ...], axes: Sequence[int]) -> None:
    for axis in axes:
        if not -len(a) <= axis < len(a):
            raise TrainerIndexError(f"there is no dimension {axis} in a tensor of {len(a)} dimensions")
    if len({axis % len(a) for axis in axes}) != len(axes):
        raise ShapeError(f"{tuple(axes)} names a dimension twice")


def _flip_shape(a: tuple[int, ...], *, axis: tuple[int, ...]) -> Shape:
    _check_axes(a, axis)
    return a


FLIP = op(
    "flip", "the elements in reverse order along dimensions",
    forward=lambda xp, a, *, axis: xp.flip(a, axis).copy(), vjps=(lambda F, g, out, a, *, axis: F.flip(g, axis=axis),),
    saves=("",), reference=np.flip, shape=_flip_shape, dtype="first",
    samples=lambda s: [
        s.case(s.normal(2, 3), axis=(0,)),
        s.case(s.normal(2, 3), axis=(0, -1)),
        s.case(s.normal(2, 0), axis=(1,)),
    ],
    errors=lambda s: [s.case(s.normal(2, 3), axis=(2,)), s.case(s.normal(2, 3), axis=(0, 0))],
)  # fmt: skip


def flip(input: Tensor, dims: Any, *more: int) -> Tensor:
    """The elements in reverse order along dimensions: `flip(x, (0, 1))` or `x.flip(0, 1)`."""
    axes = sizes_of((dims, *more))
    return FLIP.run(input, axis=dimensions("flip", input, axes) if input.ndim else ())


def fliplr(input: Tensor) -> Tensor:
    """The order of the columns (dimension 1) reversed."""
    return FLIP.run(input, axis=(1,))


def flipud(input: Tensor) -> Tensor:
    """The order of the rows (dimension 0) reversed."""
    return FLIP.run(input, axis=(0,))


def _roll_shape(a: tuple[int, ...], *, shifts: tuple[int, ...], axis: tuple[int, ...]) -> Shape:
    if len(shifts) != len(axis):
        raise ShapeError(f"{len(shifts)} shifts {shifts} for {len(axis)} dimensions {axis}")
    for one in axis:
        _check_axes(a, (one,))
    return a


def _roll_vjp(F: Any, g: Any, out: Any, a: Any, *, shifts: tuple[int, ...], axis: tuple[int, ...]) -> Any:
    return F.roll(g, shifts=tuple(-n for n in shifts), axis=axis)


ROLL = op(
    "roll", "the elements moved along dimensions; what leaves at the end comes in at the start",
    forward=lambda xp, a, *, shifts, axis: xp.roll(a, shifts, axis), vjps=(_roll_vjp,), saves=("",),
    reference=lambda a, *, shifts, axis: np.roll(a, shifts, axis), shape=_roll_shape, dtype="first",
    samples=lambda s: [
        s.case(s.normal(2, 3), shifts=(1,), axis=(1,)),
        s.case(s.normal(2, 3), shifts=(-4, 1), axis=(1, 0)),
        s.case(s.normal(0, 3), shifts=(2,), axis=(0,)),
    ],
    errors=lambda s: [
        s.case(s.normal(2, 3), shifts=(1,), axis=(2,)),
        s.case(s.normal(2), shifts=(1, 1, 1), axis=(0, 0)),
    ],
)  # fmt: skip


def roll(input: Tensor, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None) -> Tensor:
    """The elements moved along dimensions, in a circle; without dimensions, as if there were only one.

    Raises:
        ShapeError: there is not one shift for each dimension.
    """
    moves = (shifts,) if isinstance(shifts, int) else tuple(shifts)
    if not moves:
        raise ShapeError("roll: needs at least one shift")
    if dims is None or dims == ():
        return ROLL.run(ravel(input), shifts=moves, axis=(0,)).reshape(input.shape)
    axes = (dims,) if isinstance(dims, int) else tuple(dims)
    if len(moves) != len(axes):
        raise ShapeError(f"roll: {len(moves)} shifts {moves} for {len(axes)} dimensions {axes}")
    return ROLL.run(input, shifts=moves, axis=axes)


def rot90(input: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    """Turned by k quarter turns in the plane of two dimensions, from the first towards the second."""
    first, second = dimensions("rot90", input, dims)
    turns = k % 4
    if turns == 2:
        return flip(input, first, second)
    if turns == 0:
        return input.clone()
    if turns == 1:
        return transpose(flip(input, second), first, second)
    return flip(transpose(input, first, second), second)


# -- triangles ---------------------------------------------------------------------------------------------------------


def _matrix_shape(a: tuple[int, ...], *, k: int) -> Shape:
    if len(a) < 2:
        raise ShapeError(f"needs at least two dimensions, not {len(a)}")
    return a


def _triangle(name: str) -> Any:
    def forward(xp: Any, a: Any, *, k: int) -> Any:
        if a.ndim < 2:  # NumPy would make a matrix of a vector
            raise ValueError("needs at least two dimensions")
        return getattr(xp, name)(a, k)

    return forward


def _triangle_cases(s: Sampler) -> list[Any]:
    return [
        s.case(s.normal(3, 3), k=0),
        s.case(s.normal(2, 2, 3), k=-1),
        s.case(s.normal(2, 3), k=1),
        s.case(s.normal(0, 3), k=0),
    ]


def _one_dimension(s: Sampler) -> list[Any]:
    return [s.case(s.normal(3), k=0)]


TRIL = op(
    "tril", "the lower triangle of matrices; zeros above",
    forward=_triangle("tril"), vjps=(lambda F, g, out, a, *, k: F.tril(g, k=k),), saves=("",), reference=np.tril,
    samples=_triangle_cases, errors=_one_dimension, shape=_matrix_shape, dtype="first",
)  # fmt: skip

TRIU = op(
    "triu", "the upper triangle of matrices; zeros below",
    forward=_triangle("triu"), vjps=(lambda F, g, out, a, *, k: F.triu(g, k=k),), saves=("",), reference=np.triu,
    samples=_triangle_cases, errors=_one_dimension, shape=_matrix_shape, dtype="first",
)  # fmt: skip


def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle of matrices; zeros above the given diagonal."""
    return TRIL.run(input, k=diagonal)


def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle of matrices; zeros below the given diagonal."""
    return TRIU.run(input, k=diagonal)


# -- diagonals ---------------------------------------------------------------------------------------------------------


def _diagonal_of(xp: Any, a: Any, offset: int, axis1: int, axis2: int) -> Any:
    """A view, which may be written to (NumPy's own may not)."""
    if not -a.ndim <= axis1 < a.ndim or not -a.ndim <= axis2 < a.ndim or axis1 % a.ndim == axis2 % a.ndim:
        raise IndexError("no such dimensions")
    first, second = axis1 % a.ndim, axis2 % a.ndim
    a = a.transpose(*(i for i in range(a.ndim) if i not in (first, second)), first, second)
    a = a[..., max(-offset, 0) :, max(offset, 0) :]
    count = min(a.shape[-2:])
    strides = (*a.strides[:-2], a.strides[-2] + a.strides[-1])
    return xp.lib.stride_tricks.as_strided(a, (*a.shape[:-2], count), strides)


def _diagonal_shape(a: tuple[int, ...], *, offset: int, axis1: int, axis2: int) -> Shape:
    if len(a) < 2:
        raise ShapeError(f"needs at least two dimensions, not {len(a)}")
    _check_axes(a, (axis1, axis2))
    first, second = axis1 % len(a), axis2 % len(a)
    count = max(min(a[first] + min(offset, 0), a[second] - max(offset, 0)), 0)
    return (*(n for i, n in enumerate(a) if i not in (first, second)), count)


def _diagonal_cases(s: Sampler) -> list[Any]:
    return [
        s.case(s.normal(3, 4), offset=0, axis1=0, axis2=1),
        s.case(s.normal(2, 3, 2), offset=1, axis1=-1, axis2=1),
        s.case(s.normal(3, 2), offset=-2, axis1=0, axis2=1),
        s.case(s.normal(2, 3), offset=4, axis1=0, axis2=1),
    ]


def _diagonal_errors(s: Sampler) -> list[Any]:
    return [
        s.case(s.normal(3), offset=0, axis1=0, axis2=1),
        s.case(s.normal(3, 3), offset=0, axis1=0, axis2=2),
        s.case(s.normal(3, 3), offset=0, axis1=1, axis2=-1),
    ]


DIAGONAL = op(
    "diagonal", "the diagonal of matrices, as the last dimension",
    forward=lambda xp, a, *, offset, axis1, axis2: _diagonal_of(xp, a, offset, axis1, axis2),
    vjps=(lambda F, g, out, a, **where: F.undiagonal(g, shape=a, **where),),
    saves=("",), reference=lambda a, *, offset, axis1, axis2: np.diagonal(a, offset, axis1, axis2),
    shape=_diagonal_shape, dtype="first", view=True, samples=_diagonal_cases, errors=_diagonal_errors,
)  # fmt: skip


def _undiagonal(xp: Any, a: Any, *, shape: tuple[int, ...], offset: int, axis1: int, axis2: int) -> Any:
    out = xp.zeros(shape, a.dtype)
    place = _diagonal_of(xp, out, offset, axis1, axis2)
    if place.shape != a.shape:
        raise ValueError("it does not fit the diagonal")
    place[...] = a
    return out


def _undiagonal_shape(a: tuple[int, ...], *, shape: tuple[int, ...], offset: int, axis1: int, axis2: int) -> Shape:
    place = _diagonal_shape(shape, offset=offset, axis1=axis1, axis2=axis2)
    if a != place:
        raise ShapeError(f"shape {a} does not fill the diagonal, of shape {place}, of a tensor of shape {shape}")
    return shape


UNDIAGONAL = op(
    "undiagonal", "zeros, with the last dimension as a diagonal: the gradient of diagonal",
    forward=_undiagonal,
    vjps=(lambda F, g, out, a, *, shape, offset, axis1, axis2: F.diagonal(g, offset=offset, axis1=axis1, axis2=axis2),),
    saves=("",), shape=_undiagonal_shape, dtype="first",
    reference=lambda a, shape, offset, axis1, axis2: _undiagonal(
        np, a, shape=shape, offset=offset, axis1=axis1, axis2=axis2
    ),
    samples=lambda s: [
        s.case(s.normal(3), shape=(3, 4), offset=0, axis1=0, axis2=1),
        s.case(s.normal(3, 2), shape=(2, 3, 4), offset=1, axis1=0, axis2=2),
    ],
    errors=lambda s: [s.case(s.normal(2), shape=(3, 4), offset=0, axis1=0, axis2=1)],
)  # fmt: skip


def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonal of the matrices in two dimensions, as the last dimension: a view.

    `offset` counts diagonals to the right of the main one.
    """
    return DIAGONAL.run(input, offset=offset, axis1=dim1, axis2=dim2)


def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Square matrices, in dimensions dim1 and dim2, with the last dimension of `input` as a diagonal."""
    if not input.ndim:
        raise ShapeError("diag_embed: needs at least one dimension")
    first, second = dimension("diag_embed", input, dim1, new=1), dimension("diag_embed", input, dim2, new=1)
    if first == second:
        raise ShapeError(f"diag_embed: dim1 {dim1} and dim2 {dim2} are the same dimension")
    size = input.shape[-1] + abs(offset)
    rest = iter(input.shape[:-1])
    shape = tuple(size if i in (first, second) else next(rest) for i in range(input.ndim + 1))
    return UNDIAGONAL.run(input, shape=shape, offset=offset, axis1=first, axis2=second)


def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """Of a vector, the matrix with it on a diagonal; of a matrix, its diagonal.

    Raises:
        ShapeError: there are neither one nor two dimensions.
    """
    if input.ndim == 1:
        return diag_embed(input, diagonal)
    if input.ndim == 2:
        return DIAGONAL.run(input, offset=diagonal, axis1=0, axis2=1).clone()
    raise ShapeError(f"diag: needs a vector or a matrix, not shape {input.shape}")


def diagflat(input: Tensor, offset: int = 0) -> Tensor:
    """The matrix with all elements on a diagonal."""
    return diag_embed(ravel(input), offset)


def _diagonal_scatter(xp: Any, a: Any, src: Any, *, offset: int, axis1: int, axis2: int) -> Any:
    out = a.copy()
    place = _diagonal_of(xp, out, offset, axis1, axis2)
    if hasattr(src, "shape") and src.shape != place.shape:
        raise ValueError("it does not fit the diagonal")
    place[...] = src
    return out


def _diagonal_scatter_shape(a: tuple[int, ...], src: tuple[int, ...], *, offset: int, axis1: int, axis2: int) -> Shape:
    if src != ():
        _undiagonal_shape(src, shape=a, offset=offset, axis1=axis1, axis2=axis2)
    return a


DIAGONAL_SCATTER = op(
    "diagonal_scatter", "a with another diagonal",
    forward=_diagonal_scatter,
    vjps=(
        lambda F, g, out, a, src, **where: F.diagonal_scatter(g, 0.0, **where),
        lambda F, g, out, a, src, **where: F.diagonal(g, **where),
    ),
    saves=("", ""), shape=_diagonal_scatter_shape, dtype="first",
    reference=lambda a, src, **where: a - _undiagonal(np, _diagonal_of(np, a, *where.values()), shape=a.shape, **where)
    + _undiagonal(np, src, shape=a.shape, **where),
    samples=lambda s: [
        s.case(s.normal(3, 4), s.normal(3), offset=0, axis1=0, axis2=1),
        s.case(s.normal(2, 3, 4), s.normal(3, 2), offset=1, axis1=0, axis2=2),
    ],
    errors=lambda s: [s.case(s.normal(3, 4), s.normal(4), offset=0, axis1=0, axis2=1)],
)  # fmt: skip


def diagonal_scatter(input: Tensor, src: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """`input` with `src` for a diagonal.

    Raises:
        ShapeError: `src` has not the diagonal's shape.
    """
    return DIAGONAL_SCATTER.run(input, src, offset=offset, axis1=dim1, axis2=dim2)
