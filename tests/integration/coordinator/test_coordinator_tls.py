"""TLS and mutual TLS on every port: real servers on the loopback, real certificates, real clients."""

import asyncio
import re
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx2
import pytest

from cordee.coordinator.client import Client, Endpoint, UnreachableError, read_endpoint
from cordee.coordinator.config import Config, Listen, Tls
from cordee.coordinator.service.server import CoordinatorServer
from cordee.coordinator.service.tls import not_after
from cordee.rpc.v1 import worker_pb2 as pb
from cordee.rpc.v1 import worker_pb2_grpc as rpc
from cordee.worker.credentials import Credentials
from cordee.worker.session import Session
from cordee.worker.session_state import WorkerIdentity

sys.path.insert(0, str(Path(__file__).parents[2]))
from pki import Authority, Pair, replace

pytestmark = pytest.mark.slow


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """An authority that nobody here trusts."""
    return Authority(tmp_path / "stranger", "stranger")


@asynccontextmanager
async def serving(state: Path, tls: Tls, **options: Any) -> AsyncIterator[CoordinatorServer]:
    server = CoordinatorServer(state, config=Config(tls=tls, listen=Listen(metrics_port=0)), **options)
    await server.start()
    try:
        async with asyncio.timeout(60):
            await server.rest_ready.wait()
        yield server
    finally:
        await server.stop(stop_jobs=True)


def files(authority: Authority, pair: Pair, clients: Authority | None = None) -> Tls:
    return Tls(
        certificate=str(pair.certificate),
        key=str(pair.key),
        authority=str(authority.file),
        client_authority=str(clients.file) if clients else None,
    )


async def ask(server: CoordinatorServer, authority: Authority | None, shown: Pair | None = None) -> list[Any]:
    """The list of jobs, over REST."""

    def work() -> list[Any]:
        endpoint = Endpoint(
            server.rest_url,
            server.token,
            authority=str(authority.file) if authority else None,
            certificate=str(shown.certificate) if shown else None,
            key=str(shown.key) if shown else None,
        )
        with Client(endpoint) as client:
            return list(client.jobs())

    return await asyncio.to_thread(work)


async def attach(server: CoordinatorServer, authority: Authority | None, shown: Pair | None = None) -> grpc.StatusCode:
    """What gRPC answers to a call without a token: UNAUTHENTICATED, once TLS stands."""
    credentials = grpc.ssl_channel_credentials(
        authority.file.read_bytes() if authority else None,
        shown.key.read_bytes() if shown else None,
        shown.certificate.read_bytes() if shown else None,
    )
    async with grpc.aio.secure_channel(server.grpc_address, credentials) as channel:
        try:
            async for _ in rpc.WorkerServiceStub(channel).FetchBundle(pb.FetchBundleRequest(job="x"), timeout=20):
                pass
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


CAME_IN = grpc.StatusCode.UNAUTHENTICATED
KEPT_OUT = grpc.StatusCode.UNAVAILABLE


async def test_rest_and_grpc_are_encrypted_for_whoever_trusts_the_authority(
    tmp_path: Path, authority: Authority, stranger: Authority
) -> None:
    async with serving(tmp_path / "state", files(authority, authority.issue("coordinator"))) as server:
        assert server.rest_url.startswith("https://127.0.0.1:")
        assert await ask(server, authority) == []
        assert await attach(server, authority) is CAME_IN
        for other in (stranger, None):
            with pytest.raises(UnreachableError, match="certificate is not trusted"):
                await ask(server, other)
        assert await attach(server, stranger) is KEPT_OUT
        # The CLI finds it by its state folder, the authority included.
        endpoint = read_endpoint(tmp_path / "state")
        assert endpoint is not None
        assert endpoint.authority == str(authority.file)
        # The metrics port is encrypted, too.
        context = ssl.create_default_context(cafile=authority.file)
        async with httpx2.AsyncClient(verify=context, trust_env=False) as http:
            assert (await http.get(f"{server.metrics_url}/healthz", timeout=30)).status_code == 200


async def test_nothing_but_tls_is_spoken_on_a_port_that_speaks_tls(tmp_path: Path, authority: Authority) -> None:
    async with serving(tmp_path / "state", files(authority, authority.issue("coordinator"))) as server:
        async with httpx2.AsyncClient(trust_env=False) as http:
            for url in (server.rest_url, server.metrics_url):
                with pytest.raises(httpx2.TransportError):
                    await http.get(url.replace("https:", "http:") + "/healthz")
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in rpc.WorkerServiceStub(channel).FetchBundle(pb.FetchBundleRequest(job="x"), timeout=20):
                    pass
            assert caught.value.code() is KEPT_OUT


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
async def test_what_is_older_than_tls_1_2_is_refused(
    tmp_path: Path, authority: Authority, version: ssl.TLSVersion
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.file)
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with serving(tmp_path / "state", files(authority, authority.issue("coordinator"))) as server:
        for address in (server.rest_url.removeprefix("https://"), server.grpc_address):
            host, _, port = address.rpartition(":")
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection(host, int(port), ssl=context)


async def test_an_expired_certificate_and_one_of_another_name_are_refused(tmp_path: Path, authority: Authority) -> None:
    for name, options in (("expired", {"days": -1}), ("another", {"names": ("elsewhere.example",)})):
        async with serving(tmp_path / name, files(authority, authority.issue(name, **options))) as server:
            with pytest.raises(UnreachableError, match="certificate is not trusted"):
                await ask(server, authority)
            assert await attach(server, authority) is KEPT_OUT


async def test_with_mutual_tls_nobody_comes_in_without_a_certificate(
    tmp_path: Path, authority: Authority, stranger: Authority
) -> None:
    clients = Authority(tmp_path / "clients", "clients")
    mine = clients.issue("me", client=True)
    others = (None, stranger.issue("other", client=True), clients.issue("late", client=True, days=-1))
    async with serving(tmp_path / "state", files(authority, authority.issue("coordinator"), clients)) as server:
        assert await ask(server, authority, mine) == []
        assert await attach(server, authority, mine) is CAME_IN
        for shown in others:
            with pytest.raises(UnreachableError):
                await ask(server, authority, shown)
            assert await attach(server, authority, shown) is KEPT_OUT
        # Probes have no certificate; their port shows nothing that needs one.
        context = ssl.create_default_context(cafile=authority.file)
        async with httpx2.AsyncClient(verify=context, trust_env=False) as http:
            assert (await http.get(f"{server.metrics_url}/healthz", timeout=30)).status_code == 200
            assert (await http.get(f"{server.metrics_url}/metrics", timeout=30)).status_code == 401


async def test_a_renewed_certificate_is_used_without_a_restart(tmp_path: Path, authority: Authority) -> None:
    shown = authority.issue("coordinator")
    later = Authority(tmp_path / "later", "later")
    async with serving(tmp_path / "state", files(authority, shown)) as server:
        assert await ask(server, authority) == []
        replace(shown, later.issue("coordinator"))
        assert await ask(server, later) == []
        assert await attach(server, later) is CAME_IN
        with pytest.raises(UnreachableError, match="certificate is not trusted"):
            await ask(server, authority)
        assert await attach(server, authority) is KEPT_OUT
        # Half of a pair, or no certificate at all, leaves the last good one in use.
        shown.key.write_text("nonsense")
        assert await ask(server, later) == []
        assert await attach(server, later) is CAME_IN
        replace(shown, authority.issue("again"))
        assert await ask(server, authority) == []


async def test_the_end_of_the_certificate_in_use_is_a_metric(tmp_path: Path, authority: Authority) -> None:
    shown = authority.issue("coordinator", days=3)
    async with serving(tmp_path / "state", files(authority, shown)) as server:
        context = ssl.create_default_context(cafile=authority.file)
        token = {"Authorization": f"Bearer {server.token}"}
        for days in (3, 30):
            replace(shown, authority.issue(f"for-{days}", days=days))
            # A connection each: it is looked for a newer certificate when somebody connects.
            async with httpx2.AsyncClient(verify=context, headers=token, trust_env=False, timeout=30) as http:
                page = (await http.get(f"{server.metrics_url}/metrics")).text
            [told] = re.findall(r"^cordee_tls_certificate_expiry_timestamp_seconds (\S+)$", page, re.MULTILINE)
            assert float(told) == not_after(shown.certificate.read_bytes())


async def test_clients_of_an_authority_that_was_taken_back_are_out(tmp_path: Path, authority: Authority) -> None:
    clients, next_clients = Authority(tmp_path / "clients", "clients"), Authority(tmp_path / "next", "clients")
    mine, theirs = clients.issue("me", client=True), next_clients.issue("me", client=True)
    async with serving(tmp_path / "state", files(authority, authority.issue("coordinator"), clients)) as server:
        assert await ask(server, authority, mine) == []
        clients.file.write_bytes(next_clients.file.read_bytes())
        assert await ask(server, authority, theirs) == []
        assert await attach(server, authority, theirs) is CAME_IN
        with pytest.raises(UnreachableError):
            await ask(server, authority, mine)
        assert await attach(server, authority, mine) is KEPT_OUT


@pytest.mark.parametrize("mutual", [False, True])
async def test_a_job_trains_over_tls(tmp_path: Path, authority: Authority, tools: Any, mutual: bool) -> None:
    own = authority.issue("coordinator", both=True)
    async with serving(tmp_path / "state", files(authority, own, authority if mutual else None)) as server:
        bundle, sha256 = tools.make_bundle({"train.py": "print('trained', flush=True)\n"})
        shown = own if mutual else None

        def train() -> Any:
            endpoint = Endpoint(
                server.rest_url,
                server.token,
                authority=str(authority.file),
                certificate=str(shown.certificate) if shown else None,
                key=str(shown.key) if shown else None,
            )
            with Client(endpoint) as client:
                job = client.submit(tools.make_document(workers=(1, 1)), bundle, sha256)
                *_, last = client.watch(job["id"])
                return last, [line["line"] for line in client.logs(job["id"], follow=True)]

        last, lines = await asyncio.to_thread(train)
        assert last["state"] == "succeeded", last
        assert lines[0] == "trained"


def test_the_end_of_a_certificate_is_read(authority: Authority) -> None:
    from cryptography import x509

    for days in (1, 400 * 365):  # UTCTime, and GeneralizedTime after 2049
        pem = authority.issue(f"for-{days}", days=days).certificate.read_bytes()
        assert not_after(pem) == x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()
    for broken in (b"", b"nonsense", pem[:-60]):
        with pytest.raises(ValueError):
            not_after(broken)


async def test_a_worker_reads_its_token_and_authority_again_whenever_it_attaches(
    tmp_path: Path, authority: Authority, tools: Any
) -> None:
    """A projected token is renewed every hour; an authority is replaced. Neither needs another worker."""
    later = Authority(tmp_path / "later", "later")
    shown = authority.issue("coordinator")
    trusted, token_file = tmp_path / "ca.crt", tmp_path / "token"
    trusted.write_bytes(authority.file.read_bytes())
    token_file.write_text("a-token-that-has-expired\n")
    options = {"agent_command": tools.AGENT_COMMAND, "policy": tools.POLICY}
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(tmp_path / "state", files(authority, shown), **options))
        bundle, sha256 = tools.make_bundle({"train.py": ""})
        job = await asyncio.to_thread(submit, server, authority, tools.make_document(workers=(1, 1)), bundle, sha256)
        identity = WorkerIdentity(job, f"{job}-w0", "one", "127.0.0.1:9", 1)
        credentials = Credentials(token_file=token_file, tls=True, authority=trusted)
        session = Session(identity, server.grpc_address, credentials, orphan_seconds=120)
        stack.callback(session.close)
        session.start()
        await asyncio.sleep(0.5)
        assert session.secret == ""  # refused so far
        secret = server.controller.find(job).token
        token_file.write_text(secret + "\n")
        await tools.until(lambda: session.secret)
        assert session.secret == secret

        def attached(on: CoordinatorServer) -> bool:
            return any(member.pid for member in on.controller.job(job).members)

        await tools.until(lambda: attached(server))
        await server.stop(stop_jobs=False)
        # The next coordinator on this folder shows a certificate of another authority, on the same port.
        replace(shown, later.issue("coordinator"))
        trusted.write_bytes(later.file.read_bytes())
        again = await stack.enter_async_context(serving(tmp_path / "state", files(later, shown), **options))
        assert again.grpc_address == server.grpc_address
        await tools.until(lambda: attached(again))


def submit(server: CoordinatorServer, authority: Authority, document: Any, bundle: bytes, sha256: str) -> str:
    with Client(Endpoint(server.rest_url, server.token, authority=str(authority.file))) as client:
        return client.submit(document, bundle, sha256)["id"]
