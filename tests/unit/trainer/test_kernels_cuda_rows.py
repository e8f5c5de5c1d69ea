"""Kernels of rows on a GPU beside NumPy's: with `--device cuda` on one, else their text on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from cordee.trainer import ops as ops  # declares the kernels
from cordee.trainer.array import to_numpy
from cordee.trainer.kernels import KERNELS
from cordee.trainer.kernels.cuda import launch, rows, rows_text
from cordee.trainer.kernels.registry import load

sys.path.insert(0, str(Path(__file__).parent))
from cuda_support import Nvrtc, cupy_of_tests, needs_compiler

pytestmark = needs_compiler

KINDS = [np.float32, ml_dtypes.bfloat16, np.float16]
TOLERANCE: dict[Any, float] = {np.float32: 2e-5, ml_dtypes.bfloat16: 2**-7, np.float16: 2**-10}
SHAPES = [(1, 1), (3, 5), (2, 33), (3, 700)]


@pytest.fixture(scope="module")
def xp(request: pytest.FixtureRequest) -> Iterator[Any]:
    with cupy_of_tests(request.config.getoption("--device"), launch.function, launch._module) as module:
        yield module


def check(xp: Any, name: str, kind: Any, *operands: Any, **params: Any) -> Any:
    """The kernel's results beside the reference's, which is computed in double precision."""
    on_device = [
        None if each is None else xp.asarray(each.astype(kind) if each.dtype.kind == "f" else each) for each in operands
    ]
    there = {key: xp.asarray(value) if isinstance(value, np.ndarray) else value for key, value in params.items()}
    rounded = [None if each is None else to_numpy(each) for each in on_device]
    exact = [each.astype(np.float64) if each is not None and each.dtype.kind != "i" else each for each in rounded]
    found = load(name, "nvrtc")(*on_device, **there)
    expected = KERNELS[name].reference(np, *exact, **params)
    return _compare(name, found, expected, kind)


def _compare(name: str, found: Any, expected: Any, kind: Any) -> None:
    if isinstance(expected, tuple):
        for one, other in zip(found, expected, strict=True):
            _compare(name, one, other, kind)
    elif expected is None:
        assert found is None
    else:
        values = to_numpy(found)
        assert values.shape == np.shape(expected)
        rtol = TOLERANCE[kind]
        np.testing.assert_allclose(values.astype(np.float64), expected, rtol=rtol, atol=rtol, err_msg=name)


def numbers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [*SHAPES, (2, 3, 40)])
def test_softmax(xp: Any, shape: tuple[int, ...], kind: Any) -> None:
    a, g = 4 * numbers(*shape), numbers(*shape, seed=1)
    for name in ("softmax", "log_softmax"):
        check(xp, name, kind, a, axis=-1)
        check(xp, f"{name}_grad", kind, g, KERNELS[name].reference(np, a, axis=-1), axis=len(shape) - 1)


def test_softmax_of_what_is_no_number(xp: Any) -> None:
    a = np.array([[1, np.nan, 2], [np.inf, 0, 1], [-np.inf] * 3, [-np.inf, 0, 1], [1e30, -1e30, 0]], np.float32)
    check(xp, "softmax", np.float32, a, axis=1)
    check(xp, "log_softmax", np.float32, a, axis=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_cross_entropy(xp: Any, shape: tuple[int, int], kind: Any) -> None:
    a, target = 4 * numbers(*shape), np.random.default_rng(2).integers(0, shape[1], shape[0])
    there, classes = xp.asarray(a.astype(kind)), xp.asarray(target)
    exact = a.astype(kind).astype(np.float64)
    for reduction in ("none", "sum", "mean"):
        losses, (*statistics, counted) = load("cross_entropy", "nvrtc")(there, target=classes, reduction=reduction)
        expected = KERNELS["cross_entropy"].reference(np, exact, target=target, reduction=reduction)
        _compare("loss", (losses, tuple(statistics)), expected, kind)
        assert float(to_numpy(counted)) == shape[0]
    tops, totals = (each.astype(np.float32) for each in expected[1])
    for slopes in (np.float32([0.7]).reshape(()), numbers(shape[0]).astype(np.float32)):
        on_device = [xp.asarray(each) for each in (slopes, a.astype(kind), tops, totals)]
        found = rows.cross_entropy_grad(*on_device, target=xp.asarray(target.astype(np.int32)))
        exact_ones = [each.astype(np.float64) for each in (slopes, a.astype(kind), tops, totals)]
        _compare("grad", found, KERNELS["cross_entropy_grad"].reference(np, *exact_ones, target=target), kind)


def test_rows_of_no_class_count_for_nothing(xp: Any) -> None:
    """As on CuPy without these kernels."""
    a, target = numbers(5, 7).astype(np.float32), np.array([3, -100, 7, 0, -1])
    there, classes = xp.asarray(a), xp.asarray(target)
    some = [0, 3]
    for reduction in ("none", "sum", "mean"):
        expected = KERNELS["cross_entropy"].reference(np, a[some], target=target[some], reduction=reduction)[0]
        for made in (
            rows.cross_entropy(there, target=classes, reduction=reduction),
            KERNELS["cross_entropy"].reference(xp, there, target=classes, reduction=reduction),
        ):
            loss, (tops, totals, counted) = made
            values = to_numpy(loss)
            np.testing.assert_allclose(values[some] if reduction == "none" else values, expected, rtol=2e-5)
            assert float(to_numpy(counted)) == 2
            slopes = xp.asarray(numbers(5).astype(np.float32))
            for grad in (rows.cross_entropy_grad, lambda *o, **p: KERNELS["cross_entropy_grad"].reference(xp, *o, **p)):
                found = to_numpy(grad(slopes, there, tops, totals, target=classes))
                assert not found[[1, 2, 4]].any()
                assert found[some].all()


@pytest.mark.parametrize("shape", [*SHAPES, (70, 5)])
@pytest.mark.parametrize(
    ("kind", "parameters"),
    [*((kind, "weight bias") for kind in KINDS), *((np.float32, given) for given in ("weight", "bias", ""))],
)
def test_norms(xp: Any, shape: tuple[int, int], kind: Any, parameters: str) -> None:
    input, g = 3 * numbers(*shape) + 1, numbers(*shape, seed=1)
    weight = numbers(shape[1], seed=2) if "weight" in parameters else None
    bias = numbers(shape[1], seed=3) if "bias" in parameters else None
    needs = (True, weight is not None, bias is not None)
    check(xp, "layer_norm", kind, input, weight, bias, eps=1e-3)
    check(xp, "rms_norm", kind, input, weight, eps=1e-3)
    narrow = input.astype(kind).astype(np.float64)
    if shape[1] > 1:
        statistics = KERNELS["layer_norm"].reference(np, narrow, None, None, eps=1e-3)[1]
        gradients(xp, kind, "layer_norm_grad", g, input, weight, *statistics, needs=needs)
    inverse = KERNELS["rms_norm"].reference(np, narrow, None, eps=1e-3)[1]
    gradients(xp, kind, "rms_norm_grad", g, input, weight, inverse, needs=needs[:2])


def gradients(xp: Any, kind: Any, name: str, *operands: Any, needs: Any) -> None:
    arrays = [None if each is None else each.astype(kind) for each in operands[:3]]
    statistics = [each.astype(np.float32) for each in operands[3:]]
    there = [None if each is None else xp.asarray(each) for each in (*arrays, *statistics)]
    found = load(name, "nvrtc")(*there, needs=needs)
    exact = [None if each is None else each.astype(np.float64) for each in (*arrays, *statistics)]
    expected = KERNELS[name].reference(np, *exact, needs=needs)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:  # sums of many rows
            scale = float(np.abs(other).max()) + 1
            rtol = TOLERANCE[kind]
            np.testing.assert_allclose(to_numpy(one).astype(np.float64), other, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [None, 0, 3, 90])
def test_attention(xp: Any, kind: Any, first: int | None) -> None:
    scores, grad = numbers(2, 3, 5, 70), numbers(2, 3, 5, 70, seed=1)
    there = xp.asarray(scores.astype(kind))
    weights = rows.attention_weights(there, scale=0.4, first=first)
    assert weights is there  # in place
    exact = KERNELS["attention_weights"].reference(np, scores.astype(kind).astype(np.float64), scale=0.4, first=first)
    _compare("weights", weights, exact, kind)
    slopes = xp.asarray(grad.astype(kind))
    rounded = to_numpy(weights).astype(np.float64)
    expected = KERNELS["attention_slopes"].reference(np, grad.astype(kind).astype(np.float64), rounded, scale=0.4)
    _compare("slopes", rows.attention_slopes(slopes, weights, scale=0.4), expected, kind)


def test_the_same_bits_each_time_and_for_each_row_alone(xp: Any) -> None:
    a = xp.asarray(numbers(5, 700).astype(np.float32))
    once, again = to_numpy(rows.softmax(a, axis=1)), to_numpy(rows.softmax(a, axis=1))
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(to_numpy(rows.softmax(xp.ascontiguousarray(a[2:3]), axis=1)), once[2:3])


def test_what_is_not_taken(xp: Any) -> None:
    a = xp.asarray(numbers(4, 3).astype(np.float32))
    assert rows.softmax(a, axis=0) is NotImplemented
    assert rows.softmax(a.T, axis=1) is NotImplemented
    assert rows.softmax(a.astype(np.float64), axis=1) is NotImplemented
    assert rows.softmax(a[:0], axis=1) is NotImplemented
    assert rows.layer_norm(a, xp.ones(3, np.float64), None, eps=1e-5) is NotImplemented
    assert rows.cross_entropy(a, target=xp.zeros(3, np.int64), reduction="none") is NotImplemented


def test_every_kernel_is_launched_by_a_function_of_this_file() -> None:
    text = "".join(rows_text.source(kind) for kind in rows_text.KINDS)
    for name in rows_text.KERNELS:
        assert text.count(f"__global__ void {name}(") == len(rows_text.KINDS)
    assert text.count("__global__") == len(rows_text.KINDS) * len(rows_text.KERNELS)


@pytest.mark.parametrize("kind", rows_text.KINDS)
def test_nvidias_compiler_takes_the_sources(kind: str) -> None:
    text = Nvrtc().compile(rows_text.source(kind))
    assert all(f".entry {name}(" in text for name in rows_text.KERNELS)
    assert "atom." not in text  # nothing is added in the order in which threads arrive
    assert ("cvt.rn.f16.f32" in text) == (kind == "float16")
