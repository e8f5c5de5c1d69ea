"""Two-dimensional convolution: patches laid out as columns of one large matrix, then one matrix product per group.

The columns of the whole batch stand side by side (C·kh·kw × N·OH·OW), so that forward, weight gradient and input
gradient are one large product each. The result is kept in memory as (O, N, OH, OW) and seen as (N, O, OH, OW): the next
convolution reads it in just that order. `patches` and `unpatches` are each other's gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from cordee.trainer.autograd.graph import apply
from cordee.trainer.autograd.record import op, shape_of
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.shape import pad
from cordee.trainer.tensors import Tensor

__all__ = ["conv2d"]

Pair: TypeAlias = "tuple[int, int]"


def pair(value: Any) -> Pair:
    """`3` and `(3, 3)` mean the same."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def output_size(shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1)) -> Pair:
    """Height and width of what a window of this kind finds in `(N, C, H, W)`."""
    high, wide = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(shape[2:], kernel, stride, padding, dilation, strict=True)
    )
    return high, wide


def windows(kernel: Pair, stride: Pair, size: Pair, dilation: Pair = (1, 1)) -> Iterator[tuple[int, int, slice, slice]]:
    """Per place in the window: the place, and the rows and columns that it sees, of the padded image."""
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            top, left = i * dilation[0], j * dilation[1]
            yield (
                i,
                j,
                slice(top, top + stride[0] * (size[0] - 1) + 1, stride[0]),
                slice(left, left + stride[1] * (size[1] - 1) + 1, stride[1]),
            )


def _patches(xp: Any, a: Any, *, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Any:
    (n, c, h, w), (ph, pw) = a.shape, padding
    size = output_size(a.shape, kernel, stride, padding, dilation)
    image = a.transpose(1, 0, 2, 3)
    if ph or pw:
        image = xp.zeros((c, n, h + 2 * ph, w + 2 * pw), a.dtype)
        image[:, :, ph : ph + h, pw : pw + w] = a.transpose(1, 0, 2, 3)
    out = xp.empty((c, *kernel, n, *size), a.dtype)
    for i, j, rows, columns in windows(kernel, stride, size, dilation):
        out[:, i, j] = image[:, :, rows, columns]
    return out


def _unpatches(
    xp: Any, a: Any, *, shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Any:
    (n, c, h, w), (ph, pw) = shape, padding
    image = xp.zeros((c, n, h + 2 * ph, w + 2 * pw), a.dtype)
    for i, j, rows, columns in windows(kernel, stride, (a.shape[4], a.shape[5]), dilation):
        image[:, :, rows, columns] += a[:, i, j]
    return image[:, :, ph : ph + h, pw : pw + w].transpose(1, 0, 2, 3)


def _patches_reference(a: Any, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Any:
    n, c = a.shape[:2]
    high, wide = output_size(a.shape, kernel, stride, padding, dilation)
    padded = np.pad(a, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    out = np.zeros((c, *kernel, n, high, wide))
    for i, j, y, x in np.ndindex(*kernel, high, wide):
        out[:, i, j, :, y, x] = padded[:, :, y * stride[0] + i * dilation[0], x * stride[1] + j * dilation[1]].T
    return out


def _unpatches_reference(
    a: Any, shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Any:
    """As the transpose of `patches`, one unit image at a time."""
    out = np.zeros(shape)
    for place in np.ndindex(*shape):
        unit = np.zeros(shape)
        unit[place] = 1
        out[place] = (_patches_reference(unit, kernel, stride, padding, dilation) * a).sum()
    return out


_GEOMETRY: dict[str, Pair] = {"kernel": (2, 3), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}

PATCHES = op(
    "patches", "every window's content: (N, C, H, W) to (C, kh, kw, N, OH, OW)",
    forward=_patches, vjps=(lambda F, g, out, a, **geometry: F.unpatches(g, shape=a, **geometry),), saves=("",),
    reference=_patches_reference,
    samples=lambda s: [s.case(s.normal(2, 2, 4, 6), **_GEOMETRY)],
)  # fmt: skip

UNPATCHES = op(
    "unpatches", "windows' contents added up where they came from",
    forward=_unpatches, vjps=(lambda F, g, out, a, *, shape, **geometry: F.patches(g, **geometry),), saves=("",),
    reference=_unpatches_reference,
    samples=lambda s: [s.case(s.normal(2, 2, 3, 2, 3, 2), shape=(2, 2, 4, 6), **_GEOMETRY)],
)  # fmt: skip


# -- convolution -------------------------------------------------------------------------------------------------------


def _geometry(weight: Any, stride: Pair, padding: Pair, dilation: Pair) -> dict[str, Pair]:
    kernel = shape_of(weight)[2:]
    return {"kernel": (kernel[0], kernel[1]), "stride": stride, "padding": padding, "dilation": dilation}


def _by_group(a: Any, groups: int, num_rows: int) -> Any:
    """As a matrix, or one matrix per group."""
    return a.reshape((num_rows, -1) if groups == 1 else (groups, num_rows // groups, -1))


def _conv2d(
    xp: Any, input: Any, weight: Any, bias: Any, *, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Any:
    if weight.shape[1] * groups != input.shape[1] or weight.shape[0] % groups:
        raise ValueError("channels do not fit")
    columns = _patches(xp, input, **_geometry(weight, stride, padding, dilation))
    (_, kh, kw, n, high, wide), num_out = columns.shape, weight.shape[0]
    columns = _by_group(columns, groups, input.shape[1] * kh * kw)
    out = (_by_group(weight, groups, num_out) @ columns).reshape(num_out, -1)
    if bias is not None:
        out += bias.reshape(-1, 1)
    return out.reshape(num_out, n, high, wide).transpose(1, 0, 2, 3), columns


def _conv2d_vjp(
    F: Any, g: Any, out: Any, input: Any, weight: Any, bias: Any,
    *, needs: Any, aux: Any, stride: Pair, padding: Pair, dilation: Pair, groups: int,
) -> Any:  # fmt: skip
    geometry = _geometry(weight, stride, padding, dilation)
    n, c, h, w = shape_of(input)
    num_out, _, kh, kw = shape_of(weight)
    high, wide = g.shape[2:]
    g = _by_group(F.permute(g, axes=(1, 0, 2, 3)), groups, num_out)
    input_grad = weight_grad = bias_grad = None
    if needs[0]:
        columns = F.matmul(_by_group(weight, groups, num_out).swapaxes(-1, -2), g)
        input_grad = F.unpatches(columns.reshape((c, kh, kw, n, high, wide)), shape=(n, c, h, w), **geometry)
    if needs[1]:
        columns = aux if F.raw else _by_group(F.patches(input, **geometry), groups, c * kh * kw)
        weight_grad = F.matmul(g, columns.swapaxes(-1, -2)).reshape(shape_of(weight))
    if needs[2]:
        bias_grad = F.sum(g.reshape((num_out, -1)), axis=1, keepdims=False)
    return input_grad, weight_grad, bias_grad


def _explain_conv2d(
    input: Any, weight: Any, bias: Any, *, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> str | None:
    if len(input) != 4:
        return f"input must have four dimensions (N, C, H, W), not {len(input)}"
    if len(weight) != 4:
        return f"weight must have four dimensions (O, C / groups, kh, kw), not {len(weight)}"
    if weight[1] * groups != input[1]:
        return f"input has {input[1]} channels, but weight takes {weight[1]} in each of {groups} group(s)"
    if weight[0] % groups:
        return f"{weight[0]} output channels do not divide into {groups} groups"
    if bias is not None and bias != (weight[0],):
        return f"bias must hold one number per output channel ({weight[0]})"
    kernel = (weight[2], weight[3])
    if min(output_size(input, kernel, stride, padding, dilation)) < 1:
        return (
            f"the {kernel[0]}×{kernel[1]} kernel (dilation {dilation}) is larger than the input of "
            f"{input[2]}×{input[3]} with its padding {padding}"
        )
    return None


def _conv2d_reference(
    input: Any, weight: Any, bias: Any, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Any:
    num_out, per_group = weight.shape[:2]
    columns = _patches_reference(input, weight.shape[2:], stride, padding, dilation)
    out = np.zeros((input.shape[0], num_out, *columns.shape[4:]))
    for o in range(num_out):
        first = o // (num_out // groups) * per_group
        out[:, o] = np.einsum("cijnyx,cij->nyx", columns[first : first + per_group], weight[o])
    return out if bias is None else out + bias.reshape(1, -1, 1, 1)


_PLAIN: dict[str, Any] = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}

CONV2D = op(
    "conv2d", "cross-correlation of (N, C, H, W) images with (O, C / groups, kh, kw) kernels, plus a bias per channel",
    forward=_conv2d, vjp=_conv2d_vjp, saves=("weight", "input", ""), aux=True,
    reference=_conv2d_reference, explain=_explain_conv2d,
    samples=lambda s: [
        s.case(s.normal(2, 2, 4, 3), s.normal(3, 2, 2, 2), s.normal(3), **_PLAIN),
        s.case(s.normal(1, 2, 5, 4), s.normal(2, 2, 3, 2), None, **{**_PLAIN, "stride": (2, 1), "padding": (1, 1)}),
        s.case(s.normal(1, 4, 5, 5), s.normal(2, 2, 2, 2), s.normal(2), **{**_PLAIN, "groups": 2, "dilation": (2, 2)}),
        s.case(s.normal(2, 3, 2, 2), s.normal(2, 3, 1, 1), s.normal(2), **_PLAIN),
    ],
    errors=lambda s: [
        s.case(s.normal(1, 3, 4, 4), s.normal(2, 2, 2, 2), None, **_PLAIN),
        s.case(s.normal(3, 4, 4), s.normal(2, 3, 2, 2), None, **_PLAIN),
        s.case(s.normal(1, 3, 2, 2), s.normal(2, 3, 4, 4), None, **_PLAIN),
        s.case(s.normal(1, 3, 4, 4), s.normal(2, 3, 2, 2), s.normal(3), **_PLAIN),
    ],
)  # fmt: skip


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution of `(N, C, H, W)` with `weight (O, C / groups, kh, kw)`; padding may also be "same" or "valid"."""
    stride, dilation = pair(stride), pair(dilation)
    if isinstance(padding, str):
        input, padding = _named_padding(input, weight, stride, padding, dilation)
    return apply(CONV2D, input, weight, bias, stride=stride, padding=pair(padding), dilation=dilation, groups=groups)


def _named_padding(input: Tensor, weight: Tensor, stride: Pair, padding: str, dilation: Pair) -> tuple[Tensor, Pair]:
    if padding == "valid":
        return input, (0, 0)
    if padding != "same":
        raise ValueError(f"conv2d: padding is a number, a pair, 'same' or 'valid', not {padding!r}")
    if stride != (1, 1):
        raise ShapeError(f"conv2d: padding='same' needs stride 1, not {stride}")
    high, wide = (d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True))
    if high % 2 == 0 and wide % 2 == 0:
        return input, (high // 2, wide // 2)
    return pad(input, (wide // 2, wide - wide // 2, high // 2, high - high // 2)), (0, 0)
