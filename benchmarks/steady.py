"""What fault tolerance costs while nothing fails: a step of 2 and 4 workers beside PyTorch's DDP with gloo.

    python benchmarks/steady.py [--rounds 3] [--steps 120] [--workers 2 4] [--no-ledger] [--profile]

Cordee trains as `cordee run` does it, with its coordinator, heartbeats, agents, checkpoints (every 30 s) and the sample
ledger; PyTorch as `torchrun` does it, with DistributedDataParallel, gradients as bucket views and the fused optimiser.
The same MLP, global batch and one thread per worker. The two take turns, each round is a fresh launch; a round's figure
is the median of its steps without the first quarter. `--profile` says where the time of Cordee's steps goes, from one
more launch: on rank 0, `waiting` is until its peers are in the exchange, too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import median, print_machine, print_rows
from peers import installed, interpreter

HERE = Path(__file__).resolve().parent
WIDTHS = {"1 M": 620, "10 M": 2120}
"""Parameters of an MLP 256-w-w-w-10, and its w."""


def cordee_command(folder: Path, workers: int, width: int, steps: int, shards: int, ledger: bool) -> list[str]:
    return [
        sys.executable, "-m", "cordee.coordinator.cli", "run", str(HERE / "workloads" / "steady_cordee.py"),
        "--workers", str(workers), "--state", str(folder / "state"), *(["--ledger"] if ledger else []), "--",
        "--records", str(folder), "--steps", str(steps), "--width", str(width), "--shards", str(shards),
    ]  # fmt: skip


def torch_command(folder: Path, workers: int, width: int, steps: int) -> list[str]:
    return [
        interpreter("torch"), "-m", "torch.distributed.run", "--nproc-per-node", str(workers),
        "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", str(HERE / "workloads" / "steady_torch.py"),
        "--records", str(folder), "--steps", str(steps), "--width", str(width),
    ]  # fmt: skip


def step_seconds(command: list[str], folder: Path) -> float:
    """Launches `command` and returns its median step.

    Raises:
        RuntimeError: it did not end well; its output is in the error.
    """
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    records = list(folder.glob("*.json"))
    if done.returncode or len(records) != 1:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    times = json.loads(records[0].read_text())
    steps = [after - before for before, after in itertools.pairwise(times)]
    return statistics.median(steps[len(steps) // 4 :])


def part_seconds(command: list[str], folder: Path) -> dict[str, float]:
    """Launches Cordee's `command` and returns the medians of a step's parts."""
    step_seconds([*command, "--parts"], folder)
    (times_file,), (parts_file,) = folder.glob("*.json"), folder.glob("*.parts")
    (commits_file,) = folder.glob("*.commits")
    times, parts, commits = (json.loads(file.read_text()) for file in (times_file, parts_file, commits_file))
    steps: list[dict[str, float]] = []
    for index in range(len(times) // 4, len(times)):  # a median of differences is not the difference of medians
        found, commit, whole = parts[index], commits[index], times[index] - times[index - 1]
        computing = whole - commit - found["loading"] - found["folding"]
        bookkeeping = commit - found["exchange"] - found["update"]
        found["exchange"] -= found["waiting"]
        steps.append({"step": whole, "computing": computing, **found, "bookkeeping": bookkeeping})
    return {name: statistics.median(step[name] for step in steps) for name in steps[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--parameters", choices=list(WIDTHS), nargs="+", default=list(WIDTHS))
    parser.add_argument("--shards", type=int, help="default: as many as workers")
    parser.add_argument("--no-ledger", action="store_true")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    print_machine("numpy", "torch")
    print(f"# MLP 256-w-w-w-10, global batch 256, SGD with momentum, 1 thread per worker, {arguments.rounds} rounds")
    has_torch = "torch" in installed()
    rows, profiles = [], dict[str, dict[str, float]]()
    for name in arguments.parameters:
        for workers in arguments.workers:
            ours: list[float] = []
            peer: list[float] = []
            shards, width = arguments.shards or workers, WIDTHS[name]
            for _ in range(arguments.rounds):
                with tempfile.TemporaryDirectory() as folder:
                    where = Path(folder)
                    command = cordee_command(where, workers, width, arguments.steps, shards, not arguments.no_ledger)
                    ours.append(step_seconds(command, where))
                if has_torch:
                    with tempfile.TemporaryDirectory() as folder:
                        where = Path(folder)
                        peer.append(step_seconds(torch_command(where, workers, width, arguments.steps), where))
            ratio = f"{median(ours) / median(peer):.2f}" if peer else "–"
            peers = f"{median(peer) * 1e3:.2f}" if peer else "–"
            if arguments.profile:
                with tempfile.TemporaryDirectory() as folder:
                    where = Path(folder)
                    command = cordee_command(where, workers, width, arguments.steps, shards, not arguments.no_ledger)
                    profiles[f"{name}, {workers}"] = part_seconds(command, where)
            rows.append([name, str(workers), f"{median(ours) * 1e3:.2f}", peers, ratio])
    print_rows(["parameters", "workers", "cordee, ms", "DDP with gloo, ms", "ratio"], rows)
    if profiles:
        print()
        parts = list(next(iter(profiles.values())))
        table = [[name, *(f"{found[part] * 1e3:.2f}" for part in parts)] for name, found in profiles.items()]
        print_rows(["parameters, workers", *(f"{part}, ms" for part in parts)], table)


if __name__ == "__main__":
    main()
