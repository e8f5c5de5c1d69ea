"""The proof that every sample came exactly once per epoch: what a ledger says, against what it should say.

Nothing is believed that can be counted. Steps are to follow each other without a gap; a step that is in the file more
often (it was done again after a loss) is to have read the same samples each time; every epoch's samples are counted one
by one; and where the order follows from the seed, it is computed again and compared. What only the script can know,
such as what its own sampler visits, is compared with what the plan said while it ran.

The fingerprint is a SHA-256 over what was consumed, step by step and shard by shard, and over nothing else: not by
whom, in which world, how often. So two runs of one job have the same, whatever happened to them.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from cordee.trainer.data.order import Permutation
from cordee.trainer.elastic.ledger_entry import (
    MAX_LINE_BYTES,
    LedgerData,
    LedgerEntry,
    LedgerError,
    frames,
    plan_digest,
)
from cordee.trainer.elastic.state import ORDER_KIND

__all__ = ["EpochProof", "Proof", "prove"]

NUM_NAMED: Final = 10
"""Violations that are told in full."""


@dataclass(frozen=True)
class EpochProof:
    """What one epoch consumed."""

    epoch: int
    steps: int
    steps_total: int
    samples: int
    """Read, counting those twice that came twice."""
    distinct: int
    missing: int | None
    """Samples of the dataset that did not come, of a finished epoch that is to visit them; None: not to be told."""
    twice: int
    """Reads of a sample that had come before in this epoch."""
    left_out: int
    """Samples that `drop_last` leaves out."""
    sha256: str

    @property
    def complete(self) -> bool:
        return self.steps == self.steps_total


@dataclass
class Proof:
    """What a ledger proves."""

    data: LedgerData
    steps: int = 0
    """The last step that is in it."""
    samples: int = 0
    epochs: list[EpochProof] = field(default_factory=list)
    redone: int = 0
    """Steps that were done in more than one world."""
    worlds: int = 0
    """Generations in which steps were committed."""
    recorded_twice: int = 0
    """Commits that two writers have both written down."""
    torn_bytes: int = 0
    """Of a last entry that nobody wrote to its end."""
    skipped_bytes: int = 0
    """Elsewhere in the file that are of no whole entry."""
    violations: list[str] = field(default_factory=list)
    """The first few."""
    num_violations: int = 0
    sha256: str = ""
    step_digests: dict[int, bytes] = field(default_factory=dict, repr=False)
    """Of the content of every step, to find where two ledgers differ."""

    @property
    def proven(self) -> bool:
        return not self.num_violations

    def object_to(self, violation: str) -> None:
        self.num_violations += 1
        if len(self.violations) < NUM_NAMED:
            self.violations.append(violation)


def prove(path: Path, *, steps: int | None = None, at_least: int = 0) -> Proof:
    """Goes through the ledger at `path`; of a job that trains, as far as it is at this moment.

    Args:
        path: the file; or a folder of files that are the ledger together, as workers without a common disk leave them.
        steps: how many steps the job has made in all, if it has ended.
        at_least: how many it has made at least.

    Raises:
        LedgerError: it is not a ledger.
        OSError: it cannot be read.
    """
    with _mapped(path) as data:
        end = data.find(b"\n", 0, MAX_LINE_BYTES)
        if end < 0:
            raise LedgerError(f"{path} has no first line: nothing was written to it, or it is no ledger")
        try:
            proof = Proof(LedgerData.from_line(data[:end]))
        except LedgerError as error:
            raise LedgerError(f"{path}: {error}") from None
        found = _by_step(data, end + 1, proof)
        _check_steps(found, proof, steps, at_least)
        _Epochs(proof).go_through(data, found)
    return proof


@contextmanager
def _mapped(path: Path) -> Iterator[Any]:
    folder = path.is_dir()
    with tempfile.TemporaryFile() if folder else path.open("rb") as file:
        if folder:
            _gather(path, file)
        if not os.fstat(file.fileno()).st_size:  # which cannot be mapped
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def _gather(folder: Path, together: IO[bytes]) -> None:
    """Writes the ledgers in a folder as one.

    Raises:
        LedgerError: there is none, or they are of different data.
    """
    paths = sorted(folder.glob("*.ledger"))
    if not paths:
        raise LedgerError(f"{folder} holds no ledger")
    begin = b""
    for path in paths:
        with path.open("rb") as file:
            line = file.readline(MAX_LINE_BYTES)
            if not line.endswith(b"\n"):
                continue  # it has just been begun
            if line != (begin or line):
                raise LedgerError(f"{path} is a ledger of other data than {paths[0]}")
            if not begin:
                together.write(line)
            begin = line
            shutil.copyfileobj(file, together, 1 << 20)
    together.flush()


def _by_step(data: Any, start: int, proof: Proof) -> dict[int, list[tuple[int, int, int]]]:
    """Where the entries of each step are: generation, first byte, last byte."""
    found: dict[int, list[tuple[int, int, int]]] = {}
    generations: set[int] = set()
    skipped = 0
    for place in frames(data, start):
        if not place.whole:
            skipped += place.stop - place.start
            continue
        proof.skipped_bytes += skipped
        skipped = 0
        try:
            step, generation = LedgerEntry.peek(data, place.start)
        except LedgerError:
            proof.object_to(f"bytes {place.start} to {place.stop} are an entry that cannot be read")
            continue
        found.setdefault(step, []).append((generation, place.start, place.stop))
        generations.add(generation)
    proof.torn_bytes = skipped
    proof.worlds = len(generations)
    for entries in found.values():
        worlds = len({generation for generation, _, _ in entries})
        proof.redone += worlds > 1
        proof.recorded_twice += len(entries) - worlds
    return found


def _check_steps(found: dict[int, Any], proof: Proof, steps: int | None, at_least: int) -> None:
    proof.steps = max(found, default=0)
    numbers = [0, *sorted(found), *([max(steps or 0, at_least) + 1] if max(steps or 0, at_least) > proof.steps else [])]
    if steps is not None and proof.steps > steps:
        proof.object_to(f"the job has made {steps} steps, and the ledger has step {proof.steps}")
    for before, after in pairwise(numbers):
        if after - before == 2:
            proof.object_to(f"step {before + 1} is missing")
        elif after - before > 2:
            proof.object_to(f"steps {before + 1} to {after - 1} are missing")


class _Epochs:
    """Goes through the steps in order, and counts."""

    def __init__(self, proof: Proof) -> None:
        self._proof = proof
        self._data = proof.data
        self._epoch = 0
        self._read: list[NDArray[np.int64]] = []
        self._steps: list[int] = []
        self._sha = sha256()
        self._order: Permutation | None = None

    def go_through(self, data: Any, found: dict[int, list[tuple[int, int, int]]]) -> None:
        whole = sha256(self._data.line())
        for step in sorted(found):
            entries = []
            for _, start, stop in found[step]:
                try:
                    entries.append(LedgerEntry.unpack(data[start:stop]))
                except LedgerError as error:
                    self._proof.object_to(f"step {step}: {error}")
            if not entries:
                continue
            entry, content = entries[0], entries[0].content()
            for other in entries[1:]:
                if other.content() != content:
                    self._proof.object_to(
                        f"step {step} was done in generations {entry.generation} and {other.generation}, and did not "
                        "read the same samples"
                    )
            self._take(entry, content)
        self._close()
        for epoch in self._proof.epochs:
            whole.update(bytes.fromhex(epoch.sha256))
        self._proof.sha256 = whole.hexdigest()

    def _take(self, entry: LedgerEntry, content: bytes) -> None:
        data, proof = self._data, self._proof
        epoch, index = divmod(entry.step - 1, data.steps_per_epoch)
        if (entry.epoch, entry.index) != (epoch + 1, index):
            proof.object_to(
                f"step {entry.step} says that it is step {entry.index} of epoch {entry.epoch}; it should be step "
                f"{index} of epoch {epoch + 1}"
            )
        if epoch + 1 != self._epoch:
            self._close()
            self._epoch = epoch + 1
            if data.order == "shuffled" and data.order_kind == ORDER_KIND:
                self._order = Permutation(data.samples or 0, seed=data.seed, epoch=epoch)
        self._check_shards(entry, index)
        self._check_plan(entry, index)
        self._read.append(entry.indices)
        self._steps.append(entry.step)
        self._sha.update(content)
        proof.step_digests[entry.step] = sha256(content).digest()[:8]
        proof.samples += len(entry.indices)

    def _check_shards(self, entry: LedgerEntry, index: int) -> None:
        data, proof = self._data, self._proof
        total = len(entry.indices)
        if entry.shard_numbers != tuple(range(data.shards)):
            proof.object_to(f"step {entry.step} has the shards {list(entry.shard_numbers)}, not 0 to {data.shards - 1}")
        elif entry.counts != tuple(
            (shard + 1) * total // data.shards - shard * total // data.shards for shard in range(data.shards)
        ):
            proof.object_to(f"step {entry.step}: its {total} samples are cut into shards of {list(entry.counts)}")
        if data.batch_size:
            wanted = min(data.batch_size, data.samples_per_epoch - index * data.batch_size)
            if total != wanted:
                proof.object_to(f"step {entry.step} has {total} samples, not {wanted}")

    def _check_plan(self, entry: LedgerEntry, index: int) -> None:
        data, proof, indices = self._data, self._proof, entry.indices
        if data.order == "sampler":
            if not entry.plan:
                proof.object_to(f"step {entry.step} does not say what its sampler visits")
            elif entry.plan != plan_digest(indices):
                proof.object_to(f"step {entry.step} did not read what its sampler visits")
            return
        start = index * data.batch_size
        wanted: NDArray[np.int64] | None = None
        if data.order != "shuffled":
            wanted = np.arange(start, start + len(indices))
        elif self._order is not None and start + len(indices) <= self._order.size:
            wanted = self._order.slice(start, start + len(indices))
        if wanted is None or np.array_equal(indices, wanted):
            return
        place = int(np.argmax(indices != wanted))
        proof.object_to(
            f"step {entry.step} read sample {int(indices[place])} where its seed and epoch say {int(wanted[place])}"
        )

    def _close(self) -> None:
        """Counts the epoch at hand."""
        if not self._steps:
            return
        data, proof = self._data, self._proof
        read = np.concatenate(self._read)
        numbers, first, times = np.unique(read, return_index=True, return_counts=True)
        complete = len(self._steps) == data.steps_per_epoch
        twice = len(read) - len(numbers)
        missing, left_out = None, 0
        if data.order != "sampler":
            size = data.samples_per_epoch if data.samples is None else data.samples
            self._check_range(numbers, size)
            if twice:
                self._name_those_twice(read, numbers[times > 1])
            if complete:
                left_out = size - data.samples_per_epoch
                missing = data.samples_per_epoch - len(numbers)
                if missing > 0:
                    self._name_the_missing(numbers, size, left_out)
        proof.epochs.append(
            EpochProof(
                epoch=self._epoch,
                steps=len(self._steps),
                steps_total=data.steps_per_epoch,
                samples=len(read),
                distinct=len(first),
                missing=missing,
                twice=twice,
                left_out=left_out,
                sha256=self._sha.hexdigest(),
            )
        )
        self._read, self._steps, self._sha = [], [], sha256()

    def _check_range(self, numbers: NDArray[np.int64], size: int) -> None:
        outside = numbers[(numbers < 0) | (numbers >= size)]
        for number in outside[:NUM_NAMED].tolist():
            self._proof.object_to(f"epoch {self._epoch}: there is no sample {number}, but it was read")
        self._proof.num_violations += len(outside[NUM_NAMED:])

    def _name_those_twice(self, read: NDArray[np.int64], numbers: NDArray[np.int64]) -> None:
        ends = np.cumsum([len(indices) for indices in self._read])
        self._proof.num_violations += len(numbers[NUM_NAMED:])
        for number in numbers[:NUM_NAMED].tolist():
            places = np.searchsorted(ends, np.flatnonzero(read == number), side="right")
            steps = ", ".join(str(self._steps[place]) for place in places)
            self._proof.object_to(f"epoch {self._epoch}: sample {number} came {len(places)} times, in steps {steps}")

    def _name_the_missing(self, numbers: NDArray[np.int64], size: int, left_out: int) -> None:
        if left_out:  # which ones, only the order knows
            self._proof.object_to(
                f"epoch {self._epoch}: {len(numbers)} samples came, and {self._data.samples_per_epoch} should have"
            )
            return
        absent = np.setdiff1d(np.arange(size), numbers)
        for number in absent[:NUM_NAMED].tolist():
            self._proof.object_to(f"epoch {self._epoch}: sample {number} did not come")
        self._proof.num_violations += len(absent[NUM_NAMED:])
