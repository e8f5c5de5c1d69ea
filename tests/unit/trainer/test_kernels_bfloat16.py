"""Arithmetic of bfloat16 by generated loops: float32's, rounded once, whatever the operands' layout."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from cordee.trainer.array import get_num_threads, set_num_threads
from cordee.trainer.kernels import registry
from cordee.trainer.kernels.providers import PROVIDERS

pytestmark = pytest.mark.skipif(bool(PROVIDERS["llvm"].lack()), reason=PROVIDERS["llvm"].lack() or "-")

BINARY = [
    "add", "subtract", "multiply", "divide", "maximum", "minimum", "less", "less_equal", "greater", "greater_equal",
    "equal", "not_equal",
]  # fmt: skip
UNARY = ["negative", "absolute", "sqrt", "square"]
bfloat16 = ml_dtypes.bfloat16


@pytest.fixture(scope="module")
def operands() -> tuple[Any, Any]:
    from cordee.trainer.kernels.llvm.bfloat16 import install

    install()
    special = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-40, 3e38]
    a = np.concatenate([special, np.random.default_rng(0).standard_normal(90_000) * 10]).astype(np.float32)
    return a.astype(bfloat16), np.roll(a, 7).astype(bfloat16)


def same(got: Any, expected: Any) -> None:
    expected = expected.astype(got.dtype)
    if got.dtype == bfloat16:
        numbers = ~np.isnan(expected.astype(np.float32))
        np.testing.assert_array_equal(np.isnan(got.astype(np.float32)), ~numbers)
        got, expected = got.view(np.uint16)[numbers], expected.view(np.uint16)[numbers]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", [*BINARY, *UNARY])
@np.errstate(all="ignore")
def test_as_float32_rounded_once(name: str, threads: int, operands: tuple[Any, Any]) -> None:
    ufunc, before = getattr(np, name), get_num_threads()
    set_num_threads(threads)
    given = operands[: ufunc.nin]
    try:
        for each in (given, [x[::3] for x in given], [x[::-1] for x in given], [x[:16] for x in given]):
            same(ufunc(*each), ufunc(*[x.astype(np.float32) for x in each]))
        column, row = operands[0][:90].reshape(-1, 1), operands[1][:200]
        if ufunc.nin == 2:
            same(ufunc(column, row), ufunc(column.astype(np.float32), row.astype(np.float32)))
    finally:
        set_num_threads(before)


def test_a_reduction_is_one_thread_s(operands: tuple[Any, Any]) -> None:
    ones = np.full(200_000, 2.0**-10, bfloat16)
    before = get_num_threads()
    set_num_threads(2)
    try:
        results = {float(np.add.reduce(ones)) for _ in range(5)}
    finally:
        set_num_threads(before)
    assert results == {0.25}  # where adding so little to so much changes nothing any more


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("axis", [0, 1])
def test_running_values_wait_for_those_before(axis: int, threads: int, operands: tuple[Any, Any]) -> None:
    a = operands[0][9 : 9 + 80_000].reshape((-1, 1) if axis == 0 else (2, -1))
    before = get_num_threads()
    set_num_threads(threads)
    try:
        for name in ("maximum", "minimum"):
            accumulate = getattr(np, name).accumulate
            same(accumulate(a, axis), accumulate(a.astype(np.float32), axis))
    finally:
        set_num_threads(before)


def test_casts(operands: tuple[Any, Any]) -> None:
    cast = registry.load("cast", "llvm")
    a = operands[0].astype(np.float32) * np.float32(1.001)
    same(cast(a, dtype=np.dtype(bfloat16)), a.astype(bfloat16))
    same(cast(a[::2], dtype=np.dtype(bfloat16)), a[::2].astype(bfloat16))
    assert cast(a.astype(np.float64), dtype=np.dtype(bfloat16)) is NotImplemented
    assert cast(a, dtype=np.dtype(np.float16)) is NotImplemented
