"""Arrays of other libraries: shared where memory can be shared, refused where something would be lost."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import nn
from cordee.trainer.array import to_numpy
from cordee.trainer.errors import DeviceError, GraphError

on_cpu = pytest.mark.skipif(ct.device_name() != "cpu", reason="memory is shared with NumPy on the CPU only")


# -- NumPy -------------------------------------------------------------------------------------------------------------


@on_cpu
def test_asarray_shares_memory_and_converts_on_demand() -> None:
    tensor = ct.tensor(np.arange(3.0))
    assert np.shares_memory(np.asarray(tensor), tensor.data)
    assert not np.shares_memory(np.array(tensor), tensor.data)
    assert np.asarray(tensor, dtype=np.int32).dtype == np.int32
    with pytest.raises(ValueError, match="copy"):
        np.asarray(tensor, dtype=np.int32, copy=False)


def test_numpy_is_not_given_a_tensor_that_requires_a_gradient() -> None:
    leaf = ct.tensor([1.0, 2.0], requires_grad=True)
    for tensor in (leaf, leaf * 2):
        with pytest.raises(GraphError, match="detach"):
            np.asarray(tensor)
        with pytest.raises(BufferError, match="detach"):
            tensor.__dlpack__()
    with pytest.raises(TypeError):
        memoryview(leaf)  # type: ignore[arg-type]


def test_an_array_and_a_tensor_give_a_tensor_whichever_stands_first() -> None:
    array, tensor = (
        np.array([[1.0, 2.0], [3.0, 4.0]]),
        ct.tensor(np.array([[2.0, 0.0], [1.0, 1.0]]), requires_grad=True),
    )
    pairs = {
        "+": (array + tensor, tensor + array, array + to_numpy(tensor.data)),
        "*": (array * tensor, tensor * array, array * to_numpy(tensor.data)),
    }
    for first, second, expected in pairs.values():
        assert isinstance(first, ct.Tensor)
        assert isinstance(second, ct.Tensor)
        np.testing.assert_array_equal(first.detach().numpy(), expected)
        np.testing.assert_array_equal(second.detach().numpy(), expected)
    np.testing.assert_array_equal((array - tensor).detach().numpy(), array - to_numpy(tensor.data))
    product = array @ tensor
    np.testing.assert_array_equal(product.detach().numpy(), array @ to_numpy(tensor.data))
    product.sum().backward()
    assert tensor.grad is not None
    np.testing.assert_array_equal(tensor.grad.numpy(), array.T @ np.ones((2, 2)))
    assert isinstance(array > tensor, ct.Tensor)


def test_numpys_functions_of_tensors_are_refused_and_not_half_right() -> None:
    with pytest.raises(TypeError, match="does not support ufuncs"):
        np.sin(ct.ones(2))


# -- DLPack ------------------------------------------------------------------------------------------------------------


@on_cpu
@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "int64", "int32", "int8", "uint8", "bool", "complex64"]
)
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_dlpack_shares_memory_with_numpy_both_ways(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.ones(shape, dtype)
    tensor = ct.from_dlpack(array)
    assert tensor.dtype == array.dtype
    back = np.from_dlpack(tensor)
    assert back.shape == shape
    if array.size:
        array[...] = 0
        assert not np.any(tensor.data)
        assert not np.any(back)


@on_cpu
def test_strided_memory_travels_as_it_is() -> None:
    array = np.arange(24.0).reshape(4, 6)[::2, 1::3].T
    tensor = ct.from_dlpack(array)
    assert np.shares_memory(tensor.data, array)
    np.testing.assert_array_equal(np.from_dlpack(tensor), array)


@on_cpu
def test_copy_decides_whether_memory_is_shared() -> None:
    array = np.arange(3.0)
    assert np.shares_memory(ct.from_dlpack(array).data, array)
    assert np.shares_memory(ct.from_dlpack(array, copy=False).data, array)
    assert not np.shares_memory(ct.from_dlpack(array, copy=True).data, array)


@on_cpu
def test_read_only_memory_stays_read_only() -> None:
    array = np.arange(3.0)
    array.flags.writeable = False
    tensor = ct.from_dlpack(array)
    assert np.shares_memory(tensor.data, array)
    with pytest.raises(ValueError, match="read-only"):
        tensor.fill_(1)
    with pytest.raises(BufferError):
        tensor.__dlpack__()  # without a version there is no flag that would say so
    assert np.from_dlpack(tensor).flags.writeable is False


@on_cpu
def test_bfloat16_travels_though_numpy_knows_none() -> None:
    tensor = ct.tensor(np.array([1.5, -2.0], ml_dtypes.bfloat16))
    again = ct.from_dlpack(tensor)
    assert again.dtype == np.dtype(ml_dtypes.bfloat16)
    assert np.shares_memory(again.data, tensor.data)
    with pytest.raises((BufferError, RuntimeError)):
        np.from_dlpack(tensor)  # NumPy itself has no such type: refused, and not read as whole numbers


def test_what_does_not_speak_dlpack_is_refused() -> None:
    with pytest.raises(TypeError, match="a list does not speak DLPack"):
        ct.from_dlpack([1, 2])


@on_cpu
def test_memory_of_a_device_cannot_be_a_tensor_of_the_cpu() -> None:
    class OnCuda:
        def __dlpack__(self, **_: Any) -> Any:
            raise AssertionError

        def __dlpack_device__(self) -> tuple[int, int]:
            return (2, 0)

    with pytest.raises(DeviceError, match="computes on the CPU"):
        ct.from_dlpack(OnCuda())


@on_cpu
def test_an_older_producer_without_versions_is_read() -> None:
    class Old:
        def __init__(self, array: Any) -> None:
            self.array = array

        def __dlpack__(self, stream: Any = None) -> Any:
            return self.array.__dlpack__()

        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

    array = np.arange(3.0)
    assert np.shares_memory(ct.from_dlpack(Old(array)).data, array)


@pytest.mark.cuda
def test_dlpack_shares_memory_with_cupy_both_ways() -> None:
    cupy = pytest.importorskip("cupy")
    array = cupy.arange(3.0)
    tensor = ct.from_dlpack(array)
    array[0] = 7
    assert tensor.tolist() == [7, 1, 2]
    assert cupy.from_dlpack(tensor).data.ptr == array.data.ptr
    assert ct.from_dlpack(np.arange(2)).device == "cuda"
    with pytest.raises(DeviceError, match="copy=False"):
        ct.from_dlpack(np.arange(2), copy=False)


@pytest.mark.torch
@on_cpu
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int64", "int16", "uint8", "bool"])
def test_dlpack_shares_memory_with_live_pytorch_both_ways(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.ones(2, 3).to(getattr(torch, dtype))
    ours = ct.from_dlpack(theirs.T)
    assert ours.dtype.name == dtype
    assert ours.shape == (3, 2)
    theirs[0, 1] = 0
    assert not ours.data[1, 0]
    back = torch.from_dlpack(ours)
    assert back.dtype == theirs.dtype
    assert back.data_ptr() == theirs.data_ptr()
    ours.data[0, 0] = 0
    assert not theirs[0, 0]


# -- copying and pickling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int64", "bool"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickled_tensor_comes_back(dtype: str, protocol: int) -> None:
    tensor = ct.tensor(np.array([[0, 1], [2, 3]]).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype))
    back = pickle.loads(pickle.dumps(tensor, protocol))
    assert back.dtype is tensor.dtype  # kernels ask for it so
    np.testing.assert_array_equal(back.tolist(), tensor.tolist())


def test_an_unpickled_arrays_dtype_is_the_common_one() -> None:
    array = pickle.loads(pickle.dumps(np.ones(3, np.float32)))
    for tensor in (ct.tensor(array), ct.from_numpy(array), ct.Tensor(array)):
        assert tensor.dtype is ct.float32
    shared = ct.from_numpy(array)
    shared += 1
    assert array.tolist() == [2, 2, 2]
    assert ct.from_numpy(np.ones(3, ">f4")).data.dtype == np.dtype(">f4")


def test_models_are_pickled_with_their_ties() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert twin[0].weight is twin[1].weight
        assert isinstance(twin[0].weight, nn.Parameter)
        assert twin[0].weight.requires_grad
        assert twin[0].weight is not model[0].weight
        x = ct.ones(2, 3)
        assert twin(x).tolist() == model(x).tolist()
        twin(x).sum().backward()


def test_a_deep_copy_keeps_the_gradient_and_a_pickle_does_not() -> None:
    leaf = ct.tensor([1.0, 2.0], requires_grad=True)
    (leaf * leaf).sum().backward()
    twin = copy.deepcopy(leaf)
    assert twin.grad is not None
    assert twin.grad is not leaf.grad
    assert twin.grad.tolist() == [2, 4]
    assert pickle.loads(pickle.dumps(leaf)).grad is None


@pytest.mark.parametrize("make", [copy.deepcopy, pickle.dumps])
def test_a_computed_tensor_is_not_copied_without_its_graph(make: Any) -> None:
    with pytest.raises(GraphError, match="detach"):
        make(ct.tensor([1.0], requires_grad=True) * 2)


def test_attributes_of_a_subclass_travel_along() -> None:
    class Named(ct.Tensor):
        name: Any

    tensor = Named([1.0])
    tensor.name = ["a"]
    twin = copy.deepcopy(tensor)
    assert type(twin) is Named
    assert twin.name == ["a"]
    assert twin.name is not tensor.name
