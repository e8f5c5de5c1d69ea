"""What must survive the coordinator: jobs, worlds, events, tokens, in SQL.

Everything is written before it is acted on: a world before it is sent, a submission before it is acknowledged. Only
what nothing follows from, progress and the sentence that says why a job is in its state, comes up to a second later,
that of all jobs together. What it is written to, and how long a commit waits, is `databases`' business.

Calls are synchronous, from the coordinator's loop only: one writer, no thread to hop to. A read-only store is for those
who look at what a coordinator has left; it changes nothing, and may be used beside the writer.

Where several coordinators share a database, the one that decides takes it over (`take_over`) and gets a number, its
term. Every later write checks within its transaction that the term is still its own: one that was suspended and wakes
up after another took its place writes nothing more (fencing, as in M. Kleppmann, "How to do distributed locking").
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import exc as sa_exc

from cordee.coordinator.service.databases import Database, SqliteDatabase, StoreError

__all__ = ["SCHEMA_VERSION", "Change", "EventRow", "FencedError", "JobRow", "Store", "StoreError", "WorldRow"]

SCHEMA_VERSION: Final = 1
_TERM: Final = "term"

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

# Made once: SQLAlchemy keeps what it compiles by a key that it would else make anew of every statement.
_ADD_JOB = _jobs.insert()
_ADD_TOKEN = _tokens.insert()
_ADD_SUBMISSION = _submissions.insert()
_ADD_WORLD = _worlds.insert()
_ADD_EVENT = _events.insert()
_SET = _jobs.update().where(_jobs.c.id == sa.bindparam("of_job"))
_SET_RECORD = _SET.values(state=sa.bindparam("state"), record=sa.bindparam("record"))
_SET_PROGRESS = _SET.values(progress=sa.bindparam("progress"))
_SET_BOTH = _SET_RECORD.values(progress=sa.bindparam("progress"))
_TERM_NOW = sa.select(_meta.c.value).where(_meta.c.name == _TERM).with_for_update(read=True)


_removals = sa.Table(
    "removals",
    _metadata,
    sa.Column("job", sa.String, primary_key=True),  # it is gone; what it has left on the disk has yet to go
    sa.Column("bundle", sa.String, nullable=True),
)


class FencedError(StoreError):
    """Another coordinator has taken this database over."""


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
    number: int = field(default=0, compare=False)
    """Its place in the history, greater than that of all earlier ones of its job; 0: it is not stored yet."""


@dataclass(frozen=True, slots=True)
class Change:
    """What of a job is to be written; None: it is as it was."""

    job: str
    record: Mapping[str, Any] | None = None
    progress: Mapping[str, Any] | None = None


class Store:
    """The coordinator's memory: in an SQLite file, by its path, or in a `Database`. Used from one thread."""

    def __init__(self, where: Path | Database, *, read_only: bool = False) -> None:
        self._database = SqliteDatabase(where, read_only=read_only) if isinstance(where, Path) else where
        self._engine = self._database.engine
        self._term = 0
        self.on_write: Callable[[float], object] = lambda _seconds: None
        """Told how long each write took, with its commit."""
        read_only = self._database.read_only
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
                f"the database {self._database.name} has schema version {found}, and this Cordee speaks "
                f"{SCHEMA_VERSION}",
                hint="use the Cordee that made it, or another state folder",
            )
        self._database.created()

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def take_over(self) -> int:
        """Become the one who writes; whoever was it before is fenced off from now on. The new term.

        Waits for a transaction of theirs that is under way: it is either seen here, or refused there.
        """
        with self._transaction() as connection:
            found = connection.scalar(sa.select(_meta.c.value).where(_meta.c.name == _TERM).with_for_update())
            if found is None:
                connection.execute(_meta.insert().values(name=_TERM, value="1"))
            else:
                connection.execute(_meta.update().where(_meta.c.name == _TERM).values(value=str(int(found) + 1)))
        self._term = int(found or 0) + 1
        return self._term

    # -- writing

    def check(self) -> None:
        """Write something that changes nothing; StoreError when that cannot be."""
        with self._transaction(write=True) as connection:
            connection.execute(_meta.update().where(_meta.c.name == "schema_version").values(value=str(SCHEMA_VERSION)))

    def create_job(self, row: JobRow, token: str, *, key: str = "", events: Iterable[EventRow] = ()) -> list[EventRow]:
        """Take a submission in, and the first sentences of its history. On disk when this returns: those sentences,
        with their numbers. `key` is what its client calls it, if it does."""
        with self._timed(), self._database.durable(), self._transaction(write=True) as connection:
            connection.execute(_ADD_JOB, {column.name: getattr(row, column.name) for column in _jobs.c})
            connection.execute(_ADD_TOKEN, {"job": row.id, "token": token})
            if key:
                connection.execute(_ADD_SUBMISSION, {"key": key, "job": row.id})
            return _add_events(connection, row.id, events)

    def save(
        self,
        job: str,
        *,
        record: Mapping[str, Any] | None = None,
        progress: Mapping[str, Any] | None = None,
        world: WorldRow | None = None,
        events: Iterable[EventRow] = (),
    ) -> list[EventRow]:
        """Everything that one turn of a job's machine changed, in one transaction. The events, with their numbers."""
        with self._timed(), self._transaction(write=True) as connection:
            _update(connection, job, record, progress)
            if world is not None:
                # A turn that was written and then cut off by a kill is never repeated with another world.
                values = {column.name: getattr(world, column.name) for column in _worlds.c}
                connection.execute(_ADD_WORLD, values | {"members": list(world.members)})
            return _add_events(connection, job, events)

    def remove_job(self, job: str) -> None:
        """Forget a job that has ended, and note that its files are to go: see `removals`. On disk when this returns."""
        with self._timed(), self._database.durable(), self._transaction(write=True) as connection:
            bundle = connection.scalar(sa.select(_jobs.c.bundle).where(_jobs.c.id == job))
            if connection.execute(_jobs.delete().where(_jobs.c.id == job)).rowcount:
                connection.execute(_removals.insert().values(job=job, bundle=bundle))

    def removed(self, job: str) -> None:
        """The files of a job that was removed are gone."""
        with self._timed(), self._transaction(write=True) as connection:
            connection.execute(_removals.delete().where(_removals.c.job == job))

    def save_all(self, changes: Iterable[Change]) -> None:
        """What has changed of several jobs and can wait for each other, in one transaction."""
        with self._timed(), self._transaction(write=True) as connection:
            for change in changes:
                _update(connection, change.job, change.record, change.progress)

    def remember(self, name: str, value: str) -> None:
        """Note something about the store itself."""
        with self._transaction(write=True) as connection:
            if connection.execute(_meta.update().where(_meta.c.name == name).values(value=value)).rowcount == 0:
                connection.execute(_meta.insert().values(name=name, value=value))

    # -- reading

    def recall(self, name: str) -> str | None:
        """What was noted under this name."""
        with self._transaction() as connection:
            return connection.scalar(sa.select(_meta.c.value).where(_meta.c.name == name))

    def removals(self) -> dict[str, str | None]:
        """The jobs that were removed and whose files may still be there, with their bundles."""
        with self._transaction() as connection:
            return {row.job: row.bundle for row in connection.execute(_removals.select())}

    def has_bundle(self, bundle: str) -> bool:
        """Whether any job has this bundle."""
        with self._transaction() as connection:
            return connection.scalar(sa.select(_jobs.c.id).where(_jobs.c.bundle == bundle).limit(1)) is not None

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
            found = [EventRow(row.time, row.kind, row.message, row.id) for row in connection.execute(query)]
        return found[::-1]

    def history(self, job: str, *, after: int, limit: int) -> list[EventRow]:
        """A job's events from its first one on; those after a number, so many at most."""
        newer = (_events.c.job == job) & (_events.c.id > after)
        with self._transaction() as connection:
            found = connection.execute(_events.select().where(newer).order_by(_events.c.id).limit(limit))
            return [EventRow(row.time, row.kind, row.message, row.id) for row in found]

    def submitted(self, key: str) -> str | None:
        """The job that was taken in under this key."""
        with self._transaction() as connection:
            return connection.scalar(sa.select(_submissions.c.job).where(_submissions.c.key == key))

    def keys(self) -> dict[str, str]:
        """What the submissions of jobs were called, where they were called anything; by job."""
        with self._transaction() as connection:
            return {row.job: row.key for row in connection.execute(_submissions.select())}

    def tokens(self) -> dict[str, str]:
        """The worker token of every job."""
        with self._transaction() as connection:
            return {row.job: row.token for row in connection.execute(_tokens.select())}

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.on_write(time.perf_counter() - began)

    @contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                if write and self._term:
                    self._check_term(connection)
                yield connection
        except sa_exc.DBAPIError as error:
            raise StoreError(
                f"the coordinator's database {self._database.name} cannot be used: {str(error.orig).strip()}",
                hint=self._database.advice,
            ) from error

    def _check_term(self, connection: sa.Connection) -> None:
        # The shared lock keeps the next coordinator's `take_over` waiting until this transaction is over.
        found = connection.scalar(_TERM_NOW)
        if found != str(self._term):
            raise FencedError(
                f"another coordinator has taken the database {self._database.name} over (term {found}, "
                f"this one's was {self._term})",
                hint="this one ends, and changes nothing more",
            )


def _update(
    connection: sa.Connection, job: str, record: Mapping[str, Any] | None, progress: Mapping[str, Any] | None
) -> None:
    changes: dict[str, Any] = {"of_job": job}
    if record is not None:
        changes |= {"state": str(record["state"]), "record": dict(record)}
    if progress is not None:
        changes["progress"] = dict(progress)
    if record is not None:
        connection.execute(_SET_RECORD if progress is None else _SET_BOTH, changes)
    elif progress is not None:
        connection.execute(_SET_PROGRESS, changes)


def _add_events(connection: sa.Connection, job: str, events: Iterable[EventRow]) -> list[EventRow]:
    stored: list[EventRow] = []
    for event in events:
        words = event.message.replace("\0", "\ufffd")  # a worker's; PostgreSQL takes no NUL
        values = {"job": job, "time": event.time, "kind": event.kind, "message": words}
        key = connection.execute(_ADD_EVENT, values).inserted_primary_key
        assert key is not None
        stored.append(EventRow(event.time, event.kind, words, int(key[0])))
    return stored
