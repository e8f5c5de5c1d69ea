"""Sorting by numbers that hold value and place: the same order as NumPy's stable sort of the elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cordee.trainer import argsort, kernels, kthvalue, median, ops, quantile, tensor, topk
from cordee.trainer.kernels.providers import PROVIDERS
from cordee.trainer.ops import sorting


def lines() -> Any:
    """Many equal elements, both zeros, infinities, and what is no number."""
    a = np.random.default_rng(0).integers(-20, 21, (64, 300)).astype(np.float32)
    a[3, 5], a[3, 9], a[4, ::9], a[5, ::7], a[6] = np.nan, -np.nan, -0.0, np.inf, -np.inf
    a[7, ::2] = np.float32(1e-45)
    return a


@pytest.mark.parametrize("axis", [0, 1, -2])
@pytest.mark.parametrize("descending", [False, True])
def test_the_order_is_that_of_a_stable_sort(monkeypatch: Any, axis: int, descending: bool) -> None:
    a = tensor(lines())
    found = [
        argsort(a, axis, descending=descending), topk(a, 7, axis, largest=descending).indices,
        kthvalue(a, 20, axis).indices, median(a, axis).indices, topk(a, 0, axis).indices,
    ]  # fmt: skip
    assert sorting._keys(np, a.data, axis, descending) is not None
    monkeypatch.setattr(sorting, "_FEWEST", 1 << 40)
    expected = [
        argsort(a, axis, descending=descending), topk(a, 7, axis, largest=descending).indices,
        kthvalue(a, 20, axis).indices, median(a, axis).indices, topk(a, 0, axis).indices,
    ]  # fmt: skip
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("k", [1, 7, 64])
def test_the_first_of_lines_by_a_generated_loop(k: int, descending: bool) -> None:
    if PROVIDERS["llvm"].lack():
        pytest.skip(PROVIDERS["llvm"].lack())
    kernel = kernels.KERNELS["first_places"]
    a = lines()
    found = kernels.registry.load("first_places", "llvm")(a, k=k, descending=descending)
    np.testing.assert_array_equal(found, kernel.reference(np, a, k=k, descending=descending))


def test_quantiles_of_long_lines() -> None:
    a = np.random.default_rng(1).standard_normal((4, 3000), np.float32)
    np.testing.assert_allclose(quantile(tensor(a), 0.3, 1).numpy(), np.quantile(a, 0.3, 1), rtol=1e-5)


def test_a_dimension_that_is_not_there_is_refused() -> None:
    with pytest.raises(IndexError):
        ops.argsort(tensor(lines()), 2)
