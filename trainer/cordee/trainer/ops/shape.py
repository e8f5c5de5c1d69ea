"""Rearranging: the same elements in another shape, order or company. Mostly views, which cost nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cordee.trainer.autograd.graph import apply, apply_one
from cordee.trainer.autograd.record import Sampler, op
from cordee.trainer.errors import ShapeError, TrainerIndexError
from cordee.trainer.tensors import Tensor

__all__ = [
    "broadcast_to", "cat", "chunk", "concat", "expand", "flatten", "flip", "movedim", "pad", "permute", "repeat",
    "reshape", "split", "squeeze", "stack", "swapaxes", "t", "transpose", "tril", "triu", "unbind", "unflatten",
    "unsqueeze", "view",
]  # fmt: skip

METHODS = (
    "broadcast_to chunk expand flatten flip movedim permute repeat reshape split squeeze swapaxes t transpose tril triu unbind unflatten unsqueeze view"
)


def _sizes(shape: tuple[Any, ...]) -> tuple[int, ...]:
    """`f(2, 3)` and `f((2, 3))` mean the same."""
    return tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape


def dimension(name: str, input: Tensor, dim: int, new: int = 0) -> int:
    """A dimension counted from the front; `new`: how many more there will be. Refused when there is none such."""
    count = input.ndim + new
    if not -count <= dim < count:
        raise TrainerIndexError(
            f"{name}: there is no dimension {dim}" + (f" in shape {input.shape}" if not new else f" of {count}")
        )
    return dim % count


# -- reshape -----------------------------------------------------------------------------------------------------------


def _explain_reshape(a: tuple[int, ...], *, shape: tuple[int, ...]) -> str:
    return f"{math.prod(a)} elements do not fill shape {shape}"


RESHAPE = op(
    "reshape", "the same elements in row-major order, in another shape",
    forward=lambda xp, a, *, shape: a.reshape(shape),
    vjps=(lambda F, g, out, a, *, shape: F.reshape(g, shape=a),),
    saves=("",), reference=np.reshape, explain=_explain_reshape,
    samples=lambda s: [
        s.case(s.normal(2, 3), shape=(3, 2)),
        s.case(s.normal(4), shape=(2, -1)),
        s.case(s.normal(1), shape=()),
    ],
    errors=lambda s: [s.case(s.normal(2, 3), shape=(4, 2))],
)  # fmt: skip


def reshape(input: Tensor, *shape: Any) -> Tensor:
    """The same elements in another shape; one size may be -1."""
    return apply_one(RESHAPE, input, shape=_sizes(shape))


view = reshape


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The dimensions from start_dim to end_dim as one."""
    old = input.shape
    if not old:
        return reshape(input, 1)
    start, end = dimension("flatten", input, start_dim), dimension("flatten", input, end_dim)
    return reshape(input, (*old[:start], math.prod(old[start : end + 1]), *old[end + 1 :]))


def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """One dimension as several."""
    old, at = input.shape, dimension("unflatten", input, dim)
    return reshape(input, (*old[:at], *sizes, *old[at + 1 :]))


def squeeze(input: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """Without dimensions of size 1: all such, or those given."""
    old = input.shape
    if dim is None or not old:
        drop: Any = range(len(old))
    else:
        drop = [dimension("squeeze", input, d) for d in (dim if isinstance(dim, tuple) else (dim,))]
    return reshape(input, tuple(n for i, n in enumerate(old) if n != 1 or i not in drop))


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With a new dimension of size 1 at `dim`."""
    old = input.shape
    at = dimension("unsqueeze", input, dim, new=1)
    return reshape(input, (*old[:at], 1, *old[at:]))


# -- order of dimensions -----------------------------------------------------------------------------------------------


def _inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    """The order that undoes an order."""
    return tuple(sorted(range(len(axes)), key=lambda i: axes[i] % len(axes)))


PERMUTE = op(
    "permute", "the dimensions in another order",
    forward=lambda xp, a, *, axes: a.transpose(axes),
    vjps=(lambda F, g, out, a, *, axes: F.permute(g, axes=_inverse(axes)),),
    saves=("",), reference=np.transpose,
    samples=lambda s: [s.case(s.normal(2, 3, 4), axes=(2, 0, 1)), s.case(s.normal(2, 3), axes=(-1, 0))],
    errors=lambda s: [s.case(s.normal(2, 3), axes=(0, 0)), s.case(s.normal(2, 3), axes=(0,))],
    explain=lambda a, *, axes: f"{axes} does not name each of the {len(a)} dimensions once",
)  # fmt: skip


def permute(input: Tensor, *dims: Any) -> Tensor:
    """The dimensions in the given order."""
    return apply_one(PERMUTE, input, axes=_sizes(dims))


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dimensions exchanged."""
    axes = list(range(input.ndim))
    try:
        axes[dim0], axes[dim1] = axes[dim1], axes[dim0]
    except IndexError:
        raise ShapeError(f"transpose: there are no dimensions {dim0} and {dim1} in shape {input.shape}") from None
    return apply_one(PERMUTE, input, axes=tuple(axes))


swapaxes = transpose


def t(input: Tensor) -> Tensor:
    """A matrix transposed; a vector as it is."""
    return apply_one(PERMUTE, input, axes=tuple(reversed(range(input.ndim))))


def movedim(input: Tensor, source: int, destination: int) -> Tensor:
    """One dimension moved to another place."""
    axes = list(range(input.ndim))
    place = dimension("movedim", input, destination)
    axes.insert(place, axes.pop(dimension("movedim", input, source)))
    return apply_one(PERMUTE, input, axes=tuple(axes))


# -- repetition --------------------------------------------------------------------------------------------------------

BROADCAST_TO = op(
    "broadcast_to", "repeated along dimensions of size 1, or new leading ones, up to a shape",
    forward=lambda xp, a, *, shape: xp.broadcast_to(a, shape),
    vjps=(lambda F, g, out, a, *, shape: F.sum_to(g, shape=a),),
    saves=("",), reference=np.broadcast_to,
    samples=lambda s: [
        s.case(s.normal(3), shape=(2, 3)),
        s.case(s.normal(2, 1), shape=(4, 2, 3)),
        s.case(s.normal(), shape=(2,)),
    ],
    errors=lambda s: [s.case(s.normal(2, 3), shape=(2, 4))],
    explain=lambda a, *, shape: f"shape {a} cannot be repeated up to shape {shape}: only sizes of 1 can",
)  # fmt: skip


def broadcast_to(input: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeated, without a copy, up to a shape."""
    return apply_one(BROADCAST_TO, input, shape=tuple(shape))


def expand(input: Tensor, *sizes: Any) -> Tensor:
    """Repeated, without a copy, up to a shape; -1 leaves a size as it is."""
    wanted = _sizes(sizes)
    lead = len(wanted) - input.ndim
    return broadcast_to(input, [input.shape[i - lead] if n == -1 else n for i, n in enumerate(wanted)])


def repeat(input: Tensor, *sizes: Any) -> Tensor:
    """Whole copies side by side: how many along each dimension."""
    times = _sizes(sizes)
    own = (1,) * (len(times) - input.ndim) + input.shape
    spaced = input.reshape([n for size in own for n in (1, size)])
    return broadcast_to(spaced, [n for k, size in zip(times, own, strict=True) for n in (k, size)]).reshape(
        [k * size for k, size in zip(times, own, strict=True)]
    )


# -- company -----------------------------------------------------------------------------------------------------------


def _cat_vjp(F: Any, g: Any, out: Any, *shapes: Any, needs: Sequence[bool], axis: int) -> Any:
    start, parts = 0, []
    for shape, needed in zip(shapes, needs, strict=True):
        size = shape[axis]
        place = [slice(None)] * len(shape)
        place[axis] = slice(start, start + size)
        parts.append(F.getitem(g, index=tuple(place)) if needed else None)
        start += size
    return tuple(parts)


def _explain_cat(*shapes: tuple[int, ...], axis: int) -> str | None:
    first = shapes[0]
    for i, shape in enumerate(shapes):
        if len(shape) != len(first):
            return f"tensor {i} has {len(shape)} dimensions, tensor 0 has {len(first)}"
        for dim, (n, m) in enumerate(zip(shape, first, strict=True)):
            if n != m and dim != axis % len(first):
                return f"tensor {i} has size {n} in dimension {dim}, tensor 0 has {m}: only dimension {axis} may differ"
    return None


def _cat_cases(s: Sampler) -> list[Any]:
    return [
        s.case(s.normal(2, 3), s.normal(1, 3), axis=0),
        s.case(s.normal(2, 1), s.normal(2, 2), s.normal(2, 3), axis=-1),
        s.case(s.normal(2), axis=0),
    ]


CAT = op(
    "cat", "tensors one after the other along a dimension",
    forward=lambda xp, *arrays, axis: xp.concatenate(arrays, axis),
    vjp=_cat_vjp, saves=(), samples=_cat_cases, reference=lambda *arrays, axis: np.concatenate(arrays, axis),
    errors=lambda s: [s.case(s.normal(2, 3), s.normal(2, 4), axis=0), s.case(s.normal(2), s.normal(2, 2), axis=0)],
    explain=_explain_cat,
)  # fmt: skip


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors one after the other along a dimension."""
    if not tensors:
        raise ShapeError("cat: needs at least one tensor")
    return apply(CAT, *tensors, axis=dim)


concat = cat


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape side by side along a new dimension."""
    for i, tensor in enumerate(tensors):
        if tensor.shape != tensors[0].shape:
            raise ShapeError(
                f"stack: tensor {i} has shape {tensor.shape}, tensor 0 {tensors[0].shape}; they must be equal"
            )
    return cat([unsqueeze(tensor, dim) for tensor in tensors], dim)


def split(tensor: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Pieces along a dimension: of one size (the last may be smaller), or of the given sizes."""
    total = tensor.shape[dimension("split", tensor, dim)]
    if isinstance(split_size_or_sections, int):
        size = split_size_or_sections
        if size < 1:
            raise ShapeError(f"split: a piece has at least size 1, not {size}")
        sections = [min(size, total - start) for start in range(0, total, size)]
    else:
        sections = list(split_size_or_sections)
        if sum(sections) != total:
            raise ShapeError(f"split: sections {sections} add up to {sum(sections)}, dimension {dim} has {total}")
    pieces, start = [], 0
    for size in sections:
        pieces.append(tensor.narrow(dim, start, size))
        start += size
    return tuple(pieces)


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` pieces of equal size along a dimension (the last may be smaller)."""
    if chunks < 1:
        raise ShapeError(f"chunk: there is at least 1 piece, not {chunks}")
    return split(input, max(-(-input.shape[dimension("chunk", input, dim)] // chunks), 1), dim)


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """All slices along a dimension, without it."""
    return tuple(input.select(dim, i) for i in range(input.shape[dimension("unbind", input, dim)]))


# -- edges and triangles -----------------------------------------------------------------------------------------------


def _pad(xp: Any, a: Any, *, widths: tuple[tuple[int, int], ...], value: float) -> Any:
    out = xp.full([n + before + after for n, (before, after) in zip(a.shape, widths, strict=True)], value, a.dtype)
    out[tuple(slice(before, before + n) for n, (before, _) in zip(a.shape, widths, strict=True))] = a
    return out


def _pad_vjp(F: Any, g: Any, out: Any, a: Any, *, widths: tuple[tuple[int, int], ...], value: float) -> Any:
    return F.getitem(g, index=tuple(slice(before, before + n) for n, (before, _) in zip(a, widths, strict=True)))


PAD = op(
    "pad", "a border of a constant around the tensor",
    forward=_pad, vjps=(_pad_vjp,), saves=("",),
    reference=lambda a, widths, value: np.pad(a, widths, constant_values=value),
    samples=lambda s: [
        s.case(s.normal(2, 3), widths=((1, 0), (0, 2)), value=0.5),
        s.case(s.normal(2), widths=((0, 0),), value=0.0),
    ],
    errors=lambda s: [s.case(s.normal(2, 3), widths=((1, 1),), value=0.0)],
    explain=lambda a, *, widths, value: f"{len(widths)} pairs of widths for {len(a)} dimensions",
)  # fmt: skip


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    """A border of a constant. `pad` counts from the last dimension: `(left, right, top, bottom, …)`."""
    if mode != "constant":
        raise ValueError(f"pad: the only mode is 'constant', not {mode!r}")
    if len(pad) % 2 or len(pad) > 2 * input.ndim:
        raise ShapeError(
            f"pad: {tuple(pad)} is not one pair of widths for each of the last dimensions of shape {input.shape}"
        )
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    widths = [(0, 0)] * (input.ndim - len(pairs)) + pairs[::-1]
    return apply_one(PAD, input, widths=tuple(widths), value=value)


FLIP = op(
    "flip", "the elements in reverse order along dimensions",
    forward=lambda xp, a, *, axis: xp.flip(a, axis), vjps=(lambda F, g, out, a, *, axis: F.flip(g, axis=axis),),
    saves=("",), reference=np.flip,
    samples=lambda s: [s.case(s.normal(2, 3), axis=(0,)), s.case(s.normal(2, 3), axis=(0, 1))],
)  # fmt: skip


def flip(input: Tensor, dims: Sequence[int]) -> Tensor:
    """The elements in reverse order along dimensions."""
    return apply_one(FLIP, input, axis=tuple(dims))


TRIL = op(
    "tril", "the lower triangle of matrices; zeros above",
    forward=lambda xp, a, *, k: xp.tril(a, k), vjps=(lambda F, g, out, a, *, k: F.tril(g, k=k),),
    saves=("",), reference=np.tril, samples=lambda s: [s.case(s.normal(3, 3), k=0), s.case(s.normal(2, 2, 3), k=-1)],
)  # fmt: skip

TRIU = op(
    "triu", "the upper triangle of matrices; zeros below",
    forward=lambda xp, a, *, k: xp.triu(a, k), vjps=(lambda F, g, out, a, *, k: F.triu(g, k=k),),
    saves=("",), reference=np.triu, samples=lambda s: [s.case(s.normal(3, 3), k=0), s.case(s.normal(2, 2, 3), k=1)],
)  # fmt: skip


def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle of matrices; zeros above the given diagonal."""
    return apply_one(TRIL, input, k=diagonal)


def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle of matrices; zeros below the given diagonal."""
    return apply_one(TRIU, input, k=diagonal)
