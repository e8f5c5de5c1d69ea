"""Whether loading holds a step up: steps beside a loader whose samples cost time, with Cordee's and PyTorch's loaders.

    python benchmarks/data.py [--workers 1 2] [--sample 0 0.25 1.0] [--step 30] [--steps 60]

A sample costs so many milliseconds, either of *work* (a decoder, in a data worker's own process) or of *waiting* (a
disk, a network; data workers are threads for Cordee, which need no more, and processes for PyTorch, which has no
others). A step of so many milliseconds takes no processor (it is on an accelerator), so what is measured is the
loaders. Steps are those of an elastic run, in its shards, and PyTorch's ordinary loop; the two take turns, each in a
process of its own (PyTorch's interpreter may be another: `TORCH_PYTHON`). `held up` is by how much a step is longer
than the same with samples that cost nothing, `waited` is Cordee's own figure of it (`loader.waited_seconds`).

Where the work of a batch takes the data workers (or the cores) longer than a step, no loader keeps up: `least` is the
shortest step that there can be.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from machine import median, print_machine, print_rows
from peers import Peer, installed, serve

BATCH = 32
SAMPLE_SHAPE = (3, 64, 64)


class Samples:
    """Images that cost time. A data set for both libraries."""

    def __init__(self, count: int, milliseconds: float, kind: str) -> None:
        self.count, self.seconds, self.kind = count, milliseconds / 1e3, kind

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        if index >= self.count:
            raise IndexError(index)
        image = np.full(SAMPLE_SHAPE, index % 251, np.float32)
        if self.seconds and self.kind == "work":
            until = time.thread_time() + self.seconds
            while time.thread_time() < until:
                image += 1.0
        elif self.seconds:
            time.sleep(self.seconds)
        return image, index % 10


def cordee_steps(samples: Samples, workers: int, step_seconds: float) -> Iterator[float]:
    """Commits steps; yields how long the loader was waited for so far."""
    from cordee.trainer import data, elastic, nn, optim

    model = nn.Linear(1, 1)
    loader = data.DataLoader(
        samples, BATCH, shards=4, num_workers=workers, workers="processes" if samples.kind == "work" else "threads"
    )
    run = elastic.Run(model, optim.SGD(model.parameters(), lr=0.0), loader)
    for step in run.steps(epochs=1):
        for batch in step.shards:
            assert batch.x.shape[1:] == SAMPLE_SHAPE
            time.sleep(step_seconds / 4)
            step.backward(model(batch.x[:, 0, 0, :1]).mean())
        step.commit()
        yield loader.waited_seconds


def torch_steps(samples: Samples, workers: int, step_seconds: float) -> Iterator[float]:
    """The same steps with PyTorch's loader."""
    import torch

    loader: Any = torch.utils.data.DataLoader(samples, BATCH, num_workers=workers)
    for images, _ in loader:
        assert tuple(images.shape[1:]) == SAMPLE_SHAPE
        time.sleep(step_seconds)
        yield 0.0


def measure(steps: Iterator[float]) -> tuple[float, float]:
    """The median step, and the mean time that was waited in it; without the first eighth, when workers start."""
    times, waited = [], []
    for total in steps:
        times.append(time.perf_counter())
        waited.append(total)
    begin = max(len(times) // 8, 2)
    seconds = [after - before for before, after in itertools.pairwise(times[begin:])]
    return median(seconds), (waited[-1] - waited[begin]) / len(seconds)


def answer(library: str, question: str) -> tuple[float, float]:
    """What a child process is asked: count, milliseconds and kind of samples, data workers, seconds of a step."""
    count, milliseconds, kind, workers, step = json.loads(question)
    make = {"cordee": cordee_steps, "torch": torch_steps}[library]
    return measure(make(Samples(count, milliseconds, kind), workers, step))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--sample", type=float, nargs="+", default=[0.25, 1.0], help="milliseconds of one")
    parser.add_argument("--step", type=float, default=30.0, help="milliseconds")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        serve(lambda question: answer(arguments.child, question))
        return
    print_machine("numpy", "torch")
    print(f"# steps of {arguments.step:g} ms, batches of {BATCH} samples of {SAMPLE_SHAPE}, {arguments.steps} steps")
    peers = {name: Peer(__file__, name, 1) for name in installed()}

    def ask(name: str, milliseconds: float, kind: str, workers: int) -> tuple[float, float]:
        question = [arguments.steps * BATCH, milliseconds, kind, workers, arguments.step / 1e3]
        seconds, waited = peers[name].ask(json.dumps(question))
        return seconds, waited

    alone = {name: ask(name, 0.0, "waiting", 1)[0] for name in peers}
    rows = []
    for kind, workers, sample in itertools.product(("work", "waiting"), arguments.workers, arguments.sample):
        at_once = min(workers, len(os.sched_getaffinity(0))) if kind == "work" else workers
        least = max(arguments.step, BATCH * sample / at_once)
        found = {name: ask(name, sample, kind, workers) for name in peers}
        held_up = {name: max(seconds - alone[name], 0.0) * 1e3 for name, (seconds, _) in found.items()}
        row = [f"{sample:g} ms of {kind}", str(workers), f"{least:.1f}", f"{found['cordee'][0] * 1e3:.1f}"]
        row += [f"{held_up['cordee']:.1f}", f"{found['cordee'][1] * 1e3:.1f}"]
        row += [f"{found['torch'][0] * 1e3:.1f}", f"{held_up['torch']:.1f}"] if "torch" in found else ["–", "–"]
        rows.append(row)
    header = [
        "a sample",
        "data workers",
        "least, ms",
        "cordee, ms",
        "held up, ms",
        "waited, ms",
        "torch, ms",
        "held up, ms",
    ]
    for peer in peers.values():
        peer.close()
    print_rows(header, rows)


if __name__ == "__main__":
    main()
