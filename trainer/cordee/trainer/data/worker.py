"""A data worker that is a process: what runs in it. It gets a recipe once, then tasks, and answers each with arrays.

It is a fresh Python (never a fork: a fork of a process with threads may hang, and copies memory page by page as
reference counts change). The training script is not run in it, unless the dataset is of a class that the script itself
defines. It ends as soon as the process that started it has gone, whatever either is doing, and ignores Ctrl-C, which
is that one's business.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import random as python_random
import select
import signal
import socket
import struct
import threading
import traceback
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cordee.trainer.data.shared import Segment, pack, receive, send, unpack

if TYPE_CHECKING:
    from cordee.trainer.data.fetch import Recipe, Task

__all__ = [
    "ENVIRONMENT",
    "ERROR",
    "INIT",
    "READY",
    "RECIPE",
    "RESULT",
    "TASK",
    "WorkerInfo",
    "decode_task",
    "encode_task",
    "get_worker_info",
    "main",
    "started_as",
]

INIT, RECIPE, TASK, READY, RESULT, ERROR = range(6)
ENVIRONMENT: Final = "CORDEE_DATA_WORKER"
"""Set in data workers that are processes, so that a script read by one is told that it must not start others."""

_TASK = struct.Struct("<qqq??")


class WorkerInfo:
    """Which data worker this is. See `get_worker_info`."""

    def __init__(self, id: int, num_workers: int, seed: int, dataset: Any) -> None:
        self.id = id
        self.num_workers = num_workers
        self.seed = seed
        self.dataset = dataset

    def __repr__(self) -> str:
        return f"WorkerInfo(id={self.id}, num_workers={self.num_workers}, seed={self.seed})"


class _OfThread(threading.local):
    info: WorkerInfo | None = None


_OF_THREAD = _OfThread()


def get_worker_info() -> WorkerInfo | None:
    """In a data worker: its `id`, `num_workers`, `seed` and `dataset`; None elsewhere.

    For `worker_init_fn`, which opens what every worker is to have of its own. What a sample holds must not depend
    on it.
    """
    return _OF_THREAD.info


def started_as(info: WorkerInfo) -> None:
    """From now on this thread is this data worker."""
    _OF_THREAD.info = info


def encode_task(task: Task) -> bytes:
    """A task as bytes: the numbers of the samples are not pickled either."""
    head = _TASK.pack(task.epoch, task.start, task.size, task.by_position, task.indices is not None)
    return head if task.indices is None else head + task.indices.tobytes()


def decode_task(body: bytes) -> Task:
    """What `encode_task` made bytes of."""
    from cordee.trainer.data.fetch import Task

    epoch, start, size, by_position, has_indices = _TASK.unpack_from(body)
    return Task(
        epoch, start, size, by_position, np.frombuffer(body, np.int64, offset=_TASK.size) if has_indices else None
    )


def main(descriptor: int) -> None:
    """Works until the other end of the socket `descriptor` is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=descriptor)
    threading.Thread(target=_end_with, args=(connection.fileno(),), daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        recipe = _start(connection)
        if recipe is not None:
            _work(connection, recipe)


def _end_with(descriptor: int) -> None:
    """Ends this process when the one that started it has gone, also in the middle of a sample."""
    poll = select.poll()
    poll.register(descriptor, 0)  # a hang-up is reported in any case
    poll.poll()
    os._exit(0)


def _start(connection: socket.socket) -> Recipe | None:
    init, packed = receive(connection), receive(connection)
    try:
        start = pickle.loads(init.body)  # noqa: S301 (the process that started this one wrote it)
        import multiprocessing.spawn

        multiprocessing.spawn.prepare(start["preparation"])  # sys.path, argv; the script only if it is needed
        if packed.descriptor is None:
            recipe = unpack(packed.body, [], copy=False)
        else:
            segment = Segment(packed.descriptor, packed.size, private=True)
            sizes, head = pickle.loads(packed.body)  # noqa: S301
            recipe = unpack(head, segment.views(sizes), copy=False)
        started_as(WorkerInfo(start["id"], start["num_workers"], recipe.seed, recipe.dataset))
        python_random.seed(f"{recipe.seed} {start['id']}")  # what is not keyed should at least differ between workers
        np.random.seed([recipe.seed & 0xFFFFFFFF, start["id"]])
        if start["worker_init_fn"] is not None:
            pickle.loads(start["worker_init_fn"])(start["id"])  # noqa: S301
    except BaseException as error:
        _send_error(connection, error)
        return None
    send(connection, READY, b"")
    return recipe  # type: ignore[no-any-return]


def _work(connection: socket.socket, recipe: Recipe) -> None:
    segment: Segment | None = None
    while True:
        task = decode_task(receive(connection).body)
        try:
            packed = pack(recipe(task))
        except BaseException as error:
            _send_error(connection, error)
            continue
        grown = segment is None or segment.size < packed.space
        if grown:
            if segment is not None:
                segment.close()
            segment = Segment.create(packed.space + packed.space // 4)
        assert segment is not None
        segment.write(packed.buffers)
        send(connection, RESULT, pickle.dumps((packed.sizes, packed.head)), segment if grown else None)


def _send_error(connection: socket.socket, error: BaseException) -> None:
    text = "".join(traceback.format_exception(error))
    try:
        pickled = pickle.dumps(error)
        pickle.loads(pickled)  # noqa: S301 (an exception may well be one that cannot be read back)
    except Exception:
        pickled = b""
    send(connection, ERROR, pickle.dumps((pickled, type(error).__name__, str(error), text)))
