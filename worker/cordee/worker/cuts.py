"""Connections through which nothing comes: the kernel drops what the other side sends, as a broken network would.

A socket filter that lets no packet in is all it takes, on one's own sockets and without privileges. The connection
stays open on both sides, what is sent is sent again and again, and when the filter is gone TCP goes on where it was. So
what is tried by `cordee.worker.faults` is the kernel's own behaviour, not an imitation of it.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from pathlib import Path
from typing import Final

__all__ = ["block", "connections_to", "unblock"]

_ATTACH: Final = 26  # SO_ATTACH_FILTER; the socket module does not name it
_DETACH: Final = 27
_REFUSE: Final = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0), 8)
"""One instruction of classic BPF: return, 0 bytes of the packet."""


def block(connection: socket.socket) -> None:
    """From now on nothing comes in here: no byte, no acknowledgement, no end. Raises `OSError`."""
    connection.setsockopt(socket.SOL_SOCKET, _ATTACH, struct.pack("HP", 1, ctypes.addressof(_REFUSE)))


def unblock(connection: socket.socket) -> None:
    """Lets packets in again. Raises `OSError`."""
    connection.setsockopt(socket.SOL_SOCKET, _DETACH, 0)


def connections_to(host: str, port: int) -> list[socket.socket]:
    """This process's TCP connections to there, whoever made them: duplicates, to be closed by the caller."""
    wanted = {info[4][0] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if not str(entry.readlink()).startswith("socket:"):
                continue
            connection = socket.socket(fileno=os.dup(int(entry.name)))
        except OSError:  # closed meanwhile
            continue
        try:
            there = connection.getpeername()
            match = there[1] == port and there[0].removeprefix("::ffff:") in wanted
        except (OSError, IndexError, TypeError, AttributeError):  # no connection, or not of the internet
            match = False
        if match:
            found.append(connection)
        else:
            connection.close()
    return found
