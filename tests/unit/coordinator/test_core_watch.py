"""Who holds a world up: the pure decisions on stuck workers, cut links, stragglers and tempo."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordee.coordinator.core.activity import Activity, Doing, Standing
from cordee.coordinator.core.cover import covers, pair
from cordee.coordinator.core.links import Links, choose, convicted, find_cut, judge
from cordee.coordinator.core.rendezvous import Attendee
from cordee.coordinator.core.stragglers import Stragglers
from cordee.coordinator.core.stuck import find_alone, find_deaf, find_standstill, find_stuck, limit_seconds
from cordee.coordinator.core.tempo import Tempo


def computing(k: int, seconds: float, step: int = 812) -> Standing:
    return Standing(f"j-w{k}", k, Activity(Doing.COMPUTING, step, seconds))


def exchanging(k: int, seconds: float, *waits_for: int, step: int = 812, idle: float | None = None) -> Standing:
    names = tuple(f"j-w{w}" for w in waits_for)
    activity = Activity(Doing.EXCHANGING, step, seconds, names, seconds if idle is None else idle)
    return Standing(f"j-w{k}", k, activity, idle_known=0.25)


def meeting(k: int, seconds: float, *waits_for: int, idle: float = 0.0) -> Standing:
    activity = Activity(Doing.MEETING, 812, seconds, tuple(f"j-w{w}" for w in waits_for), idle)
    return Standing(f"j-w{k}", k, activity, idle_known=0.25)


def arrived(k: int, seconds: float) -> Standing:
    return Standing(f"j-w{k}", k, Activity(Doing.MEETING, seconds=seconds), arrived=True)


def late(*members: Standing, limit: float = 30.0) -> list[str]:
    return [found.worker for found in find_stuck(members, limit=limit)]


# ----------------------------------------------------------------------------------------------------------- stuck

seconds = st.floats(0.0, 1000.0)


@st.composite
def worlds(draw: st.DrawFn) -> list[Standing]:
    size = draw(st.integers(1, 5))
    members: list[Standing] = []
    for k in range(size):
        others = [w for w in range(size) if w != k]
        doing = draw(st.sampled_from([*Doing, "arrived"]))
        if doing == "arrived":
            members.append(arrived(k, draw(seconds)))
            continue
        waits = tuple(f"j-w{w}" for w in draw(st.lists(st.sampled_from(others), unique=True))) if others else ()
        activity = Activity(Doing(doing), draw(st.integers(1, 2)), draw(seconds), waits, draw(seconds))
        members.append(Standing(f"j-w{k}", k, activity, idle_known=draw(st.sampled_from([0.0, 0.25, 1.0]))))
    return members


@given(worlds(), st.floats(1.0, 500.0))
def test_who_is_stuck_held_somebody_up_for_the_limit_and_waits_in_no_rendezvous(
    members: list[Standing], limit: float
) -> None:
    by_name = {member.worker: member for member in members}
    for found in find_stuck(members, limit=limit):
        member = by_name[found.worker]
        waiting = [peer for peer in members if peer is not member and peer.waits_for(member)]
        assert not member.arrived
        assert member.activity.doing in (Doing.COMPUTING, Doing.MEETING, Doing.EXCHANGING)
        assert member.activity.seconds >= limit
        assert max(peer.activity.seconds for peer in waiting) >= limit
        assert found.worker in found.words


@given(worlds(), st.floats(1.0, 500.0), st.floats(1.0, 4.0))
def test_a_longer_limit_finds_nobody_more(members: list[Standing], limit: float, factor: float) -> None:
    sooner = {found.worker for found in find_stuck(members, limit=limit)}
    # With fewer that are late, those that are may be outnumbered no longer.
    later = {found.worker for found in find_stuck(members, limit=limit * factor)}
    assert len(later) <= max(len(sooner), len(members) // 2)


def test_a_worker_that_computes_while_all_others_wait_for_it_is_stuck_and_is_told_with_figures() -> None:
    world = [exchanging(0, 31.0, 2), exchanging(1, 31.0, 2), computing(2, 31.2), exchanging(3, 30.8, 2)]
    [found] = find_stuck(world, limit=30.0, usual_seconds=0.12)
    assert (found.worker, found.step) == ("j-w2", 812)
    words = "j-w2 has been computing step 812 for 31 s; w0, w1 and w3 wait for it; a step takes 0.12 s usually"
    assert found.words == words


def test_nobody_is_late_while_all_compute_however_long() -> None:
    assert late(*(computing(k, 4000.0) for k in range(3))) == []


def test_the_waiting_counts_and_not_the_workers_own_time() -> None:
    """All took half a minute for this step; one is a little behind."""
    assert late(exchanging(0, 2.0, 1), computing(1, 32.0)) == []


def test_two_may_be_stuck_at_once_but_the_many_have_ten_times_as_long() -> None:
    assert late(exchanging(0, 31.0, 2, 3), exchanging(1, 31.0, 2, 3), computing(2, 31.0), computing(3, 31.0)) == [
        "j-w2",
        "j-w3",
    ]
    # One has skipped an evaluation that the three others make: it is the odd one out.
    skipped = [computing(k, 31.0) for k in (1, 2, 3)]
    assert late(exchanging(0, 31.0, 1, 2, 3), *skipped) == []
    slow = [computing(k, 301.0) for k in (1, 2, 3)]
    assert late(exchanging(0, 301.0, 1, 2, 3), *slow) == ["j-w1", "j-w2", "j-w3"]


def test_who_evaluates_after_its_run_or_still_prepares_is_not_stuck() -> None:
    for doing in (Doing.OUTSIDE, Doing.PREPARING, Doing.UNKNOWN):
        assert late(exchanging(0, 99.0, 1), Standing("j-w1", 1, Activity(doing, 812, 99.0))) == []


def test_a_worker_that_never_gets_through_the_rendezvous_is_stuck() -> None:
    assert late(exchanging(0, 31.0, 1), meeting(1, 32.0)) == ["j-w1"]  # the others train already
    assert late(arrived(0, 31.0), arrived(1, 40.0), meeting(2, 33.0)) == ["j-w2"]  # it does not come back out of it
    assert late(arrived(0, 31.0), exchanging(1, 33.0, 0)) == ["j-w1"]  # it does not hear that this is broken off
    assert late(arrived(0, 31.0), computing(1, 33.0)) == ["j-w1"]


def test_a_large_state_may_take_its_time_as_long_as_bytes_move() -> None:
    assert late(exchanging(0, 300.0, 1), meeting(1, 300.0, 0, idle=0.2)) == []
    assert late(exchanging(0, 300.0, 1), meeting(1, 300.0, 0, idle=31.0)) == ["j-w1"]


@given(st.floats(0.1, 100.0), st.floats(0.0, 100.0), st.integers(0, 100))
def test_the_limit_follows_the_usual_step_and_doubles_each_time(stuck: float, usual: float, times: int) -> None:
    limit = limit_seconds(stuck, usual, times)
    assert limit >= stuck
    assert limit >= 10.0 * usual
    assert limit_seconds(stuck, usual, times + 1) in (2.0 * limit, limit)  # within bounds


def test_a_lone_worker_and_a_deaf_one_have_ten_times_as_long() -> None:
    assert find_alone([computing(0, 299.0)], limit=30.0) is None
    alone = find_alone([computing(0, 301.0)], limit=30.0)
    assert alone is not None
    assert "trains alone" in alone.words
    assert find_alone([computing(0, 301.0), computing(1, 301.0)], limit=30.0) is None
    assert find_deaf([computing(0, 400.0)], broken_seconds=299.0, limit=30.0) == []
    assert [f.worker for f in find_deaf([exchanging(0, 9.0)], broken_seconds=31.0, limit=30.0)] == ["j-w0"]
    assert [f.worker for f in find_deaf([computing(0, 9.0), arrived(1, 9.0)], broken_seconds=301.0, limit=30.0)] == [
        "j-w0"
    ]


def test_a_world_in_which_all_wait_is_broken_off() -> None:
    def words(*members: Standing) -> str:
        return find_standstill(members, limit=10.0, meeting_limit=30.0)

    assert "nobody has sent or received a byte for 11 s" in words(exchanging(0, 11.0, 1), exchanging(1, 11.5, 2))
    assert words(exchanging(0, 11.0, 1), exchanging(1, 11.0, 0, idle=0.1)) == ""
    assert words(exchanging(0, 11.0, 1), computing(1, 11.0)) == ""
    assert words(meeting(0, 29.0), meeting(1, 31.0)) == ""
    assert "no step has begun for 31 s" in words(meeting(0, 31.0), meeting(1, 31.0))
    assert words(meeting(0, 31.0, idle=0.1), meeting(1, 31.0, idle=0.1)) == ""
    assert words(arrived(0, 99.0), exchanging(1, 99.0, 0)) == ""  # that is for find_stuck


# ----------------------------------------------------------------------------------------------------------- links


def test_two_that_wait_for_each_other_without_a_byte_have_no_link() -> None:
    # 0 and 1 have what they need but for the sums of 2 and 3, which lack each other's parts.
    world = [exchanging(0, 1.0, 2, 3), exchanging(1, 1.0, 2, 3), exchanging(2, 1.0, 3), exchanging(3, 1.0, 2)]
    assert find_cut(world, idle_seconds=0.75) == {("j-w2", "j-w3")}
    assert find_cut(world, idle_seconds=1.5) == frozenset()
    assert find_cut([*world[:3], computing(3, 1.0)], idle_seconds=0.75) == frozenset()
    assert find_cut([*world, exchanging(4, 1.0, 2, idle=0.1)], idle_seconds=0.75) == frozenset()
    # A small gradient takes one round, and who has heard everybody is at the next step already: at most one apart.
    assert find_cut([*world[:3], exchanging(3, 1.0, 2, step=813)], idle_seconds=0.75) == {("j-w2", "j-w3")}
    assert find_cut([*world[:3], exchanging(3, 1.0, 2, step=814)], idle_seconds=0.75) == frozenset()
    assert find_cut([*world[:3], arrived(3, 1.0)], idle_seconds=0.75) == frozenset()
    assert find_cut([meeting(0, 1.0, 1, idle=1.0), meeting(1, 1.0, 0, idle=1.0)], idle_seconds=0.75)


def test_one_word_of_each_end_proves_no_cut_link_and_that_nobody_moves_a_byte_takes_longer() -> None:
    pairs = [exchanging(0, 1.0, 1), exchanging(1, 1.0, 0)]
    assert find_cut(pairs, idle_seconds=0.75) == {("j-w0", "j-w1")}
    for k in range(2):
        once = [replace(member, idle_known=0.0) if member is pairs[k] else member for member in pairs]
        assert find_cut(once, idle_seconds=0.75) == frozenset()
    for idle, cut in ((2.9, 0), (3.1, 3)):
        everybody = [exchanging(k, idle, *({0, 1, 2} - {k})) for k in range(3)]
        assert len(find_cut(everybody, idle_seconds=0.75)) == cut


@given(worlds(), st.floats(0.1, 10.0))
def test_a_link_is_cut_only_between_two_that_wait_for_each_other_while_nobody_does_anything(
    members: list[Standing], idle: float
) -> None:
    by_name = {member.worker: member for member in members}
    for one, other in find_cut(members, idle_seconds=idle):
        assert by_name[one].waits_for(by_name[other])
        assert by_name[other].waits_for(by_name[one])
        assert all(m.activity.doing in (Doing.EXCHANGING, Doing.MEETING) for m in members)
        assert all(m.activity.idle_seconds >= idle for m in members)
        assert min(by_name[one].idle_known, by_name[other].idle_known) >= 0.2


ALL = {"j-w0", "j-w1", "j-w2"}


def test_suspicions_that_a_death_explains_prove_nothing() -> None:
    """w1 died; w0 saw that and closed its links, and w2 saw w0 do so."""
    suspicions = {"j-w0": ("j-w1",), "j-w2": ("j-w1", "j-w0")}
    assert judge(suspicions, alive={"j-w0", "j-w2"}, advanced=True, died=True, strikes={}) == {}
    assert judge(suspicions, alive={"j-w0", "j-w2"}, advanced=False, died=True, strikes={}) == {}


def test_a_connection_that_broke_is_made_again_before_it_is_called_cut() -> None:
    mutual = {"j-w0": ("j-w1",), "j-w1": ("j-w0",), "j-w2": ("j-w0", "j-w1")}
    assert judge(mutual, alive=ALL, advanced=True, died=False, strikes={("j-w0", "j-w1"): 1}) == {}
    assert convicted(judge(mutual, alive=ALL, advanced=False, died=False, strikes={})) == [("j-w0", "j-w1")]


def test_two_that_cannot_connect_have_no_link_and_one_that_cannot_takes_two_attempts() -> None:
    mutual = {"j-w0": ("j-w1",), "j-w1": ("j-w0",)}
    assert convicted(judge(mutual, alive=ALL, advanced=False, died=False, strikes={})) == [("j-w0", "j-w1")]
    one_sided = {"j-w0": ("j-w1",), "j-w1": ()}
    once = judge(one_sided, alive=ALL, advanced=False, died=False, strikes={})
    assert convicted(once) == []
    assert convicted(judge(one_sided, alive=ALL, advanced=False, died=False, strikes=once)) == [("j-w0", "j-w1")]


graphs = st.lists(st.sampled_from([pair(f"w{a}", f"w{b}") for a, b in combinations(range(7), 2)]), max_size=10)


@given(graphs)
def test_who_stays_out_covers_every_cut_link_and_nobody_stays_out_for_nothing(links: list[tuple[str, str]]) -> None:
    cover = covers(set(links), cost=lambda out: (len(out),))
    assert all(cover & set(link) for link in links)
    everybody = sorted({end for link in links for end in link})
    smallest = next(
        size
        for size in range(len(everybody) + 1)
        if any(all(set(out) & set(link) for link in links) for out in combinations(everybody, size))
    )
    assert len(cover) == smallest


def test_a_network_in_two_halves_goes_on_in_the_larger_one() -> None:
    links = {pair(f"w{a}", f"w{b}") for a in range(7) for b in range(7, 16)}
    assert covers(links, cost=lambda out: (len(out),)) == {f"w{k}" for k in range(7)}


def attendees(*steps: int | None) -> list[Attendee]:
    return [Attendee(f"j-w{k}", k, None if step is None else k, step) for k, step in enumerate(steps)]


def test_of_two_the_higher_rank_stays_out_but_never_all_holders_of_the_furthest_step() -> None:
    assert choose([("j-w0", "j-w1")], attendees(5, 5), 1) == {"j-w1"}
    assert choose([("j-w0", "j-w1")], attendees(5, 6), 1) == {"j-w0"}
    assert choose([("j-w0", "j-w2")], attendees(5, 5, None), 1) == {"j-w2"}
    assert choose([("j-w0", "j-w1"), ("j-w0", "j-w2")], attendees(5, 5, 5), 1) == {"j-w0"}
    assert choose([("j-w0", "j-w9")], attendees(5, 5), 1) == frozenset()  # one of them is not there


def test_a_choice_that_leaves_the_minimum_goes_before_a_better_one_and_there_may_be_none() -> None:
    star = [("j-w0", "j-w1"), ("j-w0", "j-w2")]
    assert choose(star, attendees(6, 5, 5), 2) == {"j-w0"}  # it holds the furthest step, alone: that is redone
    assert choose(star, attendees(6, 5, 5), 1) == {"j-w1", "j-w2"}
    assert choose([("j-w0", "j-w1")], attendees(5, 5), 2) is None


def test_the_back_off_doubles_up_to_a_minute_and_a_link_that_held_begins_anew() -> None:
    links, now, waits = Links(), 100.0, []
    for _ in range(8):
        waits.append(links.cut([("a", "b")], now))
        now += waits[-1] + 2.0
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert links.cut([("a", "c")], now) == 1.0
    assert links.cut([("a", "b")], now + 200.0) == 1.0


# ------------------------------------------------------------------------------------------------------ stragglers


def told(stragglers: Stragglers, paces: list[float], count: int, *, step: int = 0, now: float = 0.0) -> list[str]:
    words: list[str] = []
    for k in range(count):
        named = {f"j-w{rank}": pace for rank, pace in enumerate(paces)}
        words += [change.words for change in stragglers.told(named, step + 4 * (k + 1), now + 0.25 * (k + 1))]
    return words


def test_a_worker_twice_as_slow_as_the_others_is_said_once_with_figures_and_once_when_it_is_over() -> None:
    stragglers = Stragglers()
    assert told(stragglers, [0.1, 0.1, 0.11], 40) == []
    slow = told(stragglers, [0.1, 0.31, 0.11], 60, step=160, now=10.0)
    assert len(slow) == 1
    assert slow[0].startswith("j-w1 is slow: 0.2")
    assert slow[0].endswith("times as long)")
    assert stragglers.slow == {"j-w1"}
    assert told(stragglers, [0.1, 0.31, 0.11], 100, step=400, now=25.0) == []
    [over] = told(stragglers, [0.1, 0.1, 0.11], 100, step=800, now=50.0)
    assert over.startswith("j-w1 keeps up again")
    assert (stragglers.slow, stragglers.count) == (set(), 1)


def test_one_slow_moment_or_a_hair_of_a_second_is_no_straggler() -> None:
    stragglers = Stragglers()
    assert told(stragglers, [0.1, 0.1], 40) == []
    assert told(stragglers, [0.1, 0.9], 1, step=160, now=10.0) == []
    assert told(Stragglers(), [0.0001, 0.0009], 100) == []


def test_nobody_is_judged_before_it_was_there_for_a_while() -> None:
    stragglers = Stragglers()
    assert told(stragglers, [0.1, 0.5], 3) == []
    assert told(stragglers, [0.1], 60, step=12, now=1.0) == []
    assert told(stragglers, [0.1, 0.5], 2, step=300, now=20.0) == []  # its first step, on a cold cache
    assert len(told(stragglers, [0.1, 0.5], 30, step=310, now=20.5)) == 1


def test_a_process_that_takes_anothers_place_begins_anew() -> None:
    stragglers = Stragglers()
    assert len(told(stragglers, [0.1, 0.5], 60)) == 1
    stragglers.forget("j-w1")
    assert stragglers.slow == set()
    assert told(stragglers, [0.1, 0.1], 100, step=300, now=20.0) == []


@given(st.lists(st.lists(st.floats(0.0, 10.0), min_size=1, max_size=4), max_size=60))
def test_paces_are_means_of_what_was_told_and_only_members_are_slow(history: list[list[float]]) -> None:
    stragglers = Stragglers()
    for k, paces in enumerate(history):
        stragglers.told({f"j-w{rank}": pace for rank, pace in enumerate(paces)}, 5 * k, float(k))
        assert all(0.0 < pace <= 10.0 for pace in stragglers.paces.values())
        assert len(stragglers.paces) <= len(paces)


def test_a_straggler_is_replaced_less_and_less_often() -> None:
    stragglers, now, times = Stragglers(), 0.0, []
    while now < 4000.0:
        if stragglers.may_replace("j-w1", now):
            times.append(now)
        now += 1.0
    assert times == [0.0, 60.0, 180.0, 420.0, 900.0, 1860.0, 3780.0]


# ----------------------------------------------------------------------------------------------------------- tempo


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0.01, 5.0)), max_size=30))
def test_what_advances_is_the_furthest_step_and_its_time(words: list[tuple[int, float]]) -> None:
    tempo, now, furthest = Tempo(), 0.0, 0
    tempo.enter(0)
    for step, passed in words:
        now += passed
        assert tempo.advance(step, now) is (step > furthest)
        furthest = max(furthest, step)
        assert tempo.step == tempo.furthest == furthest
    assert 0.0 <= tempo.usual_seconds <= now


def test_the_usual_step_is_a_median_and_counts_no_time_between_worlds() -> None:
    tempo = Tempo()
    tempo.enter(0)
    for k in range(1, 6):
        tempo.advance(k, 10.0 + 0.1 * k)
    tempo.enter(5)
    tempo.advance(6, 500.0)
    assert tempo.usual_seconds == pytest.approx(0.1)
    tempo.enter(3)  # everybody was lost, and an older checkpoint was found
    assert (tempo.step, tempo.furthest) == (3, 6)
