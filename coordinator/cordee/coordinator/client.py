"""The REST client: how the command line, and anybody's script, talks to coordinators.

    with connect() as coordinators:
        coordinator, job = coordinators.find("digits")
        coordinator.scale(job["id"], 1, 2)

Finding them: `--server` (or CORDEE_SERVER, with CORDEE_TOKEN) names one; `--state` names a state folder, whose
`endpoint.json` says where its coordinator answers. Given neither, every coordinator of this user on this machine is
meant: the service's, and those that live `cordee run`s embed, so that `cordee scale JOB 1:2` in one terminal reaches
the job started in another. An `endpoint.json` outlives its coordinator, so none is trusted before `/healthz` answers.

The jobs of coordinators that are gone are found as well, in the state folders they have left: see `past`.

Errors are `ClientError`s: a sentence, a hint, and a class per kind, so that callers can tell them apart.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar, cast
from urllib.parse import quote, urlsplit

import httpx2

from cordee.coordinator.errors import CoordinatorError
from cordee.coordinator.views import INTERRUPTED, TERMINAL_STATES, JobView, LogLine, Plan

if TYPE_CHECKING:
    from cordee.coordinator.past import PastCoordinator

__all__ = [
    "Client",
    "ClientError",
    "ConflictError",
    "Coordinators",
    "Endpoint",
    "InvalidError",
    "JobNotFoundError",
    "Keeper",
    "TooLargeError",
    "UnauthorizedError",
    "UnreachableError",
    "connect",
    "default_state",
    "named_endpoint",
    "read_endpoint",
    "runs_folder",
]

_T = TypeVar("_T")

_HEALTH_SECONDS: Final = 2.0
_REQUEST_SECONDS: Final = 30.0
_STREAM_SILENCE_SECONDS: Final = 60.0  # a watched job may rest; a peer that vanished is found by asking again
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class ClientError(CoordinatorError):
    """The root of what can go wrong between here and a coordinator."""


class JobNotFoundError(ClientError):
    """No such job."""

    code = "not_found"


class ConflictError(ClientError):
    """The job's state does not allow it."""

    code = "conflict"


class InvalidError(ClientError):
    """The coordinator refused the request as wrong."""

    code = "invalid"


class TooLargeError(ClientError):
    """More bytes than the coordinator takes."""

    code = "too_large"


class UnauthorizedError(ClientError):
    """No token, or a wrong one."""

    code = "unauthorized"


class UnreachableError(ClientError):
    """Nobody answers, or the connection broke."""

    code = "unreachable"


_BY_CODE: Final[dict[str, type[ClientError]]] = {
    kind.code: kind for kind in (JobNotFoundError, ConflictError, InvalidError, TooLargeError, UnauthorizedError)
}
_BY_STATUS: Final[dict[int, type[ClientError]]] = {
    400: InvalidError,
    401: UnauthorizedError,
    403: UnauthorizedError,
    404: JobNotFoundError,
    409: ConflictError,
    413: TooLargeError,
    422: InvalidError,
}


@dataclass(frozen=True)
class Endpoint:
    """Where a coordinator answers. `state` is its folder where that is known."""

    url: str
    token: str
    state: Path | None = None

    @property
    def exposes_token(self) -> bool:
        """Whether the token travels to another machine where anybody on the way can read it."""
        return bool(self.token) and urlsplit(self.url).scheme == "http" and _host(self.url) not in _LOOPBACK


class Keeper(Protocol):
    """Who can tell about jobs: a coordinator that answers, or the folder of one that is gone."""

    def jobs(self) -> list[JobView]: ...
    def job(self, ref: str) -> JobView: ...
    def scale(self, ref: str, low: int, high: int) -> JobView: ...
    def cancel(self, ref: str) -> JobView: ...
    def logs(
        self,
        ref: str,
        *,
        follow: bool = False,
        rank: int | None = None,
        worker: str | None = None,
        tail: int | None = None,
    ) -> Iterator[LogLine]: ...


class Client:
    """One coordinator. Every method is one request; errors are `ClientError`s."""

    def __init__(self, endpoint: Endpoint, *, timeout_seconds: float = _REQUEST_SECONDS) -> None:
        self.endpoint = endpoint
        host = _host(endpoint.url)
        self._streams: set[httpx2.Response] = set()
        self._http = httpx2.Client(
            base_url=endpoint.url,
            headers={"Authorization": f"Bearer {endpoint.token}"} if endpoint.token else {},
            timeout=timeout_seconds,
            # A proxy for the world outside must not see the token of a coordinator on this machine.
            trust_env=host not in _LOOPBACK,
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
            time.sleep(0.2)
        return True

    def jobs(self) -> list[JobView]:
        """All jobs, newest first."""
        return cast("list[JobView]", self._call("GET", "/v1/jobs")["jobs"])

    def job(self, ref: str) -> JobView:
        """A job by its id, or the newest one of that name."""
        return cast("JobView", self._call("GET", _job(ref)))

    def scale(self, ref: str, low: int, high: int) -> JobView:
        """Give a job a new range of worker counts."""
        return cast("JobView", self._call("POST", _job(ref, "scale"), json={"min": low, "max": high}))

    def cancel(self, ref: str) -> JobView:
        """Stop a job."""
        return cast("JobView", self._call("POST", _job(ref, "cancel")))

    def dry_run(self, document: Mapping[str, Any]) -> Plan:
        """Check a job document and say where it would run now."""
        return cast("Plan", self._call("POST", "/v1/jobs", params={"dry_run": "true"}, json={"job": dict(document)}))

    def submit(self, document: Mapping[str, Any], bundle: bytes, sha256: str) -> JobView:
        """Send the source, unless it is there already, and the job."""
        with self._mapped():
            there = self._http.head(f"/v1/bundles/{sha256}").status_code == 200
        if not there:
            headers = {"Content-Type": "application/gzip"}
            self._call("PUT", f"/v1/bundles/{sha256}", content=bundle, headers=headers)
        return cast("JobView", self._call("POST", "/v1/jobs", json={"job": dict(document), "bundle": sha256}))

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

    def watch(self, ref: str) -> Iterator[JobView]:
        """A job, whenever it changes, until it has ended or the connection breaks."""
        return cast("Iterator[JobView]", self._stream(_job(ref, "watch"), {}, _STREAM_SILENCE_SECONDS))

    def _call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        with self._mapped():
            response = self._http.request(method, path, **arguments)
            if response.is_success:
                answer = response.json() if response.content else {}
                if isinstance(answer, dict):
                    return answer
        raise _refusal(response)

    def _stream(self, path: str, params: Mapping[str, Any], silence_seconds: float | None) -> Iterator[dict[str, Any]]:
        timeout = httpx2.Timeout(_REQUEST_SECONDS, read=silence_seconds)
        with self._mapped(), self._http.stream("GET", path, params=dict(params), timeout=timeout) as response:
            if not response.is_success:
                response.read()
                raise _refusal(response)
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
            why = "it does not answer in time" if isinstance(error, httpx2.TimeoutException) else _reason(error)
            raise UnreachableError(
                f"no connection with the coordinator at {self.endpoint.url}: {why}",
                _start_hint(self.endpoint.state),
            ) from error
        except json.JSONDecodeError as error:
            raise UnreachableError(
                f"what answers at {self.endpoint.url} is not a Cordee coordinator", "check --server or CORDEE_SERVER"
            ) from error


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        httpx2.URL(url)
        if parts.scheme in {"http", "https"} and parts.hostname:
            return parts.hostname
    except (ValueError, httpx2.InvalidURL):
        pass
    raise InvalidError(f"{url!r} is not the address of a coordinator", "give a URL such as http://127.0.0.1:8470")


def _job(ref: str, action: str = "") -> str:
    path = f"/v1/jobs/{quote(ref, safe='')}"
    return f"{path}/{action}" if action else path


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return "nobody listens there" if "refused" in text.lower() else text


def _start_hint(state: Path | None) -> str:
    return f"start one: cordee coordinator{f' --state {state}' if state and state != default_state() else ''}"


def _refusal(response: httpx2.Response) -> ClientError:
    """What the coordinator said about a request it refused."""
    try:
        said = response.json()["error"]
        code, message, hint = str(said["code"]), str(said["message"]), str(said.get("hint") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return UnreachableError(
            f"{response.request.url} answered {response.status_code}, not as Cordee does",
            "check --server or CORDEE_SERVER",
        )
    kind = _BY_CODE.get(code) or _BY_STATUS.get(response.status_code, ClientError)
    if kind is UnauthorizedError:
        hint = "set CORDEE_TOKEN to what the file 'token' in the coordinator's state folder holds"
    return kind(message, hint)


# --- finding coordinators ---------------------------------------------------------------------------------------------


def _data_folder() -> Path:
    import platformdirs

    return Path(platformdirs.user_data_dir("cordee", appauthor=False))


def default_state() -> Path:
    """The service's state folder."""
    return _data_folder() / "coordinator"


def runs_folder() -> Path:
    """Where `cordee run` keeps a folder per run."""
    return _data_folder() / "runs"


def read_endpoint(state: Path) -> Endpoint | None:
    """What a state folder says about its coordinator; it may be long gone."""
    try:
        written = json.loads((state / "endpoint.json").read_text(encoding="utf-8"))
        token = (state / written.get("token_file", "token")).read_text(encoding="ascii").strip()
        url = str(written["url"])
        return Endpoint(url, token, state) if _host(url) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InvalidError):
        return None


class Coordinators:
    """The coordinators a command is about: the one that was named, or all of this user's.

    `clients` are those that answer, `past` the folders of those that do not.
    """

    def __init__(
        self,
        clients: list[Client],
        past: "list[PastCoordinator] | None" = None,
        *,
        nobody: UnreachableError | None = None,
    ) -> None:
        self.clients = clients
        self.past = past or []
        self._nobody = nobody or _nobody()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self.clients:
            client.close()
        for past in self.past:
            past.close()

    @property
    def service(self) -> Client:
        """The one that takes new jobs: a `cordee run` ends with its job, so it does not."""
        for client in self.clients:
            folder = client.endpoint.state
            if folder is None or folder.parent != runs_folder():
                return client
        raise self._nobody

    def jobs(self) -> list[JobView]:
        """Everybody's jobs, newest first."""
        found = [job for keeper in self._keepers for job in self._ask(keeper, lambda keeper: keeper.jobs()) or []]
        return sorted(found, key=lambda job: job["created_at"], reverse=True)

    def find(self, ref: str) -> tuple[Keeper, JobView]:
        """A job, and who has it. An id wins over a name; of several of that name the newest that has not ended."""
        found: list[tuple[Keeper, JobView]] = []
        for keeper in self._keepers:
            with contextlib.suppress(JobNotFoundError):
                job = self._ask(keeper, lambda keeper: keeper.job(ref))
                if job is not None:
                    found.append((keeper, job))
                    if job["id"] == ref:
                        break
        if not found:
            raise JobNotFoundError(f"there is no job {ref!r}", "cordee jobs lists those there are")
        return max(found, key=lambda pair: _preference(ref, pair[1]))

    @property
    def _keepers(self) -> list[Keeper]:
        """Who answers goes first: the folder of another is read only when that does not settle it."""
        if not self.clients and not self.past:
            raise self._nobody
        return [*self.clients, *self.past]

    def _ask(self, keeper: Keeper, question: "Callable[[Keeper], _T]") -> "_T | None":
        """Its answer. One of several may have trouble without spoiling the others' answers."""
        try:
            return question(keeper)
        except JobNotFoundError:
            raise
        except CoordinatorError:
            if len(self.clients) + len(self.past) == 1:
                raise
            return None


def _preference(ref: str, job: JobView) -> tuple[bool, int, float]:
    liveness = 0 if job["state"] in TERMINAL_STATES else 1 if job["state"] == INTERRUPTED else 2
    return job["id"] == ref, liveness, job["created_at"]


def _nobody() -> UnreachableError:
    return UnreachableError(
        "no coordinator runs here, and none was named",
        "start the service with 'cordee coordinator', train in the foreground with 'cordee run', or name a coordinator "
        "with --server URL",
    )


def named_endpoint(
    server: str | None, state: Path | None, *, environ: Mapping[str, str] | None = None
) -> Endpoint | None:
    """The coordinator that is named by its address, if one is."""
    environ = os.environ if environ is None else environ
    if server is None and state is None:
        server = environ.get("CORDEE_SERVER") or None
    return None if server is None else Endpoint(server.rstrip("/"), environ.get("CORDEE_TOKEN", ""))


def connect(
    server: str | None = None, state: Path | None = None, *, environ: Mapping[str, str] | None = None
) -> Coordinators:
    """The coordinators a command is about; see the module's docstring for the rule.

    A named one that does not answer is an `UnreachableError`; where none was named there may be none.
    """
    from cordee.coordinator.past import PastCoordinator, has_past
    from cordee.coordinator.service.folder import is_held

    endpoint = named_endpoint(server, state, environ=environ)
    if endpoint is not None:
        named = Client(endpoint)
        named.ping()
        return Coordinators([named])
    if state is not None:
        folder = state.expanduser().absolute()
        if (found := _alive(folder)) is not None:
            return Coordinators([found])
        nobody = UnreachableError(f"no coordinator runs on the state folder {folder}", _start_hint(folder))
        if has_past(folder):
            return Coordinators([], [PastCoordinator(folder)], nobody=nobody)
        raise nobody
    clients: list[Client] = []
    past: list[PastCoordinator] = []
    for folder in (default_state(), *_newest_runs()):
        # Nobody is asked at the address of a coordinator that is gone: its port may be another's by now.
        if is_held(folder) and (client := _alive(folder)) is not None:
            clients.append(client)
        elif has_past(folder):
            past.append(PastCoordinator(folder))
    return Coordinators(clients, past)


def _newest_runs() -> list[Path]:
    try:
        folders = [path for path in runs_folder().iterdir() if path.is_dir()]
    except OSError:
        return []
    return sorted(folders, key=lambda path: path.name, reverse=True)


def _alive(state: Path) -> Client | None:
    endpoint = read_endpoint(state)
    if endpoint is None:
        return None
    client = Client(endpoint)
    if client.is_alive():
        return client
    client.close()
    return None
