"""Convolution over any number of dimensions, and its transpose: windows laid out as columns, then matrix products.

Three operations are enough, each linear in two things and each the gradient of the others: the convolution itself, its
transpose (the gradient by the input), and the gradient by the weight. So gradients of any order cost what convolutions
cost. How they are computed is in `correlation.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cordee.trainer.autograd.casting import autocasts
from cordee.trainer.autograd.record import Op, Shape, op, shape_of
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops import correlation
from cordee.trainer.ops.padding import pad
from cordee.trainer.ops.windows import Sizes, Window, numbers, patches_reference
from cordee.trainer.ops.windows import window as make_window
from cordee.trainer.tensors import Tensor

__all__ = ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]


def _bias_grad(F: Any, g: Any) -> Any:
    if F.raw and g.size:
        return correlation.channel_sums(F.xp, g)
    return F.sum(g, axis=(0, *range(2, len(g.shape))), keepdims=False)


# -- shapes ------------------------------------------------------------------------------------------------------------


def _checked(input: Any, weight: Any, bias: Any, window: Window, groups: int, transposed: bool) -> None:
    """Refuse what does not fit, whichever way the convolution goes."""
    ndim = len(window.kernel)
    out_first = "(C, O / groups" if transposed else "(O, C / groups"
    if len(weight) != ndim + 2:
        raise ShapeError(f"weight must have {ndim + 2} dimensions {out_first}, kernel sizes), not {len(weight)}")
    if len(input) != ndim + 2:
        raise ShapeError(
            f"input must have {ndim + 2} dimensions (N, C, sizes), or {ndim + 1} without the batch, not {len(input)}"
        )
    taken = weight[0] if transposed else weight[1] * groups
    if taken != input[1]:
        per_group = "" if groups == 1 else f" ({taken // groups} in each of {groups} groups)"
        raise ShapeError(f"input has {input[1]} channels, but weight takes {taken}{per_group}")
    if weight[0] % groups:
        raise ShapeError(f"the {weight[0]} channels of weight do not divide into {groups} groups")
    num_out = weight[1] * groups if transposed else weight[0]
    if bias is not None and tuple(bias) != (num_out,):
        raise ShapeError(f"bias must hold one number per output channel ({num_out}), not shape {tuple(bias)}")


def _conv_shape(input: Any, weight: Any, bias: Any, *, window: Window, groups: int) -> Shape:
    _checked(input, weight, bias, window, groups, transposed=False)
    return (input[0], weight[0], *window.size(input[2:], ShapeError))


def _transpose_shape(input: Any, weight: Any, bias: Any, *, sizes: Sizes, window: Window, groups: int) -> Shape:
    _checked(input, weight, bias, window, groups, transposed=True)
    if _has_more(input[2:], window.size(sizes, ShapeError)):
        raise ShapeError(f"an image of {sizes} has {window.size(sizes)} windows, but input {tuple(input[2:])}")
    return (input[0], weight[1] * groups, *sizes)


def _weight_shape(gradient: Any, input: Any, *, window: Window, groups: int) -> Shape:
    if gradient[0] != input[0] or _has_more(gradient[2:], window.size(input[2:], ShapeError)):
        raise ShapeError("the gradient is not of a convolution of input")
    return (gradient[1], input[1] // groups, *window.kernel)


def _has_more(size: Any, most: Sizes) -> bool:
    """More windows than there are; with fewer, the last ones are left out, as `output_padding` may want it."""
    return any(n > m for n, m in zip(size, most, strict=True))


def _as_many(F: Any, out: Any, size: Any) -> Any:
    """Without the windows that were left out."""
    if tuple(out.shape[2:]) == tuple(size):
        return out
    return F.getitem(out, index=(slice(None), slice(None), *map(slice, size)))


# -- values ------------------------------------------------------------------------------------------------------------


def _conv(xp: Any, input: Any, weight: Any, bias: Any, *, window: Window, groups: int) -> Any:
    if len(input.shape) != len(window.kernel) + 2 or weight.shape[1] * groups != input.shape[1]:
        raise ValueError("input does not fit weight")
    return correlation.correlate(xp, input, weight, bias, window, groups)


def _conv_vjp(
    F: Any, g: Any, out: Any, input: Any, weight: Any, bias: Any,
    *, needs: Any, aux: Any, window: Window, groups: int,
) -> Any:  # fmt: skip
    sizes = shape_of(input)[2:]
    input_grad = weight_grad = bias_grad = None
    if F.raw:
        g = correlation.ordered(F.xp, g, input, shape_of(weight), window, groups)
    if needs[0]:
        transpose = getattr(F, f"conv_transpose{len(sizes)}d")
        input_grad = transpose(g, weight, None, sizes=sizes, window=window, groups=groups)
    if needs[1] and F.raw:
        weight_grad, bias_grad = correlation.weigh(F.xp, g, input, window, groups, aux, needs[2])
    elif needs[1]:
        weight_grad = F.conv_weight(g, input, window=window, groups=groups)
    if needs[2] and bias_grad is None:
        bias_grad = _bias_grad(F, g)
    return input_grad, weight_grad, bias_grad


def _conv_transpose(xp: Any, input: Any, weight: Any, bias: Any, *, sizes: Sizes, window: Window, groups: int) -> Any:
    if weight.shape[0] != input.shape[1] or _has_more(input.shape[2:], window.size(sizes)):
        raise ValueError("input does not fit weight")
    return correlation.plus_bias(correlation.spread(xp, input, weight, sizes, window, groups), bias)


def _conv_transpose_vjp(
    F: Any, g: Any, out: Any, input: Any, weight: Any, bias: Any,
    *, needs: Any, sizes: Sizes, window: Window, groups: int,
) -> Any:  # fmt: skip
    input_grad = None
    if needs[0]:
        input_grad = getattr(F, f"conv{len(sizes)}d")(g, weight, None, window=window, groups=groups)
        input_grad = _as_many(F, input_grad, shape_of(input)[2:])
    return (
        input_grad,
        F.conv_weight(input, g, window=window, groups=groups) if needs[1] else None,
        _bias_grad(F, g) if needs[2] else None,
    )


def _conv_weight_vjp(
    F: Any, g: Any, out: Any, gradient: Any, input: Any, *, needs: Any, window: Window, groups: int
) -> Any:
    """`g` has the shape of a weight."""
    sizes = shape_of(input)[2:]
    conv, transpose = getattr(F, f"conv{len(sizes)}d"), getattr(F, f"conv_transpose{len(sizes)}d")
    size = shape_of(gradient)[2:]
    return (
        _as_many(F, conv(input, g, None, window=window, groups=groups), size) if needs[0] else None,
        transpose(gradient, g, None, sizes=sizes, window=window, groups=groups) if needs[1] else None,
    )


# -- references --------------------------------------------------------------------------------------------------------


def _conv_reference(input: Any, weight: Any, bias: Any, window: Window, groups: int) -> Any:
    num_out, per_group = weight.shape[:2]
    columns = patches_reference(input, window)  # (C, *kernel, N, *size)
    out = np.zeros((input.shape[0], num_out, *columns.shape[len(window.kernel) + 2 :]))
    for o in range(num_out):
        first = o // (num_out // groups) * per_group
        out[:, o] = np.tensordot(weight[o], columns[first : first + per_group], weight.ndim - 1)
    return out if bias is None else out + bias.reshape(1, -1, *(1,) * (input.ndim - 2))


def _transpose_reference(input: Any, weight: Any, bias: Any, sizes: Sizes, window: Window, groups: int) -> Any:
    """As the transpose of the convolution, one unit image at a time."""
    out = np.zeros((input.shape[0], weight.shape[1] * groups, *sizes))
    first = (..., *map(slice, input.shape[2:]))
    for place in np.ndindex(*out.shape):
        unit = np.zeros(out.shape)
        unit[place] = 1
        out[place] = (_conv_reference(unit, weight, None, window, groups)[first] * input).sum()
    return out if bias is None else out + bias.reshape(1, -1, *(1,) * (input.ndim - 2))


def _weight_reference(gradient: Any, input: Any, window: Window, groups: int) -> Any:
    out = np.zeros((gradient.shape[1], input.shape[1] // groups, *window.kernel))
    for place in np.ndindex(*out.shape):
        unit = np.zeros(out.shape)
        unit[place] = 1
        out[place] = (_conv_reference(input, unit, None, window, groups) * gradient).sum()
    return out


# -- records -----------------------------------------------------------------------------------------------------------

_W1 = Window((2,), (1,), (0,), (1,))
_W1_WIDE = Window((2,), (2,), (1,), (2,))
_W2 = Window((2, 2), (1, 1), (0, 0), (1, 1))
_W2_ODD = Window((3, 2), (2, 1), (1, 1), (1, 1))
_W2_WIDE = Window((2, 2), (1, 1), (0, 0), (2, 2))
_W2_ONE = Window((1, 1), (1, 1), (0, 0), (1, 1))
_W3 = Window((2, 1, 2), (1, 1, 2), (0, 0, 1), (1, 1, 1))

_CONV_CASES: dict[int, Any] = {
    1: lambda s: [
        s.case(s.normal(2, 2, 4), s.normal(3, 2, 2), s.normal(3), window=_W1, groups=1),
        s.case(s.normal(1, 4, 5), s.normal(2, 2, 2), None, window=_W1_WIDE, groups=2),
        s.case(s.normal(0, 2, 4), s.normal(3, 2, 2), s.normal(3), window=_W1, groups=1),
    ],
    2: lambda s: [
        s.case(s.normal(2, 2, 4, 3), s.normal(3, 2, 2, 2), s.normal(3), window=_W2, groups=1),
        s.case(s.normal(1, 2, 5, 4), s.normal(2, 2, 3, 2), None, window=_W2_ODD, groups=1),
        s.case(s.normal(1, 4, 4, 5), s.normal(2, 2, 2, 2), s.normal(2), window=_W2_WIDE, groups=2),
        s.case(s.normal(2, 3, 2, 2), s.normal(2, 3, 1, 1), s.normal(2), window=_W2_ONE, groups=1),
        s.case(s.normal(2, 2, 3, 3), s.normal(4, 1, 2, 2), s.normal(4), window=_W2, groups=2),
        s.case(s.normal(1, 2, 4, 3), s.normal(2, 1, 3, 2), None, window=_W2_ODD, groups=2),
    ],
    3: lambda s: [
        s.case(s.normal(1, 2, 3, 2, 3), s.normal(2, 2, 2, 1, 2), s.normal(2), window=_W3, groups=1),
        s.case(s.normal(2, 2, 2, 1, 2), s.normal(2, 1, 2, 1, 2), None, window=_W3, groups=2),
    ],
}  # fmt: skip
_CONV_ERRORS: dict[int, Any] = {
    1: lambda s: [s.case(s.normal(1, 3, 4), s.normal(2, 2, 2), None, window=_W1, groups=1)],
    2: lambda s: [
        s.case(s.normal(1, 3, 4, 4), s.normal(2, 2, 2, 2), None, window=_W2, groups=1),
        s.case(s.normal(3, 4, 4), s.normal(2, 3, 2, 2), None, window=_W2, groups=1),
        s.case(s.normal(1, 2, 2, 2), s.normal(2, 2, 2, 2), None, window=_W2_WIDE, groups=1),
        s.case(s.normal(1, 3, 4, 4), s.normal(2, 3, 2, 2), s.normal(3), window=_W2, groups=1),
    ],
    3: lambda s: [s.case(s.normal(1, 2, 3, 3, 3), s.normal(3, 1, 2, 1, 2), None, window=_W3, groups=2)],
}
_TRANSPOSE_CASES: dict[int, Any] = {
    1: lambda s: [
        s.case(s.normal(2, 3, 3), s.normal(3, 2, 2), s.normal(2), sizes=(4,), window=_W1, groups=1),
        s.case(s.normal(1, 2, 3), s.normal(2, 2, 2), None, sizes=(6,), window=_W1_WIDE, groups=2),
        s.case(s.normal(1, 2, 2), s.normal(2, 2, 2), None, sizes=(6,), window=_W1_WIDE, groups=1),  # of 3 windows
    ],
    2: lambda s: [
        s.case(s.normal(2, 2, 2, 2), s.normal(2, 3, 2, 2), s.normal(3), sizes=(3, 3), window=_W2, groups=1),
        s.case(s.normal(1, 2, 2, 4), s.normal(2, 1, 3, 2), s.normal(2), sizes=(4, 3), window=_W2_ODD, groups=2),
    ],
    3: lambda s: [
        s.case(s.normal(1, 2, 1, 1, 2), s.normal(2, 2, 2, 1, 2), None, sizes=(2, 1, 2), window=_W3, groups=1),
        s.case(s.normal(1, 2, 1, 1, 2), s.normal(2, 1, 2, 1, 2), s.normal(2), sizes=(2, 1, 2), window=_W3, groups=2),
    ],
}  # fmt: skip
_TRANSPOSE_ERRORS: dict[int, Any] = {
    1: lambda s: [s.case(s.normal(2, 3, 3), s.normal(2, 2, 2), None, sizes=(4,), window=_W1, groups=1)],
    2: lambda s: [
        s.case(s.normal(2, 2, 2), s.normal(2, 3, 2, 2), None, sizes=(3, 3), window=_W2, groups=1),
        s.case(s.normal(2, 2, 2, 2), s.normal(2, 3, 2, 2), s.normal(2), sizes=(3, 3), window=_W2, groups=1),
    ],
    3: lambda s: [
        s.case(s.normal(1, 2, 3, 1, 2), s.normal(2, 2, 2, 1, 2), None, sizes=(2, 1, 2), window=_W3, groups=1),
    ],
}  # fmt: skip


def _declare_conv(ndim: int) -> Op:
    return op(
        f"conv{ndim}d", f"cross-correlation of (N, C, {ndim} sizes) with (O, C / groups, kernel), plus a bias",
        autocast="low", forward=_conv, vjp=_conv_vjp, saves=("weight", "input", ""), aux=True, shape=_conv_shape,
        reference=_conv_reference, samples=_CONV_CASES[ndim], errors=_CONV_ERRORS[ndim],
    )  # fmt: skip


def _declare_transpose(ndim: int) -> Op:
    return op(
        f"conv_transpose{ndim}d", f"(N, C, {ndim} sizes) spread by (C, O / groups, kernel): conv{ndim}d transposed",
        autocast="low", forward=_conv_transpose, vjp=_conv_transpose_vjp, saves=("weight", "input", ""),
        shape=_transpose_shape, reference=_transpose_reference, samples=_TRANSPOSE_CASES[ndim],
        errors=_TRANSPOSE_ERRORS[ndim],
    )  # fmt: skip


CONV = {ndim: _declare_conv(ndim) for ndim in (1, 2, 3)}
CONV_TRANSPOSE = {ndim: _declare_transpose(ndim) for ndim in (1, 2, 3)}

CONV_WEIGHT = op(
    "conv_weight", "the gradient of a convolution by its weight, from its result's gradient and its input",
    forward=lambda xp, gradient, input, *, window, groups: correlation.weigh(xp, gradient, input, window, groups)[0],
    vjp=_conv_weight_vjp, saves=("input", "gradient"), shape=_weight_shape, reference=_weight_reference,
    samples=lambda s: [
        s.case(s.normal(2, 3, 3), s.normal(2, 2, 4), window=_W1, groups=1),
        s.case(s.normal(1, 2, 3, 4), s.normal(1, 2, 5, 3), window=_W2_ODD, groups=2),
        s.case(s.normal(1, 4, 2, 2), s.normal(1, 2, 3, 3), window=_W2, groups=2),
    ],
    errors=lambda s: [s.case(s.normal(2, 3, 4), s.normal(2, 2, 4), window=_W1, groups=1)],
)  # fmt: skip


# -- functions ---------------------------------------------------------------------------------------------------------


@autocasts("low")
def _convolve(
    ndim: int, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    record = CONV[ndim]
    if weight.ndim != ndim + 2:
        raise ShapeError(
            f"{record.name}: weight must have {ndim + 2} dimensions (O, C / groups, kernel sizes), "
            f"not {weight.ndim} (its shape is {weight.shape})"
        )
    if isinstance(padding, str):
        input, padding = _named_padding(record.name, input, weight, stride, padding, dilation)
    sliding = make_window(record.name, ndim, weight.shape[2:], stride, padding, dilation)
    unbatched = input.ndim == ndim + 1
    batch = input.reshape(1, *input.shape) if unbatched else input
    out: Tensor = record.run(batch, weight, bias, window=sliding, groups=groups)
    return out.squeeze(0) if unbatched else out


def _named_padding(
    name: str, input: Tensor, weight: Tensor, stride: Any, padding: str, dilation: Any
) -> tuple[Tensor, Any]:
    """The border that "same" asks for: of an odd sum of widths, the larger half comes last, as in PyTorch."""
    if padding == "valid":
        return input, 0
    if padding != "same":
        raise ValueError(f"{name}: padding is a number, one for each dimension, 'same' or 'valid', not {padding!r}")
    ndim = weight.ndim - 2
    if set(numbers(name, "stride", stride, ndim)) != {1}:
        raise ShapeError(f"{name}: padding='same' needs stride 1, not {stride}")
    widths = [d * (k - 1) for d, k in zip(numbers(name, "dilation", dilation, ndim), weight.shape[2:], strict=True)]
    if all(width % 2 == 0 for width in widths):
        return input, tuple(width // 2 for width in widths)
    return pad(input, tuple(n for width in reversed(widths) for n in (width // 2, width - width // 2))), 0


def conv1d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Tensor:  # fmt: skip
    """Convolution of `(N, C, L)` or `(C, L)` with `weight (O, C / groups, k)`; padding also "same" or "valid"."""
    return _convolve(1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Tensor:  # fmt: skip
    """Convolution of `(N, C, H, W)` or `(C, H, W)` with `(O, C / groups, kh, kw)`; padding also "same" or "valid"."""
    return _convolve(2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Tensor:  # fmt: skip
    """Convolution of `(N, C, D, H, W)` or `(C, D, H, W)` with `weight (O, C / groups, kd, kh, kw)`."""
    return _convolve(3, input, weight, bias, stride, padding, dilation, groups)


@autocasts("low")
def _convolve_transposed(
    ndim: int, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, output_padding: Any,
    groups: int, dilation: Any,
) -> Tensor:  # fmt: skip
    record = CONV_TRANSPOSE[ndim]
    if weight.ndim != ndim + 2 or input.ndim not in (ndim + 1, ndim + 2):
        raise ShapeError(
            f"{record.name}: weight has {ndim + 2} dimensions (C, O / groups, kernel sizes), input {ndim + 2}, or "
            f"{ndim + 1} without the batch; weight has shape {weight.shape}, input {input.shape}"
        )
    sliding = make_window(record.name, ndim, weight.shape[2:], stride, padding, dilation)
    extra = numbers(record.name, "output_padding", output_padding, ndim)
    for e, s, d in zip(extra, sliding.stride, sliding.dilation, strict=True):
        if not 0 <= e < max(s, d):
            raise ValueError(
                f"{record.name}: output_padding {extra} must be smaller than stride {sliding.stride} or "
                f"dilation {sliding.dilation}"
            )
    sizes = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(
            input.shape[-ndim:], sliding.stride, sliding.padding, sliding.dilation, sliding.kernel, extra, strict=True
        )
    )
    if min(sizes) < 1:
        raise ShapeError(f"{record.name}: of input {input.shape} the result would have sizes {sizes}")
    unbatched = input.ndim == len(sizes) + 1
    batch = input.reshape(1, *input.shape) if unbatched else input
    out: Tensor = record.run(batch, weight, bias, sizes=sizes, window=sliding, groups=groups)
    return out.squeeze(0) if unbatched else out


def conv_transpose1d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Tensor:  # fmt: skip
    """What `conv1d` with these settings takes its gradient by: `(N, C, L)` spread by `weight (C, O / groups, k)`."""
    return _convolve_transposed(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Tensor:  # fmt: skip
    """What `conv2d` with these settings takes its gradient by: `(N, C, H, W)` spread by `(C, O / groups, kh, kw)`."""
    return _convolve_transposed(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose3d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Tensor:  # fmt: skip
    """What `conv3d` with these settings takes its gradient by: `(N, C, D, H, W)` spread by a weight likewise."""
    return _convolve_transposed(3, input, weight, bias, stride, padding, output_padding, groups, dilation)
