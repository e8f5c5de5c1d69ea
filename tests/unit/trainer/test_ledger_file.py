"""The ledger's file, as one worker keeps it: of whatever a script loads, in a file that is there already, on a disk
that is full."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cordee.trainer import data, elastic, nn, optim
from cordee.trainer.elastic import ledger as ledger_module
from cordee.trainer.elastic import runtime
from cordee.trainer.elastic.ledger_entry import LedgerData, LedgerError, frames
from cordee.trainer.elastic.ledger_proof import Proof, prove
from cordee.trainer.elastic.solo import SoloMembership


def proven(path: Path, steps: int) -> Proof:
    proof = prove(path, steps=steps)
    assert proof.proven, proof.violations
    assert proof.steps == steps
    return proof


# --- a ledger of one's own ---


def make_own(path: Path | None, **options: Any) -> elastic.Run:
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
    ids=["shuffled", "two processes", "whole batches", "own order", "own batches", "shuffled stream", "stream"],
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
    run = make_own(None)
    train_own(run)
    assert list(tmp_path.iterdir()) == []


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


# --- a disk that is full ---


class Noting(SoloMembership):
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
        run = make_own(None)
        for step in run.steps(4):
            full[0] = full[0] or step.number == 4
            if step.number == 9 and recovers:
                full[0] = False
            for batch in step.shards:
                step.backward(run.model(batch[0]).sum())
            step.commit()
    finally:
        runtime.install(None)
    assert run.step == 12
    kinds = [kind for kind, _ in membership.notes]
    if recovers:
        assert kinds == ["ledger_failed", "ledger"]
        assert membership.notes[1][1].endswith("is written again, from step 4 on")
        assert proven(path, 12).skipped_bytes > 0
    else:
        assert kinds == ["ledger_failed"], "it is told once, and not at every step"
        assert "cannot be written: the disk is full; training goes on" in membership.notes[0][1]
        assert prove(path, steps=12).violations == ["steps 4 to 12 are missing"]


def test_what_is_kept_for_a_full_disk_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "KEPT_BYTES", 300)
    (tmp_path / "taken").write_text("no folder")
    membership = Noting(tmp_path / "taken" / "samples.ledger")
    runtime.install(membership)
    try:
        run = make_own(None)
        train_own(run, 4)
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


# --- a file that goes with its machine, and what has arrived elsewhere ---


class Sent(Noting):
    """Its file is brought elsewhere; `arrived` says how far, and `sizes` how long the file was after each step."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.arrived = 0
        self.sizes = [0]

    def ledger_arrived(self) -> int | None:
        return self.arrived

    def report(self, progress: Any) -> None:
        self.sizes.append(self.ledger_path.stat().st_size if self.ledger_path else 0)


def test_what_has_not_arrived_is_kept_and_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "ARRIVAL_SECONDS", 0.05)
    path = tmp_path / "samples.ledger"
    membership = Sent(path)
    kept = []
    runtime.install(membership)
    try:
        run = make_own(None)
        ledger: Any = run._ledger
        for step in run.steps(3):
            for batch in step.shards:
                step.backward(run.model(batch[0].reshape(-1, 2)).sum())
            step.commit()
            kept.append([number for number, _ in ledger.hand_over()])
            if step.number == 5:
                membership.arrived = membership.sizes[3]
            if step.number == 7:
                break
        assert kept == [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5], [4, 5, 6], [4, 5, 6, 7]]
        ledger.flush()
        assert [kind for kind, _ in membership.notes] == ["ledger_failed"]
        assert "not arrived" in membership.notes[0][1]
        membership.arrived = path.stat().st_size
        ledger.flush()
        assert ledger.hand_over() == []
        assert proven(path, 7).recorded_twice == 0
    finally:
        runtime.install(None)


def test_files_of_several_workers_are_one_ledger(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    parts.mkdir()
    train_own(make_own(whole), 3)
    data = whole.read_bytes()
    begin = data.index(b"\n") + 1
    line, cuts = data[:begin], [begin, *(place.stop for place in frames(data, begin))]
    assert len(cuts) == 10
    (parts / "w0.a.ledger").write_bytes(data[: cuts[3]] + b"torn")
    (parts / "w1.b.ledger").write_bytes(line + data[cuts[2] :])  # the third entry is in both
    (parts / "w2.c.ledger").write_bytes(line[:-5])  # just begun
    assert proven(parts, 9).sha256 == proven(whole, 9).sha256
    assert prove(parts).recorded_twice == 1
    (parts / "w1.b.ledger").write_bytes(line + data[cuts[4] :])
    assert prove(parts).violations == ["step 4 is missing"]
    (parts / "w3.d.ledger").write_bytes(line.replace(b'"seed": ', b'"seed": 1'))
    with pytest.raises(LedgerError, match="other data"):
        prove(parts)
    with pytest.raises(LedgerError, match="holds no ledger"):
        prove(tmp_path)
