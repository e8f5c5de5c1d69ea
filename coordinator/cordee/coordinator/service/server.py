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
import importlib
import logging
import os
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import grpc.aio

from cordee.coordinator.core.model import Policy
from cordee.coordinator.errors import CoordinatorError
from cordee.coordinator.service import auth, ports
from cordee.coordinator.service.bundles import remove_drafts
from cordee.coordinator.service.controller import Controller
from cordee.coordinator.service.doors import open_people, open_workers
from cordee.coordinator.service.folder import StateFolder
from cordee.coordinator.service.fronts import Front, open_fronts
from cordee.coordinator.service.identity import WorkerVerifier
from cordee.coordinator.service.interceptor import TokenInterceptor
from cordee.coordinator.service.launchers.process import AGENT_COMMAND
from cordee.coordinator.service.launchers.registry import open_launcher
from cordee.coordinator.service.leadership import LeadershipLostError, open_leadership
from cordee.coordinator.service.people import People
from cordee.coordinator.service.serving import HttpServer, readable
from cordee.coordinator.service.stores import open_store
from cordee.coordinator.service.workers import SERVER_OPTIONS, WorkerServicer
from cordee.rpc.v1 import worker_pb2_grpc as rpc

if TYPE_CHECKING:
    from cordee.coordinator.config import Config, Tls
    from cordee.coordinator.service.standby import StandbyPages
    from cordee.coordinator.service.tls import Certificates

__all__ = ["CoordinatorServer", "version"]

_log = logging.getLogger(__name__)

_SERVICE_ORPHAN_SECONDS: Final = 3600.0
_REST_PATIENCE_SECONDS: Final = 1.0  # an embedded coordinator lets its workers boot before it loads REST
_METRICS_PAGES: Final = frozenset({"/metrics", "/healthz", "/readyz"})


def version() -> str:
    """The installed Cordee's version."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("cordee")
    except PackageNotFoundError:
        return "0+unknown"


class CoordinatorServer:
    """One coordinator on one state folder. `start`, `stop` and everything between run on one event loop.

    `config` is what its configuration file says; where it listens is in the arguments, which a command's flags decide.
    """

    def __init__(
        self,
        state_dir: Path,
        host: str = "127.0.0.1",
        rest_port: int = 0,
        grpc_port: int = 0,
        slots: int | None = None,
        orphan_seconds: float = _SERVICE_ORPHAN_SECONDS,
        *,
        config: "Config | None" = None,
        policy: Policy | None = None,
        agent_command: Sequence[str] = AGENT_COMMAND,
        eager_rest: bool = True,
        fronts: Sequence[Front] = (),
    ) -> None:
        if slots is not None and slots < 1:
            raise ValueError(f"slots must be at least 1, got {slots}")
        for name, port in (("rest_port", rest_port), ("grpc_port", grpc_port)):
            if not 0 <= port < 65536:
                raise ValueError(f"{name} must be a port number, 0 to 65535, got {port}")
        self.folder = StateFolder(state_dir)
        self.host = host
        self.rest_url = ""
        """Where REST answers on this machine."""
        self.grpc_address = ""
        """Where gRPC answers on this machine."""
        self.metrics_url = ""
        self.token = ""
        self._config = config
        self._rest_port, self._grpc_port = rest_port, grpc_port
        self._slots, self._orphan_seconds = slots, orphan_seconds
        self._policy, self._agent_command = policy, tuple(agent_command)
        self._eager_rest = eager_rest
        self._fronts = fronts
        self._resources = contextlib.AsyncExitStack()
        self._controller: Controller | None = None
        self._rest: HttpServer | None = None
        self._guard: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._app: Any = None
        self._certificates: Certificates | None = None
        self._lost = asyncio.Event()
        self._standby: StandbyPages | None = None

    @property
    def controller(self) -> Controller:
        """The jobs. Only after `start`."""
        assert self._controller is not None, "the server has not been started"
        return self._controller

    async def start(self) -> None:
        """Take the folder, open the ports, take up the jobs. A sentence (CoordinatorError) when that cannot be."""
        self._check()
        self._certificates = self._load_certificates()
        async with contextlib.AsyncExitStack() as stack:
            metrics = self._bind_metrics(stack)
            await self._until_leading(stack, metrics)
            stack.enter_context(self.folder)
            remove_drafts(self.folder)
            self.token = self._read_token()
            earlier = self.folder.read_endpoint()
            store = open_store(self._config, self.folder)
            stack.callback(store.close)
            launcher = open_launcher(
                self._config, folder=self.folder, slots=self._slots, agent_command=self._agent_command
            )
            stack.push_async_callback(launcher.close)
            fronts = [*open_fronts(self._config, launcher), *self._fronts]

            people = open_people(self._config, self.token)
            stack.push_async_callback(people.close)
            rest = ports.bind(self.host, self._rest_port, ports.port_of(earlier.get("url")))
            stack.callback(rest.close)
            self.rest_url = self._url(rest)

            # The controller tells agents the gRPC port, the gRPC server asks the controller for workers: bound late.
            interceptor = TokenInterceptor()
            server = grpc.aio.server(interceptors=(interceptor,), options=SERVER_OPTIONS)
            found = ports.port_of(earlier.get("grpc"))
            credentials = self._certificates.grpc_credentials() if self._certificates is not None else None
            port = ports.bind_grpc(server, self.host, self._grpc_port, found, self.folder.root, credentials)
            self.grpc_address = ports.address(ports.reachable(self.host), port)
            controller = Controller(
                folder=self.folder,
                store=store,
                launcher=launcher,
                version=version(),
                coordinator_address=self._advertised_grpc,
                orphan_seconds=self._orphan_seconds,
                policy=self._policy,
                retention=self._config.retention if self._config else None,
            )
            controller.metrics.certificate_ends = self._certificates.ends_at if self._certificates else None
            workers = open_workers(launcher, controller)
            interceptor.verifier = workers
            rpc.add_WorkerServiceServicer_to_server(
                WorkerServicer(controller, self.folder, workers), cast("grpc.Server", server)
            )
            await controller.start()
            stack.push_async_callback(controller.close)
            for front in fronts:
                await front.start(controller)
                stack.push_async_callback(front.close)
            await server.start()
            stack.push_async_callback(server.stop, None)

            self.folder.write_endpoint(
                {
                    "url": self.rest_url,
                    "grpc": self.grpc_address,
                    "pid": os.getpid(),
                    "token_file": self._token_file,
                    "authority": self._tls.authority if self._tls else None,
                }
            )
            self._controller = controller
            self._rest = HttpServer(
                rest,
                lambda: self._load_rest(people, workers),
                context=self._context(),
                before=self._until_needed(rest),
            )
            stack.push_async_callback(self._stop_rest, self._rest)
            if metrics is not None and self._standby is None:
                small = HttpServer(
                    metrics,
                    self._load_metrics,
                    context=self._context(ask_clients=False),
                    before=self._until_rest,
                )
                stack.push_async_callback(small.stop)
            elif self._standby is not None:
                await self.rest_ready.wait()
                self._standby.app = self._load_metrics()
            self._resources = stack.pop_all()
            self._guard = asyncio.get_running_loop().create_task(self._stop_on_failure())

    @property
    def rest_ready(self) -> asyncio.Event:
        """Set when REST's application has been loaded. Only after `start`."""
        assert self._rest is not None, "the server has not been started"
        return self._rest.ready

    @property
    def application(self) -> Any:
        """REST's application; None until `rest_ready`."""
        return self._app

    @property
    def advertised_rest(self) -> str:
        """Where others find REST: the configuration's word, or where it answers on this machine."""
        return (self._config.advertise.rest if self._config else None) or self.rest_url

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
            lost = loop.create_task(self._lost.wait())
            assert self._rest is not None
            await asyncio.wait((signalled, failed, lost, self._rest.task), return_when=asyncio.FIRST_COMPLETED)
            for task in (signalled, failed, lost):
                task.cancel()
            await self.stop(stop_jobs=False)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        if self.controller.failure is not None:
            raise self.controller.failure
        if self._lost.is_set():
            raise LeadershipLostError(
                "the lease that lets this coordinator decide could not be renewed in time",
                hint="it ends, and starts again as one that stands by; the jobs train on",
            )

    async def _stop(self, controller: Controller, stop_jobs: bool) -> None:
        if self._guard is not None and controller.failure is None:
            self._guard.cancel()
        if stop_jobs and not controller.closing:
            await controller.stop_jobs("the coordinator was stopped")
        await self._resources.aclose()

    async def _stop_on_failure(self) -> None:
        """A coordinator that cannot write must not look alive: its workers train on and look for the next one. The
        same goes for one that another may have replaced."""
        ends = [asyncio.ensure_future(event.wait()) for event in (self.controller.failed, self._lost)]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
        await self.stop(stop_jobs=False)

    def _check(self) -> None:
        """Refuse what would be unsafe."""
        config = self._config
        if not auth.is_loopback(self.host) and not (config and (config.tls or config.listen.insecure)):
            raise CoordinatorError(
                f"the coordinator would listen on {self.host}, beyond this machine, without TLS: tokens would travel "
                "in the clear",
                hint="give it a certificate (tls, in the file of --config); or say --insecure (listen.insecure: true) "
                "where something in front of it encrypts",
            )

    # -- one of several

    async def _until_leading(self, stack: contextlib.AsyncExitStack, metrics: socket.socket | None) -> None:
        """Stand by until this one leads, if it is one of several."""
        leadership = open_leadership(self._config) if self._config else None
        if leadership is None:
            return
        self._lost = leadership.lost
        stack.push_async_callback(leadership.release)
        if metrics is not None:
            from cordee.coordinator.service.standby import StandbyPages

            self._standby = StandbyPages(lambda: leadership.holder, version())
            small = HttpServer(metrics, lambda: self._standby, context=self._context(ask_clients=False))
            stack.push_async_callback(small.stop)
        await leadership.acquire()

    # -- where

    @property
    def _token_file(self) -> str:
        """The administrator's token; relative to the state folder."""
        return (self._config.auth.token_file if self._config else None) or self.folder.token_file.name

    def _read_token(self) -> str:
        named = self._config.auth.token_file if self._config else None
        return auth.read_token(Path(named)) if named else auth.load_or_create_token(self.folder.token_file)

    @property
    def _advertised_grpc(self) -> str:
        return (self._config.advertise.grpc if self._config else None) or self.grpc_address

    @property
    def _tls(self) -> "Tls | None":
        return self._config.tls if self._config else None

    def _load_certificates(self) -> "Certificates | None":
        if self._tls is None:
            return None
        from cordee.coordinator.service.tls import Certificates

        return Certificates(self._tls)

    def _context(self, *, ask_clients: bool = True) -> ssl.SSLContext | None:
        return self._certificates.context(ask_clients=ask_clients) if self._certificates is not None else None

    def _url(self, listener: socket.socket) -> str:
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{ports.address(ports.reachable(self.host), listener.getsockname()[1])}"

    def _bind_metrics(self, stack: contextlib.AsyncExitStack) -> socket.socket | None:
        port = self._config.listen.metrics_port if self._config else None
        if port is None:
            return None
        listener = ports.bind(self.host, port, 0, what="metrics", option="listen.metricsPort")
        stack.callback(listener.close)
        self.metrics_url = self._url(listener)
        return listener

    # -- REST

    def _until_needed(self, listener: socket.socket) -> Callable[[], Awaitable[None]]:
        async def wait() -> None:
            if self._eager_rest:
                return
            await readable(listener)
            await self.controller.until_started(_REST_PATIENCE_SECONDS)

        return wait

    async def _until_rest(self) -> None:
        await self.rest_ready.wait()

    def _load_rest(self, people: People, workers: WorkerVerifier) -> Any:
        module = importlib.import_module("cordee.coordinator.service.rest.app")
        self._app = module.create_app(
            self.controller,
            people=people,
            workers=workers,
            folder=self.folder,
            version=version(),
            uploads=self._config.uploads if self._config else None,
        )
        return self._app

    def _load_metrics(self) -> Any:
        module = importlib.import_module("cordee.coordinator.service.rest.guard")
        return module.OnlyPages(self._app, _METRICS_PAGES)

    async def _stop_rest(self, rest: HttpServer) -> None:
        self.controller.stop_watching()
        await rest.stop()
