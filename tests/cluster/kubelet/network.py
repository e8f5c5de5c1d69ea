"""A network for pods: a bridge on this machine, and a namespace of its own for each pod, as CNI plug-ins make them.

So a pod may bind any port of any address, its loopback is its own, and a lost node's connections fall silent instead of
being reset, which is what a machine without power looks like. Loopback addresses would have been simpler, but an API
server refuses them in EndpointSlices.

Addresses are unique per cluster, for several test runs may share this machine: a lock file per range says who has it.
"""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Network", "PodNetwork", "missing"]

RANGES = 32
LOCKS = Path("/run/lock")
NAMESPACES = Path("/run/netns")


def missing() -> str | None:
    """Why there can be no such network here; None when there can."""
    if os.geteuid() != 0:
        return "the test kubelet gives pods network, process and mount namespaces, and so must be root"
    if shutil.which("ip") is None:
        return "the test kubelet makes pods' network by `ip`: apt-get install iproute2"
    return None


@dataclass(frozen=True, slots=True)
class PodNetwork:
    """A pod's namespace, the name of its cable's end on this machine, and its address."""

    namespace: str
    cable: str
    address: str

    @property
    def path(self) -> str:
        return str(NAMESPACES / self.namespace)


@dataclass(slots=True)
class Network:
    """One cluster's range of pods' addresses, one of Services', and the bridge."""

    index: int
    lock: int
    _count: int = field(default=9, init=False)

    @classmethod
    def reserve(cls) -> Network:
        """Takes a range that nobody on this machine uses; it is this process' until `close`, or its end."""
        if why := missing():
            raise RuntimeError(why)
        for index in range(RANGES):
            lock = os.open(LOCKS / f"cordee-test-network-{index}", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            network = cls(index, lock)
            network._clean()
            return network
        raise RuntimeError(f"all {RANGES} ranges for test clusters are taken: see {LOCKS}/cordee-test-network-*")

    @property
    def pods(self) -> str:
        return f"10.{128 + self.index}.0.0/16"

    @property
    def services(self) -> str:
        return f"10.{192 + self.index}.0.0/16"

    @property
    def gateway(self) -> str:
        """This machine, seen from pods."""
        return f"10.{128 + self.index}.0.1"

    @property
    def bridge(self) -> str:
        return f"ck{self.index}"

    def next_address(self) -> str:
        """Never the one that was given back last: a stale one should not work by luck."""
        self._count = self._count + 1 if self._count < 0xFFF0 else 10
        return str(ipaddress.ip_address(f"10.{128 + self.index}.0.0") + self._count)

    def open(self) -> None:
        """Makes the bridge, and lets this machine answer for every Service address."""
        # Left to itself a bridge takes an address of its cables: it would change with the pods that come and go, and
        # those that stay would send to the old one for seconds.
        _ip("link", "add", self.bridge, "address", f"02:00:00:00:00:{self.index:02x}", "type", "bridge")
        _ip("addr", "add", f"{self.gateway}/16", "dev", self.bridge)
        _ip("link", "set", self.bridge, "up")
        _ip("route", "add", "local", self.services, "dev", "lo")

    def close(self) -> None:
        self._clean()
        os.close(self.lock)

    def _clean(self) -> None:
        _ip("link", "del", self.bridge, check=False)
        _ip("route", "del", "local", self.services, "dev", "lo", check=False)

    def add_host_address(self) -> str:
        """One more address of this machine on the bridge: a node's."""
        address = self.next_address()
        _ip("addr", "add", f"{address}/16", "dev", self.bridge)
        return address

    async def attach(self) -> PodNetwork:
        """A new namespace with a cable to the bridge."""
        address = self.next_address()
        name = f"ck{self.index}-{self._count}"
        pod = PodNetwork(name, f"ck{self.index}v{self._count}", address)
        await _ip_async("netns", "add", name)
        await _ip_async(
            "-batch",
            "-",
            lines=[
                f"link add {pod.cable} type veth peer name eth0 netns {name}",
                f"link set {pod.cable} master {self.bridge} up",
            ],
        )
        await _ip_async(
            "-n",
            name,
            "-batch",
            "-",
            lines=[
                "link set lo up",
                f"addr add {address}/16 dev eth0",
                "link set eth0 up",
                f"route add default via {self.gateway}",
            ],
        )
        return pod

    async def detach(self, pod: PodNetwork) -> None:
        await self.plug(pod, False, check=False)
        await _ip_async("link", "del", pod.cable, check=False)
        await _ip_async("netns", "del", pod.namespace, check=False)

    async def plug(self, pod: PodNetwork, connected: bool, *, check: bool = True) -> None:
        """Pulls the cable, or puts it back."""
        await _ip_async("link", "set", pod.cable, "up" if connected else "down", check=check)


def _ip(*words: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


async def _ip_async(*words: str, lines: list[str] | None = None, check: bool = True) -> None:
    process = await asyncio.create_subprocess_exec(
        "ip",
        *words,
        stdin=asyncio.subprocess.PIPE if lines else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate("\n".join([*lines, ""]).encode() if lines else None)
    if check and process.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {output.decode().strip()}")
