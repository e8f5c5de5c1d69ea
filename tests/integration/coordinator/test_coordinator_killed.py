"""`kill -9` of the coordinator in any state: real processes, a real job, and the weights of one that nobody disturbed.

The coordinator kills itself at a named point (`killed_coordinator`); the next one on the same state folder is the
service as it is. Of every history the same is asked: the job that was acknowledged is there, its workers are the
processes they were, no worker runs twice, no step is committed twice, and the weights are right to the bit.
"""

import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
from tests.integration.coordinator.trial import SECONDS, Trial

from cordee.coordinator.client import ClientError, UnreachableError

pytestmark = pytest.mark.slow

SHARD_SECONDS = 0.06  # 116 steps of a quarter of a second, until the test is through its scenario


@dataclass(frozen=True)
class Case:
    """Where the coordinator dies, and what was asked of it before."""

    state: str
    what: str
    when: str = "before"
    nth: int = 1
    deed: str = ""
    """up | down | cancel | loss: done once training runs; "cancel at once": while the workers start."""
    trains: bool = False
    """Steps are committed while there is no coordinator."""
    quick: bool = False
    """In the default run."""

    @property
    def name(self) -> str:
        return f"{self.state}-{self.when}-{self.what}-{self.nth}"


# Not in here: that which needs a test of its own, below.
CASES = [
    # An agent runs, and nobody has written down its pid; the other's start is not begun, or begun.
    Case("scheduling", "store:StartAgent", "before"),
    Case("scheduling", "store:StartAgent", "after"),
    Case("scheduling", "do:StartAgent", "after"),
    Case("scheduling", "spawn", "before"),
    Case("scheduling", "spawn", "after", quick=True),
    Case("scheduling", "spawn", "before", 2),
    Case("scheduling", "spawn", "after", 2),
    Case("rendezvous", "hear:arrived", "before"),
    Case("rendezvous", "hear:arrived", "after"),
    Case("rendezvous", "store:SendWorld", "before"),
    Case("rendezvous", "store:SendWorld", "after"),
    Case("rendezvous", "sent:world", "before"),
    Case("rendezvous", "sent:world", "before", 2, quick=True),  # one of two was told
    Case("rendezvous", "sent:world", "after", 2, trains=True),
    Case("scale-up", "store:scaled", "before", deed="up", trains=True),
    Case("scale-up", "store:scaled", "after", deed="up", trains=True),
    Case("scale-up", "spawn", "after", 3, deed="up", trains=True),
    Case("scale-up", "do:SendChangePending", "before", deed="up", trains=True),
    Case("scale-up", "sent:change_pending", "after", deed="up"),
    Case("scale-up", "store:SendWorld", "before", 2, deed="up"),
    Case("scale-up", "store:SendWorld", "after", 2, deed="up", quick=True),
    Case("scale-up", "sent:world", "after", 4, deed="up"),
    Case("scale-down", "store:scaled", "after", deed="down", trains=True),
    Case("scale-down", "sent:change_pending", "after", deed="down"),
    Case("scale-down", "store:drained", "before", deed="down"),
    Case("scale-down", "store:drained", "after", deed="down"),
    Case("scale-down", "sent:stop", "after", deed="down"),
    Case("loss", "store:lost", "before", deed="loss"),
    Case("loss", "store:lost", "after", deed="loss"),
    Case("loss", "store:SendWorld", "before", 2, deed="loss"),
    Case("loss", "store:SendWorld", "after", 2, deed="loss"),
    Case("loss", "sent:world", "after", 3, deed="loss"),
    Case("checkpoint", "hear:checkpointed", "before", trains=True),
    Case("checkpoint", "hear:checkpointed", "after", trains=True),
    Case("finishing", "hear:finished", "before"),
    Case("finishing", "store:finished", "before"),
    Case("finishing", "store:finished", "after", quick=True),
    Case("finishing", "sent:stop", "after"),
    Case("finishing", "store:succeeded", "before"),
    Case("finishing", "store:succeeded", "after"),
    Case("finishing", "sent:stop", "after", 2),
    Case("cancelling", "store:cancelled", "before", deed="cancel", trains=True),
    Case("cancelling", "store:cancelled", "after", deed="cancel", trains=True, quick=True),
    Case("cancelling", "sent:stop", "after", deed="cancel"),
    Case("cancelling", "answer:cancel", "after", deed="cancel"),
    Case("cancelling", "do:StopAgent", "before", deed="cancel at once"),
    Case("cancelling", "do:StopAgent", "after", deed="cancel at once"),
]


@pytest.fixture
def trial(make_job: Callable[..., Any]) -> Iterator[Trial]:
    trial = Trial(make_job())
    trial.watch.start()
    yield trial
    trial.stop()
    if trial.watch.is_alive():
        trial.watch.end()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def checkpoints(trial: Trial) -> int:
    return len(list(trial.state.glob("jobs/*/checkpoints/step-*/manifest.json")))


def do(trial: Trial, deed: str) -> None:
    """What is asked of a coordinator that may die over it. Asking twice is asking once."""
    with trial.client() as client:
        match deed:
            case "up":
                client.scale(trial.id, 3, 3)
            case "down":
                client.scale(trial.id, 1, 1)
            case "cancel" | "cancel at once":
                client.cancel(trial.id)
            case "loss":
                os.kill(trial.job.members()[f"{trial.id}-w1"], signal.SIGKILL)


@pytest.mark.parametrize("case", [pytest.param(c, id=c.name, marks=() if c.quick else pytest.mark.long) for c in CASES])
def test_killed_in_any_state_the_next_coordinator_goes_on(
    trial: Trial, pool: ThreadPoolExecutor, case: Case, undisturbed: Callable[..., str]
) -> None:
    first = trial.serve({"what": case.what, "when": case.when, "nth": case.nth, "act": "kill"})
    if case.deed or case.trains:
        trial.job.slow_down(SHARD_SECONDS)
    more = {"checkpoint": {"intervalSteps": 8}} if case.state == "checkpoint" else {}
    submitted: Future[str] = pool.submit(trial.submit, **more)  # it may take two coordinators to answer
    acknowledged = True
    if case.deed:
        submitted.result(SECONDS)
        if case.deed != "cancel at once":
            trial.until_trained()
        try:
            do(trial, case.deed)
        except UnreachableError:
            acknowledged = False
    trial.until_killed(first)
    if case.trains:
        trial.until_trained()
    if case.state == "checkpoint":
        saved = checkpoints(trial)
        trial.until(lambda: checkpoints(trial) > saved, "a checkpoint is written without a coordinator")
    before = {(commit.worker, commit.pid) for commit in trial.job.commits()}

    trial.serve()
    submitted.result(SECONDS)
    if not acknowledged:
        with contextlib.suppress(ClientError):  # it has been cancelled, though nobody said so
            do(trial, case.deed)
    if case.state == "cancelling":
        trial.until_ended("cancelled")
        trial.check()
        return
    if case.deed in ("up", "down"):
        size = {"up": 3, "down": 1}[case.deed]
        trial.job.wait_for(lambda commits: commits[-1].size == size, f"the job trains with {size} workers")
    view = trial.until_ended()
    trial.check(undisturbed())
    processes = {(commit.worker, commit.pid) for commit in trial.job.commits()}
    assert before <= processes
    # A world that is stored, and not all were told of, is formed again, as after a loss; but nobody was lost.
    lost = int(case.deed == "loss")
    assert lost <= view["recoveries"] <= lost + (case.state not in {"scheduling", "checkpoint", "finishing"})
    if lost:
        assert len(processes) == 3
    else:
        assert len({worker for worker, _ in processes}) == len(processes), "a worker was started again for nothing"


def test_killed_between_the_acknowledgement_and_the_first_agent(trial: Trial, undisturbed: Callable[..., str]) -> None:
    first = trial.serve({"what": "start", "when": "before", "act": "stall"})
    job = trial.submit()
    trial.until((trial.state.parent / "stalled").exists, "the first agent is about to be started")
    first.kill()
    assert not list((trial.state / "agents").iterdir())
    trial.serve()
    with trial.client() as client:
        assert [view["id"] for view in client.jobs()] == [job]
    trial.until_ended()
    trial.check(undisturbed())


@pytest.mark.parametrize(
    ("what", "when"),
    [
        pytest.param("create", "before", marks=pytest.mark.long),
        pytest.param("create", "after", marks=pytest.mark.long),
        ("answer:submit", "after"),
    ],
)
def test_killed_before_the_acknowledgement_a_client_asks_again_and_has_one_job(
    trial: Trial, pool: ThreadPoolExecutor, undisturbed: Callable[..., str], what: str, when: str
) -> None:
    first = trial.serve({"what": what, "when": when, "act": "kill"})
    submitted: Future[str] = pool.submit(trial.submit)
    trial.until_killed(first)
    trial.serve()
    job = submitted.result(SECONDS)
    with trial.client() as client:
        assert [view["id"] for view in client.jobs()] == [job]
    trial.until_ended()
    trial.check(undisturbed())


@pytest.mark.long
def test_a_job_that_waits_for_room_has_it_after_the_one_before_though_the_coordinator_died(
    trial: Trial, undisturbed: Callable[..., str]
) -> None:
    first = trial.serve(None, "--slots", "2")
    trial.job.slow_down(SHARD_SECONDS)
    one = trial.submit()
    trial.until_trained()
    two = trial.submit()
    assert trial.view(two)["state"] == "pending"
    first.kill()
    trial.until_trained()
    trial.serve(None, "--slots", "2")
    assert trial.view(two)["state"] == "pending"
    ends = [trial.until_ended(ref=ref) for ref in (one, two)]
    assert [view["weights_sha256"] for view in ends] == [undisturbed()] * 2
    assert ends[0]["finished_at"] <= ends[1]["started_at"]
    trial.check()


def test_a_coordinator_that_was_only_stopped_keeps_its_folder(trial: Trial, undisturbed: Callable[..., str]) -> None:
    first = trial.serve()
    trial.job.slow_down(SHARD_SECONDS)
    trial.submit()
    trial.until_trained()
    first.send_signal(signal.SIGSTOP)
    second = trial.spawn()
    assert second.wait(SECONDS) == 1
    assert f"another coordinator (pid {first.pid}) runs on the state folder {trial.state}" in trial.said()
    assert "Traceback" not in trial.said()
    trial.until_trained()
    first.send_signal(signal.SIGCONT)
    view = trial.until_ended()
    assert view["recoveries"] == 0  # it has slept, and does not take that for its workers' silence
    trial.check(undisturbed())


@pytest.mark.parametrize("act", ["readonly", pytest.param("full", marks=pytest.mark.long)])
def test_a_coordinator_that_cannot_write_ends_and_the_next_one_goes_on(
    trial: Trial, undisturbed: Callable[..., str], act: str
) -> None:
    first = trial.serve({"what": "store:SendWorld", "when": "before", "act": act})
    trial.submit()
    assert first.wait(SECONDS) == 1, trial.said()
    assert "coordinator.db cannot be used: " in trial.said()
    assert "make room on its disk" in trial.said()
    assert not trial.job.commits()  # nobody was told of a world that is not stored
    trial.serve()
    trial.until_ended()
    trial.check(undisturbed())


def test_workers_are_not_given_up_because_their_port_is_taken(trial: Trial, undisturbed: Callable[..., str]) -> None:
    first = trial.serve()
    trial.job.slow_down(SHARD_SECONDS)
    trial.submit()
    trial.until_trained()
    first.kill()
    first.wait()
    host, _, port = json.loads((trial.state / "endpoint.json").read_text())["grpc"].rpartition(":")
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind((host, int(port)))
        squatter.listen()
        assert trial.spawn().wait(SECONDS) == 1
        assert (
            f"cannot listen on {host}:{port}, where 2 workers of this folder that train on look for it" in trial.said()
        )
        assert "Traceback" not in trial.said()
    trial.until_trained()
    trial.serve()
    assert trial.until_ended()["recoveries"] == 0
    trial.check(undisturbed())


@pytest.mark.long
def test_a_worker_that_slept_through_the_death_is_fenced_when_it_wakes(
    trial: Trial, undisturbed: Callable[..., str]
) -> None:
    first = trial.serve()
    trial.job.slow_down(SHARD_SECONDS)
    trial.submit("1:2")
    trial.until_trained()
    sleeper = f"{trial.id}-w1"
    pid = trial.job.members()[sleeper]
    agent = psutil.Process(pid).parent()
    assert agent is not None
    first.kill()
    agent.suspend()  # first: it is told at once when its worker is stopped, and kills it
    os.kill(pid, signal.SIGSTOP)
    trial.serve()
    trial.job.wait_for(lambda commits: commits[-1].size == 1, "the other goes on alone")
    generation = trial.job.commits()[-1].generation
    os.kill(pid, signal.SIGCONT)
    agent.resume()
    trial.job.wait_for(lambda commits: commits[-1].size == 2, "another process of this worker joins")
    trial.until_ended()
    assert not [c for c in trial.job.commits() if c.pid == pid and c.generation >= generation]
    trial.check(undisturbed())
