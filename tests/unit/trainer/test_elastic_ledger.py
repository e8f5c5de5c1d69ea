"""The ledger's law: whatever happens to the workers and to whoever writes it, it holds every committed step, and its
proof finds every sample exactly once, with the fingerprint of an undisturbed run.

The histories are those of `test_elastic_run`: workers are threads that take turns, and kills strike at the exchange, so
that some hold the sum and some do not. Here they strike as well when an entry is handed to the kernel: before it, after
it, and in the middle of it.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cordee.trainer import elastic, nn
from cordee.trainer.elastic import ledger as ledger_module
from cordee.trainer.elastic import runtime
from cordee.trainer.elastic.ledger_entry import LedgerEntry, frames
from cordee.trainer.elastic.ledger_proof import Proof, prove


def _histories() -> Any:
    """`test_elastic_run`, whose simulation is used here."""
    name = "elastic_histories"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("test_elastic_run.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


histories = _histories()
STEPS, SAMPLES, EPOCHS = histories.STEPS, histories.SAMPLES, histories.EPOCHS
Moment = Literal["before", "torn", "after"]
numbers = itertools.count()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ledgers")


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> str:
    """The fingerprint of a run that nothing happens to."""
    simulation = histories.Simulation([], 1, True, ledger=folder / "undisturbed")
    simulation.run()
    return proven(folder / "undisturbed").sha256


def proven(path: Path, steps: int = STEPS) -> Proof:
    proof = prove(path, steps=steps)
    assert proof.proven, proof.violations
    assert proof.steps == steps
    return proof


@contextmanager
def striking(simulation: Any, strikes: dict[int, Moment]) -> Iterator[None]:
    """Kills whoever hands the n-th piece to the kernel."""
    append, count = ledger_module._File.append, itertools.count(1)

    def struck(file: Any, entries: bytes) -> None:
        moment = strikes.get(next(count))
        worker = next((worker for worker, run in simulation.runs.items() if run._ledger._file is file), None)
        if moment is None or worker is None or worker not in simulation.exchanges:
            append(file, entries)
            return
        if moment != "before":
            append(file, entries if moment == "after" else entries[: len(entries) * 2 // 3])
        simulation.strike(worker)

    ledger_module._File.append = struck  # type: ignore[method-assign]
    try:
        yield
    finally:
        ledger_module._File.append = append  # type: ignore[method-assign]


strikes = st.dictionaries(st.integers(1, 30), st.sampled_from(["before", "torn", "after"]), max_size=6)


@settings(max_examples=40)
@given(
    history=st.lists(histories.kills, max_size=4, unique_by=lambda kill: kill.step),
    strikes=strikes,
    num_workers=st.sampled_from([1, 2, 3, 5, 8]),
    respawn=st.booleans(),
)
def test_every_history_leaves_a_ledger_that_proves_every_sample_once(
    history: list[Any], strikes: dict[int, Moment], num_workers: int, respawn: bool, undisturbed: str, folder: Path
) -> None:
    path = folder / str(next(numbers))
    simulation = histories.Simulation(history, num_workers, respawn, ledger=path)
    with striking(simulation, strikes):
        simulation.run()
    proof = proven(path)
    assert proof.sha256 == undisturbed
    assert [(epoch.samples, epoch.distinct, epoch.missing, epoch.twice) for epoch in proof.epochs] == [
        (SAMPLES, SAMPLES, 0, 0)
    ] * EPOCHS


class Together(histories.Simulation):  # type: ignore[misc, name-defined]
    """Whoever is left waits for the successor of who is lost: no world of one goes on before."""

    def form_world(self) -> None:
        if self.generation and not self.done and len(self.waiting) < self.num_workers:
            self.pending = bool(self.waiting)
            return
        super().form_world()


# --- scenarios that others have met ---


def entries(path: Path) -> list[LedgerEntry]:
    """What was written, in the order of writing; one commit that two have written, once."""
    text = path.read_bytes()
    found = [LedgerEntry.unpack(text[f.start : f.stop]) for f in frames(text, text.index(b"\n") + 1) if f.whole]
    return list({(entry.step, entry.generation): entry for entry in found}.values())


def assert_reads_its_own_batch(entry: LedgerEntry) -> None:
    """Every worker read the shards of the very step that it computed, and of no other."""
    loader = histories.make_run().loader
    assert (entry.epoch, entry.index) == ((entry.step - 1) // len(loader) + 1, (entry.step - 1) % len(loader))
    for shard, rank, indices in entry.shards:
        start, stop = loader.shard_bounds(entry.index, shard, entry.epoch - 1)
        planned = loader.batch_indices(entry.epoch - 1, entry.index)[start:stop]
        assert indices.tolist() == planned.tolist(), f"rank {rank}, shard {shard} of step {entry.step}"


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_scenario_7_a_peer_dies_between_backward_and_step_and_its_successor_is_not_one_batch_behind(
    rank: int, folder: Path, undisturbed: str
) -> None:
    """torchft#309: the joiner's loader stood one batch behind the model it was given."""
    path = folder / f"scenario-7-{rank}"
    struck = []

    def script(run: elastic.Run) -> dict[int, float]:
        losses = {}
        for step in run.steps(EPOCHS):
            for batch in step.shards:
                step.backward(nn.functional.cross_entropy(run.model(batch.x), batch.y))
            if step.number == 6 and run.rank == rank and not struck:
                struck.append(run)
                simulation.strike(next(worker for worker, one in simulation.runs.items() if one is run))
            if step.commit():
                losses[step.number] = step.loss
        return losses

    simulation = Together([], 3, respawn=True, ledger=path, script=script)
    simulation.run()
    assert struck
    assert proven(path).sha256 == undisturbed
    found = entries(path)
    assert [entry.step for entry in found] == list(range(1, STEPS + 1)), "nothing was lost but the step at hand"
    for entry in found:
        assert_reads_its_own_batch(entry)
    assert [(entry.generation, len(entry.parts)) for entry in found[4:6]] == [(1, 3), (2, 3)], (
        "the successor took part in the very step that its predecessor died in"
    )


def test_scenario_8_the_model_and_the_loader_stand_at_the_same_step(
    tmp_path: Path, folder: Path, undisturbed: str
) -> None:
    """torchtitan#4686: the model was that of step 500, and the loader stood at 501. Here the loader has no state."""
    everybody = frozenset(range(3))
    weights, seen = {}, []

    def script(run: elastic.Run) -> dict[int, float]:
        losses = {}
        for step in run.steps(EPOCHS):
            before = run.weights_sha256()
            assert weights.setdefault(run.step, before) == before, f"the model is not that of step {run.step}"
            assert step.number == run.step + 1
            start = run.loader.batch_indices(step.epoch - 1, step.index).tolist()
            for batch in step.shards:
                assert set(batch.indices.tolist()) <= set(start), f"the loader is not at step {step.number}"
                step.backward(nn.functional.cross_entropy(run.model(batch.x), batch.y))
            seen.append((run.generation, step.number))
            if step.commit():
                losses[step.number] = step.loss
        return losses

    path = folder / "scenario-8"
    kills = [histories.Kill(7, everybody, frozenset()), histories.Kill(10, everybody, frozenset())]
    simulation = histories.Simulation(kills, 3, respawn=True, folder=tmp_path, ledger=path, script=script)
    simulation.run()
    resumed = [min(step for generation, step in seen if generation == again) for again in {g for g, _ in seen}]
    assert min(resumed[1:]) > 1, "it went on from a checkpoint"
    proof = proven(path)
    assert proof.sha256 == undisturbed
    for entry in entries(path):
        assert_reads_its_own_batch(entry)


@settings(max_examples=15)
@given(
    history=st.lists(histories.kills, min_size=1, max_size=4, unique_by=lambda kill: kill.step),
    num_workers=st.integers(2, 5),
)
def test_scenario_14_a_replica_that_leaves_and_comes_back_makes_no_jump_in_the_logged_loss(
    history: list[Any], num_workers: int
) -> None:
    """torchtitan#4663. What each worker logs is what an undisturbed run logs, to the last bit, at every step."""
    undisturbed = histories.train(histories.make_run())
    assert not any(math.isnan(loss) for loss in undisturbed.values())
    simulation = histories.Simulation(history, num_workers, respawn=True)
    simulation.run()
    logged: dict[int, set[float]] = {}
    for losses in simulation.losses:
        for step, loss in losses.items():
            logged.setdefault(step, set()).add(loss)
    assert {step: {undisturbed[step]} for step in logged} == logged
    assert max(logged) == STEPS


# --- checkpoints, and who writes ---


class Settled(histories.Simulation):  # type: ignore[misc, name-defined]
    """Nobody dies with a checkpoint half written: the thread that writes it would live on here."""

    def decide(self, exchange: Any) -> None:
        self.settle()
        super().decide(exchange)

    def strike(self, worker: int) -> None:
        self.settle()
        super().strike(worker)

    def settle(self) -> None:
        for run in self.runs.values():
            run._saver.wait()


@settings(max_examples=12, deadline=None)
@given(kills=st.lists(st.integers(3, STEPS - 1), min_size=1, max_size=3, unique=True), strikes=strikes)
def test_everybody_may_be_lost_and_the_ledger_goes_on_from_the_checkpoint(
    kills: list[int], strikes: dict[int, Moment], folder: Path, undisturbed: str
) -> None:
    number = next(numbers)
    path, everybody = folder / str(number), frozenset(range(3))
    history = [histories.Kill(step, everybody, frozenset()) for step in kills]
    simulation = Settled(history, 3, respawn=True, folder=folder / f"checkpoints-{number}", ledger=path)
    with striking(simulation, strikes):
        simulation.run()
    assert proven(path).sha256 == undisturbed


def test_kill_of_all_but_a_joiner_that_was_just_healed(folder: Path, undisturbed: str) -> None:
    """Rank 0 commits step 6 and dies before it can write it. The other one has the entry, is rank 0 now, heals a
    joiner, and dies before it has written it, too. The joiner has it from there."""
    path = folder / "all-but-a-joiner"
    simulation = Together([histories.Kill(7, frozenset({0}), frozenset())], 2, respawn=True, ledger=path)
    with striking(simulation, {6: "before"}):
        simulation.run()
    assert simulation.worlds_formed[:3] == [(None, None), (6, None), (6, None)]
    assert proven(path).sha256 == undisturbed
    six = next(entry for entry in entries(path) if entry.step == 6)
    assert six.generation == 1, "it is not what somebody has done again"


def test_the_ledger_is_on_the_disk_before_a_checkpoint_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, checkpoints = tmp_path / "samples.ledger", tmp_path / "checkpoints"
    told: list[tuple[bytes, set[int]]] = []

    def committed() -> set[int]:
        return {int(manifest.parent.name.split("-")[1]) for manifest in checkpoints.glob("step-*/manifest.json")}

    class Saving(histories.SoloMembership):
        checkpoint_policy = histories.CheckpointPolicy(str(checkpoints), interval_seconds=0, interval_steps=3, keep=9)
        ledger_path = path

    flush = ledger_module.Ledger.flush

    def flushed(ledger: Any) -> None:
        flush(ledger)
        told.append((path.read_bytes(), committed()))

    monkeypatch.setattr(ledger_module.Ledger, "flush", flushed)
    runtime.install(Saving())
    try:
        run = histories.make_run()
        for step in run.steps(EPOCHS):
            for batch in step.shards:
                step.backward(nn.functional.cross_entropy(run.model(batch.x), batch.y))
            step.commit()
            run._saver.wait()
    finally:
        runtime.install(None)
    assert committed() >= {3, 6, 9}
    for step in committed() - {STEPS}:
        text = next(text for text, there in told if there == {other for other in committed() if other < step})
        (tmp_path / "then").write_bytes(text)
        assert prove(tmp_path / "then", at_least=step).proven


def test_what_is_under_way_is_in_the_file_before_the_step_is_reported(folder: Path) -> None:
    path = folder / "reported"
    told = []

    class Listening(histories.SoloMembership):
        ledger_path = path

        def report(self, progress: Any) -> None:
            told.append(progress.step)
            assert prove(path, at_least=progress.step).proven

    runtime.install(Listening())
    try:
        histories.train(histories.make_run(), 1)
    finally:
        runtime.install(None)
    assert told == [1, 2, 3, 4]
