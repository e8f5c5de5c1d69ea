"""Probes and hooks: asking a container how it is, by a command, HTTP, TCP or gRPC, and counting its answers."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

__all__ = ["Verdicts", "act", "follow"]

Json = dict[str, Any]
Execute = Callable[[list[str], float], Awaitable[tuple[int, str]]]


@dataclass(slots=True)
class Verdicts:
    """Counts answers in a row: pure. A verdict changes when the threshold of one kind of answer is reached."""

    successes_wanted: int
    failures_wanted: int
    good: bool | None
    _same: int = 0
    _last: bool | None = None

    def hear(self, answer: bool) -> bool:
        """Takes one answer; says whether the verdict is now another."""
        self._same = self._same + 1 if answer == self._last else 1
        self._last = answer
        if self._same < (self.successes_wanted if answer else self.failures_wanted):
            return False
        changed = self.good != answer
        self.good = answer
        return changed


async def follow(
    probe: Json, ask: Callable[[], Awaitable[tuple[bool, str] | None]], *, good: bool | None
) -> AsyncIterator[tuple[bool, str]]:
    """Asks as often as the probe says, and yields each change of the verdict. An answer of None counts for nothing."""
    verdicts = Verdicts(probe.get("successThreshold") or 1, probe.get("failureThreshold") or 3, good)
    await asyncio.sleep(probe.get("initialDelaySeconds") or 0)
    while True:
        answer = await ask()
        if answer is not None and verdicts.hear(answer[0]):
            yield answer
        await asyncio.sleep(probe.get("periodSeconds") or 10)


async def act(action: Json, container: Json, address: str, execute: Execute, seconds: float) -> tuple[bool, str]:
    """One question, or one hook: whether it went well, and what was said."""
    try:
        async with asyncio.timeout(seconds):
            if command := action.get("exec"):
                code, output = await execute(command["command"], seconds)
                return code == 0, output.strip()[-400:]
            if get := action.get("httpGet"):
                return await asyncio.to_thread(
                    _http, get, get.get("host") or address, _port(get["port"], container), seconds
                )
            if socket := action.get("tcpSocket"):
                port = _port(socket["port"], container)
                _, writer = await asyncio.open_connection(socket.get("host") or address, port)
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
                return True, ""
            if call := action.get("grpc"):
                return await _grpc(f"{address}:{call['port']}", call.get("service") or "")
            if pause := action.get("sleep"):
                await asyncio.sleep(pause["seconds"])
                return True, ""
    except TimeoutError:
        return False, f"no answer within {seconds:g} s"
    except OSError as error:
        return False, str(error)
    return False, f"unknown kind of probe: {sorted(action)}"


def _port(port: int | str, container: Json) -> int:
    """By number, or by the name of one of the container's ports."""
    if isinstance(port, int) or port.isdigit():
        return int(port)
    for entry in container.get("ports") or []:
        if entry.get("name") == port:
            return int(entry["containerPort"])
    raise OSError(f"the container has no port named {port!r}")


def _http(get: Json, host: str, port: int, seconds: float) -> tuple[bool, str]:
    """Kubelets do not verify certificates, and take every answer from 200 to 399 as good."""
    headers = {entry["name"]: entry["value"] for entry in get.get("httpHeaders") or []}
    connection: http.client.HTTPConnection
    if (get.get("scheme") or "HTTP").upper() == "HTTPS":
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection(host, port, timeout=seconds, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=seconds)
    try:
        connection.request("GET", get.get("path") or "/", headers={"User-Agent": "kube-probe/1.36", **headers})
        response = connection.getresponse()
        body = response.read(2048).decode(errors="replace")
    except http.client.HTTPException as error:
        return False, repr(error)
    finally:
        connection.close()
    return 200 <= response.status < 400, f"HTTP probe failed with statuscode: {response.status}: {body[:200]}"


async def _grpc(target: str, service: str) -> tuple[bool, str]:
    """grpc.health.v1.Health/Check: field 1 of the question is the service's name, of the answer 1 for SERVING."""
    name = service.encode()
    question = b"\x0a" + bytes([len(name)]) + name if name else b""
    async with grpc.aio.insecure_channel(target) as channel:
        try:
            answer = await channel.unary_unary("/grpc.health.v1.Health/Check")(question)
        except grpc.aio.AioRpcError as error:
            return False, f"{error.code().name}: {error.details()}"
    return answer == b"\x08\x01", "service unhealthy"
