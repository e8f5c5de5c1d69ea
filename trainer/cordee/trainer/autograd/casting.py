"""Autocast: while a region is open, operations are computed in the precision that suits their kind.

Which kind an operation is of stands in its record (`Op.autocast`): products run in the region's 16 bits; what sums up,
or spans a wide range, in single precision; the rest in the dtypes that come, which promote to the widest. The tables
are PyTorch's, by device. A cast is an operation like any other, so gradients arrive in the dtype that a tensor has:
parameters of float32 are their own master weights.

Regions are a thread's own. Outside of them an operation asks for one number, `SWITCH.on`, and only where its record
names a kind.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from cordee.trainer.array import bfloat16, float16, float32, is_float, promote
from cordee.trainer.autograd.mode import MODE
from cordee.trainer.autograd.record import REGISTRY
from cordee.trainer.tensors import Leaf, Tensor, next_number

__all__ = [
    "DTYPES",
    "SWITCH",
    "Regions",
    "autocasts",
    "cast_input",
    "cast_inputs",
    "current",
    "forget_casts",
    "install",
    "restored",
    "suspended",
]

P = ParamSpec("P")
R = TypeVar("R")

DTYPES = (bfloat16, float16)
"""What a region may compute in."""


class _Switch:
    """In how many threads a region is open."""

    __slots__ = ("lock", "on")

    def __init__(self) -> None:
        self.on = 0
        self.lock = threading.Lock()


SWITCH: _Switch = _Switch()


class Regions(NamedTuple):
    """What autocast is set to in a thread, by device."""

    enabled: Mapping[str, bool]
    dtypes: Mapping[str, np.dtype[Any]]
    cache: bool
    """Whether casts of parameters are kept."""


class _Cast(NamedTuple):
    """A parameter's values in another dtype."""

    source: Any
    """The array that they are of."""
    tensor: Tensor
    number: int
    """When they were: a later write into the parameter makes them old."""


_WIDEST: Any = "widest"
"""In the place of a dtype: the one that the inputs' promote to."""
_NOTHING: dict[str, dict[str, Any]] = {"cpu": {}, "cuda": {}}


class _Local(threading.local):
    """A thread's regions, and what follows from them."""

    def __init__(self) -> None:
        self.regions = Regions({"cpu": False, "cuda": False}, {"cpu": bfloat16, "cuda": float16}, True)
        self.wanted = _NOTHING
        """By device: the dtype that each kind of operation is to be computed in."""
        self.counted = False
        self.casts: dict[tuple[Leaf, Any, bool], _Cast] = {}


_LOCAL = _Local()


def current() -> Regions:
    """What this thread's autocast is set to."""
    return _LOCAL.regions


def install(regions: Regions) -> None:
    """Set this thread's autocast."""
    here = _LOCAL
    here.regions = regions
    here.wanted = {
        device: {
            "low": regions.dtypes[device],
            "single": float32,
            f"single on {device}": float32,
            f"low on {device}": regions.dtypes[device],
            "widest": _WIDEST,
            f"widest on {device}": _WIDEST,
        }
        if enabled
        else {}
        for device, enabled in regions.enabled.items()
    }
    on = any(regions.enabled.values())
    if on is not here.counted:
        here.counted = on
        with SWITCH.lock:
            SWITCH.on += 1 if on else -1


@contextmanager
def restored(regions: Regions) -> Iterator[None]:
    """Inside, this thread's autocast is set to what it was at some time."""
    before, wanted = _LOCAL.regions, _LOCAL.wanted
    install(regions)
    try:
        yield
    finally:
        install(before)
        _LOCAL.wanted = wanted
        if not any(before.enabled.values()):
            forget_casts()


def forget_casts() -> None:
    """Weights have become others: cast them anew."""
    _LOCAL.casts.clear()


@contextmanager
def suspended() -> Iterator[None]:
    """Inside, operations of this thread are computed in the dtypes that come."""
    here = _LOCAL
    before = here.wanted
    here.wanted = _NOTHING
    try:
        yield
    finally:
        here.wanted = before


def _wanted(kind: str, inputs: Sequence[Any]) -> Any:
    """The dtype for an operation of this kind on these inputs; None: as they come."""
    for x in inputs:
        if isinstance(x, Tensor):
            return _LOCAL.wanted["cpu" if isinstance(x.data, np.ndarray) else "cuda"].get(kind)
    return None


def cast_input(kind: str, input: Tensor) -> Tensor:
    """The only input of an operation of this kind, as it is to see it."""
    dtype = _wanted(kind, (input,))
    return input if dtype is None else _in(dtype, input)


def cast_inputs(kind: str, inputs: Sequence[Any]) -> Sequence[Any]:
    """The inputs of an operation of this kind, as it is to see them."""
    dtype = _wanted(kind, inputs)
    return inputs if dtype is None else [_in(dtype, x) if isinstance(x, Tensor) else x for x in inputs]


def _in(dtype: Any, x: Tensor) -> Tensor:
    """A tensor in this dtype. Double precision, integers and complex numbers stay what they are."""
    source = x.data.dtype
    if source is dtype or source.itemsize > 4 or not is_float(source):
        return x
    leaf = x._node
    if source.itemsize == 2 or type(leaf) is not Leaf or not _LOCAL.regions.cache:
        return _cast(x, dtype)
    key = (leaf, dtype, MODE.enabled)
    known = _LOCAL.casts.get(key)
    if known is None or known.source is not x.data or known.number < leaf.written:
        _LOCAL.casts[key] = known = _Cast(x.data, _cast(x, dtype), next_number())
    return known.tensor


def _cast(x: Tensor, dtype: Any) -> Tensor:

    return REGISTRY["cast"].run(x, dtype=dtype, source=x.data.dtype)


def autocasts(kind: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """For functions made of several operations: all of them together are of this kind.

    It is one of `AUTOCAST`, or "widest" ("widest on cpu"): in the widest of the inputs' dtypes, products and all. Their
    tensors are cast, and inside everything is computed as it comes.
    """

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if not SWITCH.on:
                return function(*args, **kwargs)
            return _as_kind(kind, function, args, kwargs)

        return call

    return decorated


def _as_kind(kind: str, function: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
    given = [*args, *kwargs.values()]
    dtype = _wanted(kind, given)
    if dtype is None:
        return function(*args, **kwargs)
    if dtype is _WIDEST:
        dtype = promote(*[x.data.dtype for x in given if isinstance(x, Tensor)])
    with suspended():
        return function(
            *[_in(dtype, x) if isinstance(x, Tensor) else x for x in args],
            **{name: _in(dtype, x) if isinstance(x, Tensor) else x for name, x in kwargs.items()},
        )
