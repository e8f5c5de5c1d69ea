"""A report of a disturbed run, from a recording whose every figure is known beforehand."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cordee.coordinator.chaos.grammar import parse_plan
from cordee.coordinator.chaos.history import read_history
from cordee.coordinator.chaos.page import page
from cordee.coordinator.chaos.recording import Happening, Injection, Outage, Recording, Sample
from cordee.coordinator.chaos.report import Proof, Report, Same, make_report, spread
from cordee.coordinator.chaos.table import table
from cordee.coordinator.cli.chaos_report import Reference
from cordee.coordinator.cli.chaos_run import ChaosRun

START = 1000.0
STEP = 0.05
LENGTH = 60.0


def names(*workers: int) -> tuple[str, ...]:
    return tuple(f"soak-abcdef-w{k}" for k in workers)


def world(at: float, generation: int, cause: str, *workers: int) -> Happening:
    members = ", ".join(f"w{k}" for k in workers)
    return Happening(START + at, "world", f"generation {generation} ({cause}) from step 7: {members}")


def said(at: float, kind: str, message: str) -> Happening:
    return Happening(START + at, kind, message)


def resumed(at: float, stall: float) -> Happening:
    return said(at, "resumed", f"soak-abcdef-w0: training goes on with step 9 ({stall:g} s)")


# The last commit before the kill at 20 is at 19.98; it is seen at 20.1, the survivors meet at 20.2, commit at 20.28.
KILL = (
    Injection(1, START + 20.0, "kill", names(1)),
    [
        said(20.1, "lost", "soak-abcdef-w1 is lost (disconnected)"),
        world(20.2, 2, "loss", 0, 2),
        resumed(20.28, 0.3),
        world(21.0, 3, "join", 0, 2, 1),
        said(21.01, "healed", "soak-abcdef-w1: took the state of step 9 from 2 peers (0.01 s)"),
        resumed(21.1, 0.12),
    ],
)
WORDS = {"id": "soak-abcdef", "name": "soak", "state": "running", "reason": "", "finished_at": None}


def recording(*faults: tuple[Injection, list[Happening]], **more: Any) -> Recording:
    """Three workers, 20 steps a second, but for the stalls."""
    events = [world(-5.0, 1, "start", 0, 1, 2), *(event for _, told in faults for event in told)]
    stalls = [(r.time - r.stall_seconds, r.time) for r in read_history(events).resumptions]
    samples, done = [], 0.0
    for tick in range(int(LENGTH * 100) + 1):
        at = START + tick / 100
        if not any(start <= at < end for start, end in stalls):
            done += 0.01 / STEP
        if tick % 10 == 0:
            samples.append(Sample(at, int(done + 1e-6), int(done) * 64, 3, "running"))
    job = {**WORDS, "step": int(done), "samples": 0, "seconds": 1.0, "workers": {"min": 1, "max": 3}}
    job["generations"] = job["recoveries"] = 3
    values: dict[str, Any] = {
        "spec": "kill@29s; seed 0",
        "seed": 0,
        "start": START,
        "end": START + LENGTH,
        "job": job,
        "injections": tuple(injection for injection, _ in faults),
        "samples": tuple(samples),
        "events": tuple(events),
    }
    return Recording(**(values | more))


def test_times_are_counted_from_the_fault() -> None:
    (one,) = make_report(recording(KILL)).faults
    assert (one.sign, one.outcome) == ("lost", "recovered")
    assert one.detection == pytest.approx(0.1)
    assert one.recovery == pytest.approx(0.28)
    assert one.stall == pytest.approx(0.3)
    assert one.heal == pytest.approx(1.1)


def test_every_second_is_accounted_for() -> None:
    report = make_report(recording(KILL), step_seconds=STEP)
    assert sum(report.losses.values()) + report.goodput["useful_seconds"] == pytest.approx(LENGTH)
    # In the stall of the kill: 0.02 of the step at hand, 0.1 and 0.1 as above, 0.08 to the commit, of which one step.
    # In that of the join: 0.02 to the next world, 0.1 to the commit, of which 0.01 for the state and one step.
    assert report.losses["detection"] == pytest.approx(0.1, abs=1e-6)
    assert report.losses["rendezvous"] == pytest.approx(0.12, abs=1e-6)
    assert report.losses["heal"] == pytest.approx(0.01, abs=1e-6)
    assert report.losses["redone"] == pytest.approx(0.02 + 0.08 + 0.09 - 2 * STEP, abs=1e-6)
    assert report.losses["below_minimum"] == 0
    assert abs(report.losses["slower"]) < 0.2  # samples are 0.1 s apart


def test_what_rank_0_says_of_a_stall_goes_before_what_the_history_suggests() -> None:
    words = "soak-abcdef-w0: generation 2 (loss) committed step 9 first: "
    words += "before 0.150 s, world 0.030 s, mesh 0.010 s, state 0.040 s, step 0.070 s (0.3 s)"
    injection, events = KILL
    told = [replace(e, message=words) if e.kind == "resumed" and e.time < START + 20.5 else e for e in events[:4]]
    start = said(0.1, "resumed", words.replace("(loss)", "(start)").replace("(0.3 s)", "(7 s)"))
    report = make_report(recording((injection, [start, *told])), step_seconds=STEP)
    assert report.losses["detection"] == pytest.approx(0.15 - 0.02, abs=1e-6)  # the fault is 0.02 s after the commit
    assert report.losses["rendezvous"] == pytest.approx(0.04)
    assert report.losses["heal"] == pytest.approx(0.04)
    assert report.losses["redone"] == pytest.approx(0.02 + 0.07 - STEP, abs=1e-6)
    assert len(report.stalls) == 1  # the wait for the first step is no stall


def test_a_world_that_broke_before_its_first_step_is_time_of_its_own() -> None:
    words = "soak-abcdef-w0: generation 3 (loss) committed step 9 first: "
    words += "before 0.001 s, world 1.020 s, mesh 0.010 s, state 0.000 s, step 0.050 s (1.08 s)"
    cut = Injection(1, START + 9.0, "partition", names(0, 1), 5.0)
    events = [
        world(20.005, 2, "join", 0, 2, 1),
        said(21.005, "isolated", "w0 and w1 cannot reach each other (no byte between them for 0.8 s): w1 stays out"),
        world(21.02, 3, "loss", 0, 2),
        said(21.08, "resumed", words),
    ]
    report = make_report(recording((cut, events)), step_seconds=STEP)
    assert report.losses["failed"] == pytest.approx(1.0)
    assert report.losses["rendezvous"] == pytest.approx(1.02 - 1.0 + 0.01)


def test_goodput_is_useful_time_over_wall_time() -> None:
    report = make_report(recording(KILL))
    goodput = report.goodput
    assert goodput["step_seconds_from"] == "measured in the run's own calm stretches"
    assert goodput["step_seconds"] == pytest.approx(STEP, rel=0.02)
    assert goodput["ratio"] == pytest.approx(goodput["steps"] * goodput["step_seconds"] / LENGTH)
    assert goodput["ratio"] == pytest.approx(1 - 0.42 / LENGTH, abs=0.01)
    assert make_report(recording(KILL), step_seconds=STEP / 2).goodput["ratio"] == pytest.approx(0.5, abs=0.01)


def test_planned_calm_is_measured_against_what_lies_between() -> None:
    calm = ((START, START + 16), (START + 40, START + 60))
    report = make_report(recording(KILL, calm=calm))
    assert report.goodput["step_seconds_from"] == "measured in the calm stretches of the plan"
    assert report.goodput["step_seconds"] == pytest.approx(STEP, rel=0.02)
    found = report.goodput["throughput"]
    # Each calm stretch counts from its 10th second on: disturbed is from 16 to 50, with 0.42 s of stalls.
    assert found["calm"] == pytest.approx(1 / STEP, rel=0.02)
    assert found["ratio"] == pytest.approx(1 - 0.42 / 34, abs=0.01)
    assert "of the undisturbed throughput" in page(report)
    assert make_report(recording(KILL, calm=calm[:1])).goodput["throughput"] is None


def test_waiting_for_a_successor_below_the_minimum_is_called_so() -> None:
    calm = recording(KILL)
    job = {**calm.job, "workers": {"min": 3, "max": 3}}
    report = make_report(replace(calm, job=job), step_seconds=STEP)
    assert report.losses["below_minimum"] == pytest.approx(0.1, abs=1e-6)
    assert report.losses["rendezvous"] == pytest.approx(0.02, abs=1e-6)


def test_a_loss_that_only_the_next_world_tells_is_seen_by_that_world() -> None:
    injection, events = KILL
    (one,) = make_report(recording((injection, [e for e in events if e.kind != "lost"]))).faults
    assert (one.sign, one.outcome) == ("world", "recovered")
    assert one.detection == pytest.approx(0.2)


def test_a_worker_s_name_is_not_the_beginning_of_another_s() -> None:
    injection, events = KILL
    other = [replace(e, message=e.message.replace("w1 ", "w10 ")) for e in events if e.kind == "lost"]
    report = make_report(recording((injection, other)))
    assert report.faults[0].outcome == "no effect"
    assert report.problems == ("fault 1 (kill on w1) had no effect that anybody saw",)


@pytest.mark.parametrize(
    ("later", "outcome", "problems"),
    [(15.0, "no effect", ("fault 1 (kill on w1) had no effect that anybody saw",)), (1.0, "not told", ())],
)
def test_a_later_fault_does_not_speak_for_one_that_nobody_saw(
    later: float, outcome: str, problems: tuple[str, ...]
) -> None:
    unseen = Injection(1, START + 20.0 - later, "kill", names(1)), list[Happening]()
    report = make_report(recording(unseen, (replace(KILL[0], number=2), KILL[1])))
    assert [one.outcome for one in report.faults] == [outcome, "recovered"]
    assert report.problems == problems


def test_where_no_fault_could_be_seen_nothing_is_proven() -> None:
    last = Injection(1, START + LENGTH - 1.0, "kill", names(1)), list[Happening]()
    report = make_report(recording(last), Proof(Same("a" * 64, "a" * 64)))
    assert [one.outcome for one in report.faults] == ["not told"]
    assert report.problems == ("nothing was seen of any fault: nothing is proven",)


def test_a_fault_that_takes_nobody_away_costs_nobody() -> None:
    slow = Injection(1, START + 5, "slow", names(2), 10.0, 3.0), [said(9, "straggler", "soak-abcdef-w2 is slow")]
    damage = Injection(2, START + 40, "damage", names(0)), [said(50, "checkpoint_damaged", "step-000000000012")]
    silent = Injection(3, START + 52, "cut-off", names(0), 5.0), list[Happening]()
    report = make_report(recording(slow, damage, silent))
    assert [(one.sign, one.outcome) for one in report.faults] == [
        ("straggler", "no loss"),
        ("checkpoint_damaged", "no loss"),
        ("", "no loss"),
    ]
    assert [one.detection for one in report.faults] == [pytest.approx(4), pytest.approx(10), None]
    assert report.passed


def test_a_mass_is_known_when_all_are_known_and_whole_when_all_are_back() -> None:
    events = [
        said(20.1, "lost", "soak-abcdef-w1 is lost (disconnected)"),
        said(20.4, "lost", "soak-abcdef-w2 is lost (disconnected)"),
        world(20.5, 2, "loss", 0),
        resumed(20.6, 0.6),
        world(21.0, 3, "join", 0, 1),
        resumed(21.1, 0.1),
        world(22.0, 4, "join", 0, 1, 2),
        resumed(22.1, 0.1),
    ]
    (one,) = make_report(recording((Injection(1, START + 20, "mass", names(1, 2)), events))).faults
    assert (one.detection, one.recovery, one.heal) == tuple(pytest.approx(x) for x in (0.4, 0.6, 2.1))


def test_when_nobody_is_left_the_stall_counts_from_the_fault() -> None:
    words = "soak-abcdef-w0: generation 2 (loss) committed step 5 first: "
    words += "before 0.000 s, world 0.060 s, mesh 0.010 s, state 0.030 s, step 0.100 s (0.2 s)"
    everybody = Injection(1, START + 20, "mass", names(0, 1, 2))
    events = [
        *(said(20.1, "lost", f"{name} is lost (disconnected)") for name in names(0, 1, 2)),
        world(22.0, 2, "loss", 0, 1, 2),
    ]
    report = make_report(recording((everybody, [*events, said(22.1, "resumed", words)])), step_seconds=STEP)
    assert report.faults[0].stall == pytest.approx(2.1)
    assert report.losses["below_minimum"] == pytest.approx(1.9)  # until the newest process began to look for a world
    assert report.stalls == ((pytest.approx(20.0), pytest.approx(22.1)),)


def test_a_fault_that_is_not_over_is_a_problem() -> None:
    injection, events = KILL
    report = make_report(recording((injection, events[:1])))
    assert report.problems == ("fault 1 (kill on w1) was not over at the end",)
    assert not report.passed
    assert table(report).startswith("FAILED")


def test_what_was_left_out_counts_for_nothing() -> None:
    left = Injection(2, START + 50, "kill", (), left_out="1 workers live"), list[Happening]()
    report = make_report(recording(KILL, left))
    assert report.kinds["all"]["count"] == report.kinds["kill"]["count"] == 1
    assert report.passed
    assert "1 left out" in table(report)


@pytest.mark.parametrize("left_out", [False, True])
def test_where_nothing_was_injected_nothing_is_proven(left_out: bool) -> None:
    left = Injection(1, START + 50, "kill", (), left_out="1 workers live"), list[Happening]()
    report = make_report(recording(*[left] * left_out), Proof(Same("a" * 64, "a" * 64)))
    assert report.problems == ("no fault was injected: nothing is proven",)
    assert report.verdict == "failed"


def test_a_dead_coordinator_costs_no_step() -> None:
    gone = Outage(START + 30.0, START + 31.5)
    killed = Injection(1, START + 30.0, "coordinator"), list[Happening]()
    report = make_report(recording(killed, outages=(gone,)))
    assert report.coordinator["kills"] == 1
    assert report.coordinator["away"]["median"] == pytest.approx(1.5)
    assert report.coordinator["steps_meanwhile"] == pytest.approx(1.5 / STEP, abs=4)
    assert report.faults[0].recovery == pytest.approx(1.5)
    again = Injection(2, START + 31.0, "coordinator"), list[Happening]()  # while it starts
    assert [one.recovery for one in make_report(recording(killed, again, outages=(gone,))).faults] == [
        pytest.approx(1.5),
        pytest.approx(0.5),
    ]
    never = make_report(recording(killed, outages=(Outage(START + 30.0, None),)))
    assert never.problems == ("fault 1 (coordinator) was not over at the end",)


@pytest.mark.parametrize(
    ("proof", "problem"),
    [
        (Proof(Same("a" * 64, "b" * 64)), "the weights are not those of the undisturbed run"),
        (Proof(ledger=Same("a" * 64, "b" * 64)), "the ledger is not that of the undisturbed run"),
        (
            Proof(exactly_once=False, exactly_once_words="7 twice"),
            "the ledger does not hold every sample exactly once: 7 twice",
        ),
        (Proof(Same("a" * 64), lacking="the undisturbed run is cancelled"), "the undisturbed run is cancelled"),
    ],
)  # fmt: skip
def test_what_is_not_the_same_is_a_problem(proof: Proof, problem: str) -> None:
    report = make_report(recording(KILL), proof)
    assert report.problems == (problem,)
    assert problem in page(report)
    assert problem in table(report)


def test_a_disturbed_run_whose_ledger_is_missing_does_not_pass(tmp_path: Path) -> None:
    whole = recording(KILL)
    job: Any = {**whole.job, "state": "succeeded", "weights_sha256": "a" * 64, "folder": str(tmp_path), "events": []}
    run = ChaosRun(parse_plan("kill@29s"), None, Reference("an undisturbed run", "a" * 64), with_reference=True)
    nothing: Any = None  # it has its reference, so it starts no job
    report = run.conclude(replace(whole, job=job), job, nothing, tmp_path, nothing, as_json=True)
    assert report.proof.weights.equal
    (problem,) = report.problems
    assert problem.startswith("the ledger does not hold every sample exactly once: soak-abcdef keeps no ledger")


def test_what_was_not_compared_is_neither_equal_nor_unequal() -> None:
    report = make_report(recording(KILL), Proof(Same("a" * 64, words="without a reference")))
    assert report.passed
    assert report.verdict == "recovered"
    assert table(report).startswith("RECOVERED")
    assert report.to_json()["proof"]["weights"]["equal"] is None
    assert "without a reference" in table(report)


def test_spreads_are_by_nearest_rank() -> None:
    found = spread([None, *(k / 100 for k in range(1, 101))])
    assert found is not None
    assert (found.count, found.median, found.p95, found.worst) == (100, 0.505, 0.95, 1.0)
    assert spread([None]) is None


def test_a_recording_travels_as_json() -> None:
    whole = recording(KILL, outages=(Outage(START, None),), notes=("by hand",))
    assert Recording.from_json(json.loads(json.dumps(whole.to_json()))) == whole
    with pytest.raises(ValueError, match="no recording"):
        Recording.from_json({"format": "something else"})


@pytest.mark.parametrize("more", [{}, {"samples": ()}, {"events": ()}, {"injections": ()}, {"end": START}])
def test_a_poor_recording_still_makes_a_report(more: dict[str, Any]) -> None:
    report = make_report(recording(KILL, **more))
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert document["format"] == "cordee-chaos-report/1"
    assert table(report)
    assert check_page(page(report))


class _Elements(HTMLParser):
    """Every element is closed, in order, and nothing is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.titles = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"script", "link", "img", "iframe"}
        assert not {"src", "href", "onclick", "onload"} & {name for name, _ in attrs}
        self.titles += tag == "title"
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check_page(text: str) -> _Elements:
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", text)
    assert "prefers-color-scheme: dark" in text
    parser = _Elements()
    parser.feed(text)
    assert parser.open == []
    return parser


def report_of(*faults: tuple[Injection, list[Happening]]) -> Report:
    return make_report(
        recording(*faults), Proof(Same("a" * 64, "a" * 64), exactly_once=True, exactly_once_words="2 epochs")
    )


def test_the_page_stands_alone_and_tells_every_fault() -> None:
    report = report_of(KILL)
    text = page(report)
    assert check_page(text).titles > 5
    for words in ("PASSED", "same bits", "exactly once", "noticed after 0.10 s, training went on after 0.28 s"):
        assert words in text, words


def test_a_script_s_name_cannot_write_into_the_page() -> None:
    evil = replace(recording(KILL), spec="<script>alert(1)</script>", notes=("<b>",))
    text = page(make_report(replace(evil, job={**evil.job, "name": "<i>x</i>", "reason": "&"})))
    assert "<script" not in text
    assert "<i>x" not in text
    assert "<b>&" not in text
    check_page(text)
