"""Operations that kernels stand behind, with gradients for some of their inputs only: what is not read is not kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import kernels, nn

F = nn.functional
LABELS = np.arange(50) % 7
CASES: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (64,), w, b), [(50, 64), (64,), (64,)]),
    "rms_norm": (lambda x, w: F.rms_norm(x, (64,), w), [(50, 64), (64,)]),
    "batch_norm": (lambda *xs: F.batch_norm(xs[0], None, None, *xs[1:], training=True), [(8, 16, 6, 6), (16,), (16,)]),
    "group_norm": (lambda x, w, b: F.group_norm(x, 4, w, b), [(8, 16, 6, 6), (16,), (16,)]),
    "linear": (F.linear, [(300, 64), (128, 64), (128,)]),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, padding=1), [(4, 8, 10, 10), (16, 8, 3, 3), (16,)]),
    "conv_transpose2d": (F.conv_transpose2d, [(4, 8, 10, 10), (8, 16, 3, 3), (16,)]),
    "attention": (lambda *qkv: F.scaled_dot_product_attention(*qkv, is_causal=True), [(2, 3, 70, 16)] * 3),
    "embedding": (lambda w: F.embedding(ct.tensor(LABELS), w), [(9, 5)]),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), [(4, 8, 10, 10)]),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 2), [(4, 8, 10, 10)]),
    "cross_entropy": (lambda x: F.cross_entropy(x, ct.tensor(LABELS)), [(50, 7)]),
    "softmax": (lambda x: F.softmax(x, -1), [(50, 64)]),
    "gelu": (F.gelu, [(50, 64)]),
}


@pytest.fixture(autouse=True)
def _chosen_again() -> Iterator[None]:
    yield
    kernels.choose("auto")


def gradients(function: Callable[..., Any], arrays: list[Any], needed: tuple[bool, ...]) -> list[Any]:
    tensors = [ct.tensor(a, requires_grad=need) for a, need in zip(arrays, needed, strict=True)]
    out = function(*tensors)
    weights = np.linspace(-1, 1, out.numel(), dtype=np.float32).reshape(out.shape)
    (out * ct.tensor(weights)).sum().backward()
    return [None if tensor.grad is None else tensor.grad.numpy() for tensor in tensors]


@pytest.mark.parametrize("name", CASES)
def test_of_some_inputs_only(name: str) -> None:
    function, shapes = CASES[name]
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape, np.float32) for shape in shapes]
    for needed in itertools.product((False, True), repeat=len(shapes)):
        if any(needed):
            kernels.choose("numpy")
            expected = gradients(function, arrays, needed)
            kernels.choose("auto")
            for got, want in zip(gradients(function, arrays, needed), expected, strict=True):
                assert (got is None) == (want is None)
                if got is not None:
                    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
