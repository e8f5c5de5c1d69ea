"""Operations that write into their first operand: `add_`, `+=`, `x[i] = y`, `copy_`.

Each is made of its twin that returns a new tensor: the result is computed and recorded as always, then written over the
old values, and the tensor moves on to the result's node. What was written, when and where is noted
(`autograd/writes.py`), so that a gradient which has to read the old values is refused instead of wrong.

A write into a view (`y = x[0]; y += 1`) is recorded as a write into the tensor that it views: see `views.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cordee.trainer.array import Array, array_module, as_array, is_complex, is_float
from cordee.trainer.autograd.explain import refuse
from cordee.trainer.autograd.graph import Node, Operand
from cordee.trainer.autograd.mode import MODE
from cordee.trainer.autograd.record import op
from cordee.trainer.autograd.writes import BOOK, Write, address, owner_of
from cordee.trainer.errors import GraphError, ShapeError
from cordee.trainer.ops.places import check_inside, index_shape, plain_index
from cordee.trainer.ops.views import Ways, move_on, ways_of
from cordee.trainer.ops.writing import assign_at, last_at
from cordee.trainer.tensors import Leaf, Tensor

__all__ = ["assign", "setitem"]


# -- the record of an assignment ---------------------------------------------------------------------------------------


def _assigned(xp: Any, a: Any, value: Any, *, index: Any) -> Any:
    check_inside(xp, a.shape, index)
    out = a.copy()
    assign_at(xp, out, index, value)
    return out


def _assigned_vjp(F: Any, g: Any, out: Any, a: Any, value: Any, *, needs: Any, index: Any) -> Any:
    rest = F.assign(g, 0.0, index=index) if needs[0] else None
    if not needs[1] or value is None:
        return rest, None
    arrived = F.getitem(g, index=index)
    last = last_at(array_module(g if F.raw else g.data), a, index)  # a value that another one replaced has no effect
    extra = max(len(value) - arrived.ndim, 0)  # leading sizes of 1 that the place does not have
    summed = F.sum_to(arrived if last is None else arrived * last.astype(g.dtype), shape=value[extra:])
    return rest, F.reshape(summed, shape=value) if extra else summed


def _assigned_reference(a: Any, value: Any, index: Any) -> Any:
    out = np.array(a)
    out[index] = value
    return out


def _assigned_shape(a: Any, value: Any, *, index: Any) -> Any:
    place: tuple[int, ...] = index_shape(a, index=index)
    given: tuple[int, ...] = tuple(value or ())
    while len(given) > len(place) and given[:1] == (1,):
        given = given[1:]
    if len(given) > len(place) or any(n not in (1, m) for n, m in zip(given[::-1], place[::-1], strict=False)):
        raise ShapeError(f"values of shape {value} do not fit the place of shape {place}")
    return a


ASSIGN = op(
    "assign", "a copy in which the elements that an index names have other values",
    forward=_assigned, vjp=_assigned_vjp, saves=("", ""), dtype="first", shape=_assigned_shape,
    reference=_assigned_reference,
    samples=lambda s: [
        s.case(s.normal(3, 4), s.normal(4), index=1),
        s.case(s.normal(3, 4), s.normal(1, 1, 4), index=1),
        s.case(s.normal(3, 4), s.normal(3, 1), index=(slice(None), slice(1, 3))),
        s.case(s.normal(3, 4), 2.0, index=np.array([True, False, True])),
        s.case(s.normal(5), s.normal(2), index=np.array([3, 0])),
        s.case(s.normal(4), s.normal(3), index=np.array([1, 3, 1])),
    ],
    errors=lambda s: [s.case(s.normal(3, 4), s.normal(3), index=1), s.case(s.normal(3), s.normal(), index=4)],
)  # fmt: skip


def assign(input: Tensor, index: Any, value: Operand) -> Tensor:
    """A copy of `input` in which `input[index]` is `value`."""
    return ASSIGN.run(input, value, index=plain_index(index, input.shape)[0])


# -- writing -----------------------------------------------------------------------------------------------------------


def _refuse_leaf(tensor: Tensor, what: str) -> None:
    root = getattr(tensor, "_base", tensor)
    while hasattr(root, "_base"):
        root = root._base
    for found in (tensor, root):
        if isinstance(found._node, Leaf):
            raise GraphError(
                f"{what} would change a {'view of a ' if found is not tensor else ''}tensor that requires a gradient, "
                "which would falsify it: do it under no_grad(), or use the operation that makes a new tensor"
            )


def _check_fit(input: Tensor, result: Any, what: str) -> None:
    if result.shape != input.shape:
        raise ShapeError(f"{what}: the result has shape {result.shape} and does not fit in place into {input.shape}")
    if result.dtype is not input.dtype and _rank(result.dtype) > _rank(input.dtype):
        raise TypeError(f"{what}: {result.dtype.name} numbers do not fit in place into {input.dtype.name}")
    _check_place(input, what)


def _check_place(input: Tensor, what: str) -> None:
    flags = input.data.flags
    if flags.c_contiguous and getattr(flags, "writeable", True):  # CuPy's arrays always are
        return
    if input.data.size and (not getattr(flags, "writeable", True) or 0 in _strides(input.data)):
        raise ShapeError(
            f"{what}: the tensor of shape {input.shape} is repeated (expand, broadcast_to) or read-only memory: one "
            "write would change several elements; clone() it first"
        )


def _rank(dtype: Any) -> int:
    """Which kinds of numbers hold which others."""
    return 3 if is_complex(dtype) else 2 if is_float(dtype) else int(dtype.kind != "b")


def _strides(array: Array) -> list[int]:
    return [stride for stride, size in zip(array.strides, array.shape, strict=True) if size > 1]


def in_place(function: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
    """The in-place twin of an operation."""

    def call(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not MODE.enabled:
            result = function(self, *args, **kwargs)
            _check_fit(self, result, name)
            _note(self, name)
            self.data[...] = result.data
            return self
        _refuse_leaf(self, name)
        result = function(self, *args, **kwargs)
        _check_fit(self, result, name)
        node = result._node
        if isinstance(node, Node):
            _keep_old_values(node, self.data)
        ways = ways_of(self, node)
        write = _note(self, name)
        self.data[...] = result.data
        move_on(self, node, write, ways)
        return self

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"`{getattr(function, '__name__', name)}`, written into this tensor."
    call.__wrapped__ = function  # type: ignore[attr-defined]
    return call


def becoming(function: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
    """The in-place twin of an operation that gives the same elements another shape: nothing is written, the tensor
    itself becomes the result."""

    def call(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if MODE.enabled:
            _refuse_leaf(self, name)
        result = function(self, *args, **kwargs)
        self.data = result.data
        if MODE.enabled or not isinstance(self._node, Leaf):
            self._node = result._node
        return self

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"`{function.__name__}`, of this tensor itself."
    call.__wrapped__ = function  # type: ignore[attr-defined]
    return call


def _note(tensor: Tensor, what: str) -> Write:
    write = BOOK.note(tensor.data, what)
    if isinstance(tensor._node, Leaf):
        tensor._node.written = Leaf.newest = write.number
    return write


def _keep_old_values(node: Node, old: Array) -> None:
    """What the result's own gradient reads of the values that are about to be overwritten, as a copy."""

    def kept(value: Any) -> Any:
        shares = hasattr(value, "strides") and owner_of(value) is owner_of(old)
        return value.copy() if shares else value

    node.keep_apart(kept)


def rewritten(tensor: Tensor, node: Any, what: str) -> None:
    """A tensor that was written to already stands for the value of a node from now on."""
    ways = ways_of(tensor, node)
    move_on(tensor, node, _note(tensor, what), ways)


# -- assignments -------------------------------------------------------------------------------------------------------


def setitem(input: Tensor, index: Any, value: Operand) -> None:
    """`input[index] = value`. Recorded: the gradient of what was overwritten is zero, that of `value` what arrives
    there."""
    if isinstance(value, Tensor) and _is_there(input, index, value):
        return  # x[i] += y has written already, and comes here with the view
    index = plain_index(index, input.shape)[0]
    source = value._node if isinstance(value, Tensor) else None
    data: Any = value.data if isinstance(value, Tensor) else value
    if isinstance(data, (list, tuple)):
        data = as_array(data)
    recording = MODE.enabled and (input._node is not None or source is not None)
    if recording:
        _refuse_leaf(input, "an assignment to an index")
    if hasattr(data, "dtype") and is_float(data.dtype) and input.dtype.kind in "iub" and source is not None:
        raise TypeError(
            f"an assignment to an index: {data.dtype.name} numbers lose their gradient in {input.dtype.name}"
        )
    ways: Ways = []
    node = None
    if recording:
        shape = data.shape if hasattr(data, "shape") else None
        node = Node.of(
            ASSIGN, (input._node, source), (input.shape, shape), None, {"index": index}
        )  # reads before it writes
        ways = ways_of(input, node)
    write = _note(input, "an assignment to an index")
    try:
        xp = array_module(input.data)
        check_inside(xp, input.shape, index)
        assign_at(xp, input.data, index, data)
    except (ValueError, IndexError, TypeError) as error:
        refuse(ASSIGN, [input.data, data], {"index": index}, error)
    if recording:
        move_on(input, node, write, ways)


def _is_there(input: Tensor, index: Any, value: Tensor) -> bool:
    """Whether a value is the view of just those elements that it is to be assigned to, and has their history."""
    if getattr(value, "_base", None) is not input or (value._node is None and input._node is not None):
        return False
    index, advanced = plain_index(index, input.shape)
    if advanced:
        return False
    try:
        place = input.data[index]
    except IndexError:
        return False
    mine = value.data
    if isinstance(place, np.generic):  # of one element: NumPy gives a number
        place = input.data[(*index, ...) if isinstance(index, tuple) else (index, ...)]
    return (
        place.shape == mine.shape
        and place.strides == mine.strides
        and place.dtype == mine.dtype
        and address(place) == address(mine)
    )


def copy_(self: Tensor, source: Any) -> Tensor:
    """Overwrite the values with those of `source`, broadcast to this shape; recorded, the gradient goes to `source`."""
    if not isinstance(source, Tensor):
        source = Tensor(as_array(source))
    if not MODE.enabled or (self._node is None and source._node is None):
        array = source.data
        if self._node is not None and MODE.enabled:
            _refuse_leaf(self, "copy_")
        _check_place(self, "copy_")
        _note(self, "copy_")
        self.data[...] = array.astype(self.data.dtype, copy=False)
        return self
    setitem(self, ..., source)
    return self
