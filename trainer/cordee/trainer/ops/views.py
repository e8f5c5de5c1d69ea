"""How a write goes on in the graph: the tensor moves on to the result's node, and with it whoever shares its memory.

A write into a view (`y = x[0]; y += 1`) is recorded as a write into the tensor that it views, at the view's places.
"""

from __future__ import annotations

import gc
import sys
from typing import Any, TypeAlias

import numpy as np

from cordee.trainer.array import Array, array_module
from cordee.trainer.autograd.graph import Node
from cordee.trainer.autograd.record import Op
from cordee.trainer.autograd.writes import BOOK, Write, address
from cordee.trainer.errors import GraphError
from cordee.trainer.tensors import Tensor

__all__ = ["Ways", "move_on", "ways_of"]

Ways: TypeAlias = "list[tuple[Tensor, Array]]"
"""The views to move on with a write, the one written to first, with their places in the root."""


def ways_of(tensor: Tensor, node: Any) -> Ways:
    """What has to move on with a tensor to a new node: found out (and refused, if need be) before a byte is written."""
    views = [tensor]
    while hasattr(views[-1], "_base"):
        views.append(views[-1]._base)
    root = views.pop()  # the whole tensor; `views` are views of it, one of the next
    if not views:
        if node is not None and tensor._node is None and tensor.data.base is not None:
            _refuse_shared(tensor)
        return []
    if node is None and root._node is None and tensor._node is None:
        return []
    found = [(view, _places(view, root)) for view in views]
    return [] if found[0][1] is None else [(view, places) for view, places in found if places is not None]


def move_on(tensor: Tensor, node: Any, write: Write, ways: Ways) -> None:
    """The tensor now stands for the value of `node`; and so does, at its places, the tensor it is a view of."""
    old = tensor._node
    if not ways:  # no view, or one that has no memory in common with what it came from
        if old is node and node is None:
            return
        tensor._node = node
        BOOK.leave(old, write)
        if old is None:
            _follow(tensor, [])
        return
    root = tensor
    while hasattr(root, "_base"):
        root = root._base
    whole = root._node
    root._node = Node.of(_ASSIGN_PLACES, (whole, node), (root.shape, tensor.shape), None, {"places": ways[0][1]})
    BOOK.leave(whole, write)
    for view, places in ways:
        BOOK.leave(view._node, write)
        view._node = Node.of(_VIEW_PLACES, (root._node,), (root.shape,), None, {"places": places})
    if whole is None:
        _follow(root, [view for view, _ in ways])


def _follow(root: Tensor, moved: list[Tensor]) -> None:
    """A tensor had no history, and has one now: so have the views of it that are there already.

    They are looked for only here, where something else than `moved` does refer to the memory: that is rare.
    """
    if sys.getrefcount(root.data) <= 2 + len(moved) and root.data.base is None:
        return
    known = {id(view) for view in moved}
    pending = [root]
    while pending:
        base = pending.pop()
        for view in gc.get_referrers(base):
            if not isinstance(view, Tensor) or getattr(view, "_base", None) is not base:
                continue
            pending.append(view)
            if id(view) not in known and view._node is None and view.data.dtype == root.data.dtype:
                places = _places(view, root)
                if places is not None:
                    view._node = Node.of(_VIEW_PLACES, (root._node,), (root.shape,), None, {"places": places})


def _refuse_shared(tensor: Tensor) -> None:
    """A tensor without history that shares memory: with whom is not known, so their history cannot follow."""
    if sys.getrefcount(tensor.data.base) > 2:
        raise GraphError(
            "writing recorded values into memory that another tensor or array may share, whose history would not "
            "follow: clone() first"
        )


def _places(view: Tensor, base: Tensor) -> Array | None:
    """Where the elements of a view lie in its base, counted in the base's row-major order."""
    xp = array_module(base.data)
    if not base.data.size or not np.may_share_memory(view.data, base.data) if xp is np else False:
        return None
    if view.dtype != base.dtype:
        raise GraphError(
            f"a write into a view of {view.dtype.name} of a tensor of {base.dtype.name} cannot be recorded: clone() it "
            "first"
        )
    size = base.data.itemsize
    start = address(view.data) - address(base.data)
    if base.data.flags.c_contiguous:
        if start % size or not 0 <= start < base.data.nbytes:
            return None
        return xp.asarray(_steps(view.data, start) // size)  # type: ignore[no-any-return]
    there, wanted = _steps(base.data, 0).ravel(), _steps(view.data, start)
    order = np.argsort(there, kind="stable")
    found = np.minimum(np.searchsorted(there[order], wanted), there.size - 1)
    if not np.array_equal(there[order][found], wanted):
        return None
    return xp.asarray(order[found])  # type: ignore[no-any-return]


def _steps(array: Array, start: int) -> Array:
    """Of each element, how many bytes from a place in memory it lies."""
    steps = np.full(array.shape, start, np.int64)
    for dim, (n, stride) in enumerate(zip(array.shape, array.strides, strict=True)):
        steps += (np.arange(n) * stride).reshape(-1, *(1,) * (array.ndim - dim - 1))
    return steps


def _not_run(xp: Any, a: Any, value: Any = None, *, places: Any) -> Any:
    raise TypeError("this op is only a place in the graph")


def _assign_places_vjp(F: Any, g: Any, out: Any, a: Any, value: Any, *, needs: Any, places: Any) -> Any:
    flat = F.reshape(g, shape=(-1,))
    rest = F.reshape(F.assign(flat, 0.0, index=places), shape=a) if needs[0] else None
    return rest, F.getitem(flat, index=places) if needs[1] else None


def _view_places_vjp(F: Any, g: Any, out: Any, a: Any, *, needs: Any, places: Any) -> Any:
    return (F.reshape(F.put(g, index=places, shape=(int(np.prod(a, dtype=np.int64)),)), shape=a),)


_ASSIGN_PLACES = Op(
    name="assign", doc="a write into a view", forward=_not_run, saves=("", ""), vjp=_assign_places_vjp,
    samples=lambda _: (), reference=_not_run,
)  # fmt: skip
_VIEW_PLACES = Op(
    name="view", doc="a view that was written to", forward=lambda xp, a, *, places: _not_run(xp, a, places=places),
    saves=("",), vjp=_view_places_vjp, samples=lambda _: (), reference=_not_run, view=True,
)  # fmt: skip
