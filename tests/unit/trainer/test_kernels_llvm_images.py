"""Generated loops over images: normalisation and pooling, each beside its NumPy version, in both orders in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.unit.trainer.test_kernels_llvm import bits, both, threads
from tests.unit.trainer.test_kernels_llvm_rows import normal

from cordee.trainer import kernels
from cordee.trainer import ops as ops  # declares the kernels
from cordee.trainer.array import bfloat16, get_num_threads, set_num_threads
from cordee.trainer.kernels.providers import PROVIDERS
from cordee.trainer.ops.windows import Window

__all__ = ["threads"]

pytestmark = pytest.mark.skipif(bool(PROVIDERS["llvm"].lack()), reason=PROVIDERS["llvm"].lack() or "-")


# -- channels ----------------------------------------------------------------------------------------------------------

IMAGES = [(5, 3), (300, 40), (3, 2, 7), (4, 5, 3, 3), (2, 3, 50, 60), (9, 20, 6, 5), (3, 16, 1, 1)]


def laid(a: Any, layout: str) -> Any:
    """The same values, ordered differently in memory."""
    if layout == "channels last":
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)
    return np.ascontiguousarray(a.swapaxes(0, 1)).swapaxes(0, 1) if layout == "channels first" else a


def places(a: Any) -> Any:
    """How an array lies in memory."""
    return [step for step, size in zip(a.strides, a.shape, strict=True) if size > 1]


@pytest.mark.parametrize("layout", ["plain", "channels last", "channels first"])
@pytest.mark.parametrize("shape", IMAGES, ids=str)
def test_batch_norm_and_its_gradients(shape: tuple[int, ...], layout: str, threads: int) -> None:
    if layout == "channels first" and len(shape) == 2:
        pytest.skip("rows have no such order")
    rng = np.random.default_rng(0)
    x, g = laid(normal(rng, *shape) * 2 + 30, layout), laid(normal(rng, *shape), layout)
    weight, bias = normal(rng, shape[1]), normal(rng, shape[1])
    (results, statistics), (expected, wide_statistics) = both("batch_norm", x, weight, bias, eps=1e-3)
    assert places(results[0]) == places(x)
    for found, wide in zip((*results, *statistics), (*expected, *wide_statistics), strict=True):
        np.testing.assert_allclose(found, wide, rtol=3e-5, atol=3e-5)
    grads, expected = both("batch_norm_grad", g, None, None, x, weight, *statistics, needs=(True,) * 3)
    assert places(grads[0]) == places(x)
    for found, wide in zip(grads, expected, strict=True):
        np.testing.assert_allclose(found, wide, rtol=2e-4, atol=3e-4)


def test_batch_norm_of_a_gradient_that_lies_differently() -> None:
    rng = np.random.default_rng(0)
    x, g = normal(rng, 3, 4, 5, 6), laid(normal(rng, 3, 4, 5, 6), "channels last")
    statistics = normal(rng, 4), normal(rng, 4)
    grads, expected = both("batch_norm_grad", g, None, None, x, None, *statistics, needs=(True, False, False))
    assert grads[1:] == (None, None)
    np.testing.assert_allclose(grads[0], expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["plain", "channels last"])
def test_channels_with_what_is_no_number_are_none_for_themselves(layout: str) -> None:
    x = np.random.default_rng(0).standard_normal((4, 3, 5, 5), np.float32)
    x[1, 0, 2, 2], x[3, 2, 0, 0] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        ((out, *_), _), ((expected, *_), _) = both("batch_norm", laid(x, layout), None, None, eps=1e-5)
    np.testing.assert_allclose(out[:, 1], expected[:, 1], rtol=1e-5, atol=1e-5)
    assert np.isnan(out[:, 0]).all()
    assert np.isnan(out[3, 2, 0, 0])


@pytest.mark.parametrize("shape", [(1200, 40), (20, 24, 9, 9)], ids=str)
def test_statistics_do_not_depend_on_the_number_of_threads(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x, g = normal(rng, *shape), normal(rng, *shape)
    forward, grad = (kernels.registry.load(name, "llvm") for name in ("batch_norm", "batch_norm_grad"))
    before, found = get_num_threads(), []
    for number in (1, 2, 3):
        set_num_threads(number)
        results, statistics = forward(x, None, None, eps=1e-5)
        found.append(bits((results, grad(g, None, None, x, None, *statistics, needs=(True,) * 3))))
    set_num_threads(before)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("layout", ["plain", "channels last", "channels first"])
@pytest.mark.parametrize("shape", [(3, 2, 7), (9, 20, 60, 5)], ids=str)
def test_channels_times_numbers_plus_numbers(shape: tuple[int, ...], layout: str, threads: int) -> None:
    rng = np.random.default_rng(0)
    x, scale, shift = laid(normal(rng, *shape), layout), normal(rng, shape[1]), normal(rng, shape[1])
    found, expected = both("channel_affine", x, scale, shift)
    assert places(found) == places(x)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    found = kernels.registry.load("channel_affine", "llvm")(x.astype(bfloat16), scale, shift)
    assert found.dtype == bfloat16
    np.testing.assert_allclose(found.astype(np.float32), expected, rtol=1e-2, atol=3e-2)


@pytest.mark.parametrize("layout", ["plain", "channels last"])
def test_images_in_bfloat16_are_rounded_once(layout: str) -> None:
    rng = np.random.default_rng(0)
    x, g = (laid(normal(rng, 3, 20, 6, 5).astype(bfloat16), layout) for _ in range(2))
    weight, bias = normal(rng, 20), normal(rng, 20)
    forward, grad = (kernels.KERNELS[name] for name in ("batch_norm", "batch_norm_grad"))
    fast, fast_grad = (kernels.registry.load(each.name, "llvm") for each in (forward, grad))
    (results, statistics), (expected, _) = (
        fast(x, weight, bias, eps=1e-3), forward.reference(np, x, weight, bias, eps=1e-3)
    )  # fmt: skip
    given = g, None, None, x, weight, *statistics
    needs = (True,) * 3
    all_found = *results, *fast_grad(*given, needs=needs)
    all_expected = *expected, *grad.reference(np, *given, needs=needs)
    for found, wide in zip(all_found, all_expected, strict=True):
        assert found.dtype == wide.dtype
        np.testing.assert_allclose(found.astype(np.float32), wide.astype(np.float32), rtol=1e-2, atol=1e-3)


def test_groups_in_bfloat16_are_rounded_once() -> None:
    rng = np.random.default_rng(0)
    x, g = (normal(rng, 3, 6, 6, 5).astype(bfloat16) for _ in range(2))
    weight, bias = normal(rng, 6), normal(rng, 6)
    forward, grad = (kernels.KERNELS[name] for name in ("group_norm", "group_norm_grad"))
    out, statistics = kernels.registry.load("group_norm", "llvm")(x, weight, bias, groups=2, eps=1e-3)
    found = out, *kernels.registry.load("group_norm_grad", "llvm")(g, x, weight, *statistics, needs=(True,) * 3)
    expected, _ = forward.reference(np, x, weight, bias, groups=2, eps=1e-3)
    all_expected = expected, *grad.reference(np, g, x, weight, *statistics, needs=(True,) * 3)
    for one, wide in zip(found, all_expected, strict=True):
        assert one.dtype == wide.dtype
        np.testing.assert_allclose(one.astype(np.float32), wide.astype(np.float32), rtol=1e-2, atol=1e-3)


# -- groups ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "groups"), [((2, 6, 8), 2), ((3, 4, 5, 7), 4), ((1, 5, 3, 3), 1), ((9, 8, 30, 33), 2)]
)
def test_group_norm_and_its_gradients(shape: tuple[int, ...], groups: int, threads: int) -> None:
    rng = np.random.default_rng(0)
    x, g = normal(rng, *shape) * 2 + 3, laid(normal(rng, *shape), "channels last")
    weight, bias = normal(rng, shape[1]), normal(rng, shape[1])
    (out, statistics), (expected, wide) = both("group_norm", x, weight, bias, groups=groups, eps=1e-3)
    for found, other in zip((out, *statistics), (expected, *wide), strict=True):
        np.testing.assert_allclose(found, other, rtol=2e-5, atol=2e-5)
    grads, expected = both("group_norm_grad", g, x, weight, *statistics, needs=(True,) * 3)
    for found, other in zip(grads, expected, strict=True):
        np.testing.assert_allclose(found, other, rtol=2e-4, atol=3e-4)
    provider = kernels.registry.load("group_norm", "llvm")
    for other in (x.astype(np.float64), x[:0], x.reshape(*shape[:2], -1)[..., :1]):
        assert provider(other, None, None, groups=groups, eps=1e-3) is NotImplemented


# -- pooling -----------------------------------------------------------------------------------------------------------

WINDOWS = {
    "halves": Window((2, 2), (2, 2), (0, 0), (1, 1)),
    "overlapping": Window((3, 3), (2, 2), (1, 1), (1, 1)),
    "odd": Window((3, 2), (1, 2), (1, 0), (2, 1)),
    "over the end": Window((2, 3), (2, 2), (0, 1), (1, 1), ceil=True),
}


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("shape", [(2, 8, 7, 8), (3, 20, 9, 6), (4, 32, 28, 28)], ids=str)
def test_pooling_and_its_gradients(shape: tuple[int, ...], window: str, threads: int) -> None:
    rng, sliding = np.random.default_rng(0), WINDOWS[window]
    x = laid(np.round(normal(rng, *shape) * 2), "channels last")
    x[0, 0, :4], x[1, 1, :4], x[1, 2, 3:5, 3:] = np.nan, -np.inf, np.inf
    (best, winner), (expected, places_won) = both("max_pool", x, window=sliding)
    np.testing.assert_array_equal(best, expected)
    np.testing.assert_array_equal(winner, places_won)
    g = laid(normal(rng, *best.shape), "channels last")
    grad, wide = both("unpool", g, winner=winner, shape=shape, window=sliding)
    np.testing.assert_allclose(grad, wide, rtol=1e-5, atol=1e-6)
    x = laid(normal(rng, *shape), "channels last")
    total, wide = both("sum_pool", x, window=sliding)
    np.testing.assert_allclose(total, wide, rtol=1e-5, atol=1e-5)
    grad, wide = both("spread_pool", g, shape=shape, window=sliding)
    np.testing.assert_allclose(grad, wide, rtol=1e-5, atol=1e-5)
    for found in (best, winner, total, grad):
        assert found.transpose(0, 2, 3, 1).flags.c_contiguous


@pytest.mark.parametrize("window", WINDOWS)
def test_pooling_in_bfloat16(window: str, threads: int) -> None:
    """Of numbers whose sums bfloat16 holds, so that it does not matter when they are rounded."""
    rng, sliding, shape = np.random.default_rng(0), WINDOWS[window], (4, 20, 28, 27)
    x = laid(np.round(normal(rng, *shape) * 2), "channels last").astype(bfloat16)
    g_values = np.round(normal(rng, *shape[:2], *sliding.size(shape[2:])) * 2)
    g = laid(g_values, "channels last").astype(bfloat16)
    total, spread = both("sum_pool", x, window=sliding), both("spread_pool", g, shape=shape, window=sliding)
    x[0, 0, :4], x[1, 1, :4], x[1, 2, 3:5, 3:] = np.nan, -np.inf, np.inf
    (best, winner), (expected, places_won) = both("max_pool", x, window=sliding)
    np.testing.assert_array_equal(winner, places_won)
    for found, other in (
        (best, expected), total, spread, both("unpool", g, winner=winner, shape=shape, window=sliding),
        both("unpool", g.copy("C"), winner=winner, shape=shape, window=sliding),
    ):  # fmt: skip
        assert found.dtype == bfloat16
        assert found.transpose(0, 2, 3, 1).flags.c_contiguous
        np.testing.assert_array_equal(found.astype(np.float32), other.astype(np.float32))


def test_other_images_are_left_to_numpy() -> None:
    provider, window = kernels.registry.load("max_pool", "llvm"), WINDOWS["halves"]
    x = np.ones((2, 8, 6, 6), np.float32)
    last = laid(x, "channels last")
    for operand in (x, last.astype(np.float64), last[:, :4], last[:, :, ::2], last[:0]):
        assert provider(operand, window=window) is NotImplemented
    assert provider(last, window=window) is not NotImplemented
