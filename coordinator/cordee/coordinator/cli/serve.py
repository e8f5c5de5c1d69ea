"""`cordee coordinator`: the service."""

import contextlib
import logging
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cordee.coordinator.cli.embedded import ORPHAN_SECONDS as RUN_ORPHAN_SECONDS
from cordee.coordinator.cli.errors import guarded, say

if TYPE_CHECKING:
    from cordee.coordinator.service.server import CoordinatorServer

__all__ = ["coordinator"]

DEFAULT_PORT: Final = 8470
DEFAULT_GRPC_PORT: Final = 8471
ORPHAN_SECONDS: Final = 3600.0  # how long training goes on without a coordinator


@guarded
def coordinator(
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Its configuration file; the options given here win over it."),
    ] = None,
    state: Annotated[
        Path | None, typer.Option("--state", metavar="DIR", help="The state folder (default: in your data folder).")
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", metavar="ADDRESS", help="The address to listen on (default: 127.0.0.1).")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            metavar="PORT",
            min=0,
            max=65535,
            help=f"REST port (default: as last time, else {DEFAULT_PORT}, else any free one; 0: any).",
        ),
    ] = None,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            "--grpc-port", metavar="PORT", min=0, max=65535, help="The workers' port (default: likewise, 8471)."
        ),
    ] = None,
    slots: Annotated[
        int | None, typer.Option("--slots", metavar="N", min=1, help="How many workers this machine takes in all.")
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Listen beyond this machine without TLS: something in front encrypts."),
    ] = False,
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True)] = False,
) -> None:
    """Run the coordinator service in the foreground.

    Ctrl-C or SIGTERM ends it; running jobs train on, and a coordinator started again on the same folder finds them.
    """
    import asyncio

    from cordee.coordinator.client import read_endpoint
    from cordee.coordinator.config import Config, load_config
    from cordee.coordinator.folders import default_state

    settings = Config() if config is None else load_config(config)
    if insecure:
        settings = settings.model_copy(update={"listen": settings.listen.model_copy(update={"insecure": True})})
    named = Path(settings.state) if settings.state else default_state()
    folder = (state or named).expanduser().absolute()
    host = host or settings.listen.host
    # A file's ports are those that a Service leads to; a laptop's are whatever is free.
    fresh = read_endpoint(folder) is None
    if port is None:
        port = settings.listen.rest_port if config else _port(host, DEFAULT_PORT, fresh=fresh)
    if grpc_port is None:
        grpc_port = settings.listen.grpc_port if config else _port(host, DEFAULT_GRPC_PORT, fresh=fresh)
    from cordee.coordinator.service.server import CoordinatorServer

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    server = CoordinatorServer(
        folder,
        host=host,
        rest_port=port,
        grpc_port=grpc_port,
        slots=slots or settings.slots,
        orphan_seconds=RUN_ORPHAN_SECONDS if supervised else ORPHAN_SECONDS,
        config=settings,
    )
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(server, folder, supervised=supervised))


def _port(host: str, preferred: int, *, fresh: bool) -> int:
    """The port to ask for. 0 lets the server choose: the one it had last time, or any free one."""
    return preferred if fresh and _is_free(host, preferred) else 0


def _is_free(host: str, port: int) -> bool:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError:
        return False
    return True


async def _serve(server: "CoordinatorServer", folder: Path, *, supervised: bool) -> None:
    from cordee.coordinator.past import keep_command

    await server.start()
    if supervised:
        _obey(server)
    else:
        keep_command(folder, None)
    say(f"cordee coordinator at {server.rest_url} (workers: {server.grpc_address}), state folder {folder}")
    say(f"submit a job: cordee submit SCRIPT{'' if _is_default(folder) else f' --state {folder}'}")
    try:
        await server.serve_forever()
    finally:
        await server.stop(stop_jobs=False)


def _obey(server: "CoordinatorServer") -> None:
    """Do what the process that started this one says on standard input, and end when it has ended: see `supervised`."""
    import asyncio
    import sys
    import threading

    loop = asyncio.get_running_loop()

    def listen() -> None:
        for line in sys.stdin.buffer:
            match line.strip():
                case b"kill":
                    work = server.controller.stop_jobs("the coordinator was stopped at once", grace_seconds=0.0)
                    asyncio.run_coroutine_threadsafe(work, loop)
                case b"stop":
                    asyncio.run_coroutine_threadsafe(server.stop(stop_jobs=True), loop)
                    return
        # It was killed: its jobs are left to whoever takes the folder up, as after a kill of this process.
        asyncio.run_coroutine_threadsafe(server.stop(stop_jobs=False), loop)

    threading.Thread(target=listen, name="cordee-supervised", daemon=True).start()


def _is_default(folder: Path) -> bool:
    from cordee.coordinator.folders import default_state

    return folder == default_state()
