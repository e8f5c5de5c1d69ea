"""The operations whose times are aims, at the sizes they were aimed at; `op_cases.py` has all others.

What an aim says is in the case: at most so much of PyTorch's time, forward and with backward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from op_cases import Case, Operand, conv, normal

__all__ = ["AIMED_CASES"]


def _bfloat16(*shape: int) -> Operand:
    return Operand(shape, dtype="bfloat16")


def _adamw(count: int, *shape: int) -> Case:
    """A fused step over `count` parameters. The gradients come from a backward, so each library has them where it wants
    them."""

    def prepare(lib: Any) -> Callable[[], Any]:
        rng = np.random.default_rng(0)
        values = [rng.standard_normal((2, *shape), dtype=np.float32) for _ in range(count)]
        parameters = [lib.nn.Parameter(lib.tensor(start)) for start, _ in values]
        optimizer = lib.optim.AdamW(parameters, lr=0.1, fused=True)
        sums = [(parameter * lib.tensor(slope)).sum() for parameter, (_, slope) in zip(parameters, values, strict=True)]
        lib.stack(sums).sum().backward()

        def step() -> Any:
            optimizer.step()
            return parameters[0]

        return step

    name = f"AdamW {count} parameters of {'×'.join(map(str, shape))}"
    return Case("optimiser", name, (), lambda _: None, aim=0.72, prepare=prepare)


AIMED_CASES = [
    conv("conv2d", (32, 64, 56, 56), (64, 64, 3, 3), padding=1),
    conv("conv2d", (8, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3),
    conv("conv2d", (32, 256, 14, 14), (512, 256, 1, 1)),
    conv("conv2d", (128, 1, 28, 28), (32, 1, 3, 3), padding=1),
    Case("normalisation", "softmax", (normal(1024, 1024),), lambda t, a: t.softmax(a, 1), aim=1.0),
    Case("normalisation", "softmax", (normal(24576, 256),), lambda t, a: t.softmax(a, 1), aim=1.0),
    Case(
        "normalisation",
        "layer_norm",
        (normal(2048, 768), normal(768), normal(768)),
        lambda t, x, w, b: t.nn.functional.layer_norm(x, (768,), w, b),
        aim=1.0,
    ),
    Case(
        "activation",
        "gelu tanh",
        (normal(1024, 3072),),
        lambda t, a: t.nn.functional.gelu(a, approximate="tanh"),
        aim=1.0,
    ),
    Case("activation", "gelu erf", (normal(1024, 3072),), lambda t, a: t.nn.functional.gelu(a), aim=1.0),
    _adamw(50, 256, 320),
    _adamw(100, 256),
    Case("product", "matmul", (_bfloat16(256, 256), _bfloat16(256, 256)), lambda _, a, b: a @ b),
    Case("product", "matmul", (_bfloat16(1024, 1024), _bfloat16(1024, 1024)), lambda _, a, b: a @ b),
    Case("product", "bmm", (_bfloat16(64, 128, 64), _bfloat16(64, 64, 128)), lambda t, a, b: t.bmm(a, b)),
    Case(
        "product",
        "linear",
        (_bfloat16(1024, 768), _bfloat16(3072, 768), _bfloat16(3072)),
        lambda t, x, w, b: t.nn.functional.linear(x, w, b),
    ),
]
