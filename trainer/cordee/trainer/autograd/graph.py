"""The tape: how an operation is run and recorded.

A recorded operation leaves one `Node`: the op, an edge to the node of each input, the raw arrays its gradient will
read, and a number that grows with time. A result holds its node, a node holds its inputs' nodes: references only ever
point backwards, so a graph that nobody holds is gone at once, without the garbage collector. A tensor that requires a
gradient and was made by the user holds a `Leaf`, which refers to the tensor weakly.

Nothing here is a closure per call and nothing is checked that a failing forward would notice anyway: the cost of
recording is the design constraint. A failure is explained after the fact, by the op's record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

import numpy as np

from cordee.trainer.array import Array, array_module, as_array, default_dtype
from cordee.trainer.autograd.mode import MODE
from cordee.trainer.autograd.record import Op
from cordee.trainer.errors import ShapeError, TrainerError, TrainerIndexError
from cordee.trainer.tensors import Leaf, Tensor, next_number, wrap

__all__ = ["Node", "Operand", "apply", "apply_one", "binary", "unary"]

Operand: TypeAlias = "Tensor | Array | float | int | bool"

_ndarray, _float64 = np.ndarray, np.dtype("float64")
_NO_PARAMS: dict[str, Any] = {}


class Node:
    """A recorded operation. `saved` holds, per input, its array or (not kept) its shape; None once freed."""

    __slots__ = ("edges", "number", "op", "out", "params", "saved")

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

    def __repr__(self) -> str:
        return f"<{self.op.name} node {self.number}>"


def apply(op: Op, *inputs: Any, **params: Any) -> Tensor:
    """Run an op on tensors, arrays, numbers or None, and record it if a gradient may be wanted."""
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
        _explain(op, arrays, params, error)
    aux = None
    if op.aux:
        out, aux = out
    if type(out) is not _ndarray or out.dtype is _float64:
        out = _settle(op, xp, out, arrays)
    if not mask or not MODE.enabled:
        return wrap(out, None)
    if op.aux:
        params["aux"] = aux
    if op.variadic:
        return wrap(out, Node(op, tuple(edges), tuple([x.shape for x in arrays]), None, params))
    keep = op.keep[mask]
    saved = [x if k else None if x is None else getattr(x, "shape", None) for x, k in zip(arrays, keep, strict=False)]
    return wrap(out, Node(op, tuple(edges), tuple(saved), out if keep[-1] else None, params))


def apply_one(op: Op, input: Tensor, **params: Any) -> Tensor:
    """`apply` for an op of one input, which must be a tensor."""
    x, edge = input.data, input._node
    try:
        out = op.forward(np if type(x) is _ndarray else array_module(x), x, **params)
    except (ValueError, IndexError, TypeError) as error:
        _explain(op, [x], params, error)
    aux = None
    if op.aux:
        out, aux = out
    if type(out) is not _ndarray or out.dtype is _float64:
        out = _settle(op, array_module(x), out, [x])
    if edge is None or not MODE.enabled:
        return wrap(out, None)
    if op.aux:
        params["aux"] = aux
    keep_input, keep_out = op.keep[1]
    return wrap(out, Node(op, (edge,), (x if keep_input else x.shape,), out if keep_out else None, params))


def unary(op: Op) -> Callable[[Operand], Tensor]:
    """The function of an elementwise op of one input and no params: `apply` with everything known beforehand."""
    forward = op.forward
    keep_input, keep_out = op.keep[1]

    def call(input: Operand) -> Tensor:
        if not isinstance(input, Tensor):
            input = Tensor(input)
        x, edge = input.data, input._node
        out = forward(np if type(x) is _ndarray else array_module(x), x)
        if type(out) is not _ndarray or out.dtype is _float64:
            out = _settle(op, array_module(x), out, [x])
        if edge is None or not MODE.enabled:
            return wrap(out, None)
        return wrap(out, Node(op, (edge,), (x if keep_input else x.shape,), out if keep_out else None, _NO_PARAMS))

    call.__name__ = call.__qualname__ = op.name
    call.__doc__ = op.doc
    return call


def binary(op: Op) -> Callable[[Operand, Operand], Tensor]:
    """The function of an elementwise op of two inputs and no params: `apply` with everything known beforehand."""
    forward, keep = op.forward, op.keep

    def call(input: Operand, other: Operand) -> Tensor:
        if isinstance(input, Tensor):
            x, left = input.data, input._node
        else:
            x, left = _constant(input), None
        if isinstance(other, Tensor):
            y, right = other.data, other._node
        else:
            y, right = _constant(other), None
        xp = np if type(x) is _ndarray else array_module(x, y)
        try:
            out = forward(xp, x, y)
        except (ValueError, TypeError) as error:
            _explain(op, [x, y], _NO_PARAMS, error)
        if type(out) is not _ndarray or out.dtype is _float64:
            out = _settle(op, xp, out, [x, y])
        if left is None:
            if right is None or not MODE.enabled:
                return wrap(out, None)
            keep_x, keep_y, keep_out = keep[2]
            saved = (x if keep_x else None, y if keep_y else y.shape)
        elif not MODE.enabled:
            return wrap(out, None)
        elif right is None:
            keep_x, keep_y, keep_out = keep[1]
            saved = (x if keep_x else x.shape, y if keep_y else None)
        else:
            keep_x, keep_y, keep_out = keep[3]
            saved = (x if keep_x else x.shape, y if keep_y else y.shape)
        return wrap(out, Node(op, (left, right), saved, out if keep_out else None, _NO_PARAMS))

    call.__name__ = call.__qualname__ = op.name
    call.__doc__ = op.doc
    return call


_PLAIN = frozenset((float, int, bool, type(None), np.ndarray))


def _constant(value: Any) -> Any:
    """An operand that is no tensor. NumPy's scalars become Python's, which do not widen a float32 array."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, np.generic):
        return value.item()
    return as_array(value) if isinstance(value, (list, tuple)) else value


def _settle(op: Op, xp: Any, out: Any, arrays: list[Any]) -> Any:
    """What NumPy returns, made what a tensor holds: an array (not a scalar), and not wider than its inputs.

    NumPy computes integers with float32 in float64; PyTorch, and we, take the floating inputs' dtype, or the default.
    Nor does an input without dimensions widen those that have some.
    """
    if isinstance(out, np.generic):
        out = np.asarray(out)
    if out.dtype is _float64 and not op.widens:
        floats = [x for x in arrays if getattr(x, "dtype", None) is not None and x.dtype.kind == "f"]
        deciding = [x.dtype for x in floats if x.ndim] or [x.dtype for x in floats]
        wanted = xp.result_type(*deciding) if deciding else default_dtype()
        if wanted != _float64:
            out = out.astype(wanted)
    return out


def _explain(op: Op, arrays: list[Any], params: dict[str, Any], error: Exception) -> NoReturn:
    """Turn a failed forward into a sentence: the op, every input's shape, and what is wrong."""
    if isinstance(error, TrainerError):
        raise error
    shapes = [getattr(x, "shape", x) for x in arrays]
    names = op.inputs or tuple(f"input {i}" for i in range(len(shapes)))
    listed = ", ".join(f"{name} {_shape_text(shape)}" for name, shape in zip(names, shapes, strict=False))
    reason = None
    if op.explain is not None:
        reason = op.explain(*shapes, **params)
    elif op.elementwise:
        reason = explain_broadcast(*[s for s in shapes if isinstance(s, tuple)])
    kind = TrainerIndexError if isinstance(error, IndexError) else ShapeError
    if reason is None and isinstance(error, TypeError):
        raise TypeError(f"{op.name}: {error} (inputs: {listed})") from error
    raise kind(f"{op.name}: {reason or error} (inputs: {listed})") from error


def _shape_text(shape: Any) -> str:
    return f"of shape {tuple(shape)}" if isinstance(shape, tuple) else repr(shape)


def explain_broadcast(*shapes: tuple[int, ...]) -> str | None:
    """Which dimension keeps these shapes from broadcasting against each other."""
    ndim = max(map(len, shapes), default=0)
    padded = [(1,) * (ndim - len(shape)) + tuple(shape) for shape in shapes]
    for dim in range(ndim - 1, -1, -1):
        sizes = {shape[dim] for shape in padded if shape[dim] != 1}
        if len(sizes) > 1:
            counted = " and ".join(str(shape[dim]) for shape in padded if shape[dim] != 1)
            return f"sizes {counted} differ in dimension {dim - ndim}; they must be equal, or one of them 1"
    return None
