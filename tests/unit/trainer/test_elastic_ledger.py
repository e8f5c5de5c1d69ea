"""The ledger's law: whatever happens to the workers and to whoever writes it, it holds every committed step, and its
proof finds every sample exactly once, with the fingerprint of an undisturbed run.

The histories are those of `test_elastic_run`: workers are threads that take turns, and kills strike at the exchange, so
that some hold the sum and some do not. Here they strike as well when an entry is handed to the kernel: before it, after
it, and in the middle of it.
"""

from __future__ import annotations

import errno
import importlib.util
import itertools
import math
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cordee.trainer import data, elastic, nn, optim
from cordee.trainer.elastic import ledger as ledger_module
from cordee.trainer.elastic import runtime
from cordee.trainer.elastic.ledger_entry import LedgerData, LedgerEntry, frames
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


@pytest.mark.parametrize("rank", [0, 1])
def test_whoever_flushes_has_all_on_the_disk_also_what_a_dead_one_wrote(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "samples.ledger"
    train_own(make_own(path))
    ledger = make_own(path)._ledger
    assert ledger is not None
    ledger.joined(2, rank)
    synced = []
    monkeypatch.setattr(
        ledger_module.os, "fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").resolve())
    )
    ledger.flush()
    assert synced == [path]


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


# --- a ledger of one's own ---


def make_own(path: Path, **options: Any) -> elastic.Run:
    x = np.arange(20, dtype=np.float32).reshape(10, 2)
    model = nn.Linear(2, 1)
    given = {"batch_size": 4, "shards": 3, **options}
    loader = data.DataLoader(given.pop("dataset", data.TensorDataset(x)), **given)
    return elastic.Run(model, optim.SGD(model.parameters(), lr=0.01), loader, ledger=path)


def train_own(run: elastic.Run, epochs: int = 2) -> None:
    for step in run.steps(epochs):
        for batch in step.shards:
            step.backward(run.model(batch[0].reshape(-1, 2)).sum())
        step.commit()


class Pairs(data.IterableDataset[Any]):
    def __len__(self) -> int:
        return 10

    def stream(self, epoch: int, start: int) -> Any:
        return iter(np.arange(20, dtype=np.float32).reshape(10, 2)[start:])


@pytest.mark.parametrize(
    "options",
    [
        {"shuffle": True},
        {"shuffle": True, "num_workers": 2},
        {"drop_last": True},
        {"sampler": [3, 3, 1, 9, 0]},
        {"batch_size": 1, "batch_sampler": [[1, 2, 3], [4], [5, 6]]},
        {"dataset": data.ShuffledStream(Pairs(), 5)},
        {"dataset": Pairs(), "steps_per_epoch": 2},
    ],
    ids=str,
)
def test_a_script_keeps_a_ledger_under_plain_python_of_whatever_it_loads(
    options: dict[str, Any], tmp_path: Path
) -> None:
    run = make_own(tmp_path / "own" / "samples.ledger", **options)
    train_own(run)
    proof = proven(tmp_path / "own" / "samples.ledger", 2 * len(run.loader))
    assert proof.samples == 2 * run.loader.samples_per_epoch


def train_in_turns(run: elastic.Run) -> None:
    """Two optimisers, and two passes over the shards of each step."""
    first, second = run.optimizer["first"], run.optimizer["second"]  # type: ignore[index]
    for step in run.steps(2):
        for batch in step.shards:
            step.backward(run.model(batch[0]).sum())
        step.update(first)
        for batch in step.shards:
            step.backward(run.model(batch[0]).square().sum())
        step.update(second)
        step.commit()


def make_two(path: Path) -> elastic.Run:
    model = nn.Linear(2, 1)
    optimizers = {"first": optim.SGD([model.weight], lr=0.01), "second": optim.SGD([model.bias], lr=0.01)}
    loader = data.DataLoader(data.TensorDataset(np.ones((10, 2), np.float32)), 4, shuffle=True, shards=3)
    return elastic.Run(model, optimizers, loader, ledger=path)


def test_a_step_that_goes_through_its_shards_twice_consumes_them_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_two(tmp_path / "samples.ledger")
    train_in_turns(run)
    assert proven(tmp_path / "samples.ledger", 6).samples == 20

    mixed_up = make_two(tmp_path / "mixed-up.ledger")
    fetched = itertools.count()
    give = data.DataLoader.shard_batch
    monkeypatch.setattr(
        data.DataLoader,
        "shard_batch",
        lambda loader, epoch, index, shard: give(loader, epoch, index, 0 if next(fetched) == 4 else shard),
    )
    with pytest.raises(RuntimeError, match="step 1 went through its shards twice, and got other samples"):
        train_in_turns(mixed_up)


def test_a_second_run_goes_on_in_the_same_file_and_one_of_other_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.ledger"
    train_own(make_own(path, shuffle=True))
    train_own(make_own(path, shuffle=True), 3)
    assert proven(path, 9).recorded_twice == 6
    with pytest.raises(ValueError, match=r"is the ledger of .*shuffle=True.*, and this is .*shuffle=False.*: choose"):
        make_own(path)
    path.write_text("something else\n")
    with pytest.raises(ValueError, match="does not begin as a ledger does"):
        make_own(path)
    assert path.read_text() == "something else\n"


def test_a_ledger_whose_first_line_was_not_finished_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "samples.ledger"
    run = make_own(path)
    path.write_bytes(LedgerData.of(run.loader, 2).line()[:40])
    train_own(run)
    proven(path, 6)


def test_nothing_is_read_twice_and_no_file_is_made_without_a_ledger(tmp_path: Path) -> None:
    run = make_own(None)  # type: ignore[arg-type]
    train_own(run)
    assert list(tmp_path.iterdir()) == []


# --- a disk that is full ---


class Noting(histories.SoloMembership):
    def __init__(self, path: Path) -> None:
        self.ledger_path = path
        self.notes: list[tuple[str, str]] = []

    def note(self, kind: str, message: str, seconds: float = 0.0) -> None:
        self.notes.append((kind, message))


@pytest.mark.parametrize("recovers", [True, False])
def test_a_full_disk_stops_no_training_and_is_not_papered_over(
    recovers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "samples.ledger"
    write, full = os.write, [False]
    monkeypatch.setattr(ledger_module, "RETRY_SECONDS", 0.0)

    def filling(descriptor: int, text: Any) -> int:
        if not full[0]:
            return write(descriptor, text)
        if full[0] is True:  # the last bytes of the disk
            full[0] = "to the brim"
            return write(descriptor, bytes(text)[: len(text) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ledger_module.os, "write", filling)
    membership = Noting(path)
    runtime.install(membership)
    try:
        run = histories.make_run()
        for step in run.steps(EPOCHS):
            full[0] = full[0] or step.number == 4
            if step.number == 9 and recovers:
                full[0] = False
            for batch in step.shards:
                step.backward(nn.functional.cross_entropy(run.model(batch.x), batch.y))
            step.commit()
    finally:
        runtime.install(None)
    assert run.step == STEPS
    kinds = [kind for kind, _ in membership.notes]
    if recovers:
        assert kinds == ["ledger_failed", "ledger"]
        assert membership.notes[1][1].endswith("is written again, from step 4 on")
        assert proven(path).skipped_bytes > 0
    else:
        assert kinds == ["ledger_failed"], "it is told once, and not at every step"
        assert "cannot be written: the disk is full; training goes on" in membership.notes[0][1]
        assert prove(path, steps=STEPS).violations == ["steps 4 to 12 are missing"]


def test_what_is_kept_for_a_full_disk_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "KEPT_BYTES", 300)
    (tmp_path / "taken").write_text("no folder")
    membership = Noting(tmp_path / "taken" / "samples.ledger")
    runtime.install(membership)
    try:
        run = histories.make_run()
        histories.train(run)
    finally:
        runtime.install(None)
    assert [kind for kind, _ in membership.notes] == ["ledger_failed"]
    assert run._ledger is not None
    assert 0 < sum(map(len, run._ledger._kept.values())) <= 300
    assert run._ledger._kept_bytes == sum(map(len, run._ledger._kept.values()))


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """The kernel refuses in the middle of an entry, as it does when a file may not grow any more."""
    script = """
        import resource, signal, sys
        import numpy as np
        from cordee.trainer import data, elastic, nn, optim

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        model = nn.Linear(1, 1)
        loader = data.DataLoader(data.TensorDataset(np.ones((64, 1), np.float32)), 4, shuffle=True)
        run = elastic.Run(model, optim.SGD(model.parameters(), lr=0.1), loader, ledger=sys.argv[1])
        for step in run.steps(1):
            for batch in step.shards:
                step.backward(model(batch.x).sum())
            step.commit()
        print(run.step)
    """
    path = tmp_path / "samples.ledger"
    words = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (0, "16\n"), ran.stderr
    assert "cannot be written" in ran.stderr
    assert path.stat().st_size == 1000
    proof = prove(path, steps=16)
    assert proof.torn_bytes > 0
    assert proof.violations == [f"steps {proof.steps + 1} to 16 are missing"]
