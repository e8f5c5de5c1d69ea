"""A border around a tensor: of a constant, or made of what is inside. Negative widths cut off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from cordee.trainer.autograd.casting import SWITCH, cast_input
from cordee.trainer.autograd.record import Shape, op
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.arranging import flip
from cordee.trainer.ops.company import atleast_2d, cat
from cordee.trainer.ops.indexing import narrow
from cordee.trainer.ops.repetition import broadcast_to
from cordee.trainer.tensors import Tensor

__all__ = ["block_diag", "pad"]

Widths: TypeAlias = "tuple[tuple[int, int], ...]"


def _places(shape: tuple[int, ...], widths: Widths) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Which part of the inside is kept, and where in the result it stands."""
    inside = tuple(slice(max(-b, 0), n - max(-a, 0)) for n, (b, a) in zip(shape, widths, strict=True))
    outside = tuple(slice(max(b, 0), max(b, 0) + s.stop - s.start) for (b, _), s in zip(widths, inside, strict=True))
    return inside, outside


def _pad(xp: Any, a: Any, *, widths: Widths, value: float) -> Any:
    out = xp.full([n + before + after for n, (before, after) in zip(a.shape, widths, strict=True)], value, a.dtype)
    inside, outside = _places(a.shape, widths)
    if any(part.stop < part.start for part in inside):
        raise ValueError("more is cut off than there is")
    out[outside] = a[inside]
    return out


def _pad_vjp(F: Any, g: Any, out: Any, a: Any, *, widths: Widths, value: float) -> Any:
    if all(before >= 0 and after >= 0 for before, after in widths):
        return F.getitem(g, index=_places(a, widths)[1])
    return F.pad(g, widths=tuple((-before, -after) for before, after in widths), value=0.0)


def _pad_shape(a: tuple[int, ...], *, widths: Widths, value: float) -> Shape:
    if len(widths) != len(a):
        raise ShapeError(f"{len(widths)} pairs of widths for {len(a)} dimensions")
    for dim, (n, (before, after)) in enumerate(zip(a, widths, strict=True)):
        if n + min(before, 0) + min(after, 0) < 0:
            raise ShapeError(f"widths {before} and {after} cut more off dimension {dim} than its size {n}")
    return tuple(n + before + after for n, (before, after) in zip(a, widths, strict=True))


def _pad_reference(a: Any, widths: Widths, value: float) -> Any:
    padded = np.pad(a, [(max(b, 0), max(e, 0)) for b, e in widths], constant_values=value)
    return padded[tuple(slice(max(-b, 0), n - max(-e, 0)) for n, (b, e) in zip(padded.shape, widths, strict=True))]


PAD = op(
    "pad", "a border of a constant around the tensor; negative widths cut off",
    forward=_pad, vjps=(_pad_vjp,), saves=("",), reference=_pad_reference, shape=_pad_shape, dtype="first",
    samples=lambda s: [
        s.case(s.normal(2, 3), widths=((1, 0), (0, 2)), value=0.5),
        s.case(s.normal(2), widths=((0, 0),), value=0.0),
        s.case(s.normal(3, 4), widths=((-1, 2), (1, -2)), value=1.0),
        s.case(s.normal(0, 2), widths=((1, 1), (0, 0)), value=2.0),
    ],
    errors=lambda s: [
        s.case(s.normal(2, 3), widths=((1, 1),), value=0.0),
        s.case(s.normal(2, 3), widths=((-2, -1), (0, 0)), value=0.0),
    ],
)  # fmt: skip


def _reflected(input: Tensor, dim: int, before: int, after: int) -> list[Tensor]:
    size = input.shape[dim]
    return [
        flip(narrow(input, dim, 1, before), dim), input, flip(narrow(input, dim, size - 1 - after, after), dim)
    ]  # fmt: skip


def _replicated(input: Tensor, dim: int, before: int, after: int) -> list[Tensor]:
    shape, size = input.shape, input.shape[dim]
    first = broadcast_to(narrow(input, dim, 0, 1), (*shape[:dim], before, *shape[dim + 1 :]))
    last = broadcast_to(narrow(input, dim, size - 1, 1), (*shape[:dim], after, *shape[dim + 1 :]))
    return [first, input, last]


def _circular(input: Tensor, dim: int, before: int, after: int) -> list[Tensor]:
    size = input.shape[dim]
    return [narrow(input, dim, size - before, before), input, narrow(input, dim, 0, after)]


_MODES: dict[str, tuple[Any, int, str]] = {
    # the parts in order; how much narrower than the tensor the border must be; what it is made of
    "reflect": (_reflected, 1, "mirrors at the edge, so it is narrower than"),
    "replicate": (_replicated, -(10**9), "repeats the edge of"),
    "circular": (_circular, 0, "goes around once, so it is at most as wide as"),
}


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """A border. `pad` counts from the last dimension: `(left, right, top, bottom, …)`; negative widths cut off.

    `mode` is "constant" (of `value`, 0 by default), "reflect" (mirrored at the edge element), "replicate" (the edge
    element again and again) or "circular" (from the other side).

    Raises:
        ShapeError: there are not one pair of widths per dimension from the last, or a border is too wide for its mode.
    """
    if mode != "constant" and mode not in _MODES:
        raise ValueError(f"pad: mode is one of 'constant', {', '.join(map(repr, _MODES))}, not {mode!r}")
    if len(pad) % 2 or len(pad) > 2 * input.ndim:
        raise ShapeError(
            f"pad: {tuple(pad)} is not one pair of widths for each of the last dimensions of shape {input.shape}"
        )
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    widths = ((0, 0),) * (input.ndim - len(pairs)) + tuple(pairs[::-1])
    if mode == "constant":
        return PAD.run(input, widths=widths, value=0.0 if value is None else value)
    if value is not None:
        raise ValueError(f"pad: value is for mode 'constant'; mode {mode!r} takes it from the tensor")
    if SWITCH.on and mode != "circular":
        input = cast_input("single on cpu", input)
    parts, less, reason = _MODES[mode]
    cuts = tuple((min(before, 0), min(after, 0)) for before, after in widths)
    if mode == "circular" and any(map(any, cuts)):  # goes around what is left
        input, cuts = PAD.run(input, widths=cuts, value=0.0), ()
    out = input
    for dim, (before, after) in enumerate(widths):
        size = input.shape[dim]
        if before <= 0 and after <= 0:
            continue
        if max(before, after) > size - less or not size:
            raise ShapeError(
                f"pad: widths {before} and {after} for dimension {dim} of shape {input.shape}: a {mode} border "
                f"{reason} the size, {size}"
            )
        out = cat(parts(out, dim, max(before, 0), max(after, 0)), dim)
    return PAD.run(out, widths=cuts, value=0.0) if any(map(any, cuts)) else out


def block_diag(*tensors: Any) -> Tensor:
    """Matrices along the diagonal of a larger one, zeros elsewhere; vectors count as rows.

    Raises:
        ShapeError: one has more than two dimensions.
    """
    for i, tensor in enumerate(tensors):
        if tensor.ndim > 2:
            raise ShapeError(f"block_diag: tensor {i} has shape {tensor.shape}; it needs at most two dimensions")
    blocks = [atleast_2d(tensor) for tensor in tensors]
    width, left, rows = sum(block.shape[1] for block in blocks), 0, []
    for block in blocks:
        rows.append(pad(block, (left, width - left - block.shape[1])))
        left += block.shape[1]
    return cat(rows, 0)
