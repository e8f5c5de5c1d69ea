"""Nothing is open by default: every page and every call, listed by the program itself, tried by every kind of caller.

Who is added to a route forgets nothing: the list comes from the application's routes, from its OpenAPI document and
from the protocol's descriptor, and what has no rule here fails.
"""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx2
import pytest
from fastapi.routing import APIRoute
from starlette.routing import Route

from cordee.coordinator.config import Auth, Config, NamedToken
from cordee.coordinator.service.people import METRICS, verb_of
from cordee.rpc.v1 import worker_pb2 as pb

pytestmark = pytest.mark.slow

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
OPEN = {("GET", "/healthz"), ("GET", "/readyz")}
WORKERS = "/v1/workers/"


@dataclass
class House:
    """A coordinator with every kind of static token, and two jobs, each with its workers' token."""

    coordinator: Any
    http: httpx2.AsyncClient
    tokens: dict[str, str]
    mine: str
    other: str

    def paths(self) -> set[str]:
        """Every path that is answered, with this job and its first worker in place of the parameters."""
        app = self.coordinator.server.application
        assert all(isinstance(route, Route | APIRoute) for route in app.routes), "a route that no test here knows of"
        listed = {route.path for route in app.routes} | set(app.openapi()["paths"])
        values = {"ref": self.mine, "sha256": "0" * 64, "worker": f"{self.mine}-w0", "path": "weights.npz"}

        def fill(match: re.Match[str]) -> str:
            return values[match[1]]

        return {re.sub(r"{(\w+)(?::\w+)?}", fill, path) for path in listed}

    async def ask(self, method: str, path: str, token: str | None) -> httpx2.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return await self.http.request(method, path, headers=headers)


@pytest.fixture
async def house(tmp_path: Path, start: Any, tools: Any) -> AsyncIterator[House]:
    tokens = {
        "admin": "the-administrators",
        "ci": "a-token-of-a-program",
        "chief": "another-who-may-all",
        "guest": "somebody-who-looks",
        "metrics": "only-for-prometheus",
    }
    for name, token in tokens.items():
        (tmp_path / name).write_text(token + "\n")
    auth = Auth(
        token_file=str(tmp_path / "admin"),
        tokens=(
            NamedToken(name="ci", file=str(tmp_path / "ci"), role="editor"),
            NamedToken(name="chief", file=str(tmp_path / "chief"), role="admin"),
            NamedToken(name="guest", file=str(tmp_path / "guest")),  # what nobody has said is the least
        ),
        metrics_token_file=str(tmp_path / "metrics"),
    )
    async with start(tmp_path / "state", config=Config(auth=auth)) as coordinator:
        mine, other = [(await coordinator.submit(tools.make_document(workers=(1, 1))))["id"] for _ in range(2)]
        for name, job in (("mine", mine), ("other", other)):
            tokens[name] = (await coordinator.environment(job))["CORDEE_TOKEN"]
        async with httpx2.AsyncClient(base_url=coordinator.server.rest_url, trust_env=False, timeout=30) as http:
            yield House(coordinator, http, tokens, mine, other)


async def test_the_openapi_document_describes_every_page(house: House) -> None:
    app = house.coordinator.server.application
    described = {(method.upper(), path) for path, item in app.openapi()["paths"].items() for method in item}
    routed = {
        (method, re.sub(r"{(\w+):\w+}", r"{\1}", route.path)) for route in app.routes for method in route.methods or ()
    }
    assert described == routed - {("GET", "/openapi.json"), ("HEAD", "/openapi.json")}


async def test_every_page_for_people_stands_for_a_verb(house: House) -> None:
    app = house.coordinator.server.application
    for route in app.routes:
        path = re.sub(r"{\w+(:\w+)?}", "x", route.path)
        for method in route.methods:
            if (method, path) not in OPEN and not path.startswith(WORKERS):
                assert verb_of(method, path) is not None, (method, path)


async def test_without_a_token_nothing_is_answered(house: House) -> None:
    pages = [*house.paths(), "/", "/docs", "/no/such/page", "/v1/workers", "/v1/workers/", "//v1/jobs", "/v1/jobs/"]
    assert len(pages) > 15
    for path in pages:
        for method in METHODS:
            for token in (None, "x" * 43):
                answer = await house.ask(method, path, token)
                if (method, path) in OPEN or (method == "HEAD" and ("GET", path) in OPEN):
                    assert answer.status_code in {200, 405, 503}
                else:
                    assert answer.status_code == 401, (method, path)
                    assert answer.headers["www-authenticate"] == "Bearer"
                    assert method == "HEAD" or answer.json()["error"]["code"] == "unauthorized"


async def test_a_workers_token_opens_nothing_of_peoples(house: House) -> None:
    for path in house.paths():
        if path.startswith(WORKERS) or ("GET", path) in OPEN:
            continue
        for method in METHODS:
            assert (await house.ask(method, path, house.tokens["mine"])).status_code == 401, (method, path)


async def test_peoples_tokens_open_nothing_of_workers(house: House) -> None:
    paths = {path for path in house.paths() if path.startswith(WORKERS)}
    assert paths
    for path in paths:
        for method in METHODS:
            for who in ("admin", "guest", "metrics"):
                assert (await house.ask(method, path, house.tokens[who])).status_code == 401, (method, path)


async def test_the_token_of_another_jobs_worker_opens_nothing_of_this_ones(house: House) -> None:
    paths = {path for path in house.paths() if path.startswith(WORKERS)}
    tricks = {
        f"{WORKERS}{house.mine}-w0",  # no page, and not its own
        f"{WORKERS}{house.other}-w0/../{house.mine}-w0/logs",
        f"{WORKERS}{house.other}-w0%2F..%2F{house.mine}-w0/logs",
        f"{WORKERS}{house.mine}-w0%00/logs",
        f"{WORKERS}{house.other}-w0{house.mine}-w0/logs",
        f"{WORKERS}{house.mine}-wx/logs",
        f"{WORKERS}/logs",
    }
    for path in paths | tricks:
        for method in METHODS:
            answer = await house.ask(method, path, house.tokens["other"])
            assert answer.status_code in {401, 403, 404}, (method, path)
            if path in paths:
                assert answer.status_code == 403, (method, path)
    for path in paths:  # and its own is let in, whatever the page makes of an empty request
        statuses = {(await house.ask(method, path, house.tokens["mine"])).status_code for method in METHODS}
        assert not statuses & {401, 403, 500}, (path, statuses)


async def test_the_metrics_token_opens_the_metrics_and_nothing_else(house: House) -> None:
    for path in house.paths():
        if path.startswith(WORKERS) or ("GET", path) in OPEN:
            continue
        for method in METHODS:
            answer = await house.ask(method, path, house.tokens["metrics"])
            if verb_of(method, path) == METRICS:
                assert answer.status_code == 200
            else:
                assert answer.status_code == 403, (method, path)
    refused = (await house.ask("GET", "/v1/jobs", house.tokens["metrics"])).json()["error"]
    assert refused["message"] == "metrics may not GET /v1/jobs"
    assert refused["hint"] == "this token opens /metrics and nothing else"


@pytest.mark.parametrize("who", ["guest", "ci", "chief"])
async def test_a_role_opens_what_it_is_for_and_nothing_else(house: House, who: str) -> None:
    looks = {METRICS, "get", "list"}
    opened = {"guest": looks, "ci": looks | {"create", "update", "delete"}, "chief": None}[who]
    headers = {"Authorization": f"Bearer {house.tokens[who]}"}
    refused = 0
    for path in sorted(house.paths()):
        if path.startswith(WORKERS) or ("GET", path) in OPEN:
            continue
        for method in METHODS:
            async with house.http.stream(method, path, headers=headers) as answer:
                if opened is None or verb_of(method, path) in opened:
                    assert answer.status_code not in {401, 403, 500}, (method, path)
                else:
                    assert answer.status_code == 403, (method, path)
                    refused += 1
    assert refused > 5 or who == "chief"


async def test_a_role_says_which_one_it_would_take(house: House) -> None:
    for who, method, path, role in (
        ("guest", "POST", "/v1/jobs", "editor"),
        ("guest", "POST", f"/v1/jobs/{house.mine}/cancel", "editor"),
        ("guest", "DELETE", f"/v1/jobs/{house.mine}", "admin"),
        ("ci", "DELETE", f"/v1/jobs/{house.mine}", "admin"),
    ):
        said = (await house.ask(method, path, house.tokens[who])).json()["error"]
        assert said["message"] == f"{who} may not {method} {path}"
        assert f"this takes the role {role};" in said["hint"]


async def test_a_token_is_taken_back_by_writing_another(house: House, tmp_path: Path) -> None:
    assert (await house.ask("GET", "/v1/jobs", house.tokens["ci"])).status_code == 200
    (tmp_path / "ci").write_text("another-token-for-the-program\n")
    assert (await house.ask("GET", "/v1/jobs", house.tokens["ci"])).status_code == 401
    assert (await house.ask("GET", "/v1/jobs", "another-token-for-the-program")).status_code == 200
    for gone in ("", "short"):  # a file without a token is nobody's, not everybody's
        (tmp_path / "ci").write_text(gone)
        for token in ("another-token-for-the-program", gone or "x"):
            assert (await house.ask("GET", "/v1/jobs", token)).status_code == 401
    (tmp_path / "ci").unlink()
    assert (await house.ask("GET", "/v1/jobs", "another-token-for-the-program")).status_code == 401
    assert (await house.ask("GET", "/v1/jobs", house.tokens["admin"])).status_code == 200


async def test_the_history_says_who_did_it(house: House) -> None:
    job = house.mine

    async def post(action: str, who: str, body: dict[str, Any] | None = None) -> None:
        headers = {"Authorization": f"Bearer {house.tokens[who]}"}
        assert (await house.http.post(f"/v1/jobs/{job}/{action}", headers=headers, json=body)).status_code == 200

    await post("scale", "ci", {"min": 1, "max": 2})
    await post("scale", "admin", {"min": 1, "max": 1})
    await post("cancel", "ci")
    view = await house.coordinator.view(job)
    told = [event["message"] for event in view["events"]]
    assert "1:2 workers by ci" in told
    assert not any("1:1 workers by" in message for message in told)
    assert view["reason"] == "cancelled by ci"


def methods() -> list[tuple[str, bool]]:
    """Every method of every service of the protocol, and whether requests stream."""
    return [
        (f"/{service.full_name}/{method.name}", method.client_streaming)
        for service in pb.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]


async def test_no_call_is_answered_without_a_workers_token(house: House) -> None:
    assert len(methods()) >= 2
    elsewhere = ("/cordee.rpc.v1.WorkerService/NoSuch", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    callers = (None, "", "x" * 43, house.tokens["admin"], house.tokens["ci"], house.tokens["metrics"])
    async with grpc.aio.insecure_channel(house.coordinator.server.grpc_address) as channel:
        for name, _ in (*methods(), *((path, True) for path in elsewhere)):
            for token in callers:
                metadata = () if token is None else (("authorization", f"Bearer {token}"),)
                # Before anything is said: a message that crosses the refusal may end as an error of the client's own.
                call = channel.stream_stream(name)(metadata=metadata, timeout=20)
                assert await call.code() is grpc.StatusCode.UNAUTHENTICATED, (name, token)


async def test_the_token_of_another_job_is_refused_by_every_call(house: House) -> None:
    first = {
        "Attach": pb.WorkerMessage(
            hello=pb.Hello(job=house.mine, worker=f"{house.mine}-w0", incarnation="i", address="a:1")
        ),
        "FetchBundle": pb.FetchBundleRequest(job=house.mine),
    }
    metadata = (("authorization", f"Bearer {house.tokens['other']}"),)
    async with grpc.aio.insecure_channel(house.coordinator.server.grpc_address) as channel:
        for name, _ in methods():
            request = first[name.rpartition("/")[2]].SerializeToString()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in channel.stream_stream(name)(iter([request]), metadata=metadata, timeout=20):
                    pass
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED, name
