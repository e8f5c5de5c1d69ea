"""Finding coordinators: which ones a command is about.

    with connect() as coordinators:
        keeper, job = coordinators.find("digits")
        keeper.scale(job["id"], 1, 2)

`--server` (or CORDEE_SERVER; with CORDEE_TOKEN, and CORDEE_CA for https) names one; `--state` names a state folder,
whose `endpoint.json` says where its coordinator answers. Given neither, every coordinator of this user on this machine
is meant: the service's, and those that live `cordee run`s embed, so that `cordee scale JOB 1:2` in one terminal reaches
the job started in another. An `endpoint.json` outlives its coordinator, so none is trusted before `/healthz` answers.

The jobs of coordinators that are gone are found as well, in the state folders they have left: see `past`.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from cordee.coordinator.client import Client, Endpoint, JobNotFoundError, UnreachableError, read_endpoint, start_hint
from cordee.coordinator.errors import CoordinatorError
from cordee.coordinator.folders import default_state, newest_runs, runs_folder
from cordee.coordinator.selection import ALL, Selection
from cordee.coordinator.views import INTERRUPTED, TERMINAL_STATES, JobView, KeptFile, LogLine

if TYPE_CHECKING:
    from cordee.coordinator.past import PastCoordinator

__all__ = ["Coordinators", "Keeper", "connect", "named_endpoint"]

_T = TypeVar("_T")


class Keeper(Protocol):
    """Who can tell about jobs: a coordinator that answers, or the folder of one that is gone."""

    def jobs(self, wanted: Selection = ALL) -> list[JobView]: ...
    def job(self, ref: str) -> JobView: ...
    def scale(self, ref: str, low: int, high: int) -> JobView: ...
    def cancel(self, ref: str) -> JobView: ...
    def delete(self, ref: str) -> JobView: ...
    def logs(
        self,
        ref: str,
        *,
        follow: bool = False,
        rank: int | None = None,
        worker: str | None = None,
        tail: int | None = None,
    ) -> Iterator[LogLine]: ...
    def files(self, ref: str) -> list[KeptFile]: ...
    def fetch(self, ref: str, path: str, to: Path) -> str: ...


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

    def jobs(self, wanted: Selection = ALL) -> list[JobView]:
        """Everybody's jobs, newest first: all of them, or those that are wanted."""
        lists = [self._ask(keeper, lambda keeper: keeper.jobs(wanted)) for keeper in self._keepers]
        return wanted.of(job for found in lists for job in found or ())

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
    if server is None:
        return None
    return Endpoint(
        server.rstrip("/"),
        environ.get("CORDEE_TOKEN", ""),
        authority=environ.get("CORDEE_CA") or None,
        certificate=environ.get("CORDEE_CERT") or None,
        key=environ.get("CORDEE_KEY") or None,
    )


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
        nobody = UnreachableError(f"no coordinator runs on the state folder {folder}", start_hint(folder))
        if has_past(folder):
            return Coordinators([], [PastCoordinator(folder)], nobody=nobody)
        raise nobody
    clients: list[Client] = []
    past: list[PastCoordinator] = []
    for folder in (default_state(), *newest_runs()):
        # Nobody is asked at the address of a coordinator that is gone: its port may be another's by now.
        if is_held(folder) and (client := _alive(folder)) is not None:
            clients.append(client)
        elif has_past(folder):
            past.append(PastCoordinator(folder))
    return Coordinators(clients, past)


def _alive(state: Path) -> Client | None:
    endpoint = read_endpoint(state)
    if endpoint is None:
        return None
    client = Client(endpoint)
    if client.is_alive():
        return client
    client.close()
    return None
