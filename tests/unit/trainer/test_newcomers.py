"""What somebody meets on the first day with a script from PyTorch: devices, old habits, answers to mistakes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import absent, data, nn, optim

on_cpu = pytest.mark.skipif(ct.device_name() != "cpu", reason="the names of the CPU")


def test_the_first_line_of_every_script_names_the_device_in_use() -> None:
    device = ct.device("cuda" if ct.cuda.is_available() else "cpu")
    assert ct.zeros(2, device=device).to(device).device == device == ct.device_name()
    assert nn.Linear(2, 3, device=device).to(device).weight.device.type == device.type
    assert ct.cuda.device_count() == int(ct.cuda.is_available())
    ct.cuda.synchronize()
    ct.cuda.empty_cache()


@on_cpu
def test_a_device_is_a_string_with_parts() -> None:
    assert (ct.device("cuda:1").type, ct.device("cuda:1").index, ct.device("cpu").index) == ("cuda", 1, None)
    assert ct.device("cuda", 1) == "cuda:1" == pickle.loads(pickle.dumps(ct.device("cuda:1")))
    assert repr(ct.zeros(1).device) == "device(type='cpu')"
    assert repr(copy.copy(ct.device("cuda:1"))) == "device(type='cuda', index=1)"
    assert not ct.zeros(1).is_cuda
    assert ct.cuda.memory_allocated() == ct.cuda.max_memory_allocated() == 0


@pytest.mark.parametrize("name", ["tpu", "cuda:", "cuda:x", "cpu0", ""])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(ct.DeviceError, match="a device is cpu, cuda, or cuda:n"):
        ct.device(name)


@on_cpu
def test_what_asks_for_a_gpu_says_that_there_is_none() -> None:
    with pytest.raises(ct.DeviceError, match=r"cuda.current_device: this process computes on the CPU"):
        ct.cuda.current_device()


@pytest.mark.parametrize("name", sorted(absent.INSTEAD))
def test_a_name_that_is_not_here_says_what_to_use_instead(name: str) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(ct, name)
    assert str(caught.value) == f"module 'cordee.trainer' has no attribute {name!r}: {absent.INSTEAD[name]}"
    assert name not in ct.__all__


def test_tab_completion_shows_what_is_meant_to_be_seen() -> None:
    shown = dir(ct)
    assert {"nn", "optim", "data", "cuda", "Tensor", "zeros", "vmap", "save"} <= set(shown)
    assert not {"importlib", "TYPE_CHECKING", "annotations", "Any", "np", "math"} & set(shown)
    for name in shown:
        assert getattr(ct, name) is not None or name == "newaxis", name


def test_constants_and_kinds() -> None:
    assert (ct.inf, ct.pi, ct.e) == (np.inf, np.pi, np.e)
    assert np.isnan(ct.nan)
    x = ct.zeros(2, 3)
    assert isinstance(x.shape, ct.Size)
    assert isinstance(x.dtype, ct.dtype)
    assert x[:, ct.newaxis].shape == (2, 1, 3)
    assert ct.__version__[0].isdigit()


def test_pytorchs_older_methods() -> None:
    x = ct.arange(6.0).view(2, 3)
    assert (x.nelement(), x.ndimension(), x.element_size(), x.stride(), x.t().stride(0)) == (6, 2, 4, (3, 1), 1)
    assert x.type() == "float32"
    assert x.type(ct.int64).dtype == ct.int64
    assert x.to("cpu" if not x.is_cuda else "cuda", ct.float64, non_blocking=True).dtype == ct.float64


def test_the_state_of_random_numbers_can_be_kept() -> None:
    state = ct.get_rng_state()
    first = ct.randn(3)
    ct.set_rng_state(state)
    assert (ct.randn(3) == first).all()


def test_gradients_of_a_batch_of_outputs_gradients_are_stacked() -> None:
    x = ct.tensor([1.0, 2.0, 3.0], requires_grad=True)
    (jacobian,) = ct.autograd.grad(x**2, x, ct.eye(3), is_grads_batched=True)
    assert jacobian is not None
    assert jacobian.tolist() == [[2, 0, 0], [0, 4, 0], [0, 0, 6]]
    y = x**2
    (first,) = ct.autograd.grad(y, x, ct.eye(3), create_graph=True, is_grads_batched=True)
    assert first is not None
    assert first.requires_grad
    with pytest.raises(ValueError, match="is_grads_batched=True needs grad_outputs"):
        ct.autograd.grad(y.sum(), x, is_grads_batched=True)


def test_unused_inputs_can_get_zeros() -> None:
    x, unused = ct.ones(3, requires_grad=True), ct.ones(2, requires_grad=True)
    used, zeros = ct.autograd.grad((x * 2).sum(), (x, unused), materialize_grads=True, only_inputs=True)
    assert used is not None
    assert zeros is not None
    assert (used.tolist(), zeros.tolist()) == ([2, 2, 2], [0, 0])
    with pytest.raises(ValueError, match="materialize_grads=True is for unused inputs"):
        ct.autograd.grad((x * 2).sum(), (x, unused), materialize_grads=True, allow_unused=False)


def test_a_tensor_written_into_data_is_named_where_it_is_met() -> None:
    p = nn.Parameter(ct.ones(2, 3))
    p.data = ct.zeros(2, 3)
    for use in (lambda: p * 2, lambda: ct.relu(p), p.sum, lambda: p @ ct.ones(3, 2)):
        with pytest.raises(TypeError, match=r"\.data was set to a tensor, and it is an array: write p\.data = other"):
            use()


MISTAKES: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "sizes": (lambda: cast("Any", ct.Tensor)(2, 3), TypeError, r"memory of some sizes is ct\.empty\(2, 3\)"),
    "three sizes": (lambda: cast("Any", ct.Tensor)(2, 3, 4), TypeError, r"memory of some sizes is ct\.empty\(2, 3\)"),
    "cat of two": (lambda: ct.cat(ct.zeros(2), ct.zeros(2)), TypeError, r"in a sequence: cat\(\[a, b\]\)"),
    "a model, not its parameters": (lambda: optim.Adam(nn.Linear(2, 3)), TypeError, r"model\.parameters\(\)"),
    "floating class numbers": (
        lambda: nn.CrossEntropyLoss()(ct.zeros(4, 5), ct.zeros(4)),
        TypeError,
        r"class numbers are integers, target\.long\(\)",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_told_in_a_sentence(case: str) -> None:
    mistake, kind, sentence = MISTAKES[case]
    with pytest.raises(kind, match=sentence):
        mistake()


def test_data_and_schedules_say_what_they_are() -> None:
    dataset = data.TensorDataset(np.zeros((5, 2), dtype=np.float32), np.arange(5))
    assert repr(dataset) == "TensorDataset(5 samples: float32[2], int64[])"
    assert repr(data.Subset(dataset, [0, 1])) == "Subset(2 of the 5 samples of TensorDataset)"
    schedule = optim.lr_scheduler.StepLR(optim.SGD(nn.Linear(2, 3).parameters(), lr=0.1), 3)
    assert repr(schedule) == "StepLR(of SGD, step 0, lr 0.1)"
