"""The model of `benchmarks/steady.py` and `overlap.py`, for Cordee: an MLP of about so many parameters; prints nothing,
writes the time of every committed step, and how long its commit took."""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np

from cordee import trainer
from cordee.trainer import data, elastic, nn, optim

parser = argparse.ArgumentParser()
parser.add_argument("--records", type=Path, required=True, help="folder of the times")
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--width", type=int, required=True)
parser.add_argument("--batch", type=int, default=256)
parser.add_argument("--shards", type=int, required=True)
parser.add_argument("--alternate", type=int, default=0, help="steps after which gradients travel the other way")
parser.add_argument("--link", type=float, default=0.0, help="MB/s of a simulated network; 0: as it is")
parser.add_argument("--parts", action="store_true", help="note where the time goes")
arguments = parser.parse_args()

trainer.manual_seed(0)
generator = np.random.default_rng(0)
width = arguments.width
x = generator.standard_normal((arguments.batch * 8, 256), dtype=np.float32)
y = generator.integers(0, 10, len(x))
model = nn.Sequential(
    nn.Linear(256, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
    nn.Linear(width, 10),
)  # fmt: skip
optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
criterion = nn.CrossEntropyLoss()
loader = data.DataLoader(
    data.TensorDataset(x, y), batch_size=arguments.batch, shuffle=True, shards=arguments.shards, seed=0
)
if arguments.alternate:
    import slow_link

    slow_link.slow_down(arguments.link * 1e6)
parts = None
if arguments.parts:
    from step_parts import Parts

    parts = Parts()
run = elastic.Run(model, optimizer, loader)
early = run._early
times: list[float] = []
commits: list[float] = []
for step in run.steps(epochs=-(-arguments.steps // len(loader))):
    for batch in step.shards:
        step.backward(criterion(model(batch.x), batch.y))
    computed = time.perf_counter()
    step.commit()
    times.append(time.perf_counter())
    commits.append(times[-1] - computed)
    if parts is not None:
        parts.committed()
    if arguments.alternate:  # by the number of the step that follows: all workers alike
        run._early = early if step.number // arguments.alternate % 2 else None
if run.rank == 0:
    (arguments.records / f"cordee.{os.getpid()}.json").write_text(json.dumps(times))
    (arguments.records / f"cordee.{os.getpid()}.commits").write_text(json.dumps(commits))
    if parts is not None:
        (arguments.records / f"cordee.{os.getpid()}.parts").write_text(json.dumps(parts.steps))
