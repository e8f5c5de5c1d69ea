"""Members go, with parts of a checkpoint that they may not have written: who gives up what, and who saves instead."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cordee import trainer
from cordee.trainer import data, elastic, nn, optim
from cordee.trainer.checkpoint import load_latest, writer
from cordee.trainer.checkpoint.layout import step_folders
from cordee.trainer.checkpoint.storage import LocalStorage, StorageError
from cordee.trainer.elastic import saving
from cordee.trainer.elastic.parting import save_before_leaving
from cordee.trainer.elastic.position import Position
from cordee.trainer.elastic.protocols import CheckpointPolicy, PeerLostError, World
from cordee.trainer.elastic.saving import Place, Saver
from cordee.trainer.elastic.solo import SoloCommunicator, SoloMembership
from cordee.trainer.elastic.state import TrainingState

SHARDS, POSITION = 8, Position(step=5)


class Member(SoloMembership):
    """Is asked to leave, with all others."""

    def __init__(self, folder: Path, grace_seconds: float) -> None:
        self.checkpoint_policy = CheckpointPolicy(str(folder), interval_seconds=3600.0)
        self.grace_seconds = grace_seconds
        self.saved: list[int] = []
        self.notes: list[str] = []
        self.told = threading.Event()

    def leaving(self) -> bool:
        return True

    def change_pending(self) -> bool:
        return True

    def checkpointed(self, step: int, where: str, size_bytes: int, seconds: float) -> None:
        self.saved.append(step)
        self.told.set()

    def note(self, kind: str, message: str, seconds: float = 0.0) -> None:
        self.notes.append(message)
        self.told.set()


class Meeting(SoloCommunicator):
    """One exchange, which ends when all are there, and breaks when one is gone."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, gone: list[int]) -> None:
        self.rank, self.size, self.barrier, self.gone = rank, size, barrier, gone

    def all_reduce(self, partials: Mapping[Any, Any], out: Any, *, num_shards: int, header: bytes = b"") -> list[bytes]:
        try:
            self.barrier.wait(60)
        except threading.BrokenBarrierError:
            raise PeerLostError("broken", self.gone) from None
        return [header] * self.size

    def abort(self, reason: str) -> None:
        self.barrier.abort()


@dataclass
class Crew:
    """The members of one world, each a thread of its own while it leaves."""

    folder: Path
    size: int
    grace_seconds: float = 60.0
    gone: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size)
        self.members = [Member(self.folder, self.grace_seconds) for _ in range(self.size)]
        self.savers = [saver_of(member) for member in self.members]
        self.lost: dict[int, PeerLostError | None] = {}

    def world(self, rank: int) -> World:
        meeting = Meeting(rank, self.size, self.barrier, self.gone)
        names = tuple(f"w{each}" for each in range(self.size))
        return World(3, rank, self.size, 5, (5,) * self.size, meeting, names)

    def leave(self, rank: int) -> None:
        self.lost[rank] = save_before_leaving(
            self.savers[rank], self.members[rank], self.world(rank), POSITION, num_shards=SHARDS
        )

    def leave_all(self, *, without: int | None = None, die: bool = True) -> None:
        """`without`: this one dies before its part is written, or else stands still."""
        threads = [threading.Thread(target=self.leave, args=(rank,)) for rank in range(self.size) if rank != without]
        for thread in threads:
            thread.start()
        if without is not None and die:
            assert eventually(lambda: self.barrier.n_waiting == self.size - 1), "the others' parts are not written"
            self.gone.append(without)
            self.barrier.abort()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "it waits for one that never comes"

    @property
    def saved(self) -> list[list[int]]:
        return [member.saved for member in self.members]


def saver_of(member: Member) -> Saver:
    trainer.manual_seed(7)
    model = nn.Sequential(nn.Linear(5, 50), nn.Tanh(), nn.Linear(50, 3))
    dataset = data.TensorDataset(np.zeros((24, 5), np.float32), np.zeros(24, np.int64))
    loader = data.DataLoader(dataset, batch_size=8, shards=SHARDS, seed=2)
    run = elastic.Run(model, optim.Adam(model.parameters(), lr=0.05), loader)
    assert member.checkpoint_policy is not None
    return Saver(member.checkpoint_policy, TrainingState(run.model, run.optimizer, run.loader), member)


def parts_of(folder: Path) -> list[str]:
    """The parts of the only checkpoint there is, which is whole."""
    loaded = load_latest(LocalStorage(folder), lambda error: pytest.fail(str(error)))
    assert loaded is not None
    assert [each.step for each in step_folders(LocalStorage(folder).list())] == [loaded.step] == [5]
    return sorted(path.name for path in folder.rglob("part-*.safetensors"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cordee.trainer.checkpoint.parts.MIN_PART_BYTES", 1)
    monkeypatch.setattr("cordee.trainer.checkpoint.parts.MIN_CUT_BYTES", 64)
    monkeypatch.setattr("cordee.trainer.checkpoint.writer.HURRIED_SECONDS", 0.05)
    monkeypatch.setattr(saving, "STANDBY_SECONDS", 0.01)


# --- everybody leaves -------------------------------------------------------------------------------------------------


def test_all_that_leave_write_their_parts(tmp_path: Path) -> None:
    crew = Crew(tmp_path, 3)
    crew.leave_all()
    assert crew.saved == [[5], [], []]
    assert crew.lost == {0: None, 1: None, 2: None}
    assert parts_of(tmp_path) == [f"part-{number:05d}-of-00003-g3.safetensors" for number in range(3)]


def test_the_part_of_one_that_died_is_not_waited_for(tmp_path: Path) -> None:
    crew = Crew(tmp_path, 3)
    crew.leave_all(without=2)
    assert crew.saved == [[5], [], []]
    assert parts_of(tmp_path) == ["part-00000-of-00001-g3.safetensors"], "who commits holds the whole state"
    assert [error.ranks for error in crew.lost.values() if error is not None] == [(2,), (2,)]
    assert crew.members[0].notes == ["step 5: of its 3 parts these were not written: 2"]


def test_who_stands_still_is_waited_for_within_the_grace_period(tmp_path: Path) -> None:
    crew = Crew(tmp_path, 3, grace_seconds=0.2)
    crew.leave_all(without=1, die=False)
    assert crew.saved == [[5], [], []]
    assert parts_of(tmp_path) == ["part-00000-of-00001-g3.safetensors"]


def test_the_death_of_the_one_that_commits_loses_nothing(tmp_path: Path) -> None:
    """The others wait for a world that never comes: one of them saves, and all know."""
    crew = Crew(tmp_path, 4)
    crew.leave_all(without=0)
    assert crew.saved == [[], [], [], []]
    with ExitStack() as waiting:
        for rank in (3, 2, 1):
            waiting.enter_context(crew.savers[rank].standing_by(POSITION, Place(3, rank, 4), suspects=(0,)))
        for rank in (1, 2, 3):
            assert eventually(lambda rank=rank: crew.savers[rank]._whole_step == 5), "it does not know"
    assert parts_of(tmp_path)[0] == "part-00000-of-00001-g3.safetensors"
    assert [5] in crew.saved


def eventually(holds: Callable[[], bool]) -> bool:
    tick = threading.Event()
    return any(holds() or tick.wait(0.02) for _ in range(1500)) or holds()


# --- those that stand by ----------------------------------------------------------------------------------------------


def test_one_of_those_that_wait_for_a_world_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "TURN_BYTES_PER_SECOND", 1.0)  # each is given the longest time
    crew = Crew(tmp_path, 3)
    with ExitStack() as waiting:
        for rank in (0, 1, 2):
            waiting.enter_context(crew.savers[rank].standing_by(POSITION, Place(3, rank, 3)))
        assert crew.members[0].told.wait(30)
    for saver in crew.savers:
        saver.wait()
    assert crew.saved == [[5], [], []]


@pytest.mark.parametrize(
    ("rank", "suspects", "turns"), [(0, (), 0), (1, (), 1), (2, (0,), 1), (2, (1, 0), 0), (2, (3,), 2), (9, (), 3)]
)
def test_a_turn_for_each_before_it_that_may_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, suspects: tuple[int, ...], turns: int
) -> None:
    asked: list[int] = []
    (saver,) = Crew(tmp_path, 1).savers
    turn_seconds = saver._turn_seconds
    monkeypatch.setattr(saver, "_turn_seconds", lambda num: (asked.append(num), turn_seconds(num))[1])
    with saver.standing_by(POSITION, Place(3, rank, 10), suspects=suspects):
        pass
    assert turn_seconds(asked[0]) == pytest.approx(turns * turn_seconds(1))


def test_nobody_saves_what_is_on_storage_but_says_so(tmp_path: Path) -> None:
    """Who saved it may be gone, and its word with it."""
    crew = Crew(tmp_path, 3)
    crew.leave_all()
    with crew.savers[1].standing_by(POSITION, Place(3, 1, 3), suspects=(0,)):
        assert crew.members[1].told.wait(30)
    crew.savers[1].wait()
    assert crew.saved == [[5], [5], []]
    assert len(parts_of(tmp_path)) == 3


def test_who_has_restored_says_that_its_state_is_on_storage(tmp_path: Path) -> None:
    """It waits with a step that nobody has saved in this world, and need not."""
    crew = Crew(tmp_path, 2)
    crew.leave_all()
    member = Member(tmp_path, 60.0)
    saver = saver_of(member)
    restored = saver.restore(first_world=False)
    assert restored is not None
    assert restored.step == 5
    member.told.clear()
    with saver.standing_by(POSITION, Place(4, 0, 1)):
        assert member.told.wait(30)
    member.told.clear()
    with saver.standing_by(POSITION, Place(4, 0, 1)):  # once is enough
        assert not member.told.wait(0.2)
    assert member.saved == [5]


def test_who_cannot_save_tries_again_until_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "RETRY_SECONDS", 0.01)
    place, away = tmp_path / "mount" / "checkpoints", tmp_path / "mount"
    away.write_text("there is a file where a folder is to be")
    crew = Crew(place, 1)
    member, saver = crew.members[0], crew.savers[0]
    with saver.standing_by(POSITION, Place(3, 0, 1)):
        assert eventually(lambda: len(member.notes) >= 3), "it has given up"
        assert not member.saved
        away.unlink()
        assert eventually(lambda: member.saved == [5])
    assert parts_of(place) == ["part-00000-of-00001-g3.safetensors"]


def test_who_waits_for_others_that_may_go_on_with_its_state_saves_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member that met for a change: whoever leaves may leave too few."""
    monkeypatch.setattr(Member, "leaving", lambda _: False)
    monkeypatch.setattr(saving, "CHANGE_SECONDS", 0.3)
    crew = Crew(tmp_path, 3)
    with crew.savers[0].between_worlds(POSITION, Place(3, 0, 3), (), holds_alone=False):
        assert not crew.members[0].told.wait(0.1)
        assert crew.members[0].told.wait(30)
    assert crew.saved == [[5], [], []]


@pytest.mark.parametrize("waited", [True, False])
def test_who_is_told_to_go_saves_if_it_has_waited_for_a_world_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waited: bool
) -> None:
    """Where the others go on with its state, they do so at once."""

    class Told(BaseException):
        pass

    monkeypatch.setattr(Member, "leaving", lambda _: False)
    monkeypatch.setattr(saving, "STANDBY_SECONDS", 0.05 if waited else 60.0)
    monkeypatch.setattr(saving, "CHANGE_SECONDS", 60.0)
    crew = Crew(tmp_path, 2)
    with pytest.raises(Told), crew.savers[0].between_worlds(POSITION, Place(3, 0, 2), (), holds_alone=False):
        threading.Event().wait(0.1)
        raise Told
    assert crew.saved == [[5] if waited else [], []]


# --- a world goes on without some -----------------------------------------------------------------------------------


def test_a_checkpoint_is_given_up_when_the_owner_of_a_part_is_no_member_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cordee.trainer.checkpoint.writer.DEPARTED_FACTOR", 0.0)
    for lost in (True, False):  # killed; or drained, and killed before it was through
        crew = Crew(tmp_path, 3)
        saver = crew.savers[0]
        saver.joined(crew.world(0))
        saver.save(POSITION, Place.of(crew.world(0)))
        crew.savers[1].save(POSITION, Place.of(crew.world(1)))
        crew.savers[1].wait()
        saver.left(lost=lost)
        solo = SoloCommunicator()
        saver.joined(World(4, 0, 2, 5, (5, 5), solo, ("w0", "w1")))
        assert crew.members[0].told.wait(30)
        saver.wait()
        assert crew.members[0].notes == ["step 5: of its 3 parts these were not written: 2"]
        assert saver.due(6), "the next one is to be made soon"


def test_the_parts_of_those_that_stay_are_waited_for(tmp_path: Path) -> None:
    crew = Crew(tmp_path, 3)
    saver = crew.savers[0]
    saver.save(POSITION, Place.of(crew.world(0)))
    crew.savers[2].save(POSITION, Place.of(crew.world(2)))
    crew.savers[2].wait()  # its part is there: it may go
    saver.left(lost=True)
    saver.joined(World(4, 0, 2, 5, (5, 5), SoloCommunicator(), ("w0", "w1")))
    assert not crew.members[0].told.wait(0.3), "the one that stays may be slow"
    crew.savers[1].save(POSITION, Place.of(crew.world(1)))
    saver.wait()
    assert crew.saved == [[5], [], []]
    assert len(parts_of(tmp_path)) == 3


def test_the_writer_that_leaves_does_not_wait_beyond_its_grace(tmp_path: Path) -> None:
    crew = Crew(tmp_path, 2, grace_seconds=0.1)
    crew.savers[0].save(POSITION, Place.of(crew.world(0)))
    crew.savers[0].wait_leaving(Place.of(crew.world(0)))
    assert crew.members[0].notes == ["step 5: of its 2 parts these were not written: 1"]


@pytest.mark.parametrize("size", [1, 3])
def test_storage_that_cannot_be_opened_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    def refuse(location: str) -> None:
        raise StorageError(f"{location} needs a package that is not there")

    crew = Crew(tmp_path, size)
    monkeypatch.setattr(writer, "open_storage", refuse)
    for member in crew.members[: size if size == 1 else 0]:
        monkeypatch.setattr(member, "leaving", lambda: False)  # nobody keeps it
    crew.leave_all()
    assert not any(crew.saved)
