"""The coordinator as a server: one asyncio process that holds a state folder.

    server = CoordinatorServer(Path("state"))
    await server.start()            # gRPC and the launcher are up, jobs of an earlier coordinator are taken up again
    await server.serve_forever()    # until SIGTERM; jobs go on without it

`embedded` has the same server on a thread of its own, for programs that are not asynchronous, such as `cordee run`.
Start-up time is on the way to a job's first step, so the REST port listens at once but its application,
the heaviest import of all, is loaded beside: early requests wait in the kernel's queue. An embedded coordinator takes
its program's own job directly, and does not even begin to load REST before somebody connects and its workers booted.
"""

import asyncio
import contextlib
import errno
import importlib
import logging
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import grpc.aio

from cordee.coordinator.core.model import Policy
from cordee.coordinator.errors import CoordinatorError
from cordee.coordinator.service import auth
from cordee.coordinator.service.bundles import remove_drafts
from cordee.coordinator.service.controller import Controller
from cordee.coordinator.service.folder import StateFolder
from cordee.coordinator.service.launchers.process import AGENT_COMMAND, ProcessLauncher, living_agents
from cordee.coordinator.service.store import Store
from cordee.coordinator.service.workers import SERVER_OPTIONS, TokenInterceptor, WorkerServicer
from cordee.rpc.v1 import worker_pb2_grpc as rpc

__all__ = ["CoordinatorServer", "version"]

_log = logging.getLogger(__name__)

_SERVICE_ORPHAN_SECONDS: Final = 3600.0
_REST_GRACE_SECONDS: Final = 1
_REST_PATIENCE_SECONDS: Final = 1.0  # an embedded coordinator lets its workers boot before it loads REST
_BACKLOG: Final = 128


def version() -> str:
    """The installed Cordee's version."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("cordee")
    except PackageNotFoundError:
        return "0+unknown"


class CoordinatorServer:
    """One coordinator on one state folder. `start`, `stop` and everything between run on one event loop."""

    def __init__(
        self,
        state_dir: Path,
        host: str = "127.0.0.1",
        rest_port: int = 0,
        grpc_port: int = 0,
        slots: int | None = None,
        orphan_seconds: float = _SERVICE_ORPHAN_SECONDS,
        *,
        policy: Policy | None = None,
        agent_command: Sequence[str] = AGENT_COMMAND,
        eager_rest: bool = True,
    ) -> None:
        if slots is not None and slots < 1:
            raise ValueError(f"slots must be at least 1, got {slots}")
        for name, port in (("rest_port", rest_port), ("grpc_port", grpc_port)):
            if not 0 <= port < 65536:
                raise ValueError(f"{name} must be a port number, 0 to 65535, got {port}")
        self.folder = StateFolder(state_dir)
        self.host = host
        self.rest_url = ""
        self.grpc_address = ""
        self.token = ""
        self.rest_ready = asyncio.Event()
        self._rest_port, self._grpc_port = rest_port, grpc_port
        self._slots, self._orphan_seconds = slots, orphan_seconds
        self._policy, self._agent_command = policy, tuple(agent_command)
        self._eager_rest = eager_rest
        self._resources = contextlib.AsyncExitStack()
        self._controller: Controller | None = None
        self._rest: asyncio.Task[None] | None = None
        self._guard: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._uvicorn: Any = None

    @property
    def controller(self) -> Controller:
        """The jobs. Only after `start`."""
        assert self._controller is not None, "the server has not been started"
        return self._controller

    async def start(self) -> None:
        """Take the folder, open the ports, take up the jobs. A sentence (CoordinatorError) when that cannot be."""
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self.folder)
            remove_drafts(self.folder)
            self.token = auth.load_or_create_token(self.folder.token_file)
            if not auth.is_loopback(self.host):
                _log.warning(
                    "listening on %s, beyond this machine, without TLS: the token travels in the clear", self.host
                )
            earlier = self.folder.read_endpoint()
            store = Store(self.folder.database)
            stack.callback(store.close)
            launcher = ProcessLauncher(self.folder.root, slots=self._slots, command=self._agent_command)
            stack.push_async_callback(launcher.close)

            rest = self._bind_rest(_port_of(earlier.get("url")))
            stack.callback(rest.close)
            self.rest_url = f"http://{_address(_reachable(self.host), rest.getsockname()[1])}"

            # The controller tells agents the gRPC port, the gRPC server asks the controller for tokens: bound late.
            interceptor = TokenInterceptor()
            server = grpc.aio.server(interceptors=(interceptor,), options=SERVER_OPTIONS)
            port = self._bind_grpc(server, _port_of(earlier.get("grpc")))
            self.grpc_address = _address(_reachable(self.host), port)
            controller = Controller(
                folder=self.folder,
                store=store,
                launcher=launcher,
                version=version(),
                coordinator_address=self.grpc_address,
                orphan_seconds=self._orphan_seconds,
                policy=self._policy,
            )
            interceptor.knows_token = controller.knows_token
            rpc.add_WorkerServiceServicer_to_server(
                WorkerServicer(controller, self.folder), cast("grpc.Server", server)
            )
            await controller.start()
            stack.push_async_callback(controller.close)
            await server.start()
            stack.push_async_callback(server.stop, None)

            self.folder.write_endpoint(
                {"url": self.rest_url, "grpc": self.grpc_address, "pid": os.getpid(), "token_file": "token"}
            )
            self._controller = controller
            self._rest = asyncio.get_running_loop().create_task(self._serve_rest(rest))
            self._rest.add_done_callback(_report)
            stack.push_async_callback(self._stop_rest)
            self._resources = stack.pop_all()
            self._guard = asyncio.get_running_loop().create_task(self._stop_on_failure())

    async def stop(self, stop_jobs: bool) -> None:
        """Let go of everything. With `stop_jobs` the jobs are cancelled first, else their workers train on.

        Stopping twice is stopping once.
        """
        if self._controller is None:
            return
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop(self._controller, stop_jobs))
        await asyncio.shield(self._stopping)

    async def serve_forever(self) -> None:
        """Serve until SIGTERM or SIGINT, then stop, leaving the jobs to the next coordinator on this folder.

        A second signal ends the process at once. A store that fails is raised, as StoreError, and so is whatever ends
        the REST server: a coordinator that people cannot reach must not look alive.
        """
        asked = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_signal() -> None:
            if asked.is_set():
                os._exit(128 + signal.SIGINT)
            asked.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        try:
            signalled = loop.create_task(asked.wait())
            failed = loop.create_task(self.controller.failed.wait())
            assert self._rest is not None
            await asyncio.wait((signalled, failed, self._rest), return_when=asyncio.FIRST_COMPLETED)
            signalled.cancel()
            failed.cancel()
            await self.stop(stop_jobs=False)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        if self.controller.failure is not None:
            raise self.controller.failure

    async def _stop(self, controller: Controller, stop_jobs: bool) -> None:
        if self._guard is not None and controller.failure is None:
            self._guard.cancel()
        if stop_jobs and not controller.closing:
            await controller.stop_jobs("the coordinator was stopped")
        await self._resources.aclose()

    async def _stop_on_failure(self) -> None:
        """A coordinator that cannot write must not look alive: its workers train on and look for the next one."""
        await self.controller.failed.wait()
        await self.stop(stop_jobs=False)

    # -- ports

    def _bind_rest(self, earlier: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        for port in _candidates(self._rest_port, earlier):
            listener = socket.socket(family, socket.SOCK_STREAM)
            # After a restart only: it lets nobody share the port with one who listens.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((self.host, port))
                listener.listen(_BACKLOG)
            except OSError as error:
                listener.close()
                if port == self._rest_port:
                    raise _port_error("REST", self.host, port, "--port", error) from error
                continue
            listener.setblocking(False)
            return listener
        raise AssertionError("port 0 is always among the candidates")

    def _bind_grpc(self, server: grpc.aio.Server, earlier: int) -> int:
        for port in _candidates(self._grpc_port, earlier):
            try:
                _probe(self.host, port)
                return server.add_insecure_port(_address(self.host, port))
            except (OSError, RuntimeError) as error:
                if port == self._grpc_port:
                    raise _port_error("gRPC", self.host, port, "--grpc-port", error) from error
                if living := len(living_agents(self.folder.root)):
                    # Elsewhere they would not find it: they would be given up, with all they have trained.
                    message = f"the coordinator cannot listen on {_address(self.host, port)}, where {living} "
                    message += f"worker{'s' * (living > 1)} of this folder that train on look for it: "
                    message += (getattr(error, "strerror", None) or str(error)).lower()
                    hint = "end the program that has this port; or give another with --grpc-port: then they are lost"
                    raise CoordinatorError(message, hint=hint) from error
                _log.warning("port %d, where this folder's workers look for the coordinator, is in use", port)
        raise AssertionError("port 0 is always among the candidates")

    # -- REST

    async def _serve_rest(self, listener: socket.socket) -> None:
        if not self._eager_rest:
            await _readable(listener)
            await self.controller.until_started(_REST_PATIENCE_SECONDS)
        # In a thread: a second of imports on the loop would look to the workers like a coordinator that hangs.
        app, uvicorn = await asyncio.to_thread(self._load_rest)
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=_REST_GRACE_SECONDS,
        )
        self._uvicorn = uvicorn.Server(config)
        self._uvicorn.capture_signals = contextlib.nullcontext  # signals are ours
        self.rest_ready.set()
        await self._uvicorn.serve(sockets=[listener])

    def _load_rest(self) -> tuple[Any, Any]:
        uvicorn = importlib.import_module("uvicorn")
        module = importlib.import_module("cordee.coordinator.service.rest.app")
        app = module.create_app(self.controller, token=self.token, folder=self.folder, version=version())
        return app, uvicorn

    async def _stop_rest(self) -> None:
        assert self._rest is not None
        self.controller.stop_watching()
        if self._uvicorn is not None:
            self._uvicorn.should_exit = True
        else:
            self._rest.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._rest


async def _readable(listener: socket.socket) -> None:
    """Wait until somebody connects."""
    loop = asyncio.get_running_loop()
    connected = asyncio.Event()
    loop.add_reader(listener, connected.set)
    try:
        await connected.wait()
    finally:
        loop.remove_reader(listener)


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
    message = f"the coordinator cannot listen on {_address(host, port)} for {what}: {reason}"
    if isinstance(error, socket.gaierror) or getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
        return CoordinatorError(message, hint="--host takes an address of this machine; 0.0.0.0 stands for all of them")
    return CoordinatorError(message, hint=f"choose another port with {option}, or 0 for any that is free")


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reachable(host: str) -> str:
    """An address to connect to, for an address to listen on."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104


def _port_of(address: object) -> int:
    _, _, port = str(address or "").rpartition(":")
    return int(port) if port.isascii() and port.isdigit() and int(port) < 65536 else 0


def _report(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("the REST server failed", exc_info=task.exception())
