"""Leadership by a Lease of the coordinators' namespace: what `election` decides, carried out.

Calls to the API server are made in threads, each with a time limit well below the Lease's. The leader marks its own pod
with the label `cordee.dev/leader: "true"`, which is what the chart's Service selects by: all replicas are ready, one is
reached. Marking is retried, and never a reason to step down.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TypeVar

from cordee.coordinator.config import Config
from cordee.k8s.api import MERGE_PATCH, Api, Json
from cordee.k8s.election import Elector, Lease, Times, Write
from cordee.k8s.errors import ApiError, KubernetesError

__all__ = ["LEADER_LABEL", "LeaseLeadership", "open_leadership"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

LEADER_LABEL: Final = "cordee.dev/leader"
_RELEASED_SECONDS: Final = 1


def open_leadership(config: Config) -> "LeaseLeadership":
    """From the coordinator's configuration; its pod's name comes from the environment (the downward API)."""
    asked = config.leader_election
    assert asked is not None
    try:
        times = Times(asked.duration_seconds, asked.renew_seconds, asked.retry_seconds)
    except ValueError as error:
        raise KubernetesError(f"leaderElection: {error}") from error
    return LeaseLeadership(
        Api.connect(config.kubernetes),
        name=asked.lease,
        times=times,
        instance=config.kubernetes.instance,
        pod=os.environ.get("CORDEE_POD_NAME", ""),
        namespace=os.environ.get("CORDEE_POD_NAMESPACE", ""),
    )


class LeaseLeadership:
    """One candidate for one Lease. `pod` is the pod it runs in, empty outside a cluster: nothing is marked then."""

    def __init__(
        self, api: Api, *, name: str, times: Times, instance: str = "cordee", pod: str = "", namespace: str = ""
    ) -> None:
        # Of this process alone: one that starts again in the same pod must not take the old one's Lease for its own.
        identity = f"{pod or socket.gethostname()}_{secrets.token_hex(4)}"
        self.lost = asyncio.Event()
        self._api = api
        self._name = name
        self._instance, self._pod = instance, pod
        namespace = namespace or api.namespace
        self._leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._elector = Elector(identity, times)
        self._call_seconds = times.renew / 3
        self._won = asyncio.Event()
        self._held: Json = {}  # the Lease of our last good write
        self._marked = not pod
        self._work: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._complained = ""

    @property
    def identity(self) -> str:
        """This candidate's name in the Lease."""
        return self._elector.identity

    @property
    def holder(self) -> str:
        """Who leads, as far as is known."""
        return self._elector.holder

    async def acquire(self) -> None:
        """Wait until this one leads."""
        if self._work is None:
            self._work = asyncio.get_running_loop().create_task(self._run())
        await self._won.wait()

    async def release(self) -> None:
        """Stop, and give back what is held. Never raises: a Lease that cannot be given back runs out."""
        if self._work is None:
            return
        self._work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._work
        if self._timer is not None:
            self._timer.cancel()
        if self._elector.leads(time.monotonic()):
            self._elector.give_up()
            with contextlib.suppress(KubernetesError, TimeoutError):
                await self._call(self._give_back)

    # -- the loop

    async def _run(self) -> None:
        retry = self._elector.times.retry
        while True:
            try:
                await self._try()
            except KubernetesError as error:
                self._complain(error.message)
            except TimeoutError:
                self._complain("the API server does not answer")
            await asyncio.sleep(retry)

    async def _try(self) -> None:
        found = await self._call(self._read)
        write = self._elector.look(_lease(found) if found is not None else None, time.monotonic())
        if write is not None:
            sent_at = time.monotonic()
            try:
                self._held = await self._call(lambda: self._write(found, write))
            except ApiError as error:
                if error.status == 409:  # somebody was faster: look again
                    return
                raise
            self._elector.written(_lease(self._held), sent_at)
            self._lead_on()
        self._complained = ""
        if self._won.is_set() and not self._marked:
            await self._call(self._mark)
            self._marked = True

    def _lead_on(self) -> None:
        loop = asyncio.get_running_loop()
        left = self._elector.leads_until - time.monotonic()
        if left <= 0:  # the answer came too late to be worth anything
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(left, self._expired)
        if not self._won.is_set():
            _log.info("%s leads: it holds the lease %s", self.identity, self._name)
            self._won.set()

    def _expired(self) -> None:
        self._elector.give_up()
        if self._work is not None:
            self._work.cancel()  # nor is it a candidate any more: it would take its own Lease for a good one
        _log.critical("the lease %s could not be renewed in time: another may lead", self._name)
        self.lost.set()

    def _complain(self, sentence: str) -> None:
        if sentence != self._complained:
            _log.warning("the lease %s: %s", self._name, sentence)
            self._complained = sentence

    # -- calls, in threads

    async def _call(self, call: Callable[[], T]) -> T:
        # The request has a limit of its own; this one is for what it does not cover (a name that is being looked up).
        async with asyncio.timeout(self._call_seconds):
            return await asyncio.to_thread(call)

    def _read(self) -> Json | None:
        try:
            return self._api.request("GET", self._path, timeout_seconds=self._call_seconds)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def _write(self, found: Json | None, write: Write) -> Json:
        now = _timestamp()
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(round(self._elector.times.duration), 1),
            "acquireTime": now if write.taken or found is None else found["spec"].get("acquireTime", now),
            "renewTime": now,
            "leaseTransitions": write.transitions,
        }
        if found is None:
            labels = {"app.kubernetes.io/managed-by": "cordee", "app.kubernetes.io/instance": self._instance}
            body = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self._name, "labels": labels},
                "spec": spec,
            }
            return self._api.request("POST", self._leases, body=body, timeout_seconds=self._call_seconds)
        return self._replace(found, spec)

    def _give_back(self) -> None:
        spec = {**self._held["spec"], "holderIdentity": "", "leaseDurationSeconds": _RELEASED_SECONDS}
        self._replace(self._held, {**spec, "renewTime": _timestamp()})

    def _replace(self, found: Json, spec: Json) -> Json:
        # Its metadata holds the resourceVersion: the write is refused (409) when somebody else has written meanwhile.
        return self._api.request("PUT", self._path, body={**found, "spec": spec}, timeout_seconds=self._call_seconds)

    @property
    def _path(self) -> str:
        return f"{self._leases}/{self._name}"

    def _mark(self) -> None:
        """Ours becomes the one pod that the Service reaches."""
        selector = f"app.kubernetes.io/instance={self._instance},{LEADER_LABEL}=true"
        marked = self._api.request(
            "GET", self._pods, query={"labelSelector": selector}, timeout_seconds=self._call_seconds
        )
        for pod in marked.get("items", []):
            name = pod["metadata"]["name"]
            if name != self._pod:
                try:
                    self._label(name, None)
                except ApiError as error:
                    if error.status != 404:  # else it is gone
                        raise
        self._label(self._pod, "true")

    def _label(self, pod: str, value: str | None) -> None:
        body = {"metadata": {"labels": {LEADER_LABEL: value}}}
        path = f"{self._pods}/{pod}"
        self._api.request("PATCH", path, body=body, content_type=MERGE_PATCH, timeout_seconds=self._call_seconds)


def _lease(found: Json) -> Lease:
    spec = found.get("spec") or {}
    return Lease(
        holder=str(spec.get("holderIdentity") or ""),
        duration=float(spec.get("leaseDurationSeconds") or 0),
        transitions=int(spec.get("leaseTransitions") or 0),
        version=str(found["metadata"]["resourceVersion"]),
    )


def _timestamp() -> str:
    """Kubernetes' MicroTime."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
