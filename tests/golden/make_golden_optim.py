"""Makes `optim.npz`: where PyTorch's optimisers take two parameters in 100 steps (needs PyTorch).

The gradients are a fixed function of the parameters and the step, in float64, that NumPy evaluates on both sides; so
what is compared is the optimisers alone. `CASES` names every case's options, and the tests read it from here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TARGET = Path(__file__).with_name("optim.npz")

NUM_STEPS = 100
SNAPSHOTS = (1, 2, 10, 100)
SHAPES = {"weight": (3, 4), "bias": (4,)}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.05}),
    "sgd-decay": ("SGD", {"lr": 0.05, "weight_decay": 0.1}),
    "sgd-momentum": ("SGD", {"lr": 0.02, "momentum": 0.9}),
    "sgd-dampening": ("SGD", {"lr": 0.02, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.05}),
    "sgd-nesterov": ("SGD", {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "adam": ("Adam", {"lr": 0.02}),
    "adam-decay": ("Adam", {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}),
    "adamw": ("AdamW", {"lr": 0.02}),
    "adamw-decay": ("AdamW", {"lr": 0.02, "betas": (0.85, 0.9), "eps": 1e-3, "weight_decay": 0.5}),
}


def start() -> dict[str, NDArray[np.float64]]:
    """Where the parameters start."""
    return {name: np.cos(np.arange(np.prod(shape)) * 0.7 + len(name)).reshape(shape) for name, shape in SHAPES.items()}


def gradient(name: str, value: NDArray[np.float64], step: int) -> NDArray[np.float64] | None:
    """The gradient at a parameter's value; None: the bias has none at every third step."""
    if name == "bias" and step % 3 == 0:
        return None
    return np.sin(3.0 * value) + 0.5 * value + 0.3 * np.cos(step * 0.9 + np.arange(value.size)).reshape(value.shape)


def main() -> None:
    import torch

    arrays: dict[str, NDArray[np.float64]] = {}
    for case, (class_name, options) in CASES.items():
        parameters = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start().items()}
        optimizer = getattr(torch.optim, class_name)(list(parameters.values()), **options)
        for step in range(1, NUM_STEPS + 1):
            for name, parameter in parameters.items():
                value = gradient(name, parameter.detach().numpy(), step)
                parameter.grad = None if value is None else torch.tensor(value)
            optimizer.step()
            if step in SNAPSHOTS:
                for name, parameter in parameters.items():
                    arrays[f"{case}/{step}/{name}"] = parameter.detach().numpy().copy()
    arrays["made_with"] = np.frombuffer(json.dumps({"torch": torch.__version__}).encode(), np.uint8)
    np.savez_compressed(TARGET, allow_pickle=False, **arrays)
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
