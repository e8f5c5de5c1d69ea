"""The model of `benchmarks/chaos.py`: an MLP on 8×8 digits, in steps that many workers share.

The digits are repeated with noise, keyed by seed, to batches that are large enough for a step to be arithmetic rather
than talk: with 16 workers on 2 cores some tens of milliseconds. `--pace` makes steps last longer without computing, as
on a device of one's own. Rank 0 prints the loss at the end of every epoch.
"""

import argparse
import time

import numpy as np

from cordee import trainer
from cordee.trainer import data, elastic, nn, optim

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--batch", type=int, default=4096, help="the global batch")
parser.add_argument("--shards", type=int, default=16)
parser.add_argument("--width", type=int, default=256)
parser.add_argument("--steps-per-epoch", type=int, default=25)
parser.add_argument("--pace", type=float, default=0.0, help="seconds that a step takes at least")
arguments = parser.parse_args()

trainer.manual_seed(0)
images, labels = data.datasets.digits()
order = np.random.default_rng(0)
rows = order.integers(0, len(images), arguments.batch * arguments.steps_per_epoch)
x = (images.reshape(len(images), -1)[rows] / 16 + order.normal(0, 0.1, (len(rows), 64))).astype(np.float32)
y = labels[rows]

width = arguments.width
model = nn.Sequential(
    nn.Linear(64, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
)
optimizer = optim.AdamW(model.parameters(), lr=1e-3)
criterion = nn.CrossEntropyLoss()
loader = data.DataLoader(
    data.TensorDataset(x, y), batch_size=arguments.batch, shuffle=True, shards=arguments.shards, seed=0
)

run = elastic.Run(model, optimizer, loader)
for step in run.steps(epochs=max(arguments.steps // len(loader), 1)):
    until = time.monotonic() + arguments.pace
    for batch in step.shards:
        step.backward(criterion(model(batch.x), batch.y))
    time.sleep(max(until - time.monotonic(), 0.0))
    step.commit()
    if run.rank == 0 and step.number % len(loader) == 0:
        print(f"step {step.number} loss {run.loss:.9f}", flush=True)
run.report(loss=run.loss)
