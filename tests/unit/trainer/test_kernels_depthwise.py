"""Depthwise convolutions by generated loops, beside NumPy's, with channels last and as planes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.unit.trainer.test_kernels_llvm import bits, both, threads
from tests.unit.trainer.test_kernels_llvm_images import laid, places
from tests.unit.trainer.test_kernels_llvm_rows import normal

from cordee.trainer import kernels, nn, tensor
from cordee.trainer.array import set_num_threads
from cordee.trainer.kernels.providers import PROVIDERS
from cordee.trainer.ops.windows import Window

__all__ = ["threads"]

pytestmark = pytest.mark.skipif(bool(PROVIDERS["llvm"].lack()), reason=PROVIDERS["llvm"].lack() or "-")

CASES = {
    # the image's shape; kernel and padding
    "square": ((2, 16, 6, 7), (3, 3), (1, 1)),
    "odd numbers": ((3, 37, 9, 21), (3, 3), (1, 1)),
    "no border": ((1, 9, 5, 40), (2, 3), (0, 0)),
    "wide border": ((2, 8, 3, 4), (3, 3), (3, 4)),
    "more sums than registers": ((40, 20, 8, 9), (5, 5), (2, 2)),
    "larger than the image": ((1, 18, 2, 3), (5, 3), (2, 1)),
    "a row": ((2, 8, 1, 33), (1, 4), (0, 2)),
}


def window_of(name: str) -> tuple[tuple[int, ...], Window]:
    shape, kernel, padding = CASES[name]
    return shape, Window(kernel, (1, 1), padding, (1, 1))


@pytest.mark.parametrize("layout", ["plain", "channels last"])
@pytest.mark.parametrize("name", CASES)
def test_a_convolution_and_its_gradients(name: str, layout: str, threads: int) -> None:
    shape, window = window_of(name)
    rng, channels = np.random.default_rng(0), shape[1]
    image, weight, bias = (
        laid(normal(rng, *shape), layout),
        normal(rng, channels, 1, *window.kernel),
        normal(rng, channels),
    )
    (out, _), (expected, _) = both("correlate", image, weight, bias, window, channels)
    assert places(out) == places(laid(np.empty(out.shape, np.float32), layout))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    g = laid(normal(rng, *out.shape), layout)
    found, expected = both("spread", g, weight, shape[2:], window, channels)
    assert places(found) == places(image)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    found, expected = both("weigh", g, image, window, channels, None, True)
    for one, wide in zip(found, expected, strict=True):
        assert one.shape == wide.shape
        np.testing.assert_allclose(one, wide, rtol=1e-4, atol=1e-4)
    assert both("weigh", g, image, window, channels)[0][1] is None


def test_bits_depend_neither_on_the_layout_nor_on_the_number_of_threads() -> None:
    """Of what is summed up window by window; the gradient by the weight adds up windows, in an order of its own."""
    window, rng = Window((3, 3), (1, 1), (1, 1), (1, 1)), np.random.default_rng(0)
    image, weight, g = normal(rng, 8, 24, 20, 23), normal(rng, 24, 1, 3, 3), normal(rng, 8, 24, 20, 23)
    correlate, spread, weigh = (kernels.registry.load(name, "llvm") for name in ("correlate", "spread", "weigh"))
    found: list[Any] = []
    by_layout: dict[str, list[Any]] = {"plain": [], "channels last": []}
    for layout, weights in by_layout.items():
        for number in (1, 2, 3):
            set_num_threads(number)
            x, slopes = laid(image, layout), laid(g, layout)
            made = correlate(x, weight, None, window, 24)[0], spread(slopes, weight, (20, 23), window, 24)
            found.append(bits(tuple(map(np.ascontiguousarray, made))))
            weights.append(bits(weigh(slopes, x, window, 24, None, True)))
    set_num_threads(1)
    assert all(each == found[0] for each in found)
    assert all(each == weights[0] for weights in by_layout.values() for each in weights)


@pytest.mark.parametrize("layout", ["plain", "channels last"])
def test_what_is_no_number_stays_in_its_windows(layout: str) -> None:
    window = Window((3, 3), (1, 1), (1, 1), (1, 1))
    image, weight = np.ones((1, 8, 5, 6), np.float32), np.ones((8, 1, 3, 3), np.float32)
    image[0, 2, 2, 2], image[0, 3, 0, 5] = np.nan, np.inf
    (out, _), (expected, _) = both("correlate", laid(image, layout), weight, None, window, 8)
    np.testing.assert_array_equal(out, expected)
    weigh = kernels.registry.load("weigh", "llvm")
    found = weigh(laid(np.ones_like(image), layout), laid(image, layout), window, 8)[0]
    assert np.isnan(found[2]).all()
    np.testing.assert_array_equal(found[3, 0], [[20, np.inf, np.inf], [25, np.inf, np.inf], [20, 24, 20]])
    assert np.isfinite(np.delete(found, (2, 3), 0)).all()


@pytest.mark.parametrize(
    "change", ["two kernels per channel", "stride", "dilation", "float64", "channels first", "larger kernel"]
)
def test_others_are_left_to_others(change: str) -> None:
    window = {
        "stride": Window((3, 3), (2, 2), (1, 1), (1, 1)), "dilation": Window((3, 3), (1, 1), (1, 1), (2, 2)),
        "larger kernel": Window((7, 7), (1, 1), (3, 3), (1, 1)),
    }.get(change, Window((3, 3), (1, 1), (1, 1), (1, 1)))  # fmt: skip
    image = np.ones((2, 8, 9, 9), np.float64 if change == "float64" else np.float32)
    image = laid(image, change)
    weight = np.ones((16 if change == "two kernels per channel" else 8, 1, *window.kernel), np.float32)
    correlate = kernels.registry.load("correlate", "llvm")
    assert correlate(image, weight, None, window, 8) is NotImplemented


def test_a_layer_takes_gradients_of_another_layout() -> None:
    rng = np.random.default_rng(0)
    layer = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    image, slope = normal(rng, 2, 8, 5, 6), normal(rng, 2, 8, 5, 6)
    found = []
    for layouts in (("plain", "channels last"), ("channels last", "plain")):
        layer.zero_grad()
        x = tensor(laid(image, layouts[0]), requires_grad=True)
        layer(x).backward(tensor(laid(slope, layouts[1])))
        found.append([x.grad.numpy(), *(parameter.grad.numpy().copy() for parameter in layer.parameters())])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
