"""Primitives: what oneDNN has compiled for one description (shapes, dtypes, layouts, threads), kept to be used again.

Making one takes a fraction of a millisecond, running it a few microseconds more than its work. A primitive here has
memory objects of its own; a call points them to the operands, and runs. That makes it a thing of one thread, so every
thread keeps its own. What it needs while it runs lies in one workspace per thread, as large as the largest need.

Where an operand lies in memory otherwise than the primitive wants it, it is reordered there on the way.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from cordee.trainer.errors import KernelError
from cordee.trainer.kernels import team
from cordee.trainer.kernels.onednn.library import Dims, Pointer, calls, check, told_threads, use_threads

__all__ = [
    "SHARED_PRODUCT", "Description", "Layout", "Operand", "Primitive", "address", "attributes", "cached", "fast",
    "reordering", "share",
]  # fmt: skip

Made = TypeVar("Made")

CAPACITY = 512
"""Descriptions whose primitives a thread keeps."""
CAPACITY_BYTES = 64 << 20
"""What the primitives that a thread keeps may take: generated code and tables, some ten to two hundred KB each."""
_LEAST_BYTES, _MOST_BYTES = 32 << 10, CAPACITY_BYTES // 8
"""Of one primitive, as it counts: it may lie in memory that was given back, and others may ask for some meanwhile."""
SHARED, SHARED_PRODUCT = 1 << 24, 1 << 22
"""Multiplications from which on the team shares them, those of an image and those of a product: waking a thread that
sleeps takes what half of the latter take. A convolution is more steps, some of them copies."""
_ALIGNMENT = 64
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TAG_ANY, _SCRATCHPAD_IS_OURS = 1, 1  # dnnl_format_tag_any, dnnl_scratchpad_mode_user
_IMPLEMENTATION, _LAYOUT_OF = 8, 255  # dnnl_query_impl_info_str, dnnl_query_exec_arg_md
_FROM, _TO, _SCRATCHPAD = 1, 17, 80  # DNNL_ARG_…


def _address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


_at = ctypes.c_void_p.from_address
_HEAD = object.__basicsize__


def _address_by_field(array: Any) -> int:
    return _at(id(array) + _HEAD).value or 0


_probe = np.empty(3)
address: Callable[[Any], int] = _address_by_field if _address_by_field(_probe) == _address(_probe) else _address
"""Where an array's first element lies. It is the first field of NumPy's own in an array (its binary interface says so),
and read there in a fraction of the time that `__array_interface__` takes."""


class Layout:
    """How something lies in memory: shape, dtype and strides (in elements); without strides, as the primitive likes."""

    def __init__(self, shape: Sequence[int], dtype: int, strides: Sequence[int] | None, handle: Any = None) -> None:
        self.handle = handle
        if handle is None:
            self.handle, dnnl = Pointer(), calls().dnnl
            place, ndim, dims = ctypes.byref(self.handle), len(shape), Dims(*shape)
            if strides is None:
                check(dnnl.dnnl_memory_desc_create_with_tag(place, ndim, dims, dtype, _TAG_ANY))
            else:
                check(dnnl.dnnl_memory_desc_create_with_strides(place, ndim, dims, dtype, Dims(*strides)))

    @classmethod
    def wanted(cls, description: Description, number: int) -> Layout:
        """What a primitive wants for an argument (DNNL_ARG_…)."""
        dnnl, handle = calls().dnnl, Pointer()
        queried = Pointer(dnnl.dnnl_primitive_desc_query_md(description.handle, _LAYOUT_OF, number))
        check(dnnl.dnnl_memory_desc_clone(ctypes.byref(handle), queried))
        return cls((), 0, None, handle)

    @classmethod
    def dense(cls, shape: Sequence[int], dtype: int, order: Sequence[int] | None = None) -> Layout:
        """Without gaps; `order`: the dimensions from the outermost to the innermost, as they are listed if None."""
        strides, step = [0] * len(shape), 1
        for dim in reversed(range(len(shape)) if order is None else order):
            strides[dim] = step
            step *= shape[dim]
        return cls(shape, dtype, strides)

    @property
    def num_bytes(self) -> int:
        return int(calls().dnnl.dnnl_memory_desc_get_size(self.handle))

    def same(self, other: Layout) -> bool:
        return bool(calls().dnnl.dnnl_memory_desc_equal(self.handle, other.handle))

    def __del__(self) -> None:
        if self.handle:
            calls().dnnl.dnnl_memory_desc_destroy(self.handle)


class Description:
    """A primitive's description (`dnnl_primitive_desc_t`): oneDNN's choice of how to compute something."""

    def __init__(self, create: str, *arguments: Any) -> None:
        self.handle, dnnl = Pointer(), calls().dnnl
        handles = [x.handle if isinstance(x, (Layout, Description)) else x for x in arguments]
        check(getattr(dnnl, create)(ctypes.byref(self.handle), *handles))

    @property
    def implementation(self) -> str:
        """Its name; those that begin with "ref" are for comparison, and thousands of times as slow."""
        name = ctypes.c_char_p()
        check(calls().dnnl.dnnl_primitive_desc_query(self.handle, _IMPLEMENTATION, 0, ctypes.byref(name)))
        return (name.value or b"").decode()

    def __del__(self) -> None:
        if self.handle:
            calls().dnnl.dnnl_primitive_desc_destroy(self.handle)


class Operand(NamedTuple):
    """One argument of a primitive."""

    number: int
    """DNNL_ARG_…"""
    layout: Layout
    """How the caller has it."""
    result: bool = False


class _Argument(ctypes.Structure):
    _fields_ = (("number", ctypes.c_int), ("memory", Pointer))


class _Workspace(threading.local):
    """Memory that a thread's primitives use while they run."""

    address = 0
    num_bytes = 0
    memory: Any = None


_workspace = _Workspace()


def _reserve(num_bytes: int) -> int:
    """The address of the thread's workspace, with room for so many bytes."""
    own = _workspace
    if own.num_bytes < num_bytes:
        own.memory = None  # first, so that it can be had again
        own.memory = np.empty(num_bytes + _ALIGNMENT, np.uint8)
        own.address = -(-_address(own.memory) // _ALIGNMENT) * _ALIGNMENT
        own.num_bytes = num_bytes
    return own.address


class Primitive:
    """Calling it with the addresses of its operands, in the order in which they were given, runs it.

    It runs on as many threads as were told of last when it was made.
    """

    def __init__(self, description: Description, operands: Sequence[Operand]) -> None:
        self._memories: list[int] = []  # of the operands, to be pointed to them
        self._inner: list[tuple[int, int]] = []  # in the workspace, and how far from its start
        self._num_bytes, self._base = 0, 0
        self._handles: list[Any] = []
        self._keep: list[Any] = []
        before, after, arguments = [], [], []
        for operand in operands:
            wanted = Layout.wanted(description, operand.number)
            own = self._memory(operand.layout)
            self._memories.append(own)
            if wanted.same(operand.layout):
                arguments.append((operand.number, own))
                continue
            inner = self._in_workspace(wanted)
            arguments.append((operand.number, inner))
            if operand.result:
                after.append(self._step(reordering(wanted, operand.layout), [(_FROM, inner), (_TO, own)]))
            else:
                before.append(self._step(reordering(operand.layout, wanted), [(_FROM, own), (_TO, inner)]))
        self._steps = [*before, self._step(description, arguments), *after]
        self._threads = told_threads()
        self._execute, self._point, self._stream = calls().execute, calls().point, calls().stream.value

    def _memory(self, layout: Layout) -> int:
        made = Pointer()
        check(calls().dnnl.dnnl_memory_create(ctypes.byref(made), layout.handle, calls().engine, None))
        self._handles.append(("dnnl_memory_destroy", made))
        assert made.value is not None
        return made.value

    def _in_workspace(self, layout: Layout) -> int:
        made = self._memory(layout)
        self._inner.append((made, self._num_bytes))
        self._num_bytes += -(-layout.num_bytes // _ALIGNMENT) * _ALIGNMENT
        return made

    def _step(self, description: Description, arguments: list[tuple[int, int]]) -> tuple[int, int, int]:
        """What `dnnl_primitive_execute` is called with."""
        made = Pointer()
        check(calls().dnnl.dnnl_primitive_create(ctypes.byref(made), description.handle))
        self._handles.append(("dnnl_primitive_destroy", made))
        scratchpad = Layout.wanted(description, _SCRATCHPAD)
        if scratchpad.num_bytes:
            arguments = [*arguments, (_SCRATCHPAD, self._in_workspace(scratchpad))]
        array = (_Argument * len(arguments))(*[_Argument(*each) for each in arguments])
        self._keep.append(array)
        assert made.value is not None
        return made.value, len(arguments), ctypes.addressof(array)

    def __call__(self, *addresses: int) -> None:
        point = self._point
        for memory, where in zip(self._memories, addresses, strict=True):
            point(memory, where)
        if self._num_bytes:
            base = _reserve(self._num_bytes)
            if base != self._base:
                for memory, offset in self._inner:
                    point(memory, base + offset)
                self._base = base
        use_threads(self._threads)
        for handle, count, arguments in self._steps:
            status = self._execute(handle, self._stream, count, arguments)
            if status:
                check(status)

    def __del__(self) -> None:
        for destroy, handle in getattr(self, "_handles", ()):
            getattr(calls().dnnl, destroy)(handle)


def fast(description: Description) -> Description:
    """The description itself.

    Raises:
        KernelError: it is one of those that compute one number after the other.
    """
    if description.implementation.startswith("ref"):
        raise KernelError("oneDNN has no fast way to compute this")
    return description


def share(num_multiplications: int, least: int = SHARED) -> int:
    """On how many threads to compute so many; what is made next is made for them."""
    threads = 1 if num_multiplications < least else team.size()
    use_threads(threads)
    return threads


@functools.cache
def attributes() -> Any:
    """What every primitive is made with: its scratchpad is a part of our workspace."""
    made, dnnl = Pointer(), calls().dnnl
    check(dnnl.dnnl_primitive_attr_create(ctypes.byref(made)))
    check(dnnl.dnnl_primitive_attr_set_scratchpad_mode(made, _SCRATCHPAD_IS_OURS))
    return made


def reordering(source: Layout, target: Layout) -> Description:
    """The copy from one layout to another."""
    engine = calls().engine
    return Description("dnnl_reorder_primitive_desc_create", source, engine, target, engine, attributes())


class _Cache(threading.local):
    """A thread's primitives, the one that was used last at the end."""

    def __init__(self) -> None:
        self.made: OrderedDict[Hashable, Any] = OrderedDict()
        self.sizes: dict[Hashable, int] = {}
        self.num_bytes = 0

    def keep(self, key: Hashable, found: Any, num_bytes: int) -> None:
        self.made[key] = found
        self.sizes[key] = num_bytes
        self.num_bytes += num_bytes
        while len(self.made) > CAPACITY or (self.num_bytes > CAPACITY_BYTES and len(self.made) > 1):
            oldest, _ = self.made.popitem(last=False)
            self.num_bytes -= self.sizes.pop(oldest)


_cache = _Cache()


def cached(key: Hashable, make: Callable[..., Made], *arguments: Any, **options: Any) -> Made | None:
    """What `make(*arguments, **options)` has made for this key; None where oneDNN has no way to compute it."""
    made = _cache.made
    try:
        found = made[key]
    except KeyError:
        before = _resident_bytes()
        try:
            found = make(*arguments, **options)
        except KernelError:
            found = None
        grown = 0 if found is None else min(max(_resident_bytes() - before, _LEAST_BYTES), _MOST_BYTES)
        _cache.keep(key, found, grown)
    else:
        made.move_to_end(key)
    return found  # type: ignore[no-any-return]


def _resident_bytes() -> int:
    """Of this process: oneDNN does not tell how large a primitive is. 0 where the system does not tell either."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:  # noqa: PTH123
            return int(file.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
