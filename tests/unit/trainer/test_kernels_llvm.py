"""Generated loops: each beside its NumPy version, with odd sizes, NaN and infinities, on one thread and on two."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cordee.trainer import kernels
from cordee.trainer import ops as ops  # declares the kernels
from cordee.trainer.array import get_num_threads, set_num_threads
from cordee.trainer.kernels.providers import PROVIDERS

pytestmark = pytest.mark.skipif(bool(PROVIDERS["llvm"].lack()), reason=PROVIDERS["llvm"].lack() or "-")

SHAPES = [(3, 5), (1, 1), (7, 16), (4, 100), (33, 129), (2, 3, 40), (300, 1000)]


@pytest.fixture(params=[1, 2])
def threads(request: Any) -> Iterator[int]:
    before = get_num_threads()
    set_num_threads(request.param)
    yield request.param
    set_num_threads(before)


def both(name: str, *operands: Any, **params: Any) -> tuple[Any, Any]:
    """What the generated loop computes, and what NumPy does, in float64."""
    kernel = kernels.KERNELS[name]
    provider = kernels.registry.load(name, "llvm")
    fast = provider(*operands, **params)
    assert fast is not NotImplemented
    assert bits(fast) == bits(provider(*operands, **params))
    wide = [x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype == np.float32 else x for x in operands]
    return fast, kernel.reference(np, *wide, **params)


def bits(result: Any) -> Any:
    """Of an array, or of all in a tuple."""
    if isinstance(result, tuple):
        return [bits(part) for part in result]
    return None if result is None else result.tobytes()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_and_its_gradient(name: str, shape: tuple[int, ...], threads: int) -> None:
    rng = np.random.default_rng(0)
    a, g = (rng.standard_normal(shape, np.float32) * 5 for _ in range(2))
    out, expected = both(name, a, axis=-1)
    np.testing.assert_allclose(out, expected, rtol=3e-6, atol=1e-6)
    grad, expected = both(f"{name}_grad", g, out, axis=len(shape) - 1)
    np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=2e-5)


def test_softmax_of_what_is_no_number() -> None:
    a = np.array([[0.0, -np.inf, 1.0], [np.nan, 0.0, 1.0], [3e38, -3e38, 0.0]], np.float32)
    out, expected = both("softmax", a, axis=1)
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_others_are_left_to_numpy() -> None:
    provider = kernels.registry.load("softmax", "llvm")
    a = np.ones((4, 6), np.float32)
    for operand in (a.astype(np.float64), a.T, a[:, ::2], a[:0], np.float32(1) * np.ones(())):
        assert provider(operand, axis=-1) is NotImplemented
    assert provider(a, axis=0) is NotImplemented


def test_a_forked_process_computes_the_same_on_one_thread(threads: int) -> None:
    a = np.random.default_rng(0).standard_normal((300, 1000), np.float32)
    provider = kernels.registry.load("softmax", "llvm")
    expected = provider(a, axis=-1).tobytes()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"same" if provider(a, axis=-1).tobytes() == expected else b"else")
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        assert answer.read() == b"same"
    os.waitpid(child, 0)
