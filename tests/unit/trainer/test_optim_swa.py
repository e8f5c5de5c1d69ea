"""Averages of weights: PyTorch's values, on whole buffers where parameters fill them, with the same bits."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from cordee.trainer import nn, optim
from cordee.trainer.array import array_module, as_array, to_numpy
from cordee.trainer.nn import Module, Parameter
from cordee.trainer.optim import swa_utils
from cordee.trainer.optim.swa_utils import AveragedModel
from cordee.trainer.tensors import Tensor


class Model(Module):
    def __init__(self, dtype: Any = np.float32) -> None:
        super().__init__()
        rng = np.random.default_rng(5)
        for index, shape in enumerate([(3, 4), (4,), (), (2, 0)]):
            setattr(self, f"p{index}", Parameter(np.asarray(rng.standard_normal(shape), dtype)))
        self.register_buffer("seen", Tensor(np.zeros(3, np.float32)))

    def forward(self, x: Any) -> Any:
        return x * 2


def change(model: Model, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():
        parameter.data[...] = as_array(rng.standard_normal(parameter.shape).astype(parameter.dtype))
    model.seen.data[...] = seed


WAYS: dict[str, dict[str, Any]] = {
    "swa": {},
    "swa-multi": {"multi_avg_fn": swa_utils.get_swa_multi_avg_fn()},
    "swa-each": {"avg_fn": swa_utils.get_swa_avg_fn()},
    "ema": {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.9)},
    "ema-each": {"avg_fn": swa_utils.get_ema_avg_fn(0.9)},
}


def by_hand(way: str, values: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    if way.startswith("swa"):
        return np.mean(values, axis=0)
    average = values[0]
    for value in values[1:]:
        average = 0.9 * average + 0.1 * value
    return average


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_the_average_is_what_it_is_by_hand(way: str, flat: bool, use_buffers: bool) -> None:
    model = Model(np.float64)
    optimizer = optim.SGD(model.parameters()) if flat else None
    average = AveragedModel(model, **WAYS[way], use_buffers=use_buffers)
    seen: dict[str, list[Any]] = {}
    for seed in range(1, 8):
        change(model, seed)
        average.update_parameters(model)
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            seen.setdefault(name, []).append(to_numpy(tensor.data).copy())
    assert int(average.n_averaged.data) == 7
    for name, parameter in average.module.named_parameters():
        np.testing.assert_allclose(to_numpy(parameter.data), by_hand(way, seen[name]), rtol=1e-12)
    expected = by_hand(way, seen["seen"]) if use_buffers else seen["seen"][-1]
    np.testing.assert_allclose(to_numpy(average.module.seen.data), expected, rtol=1e-6)
    assert optimizer is None or array_module(model.p0.data).shares_memory(model.p0.data, optimizer.groups[0].data)


@pytest.mark.torch
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_the_average_is_pytorchs(way: str, flat: bool) -> None:
    torch = pytest.importorskip("torch")
    from torch.optim import swa_utils as theirs

    functions = {
        "swa": {},
        "swa-multi": {"multi_avg_fn": theirs.get_swa_multi_avg_fn()},
        "swa-each": {"avg_fn": theirs.get_swa_avg_fn()},
        "ema": {"multi_avg_fn": theirs.get_ema_multi_avg_fn(0.9)},
        "ema-each": {"avg_fn": theirs.get_ema_avg_fn(0.9)},
    }
    ours, their_model = nn.Linear(4, 3), torch.nn.Linear(4, 3)
    keep = optim.SGD(ours.parameters()) if flat else None
    average, their_average = AveragedModel(ours, **WAYS[way]), theirs.AveragedModel(their_model, **functions[way])
    for seed in range(6):
        rng = np.random.default_rng(seed)
        for parameter, their_parameter in zip(ours.parameters(), their_model.parameters(), strict=True):
            parameter.data[...] = rng.standard_normal(parameter.shape)
            their_parameter.data[...] = torch.tensor(parameter.data)
        average.update_parameters(ours)
        their_average.update_parameters(their_model)
    assert average.state_dict().keys() == their_average.state_dict().keys()
    for name, value in their_average.state_dict().items():
        np.testing.assert_allclose(average.state_dict()[name].data, value.numpy(), rtol=1e-5, atol=1e-6)
    assert keep is None or keep.groups


def test_whole_buffers_stand_for_the_parameters_in_them_with_the_same_bits() -> None:
    results = []
    for flat in (False, True):
        model = Model()
        optimizer = optim.SGD(model.parameters()) if flat else None
        average = AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.99))
        for seed in range(5):
            change(model, seed)
            average.update_parameters(model)
        assert average._plan is not None
        assert [len(average._plan.whole), len(average._plan.single)] == ([1, 0] if optimizer else [0, 4])
        results.append([to_numpy(parameter.data).copy() for parameter in average.module.parameters()])
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


def test_an_optimiser_that_is_made_later_or_takes_parameters_away_is_noticed() -> None:
    model = Model(np.float64)
    average = AveragedModel(model)
    seen = []
    optimizers = []
    for seed in range(4):
        optimizers.append(optim.SGD(model.parameters()) if seed % 2 else None)
        change(model, seed)
        average.update_parameters(model)
        seen.append(to_numpy(model.p0.data).copy())
    np.testing.assert_allclose(to_numpy(average.module.p0.data), np.mean(seen, axis=0), rtol=1e-12)


def test_a_function_of_ones_own_sees_parameters() -> None:
    shapes: list[list[Any]] = []

    def keep_the_largest(averaged: Any, current: Any, number: Any) -> None:
        shapes.append([each.shape for each in averaged])
        for ours, theirs in zip(averaged, current, strict=True):
            ours.data[...] = array_module(ours.data).maximum(ours.data, theirs.data)

    model = Model()
    optimizer = optim.SGD(model.parameters())
    average = AveragedModel(model, multi_avg_fn=keep_the_largest)
    for seed in range(3):
        change(model, seed)
        average.update_parameters(model)
    assert shapes == [[(3, 4), (4,), (), (2, 0)]] * 2
    assert optimizer.groups


@pytest.mark.parametrize("dtype", [np.float16, np.complex64])
def test_other_dtypes_are_averaged(dtype: Any) -> None:
    model = nn.Linear(3, 2)
    model.weight = Parameter(np.ones((2, 3), dtype))
    average = AveragedModel(model)
    for value in (1.0, 3.0, 5.0):
        model.weight.data[...] = value
        average.update_parameters(model)
    assert average.module.weight.dtype == dtype
    assert (average.module.weight.data == 3.0).all()


def test_the_average_computes_what_its_module_does_and_is_restored_by_its_state() -> None:
    model = nn.Linear(4, 2)
    average = AveragedModel(model)
    average.update_parameters(model)
    x = Tensor(np.ones((3, 4), np.float32))
    assert np.array_equal(to_numpy(average(x).data), to_numpy(model(x).data))
    other = AveragedModel(nn.Linear(4, 2))
    other.load_state_dict(average.state_dict())
    assert int(other.n_averaged.data) == 1
    assert np.array_equal(to_numpy(other(x).data), to_numpy(model(x).data))
    twin = copy.deepcopy(average)
    twin.module.weight.data[...] = 0
    assert np.array_equal(to_numpy(average(x).data), to_numpy(model(x).data))


def test_statistics_are_computed_anew() -> None:
    class BatchNormLike(Module):
        """As much of a batch normalisation as counts here."""

        def __init__(self) -> None:
            super().__init__()
            self.momentum: float | None = 0.1
            self.register_buffer("running_mean", Tensor(np.full(2, 9.0)))
            self.batches = 7

        def reset_running_stats(self) -> None:
            self.running_mean.data[...] = 0
            self.batches = 0

        def forward(self, x: Tensor) -> Tensor:
            assert self.training
            self.batches += 1
            share = 1 / self.batches if self.momentum is None else self.momentum
            self.running_mean.data[...] += share * (x.data.mean(0) - self.running_mean.data)
            return x

    model = nn.Sequential(BatchNormLike()).eval()
    batches = [np.full((3, 2), value, np.float64) for value in (1.0, 2.0, 6.0)]
    swa_utils.update_bn([(Tensor(batches[0]), 0), [Tensor(batches[1])], Tensor(batches[2])], model)
    assert model[0].running_mean.data.tolist() == [3.0, 3.0]
    assert model[0].momentum == 0.1
    assert not model.training
    swa_utils.update_bn([], nn.Linear(2, 2))  # nothing to do


def test_the_statistics_of_a_batch_normalisation_become_the_means_over_the_batches() -> None:
    rng = np.random.default_rng(3)
    norm = nn.BatchNorm1d(2)
    batches = [(rng.standard_normal((5, 2)) + shift).astype(np.float32) for shift in (1, 2, 6)]
    model = nn.Sequential(norm)
    model(Tensor(np.full((3, 2), 100.0, np.float32)))  # to be forgotten
    swa_utils.update_bn([Tensor(batch) for batch in batches], model)
    np.testing.assert_allclose(to_numpy(norm.running_mean.data), np.mean([b.mean(0) for b in batches], 0), rtol=1e-5)
    np.testing.assert_allclose(
        to_numpy(norm.running_var.data), np.mean([b.var(0, ddof=1) for b in batches], 0), rtol=1e-4
    )
    assert norm.momentum == 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: swa_utils.get_ema_avg_fn(1.5), "decay must be from 0 to 1, got 1.5"),
        (lambda: swa_utils.get_ema_multi_avg_fn(-0.1), "decay must be from 0 to 1"),
        (
            lambda: AveragedModel(nn.Linear(1, 1), avg_fn=WAYS["swa-each"]["avg_fn"], **WAYS["ema"]),
            "avg_fn or multi_avg_fn, not both",
        ),
    ],
)
def test_a_mistake_is_a_sentence(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
