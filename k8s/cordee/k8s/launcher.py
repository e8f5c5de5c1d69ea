"""Agents as pods of one namespace: the launcher `kubernetes`.

The cluster is the memory: a pod's name is its worker's id, its labels say whose it is, and a watch tells what becomes
of it. What is wanted is kept here as wishes, one task each: a pod that cannot be made now (quota, an API server that
is away, an older pod of the same name that has yet to go) is made as soon as it can be, and why it waits is said. So
`start` never fails for a reason that may pass, and a coordinator that is started anew finds its pods by their labels.

A pod that has ended is reported first and removed afterwards: a coordinator that dies between the two finds it again.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from cordee.coordinator.config import Config
from cordee.coordinator.core.model import Outlook
from cordee.coordinator.errors import InvalidError
from cordee.coordinator.service.folder import StateFolder
from cordee.coordinator.service.launchers.base import AgentExit, AgentNotice, AgentSpec, AgentStatus, Home
from cordee.coordinator.spec import JobSpec
from cordee.k8s.api import Api, Json
from cordee.k8s.books import Books
from cordee.k8s.diagnosis import Fate, Finding, diagnose, diagnose_refusal
from cordee.k8s.errors import ApiError, KubernetesError, UnreachableError
from cordee.k8s.homes import read_home
from cordee.k8s.identity import ServiceAccountVerifier
from cordee.k8s.names import WORKER_LABEL, labels, selector
from cordee.k8s.owners import Owners
from cordee.k8s.pod_state import Pod, Wish
from cordee.k8s.pods import check_defaults, has_storage, pod_environment, pod_manifest
from cordee.k8s.policies import Policies
from cordee.k8s.requests import Requests
from cordee.k8s.watch import Collection, Watcher, on_loop

__all__ = ["KubernetesLauncher", "open_launcher"]

_log = logging.getLogger(__name__)

_FIRST_LIST_SECONDS: Final = 60.0
_OWNER_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
_LOOK_SECONDS: Final = 10.0
"""How often a pod whose end is waited for is looked at, beside the watch."""
_FORCE_SECONDS: Final = 5.0
"""A pod that was to end by now, and of which its node does not say so, is taken out of the books after so long more:
its node does not answer. The worker in it, if it lives, is fenced."""
_NO_CHECKPOINTS: Final = (
    "checkpoints are off: pods share no storage. A worker that is lost heals from its peers; if all are lost at once, "
    "training starts over, to the same weights. Set kubernetes.storage in the coordinator's configuration, or "
    "spec.checkpoint.storage"
)


class KubernetesLauncher:
    """Runs agents as pods. Made and used on one event loop; `api` is asked on threads."""

    name = "kubernetes"

    def __init__(self, api: Api, config: Config) -> None:
        check_defaults(config.kubernetes)
        self.where = f"the cluster's namespace {api.namespace}"
        self.owners = Owners()
        """Which object a job's pods belong to."""
        self._books = Books(unwanted=lambda pod: self._spawn_end(pod, 1), left=self._drop_policy)
        self.nodes = self._books.nodes
        """The nodes that pods are on, by worker."""
        self.verifier = ServiceAccountVerifier(api, namespace=api.namespace, pods=self._books.known_pod)
        """Knows workers by their pods' tokens."""
        self._api = api
        self._config = config
        self._settings = config.kubernetes
        self._path = f"/api/v1/namespaces/{api.namespace}/pods"
        self._requests = Requests(api)
        self._policies = Policies(self._requests.ask, self._settings.instance, api.namespace)
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
        known = self._books.wishes.get(spec.worker)
        if known is not None and known.task is not None and not known.task.done():
            return
        pod = self._books.pods.get(spec.worker)
        if pod is not None and self._is_good(pod):
            return
        wish = self._books.wishes[spec.worker] = Wish(spec)
        wish.task = self._requests.spawn(self._fulfil(wish))

    async def stop(self, worker: str, *, grace_seconds: float) -> bool:
        """Delete the pod, and the wish for it. A pod whose node does not confirm its end is taken out of the books."""
        wish = self._books.wishes.pop(worker, None)
        if wish is not None and wish.task is not None:
            wish.task.cancel()
            await asyncio.gather(wish.task, return_exceptions=True)
        pod = self._books.pods.get(worker)
        if pod is None:
            return False
        if pod.told:
            return worker in self._books.ended  # its end will come, or has come
        pod.stopping = True
        seconds = max(round(grace_seconds), 1)  # its node is to confirm that it ended, even if that is to be at once
        if time.monotonic() + seconds < pod.due:
            pod.due = time.monotonic() + seconds
            self._spawn_end(pod, seconds)
        return True

    async def list(self) -> list[AgentStatus]:
        """The pods that there are; one that has ended and was not reported yet counts, its end follows."""
        await self._follow()
        return [
            AgentStatus(pod.name, pod.job)
            for pod in self._books.pods.values()
            if not pod.told or pod.name in self._books.ended
        ]

    async def home(self) -> Home:
        """The namespace. Asked when its pods have been listed."""
        return await read_home(self._requests.ask, self._api.namespace, moved_from=self._settings.moved_from or "")

    async def exits(self) -> AsyncIterator[AgentExit | AgentNotice]:
        """What becomes of pods."""
        while True:
            told = await self._books.news.get()
            yield told
            if isinstance(told, AgentExit):
                ended = self._books.ended.pop(told.worker, None)
                if ended is not None and self._books.pods.get(told.worker) is ended:
                    self._spawn_end(ended, 0)

    async def close(self) -> None:
        """Look no more; the pods run on."""
        self._closed = True
        self.verifier.close()
        await self._requests.stop()
        if self._watcher is not None:
            await asyncio.to_thread(self._watcher.stop)
        self._requests.close()

    # -- making

    async def _fulfil(self, wish: Wish) -> None:
        """Make the pod of a wish, however long it takes."""
        tries = 0
        while not self._closed:
            wish.changed.clear()
            try:
                await self._follow()
                if await self._make(wish):
                    if self._books.wishes.get(wish.spec.worker) is wish:
                        del self._books.wishes[wish.spec.worker]
                    return
                wait = _LOOK_SECONDS  # the one that is in its way has to go first
            except UnreachableError as error:
                self._books.say_of_wish(wish, Finding(Fate.PENDING, f"waits: {error.message}", outlook=Outlook.PASSING))
                wait = _RETRY_SECONDS[min(tries, len(_RETRY_SECONDS) - 1)]
                tries += 1
            except ApiError as error:
                self._books.say_of_wish(wish, diagnose_refusal(error.status, error.reason, error.message))
                wait = max(_RETRY_SECONDS[min(tries, len(_RETRY_SECONDS) - 1)], error.retry_after or 0.0)
                tries += 1
            except KubernetesError as error:  # the watch has not begun
                self._books.say_of_wish(wish, Finding(Fate.PENDING, f"waits: {error.message}", outlook=Outlook.PASSING))
                wait = 0.0
            except InvalidError as error:
                words = f"cannot be made: {error.message}"
                self._books.say_of_wish(wish, Finding(Fate.REFUSED, words, outlook=Outlook.HOPELESS))
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wish.changed.wait(), wait)

    async def _make(self, wish: Wish) -> bool:
        """Whether there is a pod for the wish now. False: another of its name has to go first."""
        spec = wish.spec
        pod = self._books.pods.get(spec.worker)
        if pod is not None:
            return self._is_good(pod)
        owner = await self.owners.owner(spec.job, _OWNER_SECONDS)
        if self._settings.network_policies:
            await self._policies.make(spec.job, owner)
        avoid = self._books.avoided(spec.job)
        manifest = pod_manifest(spec, self._config, self._api.namespace, owner=owner, avoid=avoid)
        asked = self._requests.spawn(
            self._requests.ask("POST", self._path, query={"fieldValidation": "Strict"}, body=manifest)
        )
        try:
            made = await asyncio.shield(asked)
        except asyncio.CancelledError:  # not in the middle: a pod that was made is to be known, to be deleted
            with contextlib.suppress(KubernetesError):
                self._books.heard(await asked)
            raise
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            found = await self._requests.look(f"{self._path}/{spec.worker}")
            if found is None:
                return False
            if found["metadata"].get("labels", {}).get(WORKER_LABEL) != spec.worker or not self._is_ours(found):
                words = f"waits: there is a pod {spec.worker} that is not Cordee's"
                self._books.say_of_wish(wish, Finding(Fate.PENDING, words, outlook=Outlook.DOUBTFUL))
                return False
            made = found
        self._books.heard(made)
        pod = self._books.pods.get(spec.worker)
        return pod is not None and self._is_good(pod)

    def _is_good(self, pod: Pod) -> bool:
        """It runs, or will, and nobody has asked for its end."""
        return not (pod.told or pod.stopping or pod.leaving or diagnose(pod.thing).over)

    def _is_ours(self, thing: Json) -> bool:
        mine = labels(self._settings.instance, "", None)
        found = thing["metadata"].get("labels") or {}
        return all(found.get(key) == value for key, value in mine.items() if value)

    # -- ending

    def _spawn_end(self, pod: Pod, grace_seconds: int) -> None:
        self._requests.spawn(self._end(pod, grace_seconds))

    async def _end(self, pod: Pod, grace_seconds: int) -> None:
        """Delete a pod, and see to it that it goes."""
        tries = 0
        while not self._closed and self._books.pods.get(pod.name) is pod:
            body = {
                "apiVersion": "v1",
                "kind": "DeleteOptions",
                "gracePeriodSeconds": grace_seconds,
                "preconditions": {"uid": pod.uid},
            }
            try:
                await self._requests.ask("DELETE", f"{self._path}/{pod.name}", body=body)
            except ApiError as error:
                if error.status in (404, 409):  # it is gone, or it is another one
                    self._books.forget(pod)
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
                if self._books.pods.get(pod.name) is pod and not pod.told:
                    pod.forced = True
                grace_seconds = 0

    def _drop_policy(self, job: str) -> None:
        if self._settings.network_policies and not self._closed:
            self._requests.spawn(self._policies.drop(job, unless=lambda: self._books.is_present(job)))

    # -- hearing

    async def _follow(self) -> None:
        if self._watcher is None:
            loop = asyncio.get_running_loop()
            listed = self._listed = asyncio.Event()
            self._books.complete = listed.is_set
            collection = Collection(self._path, selector(self._settings.instance))
            self._watcher = Watcher(
                self._api,
                collection,
                on_loop(loop, self._books.changed),
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


def open_launcher(config: Config, folder: StateFolder) -> KubernetesLauncher:  # noqa: ARG001
    """The launcher of a coordinator: called by name, by `cordee.coordinator.service.launchers.registry`."""
    return KubernetesLauncher(Api.connect(config.kubernetes), config)
