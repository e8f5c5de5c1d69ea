"""What is done to agents, and what becomes of them.

Starting a process takes time, so it runs beside the loop; but what is to be done to one worker's agent is done in the
order in which it was decided. Whatever becomes of it, also that it could not be started, comes back as `AgentExited`;
that there was none to stop, as `AgentAbsent`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from cordee.coordinator.core.events import AgentAbsent, AgentExited, AgentNoted
from cordee.coordinator.errors import CoordinatorError
from cordee.coordinator.service.launchers.base import AgentExit, AgentSpec, Launcher

__all__ = ["Agents"]

_log = logging.getLogger(__name__)


class Agents:
    """The agents of one launcher. `told` is called with a job's id and what happened."""

    def __init__(self, launcher: Launcher, told: Callable[[str, AgentExited | AgentNoted | AgentAbsent], None]) -> None:
        self._launcher = launcher
        self._told = told
        self._turns: dict[str, asyncio.Task[None]] = {}

    def start(self, spec: AgentSpec) -> None:
        """Start an agent, unless it runs."""

        async def work() -> None:
            try:
                await self._launcher.start(spec)
            except CoordinatorError as error:
                self._told(spec.job, AgentExited(spec.worker, None, error.message))
            except Exception as error:
                _log.exception("the launcher failed at starting %s", spec.worker)
                self._told(spec.job, AgentExited(spec.worker, None, repr(error)))

        self._in_turn(spec.worker, work)

    def stop(self, job: str, worker: str, grace_seconds: float, start: int = 0) -> None:
        """Stop an agent; `start` is for the answer that there is none."""

        async def work() -> None:
            if not await self._launcher.stop(worker, grace_seconds=grace_seconds):
                self._told(job, AgentAbsent(worker, start))

        self._in_turn(worker, work)

    async def watch(self) -> None:
        """Report what becomes of agents, for ever."""
        async for told in self._launcher.exits():
            if isinstance(told, AgentExit):
                self._told(told.job, AgentExited(told.worker, told.code, told.message, told.taken, told.cause))
            else:
                self._told(told.job, AgentNoted(told.worker, told.kind, told.message, told.outlook))

    async def close(self) -> None:
        """Begin nothing more."""
        turns = list(self._turns.values())
        for turn in turns:
            turn.cancel()
        await asyncio.gather(*turns, return_exceptions=True)

    def _in_turn(self, worker: str, work: Callable[[], Awaitable[None]]) -> None:
        earlier = self._turns.get(worker)

        async def turn() -> None:
            if earlier is not None:
                await asyncio.wait((earlier,))
            try:
                await work()
            except Exception:
                _log.exception("the launcher failed at %s", worker)
            finally:
                if self._turns.get(worker) is task:
                    del self._turns[worker]

        task = asyncio.get_running_loop().create_task(turn())
        self._turns[worker] = task
