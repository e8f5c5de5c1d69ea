"""A user's own operation: `forward` and `backward` as static methods of a `Function`, as in PyTorch.

It becomes a node like any other. What `ctx.save_for_backward` keeps is given back attached to its place in the graph,
so that a `backward` written in differentiable operations has a gradient itself.
"""

from __future__ import annotations

from typing import Any

from cordee.trainer.autograd.graph import Node
from cordee.trainer.autograd.mode import MODE, no_grad
from cordee.trainer.autograd.record import Op
from cordee.trainer.errors import GraphError
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["Context", "Function"]


class Context:
    """What `forward` leaves for `backward`. Any attribute may be set on it."""

    needs_input_grad: tuple[bool, ...] = ()

    def __init__(self) -> None:
        self._kept: tuple[Tensor | None, ...] = ()
        self._node: Any = None  # only while backward runs, so that nothing refers to itself

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors (inputs, the output, or others) for backward."""
        self._kept = tensors

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """What was kept, in the same order."""
        return tuple(self._node if tensor is _OUT else tensor for tensor in self._kept)


_OUT: Any = wrap(
    None
)  # stands for the output among the kept: the output refers to the node, so not the other way round


class Function:
    """Subclass it with static `forward(ctx, *args)` and `backward(ctx, grad_output)`; call it by `apply(*args)`."""

    @staticmethod
    def forward(ctx: Context, *args: Any) -> Tensor:  # noqa: ARG004
        raise TypeError("a Function needs a static method forward(ctx, *args)")

    @staticmethod
    def backward(ctx: Context, grad_output: Tensor) -> Any:  # noqa: ARG004
        raise TypeError("a Function needs a static method backward(ctx, grad_output)")

    @classmethod
    def apply(cls, *args: Any) -> Tensor:
        """Run `forward`, and record it if a gradient may be wanted."""
        ctx = Context()
        edges = tuple(arg._node if isinstance(arg, Tensor) else None for arg in args)
        ctx.needs_input_grad = tuple(edge is not None for edge in edges)
        with no_grad():
            out = cls.forward(ctx, *args)
        if not isinstance(out, Tensor):
            raise TypeError(f"{cls.__name__}.forward must return one tensor, not {type(out).__name__}")
        if not MODE.enabled or not any(ctx.needs_input_grad):
            return out
        kept_out = any(tensor is out for tensor in ctx._kept)
        ctx._kept = tuple(_OUT if tensor is out else tensor for tensor in ctx._kept)
        saved = tuple(getattr(arg, "shape", None) for arg in args)
        node = Node(_FUNCTION, edges, saved, out.data if kept_out else None, {"function": cls, "ctx": ctx})
        return wrap(out.data, node)


def _function_rule(F: Any, g: Any, out: Any, *shapes: Any, needs: Any, function: type[Function], ctx: Context) -> Any:
    ctx._node = out if out is None or isinstance(out, Tensor) else wrap(out)
    try:
        grads = function.backward(ctx, wrap(g) if F.raw else g)
    finally:
        ctx._node = None
    grads = grads if isinstance(grads, tuple) else (grads,)
    if len(grads) != len(shapes):
        raise GraphError(f"{function.__name__}.backward returned {len(grads)} gradients for {len(shapes)} inputs")
    for i, (value, shape) in enumerate(zip(grads, shapes, strict=True)):
        if needs[i] and value is not None and value.shape != shape:
            raise GraphError(f"{function.__name__}.backward: gradient {i} has shape {value.shape}, its input {shape}")
    return tuple(value if value is None or not F.raw else value.data for value in grads)


def _no_forward(xp: Any, *inputs: Any) -> Any:  # noqa: ARG001
    raise TypeError("a Function is called by its own apply()")


_FUNCTION = Op(  # not in the registry: it is no operation, but the place of the user's own
    name="function",
    doc="the user's own operation",
    forward=_no_forward,
    saves=(),
    samples=lambda _: (),
    reference=_no_forward,
    vjp=_function_rule,
)
