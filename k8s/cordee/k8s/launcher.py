"""Agents as pods of one namespace: the launcher `kubernetes`.

The cluster is the memory: a pod's name is its worker's id, its labels say whose it is, and a watch tells what becomes
of it. What is wanted is kept here as wishes, one task each: a pod that cannot be made now (quota, an API server that
is away, an older pod of the same name that has yet to go) is made as soon as it can be, and why it waits is said. So
`start` never fails for a reason that may pass, and a coordinator that is started anew finds its pods by their labels.

A pod that has ended is reported first and removed afterwards: a coordinator that dies between the two finds it again.
"""

import asyncio
import contextlib
import functools
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from cordee.coordinator.config import Config
from cordee.coordinator.core.model import Outlook
from cordee.coordinator.errors import InvalidError
from cordee.coordinator.service.folder import StateFolder
from cordee.coordinator.service.launchers.base import AgentExit, AgentNotice, AgentSpec, AgentStatus, Home
from cordee.coordinator.spec import JobSpec
from cordee.k8s.api import Api, Json
from cordee.k8s.diagnosis import Fate, Finding, diagnose, diagnose_refusal
from cordee.k8s.errors import ApiError, KubernetesError, UnreachableError
from cordee.k8s.homes import read_home
from cordee.k8s.identity import KnownPod, ServiceAccountVerifier
from cordee.k8s.names import WORKER_LABEL, labels, selector
from cordee.k8s.owners import Owners
from cordee.k8s.pod_state import Pod, Wish, end_of, notice_of, version_of
from cordee.k8s.pods import check_defaults, has_storage, pod_environment, pod_manifest
from cordee.k8s.policies import Policies
from cordee.k8s.watch import Change, Collection, Kind, Watcher, on_loop

__all__ = ["KubernetesLauncher", "open_launcher"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

_FIRST_LIST_SECONDS: Final = 60.0
_OWNER_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
_LOOK_SECONDS: Final = 10.0
"""How often a pod whose end is waited for is looked at, beside the watch."""
_FORCE_SECONDS: Final = 5.0
"""A pod that was to end by now, and of which its node does not say so, is taken out of the books after so long more:
its node does not answer. The worker in it, if it lives, is fenced."""
_OFFENCES: Final = 2
"""A node on which so many pods of a job failed is avoided by its next ones."""
_NO_CHECKPOINTS: Final = (
    "checkpoints are off: pods share no storage. A worker that is lost heals from its peers; if all are lost at once, "
    "training starts over, to the same weights. Set kubernetes.storage in the coordinator's configuration, or "
    "spec.checkpoint.storage"
)
_DEAD: Final = 10_000
_THREADS: Final = 16
"""So many requests run at once."""


class KubernetesLauncher:
    """Runs agents as pods. Made and used on one event loop; `api` is asked on threads."""

    name = "kubernetes"

    def __init__(self, api: Api, config: Config) -> None:
        check_defaults(config.kubernetes)
        self.where = f"the cluster's namespace {api.namespace}"
        self.owners = Owners()
        """Which object a job's pods belong to."""
        self.nodes: dict[str, str] = {}
        """The nodes that pods are on, by worker."""
        self.verifier = ServiceAccountVerifier(api, namespace=api.namespace, pods=self.known_pod)
        """Knows workers by their pods' tokens."""
        self._api = api
        self._config = config
        self._settings = config.kubernetes
        self._path = f"/api/v1/namespaces/{api.namespace}/pods"
        self._pods: dict[str, Pod] = {}
        self._dead: dict[str, None] = {}  # uids: an answer of ours may come after the news of its end
        self._wishes: dict[str, Wish] = {}
        self._news: asyncio.Queue[AgentExit | AgentNotice] = asyncio.Queue()
        self._ended: dict[str, Pod] = {}  # reported, to be removed, by worker
        self._offences: dict[str, Counter[str]] = {}
        self._policies = Policies(self._ask, self._settings.instance, api.namespace)
        self._threads = ThreadPoolExecutor(_THREADS, "cordee-kubernetes")
        self._tasks: set[asyncio.Task[Any]] = set()
        self._listed: asyncio.Event | None = None
        self._watcher: Watcher | None = None
        self._closed = False

    # -- the interface

    def check(self, spec: JobSpec) -> Sequence[str]:
        """Refuse what no pod of ours may be: the pod is made, and looked at, without being sent anywhere."""
        told = {**spec.env, **pod_environment(self._config, "job", spec)}
        pod_manifest(AgentSpec("job-w0", "job", Path("/"), told, spec), self._config, self._api.namespace)
        return () if has_storage(self._config, spec) else (_NO_CHECKPOINTS,)

    def environment(self, job: str, folder: Path, token: str, spec: JobSpec) -> Mapping[str, str]:  # noqa: ARG002
        """A pod has its own folder and its own token."""
        return pod_environment(self._config, job, spec)

    def capacity(self) -> int:
        """As many as are allowed: what the cluster has room for, its scheduler says when it is asked."""
        return self._settings.max_workers

    async def start(self, spec: AgentSpec) -> None:
        """See to it that there is a pod for this worker, from now on until it has ended or is stopped."""
        known = self._wishes.get(spec.worker)
        if known is not None and known.task is not None and not known.task.done():
            return
        pod = self._pods.get(spec.worker)
        if pod is not None and self._is_good(pod):
            return
        wish = self._wishes[spec.worker] = Wish(spec)
        wish.task = self._spawn(self._fulfil(wish))

    async def stop(self, worker: str, *, grace_seconds: float) -> bool:
        """Delete the pod, and the wish for it. A pod whose node does not confirm its end is taken out of the books."""
        wish = self._wishes.pop(worker, None)
        if wish is not None and wish.task is not None:
            wish.task.cancel()
            await asyncio.gather(wish.task, return_exceptions=True)
        pod = self._pods.get(worker)
        if pod is None:
            return False
        if pod.told:
            return worker in self._ended  # its end will come, or has come
        pod.stopping = True
        seconds = max(round(grace_seconds), 1)  # its node is to confirm that it ended, even if that is to be at once
        if time.monotonic() + seconds < pod.due:
            pod.due = time.monotonic() + seconds
            self._spawn(self._end(pod, seconds))
        return True

    async def list(self) -> list[AgentStatus]:
        """The pods that there are; one that has ended and was not reported yet counts, its end follows."""
        await self._follow()
        return [
            AgentStatus(pod.name, pod.job) for pod in self._pods.values() if not pod.told or pod.name in self._ended
        ]

    async def home(self) -> Home:
        """The namespace. Asked when its pods have been listed."""
        return await read_home(self._ask, self._api.namespace, moved_from=self._settings.moved_from or "")

    async def exits(self) -> AsyncIterator[AgentExit | AgentNotice]:
        """What becomes of pods."""
        while True:
            told = await self._news.get()
            yield told
            if isinstance(told, AgentExit):
                ended = self._ended.pop(told.worker, None)
                if ended is not None and self._pods.get(told.worker) is ended:
                    self._spawn(self._end(ended, 0))

    async def close(self) -> None:
        """Look no more; the pods run on."""
        self._closed = True
        self.verifier.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._watcher is not None:
            await asyncio.to_thread(self._watcher.stop)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._api.close()

    def known_pod(self, worker: str) -> KnownPod | None:
        """The worker's pod, as long as it is one that may speak."""
        pod = self._pods.get(worker)
        if pod is None or pod.told:
            return None
        account = str(pod.thing["spec"].get("serviceAccountName") or "default")
        return KnownPod(pod.job, pod.uid, account)

    # -- making

    async def _fulfil(self, wish: Wish) -> None:
        """Make the pod of a wish, however long it takes."""
        tries = 0
        while not self._closed:
            wish.changed.clear()
            try:
                await self._follow()
                if await self._make(wish):
                    if self._wishes.get(wish.spec.worker) is wish:
                        del self._wishes[wish.spec.worker]
                    return
                wait = _LOOK_SECONDS  # the one that is in its way has to go first
            except UnreachableError as error:
                self._say_of_wish(wish, Finding(Fate.PENDING, f"waits: {error.message}", outlook=Outlook.PASSING))
                wait = _RETRY_SECONDS[min(tries, len(_RETRY_SECONDS) - 1)]
                tries += 1
            except ApiError as error:
                self._say_of_wish(wish, diagnose_refusal(error.status, error.reason, error.message))
                wait = max(_RETRY_SECONDS[min(tries, len(_RETRY_SECONDS) - 1)], error.retry_after or 0.0)
                tries += 1
            except KubernetesError as error:  # the watch has not begun
                self._say_of_wish(wish, Finding(Fate.PENDING, f"waits: {error.message}", outlook=Outlook.PASSING))
                wait = 0.0
            except InvalidError as error:
                words = f"cannot be made: {error.message}"
                self._say_of_wish(wish, Finding(Fate.REFUSED, words, outlook=Outlook.HOPELESS))
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wish.changed.wait(), wait)

    async def _make(self, wish: Wish) -> bool:
        """Whether there is a pod for the wish now. False: another of its name has to go first."""
        spec = wish.spec
        pod = self._pods.get(spec.worker)
        if pod is not None:
            return self._is_good(pod)
        owner = await self.owners.owner(spec.job, _OWNER_SECONDS)
        if self._settings.network_policies:
            await self._policies.make(spec.job, owner)
        avoid = [node for node, times in self._offences.get(spec.job, Counter()).items() if times >= _OFFENCES]
        manifest = pod_manifest(spec, self._config, self._api.namespace, owner=owner, avoid=avoid)
        asked = self._spawn(self._ask("POST", self._path, query={"fieldValidation": "Strict"}, body=manifest))
        try:
            made = await asyncio.shield(asked)
        except asyncio.CancelledError:  # not in the middle: a pod that was made is to be known, to be deleted
            with contextlib.suppress(KubernetesError):
                self._heard(await asked)
            raise
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            found = await self._look(spec.worker)
            if found is None:
                return False
            if found["metadata"].get("labels", {}).get(WORKER_LABEL) != spec.worker or not self._is_ours(found):
                words = f"waits: there is a pod {spec.worker} that is not Cordee's"
                self._say_of_wish(wish, Finding(Fate.PENDING, words, outlook=Outlook.DOUBTFUL))
                return False
            made = found
        self._heard(made)
        pod = self._pods.get(spec.worker)
        return pod is not None and self._is_good(pod)

    def _is_good(self, pod: Pod) -> bool:
        """It runs, or will, and nobody has asked for its end."""
        return not (pod.told or pod.stopping or pod.leaving or diagnose(pod.thing).over)

    def _is_ours(self, thing: Json) -> bool:
        mine = labels(self._settings.instance, "", None)
        found = thing["metadata"].get("labels") or {}
        return all(found.get(key) == value for key, value in mine.items() if value)

    # -- ending

    async def _end(self, pod: Pod, grace_seconds: int) -> None:
        """Delete a pod, and see to it that it goes."""
        tries = 0
        while not self._closed and self._pods.get(pod.name) is pod:
            body = {
                "apiVersion": "v1",
                "kind": "DeleteOptions",
                "gracePeriodSeconds": grace_seconds,
                "preconditions": {"uid": pod.uid},
            }
            try:
                await self._ask("DELETE", f"{self._path}/{pod.name}", body=body)
            except ApiError as error:
                if error.status in (404, 409):  # it is gone, or it is another one
                    self._forget(pod)
                    return
                _log.warning("the pod %s cannot be deleted: %s", pod.name, error.message)
                await asyncio.sleep(_RETRY_SECONDS[min(tries, len(_RETRY_SECONDS) - 1)])
                tries += 1
            except UnreachableError:
                await asyncio.sleep(_RETRY_SECONDS[min(tries, len(_RETRY_SECONDS) - 1)])
                tries += 1
            else:
                if grace_seconds == 0:
                    return
                await asyncio.sleep(grace_seconds + _FORCE_SECONDS)
                if self._pods.get(pod.name) is pod and not pod.told:
                    pod.forced = True
                grace_seconds = 0

    # -- hearing

    async def _follow(self) -> None:
        if self._watcher is None:
            loop = asyncio.get_running_loop()
            listed = self._listed = asyncio.Event()
            collection = Collection(self._path, selector(self._settings.instance))
            self._watcher = Watcher(
                self._api,
                collection,
                on_loop(loop, self._changed),
                on_synced=lambda: loop.call_soon_threadsafe(listed.set),
            )
            self._watcher.start()
        assert self._listed is not None
        try:
            async with asyncio.timeout(_FIRST_LIST_SECONDS):
                await self._listed.wait()
        except TimeoutError:
            why = self._watcher.trouble or "it does not answer"
            hint = "the coordinator may get, list and watch pods by a Role in that namespace"
            raise KubernetesError(f"the pods of {self.where} cannot be listed: {why}", hint=hint) from None

    def _changed(self, changes: Sequence[Change]) -> None:
        for change in changes:
            try:
                self._heard(change.object, gone=change.kind is Kind.DELETED)
            except Exception:
                _log.exception("what has become of the pod %s cannot be told", change.object["metadata"]["name"])

    def _heard(self, thing: Json, *, gone: bool = False) -> None:
        """News of a pod, from the watch or from an answer. In whichever order they come."""
        metadata = thing["metadata"]
        name, uid = str(metadata["name"]), str(metadata["uid"])
        if uid in self._dead or WORKER_LABEL not in (metadata.get("labels") or {}):
            return
        pod = self._pods.get(name)
        if pod is not None and pod.uid != uid:
            self._lost(pod)
            pod = None
        if pod is None:
            pod = self._pods[name] = Pod(thing)
            if name not in self._wishes and self._listed is not None and self._listed.is_set():
                # An answer that was lost, or another coordinator's: nobody wants it any more.
                _log.warning("the pod %s is nobody's wish, and is deleted", name)
                pod.stopping = True
                self._spawn(self._end(pod, 1))
        elif version_of(thing) >= version_of(pod.thing) or gone:
            pod.thing = thing
        if pod.node:
            self.nodes[name] = pod.node
        finding = diagnose(pod.thing, gone=gone)
        if (finding.over or gone) and not pod.told:
            self._tell_end(pod, finding)
        elif not pod.told:
            self._tell_of(pod, finding)
        if gone:
            self._forget(pod)
        wish = self._wishes.get(name)
        if wish is not None:
            wish.changed.set()

    def _lost(self, pod: Pod) -> None:
        """Another pod has its name: it is gone, and nobody said how."""
        if not pod.told:
            self._tell_end(pod, Finding(Fate.DELETED, "was deleted", over=True))
        self._forget(pod)

    def _forget(self, pod: Pod) -> None:
        if not pod.told:
            self._tell_end(pod, diagnose(pod.thing, gone=True))
        self._dead[pod.uid] = None
        if len(self._dead) > _DEAD:
            del self._dead[next(iter(self._dead))]
        if self._pods.get(pod.name) is pod:
            del self._pods[pod.name]
            self.nodes.pop(pod.name, None)
            self._forget_job(pod.job)
        if self._ended.get(pod.name) is pod:
            del self._ended[pod.name]
        wish = self._wishes.get(pod.name)
        if wish is not None:
            wish.changed.set()

    def _forget_job(self, job: str) -> None:
        if self._is_present(job):
            return
        self._offences.pop(job, None)
        if self._settings.network_policies and not self._closed:
            self._spawn(self._policies.drop(job, unless=lambda: self._is_present(job)))

    def _is_present(self, job: str) -> bool:
        wishes = (wish.spec.job for wish in self._wishes.values())
        return job in wishes or any(pod.job == job for pod in self._pods.values())

    # -- telling

    def _tell_end(self, pod: Pod, finding: Finding) -> None:
        pod.told = True
        self._ended[pod.name] = pod
        told, guilty = end_of(pod, finding)
        if guilty:
            self._offences.setdefault(pod.job, Counter())[pod.node] += 1
        self._news.put_nowait(told)

    def _tell_of(self, pod: Pod, finding: Finding) -> None:
        told = notice_of(pod, finding, time.monotonic())
        if told is not None:
            self._news.put_nowait(told)

    def _say_of_wish(self, wish: Wish, finding: Finding) -> None:
        told = wish.notice(finding, time.monotonic())
        if told is not None:
            self._news.put_nowait(told)

    # -- small things

    async def _ask(self, method: Any, path: str, **options: Any) -> Json:
        loop = asyncio.get_running_loop()
        request = functools.partial(self._api.request, method, path, **options)
        return await loop.run_in_executor(self._threads, request)

    async def _look(self, name: str) -> Json | None:
        try:
            return await self._ask("GET", f"{self._path}/{name}")
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_report)
        return task


def open_launcher(config: Config, folder: StateFolder) -> KubernetesLauncher:  # noqa: ARG001
    """The launcher of a coordinator: called by name, by `cordee.coordinator.service.launchers.registry`."""
    return KubernetesLauncher(Api.connect(config.kubernetes), config)


def _report(task: "asyncio.Task[Any]") -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, KubernetesError):  # those are told to whoever asked
        _log.error("a task of the launcher failed", exc_info=task.exception())
