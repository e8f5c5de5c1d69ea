"""A script with a fault of its own: it ends its process at a step, or one of its workers never asks to join."""

import argparse
import ctypes
import os
import threading
from pathlib import Path

from cordee import trainer
from cordee.trainer import data, elastic, nn, optim

parser = argparse.ArgumentParser()
parser.add_argument("--log", type=Path)
parser.add_argument("--end-at", type=int, default=0, help="step at which every process ends")
parser.add_argument("--how", choices=["exit0", "segfault", "memory"], default="exit0")
parser.add_argument("--absent", default="", help="a worker that never asks to join")
arguments = parser.parse_args()

if arguments.absent and os.environ["CORDEE_WORKER"].endswith(arguments.absent):
    threading.Event().wait()


def the_end() -> None:
    if arguments.how == "exit0":
        os._exit(0)
    if arguments.how == "memory":
        raise MemoryError("no room for this batch")
    ctypes.string_at(0)


trainer.manual_seed(1)
model = nn.Linear(4, 1)
optimizer = optim.SGD(model.parameters(), lr=0.01)
inputs = trainer.arange(64, dtype=trainer.float32).reshape(16, 4) / 64
loader = data.DataLoader(data.TensorDataset(inputs, inputs.sum(dim=1, keepdim=True)), batch_size=8, shards=4, seed=0)
run = elastic.Run(model, optimizer, loader)
for step in run.steps(epochs=10):
    if step.number == arguments.end_at:
        the_end()
    for batch in step.shards:
        step.backward(nn.functional.mse_loss(model(batch.x), batch.y))
    step.commit()
