"""The director, with a job that does what the test says instead of a coordinator."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cordee.coordinator.chaos import director as module
from cordee.coordinator.chaos.director import Director
from cordee.coordinator.chaos.grammar import parse_plan
from cordee.coordinator.chaos.recording import Injection, Recording
from cordee.coordinator.client import ClientError, ConflictError, InvalidError, JobNotFoundError, UnreachableError

AHEAD = 500.0  # the coordinator's clock, before this machine's


class Service:
    """A coordinator's client whose job is played by the test."""

    def __init__(self, workers: int = 3, minimum: int = 1) -> None:
        self.created_at = time.time() + AHEAD
        self.views: queue.Queue[dict[str, Any] | Exception] = queue.Queue()
        self.workers = {"min": minimum, "max": workers, "wanted": workers, "now": workers}
        self.step = 1
        self.state = "running"
        self.finished_at: float | None = None
        self.alive = [f"job-abcdef-w{k}" for k in range(workers)]
        self.injected: list[tuple[str, str, str]] = []
        self.refusal: ClientError = InvalidError("the job has no such worker")
        self.on_inject: Callable[[str, str], None] = lambda _kind, _worker: None

    def view(self) -> dict[str, Any]:
        members = [{"worker": worker, "rank": rank, "pid": 7} for rank, worker in enumerate(self.alive)]
        return {
            "id": "job-abcdef", "name": "job", "state": self.state, "reason": "", "step": self.step, "samples": 0,
            "created_at": self.created_at, "seconds": time.time() + AHEAD - self.created_at,
            "finished_at": self.finished_at, "workers": {**self.workers, "now": len(self.alive)}, "members": members,
            "events": [{"time": 1.0, "kind": "world", "message": "newest"}],
        }  # fmt: skip

    def show(self) -> None:
        self.views.put(self.view())

    def end(self, state: str = "succeeded") -> None:
        self.state, self.finished_at = state, time.time() + AHEAD
        self.show()

    def job(self, _ref: str) -> dict[str, Any]:
        return self.view()

    def watch(self, _ref: str) -> Iterator[dict[str, Any]]:
        while True:
            view = self.views.get()
            if isinstance(view, Exception):
                raise view
            yield view
            if view["state"] == "succeeded":
                return

    def end_streams(self) -> None:
        self.views.put(UnreachableError("ended"))

    def inject(self, _ref: str, kind: str, worker: str, **more: Any) -> dict[str, Any]:
        if worker not in self.alive:
            raise self.refusal
        self.on_inject(kind, worker)
        self.injected.append((kind, worker, more["peer"]))
        at = time.time() + AHEAD
        return {"time": at, "kind": kind, "worker": worker, "peer": more["peer"], "seconds": 0.0, "amount": 0.0}

    def events(self, _ref: str) -> Iterator[dict[str, Any]]:
        yield {"id": 1, "time": 1.0, "kind": "submitted", "message": "train.py"}


class Running:
    """A director on a thread of its own."""

    def __init__(self, service: Service, spec: str, **more: Any) -> None:
        self.seen: queue.Queue[Injection] = queue.Queue()
        self.director = Director(service, "job", parse_plan(spec), on_injection=self.seen.put, **more)  # type: ignore[arg-type]
        self.recording: Recording | None = None
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.recording = self.director.run()
        except Exception as error:
            self.error = error

    def next(self) -> Injection:
        return self.seen.get(timeout=20)

    def result(self) -> Recording:
        self.thread.join(20)
        assert not self.thread.is_alive()
        assert self.recording is not None, self.error
        return self.recording


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.2)
    monkeypatch.setattr(module, "_POSTPONED_SECONDS", 0.3)


def test_faults_are_injected_and_dated_by_the_coordinators_clock() -> None:
    service = Service()
    running = Running(service, "at 0s kill w1; at 100ms partition w0 w2")
    assert [running.next().kind, running.next().kind] == ["kill", "partition"]
    service.end()
    recording = running.result()
    assert service.injected == [("kill", "job-abcdef-w1", ""), ("partition", "job-abcdef-w0", "job-abcdef-w2")]
    assert [one.workers for one in recording.injections] == [
        ("job-abcdef-w1",),
        ("job-abcdef-w0", "job-abcdef-w2"),
    ]
    for one in recording.injections:
        assert recording.start - 1 < one.time < recording.end + 1
    assert abs(recording.start - service.created_at) < 20
    assert [event.kind for event in recording.events] == ["submitted"]
    assert recording.job["state"] == "succeeded"


def test_the_clock_of_a_plan_begins_with_training() -> None:
    service = Service()
    service.step = 0
    running = Running(service, "at 0s kill")
    with pytest.raises(queue.Empty):
        running.seen.get(timeout=0.3)
    service.step = 1
    service.show()
    assert running.next().kind == "kill"
    service.end()
    running.result()


def test_a_fault_waits_for_its_step() -> None:
    service = Service()
    running = Running(service, "at step 10 kill")
    service.step = 9
    service.show()
    with pytest.raises(queue.Empty):
        running.seen.get(timeout=0.3)
    service.step = 11
    service.show()
    assert running.next().left_out == ""
    service.end()
    running.result()


def test_what_cannot_be_done_is_left_out_and_said() -> None:
    service = Service(workers=1)
    running = Running(service, "at 0s partition; at 0s kill w7")
    reasons = {running.next().left_out, running.next().left_out}
    service.end()
    assert reasons == {"1 workers live, and it takes 2", "w7 does not live"}
    assert len(running.result().injections) == 2
    assert service.injected == []


def test_what_was_named_and_never_came_due_is_told() -> None:
    service = Service()
    running = Running(service, "kill@1h; at 0s kill w1; at 3h stop; at step 1000 kill w2")
    assert running.next().left_out == ""
    service.end()
    assert [(one.kind, one.left_out) for one in running.result().injections[1:]] == [
        ("stop", "the job had ended before"),
        ("kill", "the job had ended before"),
    ]


def test_a_worker_that_has_just_gone_is_tried_again() -> None:
    service = Service()
    refusals = iter([ConflictError("job-abcdef-w1 is not attached now (lost)"), None])

    def refuse(_kind: str, _worker: str) -> None:
        if (error := next(refusals)) is not None:
            raise error

    service.on_inject = refuse
    running = Running(service, "at 0s kill w1")
    assert running.next().left_out == ""
    assert service.injected == [("kill", "job-abcdef-w1", "")]
    service.end()
    running.result()


def test_of_a_mass_those_that_are_gone_already_do_not_save_the_others() -> None:
    service = Service(workers=4)
    calls = iter([None, ConflictError("gone"), None])

    def refuse(_kind: str, _worker: str) -> None:
        if (error := next(calls)) is not None:
            raise error

    service.on_inject = refuse
    running = Running(service, "at 0s mass 3")
    injection = running.next()
    assert (injection.kind, len(injection.workers)) == ("mass", 2)
    service.end()
    running.result()


class Coordinator:
    def __init__(self) -> None:
        self.killed: list[float] = []

    def kill(self) -> None:
        self.killed.append(time.time())

    @property
    def outages(self) -> list[tuple[float, float | None]]:
        return [(at, at + 0.5) for at in self.killed]


def test_a_coordinator_is_killed_by_who_starts_it_again() -> None:
    service, coordinator = Service(), Coordinator()
    running = Running(service, "at 0s coordinator", coordinator=coordinator)
    assert running.next().kind == "coordinator"
    service.end()
    (outage,) = running.result().outages
    assert len(coordinator.killed) == 1
    assert outage.start == pytest.approx(coordinator.killed[0] + AHEAD, abs=1.0)
    assert outage.end == pytest.approx(outage.start + 0.5)


def test_a_broken_watch_is_taken_up_again() -> None:
    service = Service()
    running = Running(service, "at step 5 kill")
    service.views.put(UnreachableError("connection reset"))
    service.step = 5
    service.show()
    assert running.next().kind == "kill"
    service.end()
    assert running.result().notes == ()


def test_a_coordinator_that_stays_away_ends_the_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.1)
    service = Service()
    running = Running(service, "kill@1h")
    monkeypatch.setattr(service, "watch", _unreachable)
    service.views.put(UnreachableError("nobody listens there"))
    recording = running.result()
    assert recording.notes == ("the recording ends early: nobody listens there",)


def _unreachable(_ref: str) -> Iterator[dict[str, Any]]:
    raise UnreachableError("nobody listens there")
    yield {}


def test_a_stop_injects_nothing_more_and_reports() -> None:
    service = Service()
    running = Running(service, "kill@50ms")
    running.next()
    running.director.stop()
    recording = running.result()
    assert 1 <= len(recording.injections) == len(service.injected)


def test_the_plans_time_ends_it_while_the_job_goes_on() -> None:
    service = Service()
    recording = Running(service, "at 0s kill; for 200ms").result()
    assert len(recording.injections) == 1
    assert recording.job["state"] == "running"


def test_a_job_that_takes_no_faults_says_so_at_once() -> None:
    service = Service()
    service.refusal = ConflictError("no faults may be injected into the job job-abcdef", "submit it with --allow-chaos")
    running = Running(service, "kill@1h")
    running.thread.join(20)
    assert running.error is service.refusal


def test_of_a_long_run_the_samples_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_SAMPLES", 10)
    service = Service()
    running = Running(service, "kill@1h")
    for step in range(2, 40):
        service.step = step
        service.show()
    service.end()
    samples = running.result().samples
    assert len(samples) <= 11
    assert [sample.step for sample in samples] == sorted(sample.step for sample in samples)
    assert samples[-1].step == 39


def test_what_is_due_as_the_time_ends_still_has_its_turn() -> None:
    service = Service()
    assert len(Running(service, "kill@100ms for 300ms").result().injections) == 3


def test_an_unknown_job_is_an_error() -> None:
    service = Service()

    def nobody(_ref: str) -> dict[str, Any]:
        raise JobNotFoundError("there is no job")

    service.job = nobody  # type: ignore[method-assign]
    running = Running(service, "kill@1s")
    running.thread.join(20)
    assert isinstance(running.error, JobNotFoundError)
