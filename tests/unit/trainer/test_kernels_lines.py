"""Generated loops along lines: products, extremes, sums of squares, running ones; each beside its NumPy version."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.unit.trainer.test_kernels_llvm import bits, both, threads
from tests.unit.trainer.test_kernels_llvm_rows import SUMS, normal

from cordee.trainer import kernels
from cordee.trainer.kernels.providers import PROVIDERS

__all__ = ["threads"]

pytestmark = pytest.mark.skipif(bool(PROVIDERS["llvm"].lack()), reason=PROVIDERS["llvm"].lack() or "-")

REDUCTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "squares": ("square_total", {}),
    "product": ("product", {}),
    "largest": ("extreme", {"largest": True}),
    "smallest": ("extreme", {"largest": False}),
}


@pytest.mark.parametrize(("shape", "axis"), [case for case in SUMS if case[0] != (9000, 3)], ids=str)  # few columns
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name: str, shape: tuple[int, ...], axis: Any, threads: int) -> None:
    kernel, params = REDUCTIONS[name]
    a = normal(np.random.default_rng(0), *shape)
    if name == "product":
        a = 1 + a / 1000
    for keepdims in (False, True):
        found, expected = both(kernel, a, axis=axis, keepdims=keepdims, **params)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-4 if name == "product" else 1e-5)


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("place", [0, 30, 127, 129])
def test_an_extreme_of_what_is_no_number_is_none(place: int, largest: bool) -> None:
    a = normal(np.random.default_rng(0), 3, 130)
    a[1, place] = np.nan
    a[2] = -np.inf if largest else np.inf
    found, _ = both("extreme", a, axis=1, keepdims=False, largest=largest)
    expected = a.max(1) if largest else a.min(1)
    np.testing.assert_array_equal(found, expected)
    columns, _ = both("extreme", np.repeat(np.stack([a.T, a.T]), 4, 2), axis=1, keepdims=False, largest=largest)
    np.testing.assert_array_equal(columns, [np.repeat(expected, 4)] * 2)


RUNNING = [((70, 130), 1), ((9, 1), 1), ((1, 500), 1), ((3, 41, 20), 1), ((90, 33), 0), ((5, 1, 9), 1)]


@pytest.mark.parametrize(("shape", "axis"), RUNNING, ids=str)
@pytest.mark.parametrize("name", ["cumsum", "cumprod"])
@pytest.mark.parametrize("reverse", [False, True])
def test_running_values_have_the_bits_of_numpys(
    name: str, reverse: bool, shape: tuple[int, ...], axis: int, threads: int
) -> None:
    a = normal(np.random.default_rng(0), *shape)
    found, _ = both("running", a, axis=axis, reverse=reverse, what=name)
    assert bits(found) == bits(
        kernels.KERNELS["running"].reference(np, a, axis=axis, reverse=reverse, what=name).copy()
    )


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_places_of_running_extremes(name: str, threads: int) -> None:
    a = np.random.default_rng(0).integers(-3, 4, (70, 90)).astype(np.float32)
    a[3, 40], a[4, 0], a[5, ::7] = np.nan, np.nan, np.nan
    a[6], a[7] = -np.inf, np.inf
    found, expected = both("running_place", a, axis=1, what=name)
    np.testing.assert_array_equal(found, expected)


def test_other_lines_are_left_to_numpy() -> None:
    running, place = (kernels.registry.load(name, "llvm") for name in ("running", "running_place"))
    a = np.ones((20, 30, 40), np.float32)
    for operand, axis in ((a[:, ::2], 1), (a.astype(np.float64), 1), (a[..., :4].copy(), 1), (a, 3), (a[:0], 1)):
        assert running(operand, axis=axis, reverse=False, what="cumsum") is NotImplemented
    assert place(a, axis=1, what="maximum") is NotImplemented
