"""The array API's namespace: complete, with the standard's dtype rules, and differentiable.

The standard's own suite is run by `tests/conformance/array_api.py`; here is what must never break unseen.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
import cordee.trainer.array_api as xp
from cordee.trainer.errors import DeviceError

# The names of https://data-apis.org/array-api/2024.12/API_specification/, by page.
STANDARD = """
e inf nan newaxis pi
arange asarray empty empty_like eye from_dlpack full full_like linspace meshgrid ones ones_like tril triu zeros
zeros_like
astype can_cast finfo iinfo isdtype result_type
bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64 complex64 complex128
abs acos acosh add asin asinh atan atan2 atanh bitwise_and bitwise_left_shift bitwise_invert bitwise_or
bitwise_right_shift bitwise_xor ceil clip conj copysign cos cosh divide equal exp expm1 floor floor_divide greater
greater_equal hypot imag isfinite isinf isnan less less_equal log log1p log2 log10 logaddexp logical_and logical_not
logical_or logical_xor maximum minimum multiply negative nextafter not_equal positive pow real reciprocal remainder
round sign signbit sin sinh square sqrt subtract tan tanh trunc
take take_along_axis __array_namespace_info__ matmul matrix_transpose tensordot vecdot
broadcast_arrays broadcast_to concat expand_dims flip moveaxis permute_dims repeat reshape roll squeeze stack tile
unstack
argmax argmin count_nonzero nonzero searchsorted where
unique_all unique_counts unique_inverse unique_values argsort sort
cumulative_prod cumulative_sum max mean min prod std sum var all any diff
"""
LINALG = """
cholesky cross det diagonal eigh eigvalsh inv matmul matrix_norm matrix_power matrix_rank matrix_transpose outer pinv qr
slogdet solve svd svdvals tensordot trace vecdot vector_norm
"""
FFT = "fft ifft fftn ifftn rfft irfft rfftn irfftn hfft ihfft fftfreq rfftfreq fftshift ifftshift"


def test_every_name_of_the_standard_is_there_and_listed() -> None:
    assert set(STANDARD.split()) <= set(xp.__all__)
    assert set(LINALG.split()) == set(xp.linalg.__all__)
    assert set(FFT.split()) == set(xp.fft.__all__)
    for module in (xp, xp.linalg, xp.fft):
        assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_functions_carry_their_standard_name_and_a_text() -> None:
    for module in (xp, xp.linalg, xp.fft):
        for name in module.__all__:
            function = getattr(module, name)
            if inspect.isfunction(function):
                assert (function.__name__, bool(function.__doc__)) == (name, True)


def test_a_tensor_knows_its_namespace_and_refuses_unknown_versions() -> None:
    assert ct.ones(2).__array_namespace__() is xp
    assert ct.ones(2).__array_namespace__(api_version="2023.12") is xp
    with pytest.raises(ValueError, match=r"2020\.01"):
        ct.ones(2).__array_namespace__(api_version="2020.01")


@pytest.mark.parametrize(
    ("dtype", "summed"), [("uint8", "uint64"), ("int8", "int64"), ("uint64", "uint64"), ("float32", "float32")]
)
@pytest.mark.parametrize("function", [xp.sum, xp.prod, xp.cumulative_sum, xp.cumulative_prod])
def test_sums_of_small_integers_are_wide(function: Any, dtype: str, summed: str) -> None:
    assert function(xp.asarray([1, 2, 3], dtype=dtype), axis=0).dtype.name == summed


def test_reductions_over_no_axes_and_over_several() -> None:
    x = xp.reshape(xp.arange(24.0), (2, 3, 4))
    array = x.numpy()
    for name, theirs in {"sum": np.sum, "prod": np.prod, "max": np.max, "mean": np.mean, "std": np.std}.items():
        for axis in (None, 1, -1, (0, 2), ()):
            ours = getattr(xp, name)(x, axis=axis, keepdims=True)
            np.testing.assert_allclose(ours.numpy(), theirs(array, axis=axis, keepdims=True), rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(("value", "dtype"), [(1, "int64"), (1.5, "float32"), (1j, "complex64"), (True, "bool")])
def test_numbers_become_the_default_dtypes(value: Any, dtype: str) -> None:
    assert xp.asarray(value).dtype.name == dtype
    assert xp.asarray([value]).dtype.name == dtype
    assert xp.full((2,), value).dtype.name == dtype


def test_asarray_copies_when_told_and_refuses_when_it_must_not() -> None:
    array, tensor = np.arange(3.0), ct.ones(3)
    assert xp.asarray(tensor) is tensor
    assert xp.asarray(tensor, copy=True) is not tensor
    for thing, dtype in ((array, xp.float32), (tensor, xp.int64), ([1.0], None)):
        with pytest.raises(ValueError, match="copy is False"):
            xp.asarray(thing, dtype=dtype, copy=False)


def test_another_device_is_refused() -> None:
    other = "cuda" if ct.device_name() == "cpu" else "cpu"
    with pytest.raises(DeviceError, match="CORDEE_DEVICE"):
        xp.zeros((2,), device=other)
    assert xp.__array_namespace_info__().devices() == [ct.device_name()]


def test_kinds_and_limits() -> None:
    assert xp.isdtype(xp.float32, ("integral", "real floating"))
    assert not xp.isdtype(xp.uint8, "signed integer")
    with pytest.raises(ValueError, match="unknown kind"):
        xp.isdtype(xp.int8, "whole")
    assert xp.finfo(xp.float32).eps == 2**-23
    assert xp.finfo(xp.complex128).dtype == xp.float64
    assert xp.iinfo(xp.uint8).max == 255
    assert xp.result_type(ct.ones(1), 2.0) == xp.float32
    assert xp.result_type(1, 2.5) == xp.float32
    with pytest.raises(TypeError, match="real"):
        xp.astype(xp.asarray(1j), xp.float32)


def test_unique_takes_every_nan_for_another() -> None:
    values, indices, inverse, counts = xp.unique_all(xp.asarray([[2.0, float("nan")], [float("nan"), 2.0]]))
    assert counts.tolist() == [2, 1, 1]
    assert inverse.shape == (2, 2)
    assert values.tolist()[0] == 2
    assert indices.tolist()[0] == 0


def test_gradients_flow_through_the_namespace() -> None:
    x = ct.tensor([[4.0, 1.0], [1.0, 3.0]], requires_grad=True)
    space = x.__array_namespace__()
    loss = space.linalg.slogdet(x)[1] + space.sum(space.matmul(x, space.permute_dims(x, (1, 0))) ** 2)
    loss.backward()
    array = x.detach().numpy().astype(float)
    product = array @ array.T
    expected = np.linalg.inv(array).T + 2 * (product + product.T) @ array  # of log|det X| and of ‖X Xᵀ‖²
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-5)


def test_tensors_without_dimensions_count_in_promotion_unlike_in_pytorch() -> None:
    assert xp.add(xp.asarray(1, dtype=xp.uint16), xp.asarray([1], dtype=xp.uint8)).dtype == xp.uint16
    assert xp.where(xp.asarray([True]), xp.asarray(1.0, dtype=xp.float64), xp.asarray([1.0])).dtype == xp.float64
    assert xp.add(xp.asarray([1], dtype=xp.uint8), 1).dtype == xp.uint8
