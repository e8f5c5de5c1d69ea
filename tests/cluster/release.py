"""Cordee in the tests' cluster, installed by its chart, and used from outside as its users do."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cluster.chart import CHART
from cluster.control_plane import ControlPlane
from cluster.kubelet.images import CORDEE
from cluster.processes import wait_until
from cordee.k8s.crd import GROUP, PLURAL, VERSION

__all__ = ["Platform", "PortForward", "undisturbed"]

SCRIPTS = Path(__file__).parent / "scripts"


class PortForward:
    """What `kubectl port-forward service/…` does: a port of this machine's loopback that leads to a Service.

    A connection is to whoever is behind the Service when it is made; so it goes on to work when that changes.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """No more connections; those there are go on until their ends close them."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with client:
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                return
            with server:
                server.settimeout(None)
                back = threading.Thread(target=_pipe, args=(server, client), daemon=True)
                back.start()
                _pipe(client, server)
                back.join()


def _pipe(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Platform:
    """One release in one namespace. `install` and `apply` are the two ways to put it there."""

    def __init__(self, plane: ControlPlane, namespace: str, folder: Path, release: str = "demo") -> None:
        self.plane, self.namespace, self.release = plane, namespace, release
        self.name = f"{release}-cordee"
        self._folder = folder
        self._forward: PortForward | None = None
        self.environment: dict[str, str] = {}

    # -- putting it there

    @staticmethod
    def values(**more: Any) -> list[str]:
        """`--set-json` for the image that the test kubelet knows, and for what else a test wants."""
        repository, _, tag = CORDEE.rpartition(":")
        said = {"image.registry": "", "image.repository": repository, "image.tag": tag, **more}
        return [word for name, value in said.items() for word in ("--set-json", f"{name}={json.dumps(value)}")]

    def install(self, *options: str, **values: Any) -> None:
        """`helm install --wait`."""
        words = ["install", self.release, str(CHART), "--namespace", self.namespace, "--wait", "--timeout", "120s"]
        self.helm(*words, *self.values(**values), *options)

    def apply(self, **values: Any) -> str:
        """`helm template | kubectl apply --server-side`; what was applied."""
        words = ["template", self.release, str(CHART), "--namespace", self.namespace, "--no-hooks"]
        rendered = self.helm(*words, *self.values(**values))
        self.plane.apply(rendered, namespace=self.namespace)
        self.kubectl("rollout", "status", f"deployment/{self.name}", "--timeout=120s")
        return rendered

    def connect(self, client_secret: str = "") -> None:
        """What NOTES.txt says: a forwarded port, the token, and the authority's certificate; with mutual TLS, one's own
        certificate as well."""
        service = self.get(f"service/{self.name}")
        self._forward = PortForward(service["spec"]["clusterIP"], 8470)
        secret = self.get(f"secret/{self.name}-tls")["data"]["ca.crt"]
        authority = self._folder / "cordee-ca.crt"
        authority.write_bytes(base64.b64decode(secret))
        token = base64.b64decode(self.get(f"secret/{self.name}-token")["data"]["token"]).decode()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CORDEE_")}
        self.environment = {
            **kept,
            "NO_COLOR": "1",
            "XDG_DATA_HOME": str(self._folder / "data"),
            "CORDEE_SERVER": f"https://localhost:{self._forward.port}",
            "CORDEE_TOKEN": token,
            "CORDEE_CA": str(authority),
        }
        if client_secret:
            for entry, variable in (("tls.crt", "CORDEE_CERT"), ("tls.key", "CORDEE_KEY")):
                path = self._folder / entry
                path.write_bytes(base64.b64decode(self.get(f"secret/{client_secret}")["data"][entry]))
                self.environment[variable] = str(path)

    def close(self) -> None:
        if self._forward is not None:
            self._forward.close()

    # -- using it

    def helm(self, *words: str) -> str:
        done = self.plane.run("helm", *words)
        if done.returncode != 0:
            raise RuntimeError(f"helm {' '.join(words)}: {done.stdout}{done.stderr}{self.said()}")
        return done.stdout

    def kubectl(self, *words: str) -> str:
        return self.plane.kubectl(*words, "--namespace", self.namespace)

    def get(self, what: str) -> Any:
        return json.loads(self.kubectl("get", what, "--output", "json"))

    def cordee(self, *words: str, check: bool = True, patience_seconds: float = 60) -> str:
        """A `cordee` command from outside the cluster; what it printed. As a person would, it tries again for a while
        when the coordinator cannot be reached: right after it was killed, or while this machine is very busy."""
        command = [sys.executable, "-m", "cordee.coordinator.cli", *words]
        deadline = time.monotonic() + patience_seconds
        while True:
            done = subprocess.run(
                command, env=self.environment, capture_output=True, text=True, timeout=60, check=False, cwd=self._folder
            )
            away = done.returncode != 0 and "no connection with the coordinator" in done.stderr
            if not away or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        if check and done.returncode != 0:
            raise RuntimeError(f"cordee {' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def submit(self, script: Path, *options: str, arguments: Sequence[str] = ()) -> str:
        """The job's id."""
        words = ["submit", str(script), *options, "-o", "json", *(["--", *arguments] if arguments else [])]
        return str(json.loads(self.cordee(*words))["id"])

    def status(self, job: str) -> Any:
        return json.loads(self.cordee("status", job, "-o", "json"))

    def thing(self, job: str) -> Any:
        """The job's object."""
        return self._ask(f"/apis/{GROUP}/{VERSION}/namespaces/{self.namespace}/{PLURAL}/{job}")

    def wait_for_step(self, job: str, step: int, timeout_seconds: float = 90) -> None:
        def reached() -> bool:
            status = self.thing(job).get("status", {})
            assert status.get("state") not in ("failed", "cancelled", "succeeded"), status
            return int(status.get("step") or 0) >= step

        wait_until(reached, f"step {step} of {job}", timeout_seconds)

    def wait_for_workers(self, job: str, count: int, timeout_seconds: float = 90) -> None:
        def there() -> bool:
            return int(self.thing(job).get("status", {}).get("workers", {}).get("running") or 0) == count

        wait_until(there, f"{count} workers of {job} training", timeout_seconds)

    def pods(self, job: str) -> Mapping[str, Any]:
        """The job's pods, by name."""
        return {pod["metadata"]["name"]: pod for pod in self.selected_pods(f"cordee.dev/job={job}")}

    def coordinator(self) -> str:
        """The coordinator's pod; empty between the end of one and the next."""
        selector = f"app.kubernetes.io/instance={self.release},app.kubernetes.io/component=coordinator"
        living = [pod for pod in self.selected_pods(selector) if "deletionTimestamp" not in pod["metadata"]]
        return str(living[0]["metadata"]["name"]) if living else ""

    def selected_pods(self, selector: str) -> list[Any]:
        """The pods with these labels."""
        found = self._ask(f"/api/v1/namespaces/{self.namespace}/pods?labelSelector={quote(selector, safe='')}")
        pods: list[Any] = found["items"]
        return pods

    def _ask(self, path: str) -> Any:
        """What is asked again and again is asked without a `kubectl`, whose start costs the training half a core."""
        status, answer = self.plane.request("GET", path)
        if status != 200:
            raise RuntimeError(f"GET {path}: {status}: {answer}")
        return answer

    def said(self) -> str:
        """What the coordinator and the cluster say, for a test's report."""
        words = [["logs", f"deployment/{self.name}", "--tail=60"], ["get", "pods,trainingjobs", "--output", "wide"]]
        words += [["get", "events", "--sort-by=.lastTimestamp"]]
        told = [self.plane.run("kubectl", *one, "--namespace", self.namespace).stdout for one in words]
        return "\n".join(told)


def undisturbed(script: Path, *arguments: str) -> str:
    """The weights that plain `python` on one machine ends with."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CORDEE_")}
    done = subprocess.run(
        [sys.executable, str(script), *arguments], env=kept, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.rpartition("weights ")[2].strip()
