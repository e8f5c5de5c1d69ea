"""The model of `benchmarks/recovery.py`, for torchrun with gloo: the same MLP, a checkpoint at every step, a line per
step."""

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
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--batch", type=int, default=3072)
arguments = parser.parse_args()

torch.set_num_threads(1)
torch.manual_seed(0)
dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
share = arguments.batch // size
x = torch.randn(arguments.batch * 4, 64)
y = torch.randint(0, 10, (len(x),))
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
criterion = nn.CrossEntropyLoss()
checkpoint = arguments.records / "checkpoint.pt"
first = 1
if checkpoint.exists():
    saved = torch.load(checkpoint, weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    first = saved["step"] + 1
parallel = DistributedDataParallel(model)
with (arguments.records / f"{rank}.{os.getpid()}.jsonl").open("a", buffering=1) as log:
    for step in range(first, arguments.steps + 1):
        start = (step % 4) * arguments.batch + rank * share
        optimizer.zero_grad()
        criterion(parallel(x[start : start + share]), y[start : start + share]).backward()
        optimizer.step()
        if rank == 0:
            unfinished = checkpoint.with_suffix(".tmp")
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, unfinished)
            unfinished.replace(checkpoint)
        line = {"time": time.time(), "worker": str(rank), "pid": os.getpid(), "step": step, "size": size}
        log.write(json.dumps(line) + "\n")
