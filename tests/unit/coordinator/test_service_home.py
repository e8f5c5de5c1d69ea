"""A store remembers which place its jobs are in; who would look for them elsewhere is refused, while some run."""

from pathlib import Path

import pytest

from cordee.coordinator.service.home import HomeError, settle
from cordee.coordinator.service.launchers.base import Home
from cordee.coordinator.service.store import JobRow, Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "coordinator.db"


def add(store: Store, state: str, job: str = "a-1") -> None:
    store.create_job(JobRow(job, "a", 1.0, state, {}, None, {"state": state}), "t" * 32)


def test_the_first_place_is_taken_as_it_is_and_the_same_one_is_good_again(path: Path) -> None:
    for _ in range(2):
        store = Store(path)
        settle(store, Home("team", "u1"))
        store.close()
    store = Store(path)
    add(store, "running")
    settle(store, Home("team", "u1"))
    store.close()


@pytest.mark.parametrize(
    ("before", "now", "former"),
    [
        (Home("team", "u1"), Home("other", "u2"), "team"),
        (Home("team"), Home("other"), "team"),
        (Home("team", "u1"), Home("team", "u2"), "u1"),
    ],
)
def test_while_jobs_run_another_place_is_refused_and_what_to_do_is_said(
    path: Path, before: Home, now: Home, former: str
) -> None:
    store = Store(path)
    add(store, "running")
    settle(store, before)
    with pytest.raises(HomeError) as refused:
        settle(store, now)
    assert "the job a-1" in refused.value.message
    assert "the namespace team" in refused.value.message
    assert f"kubernetes.movedFrom: {former} " in refused.value.hint
    with pytest.raises(HomeError):  # it is no better for having been tried
        settle(store, now)
    settle(store, before)
    settle(store, Home(now.name, now.uid, moved_from=former))
    settle(store, now)  # from now on that is where they are
    with pytest.raises(HomeError):
        settle(store, before)
    store.close()


def test_a_name_that_both_have_says_nothing_of_having_moved(path: Path) -> None:
    store = Store(path)
    add(store, "running")
    settle(store, Home("team", "u1"))
    with pytest.raises(HomeError):
        settle(store, Home("team", "u2", moved_from="team"))
    store.close()


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_where_all_jobs_have_ended_the_place_may_change(path: Path, state: str) -> None:
    store = Store(path)
    add(store, state)
    settle(store, Home("team", "u1"))
    settle(store, Home("other", "u2"))
    add(store, "pending", "b-1")
    with pytest.raises(HomeError):
        settle(store, Home("team", "u1"))
    store.close()


def test_a_uid_that_cannot_be_read_for_once_is_not_forgotten(path: Path) -> None:
    store = Store(path)
    add(store, "running")
    settle(store, Home("team", "u1"))
    settle(store, Home("team"))
    with pytest.raises(HomeError):
        settle(store, Home("team", "u2"))
    store.close()
