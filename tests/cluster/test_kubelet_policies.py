"""What the test kubelet makes of NetworkPolicies: by the words of their specification, without a cluster."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cluster.kubelet.policies import Doors, Opening, PodFacts, Ports, doors, facts, selects

Json = dict[str, Any]
NAMESPACES: Mapping[str, Mapping[str, str]] = {"one": {"team": "x"}, "two": {"team": "y"}, "three": {}}
PODS = tuple(
    PodFacts(namespace, labels, f"10.0.0.{k}", (("web", "TCP", 8000 + k % 2),))
    for k, (namespace, labels) in enumerate(
        (namespace, labels)
        for namespace in NAMESPACES
        for labels in ({"app": "a"}, {"app": "b", "tier": "x"}, {"tier": "y"})
    )
)
OUTSIDE = PodFacts("", {}, "192.0.2.7")


def policy(namespace: str = "one", name: str = "p", **spec: Any) -> Json:
    return {"metadata": {"namespace": namespace, "name": name}, "spec": {"podSelector": {}, **spec}}


def admits(openings: tuple[Opening, ...] | None, address: str, protocol: str, port: int) -> bool:
    """What the kernel makes of openings."""

    def within(network: str) -> bool:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network)

    return openings is None or any(
        (opening.networks is None or (any(map(within, opening.networks)) and not any(map(within, opening.but))))
        and (opening.ports is None or any(p.protocol == protocol and p.first <= port <= p.last for p in opening.ports))
        for opening in openings
    )


def allowed(policies: list[Json], source: PodFacts, target: PodFacts, protocol: str, port: int) -> bool:
    """What comes of both ends' doors."""
    ends = [doors(pod, policies, PODS, NAMESPACES) if pod in PODS else Doors(None, None) for pod in (source, target)]
    assert source.address
    assert target.address
    return admits(ends[0].egress, target.address, protocol, port) and admits(
        ends[1].ingress, source.address, protocol, port
    )


def specified(policies: list[Json], source: PodFacts, target: PodFacts, protocol: str, port: int) -> bool:
    """The same for one connection, read off the specification: rule by rule, without sets of addresses."""

    def side(kind: str, pod: PodFacts, other: PodFacts) -> bool:
        bound = [
            p["spec"]
            for p in policies
            if pod in PODS
            and p["metadata"]["namespace"] == pod.namespace
            and selects(p["spec"]["podSelector"], pod.labels)
            and (kind in p["spec"].get("policyTypes", ()) or ("policyTypes" not in p["spec"]
                 and (kind == "Ingress" or p["spec"].get("egress"))))
        ]  # fmt: skip
        way = "from" if kind == "Ingress" else "to"
        return not bound or any(
            (not rule.get(way) or any(peer(entry, pod, other) for entry in rule[way]))
            and (not rule.get("ports") or any(door(entry) for entry in rule["ports"]))
            for spec in bound
            for rule in spec.get(kind.lower()) or []
        )

    def peer(entry: Json, pod: PodFacts, other: PodFacts) -> bool:
        if block := entry.get("ipBlock"):
            address = ipaddress.ip_address(str(other.address))
            inside = address in ipaddress.ip_network(block["cidr"])
            return inside and not any(address in ipaddress.ip_network(e) for e in block.get("except", ()))
        if other not in PODS or not selects(entry.get("podSelector", {}), other.labels):
            return False
        if "namespaceSelector" in entry:
            return selects(entry["namespaceSelector"], NAMESPACES[other.namespace])
        return other.namespace == pod.namespace

    def door(entry: Json) -> bool:
        if entry.get("protocol", "TCP") != protocol:
            return False
        match entry.get("port"):
            case None:
                return True
            case str(name):  # one of the target's own
                return target.number(name, protocol) == port
            case int(first):
                return bool(first <= port <= entry.get("endPort", first))
        return False

    return side("Egress", source, target) and side("Ingress", target, source)


def selectors() -> st.SearchStrategy[Json]:
    keys, values = st.sampled_from(["app", "tier", "team"]), st.sampled_from(["a", "b", "x", "y"])
    term = st.one_of(
        st.fixed_dictionaries({"key": keys, "operator": st.sampled_from(["Exists", "DoesNotExist"])}),
        st.fixed_dictionaries(
            {
                "key": keys,
                "operator": st.sampled_from(["In", "NotIn"]),
                "values": st.lists(values, min_size=1, max_size=2),
            }
        ),
    )
    terms = st.lists(term, max_size=1)
    return st.fixed_dictionaries(
        {}, optional={"matchLabels": st.dictionaries(keys, values, max_size=1), "matchExpressions": terms}
    )


BLOCKS = st.sampled_from(
    [{"cidr": "0.0.0.0/0"}, {"cidr": "10.0.0.0/28", "except": ["10.0.0.0/30", "10.0.0.6/32"]}, {"cidr": "192.0.2.0/24"}]
)
PORTS = st.sampled_from(
    [{}, {"port": 8000}, {"port": 8000, "endPort": 8001}, {"port": "web"}, {"protocol": "UDP", "port": 8000},
     {"port": "web", "protocol": "UDP"}]
)  # fmt: skip


def rules(way: str) -> st.SearchStrategy[list[Json]]:
    entry = st.one_of(
        st.fixed_dictionaries({"podSelector": selectors()}, optional={"namespaceSelector": selectors()}),
        st.fixed_dictionaries({"namespaceSelector": selectors()}),
        st.fixed_dictionaries({"ipBlock": BLOCKS}),
    )
    rule = st.fixed_dictionaries({}, optional={way: st.lists(entry, max_size=2), "ports": st.lists(PORTS, max_size=2)})
    return st.lists(rule, max_size=2)


POLICIES = st.lists(
    st.builds(
        lambda namespace, spec: policy(namespace, **spec),
        st.sampled_from(sorted(NAMESPACES)),
        st.fixed_dictionaries(
            {"podSelector": selectors()},
            optional={
                "policyTypes": st.sampled_from([["Ingress"], ["Egress"], ["Ingress", "Egress"]]),
                "ingress": rules("from"),
                "egress": rules("to"),
            },
        ),
    ),
    max_size=4,
)


@given(POLICIES, st.sampled_from([*PODS, OUTSIDE]), st.sampled_from([*PODS, OUTSIDE]),
       st.sampled_from(["TCP", "UDP"]), st.sampled_from([80, 8000, 8001]))  # fmt: skip
def test_what_is_open_is_what_the_specification_allows(
    policies: list[Json], source: PodFacts, target: PodFacts, protocol: str, port: int
) -> None:
    assert allowed(policies, source, target, protocol, port) == specified(policies, source, target, protocol, port)


@given(POLICIES, st.sampled_from(PODS), st.sampled_from(["TCP", "UDP"]), st.sampled_from([80, 8000, 8001]))
def test_policies_add_up(policies: list[Json], pod: PodFacts, protocol: str, port: int) -> None:
    """Once a pod is closed, another policy only opens; and their order is of no account."""
    whole = doors(pod, policies, PODS, NAMESPACES).ingress
    reverse = doors(pod, policies[::-1], PODS, NAMESPACES).ingress
    for other in PODS:
        assert other.address
        found = admits(whole, other.address, protocol, port)
        assert found == admits(reverse, other.address, protocol, port)
        single = [doors(pod, [one], PODS, NAMESPACES).ingress for one in policies]
        closing = [openings for openings in single if openings is not None]
        assert found == (not closing or any(admits(one, other.address, protocol, port) for one in closing))


def test_a_policy_without_types_closes_egress_only_if_it_has_any() -> None:
    assert doors(PODS[0], [policy()], PODS, NAMESPACES) == Doors((), None)
    assert doors(PODS[0], [policy(egress=[{}])], PODS, NAMESPACES) == Doors((), (Opening(None),))
    assert doors(PODS[0], [policy("two")], PODS, NAMESPACES) == Doors(None, None)


def test_a_port_s_name_is_that_of_whom_is_reached() -> None:
    by_name = [{"port": "web"}]
    found = doors(PODS[0], [policy(ingress=[{"ports": by_name}], egress=[{"ports": by_name}])], PODS, NAMESPACES)
    assert found.ingress == (Opening(None, (), (Ports("TCP", 8000, 8000),)),)
    assert found.egress is not None
    own = {opening.networks: opening.ports for opening in found.egress}
    assert own["10.0.0.1",] == (Ports("TCP", 8001, 8001),)
    assert own["10.0.0.2",] == (Ports("TCP", 8000, 8000),)


def test_pods_that_have_ended_or_live_in_their_nodes_network_have_no_address_of_their_own() -> None:
    port = {"name": "web", "containerPort": 80}
    pod: Json = {
        "metadata": {"namespace": "n", "labels": {"a": "b"}},
        "spec": {"containers": [{"ports": [port, {"containerPort": 81}]}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1"},
    }
    assert facts(pod) == PodFacts("n", {"a": "b"}, "10.0.0.1", (("web", "TCP", 80),))
    assert facts({**pod, "status": {**pod["status"], "phase": "Succeeded"}}).address is None
    assert facts({**pod, "spec": {**pod["spec"], "hostNetwork": True}}).address is None
