"""Where a coordinator listens: its ports bound, in the words of a person where that cannot be.

A coordinator that is started again takes the ports that it had, because workers and clients look for it there.
"""

import errno
import logging
import socket
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from cordee.coordinator.errors import CoordinatorError
from cordee.coordinator.service.launchers.process import living_agents

__all__ = ["address", "bind", "bind_grpc", "port_of", "reachable"]

_log = logging.getLogger(__name__)

_BACKLOG: Final = 128


def bind(host: str, wanted: int, earlier: int, *, what: str = "REST", option: str = "--port") -> socket.socket:
    """A socket that listens on the port that was asked for (0: the earlier one, or any)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in _candidates(wanted, earlier):
        listener = socket.socket(family, socket.SOCK_STREAM)
        # After a restart only: it lets nobody share the port with one who listens.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it. asyncio sets it itself, but not on a socket that was made without naming the protocol;
        # an answer is written in two parts, and the second would wait 40 ms for the client to confirm the first.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            listener.bind((host, port))
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            if port == wanted:
                raise _port_error(what, host, port, option, error) from error
            continue
        listener.setblocking(False)
        return listener
    raise AssertionError("port 0 is always among the candidates")


def bind_grpc(
    server: grpc.aio.Server, host: str, wanted: int, earlier: int, state: Path, credentials: Any | None = None
) -> int:
    """Let the gRPC server listen; which port it is. Not elsewhere than workers of this folder look for it."""
    for port in _candidates(wanted, earlier):
        try:
            _probe(host, port)
            if credentials is not None:
                return server.add_secure_port(address(host, port), credentials)
            return server.add_insecure_port(address(host, port))
        except (OSError, RuntimeError) as error:
            if port == wanted:
                raise _port_error("gRPC", host, port, "--grpc-port", error) from error
            if living := len(living_agents(state)):
                # Elsewhere they would not find it: they would be given up, with all they have trained.
                message = f"the coordinator cannot listen on {address(host, port)}, where {living} "
                message += f"worker{'s' * (living > 1)} of this folder that train on look for it: "
                message += (getattr(error, "strerror", None) or str(error)).lower()
                hint = "end the program that has this port; or give another with --grpc-port: then they are lost"
                raise CoordinatorError(message, hint=hint) from error
            _log.warning("port %d, where this folder's workers look for the coordinator, is in use", port)
    raise AssertionError("port 0 is always among the candidates")


def address(host: str, port: int) -> str:
    """host:port, also of an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable(host: str) -> str:
    """An address to connect to, for an address to listen on."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104


def port_of(address: object) -> int:
    """The port of an address or URL; 0 where there is none."""
    _, _, port = str(address or "").rpartition(":")
    return int(port) if port.isascii() and port.isdigit() and int(port) < 65536 else 0


def _candidates(wanted: int, earlier: int) -> list[int]:
    """The port that was asked for; or else the earlier coordinator's, where workers and clients look, or any."""
    return [wanted] if wanted or not earlier else [earlier, 0]


def _probe(host: str, port: int) -> None:
    """gRPC's own message about a port in use goes to stderr, in its own words; the kernel's answer is a clear one."""
    if port:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))


def _port_error(what: str, host: str, port: int, option: str, error: Exception) -> CoordinatorError:
    reason = (getattr(error, "strerror", None) or str(error)).lower()
    message = f"the coordinator cannot listen on {address(host, port)} for {what}: {reason}"
    if isinstance(error, socket.gaierror) or getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
        return CoordinatorError(message, hint="--host takes an address of this machine; 0.0.0.0 stands for all of them")
    return CoordinatorError(message, hint=f"choose another port with {option}, or 0 for any that is free")
