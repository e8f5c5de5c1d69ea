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

from cordee.trainer.array import Array, array_module, as_array, bfloat16, default_dtype, default_module
from cordee.trainer.autograd.casting import SWITCH, cast_input, cast_inputs
from cordee.trainer.autograd.explain import TENSOR_IN_DATA, refuse
from cordee.trainer.autograd.location import OURS, Location
from cordee.trainer.autograd.mode import MODE
from cordee.trainer.autograd.out import into
from cordee.trainer.autograd.record import REGISTRY, Op
from cordee.trainer.tensors import Leaf, Tensor, next_number, wrap

__all__ = ["PICK", "Node", "Operand", "apply", "apply_one", "binary", "unary"]

Operand: TypeAlias = "Tensor | Array | float | int | bool"


class Unary(Protocol):
    """A function of one operand."""

    def __call__(self, input: Operand, *, out: Tensor | None = None) -> Tensor: ...


class Binary(Protocol):
    """A function of two operands."""

    def __call__(self, input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor: ...


_ndarray = np.ndarray
_NO_PARAMS: dict[str, Any] = {}
_frame = sys._getframe


class Node:
    """A recorded operation.

    `saved` holds, per input, its array or (not kept) its shape; None once freed. `out` is the result where the gradient
    reads it (a tuple where the op has several). `code` and `lasti` say where in the user's program it was recorded.
    """

    __slots__ = ("__weakref__", "code", "edges", "hooks", "lasti", "number", "op", "out", "params", "saved")

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
            arrays.append(_constant(value))
            edges.append(None)
        bit <<= 1
    xp = np if type(arrays[0]) is _ndarray else array_module(*arrays)
    try:
        out = op.forward(xp, *arrays, **params)
    except (ValueError, IndexError, TypeError) as error:
        refuse(op, arrays, params, error)
    aux = None
    if op.aux:
        out, aux = out
    if op.many:
        out = tuple([_settle(op, part, arrays) for part in out])
    elif type(out) is not _ndarray or out.dtype in _TO_SETTLE or _has_bfloat16(arrays, op.broadcasts):
        if mask and out.dtype.kind == "c" and (turned := _complexified(op, inputs)) is not None:
            return apply(op, *turned, **params)
        out = _settle(op, out, arrays)
    if not mask or not MODE.enabled:
        return tuple([wrap(part, None) for part in out]) if op.many else wrap(out, None)
    if op.aux:
        params["aux"] = aux
    if op.variadic:
        return wrap(out, Node(op, tuple(edges), tuple([x.shape for x in arrays]), None, params))
    keep = op.keep[mask]
    saved = [x if k else None if x is None else getattr(x, "shape", None) for x, k in zip(arrays, keep, strict=False)]
    node = Node(op, tuple(edges), tuple(saved), out if keep[-1] else None, params)
    return pick(out, node) if isinstance(out, tuple) else wrap(out, node)


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
        out = _settle(op, out, [x])
    if edge is None or not MODE.enabled:
        result = wrap(out, None)
    else:
        if op.aux:
            params["aux"] = aux
        keep_input, keep_out = op.keep[1]
        result = wrap(out, Node(op, (edge,), (x if keep_input else x.shape,), out if keep_out else None, params))
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
    forward, kind = op.forward, op.autocast
    keep_input, keep_out = op.keep[1]

    def call(input: Operand, *, out: Tensor | None = None) -> Tensor:
        if out is not None:
            return into(out, call(input))
        if not isinstance(input, Tensor):
            input = Tensor(input)
        if kind and SWITCH.on:
            input = cast_input(kind, input)
        x, edge = input.data, input._node
        try:
            y = forward(np if type(x) is _ndarray else array_module(x), x)
        except (ValueError, TypeError) as error:
            refuse(op, [x], _NO_PARAMS, error)
        if type(y) is not _ndarray or y.dtype is not x.dtype:
            if y.dtype.char == "e" and x.dtype.kind in "iub":  # NumPy's functions of small integers
                y = forward(array_module(x), x.astype(default_dtype()))
            y = _settle(op, y, [x])
        if edge is None or not MODE.enabled:
            return wrap(y, None)
        return wrap(y, Node(op, (edge,), (x if keep_input else x.shape,), y if keep_out else None, _NO_PARAMS))

    call.__name__ = call.__qualname__ = op.name
    call.__doc__ = op.doc
    return call


def binary(op: Op) -> Binary:
    """The function of an elementwise op of two inputs and no params: `apply` with everything known beforehand."""
    forward, keep, kind = op.forward, op.keep, op.autocast

    def call(input: Operand, other: Operand, *, out: Tensor | None = None) -> Tensor:
        if out is not None:
            return into(out, call(input, other))
        if kind and SWITCH.on:
            input, other = cast_inputs(kind, (input, other))
        mixed = False
        if isinstance(input, Tensor):
            x, left = input.data, input._node
            if isinstance(other, Tensor):
                y, right = other.data, other._node
                mixed = x.dtype is not y.dtype
            else:
                y, right = _constant(other, input), None
        else:
            x, left = _constant(input, other), None
            if isinstance(other, Tensor):
                y, right = other.data, other._node
            elif hasattr(x, "dtype") or hasattr(other, "dtype"):
                y, right = _constant(other), None
            else:
                raise TypeError(f"{op.name}: needs a tensor, not {input!r} and {other!r}")
        xp = np if type(x) is _ndarray else array_module(x, y)
        try:
            z = forward(xp, x, y)
        except (ValueError, TypeError) as error:
            refuse(op, [x, y], _NO_PARAMS, error)
        if mixed or type(z) is not _ndarray or z.dtype in _TO_SETTLE:
            if z.dtype.kind == "c" and (turned := _complexified(op, (input, other))) is not None:
                return call(*turned)
            if z.dtype.char == "e" and not any(getattr(v, "dtype", z.dtype).kind == "f" for v in (x, y)):
                z = forward(xp, *[v.astype(default_dtype()) for v in (x, y)])  # NumPy's functions of small integers
            z = _settle(op, z, [x, y])
        if left is None:
            if right is None or not MODE.enabled:
                return wrap(z, None)
            keep_x, keep_y, keep_out = keep[2]
            saved = (x if keep_x else None, y if keep_y else y.shape)
        elif not MODE.enabled:
            return wrap(z, None)
        elif right is None:
            keep_x, keep_y, keep_out = keep[1]
            saved = (x if keep_x else x.shape, y if keep_y else None)
        else:
            keep_x, keep_y, keep_out = keep[3]
            saved = (x if keep_x else x.shape, y if keep_y else y.shape)
        return wrap(z, Node(op, (left, right), saved, z if keep_out else None, _NO_PARAMS))

    call.__name__ = call.__qualname__ = op.name
    call.__doc__ = op.doc
    return call


_PLAIN = frozenset((float, int, bool, type(None)))


def _constant(value: Any, beside: Any = None) -> Any:
    """An operand that is no tensor. NumPy's scalars become Python's, which do not widen a float32 array; numbers beside
    a bfloat16 tensor become bfloat16, whose package knows no weak numbers."""
    if type(value) not in _PLAIN:
        if isinstance(value, np.generic):
            value = value.item()
        elif isinstance(value, np.ndarray):
            return value if default_module() is np else as_array(value)
        else:
            return as_array(value) if isinstance(value, (list, tuple)) else value
    if isinstance(beside, Tensor) and beside.data.dtype is bfloat16 and isinstance(value, (float, int)):
        return bfloat16.type(value)
    return value


def _settle(op: Op, out: Any, arrays: list[Any]) -> Any:
    """What NumPy returns, made what a tensor holds: an array (not a scalar), and of the dtype that is promised.

    NumPy computes integers with float32 in float64, and bfloat16 with numbers in float32. An input without dimensions
    does not widen those of its kind that have some.
    """
    if isinstance(out, np.generic):
        out = np.asarray(out)
    elif isinstance(out, Tensor):
        raise TypeError(f"{op.name}: {TENSOR_IN_DATA}")
    kind = out.dtype.kind
    if kind in "bc" or op.dtype not in _NARROWING:
        return out
    dtype = out.dtype
    if any(getattr(x, "dtype", dtype) is not dtype for x in arrays):
        wanted = op.result_dtype(*_deciding(arrays))
        if wanted.kind in "iub" and kind not in "iu":  # what is floating of integers has the default dtype
            wanted = default_dtype()
        if wanted is not out.dtype and wanted.kind not in "bc":
            return out.astype(wanted)
    return out


_NARROWING = frozenset(("promote", "float"))
_TO_SETTLE = frozenset(map(np.dtype, ("float16", "float64", "complex64", "complex128")))


def _has_bfloat16(arrays: list[Any], all_of_them: bool) -> bool:
    """Whether the first array, or any that is broadcast with it, is bfloat16: NumPy's result may be float32 then."""
    if getattr(arrays[0], "dtype", None) is bfloat16:
        return True
    return all_of_them and len(arrays) > 1 and any(getattr(x, "dtype", None) is bfloat16 for x in arrays)


def _complexified(op: Op, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Where real and complex inputs make a complex result: the real ones that want a gradient, made complex by an op of
    their own, whose gradient is real again. None: there are none."""
    if not op.holomorphic or not MODE.enabled:
        return None
    cast, found = REGISTRY["cast"], False
    turned = list(inputs)
    for i, x in enumerate(inputs):
        if isinstance(x, Tensor) and x._node is not None and x.data.dtype.kind != "c":
            wanted = np.result_type(x.data.dtype, np.complex64)
            turned[i], found = apply(cast, x, dtype=wanted, source=x.data.dtype), True
    return tuple(turned) if found else None


def _deciding(arrays: list[Any]) -> list[Any]:
    """The dtypes that decide: those of arrays with dimensions, unless one without has a number of a higher kind."""
    dtypes = [(x.dtype if hasattr(x, "dtype") else type(x), getattr(x, "ndim", 0)) for x in arrays if x is not None]
    dimensioned = [dtype for dtype, ndim in dtypes if ndim]
    floating = [dtype for dtype in dimensioned if isinstance(dtype, np.dtype) and dtype.kind not in "iub"]
    if floating:
        return floating
    whole = [dtype for dtype in dimensioned if dtype.kind in "iu"]
    if whole and all(dtype is int or dtype is bool or getattr(dtype, "kind", "f") in "iub" for dtype, _ in dtypes):
        return whole
    return [dtype for dtype, _ in dtypes]
