"""Bits must not depend on where in memory an array lies: two processes never allocate alike.

Vectorised loops that peel to an alignment, and products that pick a kernel by address, would break the promise of same
weights now and then, which is the worst way to break it. So every op, and layers at sizes that reach the vectorised and
blocked paths, are computed with their inputs at each of the alignments that an allocator hands out.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cordee import trainer
from cordee.trainer import nn, random
from cordee.trainer.autograd.graph import apply
from cordee.trainer.autograd.record import REGISTRY, Op, Sampler

pytestmark = pytest.mark.skipif(
    os.environ.get("CORDEE_DEVICE") == "cuda", reason="a GPU's allocator aligns every array to 256 bytes or more"
)

OFFSETS = (0, 16, 32, 48)  # bytes from a cache line's start; malloc aligns to 16


def placed(array: Any, offset: int) -> Any:
    """A float32 copy of `array` that starts `offset` bytes after a cache line's start; other things as they are."""
    if isinstance(array, np.generic):
        array = np.asarray(array)
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        return array
    raw = np.zeros(array.size * 4 + 128, np.uint8)
    start = -raw.__array_interface__["data"][0] % 64 + offset
    view = raw[start : start + array.size * 4].view(np.float32).reshape(array.shape)
    view[...] = array
    return view


def same_everywhere(compute: Callable[[int], list[Any]]) -> None:
    expected = compute(0)
    for offset in OFFSETS[1:]:
        for one, other in zip(expected, compute(offset), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("record", REGISTRY.values(), ids=lambda record: record.name)
def test_an_ops_bits_do_not_depend_on_alignment(record: Op) -> None:
    for sample in record.samples(Sampler(seed=1)):

        def compute(offset: int, sample: Any = sample) -> list[Any]:
            tensors = [
                trainer.Tensor(moved, requires_grad=moved.dtype.kind == "f") if isinstance(moved, np.ndarray) else moved
                for given, moved in ((value, placed(value, offset)) for value in sample.inputs)
            ]
            result = apply(record, *tensors, **sample.params)
            outputs = result if isinstance(result, tuple) else (result,)
            found = [out.detach().numpy() for out in outputs]
            sources = [out for out in outputs if out.requires_grad and out.data.dtype.kind == "f"]
            if sources:
                sum((out.sum() for out in sources[1:]), sources[0].sum()).backward()
                found += [t.grad.numpy() for t in tensors if isinstance(t, trainer.Tensor) and t.grad is not None]
            return found

        same_everywhere(compute)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(64, 48), (8, 64)),
    "linear, odd sizes": (lambda: nn.Linear(63, 10), (7, 63)),
    "linear, one sample": (lambda: nn.Linear(784, 128), (1, 784)),
    "linear, large": (lambda: nn.Linear(512, 256), (96, 512)),
    "convolution": (lambda: nn.Conv2d(3, 8, 3, padding=1), (5, 3, 11, 13)),
    "layer norm": (lambda: nn.LayerNorm(67), (9, 67)),
    "pooling": (lambda: nn.MaxPool2d(2), (3, 4, 10, 10)),
    "softmax": (lambda: nn.Softmax(dim=-1), (13, 65)),
    "gelu": (nn.GELU, (17, 129)),
    "tanh": (nn.Tanh, (17, 129)),
    "dropout": (lambda: nn.Dropout(0.4), (17, 129)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layers_bits_do_not_depend_on_alignment(name: str) -> None:
    make, shape = LAYERS[name]
    values = np.random.default_rng(5).standard_normal(shape)

    def compute(offset: int) -> list[Any]:
        trainer.manual_seed(3)
        layer = make()
        for parameter in layer.parameters():
            parameter.data = placed(parameter.data, (offset * 3) % 64)
        x = trainer.Tensor(placed(values, offset), requires_grad=True)
        with random.scope(step=1, shard=2):
            out = layer(x)
        (out * out).sum().backward()
        return [out.detach().numpy(), x.grad.numpy(), *(p.grad.numpy() for p in layer.parameters())]

    same_everywhere(compute)
