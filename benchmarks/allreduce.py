"""How fast is the exact all-reduce, beside gloo's, between real processes of this machine?

Every row is one vector of float32 and one number of workers: ours between workers of one host (shared memory), ours as
between hosts (TCP, here over the loopback interface), gloo's, and the ratio of the first to gloo's. The runs of the
three are interleaved in the same processes, so that a busy machine slows all of them; a run's time is from its first
worker's start to its last one's end, after a barrier, and rows give medians. The processor time is that of all workers.

Ours sums the gradients of as many shards as workers in the fixed tree, so its bits do not depend on how many workers
there are; gloo's do. Where PyTorch is not installed ours is printed alone.

    python benchmarks/allreduce.py [--workers 2 4] [--megabytes 0.004 0.0625 1 4 16 64] [--repeats 15]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from machine import median, print_machine

from cordee.trainer.elastic import tree
from cordee.worker.communicator import connect
from cordee.worker.handshake import mesh_key
from cordee.worker.listener import Listener
from cordee.worker.mesh import Peer

HAS_TORCH = importlib.util.find_spec("torch") is not None
WAYS = ("shared", "tcp", "gloo") if HAS_TORCH else ("shared", "tcp")

Run = tuple[str, float, float, float]
"""Which way, start, end, processor time."""


def worker(rank: int, size: int, sizes: list[int], repeats: int, port: int, pipe: Connection) -> None:
    """One worker: for every size, all ways in turn; its runs go to the parent."""
    listener = Listener("127.0.0.1")
    pipe.send(listener.address)
    members = [Peer(peer, f"bench-w{peer}", "0", address) for peer, address in enumerate(pipe.recv())]
    shared, tcp = (
        connect(
            listener,
            generation=generation,
            rank=rank,
            members=members,
            key=mesh_key("benchmark"),
            shared_memory=generation == 1,
        )
        for generation in (1, 2)
    )
    (span,) = tree.cover(*tree.deal(size, size)[rank], size)
    nothing = np.zeros(1, np.float32)
    reduce: dict[str, Callable[[np.ndarray[Any, Any]], object]] = {
        "shared": lambda vector: shared.all_reduce({span: vector}, vector, num_shards=size, header=b"step"),
        "tcp": lambda vector: tcp.all_reduce({span: vector}, vector, num_shards=size, header=b"step"),
    }
    if HAS_TORCH:
        import torch
        import torch.distributed as dist

        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
        reduce["gloo"] = lambda vector: dist.all_reduce(torch.from_numpy(vector))
    for nbytes in sizes:
        vector = np.full(nbytes // 4, rank + 1.0, np.float32)
        runs: list[Run] = []
        for repeat in range(-2, repeats):
            for way in WAYS:
                vector[:] = rank + 1.0
                tcp.all_reduce({span: nothing}, nothing, num_shards=size)  # a barrier
                start, cpu = time.monotonic(), time.process_time()
                reduce[way](vector)
                stop = time.monotonic()
                if repeat >= 0:
                    runs.append((way, start, stop, time.process_time() - cpu))
                assert vector[0] == vector[-1] == size * (size + 1) / 2
        pipe.send(runs)
    if HAS_TORCH:
        dist.destroy_process_group()
    for open_one in (shared, tcp, listener):
        open_one.close()


def measure(size: int, sizes: list[int], repeats: int) -> list[dict[str, float]]:
    """The rows of one number of workers, printed as they come."""
    with Listener("127.0.0.1") as listener:
        port = int(listener.address.rpartition(":")[2])  # free a moment later, for gloo's rendezvous
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # read by the workers when they start
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes = []
    for rank in range(size):
        here, there = context.Pipe()
        process = context.Process(target=worker, args=(rank, size, sizes, repeats, port, there), daemon=True)
        process.start()
        there.close()
        pipes.append(here)
        processes.append(process)
    addresses = [pipe.recv() for pipe in pipes]
    for pipe in pipes:
        pipe.send(addresses)
    rows = []
    for nbytes in sizes:
        by_worker: list[list[Run]] = [pipe.recv() for pipe in pipes]
        row: dict[str, float] = {"workers": size, "bytes": nbytes}
        for way in WAYS:
            runs = [same_run for same_run in zip(*by_worker, strict=True) if same_run[0][0] == way]
            seconds = [max(stop for _, _, stop, _ in run) - min(start for _, start, _, _ in run) for run in runs]
            row[f"{way}_seconds"] = median(seconds)
            row[f"{way}_cpu_seconds"] = median([sum(cpu for *_, cpu in run) for run in runs])
        rows.append(row)
        print_row(row)
    for process in processes:
        process.join()
    return rows


def print_row(row: dict[str, float]) -> None:
    times = "".join(f"{row.get(f'{way}_seconds', float('nan')) * 1e3:10.2f}" for way in ("shared", "tcp", "gloo"))
    cpus = "".join(f"{row.get(f'{way}_cpu_seconds', float('nan')) * 1e3:10.2f}" for way in ("shared", "tcp", "gloo"))
    ratio = row["shared_seconds"] / row.get("gloo_seconds", float("nan"))
    print(f"{row['workers']:>7.0f}{row['bytes'] / 2**20:>9.3f}{times}{ratio:>8.2f}{cpus}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--megabytes", type=float, nargs="+", default=[0.004, 0.0625, 1, 4, 16, 64])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, help="also write the rows to this file, in seconds")
    arguments = parser.parse_args()
    print_machine("numpy", "torch")
    print(f"# exact all-reduce of float32, 1 thread per worker, medians of {arguments.repeats} interleaved runs, ms")
    print(f"{'':>16}{'wall':>10}{'':>28}{'processor, all workers':>30}")
    ways = "".join(f"{name:>10}" for name in ("ours", "ours, TCP", "gloo"))
    print(f"{'workers':>7}{'MB':>9}{ways}{'ratio':>8}{ways}")
    rows = []
    for size in arguments.workers:
        sizes = [max(int(megabytes * 2**20) // 4, 1) * 4 for megabytes in arguments.megabytes]
        rows += measure(size, sizes, arguments.repeats)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
