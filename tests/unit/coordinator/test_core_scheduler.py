"""The scheduler's rules, as properties of any jobs on any capacity, at one moment and over time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordee.coordinator.core.scheduler import Demand, Demands, schedule, targets

Queue = tuple[list[Demand], int]


@st.composite
def queues(draw: Callable[..., int]) -> Queue:
    """Jobs, some of them running within the capacity, some draining, some with a minimum raised since."""
    capacity = draw(st.integers(0, 24))
    free = capacity
    demands: list[Demand] = []
    for k in range(draw(st.integers(0, 7))):
        minimum = draw(st.integers(1, 8))
        maximum = draw(st.integers(minimum, 12))
        occupied = draw(st.integers(0, min(free, 12)))
        granted = draw(st.integers(0, min(occupied, maximum)))
        free -= occupied
        submitted, priority = float(draw(st.integers(0, 3))), draw(st.integers(0, 2))
        demands.append(Demand(f"j{k}", minimum, maximum, submitted, priority, granted, occupied))
    return demands, capacity


def place(demand: Demand) -> tuple[int, float, str]:
    return (-demand.priority, demand.submitted, demand.job)


@given(queues(), st.integers(0, 24))
def test_grants_never_exceed_the_capacity_even_while_others_still_drain(queue: Queue, parting: int) -> None:
    demands, capacity = queue
    parting = min(parting, capacity - sum(d.occupied for d in demands))
    grants = schedule(demands, capacity, parting)
    assert sum(max(d.occupied, grants[d.job]) for d in demands) + parting <= capacity
    assert sum(targets(demands, capacity).values()) <= capacity


@given(st.lists(queues(), min_size=1, max_size=3), st.integers(0, 120), st.integers(0, 8))
def test_what_is_kept_up_to_date_says_what_a_look_at_everything_says(
    moments: list[Queue], capacity: int, parting: int
) -> None:
    kept = Demands()
    for demands, _ in moments:
        now = {d.job: d for d in demands}
        for job in {d.job for d in kept} - set(now):
            assert kept.note(job, None, 0)
        kept.note("parting", None, parting)
        for job, demand in now.items():
            kept.note(job, demand, demand.occupied)
            assert not kept.note(job, demand, demand.occupied)
        assert {d.job: d for d in kept} == now
        wanted = schedule(demands, capacity, parting)
        assert kept.changes(capacity) == {d.job: wanted[d.job] for d in demands if wanted[d.job] != d.granted}


@given(queues())
def test_a_job_gets_its_minimum_or_nothing_and_never_more_than_its_maximum(queue: Queue) -> None:
    demands, capacity = queue
    grants = schedule(demands, capacity)
    for d in demands:
        assert grants[d.job] <= d.maximum
        assert grants[d.job] >= d.minimum or grants[d.job] == min(d.granted, d.minimum)


@given(queues())
def test_a_running_job_keeps_its_minimum_also_when_capacity_is_taken_away(queue: Queue) -> None:
    demands, capacity = queue
    for smaller in (capacity, capacity // 2, 0):
        grants = schedule(demands, smaller)
        assert all(grants[d.job] >= min(d.granted, d.minimum) for d in demands)


@given(queues())
def test_no_job_that_could_run_is_overtaken_by_a_later_one(queue: Queue) -> None:
    demands, capacity = queue
    target = targets(demands, capacity)
    waiting = [d for d in demands if d.granted == 0]
    for later in waiting:
        if target[later.job] > 0:
            for earlier in waiting:
                if place(earlier) < place(later) and earlier.minimum <= capacity:
                    assert target[earlier.job] >= earlier.minimum


@given(queues())
def test_what_is_left_goes_to_whoever_has_fewest(queue: Queue) -> None:
    demands, capacity = queue
    target = targets(demands, capacity)
    admitted = [d for d in demands if target[d.job] >= d.minimum]
    hungry = [d for d in admitted if target[d.job] < d.maximum]
    for poor in hungry:
        for rich in admitted:
            assert target[rich.job] <= max(target[poor.job] + 1, rich.minimum)
    assert not hungry or sum(target.values()) >= capacity


@given(queues())
def test_more_capacity_takes_no_worker_from_the_admitted(queue: Queue) -> None:
    """As long as it admits nobody new to its minimum, for whom the others may have to shrink."""
    demands, capacity = queue
    less, more = targets(demands, capacity), targets(demands, capacity + 1)
    if all((less[d.job] >= d.minimum) == (more[d.job] >= d.minimum) for d in demands):
        assert all(more[job] >= less[job] for job in less)


@given(queues())
def test_grants_reach_their_targets_once_the_draining_have_gone(queue: Queue) -> None:
    demands, capacity = queue
    target = targets(demands, capacity)
    for _ in range(2):  # take back, then hand out
        grants = schedule(demands, capacity)
        demands = [replace(d, granted=grants[d.job], occupied=grants[d.job]) for d in demands]
    assert schedule(demands, capacity) == target


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6), st.integers(1, 4), st.integers(0, 3)), max_size=20),
    st.integers(1, 8),
)
def test_every_job_that_fits_the_cluster_runs_in_its_turn(jobs: list[tuple[int, int, int, int]], capacity: int) -> None:
    """A cluster over time: jobs come one by one, run for some rounds, and take a round to drain what they give back.

    Admission is in order. A later job may still be started while an admitted one waits for others to drain, as it takes
    nothing that was promised.
    """
    waiting = [
        (Demand(f"j{k:02}", low, low + more, submitted=float(k)), rounds, delay)
        for k, (low, more, rounds, delay) in enumerate(jobs)
    ]
    here: dict[str, Demand] = {}
    left: dict[str, int] = {}
    admitted: list[str] = []
    started: list[str] = []
    for _ in range(400):
        while waiting and (waiting[0][2] <= 0 or not here):
            demand, rounds, _ = waiting.pop(0)
            here[demand.job], left[demand.job] = demand, rounds
        waiting = [(d, r, delay - 1) for d, r, delay in waiting]
        target = targets(here.values(), capacity)
        admitted += [job for job in sorted(here) if target[job] and job not in admitted]
        grants = schedule(here.values(), capacity)
        for job, demand in list(here.items()):
            started += [job] * (demand.granted == 0 and grants[job] > 0)
            here[job] = replace(demand, occupied=max(demand.granted, grants[job]), granted=grants[job])
            left[job] -= 1 if grants[job] else 0
        assert sum(d.occupied for d in here.values()) <= capacity
        here = {job: replace(d, occupied=d.granted) for job, d in here.items() if left[job] > 0}
    fitting = [f"j{k:02}" for k, (low, *_) in enumerate(jobs) if low <= capacity]
    assert admitted == fitting
    assert sorted(started) == fitting


def test_an_elastic_job_shrinks_to_let_a_waiting_one_in_and_grows_again_after() -> None:
    long = Demand("long", 1, 4, submitted=1, granted=4, occupied=4)
    new = Demand("new", 2, 2, submitted=2)
    assert schedule([long, new], 4) == {"long": 2, "new": 0}  # two must drain first
    assert schedule([replace(long, granted=2, occupied=3), new], 4) == {"long": 2, "new": 0}  # all at once or nothing
    assert schedule([replace(long, granted=2, occupied=2), new], 4) == {"long": 2, "new": 2}
    assert schedule([replace(long, granted=2, occupied=2)], 4) == {"long": 4}


def test_a_large_job_is_not_overtaken_while_an_ended_one_gives_its_slots_back_one_by_one() -> None:
    large, small = Demand("large", 4, 4, submitted=1), Demand("small", 1, 1, submitted=2)
    for parting in (4, 3, 2, 1):
        assert schedule([large, small], 4, parting) == {"large": 0, "small": 0}
    assert schedule([large, small], 4) == {"large": 4, "small": 0}


def test_a_job_larger_than_the_cluster_waits_without_holding_anybody_up() -> None:
    assert schedule([Demand("huge", 9, 9, submitted=1), Demand("small", 1, 2, submitted=2)], 4) == {
        "huge": 0,
        "small": 2,
    }


def test_priority_goes_before_age_when_jobs_are_admitted() -> None:
    old, urgent = Demand("old", 3, 3, submitted=1), Demand("urgent", 3, 3, submitted=2, priority=1)
    assert schedule([old, urgent], 4) == {"old": 0, "urgent": 3}


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1\.\.maximum, got 3:2"):
        Demand("j", 3, 2)
