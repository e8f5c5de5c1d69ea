"""The model of `benchmarks/recovery.py`, for Ray Train: `TorchTrainer` with gloo, a checkpoint reported at every step.

    python mlp_ray.py --records FOLDER [--tight]

Its documented fault tolerance: `FailureConfig(max_failures=-1)`; every attempt is a new group of processes, which goes
on from the newest checkpoint that the controller has heard of. The controller takes one report per worker each time it
looks at them, every 2 s by its defaults, so that with a checkpoint at every step this bounds the steps per second too.
`--tight`: it looks 20 times a second, and no watcher of nodes about to be preempted is started with every group.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

TIGHT = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.05", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}


def train_worker(settings: dict[str, Any]) -> None:
    import torch
    from ray import train
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rank, size = train.get_context().get_world_rank(), train.get_context().get_world_size()
    batch = settings["batch"]
    share = batch // size
    x = torch.randn(batch * 4, 64)
    y = torch.randint(0, 10, (len(x),))
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    checkpoint = train.get_checkpoint()
    first = 1
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            saved = torch.load(Path(folder) / "checkpoint.pt", weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"] + 1
    parallel = DistributedDataParallel(model)
    with (Path(settings["records"]) / f"{rank}.{os.getpid()}.jsonl").open("a", buffering=1) as log:
        for step in range(first, settings["steps"] + 1):
            start = (step % 4) * batch + rank * share
            optimizer.zero_grad()
            criterion(parallel(x[start : start + share]), y[start : start + share]).backward()
            optimizer.step()
            if rank == 0:
                with tempfile.TemporaryDirectory() as folder:
                    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                    torch.save(state, Path(folder) / "checkpoint.pt")
                    train.report({"step": step}, checkpoint=train.Checkpoint.from_directory(folder))
            else:
                train.report({"step": step})
            line = {"time": time.time(), "worker": str(rank), "pid": os.getpid(), "step": step, "size": size}
            log.write(json.dumps(line) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=3072)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--tight", action="store_true")
    arguments = parser.parse_args()
    os.environ.update(
        {"RAY_TRAIN_V2_ENABLED": "1", "RAY_USAGE_STATS_ENABLED": "0", **(TIGHT if arguments.tight else {})}
    )

    import ray  # only now: it reads the environment
    from ray import train
    from ray.train.torch import TorchConfig, TorchTrainer

    folder = arguments.records
    ray.init(
        num_cpus=arguments.workers, include_dashboard=False, object_store_memory=2**27, _temp_dir=str(folder / "ray")
    )
    TorchTrainer(
        train_worker,
        train_loop_config={"records": str(folder), "steps": arguments.steps, "batch": arguments.batch},
        torch_config=TorchConfig(backend="gloo"),
        # Half a CPU each: a new group need not wait until Ray has taken back what the old one had.
        scaling_config=train.ScalingConfig(num_workers=arguments.workers, resources_per_worker={"CPU": 0.5}),
        run_config=train.RunConfig(
            name="recovery",
            storage_path=str(folder / "storage"),
            failure_config=train.FailureConfig(max_failures=-1),
            checkpoint_config=train.CheckpointConfig(num_to_keep=2),
            logging_config=train.LoggingConfig(log_level="WARNING"),
        ),
    ).fit()


if __name__ == "__main__":
    main()
