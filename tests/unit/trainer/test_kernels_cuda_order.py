"""Sorting of row numbers on a GPU beside NumPy's: with `--device cuda` on one, else its text on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cordee.trainer.array import to_numpy
from cordee.trainer.kernels.cuda import order

sys.path.insert(0, str(Path(__file__).parent))
from cuda_support import Nvrtc, cupy_of_tests, needs_compiler

pytestmark = needs_compiler


@pytest.fixture(scope="module")
def xp(request: pytest.FixtureRequest) -> Iterator[Any]:
    with cupy_of_tests(str(request.config.getoption("--device")), order._kernel) as module:
        yield module


@pytest.mark.parametrize("count", [1, 15, 16, 17, 3000])
@pytest.mark.parametrize("height", [1, 2, 15, 16, 17, 300, 50257])
def test_equal_rows_stay_in_their_order(xp: Any, height: int, count: int) -> None:
    rows = np.random.default_rng([height, count]).integers(0, height, count)
    found = to_numpy(order.row_order(xp.asarray(rows), height=height))
    np.testing.assert_array_equal(found, rows.argsort(kind="stable"))


def test_rows_that_there_are_not_come_last(xp: Any) -> None:
    rows = np.array([7, -1, 3, 8, 0, 2**40, 7, -(2**40), 3])
    found = to_numpy(order.row_order(xp.asarray(rows), height=8))
    assert found.tolist() == [4, 2, 8, 0, 6, 1, 3, 5, 7]


def test_what_is_not_taken(xp: Any) -> None:
    rows = xp.asarray(np.arange(6))
    for other in (rows.astype(np.int32), rows.reshape(2, 3), rows[:0], rows[::2]):
        assert order.row_order(other, height=6) is NotImplemented


def test_nvidias_compiler_takes_the_source() -> None:
    text = Nvrtc().compile(order.SOURCE)
    assert all(f".entry {name}(" in text for name in order.KERNELS)
    assert "atom." not in text
