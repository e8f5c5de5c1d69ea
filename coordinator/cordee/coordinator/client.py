"""The REST client: how the command line, and anybody's script, talks to one coordinator. `discovery` finds them.

Errors are `ClientError`s: a sentence, a hint, and a class per kind, so that callers can tell them apart.
"""

import contextlib
import json
import socket
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self, cast
from urllib.parse import quote

import httpx2

from cordee.coordinator.client_errors import (
    ClientError,
    ConflictError,
    InvalidError,
    JobNotFoundError,
    TooLargeError,
    UnauthorizedError,
    UnreachableError,
    refusal,
)
from cordee.coordinator.downloads import download
from cordee.coordinator.endpoint import (
    LOOPBACK,
    Endpoint,
    host_of,
    reach_hint,
    read_endpoint,
    reason,
    start_hint,
    trust,
)
from cordee.coordinator.selection import ALL, Selection
from cordee.coordinator.views import INTERRUPTED, InjectedFault, JobView, KeptFile, LogLine, NumberedEvent, Plan

__all__ = [
    "Client",
    "ClientError",
    "ConflictError",
    "Endpoint",
    "InvalidError",
    "JobNotFoundError",
    "TooLargeError",
    "UnauthorizedError",
    "UnreachableError",
    "read_endpoint",
    "start_hint",
]

_HEALTH_SECONDS: Final = 2.0
_REQUEST_SECONDS: Final = 30.0
_STREAM_SILENCE_SECONDS: Final = 60.0  # a watched job may rest; a peer that vanished is found by asking again
_SUBMIT_AGAIN_SECONDS: Final = 20.0
_PAUSE_SECONDS: Final = 0.2
_PAGE: Final = 100  # jobs that are asked for at once


class Client:
    """One coordinator. A method is a request, or for a list as many as it has pages; errors are `ClientError`s."""

    def __init__(self, endpoint: Endpoint, *, timeout_seconds: float = _REQUEST_SECONDS) -> None:
        self.endpoint = endpoint
        host = host_of(endpoint.url)
        if endpoint.exposes_token:
            raise InvalidError(
                f"the token is not sent to {endpoint.url}: anybody on the way could read it",
                f"use https (--ca names the authority); or a tunnel: ssh -N -L 8470:127.0.0.1:8470 {host}, and then "
                "--server http://127.0.0.1:8470",
            )
        self._streams: set[httpx2.Response] = set()
        self._http = httpx2.Client(
            base_url=endpoint.url,
            headers={"Authorization": f"Bearer {endpoint.token}"} if endpoint.token else {},
            timeout=timeout_seconds,
            verify=trust(endpoint),
            # A proxy for the world outside must not see the token of a coordinator on this machine.
            trust_env=host not in LOOPBACK,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def end_streams(self) -> None:
        """End the watches and logs that other threads are reading: their iteration raises `UnreachableError`.

        The connections are shut down, not closed: a closed descriptor's number may be given to another file while a
        thread still reads from it.
        """
        for response in list(self._streams):
            raw = response.extensions["network_stream"].get_extra_info("socket")
            with contextlib.suppress(OSError):  # it has ended by itself meanwhile
                raw.shutdown(socket.SHUT_RDWR)

    def is_alive(self) -> bool:
        """Whether a coordinator answers there."""
        try:
            answer = self._http.get("/healthz", timeout=_HEALTH_SECONDS)
            return answer.status_code == 200 and answer.json().get("status") == "ok"
        except (httpx2.HTTPError, ValueError, AttributeError):
            return False

    def ping(self) -> None:
        """Ask whether a coordinator answers, and raise an error that says why where none does."""
        self._call("GET", "/healthz", timeout=_HEALTH_SECONDS * 2)

    def wait_until_alive(self, seconds: float) -> bool:
        """Whether the coordinator answers (again) within a time: it may be restarting."""
        deadline = time.monotonic() + seconds
        while not self.is_alive():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_PAUSE_SECONDS)
        return True

    def jobs(self, wanted: Selection = ALL) -> list[JobView]:
        """Jobs, newest first: all of them, or those that are wanted."""
        if wanted.ended is None:
            return self._pages(wanted, wanted.states, None)
        # What is active comes first: a job that ends between the two questions is told twice and not missed.
        active, ended = wanted.active_states, wanted.ended_states
        found = self._pages(wanted, active, None) if active else []
        found += self._pages(wanted, ended, wanted.ended) if ended else []
        return wanted.of({job["id"]: job for job in found}.values())

    def _pages(self, wanted: Selection, states: Collection[str], most: int | None) -> list[JobView]:
        found: list[JobView] = []
        known = [state for state in states if state != INTERRUPTED]  # never a coordinator's word
        after = "" if known or not states else None
        while after is not None and (most is None or len(found) < most):
            limit = _PAGE if most is None else min(_PAGE, most - len(found))
            given = {"state": known, "name_prefix": wanted.name_prefix, "after": after, "limit": limit}
            page = self._call("GET", "/v1/jobs", params={name: value for name, value in given.items() if value})
            found += page["jobs"]
            after = page.get("next")
        return found

    def job(self, ref: str) -> JobView:
        """A job by its id, or the newest one of that name."""
        return cast("JobView", self._call("GET", _job(ref)))

    def scale(self, ref: str, low: int, high: int) -> JobView:
        """Give a job a new range of worker counts."""
        return cast("JobView", self._call("POST", _job(ref, "scale"), json={"min": low, "max": high}))

    def cancel(self, ref: str) -> JobView:
        """Stop a job."""
        return cast("JobView", self._call("POST", _job(ref, "cancel")))

    def delete(self, ref: str) -> JobView:
        """Remove a job that has ended, with all that it has left; what it was like."""
        return cast("JobView", self._call("DELETE", _job(ref)))

    def inject(
        self,
        ref: str,
        kind: str,
        worker: str,
        *,
        seconds: float | None = None,
        peer: str = "",
        amount: float | None = None,
    ) -> InjectedFault:
        """Inject a fault into a worker; `cordee.coordinator.faults` has the kinds. The job must allow it."""
        body = {"kind": kind, "worker": worker, "seconds": seconds, "peer": peer, "amount": amount}
        return cast("InjectedFault", self._call("POST", _job(ref, "faults"), json=body))

    def dry_run(self, document: Mapping[str, Any]) -> Plan:
        """Check a job document and say where it would run now."""
        return cast("Plan", self._call("POST", "/v1/jobs", params={"dry_run": "true"}, json={"job": dict(document)}))

    def submit(self, document: Mapping[str, Any], bundle: bytes, sha256: str) -> JobView:
        """Send the source, unless it is there already or lies elsewhere (no `sha256`), and the job.

        When the connection breaks before the answer is here, it is asked again for a while, under the same key: a
        coordinator that was killed and is started again takes the job in once.
        """
        with self._mapped():
            there = not sha256 or self._http.head(f"/v1/bundles/{sha256}").status_code == 200
        if not there:
            headers = {"Content-Type": "application/gzip"}
            self._call("PUT", f"/v1/bundles/{sha256}", content=bundle, headers=headers)
        body = {"job": dict(document), "bundle": sha256 or None, "key": uuid.uuid4().hex}
        deadline = time.monotonic() + _SUBMIT_AGAIN_SECONDS
        while True:
            try:
                return cast("JobView", self._call("POST", "/v1/jobs", json=body))
            except UnreachableError as error:
                if time.monotonic() >= deadline or not self.wait_until_alive(deadline - time.monotonic()):
                    raise UnreachableError(
                        f"{error.message}; whether it has taken the job in is not known",
                        "before you submit it again, see whether it is there: cordee jobs",
                    ) from error
                time.sleep(_PAUSE_SECONDS)

    def logs(
        self,
        ref: str,
        *,
        follow: bool = False,
        rank: int | None = None,
        worker: str | None = None,
        tail: int | None = None,
    ) -> Iterator[LogLine]:
        """A job's output, by time; with `follow` until the job has ended."""
        given = {"follow": "true" if follow else None, "rank": rank, "worker": worker, "tail": tail}
        params = {key: value for key, value in given.items() if value is not None}
        return cast("Iterator[LogLine]", self._stream(_job(ref, "logs"), params, None if follow else _REQUEST_SECONDS))

    def events(self, ref: str, *, after: int = 0) -> Iterator[NumberedEvent]:
        """A job's history from its first event on, or from the one after a known one; as far as it has got."""
        more = True
        while more:
            page = self._call("GET", _job(ref, "events"), params={"after": after})
            for event in page["events"]:
                after = event["id"]
                yield event
            more = page["more"]

    def watch(self, ref: str) -> Iterator[JobView]:
        """A job, whenever it changes, until it has ended or the connection breaks."""
        return cast("Iterator[JobView]", self._stream(_job(ref, "watch"), {}, _STREAM_SILENCE_SECONDS))

    def files(self, ref: str) -> list[KeptFile]:
        """What a job keeps: its result, what its script has put into its output folder, its ledger."""
        return cast("list[KeptFile]", self._call("GET", _job(ref, "files"))["files"])

    def fetch(self, ref: str, path: str, to: Path) -> str:
        """Download one of a job's files, whole or not at all; its SHA-256, which has been compared.

        A download that broke off goes on where it stopped, and one that is there already is not made again.
        """
        return download(self._http, f"{_job(ref, 'files')}/{quote(path)}", to, self._mapped, refusal)

    def _call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        with self._mapped():
            response = self._http.request(method, path, **arguments)
            if response.is_success:
                answer = response.json() if response.content else {}
                if isinstance(answer, dict):
                    return answer
        raise refusal(response)

    def _stream(self, path: str, params: Mapping[str, Any], silence_seconds: float | None) -> Iterator[dict[str, Any]]:
        timeout = httpx2.Timeout(_REQUEST_SECONDS, read=silence_seconds)
        with self._mapped(), self._http.stream("GET", path, params=dict(params), timeout=timeout) as response:
            if not response.is_success:
                response.read()
                raise refusal(response)
            self._streams.add(response)
            try:
                for line in response.iter_lines():
                    if line.strip():
                        yield json.loads(line)
            finally:
                self._streams.discard(response)

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        """The HTTP library's errors as ours."""
        try:
            yield
        except httpx2.HTTPError as error:
            why = "it does not answer in time" if isinstance(error, httpx2.TimeoutException) else reason(error)
            raise UnreachableError(
                f"no connection with the coordinator at {self.endpoint.url}: {why}",
                reach_hint(self.endpoint, why),
            ) from error
        except json.JSONDecodeError as error:
            raise UnreachableError(
                f"what answers at {self.endpoint.url} is not a Cordee coordinator", "check --server or CORDEE_SERVER"
            ) from error


def _job(ref: str, action: str = "") -> str:
    path = f"/v1/jobs/{quote(ref, safe='')}"
    return f"{path}/{action}" if action else path
