"""Who reaches whom in the tests' cluster: found out by trying, from within the pods."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from cluster.control_plane import ControlPlane
from cluster.kubelet.images import CORDEE

__all__ = ["PROBE_PORT", "PodPlace", "listener", "listening", "reached"]

Place = tuple[str, int]
PROBE_PORT = 8080
# Tries all at once. Those that are expected may take their time; then there is a moment for the others.
TRY = """
import json, selectors, socket, sys, time
places, expected = ([tuple(place) for place in each] for each in json.loads(sys.argv[1]))
waiting, reached = selectors.DefaultSelector(), set()
for place in places:
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex(place)
    waiting.register(client, selectors.EVENT_WRITE, place)
deadline, last = time.monotonic() + 20, None
while waiting.get_map() and time.monotonic() < (last or deadline):
    for key, _ in waiting.select(0.1):
        waiting.unregister(key.fileobj)
        if key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            reached.add(key.data)
    if last is None and reached >= set(expected):
        last = time.monotonic() + 0.5
print(json.dumps(sorted(reached)))
"""
LISTEN = f"""
import socket
with socket.create_server(("", {PROBE_PORT})) as server:
    while True:
        server.accept()[0].close()
"""
LISTENING = "0A"  # TCP_LISTEN, as /proc/net/tcp says it


@dataclass(frozen=True, slots=True)
class PodPlace:
    namespace: str
    name: str

    def execute(self, plane: ControlPlane, *command: str) -> str:
        return plane.kubectl("exec", "--namespace", self.namespace, self.name, "--", *command)

    def address(self, plane: ControlPlane) -> str:
        return str(plane.get("pod", self.name, "--namespace", self.namespace)["status"]["podIP"])


def listener(name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """A pod that answers at PROBE_PORT, and meets the `restricted` standard."""
    context = {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {
        "name": "main",
        "image": CORDEE,
        "command": ["python", "-c", LISTEN],
        "readinessProbe": {"tcpSocket": {"port": PROBE_PORT}, "periodSeconds": 1},
        "securityContext": context,
    }
    spec = {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": dict(labels)}, "spec": spec}


def listening(plane: ControlPlane, pod: PodPlace) -> set[Place]:
    """Where a pod listens on more than its loopback."""
    lines = pod.execute(plane, "cat", "/proc/net/tcp").splitlines()[1:]
    local = [line.split()[1] for line in lines if line.split()[3] == LISTENING]
    address = pod.address(plane)
    # 127.0.0.1, in the machine's order of bytes.
    return {(address, int(port, 16)) for host, port in (each.split(":") for each in local) if host != "0100007F"}


def reached(
    plane: ControlPlane, places: Collection[Place], expected: Mapping[PodPlace, Iterable[Place]]
) -> dict[PodPlace, set[Place]]:
    """Which of the places each of these pods reaches. All try at once; `expected` only says what to wait for."""

    def one(pod: PodPlace) -> set[Place]:
        said = pod.execute(plane, "python", "-c", TRY, json.dumps([sorted(places), sorted(expected[pod])]))
        return {(host, port) for host, port in json.loads(said)}

    with ThreadPoolExecutor(len(expected)) as pool:
        return dict(zip(expected, pool.map(one, expected), strict=True))
