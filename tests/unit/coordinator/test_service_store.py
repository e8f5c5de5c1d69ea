"""The store: what is written is there for the next one who opens it, and nothing half."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from cordee.coordinator.service.store import EventRow, JobRow, Store, StoreError, WorldRow


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "coordinator.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store(path)
    yield opened
    opened.close()


def row(job: str = "a-1", created_at: float = 1.0) -> JobRow:
    return JobRow(
        job, "a", created_at, "pending", {"spec": {"args": ["é"]}}, "0" * 64, {"state": "pending"}, {"step": 3}
    )


def world(generation: int, *members: str) -> WorldRow:
    return WorldRow("a-1", generation, generation * 10.0, 5, "start", members)


def test_a_job_comes_back_as_it_was_given_and_the_newest_first(store: Store, path: Path) -> None:
    store.create_job(row(), "secret")
    store.create_job(row("a-2", 2.0), "other")
    store.close()
    again = Store(path)
    assert again.jobs() == [row("a-2", 2.0), row()]
    assert again.tokens() == {"a-1": "secret", "a-2": "other"}
    again.close()


def test_a_submission_is_known_by_its_clients_key(store: Store) -> None:
    store.create_job(row(), "secret", key="mine")
    store.create_job(row("a-2", 2.0), "other")
    assert store.submitted("mine") == "a-1"
    assert store.submitted("yours") is None
    with pytest.raises(StoreError, match="UNIQUE constraint"):
        store.create_job(row("a-3", 3.0), "third", key="mine")
    assert [job.id for job in store.jobs()] == ["a-2", "a-1"]  # nothing of it has stayed


def test_a_turn_is_written_whole_or_not_at_all(store: Store) -> None:
    store.create_job(row(), "secret")
    store.save("a-1", record={"state": "running"}, world=world(1, "w0"), events=[EventRow(1.0, "world", "one")])
    with pytest.raises(StoreError, match="UNIQUE constraint"):
        # The same generation twice: two coordinators, or a bug. Nothing of it may stay.
        store.save("a-1", record={"state": "failed"}, world=world(1, "w1"), events=[EventRow(2.0, "world", "two")])
    assert [job.state for job in store.jobs()] == ["running"]
    assert store.worlds("a-1") == [world(1, "w0")]
    assert store.events("a-1", last=10) == [EventRow(1.0, "world", "one")]


def test_the_newest_events_come_oldest_first(store: Store) -> None:
    store.create_job(row(), "secret")
    store.save("a-1", events=[EventRow(float(n), "note", str(n)) for n in range(5)])
    assert [event.message for event in store.events("a-1", last=2)] == ["3", "4"]


def test_worlds_keep_their_ranks(store: Store) -> None:
    store.create_job(row(), "secret")
    store.save("a-1", world=world(1, "w2", "w0"))
    store.save("a-1", world=world(2, "w0"))
    assert [w.members for w in store.worlds("a-1")] == [("w2", "w0"), ("w0",)]
    assert [w.members for w in store.worlds("a-1", after=1)] == [("w0",)]


def test_what_belongs_to_no_job_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="FOREIGN KEY"):
        store.save("nobody-1", events=[EventRow(1.0, "note", "lost")])


def test_a_database_of_another_schema_is_refused(store: Store, path: Path) -> None:
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE name = 'schema_version'")
    connection.close()
    with pytest.raises(StoreError, match="has schema version 99, and this Cordee speaks 1"):
        Store(path)


def test_commits_do_not_wait_for_the_disk_but_submissions_do(store: Store) -> None:
    def synchronous() -> int:
        connection = store._engine.raw_connection()
        try:
            return int(connection.cursor().execute("PRAGMA synchronous").fetchone()[0])
        finally:
            connection.close()

    assert synchronous() == 1  # sqlite.org/pragma.html: 1 is NORMAL, 2 is FULL
    with store._synced():
        assert synchronous() == 2
    assert synchronous() == 1


def test_others_may_read_while_it_is_open(store: Store, path: Path) -> None:
    store.create_job(row(), "secret")
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as reader:
        assert reader.execute("SELECT id FROM jobs").fetchall() == [("a-1",)]
        store.create_job(row("a-2", 2.0), "other")  # and writing goes on meanwhile
        assert reader.execute("SELECT count(*) FROM jobs").fetchall() == [(2,)]
    reader.close()
