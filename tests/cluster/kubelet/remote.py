"""`kubectl exec`: a command in a running container, its streams carried over a WebSocket (RFC 6455) by channels.

The node declares the feature ExtendWebSocketsToKubelet, so the API server passes the client's WebSocket through. Each
message begins with its channel's number. A terminal is not made: `-t` runs the command without one.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import signal
import struct
from typing import Any

from cluster.kubelet.runtime import Process, StartError, enter

__all__ = ["EXEC_FEATURE", "PROTOCOLS", "serve_exec"]

Json = dict[str, Any]
EXEC_FEATURE = "ExtendWebSocketsToKubelet"
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
STDIN, STDOUT, STDERR, ERROR, CLOSE_CHANNEL = 0, 1, 2, 3, 255
BINARY, CLOSE, PING, PONG = 2, 8, 9, 10
_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


async def serve_exec(
    process: Process,
    command: list[str],
    headers: dict[str, str],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    stdin: bool,
) -> None:
    """Answers the upgrade, runs the command, and says how it ended."""
    offered = [word.strip() for word in headers.get("sec-websocket-protocol", "").split(",")]
    protocol = next((name for name in PROTOCOLS if name in offered), None)
    if protocol is None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        return
    digest = hashlib.sha1((headers["sec-websocket-key"] + _MAGIC).encode()).digest()
    answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    answer += f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}\r\n"
    writer.write((answer + f"Sec-WebSocket-Protocol: {protocol}\r\n\r\n").encode())
    pipe = asyncio.subprocess.PIPE
    streams = {"stdin": pipe if stdin else asyncio.subprocess.DEVNULL, "stdout": pipe, "stderr": pipe}
    try:
        inner = await enter(process, command, **streams)
    except StartError as error:
        await _send(writer, ERROR, _status(126, str(error)))
        return
    shim = inner.shim
    assert shim.stdout is not None
    assert shim.stderr is not None
    feeding = asyncio.create_task(_feed(reader, writer, inner))
    try:
        await asyncio.gather(_drain(shim.stdout, writer, STDOUT), _drain(shim.stderr, writer, STDERR))
        await _send(writer, ERROR, _status(await inner.wait(), ""))
        writer.write(_frame(CLOSE, struct.pack(">H", 1000)))
        await writer.drain()
    finally:
        feeding.cancel()
        if inner.running:
            inner.signal(signal.SIGKILL)
            await inner.wait()


def _status(code: int, message: str) -> bytes:
    if code == 0:
        return json.dumps({"metadata": {}, "status": "Success"}).encode()
    return json.dumps(
        {
            "metadata": {},
            "status": "Failure",
            "reason": "NonZeroExitCode",
            "message": message or f"command terminated with non-zero exit code: exit code {code}",
            "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
        }
    ).encode()


async def _drain(stream: asyncio.StreamReader, writer: asyncio.StreamWriter, channel: int) -> None:
    while data := await stream.read(1 << 15):
        await _send(writer, channel, data)


async def _send(writer: asyncio.StreamWriter, channel: int, data: bytes) -> None:
    writer.write(_frame(BINARY, bytes([channel]) + data))
    await writer.drain()


def _frame(kind: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        head = bytes([0x80 | kind, size])
    elif size < 1 << 16:
        head = bytes([0x80 | kind, 126]) + struct.pack(">H", size)
    else:
        head = bytes([0x80 | kind, 127]) + struct.pack(">Q", size)
    return head + payload


async def _feed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, inner: Process) -> None:
    """What the client sends: input, its end, questions whether we are there; its leaving ends the command."""
    target = inner.shim.stdin
    with contextlib.suppress(asyncio.IncompleteReadError, OSError):
        async for kind, payload in _messages(reader):
            if kind == PING:
                writer.write(_frame(PONG, payload))
            elif kind == CLOSE:
                break
            elif target is not None and payload[:1] == bytes([STDIN]):
                target.write(payload[1:])
                await target.drain()
            elif target is not None and payload[:2] == bytes([CLOSE_CHANNEL, STDIN]):
                target.close()
    inner.signal(signal.SIGKILL)


async def _messages(reader: asyncio.StreamReader) -> Any:
    message = b""
    while True:
        first, second = await reader.readexactly(2)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack(">H", await reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", await reader.readexactly(8))
        mask = await reader.readexactly(4) if second & 0x80 else b"\0\0\0\0"
        data = bytes(byte ^ mask[index % 4] for index, byte in enumerate(await reader.readexactly(size)))
        if first & 0x0F >= CLOSE:
            yield first & 0x0F, data
            continue
        message += data
        if first & 0x80:
            yield BINARY, message
            message = b""
