"""`cordee coordinator --config FILE`: real processes and ports, as the file says."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from cordee.coordinator.client import Client, read_endpoint
from cordee.coordinator.config import Auth, Config, Listen, Tls
from cordee.coordinator.errors import CoordinatorError
from cordee.coordinator.service.server import CoordinatorServer

pytestmark = pytest.mark.slow

TOKEN = "the-administrators-token"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def coordinator(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`cordee coordinator`, once it says that it listens."""
    command = [sys.executable, "-m", "cordee.coordinator.cli", "coordinator", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_a_configuration_file_is_obeyed_and_flags_win_over_it(tmp_path: Path) -> None:
    rest, grpc_port, other = free_port(), free_port(), free_port()
    (tmp_path / "token").write_text(TOKEN + "\n")
    config = tmp_path / "coordinator.yaml"
    config.write_text(
        "apiVersion: cordee.dev/v1alpha1\nkind: CoordinatorConfig\n"
        f"state: {tmp_path}/state\nslots: 3\n"
        f"listen: {{restPort: {rest}, grpcPort: {grpc_port}, metricsPort: 0}}\n"
        f"auth: {{tokenFile: {tmp_path}/token}}\n"
    )
    with coordinator("--config", str(config), "--grpc-port", str(other)) as process:
        assert process.stderr is not None
        said = next(line for line in process.stderr if line.startswith("cordee coordinator at "))
        assert f"http://127.0.0.1:{rest} (workers: 127.0.0.1:{other})" in said
        assert not (tmp_path / "state" / "token").exists()
        endpoint = read_endpoint(tmp_path / "state")
        assert endpoint is not None
        assert endpoint.token == TOKEN
        with Client(endpoint) as client:
            assert client.jobs() == []


def test_what_is_wrong_in_the_file_is_told_before_a_port_is_opened(tmp_path: Path) -> None:
    config = tmp_path / "coordinator.yaml"
    config.write_text("apiVersion: cordee.dev/v1alpha1\nlisten: {restport: 1}\n")
    done = subprocess.run(
        [sys.executable, "-m", "cordee.coordinator.cli", "coordinator", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "listen.restport" in done.stderr
    assert "Traceback" not in done.stderr


async def test_the_metrics_port_has_the_metrics_and_nothing_else(tmp_path: Path) -> None:
    server = CoordinatorServer(tmp_path, config=Config(listen=Listen(metrics_port=0)))
    await server.start()
    try:
        headers = {"Authorization": f"Bearer {server.token}"}
        async with httpx2.AsyncClient(base_url=server.metrics_url, trust_env=False, timeout=30) as http:
            assert (await http.get("/healthz")).status_code == 200
            assert (await http.get("/metrics")).status_code == 401
            assert "cordee_" in (await http.get("/metrics", headers=headers)).text
            for page in ("/v1/jobs", "/openapi.json", "/"):
                assert (await http.get(page, headers=headers)).status_code == 404
    finally:
        await server.stop(stop_jobs=True)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (Config(auth=Auth(token_file="/no/such/file")), "/no/such/file"),
        (Config(tls=Tls(certificate="/no/certificate", key="/no/key")), "/no/certificate"),
    ],
)
async def test_what_cannot_be_had_is_refused_in_a_sentence(tmp_path: Path, config: Config, named: str) -> None:
    with pytest.raises(CoordinatorError, match=named):
        await CoordinatorServer(tmp_path, config=config).start()
    assert not (tmp_path / "endpoint.json").exists()
