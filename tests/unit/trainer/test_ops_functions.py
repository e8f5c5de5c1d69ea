"""Functions composed of ops: their values beside NumPy's, their gradients beside finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer.array import as_array, to_numpy
from cordee.trainer.autograd import gradcheck, gradgradcheck

_rng = np.random.Generator(np.random.Philox(key=11))
A, B, C = _rng.standard_normal((2, 3)), _rng.standard_normal((2, 3)), _rng.standard_normal((2, 2, 3))
V, POSITIVE = _rng.standard_normal(3), _rng.uniform(0.5, 2.0, (2, 3))
CLASSES = ct.tensor([2, 0])


def _log_softmax(a: Any) -> Any:
    return a - np.log(np.exp(a).sum(1, keepdims=True))


# name: (ours, inputs, NumPy's)
CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...], Callable[..., Any]]] = {
    "var": (lambda a: a.var(1), (A,), lambda a: a.var(1, ddof=1)),
    "var, all": (lambda a: a.var(unbiased=False), (A,), lambda a: a.var()),
    "std": (lambda a: a.std(0, keepdim=True), (A,), lambda a: a.std(0, ddof=1, keepdims=True)),
    "norm": (lambda a: a.norm(), (A,), np.linalg.norm),
    "norm 1": (lambda a: a.norm(1.0, 1), (A,), lambda a: np.abs(a).sum(1)),
    "norm 3": (lambda a: a.norm(3.0), (A,), lambda a: (np.abs(a) ** 3).sum() ** (1 / 3)),
    "norm inf": (lambda a: a.norm(np.inf), (A,), lambda a: np.abs(a).max()),
    "max along": (lambda a: a.max(1).values, (A,), lambda a: a.max(1)),
    "min along": (lambda a: a.min(0, keepdim=True).values, (A,), lambda a: a.min(0, keepdims=True)),
    "max of two": (lambda a, b: a.max(b), (A, B), np.maximum),
    "topk": (lambda a: a.topk(2).values, (A,), lambda a: -np.sort(-a, -1)[:, :2]),
    "stack": (lambda a, b: ct.stack([a, b], 1), (A, B), lambda a, b: np.stack([a, b], 1)),
    "split": (lambda a: ct.split(a, [1, 2], 1)[1], (A,), lambda a: a[:, 1:]),
    "chunk": (lambda a: a.chunk(2, 1)[0], (A,), lambda a: a[:, :2]),
    "unbind": (lambda a: a.unbind(1)[2], (A,), lambda a: a[:, 2]),
    "iteration": (lambda a: list(a)[1], (A,), lambda a: a[1]),
    "repeat": (lambda a: a.repeat(2, 1, 2), (A,), lambda a: np.tile(a, (2, 1, 2))),
    "expand": (lambda v: v.expand(2, -1), (V,), lambda v: np.broadcast_to(v, (2, 3))),
    "flatten": (lambda c: c.flatten(1), (C,), lambda c: c.reshape(2, 6)),
    "unflatten": (lambda c: c.flatten().unflatten(0, (3, 4)), (C,), lambda c: c.reshape(3, 4)),
    "squeeze": (lambda v: v.reshape(1, 3, 1).squeeze(0), (V,), lambda v: v.reshape(3, 1)),
    "unsqueeze": (lambda v: v.unsqueeze(-1), (V,), lambda v: v[:, None]),
    "movedim": (lambda c: c.movedim(0, -1), (C,), lambda c: np.moveaxis(c, 0, -1)),
    "transpose": (lambda c: c.transpose(-1, 0), (C,), lambda c: c.swapaxes(-1, 0)),
    "T": (lambda a: a.T, (A,), np.transpose),
    "mT": (lambda c: c.mT, (C,), lambda c: c.swapaxes(-1, -2)),
    "pad": (
        lambda a: ct.pad(a, (1, 0, 0, 2), value=3.0),
        (A,),
        lambda a: np.pad(a, ((0, 2), (1, 0)), constant_values=3),
    ),
    "masked_fill": (lambda a: a.masked_fill(a > 0, -1.0), (A,), lambda a: np.where(a > 0, -1.0, a)),
    "masked_select": (lambda a: a.masked_select(a > 0), (A,), lambda a: a[a > 0]),
    "index_select": (lambda a: a.index_select(1, ct.tensor([2, 2, 0])), (A,), lambda a: a[:, [2, 2, 0]]),
    "where method": (lambda a, b: a.where(a > b, b), (A, B), np.maximum),
    "vector @ matrix": (lambda v, c: v @ c.mT, (V, C), lambda v, c: v @ c.swapaxes(-1, -2)),
    "matrix @ vector": (lambda c, v: c @ v, (C, V), lambda c, v: c @ v),
    "dot": (lambda v, w: v.dot(w), (V, V + 1), np.dot),
    "outer": (lambda v, w: v.outer(w), (V, V + 1), np.outer),
    "pow of tensors": (lambda a, b: a**b, (POSITIVE, B), np.power),
    "2 ** a": (lambda a: 2.0**a, (A,), lambda a: 2.0**a),
    "1 / a": (lambda a: 1.0 / a, (POSITIVE,), lambda a: 1 / a),
    "1 - a": (lambda a: 1 - a, (A,), lambda a: 1 - a),
    "clone": (lambda a: a.clone(), (A,), lambda a: a),
    "cross_entropy, smoothed": (
        lambda a: ct.cross_entropy(a, CLASSES, label_smoothing=0.1),
        (A,),
        lambda a: -((0.9 * np.eye(3)[[2, 0]] + 0.1 / 3) * _log_softmax(a)).sum() / 2,
    ),
    "cross_entropy, weighted": (
        lambda a: ct.cross_entropy(a, CLASSES, ct.tensor([0.5, 1.0, 2.0], dtype=ct.float64)),
        (A,),
        lambda a: -(2.0 * _log_softmax(a)[0, 2] + 0.5 * _log_softmax(a)[1, 0]) / 2.5,
    ),
    "cross_entropy, ignoring": (
        lambda a: ct.cross_entropy(a, ct.tensor([2, -100])),
        (A,),
        lambda a: -_log_softmax(a)[0, 2],
    ),
    "cross_entropy, probabilities": (
        lambda a: ct.cross_entropy(a, ct.tensor(np.full((2, 3), 1 / 3))),
        (A,),
        lambda a: -_log_softmax(a).sum() / 6,
    ),
    "cross_entropy, no batch": (
        lambda v: ct.cross_entropy(v, ct.tensor(1)),
        (V,),
        lambda v: np.log(np.exp(v).sum()) - v[1],
    ),
    "cross_entropy, images": (
        lambda c: ct.cross_entropy(c, ct.tensor([[0, 1, 1], [1, 0, 1]]), reduction="sum"),
        (C,),
        lambda c: (
            np.log(np.exp(c).sum(1)) - np.take_along_axis(c, np.array([[[0, 1, 1]], [[1, 0, 1]]]), 1)[:, 0]
        ).sum(),
    ),
    "nll_loss": (lambda a: ct.nll_loss(a, CLASSES), (A,), lambda a: -(a[0, 2] + a[1, 0]) / 2),
    "l1_loss": (ct.l1_loss, (A, B), lambda a, b: np.abs(a - b).mean()),
    "mse_loss, sum": (lambda a, b: ct.mse_loss(a, b, reduction="sum"), (A, B), lambda a, b: ((a - b) ** 2).sum()),
    "bce": (
        lambda a: ct.binary_cross_entropy_with_logits(a, ct.tensor(np.full((2, 3), 0.3))),
        (A,),
        lambda a: -(0.3 * np.log(1 / (1 + np.exp(-a))) + 0.7 * np.log(1 / (1 + np.exp(a)))).mean(),
    ),
    "bce, positive weight": (
        lambda a: ct.binary_cross_entropy_with_logits(a, ct.ones_like(a), pos_weight=ct.tensor(3.0, dtype=ct.float64)),
        (A,),
        lambda a: 3 * np.log1p(np.exp(-a)).mean(),
    ),
    "layer_norm, two dimensions": (
        lambda c: ct.layer_norm(c, (2, 3)),
        (C,),
        lambda c: (c - c.mean((1, 2), keepdims=True)) / np.sqrt(c.var((1, 2), keepdims=True) + 1e-5),
    ),
    "avg_pool2d": (
        lambda c: ct.avg_pool2d(c.reshape(1, 2, 2, 3), 2, 1),
        (C,),
        lambda c: ((c[:, :1, :2] + c[:, :1, 1:] + c[:, 1:, :2] + c[:, 1:, 1:]) / 4).reshape(1, 2, 1, 2),
    ),
    "avg_pool2d, border not counted": (
        lambda c: ct.avg_pool2d(c.reshape(1, 2, 2, 3), (2, 3), padding=(1, 0), count_include_pad=False),
        (C,),
        lambda c: c.mean(2).reshape(1, 2, 2, 1),
    ),
    "conv2d, same": (
        lambda c: ct.conv2d(c.reshape(1, 2, 2, 3), ct.ones(1, 2, 2, 2, dtype=ct.float64), padding="same"),
        (C,),
        lambda c: np.add.reduce(
            [np.pad(c.sum(0), ((0, 1), (0, 1)))[i : i + 2, j : j + 3] for i in (0, 1) for j in (0, 1)]
        ).reshape(1, 1, 2, 3),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name: str) -> None:
    function, arrays, reference = CASES[name]
    inputs = [ct.Tensor(as_array(array.copy()), requires_grad=True) for array in arrays]
    out = function(*inputs)
    expected = reference(*arrays)
    assert out.shape == np.shape(expected)
    np.testing.assert_allclose(to_numpy(out.data), expected, rtol=1e-10, atol=1e-12)
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


def test_the_indices_of_extremes_are_where_the_values_are() -> None:
    a = ct.tensor([[3.0, 1.0, 3.0], [0.0, 5.0, 4.0]])
    values, indices = a.max(1)
    assert values.tolist() == [3.0, 5.0]
    assert indices.tolist() == [0, 1]
    assert a.argmin(1).tolist() == [1, 0]
    assert int(a.argmax()) == 4
    assert a.topk(2).indices.tolist() == [[0, 2], [1, 2]]
    assert a.argsort(1, descending=True).tolist() == [[0, 2, 1], [1, 2, 0]]


def test_sorting_backwards_keeps_the_order_of_equal_elements_in_every_dtype() -> None:
    values = np.array([3, 0, 7, 3, 1, 7])
    for dtype in (np.uint8, np.int8, np.int64, np.float32):
        assert ct.tensor(values.astype(dtype)).argsort(descending=True).tolist() == [2, 5, 0, 3, 4, 1]
    assert ct.tensor([True, False, True]).argsort(descending=True).tolist() == [0, 2, 1]
    assert ct.tensor(np.array([-128, 5], np.int8)).topk(1).values.tolist() == [5]


@pytest.mark.parametrize(
    ("function", "at", "gradient"),
    [
        (lambda x: x.norm(), [0.0, 0.0], [0.0, 0.0]),
        (lambda x: x.std(), [2.0, 2.0, 2.0], [0.0, 0.0, 0.0]),
        (lambda x: x.prod(), [0.0, 2.0, 3.0], [6.0, 0.0, 0.0]),
        (lambda x: x.prod(), [0.0, 0.0, 3.0], [0.0, 0.0, 0.0]),
        (lambda x: x**0, [0.0, 2.0], [0.0, 0.0]),
        (lambda x: ct.tensor([0.0, 1.0], dtype=ct.float64) ** x, [2.0, 3.0], [0.0, 0.0]),
        (lambda x: x.mean(), [], []),
        (lambda x: ct.mse_loss(x, ct.zeros(0, dtype=ct.float64)), [], []),
    ],
)  # fmt: skip
def test_gradients_at_corners_are_those_of_pytorch(function: Any, at: list[float], gradient: list[float]) -> None:
    x = ct.tensor(np.array(at), requires_grad=True)
    function(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == gradient


def test_equal_extremes_share_the_gradient() -> None:
    a = ct.tensor([2.0, 2.0, 1.0], requires_grad=True)
    a.max().backward()
    assert a.grad is not None
    assert a.grad.tolist() == [0.5, 0.5, 0.0]


def test_erf_is_the_error_function_in_both_precisions() -> None:
    grid = np.concatenate([np.linspace(-7, 7, 2001), [0.0, -0.0, 1e-300, np.inf, -np.inf]])
    exact = np.array([math.erf(x) for x in grid])
    np.testing.assert_allclose(to_numpy(ct.erf(ct.tensor(grid)).data), exact, rtol=4e-16, atol=0)
    single = ct.erf(ct.tensor(grid.astype(np.float32)))
    np.testing.assert_allclose(to_numpy(single.data), exact, rtol=0, atol=4e-7)


@pytest.mark.parametrize("function", [ct.sigmoid, ct.tanh, ct.gelu, ct.silu, ct.softplus, ct.logsigmoid, ct.elu])
def test_activations_do_not_overflow(function: Any) -> None:
    x = ct.tensor([-1e4, -100.0, 100.0, 1e4], requires_grad=True)
    out = function(x)
    out.sum().backward()
    assert bool(out.isfinite().all())
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


def test_softmax_of_large_numbers_is_right() -> None:
    assert ct.softmax(ct.tensor([1e4, 1e4, -1e4]), 0).tolist() == [0.5, 0.5, 0.0]
    assert ct.cross_entropy(ct.tensor([[1e4, 0.0]]), ct.tensor([0])).item() == 0.0


def test_causal_attention_sees_no_later_key() -> None:
    q, k, v = (ct.randn(1, 4, 3, requires_grad=True) for _ in range(3))
    out = ct.scaled_dot_product_attention(q, k, v, is_causal=True)
    out[:, 1].sum().backward()
    assert v.grad is not None
    assert k.grad is not None
    assert not v.grad[:, 2:].any()
    assert not k.grad[:, 2:].any()
    assert v.grad[:, :2].all()


def test_dropout_scales_what_it_keeps_and_passes_the_same_gradients() -> None:
    ct.manual_seed(3)
    x = ct.ones(200, 50, requires_grad=True)
    out = ct.dropout(x, 0.25)
    values = set(np.unique(to_numpy(out.data)).tolist())
    assert values == {0.0, float(np.float32(1 / 0.75))}
    assert abs(float((out > 0).float().mean()) - 0.75) < 0.02
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.equal(out.detach())
    assert ct.dropout(x, 0.25, training=False) is x


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ct.randn(4, 512) @ ct.randn(256, 10), ["matmul", "(4, 512)", "(256, 10)", "512", "256"]),
        (lambda: ct.linear(ct.randn(4, 3), ct.randn(5, 2)), ["linear", "(4, 3)", "(5, 2)", "3 features", "takes 2"]),
        (lambda: ct.randn(2, 3) + ct.randn(2, 4), ["add", "(2, 3)", "(2, 4)", "dimension -1"]),
        (lambda: ct.mse_loss(ct.randn(4, 1), ct.randn(4)), ["mse_loss", "(4, 1)", "(4,)", "broadcast=True"]),
        (lambda: ct.cross_entropy(ct.randn(2, 3), ct.tensor([0, 3])), ["class number 3", "3 classes, 0 to 2"]),
        (lambda: ct.cross_entropy(ct.randn(2, 3), ct.tensor([0, -1])), ["class number -1"]),
        (lambda: ct.cross_entropy(ct.randn(2, 3), ct.tensor([0, 1, 2])), ["(2, 3)", "(2,)", "(3,)"]),
        (lambda: ct.randn(3, 4)[5], ["index 5", "dimension 0", "size 3"]),
        (lambda: ct.embedding(ct.tensor([9]), ct.randn(5, 2)), ["index 9", "valid: 0 to 4"]),
        (lambda: ct.stack([ct.randn(2), ct.randn(3)]), ["stack", "tensor 1", "(3,)"]),
        (lambda: ct.randn(2, 3).view(4, 2), ["reshape", "6 elements", "(4, 2)"]),
        (lambda: ct.conv2d(ct.randn(1, 3, 8, 8), ct.randn(4, 1, 3, 3)), ["conv2d", "3 channels"]),
        (lambda: ct.max_pool2d(ct.randn(1, 1, 2, 2), 3), ["max_pool2d", "3×3"]),
        (lambda: ct.layer_norm(ct.randn(2, 3), 4), ["layer_norm", "(2, 3)", "(4,)"]),
        (lambda: ct.randn(2, 3).sum(2), ["sum", "no dimension 2"]),
        (lambda: ct.randn(2, 3).select(2, 0), ["select", "no dimension 2", "(2, 3)"]),
        (lambda: ct.randn(2, 3).narrow(1, 1, 3), ["narrow", "3 elements from 1", "has size 3"]),
        (lambda: ct.randn(2, 3).index_select(-3, ct.tensor([0])), ["index_select", "no dimension -3"]),
        (lambda: ct.randn(2, 1).squeeze(2), ["squeeze", "no dimension 2"]),
        (lambda: ct.randn(2, 3).unsqueeze(4), ["unsqueeze", "no dimension 4"]),
        (lambda: ct.randn(2, 3).flatten(2), ["flatten", "no dimension 2"]),
        (lambda: ct.randn(2, 3).movedim(0, 2), ["movedim", "no dimension 2"]),
        (lambda: ct.randn(2, 3).split(0), ["split", "not 0"]),
        (lambda: ct.randn(2, 3).chunk(0), ["chunk", "not 0"]),
    ],
)  # fmt: skip
def test_errors_name_the_op_the_shapes_and_the_dimension(call: Any, words: list[str]) -> None:
    with pytest.raises(ct.TrainerError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ct.arange(3).mean(), "floating-point"),
        (lambda: ct.embedding(ct.randn(2), ct.randn(5, 2)), "integers"),
        (lambda: ct.cross_entropy(ct.randn(2, 3), ct.tensor([True, False])), "integers"),
        (lambda: ct.tensor([1, 2], requires_grad=True), "floating-point"),
    ],
)
def test_wrong_dtypes_are_refused(call: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: ct.gelu(ct.randn(2), "fast"),
        lambda: ct.dropout(ct.randn(2), 1.5),
        lambda: ct.cross_entropy(ct.randn(1, 2), ct.tensor([0]), reduction="avg"),
        lambda: ct.conv2d(ct.randn(1, 1, 3, 3), ct.randn(1, 1, 2, 2), padding="full"),
        lambda: ct.clamp(ct.randn(2)),
        lambda: ct.scaled_dot_product_attention(*[ct.randn(2, 2)] * 3, attn_mask=ct.randn(2, 2), is_causal=True),
    ],
)
def test_impossible_options_are_refused(call: Any) -> None:
    with pytest.raises(ValueError):
        call()


@pytest.mark.parametrize("divisor", [0.3, -0.7, 5, 1e-30, -3e38, math.inf, 0.0])
def test_the_remainders_of_many_have_numpys_bits(divisor: float) -> None:
    rng = np.random.default_rng(0)
    a = (rng.standard_normal(40000) * 10.0 ** rng.uniform(-6, 6, 40000)).astype(np.float32)
    a[::7] = np.float32(divisor) * rng.integers(-50, 50, a[::7].size).astype(np.float32) if divisor < math.inf else 1
    a[:2], a[20000:20003] = (0.0, -0.0), (np.nan, np.inf, -np.inf)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = np.remainder(a, np.float32(divisor))
    found = ct.remainder(ct.tensor(a), divisor).numpy()
    np.testing.assert_array_equal(found, expected)
    assert (np.signbit(found) == np.signbit(expected))[expected == expected].all()
