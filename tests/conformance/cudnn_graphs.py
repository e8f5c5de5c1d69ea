"""The engine's graphs held against cuDNN's own frontend, which validates them: no GPU and no driver is needed.

    pip install nvidia-cudnn-frontend nvidia-cudnn-cu12      # 0.8 GB; the folder with libcudnn.so.9 in LD_LIBRARY_PATH
    python tests/conformance/cudnn_graphs.py

What it cannot tell is which of them a GPU has a plan for.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

HERE = Path(__file__).resolve().parent
WINDOWS = (  # image, weight; kernel, stride, padding, dilation; groups
    ((2, 4, 7, 9), (6, 4, 3, 3), ((3, 3), (2, 2), (1, 1), (1, 1)), 1),
    ((2, 4, 9), (6, 2, 3), ((3,), (2,), (2,), (2,)), 2),
    ((1, 2, 4, 5, 3), (3, 2, 2, 3, 2), ((2, 3, 2), (1, 2, 1), (0, 1, 1), (1, 1, 1)), 1),
)
__all__ = ["main"]


def main() -> int:
    sys.path.insert(0, str(HERE / "cupy_stand_in"))
    cupy: Any = importlib.import_module("cupy")
    internal: Any = importlib.import_module("cudnn._pygraph")
    internal.pygraph._backend_handle_for_lowering = lambda self, keywords: None  # a handle would need a driver

    from cordee.trainer import ops as ops  # declares the kernels
    from cordee.trainer.kernels.cuda import cudnn
    from cordee.trainer.ops.windows import Window

    valid = 0

    class Validated(cudnn._Graph):
        def plan(self, exact: bool) -> bool:
            nonlocal valid
            self.graph.validate()
            valid += 1
            return True

        def run(self, *arrays: Any) -> None:
            assert len(arrays) == len(self._uids)

    cudnn._handle = lambda: None  # type: ignore[assignment]
    cudnn._Graph = Validated  # type: ignore[misc]
    for kind in (np.float32, ml_dtypes.bfloat16, np.float16):
        for shape, weight_shape, numbers, groups in WINDOWS:
            window = Window(*numbers)
            image, weight = cupy.zeros(shape, kind), cupy.zeros(weight_shape, kind)
            slope = cupy.zeros((shape[0], weight_shape[0], *window.size(shape[2:])), kind)
            for bias in (None, cupy.zeros(weight_shape[:1], kind)):
                cudnn.correlate(image, weight, bias, window, groups)
            cudnn.spread(slope, weight, shape[2:], window, groups)
            cudnn.weigh(slope, image, window, groups)
        for causal in (False, True) if kind is not np.float32 else ():
            query = cupy.zeros((2, 3, 16, 8), kind)
            _, kept = cudnn.flash_attention(query, query, query, scale=0.4, causal=causal)
            cudnn.flash_attention_grad(query, query, query, query, kept, scale=0.4, causal=causal)
    print(f"{valid} graphs are valid for cudnn {cudnn._library().backend_version()}, {cudnn._library().__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
