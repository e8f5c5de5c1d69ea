"""Data workers as the process that trains sees them: threads here, or processes that threads here talk to.

Either way one thread drives one worker: it gives it a task and waits for the arrays. So what is prefetched, kept and
handed out (`prefetch`) is the same for both, and a death is noticed at once, by the thread that waits.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from cordee.trainer.data import worker
from cordee.trainer.data.fetch import Fetched, Recipe, Task
from cordee.trainer.data.shared import Segment, pack, receive, send, unpack

__all__ = ["InThread", "ProcessPlan", "Runner", "WorkerDiedError", "kind_of_workers"]


_PREPARATION = ("sys_path", "sys_argv", "orig_dir", "dir", "init_main_from_name", "init_main_from_path")


class WorkerDiedError(RuntimeError):
    """A data worker's process has ended, and not because it was told to."""


class _RemoteTracebackError(Exception):
    """Shows, as the cause of an exception, where in the worker it was raised."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n\n{self.text}"


class Runner(Protocol):
    """A data worker."""

    def run(self, task: Task) -> Fetched: ...

    def close(self) -> None: ...


class InThread:
    """A data worker that is the thread which made it."""

    def __init__(
        self, recipe: Recipe, number: int, num_workers: int, worker_init_fn: Callable[[int], object] | None
    ) -> None:
        self._recipe = recipe
        worker.started_as(worker.WorkerInfo(number, num_workers, recipe.seed, recipe.dataset))
        if worker_init_fn is not None:
            worker_init_fn(number)

    def run(self, task: Task) -> Fetched:
        return self._recipe(task)

    def close(self) -> None:
        return


@dataclass
class ProcessPlan:
    """What all the processes of a pool are started with; arrays of the dataset are in memory once, for all of them."""

    preparation: dict[str, Any]
    worker_init_fn: bytes | None
    body: bytes
    segment: Segment | None
    num_workers: int

    @classmethod
    def of(cls, recipe: Recipe, num_workers: int, worker_init_fn: Callable[[int], object] | None) -> ProcessPlan:
        """Raises `TypeError` when the dataset cannot be sent to a process."""
        if os.environ.get(worker.ENVIRONMENT):
            raise RuntimeError(
                "a data worker has read this script, because its dataset is of a class that the script defines, and "
                "came to where it starts data workers itself: put what is to run once below "
                '`if __name__ == "__main__":`, or the class into a module of its own, or use workers="threads"'
            )
        try:
            packed = pack(recipe)
            init = None if worker_init_fn is None else pack(worker_init_fn)
        except Exception as error:
            raise TypeError(
                f"the dataset, collate_fn or worker_init_fn cannot be sent to data workers that are processes: {error}"
                '. Functions have to be defined at the top of a module (no lambdas); or use workers="threads"'
            ) from error
        from multiprocessing.spawn import get_preparation_data

        preparation = {key: value for key, value in get_preparation_data("data worker").items() if key in _PREPARATION}
        names = packed.main_names + (init.main_names if init else [])
        main = {key: value for key, value in preparation.items() if key.startswith("init_main")}
        if names and not main:
            raise TypeError(
                f"{names[0]} is defined at a prompt, where data workers that are processes cannot find it: put it into "
                'a module, or use workers="threads"'
            )
        if not names:
            preparation = {key: value for key, value in preparation.items() if key not in main}
        segment = None
        body = packed.head
        if packed.buffers:
            segment = Segment.create(packed.space)
            segment.write(packed.buffers)
            body = pickle.dumps((packed.sizes, packed.head))
        return cls(preparation, init.head if init else None, body, segment, num_workers)

    def start(self, number: int) -> InProcess:
        """A new worker."""
        return InProcess(self, number)


class InProcess:
    """A data worker that is a process, driven by the thread which made it."""

    def __init__(self, plan: ProcessPlan, number: int) -> None:
        self._number = number
        self._segment: Segment | None = None
        self._ready = False
        self._lock = threading.Lock()
        ours, theirs = socket.socketpair()
        self._connection = ours
        environment = {**os.environ, "CORDEE_DEVICE": "cpu", worker.ENVIRONMENT: str(number)}
        environment["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        command = f"from cordee.trainer.data.worker import main; main({theirs.fileno()})"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", command],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the process that trains; this one ends with it
            )
        start = {
            "preparation": plan.preparation,
            "id": number,
            "num_workers": plan.num_workers,
            "worker_init_fn": plan.worker_init_fn,
        }
        try:
            send(ours, worker.INIT, pickle.dumps(start))
            send(ours, worker.RECIPE, plan.body, plan.segment)
        except OSError:
            pass  # it has died: the first task will tell

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, task: Task) -> Fetched:
        """Raises what the worker raised, with its traceback as the cause; `WorkerDiedError` when it is gone."""
        try:
            if not self._ready:
                self._check(receive(self._connection))
                self._ready = True
            send(self._connection, worker.TASK, worker.encode_task(task))
            message = self._check(receive(self._connection))
        except (EOFError, OSError) as error:
            raise WorkerDiedError(self._death(task)) from error
        if message.descriptor is not None:
            if self._segment is not None:
                self._segment.close()
            self._segment = Segment(message.descriptor, message.size)
        assert self._segment is not None
        sizes, head = pickle.loads(message.body)  # noqa: S301 (our own process wrote it)
        return unpack(head, self._segment.views(sizes), copy=True)  # type: ignore[no-any-return]

    def _check(self, message: Any) -> Any:
        if message.kind != worker.ERROR:
            return message
        pickled, name, text, trace = pickle.loads(message.body)  # noqa: S301
        cause = _RemoteTracebackError(f"in data worker {self._number} (process {self.pid}):\n{trace}")
        error = None
        if pickled:
            try:
                error = pickle.loads(pickled)  # noqa: S301
            except Exception:
                error = None
        if not isinstance(error, BaseException):
            error = RuntimeError(f"{name}: {text}")
        error.__cause__ = cause
        raise error

    def _death(self, task: Task) -> str:
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if code < 0:
            how = f"was ended by signal {-code} ({signal.Signals(-code).name})"
            why = ": was memory short? `dmesg` tells" if code == -signal.SIGKILL else ""
        else:
            how, why = f"has ended with exit code {code}", ""
        return (
            f"data worker {self._number} (process {self.pid}) {how} while it loaded {task}{why}. "
            "Nothing that was handed out is affected; a new iteration starts new workers"
        )

    def close(self) -> None:
        """Ends the process. Safe to be called twice, and by any thread: the one that waits for it wakes up."""
        with self._lock:
            try:
                self._connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            try:
                self._process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def dispose(self) -> None:
        """After the last `run`, by the thread that drives it: gives back the socket and the memory."""
        self.close()
        self._connection.close()
        if self._segment is not None:
            self._segment.close()
            self._segment = None


def kind_of_workers(workers: str, context: str | None) -> Literal["threads", "processes"]:
    """What data workers are to be, of a loader's arguments. Raises `ValueError` for what there is not."""
    if context not in (None, "spawn", "forkserver"):
        raise ValueError(
            f"multiprocessing_context {context!r} is not offered: data workers are threads, or processes that are "
            'started afresh ("spawn"); a fork copies threads in the middle of what they do'
        )
    if context is not None:
        return "processes"
    if workers not in ("threads", "processes"):
        raise ValueError(f'workers is "threads" or "processes", not {workers!r}')
    return "processes" if workers == "processes" else "threads"
