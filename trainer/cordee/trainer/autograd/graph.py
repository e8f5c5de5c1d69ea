"""The tape: how an operation is run and recorded.

A recorded operation leaves one `Node`: the op, an edge to the node of each input, the raw arrays its gradient will
read, and a number that grows with time. A result holds its node, a node holds its inputs' nodes: references only ever
point backwards, so a graph that nobody holds is gone at once, without the garbage collector. A tensor that requires a
gradient and was made by the user holds a `Leaf`, which refers to the tensor weakly.

The cost of recording is the design constraint. What is called for most operations is written out for each op
(`specialised.py`); here is what they are made of, and the careful functions for what comes seldom. Nothing is a closure
per call and nothing is checked that a failing forward would notice anyway: a failure is explained after the fact, by
the op's record.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType
from typing import Any, Self

import numpy as np

from cordee.trainer.array import array_module, bfloat16
from cordee.trainer.autograd import specialised
from cordee.trainer.autograd.casting import SWITCH, cast_input, cast_inputs
from cordee.trainer.autograd.explain import refuse
from cordee.trainer.autograd.fusing import LEAST
from cordee.trainer.autograd.location import OURS, Location, here
from cordee.trainer.autograd.mixing import complexified, narrowed
from cordee.trainer.autograd.mode import MODE, OFF
from cordee.trainer.autograd.out import into
from cordee.trainer.autograd.record import Op
from cordee.trainer.autograd.settle import NARROWING, TO_SETTLE, constant, has_halves, settle, settle_like
from cordee.trainer.autograd.specialised import Binary, Operand, Unary, binary, unary
from cordee.trainer.tensors import Leaf, Tensor, next_number, wrap

__all__ = [
    "PICK", "Binary", "Node", "Operand", "Unary", "apply", "apply_two", "binary", "finish", "make_by", "pick", "unary",
]  # fmt: skip

NO_PARAMS: dict[str, Any] = {}


class Node:
    """A recorded operation.

    `saved` holds, per input, its array or (not kept) its shape; None once freed. `out` is the result where the gradient
    reads it (a tuple where the op has several). `code` and `lasti` say where in the user's program it was recorded.
    `uneven`: an input may have been broadcast, so that its gradient has to be summed back to its shape.
    """

    __slots__ = ("__weakref__", "code", "edges", "hooks", "lasti", "number", "op", "out", "params", "saved", "uneven")

    code: CodeType
    edges: tuple[Node | Leaf | None, ...]
    hooks: Any
    lasti: int
    number: int
    op: Op
    out: Any
    params: dict[str, Any]
    saved: tuple[Any, ...] | None
    uneven: bool

    @classmethod
    def of(
        cls, op: Op, edges: tuple[Node | Leaf | None, ...], saved: tuple[Any, ...], out: Any, params: dict[str, Any]
    ) -> Self:
        """The node of an operation that is being run; the class itself makes an empty one, in half the time."""
        node = cls()
        node.op = op
        node.edges = edges
        node.saved = saved
        node.out = out
        node.params = params
        node.uneven = op.broadcasts
        node.number = next_number()
        place = here()
        node.code, node.lasti = place.code, place.lasti
        return node

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


class _Told:
    """Whether somebody is told of what is recorded: hooks on what is saved, and anomaly mode."""

    __slots__ = ("on",)

    def __init__(self) -> None:
        self.on = False


TOLD = _Told()
new_node: Callable[..., Node] = Node.of
_wrap = wrap


def make_by(*, node: Any = None, wrapping: Any = None) -> None:
    """Put something else in the place of `Node.of` or of `wrap`, for all threads; or those themselves again."""
    global new_node, wrap
    new_node = new_node if node is None else node
    wrap = wrap if wrapping is None else wrapping
    TOLD.on = new_node != Node.of or wrap is not _wrap


def finish(op: Op, out: Any, edges: tuple[Any, ...], arrays: list[Any], params: dict[str, Any]) -> Tensor:
    """The tensor that an operation of one output returns, and its node where there is to be one."""
    if (OFF.threads and not MODE.enabled) or not any(edge is not None for edge in edges):
        return wrap(out, None)
    if op.variadic:
        saved, keep_out = tuple([x.shape for x in arrays]), False
    else:
        saved, keep_out = _kept(op, edges, arrays)
    return wrap(out, new_node(op, edges, saved, out if keep_out else None, params))


def _kept(op: Op, edges: tuple[Any, ...], arrays: list[Any]) -> tuple[tuple[Any, ...], bool]:
    """What a node keeps of each input, and whether the result."""
    keep = op.keep[sum(1 << i for i, edge in enumerate(edges) if edge is not None)]
    saved = [x if kept or x is None else getattr(x, "shape", None) for x, kept in zip(arrays, keep, strict=False)]
    return tuple(saved), keep[-1]


def apply(op: Op, *inputs: Any, **params: Any) -> Any:
    """Run an op on tensors, arrays, numbers or None, and record it if a gradient may be wanted.

    It takes everything; `op.run`, written for the op, is several times faster where tensors of one dtype come.
    Returns a tensor, or a tuple of tensors if the op has several outputs.
    """
    if SWITCH.on and op.autocast:
        inputs = tuple(cast_inputs(op.autocast, inputs))
    arrays = [x.data if isinstance(x, Tensor) else constant(x) for x in inputs]
    edges = tuple([x._node if isinstance(x, Tensor) else None for x in inputs])
    try:
        out = op.forward(array_module(*arrays), *arrays, **params)
    except (ValueError, IndexError, TypeError) as error:
        refuse(op, arrays, params, error)
    if op.aux:
        out, params["aux"] = out
    if op.many:
        return _finish_many(op, tuple([settle(op, part, arrays) for part in out]), edges, arrays, params)
    if type(out) is not np.ndarray or out.dtype in TO_SETTLE or has_halves(arrays, op.broadcasts):
        if out.dtype.kind == "c" and (turned := complexified(op, inputs)) is not None:
            params.pop("aux", None)
            return apply(op, *turned, **params)
        out = settle(op, out, arrays)
    if len(arrays) > 1 and op.dtype in NARROWING:
        edges = _narrowed(edges, arrays, out)
    return finish(op, out, edges, arrays, params)


def _finish_many(op: Op, outs: tuple[Any, ...], edges: tuple[Any, ...], arrays: list[Any], params: Any) -> Any:
    if (OFF.threads and not MODE.enabled) or not any(edge is not None for edge in edges):
        return tuple([wrap(out, None) for out in outs])
    saved, keep_out = _kept(op, edges, arrays)
    return pick(outs, new_node(op, edges, saved, outs if keep_out else None, params))


def apply_two(call: Any, op: Op, input: Any, other: Any) -> Tensor:
    """The function of an op of two inputs, for what comes seldom: arrays, lists, mixed dtypes, no tensor at all."""
    tensors = [x for x in (input, other) if isinstance(x, Tensor)]
    x, y = (x.data if isinstance(x, Tensor) else constant(x, *tensors) for x in (input, other))
    if not hasattr(x, "dtype") and not hasattr(y, "dtype"):
        raise TypeError(f"{op.name}: needs a tensor, not {input!r} and {other!r}")
    arrays = [x, y]
    try:
        out = op.forward(array_module(*arrays), *arrays)
    except (ValueError, TypeError) as error:
        refuse(op, arrays, NO_PARAMS, error)
    if out.dtype.kind == "c" and (turned := complexified(op, (input, other))) is not None:
        result: Tensor = call(*turned)
        return result
    out = settle_like(op, out, arrays)
    edges = tuple([x._node if isinstance(x, Tensor) else None for x in (input, other)])
    return finish(op, out, _narrowed(edges, arrays, out), arrays, NO_PARAMS)


def _narrowed(edges: tuple[Any, ...], arrays: list[Any], out: Any) -> tuple[Any, ...]:
    return tuple([narrowed(new_node, edge, x, out) for edge, x in zip(edges, arrays, strict=True)])


def pick(outputs: tuple[Any, ...], node: Node) -> tuple[Tensor, ...]:
    """The outputs of a node as tensors, each with a node of its own that passes its gradient on. Integers have none."""
    return tuple(
        [
            wrap(
                out, new_node(PICK, (node,), (out.shape,), None, {"index": i}) if out.dtype.kind not in "iub" else None
            )
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


specialised.NAMES.update(
    LEAST=LEAST, MODE=MODE, NOTHING_SAVED=(None,), NOTHING_SAVED_OF_TWO=(None, None), NO_PARAMS=NO_PARAMS, OFF=OFF,
    OURS=OURS, SWITCH=SWITCH, TOLD=TOLD, Node=Node, Tensor=Tensor, apply=apply, apply_two=apply_two,
    array_module=array_module, bfloat16=bfloat16, cast_input=cast_input, cast_inputs=cast_inputs, finish=finish,
    getframe=sys._getframe, into=into, ndarray=np.ndarray, new=object.__new__, next_number=next_number, np=np,
    refuse=refuse, settle_like=settle_like, wrap=wrap,
)  # fmt: skip
