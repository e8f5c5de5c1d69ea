"""A job in memory, for tests of what a script does in it: workers are threads that take turns, and fail on schedule.

A history says at which exchange who dies and which of the others still get the sum, when workers join, and when one
leaves at the next step's end. Nothing is asserted here: a script runs on every worker, and what it returns is
collected.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from cordee.trainer import random as cordee_random
from cordee.trainer.array import as_array, to_numpy
from cordee.trainer.elastic import runtime
from cordee.trainer.elastic.protocols import CheckpointPolicy, PeerLostError, ProgressReport, RunResult, World
from cordee.trainer.elastic.tree import Span, combine_order

__all__ = ["Event", "History", "Outcome", "history", "play"]

Script = Callable[[], Any]


class Killed(BaseException):
    """This worker's process is gone."""


@dataclass(frozen=True)
class Event:
    """At the job's exchange number `exchange`, from 1."""

    exchange: int
    kind: Literal["kill", "join", "leave"]
    ranks: frozenset[int] = frozenset()
    """Who dies, or leaves. Of a kill, ranks beyond the world's are nobody."""
    completers: frozenset[int] = frozenset()
    """Of a kill: who of the others still gets the sum."""


@dataclass(frozen=True)
class History:
    workers: int
    events: tuple[Event, ...]
    respawn: bool = True
    """Whether the dead are replaced."""
    folder: Path | None = None
    """Where checkpoints go, after every step; whoever dies waits until there is one."""


@dataclass
class Outcome:
    """What the workers that came to the script's end returned, and what happened on the way."""

    results: list[Any]
    sizes: list[int]
    """Of the worlds, in order."""
    num_lost: int
    num_exchanges: int
    """Those that were done again included."""
    notes: list[str]
    """What the job's events would say, by kind."""
    num_early: int = 0
    """Exchanges that were begun beside backward."""


def history(seed: int, workers: int, exchanges: int) -> History:
    """A history by seed, for a script of so many exchanges: somebody dies in it, and the first event is early."""
    chooser = random.Random(f"{seed}.{workers}")
    events = []
    for exchange in sorted(chooser.sample(range(1, exchanges + 1), k=min(exchanges, chooser.randint(3, 6)))):
        kind: Literal["kill", "join", "leave"] = chooser.choice(("kill", "kill", "join", "leave"))
        ranks = frozenset(chooser.sample(range(workers), k=chooser.randint(1, max(1, workers // 2))))
        completers = frozenset(rank for rank in range(workers + 2) if chooser.random() < 0.4)
        events.append(Event(exchange, kind, ranks, completers))
    # What comes late may find a script that is through: a kill that does not happen proves nothing.
    events[0] = replace(events[0], exchange=min(events[0].exchange, 2 + seed % 3), kind="kill")
    return History(workers, tuple(events), respawn=chooser.random() < 0.8)


def play(script: Script, past: History) -> Outcome:
    """Runs a script on a job's workers through a history."""
    return _Job(script, past).run()


_OF_THREAD = threading.local()


class _Draws(threading.local):
    """Seed and number of draws, which every process has for itself."""

    seed = 0
    draw = 0


@dataclass
class _Exchange:
    size: int
    handed: dict[int, tuple[Mapping[Span, Any], bytes]] = field(default_factory=dict)
    outcome: dict[int, Any] | None = None
    taken: int = 0
    broken: bool = False


class _Job:
    def __init__(self, script: Script, past: History) -> None:
        self.script = script
        self.past = past
        self.events = {event.exchange: event for event in past.events}
        self.turn = threading.Condition()
        self.num_exchanges = 0
        self.num_lost = 0
        self.num_early = 0
        self.sizes: list[int] = []
        self.generation = 0
        self.live: set[int] = set()
        self.done: set[int] = set()
        self.leaving: set[int] = set()
        self.waiting: dict[int, int | None] = {}
        self.worlds: dict[int, World] = {}
        self.members: list[int] = []
        self.pending = False
        self.threads: list[threading.Thread] = []
        self.num_started = 0
        self.failures: list[BaseException] = []
        self.results: list[Any] = []
        self.notes: list[str] = []
        self.saved = threading.Event()
        for _ in range(past.workers):
            self.spawn()

    def spawn(self) -> None:
        worker = len(self.threads)
        self.live.add(worker)
        self.threads.append(threading.Thread(target=self.work, args=(worker,), daemon=True))

    def work(self, worker: int) -> None:
        with self.turn:
            _OF_THREAD.membership = _Membership(self, worker)
            try:
                self.results.append(self.script())
                self.done.add(worker)
                self.form_world()
            except Killed:
                pass
            except BaseException as error:
                self.failures.append(error)
            finally:
                self.live.discard(worker)
                self.form_world()
                self.turn.notify_all()

    def run(self) -> Outcome:
        with pytest.MonkeyPatch.context() as patch, self.turn:
            alone = runtime.current
            patch.setattr(cordee_random, "_State", _Draws())
            patch.setattr(runtime, "current", lambda: getattr(_OF_THREAD, "membership", None) or alone())
            while self.live and not self.failures:
                for thread in self.threads[self.num_started :]:
                    self.num_started += 1
                    thread.start()
                self.turn.wait_for(
                    lambda: self.num_started < len(self.threads) or not self.live or self.failures, timeout=60
                )
        for thread in self.threads[: self.num_started]:
            thread.join(30)
            assert not thread.is_alive(), "a worker waits for ever"
        if self.failures:
            raise self.failures[0]
        return Outcome(self.results, self.sizes, self.num_lost, self.num_exchanges, self.notes, self.num_early)

    def wait(self, condition: Callable[[], Any]) -> None:
        if not self.turn.wait_for(lambda: condition() or self.failures, timeout=60) or self.failures:
            raise Killed

    def form_world(self) -> None:
        """Once nobody of the current world is on the way any more, and somebody waits."""
        if not self.generation and len(self.waiting) < self.past.workers:
            return
        current = [worker for worker in self.members if worker in self.live and worker not in self.done]
        if not self.waiting or any(worker not in self.waiting for worker in current):
            self.pending = bool(self.waiting or self.leaving)
            return
        if any(worker in self.done for worker in self.members) and not current:
            return  # the job has its result: those that wait are let go
        going = {worker for worker in self.leaving if worker in self.waiting}
        if len(going) == len(self.waiting):  # the last one holds the state, and stays
            self.leaving.clear()
            going = set()
        members = [worker for worker in current if worker not in going]
        members += sorted(worker for worker in self.waiting if worker not in current and worker not in going)
        for worker in going:
            del self.waiting[worker]
        self.leaving = {worker for worker in self.leaving - going if worker in self.live - self.done}
        self.generation += 1
        self.members, self.pending = members, bool(self.leaving)
        self.sizes.append(len(members))
        steps = tuple(self.waiting[worker] for worker in members)
        exchange, links = _Exchange(len(members)), {}
        furthest = max((step for step in steps if step is not None), default=0)
        for rank, worker in enumerate(members):
            communicator = _Communicator(self, exchange, links, rank, len(members))
            names = tuple(map(str, members))
            self.worlds[worker] = World(self.generation, rank, len(members), furthest, steps, communicator, names)
        self.waiting.clear()
        self.turn.notify_all()

    def decide(self, exchange: _Exchange, num_shards: int) -> None:
        """All have handed in: sum, and let the history strike."""
        headers = [exchange.handed[rank][1] for rank in range(exchange.size)]
        held = {
            span: to_numpy(buffer).copy()
            for partials, _ in exchange.handed.values()
            for span, buffer in partials.items()
        }
        for left, right in combine_order(num_shards, exchange.size):
            held[left] += held.pop(right)
        (total,) = held.values()
        exchange.outcome = dict.fromkeys(range(exchange.size), (total, headers))
        self.num_exchanges += 1
        event = self.events.get(self.num_exchanges)
        if event is None:
            return
        if event.kind == "join":
            self.spawn()
            self.turn.notify_all()
            return
        victims = {rank for rank in event.ranks if rank < exchange.size}
        if event.kind == "leave":
            self.leaving |= {self.members[rank] for rank in victims}
            self.pending = True
            for _ in victims if self.past.respawn else ():
                self.spawn()
            return
        if self.past.folder is not None:  # it is written beside training
            assert self.saved.wait(30)
        self.num_lost += len(victims)
        for rank in range(exchange.size):
            if rank in victims:
                exchange.outcome[rank] = Killed
            elif victims and rank not in event.completers:
                exchange.outcome[rank] = PeerLostError
        for rank in victims:
            self.live.discard(self.members[rank])
            if self.past.respawn or not self.live:
                self.spawn()
        exchange.broken = bool(victims)


@dataclass
class _Communicator:
    job: _Job
    exchange: _Exchange
    links: dict[tuple[int, int], Any]
    rank: int
    size: int
    closed: bool = False
    beside: bool = True
    begun: list[tuple[Mapping[Span, Any], Any, int]] = field(default_factory=list)

    def all_reduce(
        self, partials: Mapping[Span, Any], out: Any, *, num_shards: int, header: bytes = b"", keep: bool = False
    ) -> list[bytes]:
        self.finish()
        before = {span: to_numpy(buffer).copy() for span, buffer in partials.items()}
        headers = self.reduce(partials, out, num_shards, header)
        if keep:
            assert all(before[span].tobytes() == to_numpy(partials[span]).tobytes() for span in before)
        return headers

    def begin(self, partials: Mapping[Span, Any], out: Any, *, num_shards: int) -> None:
        # What is sent is what is there now; it goes on its way when this worker has to wait anyway.
        copies = {span: to_numpy(buffer).copy() for span, buffer in partials.items()}
        self.begun.append((copies, out, num_shards))
        self.job.num_early += 1

    def finish(self) -> None:
        while self.begun:
            self.reduce(*self.begun.pop(0))

    def reduce(self, partials: Mapping[Span, Any], out: Any, num_shards: int, header: bytes = b"") -> list[bytes]:
        exchange = self.exchange
        assert not self.closed
        if exchange.broken:
            raise PeerLostError("broken")
        exchange.handed[self.rank] = (partials, header)
        if len(exchange.handed) == self.size:
            self.job.decide(exchange, num_shards)
            self.job.turn.notify_all()
        self.job.wait(lambda: exchange.outcome is not None or exchange.broken)
        if exchange.outcome is None:
            raise PeerLostError("broken")
        outcome = exchange.outcome[self.rank]
        exchange.taken += 1
        if exchange.taken == self.size and not exchange.broken:
            exchange.handed, exchange.outcome, exchange.taken = {}, None, 0
            self.job.turn.notify_all()
        else:
            self.job.wait(lambda: exchange.outcome is None or exchange.broken)
        if isinstance(outcome, type):
            raise outcome("gone")
        out[...] = as_array(outcome[0])
        return list(outcome[1])

    def send_states(self, ranks: Sequence[int], meta: bytes, buffers: Sequence[Any]) -> None:
        copies = [memoryview(to_numpy(buffer).copy()).cast("B") for buffer in buffers]
        for rank in ranks:
            self.links[self.rank, rank] = (meta, copies)
        self.job.turn.notify_all()

    def recv_states(self, ranks: Sequence[int]) -> list[tuple[bytes, list[memoryview]]]:
        self.job.wait(lambda: all((rank, self.rank) in self.links for rank in ranks))
        return [self.links.pop((rank, self.rank)) for rank in ranks]

    def send_state(self, rank: int, meta: bytes, buffers: Sequence[Any]) -> None:
        self.send_states([rank], meta, buffers)

    def recv_state(self, rank: int) -> tuple[bytes, list[memoryview]]:
        return self.recv_states([rank])[0]

    def abort(self, reason: str) -> None:
        raise AssertionError("nobody aborts here")

    def close(self) -> None:
        self.closed = True
        if not self.exchange.broken:  # whoever waits for this one sees it go
            self.exchange.broken = True
            self.job.turn.notify_all()


@dataclass
class _Membership:
    job: _Job
    worker: int
    ledger_path: Path | None = None
    result_directory: Path | None = None
    grace_seconds: float = 30.0

    def ledger_arrived(self) -> int | None:
        return None

    @property
    def checkpoint_policy(self) -> CheckpointPolicy | None:
        folder = self.job.past.folder
        return None if folder is None else CheckpointPolicy(str(folder), interval_seconds=0, interval_steps=1)

    def rendezvous(
        self, *, step: int | None, reason: Literal["join", "change", "lost"], suspects: Sequence[int] = ()
    ) -> World:
        job = self.job
        job.waiting[self.worker] = step
        job.form_world()
        job.wait(
            lambda: (
                self.worker in job.worlds
                or self.worker not in job.waiting
                or (job.done and not job.live - set(job.waiting) - job.done)
            )
        )
        if self.worker not in job.worlds:
            raise Killed  # drained, or the job has its result
        return job.worlds.pop(self.worker)

    def outside(self) -> None:
        """Nobody asks."""

    def at_storage(self) -> None:
        """Nobody asks."""

    def leaving(self) -> bool:
        return self.worker in self.job.leaving

    def change_pending(self) -> bool:
        return self.job.pending

    def begun(self) -> None:
        pass

    def report(self, progress: ProgressReport) -> None:
        pass

    def checkpointed(self, step: int, where: str, size_bytes: int, seconds: float) -> None:
        self.job.saved.set()

    def note(self, kind: str, message: str, seconds: float = 0.0) -> None:
        self.job.notes.append(kind)

    def finished(self, result: RunResult) -> None:
        pass
