"""Writes linalg.npz: what PyTorch computes for every call in calls_linalg.py, values and gradients, in float64.

Run with an interpreter that has PyTorch and Cordee: `python tests/golden/make_golden_linalg.py`.
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
    calls = runpy.run_path(str(HERE / "calls_linalg.py"))

    def make(array: Any, requires_grad: bool) -> Any:
        return torch.tensor(array, requires_grad=requires_grad)

    index: dict[str, list[list[int] | None]] = {}
    values: list[Any] = []
    for name in calls["CALLS"]:
        out, inputs = calls["run"](name, torch, make)
        arrays = [out.detach(), *(tensor.grad for tensor in inputs)]
        index[name] = [None if array is None else list(array.shape) for array in arrays]
        values += [array.numpy().astype(np.float64).reshape(-1) for array in arrays if array is not None]
    facts = {"torch": torch.__version__.partition("+")[0], "arrays": index}
    np.savez_compressed(HERE / "linalg.npz", index=np.array(json.dumps(facts)), values=np.concatenate(values))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
