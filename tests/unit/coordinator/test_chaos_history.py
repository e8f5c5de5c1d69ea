"""The sentences in a job's history are read as they are really written: by machine, service, workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cordee.coordinator.chaos.history import BREAKING, read_history
from cordee.coordinator.chaos.recording import Happening
from cordee.coordinator.core import actions as act
from cordee.coordinator.core import events as ev
from cordee.coordinator.core.job import JobMachine
from cordee.coordinator.core.model import ArrivalReason
from cordee.coordinator.core.record import JobRecord
from cordee.worker.resumption import Resumption

JOB = "soak-abcdef"


class Machine:
    """A job machine and what it writes down."""

    def __init__(self, workers: int) -> None:
        self.now = 1000.0
        self.machine = JobMachine(JobRecord(JOB, 1, workers, created_at=self.now))
        self.history: list[Happening] = []
        self.tell(ev.Scheduled(workers))
        for k in range(workers):
            self.attach(k, "a")

    def tell(self, event: ev.Event, after: float = 0.0) -> None:
        self.now += after
        for action in self.machine.handle(event, self.now):
            if isinstance(action, act.RecordEvent):
                self.history.append(Happening(self.now, action.kind, action.message))

    def attach(self, k: int, life: str) -> None:
        worker, incarnation = f"{JOB}-w{k}", f"{k}{life}"
        self.tell(ev.WorkerAttached(worker, incarnation, f"host:{k}", 0, None, 100 + k, False), after=0.1)
        self.tell(ev.WorkerArrived(worker, incarnation, 0, None, ArrivalReason.JOIN, ()))

    def meet(self, *workers: int) -> None:
        generation = self.machine.generation
        for k in workers:
            self.tell(ev.WorkerArrived(f"{JOB}-w{k}", f"{k}a", generation, 7, ArrivalReason.PEER_LOST, ()), after=0.01)


def test_worlds_and_losses_are_what_the_machine_says() -> None:
    job = Machine(3)
    job.tell(ev.WorkerDetached(f"{JOB}-w1", "1a"), after=5.0)
    job.meet(0, 2)
    lost_at = job.now
    history = read_history(job.history)
    assert [(world.generation, world.cause, world.workers) for world in history.worlds] == [
        (1, "start", ("w0", "w1", "w2")),
        (2, "loss", ("w0", "w2")),
    ]
    assert history.worlds[1].step == 7
    assert history.worlds[1].time == lost_at
    found = history.first_loss([f"{JOB}-w1"], 1000.0, lost_at + 1)
    assert found is not None
    assert found.kind in BREAKING
    assert history.first_loss([f"{JOB}-w0"], 1000.0, lost_at + 1) is None


def test_a_silent_worker_is_noticed_by_name() -> None:
    job = Machine(2)
    for _ in range(20):  # a machine that was asleep itself holds its sleep against nobody
        job.tell(ev.Tick(), after=0.5)
    sign = read_history(job.history).first_sign([f"{JOB}-w1"], 1000.0, job.now + 1)
    assert sign is not None
    assert sign.kind in BREAKING


@pytest.fixture
def clock() -> Iterator[float]:
    return iter([10.0, 20.5, 20.625, 20.75, 21.0])


def test_a_stall_has_the_parts_that_rank_0_names(clock: Iterator[float]) -> None:
    worker = Resumption(lambda: next(clock))
    assert worker.committed(6, 0.05) is None
    worker.meets()
    worker.has_world(2, "loss")
    worker.connected()
    told = worker.committed(7, 0.125)
    assert told is not None
    # As the service writes a note: worker, sentence, seconds.
    message = f"{JOB}-w0: {told[0]} ({told[1]:.3g} s)"
    (resumed,) = read_history([Happening(1000.0, "resumed", message)]).resumptions
    assert resumed.stall_seconds == 11.0
    assert resumed.parts == {"before": 10.5, "world": 0.125, "mesh": 0.125, "state": 0.125, "step": 0.125}
    assert not resumed.first
