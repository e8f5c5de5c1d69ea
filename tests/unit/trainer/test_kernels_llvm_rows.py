"""Generated loops over rows: normalisation, losses, attention, sums; each beside its NumPy version."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.unit.trainer.test_kernels_llvm import both, threads

from cordee import trainer
from cordee.trainer import kernels
from cordee.trainer import ops as ops  # declares the kernels
from cordee.trainer.array import bfloat16, get_num_threads, set_num_threads
from cordee.trainer.kernels.providers import PROVIDERS

__all__ = ["threads"]

pytestmark = pytest.mark.skipif(bool(PROVIDERS["llvm"].lack()), reason=PROVIDERS["llvm"].lack() or "-")

ROWS = [(3, 5), (1, 1), (7, 16), (70, 33), (129, 100), (300, 768)]


def normal(rng: Any, *shape: int) -> Any:
    return rng.standard_normal(shape, np.float32)


@pytest.mark.parametrize("given", ["weight and bias", "weight", "bias", ""])
@pytest.mark.parametrize("shape", ROWS, ids=str)
def test_layer_norm_and_its_gradients(shape: tuple[int, int], given: str, threads: int) -> None:
    rng = np.random.default_rng(0)
    x, g = normal(rng, *shape) + 3, normal(rng, *shape)
    weight = normal(rng, shape[1]) if "weight" in given else None
    bias = normal(rng, shape[1]) if "bias" in given else None
    (out, (mean, inverse)), (expected, statistics) = both("layer_norm", x, weight, bias, eps=1e-3)
    np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-5)
    for found, wide in zip((mean, inverse), statistics, strict=True):
        assert found.shape == wide.shape
        np.testing.assert_allclose(found, wide, rtol=1e-5, atol=1e-5)
    needs = (True, weight is not None, bias is not None)
    grads, expected = both("layer_norm_grad", g, x, weight, mean, inverse, needs=needs)
    for found, wide in zip(grads, expected, strict=True):
        if wide is None:
            assert found is None
        else:
            np.testing.assert_allclose(found, wide, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("shape", ROWS, ids=str)
def test_rms_norm_and_its_gradients(shape: tuple[int, int], weighted: bool, threads: int) -> None:
    rng = np.random.default_rng(0)
    x, g = normal(rng, *shape), normal(rng, *shape)
    weight = normal(rng, shape[1]) if weighted else None
    (out, inverse), (expected, _) = both("rms_norm", x, weight, eps=1e-3)
    np.testing.assert_allclose(out, expected, rtol=2e-5, atol=1e-6)
    grads, expected = both("rms_norm_grad", g, x, weight, inverse, needs=(True, weighted))
    for found, wide in zip(grads, expected, strict=True):
        assert (found is None) == (wide is None)
        if found is not None:
            np.testing.assert_allclose(found, wide, rtol=1e-4, atol=1e-4)


def test_rows_of_what_is_no_number() -> None:
    x = np.ones((3, 20), np.float32)
    x[0, 3], x[1, 17] = np.nan, np.inf
    for name, operands in (("layer_norm", (x, None, None)), ("rms_norm", (x, None))):
        with np.errstate(invalid="ignore"):
            (out, _), (expected, _) = both(name, *operands, eps=1e-5)
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_the_gradient_does_not_depend_on_the_number_of_threads() -> None:
    rng = np.random.default_rng(0)
    x, g, weight = normal(rng, 500, 300), normal(rng, 500, 300), normal(rng, 300)
    forward, grad = (kernels.registry.load(name, "llvm") for name in ("layer_norm", "layer_norm_grad"))
    _, statistics = forward(x, weight, None, eps=1e-5)
    before, found = get_num_threads(), []
    for number in (1, 2, 3):
        set_num_threads(number)
        found.append([part.tobytes() for part in grad(g, x, weight, *statistics, needs=(True,) * 3)])
    set_num_threads(before)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_other_rows_are_left_to_numpy(name: str) -> None:
    provider = kernels.registry.load(name, "llvm")
    a = np.ones((4, 6), np.float32)
    nothing = (None,) * (2 if name == "layer_norm" else 1)
    for operand in (a.astype(np.float64), a.T, a[:, ::2], a[:0]):
        assert provider(operand, *nothing, eps=1e-5) is NotImplemented
    assert provider(a, np.ones(6), *nothing[1:], eps=1e-5) is NotImplemented


# -- losses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", ROWS, ids=str)
def test_cross_entropy_and_its_gradient(shape: tuple[int, int], reduction: str, threads: int) -> None:
    rng = np.random.default_rng(0)
    logits, target = normal(rng, *shape) * 10, rng.integers(0, shape[1], shape[0])
    (out, aux), (expected, _) = both("cross_entropy", logits, target=target, reduction=reduction)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    g = normal(rng, *(shape[:1] if reduction == "none" else ()))
    grad, expected = both("cross_entropy_grad", np.asarray(g), logits, *aux, target=target)
    np.testing.assert_allclose(grad, expected, rtol=2e-5, atol=1e-6)


def test_cross_entropy_of_what_is_no_number() -> None:
    logits = np.array([[0.0, -np.inf, 1.0], [np.nan, 0.0, 1.0], [3e38, -3e38, 0.0]], np.float32)
    target = np.array([0, 2, 0], np.int32)
    (out, aux), (expected, _) = both("cross_entropy", logits, target=target, reduction="none")
    np.testing.assert_allclose(out, expected, rtol=1e-6)
    grad, expected = both("cross_entropy_grad", np.ones(3, np.float32), logits, *aux, target=target)
    np.testing.assert_allclose(grad, expected, rtol=1e-6)


@pytest.mark.parametrize("target", [[0, 3], [-1, 0], [0, 1, 2], [0.0, 1.0]], ids=str)
def test_no_class_is_looked_for_outside(target: list[float]) -> None:
    logits, classes = np.zeros((2, 3), np.float32), np.array(target)
    provider = kernels.registry.load("cross_entropy", "llvm")
    assert provider(logits, target=classes, reduction="sum") is NotImplemented
    provider = kernels.registry.load("cross_entropy_grad", "llvm")
    row = np.ones(2, np.float32)
    assert provider(row[0], logits, row, row, target=classes) is NotImplemented


# -- attention ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [None, 0, 3])
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 7, 20), (1, 1, 1), (5, 200, 200)], ids=str)
def test_attention_weights_and_their_gradient(shape: tuple[int, ...], first: int | None, threads: int) -> None:
    rng = np.random.default_rng(0)
    scores, grad = normal(rng, *shape) * 5, normal(rng, *shape)
    weights, slopes = (kernels.KERNELS[name] for name in ("attention_weights", "attention_slopes"))
    fast = [kernels.registry.load(kernel.name, "llvm") for kernel in (weights, slopes)]
    expected = weights.reference(np, scores.astype(np.float64), scale=0.3, first=first)
    found = fast[0](scores, scale=0.3, first=first)
    assert found is scores  # in place
    np.testing.assert_allclose(found, expected, rtol=3e-6, atol=1e-7)
    expected = slopes.reference(np, grad.astype(np.float64), expected, scale=0.3)
    assert fast[1](grad, found, scale=0.3) is grad
    np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("keys", [40, 150, 200])
def test_causal_attention_with_fewer_or_more_keys_than_queries(keys: int) -> None:
    rng = np.random.default_rng(0)
    given = [trainer.tensor(normal(rng, n, 8), requires_grad=True) for n in (150, keys, keys)]
    wide = [trainer.tensor(t.detach().numpy().astype(np.float64), requires_grad=True) for t in given]
    mask = trainer.tensor(np.tri(150, keys, dtype=bool))
    for tensors, how in ((given, {"is_causal": True}), (wide, {"attn_mask": mask})):
        trainer.nn.functional.scaled_dot_product_attention(*tensors, **how).square().sum().backward()
    for tensor, other in zip(given, wide, strict=True):
        np.testing.assert_allclose(tensor.grad.numpy(), other.grad.numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_in_parts_of_the_samples_is_attention(causal: bool) -> None:
    """Of so many queries the scores of three samples do not fit into the cache."""
    rng = np.random.default_rng(0)
    given = [trainer.tensor(normal(rng, 3, 2, 280, 4), requires_grad=True) for _ in range(3)]
    wide = [trainer.tensor(t.detach().numpy().astype(np.float64), requires_grad=True) for t in given]
    mask = trainer.tensor(np.tri(280, dtype=bool) | (not causal))
    for tensors, how in ((given, {"is_causal": causal}), (wide, {"attn_mask": mask})):
        out = trainer.nn.functional.scaled_dot_product_attention(*tensors, **how)
        (out * out).sum().backward()
    for tensor, other in zip(given, wide, strict=True):
        np.testing.assert_allclose(tensor.grad.numpy(), other.grad.numpy(), rtol=1e-3, atol=1e-5)


# -- places ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "height", "width"), [(5, 3, 4), (40, 7, 17), (1, 1, 100), (700, 300, 128)])
def test_rows_are_added_as_numpy_adds_them(count: int, height: int, width: int, threads: int) -> None:
    rng = np.random.default_rng(0)
    rows, a, out = rng.integers(-height, height, count), normal(rng, count, width), normal(rng, height, width)
    expected = out.copy()
    np.add.at(expected, rows, a)
    assert kernels.registry.load("add_elements", "llvm")(out, rows, a) is None
    assert out.tobytes() == expected.tobytes()


def test_no_row_is_looked_for_outside() -> None:
    out = np.zeros((3, 8), np.float32)
    for row in (3, -4):
        given = out, np.array([row]), np.ones((1, 8), np.float32)
        assert kernels.registry.load("add_elements", "llvm")(*given) is NotImplemented


# -- sums --------------------------------------------------------------------------------------------------------------


SUMS = [
    ((70, 130), 1), ((70, 130), None), ((90000,), 0), ((9, 40, 30), 1), ((3, 9, 21), 2), ((90, 1, 30), (1, 2)),
    ((70, 130), 0), ((1030, 65), 0), ((9000, 3), 0), ((9, 40, 30), (0, 1)), ((5, 20000), 0),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "axis"), SUMS, ids=str)
def test_sums(shape: tuple[int, ...], axis: Any, threads: int) -> None:
    a = normal(np.random.default_rng(0), *shape)
    for operand in (a, a.T.copy().T):
        for keepdims in (False, True):
            provider = kernels.registry.load("total", "llvm")
            found = provider(operand, axis=axis, keepdims=keepdims)
            if found is NotImplemented:  # what is reduced does not lie together
                assert operand is not a
                continue
            expected = a.astype(np.float64).sum(axis, keepdims=keepdims)
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
            assert found.tobytes() == provider(operand, axis=axis, keepdims=keepdims).tobytes()


@pytest.mark.parametrize("shape", [(1, 1), (7, 64), (1030, 129), (9000, 3)], ids=str)
def test_sums_of_columns_have_the_same_bits_by_any_number_of_threads(shape: tuple[int, int]) -> None:
    a, before = normal(np.random.default_rng(0), *shape), get_num_threads()
    provider, found = kernels.registry.load("column_totals", "llvm"), []
    try:
        for number in (1, 2, 3):
            set_num_threads(number)
            found.append(provider(a))
    finally:
        set_num_threads(before)
    np.testing.assert_allclose(found[0], a.astype(np.float64).sum(0), rtol=1e-5, atol=1e-4)
    assert len({each.tobytes() for each in found}) == 1
    for other in (a[:0], a.astype(np.float64), np.ones((9, 40), np.float32).T):
        assert provider(other) is NotImplemented


def test_other_sums_are_left_to_numpy() -> None:
    provider = kernels.registry.load("total", "llvm")
    a = np.ones((20, 30, 40), np.float32)
    for operand, axis in (
        (a, (0, 2)),
        (a[:, ::2], 2),
        (a.astype(np.float64), 2),
        (a, 3),
        (a[..., :2], 2),
        (a, ()),
    ):
        assert provider(operand, axis=axis, keepdims=False) is NotImplemented


# -- bfloat16 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_rows_in_bfloat16_are_rounded_once(name: str, threads: int) -> None:
    rng = np.random.default_rng(0)
    rows, g = (normal(rng, 90, 77).astype(bfloat16) for _ in range(2))
    parameters = [normal(rng, 77) for _ in range(2 if name == "layer_norm" else 1)]
    forward, grad = (kernels.KERNELS[each] for each in (name, f"{name}_grad"))
    fast, fast_grad = (kernels.registry.load(each.name, "llvm") for each in (forward, grad))
    out, statistics = fast(rows, *parameters, eps=1e-3)
    expected, _ = forward.reference(np, rows, *parameters, eps=1e-3)
    assert out.dtype == bfloat16
    np.testing.assert_allclose(out.astype(np.float32), expected.astype(np.float32), rtol=1e-2, atol=1e-3)
    statistics = statistics if isinstance(statistics, tuple) else (statistics,)
    needs = (True,) * (1 + len(parameters))
    given = g, rows, parameters[0], *statistics
    for found, wide in zip(fast_grad(*given, needs=needs), grad.reference(np, *given, needs=needs), strict=True):
        assert found.dtype == wide.dtype
        np.testing.assert_allclose(found.astype(np.float32), wide.astype(np.float32), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("shape", [(5,), (40, 33), (2, 3, 100)], ids=str)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_in_bfloat16_is_rounded_once(name: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    a, g = ((normal(rng, *shape) * 5).astype(bfloat16) for _ in range(2))
    forward, grad = (kernels.registry.load(each, "llvm") for each in (name, f"{name}_grad"))
    out = forward(a, axis=-1)
    slope = grad(g, out, axis=len(shape) - 1)
    wide = forward(a.astype(np.float32), axis=-1).astype(bfloat16)
    assert out.dtype == bfloat16
    np.testing.assert_array_equal(out, wide)
    wide = grad(g.astype(np.float32), out.astype(np.float32), axis=-1).astype(bfloat16)
    np.testing.assert_array_equal(slope, wide)
