"""Tensors in company: joined along a dimension, or cut apart, and the products of their elements with each other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd.graph import apply
from cordee.trainer.autograd.out import into
from cordee.trainer.autograd.record import Sampler, Shape, op
from cordee.trainer.errors import ShapeError, TrainerIndexError
from cordee.trainer.ops.indexing import getitem
from cordee.trainer.ops.shape import dimension, ravel, reshape
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "atleast_1d", "atleast_2d", "atleast_3d", "cartesian_prod", "cat", "chunk", "column_stack",
    "combinations", "concat", "concatenate", "dsplit", "dstack", "hsplit", "hstack", "row_stack", "split",
    "split_with_sizes", "stack", "tensor_split", "unbind", "vsplit", "vstack",
]  # fmt: skip

METHODS = "chunk dsplit hsplit split split_with_sizes tensor_split unbind vsplit"


# -- joined ------------------------------------------------------------------------------------------------------------


def _cat_vjp(F: Any, g: Any, out: Any, *shapes: Any, needs: Sequence[bool], axis: int) -> Any:
    start, parts = 0, []
    for shape, needed in zip(shapes, needs, strict=True):
        size = shape[axis]
        place = [slice(None)] * len(shape)
        place[axis] = slice(start, start + size)
        parts.append(F.getitem(g, index=tuple(place)) if needed else None)
        start += size
    return tuple(parts)


def _cat_shape(*shapes: tuple[int, ...], axis: int) -> Shape:
    first = shapes[0]
    if not -len(first) <= axis < len(first):
        raise TrainerIndexError(f"there is no dimension {axis} in tensors of {len(first)} dimensions")
    for i, shape in enumerate(shapes):
        if len(shape) != len(first):
            raise ShapeError(f"tensor {i} has {len(shape)} dimensions, tensor 0 has {len(first)}")
        for dim, (n, m) in enumerate(zip(shape, first, strict=True)):
            if n != m and dim != axis % len(first):
                raise ShapeError(
                    f"tensor {i} has size {n} in dimension {dim}, tensor 0 has {m}: only dimension {axis} may differ"
                )
    at = axis % len(first)
    return (*first[:at], sum(shape[at] for shape in shapes), *first[at + 1 :])


def _cat_cases(s: Sampler) -> list[Any]:
    return [
        s.case(s.normal(2, 3), s.normal(1, 3), axis=0),
        s.case(s.normal(2, 1), s.normal(2, 2), s.normal(2, 3), axis=-1),
        s.case(s.normal(2), axis=0),
        s.case(s.normal(0, 2), s.normal(3, 2), axis=0),
    ]


CAT = op(
    "cat", "tensors one after the other along a dimension",
    forward=lambda xp, *arrays, axis: xp.concatenate(arrays, axis),
    vjp=_cat_vjp, saves=(), samples=_cat_cases, reference=lambda *arrays, axis: np.concatenate(arrays, axis),
    shape=_cat_shape,
    errors=lambda s: [
        s.case(s.normal(2, 3), s.normal(2, 4), axis=0),
        s.case(s.normal(2), s.normal(2, 2), axis=0),
        s.case(s.normal(2), s.normal(2), axis=1),
        s.case(s.normal(), s.normal(), axis=0),
    ],
)  # fmt: skip


def cat(tensors: Sequence[Tensor], dim: int = 0, *, out: Tensor | None = None) -> Tensor:
    """Tensors one after the other along a dimension; empty vectors among them are left out.

    Raises:
        ShapeError: their other sizes differ.
    """
    if out is not None:
        return into(out, cat(tensors, dim))
    second: Any = dim
    if isinstance(second, Tensor):  # cat(a, b)
        raise TypeError("cat: takes its tensors in a sequence: cat([a, b])")
    if not len(tensors):
        raise ShapeError("cat: needs at least one tensor")
    try:
        return apply(CAT, *tensors, axis=dim)  # type: ignore[no-any-return]
    except (ShapeError, TrainerIndexError):
        if not all(isinstance(tensor, Tensor) for tensor in tensors):
            found = ", ".join(type(tensor).__name__ for tensor in tensors)
            raise TypeError(f"cat: needs tensors, not {found}") from None
        some = [tensor for tensor in tensors if tensor.shape != (0,)]
        if not some or len(some) == len(tensors):
            raise
        return apply(CAT, *some, axis=dim)  # type: ignore[no-any-return]


concat = cat
concatenate = cat


def _stack(xp: Any, *arrays: Any, axis: int) -> Any:
    ndim = arrays[0].ndim + 1
    if not -ndim <= axis < ndim:
        raise IndexError("no such dimension")
    place = (*(slice(None),) * (axis % ndim), None)
    return xp.concatenate([a[place] for a in arrays], axis)


def _stack_vjp(F: Any, g: Any, out: Any, *shapes: Any, needs: Sequence[bool], axis: int) -> Any:
    lead = (slice(None),) * (axis % (len(shapes[0]) + 1))
    return tuple(F.getitem(g, index=(*lead, i)) if needed else None for i, needed in enumerate(needs))


def _stack_shape(*shapes: tuple[int, ...], axis: int) -> Shape:
    first = shapes[0]
    for i, shape in enumerate(shapes):
        if shape != first:
            raise ShapeError(f"tensor {i} has shape {shape}, tensor 0 has shape {first}: they must be equal")
    ndim = len(first) + 1
    if not -ndim <= axis < ndim:
        raise TrainerIndexError(f"there is no dimension {axis} in a result of {ndim} dimensions")
    at = axis % ndim
    return (*first[:at], len(shapes), *first[at:])


STACK = op(
    "stack", "tensors of one shape side by side along a new dimension",
    forward=_stack, vjp=_stack_vjp, saves=(), shape=_stack_shape,
    reference=lambda *arrays, axis: np.stack(arrays, axis),
    samples=lambda s: [
        s.case(s.normal(2, 3), s.normal(2, 3), axis=0),
        s.case(s.normal(2), s.normal(2), s.normal(2), axis=-1),
        s.case(s.normal(), s.normal(), axis=0),
        s.case(s.normal(0, 2), s.normal(0, 2), axis=1),
    ],
    errors=lambda s: [s.case(s.normal(2, 3), s.normal(3, 2), axis=0), s.case(s.normal(2), s.normal(2), axis=2)],
)  # fmt: skip


def stack(tensors: Sequence[Tensor], dim: int = 0, *, out: Tensor | None = None) -> Tensor:
    """Tensors of one shape side by side along a new dimension.

    Raises:
        ShapeError: their shapes differ.
    """
    if out is not None:
        return into(out, stack(tensors, dim))
    if not tensors:
        raise ShapeError("stack: needs at least one tensor")
    return apply(STACK, *tensors, axis=dim)  # type: ignore[no-any-return]


def _each(function: Any, tensors: Any) -> Any:
    """A function of one tensor, of several, or of a sequence of them."""
    if len(tensors) == 1:
        return function(tensors[0]) if isinstance(tensors[0], Tensor) else tuple(map(function, tensors[0]))
    return tuple(map(function, tensors))


def atleast_1d(*tensors: Any) -> Any:
    """With at least one dimension: one tensor, or a tuple where several are given."""
    return _each(lambda x: x if x.ndim else reshape(x, 1), tensors)


def atleast_2d(*tensors: Any) -> Any:
    """With at least two dimensions, new ones in front: one tensor, or a tuple where several are given."""
    return _each(lambda x: x if x.ndim > 1 else reshape(x, (1, max(x.data.size, 0)) if x.ndim else (1, 1)), tensors)


def atleast_3d(*tensors: Any) -> Any:
    """With at least three dimensions: a vector becomes `(1, n, 1)`, a matrix `(m, n, 1)`."""

    def raised(x: Tensor) -> Tensor:
        if x.ndim > 2:
            return x
        return reshape(x, (*x.shape, 1) if x.ndim == 2 else (1, x.data.size, 1))

    return _each(raised, tensors)


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Side by side: along dimension 1, vectors along dimension 0."""
    parts = atleast_1d(list(tensors))
    return cat(parts, 0 if parts[0].ndim == 1 else 1)


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """One below the other: along dimension 0, vectors as rows."""
    return cat(atleast_2d(list(tensors)), 0)


row_stack = vstack


def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """One behind the other: along dimension 2."""
    return cat(atleast_3d(list(tensors)), 2)


def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Side by side along dimension 1, vectors as columns."""
    return cat([reshape(x, -1, 1) if x.ndim <= 1 else x for x in tensors], 1)


def cartesian_prod(*tensors: Any) -> Tensor:
    """All combinations of one element of each vector, one row each, the last changing fastest."""
    for i, tensor in enumerate(tensors):
        if tensor.ndim != 1:
            raise ShapeError(f"cartesian_prod: tensor {i} has shape {tensor.shape}; it needs vectors")
    if len(tensors) == 1:
        return tensors[0]  # type: ignore[no-any-return]
    shape = tuple(tensor.shape[0] for tensor in tensors)
    columns = [
        ravel(reshape(x, (*(1,) * i, -1 if x.data.size else 0, *(1,) * (len(shape) - i - 1))).broadcast_to(shape))
        for i, x in enumerate(tensors)
    ]
    return stack(columns, 1)


def combinations(input: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """All ways to choose `r` elements of a vector, in order, one row each."""
    if input.ndim != 1:
        raise ShapeError(f"combinations: needs a vector, not shape {input.shape}")
    if r < 0:
        raise ShapeError(f"combinations: r must be at least 0, not {r}")
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    chosen = np.array(list(choose(range(input.shape[0]), r)), np.int64).reshape(-1, r)
    if r == 0:
        return input[:0]
    return getitem(input, wrap(array_module(input.data).asarray(chosen)))


# -- cut apart ---------------------------------------------------------------------------------------------------------


def split(tensor: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Pieces along a dimension: of one size (the last may be smaller), or of the given sizes.

    Raises:
        ShapeError: the sizes do not add up to that of the dimension.
    """
    at = dimension("split", tensor, dim)
    total = tensor.shape[at]
    if isinstance(split_size_or_sections, int):
        size = split_size_or_sections
        if size < 1 and (size < 0 or total):
            raise ShapeError(f"split: a piece has at least size 1, not {size}")
        sections = [min(size, total - start) for start in range(0, total, size or 1)] or [0]
    else:
        sections = list(split_size_or_sections)
        if sum(sections) != total or min(sections, default=0) < 0:
            raise ShapeError(f"split: sections {sections} add up to {sum(sections)}, dimension {dim} has {total}")
    return _pieces(tensor, at, list(itertools.accumulate(sections, initial=0)))


def split_with_sizes(input: Tensor, split_sizes: Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Pieces of the given sizes along a dimension."""
    return split(input, tuple(split_sizes), dim)


def _pieces(tensor: Tensor, at: int, bounds: Sequence[int]) -> tuple[Tensor, ...]:
    lead = (slice(None),) * at
    return tuple([getitem(tensor, (*lead, slice(start, end))) for start, end in itertools.pairwise(bounds)])


def tensor_split(input: Tensor, indices_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Pieces along a dimension: so many of nearly equal size (the first ones larger), or cut at the given places."""
    at = dimension("tensor_split", input, dim)
    total = input.shape[at]
    given = indices_or_sections.tolist() if isinstance(indices_or_sections, Tensor) else indices_or_sections
    if isinstance(given, int):
        if given < 1:
            raise ShapeError(f"tensor_split: there is at least 1 piece, not {given}")
        least, more = divmod(total, given)
        return _pieces(input, at, list(itertools.accumulate([least + (i < more) for i in range(given)], initial=0)))
    cuts = [slice(None, cut).indices(total)[1] for cut in given]
    lead = (slice(None),) * at
    return tuple(
        [getitem(input, (*lead, slice(a, max(a, b)))) for a, b in zip([0, *cuts], [*cuts, total], strict=True)]
    )


def _split_along(name: str, input: Tensor, given: Any, dim: int, least: int) -> tuple[Tensor, ...]:
    if input.ndim < least:
        raise ShapeError(f"{name}: needs at least {least} dimensions, not shape {input.shape}")
    if isinstance(given, int) and (given < 1 or input.shape[dim] % given):
        raise ShapeError(f"{name}: dimension {dim} of shape {input.shape} cannot be cut into {given} equal pieces")
    return tensor_split(input, given, dim)


def hsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """Equal pieces, or pieces cut at the given places, along dimension 1 (of a vector: 0)."""
    return _split_along("hsplit", input, indices_or_sections, 0 if input.ndim == 1 else 1, 1)


def vsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """Equal pieces, or pieces cut at the given places, along dimension 0."""
    return _split_along("vsplit", input, indices_or_sections, 0, 2)


def dsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """Equal pieces, or pieces cut at the given places, along dimension 2."""
    return _split_along("dsplit", input, indices_or_sections, 2, 3)


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` pieces of equal size along a dimension (the last may be smaller)."""
    if chunks < 1:
        raise ShapeError(f"chunk: there is at least 1 piece, not {chunks}")
    total = input.shape[dimension("chunk", input, dim)]
    return split(input, -(-total // chunks), dim) if total else split(input, [0] * chunks, dim)


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """All slices along a dimension, without it."""
    at = dimension("unbind", input, dim)
    lead = (slice(None),) * at
    return tuple([getitem(input, (*lead, i)) for i in range(input.data.shape[at])])
