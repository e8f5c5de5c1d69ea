"""What Prometheus sees: names, counters that never fall, series that end, and where each number comes from."""

import asyncio
import math
import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from tests.unit.coordinator.party import Party

from cordee.coordinator.core import actions
from cordee.coordinator.core import events as ev
from cordee.coordinator.core.failure import exit_cause
from cordee.coordinator.core.job import JobMachine
from cordee.coordinator.core.model import Cause, ExitCause, JobState, LossCause, PostMortem
from cordee.coordinator.core.record import JobRecord
from cordee.coordinator.service.job import Job, Progress
from cordee.coordinator.service.lag import watch_lag
from cordee.coordinator.service.metrics import FAMILIES, PROCESS, Metrics
from cordee.coordinator.service.metrics.counts import Histogram, JobCounts
from cordee.coordinator.service.rest.measured import Measured
from cordee.coordinator.service.store import JobRow, Store
from cordee.coordinator.spec import parse_job


def job(machine: JobMachine | None = None, name: str = "a") -> Job:
    document = {
        "apiVersion": "cordee.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": {"script": "train.py"},
    }
    machine = machine or JobMachine(JobRecord(job="a-1", minimum=1, maximum=2, created_at=100.0))
    return Job(id="a-1", document=parse_job(document), bundle=None, token="t" * 32, folder="/f", machine=machine)


def page(metrics: Metrics) -> str:
    return metrics.render("")[0].decode()


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(metrics: Metrics) -> Samples:
    """Every sample by its name and its labels, but for the job's own."""
    found: Samples = {}
    for family in text_string_to_metric_families(page(metrics)):
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if name not in ("job_id", "name")}
            found[sample.name, tuple(sorted(labels.items()))] = sample.value
    return found


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, tuple(sorted(labels.items()))]


def test_every_name_follows_the_rules_of_prometheus() -> None:
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    for family in FAMILIES:
        assert re.fullmatch(r"cordee_[a-z][a-z0-9_]*", family.name)
        assert (family.kind == "counter") == family.name.endswith("_total")
        # https://prometheus.io/docs/practices/naming/: base units, in the plural, no metric's type in its name
        assert not re.search(r"_(ms|milliseconds|minutes|hours|kb|mb|percent|count|sum|bucket|gauge)$", family.name)
        assert not {"job", "instance", "le", "quantile"} & set(family.labels)  # the scraper's, and histograms'
        assert all(re.fullmatch(r"[a-z_]+", label) for label in family.labels)
        assert family.help.endswith(".")


def test_the_page_has_every_family_and_nothing_else_with_the_labels_it_says() -> None:
    party = Party(3)
    party.die(1, code=-9, words="was killed")
    metrics = Metrics(lambda: [job(party.machine)], version="1")
    metrics.service.requested("GET", "/v1/jobs", 200, 0.01)
    metrics.certificate_ends = lambda: 1.0
    declared = {family.name: family for family in (*FAMILIES, *PROCESS)}
    seen: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(page(metrics)):
        name = family.name + ("_total" if family.type == "counter" else "")
        assert declared[name].kind == family.type
        assert declared[name].help == family.documentation
        seen.setdefault(name, set())
        for sample in family.samples:
            assert sample.name in declared[name].series
            assert set(sample.labels) - {"le"} == set(declared[name].labels)
    assert seen.keys() == declared.keys()


def test_a_jobs_series_end_some_time_after_it_and_its_counts_with_them() -> None:
    shown = job()
    metrics = Metrics(lambda: [shown], version="1")
    metrics.observe_recovery("a-1", "mesh", 0.02)
    metrics.observe_steps("a-1", 0, 3, 0.01)
    assert 'cordee_job_recoveries_total{cause="mesh",job_id="a-1",name="a"} 1.0' in page(metrics)

    def end(seconds_ago: float) -> None:
        ended = replace(shown.machine.record, state=JobState.SUCCEEDED, finished_at=time.time() - seconds_ago)
        shown.machine = JobMachine(ended)

    end(60)
    assert 'job_id="a-1"' in page(metrics)
    assert value(metrics, "cordee_job_state", state="succeeded") == 1
    end(3600)
    shown.progress = None  # type: ignore[assignment]  # of a job that ended long ago nothing but its state is looked at
    ended = page(metrics)
    assert 'job_id="a-1"' not in ended
    assert 'cordee_jobs{state="succeeded"} 1.0' in ended
    assert metrics._counts == {}


def test_a_counter_never_falls_back_and_counts_what_is_done_again() -> None:
    shown = job()
    metrics = Metrics(lambda: [shown], version="1")
    counted = []
    # 100 steps; all are lost, and it begins again at the checkpoint of step 60; 50 steps from there.
    for told in (Progress(generation=1, step=100), Progress(generation=2, step=60), Progress(generation=2, step=110)):
        shown.advance(replace(told, samples=10 * told.step))
        counted.append((value(metrics, "cordee_job_steps_total"), value(metrics, "cordee_job_samples_total")))
    assert counted == [(100.0, 1000.0), (100.0, 1000.0), (150.0, 1500.0)]


def test_what_is_done_again_is_not_useful() -> None:
    counts = JobCounts()
    counts.advanced(0, 100, 0.1)
    counts.advanced(100, 61, 0.1)  # everybody was lost: the first step after the checkpoint of step 60
    counts.advanced(61, 110, 0.1)
    assert counts.redone == 40
    assert counts.useful == pytest.approx(110 * 0.1)
    assert counts.step.total == pytest.approx(150 * 0.1)


def test_waits_for_data_are_a_part_of_what_is_useful() -> None:
    counts = JobCounts()
    counts.advanced(0, 100, 0.1, 0.025)
    counts.advanced(100, 61, 0.1, 0.025)  # steps that are done again are not useful, nor are their waits
    counts.advanced(61, 110, 0.1, 7.0)  # a worker that tells nonsense
    assert counts.data_waits == pytest.approx(100 * 0.025 + 10 * 0.1)
    counts.waited(0, 100, {"a-1-w0": 0.025, "a-1-w1": math.nan})
    counts.waited(100, 102, {"a-1-w0": 0.5, "a-1-w1": -1.0})
    assert counts.waits == {"a-1-w0": pytest.approx(3.5), "a-1-w1": 0.0}


@given(st.lists(st.tuples(st.integers(1, 30), st.booleans(), st.integers(1, 50)), max_size=30))
def test_useful_steps_are_the_furthest_step_and_the_rest_is_redone(history: list[tuple[int, bool, int]]) -> None:
    counts, step, furthest, committed = JobCounts(), 0, 0, 0
    for ahead, falls, back in history:
        if falls and step > back:
            counts.advanced(step, back, 1.0)  # it was at `back - 1`, and has made one step
            step, committed = back, committed + 1
        counts.advanced(step, step + ahead, 1.0)
        step, committed = step + ahead, committed + ahead
        furthest = max(furthest, step)
    assert counts.useful == furthest
    assert counts.redone == committed - furthest


def test_goodput_is_a_ratio_of_two_counters_that_begin_with_the_first_world() -> None:
    now = 1000.0
    shown = job()
    metrics = Metrics(lambda: [shown], version="1", clock=lambda: now)
    assert value(metrics, "cordee_job_training_seconds_total") == 0
    shown.machine = JobMachine(replace(shown.machine.record, started_at=990.0))
    metrics.observe_steps("a-1", 0, 40, 0.2)
    assert value(metrics, "cordee_job_training_seconds_total") == 10
    assert value(metrics, "cordee_job_useful_seconds_total") == 8
    shown.machine = JobMachine(replace(shown.machine.record, finished_at=1000.0, state=JobState.SUCCEEDED))
    now = 1100.0
    assert value(metrics, "cordee_job_training_seconds_total") == 10


@pytest.mark.parametrize(
    ("code", "silent", "cause"),
    [
        (-9, False, "killed"),
        (-11, False, "segmentation_fault"),
        (-8, False, "signal"),
        (1, False, "exit"),
        (-9, True, "silent"),
        (-9, None, "out_of_memory"),
    ],
)
def test_a_death_is_counted_once_by_what_it_was_of(code: int, silent: bool | None, cause: str) -> None:
    party = Party(2)
    party.tell(ev.WorkerDetached(*party.who(1)))
    earlier = party.who(1)[1]
    party.life[1] = 1
    died = PostMortem(earlier, code, "died", silent=bool(silent), out_of_memory=silent is None)
    hello = ev.WorkerAttached(*party.who(1), "host:1", pid=2, previous=died)
    party.tell(hello)
    party.tell(ev.WorkerDetached(*party.who(1)))
    party.tell(hello)  # on a new stream it says so again
    deaths = [action.death for action in party.told if isinstance(action, actions.RecordDeath)]
    assert deaths == [died]
    metrics = Metrics(lambda: [job(party.machine)], version="1")
    metrics.observe_death("a-1", deaths[0])
    assert value(metrics, "cordee_job_worker_deaths_total", cause=cause) == 1
    assert sum(number for (name, _), number in samples(metrics).items() if "deaths" in name) == 1


def test_an_agent_that_ends_unasked_is_recorded_and_one_that_was_told_to_is_not() -> None:
    party = Party(2)
    party.tell(ev.AgentExited("j-w1", -9))
    exits = [action for action in party.told if isinstance(action, actions.RecordAgentExit)]
    assert exits == [actions.RecordAgentExit("j-w1", ExitCause.CRASHED)]
    metrics = Metrics(lambda: [job(party.machine)], version="1")
    metrics.observe_agent_exit("a-1", exits[0].cause)
    assert value(metrics, "cordee_job_agent_exits_total", cause="crashed") == 1
    party.tell(ev.CancelRequested())
    party.tell(ev.AgentExited("j-w0", 71))
    assert len([action for action in party.told if isinstance(action, actions.RecordAgentExit)]) == 1


def test_the_substrates_word_on_an_agents_end_counts_and_else_its_code() -> None:
    party = Party(3)
    party.tell(ev.AgentExited("j-w1", 71, "was preempted", taken=True, cause=ExitCause.PREEMPTED))
    party.tell(ev.AgentExited("j-w2", None, "no room"))
    exits = [action.cause for action in party.told if isinstance(action, actions.RecordAgentExit)]
    assert exits == [ExitCause.PREEMPTED, ExitCause.NOT_STARTED]
    assert {exit_cause(code) for code in range(-64, 256)} == {
        ExitCause.CRASHED,
        ExitCause.LEFT,
        ExitCause.SCRIPT_FAILED,
        ExitCause.EXHAUSTED,
    }


def test_whatever_takes_a_pod_has_a_word_of_its_own() -> None:
    from cordee.k8s.diagnosis import TAKEN, Fate, Finding

    assert {Finding(fate).cause for fate in TAKEN} == {ExitCause(fate.value) for fate in TAKEN}
    assert Finding(Fate.OUT_OF_MEMORY).cause is ExitCause.OUT_OF_MEMORY
    assert Finding(Fate.EXITED).cause is None


def test_a_stall_is_told_by_cause_and_by_what_it_went_into() -> None:
    metrics = Metrics(lambda: [job()], version="1")
    # worker/resumption.py's words
    message = "a-1-w0: generation 2 (loss) committed step 31 first: before 0.050 s, world 0.020 s, mesh 0.010 s, "
    message += "state 0.100 s, step 0.040 s (0.22 s)"
    metrics.observe_note("a-1", "resumed", message, "loss")
    metrics.observe_note("a-1", "resumed", message, "start")  # nobody has trained before it
    parts = {"before": 0.05, "world": 0.02, "mesh": 0.01, "state": 0.1, "step": 0.04}
    for part, seconds in parts.items():
        assert value(metrics, "cordee_job_stall_part_seconds_total", part=part) == pytest.approx(seconds)
    assert value(metrics, "cordee_job_stall_seconds_total", cause="loss") == pytest.approx(0.22)
    assert {cause for cause in Cause if cause is not Cause.START} == {
        dict(labels)["cause"] for name, labels in samples(metrics) if name == "cordee_job_stall_seconds_total"
    }


def test_the_words_about_a_stall_are_those_of_the_worker() -> None:
    from cordee.worker.resumption import Resumption

    now = [0.0]
    resumption = Resumption(lambda: now[0])
    resumption.committed(1, 0.5)
    for told in (resumption.meets, lambda: resumption.has_world(2, "loss"), resumption.connected):
        now[0] += 0.25
        told()
    now[0] += 1.0
    words = resumption.committed(2, 0.5)
    assert words is not None
    metrics = Metrics(lambda: [job()], version="1")
    metrics.observe_note("a-1", "resumed", f"a-1-w0: {words[0]}", "loss")
    assert value(metrics, "cordee_job_stall_seconds_total", cause="loss") == pytest.approx(words[1])


def test_checkpoints_and_their_troubles_are_counted() -> None:
    metrics = Metrics(lambda: [job()], version="1")
    metrics.observe_checkpoint("a-1", 4096, 0.3)
    metrics.observe_note("a-1", "checkpoint_failed", "a-1-w0: step 7: no space left", "start")
    assert value(metrics, "cordee_job_checkpoints_total") == 1
    assert value(metrics, "cordee_job_checkpoint_bytes") == 4096
    assert value(metrics, "cordee_job_checkpoint_write_seconds_sum") == 0.3
    assert value(metrics, "cordee_job_checkpoint_failures_total", kind="failed") == 1
    assert value(metrics, "cordee_job_checkpoint_failures_total", kind="damaged") == 0


def test_workers_are_counted_by_state_and_told_one_by_one() -> None:
    party = Party(3, maximum=4)
    metrics = Metrics(lambda: [job(party.machine)], version="1")
    metrics.capacity = lambda: 8
    assert value(metrics, "cordee_job_workers", count="now") == 3
    assert value(metrics, "cordee_job_workers", count="max") == 4
    assert value(metrics, "cordee_job_workers_by_state", state="training") == 3
    assert value(metrics, "cordee_job_workers_by_state", state="starting") == 0
    assert value(metrics, "cordee_worker_state", worker="j-w2", state="training") == 1
    assert value(metrics, "cordee_worker_rank", worker="j-w2") == 2
    assert value(metrics, "cordee_slots") == 8
    assert value(metrics, "cordee_slots_used") == 3


def test_what_may_happen_stands_at_zero_before_it_does() -> None:
    found = samples(Metrics(lambda: [job()], version="1"))
    for cause in LossCause:
        assert found["cordee_job_recoveries_total", (("cause", str(cause)),)] == 0
    for cause in Cause:
        assert found["cordee_job_worlds_total", (("cause", str(cause)),)] == 0
    assert found["cordee_job_recovery_seconds_count", ()] == 0


def test_a_job_name_cannot_break_the_page() -> None:
    shown = job()
    metadata = shown.document.metadata.model_copy(update={"name": 'a"} 1\nevil 2\\'})
    shown.document = shown.document.model_copy(update={"metadata": metadata})
    served = page(Metrics(lambda: [shown], version="1"))
    assert "evil" in served
    assert "\nevil" not in served


@given(st.lists(st.floats(0, 100), max_size=30))
def test_a_histograms_buckets_are_cumulative(values: list[float]) -> None:
    counted = Histogram((0.1, 1.0, 10.0))
    for one in values:
        counted.observe(one)
    assert counted.buckets() == [
        (bound, sum(one <= float(bound.replace("+", "")) for one in values)) for bound in ("0.1", "1.0", "10.0", "+Inf")
    ]


async def test_a_loop_that_is_blocked_is_late() -> None:
    seen: list[float] = []
    task = asyncio.create_task(watch_lag(seen.append, 0.01))
    while not seen:
        await asyncio.sleep(0.005)
    time.sleep(0.2)  # the loop is blocked on purpose
    known = len(seen)
    while len(seen) == known:
        await asyncio.sleep(0.005)
    task.cancel()
    assert max(seen) >= 0.15


def test_the_store_tells_how_long_each_write_took(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    seen: list[float] = []
    store.on_write = seen.append
    row = JobRow(id="a-1", name="a", created_at=1.0, state="pending", document={}, bundle=None, record={})
    store.create_job(row, "t")
    store.save("a-1", progress={})
    store.jobs()
    store.close()
    assert len(seen) == 2
    assert all(seconds > 0 for seconds in seen)


async def test_requests_are_counted_by_the_routes_template() -> None:
    metrics = Metrics(list, version="1")
    app = FastAPI()

    @app.get("/v1/jobs/{ref}")
    async def shown(ref: str) -> dict[str, Any]:
        if ref == "bad":
            raise RuntimeError("a bug")
        return {}

    app.add_middleware(Measured, observe=metrics.service.requested)
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://cordee") as http:
        for path in ("/v1/jobs/a", "/v1/jobs/b", "/v1/jobs/bad", "/nothing/here"):
            await http.get(path)
        await http.request("BREW", "/v1/jobs/a")
    route = "/v1/jobs/{ref}"
    counted = {labels: number for (name, labels), number in samples(metrics).items() if name.endswith("requests_total")}
    assert {tuple(dict(labels).values()): number for labels, number in counted.items()} == {
        ("GET", route, "200"): 2,
        ("GET", route, "500"): 1,
        ("GET", "none", "404"): 1,
        ("other", route, "405"): 1,
    }
    assert value(metrics, "cordee_rest_request_seconds_count", method="GET", route=route) == 3


def test_attached_workers_are_the_streams_that_are_open() -> None:
    from cordee.coordinator.service.workers import WorkerServicer

    metrics = Metrics(list, version="1")
    servicer = WorkerServicer(SimpleNamespace(metrics=metrics), *[SimpleNamespace()] * 2)  # type: ignore[arg-type]
    assert value(metrics, "cordee_workers_attached") == 0
    servicer._sessions["w", "i"] = SimpleNamespace()  # type: ignore[assignment]
    assert value(metrics, "cordee_workers_attached") == 1
