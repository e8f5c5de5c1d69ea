"""How a gradient arrives at a leaf: through its hooks into its `.grad`, or right where an optimiser wants it."""

from __future__ import annotations

from collections.abc import Callable
from sys import getrefcount
from typing import Any

import numpy as np

from cordee.trainer.array import array_module, is_float
from cordee.trainer.autograd.graph import apply
from cordee.trainer.autograd.hooks import HOOKS
from cordee.trainer.autograd.record import REGISTRY
from cordee.trainer.tensors import Leaf, Tensor, wrap

__all__ = ["WATCHED", "add_array", "add_tensor", "as_gradient", "cast", "to_leaf", "write", "write_wide"]

WATCHED: dict[Leaf, Callable[[Tensor], object]] = {}
"""Leaves of which somebody is told whenever an array has been added to their gradient, and their hooks have run."""


def to_leaf(leaf: Leaf, g: Any, recorded: bool) -> None:
    """A gradient has reached a leaf: through its hooks into its `.grad`."""
    hooked = leaf in HOOKS
    (add_tensor if recorded else add_array)(leaf, HOOKS.run(leaf, g) if hooked else g)
    if hooked:
        HOOKS.accumulated(leaf)
        if leaf in WATCHED and (tensor := leaf.ref()) is not None:
            WATCHED[leaf](tensor)


def _references(g: Any) -> int:
    return getrefcount(g)


def _references_to_base(g: Any) -> int:
    base = g.base
    return getrefcount(base)


def _references_of_a_local() -> tuple[int, int]:
    local = np.empty((1, 2)).reshape(2, 1)
    return _references(local), _references_to_base(local)


_ALONE, _ALONE_BASE = _references_of_a_local()
"""How often Python says that an array is referred to, in a function that was given what only its caller refers to; and
that array whose memory it is."""


def _has_own_memory(g: Any) -> bool:
    """Of an array that nobody else refers to: whether nobody else can see its memory, and it may be written to."""
    if type(g) is not np.ndarray or not g.flags.writeable:
        return False
    base = g.base
    if base is None:
        return g.flags.owndata
    return (
        type(base) is np.ndarray
        and base.flags.owndata
        and base.size == g.size
        and _references_to_base(g) <= _ALONE_BASE + 1  # `base` here
    )


def add_array(leaf: Leaf, g: Any, others: int = -_ALONE) -> None:
    """Add an array to a leaf's gradient; the first one is written to where the optimiser wants it, or else copied.

    Args:
        others: how often the caller refers to it beside by one local variable, if it will not use it any more: what
            nobody else refers to is not copied, but becomes the gradient.
    """
    tensor = leaf.ref()
    if tensor is None:
        return
    known = tensor._grad
    if known is not None:
        if known._node is None:
            known.data += g
        else:
            tensor._grad = wrap(array_module(known.data).asarray(known.data + g))
        if WATCHED and leaf in WATCHED and leaf not in HOOKS:
            WATCHED[leaf](tensor)
        return
    sink = tensor._sink
    if sink is None:
        if getrefcount(g) <= _ALONE + others and g.dtype is tensor.data.dtype and _has_own_memory(g):
            tensor._grad = wrap(g)
        else:
            tensor._grad = wrap(array_module(g).array(g, dtype=tensor.data.dtype))
    else:
        sink[...] = g
        tensor._grad = wrap(sink)
        if WATCHED and leaf in WATCHED and leaf not in HOOKS:
            WATCHED[leaf](tensor)


def add_tensor(leaf: Leaf, g: Tensor) -> None:
    """Add a tensor to a leaf's gradient, keeping the graph."""
    tensor = leaf.ref()
    if tensor is None:
        return
    g = as_gradient(g, tensor)
    # As in PyTorch a copy: what arrives may be another leaf's gradient, too, and is not to be added to through this.
    tensor._grad = apply(REGISTRY["clone"], g) if tensor._grad is None else tensor._grad + g


def write(leaf: Leaf, rule: Any, F: Any, g: Any, out: Any, inputs: tuple[Any, ...], params: dict[str, Any]) -> bool:
    """Let an op compute a leaf's first gradient right where the optimiser wants it, if it can: saves a copy."""
    tensor = leaf.ref()
    if tensor is None or tensor._grad is not None:
        return False
    sink = tensor._sink
    if sink is None or sink.dtype is not g.dtype:
        return False
    _write(leaf, tensor, rule, F, g, out, inputs, params)
    return True


def _write(
    leaf: Leaf, tensor: Tensor, rule: Any, F: Any, g: Any, out: Any, inputs: tuple[Any, ...], params: dict[str, Any]
) -> None:
    sink = tensor._sink
    rule(F, sink, g, out, *inputs, **params)
    tensor._grad = wrap(sink)
    if WATCHED and leaf in WATCHED:
        WATCHED[leaf](tensor)


def write_wide(
    edge: Any, rule: Any, F: Any, g: Any, out: Any, inputs: tuple[Any, ...], params: dict[str, Any],
    meet: Callable[[Any, Any], object] | None = None,
) -> bool:  # fmt: skip
    """Let an op of 16 bits, whose sums are wider, compute its gradient by a leaf that was cast for it in the leaf's own
    dtype, if it can: it is rounded once, to that, and no cast is to be walked through.

    The numbers are the same whether they are the first to arrive at the leaf or not, whether hooks see them or not.

    Args:
        edge: the node of what the op read.
        meet: puts gradients by their leaf where hooks are to be run.
    """
    if edge.op.name != "cast" or F.xp is not np or g.dtype.itemsize != 2 or g.dtype is not edge.params["dtype"]:
        return False
    leaf = edge.edges[0]
    tensor = leaf.ref() if type(leaf) is Leaf else None
    hooked = bool(HOOKS) and leaf in HOOKS
    if tensor is None or tensor.data.dtype is not edge.params["source"] or (HOOKS and edge in HOOKS):
        return False
    if not hooked and tensor._grad is None and tensor._sink is not None:
        _write(leaf, tensor, rule, F, g, out, inputs, params)
        return True
    if hooked and meet is None:
        return False
    wide = np.empty(tensor.data.shape, tensor.data.dtype)
    rule(F, wide, g, out, *inputs, **params)
    if meet is not None and hooked:
        meet(leaf, wide)
    else:
        add_array(leaf, wide, 0)
    return True


def cast(gradient: Tensor, dtype: Any) -> Tensor:
    """A gradient in a dtype, still in its graph."""
    return (
        gradient
        if gradient.data.dtype == dtype
        else apply(REGISTRY["cast"], gradient, dtype=dtype, source=gradient.data.dtype)
    )


def as_gradient(value: Any, tensor: Tensor) -> Tensor:
    """What was found for a tensor, as a tensor of its dtype (operations of mixed dtypes compute in the widest)."""
    dtype = tensor.data.dtype
    if isinstance(value, Tensor):
        return cast(value, dtype) if is_float(dtype) else value
    return wrap(array_module(tensor.data).asarray(value, dtype if is_float(dtype) else None))
