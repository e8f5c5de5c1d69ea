"""A checkpoint is whole or absent, and a damaged one is passed over."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from cordee.trainer.array import bfloat16
from cordee.trainer.checkpoint import CheckpointError, CheckpointWriter, load_latest
from cordee.trainer.checkpoint.layout import MANIFEST, STATE_FILE, step_directories
from cordee.trainer.checkpoint.reader import load_checkpoint
from cordee.trainer.checkpoint.writer import write_checkpoint
from cordee.trainer.elastic.weights import weights_sha256, write_weights
from cordee.trainer.files import alone_in


def arrays(step: int) -> dict[str, np.ndarray]:
    return {
        "model.weight": np.arange(6, dtype=np.float32).reshape(2, 3) + step,
        "model.count": np.array(step, dtype=np.int64),
        "optimizer.none": np.zeros((0, 4)),
    }


def refuse(error: CheckpointError) -> None:
    raise error


def test_the_weights_file_holds_what_its_fingerprint_says(tmp_path: Path) -> None:
    weights = {**arrays(1), "transposed": np.arange(6.0).reshape(2, 3).T}
    write_weights(tmp_path / "model.safetensors", weights, weights_sha256(weights))
    assert weights_sha256(load_file(tmp_path / "model.safetensors")) == weights_sha256(weights)


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 7, arrays(7), {"samples": 448})
    loaded = load_latest(tmp_path, refuse)
    assert loaded is not None
    assert (loaded.step, loaded.meta) == (7, {"samples": 448})
    for name, array in arrays(7).items():
        np.testing.assert_array_equal(loaded.arrays[name], array)
        assert loaded.arrays[name].dtype == array.dtype


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "never made", refuse) is None


def damage_a_byte(folder: Path) -> None:
    data = bytearray((folder / STATE_FILE).read_bytes())
    data[-1] ^= 1
    (folder / STATE_FILE).write_bytes(data)


def truncate(folder: Path) -> None:
    os.truncate(folder / STATE_FILE, 20)


def remove_the_state(folder: Path) -> None:
    (folder / STATE_FILE).unlink()


def remove_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def garble_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")


def list_for_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("[]")


def change_the_format(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "format": "cordee-checkpoint/99"}))


@pytest.mark.parametrize(
    "damage",
    [
        damage_a_byte,
        truncate,
        remove_the_state,
        remove_the_manifest,
        garble_the_manifest,
        list_for_manifest,
        change_the_format,
    ],
)
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(tmp_path: Path, damage: object) -> None:
    write_checkpoint(tmp_path, 1, arrays(1), {})
    newest, _ = write_checkpoint(tmp_path, 2, arrays(2), {})
    damage(newest)  # type: ignore[operator]
    reported: list[CheckpointError] = []
    loaded = load_latest(tmp_path, reported.append)
    assert loaded is not None
    assert loaded.step == 1
    assert len(reported) == 1
    assert newest.name in str(reported[0])


def test_a_manifest_cannot_point_out_of_its_folder(tmp_path: Path) -> None:
    path, _ = write_checkpoint(tmp_path, 1, arrays(1), {})
    (tmp_path / "secret").write_text("x")
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["files"] = {
        "../secret": {"bytes": 1, "sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}
    }
    (path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


def test_writing_twice_leaves_one_whole_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 3, arrays(3), {})
    write_checkpoint(tmp_path, 3, arrays(3), {})
    assert [step for step, _ in step_directories(tmp_path)] == [3]
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000000003"]


def test_the_writer_keeps_the_newest_and_reports_each(tmp_path: Path) -> None:
    written: list[int] = []
    writer = CheckpointWriter(
        tmp_path, keep=2, on_written=lambda step, *_: written.append(step), on_failed=lambda _, error: refuse(error)
    )
    for step in range(1, 6):
        writer.save(step, arrays(step), {})
    writer.wait()
    assert written == [1, 2, 3, 4, 5]
    assert [step for step, _ in step_directories(tmp_path)] == [4, 5]


def test_a_damaged_checkpoint_does_not_count_among_those_that_are_kept(tmp_path: Path) -> None:
    path, _ = write_checkpoint(tmp_path, 100, arrays(100), {})
    truncate(path)
    writer = CheckpointWriter(
        tmp_path, keep=1, on_written=lambda *_: None, on_failed=lambda _, error: refuse(CheckpointError(str(error)))
    )
    for step in (10, 20):  # the run has begun again from an earlier step
        writer.save(step, arrays(step), {})
    writer.wait()
    loaded = load_latest(tmp_path, lambda _: None)
    assert loaded is not None
    assert loaded.step == 20
    assert [step for step, _ in step_directories(tmp_path)] == [20, 100]


def test_a_writer_killed_while_it_deletes_leaves_no_half_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path, 1, arrays(1), {})

    def killed(path: Path, **_: object) -> None:
        next(path.iterdir()).unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path, 1, arrays(1), {})
    for _, path in step_directories(tmp_path):
        load_checkpoint(path)


def test_saving_does_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def slow_write(*arguments: object) -> tuple[Path, int]:
        gate.wait(30)
        return write_checkpoint(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("cordee.trainer.checkpoint.writer.write_checkpoint", slow_write)
    failures: list[Exception] = []
    writer = CheckpointWriter(
        tmp_path, keep=1, on_written=lambda *_: None, on_failed=lambda _, error: failures.append(error)
    )
    writer.save(1, arrays(1), {})
    assert writer.busy
    gate.set()
    writer.wait()
    assert not failures
    assert not writer.busy


def test_a_failing_disk_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "a file, not a folder"
    target.write_text("")
    failures: list[int] = []
    writer = CheckpointWriter(
        target, keep=1, on_written=lambda *_: None, on_failed=lambda step, _: failures.append(step)
    )
    writer.save(9, arrays(9), {})
    writer.wait()
    assert failures == [9]


def test_a_checkpoint_that_would_fill_the_disk_is_not_begun(tmp_path: Path) -> None:
    endless = np.broadcast_to(np.float32(0), (1 << 50,))
    with pytest.raises(OSError, match="are free") as refused:
        write_checkpoint(tmp_path, 1, {"model.weight": endless}, {})
    assert refused.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_what_killed_writers_left_goes_with_the_next_checkpoint(tmp_path: Path) -> None:
    for step in (1, 3, 5):
        write_checkpoint(tmp_path, step, arrays(step), {})
        finished = tmp_path / f"step-{step:012d}"
        finished.rename(tmp_path / f".{finished.name}.4711.abcd.tmp")
    failures: list[Exception] = []
    writer = CheckpointWriter(
        tmp_path, keep=2, on_written=lambda *_: None, on_failed=lambda _step, error: failures.append(error)
    )
    writer.save(3, arrays(3), {})
    writer.wait()
    assert not failures
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "step-000000000003"]


def test_two_writers_of_a_folder_take_turns(tmp_path: Path) -> None:
    failures: list[tuple[int, Exception]] = []
    writers = [
        CheckpointWriter(
            tmp_path, keep=2, on_written=lambda *_: None, on_failed=lambda *failed: failures.append(failed)
        )
        for _ in range(2)
    ]
    for step in range(1, 20):
        for writer in writers:  # the same step, at the same time
            writer.save(step, arrays(step), {})
    for writer in writers:
        writer.wait()
    assert not failures
    loaded = load_latest(tmp_path, refuse)
    assert loaded is not None
    assert loaded.step == 19
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "step-000000000018", "step-000000000019"]


def test_a_stopped_writer_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with alone_in(tmp_path) as first, alone_in(tmp_path, patience_seconds=0.0) as second:
        assert (first, second) == (True, False)
    with alone_in(tmp_path, patience_seconds=0.0) as third:
        assert third


def test_half_precision_survives_a_checkpoint(tmp_path: Path) -> None:
    values = np.array([1.5, -0.0, 3e38], bfloat16)
    path, _ = write_checkpoint(tmp_path, 3, {"model.w": values, "model.h": values.astype(np.float16)}, {})
    arrays = load_checkpoint(path).arrays
    assert arrays["model.w"].dtype == bfloat16
    assert arrays["model.w"].tobytes() == values.tobytes()
    assert arrays["model.h"].dtype == np.float16
