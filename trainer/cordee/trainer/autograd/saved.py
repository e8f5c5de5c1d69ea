"""Hooks on what is kept for backward: to keep it elsewhere, smaller, or not at all.

Inside `saved_tensors_hooks(pack, unpack)` every array that a node would keep goes through `pack`, and comes back by
`unpack` when its gradient is computed; so does what an operation works out on the way and keeps beside its inputs and
result (patches, random masks). `save_on_disk` and `checkpoint` are made of them.

Outside of the block nothing is looked at: it puts another kind of node in the tape's place.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cordee.trainer.array import array_module, to_numpy
from cordee.trainer.autograd import graph
from cordee.trainer.autograd.graph import Node
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["save_on_disk", "saved_tensors_hooks"]


class saved_tensors_hooks:  # noqa: N801 (PyTorch's name)
    """While this block runs, `pack(tensor)` stands for what is kept, and `unpack` makes a tensor of it again.

    `unpack(pack(x))` must give the values of x. Blocks nest: the innermost counts. Each thread has its own.
    """

    def __init__(self, pack_hook: Callable[[Tensor], Any], unpack_hook: Callable[[Any], Tensor]) -> None:
        self._kind = _packing(pack_hook, unpack_hook)

    def __enter__(self) -> None:
        _HERE.kinds.append(self._kind)
        _count(1)

    def __exit__(self, *_: object) -> None:
        _HERE.kinds.pop()
        _count(-1)


class _Here(threading.local):
    """The kinds of nodes of the blocks that this thread is in."""

    def __init__(self) -> None:
        self.kinds: list[type[Node]] = []


_HERE = _Here()
_LOCK = threading.Lock()
_blocks = 0


def _count(more: int) -> None:
    """Blocks entered or left: while there are any, in whatever thread, nodes are made by `_chosen`."""
    global _blocks
    with _LOCK:
        _blocks += more
        graph.make_by(node=_chosen if _blocks else Node.of)


def _chosen(*fields: Any) -> Node:
    """A node of the kind that counts in this thread."""
    kinds = _HERE.kinds
    return (kinds[-1] if kinds else Node).of(*fields)


class _Packed:
    """What `pack` made of an array."""

    __slots__ = ("content",)

    def __init__(self, content: Any) -> None:
        self.content = content


def _packing(pack: Callable[[Tensor], Any], unpack: Callable[[Any], Tensor]) -> type[Node]:
    def packed(value: Any) -> Any:
        if isinstance(value, tuple) and any(hasattr(part, "dtype") for part in value):
            return tuple(packed(part) for part in value)
        return _Packed(pack(wrap(value))) if hasattr(value, "dtype") else value

    def unpacked(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(unpacked(part) for part in value)
        return unpack(value.content).data if isinstance(value, _Packed) else value

    class PackingNode(Node):
        """A node whose values went through hooks."""

        __slots__ = ("_out", "_params", "_saved")

        @property
        def saved(self) -> Any:
            return unpacked(self._saved)

        @saved.setter
        def saved(self, values: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
            self._saved = packed(values) if values is None or any(hasattr(v, "dtype") for v in values) else values

        def keep_apart(self, apart: Callable[[Any], Any]) -> None:
            for value in self._saved or ():
                if isinstance(value, _Packed) and isinstance(value.content, Tensor):  # kept as it is
                    value.content.data = apart(value.content.data)

        @property
        def out(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
            return unpacked(self._out)

        @out.setter
        def out(self, value: Any) -> None:
            self._out = packed(value)

        @property
        def params(self) -> Any:
            values = self._params
            return values if values is None or "aux" not in values else {**values, "aux": unpacked(values["aux"])}

        @params.setter
        def params(self, values: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
            if values is not None and "aux" in values:
                values = {**values, "aux": packed(values["aux"])}
            self._params = values

    return PackingNode


class save_on_disk(saved_tensors_hooks):  # noqa: N801
    """Keep what backward needs in files of a temporary folder instead of in memory.

    Args:
        smaller_than: arrays of fewer bytes than this stay in memory.
    """

    def __init__(self, folder: str | Path | None = None, smaller_than: int = 1 << 16) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="cordee-saved-", dir=folder))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)  # when the last node is gone
        self._count = 0
        self._smaller_than = smaller_than
        super().__init__(self._write, self._read)

    def _write(self, tensor: Tensor) -> Any:
        if tensor.nbytes < self._smaller_than:
            return tensor
        self._count += 1
        path = self._folder / f"{self._count}.npy"
        values = np.ascontiguousarray(to_numpy(tensor.data))
        np.save(path, values.reshape(-1).view(np.uint8))  # as bytes: every dtype, also bfloat16
        return path, tensor.shape, tensor.dtype, array_module(tensor.data)

    def _read(self, kept: Any) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        path, shape, dtype, xp = kept
        return wrap(xp.asarray(np.load(path, allow_pickle=False).view(dtype).reshape(shape)))
