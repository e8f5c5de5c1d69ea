"""Faults that are injected into this very process, to see that training survives them.

Each is the real thing wherever that can be had: the kernel kills, stops and refuses memory, packets do not arrive, C
code holds the interpreter's lock. So they work wherever a worker runs, and little in the worker knows of them but this
file. They come from the coordinator, for jobs that were submitted with faults allowed; others refuse them.

Everything here runs on the session's thread unless it says otherwise, and returns at once unless that is the fault.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NoReturn

from cordee.rpc.v1 import worker_pb2 as pb
from cordee.worker import cuts
from cordee.worker.activity import Activity
from cordee.worker.interruptions import Interruptions
from cordee.worker.listener import Listener, parse_address

__all__ = ["KINDS", "Faults"]

_CONTINUE: Final = """
import signal, sys, time
fd, seconds = int(sys.argv[1]), float(sys.argv[2])
time.sleep(seconds)
try:
    signal.pidfd_send_signal(fd, signal.SIGCONT)
except ProcessLookupError:
    pass
"""
_RESCAN_SECONDS: Final = 0.1
_FLIPPED_BYTES: Final = 16


class Faults:
    """Carries faults out. Made in the main thread. `agent`: the process that watches this one; None: there is none."""

    def __init__(
        self,
        *,
        activity: Activity,
        listener: Listener,
        coordinator: str,
        checkpoints: Path,
        agent: int | None,
        note: Callable[[str], None],
    ) -> None:
        self.connections: Callable[[], Mapping[str, socket.socket]] = dict
        """This worker's connections to its peers, by worker id."""
        self._listener = listener
        self._coordinator = coordinator
        self._checkpoints = checkpoints
        self._agent = agent
        self._note = note
        self._training = Interruptions(activity)

    def inject(self, fault: pb.Fault) -> None:
        """Carries it out, or tells why it cannot be."""
        carry_out = KINDS.get(fault.kind)
        if carry_out is None:
            self._note(f"{fault.kind} is no fault that this worker knows")
            return
        try:
            carry_out(self, fault)
        except (OSError, ValueError) as error:
            self._note(f"{fault.kind} could not be carried out: {error}")

    # --- the process ---

    def _kill(self, _fault: pb.Fault) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _stop(self, fault: pb.Fault) -> None:
        # The helper knows this process by a descriptor: should it be replaced meanwhile, nobody else is meant.
        me = os.pidfd_open(os.getpid())
        try:
            subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _CONTINUE, str(me), str(fault.seconds)],
                pass_fds=(me,),
                start_new_session=True,  # a signal to this worker's group is not meant for it
                stdin=subprocess.DEVNULL,
            )
        finally:
            os.close(me)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._note(f"stop: goes on after {fault.seconds:g} s")

    def _term(self, _fault: pb.Fault) -> None:
        os.kill(self._the_agent(), signal.SIGTERM)

    def _kill_agent(self, _fault: pb.Fault) -> None:
        os.kill(self._the_agent(), signal.SIGKILL)

    def _the_agent(self) -> int:
        if self._agent is None:
            raise ValueError("this worker has no agent")
        return self._agent

    def _exit(self, _fault: pb.Fault) -> None:
        os._exit(3)

    def _exit0(self, _fault: pb.Fault) -> None:
        os._exit(0)

    def _segfault(self, _fault: pb.Fault) -> None:
        ctypes.string_at(0)

    def _abort(self, _fault: pb.Fault) -> None:
        os.abort()

    # --- the interpreter, and the training thread ---

    def _gil(self, fault: pb.Fault) -> None:
        self._note(f"gil: held for {fault.seconds:g} s")
        ctypes.PyDLL(None).poll(None, 0, round(fault.seconds * 1000))

    def _memory(self, fault: pb.Fault) -> None:
        def exhaust() -> None:
            _, most = limits = resource.getrlimit(resource.RLIMIT_AS)
            self._later(fault.seconds, lambda: resource.setrlimit(resource.RLIMIT_AS, limits))
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(), most))
            bytearray(1 << 30)  # small things still fit into what the process has; this does not

        self._training.run(exhaust)

    def _exception(self, _fault: pb.Fault) -> None:
        def fail() -> NoReturn:
            raise OSError(errno.EIO, "Input/output error (injected by cordee chaos)")

        self._training.run(fail)

    def _bug(self, _fault: pb.Fault) -> None:
        def fail() -> NoReturn:
            raise RuntimeError("injected by cordee chaos")

        self._training.run(fail)

    def _hang(self, _fault: pb.Fault) -> None:
        self._training.run(lambda: hang_for_ever(self._note))

    def _slow(self, fault: pb.Fault) -> None:
        self._training.slow_down(fault.amount, fault.seconds)
        self._note(f"slow: {fault.amount:g} times for {fault.seconds:g} s")

    # --- the network ---

    def _drop(self, fault: pb.Fault) -> None:
        peer, connection = self._connection(fault.peer)
        connection.shutdown(socket.SHUT_RDWR)
        self._note(f"drop: the connection to {peer} is shut")

    def _half_open(self, fault: pb.Fault) -> None:
        peer, connection = self._connection(fault.peer)
        self._block(connection, fault.seconds)
        self._note(f"half-open: nothing comes from {peer} for {fault.seconds:g} s")

    def _partition(self, fault: pb.Fault) -> None:
        self._listener.cut[fault.peer] = time.monotonic() + fault.seconds
        connection = self.connections().get(fault.peer)
        if connection is not None and connection.fileno() >= 0:
            self._block(connection, fault.seconds)
        self._note(f"partition: nothing comes from {fault.peer} for {fault.seconds:g} s")

    def _cut_off(self, fault: pb.Fault) -> None:
        """For so long this thread neither reads nor writes, and no packet of the coordinator's comes in."""
        self._note(f"cut-off: heard nothing of the coordinator, and said nothing, for {fault.seconds:g} s")
        where = parse_address(self._coordinator)
        until = time.monotonic() + fault.seconds
        blocked: dict[int, socket.socket] = {}
        try:
            while (left := until - time.monotonic()) > 0.0:
                for connection in cuts.connections_to(*where):  # new ones, too
                    identity = os.fstat(connection.fileno()).st_ino
                    if identity in blocked:
                        connection.close()
                    else:
                        blocked[identity] = connection
                        cuts.block(connection)
                time.sleep(min(left, _RESCAN_SECONDS))
        finally:
            for connection in blocked.values():
                cuts.unblock(connection)
                connection.close()

    def _connection(self, peer: str) -> tuple[str, socket.socket]:
        """The connection to the peer, or to any one."""
        standing = {name: one for name, one in sorted(self.connections().items()) if one.fileno() >= 0}
        if not standing or (peer and peer not in standing):
            raise ValueError(f"there is no connection to {peer or 'any peer'} at the moment")
        peer = peer or random.choice(list(standing))
        return peer, standing[peer]

    def _block(self, connection: socket.socket, seconds: float) -> None:
        cuts.block(connection)

        def unblock() -> None:
            if connection.fileno() >= 0:  # else it was given up meanwhile
                cuts.unblock(connection)

        self._later(seconds, unblock)

    # --- the disk ---

    def _disk_full(self, fault: pb.Fault) -> None:
        _, most = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        self._later(fault.seconds, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))  # Python ignores the signal and raises an OSError
        self._note(f"disk-full: no file can be written for {fault.seconds:g} s")

    def _damage(self, _fault: pb.Fault) -> None:
        committed = sorted(self._checkpoints.glob("step-*/manifest.json"))
        if not committed:
            raise ValueError(f"there is no checkpoint in {self._checkpoints}")
        files = [path for path in committed[-1].parent.iterdir() if path.name != "manifest.json"]
        path = max(files, key=lambda path: path.stat().st_size)
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            bits = file.read(_FLIPPED_BYTES)
            file.seek(-len(bits), os.SEEK_CUR)
            file.write(bytes(byte ^ 0xFF for byte in bits))
        self._note(f"damage: {len(bits)} bytes in the middle of {path.parent.name}/{path.name} are flipped")

    def _later(self, seconds: float, undo: Callable[[], None]) -> None:
        def run() -> None:
            time.sleep(seconds)
            undo()

        threading.Thread(target=run, name="cordee-fault", daemon=True).start()


def hang_for_ever(note: Callable[[str], None]) -> NoReturn:
    """In the training thread."""
    note("hang: the training thread does nothing any more")
    while True:
        time.sleep(3600.0)


KINDS: Final[Mapping[str, Callable[[Faults, pb.Fault], None]]] = {
    "kill": Faults._kill,
    "stop": Faults._stop,
    "term": Faults._term,
    "exit": Faults._exit,
    "exit0": Faults._exit0,
    "segfault": Faults._segfault,
    "abort": Faults._abort,
    "memory": Faults._memory,
    "exception": Faults._exception,
    "bug": Faults._bug,
    "gil": Faults._gil,
    "hang": Faults._hang,
    "slow": Faults._slow,
    "drop": Faults._drop,
    "half-open": Faults._half_open,
    "partition": Faults._partition,
    "cut-off": Faults._cut_off,
    "disk-full": Faults._disk_full,
    "damage": Faults._damage,
    "kill-agent": Faults._kill_agent,
}
