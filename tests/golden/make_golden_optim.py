"""Makes `optim.npz`: where PyTorch's optimisers take two parameters in 100 steps (needs PyTorch).

The gradients are a fixed function of the parameters and the step, in float64, that NumPy evaluates on both sides; so
what is compared is the optimisers alone. `CASES` names every case's options, and the tests read it from here.

PyTorch's Muon rounds its iteration to bfloat16, whatever the parameters are. Its case runs with float64 in that place:
then the two must agree in all digits.
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
MATRICES = {"weight": (3, 4), "bias": (5, 2)}
"""For optimisers of matrices; the second is "bias" as well, and lacks its gradient as often."""

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.05}),
    "sgd-decay": ("SGD", {"lr": 0.05, "weight_decay": 0.1}),
    "sgd-momentum": ("SGD", {"lr": 0.02, "momentum": 0.9}),
    "sgd-dampening": ("SGD", {"lr": 0.02, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.05}),
    "sgd-nesterov": ("SGD", {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "sgd-maximize": ("SGD", {"lr": 0.002, "maximize": True}),
    "sgd-maximize-all": (
        "SGD",
        {"lr": 0.002, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True},
    ),
    "adam": ("Adam", {"lr": 0.02}),
    "adam-decay": ("Adam", {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}),
    "adam-amsgrad": ("Adam", {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.1, "amsgrad": True}),
    "adam-maximize": ("Adam", {"lr": 0.02, "weight_decay": 0.1, "maximize": True}),
    "adam-decoupled": ("Adam", {"lr": 0.02, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    "adamw": ("AdamW", {"lr": 0.02}),
    "adamw-decay": ("AdamW", {"lr": 0.02, "betas": (0.85, 0.9), "eps": 1e-3, "weight_decay": 0.5}),
    "adamw-amsgrad": ("AdamW", {"lr": 0.02, "betas": (0.85, 0.9), "amsgrad": True}),
    "adamw-maximize": ("AdamW", {"lr": 0.02, "maximize": True, "amsgrad": True}),
    "adamax": ("Adamax", {"lr": 0.02}),
    "adamax-decay": ("Adamax", {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    "adamax-maximize": ("Adamax", {"lr": 0.02, "maximize": True}),
    "nadam": ("NAdam", {"lr": 0.02}),
    "nadam-decay": ("NAdam", {"lr": 0.02, "betas": (0.8, 0.9), "weight_decay": 0.1, "momentum_decay": 0.05}),
    "nadam-decoupled": ("NAdam", {"lr": 0.02, "weight_decay": 0.2, "decoupled_weight_decay": True}),
    "nadam-maximize": ("NAdam", {"lr": 0.02, "weight_decay": 0.1, "eps": 1e-4, "maximize": True}),
    "radam": ("RAdam", {"lr": 0.02}),
    "radam-decay": ("RAdam", {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-4, "weight_decay": 0.1}),
    "radam-decoupled": ("RAdam", {"lr": 0.02, "weight_decay": 0.2, "decoupled_weight_decay": True}),
    "radam-maximize": ("RAdam", {"lr": 0.02, "weight_decay": 0.1, "maximize": True}),
    "rmsprop": ("RMSprop", {"lr": 0.01}),
    "rmsprop-decay": ("RMSprop", {"lr": 0.01, "alpha": 0.9, "eps": 1e-4, "weight_decay": 0.1}),
    "rmsprop-momentum": ("RMSprop", {"lr": 0.005, "momentum": 0.8}),
    "rmsprop-centered": ("RMSprop", {"lr": 0.005, "centered": True, "momentum": 0.5, "weight_decay": 0.1}),
    "rmsprop-maximize": ("RMSprop", {"lr": 0.005, "centered": True, "maximize": True}),
    "adagrad": ("Adagrad", {"lr": 0.1}),
    "adagrad-decay": ("Adagrad", {"lr": 0.1, "lr_decay": 0.05, "weight_decay": 0.1, "eps": 1e-4}),
    "adagrad-initial": ("Adagrad", {"lr": 0.1, "initial_accumulator_value": 0.5}),
    "adagrad-maximize": ("Adagrad", {"lr": 0.05, "maximize": True, "weight_decay": 0.1}),
    "adadelta": ("Adadelta", {}),
    "adadelta-decay": ("Adadelta", {"lr": 0.8, "rho": 0.8, "eps": 1e-4, "weight_decay": 0.1}),
    "adadelta-maximize": ("Adadelta", {"maximize": True}),
    "asgd": ("ASGD", {"lr": 0.05}),
    "asgd-averaging": ("ASGD", {"lr": 0.05, "lambd": 0.1, "alpha": 0.6, "t0": 20.0, "weight_decay": 0.1}),
    "asgd-maximize": ("ASGD", {"lr": 0.005, "t0": 3.0, "maximize": True}),
    "rprop": ("Rprop", {"lr": 0.01}),
    "rprop-sizes": ("Rprop", {"lr": 0.02, "etas": (0.4, 1.5), "step_sizes": (1e-3, 0.1)}),
    "rprop-maximize": ("Rprop", {"lr": 0.001, "maximize": True}),
    "adafactor": ("Adafactor", {"lr": 0.05}),
    "adafactor-all": (
        "Adafactor",
        {"lr": 0.1, "beta2_decay": -0.6, "eps": (1e-6, 1e-2), "d": 1.5, "weight_decay": 0.1, "maximize": True},
    ),
    "muon": ("Muon", {"lr": 0.05}),
    "muon-plain": ("Muon", {"lr": 0.02, "nesterov": False, "momentum": 0.8, "adjust_lr_fn": "match_rms_adamw"}),
    "muon-unclamped": ("Muon", {"lr": 0.02, "ns_steps": 3, "weight_decay": 0.0, "adjust_lr_fn": "spectral_unclamped"}),
}

LBFGS_CASES: dict[str, dict[str, Any]] = {
    "lbfgs": {"lr": 0.3, "max_iter": 4},
    "lbfgs-short": {"lr": 0.3, "max_iter": 5, "history_size": 3},
    "lbfgs-wolfe": {"max_iter": 5, "line_search_fn": "strong_wolfe"},
    "lbfgs-wolfe-short": {"max_iter": 4, "history_size": 2, "line_search_fn": "strong_wolfe", "max_eval": 9},
    "lbfgs-maximize": {"lr": 0.1, "max_iter": 3, "line_search_fn": "strong_wolfe", "maximize": True},
}
LBFGS_STEPS = 6


def start(class_name: str = "SGD") -> dict[str, NDArray[np.float64]]:
    """Where the parameters start."""
    shapes = MATRICES if class_name == "Muon" else SHAPES
    return {name: np.cos(np.arange(np.prod(shape)) * 0.7 + len(name)).reshape(shape) for name, shape in shapes.items()}


def gradient(name: str, value: NDArray[np.float64], step: int) -> NDArray[np.float64] | None:
    """The gradient at a parameter's value; None: the bias has none at every third step."""
    if name == "bias" and step % 3 == 0:
        return None
    return np.sin(3.0 * value) + 0.5 * value + 0.3 * np.cos(step * 0.9 + np.arange(value.size)).reshape(value.shape)


def valley(values: dict[str, NDArray[np.float64]], sign: float = 1.0) -> tuple[float, dict[str, NDArray[np.float64]]]:
    """A curved valley over both parameters (Rosenbrock's function along them), and its gradient. For LBFGS."""
    flat = np.concatenate([value.reshape(-1) for value in values.values()])
    now, following = flat[:-1], flat[1:]
    bend = following - now * now
    loss = float(np.sum(10.0 * bend * bend + (1.0 - now) ** 2))
    slope = np.zeros_like(flat)
    slope[:-1] += -40.0 * bend * now - 2.0 * (1.0 - now)
    slope[1:] += 20.0 * bend
    gradients, start = {}, 0
    for name, value in values.items():
        gradients[name] = sign * slope[start : start + value.size].reshape(value.shape)
        start += value.size
    return sign * loss, gradients


def main() -> None:
    import torch

    torch.set_default_dtype(torch.float64)  # which is also that of the numbers an optimiser keeps per parameter
    rounded, torch.bfloat16 = torch.bfloat16, torch.float64
    arrays: dict[str, NDArray[np.float64]] = {}
    for case, (class_name, options) in CASES.items():
        parameters = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start(class_name).items()}
        optimizer = getattr(torch.optim, class_name)(list(parameters.values()), **options)
        for step in range(1, NUM_STEPS + 1):
            for name, parameter in parameters.items():
                value = gradient(name, parameter.detach().numpy(), step)
                parameter.grad = None if value is None else torch.tensor(value)
            optimizer.step()
            if step in SNAPSHOTS:
                for name, parameter in parameters.items():
                    arrays[f"{case}/{step}/{name}"] = parameter.detach().numpy().copy()
    torch.bfloat16 = rounded
    for case, options in LBFGS_CASES.items():
        parameters = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start().items()}
        optimizer = torch.optim.LBFGS(list(parameters.values()), **options)
        sign = -1.0 if options.get("maximize") else 1.0

        def closure(parameters: Any = parameters, sign: float = sign) -> Any:
            values = {name: parameter.detach().numpy() for name, parameter in parameters.items()}
            loss, gradients = valley(values, sign)
            for name, parameter in parameters.items():
                parameter.grad = torch.tensor(gradients[name])
            return torch.tensor(loss)

        for step in range(1, LBFGS_STEPS + 1):
            loss = optimizer.step(closure)
            arrays[f"{case}/{step}/loss"] = np.array(float(loss))
            for name, parameter in parameters.items():
                arrays[f"{case}/{step}/{name}"] = parameter.detach().numpy().copy()
    arrays["made_with"] = np.frombuffer(json.dumps({"torch": torch.__version__}).encode(), np.uint8)
    np.savez_compressed(TARGET, allow_pickle=False, **arrays)
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
