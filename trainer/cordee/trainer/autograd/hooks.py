"""Hooks on gradients: functions of the user's that see, and may replace, the gradient of a tensor as it passes.

They hang on the tensor's place in the graph, and one weak set knows which places have some: a graph without hooks pays
nothing for them. A hook that refers to its own tensor is a cycle, which the garbage collector finds.
A hook runs once per backward, on the sum of all that arrives.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any

from cordee.trainer.array import array_module
from cordee.trainer.errors import GraphError, ShapeError
from cordee.trainer.tensors import Leaf, Tensor, wrap

__all__ = ["HOOKS", "Handle", "register_accumulated", "register_hook", "retain_grad"]

Hook = Callable[[Tensor], "Tensor | None"]
_keys = itertools.count()


class Handle:
    """What registering a hook returns: `remove()` takes the hook away; as a context manager, at the block's end."""

    def __init__(self, hooks: dict[int, Any], hook: Any, *, first: bool = False) -> None:
        self._hooks = hooks
        self._key = -next(_keys) if first else next(_keys)
        if first:
            others = dict(hooks)
            hooks.clear()
            hooks[self._key] = hook
            hooks.update(others)
        else:
            hooks[self._key] = hook

    def remove(self) -> None:
        self._hooks.pop(self._key, None)

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


class _Hooks:
    """What hangs on the nodes and leaves of all graphs."""

    def __init__(self) -> None:
        self._places: weakref.WeakSet[Any] = weakref.WeakSet()

    def __bool__(self) -> bool:
        return len(self._places) > 0

    def __contains__(self, edge: Any) -> bool:
        return edge in self._places

    def of(self, edge: Any) -> dict[int, Hook]:
        """The hooks of a node or leaf, to be added to."""
        return self._tables(edge)[0]

    def after(self, leaf: Leaf) -> dict[int, Callable[[Tensor], Any]]:
        """What runs when a leaf's `.grad` has been added to."""
        return self._tables(leaf)[1]

    def _tables(self, edge: Any) -> tuple[dict[int, Any], dict[int, Any]]:
        if edge not in self._places:
            edge.hooks = ({}, {})
            self._places.add(edge)
        return edge.hooks  # type: ignore[no-any-return]

    def run(self, edge: Any, g: Any) -> Any:
        """Let the hooks see a gradient (an array, or a tensor of a recorded backward); what they make of it.

        Raises:
            ShapeError: a hook returned a gradient of another shape.
        """
        recorded = isinstance(g, Tensor)
        value: Tensor = g if recorded else wrap(g if hasattr(g, "flags") and g.ndim else array_module(g).asarray(g))
        for hook in list(edge.hooks[0].values()):
            result = hook(value)
            if result is None:
                continue
            if not isinstance(result, Tensor) or result.shape != value.shape:
                found = f"shape {result.shape}" if isinstance(result, Tensor) else type(result).__name__
                raise ShapeError(
                    f"the hook {getattr(hook, '__name__', hook)!s} made {found} of a gradient of shape {value.shape}: "
                    "it must return a tensor of the same shape, or None"
                )
            value = result
        return value if recorded else value.data

    def accumulated(self, leaf: Any) -> None:
        """A leaf's `.grad` has been added to."""
        tensor = leaf.ref()
        for hook in list(leaf.hooks[1].values()):
            if tensor is not None:
                hook(tensor)


HOOKS = _Hooks()


def _edge(tensor: Tensor, what: str) -> Any:
    if tensor._node is None:
        raise GraphError(f"{what}: this tensor does not require a gradient, so none will ever reach it")
    return tensor._node


def register_hook(tensor: Tensor, hook: Hook) -> Handle:
    """`Tensor.register_hook`."""
    return Handle(HOOKS.of(_edge(tensor, "register_hook")), hook)


def register_accumulated(tensor: Tensor, hook: Callable[[Tensor], Any]) -> Handle:
    """`Tensor.register_post_accumulate_grad_hook`."""
    edge = _edge(tensor, "register_post_accumulate_grad_hook")
    if not isinstance(edge, Leaf):
        raise GraphError("register_post_accumulate_grad_hook: only tensors made by the user accumulate a gradient")
    return Handle(HOOKS.after(edge), hook)


def retain_grad(tensor: Tensor) -> None:
    """`Tensor.retain_grad`."""
    edge = _edge(tensor, "retain_grad")
    if isinstance(edge, Leaf):
        return
    reference = weakref.ref(tensor)

    def keep(g: Tensor) -> None:
        kept = reference()
        if kept is not None:
            if kept._grad is not None:
                kept._grad = kept._grad + g
            else:  # as in PyTorch a copy: others may hold what passes here
                kept._grad = g + 0.0 if g._node is not None else wrap(array_module(g.data).array(g.data))

    hooks = HOOKS.of(edge)
    if not any(getattr(hook, "__name__", "") == "keep" for hook in hooks.values()):
        Handle(hooks, keep)
