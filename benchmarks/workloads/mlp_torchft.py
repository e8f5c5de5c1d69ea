"""The model of `benchmarks/recovery.py`, for torchft: replica groups of one process, a lighthouse, a supervisor.

    python mlp_torchft.py --records FOLDER [--tight]                 the supervisor: lighthouse and replicas
    python mlp_torchft.py --records FOLDER --replica N --lighthouse URL

The supervisor starts a replica again at once when it ends, as torchrun does for its group. `--tight`: the tightest
settings that work here, instead of torchft's defaults. The gradients are summed as one flat tensor by
`Manager.allreduce`, since a failed all-reduce ends the survivors of torchft's DistributedDataParallel.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--records", type=Path, required=True)
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--batch", type=int, default=3072)
parser.add_argument("--workers", type=int, default=3)
parser.add_argument("--tight", action="store_true")
parser.add_argument("--replica", type=int)
parser.add_argument("--lighthouse")
arguments = parser.parse_args()


def supervise() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tight = ["--quorum_tick_ms", "10", "--join_timeout_ms", "20", "--heartbeat_timeout_ms", "200"]
    lighthouse = subprocess.Popen(
        [str(Path(sys.executable).with_name("torchft_lighthouse")), "--bind", f"127.0.0.1:{port}",
         "--min_replicas", "1", *(tight if arguments.tight else [])],
    )  # fmt: skip

    def start(replica: int) -> "subprocess.Popen[bytes]":
        command = [sys.executable, __file__, *sys.argv[1:], "--replica", str(replica)]
        return subprocess.Popen([*command, "--lighthouse", f"http://127.0.0.1:{port}"])

    replicas = {replica: start(replica) for replica in range(arguments.workers)}
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    try:
        while True:
            for replica, process in replicas.items():
                if process.poll() is not None:
                    replicas[replica] = start(replica)
            time.sleep(0.02)
    finally:
        for process in (*replicas.values(), lighthouse):
            with contextlib.suppress(ProcessLookupError):
                process.kill()


def train() -> None:
    import torch
    import torch.distributed as dist
    from torch import nn
    from torchft import Manager, ProcessGroupGloo

    torch.set_num_threads(1)
    torch.manual_seed(0)
    share = arguments.batch // arguments.workers
    x = torch.randn(arguments.batch * 4, 64)
    y = torch.randint(0, 10, (len(x),))
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    criterion = nn.CrossEntropyLoss()

    def load(state: dict[str, object]) -> None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    settings = {"heartbeat_interval": timedelta(milliseconds=30)} if arguments.tight else {}
    manager = Manager(
        pg=ProcessGroupGloo(timeout=timedelta(seconds=0.3 if arguments.tight else 5)),
        load_state_dict=load,
        state_dict=lambda: {"model": model.state_dict(), "optimizer": optimizer.state_dict()},
        min_replica_size=1,
        rank=0,
        world_size=1,
        store_addr="127.0.0.1",
        store_port=store.port,
        lighthouse_addr=arguments.lighthouse,
        replica_id=f"replica_{arguments.replica}_",
        hostname="127.0.0.1",
        **settings,
    )
    with (arguments.records / f"{arguments.replica}.{os.getpid()}.jsonl").open("a", buffering=1) as log:
        while manager.current_step() < arguments.steps:
            start = (manager.current_step() % 4) * arguments.batch + arguments.replica * share
            optimizer.zero_grad()
            manager.start_quorum()
            criterion(model(x[start : start + share]), y[start : start + share]).backward()
            flat = torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters()])
            manager.allreduce(flat).wait()
            at = 0
            for parameter in model.parameters():
                parameter.grad.copy_(flat[at : at + parameter.numel()].view_as(parameter))
                at += parameter.numel()
            if manager.should_commit():
                optimizer.step()
                line = {
                    "time": time.time(), "worker": str(arguments.replica), "pid": os.getpid(),
                    "step": manager.current_step(), "size": manager.num_participants(),
                    "generation": manager._quorum_id + 1,
                }  # fmt: skip
                log.write(json.dumps(line) + "\n")


if arguments.replica is None:
    supervise()
else:
    train()
