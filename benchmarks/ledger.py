"""What the sample ledger costs: per step, per header, on the disk, and to prove.

    python benchmarks/ledger.py [--workers 4] [--rounds 0]

The first table is CPU time of one worker and step, without its training: noting what its shards read, and rank 0's
entry, which goes to the kernel with every step. `--rounds N` adds steps of a real job, with a ledger and without, which
take turns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from machine import median, print_machine, print_rows
from steady import WIDTHS, cordee_command, step_seconds

from cordee.trainer import data
from cordee.trainer.elastic.ledger import Ledger
from cordee.trainer.elastic.ledger_proof import prove
from cordee.trainer.elastic.state import ORDER_KIND
from cordee.trainer.elastic.tree import deal

SAMPLES = 60_000
SHARDS = 8


def microseconds(work: Callable[[], Any], calls: int = 500, repeats: int = 7) -> float:
    """CPU time of a call: the least of some repeats, which another process disturbs least."""
    found = []
    for _ in range(repeats):
        started = time.process_time()
        for _ in range(calls):
            work()
        found.append((time.process_time() - started) / calls)
    return min(found) * 1e6


def row(batch_size: int, workers: int, folder: Path, shuffle: bool) -> list[str]:
    dataset = data.TensorDataset(np.zeros((SAMPLES, 1), np.float32))
    loader = data.DataLoader(dataset, batch_size, shuffle=shuffle, shards=SHARDS)
    ledgers = [
        Ledger(folder / f"{batch_size}-{shuffle}-{rank}", loader, ORDER_KIND, lambda *_: None)
        for rank in range(workers)
    ]
    step: Any = SimpleNamespace(number=1, epoch=1, index=0)
    ranges = deal(SHARDS, workers)

    def note(rank: int) -> bytes:
        batches = shards[slice(*ranges[rank])]
        ledgers[rank].begin(ranges[rank][0])
        for batch in batches:
            ledgers[rank].read(batch)
        return ledgers[rank].part(step)

    for rank in range(workers):
        ledgers[rank].joined(1, rank)
    for number in range(1, len(loader) + 1):  # one epoch, as it would be written
        step.number, step.index = number, number - 1
        shards = [loader.shard_batch(0, number - 1, shard) for shard in range(SHARDS)]
        headers: list[Any] = [SimpleNamespace(ledger=note(rank)) for rank in range(workers)]
        for ledger in ledgers:
            ledger.committed(step, headers)
    ledgers[0].finish()
    path = ledgers[0].path
    size = path.stat().st_size
    started = time.process_time()
    proof = prove(path, steps=len(loader))
    proving = time.process_time() - started
    assert proof.proven, proof.violations

    shards = [loader.shard_batch(0, 0, shard) for shard in range(SHARDS)]
    headers = [SimpleNamespace(ledger=note(rank)) for rank in range(workers)]
    step.number = 0

    def commit(rank: int) -> None:
        step.number += 1
        ledgers[rank].committed(step, headers)
        ledgers[rank]._kept.clear()

    return [
        str(batch_size),
        "shuffled" if shuffle else "in order",
        f"{microseconds(lambda: note(workers - 1)):.1f}",
        f"{microseconds(lambda: commit(0)):.1f}",
        f"{microseconds(lambda: commit(workers - 1)):.1f}",
        str(len(headers[-1].ledger)),
        f"{size / SAMPLES:.2f}",
        f"{SAMPLES / proving / 1e6:.2f}",
    ]


def steps_of_a_job(workers: int, rounds: int) -> list[list[str]]:
    rows = []
    for name, width in WIDTHS.items():
        found: dict[bool, list[float]] = {True: [], False: []}
        for number in range(2 * rounds):
            with tempfile.TemporaryDirectory() as folder:
                kept = number % 2 == 0
                command = cordee_command(Path(folder), workers, width, 120, SHARDS, kept)
                found[kept].append(step_seconds(command, Path(folder)))
        with_ledger, without = median(found[True]), median(found[False])
        rows.append([name, f"{with_ledger * 1e3:.2f}", f"{without * 1e3:.2f}", f"{with_ledger / without:.3f}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=0, help="launches of a real job, each way")
    arguments = parser.parse_args()
    print_machine("numpy")
    print(f"# {SAMPLES} samples, {SHARDS} shards, {arguments.workers} workers")
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row(batch_size, arguments.workers, Path(folder), shuffle)
            for batch_size, shuffle in ((64, True), (256, True), (4096, True), (256, False))
        ]
    print_rows(
        ["batch", "order", "note, µs", "rank 0, µs", "others, µs", "header, B", "file, B/sample", "proof, M samples/s"],
        rows,
    )
    if arguments.rounds:
        told = steps_of_a_job(arguments.workers, arguments.rounds)
        print_rows(["parameters", "with ledger, ms", "without, ms", "ratio"], told)


if __name__ == "__main__":
    main()
