"""Connections that must not outlive their process in its children.

A script may fork (`multiprocessing` does, on Linux, up to Python 3.13). A child inherits the sockets; if the worker is
then killed while the child lives on, its peers see no connection break, and wait. So children close them, first thing.
"""

from __future__ import annotations

import os
import socket
import weakref

__all__ = ["close_in_children"]

_ours: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def close_in_children(connection: socket.socket) -> None:
    """A process forked from this one will not hold `connection` open."""
    _ours.add(connection)


def _close_all() -> None:
    for connection in list(_ours):
        connection.close()


os.register_at_fork(after_in_child=_close_all)
