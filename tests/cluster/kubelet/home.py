"""Where a pod lives on its node: its folder, its network, and the files that name it and the Services to it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.kubelet.host import Host
from cluster.kubelet.network import PodNetwork
from cluster.kubelet.services import hosts_file

__all__ = ["Home", "last_words", "make_home"]

Json = dict[str, Any]
MESSAGE_BYTES, LOG_BYTES, LOG_LINES = 4096, 2048, 80


@dataclass(slots=True)
class Home:
    """`network` is None for pods in the node's own; `address` stays known when the network was given back."""

    host: Host
    pod: Json
    folder: Path
    network: PodNetwork | None
    address: str
    hostname: str
    _unlisten: Callable[[], None]

    def log(self, container: str, attempt: int) -> Path:
        return self.folder / "logs" / f"{container}.{attempt}.log"

    def message(self, container: str) -> Path:
        """Where a container leaves its termination message."""
        return self.folder / f"{container}.message"

    def write_names(self) -> None:
        """Brings /etc/hosts up to date: in place, for it is mounted."""
        text = hosts_file(
            self.host.services,
            namespace=self.pod["metadata"]["namespace"],
            address=self.address,
            hostname=self.hostname,
            aliases=self.pod["spec"].get("hostAliases") or [],
        )
        path = self.folder / "hosts"
        if not path.exists():
            path.write_text(text)
        elif path.read_text() != text:
            with path.open("r+") as file:
                file.write(text)
                file.truncate()

    async def release(self) -> None:
        """Gives the network back."""
        self._unlisten()
        self._unlisten = _nothing
        if self.network:
            network, self.network = self.network, None
            if self.host.firewall:
                self.host.firewall.forget(network)
            await self.host.network.detach(network)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _nothing() -> None: ...


def last_words(message: Path, log: Path, policy: str, exit_code: int) -> str:
    """A container's termination message; or the end of its log, where it failed and its pod asks for that."""
    text = ""
    with contextlib.suppress(OSError):
        text = message.read_bytes()[:MESSAGE_BYTES].decode(errors="replace")
        if not text and exit_code != 0 and policy == "FallbackToLogsOnError":
            lines = log.read_bytes()[-LOG_BYTES:].decode(errors="replace").splitlines(keepends=True)
            text = "".join(lines[-LOG_LINES:])
    return text


async def make_home(host: Host, pod: Json) -> Home:
    """A folder and a network for a pod; its names follow the Services until they are released."""
    meta, spec = pod["metadata"], pod["spec"]
    folder = host.folder / "pods" / meta["uid"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "volumes").mkdir(exist_ok=True)
    network = None if spec.get("hostNetwork") else await host.network.attach()
    if network:
        try:
            await _connect(host, pod, network)
        except BaseException:
            await host.network.detach(network)
            raise
    hostname = (spec.get("hostname") or meta["name"])[:63]
    (folder / "hostname").write_text(hostname + "\n")
    search = f"search {meta['namespace']}.svc.cluster.local svc.cluster.local cluster.local\n"
    # Names are in /etc/hosts; nobody answers here, and so at once.
    (folder / "resolv.conf").write_text(search + "nameserver 127.0.0.1\n")
    home = Home(host, pod, folder, network, network.address if network else host.address, hostname, _nothing)
    home._unlisten = host.services.listen(home.write_names)
    home.write_names()
    return home


async def _connect(host: Host, pod: Json, network: PodNetwork) -> None:
    if not host.plugged:
        await host.network.plug(network, False)
    if host.firewall:
        await host.firewall.protect(pod, network, host.address)
