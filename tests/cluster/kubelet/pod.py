"""One pod on its node: from its first volume to its last word. `decisions.py` decides, this carries it out."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.kubelet import probes
from cluster.kubelet.api import STRATEGIC, ApiError, Unreachable
from cluster.kubelet.containers import Home, PullError, facts_of, find_image, memory_limit, owner_of, sandbox_spec
from cluster.kubelet.decisions import decide
from cluster.kubelet.environment import ConfigError
from cluster.kubelet.host import Host
from cluster.kubelet.network import PodNetwork
from cluster.kubelet.runtime import Process, StartError, execute, launch
from cluster.kubelet.services import hosts_file
from cluster.kubelet.statuses import Container, Running, Terminated, Waiting, containers_of, pod_status
from cluster.kubelet.volumes import REFRESH_SECONDS, Tokens, Volumes

__all__ = ["PodWorker"]

Json = dict[str, Any]
RETRY_SECONDS = 0.5
MEMORY_SECONDS = 0.25
FORCED_GRACE_SECONDS = 2.0


class PodWorker:
    """Runs a pod until its object is gone. `update` and `gone` say what the watch saw."""

    def __init__(self, host: Host, pod: Json) -> None:
        self.host, self.pod = host, pod
        self.uid: str = pod["metadata"]["uid"]
        self.name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        self.containers: list[Container] = containers_of(pod["spec"])
        self.processes: dict[str, Process] = {}
        self.home: Home | None = None
        self._specs = {c["name"]: c for c in [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]}
        self._volumes: Volumes | None = None
        self._network: PodNetwork | None = None
        self._changed = asyncio.Event()
        self._dirty = asyncio.Event()
        self._sent = asyncio.Event()
        self._gone = False
        self._ending = False
        self._verdict: tuple[str, str] | None = None
        self._strikes: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._tasks: dict[str, set[asyncio.Task[None]]] = {}
        self._started = host.clock()
        self._resume()

    # What others tell it

    def update(self, pod: Json) -> None:
        self.pod = {**pod, "status": self.pod.get("status") or pod.get("status") or {}}
        own = {c["type"] for c in self.pod["status"].get("conditions") or []}
        others = [c for c in (pod.get("status") or {}).get("conditions") or [] if c["type"] not in own]
        if others:
            self.pod["status"] = {
                **self.pod["status"],
                "conditions": [*self.pod["status"].get("conditions", []), *others],
            }
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
        for name, process in self.processes.items():
            if container in {None, name}:
                process.signal(number)

    def log(self, container: str, *, previous: bool) -> Path | None:
        """The log of a container's run now, or of the one before; None: there is none. LookupError: no container."""
        if container not in self._specs:
            raise LookupError(f"container {container} is not valid for pod {self.name.split('/')[1]}")
        found = self._get(container)
        # A start that failed left none; the newest that is there is meant.
        for attempt in range(found.restarts - previous, -1, -1):
            if self.home and (path := self.home.log(container, attempt)).exists():
                return path
        return None

    def runs(self, container: str, log: Path) -> bool:
        """Whether something still writes to this log."""
        process = self.processes.get(container)
        return process is not None and process.running and process.log == log

    @property
    def deleting(self) -> bool:
        return "deletionTimestamp" in self.pod["metadata"]

    # Its life

    async def run(self) -> None:
        sender = asyncio.create_task(self._send())
        try:
            if await self._set_up():
                await self._live()
            await self._end()
            await self._flush()
        finally:
            sender.cancel()
            await self.tear_down()

    async def tear_down(self) -> None:
        """Kills what runs and gives back what was lent. Says nothing to anybody."""
        for name in list(self._tasks):
            self._cancel(name)
        self.kill()
        for process in self.processes.values():
            await process.shim.wait()
        await self._release()
        if self._volumes:
            self._volumes.tear_down()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _folder(self) -> Path:
        return self.host.folder / "pods" / self.uid

    def _resume(self) -> None:
        """After the node's own restart: what the pod's status tells of containers that ran here before."""
        status = self.pod.get("status") or {}
        known = {c["name"]: c for c in [*status.get("containerStatuses", []), *status.get("initContainerStatuses", [])]}
        now = self.host.clock()
        for index, container in enumerate(self.containers):
            state = (known.get(container.name) or {}).get("state") or {}
            restarts = (known.get(container.name) or {}).get("restartCount", 0)
            if ended := state.get("terminated"):
                then = Terminated(ended["exitCode"], ended.get("reason", ""), now, now)
                self.containers[index] = replace(container, state=then, restarts=restarts)
            elif "running" in state:
                lost = Terminated(255, "Unknown", now, now, "the node went away")
                self.containers[index] = replace(container, state=lost, restarts=restarts)
            self._strikes[container.name] = 1

    async def _set_up(self) -> bool:
        """Network and volumes. False: the pod is to end before it began."""
        spec, meta = self.pod["spec"], self.pod["metadata"]
        if (self.pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}:
            await self._until_deleted()
            return False
        self._report()
        self._folder.mkdir(parents=True, exist_ok=True)
        if spec.get("hostNetwork"):
            address = self.host.address
        else:
            self._network = await self.host.network.attach()
            address = self._network.address
            if not self.host.plugged:
                await self.host.network.plug(self._network, False)
        hostname = (spec.get("hostname") or meta["name"])[:63]
        self.home = Home(self._folder, self._network, address, hostname)
        self._volumes = Volumes(
            pod=self.pod,
            folder=self._folder / "volumes",
            objects=self.host.objects,
            tokens=Tokens(self.host.api, self.pod),
            claims=self.host.claims,
            api=self.host.api,
            facts=self._facts(),
            capacity=self.host.capacity,
            owner=owner_of(self.pod, self.host),
        )
        self._volumes.folder.mkdir(exist_ok=True)
        (self._folder / "hostname").write_text(hostname + "\n")
        (self._folder / "resolv.conf").write_text("search svc.cluster.local cluster.local\nnameserver 127.0.0.1\n")
        (self._folder / "hosts").touch()
        self._write_hosts()
        while not (self.deleting or self._gone or self._verdict):
            self._changed.clear()
            try:
                await self._volumes.set_up()
                return True
            except (ConfigError, ApiError, Unreachable) as error:
                self._tell("Warning", "FailedMount", f"MountVolume.SetUp failed: {error}")
            await self._wait(RETRY_SECONDS)
        return False

    async def _live(self) -> None:
        unlisten = self.host.services.listen(self._write_hosts)
        refresher = asyncio.create_task(self._refresh())
        policy = self.pod["spec"].get("restartPolicy", "Always")
        try:
            while not (self.deleting or self._gone or self._verdict):
                self._changed.clear()
                now = self.host.clock()
                if self._deadline_passed(now):
                    break
                decision = decide(
                    policy,
                    self.containers,
                    now=now,
                    strikes=self._strikes,
                    not_before=self._not_before,
                    backoff=self.host.backoff,
                )
                for name in decision.start:
                    await self._start(name)
                for name in decision.hold or {}:
                    self._hold(name)
                self._report()
                if decision.over:
                    break
                await self._wait(self._pause(decision.wake))
        finally:
            unlisten()
            refresher.cancel()

    def _pause(self, wake: float | None) -> float | None:
        deadline = self.pod["spec"].get("activeDeadlineSeconds")
        times = [t for t in (wake, None if deadline is None else self._started + deadline) if t is not None]
        return max(0.0, min(times) - self.host.clock()) if times else None

    def _deadline_passed(self, now: float) -> bool:
        deadline = self.pod["spec"].get("activeDeadlineSeconds")
        if deadline is not None and now >= self._started + deadline:
            self._verdict = ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
        return self._verdict is not None

    async def _end(self) -> None:
        """Stops what runs; then waits for the object's deletion, and tells the API server that nothing is left."""
        await self._stop_all()
        self._report()
        await self._flush()
        await self._release()
        await self._until_deleted()
        if self._gone:
            return
        meta = self.pod["metadata"]
        body = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": self.uid},
        }
        while not self._gone:
            try:
                await self.host.api.delete(f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}", body)
                return
            except ApiError as error:
                if error.status in {404, 409}:
                    return
            except Unreachable:
                pass
            await asyncio.sleep(RETRY_SECONDS)

    async def _until_deleted(self) -> None:
        while not (self.deleting or self._gone):
            self._changed.clear()
            await self._changed.wait()

    # Containers

    async def _start(self, name: str) -> None:
        container, spec = self._get(name), self._specs[name]
        assert self.home is not None
        assert self._volumes is not None
        attempt = container.restarts + 1 if container.last or isinstance(container.state, Terminated) else 0
        before = container.state if isinstance(container.state, Terminated) else container.last
        try:
            self._image(name, spec)
            sandbox = await sandbox_spec(self.pod, spec, self.host, self.home, self._volumes, self._facts(), attempt)
        except PullError as error:
            self._set(name, state=Waiting("ErrImagePull", str(error)))
            self._tell("Warning", "Failed", f'Failed to pull image "{spec["image"]}": {error}')
            self._not_before[name] = self.host.clock() + RETRY_SECONDS * 2
            return
        except (ConfigError, ApiError, Unreachable) as error:
            self._set(name, state=Waiting("CreateContainerConfigError", str(error)))
            self._tell("Warning", "Failed", f"Error: {error}")
            self._not_before[name] = self.host.clock() + RETRY_SECONDS * 2
            return
        now = self.host.clock()
        identity = f"cordee-test://{self.uid}/{name}/{attempt}"
        try:
            process = await launch("run", sandbox, self._folder / f"{name}.json")
        except StartError as error:
            ended = Terminated(128, "StartError", now, now, f"failed to start container: {error}")
            self._tell("Warning", "Failed", f"Error: {error}")
            self._over(name, ended)
            self._set(name, last=before, restarts=attempt, container_id=identity)
            return
        self.processes[name] = process
        plain = not spec.get("startupProbe")
        self._set(
            name,
            state=Running(process.started),
            last=before,
            restarts=attempt,
            container_id=identity,
            started=plain,
            ready=plain and not spec.get("readinessProbe"),
        )
        self._tell("Normal", "Started", f"Started container {name}")
        self._spawn(name, self._watch(name, process))
        if limit := memory_limit(spec):
            self._spawn(name, self._guard(process, limit))
        self._spawn(name, self._probe(name, process))
        if hook := (spec.get("lifecycle") or {}).get("postStart"):
            good, why = await self._act(name, hook, 30.0)
            if not good:
                self._tell("Warning", "FailedPostStartHook", why)
                process.signal(signal.SIGKILL)

    def _image(self, name: str, spec: Json) -> None:
        image = spec["image"]
        if image != image.lower().split("@")[0] + "".join(image.partition("@")[1:]) and ":" not in image:
            raise PullError(f'couldn\'t parse image name "{image}": invalid reference format')
        find_image(self.host, spec)

    async def _watch(self, name: str, process: Process) -> None:
        code = await process.wait()
        reason = "OOMKilled" if process.killed_for_memory else "Completed" if code == 0 else "Error"
        now = self.host.clock()
        self._over(name, Terminated(code, reason, process.started, now, self._message(name, process, code)))

    def _over(self, name: str, ended: Terminated) -> None:
        short = ended.finished - ended.started < self.host.backoff.forgotten
        self._strikes[name] = self._strikes.get(name, 0) + 1 if short else 1
        self._set(name, state=ended, ready=False, started=False)
        self._changed.set()
        for task in self._tasks.pop(name, set()):
            if task is not asyncio.current_task():
                task.cancel()

    def _hold(self, name: str) -> None:
        container = self._get(name)
        match container.state:
            case Terminated():
                sentence = f"back-off restarting failed container={name} pod={self.pod['metadata']['name']}"
                self._set(name, state=Waiting("CrashLoopBackOff", sentence), last=container.state)
                self._tell("Warning", "BackOff", f"Back-off restarting failed container {name}")
            case Waiting("ErrImagePull", message) if self._not_before.get(name):
                self._report()
                image = self._specs[name]["image"]
                self._set(name, state=Waiting("ImagePullBackOff", f'Back-off pulling image "{image}": {message}'))
                self._tell("Normal", "BackOff", f'Back-off pulling image "{image}"')

    def _message(self, name: str, process: Process, code: int) -> str:
        """What the container left in its termination message, or the end of its log where its pod asks for that."""
        text = ""
        with contextlib.suppress(OSError):
            text = (self._folder / f"{name}.message").read_bytes()[:4096].decode(errors="replace")
        policy = self._specs[name].get("terminationMessagePolicy")
        if not text and code != 0 and policy == "FallbackToLogsOnError":
            with contextlib.suppress(OSError):
                lines = process.log.read_bytes()[-2048:].decode(errors="replace").splitlines(keepends=True)
                text = "".join(lines[-80:])
        return text

    async def _guard(self, process: Process, limit: int) -> None:
        """The kernel's part, where there is no memory cgroup to have: a container over its limit is killed."""
        while process.running:
            if process.memory() > limit:
                process.killed_for_memory = True
                process.signal(signal.SIGKILL)
            await asyncio.sleep(MEMORY_SECONDS)

    async def _probe(self, name: str, process: Process) -> None:
        spec = self._specs[name]
        if probe := spec.get("startupProbe"):
            done = asyncio.Event()

            def verdict(good: bool, why: str) -> None:
                if good:
                    done.set()
                else:
                    self._unhealthy(name, process, "Startup", why, probe)

            task = asyncio.create_task(self._ask(name, probe, verdict, good=None))
            try:
                await done.wait()
            finally:
                task.cancel()
            self._set(name, started=True, ready=not spec.get("readinessProbe"))
            self._changed.set()
        async with asyncio.TaskGroup() as group:
            if probe := spec.get("readinessProbe"):
                group.create_task(self._ask(name, probe, lambda good, why: self._ready(name, good, why), good=None))
            if probe := spec.get("livenessProbe"):
                tell = lambda good, why: None if good else self._unhealthy(name, process, "Liveness", why, probe)  # noqa: E731
                group.create_task(self._ask(name, probe, tell, good=True))

    async def _ask(self, name: str, probe: Json, tell: Any, *, good: bool | None) -> None:
        await probes.follow(probe, lambda: self._act(name, probe, probe.get("timeoutSeconds") or 1), tell, good=good)

    async def _act(self, name: str, action: Json, seconds: float) -> tuple[bool, str]:
        process = self.processes[name]
        assert self.home is not None

        async def inside(command: list[str], limit: float) -> tuple[int, str]:
            return await execute(process, command, self._folder / f"exec-{id(command):x}.json", seconds=limit)

        return await probes.act(action, self._specs[name], self.home.address, inside, seconds)

    def _ready(self, name: str, good: bool, why: str) -> None:
        if not good:
            self._tell("Warning", "Unhealthy", f"Readiness probe failed: {why}")
        self._set(name, ready=good)
        self._report()

    def _unhealthy(self, name: str, process: Process, kind: str, why: str, probe: Json) -> None:
        self._tell("Warning", "Unhealthy", f"{kind} probe failed: {why}")
        self._tell("Normal", "Killing", f"Container {name} failed {kind.lower()} probe, will be restarted")
        grace = probe.get("terminationGracePeriodSeconds", self.pod["spec"].get("terminationGracePeriodSeconds", 30))
        end = self.host.clock() + grace
        self._spawn("", self._stop(name, process, lambda: end - self.host.clock()))

    # Stopping

    async def _stop_all(self) -> None:
        """Main containers together, then the sidecars in reverse; within the pod's grace period."""
        self._ending = True
        begun = self.host.clock()

        def left() -> float:
            return begun + self._grace() - self.host.clock()

        kinds = {c.name: c.kind for c in self.containers}
        running = [(n, p) for n, p in self.processes.items() if p.running]
        await asyncio.gather(*(self._stop(n, p, left) for n, p in running if kinds[n] != "sidecar"))
        for name, process in reversed([(n, p) for n, p in running if kinds[n] == "sidecar"]):
            await self._stop(name, process, left)
        now = self.host.clock()
        for name, process in running:
            if isinstance(self._get(name).state, Running):
                self._over(name, Terminated(process.exit_code or 0, "Error", process.started, now))

    async def _stop(self, name: str, process: Process, left: Callable[[], float]) -> None:
        hook = (self._specs[name].get("lifecycle") or {}).get("preStop")
        self._tell("Normal", "Killing", f"Stopping container {name}")
        if hook and process.running and left() > 0:
            good, why = await self._act(name, hook, max(1.0, left()))
            if not good:
                self._tell("Warning", "FailedPreStopHook", why)
        process.signal(signal.SIGTERM)
        # In slices: a second deletion may have shortened the time.
        while left() > 0 and not await process.ended(min(left(), 0.5)):
            pass
        process.signal(signal.SIGKILL)
        await process.ended(30.0)

    def _grace(self) -> float:
        if self._gone:
            return FORCED_GRACE_SECONDS
        stated = self.pod["spec"].get("terminationGracePeriodSeconds", 30)
        return float(self.pod["metadata"].get("deletionGracePeriodSeconds", stated))

    async def _release(self) -> None:
        if self._network:
            network, self._network = self._network, None
            await self.host.network.detach(network)

    # Small things

    def _facts(self) -> dict[str, str]:
        return facts_of(self.pod, self.host, self.home.address if self.home else "")

    def _get(self, name: str) -> Container:
        return next(c for c in self.containers if c.name == name)

    def _set(self, name: str, **changes: Any) -> None:
        self.containers = [replace(c, **changes) if c.name == name else c for c in self.containers]

    def _tell(self, kind: str, reason: str, message: str) -> None:
        self.host.events.tell(self.pod, kind, reason, message)

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        tasks = self._tasks.setdefault(name, set())
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _cancel(self, name: str) -> None:
        for task in self._tasks.pop(name, set()):
            task.cancel()

    def _write_hosts(self) -> None:
        if self.home is None or not self._folder.exists():
            return
        text = hosts_file(
            self.host.services,
            namespace=self.pod["metadata"]["namespace"],
            address=self.home.address,
            hostname=self.home.hostname,
            aliases=self.pod["spec"].get("hostAliases") or [],
        )
        path = self._folder / "hosts"
        # In place, for it is mounted.
        if path.read_text() != text:
            with path.open("r+") as file:
                file.write(text)
                file.truncate()

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

    # Statuses

    def _report(self) -> None:
        reason, message = self._verdict or ("", "")
        status = pod_status(
            self.pod,
            self.containers,
            now=self.host.clock(),
            started=self._started,
            host_ip=self.host.address,
            pod_ip=self.home.address if self.home else None,
            reason=reason,
            message=message,
            failed=self._verdict is not None and self._ending,
        )
        if status != self.pod.get("status"):
            self.pod["status"] = status
            self._sent.clear()
            self._dirty.set()

    async def _flush(self) -> None:
        if not self._gone:
            await self._sent.wait()

    async def _send(self) -> None:
        """Sends the newest status, until it has arrived."""
        meta = self.pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                status = self.pod["status"]
                await self.host.api.patch(path, {"metadata": {"uid": self.uid}, "status": status}, STRATEGIC)
                if not self._dirty.is_set():
                    self._sent.set()
            except ApiError as error:
                if error.status in {404, 409}:
                    self.gone()
                    self._sent.set()
                    continue
                self._dirty.set()
                await asyncio.sleep(RETRY_SECONDS)
            except Unreachable:
                self._dirty.set()
                await asyncio.sleep(RETRY_SECONDS)
