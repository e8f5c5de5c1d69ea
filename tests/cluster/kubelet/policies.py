"""What NetworkPolicies say of one pod: who may reach it and whom it may reach. Pure; `firewall.py` sees to it.

A pod that no policy selects is open in both directions. One that is selected is closed, in the directions that its
policies speak of, but for what at least one of them allows. Policies speak of pods, by labels, and of networks; what
comes out speaks of addresses and numbers only, for that is what packets carry.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Doors", "Opening", "PodFacts", "Ports", "doors", "facts", "selects"]

Json = dict[str, Any]
Labels = Mapping[str, str]
Direction = Literal["Ingress", "Egress"]
ALL_PORTS = 65535
ENDED = {"Succeeded", "Failed"}


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What policies look at. `address` is None while there is none, and where it is not the pod's own but a node's.
    `ports`: those with a name, as name, protocol and number."""

    namespace: str
    labels: Labels
    address: str | None
    ports: tuple[tuple[str, str, int], ...] = ()

    def number(self, name: str, protocol: str) -> int | None:
        return next((n for known, by, n in self.ports if (known, by) == (name, protocol)), None)


@dataclass(frozen=True, slots=True)
class Ports:
    """From the first to the last, both included."""

    protocol: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Opening:
    """One door: `networks` without those of `but`, or everybody (None); by these ports, or by any (None)."""

    networks: tuple[str, ...] | None
    but: tuple[str, ...] = ()
    ports: tuple[Ports, ...] | None = None


@dataclass(frozen=True, slots=True)
class Doors:
    """None: this direction is open. Otherwise it is closed but for these."""

    ingress: tuple[Opening, ...] | None
    egress: tuple[Opening, ...] | None


def facts(pod: Json) -> PodFacts:
    """Of a pod's object."""
    meta, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
    address = None if spec.get("hostNetwork") or status.get("phase") in ENDED else status.get("podIP")
    containers = [*spec["containers"], *(spec.get("initContainers") or [])]
    ports = [p for container in containers for p in container.get("ports") or [] if p.get("name")]
    named = tuple((p["name"], p.get("protocol") or "TCP", int(p["containerPort"])) for p in ports)
    return PodFacts(meta["namespace"], meta.get("labels") or {}, address or None, named)


def doors(pod: PodFacts, policies: Iterable[Json], pods: Iterable[PodFacts], namespaces: Mapping[str, Labels]) -> Doors:
    """`policies`, `pods` and `namespaces` (their labels): all there are in the cluster."""
    mine = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == pod.namespace
        and selects(policy["spec"].get("podSelector") or {}, pod.labels)
    ]
    others = tuple(pods)
    return Doors(
        _openings("Ingress", pod, mine, others, namespaces), _openings("Egress", pod, mine, others, namespaces)
    )


def selects(selector: Json, labels: Labels) -> bool:
    """A label selector; an empty one selects everything."""
    if any(labels.get(name) != value for name, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(
        _OPERATORS[term["operator"]](labels.get(term["key"]), term.get("values") or [])
        for term in selector.get("matchExpressions") or []
    )


_OPERATORS: Mapping[str, Callable[[str | None, list[str]], bool]] = {
    "In": lambda value, values: value is not None and value in values,
    # As everywhere in Kubernetes: what has no such label is not in.
    "NotIn": lambda value, values: value not in values,
    "Exists": lambda value, _: value is not None,
    "DoesNotExist": lambda value, _: value is None,
}


def _directions(spec: Json) -> set[str]:
    return set(spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])])


def _openings(
    direction: Direction,
    pod: PodFacts,
    policies: Iterable[Json],
    pods: tuple[PodFacts, ...],
    namespaces: Mapping[str, Labels],
) -> tuple[Opening, ...] | None:
    bound = [policy["spec"] for policy in policies if direction in _directions(policy["spec"])]
    if not bound:
        return None
    rules = [rule for spec in bound for rule in spec.get(direction.lower()) or []]
    found = (opening for rule in rules for opening in _rule(direction, rule, pod, pods, namespaces))
    return tuple(dict.fromkeys(found))


def _rule(
    direction: Direction, rule: Json, pod: PodFacts, pods: tuple[PodFacts, ...], namespaces: Mapping[str, Labels]
) -> Iterator[Opening]:
    entries = rule.get("from" if direction == "Ingress" else "to") or []
    blocks = [entry["ipBlock"] for entry in entries if entry.get("ipBlock")]
    # Without entries everybody is meant.
    chosen = [p for p in pods if p.address and (not entries or _is_meant(p, entries, pod.namespace, namespaces))]
    ports = rule.get("ports") or []
    numbers, names = _numbers(ports), _names(ports)
    if direction == "Ingress":
        # The port is the pod's own, whoever comes.
        numbers += _resolved(pod, names)
    if not ports or numbers:
        by = tuple(numbers) if ports else None
        if not entries:
            yield Opening(None, (), by)
        elif chosen:
            yield Opening(tuple(sorted(p.address for p in chosen if p.address)), (), by)
        for block in blocks:
            yield Opening((block["cidr"],), tuple(block.get("except") or ()), by)
    if direction == "Egress" and names:
        # The port is the other's, and may be another one for each.
        for other in pods:
            meant = other in chosen or any(_is_within(other, block) for block in blocks)
            if meant and other.address and (own := _resolved(other, names)):
                yield Opening((other.address,), (), tuple(own))


def _is_meant(other: PodFacts, entries: list[Json], namespace: str, namespaces: Mapping[str, Labels]) -> bool:
    return any(_entry_selects(entry, other, namespace, namespaces) for entry in entries if not entry.get("ipBlock"))


def _entry_selects(entry: Json, other: PodFacts, namespace: str, namespaces: Mapping[str, Labels]) -> bool:
    where = entry.get("namespaceSelector")
    if where is None:
        near = other.namespace == namespace
    else:
        near = other.namespace in namespaces and selects(where, namespaces[other.namespace])
    return near and selects(entry.get("podSelector") or {}, other.labels)


def _is_within(other: PodFacts, block: Json) -> bool:
    if other.address is None:
        return False
    address = ipaddress.ip_address(other.address)
    return address in ipaddress.ip_network(block["cidr"], strict=False) and not any(
        address in ipaddress.ip_network(each, strict=False) for each in block.get("except") or ()
    )


def _numbers(ports: list[Json]) -> list[Ports]:
    found = []
    for port in ports:
        protocol, number = port.get("protocol") or "TCP", port.get("port")
        if number is None:
            found.append(Ports(protocol, 0, ALL_PORTS))
        elif isinstance(number, int):
            found.append(Ports(protocol, number, port.get("endPort") or number))
    return found


def _names(ports: list[Json]) -> list[tuple[str, str]]:
    return [(port["port"], port.get("protocol") or "TCP") for port in ports if isinstance(port.get("port"), str)]


def _resolved(pod: PodFacts, names: list[tuple[str, str]]) -> list[Ports]:
    found = [(protocol, pod.number(name, protocol)) for name, protocol in names]
    return [Ports(protocol, number, number) for protocol, number in found if number is not None]
