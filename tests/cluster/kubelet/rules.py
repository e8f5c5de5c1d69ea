"""The kernel's rules for one pod's network namespace, as `nft` reads them. Pure; `firewall.py` loads them.

The whole text is one transaction. A pod reaches Services by translation in its own namespace, as kube-proxy does it on
a node, so that policies see pods behind Services and pods see who really comes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence

from cluster.kubelet.policies import Doors, Opening, Ports
from cluster.kubelet.services import Front, Place

__all__ = ["ruleset"]

# Chains are never removed, or connections that are translated would lose their way for a moment; flushed, they are new.
CHAINS = """\
add table inet cordee
add chain inet cordee services { type nat hook output priority -100; policy accept; }
add chain inet cordee egress { type filter hook output priority 0; policy accept; }
add chain inet cordee ingress { type filter hook input priority 0; policy accept; }
flush table inet cordee
"""


def ruleset(
    doors: Doors,
    *,
    address: str,
    node: Sequence[str],
    service_range: str,
    fronts: Mapping[Front, Sequence[Place]],
) -> str:
    """`node`: the addresses of the pod's node, which may always come: it asks how its pods are."""
    lines = [f"add rule inet cordee services {rule}" for rule in _translations(fronts)]
    # Translated packets to itself leave for the loopback later than rules see.
    egress = ['oifname "lo" accept', f"ip daddr {address} accept", "ct state established,related accept"]
    # What is still for a Service has nobody behind it; this machine, which answers for every Service, must not.
    egress += [f"ip daddr {service_range} meta l4proto tcp reject with tcp reset", f"ip daddr {service_range} reject"]
    ingress = ['iifname "lo" accept', "ct state established,related accept", f"ip saddr {_set(node)} accept"]
    for chain, end, rules, openings in (
        ("egress", "daddr", egress, doors.egress),
        ("ingress", "saddr", ingress, doors.ingress),
    ):
        if openings is not None:
            # Without a word, as most network plug-ins do.
            rules += [*(rule for opening in openings for rule in _opened(opening, end)), "drop"]
        lines += [f"add rule inet cordee {chain} {rule}" for rule in rules]
    return CHAINS + "\n".join(lines) + "\n"


def _translations(fronts: Mapping[Front, Sequence[Place]]) -> Iterator[str]:
    for (address, protocol, port), places in sorted(fronts.items()):
        where = f"ip daddr {address} {protocol.lower()} dport {port}"
        if len(places) == 1:
            yield f"{where} dnat ip to {places[0][0]}:{places[0][1]}"
        elif places:
            choice = ", ".join(f"{k} : {host} . {number}" for k, (host, number) in enumerate(places))
            yield f"{where} dnat ip to numgen random mod {len(places)} map {{ {choice} }}"


def _opened(opening: Opening, end: str) -> Iterator[str]:
    for whom in _networks(opening, end):
        for what in _ports(opening.ports):
            yield " ".join(word for word in (whom, what, "accept") if word)


def _networks(opening: Opening, end: str) -> Iterator[str]:
    if opening.networks is None:
        yield ""
        return
    for version, family in ((4, "ip"), (6, "ip6")):
        meant, but = ([n for n in each if _version(n) == version] for each in (opening.networks, opening.but))
        if meant:
            yield f"{family} {end} {_set(meant)}" + (f" {family} {end} != {_set(but)}" if but else "")


def _ports(ports: Iterable[Ports] | None) -> Iterator[str]:
    if ports is None:
        yield ""
        return
    found = tuple(ports)
    for protocol in dict.fromkeys(p.protocol for p in found):
        own = dict.fromkeys(f"{p.first}-{p.last}" if p.first != p.last else f"{p.first}"
                            for p in found if p.protocol == protocol)  # fmt: skip
        yield f"{protocol.lower()} dport {_set(own)}"


def _set(words: Iterable[str]) -> str:
    return f"{{ {', '.join(words)} }}"


def _version(network: str) -> int:
    return ipaddress.ip_network(network, strict=False).version
