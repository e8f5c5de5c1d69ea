"""The model of `benchmarks/steady.py`, for PyTorch: DistributedDataParallel with gloo, the same MLP and batches."""

import argparse
import json
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

parser = argparse.ArgumentParser()
parser.add_argument("--records", type=Path, required=True)
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--width", type=int, required=True)
parser.add_argument("--batch", type=int, default=256)
arguments = parser.parse_args()

torch.set_num_threads(1)
torch.manual_seed(0)
dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
share, width = arguments.batch // size, arguments.width
x = torch.randn(arguments.batch * 8, 256)
y = torch.randint(0, 10, (len(x),))
model = nn.Sequential(
    nn.Linear(256, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
    nn.Linear(width, 10),
)  # fmt: skip
parallel = DistributedDataParallel(model, gradient_as_bucket_view=True)
optimizer = torch.optim.SGD(parallel.parameters(), lr=0.01, momentum=0.9, fused=True)
criterion = nn.CrossEntropyLoss()
times = []
step = 0
while step < arguments.steps:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(step))
    for start in range(0, len(x), arguments.batch):
        mine = order[start + rank * share : start + (rank + 1) * share]
        optimizer.zero_grad()
        criterion(parallel(x[mine]), y[mine]).backward()
        optimizer.step()
        times.append(time.perf_counter())
        step += 1
if rank == 0:
    (arguments.records / f"torch.{os.getpid()}.json").write_text(json.dumps(times))
dist.destroy_process_group()
