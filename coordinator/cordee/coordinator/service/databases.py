"""The two databases a store can be in: an SQLite file of this machine, or PostgreSQL for coordinators that stand by.

SQLite: one writer holds its connection for good; commits go to the write-ahead log without waiting for the disk
(`synchronous=NORMAL`: a killed process loses nothing, and a world costs a fraction of a millisecond), but for those
made within `durable` (`FULL`: nor does a power cut). PostgreSQL waits for its own disk at every commit, and for no
answer longer than a few seconds: a coordinator that cannot write has to step aside.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, Protocol

import sqlalchemy as sa
from sqlalchemy import event as sa_event
from sqlalchemy import exc as sa_exc
from sqlalchemy.pool import QueuePool, StaticPool

from cordee.coordinator.errors import CoordinatorError

__all__ = ["Database", "PostgresDatabase", "SqliteDatabase", "StoreError"]

_TIMEOUT_SECONDS: Final = 10
_SCHEMES: Final = ("postgresql", "postgres", "postgresql+psycopg")


class StoreError(CoordinatorError):
    """The database cannot be read or written: a full disk, a damaged file, a server that does not answer."""

    code = "store"


class Database(Protocol):
    """A database that a store is kept in."""

    name: str
    """What messages call it. Holds no secret."""
    advice: str
    """What to do when it cannot be used."""
    read_only: bool
    engine: sa.Engine

    def durable(self) -> AbstractContextManager[None]:
        """Commits made within outlive a power cut."""
        ...

    def created(self) -> None:
        """Its tables are there."""
        ...


class SqliteDatabase:
    """A file. `read_only` is for those who look at what a coordinator has left; it changes nothing."""

    advice = "make room on its disk; if it is damaged move it away, or choose another state folder"

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        mode = "ro" if read_only else "rwc"
        self.name = str(path)
        self.read_only = read_only
        self.engine = sa.create_engine(
            "sqlite://",
            poolclass=StaticPool,
            # The server is built in one thread and closed in it; `check_same_thread` would only forbid the tests' way.
            creator=lambda: sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}", uri=True, check_same_thread=False, isolation_level=None
            ),
        )
        self._path = path
        sa_event.listen(self.engine, "connect", _configure_reader if read_only else _configure)
        sa_event.listen(self.engine, "begin", _begin_reading if read_only else _begin)

    def created(self) -> None:
        if not self.read_only:
            self._path.chmod(0o600)  # it holds the workers' tokens

    @contextmanager
    def durable(self) -> Iterator[None]:
        self.pragma("synchronous=FULL")
        try:
            yield
        finally:
            self.pragma("synchronous=NORMAL")

    def pragma(self, setting: str) -> None:
        """Change a setting of the connection."""
        # Not through SQLAlchemy: it would open a transaction, where this pragma is ignored.
        connection = self.engine.raw_connection()
        try:
            connection.cursor().execute(f"PRAGMA {setting}")
        finally:
            connection.close()


class PostgresDatabase:
    """A PostgreSQL server, by its URL `postgresql://user:password@host:port/database?sslmode=…` (libpq's form).

    Raises StoreError for a URL that is none, or when psycopg is not installed.
    """

    advice = "the coordinator needs its PostgreSQL server, and rights to create and change tables in that database"
    read_only = False

    def __init__(self, url: str) -> None:
        try:
            parsed = sa.make_url(url.strip())
        except sa_exc.ArgumentError:
            parsed = None
        if parsed is None or parsed.drivername not in _SCHEMES or not parsed.database:
            # Not what was given: it may hold a password.
            raise StoreError(
                "the database's URL cannot be read", hint="write postgresql://user:password@host:5432/database"
            )
        parsed = parsed.set(drivername="postgresql+psycopg")
        self.name = parsed.render_as_string(hide_password=True).replace("postgresql+psycopg", "postgresql", 1)
        waits = f"-c statement_timeout={_TIMEOUT_SECONDS}s -c lock_timeout={_TIMEOUT_SECONDS}s -c timezone=UTC"
        try:
            self.engine = sa.create_engine(
                parsed,
                poolclass=QueuePool,
                pool_size=1,
                max_overflow=0,
                connect_args={
                    "connect_timeout": _TIMEOUT_SECONDS,
                    "tcp_user_timeout": _TIMEOUT_SECONDS * 1000,  # a server that vanished says nothing
                    "keepalives_idle": _TIMEOUT_SECONDS,
                    "application_name": "cordee",
                    "client_encoding": "utf8",
                    "options": waits,
                },
            )
        except ImportError as error:
            raise StoreError(
                "PostgreSQL needs a package that is not installed: psycopg",
                hint="pip install 'cordee[postgres]'",
            ) from error

    def created(self) -> None:
        pass

    def durable(self) -> AbstractContextManager[None]:
        return nullcontext()


def _configure(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for setting in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _configure_reader(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA busy_timeout=5000")


def _begin_reading(connection: sa.Connection) -> None:
    _tell(connection, "BEGIN")


def _begin(connection: sa.Connection) -> None:
    _tell(connection, "BEGIN IMMEDIATE")


def _tell(connection: sa.Connection, words: str) -> None:
    """Past SQLAlchemy, which makes as much ado about these two words as about a statement with parameters."""
    driver: Any = connection.connection.driver_connection
    try:
        driver.execute(words)
    except sqlite3.Error as error:
        raise sa_exc.OperationalError(words, None, error) from error
