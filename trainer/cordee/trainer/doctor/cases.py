"""What is timed: a dozen computations as training makes them, through the public functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import cordee.trainer as ct
from cordee.trainer import nn, optim

__all__ = ["CASES", "Case"]


class Case(NamedTuple):
    """A computation; `make` gives what is called, with its operands in it."""

    name: str
    size: str
    make: Callable[[], Callable[[], Any]]


def _random(*shape: int, dtype: Any = ct.float32) -> ct.Tensor:
    values = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    tensor: ct.Tensor = ct.tensor(values).to(dtype)
    return tensor


def _both(function: Callable[..., ct.Tensor], *operands: ct.Tensor) -> Callable[[], Any]:
    """The function and its gradient, from ones."""
    leaves = [operand.requires_grad_() for operand in operands if operand.dtype.kind != "i"]
    ones = ct.ones_like(function(*operands).detach())

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        function(*operands).backward(ones)

    return run


def _cross_entropy() -> Callable[[], Any]:
    target = ct.tensor(np.arange(512) % 1000)
    return _both(lambda a: ct.cross_entropy(a, target), _random(512, 1000))


def _update() -> Callable[[], Any]:
    parameter = nn.Parameter(_random(1 << 18))
    optimizer = optim.AdamW([parameter], lr=1e-3)
    parameter.grad = _random(1 << 18)
    return optimizer.step


def _attention() -> Callable[[], Any]:
    return _both(ct.scaled_dot_product_attention, *(_random(2, 4, 128, 64) for _ in range(3)))


CASES = (
    Case("softmax", "1024×512", lambda: _both(lambda a: ct.softmax(a, -1), _random(1024, 512))),
    Case("cross entropy", "512×1000", _cross_entropy),
    Case("layer norm", "1024×512", lambda: _both(nn.LayerNorm(512), _random(1024, 512))),
    Case("batch norm", "8×32×32×32", lambda: _both(nn.BatchNorm2d(32), _random(8, 32, 32, 32))),
    Case("GELU", "262,144", lambda: _both(ct.gelu, _random(1 << 18))),
    Case("sigmoid", "262,144", lambda: _both(ct.sigmoid, _random(1 << 18))),
    Case("AdamW's update", "262,144", _update),
    Case("convolution 3×3", "4×32×16×16", lambda: _both(nn.Conv2d(32, 32, 3, padding=1), _random(4, 32, 16, 16))),
    Case("max pooling 2×2", "8×32×32×32", lambda: _both(nn.MaxPool2d(2), _random(8, 32, 32, 32))),
    Case("attention", "2×4×128×64", _attention),
    Case("product", "192×192", lambda: _both(ct.matmul, _random(192, 192), _random(192, 192))),
    Case(
        "bfloat16 product", "192×192",
        lambda: _both(ct.matmul, _random(192, 192, dtype=ct.bfloat16), _random(192, 192, dtype=ct.bfloat16)),
    ),
    Case(
        "bfloat16 a × b + a", "262,144",
        lambda: _both(lambda a, b: a * b + a, *(_random(1 << 18, dtype=ct.bfloat16) for _ in range(2))),
    ),
)  # fmt: skip
"""Each with its gradient, where it has one."""
