"""Whether operations are recorded now: `no_grad` and `enable_grad`, as context managers and decorators, per thread."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

__all__ = ["enable_grad", "inference_mode", "is_grad_enabled", "no_grad", "set_grad_enabled"]

P = ParamSpec("P")
R = TypeVar("R")


class _Off:
    """In how many threads nothing is recorded: while there is none, an operation need not ask for its own."""

    __slots__ = ("lock", "threads")

    def __init__(self) -> None:
        self.threads = 0
        self.lock = threading.Lock()


OFF = _Off()


class _Mode(threading.local):
    """This thread's."""

    def __init__(self) -> None:
        self._enabled = True

    @property
    def enabled(self) -> bool:
        return self._enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        if enabled != self._enabled:
            self._enabled = enabled
            with OFF.lock:
                OFF.threads += -1 if enabled else 1


MODE = _Mode()


class _Within:
    """Sets the mode for a block, or for every call of a function; of a generator or coroutine for each of its turns."""

    def __init__(self, mode: bool) -> None:
        self.mode = mode
        self._outer: list[bool] = []

    def __enter__(self) -> None:
        self._outer.append(MODE.enabled)
        MODE.enabled = self.mode

    def __exit__(self, *_: object) -> None:
        MODE.enabled = self._outer.pop()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        return _decorated(function, self.mode)


class set_grad_enabled(_Within):  # noqa: N801 (PyTorch's name)
    """Record operations from now on, or do not; as a context manager until the block's end.

    `set_grad_enabled(False)` as a statement holds for the rest of the thread, as in PyTorch.
    """

    def __init__(self, mode: bool) -> None:
        super().__init__(bool(mode))
        self._before: bool | None = MODE.enabled  # until it is used as something else than a statement
        MODE.enabled = self.mode

    def __enter__(self) -> None:
        self._outer.append(MODE.enabled if self._before is None else self._before)
        self._before = None
        MODE.enabled = self.mode

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        if self._before is not None:
            MODE.enabled, self._before = self._before, None
        return _decorated(function, self.mode)


class inference_mode(_Within):  # noqa: N801
    """`no_grad` by PyTorch's other name: nothing here is gained by forbidding more. `inference_mode(False)` records."""

    @overload
    def __new__(cls, mode: bool = True) -> inference_mode: ...
    @overload
    def __new__(cls, mode: Callable[P, R]) -> Callable[P, R]: ...  # type: ignore[misc]
    def __new__(cls, mode: Any = True) -> Any:
        """Also `@inference_mode` without brackets."""
        return object.__new__(cls) if not callable(mode) else _decorated(mode, False)

    def __init__(self, mode: Any = True) -> None:
        super().__init__(not mode)


class no_grad(_Within):  # noqa: N801
    """Record nothing inside the block: results need no gradient, and nothing is kept for backward."""

    @overload
    def __new__(cls) -> no_grad: ...
    @overload
    def __new__(cls, orig_func: Callable[P, R]) -> Callable[P, R]: ...  # type: ignore[misc]
    def __new__(cls, orig_func: Any = None) -> Any:
        """Also `@no_grad` without brackets."""
        return object.__new__(cls) if orig_func is None else _decorated(orig_func, False)

    def __init__(self) -> None:
        super().__init__(False)


class enable_grad(_Within):  # noqa: N801
    """Record inside the block, also within `no_grad`."""

    @overload
    def __new__(cls) -> enable_grad: ...
    @overload
    def __new__(cls, orig_func: Callable[P, R]) -> Callable[P, R]: ...  # type: ignore[misc]
    def __new__(cls, orig_func: Any = None) -> Any:
        """Also `@enable_grad` without brackets."""
        return object.__new__(cls) if orig_func is None else _decorated(orig_func, True)

    def __init__(self) -> None:
        super().__init__(True)


def _decorated(function: Callable[P, R], mode: bool) -> Callable[P, R]:
    """The function, called in this mode. Between its turns, a generator leaves its caller the caller's own."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generate(*args: P.args, **kwargs: P.kwargs) -> Any:
            return (yield from _turns(function(*args, **kwargs), mode))

        return generate
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def wait(*args: P.args, **kwargs: P.kwargs) -> Any:
            return await _Awaited(function(*args, **kwargs), mode)

        return wait  # type: ignore[return-value]
    if inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{function.__qualname__} is an asynchronous generator, which cannot be decorated: use `with` inside of it"
        )

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        outer = MODE.enabled
        MODE.enabled = mode
        try:
            return function(*args, **kwargs)
        finally:
            MODE.enabled = outer

    return wrapped


def _turns(inner: Any, mode: bool) -> Any:
    """Drive a generator (or what a coroutine awaits), with the mode set only while it is its turn."""
    step: Any = inner.send
    arguments: tuple[Any, ...] = (None,)
    while True:
        outer = MODE.enabled
        MODE.enabled = mode
        try:
            value = step(*arguments)
        except StopIteration as stop:
            return stop.value
        finally:
            MODE.enabled = outer
        try:
            step, arguments = inner.send, ((yield value),)
        except GeneratorExit:
            with _Within(mode):
                inner.close()
            raise
        except BaseException as error:
            step, arguments = inner.throw, (error,)


class _Awaited:
    """A coroutine that is driven by `_turns`."""

    def __init__(self, coroutine: Any, mode: bool) -> None:
        self._coroutine, self._mode = coroutine, mode

    def __await__(self) -> Any:
        return _turns(self._coroutine, self._mode)


def is_grad_enabled() -> bool:
    """Whether operations on this thread are recorded."""
    return MODE.enabled
