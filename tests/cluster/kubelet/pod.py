"""One pod on its node: from its first volume to its last word. `decisions.py` decides, this carries it out."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.kubelet.api import ApiError, Unreachable
from cluster.kubelet.containers import PullError, facts_of, owner_of, sandbox_spec
from cluster.kubelet.decisions import decide
from cluster.kubelet.environment import ConfigError
from cluster.kubelet.health import Health
from cluster.kubelet.home import Home, last_words, make_home
from cluster.kubelet.host import Host
from cluster.kubelet.reporter import RETRY_SECONDS, Reporter
from cluster.kubelet.runtime import OUTPUT, Process, StartError, launch
from cluster.kubelet.statuses import Container, Running, Terminated, Waiting, containers_of, pod_status, resumed
from cluster.kubelet.volumes import REFRESH_SECONDS, Tokens, Volumes

__all__ = ["PodWorker"]

Json = dict[str, Any]
FORCED_GRACE_SECONDS = 2.0
UNKILLABLE_SECONDS = 30.0


class PodWorker:
    """Runs a pod until its object is gone. `update` and `gone` say what the watch saw."""

    def __init__(self, host: Host, pod: Json) -> None:
        self.host, self.pod = host, pod
        self.uid: str = pod["metadata"]["uid"]
        self.name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        self.home: Home | None = None
        self._specs = {c["name"]: c for c in [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]}
        self._containers = resumed(containers_of(pod["spec"]), pod.get("status") or {}, host.clock())
        self._processes: dict[str, Process] = {}
        self._volumes: Volumes | None = None
        self._reporter = Reporter(host.api, pod, self.gone)
        self._changed = asyncio.Event()
        self._gone = False
        self._verdict: tuple[str, str] | None = None
        # Ended runs in a row; and when a start that failed may be tried again.
        self._strikes = {c.name: 1 for c in self._containers if c.last or isinstance(c.state, Terminated)}
        self._not_before: dict[str, float] = {}
        self._tasks: dict[str, set[asyncio.Task[None]]] = {}
        self._started = host.clock()

    # What others tell it, or ask

    def update(self, pod: Json) -> None:
        """What it writes itself it knows better; of the status it takes others' conditions only."""
        ours = self.pod.get("status") or pod.get("status") or {}
        known = {c["type"] for c in ours.get("conditions") or []}
        others = [c for c in (pod.get("status") or {}).get("conditions") or [] if c["type"] not in known]
        self.pod = {**pod, "status": {**ours, "conditions": [*(ours.get("conditions") or []), *others]}}
        self._changed.set()

    def gone(self) -> None:
        """The object was deleted by force, or this node missed its deletion."""
        self._gone = True
        self._changed.set()

    def fail(self, reason: str, message: str) -> None:
        """The node's own verdict, like an eviction for want of memory: the pod ends as Failed."""
        self._verdict = (reason, message)
        self._changed.set()

    def kill(self, container: str | None = None, number: int = signal.SIGKILL) -> None:
        """Sends a signal to one container's first process, or to all; what follows is the restart policy's."""
        for name, process in self._processes.items():
            if container in {None, name}:
                process.signal(number)

    def process(self, container: str) -> Process:
        """The process of a running container."""
        process = self._processes.get(container)
        if process is None or not process.running:
            raise LookupError(f"container {container} of pod {self.name} does not run")
        return process

    def log(self, container: str, *, previous: bool) -> Path | None:
        """The log of a container's run now, or of the one before; None: there is none. LookupError: no container."""
        if container not in self._specs:
            raise LookupError(f"container {container} is not valid for pod {self.name}")
        newest = self._get(container).restarts - previous
        # A start that failed left none; the newest that is there is meant.
        for attempt in range(newest, -1, -1):
            if self.home and (path := self.home.log(container, attempt)).exists():
                return path
        return None

    def runs(self, container: str, log: Path) -> bool:
        """Whether something still writes to this log."""
        process = self._processes.get(container)
        return process is not None and process.running and process.log == log

    @property
    def _leaving(self) -> bool:
        return self._deleting or self._gone or self._verdict is not None

    @property
    def _deleting(self) -> bool:
        return "deletionTimestamp" in self.pod["metadata"]

    # Its life

    async def run(self) -> None:
        reporting = asyncio.create_task(self._reporter.run())
        try:
            if (self.pod.get("status") or {}).get("phase") not in {"Succeeded", "Failed"}:
                if await self._set_up():
                    await self._live()
                await self._stop_all()
                self._report(ended=True)
                await self._wait_flushed()
                if self.home:
                    await self.home.release()
            while not (self._deleting or self._gone):
                self._changed.clear()
                await self._changed.wait()
            if not self._gone:
                await self._reporter.delete()
        finally:
            reporting.cancel()
            await self._tear_down()

    async def _tear_down(self) -> None:
        """Kills what runs and gives back what was lent. Says nothing to anybody."""
        for tasks in self._tasks.values():
            for task in tasks:
                task.cancel()
        self.kill()
        for process in self._processes.values():
            await process.shim.wait()
        if self._volumes:
            self._volumes.tear_down()
        if self.home:
            await self.home.release()
            self.home.remove()

    async def _set_up(self) -> bool:
        """Network and volumes. False: the pod is to end before it began."""
        self._report()
        self.home = await make_home(self.host, self.pod)
        self._volumes = Volumes(
            pod=self.pod,
            folder=self.home.folder / "volumes",
            objects=self.host.objects,
            tokens=Tokens(self.host.api, self.pod),
            claims=self.host.claims,
            api=self.host.api,
            facts=facts_of(self.pod, self.host, self.home.address),
            capacity=self.host.capacity,
            owner=owner_of(self.pod),
        )
        while not self._leaving:
            self._changed.clear()
            try:
                await self._volumes.set_up()
                return True
            except (ConfigError, ApiError, Unreachable) as error:
                self._tell("Warning", "FailedMount", f"MountVolume.SetUp failed: {error}")
            await self._wait(RETRY_SECONDS)
        return False

    async def _live(self) -> None:
        refreshing = asyncio.create_task(self._refresh())
        policy = self.pod["spec"].get("restartPolicy", "Always")
        try:
            while not self._leaving:
                self._changed.clear()
                now = self.host.clock()
                deadline = self._deadline()
                if deadline is not None and now >= deadline:
                    self.fail("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
                    return
                decision = decide(
                    policy,
                    self._containers,
                    now=now,
                    strikes=self._strikes,
                    not_before=self._not_before,
                    backoff=self.host.backoff,
                )
                for name in decision.start:
                    await self._start(name)
                for name in decision.hold:
                    self._hold(name)
                self._report()
                if decision.over:
                    return
                due = min((t for t in (decision.wake, deadline) if t is not None), default=None)
                await self._wait(None if due is None else due - self.host.clock())
        finally:
            refreshing.cancel()

    def _deadline(self) -> float | None:
        seconds = self.pod["spec"].get("activeDeadlineSeconds")
        return None if seconds is None else self._started + seconds

    # Containers

    async def _start(self, name: str) -> None:
        container, spec, home = self._get(name), self._specs[name], self.home
        assert home is not None
        assert self._volumes is not None
        before = container.state if isinstance(container.state, Terminated) else container.last
        attempt = container.restarts + 1 if before else 0
        try:
            sandbox = await sandbox_spec(self.pod, spec, home, self._volumes, attempt)
        except PullError as error:
            self._cannot_start(name, error.reason, str(error))
            return
        except (ConfigError, ApiError, Unreachable) as error:
            self._cannot_start(name, "CreateContainerConfigError", str(error))
            return
        identity = f"cordee-test://{self.uid}/{name}/{attempt}"
        self._set(name, last=before, restarts=attempt, container_id=identity)
        try:
            process = await launch("run", sandbox, home.folder / f"{name}.json", **OUTPUT)
        except StartError as error:
            now = self.host.clock()
            self._tell("Warning", "Failed", f"Error: {error}")
            self._ended(name, Terminated(128, "StartError", now, now, f"failed to start container: {error}"))
            return
        self._processes[name] = process
        up = not spec.get("startupProbe")
        self._set(name, state=Running(process.started), started=up, ready=up and not spec.get("readinessProbe"))
        self._tell("Normal", "Started", f"Started container {name}")
        health = Health(self.host, spec, process, home.address, self)
        self._spawn(name, self._watch(name, process))
        self._spawn(name, health.run())
        if (why := await health.hook("postStart")) is not None:
            self._tell("Warning", "FailedPostStartHook", why)
            process.signal(signal.SIGKILL)

    def _cannot_start(self, name: str, reason: str, sentence: str) -> None:
        self._set(name, state=Waiting(reason, sentence))
        self._tell("Warning", "Failed", f"Error: {reason}: {sentence}")
        self._not_before[name] = self.host.clock() + 2 * RETRY_SECONDS
        # To be decided upon anew: when to try again.
        self._changed.set()

    async def _watch(self, name: str, process: Process) -> None:
        await process.keep_log()
        code = await process.wait()
        reason = "OOMKilled" if process.killed_for_memory else "Completed" if code == 0 else "Error"
        assert self.home is not None
        policy = self._specs[name].get("terminationMessagePolicy") or ""
        message = last_words(self.home.message(name), process.log, policy, code)
        self._ended(name, Terminated(code, reason, process.started, self.host.clock(), message))

    def _ended(self, name: str, state: Terminated) -> None:
        short = state.finished - state.started < self.host.backoff.forgotten
        self._strikes[name] = self._strikes.get(name, 0) + 1 if short else 1
        self._set(name, state=state, ready=False, started=False)
        self._changed.set()
        for task in self._tasks.pop(name, set()):
            if task is not asyncio.current_task():
                task.cancel()

    def _hold(self, name: str) -> None:
        """Tells why it is not started now."""
        container = self._get(name)
        match container.state:
            case Terminated():
                sentence = f"back-off restarting failed container={name} pod={self.pod['metadata']['name']}"
                self._set(name, state=Waiting("CrashLoopBackOff", sentence), last=container.state)
                self._tell("Warning", "BackOff", f"Back-off restarting failed container {name}")
            case Waiting("ErrImagePull", message):
                self._report()
                sentence = f'Back-off pulling image "{container.image}"'
                self._set(name, state=Waiting("ImagePullBackOff", f"{sentence}: {message}"))
                self._tell("Normal", "BackOff", sentence)

    # Their health

    def started(self, name: str) -> None:
        self._set(name, started=True, ready=not self._specs[name].get("readinessProbe"))
        self._changed.set()

    def ready(self, name: str, good: bool, why: str) -> None:
        if not good:
            self._tell("Warning", "Unhealthy", f"Readiness probe failed: {why}")
        self._set(name, ready=good)
        self._report()

    def unhealthy(self, name: str, kind: str, why: str, probe: Json) -> None:
        self._tell("Warning", "Unhealthy", f"{kind} probe failed: {why}")
        self._tell("Normal", "Killing", f"Container {name} failed {kind.lower()} probe, will be restarted")
        grace = probe.get("terminationGracePeriodSeconds", self._grace())
        end = self.host.clock() + grace
        self._spawn("", self._stop(name, lambda: end - self.host.clock()))

    # Stopping

    async def _stop_all(self) -> None:
        """Main containers together, then the sidecars in reverse; within the pod's grace period."""
        begun = self.host.clock()

        def left() -> float:
            return begun + self._grace() - self.host.clock()

        running = [(c.name, c.kind) for c in self._containers if c.name in self._processes]
        await asyncio.gather(*(self._stop(name, left) for name, kind in running if kind != "sidecar"))
        for name, kind in reversed(running):
            if kind == "sidecar":
                await self._stop(name, left)

    async def _stop(self, name: str, left: Callable[[], float]) -> None:
        process, home = self._processes[name], self.home
        assert home is not None
        if not process.running:
            return
        self._tell("Normal", "Killing", f"Stopping container {name}")
        if left() > 0:
            health = Health(self.host, self._specs[name], process, home.address, self)
            if (why := await health.hook("preStop", max(1.0, left()))) is not None:
                self._tell("Warning", "FailedPreStopHook", why)
        process.signal(signal.SIGTERM)
        # In slices: a second deletion may have shortened the time.
        while left() > 0 and not await process.ended(min(left(), 0.5)):
            pass
        process.signal(signal.SIGKILL)
        await process.ended(UNKILLABLE_SECONDS)

    def _grace(self) -> float:
        if self._gone:
            return FORCED_GRACE_SECONDS
        stated = self.pod["spec"].get("terminationGracePeriodSeconds", 30)
        return float(self.pod["metadata"].get("deletionGracePeriodSeconds", stated))

    # Small things

    def _get(self, name: str) -> Container:
        return next(c for c in self._containers if c.name == name)

    def _set(self, name: str, **changes: Any) -> None:
        self._containers = [replace(c, **changes) if c.name == name else c for c in self._containers]

    def _tell(self, kind: str, reason: str, message: str) -> None:
        self.host.events.tell(self.pod, kind, reason, message)

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        tasks = self._tasks.setdefault(name, set())
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            assert self._volumes is not None
            self._volumes.pod = self.pod
            with contextlib.suppress(ApiError, Unreachable):
                await self._volumes.refresh()

    async def _wait(self, seconds: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _wait_flushed(self) -> None:
        """Until the last status has arrived, or nobody wants it any more."""
        flushing = asyncio.create_task(self._reporter.flush())
        try:
            while not (flushing.done() or self._gone):
                await asyncio.wait([flushing], timeout=RETRY_SECONDS)
        finally:
            flushing.cancel()

    def _report(self, *, ended: bool = False) -> None:
        reason, message = self._verdict or ("", "")
        failed = ended and self._verdict is not None
        status = pod_status(
            self.pod,
            self._containers,
            now=self.host.clock(),
            started=self._started,
            host_ip=self.host.address,
            pod_ip=self.home.address if self.home else None,
            reason=reason,
            message=message,
            failed=failed,
            disrupted=failed and reason != "DeadlineExceeded",
        )
        if status != self.pod.get("status"):
            self.pod["status"] = status
            self._reporter.report(status)
