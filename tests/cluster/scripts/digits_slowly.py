"""Digits, with a pause after every step: long enough for a test to get through what it does to the job."""

import argparse
import time

import numpy as np

from cordee import trainer
from cordee.trainer import data, elastic, nn, optim

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--pause", type=float, default=0.0, help="seconds after each step; they do not touch the numbers")
parser.add_argument("--until-workers", type=int, default=10**6, help="with so many in the world, no pause any more")
arguments = parser.parse_args()

trainer.manual_seed(0)
images, labels = data.datasets.digits()
images = np.ascontiguousarray(images.reshape(len(images), -1) / 16, dtype=np.float32)
model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Dropout(0.2), nn.Linear(96, 10))
optimizer = optim.AdamW(model.parameters(), lr=1e-3)
criterion = nn.CrossEntropyLoss()
loader = data.DataLoader(data.TensorDataset(images, labels), batch_size=128, shuffle=True, shards=8, seed=0)
run = elastic.Run(model, optimizer, loader)
for step in run.steps(epochs=arguments.epochs):
    for batch in step.shards:
        step.backward(criterion(model(batch.x), batch.y))
    step.commit()
    if run.world_size < arguments.until_workers:
        time.sleep(arguments.pause)
print(f"weights {run.weights_sha256()}", flush=True)
