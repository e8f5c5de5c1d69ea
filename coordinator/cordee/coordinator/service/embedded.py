"""A coordinator inside a program that is not asynchronous: the server on a thread and a loop of its own."""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self, cast

from cordee.coordinator.core.model import Policy
from cordee.coordinator.service.bundles import BundleUpload
from cordee.coordinator.service.launchers.process import AGENT_COMMAND
from cordee.coordinator.service.server import CoordinatorServer
from cordee.coordinator.spec import parse_job
from cordee.coordinator.views import JobView

__all__ = ["EmbeddedCoordinator"]

_RUN_ORPHAN_SECONDS: Final = 60.0


class EmbeddedCoordinator:
    """A coordinator on a thread of its own; every method may be called from any other thread.

    `with EmbeddedCoordinator(folder) as coordinator:` cancels what still runs when it is left.
    """

    def __init__(
        self,
        state_dir: Path,
        host: str = "127.0.0.1",
        rest_port: int = 0,
        grpc_port: int = 0,
        slots: int | None = None,
        orphan_seconds: float = _RUN_ORPHAN_SECONDS,
        *,
        policy: Policy | None = None,
        agent_command: Sequence[str] = AGENT_COMMAND,
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._server = CoordinatorServer(
            state_dir,
            host,
            rest_port,
            grpc_port,
            slots,
            orphan_seconds,
            policy=policy,
            agent_command=agent_command,
            eager_rest=False,
        )
        self._thread = threading.Thread(target=self._run, name="cordee-coordinator", daemon=True)

    def start(self) -> Self:
        """Returns when gRPC and the launcher are up and the REST port listens."""
        self._thread.start()
        try:
            self._call(self._server.start())
        except BaseException:
            self._end_loop()
            raise
        return self

    def stop(self, stop_jobs: bool = True) -> None:
        """Stop it; with `stop_jobs`, jobs that run are cancelled and their processes are gone on return."""
        if not self._thread.is_alive():
            return
        try:
            self._call(self._server.stop(stop_jobs))
        finally:
            self._end_loop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop(stop_jobs=True)

    def submit(self, document: Mapping[str, Any], bundle: bytes, sha256: str) -> JobView:
        """Take a job in, as the client's `submit` does over REST, without loading what REST needs."""
        return cast("JobView", self._call(self._submit(document, bundle, sha256)))

    def kill_jobs(self) -> None:
        """Cancel every job and kill its processes now. Returns at once, also while `stop` waits in another frame."""
        if self._thread.is_alive():
            work = self._server.controller.stop_jobs("the coordinator was stopped at once", grace_seconds=0.0)
            asyncio.run_coroutine_threadsafe(work, self._loop)

    @property
    def rest_url(self) -> str:
        """Where REST answers."""
        return self._server.rest_url

    @property
    def grpc_address(self) -> str:
        """Where workers attach."""
        return self._server.grpc_address

    @property
    def token(self) -> str:
        """The token for REST."""
        return self._server.token

    async def _submit(self, document: Mapping[str, Any], bundle: bytes, sha256: str) -> dict[str, Any]:
        job = parse_job(document, bundled=True)
        upload = BundleUpload(self._server.folder, sha256)
        with upload:
            await upload.write(bundle)
            upload.keep()
        view = await self._server.controller.submit(job, sha256)
        return view.model_dump(mode="json")

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(_cancel_all())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


async def _cancel_all() -> None:
    """What a stop that was cut short left running."""
    leftover = asyncio.all_tasks() - {asyncio.current_task()}
    for task in leftover:
        task.cancel()
    await asyncio.gather(*leftover, return_exceptions=True)
