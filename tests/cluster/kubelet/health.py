"""Looks after one running container: its probes, its hooks, its memory. What they find goes to its `Patient`."""

from __future__ import annotations

import asyncio
import signal
from typing import Any, Protocol

from cluster.kubelet import probes
from cluster.kubelet.environment import quantity
from cluster.kubelet.host import Host
from cluster.kubelet.runtime import Process, execute

__all__ = ["Health", "Patient"]

Json = dict[str, Any]
MEMORY_SECONDS = 0.25
HOOK_SECONDS = 30.0


class Patient(Protocol):
    """What is done about a container's health."""

    def started(self, name: str) -> None:
        """It is up; other probes begin."""

    def ready(self, name: str, good: bool, why: str) -> None: ...

    def unhealthy(self, name: str, kind: str, why: str, probe: Json) -> None:
        """It is to be killed, and perhaps started again."""


class Health:
    """`spec` is the container's; `address` its pod's."""

    def __init__(self, host: Host, spec: Json, process: Process, address: str, patient: Patient) -> None:
        self._host, self._spec, self._process, self._address = host, spec, process, address
        self._patient, self._name = patient, spec["name"]

    async def run(self) -> None:
        """Until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            if limit := ((self._spec.get("resources") or {}).get("limits") or {}).get("memory"):
                group.create_task(self._guard(int(quantity(limit))))
            group.create_task(self._probe())

    async def hook(self, name: str, seconds: float = HOOK_SECONDS) -> str | None:
        """Runs `postStart` or `preStop`, if there is one; what went wrong, if something did."""
        action = (self._spec.get("lifecycle") or {}).get(name)
        if not action:
            return None
        good, why = await self._act(action, seconds)
        return None if good else why

    async def _guard(self, limit: int) -> None:
        """The kernel's part, where there is no memory cgroup to have: a container over its limit is killed."""
        while self._process.running:
            if self._process.memory() > limit:
                self._process.killed_for_memory = True
                self._process.signal(signal.SIGKILL)
            await asyncio.sleep(MEMORY_SECONDS)

    async def _probe(self) -> None:
        patient = self._patient
        if startup := self._spec.get("startupProbe"):
            async for good, why in self._verdicts(startup, good=None):
                if good:
                    break
                patient.unhealthy(self._name, "Startup", why, startup)
            patient.started(self._name)
        async with asyncio.TaskGroup() as group:
            if readiness := self._spec.get("readinessProbe"):
                group.create_task(self._readiness(readiness))
            if liveness := self._spec.get("livenessProbe"):
                group.create_task(self._liveness(liveness))

    async def _readiness(self, probe: Json) -> None:
        async for good, why in self._verdicts(probe, good=None):
            self._patient.ready(self._name, good, why)

    async def _liveness(self, probe: Json) -> None:
        async for good, why in self._verdicts(probe, good=True):
            if not good:
                self._patient.unhealthy(self._name, "Liveness", why, probe)

    def _verdicts(self, probe: Json, *, good: bool | None) -> Any:
        async def ask() -> tuple[bool, str] | None:
            # A node asks its pods directly: that its own cable is out is nothing against them.
            return await self._act(probe, probe.get("timeoutSeconds") or 1) if self._host.plugged else None

        return probes.follow(probe, ask, good=good)

    async def _act(self, action: Json, seconds: float) -> tuple[bool, str]:
        async def inside(command: list[str], limit: float) -> tuple[int, str]:
            return await execute(self._process, command, seconds=limit)

        return await probes.act(action, self._spec, self._address, inside, seconds)
