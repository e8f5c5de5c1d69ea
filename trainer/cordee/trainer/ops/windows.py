"""Windows that slide over images of any number of dimensions: their geometry, and what they see.

Convolution and pooling share this. An image has shape `(N, C, *sizes)`; a window has one number per spatial dimension
for each of kernel, stride, padding and dilation. `patches` lays out what every window sees, with channels before
samples, so that a convolution is one matrix product; `unpatches` adds it up again. They are each other's gradients.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from cordee.trainer.autograd.record import Shape, op
from cordee.trainer.errors import ShapeError

__all__ = ["Sizes", "Window", "bordered", "numbers", "pooled_shape", "window"]

Sizes: TypeAlias = "tuple[int, ...]"


def numbers(function: str, name: str, value: Any, ndim: int) -> Sizes:
    """One number for each spatial dimension: `3` and `(3, 3)` mean the same, `(3,)` too.

    Raises:
        ValueError: there are as many as neither one nor `ndim`.
    """
    if isinstance(value, int):
        return (value,) * ndim
    given = tuple(int(n) for n in value)
    if len(given) == 1:
        return given * ndim
    if len(given) != ndim:
        raise ValueError(f"{function}: {name} is a number or {ndim} numbers, not {value!r}")
    return given


@dataclass(frozen=True)
class Window:
    """What slides: one number per spatial dimension in each field."""

    kernel: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    ceil: bool = False
    """Whether a last window may hang over the end of the image (but not begin behind it)."""

    @functools.cached_property
    def places(self) -> list[Sizes]:
        """The places in the window, in row-major order."""
        return list(itertools.product(*map(range, self.kernel)))

    def size(self, sizes: Any, refusal: type[Exception] = ValueError) -> Sizes:
        """How many windows there are along each dimension of an image of these sizes; an error if there is none.

        Forwards let it raise `ValueError`, which the engine explains by the op's shape rule; shape rules `ShapeError`.
        """
        found = []
        for n, k, s, p, d in zip(sizes, self.kernel, self.stride, self.padding, self.dilation, strict=True):
            room = n + 2 * p - d * (k - 1) - 1
            count = (-(-room // s) if self.ceil else room // s) + 1
            if self.ceil and (count - 1) * s >= n + p:
                count -= 1
            if room < 0 or count < 1:
                raise refusal(
                    f"the kernel {_product_text(self.kernel)}{self._dilation_text()} is larger than the image of "
                    f"{_product_text(sizes)} with its padding {_product_text(self.padding)}"
                )
            found.append(count)
        return tuple(found)

    def border(self, sizes: Sizes, size: Sizes) -> list[tuple[int, int]]:
        """How much is missing before and after an image of these sizes, along each dimension."""
        return [
            (p, max(0, (m - 1) * s + d * (k - 1) + 1 - n - p))
            for n, m, k, s, p, d in zip(sizes, size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        ]

    def views(self, size: Sizes) -> Sequence[tuple[Sizes, tuple[slice, ...]]]:
        """Per place in the window: the place, and what it sees of the bordered image in this many windows."""
        known = self._views.get(size)
        if known is None:
            along = [
                [slice(i * d, i * d + (m - 1) * s + 1, s) for i in range(k)]
                for m, k, s, d in zip(size, self.kernel, self.stride, self.dilation, strict=True)
            ]
            known = tuple(zip(self.places, itertools.product(*along), strict=True))
            if len(self._views) < 64:
                self._views[size] = known
        return known

    @functools.cached_property
    def _views(self) -> dict[Sizes, Sequence[tuple[Sizes, tuple[slice, ...]]]]:
        return {}

    def _dilation_text(self) -> str:
        return "" if set(self.dilation) == {1} else f" (dilation {_product_text(self.dilation)})"


def _product_text(sizes: Sizes) -> str:
    return "×".join(map(str, sizes))


def window(
    function: str, ndim: int, kernel: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, ceil: bool = False
) -> Window:
    """The window that a call describes, checked; `stride=None` is the kernel.

    Raises:
        ValueError: a number is too small, or there are not as many as dimensions.
    """
    try:
        return _window(function, ndim, kernel, stride, padding, dilation, ceil)
    except TypeError:  # lists cannot be looked up
        listed = [tuple(value) if isinstance(value, list) else value for value in (kernel, stride, padding, dilation)]
        return _window(function, ndim, *listed, ceil)


@functools.lru_cache(maxsize=512)
def _window(function: str, ndim: int, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> Window:
    kernel = numbers(function, "kernel_size", kernel, ndim)
    stride = None if stride == () else stride
    made = Window(
        kernel,
        kernel if stride is None else numbers(function, "stride", stride, ndim),
        numbers(function, "padding", padding, ndim),
        numbers(function, "dilation", dilation, ndim),
        ceil,
    )
    for name, least in (("kernel", 1), ("stride", 1), ("padding", 0), ("dilation", 1)):
        if min(getattr(made, name)) < least:
            raise ValueError(f"{function}: {name} must be at least {least}, not {getattr(made, name)}")
    return made


def pooled_shape(a: Any, *, window: Window, **_: Any) -> Shape:
    """The shape that pooling with this window gives.

    Raises:
        ShapeError: the number of dimensions is wrong, the padding more than half a window, or no window fits.
    """
    spatial = len(window.kernel)
    if len(a) != spatial + 2:
        raise ShapeError(f"needs {spatial + 1} or {spatial + 2} dimensions ((N,) C and {spatial} sizes), not {len(a)}")
    if 0 in a[1:]:
        raise ShapeError(f"only the batch (dimension 0) may be empty, not all of {tuple(a)}")
    for p, k in zip(window.padding, window.kernel, strict=True):
        if 2 * p > k:
            padding, kernel = _product_text(window.padding), _product_text(window.kernel)
            raise ShapeError(f"padding {padding} is more than half of the kernel {kernel}")
    return (*a[:2], *window.size(a[2:], ShapeError))


def bordered(xp: Any, a: Any, border: list[tuple[int, int]], value: Any = 0, order: Literal["C", "K"] = "C") -> Any:
    """The image with this border of a value; the image itself where there is none. `order` "K": in memory as it is."""
    if not any(map(any, border)):
        return a
    lead = a.shape[: -len(border)]
    sizes = a.shape[-len(border) :]
    shape = (*lead, *(n + p + q for n, (p, q) in zip(sizes, border, strict=True)))
    out = xp.full(shape, value, a.dtype) if order == "C" else xp.full_like(a, value, order=order, shape=shape)
    out[(..., *inside(sizes, border))] = a
    return out


def inside(sizes: Sizes, border: list[tuple[int, int]]) -> tuple[slice, ...]:
    """Where in a bordered image the image itself is."""
    return tuple(slice(p, p + n) for n, (p, _) in zip(sizes, border, strict=True))


def channels_first(a: Any) -> Any:
    """`(N, C, …)` seen as `(C, N, …)`."""
    return a.swapaxes(0, 1)


def gather(columns: Any, image: Any, window: Window, size: Sizes) -> Any:
    """Write what the windows see of a bordered image (C, N, …) into `columns` (C, *kernel, N, *size)."""
    for place, view in window.views(size):
        columns[(slice(None), *place)] = image[(slice(None), slice(None), *view)]
    return columns


def scatter(columns: Any, image: Any, window: Window, size: Sizes) -> Any:
    """Add columns up where they came from; the inverse way of `gather`."""
    for place, view in window.views(size):
        image[(slice(None), slice(None), *view)] += columns[(slice(None), *place)]
    return image


# -- the ops -----------------------------------------------------------------------------------------------------------


def _patches(xp: Any, a: Any, *, window: Window) -> Any:
    size = window.size(a.shape[2:])
    image = bordered(xp, channels_first(a), window.border(a.shape[2:], size))
    return gather(xp.empty((a.shape[1], *window.kernel, a.shape[0], *size), a.dtype), image, window, size)


def _patches_shape(a: Any, *, window: Window) -> Shape:
    if len(a) != len(window.kernel) + 2:
        raise ShapeError(f"needs {len(window.kernel) + 2} dimensions (N, C, sizes), not {len(a)}")
    return (a[1], *window.kernel, a[0], *window.size(a[2:], ShapeError))


def _unpatches(xp: Any, a: Any, *, shape: Sizes, window: Window) -> Any:
    sizes, size = shape[2:], window.size(shape[2:])
    if a.shape != (shape[1], *window.kernel, shape[0], *size):
        raise ValueError("the windows are not those of such an image")
    border = window.border(sizes, size)
    image = xp.zeros((shape[1], shape[0], *(n + p + q for n, (p, q) in zip(sizes, border, strict=True))), a.dtype)
    return channels_first(scatter(a, image, window, size)[(..., *inside(sizes, border))])


def _misfit(a: Any, shape: Sizes, window: Window) -> str:
    return f"windows over an image of shape {shape} have shape {_patches_shape(shape, window=window)}, not {a}"


def _unpatches_shape(a: Any, *, shape: Sizes, window: Window) -> Shape:
    if tuple(a) != _patches_shape(shape, window=window):
        raise ShapeError(_misfit(a, shape, window))
    return shape


def patches_reference(a: Any, window: Window) -> Any:
    """One number at a time."""
    size = window.size(a.shape[2:])
    padded = np.pad(a, ((0, 0), (0, 0), *window.border(a.shape[2:], size)))
    out = np.zeros((a.shape[1], *window.kernel, a.shape[0], *size))
    for place in window.places:
        for where in np.ndindex(*size):
            seen = tuple(y * s + i * d for y, s, i, d in zip(where, window.stride, place, window.dilation, strict=True))
            out[(slice(None), *place, slice(None), *where)] = padded[(slice(None), slice(None), *seen)].T
    return out


def _unpatches_reference(a: Any, shape: Sizes, window: Window) -> Any:
    """As the transpose of `patches`, one unit image at a time."""
    out = np.zeros(shape)
    for place in np.ndindex(*shape):
        unit = np.zeros(shape)
        unit[place] = 1
        out[place] = (patches_reference(unit, window) * a).sum()
    return out


_FLAT = Window((2, 3), (2, 1), (1, 0), (1, 2))
_LINE = Window((3,), (2,), (1,), (1,))

PATCHES = op(
    "patches", "every window's content: (N, C, *sizes) to (C, *kernel, N, *number of windows)",
    forward=_patches, vjps=(lambda F, g, out, a, *, window: F.unpatches(g, shape=a, window=window),), saves=("",),
    reference=patches_reference, shape=_patches_shape, dtype="first",
    samples=lambda s: [s.case(s.normal(2, 2, 4, 6), window=_FLAT), s.case(s.normal(1, 2, 5), window=_LINE)],
    errors=lambda s: [s.case(s.normal(2, 2, 4), window=_FLAT), s.case(s.normal(1, 1, 0), window=_LINE)],
)  # fmt: skip

UNPATCHES = op(
    "unpatches", "windows' contents added up where they came from",
    forward=_unpatches, vjps=(lambda F, g, out, a, *, shape, window: F.patches(g, window=window),), saves=("",),
    reference=_unpatches_reference, shape=_unpatches_shape, dtype="first",
    samples=lambda s: [
        s.case(s.normal(2, 2, 3, 2, 3, 2), shape=(2, 2, 4, 6), window=_FLAT),
        s.case(s.normal(2, 3, 1, 3), shape=(1, 2, 5), window=_LINE),
    ],
    errors=lambda s: [s.case(s.normal(2, 3, 1, 4), shape=(1, 2, 5), window=_LINE)],
)  # fmt: skip
