"""Laws of flat storage: one buffer, views that stay, gradients that land in its twin, state keyed by names."""

from __future__ import annotations

import copy
import json
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordee.trainer import optim
from cordee.trainer.array import array_module, to_numpy
from cordee.trainer.autograd.writes import address
from cordee.trainer.nn import Module, Parameter
from cordee.trainer.optim import FlatGroup
from cordee.trainer.tensors import Tensor

SHAPES = [(3, 4), (4,), (), (17,), (2, 0)]


class Model(Module):
    def __init__(self, dtype: Any = np.float32) -> None:
        rng = np.random.default_rng(5)
        for index, shape in enumerate(SHAPES):
            setattr(self, f"p{index}", Parameter(np.asarray(rng.standard_normal(shape), dtype)))


def set_gradients(model: Module, seed: int = 1, only: set[str] | None = None) -> None:
    rng = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        value = np.asarray(rng.standard_normal(parameter.shape), parameter.dtype)
        parameter.grad = Tensor(value) if only is None or name in only else None


def values(model: Module) -> list[Any]:
    return [to_numpy(parameter.data).copy() for parameter in model.parameters()]


def same(first: list[Any], second: list[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_building_an_optimiser_keeps_the_values_and_makes_views() -> None:
    model = Model()
    before = values(model)
    optimizer = optim.AdamW(model.parameters())
    (group,) = optimizer.groups
    assert same(values(model), before)
    assert all(array_module(p.data).shares_memory(p.data, group.data) for p in model.parameters() if p.data.size)
    assert group.names == ("p0", "p1", "p2", "p3", "p4")
    assert {buffer.shape for buffer in (group.data, group.grad, *group.state.values())} == {(group.size,)}


@given(st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=6), st.sampled_from(["f4", "f8"]))
def test_parameters_are_aligned_and_apart(shapes: list[list[int]], dtype: str) -> None:
    parameters = [Parameter(np.full(shape, index + 1, dtype)) for index, shape in enumerate(shapes)]
    group = FlatGroup([str(index) for index in range(len(shapes))], parameters, {})
    assert group.data.sum() == sum(p.data.sum() for p in parameters)
    for buffer in (group.data, group.grad, group.new_twin()):
        assert buffer.flags.c_contiguous
        for index in range(len(shapes)):
            view = group.view(buffer, index)
            assert not view.size or address(view) % 64 == 0
    for index, parameter in enumerate(parameters):
        parameter.data[...] = -1
        assert (group.view(group.data, index) == -1).all()


def test_a_step_moves_nothing() -> None:
    model = Model()
    optimizer = optim.AdamW(model.parameters())
    (group,) = optimizer.groups
    held = [p.data for p in model.parameters()]
    set_gradients(model)
    optimizer.step()
    model.load_state_dict(Model().state_dict())
    optimizer.load_state_dict(optimizer.state_dict())
    assert all(p.data is view for p, view in zip(model.parameters(), held, strict=True))
    assert optimizer.groups[0] is group


def test_gradients_of_untouched_parameters_do_nothing_and_can_be_zero_filled() -> None:
    model = Model()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    (group,) = optimizer.groups
    set_gradients(model)
    optimizer.step()
    before = values(model)
    optimizer.zero_grad()
    set_gradients(model, seed=2, only={"p1", "p3"})
    assert group.touched().tolist() == [False, True, False, True, False]
    optimizer.step()
    after = values(model)
    changed = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert changed == [False, True, False, True, False]
    assert (group.view(group.grad, 0) != 0).all()
    group.fill_untouched()
    assert (group.view(group.grad, 0) == 0).all()
    assert (group.view(group.grad, 1) != 0).all()


def test_marking_gives_and_takes_gradients() -> None:
    model = Model()
    (group,) = optim.SGD(model.parameters()).groups
    group.grad[...] = 7
    group.mark_touched([True, False, True, False, False])
    assert group.touched().tolist() == [True, False, True, False, False]
    assert model.p0.grad is not None
    assert array_module(group.grad).shares_memory(model.p0.grad.data, group.grad)
    assert (model.p0.grad.data == 7).all()
    assert model.p1.grad is None


def test_gaps_stay_zero() -> None:
    model = Model()
    optimizer = optim.AdamW(model.parameters(), lr=0.1)
    (group,) = optimizer.groups
    inside = np.zeros(group.size, bool)
    for where in group.slices:
        inside[where] = True
    for seed in range(5):
        set_gradients(model, seed)
        optimizer.step()
    for buffer in (group.data, group.grad, *group.state.values()):
        assert not buffer[~inside].any()


def test_zero_grad_forgets_without_writing() -> None:
    model = Model()
    optimizer = optim.SGD(model.parameters())
    (group,) = optimizer.groups
    set_gradients(model)
    optimizer.step()
    written = group.grad.copy()
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    assert np.array_equal(to_numpy(group.grad), to_numpy(written))
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad is not None and not p.grad.data.any() for p in model.parameters())


def test_every_dtype_has_its_own_group_and_shares_its_options() -> None:
    single, double = Parameter(np.ones(3, np.float32)), Parameter(np.ones(3, np.float64))
    optimizer = optim.SGD([("a", single), ("b", double)], lr=1.0)
    assert [(group.dtype, group.names) for group in optimizer.groups] == [(np.float32, ("a",)), (np.float64, ("b",))]
    optimizer.param_groups[0]["lr"] = 0.25
    single.grad, double.grad = Tensor(np.ones(3, np.float32)), Tensor(np.ones(3))
    optimizer.step()
    assert single.data.tolist() == double.data.tolist() == [0.75] * 3
    assert double.dtype == np.float64


def test_groups_have_options_of_their_own() -> None:
    first, second = Parameter(np.ones(2)), Parameter(np.ones(2))
    optimizer = optim.SGD([{"params": [first], "lr": 0.5}, {"params": [("head", second)]}], lr=0.1)
    for parameter in (first, second):
        parameter.grad = Tensor(np.ones(2))
    optimizer.step()
    assert first.data.tolist() == [0.5, 0.5]
    assert second.data.tolist() == [0.9, 0.9]
    assert [group.names for group in optimizer.groups] == [("0",), ("head",)]


def test_equal_names_in_two_groups_are_told_apart() -> None:
    optimizer = optim.SGD([{"params": Model().parameters()}, {"params": Model().parameters()}])
    assert optimizer.groups[0].names[0] == "p0"
    assert optimizer.groups[1].names[0] == "group1.p0"


def test_two_optimisers_over_one_parameter_take_turns() -> None:
    shared, reference = Model(), Model()
    first, second = (optim.SGD(shared.parameters(), lr=lr, momentum=0.9) for lr in (0.1, 0.01))
    velocities: dict[int, list[Any]] = {}
    for turn, optimizer in enumerate((first, second, second, first, second, first)):
        set_gradients(shared, turn)
        optimizer.step()
        # By hand: each optimiser has its own velocity, the values are common.
        lr, key = (0.1, 1) if optimizer is first else (0.01, 2)
        set_gradients(reference, turn)
        gradients = [p.grad.data for p in reference.parameters() if p.grad is not None]
        old = velocities.get(key)
        velocities[key] = gradients if old is None else [0.9 * v + g for v, g in zip(old, gradients, strict=True)]
        for parameter, velocity in zip(reference.parameters(), velocities[key], strict=True):
            parameter.data = parameter.data - np.float32(lr) * velocity
    for ours, theirs in zip(values(shared), values(reference), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_copied_model_and_optimiser_train_apart_from_the_first() -> None:
    model = Model()
    optimizer = optim.AdamW(model.parameters())
    set_gradients(model)
    optimizer.step()
    other, other_optimizer = copy.deepcopy((model, optimizer))
    before = values(model)
    set_gradients(other, 2)
    other_optimizer.step()
    assert same(values(model), before)
    set_gradients(model, 2)
    optimizer.step()
    assert same(values(model), values(other))


def test_flat_storage_does_not_keep_the_storage_that_parameters_had() -> None:
    model = Model()
    before = weakref.ref(model.p0.data)
    optimizer = optim.SGD(model.parameters())
    assert before() is None
    assert optimizer.groups


def test_assigning_data_is_noticed() -> None:
    parameter = Parameter(np.ones(3))
    optimizer = optim.SGD([parameter], lr=1.0)
    parameter.data = np.full(3, 5.0)
    parameter.grad = Tensor(np.ones(3))
    optimizer.step()
    assert parameter.data.tolist() == [4.0] * 3
    parameter.data = np.ones(4)
    with pytest.raises(ValueError, match=r"parameter '0' was float64\[3\] .* is now float64\[4\]"):
        optimizer.step()


@pytest.mark.parametrize(("name", "options"), [("SGD", {"lr": 0.1, "momentum": 0.9}), ("AdamW", {"lr": 0.1})])
@pytest.mark.parametrize("as_scalars", [False, True])
def test_a_restored_optimiser_goes_on_with_the_same_bits(name: str, options: dict[str, Any], as_scalars: bool) -> None:
    model, other = Model(), Model()
    optimizer = getattr(optim, name)(model.parameters(), **options)
    restored = getattr(optim, name)(other.parameters(), lr=0.9)
    for seed in range(3):
        set_gradients(model, seed, only={"p0", "p1", "p3"} if seed == 1 else None)
        optimizer.step()
    other.load_state_dict(model.state_dict())
    if as_scalars:
        restored.load_scalars(json.loads(json.dumps(optimizer.scalars())))
        restored.step()  # nothing has a gradient: makes the buffers that the options need
        for key, buffer in optimizer.groups[0].state.items():
            restored.groups[0].state[key][...] = buffer
    else:
        restored.load_state_dict(optimizer.state_dict())
    for seed in range(3, 6):
        for each in (model, other):
            set_gradients(each, seed)
        optimizer.step()
        restored.step()
    assert same(values(model), values(other))
    assert restored.param_groups[0]["lr"] == 0.1


def test_a_state_that_does_not_fit_is_reported_whole_and_changes_nothing() -> None:
    model = Model()
    optimizer = optim.AdamW(model.parameters())
    set_gradients(model)
    optimizer.step()
    state = optimizer.state_dict()
    before = {key: buffer.copy() for key, buffer in optimizer.groups[0].state.items()}
    entries = dict(state["state"])
    entries["stranger"] = entries.pop("p1")
    entries["p0"] = {**entries["p0"], "exp_avg": Tensor(np.ones((4, 3), np.float32))}
    entries["p3"] = {"step": 1, "exp_avg": entries["p3"]["exp_avg"]}
    with pytest.raises(ValueError) as caught:
        optimizer.load_state_dict({"state": entries, "param_groups": []})
    assert str(caught.value).splitlines() == [
        "the state does not fit this AdamW:",
        "  missing: p1",
        "  unexpected: stranger",
        "  0 parameter groups instead of 1",
        "  p0.exp_avg: shape (4, 3) instead of (3, 4)",
        "  missing: p3.exp_avg_sq",
    ]
    assert all(
        np.array_equal(to_numpy(buffer), to_numpy(before[key])) for key, buffer in optimizer.groups[0].state.items()
    )


parameter = Parameter(np.ones(2))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: optim.SGD([]), ValueError, "params is empty"),
        (lambda: optim.SGD(parameter), TypeError, "params must be an iterable of parameters"),
        (lambda: optim.SGD([np.ones(2)]), TypeError, "an optimiser takes parameters, got ndarray as '0'"),
        (lambda: optim.SGD([parameter, parameter]), ValueError, "parameter '1' is given twice"),
        (lambda: optim.SGD([{"params": [parameter], "rl": 1}]), ValueError, "SGD has no option rl; it has lr, mom"),
        (lambda: optim.SGD([{"lr": 1}]), TypeError, 'a dictionary with "params"'),
        (lambda: optim.SGD([parameter], lr=-1.0), ValueError, "lr must be at least 0, got -1"),
        (lambda: optim.SGD([parameter], lr=float("nan")), ValueError, "lr must be at least 0, got nan"),
        (lambda: optim.SGD([parameter], nesterov=True), ValueError, "nesterov needs a momentum"),
        (lambda: optim.Adam([parameter], betas=(0.9, 1.0)), ValueError, "betas must be two numbers from 0 to below 1"),
        (lambda: optim.AdamW([parameter], eps=-1e-8), ValueError, "eps must be at least 0"),
        (lambda: optim.SGD([Tensor(np.arange(3))]), ValueError, "parameter '0' is int64: only floating point"),
        (lambda: optim.SGD([("a", parameter), ("a", Parameter(np.ones(1)))]), ValueError, "have the same name"),
    ],
)
def test_a_mistake_is_a_sentence(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
