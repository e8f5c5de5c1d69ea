"""Whether operations are recorded now: `no_grad` and `enable_grad`, as context managers and decorators, per thread."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["enable_grad", "inference_mode", "is_grad_enabled", "no_grad", "set_grad_enabled"]

P = ParamSpec("P")
R = TypeVar("R")


class _Mode(threading.local):
    enabled = True


MODE = _Mode()


class set_grad_enabled:  # noqa: N801 (PyTorch's name)
    """Record operations inside the block, or do not."""

    def __init__(self, mode: bool) -> None:
        self.mode = mode
        self._outer: list[bool] = []

    def __enter__(self) -> None:
        self._outer.append(MODE.enabled)
        MODE.enabled = self.mode

    def __exit__(self, *_: object) -> None:
        MODE.enabled = self._outer.pop()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        mode = self.mode

        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            with set_grad_enabled(mode):
                return function(*args, **kwargs)

        return wrapped


class inference_mode(set_grad_enabled):  # noqa: N801
    """`no_grad` by PyTorch's other name: nothing here is gained by forbidding more. `inference_mode(False)` records."""

    def __init__(self, mode: bool = True) -> None:
        super().__init__(not mode)


class no_grad(set_grad_enabled):  # noqa: N801
    """Record nothing inside the block: results need no gradient, and nothing is kept for backward."""

    def __init__(self) -> None:
        super().__init__(False)


class enable_grad(set_grad_enabled):  # noqa: N801
    """Record inside the block, also within `no_grad`."""

    def __init__(self) -> None:
        super().__init__(True)


def is_grad_enabled() -> bool:
    """Whether operations on this thread are recorded."""
    return MODE.enabled
