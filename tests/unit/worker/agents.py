"""Agents under test: started, read, and ended."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from cordee.rpc.v1 import worker_pb2 as pb

WAIT_SECONDS = 20.0


class Agent:
    """An agent under test, and what it wrote."""

    def __init__(self, environment: dict[str, str], command: list[str]) -> None:
        self.log = Path(environment["CORDEE_WORKDIR"]) / "logs" / f"{environment['CORDEE_WORKER']}.jsonl"
        self.process = subprocess.Popen(command, env={**os.environ, **environment}, start_new_session=True)

    def lines(self, stream: str) -> list[str]:
        if not self.log.exists():
            return []
        entries = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [entry["line"] for entry in entries if entry["stream"] == stream]

    def wait_line(self, stream: str, line: str, count: int = 1) -> None:
        eventually(lambda: self.lines(stream).count(line) >= count, f"{count} × {line!r} in {self.lines(stream)}")

    def wait(self) -> int:
        return self.process.wait(WAIT_SECONDS)


def eventually(holds: Callable[[], bool], what: str = "") -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


SAY = (
    "def say(word):\n"
    "    import os, socket\n"
    "    lifeline = socket.socket(fileno=os.dup(int(os.environ['CORDEE_LIFELINE'])))\n"
    "    lifeline.send(word.encode())\n"
)


def world_of_one(stream: Any, hello: pb.Hello, generation: int) -> None:
    member = pb.Member(rank=0, worker=hello.worker, incarnation=hello.incarnation, address=hello.address)
    stream.send(world=pb.World(generation=generation, members=[member], cause="start"))


JOIN = (
    "import time\n"
    "from cordee.trainer.elastic import runtime\n"
    "from cordee.trainer.elastic.protocols import ProgressReport\n"
    "member = runtime.current()\n"
    "world = member.rendezvous(step=None, reason='join')\n"
    "member.report(ProgressReport(world.generation, 9, 1, 1, 0.5, 1, 0.1))\n"
    "print('member', flush=True)\n"
    "time.sleep(60)\n"
)
"""It joins and commits a step."""
