"""Service addresses that work on this machine: a listener per port, each connection handed to an address that is ready.

It stands for kube-proxy, in user space, for who is not in a pod: every Service address is local to this machine
(`network.py` sees to that). Pods have rules of their own where the kernel can be given any (`firewall.py`), for a proxy
hides who comes from whom; elsewhere they come through here too. A new connection goes to an address that is ready now;
one that exists stays where it is, and breaks with its pod.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from urllib.parse import urlsplit

from cluster.kubelet.services import Place, Services

__all__ = ["Proxy"]


class Proxy:
    """Serves every Service with a ClusterIP. `server`: the API server's URL, which stands behind `kubernetes`; `door`:
    one more place to reach it, for those who do not come by the Service's address."""

    def __init__(self, services: Services, server: str, door: Place | None = None) -> None:
        self._services, self._door = services, door
        url = urlsplit(server)
        self._api_server = (url.hostname or "127.0.0.1", url.port or 443)
        self._listeners: dict[Place, asyncio.Server] = {}
        self._behind: dict[Place, list[Place]] = {}
        self._turn = itertools.count()
        self._connections: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    async def run(self) -> None:
        unlisten = self._services.listen(self._changed.set)
        try:
            if self._door is not None:
                self._listeners[self._door] = await self._listen(self._door)
            while True:
                self._changed.clear()
                await self._update()
                await self._changed.wait()
        finally:
            unlisten()
            for listener in self._listeners.values():
                listener.close()
            for task in tuple(self._connections):
                task.cancel()

    async def _update(self) -> None:
        fronts = self._services.fronts(self._api_server)
        self._behind = {(host, port): places for (host, protocol, port), places in fronts.items() if protocol == "TCP"}
        if self._door is not None:
            self._behind[self._door] = [self._api_server]
        for place in set(self._listeners) - set(self._behind):
            self._listeners.pop(place).close()
        for place in set(self._behind) - set(self._listeners):
            with contextlib.suppress(OSError):
                self._listeners[place] = await self._listen(place)

    async def _listen(self, place: Place) -> asyncio.Server:
        # A task of our own: Python 3.11's streams take one that is cancelled for a failure, and say so.
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            def over(task: asyncio.Task[None]) -> None:
                self._connections.discard(task)
                writer.close()

            task = asyncio.get_running_loop().create_task(self._serve(place, reader, writer))
            self._connections.add(task)
            task.add_done_callback(over)

        return await asyncio.start_server(accept, *place, backlog=256)

    async def _serve(self, place: Place, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Where nobody is ready the connection is reset, as the real one refuses it."""
        found = self._behind.get(place, [])
        offset = next(self._turn)
        for number in range(len(found)):
            target = found[(offset + number) % len(found)]
            try:
                async with asyncio.timeout(5):
                    behind_reader, behind_writer = await asyncio.open_connection(*target)
                break
            except (OSError, TimeoutError):
                continue
        else:
            _reset(writer)
            return
        pumps = [
            asyncio.create_task(_pump(reader, behind_writer)),
            asyncio.create_task(_pump(behind_reader, writer)),
        ]
        try:
            # Each direction ends by itself; a broken one ends both.
            results = await asyncio.gather(*pumps, return_exceptions=True)
            if any(isinstance(result, OSError) for result in results):
                _reset(writer)
                _reset(behind_writer)
        finally:
            for pump in pumps:
                pump.cancel()
            for end in (writer, behind_writer):
                end.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 17):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        _reset(writer)
        raise


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closes with a reset instead of an end that looks orderly."""
    handle = writer.get_extra_info("socket")
    if handle is not None:
        with contextlib.suppress(OSError):
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    writer.transport.abort()
