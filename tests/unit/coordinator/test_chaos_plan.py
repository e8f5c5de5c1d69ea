"""A plan of faults: what a spec says, what is due when, and who is chosen."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordee.coordinator.chaos.grammar import ChaosSpecError, parse_kinds, parse_plan
from cordee.coordinator.chaos.plan import KINDS, Live, Order, Plan, Postponed, Rate, Scheduled, Who, choose
from cordee.coordinator.faults import FAULTS, Fault

WORLD = [Live(f"job-abcdef-w{k}", rank) for rank, k in enumerate((0, 2, 10, 1))]


@pytest.mark.parametrize(
    ("spec", "plan"),
    [
        ("kill@29s", Plan((Rate((("kill", 1.0),), 29.0),))),
        ("kill*2, stop @ ~500ms for 15m seed 7", Plan(
            (Rate((("kill", 2.0), ("stop", 1.0)), 0.5, True),), (), 900.0, 7)),
        ("soak", Plan((Rate((("kill", 1.0), ("stop", 1.0), ("partition", 1.0)), 29.0),))),
        ("soak,kill,coordinator@15", Plan((Rate(
            (("kill", 2.0), ("stop", 1.0), ("partition", 1.0), ("coordinator", 1.0)), 15.0),))),
        ("at 10s kill w2", Plan((), (Scheduled("kill", 10.0, who=(Who("worker", 2),)),))),
        ("at step 500 kill rank 0;", Plan((), (Scheduled("kill", None, 500, (Who("rank", 0),)),))),
        ("at 20s partition job-abc-w0 w1 for 3s", Plan((), (Scheduled(
            "partition", 20.0, None, (Who("worker", 0), Who("worker", 1)), None, 3.0),))),
        ("at 1.5m slow w1 times 4 for 2s", Plan((), (Scheduled(
            "slow", 90.0, None, (Who("worker", 1),), None, 2.0, 4.0),))),
        ("at 1h mass 14; seed 3; for 2h; half-open@1m", Plan(
            (Rate((("half-open", 1.0),), 60.0),), (Scheduled("mass", 3600.0, count=14),), 7200.0, 3)),
        ("kill@1s; calm 1m every 6m", Plan((Rate((("kill", 1.0),), 1.0),), calm=(60.0, 360.0))),
        ("at 5s bug", Plan((), (Scheduled("bug", 5.0),))),
    ],
)  # fmt: skip
def test_a_spec_says_what_it_says_and_a_plan_writes_it_again(spec: str, plan: Plan) -> None:
    assert parse_plan(spec) == plan
    assert parse_plan(str(plan)) == plan


def test_all_is_every_kind_that_does_not_fail_the_job() -> None:
    (rate,) = parse_plan("all").rates
    assert {kind for kind, _ in rate.kinds} == set(FAULTS) - {"bug"}


def test_what_is_given_beside_a_spec_goes_over_it() -> None:
    plan = parse_plan("kill@3s for 1m seed 4", seed=9, seconds=5.0)
    assert (plan.seed, plan.seconds) == (9, 5.0)
    assert parse_kinds("kill*2,stop") == (("kill", 2.0), ("stop", 1.0))


@pytest.mark.parametrize(
    ("spec", "position", "words"),
    [
        ("", 1, "it is empty"),
        ("kill,stp@29s", 6, "there is no fault 'stp'"),
        ("kill", 5, "how often is missing"),
        ("kill@", 6, "a time, such as 29s is missing before its end"),
        ("kill@0s", 6, "longer than nothing"),
        ("kill@29x", 6, "'29x' is no time"),
        ("kill*0@3s", 6, "no number above 0"),
        ("bug@3s", 1, "fails the job, as it should"),
        ("kill@3s stop@3s", 9, "'stop' does not belong there"),
        ("kill@3s; kill!@3s", 14, "'!' means nothing here"),
        ("at 10s", 7, "a kind of fault is missing"),
        ("at step x kill", 9, "'x' is no whole number"),
        ("at 10s kill w1 w2", 8, "2 workers are too many"),
        ("at 10s partition w1 w1", 8, "w1 is not its own peer"),
        ("at 10s kill for 4s", 8, "has no seconds"),
        ("at 10s kill times 4", 8, "has no amount"),
        ("at 10s mass 0", 8, "nobody"),
        ("at 10s coordinator w1", 8, "takes no worker's name"),
        ("for 3s; for 4s; kill@3s", 9, "stands there twice"),
        ("kill@3s; calm 3s", 17, "'every' is missing"),
        ("kill@3s; calm 3s every 3s", 10, "shorter than the whole"),
        ("seed 7", 7, "there is no fault in it"),
    ],
)
def test_a_mistake_is_named_with_its_position(spec: str, position: int, words: str) -> None:
    with pytest.raises(ChaosSpecError) as caught:
        parse_plan(spec)
    head, shown, arrow = caught.value.message.splitlines()
    assert head.startswith(f"the chaos spec is wrong at position {position}: ")
    assert words in head
    assert shown == f"  {spec}"
    assert arrow == " " * (position + 1) + "^"


def test_a_mistyped_kind_is_answered_with_the_one_that_was_meant() -> None:
    with pytest.raises(ChaosSpecError) as caught:
        parse_plan("partiton@3s")
    assert caught.value.hint.startswith("did you mean 'partition'? ")


def test_due_times_are_the_interval_apart_until_the_time_is_over() -> None:
    orders = list(parse_plan("kill,stop@29s; at 30s segfault; for 2m").timeline())
    assert [(order.number, order.at_seconds) for order in orders] == [(1, 29), (2, 30), (3, 58), (4, 87), (5, 116)]
    assert [order.random for order in orders] == [True, False, True, True, True]
    assert orders[1].asked.kind == "segfault"


def test_a_rate_s_clock_stands_while_it_is_calm() -> None:
    plan = parse_plan("kill@10s; calm 5s every 35s; for 2m")
    assert [order.at_seconds for order in plan.timeline()] == [15, 25, 35, 50, 60, 70, 85, 95, 105, 120]
    assert plan.calm_windows(130.0) == [(0, 5), (35, 40), (70, 75), (105, 110), (120, 130)]
    assert parse_plan("kill@10s").calm_windows(130.0) == []


def test_random_intervals_have_the_mean_that_was_asked_for() -> None:
    times = [order.at_seconds for order in islice(parse_plan("kill@~10s seed 5").timeline(), 4000)]
    gaps = [after - before for before, after in pairwise(times)]
    assert 9.0 < sum(gaps) / len(gaps) < 11.0  # the mean's standard error is 10 / sqrt(4000) = 0.16
    assert min(gaps) < 1.0 < 30.0 < max(gaps)


def test_weights_decide_how_often_a_kind_comes_up() -> None:
    kinds = [order.asked.kind for order in islice(parse_plan("kill*9,stop@1s").timeline(), 2000)]
    assert 1700 < kinds.count("kill") < 1900  # 1800 expected, standard deviation 13


@given(st.integers(0, 2**31), st.sampled_from(("soak@~3s", "all@2s; at 7s mass 2", "kill@1s; stop@~1s")))
def test_a_plan_and_its_victims_are_functions_of_the_seed(seed: int, spec: str) -> None:
    def told(live: list[Live]) -> list[tuple[float, str, object]]:
        plan = parse_plan(spec, seed=seed)
        return [
            (o.at_seconds, o.asked.kind, choose(o, plan.seed, live, minimum=1, wanted=4))
            for o in islice(plan.timeline(), 20)
        ]

    assert told(WORLD) == told(WORLD[::-1])


def order(kind: str, *, at_random: bool = True, number: int = 1, **asked: object) -> Order:
    return Order(number, 1.0, Scheduled(kind, 1.0, **asked), at_random)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"coordinator", "mass"}))
def test_every_kind_finds_its_victim_and_its_defaults(kind: str) -> None:
    victims = {choose(order(kind, number=n), 0, WORLD, minimum=1, wanted=4) for n in range(60)}
    faults = [fault for chosen in victims if isinstance(chosen, tuple) for fault in chosen]
    assert {fault.worker for fault in faults} == {member.worker for member in WORLD}
    for fault in faults:
        assert fault.kind == kind
        assert fault.seconds == FAULTS[kind].seconds
        assert bool(fault.peer) == (FAULTS[kind].peer == "both")
        assert fault.peer != fault.worker


def test_named_victims_are_found_by_name_and_by_rank() -> None:
    asked = order("kill", at_random=False, who=(Who("rank", 2),))
    assert choose(asked, 0, WORLD, minimum=1, wanted=4) == (Fault("kill", "job-abcdef-w10"),)
    asked = order("partition", at_random=False, who=(Who("worker", 1), Who("worker", 0)), seconds=3.0)
    found = choose(asked, 0, WORLD, minimum=1, wanted=4)
    assert found == (Fault("partition", "job-abcdef-w1", 3.0, "job-abcdef-w0"),)
    asked = order("kill", at_random=False, who=(Who("worker", 7),))
    assert choose(asked, 0, WORLD, minimum=1, wanted=4) == Postponed("w7 does not live")


def test_a_random_fault_never_takes_the_job_below_its_minimum() -> None:
    assert isinstance(choose(order("kill"), 0, WORLD, minimum=3, wanted=4), tuple)
    assert choose(order("kill"), 0, WORLD[:3], minimum=3, wanted=4) == Postponed(
        "3 workers live; with 1 fewer the job would be below its 3"
    )
    assert isinstance(choose(order("slow"), 0, WORLD[:3], minimum=3, wanted=4), tuple)  # nobody is missing by it
    assert isinstance(choose(order("kill", at_random=False), 0, WORLD[:3], minimum=3, wanted=4), tuple)  # it was asked


def test_of_a_job_of_a_fixed_size_one_worker_at_a_time_may_be_missing() -> None:
    assert isinstance(choose(order("kill"), 0, WORLD, minimum=4, wanted=4), tuple)
    assert isinstance(choose(order("kill"), 0, WORLD[:3], minimum=4, wanted=4), Postponed)
    assert isinstance(choose(order("mass"), 0, WORLD, minimum=4, wanted=4), Postponed)


def test_a_mass_is_so_many_workers_or_half_of_them() -> None:
    asked = choose(order("mass", at_random=False, count=3), 0, WORLD, minimum=4, wanted=4)
    assert isinstance(asked, tuple)
    assert len({fault.worker for fault in asked}) == 3
    half = choose(order("mass"), 0, WORLD, minimum=1, wanted=4)
    assert isinstance(half, tuple)
    assert [fault.kind for fault in half] == ["kill", "kill"]
    too_many = choose(order("mass", at_random=False, count=5), 0, WORLD, minimum=1, wanted=4)
    assert too_many == Postponed("4 workers live, and it takes 5")


def test_a_partition_needs_two() -> None:
    assert choose(order("partition", at_random=False), 0, WORLD[:1], minimum=1, wanted=4) == Postponed(
        "1 workers live, and it takes 2"
    )


def test_orders_that_wait_for_a_step_are_apart_from_the_clock() -> None:
    plan = parse_plan("at step 20 kill w1; at step 5 stop; kill@29s for 30s")
    assert [(o.asked.at_step, o.asked.kind) for o in plan.awaiting_steps()] == [(5, "stop"), (20, "kill")]
    assert [o.at_seconds for o in plan.timeline()] == [29.0]
    assert plan.kinds == {"kill", "stop"}
