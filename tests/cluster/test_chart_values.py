"""What single values of the chart do, and how it refuses what is wrong with them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from cluster.chart import CHART, needs_helm, refusal, render
from cordee.coordinator.config import load_config

pytestmark = needs_helm


def container(values: dict[str, Any]) -> dict[str, Any]:
    (found,) = render(values).one("Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def config(values: dict[str, Any]) -> dict[str, Any]:
    return dict(yaml.safe_load(render(values).config))


# --- images

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("image", "workers", "expected", "expected_workers"),
    [
        ({}, {}, "ghcr.io/cordee/cordee:0.1.0", "ghcr.io/cordee/cordee:0.1.0"),
        ({"tag": "1.2"}, {}, "ghcr.io/cordee/cordee:1.2", "ghcr.io/cordee/cordee:1.2"),
        ({"tag": "1", "digest": DIGEST}, {}, f"ghcr.io/cordee/cordee@{DIGEST}", f"ghcr.io/cordee/cordee@{DIGEST}"),
        ({"digest": DIGEST}, {"tag": "1-cuda"}, f"ghcr.io/cordee/cordee@{DIGEST}", "ghcr.io/cordee/cordee:1-cuda"),
        ({"registry": "", "repository": "cordee"}, {"digest": DIGEST}, "cordee:0.1.0", f"cordee@{DIGEST}"),
        ({"registry": "a:5000"}, {"repository": "b/c"}, "a:5000/cordee/cordee:0.1.0", "a:5000/b/c:0.1.0"),
    ],
)
def test_a_digest_beats_the_tag_and_a_component_has_its_own(
    image: dict[str, str], workers: dict[str, str], expected: str, expected_workers: str
) -> None:
    values = {"image": image, "workers": {"image": workers}}
    assert container(values)["image"] == expected
    assert config(values)["kubernetes"]["image"] == expected_workers


def test_pull_policy_and_secrets_are_the_workers_too() -> None:
    values = {
        "image": {"pullPolicy": "Always", "pullSecrets": ["a", "b"]},
        "workers": {"image": {"pullPolicy": "Never"}},
    }
    assert container(values)["imagePullPolicy"] == "Always"
    assert config(values)["kubernetes"]["imagePullPolicy"] == "Never"
    assert config(values)["kubernetes"]["imagePullSecrets"] == ["a", "b"]
    for pod in render(values).pods.values():
        assert pod["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]


# --- the coordinator's pod


def test_a_variable_of_the_users_takes_the_place_of_ours() -> None:
    more = [{"name": "HOME", "value": "/scratch"}, {"name": "A", "value": "1"}, {"name": "A", "value": "2"}]
    before = container({})["env"]
    after = container({"coordinator": {"extraEnv": more}})["env"]
    assert [e["name"] for e in after] == [*(e["name"] for e in before), "A"]
    assert {e["name"]: e.get("value") for e in after}["HOME"] == "/scratch"
    assert {e["name"]: e.get("value") for e in after}["A"] == "2"  # the last one, as in a shell


def test_a_changed_configuration_starts_the_coordinator_anew_and_nothing_else_does() -> None:
    def noted(values: dict[str, Any]) -> str:
        template = render(values).one("Deployment")["spec"]["template"]
        return str(template["metadata"]["annotations"]["cordee.dev/config"])

    assert noted({}) == noted({"service": {"annotations": {"a": "b"}}})
    assert noted({}) != noted({"workers": {"maxWorkers": 7}})


def test_probes_ask_the_metrics_port_in_the_protocol_that_it_speaks() -> None:
    for mode, scheme in (("selfSigned", "HTTPS"), ("off", "HTTP")):
        it = container({"tls": {"mode": mode}})
        for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
            assert it[probe]["httpGet"] == {"path": path, "port": "metrics", "scheme": scheme}
    assert container({"coordinator": {"livenessProbe": {"periodSeconds": 60}}})["livenessProbe"]["periodSeconds"] == 60


def test_one_coordinator_is_replaced_and_several_roll() -> None:
    assert render().one("Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    several = render(case="several-coordinators")
    assert several.one("Deployment")["spec"]["strategy"]["type"] == "RollingUpdate"
    assert several.one("PodDisruptionBudget")["spec"]["maxUnavailable"] == "50%"
    assert not render().all("PodDisruptionBudget")
    # One of several decides; requests go to that one, Prometheus asks all.
    leader = {"cordee.dev/leader": "true"}
    assert leader.items() <= several.one("Service", "-cordee")["spec"]["selector"].items()
    assert not leader.items() <= several.one("Service", "-metrics")["spec"]["selector"].items()
    assert not leader.items() <= render().one("Service", "-cordee")["spec"]["selector"].items()


def test_what_is_configured_beyond_the_values_wins() -> None:
    values = {"coordinator": {"config": {"kubernetes": {"maxWorkers": 3}}}, "workers": {"maxWorkers": 9}}
    assert config(values)["kubernetes"]["maxWorkers"] == 3
    assert config(values)["kubernetes"]["instance"] == "rel"


# --- secrets and certificates


def test_tokens_are_made_up_and_given_ones_are_taken() -> None:
    def token(values: dict[str, Any]) -> str:
        secret = render(values).one("Secret", "-cordee-token")
        return base64.b64decode(secret["data"]["token"]).decode()

    assert len(token({})) == 48
    assert token({}) != token({"commonLabels": {"a": "b"}})  # another rendering
    assert token({"auth": {"token": {"value": "a-given-token-of-ours"}}}) == "a-given-token-of-ours"


def test_secrets_of_the_users_own_leave_none_to_make() -> None:
    assert not render(case="existing-secrets").all("Secret")


def test_which_secrets_jobs_may_name_is_in_the_coordinators_configuration() -> None:
    for values, expected in (({}, ["*"]), ({"workers": {"allowedSecrets": []}}, [])):
        assert config(values)["kubernetes"]["allowedSecrets"] == expected
    assert "allowedSecrets" in refusal({"workers": {"allowedSecrets": ["Job_*"]}})


def test_certificates_are_good_for_every_name_by_the_strictest_rules() -> None:
    values = {"tls": {"extraHosts": ["cordee.example.org", "192.0.2.10"]}}
    data = {k: base64.b64decode(v) for k, v in render(values).one("Secret", "-tls")["data"].items()}
    authority = x509.load_pem_x509_certificate(data["ca.crt"])
    leaf = x509.load_pem_x509_certificate(data["tls.crt"])
    store = Store([authority])
    names = ["rel-cordee", "rel-cordee.training.svc", "rel-cordee.training.svc.cluster.local", "localhost"]
    for name in [*names, "rel-cordee-metrics.training.svc", "cordee.example.org"]:
        assert PolicyBuilder().store(store).build_server_verifier(x509.DNSName(name)).verify(leaf, [])
    others = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(a) for a in others.get_values_for_type(x509.IPAddress)} == {"127.0.0.1", "::1", "192.0.2.10"}
    with pytest.raises(x509.verification.VerificationError):
        PolicyBuilder().store(store).build_server_verifier(x509.DNSName("elsewhere.example.org")).verify(leaf, [])


def test_the_authoritys_key_is_nowhere() -> None:
    text = base64.b64decode(render().one("Secret", "-tls")["data"]["tls.key"]).decode()
    assert text.count("PRIVATE KEY") == 2  # one key: its first and its last line
    assert set(render().one("Secret", "-tls")["data"]) == {"ca.crt", "tls.crt", "tls.key"}


def test_cert_manager_signs_by_a_given_issuer_or_by_an_authority_of_the_releases_own() -> None:
    given = render(case="cert-manager")
    assert not given.all("Issuer")
    assert given.one("Certificate")["spec"]["issuerRef"]["name"] == "example"
    assert "192.0.2.10" in given.one("Certificate")["spec"]["ipAddresses"]
    assert "cordee.example.org" in given.one("Certificate")["spec"]["dnsNames"]
    own = render(case="cert-manager-alone")
    (ca,) = [c for c in own.all("Certificate") if c["spec"].get("isCA")]
    (issuer,) = [i for i in own.all("Issuer") if i["spec"] == {"ca": {"secretName": ca["spec"]["secretName"]}}]
    leaves = {u: c for c in own.all("Certificate") for u in c["spec"].get("usages", [])}
    for usage in ("server auth", "client auth"):  # mutual TLS, in this case
        assert leaves[usage]["spec"]["issuerRef"]["name"] == issuer["metadata"]["name"]
    assert ca["spec"]["secretName"] in config({"tls": {"mode": "certManager"}})["kubernetes"]["protectedSecrets"]


def test_mutual_tls_has_a_certificate_for_workers_by_the_same_authority() -> None:
    values = {"tls": {"mutual": {"enabled": True}}}
    server = {k: base64.b64decode(v) for k, v in render(values).one("Secret", "-tls")["data"].items()}
    client = {k: base64.b64decode(v) for k, v in render(values).one("Secret", "-client")["data"].items()}
    assert set(client) == {"tls.crt", "tls.key"}
    leaf = x509.load_pem_x509_certificate(client["tls.crt"])
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(server["ca.crt"]))
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert x509.ExtendedKeyUsageOID.CLIENT_AUTH in usage
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert config(values)["kubernetes"]["clientCertificate"] == "rel-cordee-client"
    assert config(values)["tls"]["clientAuthority"] == "/var/run/secrets/cordee/client-authority/ca.crt"


def test_what_lets_a_certificate_through_is_what_the_monitor_verifies_by() -> None:
    (endpoint,) = render(case="monitoring").one("ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"]["serverName"] == "rel-cordee-metrics.training.svc"
    assert endpoint["tlsConfig"]["ca"]["secret"] == {"name": "rel-cordee-tls", "key": "ca.crt"}
    assert endpoint["authorization"]["credentials"] == {"name": "rel-cordee-metrics-token", "key": "token"}


# --- the network


def policy(values: dict[str, Any], name: str) -> dict[str, Any]:
    return dict(render(values).one("NetworkPolicy", f"-{name}")["spec"])


def test_first_of_all_nobody_reaches_anybody() -> None:
    closed = policy({}, "deny")
    assert closed["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(closed)
    for o in [*render().all("Deployment"), *render().all("Pod")]:
        labels = o["spec"].get("template", o)["metadata"]["labels"]
        assert closed["podSelector"]["matchLabels"].items() <= labels.items()


def test_workers_reach_the_coordinator_and_dns_and_nothing_reaches_them() -> None:
    workers = policy({}, "workers")
    assert "ingress" not in workers
    dns, coordinator = workers["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    (peer,) = coordinator["to"]
    assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "coordinator"
    assert {port["port"] for port in coordinator["ports"]} == {8470, 8471}
    # Policies are of pods' own ports, and OpenShift's answer behind another one than their Service's.
    dns = policy({"networkPolicy": {"dnsPorts": [5353]}}, "coordinator")["egress"][0]
    assert {(port["protocol"], port["port"]) for port in dns["ports"]} == {("UDP", 5353), ("TCP", 5353)}
    assert config({})["kubernetes"]["networkPolicies"] is True


def test_without_a_policy_for_each_job_workers_of_the_release_reach_each_other() -> None:
    values = {"networkPolicy": {"perJob": False}}
    (ingress,) = policy(values, "workers")["ingress"]
    assert ingress["from"][0]["podSelector"] == policy(values, "workers")["podSelector"]
    assert config(values)["kubernetes"]["networkPolicies"] is False
    rules = render(values).one("Role")["rules"]
    assert "networkpolicies" not in {resource for rule in rules for resource in rule["resources"]}


def test_storage_and_database_open_their_doors_only_where_they_are_used() -> None:
    def ports(values: dict[str, Any], name: str) -> set[int]:
        return {port["port"] for rule in policy(values, name)["egress"] for port in rule.get("ports", [])}

    assert 443 not in ports({}, "workers")
    assert 443 in ports({"storage": {"url": "s3://bucket/folder"}}, "workers")
    assert 5432 not in ports({}, "coordinator")
    assert 5432 in ports({"database": {"existingSecret": "db"}}, "coordinator")


def test_metrics_are_for_the_monitoring_namespace_and_rest_for_named_clients() -> None:
    clients = [{"namespaceSelector": {"matchLabels": {"team": "ml"}}}]
    rules = policy({"networkPolicy": {"clients": clients}}, "coordinator")["ingress"]
    by_port = {frozenset(port["port"] for port in rule["ports"]): rule["from"] for rule in rules}
    assert clients[0] in by_port[frozenset({8470})]
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert by_port[frozenset({9090})] == [monitoring]
    assert not render({"networkPolicy": {"enabled": False}}).all("NetworkPolicy")


# --- what lies in files


def test_dashboards_and_rules_arrive_as_they_lie_in_their_files() -> None:
    rendered = render(case="monitoring")
    dashboards = sorted((CHART / "files" / "dashboards").glob("*.json"))
    made = [o for o in rendered.all("ConfigMap") if o["metadata"]["labels"].get("dashboards") == "yes"]
    assert len(made) == len(dashboards)
    texts = [json.loads(text) for o in made for text in o["data"].values()]
    for file in dashboards:
        assert json.loads(file.read_text(encoding="utf-8")) in texts
    for o in made:
        assert o["metadata"]["annotations"] == {"folder": "ML", "a": "b"}
    groups = [
        group
        for file in sorted((CHART / "files" / "rules").glob("*.yaml"))
        for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
    ]
    assert rendered.one("PrometheusRule")["spec"]["groups"][:-1] == groups
    assert rendered.one("PrometheusRule")["spec"]["groups"][-1]["name"] == "ours"


def test_the_custom_resource_is_kept_unless_it_is_said_otherwise() -> None:
    files = sorted((CHART / "files" / "crds").glob("*.yaml"))
    made = render().all("CustomResourceDefinition")
    assert [o["spec"] for o in made] == [yaml.safe_load(file.read_text(encoding="utf-8"))["spec"] for file in files]
    assert all(o["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for o in made)
    for o in render({"crds": {"keep": False}}).all("CustomResourceDefinition"):
        assert "helm.sh/resource-policy" not in o["metadata"]["annotations"]
    assert not render({"crds": {"install": False}}).all("CustomResourceDefinition")


# --- refusals


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"replicas": 2}, ["additional properties 'replicas' not allowed"]),
        ({"coordinator": {"replica": 2}}, ["at '/coordinator'", "'replica' not allowed"]),
        ({"coordinator": {"replicas": "2"}}, ["at '/coordinator/replicas'", "want integer"]),
        ({"image": {"digest": "sha256:12"}}, ["at '/image/digest'", "does not match pattern"]),
        ({"image": {"tag": 1.0}}, ["at '/image/tag'", "want string"]),
        ({"workers": {"image": {"version": "1"}}}, ["at '/workers/image'", "'version' not allowed"]),
        ({"tls": {"mode": "selfsigned"}}, ["at '/tls/mode'", "'selfSigned', 'certManager', 'existingSecret'"]),
        ({"auth": {"token": {"value": "short"}}}, ["at '/auth/token/value'"]),
        ({"auth": {"tokens": [{"name": "a"}]}}, ["at '/auth/tokens/0'", "missing property 'existingSecret'"]),
        ({"auth": {"oidc": {"issuer": "http://plain"}}}, ["at '/auth/oidc/issuer'"]),
        ({"auth": {"tokens": [{"name": "a", "existingSecret": "b", "role": "owner"}]}}, ["at '/auth/tokens/0/role'"]),
        ({"auth": {"oidc": {"role": "owner"}}}, ["at '/auth/oidc/role'"]),
        ({"retention": {"maxJobs": -1}}, ["at '/retention/maxJobs'"]),
        ({"storage": {"url": "ftp://x"}}, ["at '/storage/url'"]),
        ({"singleNamespace": False}, ["at '/singleNamespace'", "value must be true"]),
        ({"workers": {"pod": {"bogus": 1}}}, ["at '/workers/pod'", "'bogus' not allowed"]),
        ({"workers": {"pod": {"resources": {"memory": "8 GB"}}}}, ["at '/workers/pod/resources/memory'", "pattern"]),
        ({"workers": {"pod": {"secretEnv": {"A": {"name": "b"}}}}}, ["at '/workers/pod/secretEnv/A'", "'key'"]),
        ({"coordinator": {"config": {"nonsense": 1}}}, ["at '/coordinator/config'", "'nonsense' not allowed"]),
        ({"coordinator": {"config": {"kubernetes": {"maxWorker": 3}}}}, ["/config/kubernetes'", "'maxWorker' not"]),
        ({"coordinator": {"config": {"kubernetes": {"pod": {"bogus": 1}}}}}, ["/kubernetes/pod'", "'bogus' not"]),
        ({"coordinator": {"config": {"auth": {"tokens": [{"name": "a"}]}}}}, ["/tokens/0'", "missing property 'file'"]),
        ({"coordinator": {"resources": {"limits": {"memory": "1 GiB"}}}}, ["'/coordinator/resources/limits/memory'"]),
        ({"cleanup": {"resources": {"requests": {"cpu": "many"}}}}, ["at '/cleanup/resources/requests/cpu'"]),
        ({"test": {"resources": {"limits": {"memory": "-1Gi"}}}}, ["at '/test/resources/limits/memory'"]),
        ({"persistence": {"size": "abc"}}, ["at '/persistence/size'", "does not match pattern"]),
        ({"persistence": {"size": "10GB"}}, ["at '/persistence/size'"]),
    ],
)
def test_the_schema_refuses_what_is_not_a_value(values: dict[str, Any], words: list[str]) -> None:
    said = refusal(values)
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"coordinator": {"replicas": 2}}, ["SQLite is for one coordinator", "persistence.accessModes"]),
        ({"coordinator": {"replicas": 2}, "database": {"existingSecret": "a"}, "persistence": {"enabled": False}},
         ["set persistence.enabled"]),
        ({"tls": {"mode": "existingSecret"}}, ["name the Secret in tls.existingSecret"]),
        ({"tls": {"existingSecret": "a"}}, ["set tls.mode to existingSecret"]),
        ({"tls": {"mode": "off", "mutual": {"enabled": True}}}, ["tls.mutual is enabled, but tls.mode is off"]),
        ({"tls": {"mutual": {"clientSecret": "a"}}}, ["set tls.mutual.enabled, or remove them"]),
        ({"tls": {"mutual": {"enabled": True, "authoritySecret": "a"}}}, ["tls.mutual.clientSecret"]),
        ({"storage": {"url": "s3://a/b", "existingClaim": "c"}}, ["remove one of them"]),
        ({"storage": {"existingSecret": "c"}}, ["storage.url, which is empty"]),
        ({"auth": {"token": {"value": "a" * 16, "existingSecret": "b"}}}, ["both value and existingSecret"]),
        ({"auth": {"tokens": [{"name": "a", "existingSecret": "b"}] * 2}}, ["auth.tokens names a twice"]),
        ({"metrics": {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}}, ["twice, choose one"]),
        ({"rbac": {"create": False}}, ["coordinator.serviceAccount.name"]),
    ],
)  # fmt: skip
def test_values_that_do_not_go_together_are_refused_all_at_once(values: dict[str, Any], words: list[str]) -> None:
    said = refusal(values)
    assert "These values do not go together" in said
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("values", "group", "words"),
    [
        ({"tls": {"mode": "certManager"}}, "cert-manager.io/v1", "install cert-manager, or choose selfSigned"),
        (
            {"metrics": {"serviceMonitor": {"enabled": True}}},
            "monitoring.coreos.com/v1",
            "install the Prometheus operator",
        ),
    ],
)
def test_a_real_cluster_without_the_operators_is_told_so(values: dict[str, Any], group: str, words: str) -> None:
    real = ("--api-versions", "apiregistration.k8s.io/v1")
    assert words in refusal(values, real)
    assert render(values, arguments=(*real, "--api-versions", group)).objects
    assert render(values).objects  # GitOps: nobody is asked


@pytest.mark.parametrize(
    "values",
    [
        {"coordinator": {"config": {"leaderElection": {"retrySeconds": 1}}}},
        {"coordinator": {"config": {"tls": {"clientAuthority": None}, "uploads": {"logBytes": 1 << 30}}}},
        {"coordinator": {"config": {"kubernetes": {"authority": {"key": "other.crt"}}}}},
        {"coordinator": {"resources": {"requests": {"cpu": 0.5}, "limits": {"nvidia.com/gpu": 1, "memory": "1.5Gi"}}}},
        {"workers": {"pod": {"resources": {"cpu": 2, "memory": "8Gi", "gpu": 1, "sharedMemory": None}}}},
        {"workers": {"pod": {"template": {"spec": {"hostname": "a"}}, "tolerations": [{"operator": "Exists"}]}}},
        {"persistence": {"size": "1e12"}},
    ],
)
def test_the_schema_takes_a_part_of_the_configuration_and_every_quantity(values: dict[str, Any]) -> None:
    assert render(values).config


def test_what_no_schema_can_say_is_found_by_the_coordinator(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(render({"coordinator": {"config": {"auth": {"tokenFile": "token"}}}}).config)
    with pytest.raises(Exception, match=r"auth.tokenFile is 'token'; give an absolute path"):
        load_config(path)
