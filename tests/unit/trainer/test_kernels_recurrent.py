"""Recurrent layers by generated loops, and the products that they repeat, beside their NumPy versions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.unit.trainer.test_kernels_llvm import both, threads

from cordee.trainer import kernels
from cordee.trainer import ops as ops  # declares the kernels
from cordee.trainer.array import bfloat16
from cordee.trainer.kernels.onednn.library import has_bfloat16
from cordee.trainer.kernels.providers import PROVIDERS

__all__ = ["threads"]

needs_llvm = pytest.mark.skipif(bool(PROVIDERS["llvm"].lack()), reason=PROVIDERS["llvm"].lack() or "-")
needs_onednn = pytest.mark.skipif(bool(PROVIDERS["onednn"].lack()), reason=PROVIDERS["onednn"].lack() or "-")


def normal(rng: Any, *shape: int) -> Any:
    return rng.standard_normal(shape, np.float32)


def _layer(seed: int, sizes: tuple[int, ...], units: int, width: int = 0) -> tuple[Any, ...]:
    """Operands of an LSTM layer; `width`: of the projection, 0 for none."""
    rng = np.random.default_rng(seed)
    hidden = width or units
    gates, states = (
        normal(rng, sum(sizes), 4 * units),
        (normal(rng, max(sizes), hidden), normal(rng, max(sizes), units)),
    )
    return gates, *states, normal(rng, 4 * units, hidden), normal(rng, width, units) if width else None


@needs_llvm
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("told", ["all", "outputs", "states"])
@pytest.mark.parametrize(
    ("sizes", "units", "width"), [((3, 2, 1), 5, 0), ((2, 2), 16, 3), ((300,), 70, 0), ((1,), 1, 0)], ids=str
)
def test_an_lstm_layer_and_its_gradients(
    sizes: tuple[int, ...], units: int, width: int, told: str, reverse: bool, threads: int
) -> None:
    operands = _layer(0, sizes, units, width)
    ((out, h, c), aux), (expected, wide) = both("lstm_layer", *operands, sizes=sizes, reverse=reverse)
    for found, each in zip((out, h, c, *aux), (*expected, *wide), strict=True):
        np.testing.assert_allclose(found, each, rtol=2e-5, atol=2e-5)
    rng = np.random.default_rng(1)
    g_out = None if told == "states" else normal(rng, *out.shape)
    g_h, g_c = (None, None) if told == "outputs" else (normal(rng, *h.shape), normal(rng, *c.shape))
    options = {"sizes": sizes, "reverse": reverse, "needs": (True, width > 0)}
    grads, expected = both("lstm_layer_grad", g_out, g_h, g_c, *aux, *operands[3:], **options)
    for found, each in zip(grads, expected, strict=True):
        assert (found is None) == (each is None)
        if found is not None:
            np.testing.assert_allclose(found, each, rtol=1e-4, atol=1e-4 * np.abs(each).max())


@needs_llvm
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("sizes", [(3, 2, 1), (40, 40), (1,)], ids=str)
def test_an_lstm_layer_in_bfloat16(sizes: tuple[int, ...], reverse: bool, threads: int) -> None:
    operands = [None if x is None else x.astype(bfloat16) for x in _layer(0, sizes, 70)]
    wide = [None if x is None else x.astype(np.float64) for x in operands]
    forward, grad = (kernels.registry.load(name, "llvm") for name in ("lstm_layer", "lstm_layer_grad"))
    options = {"sizes": sizes, "reverse": reverse}
    (found, aux), (expected, wide_aux) = (
        forward(*operands, **options),
        kernels.KERNELS["lstm_layer"].reference(np, *wide, **options),
    )
    for each, other in zip((*found, *aux), (*expected, *wide_aux), strict=True):
        np.testing.assert_allclose(each.astype(np.float64), other, atol=0.05)
    g = [normal(np.random.default_rng(1), *each.shape).astype(bfloat16) for each in found]
    grads = grad(*g, *aux, *operands[3:], **options, needs=(True, False))
    wide_g = [each.astype(np.float64) for each in g]
    others = kernels.KERNELS["lstm_layer_grad"].reference(
        np, *wide_g, *wide_aux, *wide[3:], **options, needs=(True, False)
    )
    for each, other in zip(grads[:4], others[:4], strict=True):
        assert each.dtype == bfloat16
        np.testing.assert_allclose(each.astype(np.float64), other, atol=0.05 * np.abs(other).max())
    again = grad(*g, *forward(*operands, **options)[1], *operands[3:], **options, needs=(True, False))
    assert [each.tobytes() for each in grads[:4]] == [each.tobytes() for each in again[:4]]


@needs_llvm
def test_other_lstm_layers_are_left_to_numpy() -> None:
    provider = kernels.registry.load("lstm_layer", "llvm")
    gates, h, c, weight, _ = operands = _layer(0, (2, 2), 3)
    options = {"sizes": (2, 2), "reverse": False}
    for others in ((gates[:, ::-1], *operands[1:]), (gates, h.astype(np.float64), c, weight, None)):
        assert provider(*others, **options) is NotImplemented
    assert provider(gates[:0], *operands[1:], **options) is NotImplemented


@needs_onednn
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("k", "n"), [(70, 300), (256, 1024), (33, 5)], ids=str)
def test_a_packed_matrix_multiplies_any_number_of_rows(k: int, n: int, transposed: bool, threads: int) -> None:
    rng = np.random.default_rng(0)
    b = normal(rng, n, k).T if transposed else normal(rng, k, n)
    for times in (kernels.registry.load("multiplier", "onednn")(b), kernels.KERNELS["multiplier"].reference(np, b)):
        for rows in (1, 64, 3, 64, 500):
            a, out, again = (
                normal(rng, rows, k),
                np.full((rows, n), np.nan, np.float32),
                np.empty((rows, n), np.float32),
            )
            times(a, out)
            times(a, again)
            np.testing.assert_allclose(out, a.astype(np.float64) @ b, rtol=1e-4, atol=1e-4)
            assert out.tobytes() == again.tobytes()


@needs_onednn
@pytest.mark.parametrize("rows", [1, 40])
def test_a_packed_matrix_of_bfloat16_adds_up_in_float32(rows: int, threads: int) -> None:
    rng = np.random.default_rng(0)
    a, b = normal(rng, rows, 600).astype(bfloat16), normal(rng, 256, 600).astype(bfloat16).T
    wide = a.astype(np.float64) @ b.astype(np.float64)
    packed, plain = kernels.registry.load("multiplier", "onednn")(b), kernels.KERNELS["multiplier"].reference(np, b)
    assert (packed is NotImplemented) == (not has_bfloat16())
    for times in (plain,) if packed is NotImplemented else (plain, packed):
        out = np.full((rows, 256), np.nan, np.float32)
        times(a, out)
        np.testing.assert_allclose(out, wide, atol=1e-3)


@needs_onednn
def test_other_matrices_are_left_to_numpy() -> None:
    provider = kernels.registry.load("multiplier", "onednn")
    b = np.ones((6, 4), np.float32)
    for other in (b.astype(np.float64), b[::2, ::2], b[:0], b[0]):
        assert provider(other) is NotImplemented
