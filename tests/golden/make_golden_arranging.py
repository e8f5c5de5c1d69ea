"""Writes arranging.npz: what PyTorch computes for every call in calls_arranging.py, values and gradients, in float64.

Run with an interpreter that has PyTorch and Cordee: `python tests/golden/make_golden_arranging.py`.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent


def main() -> None:
    table = runpy.run_path(str(HERE / "calls_arranging.py"))
    index: dict[str, list[list[int]]] = {}
    values: list[Any] = []
    for name, call in table["CALLS"].items():
        floats, constants = table["inputs_of"](name)
        inputs = [torch.tensor(array, requires_grad=True) for array in floats]
        out = call.call(torch, torch.nn.functional, *inputs, *map(torch.tensor, constants))
        out.backward(torch.tensor(table["output_weights"](tuple(out.shape))))
        arrays = [out.detach().numpy(), *(tensor.grad.numpy() for tensor in inputs)]
        index[name] = [list(array.shape) for array in arrays]
        values += [array.reshape(-1) for array in arrays]
    facts = {"torch": torch.__version__.partition("+")[0], "arrays": index}
    np.savez_compressed(HERE / "arranging.npz", index=np.array(json.dumps(facts)), values=np.concatenate(values))


if __name__ == "__main__":
    main()
