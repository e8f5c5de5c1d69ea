"""Convolutions and their gradients by oneDNN, with channels last in memory.

An image (N, C, …) is kept in memory as (N, …, C) and seen as (N, C, …): of all layouts that oneDNN has fast loops for,
the only one that NumPy's views can tell, so that nothing has to be reordered between a convolution and what follows.
What comes in another order is copied once. Weights stay as they are, (O, C / groups, …), and are reordered by each
call to what its loops read: they change with every step, and are small beside what they are multiplied with.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from cordee.trainer.errors import KernelError
from cordee.trainer.kernels import team
from cordee.trainer.kernels.onednn.library import Dims, calls, dtypes
from cordee.trainer.kernels.onednn.primitives import (
    Description,
    Layout,
    Operand,
    Primitive,
    address,
    attributes,
    cached,
    fast,
    reordering,
    share,
)

__all__ = ["correlate", "ordered", "spread", "weigh"]

_FORWARD, _DIRECT = 64, 1  # dnnl_forward_training, dnnl_convolution_direct
_SRC, _WEIGHTS, _BIAS, _DST = 1, 33, 41, 17  # DNNL_ARG_…
_DIFF_SRC, _DIFF_WEIGHTS, _DIFF_BIAS, _DIFF_DST = 129, 161, 169, 145

_COPY = 64
"""To copy a number takes as long as so many multiplications."""

Sizes = tuple[int, ...]


# -- layouts -----------------------------------------------------------------------------------------------------------


@functools.cache
def _to_last(ndim: int) -> Sizes:
    return (0, *range(2, ndim), 1)


@functools.cache
def _from_last(ndim: int) -> Sizes:
    return (0, ndim - 1, *range(1, ndim - 1))


def _last(a: Any, dtype: int) -> Any:
    """(N, C, …) as (N, …, C), contiguous; copied if it is not so in memory."""
    seen = a.transpose(_to_last(a.ndim))
    if seen.flags.c_contiguous:
        return seen
    strides = a.strides
    if min(strides) <= 0:
        return np.ascontiguousarray(seen)
    copy = cached(("reorder", a.shape, strides, dtype, team.size()), _reorder, a.shape, strides, a.itemsize, dtype)
    if copy is None:
        return np.ascontiguousarray(seen)
    out = np.empty(seen.shape, a.dtype)
    copy(address(a), address(out))
    return out


def _reorder(shape: Sizes, strides: Sizes, itemsize: int, dtype: int) -> Primitive | None:
    if any(step % itemsize for step in strides):
        return None
    share(math.prod(shape) * _COPY)
    source = Layout(shape, dtype, [step // itemsize for step in strides])
    target = Layout.dense(shape, dtype, _to_last(len(shape)))
    return Primitive(reordering(source, target), [Operand(_SRC, source), Operand(_DST, target, True)])


def ordered(a: Any, *_: Any) -> Any:
    """Channels last in memory, as `spread` and `weigh` read it."""
    dtype = dtypes().get(a.dtype)
    if dtype is None or not a.size:
        return NotImplemented
    return _last(a, dtype).transpose(_from_last(a.ndim))


# -- descriptions ------------------------------------------------------------------------------------------------------


class _Geometry:
    """The layouts and numbers that describe a convolution and both its gradients."""

    def __init__(
        self, sizes: Sizes, size: Sizes, samples: int, weight: Sizes, window: Any, groups: int, dtype: int
    ) -> None:
        ndim, (out, per_group) = len(weight), weight[:2]
        order = _to_last(ndim)
        self.image = Layout.dense((samples, per_group * groups, *sizes), dtype, order)
        self.result = Layout.dense((samples, out, *size), dtype, order)
        shape = weight if groups == 1 else (groups, out // groups, *weight[1:])
        self.weight, self.any_weight = Layout.dense(shape, dtype), Layout(shape, dtype, None)
        self.bias = Layout.dense((out,), dtype)
        after = [
            (m - 1) * s + d * (k - 1) + 1 - n - p  # what is missing; negative: what is left over
            for n, m, k, s, p, d in zip(sizes, size, *_numbers(window), strict=True)
        ]
        if any(n > p for n, p in zip(after, window.padding, strict=True)):
            raise KernelError("there are more windows than the image has")
        dilation = [d - 1 for d in window.dilation]
        share(samples * math.prod(size) * math.prod(weight))
        self.numbers = (Dims(*window.stride), Dims(*dilation), Dims(*window.padding), Dims(*after))

    def forward(self, bias: Layout | None) -> Description:
        return fast(Description(
            "dnnl_convolution_forward_primitive_desc_create", calls().engine, _FORWARD, _DIRECT, self.image,
            self.any_weight, bias, self.result, *self.numbers, attributes(),
        ))  # fmt: skip


def _numbers(window: Any) -> tuple[Sizes, ...]:
    return window.kernel, window.stride, window.padding, window.dilation


def _make_correlate(
    image: Sizes, weight: Sizes, window: Any, groups: int, dtype: int, bias: bool
) -> tuple[Primitive, Sizes]:
    """What computes it, and the shape of the result, channels last."""
    size = window.size(image[2:])
    own = _Geometry(image[2:], size, image[0], weight, window, groups, dtype)
    biases = [Operand(_BIAS, own.bias)] if bias else []
    operands = [Operand(_SRC, own.image), Operand(_WEIGHTS, own.weight), Operand(_DST, own.result, True), *biases]
    return Primitive(own.forward(own.bias if bias else None), operands), (image[0], *size, weight[0])


def _make_spread(*geometry: Any) -> Primitive:
    own = _Geometry(*geometry)
    description = fast(Description(
        "dnnl_convolution_backward_data_primitive_desc_create", calls().engine, _DIRECT, own.image, own.any_weight,
        own.result, *own.numbers, own.forward(None), attributes(),
    ))  # fmt: skip
    operands = [Operand(_DIFF_DST, own.result), Operand(_WEIGHTS, own.weight), Operand(_DIFF_SRC, own.image, True)]
    return Primitive(description, operands)


def _make_weigh(*geometry: Any, bias: bool) -> Primitive:
    own = _Geometry(*geometry)
    description = fast(Description(
        "dnnl_convolution_backward_weights_primitive_desc_create", calls().engine, _DIRECT, own.image, own.any_weight,
        own.bias if bias else None, own.result, *own.numbers, own.forward(None), attributes(),
    ))  # fmt: skip
    biases = [Operand(_DIFF_BIAS, own.bias, True)] if bias else []
    return Primitive(description, [
        Operand(_DIFF_DST, own.result), Operand(_SRC, own.image), Operand(_DIFF_WEIGHTS, own.weight, True), *biases,
    ])  # fmt: skip


# -- kernels -----------------------------------------------------------------------------------------------------------


def correlate(input: Any, weight: Any, bias: Any, window: Any, groups: int) -> Any:
    """The convolution; the image is kept for `weigh` where it had to be copied."""
    dtype = dtypes().get(input.dtype)
    if dtype is None or weight.dtype != input.dtype or not input.size or not weight.size:
        return NotImplemented
    if bias is not None and (bias.dtype != input.dtype or bias.shape != weight.shape[:1]):
        return NotImplemented
    with_bias = bias is not None
    key = ("correlate", input.shape, weight.shape, window, groups, with_bias, dtype, team.size())
    made = cached(key, _make_correlate, input.shape, weight.shape, window, groups, dtype, with_bias)
    if made is None:
        return NotImplemented
    run, shape = made
    image, weight = _last(input, dtype), np.ascontiguousarray(weight)
    out = np.empty(shape, input.dtype)
    if with_bias:
        bias = np.ascontiguousarray(bias)
        run(address(image), address(weight), address(out), address(bias))
    else:
        run(address(image), address(weight), address(out))
    return out.transpose(_from_last(out.ndim)), (image,) if image.base is None else None


def spread(g: Any, weight: Any, sizes: Sizes, window: Any, groups: int) -> Any:
    """The gradient by the input."""
    dtype = dtypes().get(g.dtype)
    if dtype is None or weight.dtype != g.dtype or weight.shape[0] != g.shape[1] or not g.size or not weight.size:
        return NotImplemented
    num_samples, size = g.shape[0], g.shape[2:]
    key = ("spread", sizes, g.shape, weight.shape, window, groups, dtype, team.size())
    run = cached(key, _make_spread, sizes, size, num_samples, weight.shape, window, groups, dtype)
    if run is None:
        return NotImplemented
    result, weight = _last(g, dtype), np.ascontiguousarray(weight)
    out = np.empty((num_samples, *sizes, weight.shape[1] * groups), g.dtype)
    run(address(result), address(weight), address(out))
    return out.transpose(_from_last(out.ndim))


def weigh(g: Any, input: Any, window: Any, groups: int, kept: Any = None, with_bias: bool = False) -> Any:
    """The gradients by the weight and by the bias."""
    dtype = dtypes().get(g.dtype)
    if dtype is None or input.dtype != g.dtype or isinstance(kept, np.ndarray) or not g.size or not input.size:
        return NotImplemented
    if input.shape[0] != g.shape[0] or input.shape[1] % groups:
        return NotImplemented
    num_samples, num_out, sizes, size = g.shape[0], g.shape[1], input.shape[2:], g.shape[2:]
    shape = (num_out, input.shape[1] // groups, *window.kernel)
    key = ("weigh", g.shape, input.shape, window, groups, with_bias, dtype, team.size())
    run = cached(key, _make_weigh, sizes, size, num_samples, shape, window, groups, dtype, bias=with_bias)
    if run is None:
        return NotImplemented
    result, image = _last(g, dtype), _last(input, dtype) if kept is None else kept[0]
    out = np.empty(shape, g.dtype)
    if not with_bias:
        run(address(result), address(image), address(out))
        return out, None
    bias = np.empty(num_out, g.dtype)
    run(address(result), address(image), address(out), address(bias))
    return out, bias
