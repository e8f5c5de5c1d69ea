"""The model of `benchmarks/steady.py`, for Cordee: an MLP of about so many parameters; prints nothing, writes the time
of every committed step."""

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
run = elastic.Run(model, optimizer, loader)
times = []
for step in run.steps(epochs=-(-arguments.steps // len(loader))):
    for batch in step.shards:
        step.backward(criterion(model(batch.x), batch.y))
    step.commit()
    times.append(time.perf_counter())
if run.rank == 0:
    (arguments.records / f"cordee.{os.getpid()}.json").write_text(json.dumps(times))
