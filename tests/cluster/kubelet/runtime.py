"""Containers as processes: starting them by `sandbox.py`, signalling them, looking into them, hearing of their end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["OUTPUT", "Process", "StartError", "User", "enter", "execute", "launch", "user_of"]

Json = dict[str, Any]
SANDBOX = Path(__file__).with_name("sandbox.py")
# By their numbers in capabilities(7).
CAPABILITIES = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6, "SETUID": 7, "SETPCAP": 8,
    "NET_BIND_SERVICE": 10, "NET_ADMIN": 12, "NET_RAW": 13, "IPC_LOCK": 14, "SYS_CHROOT": 18, "SYS_PTRACE": 19,
    "SYS_ADMIN": 21, "SYS_NICE": 23, "SYS_RESOURCE": 24, "SYS_TIME": 25, "MKNOD": 27, "AUDIT_WRITE": 29, "SETFCAP": 31,
}  # fmt: skip
OUTPUT = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}
USUAL = (
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE", "NET_RAW",
    "SYS_CHROOT", "MKNOD", "AUDIT_WRITE", "SETFCAP",
)  # fmt: skip


class StartError(Exception):
    """The command could not be started: no such program, no right to run it."""


@dataclass(frozen=True, slots=True)
class User:
    """As whom a container runs, and with what rights."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    capabilities: tuple[int, ...] = ()
    no_new_privileges: bool = False

    @property
    def spec(self) -> Json:
        return {
            "uid": self.uid,
            "gid": self.gid,
            "groups": list(self.groups),
            "capabilities": list(self.capabilities),
            "no_new_privileges": self.no_new_privileges,
        }


def user_of(pod: Json, container: Json, *, image_user: int, image_group: int) -> User:
    """From the security contexts of a pod and its container, and the image's USER."""
    shared, own = pod["spec"].get("securityContext") or {}, container.get("securityContext") or {}
    both = {**shared, **own}
    uid = both.get("runAsUser", image_user)
    gid = both.get("runAsGroup", image_group if uid == image_user else 0)
    groups = list(shared.get("supplementalGroups") or [])
    if (fs_group := shared.get("fsGroup")) is not None:
        groups.append(fs_group)
    if own.get("privileged"):
        names = set(CAPABILITIES)
    else:
        names, wish = set(USUAL), own.get("capabilities") or {}
        dropped = {name.removeprefix("CAP_") for name in wish.get("drop") or []}
        added = {name.removeprefix("CAP_") for name in wish.get("add") or []}
        names = set() if "ALL" in dropped else names - dropped
        names |= set(CAPABILITIES) if "ALL" in added else added
    return User(
        uid,
        gid,
        tuple(groups),
        tuple(sorted(CAPABILITIES[name] for name in names if name in CAPABILITIES)),
        own.get("allowPrivilegeEscalation") is False,
    )


@dataclass(slots=True)
class Process:
    """A container that runs, or ran. `pid` is its first process, as this machine counts."""

    pid: int
    shim: asyncio.subprocess.Process
    started: float
    log: Path
    spec: Json
    killed_for_memory: bool = False
    exit_code: int | None = None
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def keep_log(self) -> None:
        """Writes its output to its log, until it ends. A pipe is between them, which cannot be cut short by mistake."""
        assert self.shim.stdout is not None
        with self.log.open("ab", buffering=0) as log:
            while data := await self.shim.stdout.read(1 << 16):
                log.write(data)

    async def wait(self) -> int:
        code = await self.shim.wait()
        # Killed itself: with its node, and the container with it.
        self.exit_code = code if code >= 0 else 128 - code
        self._ended.set()
        return self.exit_code

    @property
    def running(self) -> bool:
        return self.shim.returncode is None

    def signal(self, number: int) -> None:
        """To the container's first process; a kill takes all others with it."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def ended(self, seconds: float) -> bool:
        """Waits for the end; says whether it came in time."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._ended.wait()
        except TimeoutError:
            return False
        return True

    def memory(self) -> int:
        """Bytes that its processes hold and that no file backs."""
        return sum(_memory(pid) for pid in _family(self.pid))


def _family(pid: int) -> list[int]:
    found = [pid]
    for member in found:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{member}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
    return found


def _memory(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


async def launch(mode: str, spec: Json, file: Path, **streams: Any) -> Process:
    """Runs `sandbox.py` and waits until the container's command runs in its place, or could not be started."""
    file.write_text(json.dumps(spec))
    reading, writing = os.pipe()
    try:
        shim = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(SANDBOX),
            mode,
            str(file),
            str(writing),
            pass_fds=[writing],
            **{"stdin": asyncio.subprocess.DEVNULL, **streams},
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    said = (await _read(reading)).decode()
    words = dict(line.split(" ", 1) for line in said.splitlines() if " " in line)
    if "error" in words or "pid" not in words:
        await shim.wait()
        raise StartError(words.get("error") or "the container's parent ended before it")
    return Process(int(words["pid"]), shim, time.time(), Path(spec.get("log") or os.devnull), spec)


async def _read(handle: int) -> bytes:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(handle, "rb"))
    try:
        return await reader.read()
    finally:
        transport.close()


async def execute(process: Process, command: list[str], *, seconds: float) -> tuple[int, str]:
    """Runs a command in a running container; its exit code and its output. 124: it took too long."""
    try:
        inner = await enter(process, command, **OUTPUT)
    except StartError as error:
        return 126, str(error)
    assert inner.shim.stdout is not None
    try:
        async with asyncio.timeout(seconds):
            output = await inner.shim.stdout.read()
            return await inner.wait(), output.decode(errors="replace")
    except TimeoutError:
        return 124, f"command timed out after {seconds:g} s"
    finally:
        if inner.running:
            inner.signal(signal.SIGKILL)
            await inner.wait()


async def enter(process: Process, command: list[str], **streams: Any) -> Process:
    """Starts another process in a running container."""
    with tempfile.NamedTemporaryFile(prefix="cordee-exec-", suffix=".json") as file:
        spec = {**process.spec, "pid": process.pid, "argv": command}
        return await launch("exec", spec, Path(file.name), **streams)
