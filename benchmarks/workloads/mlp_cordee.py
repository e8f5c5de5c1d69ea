"""The model of `benchmarks/recovery.py`, for Cordee: MLP 64-256-10, and a line per committed step in a file per
process."""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np

from cordee import trainer
from cordee.trainer import data, elastic, nn, optim

parser = argparse.ArgumentParser()
parser.add_argument("--records", type=Path, required=True, help="folder of the step logs")
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--batch", type=int, default=3072)
parser.add_argument("--shards", type=int, default=12)
arguments = parser.parse_args()

trainer.manual_seed(0)
generator = np.random.default_rng(0)
x = generator.standard_normal((arguments.batch * 4, 64), dtype=np.float32)
y = generator.integers(0, 10, len(x))
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
criterion = nn.CrossEntropyLoss()
loader = data.DataLoader(data.TensorDataset(x, y), batch_size=arguments.batch, shuffle=True, shards=arguments.shards)

worker = os.environ.get("CORDEE_WORKER", "alone")
with (arguments.records / f"{worker}.{os.getpid()}.jsonl").open("a", buffering=1) as log:
    run = elastic.Run(model, optimizer, loader)
    for step in run.steps(epochs=arguments.steps // len(loader)):
        generation, size = run.generation, run.world_size
        for batch in step.shards:
            step.backward(criterion(model(batch.x), batch.y))
        if step.commit():
            line = {
                "time": time.time(),
                "worker": worker,
                "pid": os.getpid(),
                "step": step.number,
                "generation": generation,
                "size": size,
            }
            log.write(json.dumps(line) + "\n")
