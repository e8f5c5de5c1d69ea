"""Autocast around the two methods of an `autograd.Function`: what is inside of them is the user's own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from cordee.trainer.amp.region import autocast, get_autocast_dtype, is_autocast_enabled
from cordee.trainer.array import DTypeLike, is_float
from cordee.trainer.tensors import Tensor

__all__ = ["custom_bwd", "custom_fwd"]

Method = Callable[..., Any]


def custom_fwd(fwd: Method | None = None, *, device_type: str, cast_inputs: DTypeLike = None) -> Any:
    """For `Function.forward`: under autocast, its floating tensors are cast to `cast_inputs`, and inside autocast is
    off. Without `cast_inputs`, inside is like outside, and `custom_bwd` has the backward like the forward.

    To be written above the method, as `@custom_fwd(device_type="cpu")`.
    """
    if fwd is None:
        return functools.partial(custom_fwd, device_type=device_type, cast_inputs=cast_inputs)
    method = fwd

    @functools.wraps(method)
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        on = is_autocast_enabled(device_type)
        ctx._autocast_dtype = get_autocast_dtype(device_type)
        ctx._autocast = on and cast_inputs is None
        if not on or cast_inputs is None:
            return method(ctx, *args, **kwargs)
        with autocast(device_type, enabled=False):
            return method(ctx, *_cast(args, cast_inputs), **_cast(kwargs, cast_inputs))

    return forward


def custom_bwd(bwd: Method | None = None, *, device_type: str) -> Any:
    """For `Function.backward`: autocast is what it was in its forward, which has `custom_fwd`."""
    if bwd is None:
        return functools.partial(custom_bwd, device_type=device_type)
    method = bwd

    @functools.wraps(method)
    def backward(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        with autocast(device_type, ctx._autocast_dtype, enabled=ctx._autocast):
            return method(ctx, *args, **kwargs)

    return backward


def _cast(value: Any, dtype: DTypeLike) -> Any:
    """The floating tensors among arguments, in a dtype; double precision stays."""
    if isinstance(value, Tensor):
        return value.to(dtype) if is_float(value.dtype) and value.itemsize < 8 else value
    if isinstance(value, dict):
        return {name: _cast(each, dtype) for name, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_cast(each, dtype) for each in value)
    return value
