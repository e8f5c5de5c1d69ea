"""Norms of channels and pooling on a GPU beside NumPy's: with `--device cuda` on one, else their text on the CPU."""

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
from cordee.trainer.kernels.cuda import channels, channels_text, launch, pooling, pooling_text, rows_text, sums
from cordee.trainer.kernels.registry import load
from cordee.trainer.ops.windows import Window

sys.path.insert(0, str(Path(__file__).parent))
from cuda_support import Nvrtc, cupy_of_tests, needs_compiler

pytestmark = needs_compiler

KINDS = [np.float32, ml_dtypes.bfloat16, np.float16]
TOLERANCE: dict[Any, float] = {np.float32: 2e-5, ml_dtypes.bfloat16: 2**-7, np.float16: 2**-10}


@pytest.fixture(scope="module")
def xp(request: pytest.FixtureRequest) -> Iterator[Any]:
    with cupy_of_tests(request.config.getoption("--device"), launch.function, launch._module) as module:
        yield module


def numbers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def channels_last(xp: Any, a: Any) -> Any:
    """The same image, with channels last in memory."""
    ndim = a.ndim
    return xp.ascontiguousarray(a.transpose(0, *range(2, ndim), 1)).transpose(0, ndim - 1, *range(1, ndim - 1))


def channels_first(xp: Any, a: Any) -> Any:
    """The same image, with channels before samples in memory."""
    return xp.ascontiguousarray(a.swapaxes(0, 1)).swapaxes(0, 1)


def with_gaps(xp: Any, a: Any) -> Any:
    twice = xp.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    twice[..., ::2] = a
    return twice[..., ::2]


LAYOUTS: list[Any] = [lambda xp, a: xp.ascontiguousarray(a), channels_last, channels_first, with_gaps]


def close(found: Any, expected: Any, rtol: float) -> None:
    if isinstance(expected, tuple):
        for one, other in zip(found, expected, strict=True):
            close(one, other, rtol)
        return
    assert (found is None) == (expected is None)
    if expected is not None:
        values, scale = to_numpy(found).astype(np.float64), float(np.abs(expected).max()) + 1
        assert values.shape == np.shape(expected)
        np.testing.assert_allclose(values, expected, rtol=rtol, atol=rtol * scale)


SHAPES = [(5, 3), (2, 40), (3, 4, 7), (2, 6, 3, 5), (1, 4, 2, 3, 2), (3, 1, 4), (4, 3, 20, 30), (2, 65, 3, 3)]
GROUPED = [(5, 4), (3, 4, 7), (2, 6, 3, 5), (1, 6, 3, 5), (3, 1, 4), (2, 6, 1, 1)]
HALVES = [((2, 6, 3, 5), kind) for kind in KINDS[1:]]


@pytest.mark.parametrize("layout", LAYOUTS, ids=["first", "last", "before samples", "gaps"])
@pytest.mark.parametrize(("shape", "kind"), [*((shape, np.float32) for shape in SHAPES), *HALVES])
def test_batch_norm(xp: Any, shape: tuple[int, ...], layout: Any, kind: Any) -> None:
    input, g = (3 * numbers(*shape) + 2).astype(kind), numbers(*shape, seed=1).astype(kind)
    weight, bias, g_mean, g_var = (numbers(shape[1], seed=seed).astype(np.float32) for seed in (2, 3, 4, 5))
    image, slope = layout(xp, xp.asarray(input)), xp.asarray(g)
    wide = input.astype(np.float64)
    for given in ((weight, bias), (None, bias), (weight, None)):
        there = [None if each is None else xp.asarray(each) for each in given]
        found = load("batch_norm", "nvrtc")(image, *there, eps=1e-3)
        expected = KERNELS["batch_norm"].reference(np, wide, *given, eps=1e-3)
        close(found[0][0], expected[0][0], TOLERANCE[kind])
        close((*found[0][1:], *found[1]), (*expected[0][1:], *expected[1]), 2e-5)
        assert (found[0][0].dtype, found[0][1].dtype) == (kind, np.float32)
        if layout is not with_gaps:
            assert launch._same_places(found[0][0], image)
    mean, inverse = (each.astype(np.float32) for each in expected[1])
    for given, extra, needs in (
        ((weight,), (None, None), (True, True, True)),
        ((None,), (g_mean, g_var), (True, False, False)),
        ((weight,), (None, None), (False, True, True)),
    ):
        operands = (g, *extra, input, *given, mean, inverse)
        there = [None if each is None else xp.asarray(each) for each in operands]
        there[0], there[3] = slope, image
        found = load("batch_norm_grad", "nvrtc")(*there, needs=needs)
        exact = [None if each is None else each.astype(np.float64) for each in operands]
        close(found, KERNELS["batch_norm_grad"].reference(np, *exact, needs=needs), TOLERANCE[kind])
    scaled = KERNELS["channel_affine"].reference(np, wide, *(each.astype(np.float64) for each in (weight, bias)))
    close(load("channel_affine", "nvrtc")(image, xp.asarray(weight), xp.asarray(bias)), scaled, TOLERANCE[kind])


@pytest.mark.parametrize("layout", LAYOUTS, ids=["first", "last", "before samples", "gaps"])
@pytest.mark.parametrize(("shape", "kind"), [*((shape, np.float32) for shape in GROUPED), *HALVES])
def test_group_norm(xp: Any, shape: tuple[int, ...], layout: Any, kind: Any) -> None:
    groups = {4: 2, 6: 3 if shape[0] == 2 else 6, 1: 1}[shape[1]]
    input, g = (3 * numbers(*shape) + 2).astype(kind), numbers(*shape, seed=1).astype(kind)
    weight, bias = (numbers(shape[1], seed=seed).astype(np.float32) for seed in (2, 3))
    image, slope = layout(xp, xp.asarray(input)), xp.asarray(g)
    for given in ((weight, bias), (None, None)):
        there = [None if each is None else xp.asarray(each) for each in given]
        found = load("group_norm", "nvrtc")(image, *there, groups=groups, eps=1e-3)
        expected = KERNELS["group_norm"].reference(np, input.astype(np.float64), *given, groups=groups, eps=1e-3)
        close(found[0], expected[0], TOLERANCE[kind])
        close(found[1], expected[1], 2e-5)
        operands = (g, input, given[0], *(each.astype(np.float32) for each in expected[1]))
        on_device = [None if each is None else xp.asarray(each) for each in operands]
        on_device[:2] = [slope, image]
        exact = [None if each is None else each.astype(np.float64) for each in operands]
        for needs in ((True, True, True), (True, False, False), (False, False, True)):
            grads = load("group_norm_grad", "nvrtc")(*on_device, needs=needs)
            close(grads, KERNELS["group_norm_grad"].reference(np, *exact, needs=needs), TOLERANCE[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((5,), None), ((1,), 0), ((3, 40), 0), ((3, 40), -1), ((40, 3), (0,)), ((2, 3, 4), 1), ((2, 3, 4), (0, 1)),
     ((2, 3, 4), (1, 2)), ((2, 6, 3, 5), (0, 2, 3)), ((7, 300), None), ((2, 1, 3), 1), ((1, 1), (0, 1))],
    ids=str,
)  # fmt: skip
def test_sums(xp: Any, shape: tuple[int, ...], axis: Any, kind: Any) -> None:
    a = numbers(*shape).astype(kind)
    layouts = LAYOUTS[:1] if len(shape) < 3 else LAYOUTS[:3]
    for layout in layouts:
        there = layout(xp, xp.asarray(a))
        for keepdims in (False, True):
            found = sums.total(there, axis=axis, keepdims=keepdims)
            if found is NotImplemented:  # in more than one piece
                assert len(shape) > 2
                continue
            assert found.dtype == kind
            close(found, a.astype(np.float64).sum(axis=axis, keepdims=keepdims), TOLERANCE[kind])


def test_a_sum_does_not_depend_on_where_numbers_lie(xp: Any) -> None:
    place, a = xp.zeros(3000, np.float32), xp.asarray(numbers(2000).astype(np.float32))
    found = []
    for offset in (0, 1, 2, 515):
        place[offset : offset + 2000] = a
        found.append(to_numpy(sums.total(place[offset : offset + 2000], axis=None, keepdims=False)).tobytes())
    assert found[1:] == found[:1] * 3
    assert sums.total(a[::2], axis=None, keepdims=False) is NotImplemented
    assert sums.total(a[:0], axis=None, keepdims=False) is NotImplemented
    assert sums.total(a.astype(np.float64), axis=0, keepdims=False) is NotImplemented


def test_a_mean_far_from_zero_does_not_swallow_the_deviations(xp: Any) -> None:
    input = (numbers(8, 3, 200) * 0.01 + 1000).astype(np.float32)
    expected = input.astype(np.float64).var((0, 2))
    for image in (xp.asarray(input), channels_last(xp, xp.asarray(input))):
        (_, _, var), _ = channels.batch_norm(image, None, None, eps=1e-5)
        np.testing.assert_allclose(to_numpy(var), expected, rtol=1e-3)


def test_norms_have_the_same_bits_each_time(xp: Any) -> None:
    image, weight = xp.asarray(numbers(4, 3, 20, 30).astype(np.float32)), xp.ones(3, np.float32)
    for name, params in (("batch_norm", {}), ("group_norm", {"groups": 3})):
        once, again = (load(name, "nvrtc")(image, weight, None, eps=1e-5, **params) for _ in range(2))
        one, other = (each[0][0] if name == "batch_norm" else each[0] for each in (once, again))
        np.testing.assert_array_equal(to_numpy(one), to_numpy(other))


def test_norms_that_are_not_taken(xp: Any) -> None:
    image, one = xp.asarray(numbers(2, 4, 3).astype(np.float32)), xp.ones(4, np.float32)
    none = NotImplemented
    assert channels.batch_norm(image.astype(np.float64), None, None, eps=1.0) is none
    assert channels.batch_norm(image[:0], None, None, eps=1.0) is none
    assert channels.batch_norm(image, one[:3], None, eps=1.0) is none
    assert channels.batch_norm(image, one.astype(np.float64), None, eps=1.0) is none
    assert channels.group_norm(image, None, None, groups=3, eps=1.0) is none
    assert channels.batch_norm_grad(None, one, None, image, None, one, one, needs=(True,) * 3) is none


WINDOWS = {
    "halves": ((2, 3, 4, 6), Window((2, 2), (2, 2), (0, 0), (1, 1))),
    "overlapping, padded": ((2, 2, 5, 7), Window((3, 3), (2, 1), (1, 1), (1, 1))),
    "over the end": ((1, 2, 6, 5), Window((2, 3), (2, 2), (0, 1), (1, 1), ceil=True)),
    "dilated": ((2, 1, 7, 8), Window((2, 3), (1, 2), (1, 1), (2, 2))),
    "with gaps": ((1, 3, 8, 8), Window((2, 2), (3, 3), (0, 0), (1, 1))),
    "one dimension": ((2, 3, 9), Window((3,), (2,), (1,), (1,))),
    "three dimensions": ((1, 2, 4, 3, 5), Window((2, 2, 3), (1, 1, 2), (1, 0, 1), (1, 1, 1))),
    "many places": ((1, 1, 20, 18), Window((17, 16), (1, 1), (0, 0), (1, 1))),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", [LAYOUTS[0], channels_last, with_gaps], ids=["first", "last", "gaps"])
@pytest.mark.parametrize("name", WINDOWS)
def test_pooling(xp: Any, name: str, layout: Any, kind: Any) -> None:
    shape, window = WINDOWS[name]
    a = np.round(2 * numbers(*shape)).astype(kind)  # many are equal, and sums are exact
    image = layout(xp, xp.asarray(a))
    best, winner = pooling.max_pool(image, window=window)
    expected, places = KERNELS["max_pool"].reference(np, a, window=window)
    exact_places = ops.pooling._special_winners(np, a, window, expected.shape[2:], places.dtype)
    np.testing.assert_array_equal(to_numpy(best), expected)
    np.testing.assert_array_equal(to_numpy(winner), exact_places)
    g = np.round(3 * numbers(*expected.shape, seed=1)).astype(kind)
    for slope in (xp.asarray(g), channels_last(xp, xp.asarray(g))):
        found = pooling.unpool(slope, winner=winner, shape=shape, window=window)
        wide = g.astype(np.float64)
        close(found, KERNELS["unpool"].reference(np, wide, winner=exact_places, shape=shape, window=window), 1e-12)
        found = pooling.spread_pool(slope, shape=shape, window=window)
        close(found, KERNELS["spread_pool"].reference(np, wide, shape=shape, window=window), 1e-12)
    sums = KERNELS["sum_pool"].reference(np, a.astype(np.float64), window=window)
    close(pooling.sum_pool(image, window=window), sums, TOLERANCE[kind])
    if layout is channels_last and shape[1] > 1:
        assert best.transpose(0, *range(2, best.ndim), 1).flags.c_contiguous


def test_the_largest_of_what_is_no_number(xp: Any) -> None:
    a = np.array([[[[1, np.nan, 3, np.nan], [-np.inf] * 4, [-np.inf, 2, np.inf, np.inf]]]], np.float32)
    for window in (Window((1, 2), (1, 1), (0, 0), (1, 1)), Window((2, 2), (1, 2), (1, 1), (1, 1))):
        found = [to_numpy(each) for each in pooling.max_pool(xp.asarray(a), window=window)]
        for one, other in zip(found, KERNELS["max_pool"].reference(np, a, window=window), strict=True):
            np.testing.assert_array_equal(one, other)


def test_pooling_that_is_not_taken(xp: Any) -> None:
    image, window = xp.asarray(numbers(2, 4, 6).astype(np.float32)), Window((2,), (2,), (0,), (1,))
    winner = pooling.max_pool(image, window=window)[1]
    none = NotImplemented
    assert pooling.max_pool(image.astype(np.int32), window=window) is none
    assert pooling.max_pool(image[:0], window=window) is none
    assert pooling.max_pool(image[None], window=window) is none
    assert pooling.sum_pool(image, window=Window((2,), (2,), (2,), (1,))) is none
    assert pooling.unpool(winner.astype(np.float32), winner=winner[:1], shape=(2, 4, 6), window=window) is none
    assert pooling.spread_pool(image, shape=(2, 4, 6), window=window) is none


@pytest.mark.parametrize("kind", rows_text.KINDS)
def test_nvidias_compiler_takes_the_sources(kind: str) -> None:
    for family in (channels_text, pooling_text):
        text = Nvrtc().compile(family.source(kind))
        assert all(f".entry {name}(" in text for name in family.KERNELS)
        assert text.count(".entry ") == len(family.KERNELS)
        assert "atom." not in text  # nothing is added in the order in which threads arrive
