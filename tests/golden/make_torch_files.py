"""Writes the small files of tests/golden/torch/: what PyTorch saves, to be read where PyTorch is not installed.

python tests/golden/make_torch_files.py     # needs PyTorch and safetensors
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

FOLDER = Path(__file__).resolve().parent / "torch"


def model() -> torch.nn.Module:
    """Every parameter is a count: 0, 1, 2 … divided by 8, so that the test can say what must be read."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.LayerNorm(2))
    for number, parameter in enumerate(net.parameters()):
        parameter.data = (torch.arange(parameter.numel()).reshape(parameter.shape) + number) / 8
    return net


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    net = model()
    save_file(net.state_dict(), FOLDER / "model.safetensors", metadata={"made by": "PyTorch"})
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.5)
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    shared = torch.arange(12.0)
    everything = {
        "model": model().state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 7,
        "loss": np.float64(0.25),
        "shared": shared,
        "column": shared.reshape(3, 4)[:, 1],
        "bfloat16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "float16": torch.tensor([[0.5]], dtype=torch.float16),
        "bool": torch.tensor([True, False]),
        "uint16": torch.tensor([65535], dtype=torch.uint16),
        "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "nested": [OrderedDict(a=(1, "two", None, 3.5, 2**80)), {1, 2}, torch.Size([4, 5]), torch.float16],
    }
    torch.save(everything, FOLDER / "everything.pt")
    torch.save({"a": torch.ones(1)}, FOLDER / "legacy.pt", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
