"""The HTTPS endpoint of a node: the API server asks it for logs (`kubectl logs`) and for commands (`kubectl exec`)."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cluster.kubelet.node import Node
from cluster.kubelet.pod import PodWorker
from cluster.kubelet.remote import serve_exec

__all__ = ["NodeServer"]

FOLLOW_SECONDS = 0.1
Query = dict[str, list[str]]


class NodeServer:
    """Serves one node, with a certificate and its key. The API server is who asks; others do not know where it is."""

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
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            if self._host.plugged:
                await self._answer(head, reader, writer)
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def _answer(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        url = urlsplit(first.split(" ")[1])
        query = parse_qs(url.query, keep_blank_values=True)
        words = url.path.strip("/").split("/")
        try:
            match words:
                case ["containerLogs", namespace, pod, container]:
                    await self._logs(self._node.worker(namespace, pod), container, query, reader, writer)
                case ["exec", namespace, pod, container]:
                    process = self._node.worker(namespace, pod).process(container)
                    stdin = query.get("input") == ["1"]
                    await serve_exec(process, query.get("command") or [], headers, reader, writer, stdin=stdin)
                case _:
                    _say(writer, HTTPStatus.NOT_FOUND, f"this node serves logs and exec only, not {url.path}")
        except LookupError as error:
            _say(writer, HTTPStatus.NOT_FOUND, str(error.args[0]))

    async def _logs(
        self,
        worker: PodWorker,
        container: str,
        query: Query,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        path = worker.log(container, previous=query.get("previous") == ["true"])
        if path is None:
            _say(
                writer, HTTPStatus.BAD_REQUEST, f'container "{container}" in pod "{worker.name}" has no such log (yet)'
            )
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
        left = int(query["limitBytes"][0]) if "limitBytes" in query else None
        follow = query.get("follow") == ["true"]
        with path.open("rb") as file:
            if "tailLines" in query:
                file.seek(_tail(path, int(query["tailLines"][0])))
            while True:
                # Whether it runs is asked before the reading: what it says last is not missed.
                running = worker.runs(container, path)
                while left != 0 and (data := file.read(1 << 16 if left is None else min(left, 1 << 16))):
                    left = None if left is None else left - len(data)
                    writer.write(b"%x\r\n%s\r\n" % (len(data), data))
                    await writer.drain()
                if not (follow and running) or left == 0 or reader.at_eof():
                    break
                await asyncio.sleep(FOLLOW_SECONDS)
        writer.write(b"0\r\n\r\n")


def _tail(path: Path, lines: int) -> int:
    """Where the last `lines` lines begin."""
    data = path.read_bytes()
    if lines == 0:
        return len(data)
    end = len(data) - data.endswith(b"\n")
    for _ in range(lines):
        end = data.rfind(b"\n", 0, end)
        if end < 0:
            return 0
    return end + 1


def _say(writer: asyncio.StreamWriter, status: HTTPStatus, sentence: str) -> None:
    body = sentence.encode()
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
