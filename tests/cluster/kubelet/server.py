"""The HTTPS endpoint of a node, which the API server asks for containers' logs (`kubectl logs`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import tempfile
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cluster.kubelet.node import Node
from cluster.kubelet.pod import PodWorker

__all__ = ["LogServer"]

FOLLOW_SECONDS = 0.1


class LogServer:
    """Serves one node's `containerLogs`. Its certificate is `certificate`'s; the API server is who asks."""

    def __init__(self, node: Node, certificate: tuple[bytes, bytes]) -> None:
        self._node, self._host = node, node.host
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile("wb", suffix=".pem") as both:
            both.write(b"\n".join(certificate))
            both.flush()
            self._context.load_cert_chain(both.name)
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, self._host.address, self._node.port, ssl=self._context)

    def close(self) -> None:
        if self._server:
            self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            if not self._host.plugged:
                return
            await self._answer(head.split(" ")[1], reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def _answer(self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        url = urlsplit(target)
        words = url.path.strip("/").split("/")
        query = {name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        if len(words) != 4 or words[0] != "containerLogs":
            await _say(writer, HTTPStatus.NOT_FOUND, f"this node serves containerLogs only, not {url.path}")
            return
        _, namespace, pod, container = words
        try:
            worker = self._node.worker(namespace, pod)
            path = worker.log(container, previous=query.get("previous") == "true")
        except LookupError as error:
            await _say(writer, HTTPStatus.NOT_FOUND, str(error.args[0]))
            return
        if path is None:
            await _say(writer, HTTPStatus.BAD_REQUEST, f'container "{container}" in pod "{pod}" has no such log (yet)')
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
        await self._stream(worker, container, path, query, reader, writer)
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _stream(
        self,
        worker: PodWorker,
        container: str,
        path: Path,
        query: dict[str, str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        left = int(query["limitBytes"]) if "limitBytes" in query else None
        with path.open("rb") as file:
            if "tailLines" in query:
                file.seek(_tail(path, int(query["tailLines"])))
            while True:
                # Whether it runs is asked before the reading: what it says last is not missed.
                running = worker.runs(container, path)
                while data := file.read(1 << 16):
                    data = data if left is None else data[:left]
                    if not data:
                        return
                    left = None if left is None else left - len(data)
                    writer.write(b"%x\r\n%s\r\n" % (len(data), data))
                    await writer.drain()
                if query.get("follow") != "true" or not running or reader.at_eof():
                    return
                await asyncio.sleep(FOLLOW_SECONDS)


def _tail(path: Path, lines: int) -> int:
    """Where the last `lines` lines begin."""
    data = path.read_bytes()
    end = len(data) - data.endswith(b"\n")
    for _ in range(lines):
        end = data.rfind(b"\n", 0, end)
        if end < 0:
            return 0
    return len(data) if lines == 0 else end + len(os.linesep)


async def _say(writer: asyncio.StreamWriter, status: HTTPStatus, sentence: str) -> None:
    body = sentence.encode()
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
