"""What checkpoints cost a step: none, beside training as Cordee writes them, and as a script that waits for them.

    python benchmarks/checkpoint.py [--rounds 3] [--steps 120] [--every 30] [--storage PLACE]

One worker trains an MLP with Adam, so a state is three times the parameters; the modes take turns, each round is a
fresh run. `mean` is the time per step over all steps, `worst` the longest one, which is where a script that waits has
its checkpoints. `--storage` may be a bucket (s3://…, its credentials in the environment).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from machine import median, print_machine, print_rows

from cordee import trainer
from cordee.trainer import data, elastic, nn, optim
from cordee.trainer.elastic import runtime
from cordee.trainer.elastic.protocols import CheckpointPolicy
from cordee.trainer.elastic.solo import SoloMembership

WIDTHS = {"1 M": 620, "10 M": 2120}
"""Parameters of an MLP 256-w-w-w-10, and its w."""


class Alone(SoloMembership):
    """A world of one that keeps what it is told of checkpoints."""

    def __init__(self, policy: CheckpointPolicy | None) -> None:
        self.checkpoint_policy = policy
        self.saves: list[tuple[int, float]] = []

    def checkpointed(self, step: int, where: str, size_bytes: int, seconds: float) -> None:  # noqa: ARG002
        self.saves.append((size_bytes, seconds))

    def note(self, kind: str, message: str, seconds: float = 0.0) -> None:  # noqa: ARG002
        if kind == "checkpoint_failed":
            raise SystemExit(f"a checkpoint failed: {message}")


@dataclass
class Figures:
    """Of all rounds of one mode."""

    means: list[float] = field(default_factory=list)
    worst: list[float] = field(default_factory=list)
    saves: list[tuple[int, float]] = field(default_factory=list)


def train(width: int, steps: int, policy: CheckpointPolicy | None, *, waits: bool, figures: Figures) -> None:
    trainer.manual_seed(0)
    generator = np.random.default_rng(0)
    x = generator.standard_normal((256 * 8, 256), dtype=np.float32)
    y = generator.integers(0, 10, len(x))
    model = nn.Sequential(
        nn.Linear(256, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, 10),
    )  # fmt: skip
    loader = data.DataLoader(data.TensorDataset(x, y), batch_size=256, shards=4, seed=0)
    membership = Alone(policy)
    runtime.install(membership)
    run = elastic.Run(model, optim.Adam(model.parameters()), loader)
    criterion = nn.CrossEntropyLoss()
    times = []
    for step in run.steps(epochs=-(-steps // len(loader))):
        if waits and run._saver is not None:
            run._saver.wait()
        times.append(time.perf_counter())
        for batch in step.shards:
            step.backward(criterion(model(batch.x), batch.y))
        step.commit()
    runtime.install(None)
    each = np.diff(times)[3:]
    figures.means.append(float(each.mean()))
    figures.worst.append(float(each.max()))
    figures.saves += membership.saves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--every", type=int, default=30, help="steps between checkpoints")
    parser.add_argument("--storage", help="a folder or URL (default: a temporary folder)")
    parser.add_argument("--sizes", nargs="+", choices=list(WIDTHS), default=list(WIDTHS))
    arguments = parser.parse_args()
    print_machine("numpy", "obstore")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.sizes:
            modes = {"without": Figures(), "beside training": Figures(), "waited for": Figures()}
            for number in range(arguments.rounds):
                for mode, figures in modes.items():
                    root = f"{arguments.storage or Path(folder)}/{size.replace(' ', '')}-{number}-{mode.split()[0]}"
                    policy = CheckpointPolicy(root, interval_seconds=0, interval_steps=arguments.every, keep=1)
                    train(
                        WIDTHS[size],
                        arguments.steps,
                        None if mode == "without" else policy,
                        waits=mode == "waited for",
                        figures=figures,
                    )
            base = modes["without"]
            for mode, figures in modes.items():
                mean, worst = median(figures.means), median(figures.worst)
                saved = [num_bytes / seconds / 1e6 for num_bytes, seconds in figures.saves]
                seconds = [each for _, each in figures.saves]
                rows.append([
                    size, mode, f"{mean * 1e3:.2f}", f"{mean / median(base.means):.3f}", f"{worst * 1e3:.1f}",
                    f"{worst / median(base.worst):.2f}", f"{median(seconds):.3f}" if seconds else "-",
                    f"{median(saved):.0f}" if saved else "-", str(len(saved)),
                ])  # fmt: skip
    print_rows(
        ["parameters", "checkpoints", "mean ms", "ratio", "worst ms", "ratio", "a save s", "MB/s", "saves"], rows
    )


if __name__ == "__main__":
    main()
