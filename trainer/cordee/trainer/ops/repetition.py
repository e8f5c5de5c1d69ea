"""The same elements several times: broadcast, which is a view and costs nothing, or repeated as copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cordee.trainer.array import array_module, to_numpy
from cordee.trainer.autograd.record import REGISTRY, Shape, op
from cordee.trainer.autograd.writes import owner_of
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.shape import dimension, ravel, sizes_of, unsqueeze
from cordee.trainer.tensors import Tensor

__all__ = [
    "broadcast_shapes", "broadcast_tensors", "broadcast_to", "expand", "repeat", "repeat_interleave", "tile",
]  # fmt: skip

METHODS = "broadcast_to expand repeat repeat_interleave tile"


def _broadcast_shape(a: tuple[int, ...], *, shape: tuple[int, ...]) -> Shape:
    lead = len(shape) - len(a)
    if lead < 0:
        raise ShapeError(f"shape {a} has more dimensions than shape {shape}")
    for dim, n in enumerate(a):
        if n not in (1, shape[dim + lead]):
            raise ShapeError(
                f"size {n} in dimension {dim} cannot be repeated up to {shape[dim + lead]}: only a size of 1 can "
                f"(target shape {shape})"
            )
    return shape


BROADCAST_TO = op(
    "broadcast_to", "repeated along dimensions of size 1, or new leading ones, up to a shape",
    forward=lambda xp, a, *, shape: xp.broadcast_to(a, shape),
    vjps=(lambda F, g, out, a, *, shape: F.sum_to(g, shape=a),),
    saves=("",), reference=np.broadcast_to, shape=_broadcast_shape, dtype="first", view=True,
    samples=lambda s: [
        s.case(s.normal(3), shape=(2, 3)),
        s.case(s.normal(2, 1), shape=(4, 2, 3)),
        s.case(s.normal(), shape=(2,)),
        s.case(s.normal(1, 2), shape=(0, 2)),
    ],
    errors=lambda s: [s.case(s.normal(2, 3), shape=(2, 4)), s.case(s.normal(2, 3), shape=(3,))],
)  # fmt: skip


def broadcast_to(input: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeated, without a copy, up to a shape; -1 leaves a size as it is."""
    wanted = tuple(shape)
    if -1 in wanted:
        lead = len(wanted) - input.ndim
        if lead < 0 or -1 in wanted[:lead]:
            raise ShapeError(f"expand: -1 in {wanted} stands for a size that shape {input.shape} does not have")
        wanted = tuple(input.shape[i - lead] if n == -1 else n for i, n in enumerate(wanted))
    return BROADCAST_TO.run(input, shape=wanted)


def expand(input: Tensor, *sizes: Any) -> Tensor:
    """Repeated, without a copy, up to a shape; -1 leaves a size as it is."""
    return broadcast_to(input, sizes_of(sizes))


def broadcast_shapes(*shapes: Any) -> tuple[int, ...]:
    """The shape that these broadcast to.

    Raises:
        ShapeError: they do not.
    """
    try:
        return np.broadcast_shapes(*[(s,) if isinstance(s, int) else tuple(s) for s in shapes])
    except ValueError as error:
        raise ShapeError(f"broadcast_shapes: {error}") from None


def broadcast_tensors(*tensors: Any) -> tuple[Tensor, ...]:
    """All repeated, without a copy, up to the shape that they broadcast to."""
    given: tuple[Tensor, ...] = sizes_of(tensors) if tensors and not isinstance(tensors[0], Tensor) else tensors  # type: ignore[assignment]
    shape = broadcast_shapes(*[tensor.shape for tensor in given])
    return tuple(broadcast_to(tensor, shape) for tensor in given)


def repeat(input: Tensor, *repeats: Any) -> Tensor:
    """Whole copies side by side: how many along each dimension, new leading ones first.

    Raises:
        ShapeError: there are fewer numbers than dimensions.
    """
    times = sizes_of(repeats)
    lead = len(times) - input.ndim
    if lead < 0:
        raise ShapeError(f"repeat: {times} is not one number for each dimension of shape {input.shape}")
    own = (1,) * lead + input.shape
    spaced = input.reshape([n for size in own for n in (1, size)])
    spread = broadcast_to(spaced, [n for k, size in zip(times, own, strict=True) for n in (k, size)])
    result = spread.reshape([k * size for k, size in zip(times, own, strict=True)])
    if owner_of(result.data) is owner_of(input.data):  # never a view, as in PyTorch
        return REGISTRY["clone"].run(result)
    return result


def tile(input: Tensor, dims: Any, *more: int) -> Tensor:
    """`repeat`, where missing leading numbers are 1."""
    times = sizes_of((dims, *more))
    return repeat(input, (1,) * (input.ndim - len(times)) + times)


def repeat_interleave(
    input: Tensor, repeats: int | Tensor, dim: int | None = None, *, output_size: int | None = None
) -> Tensor:
    """Each element (or slice along `dim`) several times in a row; `repeats` is one number, or one for each.

    Raises:
        ShapeError: `repeats` is a vector of another length, or `output_size` is not what comes out.
    """
    if dim is None:
        input, dim = ravel(input), 0
    at = dimension("repeat_interleave", input, dim)
    old = input.shape
    if isinstance(repeats, Tensor) and repeats.data.size == 1:
        repeats = int(repeats.item())
    if isinstance(repeats, int):
        if repeats < 0:
            raise ShapeError(f"repeat_interleave: repeats must be at least 0, not {repeats}")
        spaced = unsqueeze(input, at + 1)
        out = broadcast_to(spaced, (*old[: at + 1], repeats, *old[at + 1 :])).reshape(
            (*old[:at], old[at] * repeats, *old[at + 1 :])
        )
    else:
        if repeats.shape != (old[at],):
            raise ShapeError(
                f"repeat_interleave: repeats has shape {repeats.shape}; dimension {dim} takes one for each of {old[at]}"
            )
        xp = array_module(input.data)
        places = np.repeat(np.arange(old[at]), to_numpy(repeats.data))
        out = input[(*(slice(None),) * at, xp.asarray(places))]
    if output_size is not None and out.shape[at] != output_size:
        raise ShapeError(f"repeat_interleave: output_size is {output_size}, but {out.shape[at]} come out")
    return out
