"""How fast is the exact all-reduce, beside gloo's, between real processes of this machine?

Every row is one size and one number of workers. The runs of ours and of gloo are interleaved in the same processes, so
that a busy machine slows both; the time of a run is that of its slowest worker (a barrier starts it), and the row gives
medians. Ours sums float32 gradients of as many shards as workers in the fixed tree, so its bits do not depend on how many
workers there are; gloo's do. Where PyTorch is not installed ours is printed alone.

    python benchmarks/allreduce.py [--workers 2 4] [--megabytes 0.004 1 4 16 64] [--repeats 15]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from cordee.trainer.elastic import tree
from cordee.worker.communicator import connect
from cordee.worker.handshake import mesh_key
from cordee.worker.listener import Listener
from cordee.worker.mesh import Peer

HAS_TORCH = importlib.util.find_spec("torch") is not None


def worker(rank: int, size: int, sizes: list[int], repeats: int, port: int, pipe: Connection) -> None:
    """One worker: for every size, alternately ours and gloo's; the start and end times of each go to the parent."""
    listener = Listener("127.0.0.1")
    pipe.send(listener.address)
    members = [Peer(peer, f"bench-w{peer}", "0", address) for peer, address in enumerate(pipe.recv())]
    ours = connect(listener, generation=1, rank=rank, members=members, key=mesh_key("benchmark"))
    peers: Any = None
    if HAS_TORCH:
        import torch
        import torch.distributed as dist

        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
        peers = dist
    (span,) = tree.cover(*tree.deal(size, size)[rank], size)
    nothing = np.zeros(1, np.float32)
    for nbytes in sizes:
        gradient = np.full(nbytes // 4, rank + 1.0, np.float32)
        times: list[tuple[str, float, float]] = []
        for repeat in range(-2, repeats):
            for name in ("ours", "gloo") if peers else ("ours",):
                gradient[:] = rank + 1.0
                ours.all_reduce({span: nothing}, nothing, num_shards=size)  # a barrier
                start = time.monotonic()
                if name == "ours":
                    ours.all_reduce({span: gradient}, gradient, num_shards=size, header=b"step")
                else:
                    peers.all_reduce(torch.from_numpy(gradient))
                stop = time.monotonic()
                if repeat >= 0:
                    times.append((name, start, stop))
                assert gradient[0] == gradient[-1] == size * (size + 1) / 2
        pipe.send(times)
    if peers:
        peers.destroy_process_group()
    ours.close()
    listener.close()


def measure(size: int, sizes: list[int], repeats: int, port: int) -> list[dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
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
        by_worker = [pipe.recv() for pipe in pipes]
        runs: dict[str, list[float]] = {"ours": [], "gloo": []}
        for same_run in zip(*by_worker, strict=True):
            name = same_run[0][0]
            runs[name].append(max(stop for _, _, stop in same_run) - min(start for _, start, _ in same_run))
        medians = {name: statistics.median(values) for name, values in runs.items() if values}
        rows.append({"workers": size, "bytes": nbytes, **medians})
        print_row(rows[-1])
    for process in processes:
        process.join()
    return rows


def print_row(row: dict[str, Any]) -> None:
    gloo = row.get("gloo")
    peer = f"{gloo * 1e3:10.3f} {row['ours'] / gloo:8.2f}" if gloo else f"{'-':>10} {'-':>8}"
    print(f"{row['workers']:>7} {row['bytes'] / 2**20:>9.3f} {row['ours'] * 1e3:>10.3f} {peer}", flush=True)


def free_port() -> int:
    with Listener("127.0.0.1") as listener:
        return int(listener.address.rpartition(":")[2])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--megabytes", type=float, nargs="+", default=[0.004, 0.0625, 1, 4, 16, 64])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", help="also write the rows to this file")
    arguments = parser.parse_args()
    versions = [f"Python {platform.python_version()}", f"NumPy {np.__version__}"]
    if HAS_TORCH:
        versions.append(f"PyTorch {importlib.import_module('torch').__version__} (gloo)")
    model = next((line.partition(":")[2].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    print(f"{model or platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}; {', '.join(versions)}")
    print(f"exact all-reduce of float32, threads per worker 1, medians of {arguments.repeats} interleaved runs")
    print(f"{'workers':>7} {'MB':>9} {'ours ms':>10} {'gloo ms':>10} {'ratio':>8}")
    rows = []
    for size in arguments.workers:
        sizes = [int(megabytes * 2**20) // 4 * 4 for megabytes in arguments.megabytes]
        rows += measure(size, sizes, arguments.repeats, free_port())
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(rows, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
