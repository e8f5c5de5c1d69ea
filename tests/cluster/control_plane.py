"""A real control plane on the loopback: etcd, the API server, its controllers and its scheduler, as processes.

    with ControlPlane(folder) as plane:
        plane.kubectl("get", "namespaces")

Nothing of it is a stand-in, but it is set for tests: state is in memory, graces are short, and what needs a cloud or a
container runtime is left out. It has no node: tests register node objects, or run the kubelet of tests/cluster/kubelet.

Several control planes can run on one machine. Each takes a *slot*, a number that gives it loopback addresses of its own
(`address` for its servers, `service_range` unless another is given), so no port is searched for or shared. A pod or a
Service may have a loopback address, but EndpointSlices must not name one: pods that Services are to reach need others.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from cluster import binaries
from cluster.certificates import Authority, Pair, write_key_pair
from cluster.processes import Server, wait_until

__all__ = ["ALL", "API_ONLY", "ISSUER", "ControlPlane"]

API_ONLY = ("etcd", "kube-apiserver")
ALL = (*API_ONLY, "kube-controller-manager", "kube-scheduler")

NUM_SLOTS = 40
CLIENT_PORT, PEER_PORT, API_PORT, MANAGER_PORT, SCHEDULER_PORT = 22379, 22380, 26443, 20257, 20259
# Who signs service-account tokens, and the audience that the API server takes for itself.
ISSUER = "https://kubernetes.default.svc.cluster.local"

CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "deployment-controller",
    "disruption-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "horizontal-pod-autoscaler-controller",
    "job-controller",
    "namespace-controller",
    "node-lifecycle-controller",
    "persistentvolume-binder-controller",
    "persistentvolume-protection-controller",
    "persistentvolumeclaim-protection-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "statefulset-controller",
    "taint-eviction-controller",
    "ttl-after-finished-controller",
)
# A node is lost when it was silent for so long; then its pods are evicted after EVICTION_SECONDS. The kubelet of a busy
# machine must not look dead, so this is not shorter.
NODE_GRACE_SECONDS = 6
EVICTION_SECONDS = 1


class ControlPlane:
    """The processes of a control plane, and the way to speak with them.

    `folder` takes certificates, kubeconfigs and logs (`folder/logs`); etcd's data is in memory. `components`: which of
    `ALL` run; `API_ONLY` is enough for dry runs and authorisation, and starts in half the time.
    """

    def __init__(
        self,
        folder: Path,
        components: Sequence[str] = ALL,
        service_range: str | None = None,
        api_flags: Iterable[str] = (),
        manager_flags: Iterable[str] = (),
    ) -> None:
        self.folder = folder
        self.components = tuple(components)
        self._slot, self._lock = _take_slot()
        self.address = f"127.60.{self._slot}.1"
        """Where all its servers listen."""
        self.service_range = service_range or f"127.{200 + self._slot}.0.0/16"
        """Where Services get their ClusterIPs; the API server's own Service has the first one, port 443."""
        self.authority = Authority("cordee-test-kubernetes")
        """Signs everything here: a kubelet's serving certificate comes from it, too."""
        # By slot, so that what a killed process left is found and removed by the next one.
        memory = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())
        self._data = memory / f"test-etcd-{os.getuid()}-{self._slot}"
        shutil.rmtree(self._data, ignore_errors=True)
        self.servers: dict[str, Server] = {}
        self._api_flags, self._manager_flags = list(api_flags), list(manager_flags)

    @property
    def url(self) -> str:
        """The API server's."""
        return f"https://{self.address}:{API_PORT}"

    @property
    def service_address(self) -> str:
        """The ClusterIP of the API server's own Service, `kubernetes.default`."""
        return str(ipaddress.ip_network(self.service_range)[1])

    @property
    def ca_file(self) -> Path:
        return self.folder / "pki" / "ca.crt"

    @property
    def kubeconfig(self) -> Path:
        """Of somebody who may do everything."""
        return self.folder / "admin.kubeconfig"

    def start(self) -> None:
        """Starts all components, and returns when they are ready for use."""
        (self.folder / "pki").mkdir(parents=True, exist_ok=True)
        (self.folder / "logs").mkdir(exist_ok=True)
        self._data.mkdir(mode=0o700)
        self._write_credentials()
        for name, command in self._commands().items():
            environment = {"GOGC": "200"} if name == "kube-apiserver" else {}
            self.servers[name] = Server(name, command, self.folder / "logs" / f"{name}.log", environment)
        try:
            # etcd is there in a tenth of a second, and the API server waits for it by itself.
            self.servers["etcd"].start()
            self.servers["kube-apiserver"].start()
            self.wait_ready()
            for name in self.components[len(API_ONLY) :]:
                self.servers[name].start()
            self._wait_components()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends everything and frees the slot. The logs stay."""
        for server in reversed(self.servers.values()):
            # Nothing is worth keeping, and an orderly end of the API server takes its time to say goodbye to watches.
            server.stop(patience_seconds=2.0 if server.name == "etcd" else 0.2)
        shutil.rmtree(self._data, ignore_errors=True)
        self._lock.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def restart_api_server(self, down_seconds: float = 0.0, kill: bool = False) -> None:
        """Ends the API server, in order or by SIGKILL, leaves it away for a while, and waits until it serves again.

        It forgets what it kept of the past: a watch resumed from before is answered 410 Gone when it missed anything.
        """
        server = self.servers["kube-apiserver"]
        # Its orderly end waits for every watch to be closed by its client; a second shows them the good will.
        server.stop(signal.SIGKILL if kill else signal.SIGTERM, patience_seconds=1.0)
        time.sleep(down_seconds)
        server.start()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Until the API server says of itself that it is ready."""
        wait_until(self._api_is_ready, "the API server is not ready", watched=list(self.servers.values()))

    # --- whom one can be

    def kubeconfig_for(self, user: str, groups: Iterable[str] = (), namespace: str = "default") -> Path:
        """A kubeconfig for a user with a client certificate; RBAC says what they may do: nothing, at first."""
        name = f"user-{user.replace(':', '-').replace('/', '-')}-{namespace}"
        pair = self.authority.issue(user, groups)
        return self._write_kubeconfig(name, _credentials(pair, self.folder / "pki", name), namespace)

    def kubeconfig_for_service_account(self, namespace: str, name: str, expiry: str = "1h") -> Path:
        """A kubeconfig with a fresh token of a service account."""
        token = self.kubectl("create", "token", name, "--namespace", namespace, "--duration", expiry).strip()
        return self._write_kubeconfig(f"account-{namespace}-{name}", {"token": token}, namespace)

    # --- speaking with it

    def kubectl(
        self, *arguments: str, kubeconfig: Path | None = None, stdin: str | None = None, check: bool = True
    ) -> str:
        """Runs kubectl and returns what it printed; raises with what it complained of when it failed."""
        done = self.run("kubectl", *arguments, kubeconfig=kubeconfig, stdin=stdin)
        if check and done.returncode != 0:
            raise RuntimeError(
                f"kubectl {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done.stdout

    def get(self, *arguments: str, kubeconfig: Path | None = None) -> Any:
        """`kubectl get … -o json`, parsed."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json", kubeconfig=kubeconfig))

    def apply(
        self, *objects: Mapping[str, Any] | str, namespace: str | None = None, kubeconfig: Path | None = None
    ) -> str:
        """Applies objects (or YAML) server-side."""
        where = ("--namespace", namespace) if namespace else ()
        text = "\n---\n".join(each if isinstance(each, str) else json.dumps(each) for each in objects)
        return self.kubectl("apply", "--server-side", "-f", "-", *where, stdin=text, kubeconfig=kubeconfig)

    def create_namespace(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """Makes a namespace, and returns when pods can be made in it."""
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels or {})}})
        if "kube-controller-manager" in self.components:
            account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
            wait_until(lambda: self.request("GET", account)[0] == 200, f"no service account in {name}")

    def run(
        self, program: str, *arguments: str, kubeconfig: Path | None = None, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs kubectl, helm or any program with this cluster as its KUBECONFIG."""
        return subprocess.run(
            [str(binaries.binary(program)), *arguments],
            env=self.environment(kubeconfig),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def environment(self, kubeconfig: Path | None = None) -> dict[str, str]:
        """What programs find this cluster by; their caches and settings stay in its folder."""
        return {
            **os.environ,
            "KUBECONFIG": str(kubeconfig or self.kubeconfig),
            "KUBECACHEDIR": str(self.folder / "cache"),
            "HELM_CACHE_HOME": str(self.folder / "helm" / "cache"),
            "HELM_CONFIG_HOME": str(self.folder / "helm" / "config"),
            "HELM_DATA_HOME": str(self.folder / "helm" / "data"),
            "PATH": binaries.search_path(),
        }

    @contextlib.contextmanager
    def connection(self) -> Iterator[http.client.HTTPSConnection]:
        """A connection as admin, for what kubectl has no command for."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        context.load_cert_chain(self.folder / "pki" / "admin.crt", self.folder / "pki" / "admin.key")
        connection = http.client.HTTPSConnection(self.address, API_PORT, context=context, timeout=10)
        try:
            yield connection
        finally:
            connection.close()

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """One request as admin: status and parsed answer."""
        with self.connection() as connection:
            data = None if body is None else json.dumps(body)
            kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
            connection.request(method, path, body=data, headers={"Content-Type": kind})
            answer = connection.getresponse()
            text = answer.read().decode()
            is_json = (answer.headers.get_content_type()) == "application/json"
            return answer.status, json.loads(text) if is_json else text

    # --- making it

    def _write_credentials(self) -> None:
        pki = self.folder / "pki"
        self.ca_file.write_bytes(self.authority.certificate)
        write_key_pair(pki, "service-accounts")
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
        hosts = [*names, "localhost", "127.0.0.1", self.address, self.service_address]
        self.authority.issue("kube-apiserver", hosts=hosts).write(pki, "apiserver")
        self.authority.issue("etcd", hosts=["localhost", self.address]).write(pki, "etcd")
        self.authority.issue("kube-apiserver-kubelet-client", ["system:masters"]).write(pki, "kubelet-client")
        self.authority.issue("front-proxy-client").write(pki, "front-proxy-client")
        people = {"admin": ("kubernetes-admin", ["system:masters"])}
        for component in ("kube-controller-manager", "kube-scheduler"):
            people[component] = (f"system:{component}", [])
        for name, (user, groups) in people.items():
            self._write_kubeconfig(name, _credentials(self.authority.issue(user, groups), pki, name))

    def _write_kubeconfig(self, name: str, user: Mapping[str, str], namespace: str = "default") -> Path:
        context = {"cluster": "test", "user": name, "namespace": namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.url, "certificate-authority": str(self.ca_file)}}],
            "users": [{"name": name, "user": dict(user)}],
            "contexts": [{"name": "test", "context": context}],
            "current-context": "test",
        }
        path = self.folder / f"{name}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config))
        return path

    def _commands(self) -> dict[str, list[str]]:
        pki = self.folder / "pki"
        client, peer = f"https://{self.address}:{CLIENT_PORT}", f"http://{self.address}:{PEER_PORT}"
        flags: dict[str, dict[str, str]] = {
            "etcd": {
                "data-dir": str(self._data),
                "unsafe-no-fsync": "true",
                "listen-client-urls": client,
                "advertise-client-urls": client,
                "listen-peer-urls": peer,
                "initial-advertise-peer-urls": peer,
                "initial-cluster": f"default={peer}",
                "cert-file": str(pki / "etcd.crt"),
                "key-file": str(pki / "etcd.key"),
                "trusted-ca-file": str(self.ca_file),
                "client-cert-auth": "true",
                "log-level": "warn",
            },
            "kube-apiserver": {
                "bind-address": self.address,
                "advertise-address": self.address,
                "secure-port": str(API_PORT),
                # It would write its own address into Endpoints, which must not be a loopback one.
                "endpoint-reconciler-type": "none",
                "etcd-servers": client,
                "etcd-cafile": str(self.ca_file),
                "etcd-certfile": str(pki / "apiserver.crt"),
                "etcd-keyfile": str(pki / "apiserver.key"),
                "tls-cert-file": str(pki / "apiserver.crt"),
                "tls-private-key-file": str(pki / "apiserver.key"),
                "client-ca-file": str(self.ca_file),
                "kubelet-client-certificate": str(pki / "kubelet-client.crt"),
                "kubelet-client-key": str(pki / "kubelet-client.key"),
                "kubelet-preferred-address-types": "InternalIP",
                "requestheader-client-ca-file": str(self.ca_file),
                "requestheader-allowed-names": "front-proxy-client",
                "requestheader-extra-headers-prefix": "X-Remote-Extra-",
                "requestheader-group-headers": "X-Remote-Group",
                "requestheader-username-headers": "X-Remote-User",
                "proxy-client-cert-file": str(pki / "front-proxy-client.crt"),
                "proxy-client-key-file": str(pki / "front-proxy-client.key"),
                "authorization-mode": "Node,RBAC",
                "enable-admission-plugins": "NodeRestriction",
                "service-account-issuer": ISSUER,
                "service-account-key-file": str(pki / "service-accounts.pub"),
                "service-account-signing-key-file": str(pki / "service-accounts.key"),
                "service-cluster-ip-range": self.service_range,
                "default-not-ready-toleration-seconds": str(EVICTION_SECONDS),
                "default-unreachable-toleration-seconds": str(EVICTION_SECONDS),
                "shutdown-delay-duration": "0s",
                "profiling": "false",
            },
            "kube-controller-manager": {
                "bind-address": self.address,
                "secure-port": str(MANAGER_PORT),
                "kubeconfig": str(self.folder / "kube-controller-manager.kubeconfig"),
                "controllers": ",".join(CONTROLLERS),
                "use-service-account-credentials": "true",
                "service-account-private-key-file": str(pki / "service-accounts.key"),
                "root-ca-file": str(self.ca_file),
                "leader-elect": "false",
                "node-monitor-grace-period": f"{NODE_GRACE_SECONDS}s",
                "node-monitor-period": "500ms",
                "node-startup-grace-period": f"{2 * NODE_GRACE_SECONDS}s",
                "node-eviction-rate": "10",
                "horizontal-pod-autoscaler-sync-period": "1s",
                "horizontal-pod-autoscaler-downscale-stabilization": "1s",
                "pvclaimbinder-sync-period": "1s",
                "kube-api-qps": "200",
                "kube-api-burst": "400",
                "profiling": "false",
            },
            "kube-scheduler": {
                "bind-address": self.address,
                "secure-port": str(SCHEDULER_PORT),
                "kubeconfig": str(self.folder / "kube-scheduler.kubeconfig"),
                "leader-elect": "false",
                "kube-api-qps": "200",
                "kube-api-burst": "400",
                "profiling": "false",
            },
        }
        more = {"kube-apiserver": self._api_flags, "kube-controller-manager": self._manager_flags}
        return {
            name: [
                str(binaries.binary(name)),
                *(f"--{key}={value}" for key, value in flags[name].items()),
                *more.get(name, []),
            ]
            for name in self.components
        }

    # --- is it there

    def _api_is_ready(self) -> bool:
        return self._answers(API_PORT, "/readyz")

    def _wait_components(self) -> None:
        ports = {"kube-controller-manager": MANAGER_PORT, "kube-scheduler": SCHEDULER_PORT}
        running = list(self.servers.values())
        for name in self.components[len(API_ONLY) :]:
            wait_until(
                lambda name=name: self._answers(ports[name], "/healthz", False), f"{name} is not ready", watched=running
            )
        # What everybody needs first of the controllers: no pod is admitted before its service account is there.
        if "kube-controller-manager" in self.components:
            account = "/api/v1/namespaces/default/serviceaccounts/default"
            wait_until(lambda: self.request("GET", account)[0] == 200, "no service account in default", watched=running)

    def _answers(self, port: int, path: str, verified: bool = True) -> bool:
        context = ssl.create_default_context(cafile=str(self.ca_file))
        if not verified:  # these two make a certificate of their own, which nobody signed
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(self.address, port, context=context, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def _take_slot() -> tuple[int, socket.socket]:
    """The first number that nobody on this machine has, and the lock that keeps it: an abstract socket, which ends with
    its process and belongs to the network namespace, as the addresses do."""
    for slot in range(NUM_SLOTS):
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            lock.bind(f"\0cordee-test-cluster-{slot}")
        except OSError:
            lock.close()
            continue
        return slot, lock
    raise RuntimeError(f"all {NUM_SLOTS} slots for control planes are taken on this machine")


def _credentials(pair: Pair, folder: Path, name: str) -> dict[str, str]:
    certificate, key = pair.write(folder, name)
    return {"client-certificate": str(certificate), "client-key": str(key)}
