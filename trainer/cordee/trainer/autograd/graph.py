"""The tape: how an operation is run and recorded.

A recorded operation leaves one `Node`: the op, an edge to the node of each input, the raw arrays its gradient will
read, and a number that grows with time. A result holds its node, a node holds its inputs' nodes: references only ever
point backwards, so a graph that nobody holds is gone at once, without the garbage collector. A tensor that requires a
gradient and was made by the user holds a `Leaf`, which refers to the tensor weakly.

Nothing here is a closure per call and nothing is checked that a failing forward would notice anyway: the cost of
recording is the design constraint. A failure is explained after the fact, by the op's record.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np

from cordee.trainer.array import Array, array_module, bfloat16, default_dtype
from cordee.trainer.autograd.casting import SWITCH, cast_input, cast_inputs
from cordee.trainer.autograd.explain import refuse
from cordee.trainer.autograd.fusing import LEAST
from cordee.trainer.autograd.location import OURS, Location
from cordee.trainer.autograd.mixing import complexified, narrowed
from cordee.trainer.autograd.mode import MODE, OFF
from cordee.trainer.autograd.out import into
from cordee.trainer.autograd.record import Op
from cordee.trainer.autograd.settle import NARROWING, TO_SETTLE, constant, has_halves, settle
from cordee.trainer.tensors import Leaf, Tensor, next_number, wrap

__all__ = ["PICK", "Node", "Operand", "apply", "apply_one", "binary", "make_by", "pick", "unary"]

Operand: TypeAlias = "Tensor | Array | float | int | bool"


class Unary(Protocol):
    """A function of one operand."""

    def __call__(self, input: Operand, *, out: Tensor | None = None) -> Tensor: ...


class Binary(Protocol):
    """A function of two operands."""

    def __call__(self, input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...


_ndarray, _FLOAT32 = np.ndarray, np.dtype(np.float32)
_NO_PARAMS: dict[str, Any] = {}
_NO_SHAPE, _NO_SHAPES = (None,), (None, None)
_NUMBERS = frozenset((float, int, bool))
_frame = sys._getframe


class Node:
    """A recorded operation.

    `saved` holds, per input, its array or (not kept) its shape; None once freed. `out` is the result where the gradient
    reads it (a tuple where the op has several). `code` and `lasti` say where in the user's program it was recorded.
    `uneven`: an input may have been broadcast, so that its gradient has to be summed back to its shape.
    """

    __slots__ = ("__weakref__", "code", "edges", "hooks", "lasti", "number", "op", "out", "params", "saved", "uneven")

    def __init__(
        self,
        op: Op,
        edges: tuple[Node | Leaf | None, ...],
        saved: tuple[Any, ...],
        out: Any,
        params: dict[str, Any],
    ) -> None:
        self.op = op
        self.edges = edges
        self.saved: tuple[Any, ...] | None = saved
        self.out = out
        self.params = params
        self.uneven = op.broadcasts
        self.number = next_number()
        frame: Any = _frame(2)
        code = frame.f_code
        while code.co_filename in OURS:
            back = frame.f_back
            if back is None:
                break
            frame, code = back, back.f_code
        self.code = code
        self.lasti = frame.f_lasti

    def keep_apart(self, apart: Callable[[Any], Any]) -> None:
        """Let a function put copies in the place of what is about to be overwritten."""
        assert self.saved is not None
        self.saved = tuple([apart(value) for value in self.saved])

    @property
    def where(self) -> Location:
        """Where in the user's program it was recorded."""
        return Location(self.code, self.lasti)

    @property
    def name(self) -> str:
        return self.op.name

    @property
    def next_functions(self) -> tuple[Node | Leaf | None, ...]:
        """The nodes of its inputs: a leaf's, or None where no gradient is needed."""
        return self.edges

    def __repr__(self) -> str:
        return f"<{self.op.name} node {self.number}>"


_new, _Node = object.__new__, Node


def _record(data: Any, op: Op, edges: Any, saved: Any, out: Any, params: dict[str, Any], uneven: bool) -> Tensor:
    """The tensor that an operation returns, around its node: `wrap` and `Node`, without a call for each."""
    node = _new(_Node)
    node.op = op
    node.edges = edges
    node.saved = saved
    node.out = out
    node.params = params
    node.uneven = uneven
    node.number = next_number()
    frame: Any = _frame(2)
    code = frame.f_code
    while code.co_filename in OURS:
        back = frame.f_back
        if back is None:
            break
        frame, code = back, back.f_code
    node.code = code
    node.lasti = frame.f_lasti
    tensor = _new(Tensor)
    tensor.data = data
    tensor._node = node
    tensor._grad = None
    tensor._sink = None
    return tensor


def _record_as_told(
    data: Any, record: Op, edges: Any, saved: Any, out: Any, params: dict[str, Any], uneven: bool
) -> Tensor:
    """The same with what stands in the place of `Node` and `wrap`: hooks on what is saved, and anomaly mode."""
    node = Node(record, edges, saved, out, params)
    node.uneven = uneven
    return wrap(data, node)


def make_by(*, node: Any = None, wrapping: Any = None) -> None:
    """Put something else in the place of `Node` or of `wrap`, for all threads; or those themselves again."""
    global Node, wrap, record
    Node = Node if node is None else node  # type: ignore[misc]
    wrap = wrap if wrapping is None else wrapping
    record = _record if Node is _Node and wrap is _wrap else _record_as_told


_wrap: Any = wrap
record: Callable[..., Tensor] = _record


def apply(op: Op, *inputs: Any, **params: Any) -> Any:
    """Run an op on tensors, arrays, numbers or None, and record it if a gradient may be wanted.

    Returns a tensor, or a tuple of tensors if the op has several outputs.
    """
    if SWITCH.on and op.autocast:
        inputs = tuple(cast_inputs(op.autocast, inputs))
    arrays: list[Any] = []
    edges: list[Node | Leaf | None] = []
    mask, bit = 0, 1
    for value in inputs:
        if isinstance(value, Tensor):
            arrays.append(value.data)
            edge = value._node
            edges.append(edge)
            if edge is not None:
                mask |= bit
        else:
            arrays.append(constant(value))
            edges.append(None)
        bit <<= 1
    first = arrays[0]
    xp = np if type(first) is _ndarray else array_module(*arrays)
    try:
        out = op.forward(xp, *arrays, **params)
    except (ValueError, IndexError, TypeError) as error:
        refuse(op, arrays, params, error)
    aux = None
    if op.aux:
        out, aux = out
    if op.many:
        out = tuple([settle(op, part, arrays) for part in out])
    elif type(out) is _ndarray and out.dtype is _FLOAT32 and type(first) is _ndarray and first.dtype is _FLOAT32:
        if op.broadcasts and has_halves(arrays, True):
            out = settle(op, out, arrays)
            edges = [narrowed(Node, edge, x, out) for edge, x in zip(edges, arrays, strict=True)]
    elif type(out) is not _ndarray or out.dtype in TO_SETTLE or has_halves(arrays, op.broadcasts):
        if mask and out.dtype.kind == "c" and (turned := complexified(op, inputs)) is not None:
            return apply(op, *turned, **params)
        out = settle(op, out, arrays)
        if mask and op.dtype in NARROWING:
            edges = [narrowed(Node, edge, x, out) for edge, x in zip(edges, arrays, strict=True)]
    if not mask or (OFF.threads and not MODE.enabled):
        return tuple([wrap(part, None) for part in out]) if op.many else wrap(out, None)
    if op.aux:
        params["aux"] = aux
    if op.variadic:
        return record(out, op, tuple(edges), tuple([x.shape for x in arrays]), None, params, op.broadcasts)
    keep = op.keep[mask]
    for i, x in enumerate(arrays):
        if not keep[i] and x is not None:
            arrays[i] = getattr(x, "shape", None)
    saved, keep_out = tuple(arrays), keep[-1]
    if op.many:
        outputs: Any = out
        return pick(outputs, Node(op, tuple(edges), saved, out if keep_out else None, params))
    return record(out, op, tuple(edges), saved, out if keep_out else None, params, op.broadcasts)


def apply_one(op: Op, input: Tensor, **params: Any) -> Tensor:
    """`apply` for an op of one input, which must be a tensor, and of one output."""
    if SWITCH.on and op.autocast:
        input = cast_input(op.autocast, input)
    x, edge = input.data, input._node
    try:
        out = op.forward(np if type(x) is _ndarray else array_module(x), x, **params)
    except (ValueError, IndexError, TypeError) as error:
        refuse(op, [x], params, error)
    aux = None
    if op.aux:
        out, aux = out
    if type(out) is not _ndarray or out.dtype is not x.dtype:
        out = np.asarray(out) if type(out) is x.dtype.type else settle(op, out, [x])
    if edge is None or (OFF.threads and not MODE.enabled):
        result = wrap(out, None)
    else:
        if op.aux:
            params["aux"] = aux
        keep_input, keep_out = op.keep[1]
        result = record(
            out, op, (edge,), (x if keep_input else x.shape,), out if keep_out else None, params, op.broadcasts
        )
    if op.view:
        result._base = input
    return result


def pick(outputs: tuple[Any, ...], node: Node) -> tuple[Tensor, ...]:
    """The outputs of a node as tensors, each with a node of its own that passes its gradient on. Integers have none."""
    return tuple(
        [
            wrap(out, Node(PICK, (node,), (out.shape,), None, {"index": i}) if out.dtype.kind not in "iub" else None)
            for i, out in enumerate(outputs)
        ]
    )


def _not_run(xp: Any, output: Any) -> Any:  # noqa: ARG001
    raise TypeError("this op is only a place in the graph")


PICK = Op(  # not in the registry: it is no operation, but the place of one output of several
    name="output",
    doc="one of the outputs of an operation",
    forward=_not_run,
    saves=("",),
    samples=lambda _: (),
    reference=_not_run,
)


def unary(op: Op) -> Unary:
    """The function of an elementwise op of one input and no params: `apply` with everything known beforehand."""
    forward, small, kind = op.forward, op.small_forward, op.autocast
    keep_input, keep_out = op.keep[1]

    def call(input: Operand, *, out: Tensor | None = None) -> Tensor:
        if out is not None:
            return into(out, call(input))
        if not isinstance(input, Tensor):
            input = Tensor(input)
        if kind and SWITCH.on:
            input = cast_input(kind, input)
        x, edge = input.data, input._node
        xp = np if type(x) is _ndarray else array_module(x)
        try:
            y = forward(xp, x) if forward is not small and (xp is not np or x.size >= LEAST) else small(xp, x)
        except (ValueError, TypeError) as error:
            refuse(op, [x], _NO_PARAMS, error)
        if type(y) is not _ndarray or y.dtype is not x.dtype:
            if y.dtype.char == "e" and x.dtype.kind in "iub":  # NumPy's functions of small integers
                y = forward(array_module(x), x.astype(default_dtype()))
            y = settle(op, y, [x])
        if edge is None or (OFF.threads and not MODE.enabled):
            return wrap(y, None)
        return record(y, op, (edge,), (x,) if keep_input else _NO_SHAPE, y if keep_out else None, _NO_PARAMS, False)

    call.__name__ = call.__qualname__ = op.name
    call.__doc__ = op.doc
    return call


def binary(op: Op) -> Binary:
    """The function of an elementwise op of two inputs and no params: `apply` with everything known beforehand."""
    forward: Any = op.forward
    kind = op.autocast
    _, only_left, only_right, both = op.keep
    keep_x, keep_y, keep_out = both
    elementwise = op.elementwise
    keeps_none = elementwise and not (keep_x or keep_y)

    def call(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor:
        if out is not None:
            return into(out, call(input, other))
        if kind and SWITCH.on:
            input, other = cast_inputs(kind, (input, other))
        like: Any
        x: Any
        y: Any
        left = right = None
        number = False
        if isinstance(input, Tensor):
            like = x = input.data
            left = input._node
            if isinstance(other, Tensor):
                y, right = other.data, other._node
                mixed = x.dtype is not y.dtype
            elif type(other) in _NUMBERS and x.dtype is not bfloat16:
                y, mixed, number = other, False, True
            else:
                y = constant(other, input)
                mixed = hasattr(y, "dtype")
        elif isinstance(other, Tensor):
            x = constant(input, other)
            like = y = other.data
            right = other._node
            mixed = hasattr(x, "dtype")
        else:
            like = x = constant(input)
            y, mixed = constant(other), True
            if not hasattr(x, "dtype") and not hasattr(y, "dtype"):
                raise TypeError(f"{op.name}: needs a tensor, not {input!r} and {other!r}")
        xp = np if type(like) is _ndarray else array_module(x, y)
        try:
            z = forward(xp, x, y)
        except (ValueError, TypeError) as error:
            refuse(op, [x, y], _NO_PARAMS, error)
        if mixed or type(z) is not _ndarray or z.dtype is not like.dtype:
            if z.dtype.kind == "c" and (turned := complexified(op, (input, other))) is not None:
                result: Tensor = call(*turned)
                return result
            if z.dtype.char == "e" and not any(getattr(v, "dtype", z.dtype).kind == "f" for v in (x, y)):
                z = forward(xp, *[v.astype(default_dtype()) for v in (x, y)])  # NumPy's functions of small integers
            z = settle(op, z, [x, y])
            left, right = narrowed(Node, left, x, z), narrowed(Node, right, y, z)
        if left is None:
            if right is None or (OFF.threads and not MODE.enabled):
                return wrap(z, None)
            kept_x, kept_y, kept_out = only_right
            shape = y.shape
            uneven = shape != z.shape
            saved = (x if kept_x else None, y if kept_y else shape)
        elif OFF.threads and not MODE.enabled:
            return wrap(z, None)
        elif right is None:
            kept_x, kept_y, kept_out = only_left
            shape = None if number and elementwise else x.shape
            uneven = not number and shape != z.shape
            saved = (x if kept_x else shape, y if kept_y else None)
        else:
            kept_out = keep_out
            shape = x.shape
            uneven = shape != y.shape
            if keeps_none and not uneven:
                saved = _NO_SHAPES
            else:
                saved = (x if keep_x else shape, y if keep_y else y.shape if uneven else shape)
        return record(z, op, (left, right), saved, z if kept_out else None, _NO_PARAMS, uneven)

    call.__name__ = call.__qualname__ = op.name
    call.__doc__ = op.doc
    return call
