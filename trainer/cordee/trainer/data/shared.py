"""How arrays get from one process to another: through memory that both have mapped, never through a pickle.

The memory is anonymous (`memfd_create`): it has no name, so nothing is left behind however the processes end, and the
small `/dev/shm` of a container does not limit it. A socket carries the descriptor once, and then small messages:
Python objects are pickled with their arrays taken out (protocol 5), which lie in the shared memory.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import socket
import struct
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

__all__ = ["Message", "Packed", "Segment", "pack", "receive", "send", "unpack"]

_HEADER = struct.Struct("<BBQQ")  # kind, whether a descriptor comes along, length of the body, size of the segment
_ALIGNMENT = 64


class Segment:
    """A piece of anonymous memory that another process can map, too."""

    def __init__(self, descriptor: int, size: int, *, private: bool = False) -> None:
        """`private`: what is written here is seen here alone."""
        self.descriptor = descriptor
        self.size = size
        self.map = mmap.mmap(descriptor, size, mmap.MAP_PRIVATE if private else mmap.MAP_SHARED)
        self._close = weakref.finalize(self, os.close, descriptor)

    @classmethod
    def create(cls, size: int) -> Segment:
        """Zeros, at least one page of them."""
        size = max(size, mmap.PAGESIZE)
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("cordee-data")
        else:
            with tempfile.TemporaryFile() as file:  # without a name, too
                descriptor = os.dup(file.fileno())
        os.truncate(descriptor, size)
        return cls(descriptor, size)

    def write(self, buffers: Sequence[memoryview]) -> None:
        """Lays the buffers one after the other."""
        offset = 0
        for buffer in buffers:
            self.map[offset : offset + buffer.nbytes] = buffer
            offset += _padded(buffer.nbytes)

    def views(self, sizes: Sequence[int]) -> list[NDArray[np.uint8]]:
        """What `write` has laid down, without a copy."""
        views, offset = [], 0
        for size in sizes:
            views.append(np.frombuffer(self.map, np.uint8, size, offset))
            offset += _padded(size)
        return views

    def close(self) -> None:
        """Unmaps it (as soon as no view is left) and closes the descriptor; the memory goes with the last process."""
        self._close()
        try:
            self.map.close()
        except BufferError:
            pass  # a view is alive: the map goes with it


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


@dataclass(frozen=True)
class Packed:
    """An object as bytes, and the buffers of its arrays.

    `main_names` are the classes and functions in it that the script itself defines: to be read, they need the script.
    """

    head: bytes
    buffers: list[memoryview]
    main_names: list[str]

    @property
    def sizes(self) -> list[int]:
        return [buffer.nbytes for buffer in self.buffers]

    @property
    def space(self) -> int:
        """What its buffers take in a segment."""
        return sum(map(_padded, self.sizes))


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, buffers: list[pickle.PickleBuffer]) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffers.append)
        self.main_names: list[str] = []

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray):
            if isinstance(obj, np.memmap) and isinstance(cast(object, obj.base), mmap.mmap) and obj.filename:
                order = "F" if obj.flags.f_contiguous and not obj.flags.c_contiguous else "C"
                return _map_again, (os.fspath(obj.filename), obj.dtype, obj.offset, obj.shape, order)
            if type(obj) is not np.ndarray or not (obj.flags.c_contiguous or obj.flags.f_contiguous):
                return np.ascontiguousarray(np.asarray(obj)).reshape(obj.shape).__reduce_ex__(5)
        elif isinstance(obj, (type, FunctionType)) and obj.__module__ in ("__main__", "__mp_main__"):
            self.main_names.append(obj.__qualname__)
        return NotImplemented


def _map_again(filename: str, dtype: Any, offset: int, shape: tuple[int, ...], order: Any) -> Any:
    return np.memmap(filename, dtype, "r", offset, shape, order)


def pack(value: Any) -> Packed:
    """Pickles `value` but for its arrays. A file that is mapped goes as its name, to be mapped again."""
    file, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    pickler = _Pickler(file, buffers)
    pickler.dump(value)
    return Packed(file.getvalue(), [buffer.raw() for buffer in buffers], pickler.main_names)


def unpack(head: bytes, views: Sequence[NDArray[np.uint8]], *, copy: bool) -> Any:
    """The object again. Its arrays lie in `views`, or in memory of their own if `copy`."""
    return pickle.loads(head, buffers=[view.copy() if copy else view for view in views])  # noqa: S301


@dataclass(frozen=True)
class Message:
    """What came over a socket: its kind, its body, and a new segment, if one came along."""

    kind: int
    body: bytes
    descriptor: int | None
    size: int


def send(connection: socket.socket, kind: int, body: bytes, segment: Segment | None = None) -> None:
    """Sends a message, and the descriptor of `segment`."""
    header = _HEADER.pack(kind, segment is not None, len(body), segment.size if segment else 0)
    if segment is None:
        connection.sendall(header + body if len(body) < 4096 else header)
        if len(body) >= 4096:
            connection.sendall(body)
        return
    sent = socket.send_fds(connection, [header], [segment.descriptor])
    connection.sendall(header[sent:] + body)


def receive(connection: socket.socket) -> Message:
    """The next message. Raises `EOFError` when the other side has gone."""
    try:
        start, descriptors, _, _ = socket.recv_fds(connection, _HEADER.size, 1, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
        if not start:
            raise EOFError
        header = start + _exactly(connection, _HEADER.size - len(start))
        kind, has_descriptor, length, size = _HEADER.unpack(header)
        return Message(kind, _exactly(connection, length), descriptors[0] if has_descriptor else None, size)
    except OSError as error:
        raise EOFError from error


def _exactly(connection: socket.socket, count: int) -> bytes:
    buffer = bytearray(count)
    view, done = memoryview(buffer), 0
    while done < count:
        received = connection.recv_into(view[done:])
        if not received:
            raise EOFError
        done += received
    return bytes(buffer)
