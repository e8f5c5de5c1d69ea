"""Dtypes: promotion as in PyTorch, limits, bfloat16 and float16 in arithmetic, reductions and gradients."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer.array import to_numpy

REAL = [ct.bool, ct.uint8, ct.int8, ct.int16, ct.int32, ct.int64, ct.float16, ct.bfloat16, ct.float32, ct.float64]
HALVES = [ct.float16, ct.bfloat16]


def _torch(dtype: Any, torch: Any) -> Any:
    return getattr(torch, np.dtype(dtype).name)


@pytest.mark.torch
@pytest.mark.parametrize(("left", "right"), list(itertools.product(REAL, REAL)))
def test_promotion_and_casts_are_pytorchs(left: Any, right: Any) -> None:
    torch = pytest.importorskip("torch")
    a, b = _torch(left, torch), _torch(right, torch)
    assert _torch(ct.promote_types(left, right), torch) == torch.promote_types(a, b)
    assert ct.can_cast(left, right) == torch.can_cast(a, b)
    for shapes in itertools.product(((2,), ()), repeat=2):
        mine = ct.result_type(ct.ones(shapes[0], dtype=left), ct.ones(shapes[1], dtype=right))
        assert _torch(mine, torch) == torch.result_type(torch.ones(shapes[0], dtype=a), torch.ones(shapes[1], dtype=b))
        if {left, right} != set(HALVES):  # between which NumPy has no arithmetic
            assert (ct.ones(shapes[0], dtype=left) + ct.ones(shapes[1], dtype=right)).dtype == mine
    for number in (True, 2, 1.5):
        assert _torch(ct.result_type(ct.ones(2, dtype=left), number), torch) == torch.result_type(
            torch.ones(2, dtype=a), number
        )
        assert (ct.ones(2, dtype=left) * number).dtype == ct.result_type(ct.ones(2, dtype=left), number)


def test_a_tensor_without_dimensions_is_weak_within_its_kind() -> None:
    assert (ct.ones(2, dtype=ct.float16) * ct.tensor(2.5)).dtype == ct.float16
    assert (ct.ones(2) + ct.tensor(2.5, dtype=ct.float64)).dtype == ct.float32
    assert (ct.ones(2, dtype=ct.int32) * ct.tensor(3)).dtype == ct.int32
    assert (ct.ones(2, dtype=ct.bool) + ct.tensor(3)).dtype == ct.int64
    assert (ct.ones(2, dtype=ct.int64) + ct.tensor(3.5)).dtype == ct.float32
    assert (ct.ones((), dtype=ct.float16) * ct.tensor(2.5)).dtype == ct.float32


def test_limits() -> None:
    assert ct.finfo(ct.float32).eps == np.finfo(np.float32).eps
    assert ct.finfo(ct.bfloat16).max == float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
    assert ct.finfo().dtype == "float32"
    assert (ct.iinfo(ct.int8).min, ct.iinfo(ct.uint8).max, ct.iinfo(ct.int64).bits) == (-128, 255, 64)
    with pytest.raises(TypeError, match="iinfo"):
        ct.finfo(ct.int32)
    with pytest.raises(TypeError, match="finfo"):
        ct.iinfo(ct.float32)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision_stays_half_precision(dtype: Any) -> None:
    x = ct.tensor([[1.5, -2.0, 0.25], [3.0, 0.5, -1.0]], dtype=dtype)
    results = [
        x + x, x + 1.0, 2 * x, x / 3, 1.0 - x, x**2, x**0.5, x.exp(), x.sigmoid(), x.relu(), x.clamp(-1.0, 1.0),
        -x, x.abs(),
        ct.where(x > 0, x, 0.0), ct.where(x > 0, 1.0, x), x.sum(), x.mean(1), x.var(0), x.amax(1), x.softmax(1),
        x.log_softmax(0), x.logsumexp(1), x.cumsum(1), x.prod(0), x @ x.mT, x.norm(), x.sort(1).values, x.floor(),
        x.fmod(0.7), ct.nn.functional.gelu(x), ct.nn.functional.silu(x), ct.nn.functional.elu(x), x.erf(), x.lgamma(),
        x.masked_fill(x > 0, 2.0), ct.maximum(x, x * 2), x.std(), ct.lerp(x, x, 0.5), x.median(), x.reciprocal(),
    ]  # fmt: skip
    for i, result in enumerate(results):
        assert result.dtype == dtype, i
    exact = x.double()
    others = [
        exact + exact, exact + 1.0, exact.exp(), exact.sum(), exact.mean(1), exact.softmax(1), exact @ exact.mT,
    ]  # fmt: skip
    for mine, other in zip(
        [results[0], results[1], results[7], *results[15:17], results[19], results[24]], others, strict=True
    ):
        np.testing.assert_allclose(to_numpy(mine.double().data), to_numpy(other.data), rtol=1e-2)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_sums_of_half_precision_are_kept_in_single(dtype: Any) -> None:
    ones = ct.ones(5000, dtype=dtype)  # which counted one by one would stop at 256 or 2048
    assert float(ones.sum()) == float(ct.tensor(5000.0, dtype=dtype))
    assert float(ones.mean()) == 1.0
    assert float(ones.cumsum(0)[-1]) == float(ct.tensor(5000.0, dtype=dtype))
    assert abs(float(ones.norm()) - 5000**0.5) < 0.5


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_gradient_of_many_rows_is_kept_in_single(dtype: Any) -> None:
    bias = ct.zeros(2, dtype=dtype, requires_grad=True)
    ct.nn.functional.linear(ct.zeros(4096, 1, dtype=dtype), ct.zeros(2, 1, dtype=dtype), bias).sum().backward()
    assert bias.grad is not None
    assert bias.grad.tolist() == [4096, 4096]  # as a sum of halves: 2048, or 256


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_gradients_of_half_precision_have_its_dtype(dtype: Any) -> None:
    x = ct.tensor([[1.5, -2.0, 0.25], [3.0, 0.5, -1.0]], dtype=dtype, requires_grad=True)
    y = ct.tensor([2.0, 0.5, 1.0], dtype=dtype, requires_grad=True)
    loss = ((x * y + 1.0).tanh() * 0.5 + ct.nn.functional.gelu(x) * y.exp()).log_softmax(1).mean()
    assert loss.dtype == dtype
    loss.backward()
    exact_x = x.detach().double().requires_grad_()
    exact_y = y.detach().double().requires_grad_()
    exact = ((exact_x * exact_y + 1.0).tanh() * 0.5 + ct.nn.functional.gelu(exact_x) * exact_y.exp()).log_softmax(1)
    exact.mean().backward()
    for mine, other in ((x, exact_x), (y, exact_y)):
        assert mine.grad is not None
        assert other.grad is not None
        assert mine.grad.dtype == dtype
        np.testing.assert_allclose(to_numpy(mine.grad.double().data), to_numpy(other.grad.data), rtol=0.1, atol=0.02)


def test_whole_numbers_are_not_divided_by_zero() -> None:
    for call in (lambda a, b: a // b, lambda a, b: a % b, ct.fmod, lambda a, b: ct.div(a, b, rounding_mode="trunc")):
        with pytest.raises(ZeroDivisionError):
            call(ct.tensor([1, 2]), ct.tensor([1, 0]))
        with pytest.raises(ZeroDivisionError):
            call(ct.tensor([1, 2]), 0)
    assert (ct.tensor([1.0]) // 0.0).item() == np.inf
    assert ct.tensor([1.0]).remainder(0.0).isnan().item()


def test_truth_has_no_sign_and_no_difference() -> None:
    for call in (lambda t: -t, lambda t: t - t, ct.positive):
        with pytest.raises(TypeError):
            call(ct.tensor([True]))


@pytest.mark.parametrize("size", [7, 5000])
@pytest.mark.parametrize(
    "dtype", [ct.float16, ct.bfloat16, ct.float32, ct.float64, ct.int64, ct.int8, ct.uint8], ids=str
)
def test_choosing_is_exact_for_every_bit(dtype: Any, size: int) -> None:
    rng = np.random.Generator(np.random.Philox(key=3))
    a = rng.integers(0, 100, size).astype(dtype)
    b = rng.integers(0, 100, size).astype(dtype)
    if ct.can_cast(ct.float32, dtype):
        a[:3], b[:3] = [np.nan, np.inf, -0.0], [-np.inf, 1e-7, np.nan]
    mask = rng.random(size) < 0.5
    for left, right in ((a, b), (a, 0), (0, b), (a, 3), (3, b), (a, a.astype(a.dtype)[0:1])):
        ours = ct.where(ct.tensor(mask), *(ct.tensor(v) if isinstance(v, np.ndarray) else v for v in (left, right)))
        expected = np.where(mask, *(np.asarray(v).astype(dtype) for v in (left, right)))
        assert ours.dtype == dtype
        np.testing.assert_array_equal(to_numpy(ours.data).view(np.uint8), expected.view(np.uint8))
    wide = ct.where(ct.tensor(mask).reshape(-1, 1), ct.tensor(a).expand(2, size).mT, ct.tensor(b).reshape(-1, 1))
    assert wide.shape == (size, 2)
    np.testing.assert_array_equal(to_numpy(wide.data)[:, 1].tobytes(), np.where(mask, a, b).tobytes())
