"""Writes into memory that a recorded operation has to read again: noticed, and told with both places in the program.

A node keeps raw arrays, and an in-place operation changes arrays. Instead of a version number on every tensor, which
every operation would have to copy, the rare event is written down: which memory was written to, when and where.
`backward` looks into this book only when there is something in it; memory that is gone takes its entries with it.

The second half is about views. After `y = x[0]`, writing into `x` changes what `y` holds but not how `y` was
recorded, so a later use of `y` would send its gradient down the old path. Nodes whose tensor has moved on to another
node are written down as well.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

from cordee.trainer.autograd.location import HERE, Location
from cordee.trainer.errors import GraphError
from cordee.trainer.tensors import next_number

__all__ = ["BOOK", "Book", "Write", "overlap", "owner_of"]


class Write:
    """One write: when, by what, where in the program, and which part of the owner's memory."""

    __slots__ = ("code", "dtype", "lasti", "number", "offset", "shape", "strides", "what")

    def __init__(self, what: str, array: Any, offset: int) -> None:
        self.number = next_number()
        self.what = what
        self.offset, self.shape, self.strides, self.dtype = offset, array.shape, array.strides, array.dtype
        frame: Any = sys._getframe(2)
        while frame.f_code.co_filename.startswith(HERE) and frame.f_back is not None:
            frame = frame.f_back
        self.code, self.lasti = frame.f_code, frame.f_lasti

    @property
    def where(self) -> Location:
        """Where in the user's program it happened."""
        return Location(self.code, self.lasti)


def owner_of(array: Any) -> Any:
    """The array that holds the memory which this one views (itself, when it is its own)."""
    base = array.base
    while base is not None and (type(base) is type(array) or isinstance(base, np.ndarray)):
        array, base = base, base.base
    return array


def address(array: Any) -> int:
    """Where its first element lies in memory."""
    return int(array.__array_interface__["data"][0] if isinstance(array, np.ndarray) else array.data.ptr)


def overlap(owner: Any, write: Write, array: Any) -> bool:
    """Whether an array lies, at least in part, in the memory that was written to."""
    if not isinstance(owner, np.ndarray) or not owner.flags.c_contiguous:
        return True  # not told apart more finely: better an error too many than a wrong gradient
    written = np.ndarray(write.shape, write.dtype, owner.reshape(-1).view(np.uint8), write.offset, write.strides)
    try:
        return bool(np.shares_memory(written, array, max_work=10_000))  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


class Book:
    """What was written, by the identity of the memory's owner; and which nodes their tensors have left."""

    def __init__(self) -> None:
        self._writes: dict[int, dict[tuple[Any, ...], Write]] = {}
        self._owners: dict[int, weakref.ref[Any]] = {}
        self._left: weakref.WeakKeyDictionary[Any, Write] = weakref.WeakKeyDictionary()
        self.newest = 0

    def __bool__(self) -> bool:
        return bool(self._writes) or len(self._left) > 0

    def note(self, array: Any, what: str) -> Write:
        """Write down that this array's memory is written to now."""
        owner = owner_of(array)
        write = Write(what, array, 0 if owner is array else address(array) - address(owner))
        key, self.newest = id(owner), write.number
        if key not in self._owners or self._owners[key]() is not owner:
            self._writes[key] = {}
            self._owners[key] = weakref.ref(owner, functools.partial(self._forget, key))
        self._writes[key][write.offset, write.shape, write.strides] = write
        return write

    def leave(self, node: Any, write: Write) -> None:
        """Write down that the tensor of this node stands for another value since a write."""
        if node is not None:
            self._left[node] = write

    def last(self, array: Any, since: int) -> Write | None:
        """A write, after a certain moment, into memory of this array."""
        owner = owner_of(array)
        for write in list(self._writes.get(id(owner), {}).values()):
            if write.number > since and overlap(owner, write, array):
                return write
        return None

    def check(self, node: Any, saved: tuple[Any, ...], out: Any) -> None:
        """Refuse a node that would read what is no longer there.

        Raises:
            GraphError: it names the operation, where it was recorded, and where its value was written to.
        """
        if node.number < self.newest:
            for value in _arrays((saved, out, *node.params.values())):
                write = self.last(value, node.number)
                if write is not None:
                    raise GraphError(
                        f"{node.op.name}, recorded at {node.where}, has to read a tensor of shape {value.shape} again "
                        f"for its gradient, but {write.what} at {write.where} has overwritten it: use the operation "
                        "that makes a new tensor there, or clone() before writing"
                    )
        if self._left:
            for edge in node.edges:
                self.check_view(edge, node.number, f"{node.op.name}, recorded at {node.where},")

    def check_view(self, edge: Any, used: float, user: str) -> None:
        """Refuse the place of a view in the graph when what it views was written to before it was used.

        Raises:
            GraphError: it names the view, and where that was written to.
        """
        view = edge
        while view is not None and getattr(getattr(view, "op", None), "view", False):
            view = view.edges[0]
            write = self._left.get(view) if view is not None else None
            if write is not None and write.number < used and edge.number < write.number:
                raise GraphError(
                    f"{user} uses a view (made by {edge.op.name} at {edge.where}) of a tensor that {write.what} at "
                    f"{write.where} has written to since: take the view anew after the write, or clone() it before"
                )

    def _forget(self, key: int, _: Any) -> None:
        self._writes.pop(key, None)
        self._owners.pop(key, None)


def _arrays(value: Any) -> Iterator[Any]:
    """The arrays among what a node keeps: inputs, results, and params such as indices and masks."""
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from _arrays(part)
    elif hasattr(value, "strides") and hasattr(value, "dtype"):
        yield value


BOOK = Book()
"""The process' book."""
