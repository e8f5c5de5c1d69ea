"""What must survive the coordinator: jobs, worlds, events, tokens, in SQL.

Everything is written before it is acted on: a world before it is sent, a submission before it is acknowledged. Commits
go to SQLite's write-ahead log without waiting for the disk (`synchronous=NORMAL`: a killed process loses nothing, and
a world costs a fraction of a millisecond), except a submission's, which waits (`FULL`: nor does a power cut).

Calls are synchronous, from the coordinator's loop only: one writer, no pool, no thread to hop to. `read_only` opens a
store for those who look at what a coordinator has left; it changes nothing, and may be used beside the writer.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event as sa_event
from sqlalchemy import exc as sa_exc
from sqlalchemy.pool import StaticPool

from cordee.coordinator.errors import CoordinatorError

__all__ = ["SCHEMA_VERSION", "EventRow", "JobRow", "Store", "StoreError", "WorldRow"]

SCHEMA_VERSION: Final = 1

_metadata = sa.MetaData()

_meta = sa.Table(
    "meta",
    _metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("value", sa.String, nullable=False),
)
_jobs = sa.Table(
    "jobs",
    _metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("state", sa.String, nullable=False),  # beside the snapshot, for queries and for people with sqlite3
    sa.Column("document", sa.JSON, nullable=False),
    sa.Column("bundle", sa.String, nullable=True),
    sa.Column("record", sa.JSON, nullable=False),  # the job machine's durable half: state, world, result, error
    sa.Column("progress", sa.JSON, nullable=False),  # what the workers last told, a second old at most
    sa.Index("jobs_by_name", "name", "created_at"),
)
_worlds = sa.Table(
    "worlds",
    _metadata,
    sa.Column("job", sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("generation", sa.Integer, primary_key=True),
    sa.Column("formed_at", sa.Float, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("cause", sa.String, nullable=False),
    sa.Column("members", sa.JSON, nullable=False),  # worker ids; ranks are positions
)
_events = sa.Table(
    "events",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("job", sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("message", sa.String, nullable=False),
    sa.Index("events_by_job", "job", "id"),
)
_submissions = sa.Table(
    "submissions",
    _metadata,
    sa.Column("key", sa.String, primary_key=True),  # the client's, so that asking again is not asking twice
    sa.Column("job", sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
)
_tokens = sa.Table(
    "worker_tokens",
    _metadata,
    sa.Column("job", sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("token", sa.String, nullable=False),
)


class StoreError(CoordinatorError):
    """The database cannot be read or written: a full disk, a damaged file."""

    code = "store"


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as it is stored."""

    id: str
    name: str
    created_at: float
    state: str
    document: dict[str, Any]
    bundle: str | None
    record: dict[str, Any]
    progress: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class WorldRow:
    """Who trained together, from when on."""

    job: str
    generation: int
    formed_at: float
    step: int
    cause: str
    members: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class EventRow:
    """A sentence in a job's history."""

    time: float
    kind: str
    message: str


class Store:
    """The coordinator's memory. Used from one thread."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        mode = "ro" if read_only else "rwc"
        self._engine = sa.create_engine(
            "sqlite://",
            poolclass=StaticPool,
            # The server is built in one thread and closed in it; `check_same_thread` would only forbid the tests' way.
            creator=lambda: sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}", uri=True, check_same_thread=False, isolation_level=None
            ),
        )
        sa_event.listen(self._engine, "connect", _configure_reader if read_only else _configure)
        sa_event.listen(self._engine, "begin", _begin_reading if read_only else _begin)
        self._path = path
        try:
            with self._transaction() as connection:
                if not read_only:
                    _metadata.create_all(connection)
                found = connection.scalar(sa.select(_meta.c.value).where(_meta.c.name == "schema_version"))
                if found is None and not read_only:
                    connection.execute(_meta.insert().values(name="schema_version", value=str(SCHEMA_VERSION)))
        except StoreError:
            self._engine.dispose()
            raise
        if found is not None and found != str(SCHEMA_VERSION):
            self._engine.dispose()
            raise StoreError(
                f"the database {path} has schema version {found}, and this Cordee speaks {SCHEMA_VERSION}",
                hint="use the Cordee that made it, or another state folder",
            )
        if not read_only:
            path.chmod(0o600)  # it holds the workers' tokens

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    # -- writing

    def create_job(self, row: JobRow, token: str, *, key: str = "") -> None:
        """Take a submission in. On disk when this returns. `key` is what its client calls it, if it does."""
        with self._synced(), self._transaction() as connection:
            connection.execute(_jobs.insert().values({column.name: getattr(row, column.name) for column in _jobs.c}))
            connection.execute(_tokens.insert().values(job=row.id, token=token))
            if key:
                connection.execute(_submissions.insert().values(key=key, job=row.id))

    def save(
        self,
        job: str,
        *,
        record: Mapping[str, Any] | None = None,
        progress: Mapping[str, Any] | None = None,
        world: WorldRow | None = None,
        events: Iterable[EventRow] = (),
    ) -> None:
        """Everything that one turn of a job's machine changed, in one transaction."""
        changes: dict[str, Any] = {}
        if record is not None:
            changes |= {"state": str(record["state"]), "record": dict(record)}
        if progress is not None:
            changes["progress"] = dict(progress)
        rows = [{"job": job, "time": event.time, "kind": event.kind, "message": event.message} for event in events]
        with self._transaction() as connection:
            if changes:
                connection.execute(_jobs.update().where(_jobs.c.id == job).values(changes))
            if world is not None:
                # A turn that was written and then cut off by a kill is never repeated with another world.
                values = {column.name: getattr(world, column.name) for column in _worlds.c}
                connection.execute(_worlds.insert().values(values | {"members": list(world.members)}))
            if rows:
                connection.execute(_events.insert(), rows)

    # -- reading

    def jobs(self) -> list[JobRow]:
        """Every job, newest first."""
        with self._transaction() as connection:
            found = connection.execute(_jobs.select().order_by(_jobs.c.created_at.desc(), _jobs.c.id.desc()))
            return [JobRow(**row._mapping) for row in found]

    def worlds(self, job: str, *, after: int = 0) -> list[WorldRow]:
        """A job's worlds after a generation, oldest first."""
        newer = (_worlds.c.job == job) & (_worlds.c.generation > after)
        with self._transaction() as connection:
            found = connection.execute(_worlds.select().where(newer).order_by(_worlds.c.generation))
            return [
                WorldRow(row.job, row.generation, row.formed_at, row.step, row.cause, tuple(row.members))
                for row in found
            ]

    def events(self, job: str, *, last: int) -> list[EventRow]:
        """The newest events of a job, oldest of them first."""
        query = _events.select().where(_events.c.job == job).order_by(_events.c.id.desc()).limit(last)
        with self._transaction() as connection:
            found = [EventRow(row.time, row.kind, row.message) for row in connection.execute(query)]
        return found[::-1]

    def history(self, job: str, *, after: int, limit: int) -> list[tuple[int, EventRow]]:
        """A job's events from its first one on, with their numbers; those after a number, so many at most."""
        newer = (_events.c.job == job) & (_events.c.id > after)
        with self._transaction() as connection:
            found = connection.execute(_events.select().where(newer).order_by(_events.c.id).limit(limit))
            return [(row.id, EventRow(row.time, row.kind, row.message)) for row in found]

    def submitted(self, key: str) -> str | None:
        """The job that was taken in under this key."""
        with self._transaction() as connection:
            return connection.scalar(sa.select(_submissions.c.job).where(_submissions.c.key == key))

    def tokens(self) -> dict[str, str]:
        """The worker token of every job."""
        with self._transaction() as connection:
            return {row.job: row.token for row in connection.execute(_tokens.select())}

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa_exc.DatabaseError as error:
            raise StoreError(
                f"the coordinator's database {self._path} cannot be used: {error.orig}",
                hint="make room on its disk; if it is damaged move it away, or choose another state folder",
            ) from error

    @contextmanager
    def _synced(self) -> Iterator[None]:
        self._pragma("synchronous=FULL")
        try:
            yield
        finally:
            self._pragma("synchronous=NORMAL")

    def _pragma(self, setting: str) -> None:
        # Not through SQLAlchemy: it would open a transaction, where this pragma is ignored.
        connection = self._engine.raw_connection()
        try:
            connection.cursor().execute(f"PRAGMA {setting}")
        finally:
            connection.close()


def _configure(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for setting in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _configure_reader(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA busy_timeout=5000")


def _begin_reading(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
