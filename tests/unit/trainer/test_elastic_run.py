"""The elastic step's protocol under every history: the last weights are those of an undisturbed run, bit for bit.

Workers are threads that take turns (one runs, the others wait), their exchange and their rendezvous are simulated in
memory, and a history says at which exchange who dies and which of the survivors still gets the sum. The sockets have
tests of their own; these are about what a worker does with what it is told.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cordee import trainer
from cordee.trainer import data, elastic, nn, optim
from cordee.trainer.array import as_array, to_numpy
from cordee.trainer.elastic import runtime
from cordee.trainer.elastic.protocols import CheckpointPolicy, PeerLostError, ProgressReport, RunResult, World
from cordee.trainer.elastic.solo import SoloCommunicator, SoloMembership
from cordee.trainer.elastic.state import StateError, TrainingState
from cordee.trainer.elastic.tree import Span, combine_order, cover, deal, root

EPOCHS, SAMPLES, BATCH, SHARDS = 3, 23, 6, 4
STEPS = EPOCHS * 4


def make_run() -> elastic.Run:
    """A fresh model, optimiser and loader: 23 samples in batches of 6, so that the last batch leaves shards uneven."""
    trainer.manual_seed(7)
    generator = np.random.default_rng(11)
    x = generator.standard_normal((SAMPLES, 5)).astype(np.float32)
    y = generator.integers(0, 3, SAMPLES)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Dropout(0.2), nn.Linear(7, 3))
    optimizer = optim.Adam(model.parameters(), lr=0.05)
    loader = data.DataLoader(data.TensorDataset(x, y), batch_size=BATCH, shuffle=True, shards=SHARDS, seed=2)
    return elastic.Run(model, optimizer, loader)


def train(run: elastic.Run, epochs: int = EPOCHS) -> dict[int, float]:
    """The loop of a script; the loss of every step that was committed here."""
    losses = {}
    for step in run.steps(epochs):
        for batch in step.shards:
            step.backward(nn.functional.cross_entropy(run.model(batch.x), batch.y))
        if step.commit():
            losses[step.number] = step.loss
    return losses


def train_on_a_schedule(run: elastic.Run) -> dict[int, float]:
    """A loop that changes the learning rate relative to what it is, before and after a commit, as a script written for
    PyTorch does."""
    losses = {}
    for step in run.steps(EPOCHS):
        options = run.optimizer.param_groups[0]
        if step.number == 3:
            options["lr"] *= 0.5
        for batch in step.shards:
            step.backward(nn.functional.cross_entropy(run.model(batch.x), batch.y))
        step.commit()
        options["lr"] *= 0.9
        if step.committed:
            losses[step.number] = step.loss
    return losses


class Killed(BaseException):
    """This worker's process is gone."""


@dataclass(frozen=True)
class Kill:
    """At the exchange of `step`, the ranks `victims` die; of the others, `completers` still get the sum."""

    step: int
    victims: frozenset[int]
    completers: frozenset[int]


@dataclass
class Exchange:
    """What the members of one world have handed in to the reduction at hand."""

    size: int
    handed: dict[int, tuple[Mapping[Span, Any], bytes]] = field(default_factory=dict)
    outcome: dict[int, Any] | None = None
    taken: int = 0
    broken: bool = False


class Simulation:
    """A job in memory: a coordinator that forms worlds, and workers that take turns."""

    def __init__(
        self,
        kills: Sequence[Kill],
        num_workers: int,
        respawn: bool,
        folder: Path | None = None,
        script: Callable[[elastic.Run], dict[int, float]] = train,
        ledger: Path | None = None,
    ) -> None:
        self.script = script
        self.ledger = ledger
        self.exchanges: dict[int, Exchange] = {}
        self.runs: dict[int, elastic.Run] = {}
        self.turn = threading.Condition()
        self.kills = list(kills)
        self.respawn = respawn
        self.num_workers = num_workers
        self.worlds_formed: list[tuple[int | None, ...]] = []
        self.folder = folder
        self.saved = threading.Event()
        self.generation = 0
        self.live: set[int] = set()
        self.done: set[int] = set()
        self.waiting: dict[int, int | None] = {}
        self.worlds: dict[int, World] = {}
        self.world_members: list[int] = []
        self.pending = False
        self.next_worker = 0
        self.started = 0
        self.threads: list[threading.Thread] = []
        self.failures: list[BaseException] = []
        self.weights: dict[int, str] = {}
        self.losses: list[dict[int, float]] = []
        for _ in range(num_workers):
            self.spawn()

    def spawn(self) -> None:
        worker = self.next_worker
        self.next_worker += 1
        self.live.add(worker)
        self.threads.append(threading.Thread(target=self.work, args=(worker,), daemon=True))

    def work(self, worker: int) -> None:
        with self.turn:
            try:
                runtime.install(SimulatedMembership(self, worker))
                run = self.runs[worker] = make_run()
                runtime.install(None)
                self.losses.append(self.script(run))
                self.weights[worker] = run.weights_sha256()
                self.done.add(worker)
                self.form_world()
            except Killed:
                pass
            except BaseException as error:
                self.failures.append(error)
            finally:
                self.live.discard(worker)
                self.turn.notify_all()

    def run(self) -> None:
        with self.turn:  # those that replace the dead are appended on the way
            while self.live and not self.failures:
                for thread in self.threads[self.started :]:
                    self.started += 1
                    thread.start()
                self.wait(lambda: self.started < len(self.threads) or not self.live)
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive(), "a worker waits for ever"
        if self.failures:
            raise self.failures[0]

    def wait(self, condition: Callable[[], Any]) -> None:
        if not self.turn.wait_for(lambda: condition() or self.failures, timeout=30) or self.failures:
            raise Killed

    def form_world(self) -> None:
        """Once nobody of the current world is on the way any more, and somebody waits."""
        if not self.generation and len(self.waiting) < self.num_workers:
            return
        current = [worker for worker in self.world_members if worker in self.live and worker not in self.done]
        if not self.waiting or any(worker not in self.waiting for worker in current):
            self.pending = bool(self.waiting)
            return
        if any(worker in self.done for worker in self.world_members) and not current:
            return  # the job has its result: joiners are let go below
        joiners = sorted(worker for worker in self.waiting if worker not in current)
        members = current + joiners
        self.generation += 1
        self.world_members = members
        self.pending = False
        steps = tuple(self.waiting[worker] for worker in members)
        self.worlds_formed.append(steps)
        exchange = Exchange(len(members))
        self.exchanges = dict.fromkeys(members, exchange)
        links: dict[tuple[int, int], Any] = {}
        for rank, worker in enumerate(members):
            self.worlds[worker] = World(
                self.generation, rank, len(members), max((s for s in steps if s is not None), default=0), steps,
                SimulatedCommunicator(self, exchange, links, rank, len(members)),
            )  # fmt: skip
        self.waiting.clear()
        self.turn.notify_all()

    def strike(self, worker: int) -> None:
        """Kills the worker that runs, between two exchanges; what it was about to do is not done."""
        self.live.discard(worker)
        if self.respawn or not self.live:
            self.spawn()
        self.exchanges[worker].broken = True
        self.turn.notify_all()
        raise Killed

    def decide(self, exchange: Exchange) -> None:
        """All have handed in: sum, and let the history strike."""
        headers = [exchange.handed[rank][1] for rank in range(exchange.size)]
        step = int.from_bytes(headers[0][1:9], "little")  # 0: an exchange without a header
        held = {
            span: to_numpy(buffer).copy()
            for partials, _ in exchange.handed.values()
            for span, buffer in partials.items()
        }
        for rank in range(exchange.size):
            assert set(exchange.handed[rank][0]) == set(cover(*deal(SHARDS, exchange.size)[rank], SHARDS))
        for left, right in combine_order(SHARDS, exchange.size):
            held[left] += held.pop(right)
        total = held[next(iter(held))]
        assert len(held) == 1
        exchange.outcome = dict.fromkeys(range(exchange.size), (total, headers))
        kill = next((kill for kill in self.kills if kill.step == step), None)
        if kill is None:
            return
        self.kills.remove(kill)
        if self.folder is not None:  # a checkpoint is written beside training: the history strikes when one is there
            assert self.saved.wait(30)
        victims = {rank for rank in kill.victims if rank < exchange.size}
        for rank in range(exchange.size):
            if rank in victims:
                exchange.outcome[rank] = Killed
            elif victims and rank not in kill.completers:
                exchange.outcome[rank] = PeerLostError
        for rank in victims:
            self.live.discard(self.world_members[rank])
            if self.respawn or not self.live:
                self.spawn()
        if victims:
            exchange.broken = True


@dataclass
class SimulatedCommunicator:
    simulation: Simulation
    exchange: Exchange
    links: dict[tuple[int, int], Any]
    rank: int
    size: int
    closed: bool = False

    def all_reduce(
        self, partials: Mapping[Span, Any], out: Any, *, num_shards: int, header: bytes = b""
    ) -> list[bytes]:
        exchange = self.exchange
        assert not self.closed
        if exchange.broken:
            raise PeerLostError("broken")
        exchange.handed[self.rank] = (partials, header)
        if len(exchange.handed) == self.size:
            self.simulation.decide(exchange)
            self.simulation.turn.notify_all()
        self.simulation.wait(lambda: exchange.outcome is not None or exchange.broken)
        if exchange.outcome is None:
            raise PeerLostError("broken")
        outcome = exchange.outcome[self.rank]
        exchange.taken += 1
        if exchange.taken == self.size and not exchange.broken:
            exchange.handed, exchange.outcome, exchange.taken = {}, None, 0
            self.simulation.turn.notify_all()
        else:
            self.simulation.wait(lambda: exchange.outcome is None or exchange.broken)
        if isinstance(outcome, type):
            raise outcome("gone")
        out[...] = as_array(outcome[0])
        assert num_shards == SHARDS
        assert root(num_shards) is not None
        return list(outcome[1])

    def send_states(self, ranks: Sequence[int], meta: bytes, buffers: Sequence[Any]) -> None:
        for rank in ranks:
            self.links[self.rank, rank] = (meta, [memoryview(to_numpy(buffer).copy()).cast("B") for buffer in buffers])
        self.simulation.turn.notify_all()

    def recv_states(self, ranks: Sequence[int]) -> list[tuple[bytes, list[memoryview]]]:
        self.simulation.wait(lambda: all((rank, self.rank) in self.links for rank in ranks))
        return [self.links.pop((rank, self.rank)) for rank in ranks]

    def abort(self, reason: str) -> None:
        raise AssertionError("nobody aborts here")

    def close(self) -> None:
        self.closed = True


@dataclass
class SimulatedMembership:
    simulation: Simulation
    worker: int
    reports: list[ProgressReport] = field(default_factory=list)

    @property
    def checkpoint_policy(self) -> CheckpointPolicy | None:
        folder = self.simulation.folder
        return None if folder is None else CheckpointPolicy(str(folder), interval_seconds=0, interval_steps=2)

    result_directory: Path | None = None
    grace_seconds: float = 30.0

    def ledger_arrived(self) -> int | None:
        return None

    @property
    def ledger_path(self) -> Path | None:
        return self.simulation.ledger

    def rendezvous(
        self, *, step: int | None, reason: Literal["join", "change", "lost"], suspects: Sequence[int] = ()
    ) -> World:
        simulation = self.simulation
        assert (step is None) == (reason == "join")
        simulation.waiting[self.worker] = step
        simulation.form_world()
        simulation.wait(
            lambda: (
                self.worker in simulation.worlds
                or (simulation.done and not simulation.live - set(simulation.waiting) - simulation.done)
            )
        )
        if self.worker not in simulation.worlds:
            raise Killed  # the job has its result
        return simulation.worlds.pop(self.worker)

    def outside(self) -> None:
        """Nobody asks."""

    def at_storage(self) -> None:
        """Nobody asks."""

    def leaving(self) -> bool:
        return False

    def change_pending(self) -> bool:
        return self.simulation.pending

    def begun(self) -> None:
        pass

    def report(self, progress: ProgressReport) -> None:
        self.reports.append(progress)

    def checkpointed(self, step: int, where: str, size_bytes: int, seconds: float) -> None:
        self.simulation.saved.set()

    def note(self, kind: str, message: str, seconds: float = 0.0) -> None:
        assert kind in ("healed", "restored")

    def finished(self, result: RunResult) -> None:
        assert result.step == STEPS
        assert result.samples == EPOCHS * SAMPLES


@pytest.fixture(scope="module")
def undisturbed() -> tuple[str, dict[int, float]]:
    run = make_run()
    losses = train(run)
    return run.weights_sha256(), losses


kills = st.builds(
    Kill,
    step=st.integers(1, STEPS),
    victims=st.frozensets(st.integers(0, 4), min_size=1, max_size=3),
    completers=st.frozensets(st.integers(0, 4)),
)


@settings(max_examples=60)
@given(
    history=st.lists(kills, max_size=5, unique_by=lambda kill: kill.step),
    num_workers=st.integers(1, 5),
    respawn=st.booleans(),
)
def test_every_history_ends_with_the_same_weights(
    history: list[Kill], num_workers: int, respawn: bool, undisturbed: tuple[str, dict[int, float]]
) -> None:
    simulation = Simulation(history, num_workers, respawn)
    simulation.run()
    weights, losses = undisturbed
    assert set(simulation.weights.values()) == {weights}
    for seen in simulation.losses:
        assert all(losses[step] == loss for step, loss in seen.items())


@settings(max_examples=50)
@given(history=st.lists(kills, max_size=4, unique_by=lambda kill: kill.step), num_workers=st.integers(1, 4))
def test_a_step_that_is_redone_changes_a_learning_rate_once(history: list[Kill], num_workers: int) -> None:
    alone = make_run()
    losses = train_on_a_schedule(alone)
    simulation = Simulation(history, num_workers, respawn=True, script=train_on_a_schedule)
    simulation.run()
    assert set(simulation.weights.values()) == {alone.weights_sha256()}
    for seen in simulation.losses:
        assert all(losses[step] == loss for step, loss in seen.items())


def test_a_step_that_is_redone_draws_the_same_numbers() -> None:
    """Outside the shards, where a draw is keyed by its number."""

    class Stumbling(SoloCommunicator):
        def all_reduce(self, *arguments: Any, **options: Any) -> list[bytes]:
            raise PeerLostError("gone")

    def draws(stumble: bool) -> list[tuple[int, float]]:
        run = make_run()
        seen = []
        for step in run.steps(1):
            seen.append((step.number, trainer.rand(1).item()))
            for batch in step.shards:
                step.backward(nn.functional.cross_entropy(run.model(batch.x), batch.y))
            if stumble and step.number == 3 and len(seen) == 3:
                step._communicator = Stumbling()
            assert step.commit() is not (stumble and len(seen) == 3)
        return seen

    undisturbed = draws(stumble=False)
    assert draws(stumble=True) == undisturbed[:3] + undisturbed[2:]


def test_a_checkpoint_holds_what_the_script_did_after_the_commit(tmp_path: Path) -> None:
    alone = make_run()
    train_on_a_schedule(alone)
    simulation = Simulation(
        [Kill(7, frozenset(range(3)), frozenset())], 3, respawn=True, folder=tmp_path, script=train_on_a_schedule
    )
    simulation.run()
    assert set(simulation.weights.values()) == {alone.weights_sha256()}
    assert min(min(seen) for seen in simulation.losses) > 1, "it began from scratch"


def test_a_second_run_in_a_job_is_refused_before_it_takes_the_firsts_checkpoint() -> None:
    runtime.install(SoloMembership())
    try:
        first, second = make_run(), make_run()
        train(first, 1)
        train(first, 2)
        with pytest.raises(RuntimeError, match=r"a job trains one elastic\.Run"):
            train(second)
    finally:
        runtime.install(None)


def test_a_state_of_other_data_is_refused() -> None:
    run = make_run()
    state = TrainingState(run.model, run.optimizer, run.loader)
    other = data.DataLoader(run.loader.dataset, batch_size=BATCH, shuffle=True, shards=SHARDS, seed=3)
    arrays = {name: to_numpy(view).copy() for name, view in state.views().items()}
    with pytest.raises(StateError, match=r"the data is .*seed=3.* there, .*seed=2.* here"):
        state.restore(arrays, TrainingState(run.model, run.optimizer, other).scalars())


def test_a_member_that_is_a_step_ahead_is_followed(undisturbed: tuple[str, dict[int, float]]) -> None:
    simulation = Simulation([Kill(5, frozenset({1}), frozenset({0}))], 4, respawn=True)
    simulation.run()
    assert (5, 4, 4) in [steps[:3] for steps in simulation.worlds_formed], simulation.worlds_formed
    assert set(simulation.weights.values()) == {undisturbed[0]}
    assert len(simulation.weights) == 4, "the dead one's successor was a member again"


def test_losing_everybody_goes_on_from_the_checkpoint(
    tmp_path: Path, undisturbed: tuple[str, dict[int, float]]
) -> None:
    everybody = frozenset(range(3))
    simulation = Simulation([Kill(7, everybody, frozenset())], 3, respawn=True, folder=tmp_path)
    simulation.run()
    assert set(simulation.weights.values()) == {undisturbed[0]}
    assert min(min(seen) for seen in simulation.losses) > 1, "it began from scratch"


class LeavingMembership(SoloMembership):
    """A world of one that is asked to leave after its third step."""

    def __init__(self, folder: Path) -> None:
        self.checkpoint_policy = CheckpointPolicy(str(folder), interval_seconds=3600)
        self.steps = 0

    def leaving(self) -> bool:
        return False

    def change_pending(self) -> bool:
        return self.steps == 2  # asked within a step, before it is reported

    def report(self, progress: ProgressReport) -> None:
        self.steps = progress.step

    def rendezvous(self, **arguments: Any) -> World:
        if arguments["reason"] == "change":
            raise Killed
        return super().rendezvous(**arguments)


def test_who_leaves_alone_loses_nothing(tmp_path: Path, undisturbed: tuple[str, dict[int, float]]) -> None:
    runtime.install(LeavingMembership(tmp_path))
    try:
        with pytest.raises(Killed):
            train(make_run())
        runtime.install(LeavingMembership(tmp_path))
        run = make_run()
        losses = train(run)
    finally:
        runtime.install(None)
    assert min(losses) == 4, "what was committed is not done again"
    assert run.weights_sha256() == undisturbed[0]


def test_the_loss_is_the_mean_over_the_global_batch(undisturbed: tuple[str, dict[int, float]]) -> None:
    run = make_run()
    run.model.eval()
    for step in run.steps(1):
        batch = run.loader.batch(0, step.index)
        with trainer.no_grad():
            whole = nn.functional.cross_entropy(run.model(batch.x), batch.y).item()
        for shard in step.shards:
            step.backward(nn.functional.cross_entropy(run.model(shard.x), shard.y))
        step.commit()
        assert step.loss == pytest.approx(whole, rel=1e-5)
        assert run.loss == step.loss


def test_steps_tell_their_place_in_the_epoch() -> None:
    run = make_run()
    seen = []
    for step in run.steps(2):
        for batch in step.shards:
            step.backward(nn.functional.cross_entropy(run.model(batch.x), batch.y))
        step.commit()
        seen.append((step.number, step.epoch, step.index, step.num_samples, step.epoch_end))
    assert seen[:5] == [
        (1, 1, 0, 6, False),
        (2, 1, 1, 6, False),
        (3, 1, 2, 6, False),
        (4, 1, 3, 5, True),
        (5, 2, 0, 6, False),
    ]
    assert run.samples == 2 * SAMPLES


def test_a_loop_in_parts_equals_one_loop(undisturbed: tuple[str, dict[int, float]]) -> None:
    run = make_run()
    for epochs in range(1, EPOCHS + 1):
        train(run, epochs)
        assert run.step == epochs * 4
    assert train(run, 1) == {}, "what is behind is not done again"
    assert run.weights_sha256() == undisturbed[0]


def test_a_step_left_without_commit_is_refused() -> None:
    run = make_run()
    with pytest.raises(RuntimeError, match=r"step 1 was left without step\.commit\(\)"):
        for step in run.steps(1):
            for batch in step.shards:
                step.backward(nn.functional.cross_entropy(run.model(batch.x), batch.y))


def test_a_commit_before_all_shards_is_refused() -> None:
    run = make_run()
    step = next(iter(run.steps(1)))
    with pytest.raises(RuntimeError, match="4 of this worker's 4 shards were not gone through"):
        step.commit()


def test_a_second_commit_and_a_second_pass_are_refused() -> None:
    run = make_run()
    step = next(iter(run.steps(1)))
    for batch in step.shards:
        step.backward(nn.functional.cross_entropy(run.model(batch.x), batch.y))
    with pytest.raises(RuntimeError, match="gone through already"):
        next(iter(step.shards))
    step.commit()
    with pytest.raises(RuntimeError, match="committed already"):
        step.commit()


def test_an_update_past_the_commit_is_refused() -> None:
    run = make_run()
    steps = run.steps(1)
    step = next(steps)
    with pytest.raises(RuntimeError, match=r"step\.commit\(\) applies the update"):
        run.optimizer.step()
    for batch in step.shards:
        step.backward(nn.functional.cross_entropy(run.model(batch.x), batch.y))
    step.commit()
    with pytest.raises(RuntimeError, match=r"step\.commit\(\) applies the update"):
        run.optimizer.step()
    steps.close()
    run.optimizer.step()  # the loop is over: the script's own again


def test_backward_outside_a_shard_is_refused() -> None:
    run = make_run()
    step = next(iter(run.steps(1)))
    with pytest.raises(RuntimeError, match=r"inside `for batch in step\.shards`"):
        step.backward(run.model(trainer.zeros(1, 5)).sum())


def test_a_parameter_without_gradient_stays_as_it_is() -> None:
    run = make_run()
    frozen = run.model[0].weight.numpy().copy() if not run.model[0].weight.requires_grad else None
    before = run.model[3].weight.detach().numpy().copy()
    for step in run.steps(1):
        for batch in step.shards:
            step.backward((run.model[0](batch.x) ** 2).mean())  # the last layer takes no part
        step.commit()
    np.testing.assert_array_equal(run.model[3].weight.detach().numpy(), before)
    assert frozen is None
    assert not np.array_equal(run.model[0].weight.detach().numpy(), make_run().model[0].weight.detach().numpy())


def test_a_step_without_loss_reports_none() -> None:
    run = make_run()
    step = next(iter(run.steps(1)))
    for _ in step.shards:
        pass
    step.commit()
    assert math.isnan(step.loss)


def test_gradients_that_no_one_has_weighted_are_refused() -> None:
    run = make_run()
    step = next(iter(run.steps(1)))
    with pytest.raises(RuntimeError, match=r"call it instead of loss\.backward\(\)"):
        for batch in step.shards:
            nn.functional.cross_entropy(run.model(batch.x), batch.y).backward()


class Listening(SoloMembership):
    """A world of one that keeps what it is told in the end."""

    def __init__(self) -> None:
        self.results: list[RunResult] = []

    def finished(self, result: RunResult) -> None:
        self.results.append(result)


def test_every_loop_of_a_script_is_told_of_as_it_begins() -> None:
    told: list[str] = []

    class Following(SoloMembership):
        def begun(self) -> None:
            told.append("begun")

        def finished(self, result: RunResult) -> None:
            told.append(f"finished {result.step}")

    runtime.install(Following())
    try:
        run = make_run()
        train(run, 1)
        train(run, 2)
    finally:
        runtime.install(None)
    steps = len(run.loader)
    assert told == ["begun", f"finished {steps}", "begun", f"finished {2 * steps}"]


@pytest.mark.parametrize("leave", ["committed", "begun", "lost"])
def test_a_loop_that_is_left_early_is_told_of_unless_its_step_is_to_come_again(leave: str) -> None:
    told: list[str] = []

    class Following(SoloMembership):
        def begun(self) -> None:
            told.append("begun")

        def outside(self) -> None:
            told.append("outside")

    runtime.install(Following())
    try:
        run = make_run()
        for step in run.steps(2):
            if step.number == 2 and leave != "committed":
                step.lost = leave == "lost"
                break
            for batch in step.shards:
                step.backward(nn.functional.cross_entropy(run.model(batch.x), batch.y))
            assert step.commit()
            if step.number == 2:
                break
        told.append("evaluated")
    finally:
        runtime.install(None)
    assert told == ["begun", *["outside"] * (leave != "lost"), "evaluated"]


def test_a_loop_that_is_left_early_has_a_result_at_the_scripts_end() -> None:
    membership = Listening()
    runtime.install(membership)
    try:
        run = make_run()
        for epochs, last in ((1, 2), (3, 6)):
            for step in run.steps(epochs):
                if step.number > last:
                    break
                for batch in step.shards:
                    step.backward(nn.functional.cross_entropy(run.model(batch.x), batch.y))
                step.commit()
            runtime.conclude()
            assert membership.results[-1].step == last
            assert membership.results[-1].weights_sha256 == run.weights_sha256()
    finally:
        runtime.install(None)


def test_the_result_is_what_stands_when_the_script_ends() -> None:
    membership = Listening()
    runtime.install(membership)
    try:
        run = make_run()
        runtime.conclude()
        assert not membership.results, "nothing was trained"
        best = {name: np.array(array) for name, array in run.weights().items()}
        train(run)
        run.model.load_state_dict(best)
        run.report(accuracy=1)
        runtime.conclude()
    finally:
        runtime.install(None)
    result = membership.results[-1]
    assert result.weights_sha256 == elastic.weights_sha256(best)
    assert result.metrics == {"accuracy": 1.0}


def test_metrics_are_numbers() -> None:
    run = make_run()
    with pytest.raises(TypeError, match="metric 'accuracy' is to be a number, not 'high'"):
        run.report(accuracy="high")  # type: ignore[arg-type]


def test_a_state_with_buffers_that_an_option_asked_for_in_mid_run_is_taken() -> None:
    giver, taker = make_run(), make_run()
    for run in (giver, taker):
        run.optimizer = optim.SGD(run.model.parameters(), lr=0.1)
    giver.optimizer.param_groups[0]["momentum"] = 0.9
    giver.model(trainer.ones(2, 5)).sum().backward()
    giver.optimizer.step()
    ours, theirs = (TrainingState(run.model, run.optimizer, run.loader) for run in (taker, giver))
    arrays = theirs.host_copies()
    assert any("momentum_buffer" in name for name in arrays)
    ours.restore(arrays, theirs.scalars())
    for name, array in ours.views().items():
        np.testing.assert_array_equal(to_numpy(array), arrays[name])


def test_an_optimiser_of_another_model_is_refused() -> None:
    run = make_run()
    other = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="parameter of shape"):
        elastic.Run(run.model, optim.SGD(other.parameters(), lr=0.1), run.loader)
