"""A checkpoint is whole or absent, and a damaged one is passed over."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from cordee.trainer.array import bfloat16
from cordee.trainer.checkpoint import CheckpointError, CheckpointWriter, StorageError, load_latest, load_weights
from cordee.trainer.checkpoint.layout import MANIFEST, Attempt, step_folders
from cordee.trainer.checkpoint.opening import open_storage
from cordee.trainer.checkpoint.parts import MIN_CUT_BYTES, Shape, count_parts, cut_arrays, deal, join
from cordee.trainer.checkpoint.reader import load_checkpoint
from cordee.trainer.checkpoint.storage import LocalStorage
from cordee.trainer.checkpoint.writer import PATIENCE_SECONDS, AbandonedError, Snapshot, commit, tidy, write_part
from cordee.trainer.elastic.position import Position
from cordee.trainer.elastic.protocols import CheckpointPolicy
from cordee.trainer.elastic.saving import Place, Saver
from cordee.trainer.elastic.weights import weights_sha256, write_weights
from cordee.trainer.interop.safetensors import save_safetensors

sys.path.insert(0, str(Path(__file__).parent))
from checkpoint_support import arrays, refuse, rows_of, save, snapshots


class Told:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.failures: list[tuple[int, Exception]] = []

    def written(self, step: int, where: str, num_bytes: int, seconds: float) -> None:
        self.steps.append(step)

    def failed(self, step: int, error: Exception) -> None:
        self.failures.append((step, error))


def committed(root: Path) -> list[int]:
    return [folder.step for folder in step_folders(LocalStorage(root).list()) if folder.committed is not None]


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def test_the_weights_file_holds_what_its_fingerprint_says(tmp_path: Path) -> None:
    weights = {**arrays(1), "transposed": np.arange(6.0).reshape(2, 3).T}
    write_weights(tmp_path / "model.safetensors", weights, weights_sha256(weights))
    assert weights_sha256(load_file(tmp_path / "model.safetensors")) == weights_sha256(weights)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_a_state_comes_back_bit_for_bit(tmp_path: Path, world_size: int) -> None:
    save(LocalStorage(tmp_path), 7, world_size=world_size, meta={"samples": 448})
    loaded = load_latest(LocalStorage(tmp_path), refuse)
    assert loaded is not None
    assert (loaded.step, loaded.meta) == (7, {"samples": 448})
    assert_same(loaded.arrays, arrays(7))


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert load_latest(LocalStorage(tmp_path / "never made"), refuse) is None


# --- parts --------------------------------------------------------------------------------------------------------

SHAPES = st.dictionaries(
    st.text("abc.[]:0", min_size=1, max_size=6),
    st.builds(
        lambda rows, width: Shape(rows, max(rows, 1) * width), st.integers(0, 40), st.sampled_from([0, 4, 1 << 17])
    ),
    max_size=12,
)


@given(SHAPES, st.integers(1, 9))
def test_parts_hold_every_row_once_and_nearly_the_same_bytes(shapes: dict[str, Shape], num_parts: int) -> None:
    parts = deal(shapes, num_parts)
    assert parts == deal(dict(reversed(shapes.items())), num_parts)
    rows: dict[str, list[tuple[int, int]]] = {}
    sizes = []
    for part in parts:
        size = 0
        for piece in part:
            shape = shapes[piece.name]
            end = shape.rows if piece.end is None else piece.end
            rows.setdefault(piece.name, []).append((piece.begin, end))
            size += shape.num_bytes if piece.end is None else shape.num_bytes // shape.rows * (end - piece.begin)
        sizes.append(size)
    assert rows.keys() == shapes.keys()
    for name, ranges in rows.items():
        assert ranges[0][0] == 0
        assert ranges[-1][1] == shapes[name].rows
        assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))
    total = sum(shape.num_bytes for shape in shapes.values())
    assert sum(sizes) == total
    # A boundary is moved by less than an array that stays whole, or a row of one that is cut, on either side.
    largest = max((s.num_bytes // s.rows if s.rows > 1 else s.num_bytes for s in shapes.values()), default=0)
    assert all(abs(size - total / num_parts) <= 2 * max(MIN_CUT_BYTES, largest) + 1 for size in sizes)


@given(st.integers(1, 5), st.lists(st.integers(0, 400_000), max_size=6))
@settings(max_examples=30, deadline=None)
def test_cut_arrays_are_joined_again(num_parts: int, lengths: list[int]) -> None:
    state = {f"a{index}": np.arange(length, dtype=np.float64) for index, length in enumerate(lengths)}
    shapes = {name: Shape(len(array), array.nbytes) for name, array in state.items()}
    parts = deal(shapes, num_parts)
    pieces = {piece.key: rows_of(state, piece) for part in parts for piece in part}
    cut = cut_arrays(shapes, parts)
    assert_same(join(pieces, cut), state)
    for name in cut:
        lost = next(key for key in pieces if key.startswith(f"{name}["))
        with pytest.raises(ValueError, match="rows"):
            join({key: array for key, array in pieces.items() if key != lost}, cut)


def test_a_small_state_has_few_parts() -> None:
    assert count_parts({"a": Shape(4, 16)}, 16) == 1
    assert count_parts({}, 16) == 1
    assert count_parts({"a": Shape(1000, 1 << 30)}, 16) == 16


# --- damage -------------------------------------------------------------------------------------------------------


def part_of(folder: Path) -> Path:
    return max(folder.glob("*.safetensors"), key=lambda path: path.stat().st_size)


def damage_a_byte(folder: Path) -> None:
    data = bytearray(part_of(folder).read_bytes())
    data[-1] ^= 1
    part_of(folder).write_bytes(data)


def truncate(folder: Path) -> None:
    os.truncate(part_of(folder), 20)


def remove_a_part(folder: Path) -> None:
    part_of(folder).unlink()


def garble_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")


def list_for_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("[]")


def change_the_manifest(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    document = {name: value for name, value in {**manifest, **changes}.items() if name != "sha256"}
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    document["sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(document))


def change_a_number(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace('"samples": 448', '"samples": 449'))
    assert (folder / MANIFEST).read_text() != text


def change_the_format(folder: Path) -> None:
    change_the_manifest(folder, format="cordee-checkpoint/99")


def forget_a_part(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["parts"].popitem()
    change_the_manifest(folder, parts=manifest["parts"], cut={"model.weight": 200})


@pytest.mark.parametrize(
    "damage",
    [
        damage_a_byte,
        truncate,
        remove_a_part,
        garble_the_manifest,
        list_for_manifest,
        change_the_format,
        change_a_number,
        forget_a_part,
    ],
)
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    storage = LocalStorage(tmp_path)
    save(storage, 1)
    newest = save(storage, 2, world_size=2, meta={"samples": 448})
    damage(tmp_path / newest)
    reported: list[CheckpointError] = []
    loaded = load_latest(storage, reported.append)
    assert loaded is not None
    assert loaded.step == 1
    assert len(reported) == 1
    assert newest in str(reported[0])


def test_a_step_without_a_manifest_is_unfinished_not_damaged(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    save(storage, 1)
    (tmp_path / save(storage, 2) / MANIFEST).unlink()
    loaded = load_latest(storage, refuse)
    assert loaded is not None
    assert loaded.step == 1


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", "a/b", ".hidden", ""])
def test_a_manifest_cannot_point_out_of_its_folder(tmp_path: Path, name: str) -> None:
    folder = save(LocalStorage(tmp_path), 1)
    (tmp_path / "secret").write_text("x")
    sha256 = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    change_the_manifest(tmp_path / folder, parts={name: {"bytes": 1, "sha256": sha256}})
    with pytest.raises(CheckpointError, match="outside its folder"):
        load_checkpoint(LocalStorage(tmp_path), folder)


@pytest.mark.parametrize("name", ["../a", "a/../b", "/a", "", "a//b", ".", "a/.", "a b", "a\0b"])
def test_storage_is_confined_to_its_root(tmp_path: Path, name: str) -> None:
    storage = LocalStorage(tmp_path / "root")
    for act in (lambda: storage.put(name, [b"x"]), lambda: storage.get(name), lambda: storage.delete([name])):
        with pytest.raises(ValueError, match="name of an object"):
            act()


def test_a_link_does_not_lead_out_of_the_storage(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "step-000000000001").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a link"):
        LocalStorage(tmp_path / "root").put("step-000000000001/a", [b"x"])


# --- whole or absent ----------------------------------------------------------------------------------------------


class KilledError(BaseException):
    """The process is gone."""


class Mortal(LocalStorage):
    """Storage whose user is killed at its `until`-th change, before it or half-way through it."""

    def __init__(self, root: Path, until: int, *, midway: bool) -> None:
        super().__init__(root)
        self.left = until
        self.midway = midway
        self.root = root

    def _live(self) -> bool:
        self.left -= 1
        if self.left < 0:
            raise KilledError
        return self.left > 0 or not self.midway

    def put(self, name: str, pieces: Sequence[bytes | memoryview]) -> int:
        if not self._live():
            leftover = self.root / name
            leftover.parent.mkdir(parents=True, exist_ok=True)
            leftover.with_name(f".{leftover.name}.1.abcd.tmp").write_bytes(bytes(pieces[0])[:3])
            raise KilledError
        return super().put(name, pieces)

    def delete(self, names: Any) -> None:
        names = list(names)
        if not self._live():
            super().delete(names[: len(names) // 2])
            raise KilledError
        super().delete(names)


@given(
    until=st.integers(0, 16),
    midway=st.booleans(),
    world_size=st.integers(1, 4),
    old=st.lists(st.sampled_from([10, 20, 30, 40]), unique=True).map(sorted),
    keep=st.integers(1, 2),
)
@settings(max_examples=60, deadline=None)
def test_killed_at_any_write_leaves_it_whole_or_absent(
    tmp_path_factory: pytest.TempPathFactory, until: int, midway: bool, world_size: int, old: list[int], keep: int
) -> None:
    root = tmp_path_factory.mktemp("checkpoints")
    for step in old:
        save(LocalStorage(root), step, world_size=2)
    storage = Mortal(root, until, midway=midway)
    members = snapshots(40, arrays(40), world_size, generation=2)
    committed_it = False
    try:
        records = [write_part(storage, member) for member in members]
        manifest = commit(storage, members[0], records)
        committed_it = True
        tidy(storage, manifest, keep=keep, keep_seconds=0)
    except KilledError:
        pass
    loaded = load_latest(LocalStorage(root), refuse)  # nothing that looks committed is damaged
    newest = max([*old, 40] if committed_it else old, default=None)
    assert (None if loaded is None else loaded.step) == newest
    if loaded is not None:
        assert_same(loaded.arrays, arrays(loaded.step))
    # The next one that is committed tidies up whatever was left.
    again = snapshots(50, arrays(50), world_size, generation=3)
    manifest = commit(LocalStorage(root), again[0], [write_part(LocalStorage(root), member) for member in again])
    for path in root.rglob("*"):
        if path.is_file() and "step-000000000050" not in str(path):
            os.utime(path, (1, 1))
    tidy(LocalStorage(root), manifest, keep=1, keep_seconds=0)
    assert sorted(path.name for path in root.iterdir()) == ["step-000000000050"]
    assert len(list(root.rglob("*.*"))) == world_size + 1


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("a", [b"old"])

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "the disk fails")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="the disk fails"):
        storage.put("a", [b"new"])
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert storage.get("a").tobytes() == b"old"


# --- what is kept -------------------------------------------------------------------------------------------------


def age(root: Path, step: int, seconds: float) -> None:
    for path in (root / f"step-{step:012d}").iterdir():
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - seconds))


def test_the_newest_are_kept_and_the_young(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    for step, seconds in ((1, 5000), (2, 4000), (3, 3000), (4, 2000)):
        save(storage, step)
        age(tmp_path, step, seconds)
    for keep, keep_seconds, left in ((4, 0, [2, 3, 4, 5]), (1, 3600, [3, 4, 5]), (2, 1000, [4, 5]), (1, 0, [5])):
        members = snapshots(5, arrays(5))
        manifest = commit(storage, members[0], [write_part(storage, members[0])])
        tidy(storage, manifest, keep=keep, keep_seconds=keep_seconds)
        assert committed(tmp_path) == left


def test_an_unfinished_step_goes_when_nobody_can_be_at_it_any_more(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    for step in (1, 2, 9):
        write_part(storage, snapshots(step, arrays(step), 2)[1])
    age(tmp_path, 1, PATIENCE_SECONDS + 60)
    age(tmp_path, 9, PATIENCE_SECONDS + 60)
    members = snapshots(5, arrays(5))
    tidy(storage, commit(storage, members[0], [write_part(storage, members[0])]), keep=3, keep_seconds=0)
    assert [folder.step for folder in step_folders(storage.list())] == [2, 5, 9]  # 9 is not reached yet


def test_a_damaged_checkpoint_does_not_count_among_those_that_are_kept(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    truncate(tmp_path / save(storage, 100))
    told = Told()
    writer = CheckpointWriter(str(tmp_path), keep=1, listener=told)
    for step in (10, 20):  # the run has begun again from an earlier step
        writer.save(snapshots(step, arrays(step))[0])
        writer.wait()
    loaded = load_latest(storage, lambda _: None)
    assert loaded is not None
    assert loaded.step == 20
    assert committed(tmp_path) == [20, 100]


def test_a_step_that_is_reached_again_replaces_the_damaged_one(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    truncate(tmp_path / save(storage, 3, world_size=2))
    age(tmp_path, 3, PATIENCE_SECONDS + 60)
    members = snapshots(3, arrays(3), generation=2)
    tidy(storage, commit(storage, members[0], [write_part(storage, members[0])]), keep=1, keep_seconds=0)
    loaded = load_latest(storage, refuse)
    assert loaded is not None
    assert_same(loaded.arrays, arrays(3))
    assert sorted(path.name for path in (tmp_path / "step-000000000003").iterdir()) == [
        MANIFEST,
        "part-00000-of-00001-g2.safetensors",
    ]


def test_what_writers_of_the_first_format_left_is_read_and_removed(tmp_path: Path) -> None:
    old = tmp_path / "step-000000000004"
    old.mkdir()
    save_safetensors(arrays(4), old / "state.safetensors")
    data = (old / "state.safetensors").read_bytes()

    files = {"state.safetensors": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}}
    manifest = {"format": "cordee-checkpoint/1", "step": 4, "created": 1.0, "files": files, "meta": {"samples": 3}}
    (old / MANIFEST).write_text(json.dumps(manifest))
    unfinished = tmp_path / ".step-000000000003.4711.abcd.tmp"
    unfinished.mkdir()
    (unfinished / "state.safetensors").write_bytes(b"x")
    os.utime(unfinished / "state.safetensors", (1, 1))
    storage = LocalStorage(tmp_path)
    loaded = load_latest(storage, refuse)
    assert loaded is not None
    assert (loaded.step, loaded.meta) == (4, {"samples": 3})
    assert_same(loaded.arrays, arrays(4))
    members = snapshots(5, arrays(5))
    tidy(storage, commit(storage, members[0], [write_part(storage, members[0])]), keep=1, keep_seconds=0)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000000005"]


# --- beside training ----------------------------------------------------------------------------------------------


def test_members_write_their_parts_and_one_commits(tmp_path: Path) -> None:
    told = [Told() for _ in range(3)]
    writers = [CheckpointWriter(str(tmp_path), keep=2, listener=each) for each in told]
    flushed: list[int] = []
    writers[0].before_commit.append(flushed.append)
    for step in range(1, 5):
        for writer, snapshot in zip(writers, snapshots(step, arrays(step), 3), strict=True):
            writer.save(snapshot)
        for writer in writers:
            writer.wait()
    assert [each.failures for each in told] == [[], [], []]
    assert [each.steps for each in told] == [[1, 2, 3, 4], [], []]
    assert flushed == [1, 2, 3, 4]
    assert committed(tmp_path) == [3, 4]
    assert not list(tmp_path.rglob("part-*.json"))  # the records are in the manifest


def test_a_hook_that_fails_makes_the_checkpoint_fail(tmp_path: Path) -> None:
    told = Told()
    writer = CheckpointWriter(str(tmp_path), keep=1, listener=told)

    def broken(step: int) -> None:
        raise OSError(f"the ledger of step {step} cannot be written")

    writer.before_commit.append(broken)
    writer.save(snapshots(1, arrays(1))[0])
    writer.wait()
    assert "the ledger of step 1" in str(told.failures[0][1])
    assert committed(tmp_path) == []


def test_saving_does_not_wait_for_the_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, reached = threading.Event(), threading.Event()
    put = LocalStorage.put

    def slow(self: LocalStorage, name: str, pieces: Sequence[bytes | memoryview]) -> int:
        reached.set()
        gate.wait(30)
        return put(self, name, pieces)

    monkeypatch.setattr(LocalStorage, "put", slow)
    told = Told()
    writer = CheckpointWriter(str(tmp_path), keep=1, listener=told)
    writer.save(snapshots(1, arrays(1))[0])
    assert reached.wait(30)
    assert writer.busy
    assert not told.steps
    gate.set()
    writer.wait()
    assert told.steps == [1]
    assert not writer.busy


def test_a_part_that_never_comes_ends_the_wait_when_its_world_is_gone(tmp_path: Path) -> None:
    told = Told()
    writer = CheckpointWriter(str(tmp_path), keep=1, listener=told)
    members = snapshots(8, arrays(8), 3, generation=5)
    writer.save(members[0])
    write_part(LocalStorage(tmp_path), members[2])
    writer.hurry(4, 0.0)  # another world's end
    assert writer.busy
    writer.hurry(5, 0.1)
    writer.wait()
    [(step, error)] = told.failures
    assert step == 8
    assert isinstance(error, AbandonedError)
    assert "of its 3 parts these were not written: 1" in str(error)
    assert committed(tmp_path) == []


def test_after_a_loops_end_the_parts_of_others_have_their_time_again(tmp_path: Path) -> None:
    told = Told()
    writer = CheckpointWriter(str(tmp_path), keep=1, listener=told)
    assert writer.finish(0.0, 5.0)
    members = snapshots(8, arrays(8), 2)
    writer.save(members[0])
    while not list(tmp_path.rglob("part-00000-*.safetensors")):
        assert writer.busy
        time.sleep(0.01)
    time.sleep(0.1)
    write_part(LocalStorage(tmp_path), members[1])
    writer.wait()
    assert (told.steps, told.failures) == ([8], [])


def test_an_attempt_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    told = Told()
    writer = CheckpointWriter(str(tmp_path), keep=1, listener=told)
    members = snapshots(8, arrays(8), 3, generation=5)
    write_part(LocalStorage(tmp_path), members[2])
    writer.hurry(5, 0.0)
    writer.save(members[0])
    writer.wait()
    assert len(told.failures) == 1
    assert list(tmp_path.rglob("*.*")) == []


def test_a_member_that_cannot_write_its_part_does_not_make_every_step_a_checkpoint(tmp_path: Path) -> None:
    run = SimpleNamespace(notes=[])
    membership: Any = SimpleNamespace(note=lambda *words: run.notes.append(words))
    saver = Saver(CheckpointPolicy(str(tmp_path), interval_seconds=1000), cast("Any", None), membership)
    members = snapshots(8, arrays(8), 2)
    with contextlib.suppress(MemoryError):
        write_part(LocalStorage(tmp_path), Snapshot(members[1].attempt, 1, MemoryError("none")))
    saver._writer.save(members[0])
    saver.wait()
    assert "part 1 of 2 failed" in run.notes[0][1]
    assert not saver.due(9)  # at the next interval
    saver._writer.hurry(1, 0.0)
    saver._writer.save(members[0])
    saver.wait()
    assert "not written: 1" in run.notes[1][1]
    assert saver.due(9)  # who was to write it is gone


def test_who_leaves_last_saves_what_may_be_half_written(tmp_path: Path) -> None:
    values = {name: np.full(40_000, 3.5) for name in ("model.a", "model.b")}
    state: Any = SimpleNamespace(views=lambda: values, scalars=dict)
    membership: Any = SimpleNamespace(checkpointed=lambda *_: None, note=lambda *_: None)
    saver = Saver(CheckpointPolicy(str(tmp_path)), state, membership)
    position, place = Position(step=7), Place(generation=4, rank=1, size=2)
    saver.save(position, place)
    assert committed(tmp_path) == []  # rank 0 is gone, with its part
    saver.save_last(position, place)
    assert committed(tmp_path) == [7]
    before = sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*.*"))
    saver.save_last(position, place)
    assert sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")) == before, "it is there already"
    loaded = load_latest(LocalStorage(tmp_path), refuse)
    assert loaded is not None
    assert all((loaded.arrays[name] == array).all() for name, array in values.items())


def test_a_member_without_memory_ends_the_wait_at_once(tmp_path: Path) -> None:
    told = [Told(), Told()]
    writers = [CheckpointWriter(str(tmp_path), keep=1, listener=each) for each in told]
    members = snapshots(8, arrays(8), 2)
    writers[0].save(members[0])
    writers[1].save(Snapshot(members[1].attempt, 1, MemoryError("no memory for a copy of the state")))
    for writer in writers:
        writer.wait()
    assert isinstance(told[1].failures[0][1], MemoryError)
    assert "part 1 of 2 failed: MemoryError: no memory" in str(told[0].failures[0][1])


def test_records_of_another_generation_are_nobodys(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    write_part(storage, snapshots(8, arrays(8), 2, generation=1)[1])
    told = Told()
    writer = CheckpointWriter(str(tmp_path), keep=1, listener=told)
    writer.hurry(2, 0.0)
    writer.save(snapshots(8, arrays(8), 2, generation=2)[0])
    writer.wait()
    assert isinstance(told.failures[0][1], AbandonedError)
    assert Attempt(8, 2, 2).part(1) == "part-00001-of-00002-g2.safetensors"


def test_a_failing_disk_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "a file, not a folder"
    target.write_text("")
    told = Told()
    writer = CheckpointWriter(str(target), keep=1, listener=told)
    writer.save(snapshots(9, arrays(9))[0])
    writer.wait()
    assert [step for step, _ in told.failures] == [9]


def test_a_checkpoint_that_would_fill_the_disk_is_not_begun(tmp_path: Path) -> None:
    endless = memoryview(np.broadcast_to(np.uint8(0), (1,))).cast("B")

    class Endless(bytes):
        def __len__(self) -> int:
            return 1 << 50

    with pytest.raises(OSError, match="are free") as refused:
        LocalStorage(tmp_path).put("step-000000000001/part", [endless, Endless()])
    assert refused.value.errno == errno.ENOSPC
    assert not list(tmp_path.rglob("part*"))


def test_two_savers_of_the_same_state_do_not_disturb_each_other(tmp_path: Path) -> None:
    told = [Told(), Told()]
    writers = [CheckpointWriter(str(tmp_path), keep=2, listener=each) for each in told]
    for step in range(1, 12):
        for writer in writers:  # survivors of a loss, each for itself, at the same time
            writer.save(snapshots(step, arrays(step))[0])
        for writer in writers:
            writer.wait()
    assert [each.failures for each in told] == [[], []]
    loaded = load_latest(LocalStorage(tmp_path), refuse)
    assert loaded is not None
    assert loaded.step == 11
    assert committed(tmp_path) == [10, 11]


def test_half_precision_survives_a_checkpoint(tmp_path: Path) -> None:
    values = np.array([1.5, -0.0, 3e38], bfloat16)
    storage = LocalStorage(tmp_path)
    state = {"model.w": values, "model.h": values.astype(np.float16)}
    assert_same(load_checkpoint(storage, save(storage, 3, state, 2)).arrays, state)


# --- weights, and places ------------------------------------------------------------------------------------------


def test_weights_come_from_a_file_a_step_or_a_root(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "root")
    save(storage, 1)
    newest = save(storage, 2, world_size=2)
    weights = {"weight": arrays(2)["model.weight"], "count": arrays(2)["model.count"]}
    save_safetensors(weights, tmp_path / "my weights.safetensors")
    for place in ("root", f"root/{newest}", "my weights.safetensors"):
        for location in (str(tmp_path / place), f"{tmp_path / place}/".replace("safetensors/", "safetensors")):
            found, where = load_weights(location, refuse)
            assert_same(found, weights)
            assert where in (str(tmp_path / "root" / newest), str(tmp_path / "my weights.safetensors"))
    truncate(tmp_path / "root" / newest)
    reported: list[CheckpointError] = []
    found, where = load_weights((tmp_path / "root").as_uri(), reported.append)
    assert where.endswith("step-000000000001")
    assert len(reported) == 1
    for place in ("nowhere", "nowhere/a.safetensors"):
        with pytest.raises(CheckpointError, match=r"no checkpoint that is whole|cannot be read"):
            load_weights(str(tmp_path / place), refuse)


@pytest.mark.parametrize(
    "location", ["ftp://a/b", "s3://", "s3://key:secret@bucket/x", "s3://b/x?y=z", "file://host/x"]
)
def test_a_location_that_is_none_is_a_sentence(location: str) -> None:
    with pytest.raises(ValueError, match=r"give|names no"):
        open_storage(location)


def test_urls_without_the_package_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(StorageError, match=r"pip install 'cordee\[storage\]'"):
        open_storage("s3://bucket/prefix")
