"""Hooks: a user's functions that a module calls before and after `forward`, and around its backward.

A module without hooks has no table of them and pays one attribute look-up per call. Backward hooks put one identity
operation around the module's inputs and one around its outputs; gradients that pass there are shown to the hook.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cordee.trainer.autograd import Function
from cordee.trainer.autograd.mode import MODE
from cordee.trainer.tensors import Tensor

if TYPE_CHECKING:
    from cordee.trainer.nn.module import Module

__all__ = ["Hooks", "RemovableHandle", "call_with_hooks", "register"]

_next_id = itertools.count(1).__next__


@dataclass
class Hooks:
    """What is registered on one module: per kind, by number, the function and how it wants to be called."""

    forward_pre: dict[int, tuple[Callable[..., Any], bool]] = field(default_factory=dict)
    forward: dict[int, tuple[Callable[..., Any], bool, bool]] = field(default_factory=dict)
    backward_pre: dict[int, tuple[Callable[..., Any]]] = field(default_factory=dict)
    backward: dict[int, tuple[Callable[..., Any]]] = field(default_factory=dict)
    state_pre: dict[int, tuple[Callable[..., Any]]] = field(default_factory=dict)
    state: dict[int, tuple[Callable[..., Any]]] = field(default_factory=dict)
    load_pre: dict[int, tuple[Callable[..., Any]]] = field(default_factory=dict)
    load: dict[int, tuple[Callable[..., Any]]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(vars(self).values())


class RemovableHandle:
    """What registering a hook returns: `remove()` takes the hook off again; also a context manager that does."""

    def __init__(self, module: Module, table: dict[int, Any]) -> None:
        self.id = _next_id()
        self._module = module
        self._table = table

    def remove(self) -> None:
        """Takes the hook off. Doing it twice does nothing."""
        self._table.pop(self.id, None)
        if not self._module._hooks:
            vars(self._module).pop("_hooks", None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def register(module: Module, kind: str, entry: tuple[Any, ...], prepend: bool = False) -> RemovableHandle:
    """Put an entry into the module's table of this kind; `prepend`: before those that are there."""
    if not callable(entry[0]):
        raise TypeError(f"a hook is a function, not {type(entry[0]).__name__}")
    if module._hooks is None:
        module._hooks = Hooks()
    table: dict[int, Any] = getattr(module._hooks, kind)
    handle = RemovableHandle(module, table)
    others = list(table.items()) if prepend else []
    if prepend:
        table.clear()
    table[handle.id] = entry
    table.update(others)
    return handle


def call_with_hooks(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`module.forward` between its hooks."""
    hooks = module._hooks
    if hooks is None:
        return module.forward(*args, **kwargs)
    done: set[int] = set()
    try:
        return _call(module, hooks, args, kwargs, done)
    except Exception:
        for number, (hook, with_kwargs, always) in list(hooks.forward.items()):
            if always and number not in done:
                hook(module, args, kwargs, None) if with_kwargs else hook(module, args, None)
        raise


def _call(module: Module, hooks: Hooks, args: tuple[Any, ...], kwargs: dict[str, Any], done: set[int]) -> Any:
    for hook, with_kwargs in list(hooks.forward_pre.values()):
        if with_kwargs:
            changed = hook(module, args, kwargs)
            if changed is not None:
                if not isinstance(changed, tuple) or len(changed) != 2:
                    raise TypeError(f"a forward pre-hook with kwargs returns None or (args, kwargs), not {changed!r}")
                args, kwargs = changed
        else:
            changed = hook(module, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
    around = _Around(module, hooks) if (hooks.backward or hooks.backward_pre) and MODE.enabled else None
    if around is not None:
        args = around.enter(args)
    result = module.forward(*args, **kwargs)
    for number, (hook, with_kwargs, _) in list(hooks.forward.items()):
        done.add(number)
        changed = hook(module, args, kwargs, result) if with_kwargs else hook(module, args, result)
        if changed is not None:
            result = changed
    return result if around is None else around.leave(result)


class _Passage(Function):
    """The identity on some tensors, whose gradients a function sees together, and may replace."""

    @staticmethod
    def forward(*args: Any) -> Any:
        ctx, arrived, *tensors = args
        ctx.arrived = arrived
        ctx.set_materialize_grads(False)
        through = [tensor.detach() for tensor in tensors]
        return tuple(through) if len(through) > 1 else through[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        return None, *ctx.arrived(grads)


def _identities(arrived: Callable[..., Any], tensors: list[Tensor]) -> tuple[Tensor, ...]:
    through: Any = _Passage.apply(arrived, *tensors)
    return through if isinstance(through, tuple) else (through,)


class _Around:
    """One call's backward hooks: keeps the gradients of the outputs until those of the inputs are there too."""

    def __init__(self, module: Module, hooks: Hooks) -> None:
        self.module = module
        self.backward = [hook for (hook,) in hooks.backward.values()]
        self.backward_pre = [hook for (hook,) in hooks.backward_pre.values()]
        self.num_inputs = 0
        self.places: list[int] = []
        self.grad_outputs: tuple[Tensor | None, ...] = ()

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self.num_inputs = len(args)
        self.places = [i for i, arg in enumerate(args) if isinstance(arg, Tensor) and arg.requires_grad]
        if not self.places or not self.backward:
            return args
        through = _identities(self._inputs_arrived, [args[i] for i in self.places])
        replaced = dict(zip(self.places, through, strict=True))
        return tuple(replaced.get(i, arg) for i, arg in enumerate(args))

    def leave(self, result: Any) -> Any:
        flat = list(result) if isinstance(result, (tuple, list)) else [result]
        places = [i for i, value in enumerate(flat) if isinstance(value, Tensor) and value.requires_grad]
        if not places:
            return result
        self.out_places, self.num_outputs = places, len(flat)
        for i, value in zip(places, _identities(self._outputs_arrived, [flat[i] for i in places]), strict=True):
            flat[i] = value
        if isinstance(result, tuple):
            return type(result)(*flat) if hasattr(result, "_fields") else tuple(flat)
        return flat if isinstance(result, list) else flat[0]

    def _outputs_arrived(self, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        full: list[Tensor | None] = [None] * self.num_outputs
        for place, grad in zip(self.out_places, grads, strict=True):
            full[place] = grad
        current = tuple(full)
        for hook in self.backward_pre:
            current = _changed("a backward pre-hook", hook(self.module, current), current)
        self.grad_outputs = current
        if not self.places:  # no input's gradient will ever arrive
            for hook in self.backward:
                hook(self.module, (None,) * self.num_inputs, current)
        return tuple(current[i] for i in self.out_places)

    def _inputs_arrived(self, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        full: list[Tensor | None] = [None] * self.num_inputs
        for place, grad in zip(self.places, grads, strict=True):
            full[place] = grad
        current = tuple(full)
        for hook in self.backward:
            current = _changed("a backward hook", hook(self.module, current, self.grad_outputs), current)
        return tuple(current[i] for i in self.places)


def _changed(what: str, returned: Any, current: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """What a hook returned in place of the gradients it was shown."""
    if returned is None:
        return current
    given = returned if isinstance(returned, tuple) else (returned,)
    if len(given) != len(current):
        raise ValueError(f"{what} returned {len(given)} gradients in place of {len(current)}")
    return given
