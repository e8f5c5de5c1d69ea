"""Writes math.npz: what PyTorch computes for every call in calls_math.py, in float64: values and gradients.

Run with an interpreter that has PyTorch and Cordee: `python tests/golden/make_golden_math.py`.
"""

from __future__ import annotations

import json
import runpy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent


def main() -> None:
    warnings.simplefilter("ignore")
    table = runpy.run_path(str(HERE / "calls_math.py"))
    index: dict[str, list[list[Any]]] = {}
    values: list[Any] = []

    def keep(name: str, arrays: list[Any]) -> None:
        index[name] = [[array.dtype.name, *array.shape] for array in arrays]
        values.extend(array.astype(np.float64).reshape(-1) for array in arrays)

    for name, call in table["CALLS"].items():
        inputs = [torch.tensor(array, requires_grad=True) for array in table["inputs_of"](name)]
        outputs = table["outputs_of"](call.call(torch, torch.nn.functional, *inputs))
        total = sum((out * torch.tensor(table["weights"](tuple(out.shape)))).sum() for out in outputs)
        gradients = torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)
        keep(name, [x.detach().numpy() for x in (*outputs, *gradients)])
    for name, plain in table["PLAIN"].items():
        keep(name, [x.numpy() for x in plain(torch, torch.nn.functional, torch.tensor)])
    facts = {"torch": torch.__version__.partition("+")[0], "arrays": index}
    np.savez_compressed(HERE / "math.npz", index=np.array(json.dumps(facts)), values=np.concatenate(values))


if __name__ == "__main__":
    main()
