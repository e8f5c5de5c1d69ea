"""When a run saves itself, what it does when it cannot, and how it finds its way back."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cordee import trainer
from cordee.trainer import data, elastic, nn, optim
from cordee.trainer.checkpoint import CheckpointError, StorageError, load_latest, open_storage
from cordee.trainer.checkpoint.layout import step_folders
from cordee.trainer.checkpoint.storage import LocalStorage
from cordee.trainer.elastic import runtime, saving
from cordee.trainer.elastic.computes import computes_with
from cordee.trainer.elastic.position import Position
from cordee.trainer.elastic.protocols import CheckpointPolicy, ProgressReport, World
from cordee.trainer.elastic.saving import Place, Saver
from cordee.trainer.elastic.solo import SoloMembership
from cordee.trainer.elastic.state import StateError, TrainingState
from cordee.trainer.interop.safetensors import save_safetensors

STEPS_PER_EPOCH, EPOCHS = 4, 3


def make(width: int = 7, *, seed: int = 7) -> elastic.Run:
    trainer.manual_seed(seed)
    generator = np.random.default_rng(11)
    x, y = generator.standard_normal((24, 5)).astype(np.float32), generator.integers(0, 3, 24)
    model = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3))
    loader = data.DataLoader(data.TensorDataset(x, y), batch_size=6, shuffle=True, shards=2, seed=2)
    return elastic.Run(model, optim.Adam(model.parameters(), lr=0.05), loader)


def train(run: elastic.Run, epochs: int = EPOCHS) -> list[int]:
    committed = []
    for step in run.steps(epochs):
        for batch in step.shards:
            step.backward(nn.functional.cross_entropy(run.model(batch.x), batch.y))
        if step.commit():
            committed.append(step.number)
    return committed


class Alone(SoloMembership):
    """A world of one that keeps what it is told."""

    def __init__(self, folder: Path | str, *, generation: int = 1, **policy: Any) -> None:
        self.checkpoint_policy = CheckpointPolicy(
            str(folder), **{"interval_seconds": 0.0, "interval_steps": 2} | policy
        )
        self.saved: list[int] = []
        self.notes: list[tuple[str, str]] = []
        self.generation = generation
        self.step = 0
        self.told = threading.Event()

    def rendezvous(self, **arguments: Any) -> World:
        world = super().rendezvous(**arguments)
        return World(self.generation, 0, 1, world.step, world.member_steps, world.communicator)

    def report(self, progress: ProgressReport) -> None:
        self.step = progress.step

    def checkpointed(self, step: int, where: str, size_bytes: int, seconds: float) -> None:
        self.saved.append(step)
        self.told.set()

    def note(self, kind: str, message: str, seconds: float = 0.0) -> None:
        self.notes.append((kind, message))
        self.told.set()


@contextmanager
def installed(membership: Alone) -> Iterator[Alone]:
    runtime.install(membership)
    try:
        yield membership
    finally:
        runtime.install(None)


def steps_in(folder: Path) -> list[int]:
    return [each.step for each in step_folders(LocalStorage(folder).list()) if each.committed is not None]


@pytest.fixture(scope="module")
def undisturbed() -> str:
    run = make()
    train(run)
    return run.weights_sha256()


# --- what goes wrong is told, and training goes on ------------------------------------------------------------------


def test_no_memory_for_a_copy_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: str) -> None:
    def full(*_: object) -> None:
        raise MemoryError("Unable to allocate 3 GiB")

    monkeypatch.setattr(saving, "_copies", full)
    with installed(Alone(tmp_path)) as membership:
        run = make()
        assert len(train(run)) == EPOCHS * STEPS_PER_EPOCH
    assert run.weights_sha256() == undisturbed
    assert membership.saved == []
    assert membership.notes
    for kind, message in membership.notes:
        assert kind == "checkpoint_failed"
        assert "no memory for a copy of the state: Unable to allocate 3 GiB" in message


def test_a_full_disk_stops_nobody_and_leaves_nothing(tmp_path: Path) -> None:
    with installed(Alone(tmp_path, interval_steps=1)) as membership:
        run = make(width=20_000)  # a state of about two MiB
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            for step in run.steps(2):
                for batch in step.shards:
                    step.backward(nn.functional.cross_entropy(run.model(batch.x), batch.y))
                step.commit()
                if step.number == 2:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
                elif step.number == 4:  # until the failure was told, and then the disk has room again
                    assert membership.told.wait(30)
                    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                    assert run._saver is not None
                    run._saver.wait()  # while a checkpoint is on its way no other is begun, and the steps are fast
                if step.number == 2:
                    assert run._saver is not None
                    run._saver.wait()
                    membership.told.clear()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert run.step == 8
    failed = [message for kind, message in membership.notes if kind == "checkpoint_failed"]
    assert failed
    assert "File too large" in failed[0]
    assert membership.saved[-1] >= 4, "none was made after the disk had room again, which it had when step 4 was saved"
    loaded = load_latest(LocalStorage(tmp_path), lambda error: pytest.fail(str(error)))
    assert loaded is not None
    assert loaded.step == membership.saved[-1]
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_place_that_is_none_is_refused() -> None:
    # A mistake in the job, which the check of its document has found before.
    with installed(Alone("ftp://nowhere/at/all")), pytest.raises(ValueError, match="no storage that is known"):
        train(make())


# --- everybody leaves -------------------------------------------------------------------------------------------------


class Leaving(Alone):
    """Is asked to leave in its third step, and kept until somebody comes to take the state over."""

    def __init__(self, folder: Path, **policy: Any) -> None:
        super().__init__(folder, **policy)
        self.asked_after_saving = 0

    def leaving(self) -> bool:
        return self.step >= 2

    def change_pending(self) -> bool:
        if self.step == 3 and self.saved:
            self.asked_after_saving += 1
        return self.asked_after_saving >= 3

    def rendezvous(self, **arguments: Any) -> World:
        if arguments["reason"] == "change":
            raise KeyboardInterrupt
        return super().rendezvous(**arguments)


def test_the_last_that_is_asked_to_leave_saves_and_makes_no_step_more(tmp_path: Path, undisturbed: str) -> None:
    membership = Leaving(tmp_path, interval_seconds=3600.0, interval_steps=0)
    with installed(membership), pytest.raises(KeyboardInterrupt):
        train(make())
    assert (membership.saved, membership.step) == ([3], 3)
    assert membership.asked_after_saving >= 3, "it went before it was told to"
    with installed(Alone(tmp_path)) as after:
        run = make(seed=99)
        assert train(run) == list(range(4, EPOCHS * STEPS_PER_EPOCH + 1))
    assert run.weights_sha256() == undisturbed
    assert ("restored", "resumed from step-000000000003") in after.notes


def test_a_checkpoint_says_when_the_job_goes_on_with_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make()
    train(run, 1)
    saver = saver_of(Alone(tmp_path), run)
    saver.save(run._position, Place(3, 0, 1))
    saver.wait()
    after = Alone(tmp_path)
    saver_of(after, make()).restore(first_world=False)
    assert [kind for kind, _ in after.notes] == ["restored"]
    monkeypatch.setattr(saving, "computes_with", lambda: (*computes_with()[:-1], "2 threads"))
    saver_of(after, make()).restore(first_world=False)
    kind, words = after.notes[-1]
    assert kind == "computes"
    assert words.startswith("step-000000000004 was computed with 1 thread; this goes on with 2 threads: its bits may")


def test_a_job_without_checkpoints_makes_none_when_it_leaves(tmp_path: Path) -> None:
    class Told(Leaving):
        def change_pending(self) -> bool:
            return self.step >= 5

    membership = Told(tmp_path, interval_seconds=0.0, interval_steps=0)
    with installed(membership), pytest.raises(KeyboardInterrupt):
        train(make())
    assert (membership.saved, membership.step) == ([], 6)
    assert steps_in(tmp_path) == []


# --- the policy -------------------------------------------------------------------------------------------------------


def saver_of(membership: Alone, run: elastic.Run | None = None) -> Saver:
    run = run or make()
    assert membership.checkpoint_policy is not None
    return Saver(membership.checkpoint_policy, TrainingState(run.model, run.optimizer, run.loader), membership)


def world(generation: int, rank: int, size: int) -> World:
    return World(
        generation, rank, size, 1, (1,) * size, SoloMembership().rendezvous(step=1, reason="join").communicator
    )


def test_who_becomes_rank_0_saves_soon(tmp_path: Path) -> None:
    saver = saver_of(Alone(tmp_path, interval_seconds=3600.0, interval_steps=0))
    saver.joined(world(1, 1, 3))
    assert not saver.due(5)
    saver.left(lost=True)
    saver.joined(world(2, 0, 2))
    assert saver.due(5), "the one that committed is gone, perhaps in the middle of it"
    saver.save(Position(step=5), Place(2, 0, 1))
    saver.wait()
    assert not saver.due(6)
    saver.joined(world(3, 0, 3))
    assert not saver.due(6)


def test_a_checkpoint_that_was_abandoned_is_due_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cordee.trainer.checkpoint.parts.MIN_PART_BYTES", 1)
    membership = Alone(tmp_path, interval_seconds=3600.0, interval_steps=0)
    saver = saver_of(membership)
    monkeypatch.setattr("cordee.trainer.checkpoint.writer.HURRIED_SECONDS", 0.0)
    saver.save(Position(step=5), Place(2, 0, 2))
    assert saver.saving
    assert not saver.due(6)
    saver._writer.hurry(2, 0.0)
    saver.wait()
    assert saver.due(6)
    ((kind, message),) = membership.notes
    assert (kind, message) == ("checkpoint_failed", "step 5: of its 2 parts these were not written: 1")


def test_who_waits_long_for_a_world_saves_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "STANDBY_SECONDS", 0.01)
    membership = Alone(tmp_path)
    saver = saver_of(membership)
    with saver.standing_by(Position(step=9), Place(4, 2, 3)):
        assert membership.told.wait(30)
    assert membership.saved == [9]
    with saver.standing_by(Position(step=9), Place(4, 2, 3)):  # it is there
        pass
    saver.wait()
    assert steps_in(tmp_path) == [9]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_world_of_any_size_saves_the_same_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("cordee.trainer.checkpoint.parts.MIN_PART_BYTES", 1)
    monkeypatch.setattr("cordee.trainer.checkpoint.parts.MIN_CUT_BYTES", 64)
    run = make(width=50)
    train(run, 1)
    memberships = [Alone(tmp_path) for _ in range(size)]
    savers = [saver_of(membership, run) for membership in memberships]
    for rank, saver in enumerate(savers):
        saver.save(run._position, Place(3, rank, size))
    for saver in savers:
        saver.wait()
    assert [membership.notes for membership in memberships] == [[]] * size
    assert len(list(tmp_path.rglob("part-*.safetensors"))) == size
    other = make(width=50, seed=3)
    restored = saver_of(Alone(tmp_path), other).restore(first_world=False)
    assert restored == run._position
    mine, theirs = run._state.host_copies(), TrainingState(other.model, other.optimizer, other.loader).host_copies()
    assert {name: array.tobytes() for name, array in mine.items()} == {
        name: array.tobytes() for name, array in theirs.items()
    }


def test_storage_that_cannot_be_read_is_no_reason_to_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(self: LocalStorage, folder: str = "") -> None:
        raise StorageError("the service cannot be reached")

    monkeypatch.setattr(LocalStorage, "list", unreachable)
    first = Alone(tmp_path, interval_seconds=3600.0, interval_steps=0)
    assert saver_of(first).restore(first_world=True) is None
    assert first.notes == [("checkpoint_failed", "cannot look for checkpoints: the service cannot be reached")]
    with pytest.raises(
        StorageError, match="cannot look for the job's checkpoints: the service cannot be reached"
    ) as told:
        saver_of(Alone(tmp_path)).restore(first_world=False)
    assert told.value.errno is not None  # a machine's fault by its number: the worker is tried again


# --- all or nothing on loading ------------------------------------------------------------------------------------


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    giver, taker = make(), make(seed=8)
    train(giver, 1)
    train(taker, 1)
    arrays, scalars = giver._state.host_copies(), giver._state.scalars()
    before, numbers = taker._state.host_copies(), taker._state.scalars()
    for damage in (
        {"optimizer": {**scalars["optimizer"], "steps": [[1, 2]]}},
        {"optimizer": {**scalars["optimizer"], "options": []}},
        {"random": {"seed": "none"}},
        {"data": "DataLoader of something else"},
    ):
        with pytest.raises(StateError, match="does not fit"):
            taker._state.restore(arrays, {**scalars, **damage})
        after = taker._state.host_copies()
        assert all(np.array_equal(array, after[name]) for name, array in before.items())
        assert taker._state.scalars() == numbers
    renamed = {"model.other" if name == "model.0.weight" else name: array for name, array in arrays.items()}
    with pytest.raises(StateError, match=r"model.0.weight is missing; model.other is unknown here"):
        taker._state.restore(renamed, scalars)
    taker._state.restore(arrays, scalars)
    assert taker.weights_sha256() == giver.weights_sha256()


# --- warm start -------------------------------------------------------------------------------------------------------


def test_a_new_job_begins_with_the_weights_that_it_is_given(tmp_path: Path) -> None:
    giver = make()
    train(giver, 1)
    save_safetensors(giver.weights(), tmp_path / "w.safetensors")
    folder = tmp_path / "own"
    with installed(Alone(folder, warm_start=str(tmp_path / "w.safetensors"))) as membership:
        run = make(seed=5)
        begun = None
        for step in run.steps(1):
            begun = begun or run.weights_sha256()
            for batch in step.shards:
                step.backward(nn.functional.cross_entropy(run.model(batch.x), batch.y))
            step.commit()
    assert begun == giver.weights_sha256()
    assert [message for kind, message in membership.notes if kind == "warm_start"] == [
        f"took 4 arrays from {tmp_path / 'w.safetensors'}"
    ]
    with installed(Alone(folder, warm_start=str(tmp_path / "gone.safetensors"))) as again:  # its own state counts
        assert train(make(seed=6), 2)[0] > 1
    assert "warm_start" not in dict(again.notes)


def test_weights_that_do_not_fit_are_one_report(tmp_path: Path) -> None:
    weights = make().weights()
    weights["extra"] = weights.pop("0.bias")
    weights["2.weight"] = weights["2.weight"][:, :3]
    weights["2.bias"] = weights["2.bias"].astype(np.int64)
    save_safetensors(weights, tmp_path / "w.safetensors")
    with installed(Alone(tmp_path / "own", warm_start=str(tmp_path / "w.safetensors"))):
        run = make()
        before = run.weights_sha256()
        with pytest.raises(StateError) as told:
            train(run)
    for words in (
        f"the weights of {tmp_path / 'w.safetensors'} do not fit the script's model: ",
        "0.bias is missing",
        "extra is not in the model",
        "2.weight is of shape (3, 3), the model's is (3, 7)",
        "2.bias is int64, the model's is float32",
    ):
        assert words in str(told.value)
    assert run.weights_sha256() == before


def test_weights_of_another_precision_fit(tmp_path: Path) -> None:
    weights = {name: array.astype(np.float64) for name, array in make().weights().items()}
    save_safetensors(weights, tmp_path / "w.safetensors")
    run = make(seed=9)
    saver = saver_of(Alone(tmp_path / "own", warm_start=str(tmp_path / "w.safetensors")), run)
    saver.warm_start()
    assert run.weights_sha256() == make().weights_sha256()


def test_a_warm_start_from_nowhere_is_a_sentence(tmp_path: Path) -> None:
    membership = Alone(tmp_path, warm_start=str(tmp_path / "nowhere"))
    with installed(membership), pytest.raises(CheckpointError, match="nowhere holds no checkpoint that is whole"):
        train(make())


def test_a_warm_start_takes_the_newest_checkpoint_of_a_job(tmp_path: Path) -> None:
    with installed(Alone(tmp_path / "first")):
        train(make())
    loaded = load_latest(open_storage(tmp_path / "first"), lambda error: pytest.fail(str(error)))
    assert loaded is not None
    run = make(seed=9)
    saver_of(Alone(tmp_path / "own", warm_start=str(tmp_path / "first")), run).warm_start()
    for name, array in run.weights().items():
        assert array.tobytes() == loaded.arrays[f"model.{name}"].tobytes()


def test_an_upgrade_under_a_process_does_not_change_what_it_computes_with(monkeypatch: pytest.MonkeyPatch) -> None:
    before = computes_with()
    monkeypatch.setattr("importlib.metadata.version", lambda _: "99")
    assert computes_with() == before
