"""Products of matrices by oneDNN and MKL, beside NumPy's: however the operands lie, and right where they are wanted."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cordee.trainer import ops, tensor
from cordee.trainer.array import bfloat16, get_num_threads, set_num_threads
from cordee.trainer.kernels import registry
from cordee.trainer.kernels.providers import PROVIDERS

pytestmark = pytest.mark.skipif(bool(PROVIDERS["onednn"].lack()), reason=PROVIDERS["onednn"].lack() or "-")

_MKL = pytest.mark.skipif(not PROVIDERS["mkl"].installed(), reason="mkl is not installed: pip install 'cordee[mkl]'")
TYPES = [
    pytest.param("onednn", np.float32, id="onednn-float32"),
    pytest.param("onednn", bfloat16, id="onednn-bfloat16"),
    pytest.param("mkl", np.float32, id="mkl-float32", marks=_MKL),
    pytest.param("mkl", np.float64, id="mkl-float64", marks=_MKL),
]


@pytest.fixture(params=[1, 2])
def threads(request: Any) -> Iterator[int]:
    before = get_num_threads()
    set_num_threads(request.param)
    yield request.param
    set_num_threads(before)


def ways(rng: Any, rows: int, columns: int, dtype: Any) -> dict[str, Any]:
    """A matrix that lies by rows, by columns, with gaps, reversed, and with gaps both ways."""

    def draw(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(dtype)

    return {
        "rows": draw(rows, columns),
        "columns": draw(columns, rows).T,
        "a part": draw(rows + 3, columns + 5)[1 : rows + 1, 2 : columns + 2],
        "reversed": draw(rows, columns)[::-1],
        "every other": draw(rows, 2 * columns)[:, ::2],
    }


@pytest.mark.parametrize(("provider", "dtype"), TYPES)
def test_as_numpys(provider: str, dtype: Any, threads: int) -> None:
    multiply, (m, k, n) = registry.load("multiply", provider), (130, 97, 101)
    rng, tolerance = np.random.default_rng(0), 0.2 if dtype == bfloat16 else 1e-4
    for (how, a), (other, b) in itertools.product(ways(rng, m, k, dtype).items(), ways(rng, k, n, dtype).items()):
        out = multiply(a, b)
        if how in ("reversed", "every other") or other in ("reversed", "every other"):
            assert out is NotImplemented
            continue
        expected = a.astype(np.float64) @ b.astype(np.float64)
        np.testing.assert_allclose(out.astype(np.float64), expected, rtol=2**-8, atol=tolerance)
        assert out.tobytes() == multiply(a, b).tobytes()
        place = np.zeros((m, n + 4), np.float64 if dtype == np.float64 else np.float32)
        assert multiply(a, b, out=place[:, :n]) is not NotImplemented
        np.testing.assert_allclose(place[:, :n], expected, rtol=1e-4, atol=1e-4)
        assert not place[:, n:].any()


@pytest.mark.parametrize(("provider", "dtype"), TYPES)
def test_a_bias_and_a_batch(provider: str, dtype: Any, threads: int) -> None:
    multiply, rng = registry.load("multiply", provider), np.random.default_rng(0)
    a, b, bias = (rng.standard_normal(shape).astype(dtype) for shape in ((128, 90), (90, 120), (120,)))
    wide = [each.astype(np.float64) for each in (a, b, bias)]
    out = multiply(a, b, bias=bias)
    np.testing.assert_allclose(out.astype(np.float64), wide[0] @ wide[1] + wide[2], rtol=2**-8, atol=0.2)
    heads = rng.standard_normal((4, 50, 3, 6, 32)).astype(dtype).transpose(2, 0, 3, 1, 4)
    query, key = heads[0], heads[1].swapaxes(-1, -2)
    scores = multiply(query, key)
    expected = query.astype(np.float64) @ key.astype(np.float64)
    np.testing.assert_allclose(scores.astype(np.float64), expected, rtol=2**-8, atol=0.2)
    assert multiply(query, key[:1]) is NotImplemented  # a batch is not broadcast


@pytest.mark.parametrize("shape", [(300, 1, 4000), (300, 300, 2), (2, 90000, 2), (20, 3, 5)], ids=str)
def test_thin_ones(shape: tuple[int, int, int]) -> None:
    kernel, rng, (m, k, n) = registry.KERNELS["multiply"], np.random.default_rng(0), shape
    for a, b in itertools.product(
        (rng.standard_normal((m, k), np.float32), rng.standard_normal((k, m), np.float32).T),
        (rng.standard_normal((k, n), np.float32), rng.standard_normal((n, k), np.float32).T),
    ):
        np.testing.assert_allclose(kernel(np, a, b), a.astype(np.float64) @ b, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("dtype", [np.float32, bfloat16], ids=["float32", "bfloat16"])
def test_rows_that_overlap_are_left_to_numpy(dtype: Any) -> None:
    """Windows over a signal share memory: rows nearer to each other than they are long."""
    multiply, rng = registry.load("multiply", "onednn"), np.random.default_rng(0)
    signal, right = rng.standard_normal(1200).astype(dtype), rng.standard_normal((128, 72)).astype(dtype)
    windows = np.lib.stride_tricks.sliding_window_view(signal, 128)[:1024]
    assert multiply(windows, right) is NotImplemented
    assert multiply(np.ascontiguousarray(right.T), windows.T) is NotImplemented
    product = ops.matmul(tensor(windows), tensor(right)).numpy()
    np.testing.assert_array_equal(product, ops.matmul(tensor(windows.copy()), tensor(right)).numpy())


@pytest.mark.parametrize("provider", ["onednn", pytest.param("mkl", marks=_MKL)])
def test_what_is_left_to_numpy(provider: str) -> None:
    multiply = registry.load("multiply", provider)
    a = np.ones((200, 200), np.float32)
    for x, y in (
        (a[:10], a),
        (a.astype(np.float64), a),
        (np.ones((2, 200, 200), np.float32), a),
        (a, a[:100]),
        (np.ones((1, 9999), np.float32), np.ones((9999, 200), np.float32)),
    ):
        assert multiply(x, y) is NotImplemented
    assert multiply(a, a, bias=np.ones(3, np.float32)) is NotImplemented
    assert multiply(a, a, out=np.ones((200, 100), np.float32)) is NotImplemented


def test_with_a_team_nothing_goes_to_the_threads_of_numpys_blas() -> None:
    """They would spin beside it."""
    rng, called, before = np.random.default_rng(0), [], get_num_threads()
    weight, bias = (tensor(rng.standard_normal(shape, np.float32), requires_grad=True) for shape in ((96, 64), (96,)))
    x = tensor(rng.standard_normal((128, 64), np.float32), requires_grad=True)

    def note(frame: Any, event: str, function: Any) -> None:
        if event == "c_call" and function.__name__ in ("dot", "matmul"):
            called.append(function.__name__)

    set_num_threads(2)
    try:
        for _ in range(2):  # the first time loops are compiled
            called.clear()
            sys.setprofile(note)
            ops.linear(x, weight, bias).sum().backward()
            sys.setprofile(None)
    finally:
        sys.setprofile(None)
        set_num_threads(before)
    assert not called
