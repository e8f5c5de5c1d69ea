"""The test kubelet's rules in the kernel: pods' networks without a cluster, and connections between them."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import itertools
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pytest

from cluster.kubelet import firewall, network
from cluster.kubelet.network import Network, PodNetwork
from cluster.kubelet.policies import PodFacts, doors
from cluster.kubelet.rules import ruleset
from cluster.kubelet.services import Front, Place

T = TypeVar("T")
Attempt = tuple[str, str, int]
"""From a pod, to a pod or an address, at a port."""
PORTS = (8000, 8001, 8002)
NEWNET = 0x40000000
SILENCE_SECONDS = 0.4
PATIENCE_SECONDS = 10.0


@pytest.fixture(autouse=True)
def _needs_the_kernel() -> None:
    reason = network.missing() or firewall.missing()
    if reason and os.environ.get("CORDEE_CLUSTER_TESTS") == "required":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


def _arrived(waiting: selectors.BaseSelector, seconds: float) -> set[Attempt]:
    found = set()
    for key, _ in waiting.select(seconds):
        waiting.unregister(key.fileobj)
        if _close(key) == 0:
            found.add(key.data)
    return found


def _close(key: selectors.SelectorKey) -> int:
    """With the error that there was."""
    assert isinstance(key.fileobj, socket.socket)
    with key.fileobj as client:
        return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


class Pods:
    """Networks a, b and c, each of whom listens on 8000 to 8002."""

    def __init__(self, stretch: Network, networks: Mapping[str, PodNetwork]) -> None:
        self.stretch, self.networks = stretch, networks
        self.addresses = {name: pod.address for name, pod in networks.items()}
        self.service = stretch.services.replace(".0.0/16", ".0.9")
        self._listeners = {
            (name, port): self.within(name, functools.partial(socket.create_server, ("", port), backlog=64))
            for name in networks
            for port in PORTS
        }

    def within(self, name: str, work: Callable[[], T]) -> T:
        """Done in a pod's network namespace: a socket stays in the one it was made in."""
        results: list[T] = []

        def enter() -> None:
            handle = os.open(self.networks[name].path, os.O_RDONLY)
            assert ctypes.CDLL(None, use_errno=True).setns(handle, NEWNET) == 0
            os.close(handle)
            results.append(work())

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        return results[0]

    def enforce(self, *policies: dict[str, Any], fronts: Mapping[Front, Sequence[Place]] | None = None) -> None:
        known = {name: PodFacts("n", {"app": name}, address) for name, address in self.addresses.items()}
        objects = [{"metadata": {"namespace": "n"}, "spec": spec} for spec in policies]
        for name, pod in self.networks.items():
            rules = ruleset(
                doors(known[name], objects, known.values(), {"n": {}}),
                address=pod.address,
                node=(self.stretch.gateway,),
                service_range=self.stretch.services,
                fronts=fronts or {},
            )
            asyncio.run(firewall.load(pod, rules))

    def connect(self, source: str, address: str, port: int) -> socket.socket:
        client = self.within(source, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        client.settimeout(PATIENCE_SECONDS)
        try:
            client.connect((address, port))
        except OSError:
            client.close()
            raise
        return client

    def check(self, attempts: Iterable[Attempt], expected: set[Attempt]) -> None:
        """Those that are expected come through, however long it takes on this machine, and then no other does."""
        waiting = selectors.DefaultSelector()
        reached: set[Attempt] = set()
        for attempt in attempts:
            source, target, port = attempt
            client = self.within(source, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            client.setblocking(False)
            client.connect_ex((self.addresses.get(target, target), port))
            waiting.register(client, selectors.EVENT_WRITE, attempt)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not expected <= reached and time.monotonic() < deadline:
            reached |= _arrived(waiting, deadline - time.monotonic())
        reached |= _arrived(waiting, SILENCE_SECONDS)
        for key in tuple(waiting.get_map().values()):
            _close(key)
        waiting.close()
        assert reached == expected

    def came(self, target: str, port: int) -> set[str]:
        """Whose connections wait there."""
        listener, found = self._listeners[target, port], set()
        listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, (address, _) = listener.accept()
                connection.close()
                found.add(str(address))
        return found

    def close(self) -> None:
        for listener in self._listeners.values():
            listener.close()


@pytest.fixture
def pods() -> Iterator[Pods]:
    stretch = Network.reserve()
    networks: dict[str, PodNetwork] = {}
    try:
        stretch.open()
        for name in "abc":
            networks[name] = asyncio.run(stretch.attach())
        pods = Pods(stretch, networks)
        try:
            yield pods
        finally:
            pods.close()
    finally:
        for pod in networks.values():
            asyncio.run(stretch.detach(pod))
        stretch.close()


def only(name: str, **spec: Any) -> dict[str, Any]:
    """A policy for one pod."""
    return {"podSelector": {"matchLabels": {"app": name}}, **spec}


A = {"podSelector": {"matchLabels": {"app": "a"}}}


def every(sources: str, targets: str, ports: Iterable[int]) -> set[Attempt]:
    return set(itertools.product(sources, targets, ports))


def test_a_closed_pod_is_reached_by_whom_and_where_its_policies_say_and_by_its_node(pods: Pods) -> None:
    pods.enforce()
    held = pods.connect("c", pods.addresses["b"], 8002)
    pods.enforce(only("b", ingress=[{"from": [A], "ports": [{"port": 8000, "endPort": 8001}]}]))
    itself = every("b", "b", PORTS)
    pods.check(every("abc", "b", PORTS), itself | every("a", "b", [8000, 8001]))
    # The machine asks how its pods are, and what was connected stays so.
    socket.create_connection((pods.addresses["b"], 8002), timeout=PATIENCE_SECONDS).close()
    held.sendall(b"on")
    held.close()
    # In its own direction it is open, and so are the others.
    pods.check(every("bc", "a", PORTS), every("bc", "a", PORTS))


def test_egress_is_closed_on_its_own_and_by_networks_too(pods: Pods) -> None:
    but = {"ipBlock": {"cidr": pods.stretch.pods, "except": [f"{pods.addresses['c']}/32"]}}
    pods.enforce(only("a", policyTypes=["Egress"], egress=[{"to": [but], "ports": [{"port": 8001}]}]))
    pods.check(every("a", "bc", PORTS) | every("c", "a", PORTS), every("a", "b", [8001]) | every("c", "a", PORTS))
    pods.enforce(only("a", policyTypes=["Egress"], egress=[{}]))
    pods.check(every("a", "bc", PORTS), every("a", "bc", PORTS))


def test_policies_see_through_services(pods: Pods) -> None:
    """Whoever comes by a Service comes as himself, and to the pod that is behind it."""
    own = {name: (pods.addresses[name], 8001) for name in "abc"}
    behind = {80: [own["b"]], 81: [own["a"], own["c"]], 82: [own["a"]], 83: []}
    to = pods.service
    fronts = {(to, "TCP", port): places for port, places in behind.items()}
    pods.enforce(only("b", ingress=[{"from": [A], "ports": [{"port": 8001}]}]), fronts=fronts)
    through = {(source, to, port) for source in "ac" for port in (80, 81, 82)} - {("c", to, 80)}
    pods.check(through | {("c", to, 80)}, through)
    assert pods.came("b", 8001) == {pods.addresses["a"]}
    assert pods.came("a", 8001) >= {pods.addresses["a"], pods.addresses["c"]}
    pods.came("c", 8001)
    for _ in range(40):
        pods.connect("b", to, 81).close()
    assert [pods.came(name, 8001) for name in "ac"] == [{pods.addresses["b"]}] * 2  # each has a share
    # With nobody behind it, and where there is no such port, it is refused: what answers on this machine is for others.
    with socket.create_server((to, 84)):
        for port in (83, 84):
            with pytest.raises(ConnectionRefusedError):
                pods.connect("a", to, port)
