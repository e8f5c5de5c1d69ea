"""A user's own operation: `forward` and `backward` as static methods of a `Function`, as in PyTorch.

It becomes a node like any other. What `ctx.save_for_backward` keeps is given back attached to its place in the graph,
so that a `backward` written in differentiable operations has a gradient itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cordee.trainer.array import array_module
from cordee.trainer.autograd.graph import Node, pick
from cordee.trainer.autograd.mode import MODE, no_grad
from cordee.trainer.autograd.record import Op
from cordee.trainer.errors import GraphError
from cordee.trainer.tensors import Tensor, wrap

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
        self._outputs: Any = None  # only while backward runs, so that nothing refers to itself

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors (inputs, outputs, or others) for backward."""
        self._kept = tensors

    def mark_non_differentiable(self, *outputs: Tensor) -> None:
        """These outputs have no gradient."""
        self._constant = outputs

    def set_materialize_grads(self, value: bool) -> None:
        """Whether the gradient of an output that was not used arrives as zeros (it does), or as None."""
        self._materialize = value

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """What was kept, in the same order."""
        return tuple(self._outputs[kept.index] if isinstance(kept, _Output) else kept for kept in self._kept)


class Function:
    """Subclass it with static `forward(ctx, *args)` and `backward(ctx, *grad_outputs)`; call it by `apply(*args)`.

    Alternatively `forward(*args)` without ctx, and `setup_context(ctx, inputs, output)`. `forward` returns a tensor or
    a tuple of tensors; `backward` returns one gradient (a tensor, or None) for each argument.
    """

    @staticmethod
    def forward(*args: Any) -> Any:  # noqa: ARG004
        raise TypeError("a Function needs a static method forward(ctx, *args)")

    @staticmethod
    def backward(ctx: Context, *grad_outputs: Any) -> Any:  # noqa: ARG004
        raise TypeError("a Function needs a static method backward(ctx, *grad_outputs)")

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep what backward needs, when `forward` takes no ctx."""

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run `forward`, and record it if a gradient may be wanted."""
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
        places = {id(out): _Output(i) for i, out in enumerate(outputs)}
        constant = {id(out) for out in ctx._constant}
        kept_out = any(id(kept) in places for kept in ctx._kept)
        ctx._kept = tuple(places.get(id(kept), kept) for kept in ctx._kept)
        ctx._constant = ()
        saved = tuple(getattr(arg, "shape", None) for arg in args)
        arrays = tuple(out.data for out in outputs)
        single = not isinstance(result, tuple)
        node = Node(
            _operation(None if single else len(outputs)),
            edges,
            saved,
            (arrays[0] if single else arrays) if kept_out else None,
            {"function": cls, "ctx": ctx, "likes": tuple((a.shape, a.dtype) for a in arrays)},
        )
        if single:
            return result if id(result) in constant else wrap(result.data, node)
        attached = pick(arrays, node)
        return tuple(old if id(old) in constant else new for old, new in zip(outputs, attached, strict=True))


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
        if needs[i] and value is not None and value.shape != shape:
            raise GraphError(f"{function.__name__}.backward: gradient {i} has shape {value.shape}, its input {shape}")
    return tuple(value if value is None or not F.raw else value.data for value in grads)


def _no_forward(xp: Any, *inputs: Any) -> Any:  # noqa: ARG001
    raise TypeError("a Function is called by its own apply()")


@functools.cache
def _operation(num_outputs: int | None) -> Op:
    """Not in the registry: it is no operation, but the place of the user's own."""
    return Op(
        name="function",
        doc="the user's own operation",
        forward=_no_forward,
        saves=(),
        samples=lambda _: (),
        reference=_no_forward,
        vjp=_function_rule,
        aux=True,  # the context: freed by backward like everything that is kept
        outputs=("out",) if num_outputs is None else tuple(f"out{i}" for i in range(num_outputs)),
    )
