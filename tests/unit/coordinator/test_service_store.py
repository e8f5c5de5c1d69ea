"""The store: what is written is there for the next one who opens it, and nothing half."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.postgres_server import PostgresServer, postgres_server

from cordee.coordinator.service.databases import PostgresDatabase
from cordee.coordinator.service.store import Change, EventRow, FencedError, JobRow, Store, StoreError, WorldRow


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "coordinator.db"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def opened(request: pytest.FixtureRequest, path: Path) -> Callable[[], Store]:
    """Opens the same database again and again."""
    if request.param == "sqlite":
        return lambda: Store(path)
    url = request.getfixturevalue("server").database()
    return lambda: Store(PostgresDatabase(url))


@pytest.fixture
def both(opened: Callable[[], Store]) -> Iterator[Store]:
    """A store in either database."""
    store = opened()
    yield store
    store.close()


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """A store in SQLite."""
    opened = Store(path)
    yield opened
    opened.close()


def row(job: str = "a-1", created_at: float = 1.0) -> JobRow:
    return JobRow(
        job, "a", created_at, "pending", {"spec": {"args": ["é"]}}, "0" * 64, {"state": "pending"}, {"step": 3}
    )


def test_what_is_noted_about_the_store_itself_is_there_for_the_next_one(opened: Callable[[], Store]) -> None:
    store = opened()
    assert store.recall("place") is None
    for value in ("here", "there"):
        store.remember("place", value)
    store.close()
    store = opened()
    assert store.recall("place") == "there"
    store.close()


def world(generation: int, *members: str) -> WorldRow:
    return WorldRow("a-1", generation, generation * 10.0, 5, "start", members)


def test_a_job_comes_back_as_it_was_given_and_the_newest_first(both: Store, opened: Callable[[], Store]) -> None:
    both.create_job(row(), "secret")
    both.create_job(row("a-2", 2.0), "other")
    both.close()
    again = opened()
    assert again.jobs() == [row("a-2", 2.0), row()]
    assert again.tokens() == {"a-1": "secret", "a-2": "other"}
    again.close()


def test_a_submission_is_known_by_its_clients_key(both: Store) -> None:
    both.create_job(row(), "secret", key="mine")
    both.create_job(row("a-2", 2.0), "other")
    assert both.submitted("mine") == "a-1"
    assert both.submitted("yours") is None
    with pytest.raises(StoreError, match=r"(?i)unique constraint"):
        both.create_job(row("a-3", 3.0), "third", key="mine")
    assert [job.id for job in both.jobs()] == ["a-2", "a-1"]  # nothing of it has stayed


def test_a_job_is_removed_with_all_that_is_its_and_its_files_are_noted(
    both: Store, opened: Callable[[], Store]
) -> None:
    both.create_job(row(), "secret", key="mine")
    both.create_job(row("a-2", 2.0), "other", key="yours")
    both.save("a-1", world=world(1, "w0"), events=[EventRow(1.0, "world", "one")])
    both.remove_job("a-1")
    both.close()
    again = opened()
    assert again.jobs() == [row("a-2", 2.0)]
    assert (again.worlds("a-1"), again.events("a-1", last=9)) == ([], [])
    assert (again.tokens(), again.keys()) == ({"a-2": "other"}, {"a-2": "yours"})
    assert again.removals() == {"a-1": "0" * 64}
    again.removed("a-1")
    assert again.removals() == {}
    again.close()


def test_a_turn_is_written_whole_or_not_at_all(both: Store) -> None:
    both.create_job(row(), "secret")
    both.save("a-1", record={"state": "running"}, world=world(1, "w0"), events=[EventRow(1.0, "world", "one")])
    with pytest.raises(StoreError, match=r"(?i)unique constraint"):
        # The same generation twice: two coordinators, or a bug. Nothing of it may stay.
        both.save("a-1", record={"state": "failed"}, world=world(1, "w1"), events=[EventRow(2.0, "world", "two")])
    assert [job.state for job in both.jobs()] == ["running"]
    assert both.worlds("a-1") == [world(1, "w0")]
    assert both.events("a-1", last=10) == [EventRow(1.0, "world", "one")]


def test_what_has_changed_of_several_jobs_is_written_together_or_not_at_all(both: Store) -> None:
    both.create_job(row(), "secret")
    both.create_job(row("a-2", 2.0), "other")
    both.save_all([Change("a-1", record={"state": "running"}), Change("a-2", progress={"step": 7})])
    both.save_all([Change("a-1", progress={"step": 9}), Change("a-2", {"state": "failed"}, {"step": 8})])
    second, first = both.jobs()
    assert (first.state, first.record, first.progress) == ("running", {"state": "running"}, {"step": 9})
    assert (second.state, second.record, second.progress) == ("failed", {"state": "failed"}, {"step": 8})
    with pytest.raises(KeyError):
        both.save_all([Change("a-1", progress={"step": 10}), Change("a-2", record={})])
    assert both.jobs()[1].progress == {"step": 9}


def test_events_have_the_numbers_that_they_are_found_by(both: Store) -> None:
    (first,) = both.create_job(row(), "secret", events=[EventRow(1.0, "submitted", "a")])
    later = both.save("a-1", events=[EventRow(2.0, "note", "b"), EventRow(3.0, "note", "c")])
    numbers = [event.number for event in (first, *later)]
    assert numbers == sorted(set(numbers))
    assert [event.number for event in both.history("a-1", after=first.number, limit=9)] == numbers[1:]
    assert [event.number for event in both.events("a-1", last=2)] == numbers[1:]


def test_the_newest_events_come_oldest_first(both: Store) -> None:
    both.create_job(row(), "secret")
    both.save("a-1", events=[EventRow(float(n), "note", str(n)) for n in range(5)])
    assert [event.message for event in both.events("a-1", last=2)] == ["3", "4"]


def test_worlds_keep_their_ranks(both: Store) -> None:
    both.create_job(row(), "secret")
    both.save("a-1", world=world(1, "w2", "w0"))
    both.save("a-1", world=world(2, "w0"))
    assert [w.members for w in both.worlds("a-1")] == [("w2", "w0"), ("w0",)]
    assert [w.members for w in both.worlds("a-1", after=1)] == [("w0",)]


def test_what_belongs_to_no_job_is_refused(both: Store) -> None:
    with pytest.raises(StoreError, match=r"(?i)foreign key"):
        both.save("nobody-1", events=[EventRow(1.0, "note", "lost")])


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
    with store._database.durable():
        assert synchronous() == 2
    assert synchronous() == 1


def test_others_may_read_while_it_is_open(store: Store, path: Path) -> None:
    store.create_job(row(), "secret")
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as reader:
        assert reader.execute("SELECT id FROM jobs").fetchall() == [("a-1",)]
        store.create_job(row("a-2", 2.0), "other")  # and writing goes on meanwhile
        assert reader.execute("SELECT count(*) FROM jobs").fetchall() == [(2,)]
    reader.close()


def test_who_was_replaced_writes_nothing_more(opened: Callable[[], Store]) -> None:
    first, second = opened(), None
    try:
        assert first.take_over() == 1
        first.create_job(row(), "secret")
        second = opened()
        assert second.take_over() == 2
        for write in (
            lambda: first.save("a-1", record={"state": "failed"}),
            lambda: first.create_job(row("a-2"), "late"),
            lambda: first.remove_job("a-1"),
        ):
            with pytest.raises(FencedError, match=r"another coordinator has taken .* over .term 2, this one's was 1"):
                write()
        second.save("a-1", record={"state": "running"})
        assert [(job.id, job.state) for job in second.jobs()] == [("a-1", "running")]
    finally:
        first.close()
        if second is not None:
            second.close()


def test_a_write_under_way_is_seen_by_who_takes_over(server: PostgresServer) -> None:
    url = server.database()
    first, second = Store(PostgresDatabase(url)), Store(PostgresDatabase(url))
    try:
        first.take_over()
        first.create_job(row(), "secret")
        took_over = threading.Event()

        def take_over() -> None:
            second.take_over()
            took_over.set()

        with first._transaction(write=True) as connection:
            other = threading.Thread(target=take_over)
            other.start()
            assert not took_over.wait(0.3)  # it waits for us
            connection.exec_driver_sql("UPDATE jobs SET state = 'running' WHERE id = 'a-1'")
        other.join(10)
        assert took_over.is_set()
        assert [job.state for job in second.jobs()] == ["running"]
    finally:
        first.close()
        second.close()


def test_a_server_that_is_gone_is_a_sentence_without_the_password(server: PostgresServer) -> None:
    store = Store(PostgresDatabase(server.database()))
    store.create_job(row(), "secret")
    server.stop()
    try:
        with pytest.raises(StoreError) as caught:
            store.save("a-1", record={"state": "running"})
    finally:
        server.start()
        store.close()
    assert "postgresql://cordee:***@/" in caught.value.message
    assert "secret" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("url", ["", "hello", "mysql://a:word@b/c", "postgresql://a:word@b"])
def test_a_url_of_something_else_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(StoreError, match="cannot be read") as caught:
        PostgresDatabase(url)
    assert "word@" not in caught.value.message


def test_a_note_with_a_nul_is_kept(both: Store) -> None:
    both.create_job(row(), "secret")
    both.save("a-1", events=[EventRow(1.0, "note", "a\0b")])
    assert both.events("a-1", last=1) == [EventRow(1.0, "note", "a\ufffdb")]
