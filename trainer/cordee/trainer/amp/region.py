"""Where autocast is on: a block, or every call of a function; of one thread, and of the tensors on one device."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np

from cordee.trainer.array import DTypeLike, device_name
from cordee.trainer.autograd.casting import DTYPES, Regions, current, forget_casts, install

__all__ = [
    "autocast",
    "clear_autocast_cache",
    "get_autocast_dtype",
    "is_autocast_available",
    "is_autocast_cache_enabled",
    "is_autocast_enabled",
    "set_autocast_cache_enabled",
    "set_autocast_dtype",
    "set_autocast_enabled",
]

P = ParamSpec("P")
R = TypeVar("R")

_DEVICES = ("cpu", "cuda")


class autocast:  # noqa: N801 (PyTorch's name)
    """Computes in mixed precision inside the block: products in `dtype`, what needs it in float32.

    Regions nest; `autocast("cpu", enabled=False)` is float32 again, for tensors that are. Casts of parameters are kept
    until the outermost region ends, or until an optimiser's step has changed them. Backward needs no region: gradients
    are computed in the dtypes of the forward, and arrive in float32 at parameters of float32.

    Also a decorator. Without effect (and with a warning) for a device that this process does not compute on.

    Args:
        device_type: "cpu" or "cuda": whose tensors, and by whose table of operations.
        dtype: bfloat16 or float16; by default bfloat16 on the CPU, float16 on CUDA.
        enabled: False: without effect, or switched off inside an outer region.
        cache_enabled: whether casts of parameters are kept.
    """

    def __init__(
        self, device_type: str, dtype: DTypeLike = None, enabled: bool = True, cache_enabled: bool | None = None
    ) -> None:
        _check_device(device_type)
        self.device = device_type
        self.fast_dtype = get_autocast_dtype(device_type) if dtype is None else _checked_dtype(dtype)
        self._enabled = bool(enabled)
        self._cache_enabled = cache_enabled
        if enabled and not is_autocast_available(device_type):
            warnings.warn(
                f"autocast({device_type!r}) has no effect: this process computes on {device_name()}", stacklevel=2
            )
            self._enabled = False
        self._outer: list[Regions] = []

    def __enter__(self) -> autocast:
        outer = current()
        self._outer.append(outer)
        install(
            Regions(
                {**outer.enabled, self.device: self._enabled},
                {**outer.dtypes, self.device: self.fast_dtype},
                outer.cache if self._cache_enabled is None else self._cache_enabled,
            )
        )
        return self

    def __exit__(self, *_: object) -> None:
        outer = self._outer.pop()
        install(outer)
        if not any(outer.enabled.values()):
            forget_casts()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        if any(test(function) for test in _SEVERAL_TURNS):
            raise TypeError(f"{function.__qualname__} gives way in its middle: open the region inside of it, by `with`")

        @functools.wraps(function)
        def within(*args: P.args, **kwargs: P.kwargs) -> R:
            with autocast(self.device, self.fast_dtype, self._enabled, self._cache_enabled):
                return function(*args, **kwargs)

        return within


_SEVERAL_TURNS = (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction)


def _check_device(device_type: str) -> None:
    if device_type not in _DEVICES:
        raise ValueError(f"device_type is 'cpu' or 'cuda', not {device_type!r}")


def _checked_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    wanted = np.dtype(dtype)
    if wanted not in DTYPES:
        raise ValueError(f"autocast computes in bfloat16 or float16, not {wanted.name}")
    return wanted


def is_autocast_available(device_type: str) -> bool:
    """Whether this process computes on such a device."""
    _check_device(device_type)
    return device_type == device_name()


def is_autocast_enabled(device_type: str | None = None) -> bool:
    """Whether this thread is in a region for a device; by default the one that this process computes on."""
    return current().enabled[_device(device_type)]


def set_autocast_enabled(device_type: str, enabled: bool) -> None:
    """Switch autocast on or off for this thread, from here on."""
    now = current()
    install(now._replace(enabled={**now.enabled, _device(device_type): bool(enabled)}))


def get_autocast_dtype(device_type: str | None = None) -> np.dtype[Any]:
    """What regions for a device compute products in."""
    return current().dtypes[_device(device_type)]


def set_autocast_dtype(device_type: str, dtype: DTypeLike) -> None:
    """Choose what regions for a device compute products in, from here on."""
    now = current()
    install(now._replace(dtypes={**now.dtypes, _device(device_type): _checked_dtype(dtype)}))


def is_autocast_cache_enabled() -> bool:
    """Whether casts of parameters are kept."""
    return current().cache


def set_autocast_cache_enabled(enabled: bool) -> None:
    """Keep casts of parameters, or do not, from here on."""
    install(current()._replace(cache=bool(enabled)))


def clear_autocast_cache() -> None:
    """Forget the casts of parameters: after writing to `parameter.data`, which nobody sees."""
    forget_casts()


def _device(device_type: str | None) -> str:
    if device_type is None:
        return device_name()
    _check_device(device_type)
    return device_type
