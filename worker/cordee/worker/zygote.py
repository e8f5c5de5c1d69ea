"""The warm process that an agent keeps: the imports are done, and a worker is a fork of it.

    python -P -m cordee.worker.zygote FD        (started by cordee.worker.agent; FD: a socket to it)

A worker imports for most of a second, on a quiet machine, before it can even attach. The zygote does it once, when the
job starts; after that a dead worker's successor runs a few milliseconds later. For that to be as if it had been
started afresh, the zygote does nothing but import: it runs on one thread, opens no file and no connection, touches no
GPU, and no line of the user's code is ever run in it.

A worker must be its agent's own child: only then is its end seen at once, and does it die with the agent. So it is
forked twice, the process in between ends at once, and the kernel gives the orphan to the nearest ancestor that has
asked for such, which is the agent (PR_SET_CHILD_SUBREAPER).
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

__all__ = ["Request", "main", "serve", "warm_up"]

MODULES = (
    "cordee.worker.main",
    "cordee.worker.departure",
    "cordee.worker.listener",
    "cordee.worker.membership",
    "cordee.worker.prober",
    "cordee.worker.script",
    "cordee.worker.session",
    "cordee.worker.source",
    "cordee.trainer.checkpoint",
    "cordee.trainer.data",
    "cordee.trainer.elastic",
    "cordee.trainer.fit",
    "cordee.trainer.nn",
    "cordee.trainer.optim",
)
"""What a worker imports by itself, and what nearly every script does. They bring NumPy and gRPC."""
LATE_MODULES = ("grpc._channel",)
"""What libraries import when they are first used, wherever they keep it now."""

ADOPTION_SECONDS = 5.0
_MAX_REQUEST_BYTES = 1 << 17
_NUM_DESCRIPTORS = 4
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Meant for the agent, which decides what they mean for others."""
_PR_SET_NAME = 15


@dataclass(frozen=True)
class Request:
    """A worker to be made."""

    agent: int
    environment: dict[str, str]
    descriptors: list[int]
    """Its stdout, stderr, lifeline and stacks."""


def main() -> int:
    """The zygote's life; in each of its workers, the worker's."""
    from cordee.worker.lifeline import die_with_parent

    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    die_with_parent()
    try:
        warm_up()
    except BaseException as error:
        # A worker that is started without this process fails likewise, and where its user sees it.
        control.send(f"error {type(error).__name__}: {error}".encode()[:1000])
        os._exit(1)
    serve(control)
    from cordee.worker.main import main as work

    return work()


def warm_up() -> None:
    """Imports what a worker needs, as a worker would: with the same threads, and the same GPU to choose from."""
    from cordee.worker.main import prepare_environment

    gc.disable()  # nothing of what an import makes is garbage
    prepare_environment(os.environ)
    for module in MODULES:
        importlib.import_module(module)
    for module in LATE_MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    from cordee.trainer.kernels import registry

    registry.preload()  # LLVM and the like, which a worker asks for when it joins
    gc.collect()
    gc.freeze()  # or a child's first collection would copy every page


def serve(control: socket.socket) -> None:
    """Makes workers until the agent is gone. Returns in each worker, which is ready to be one then."""
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in _IGNORED}
    _name("cordee-zygote")
    control.send(b"ready")
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, _MAX_REQUEST_BYTES, _NUM_DESCRIPTORS)
        if not message:
            os._exit(0)
        told = json.loads(message)
        request = Request(told["agent"], told["environment"], descriptors)
        try:
            child = _fork()
        except OSError as error:
            control.send(f"refused {error}".encode())
        else:
            if not child:
                _fork_again(control)
                _become_worker(control, request, handlers)
                return
            os.waitpid(child, 0)
        for descriptor in descriptors:
            os.close(descriptor)


def _fork() -> int:
    with warnings.catch_warnings():  # of threads that do not survive: BLAS stops and starts its own around a fork
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _fork_again(control: socket.socket) -> None:
    """Returns in the grandchild."""
    try:
        grandchild = _fork()
    except OSError as error:
        _refuse(control, error)
    if grandchild:
        os._exit(0)


def _become_worker(control: socket.socket, request: Request, handlers: Mapping[signal.Signals, Any]) -> None:
    try:
        stdout, stderr, lifeline, stacks = request.descriptors
        for descriptor, standard in ((stdout, 1), (stderr, 2)):
            os.dup2(descriptor, standard)
            os.close(descriptor)
        os.environ.update(request.environment)
        os.environ["CORDEE_LIFELINE"], os.environ["CORDEE_STACKS"] = str(lifeline), str(stacks)
        sys.argv = [sys.argv[0]]
        os.setpgid(0, 0)  # a terminal's Ctrl-C is for the agent; and the worker's own children are found by it
        for number, handler in handlers.items():
            signal.signal(number, handler)
        _name("cordee-worker")
        if "numpy.random" in sys.modules:  # Python's own generator does it by itself
            sys.modules["numpy.random"].seed()
        gc.enable()
        _wait_for_adoption(request.agent)
        control.send(f"pid {os.getpid()}".encode())
        control.close()
    except OSError as error:
        _refuse(control, error)


def _wait_for_adoption(agent: int) -> None:
    """Returns once the agent is this process's parent; from then on this process dies with it."""
    from cordee.worker.lifeline import die_with_parent

    until = time.monotonic() + ADOPTION_SECONDS
    while os.getppid() != agent:
        if time.monotonic() > until:
            raise TimeoutError("the agent did not adopt the new process")
        time.sleep(0.0002)
    die_with_parent()
    if os.getppid() != agent:
        os._exit(1)


def _refuse(control: socket.socket, error: OSError) -> NoReturn:
    try:
        control.send(f"refused {error}".encode())
    finally:
        os._exit(1)


def _name(text: str) -> None:
    """What `ps` and `top` call this process; the command line is the zygote's for all."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_NAME, text.encode(), 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
