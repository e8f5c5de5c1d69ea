"""Makes `schedules.npz`: the learning rates and momenta that PyTorch's schedules set in 120 steps (needs PyTorch).

`CASES` makes every schedule, given one or the other library's `lr_scheduler`; the tests read it from here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TARGET = Path(__file__).with_name("schedules.npz")

NUM_STEPS = 120
LRS = (0.5, 0.02)
"""Of the two parameter groups."""

Make = Callable[[Any, Any], Any]
"""Given `lr_scheduler` and an optimiser of two groups, makes the schedule."""


def _sequential(s: Any, o: Any) -> Any:
    schedulers = [s.ConstantLR(o, 0.1, total_iters=7), s.LinearLR(o, 0.2, total_iters=9), s.CosineAnnealingLR(o, 40)]
    return s.SequentialLR(o, schedulers, milestones=[10, 30])


def _nested(s: Any, o: Any) -> Any:
    inner = s.SequentialLR(o, [s.LinearLR(o, 0.5, total_iters=4), s.StepLR(o, 6, 0.5)], milestones=[5])
    return s.SequentialLR(o, [inner, s.ExponentialLR(o, 0.95)], milestones=[40])


def _swalr(options: dict[str, Any]) -> Make:
    def make(s: Any, o: Any) -> Any:
        import importlib

        package = s.__name__.rsplit(".", 1)[0]
        return importlib.import_module(f"{package}.swa_utils").SWALR(o, **options)

    return make


CASES: dict[str, Make] = {
    "lambda": lambda s, o: s.LambdaLR(o, lambda step: 0.95**step),
    "lambdas": lambda s, o: s.LambdaLR(o, [lambda step: 1 / (1 + step), lambda step: math.sin(step) + 2]),
    "multiplicative": lambda s, o: s.MultiplicativeLR(o, lambda step: 0.9 if step % 3 else 1.05),
    "step": lambda s, o: s.StepLR(o, 30),
    "step-often": lambda s, o: s.StepLR(o, step_size=7, gamma=0.8),
    "multistep": lambda s, o: s.MultiStepLR(o, [60, 10, 30, 30], gamma=0.3),
    "constant": lambda s, o: s.ConstantLR(o),
    "constant-long": lambda s, o: s.ConstantLR(o, factor=0.25, total_iters=50),
    "linear": lambda s, o: s.LinearLR(o),
    "linear-down": lambda s, o: s.LinearLR(o, start_factor=1.0, end_factor=0.01, total_iters=100),
    "exponential": lambda s, o: s.ExponentialLR(o, 0.93),
    "polynomial": lambda s, o: s.PolynomialLR(o),
    "polynomial-square": lambda s, o: s.PolynomialLR(o, total_iters=90, power=2.0),
    "cosine": lambda s, o: s.CosineAnnealingLR(o, 100),
    "cosine-waves": lambda s, o: s.CosineAnnealingLR(o, T_max=13, eta_min=0.001),
    "restarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 25),
    "restarts-longer": lambda s, o: s.CosineAnnealingWarmRestarts(o, T_0=5, T_mult=2, eta_min=0.001),
    "cyclic": lambda s, o: s.CyclicLR(o, 0.01, 0.2, step_size_up=10),
    "cyclic-halves": lambda s, o: s.CyclicLR(
        o, [0.01, 0.1], [0.2, 0.9], step_size_up=8, step_size_down=13, mode="triangular2", base_momentum=[0.7, 0.6]
    ),
    "cyclic-range": lambda s, o: s.CyclicLR(
        o, 0.01, 0.2, step_size_up=9, mode="exp_range", gamma=0.97, cycle_momentum=False
    ),
    "cyclic-own": lambda s, o: s.CyclicLR(
        o, 0.01, 0.2, step_size_up=9, scale_fn=lambda x: 1 / (5 ** (x * 0.001)), scale_mode="iterations"
    ),
    "onecycle": lambda s, o: s.OneCycleLR(o, max_lr=0.4, total_steps=121),
    "onecycle-three": lambda s, o: s.OneCycleLR(
        o, max_lr=[0.4, 1.0], epochs=13, steps_per_epoch=10, pct_start=0.4, three_phase=True, div_factor=10.0
    ),
    "onecycle-linear": lambda s, o: s.OneCycleLR(
        o, max_lr=0.4, total_steps=130, anneal_strategy="linear", cycle_momentum=False, final_div_factor=50.0
    ),
    "sequential": _sequential,
    "sequential-nested": _nested,
    "chained": lambda s, o: s.ChainedScheduler([s.ConstantLR(o, 0.1, total_iters=20), s.ExponentialLR(o, 0.95)]),
    "swalr": _swalr({"swa_lr": 0.05}),
    "swalr-linear": _swalr({"swa_lr": [0.05, 0.1], "anneal_epochs": 40, "anneal_strategy": "linear"}),
    "plateau": lambda s, o: s.ReduceLROnPlateau(o, patience=3),
    "plateau-max": lambda s, o: s.ReduceLROnPlateau(
        o, "max", factor=0.5, patience=1, threshold=0.05, threshold_mode="abs", cooldown=2, min_lr=[1e-3, 1e-4]
    ),
}


def metric(step: int) -> float:
    """What plateau schedules are shown."""
    return 1.0 / (1 + step) + 0.3 * math.sin(step * 0.37) + (0.2 if step > 60 else 0.0)


def record(library: Any, schedule: Any, optimizer: Any, num_steps: int, first: int = 1) -> np.ndarray[Any, Any]:
    """Per step and group: the learning rate, and the momentum. `library` is its `lr_scheduler`."""
    rows = []
    for step in range(first, first + num_steps):
        optimizer.step()
        if isinstance(schedule, library.ReduceLROnPlateau):
            schedule.step(metric(step))
        else:
            schedule.step()
        groups = optimizer.param_groups
        assert list(schedule.get_last_lr()) == [group["lr"] for group in groups]
        rows.append([(group["lr"], group["betas"][0] if "betas" in group else group["momentum"]) for group in groups])
    return np.array(rows, np.float64)


def main() -> None:
    import torch
    from torch.optim import lr_scheduler

    arrays = {}
    for case, make in CASES.items():
        for name in ("SGD", "AdamW"):
            parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in LRS]
            groups = [{"params": [parameter], "lr": lr} for parameter, lr in zip(parameters, LRS, strict=True)]
            optimizer = getattr(torch.optim, name)(groups)
            arrays[f"{case}/{name}"] = record(lr_scheduler, make(lr_scheduler, optimizer), optimizer, NUM_STEPS)
    arrays["made_with"] = np.frombuffer(json.dumps({"torch": torch.__version__}).encode(), np.uint8)
    np.savez_compressed(TARGET, allow_pickle=False, **arrays)
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
