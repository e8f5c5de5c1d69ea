"""Where does the NaN come from? Inside `detect_anomaly()` every result and every gradient is looked at.

PyTorch's mode looks at gradients only, so a loss that is NaN already passes. Here the forward is checked too, and the
error names the operation, the module, the line, the first bad element, and the ranges of the inputs that made it.

When the mode is off it costs nothing: it puts itself in the place of the one function through which all results pass.
"""

from __future__ import annotations

import functools
import itertools
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, ParamSpec, TypeVar

import numpy as np

from cordee.trainer.array import is_float, to_numpy
from cordee.trainer.autograd import graph
from cordee.trainer.autograd.location import here
from cordee.trainer.errors import TrainerError
from cordee.trainer.tensors import Leaf, Tensor, wrap

__all__ = ["AnomalyError", "detect_anomaly", "inspect_gradient", "is_anomaly_enabled", "set_detect_anomaly"]

P = ParamSpec("P")
R = TypeVar("R")


class AnomalyError(TrainerError, ArithmeticError):
    """A value or a gradient that is no number, found by `detect_anomaly`."""


class _State:
    mode: bool | None = None
    """None: off; else whether values are looked at."""


def _set(mode: bool | None) -> None:
    _State.mode = mode
    graph.make_by(wrapping=wrap if mode is None else _checked if mode else _noted)


_MODULES: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
"""In which module a node was recorded."""


class detect_anomaly:  # noqa: N801 (PyTorch's name)
    """Within this block, or in functions decorated with it, raise where the first NaN appears, forward or backward.

    It makes everything slower, and it is for the whole process, not for one thread.

    Args:
        check_nan: whether values are looked at; if not, nothing is refused.

    Raises (within the block):
        AnomalyError: an operation's result, or a gradient, holds a NaN (its inputs may have brought it in: it says so).
    """

    def __init__(self, check_nan: bool = True) -> None:
        self.check_nan = check_nan
        self._outer: list[bool | None] = []

    def __enter__(self) -> None:
        self._outer.append(_State.mode)
        _set(self.check_nan)

    def __exit__(self, *_: object) -> None:
        _set(self._outer.pop())

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            with detect_anomaly(self.check_nan):
                return function(*args, **kwargs)

        return wrapped


class set_detect_anomaly:  # noqa: N801 (PyTorch's name)
    """Turn the mode on or off: from now on, or as a context manager until the block's end."""

    def __init__(self, mode: bool, check_nan: bool = True) -> None:
        self._before = _State.mode
        _set(check_nan if mode else None)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        _set(self._before)


def is_anomaly_enabled() -> bool:
    """Whether results are looked at now."""
    return _State.mode is not None


# -- forward -----------------------------------------------------------------------------------------------------------


def _noted(data: Any, node: Any = None) -> Tensor:
    if node is not None and type(node) is not Leaf:
        _MODULES[node] = _module_path(sys._getframe(1))
    return wrap(data, node)


def _checked(data: Any, node: Any = None) -> Tensor:
    bad = _first_nan(data)
    if bad is not None:
        frame = sys._getframe(1)
        op, inputs = _call(frame)
        module = _module_path(frame)
        raise AnomalyError(
            f"{op} made NaN{f' in {module}' if module else ''}, first at index {bad} of shape {data.shape}, "
            f"at {here()}; its inputs: {'; '.join(inputs) or 'none'}"
        )
    return _noted(data, node)


def _first_nan(data: Any) -> tuple[int, ...] | None:
    if not is_float(data.dtype):
        return None
    values = to_numpy(data)
    if values.dtype.kind != "f":
        values = values.astype(np.float32)
    places = np.isnan(values)
    if not places.any():
        return None
    return tuple(int(i) for i in np.unravel_index(int(places.argmax()), places.shape))


def _call(frame: FrameType) -> tuple[str, list[str]]:
    """The op that the engine's frame is running, and its inputs, described."""
    names = frame.f_locals
    while "op" not in names and frame.f_back is not None:  # `pick` has no op of its own
        frame = frame.f_back
        names = frame.f_locals
    op = names.get("op")
    arrays = names.get("arrays") or [names[name] for name in ("x", "y") if name in names]
    labels = getattr(op, "inputs", ()) or tuple(f"input {i}" for i in range(len(arrays)))
    return getattr(op, "name", "an operation"), [
        f"{label} {describe(array)}" for label, array in zip(labels, arrays, strict=False) if array is not None
    ]


def describe(array: Any) -> str:
    """An array's shape and range, and how much of it is not finite."""
    if not hasattr(array, "shape"):
        return repr(array)
    values = to_numpy(array)
    text = f"of shape {values.shape}"
    if values.dtype.kind in "biu" or not values.size:
        return text
    values = values.astype(np.float64)
    finite = np.isfinite(values)
    if finite.any():
        text += f" from {values[finite].min():.4g} to {values[finite].max():.4g}"
    for what, count in (("NaN", int(np.isnan(values).sum())), ("infinite", int(np.isinf(values).sum()))):
        if count:
            text += f", {count} {what}"
    return text


def _module_path(frame: FrameType | None) -> str:
    """The modules that are being called now, outermost first, by the names they have in each other."""
    modules: list[Any] = []
    while frame is not None:
        if frame.f_code.co_name in ("__call__", "forward"):
            module = frame.f_locals.get("self")
            if hasattr(module, "named_children") and (not modules or modules[-1] is not module):
                modules.append(module)
        frame = frame.f_back
    modules.reverse()
    if not modules:
        return ""
    path = [type(modules[0]).__name__]
    for outer, inner in itertools.pairwise(modules):
        path.append(next((name for name, child in outer.named_modules() if child is inner), type(inner).__name__))
    return ".".join(path)


# -- backward ----------------------------------------------------------------------------------------------------------


def inspect_gradient(node: Any, place: int, g: Any, gradient: Any) -> None:
    """Called by backward, in this mode, for every gradient that it computes.

    Raises:
        AnomalyError: it holds a NaN.
    """
    array = gradient.data if isinstance(gradient, Tensor) else gradient
    bad = _first_nan(array) if _State.mode else None
    if bad is None:
        return
    names = node.op.inputs
    module = _MODULES.get(node, "")
    arriving = g.data if isinstance(g, Tensor) else g
    read = [
        f"{name} {describe(value)}"
        for name, value in zip((*names, "its result"), (*(node.saved or ()), node.out), strict=False)
        if hasattr(value, "dtype")
    ]
    raise AnomalyError(
        f"the gradient of {node.op.name}{f' in {module}' if module else ''} for "
        f"{names[place] if place < len(names) else f'input {place}'} is NaN, first at index {bad} of shape "
        f"{array.shape}; recorded at {node.where}; the gradient that arrived: "
        f"{'several' if isinstance(arriving, tuple) else describe(arriving)}; it read: {'; '.join(read) or 'no values'}"
    )
