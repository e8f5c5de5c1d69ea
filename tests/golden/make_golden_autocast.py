"""Writes autocast.json: the dtype of every call's result in calls_autocast.py, under PyTorch's autocast on the CPU.

Run with an interpreter that has PyTorch and Cordee: `python tests/golden/make_golden_autocast.py`. Where PyTorch
refuses a mixture of dtypes, there is null.
"""

from __future__ import annotations

import json
import runpy
import warnings
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent


def main() -> None:
    warnings.simplefilter("ignore")
    table = runpy.run_path(str(HERE / "calls_autocast.py"))
    found = {
        name: [dtype_of(table, call, dtypes) for dtypes in table["DTYPES"]] for name, call in table["CALLS"].items()
    }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(dtypes)}" for name, dtypes in found.items())
    version = json.dumps(torch.__version__.partition("+")[0])
    (HERE / "autocast.json").write_text(f'{{"torch": {version}, "dtypes": {{\n{lines}\n}}}}\n')


def dtype_of(table: dict[str, Any], call: Any, dtypes: tuple[str, str]) -> str | None:
    a, b = (torch.tensor(table[name], dtype=getattr(torch, dtype)) for name, dtype in zip("AB", dtypes, strict=True))
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return str(call(torch, torch.nn.functional, a, b).dtype).removeprefix("torch.")
    except (RuntimeError, ValueError, NotImplementedError):
        return None


if __name__ == "__main__":
    main()
