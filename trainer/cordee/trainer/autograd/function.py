"""A user's own operation: `forward` and `backward` as static methods of a `Function`, as in PyTorch.

It becomes a node like any other. What `ctx.save_for_backward` keeps is given back attached to its place in the graph,
so that a `backward` written in differentiable operations has a gradient itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd import graph
from cordee.trainer.autograd.graph import Node
from cordee.trainer.autograd.mode import MODE, no_grad
from cordee.trainer.autograd.record import Op
from cordee.trainer.autograd.writes import BOOK
from cordee.trainer.errors import GraphError
from cordee.trainer.tensors import Leaf, Tensor, wrap

__all__ = ["Context", "Function", "once_differentiable"]


@dataclass(frozen=True)
class _Output:
    """Stands for an output among the kept: an output refers to its node, so the node's context must not to it."""

    index: int


class Context:
    """What `forward` leaves for `backward`. Any attribute may be set on it."""

    needs_input_grad: tuple[bool, ...] = ()

    def __init__(self) -> None:
        self._kept: tuple[Any, ...] = ()
        self._constant: tuple[Tensor, ...] = ()
        self._materialize = True
        self._dirty: tuple[Tensor, ...] = ()
        self._outputs: Any = None  # only while backward runs, so that nothing refers to itself
        self._number: int | None = None  # that of its node

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors (inputs, outputs, or others) for backward."""
        self._kept = tensors

    def mark_dirty(self, *tensors: Tensor) -> None:
        """These inputs were written to by `forward`, which returns them."""
        self._dirty = tensors

    def mark_non_differentiable(self, *outputs: Tensor) -> None:
        """These outputs have no gradient."""
        self._constant = outputs

    def set_materialize_grads(self, value: bool) -> None:
        """Whether the gradient of an output that was not used arrives as zeros (it does), or as None."""
        self._materialize = value

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """What was kept, in the same order.

        Raises:
            GraphError: in backward, when something of it was written to since.
        """
        if self._number is not None:
            for kept in self._kept:
                if isinstance(kept, Tensor):
                    _check_unwritten(kept, self._number)
        return tuple(self._outputs[kept.index] if isinstance(kept, _Output) else kept for kept in self._kept)


def _check_unwritten(kept: Tensor, since: int) -> None:
    write = BOOK.last(kept.data, since) if BOOK else None
    if write is None and (type(kept._node) is not Leaf or kept._node.written <= since):
        return
    how = f"{write.what} at {write.where}" if write is not None else "an optimiser's step, or a write under no_grad(),"
    raise GraphError(
        f"a tensor of shape {kept.shape}, kept by save_for_backward, is not what it was: {how} has overwritten it; "
        "call backward() first, or clone() it before writing"
    )


class Function:
    """Subclass it with static `forward(ctx, *args)` and `backward(ctx, *grad_outputs)`; call it by `apply(*args)`.

    Alternatively `forward(*args)` without ctx, and `setup_context(ctx, inputs, output)`. `forward` returns a tensor or
    a tuple of tensors; `backward` returns one gradient (a tensor, or None) for each argument.
    """

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:  # noqa: ARG004 (so typed that every signature is a right one)
        raise TypeError("a Function needs a static method forward(ctx, *args)")

    @staticmethod
    def backward(*args: Any, **kwargs: Any) -> Any:  # noqa: ARG004
        raise TypeError("a Function needs a static method backward(ctx, *grad_outputs)")

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep what backward needs, when `forward` takes no ctx."""

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run `forward`, and record it if a gradient may be wanted.

        Raises:
            TypeError: `forward` returned something else than tensors.
            GraphError: a leaf was written to, or something that is not returned was marked as written to.
        """
        ctx = Context()
        edges = tuple(arg._node if isinstance(arg, Tensor) else None for arg in args)
        ctx.needs_input_grad = tuple(edge is not None for edge in edges)
        with no_grad():
            if cls.setup_context is Function.setup_context:
                result = cls.forward(ctx, *args)
            else:
                result = cls.forward(*args)
                cls.setup_context(ctx, args, result)
        outputs = result if isinstance(result, tuple) else (result,)
        for out in outputs:
            if not isinstance(out, Tensor):
                raise TypeError(f"{cls.__name__}.forward must return tensors, not {type(out).__name__}")
        if not MODE.enabled or not any(ctx.needs_input_grad):
            return result
        _check_dirty(cls.__name__, ctx, args, outputs)
        places = {id(out): _Output(i) for i, out in enumerate(outputs)}
        constant = {id(out) for out in ctx._constant}
        kept_out = any(id(kept) in places for kept in ctx._kept)
        ctx._kept = tuple(
            # other tensors as they are now, whatever is written to them and their place in the graph later
            places[id(kept)] if id(kept) in places else wrap(kept.data, kept._node) if kept is not None else None
            for kept in ctx._kept
        )
        dirty = {id(tensor) for tensor in ctx._dirty}
        ctx._constant = ctx._dirty = ()
        saved = tuple(getattr(arg, "shape", None) for arg in args)
        values = tuple(out.data for out in outputs)
        single = not isinstance(result, tuple)
        node = Node.of(
            _operation(
                None if single else len(outputs),
                any(id(out) not in dirty and _viewed(out, args[:1]) is not None for out in outputs),
            ),
            edges,
            saved,
            (values[0] if single else values) if kept_out else None,
            {"function": cls, "ctx": ctx, "likes": tuple((a.shape, a.dtype) for a in values)},
        )
        ctx._number = node.number
        op = node.op  # where anomaly mode looks for it
        attach: Any = vars(graph)["wrap"]  # which anomaly mode replaces
        attached = (attach(result.data, node),) if single else graph.pick(values, node)
        del op
        found = []
        for old, new in zip(outputs, attached, strict=True):
            if id(old) in constant or old.data.dtype.kind in "iub":
                found.append(old)
            elif id(old) in dirty:
                from cordee.trainer.ops.inplace import rewritten

                rewritten(old, new._node, f"{cls.__name__}.forward")
                found.append(old)
            else:
                if (base := _viewed(old, args)) is not None:
                    new._base = base
                found.append(new)
        return found[0] if single else tuple(found)


def _viewed(output: Tensor, args: tuple[Any, ...]) -> Tensor | None:
    """The argument whose memory an output shares."""
    for arg in args:
        if isinstance(arg, Tensor) and isinstance(arg.data, np.ndarray) and np.may_share_memory(arg.data, output.data):
            return arg
    return None


def _check_dirty(name: str, ctx: Context, args: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
    for tensor in ctx._dirty:
        if not any(tensor is arg for arg in args) or not any(tensor is out for out in outputs):
            raise GraphError(f"{name}: what mark_dirty names must be an input that forward() returns")
        if isinstance(tensor._node, Leaf):
            raise GraphError(f"{name} writes to a leaf that requires a gradient, which would falsify it: clone() it")


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a `backward` that is not made of differentiable operations: its own gradient is refused, not wrong."""

    @functools.wraps(backward)
    def wrapped(ctx: Context, *grads: Any) -> Any:
        if MODE.enabled:
            raise GraphError(f"{backward.__qualname__} is marked once_differentiable: it has no second derivative")
        return backward(ctx, *grads)

    return wrapped


def _function_rule(
    F: Any, g: Any, out: Any, *shapes: Any, needs: Any, function: type[Function], ctx: Context, likes: Any
) -> Any:
    gs = g if isinstance(g, tuple) else (g,)
    if ctx._materialize:
        some = next(part for part in gs if part is not None)
        xp = array_module(some.data if isinstance(some, Tensor) else some)
        gs = tuple(
            (xp.zeros(*like) if F.raw else wrap(xp.zeros(*like))) if part is None else part
            for part, like in zip(gs, likes, strict=True)
        )
    outputs = out if isinstance(out, tuple) else (out,)
    ctx._outputs = [part if part is None or isinstance(part, Tensor) else wrap(part) for part in outputs]
    try:
        grads = function.backward(ctx, *(part if part is None or not F.raw else wrap(part) for part in gs))
    finally:
        ctx._outputs = None
    grads = grads if isinstance(grads, tuple) else (grads,)
    if len(grads) != len(shapes):
        raise GraphError(f"{function.__name__}.backward returned {len(grads)} gradients for {len(shapes)} inputs")
    for i, (value, shape) in enumerate(zip(grads, shapes, strict=True)):
        if value is not None and not isinstance(value, Tensor):
            raise GraphError(
                f"{function.__name__}.backward: gradient {i} is {type(value).__name__}; it must be a tensor, or None"
            )
        if needs[i] and value is not None and value.shape != shape:
            raise GraphError(f"{function.__name__}.backward: gradient {i} has shape {value.shape}, its input {shape}")
    return tuple(value if value is None or not F.raw else value.data for value in grads)


def _no_forward(xp: Any, *inputs: Any) -> Any:  # noqa: ARG001
    raise TypeError("a Function is called by its own apply()")


@functools.cache
def _operation(num_outputs: int | None, view: bool) -> Op:
    """Not in the registry: it is no operation, but the place of the user's own."""
    return Op(
        name="function",
        doc="the user's own operation",
        forward=_no_forward,
        saves=(),
        samples=lambda _: (),
        reference=_no_forward,
        vjp=_function_rule,
        view=view,
        aux=True,  # the context: freed by backward like everything that is kept
        outputs=("out",) if num_outputs is None else tuple(f"out{i}" for i in range(num_outputs)),
    )
