"""The few things a kubelet wants of an API server: plain REST, and a watch that goes on whatever happens.

The official client is heavy and synchronous; a test cluster has dozens of watches and little CPU. Objects are the JSON
that came over the wire.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import yaml

__all__ = ["MERGE", "STRATEGIC", "Access", "Api", "ApiError", "Json", "Unreachable"]

Json = dict[str, Any]
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


class ApiError(Exception):
    """The API server's refusal: its HTTP status, its reason word, and its sentence."""

    def __init__(self, status: int, body: str) -> None:
        try:
            answer = json.loads(body)
        except ValueError:
            answer = {}
        answer = answer if isinstance(answer, dict) else {}
        self.status: int = int(answer.get("code") or status)
        self.reason: str = answer.get("reason") or ""
        self.message: str = answer.get("message") or body[:400]
        super().__init__(f"{self.status} {self.reason}: {self.message}")


class Unreachable(ConnectionError):
    """There was no answer: the API server is away, or this node is cut off."""


@dataclass(frozen=True, slots=True)
class Access:
    """Where an API server is, and as whom to speak to it."""

    server: str
    context: ssl.SSLContext
    token: str | None = None

    @classmethod
    def from_kubeconfig(cls, path: Path) -> Access:
        config = yaml.safe_load(path.read_text())
        current = next(c["context"] for c in config["contexts"] if c["name"] == config["current-context"])
        cluster = next(c["cluster"] for c in config["clusters"] if c["name"] == current["cluster"])
        user = next(u["user"] for u in config["users"] if u["name"] == current["user"])
        authority = _text(cluster, "certificate-authority", path)
        context = ssl.create_default_context(cadata=authority) if authority else ssl._create_unverified_context()
        certificate, key = _text(user, "client-certificate", path), _text(user, "client-key", path)
        if certificate and key:
            # The ssl module reads certificates from files only.
            with tempfile.NamedTemporaryFile("w", suffix=".pem") as both:
                both.write(certificate + "\n" + key)
                both.flush()
                context.load_cert_chain(both.name)
        return cls(cluster["server"].rstrip("/"), context, user.get("token"))


def _text(section: Json, name: str, kubeconfig: Path) -> str | None:
    if data := section.get(f"{name}-data"):
        return base64.b64decode(data).decode()
    if file := section.get(name):
        return (kubeconfig.parent / file).read_text()
    return None


class Api:
    """Requests to one API server. `cut` is the network partition: nothing passes while it is set."""

    def __init__(self, access: Access, *, agent: str = "cordee-test-kubelet") -> None:
        self.access = access
        self.cut = False
        headers = {"User-Agent": agent, "Accept": "application/json"}
        if access.token:
            headers["Authorization"] = f"Bearer {access.token}"
        self._client = httpx2.AsyncClient(
            base_url=access.server,
            verify=access.context,
            headers=headers,
            timeout=httpx2.Timeout(10.0, pool=None),
            limits=httpx2.Limits(max_connections=400, max_keepalive_connections=20, keepalive_expiry=30),
            trust_env=False,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def request(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        params: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Json:
        if self.cut:
            raise Unreachable("this node is cut off from the API server")
        try:
            response = await self._client.request(
                method,
                path,
                content=None if body is None else json.dumps(body).encode(),
                params=params,
                headers=None if body is None else {"Content-Type": content_type},
            )
        except httpx2.TransportError as error:
            raise Unreachable(f"{method} {path}: {error}") from error
        if response.status_code >= 400:
            raise ApiError(response.status_code, response.text)
        answer: Json = response.json()
        return answer

    async def get(self, path: str, **params: str) -> Json:
        return await self.request("GET", path, params=params or None)

    async def create(self, path: str, body: Json) -> Json:
        return await self.request("POST", path, body)

    async def patch(self, path: str, body: Json, content_type: str = MERGE) -> Json:
        return await self.request("PATCH", path, body, content_type=content_type)

    async def delete(self, path: str, body: Json | None = None) -> Json:
        return await self.request("DELETE", path, body)

    async def apply(self, collection: str, body: Json) -> Json:
        """Creates, or merges into what is there."""
        try:
            return await self.create(collection, body)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            return await self.patch(f"{collection}/{body['metadata']['name']}", body)

    async def watch(self, path: str, **params: str) -> AsyncIterator[tuple[str, Any]]:
        """Yields ("SYNC", the whole list), then ("ADDED" | "MODIFIED" | "DELETED", object), without an end.

        A stream that breaks is taken up where it was; where the API server has forgotten that place (410 Gone), there
        is a new SYNC.
        """
        version: str | None = None
        delay = 0.05
        while True:
            try:
                if version is None:
                    listed = await self.get(path, **params)
                    version = listed["metadata"]["resourceVersion"]
                    yield "SYNC", listed.get("items") or []
                async for kind, item in self._stream(path, params, version):
                    if kind == "ERROR":
                        if item.get("code") == 410:
                            version = None
                        break
                    version = item["metadata"]["resourceVersion"]
                    delay = 0.05
                    if kind != "BOOKMARK":
                        yield kind, item
            except ApiError as error:
                if error.status == 410:
                    version = None
                elif error.status not in {401, 403, 404, 429} and error.status < 500:
                    raise
                delay = min(delay * 2, 2.0)
            except (Unreachable, httpx2.TransportError):
                delay = min(delay * 2, 2.0)
            await asyncio.sleep(delay)

    async def _stream(self, path: str, params: dict[str, str], version: str) -> AsyncIterator[tuple[str, Json]]:
        query = {
            **params,
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": "240",
        }
        if self.cut:
            raise Unreachable("this node is cut off from the API server")
        async with self._client.stream("GET", path, params=query, timeout=httpx2.Timeout(10.0, read=260)) as response:
            if response.status_code >= 400:
                await response.aread()
                raise ApiError(response.status_code, response.text)
            async for line in response.aiter_lines():
                if self.cut:
                    raise Unreachable("this node is cut off from the API server")
                event = json.loads(line)
                yield event["type"], event["object"]
