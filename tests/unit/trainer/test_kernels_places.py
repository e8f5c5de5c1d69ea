"""Elements taken from lines and added to them by generated loops, beside NumPy, and what of the ops goes there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.unit.trainer.test_kernels_llvm import both, threads
from tests.unit.trainer.test_kernels_llvm_rows import normal

from cordee.trainer import gather, index_add, index_select, kernels, scatter_add, tensor
from cordee.trainer.kernels.providers import PROVIDERS

__all__ = ["threads"]

pytestmark = pytest.mark.skipif(bool(PROVIDERS["llvm"].lack()), reason=PROVIDERS["llvm"].lack() or "-")


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("shape", [(3, 7), (1, 1), (90, 800), (700, 5)], ids=str)
def test_taken_from_lines_and_added_to_them(shape: tuple[int, int], same: bool, threads: int) -> None:
    rng = np.random.default_rng(0)
    lines, n = shape
    a, index = normal(rng, lines, n), rng.integers(0, n, 50 if same else (lines, 50))
    found, expected = both("take_from_lines", a, index)
    np.testing.assert_array_equal(found, expected)
    more = normal(rng, lines, 50)
    out, wide = a.copy(), a.copy()
    assert kernels.registry.load("add_to_lines", "llvm")(out, index, more) is None
    kernels.KERNELS["add_to_lines"].reference(np, wide, index, more)
    assert out.tobytes() == wide.tobytes()


def outcomes(a: Any, index: Any, same: Any, source: Any) -> list[Any]:
    """Of all ops that take from lines or add to them, results and gradients."""
    found = []
    for call in (
        lambda x: gather(x, -1, index),
        lambda x: index_select(x, 2, same),
        lambda x: x[..., same],
        lambda x: x[:, :, same],
        lambda x: scatter_add(x, 2, index, source),
        lambda x: index_add(x, 2, same, source),
    ):
        x = tensor(a, requires_grad=True)
        out = call(x)
        (out * out).sum().backward()
        found += [out.detach().numpy(), x.grad.numpy()]
    return found


def test_ops_along_the_last_dimension_are_what_they_are_without_kernels() -> None:
    rng = np.random.default_rng(0)
    a, source = normal(rng, 5, 30, 40), tensor(normal(rng, 5, 30, 35))
    index, same = tensor(rng.integers(0, 40, (5, 30, 35))), tensor(rng.integers(-40, 40, 35))
    with_kernels = outcomes(a, index, same, source)
    before = kernels.choose("numpy")
    try:
        expected = outcomes(a, index, same, source)
    finally:
        kernels.choose("auto")
    assert before == ()
    for one, other in zip(with_kernels, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("place", [40, -41])
def test_places_that_there_are_not_are_refused(place: int) -> None:
    a, index = tensor(np.ones((300, 40), np.float32)), np.zeros(100, np.int64)
    index[7] = place
    with pytest.raises(IndexError):
        index_select(a, 1, tensor(index))
    with pytest.raises(IndexError):
        gather(a, 1, tensor(np.tile(index, (300, 1))))
    with pytest.raises(IndexError):
        scatter_add(a, 1, tensor(np.tile(index, (300, 1))), tensor(np.ones((300, 100), np.float32)))
