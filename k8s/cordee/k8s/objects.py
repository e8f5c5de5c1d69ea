"""Requests about TrainingJob objects, one method each. Everything that is written names the object by its uid, too: a
change that was decided for one object must not hit another one that has taken its name.
"""

import asyncio
import functools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from cordee.coordinator.spec import API_VERSION
from cordee.k8s.api import ANSWER_SECONDS, MERGE_PATCH, Api, Json, Method
from cordee.k8s.errors import ApiError
from cordee.k8s.reconcile import COORDINATOR_LABEL, FINALIZER
from cordee.k8s.status import merge_patch

__all__ = ["Objects"]

_MANAGER: Final = "cordee"
_EXERCISE_SECONDS: Final = 3.0


class Objects:
    """The objects of one namespace. Awaited on an event loop; the requests go out in threads, so many at once."""

    def __init__(self, api: Api, threads: int) -> None:
        self.namespace = api.namespace
        self.path = f"/apis/{API_VERSION}/namespaces/{api.namespace}/trainingjobs"
        self._api = api
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="objects")

    def close(self) -> None:
        """Nothing is asked any more; answers that are still to come are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._api.close()

    async def get(self, name: str) -> Json:
        """One object."""
        return await self._request("GET", f"{self.path}/{name}")

    async def create(self, body: Mapping[str, Any]) -> Json:
        """A new object."""
        return await self._request("POST", self.path, body)

    async def claim(self, data: Json, coordinator: str) -> Json:
        """Our label and our finalizer. Whoever is second, of two coordinators, is refused (409)."""
        metadata = data["metadata"]
        finalizers = [each for each in metadata.get("finalizers") or () if each != FINALIZER]
        return await self._patch(
            data,
            {
                "metadata": {
                    "labels": {COORDINATOR_LABEL: coordinator},
                    "finalizers": [*finalizers, FINALIZER],
                    "resourceVersion": metadata["resourceVersion"],
                }
            },
        )

    async def release(self, data: Json) -> Json:
        """Without our finalizer."""
        metadata = data["metadata"]
        kept = [each for each in metadata.get("finalizers") or () if each != FINALIZER]
        version = metadata["resourceVersion"]
        return await self._patch(data, {"metadata": {"finalizers": kept or None, "resourceVersion": version}})

    async def set_workers(self, data: Json, minimum: int, maximum: int) -> Json:
        """Another range of workers. Refused (409) when somebody has changed the object since it was looked at."""
        version = data["metadata"]["resourceVersion"]
        workers = {"min": minimum, "max": maximum}
        return await self._patch(data, {"metadata": {"resourceVersion": version}, "spec": {"workers": workers}})

    async def write_status(self, data: Json, status: Mapping[str, Any]) -> Json:
        """What is new in the status. Nobody else writes it, so that whoever edits the object meanwhile is no matter."""
        return await self._patch(data, {"status": merge_patch(data.get("status") or {}, status)}, "/status")

    async def delete(self, data: Json) -> None:
        """Delete it."""
        metadata = data["metadata"]
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": metadata["uid"]}}
        await self._request("DELETE", f"{self.path}/{metadata['name']}", options)

    async def config_map(self, name: str) -> Json:
        """A ConfigMap of the same namespace."""
        return await self._request("GET", f"/api/v1/namespaces/{self.namespace}/configmaps/{name}")

    async def post_event(self, body: Mapping[str, Any]) -> None:
        """Record an event."""
        await self._request("POST", f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events", body)

    async def repeat_event(self, name: str, patch: Mapping[str, Any]) -> None:
        """An event that happened again."""
        path = f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events/{name}"
        await self._request("PATCH", path, patch)

    async def namespace_ends(self) -> bool:
        """Whether the namespace is being deleted. Reading it would need another right: an event is asked for, as an
        exercise, and refused there."""
        exercise = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"generateName": "cordee-", "namespace": self.namespace},
            "eventTime": "1970-01-01T00:00:00.000000Z",
            "type": "Normal",
            "reason": "Stopping",
            "action": "Stopping",
            "reportingController": "cordee.dev/coordinator",
            "reportingInstance": "cordee",
            "regarding": {"apiVersion": API_VERSION, "kind": "TrainingJob", "namespace": self.namespace},
        }
        path = f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events"
        try:
            await self._request("POST", path, exercise, {"dryRun": "All"}, _EXERCISE_SECONDS)
        except ApiError as error:
            return error.namespace_ends
        return False

    async def _patch(self, data: Json, body: Json, part: str = "") -> Json:
        metadata = data["metadata"]
        body = {**body, "metadata": {**body.get("metadata", {}), "uid": metadata["uid"]}}
        return await self._request("PATCH", f"{self.path}/{metadata['name']}{part}", body)

    async def _request(
        self,
        method: Method,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        seconds: float = ANSWER_SECONDS,
    ) -> Json:
        call = functools.partial(
            self._api.request,
            method,
            path,
            query={**(query or {}), **({"fieldManager": _MANAGER} if method in ("POST", "PATCH") else {})},
            body=body,
            content_type=MERGE_PATCH if method == "PATCH" else "application/json",
            timeout_seconds=seconds,
        )
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)
