"""Laws of every optimiser: restored in mid-way it goes on with the same bits; blocks, dtypes, closures, states."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cordee.trainer import nn, optim
from cordee.trainer.array import array_module, bfloat16, to_numpy
from cordee.trainer.elastic.state import TrainingState
from cordee.trainer.nn import Parameter
from cordee.trainer.tensors import Tensor

_SPEC = importlib.util.spec_from_file_location(
    "make_golden_optim", Path(__file__).parents[2] / "golden" / "make_golden_optim.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
golden = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(golden)

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **golden.CASES,
    "lion": ("Lion", {"lr": 0.02}),
    "lion-all": ("Lion", {"lr": 0.02, "betas": (0.8, 0.9), "weight_decay": 0.2, "maximize": True}),
    "lamb": ("LAMB", {"lr": 0.02}),
    "lamb-all": ("LAMB", {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-4, "weight_decay": 0.2, "maximize": True}),
}


def make(case: str, dtype: Any = np.float32) -> tuple[optim.Optimizer, dict[str, Parameter]]:
    class_name, options = CASES[case]
    parameters = {name: Parameter(value.astype(dtype)) for name, value in golden.start(class_name).items()}
    return getattr(optim, class_name)(parameters.items(), **options), parameters


def run(optimizer: optim.Optimizer, parameters: dict[str, Parameter], steps: range) -> None:
    for step in steps:
        for name, parameter in parameters.items():
            value = golden.gradient(name, to_numpy(parameter.data).real.astype(np.float64), step)
            parameter.grad = None if value is None else Tensor(value.astype(parameter.dtype))
        optimizer.step()


def values(parameters: dict[str, Parameter]) -> list[Any]:
    return [to_numpy(parameter.data).copy() for parameter in parameters.values()]


def same(first: list[Any], second: list[Any]) -> bool:
    return all(np.array_equal(to_numpy(a), to_numpy(b)) for a, b in zip(first, second, strict=True))


@settings(max_examples=120, deadline=None)
@given(
    case=st.sampled_from(sorted(CASES)),
    before=st.integers(0, 12),
    way=st.sampled_from(["state_dict", "scalars", "deepcopy"]),
    lr_factor=st.sampled_from([1.0, 0.3]),
)
def test_a_restored_optimiser_goes_on_with_the_same_bits(case: str, before: int, way: str, lr_factor: float) -> None:
    optimizer, parameters = make(case)
    run(optimizer, parameters, range(1, before + 1))
    optimizer.param_groups[0]["lr"] *= lr_factor
    if way == "deepcopy":
        restored, others = copy.deepcopy((optimizer, parameters))
    else:
        restored, others = make(case)
        for ours, theirs in zip(others.values(), parameters.values(), strict=True):
            ours.data[...] = theirs.data
    if way == "state_dict":
        restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    elif way == "scalars":
        scalars = json.loads(json.dumps(optimizer.scalars(), allow_nan=False))
        restored.make_room(scalars)
        for ours, theirs in zip(restored.groups, optimizer.groups, strict=True):
            for index in range(len(ours.parameters)):
                given_arrays = theirs.arrays(index)
                assert ours.arrays(index).keys() == given_arrays.keys()
                for key, array in ours.arrays(index).items():
                    array[...] = given_arrays[key]
        restored.load_scalars(scalars)
    for each, tensors in ((optimizer, parameters), (restored, others)):
        run(each, tensors, range(before + 1, before + 9))
    assert same(values(parameters), values(others))
    assert optimizer.scalars() == restored.scalars()


@pytest.mark.parametrize("case", CASES)
def test_parameters_without_gradient_keep_value_and_state(case: str) -> None:
    optimizer, parameters = make(case)
    run(optimizer, parameters, range(1, 3))
    before, state = parameters["bias"].data.copy(), copy.deepcopy(optimizer.state_dict()["state"]["bias"])
    run(optimizer, parameters, range(3, 4))  # the bias has no gradient at the third step
    assert np.array_equal(to_numpy(parameters["bias"].data), to_numpy(before))
    after = optimizer.state_dict()["state"]["bias"]
    for key, value in state.items():
        ours = [to_numpy(each.data) if isinstance(each, Tensor) else each for each in (value, after[key])]
        assert np.array_equal(*ours)


@pytest.mark.parametrize("case", CASES)
def test_gaps_between_parameters_stay_zero(case: str) -> None:
    optimizer, parameters = make(case)
    run(optimizer, parameters, range(1, 9))
    (group,) = optimizer.groups
    inside = np.zeros(group.size, bool)
    for where in group.slices:
        inside[where] = True
    assert not group.data[~inside].any()
    assert not group.grad[~inside].any()


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith(("muon", "lamb", "adafactor"))])
def test_blocks_give_the_same_bits(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for block in (7, 1 << 20):
        monkeypatch.setattr("cordee.trainer.optim.cutting._BLOCK_ELEMENTS", block)
        optimizer, parameters = make(case)
        run(optimizer, parameters, range(1, 8))
        results.append(values(parameters))
    assert same(*results)


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), bfloat16], ids=str)
@pytest.mark.parametrize("case", ["sgd-nesterov", "adamw-amsgrad", "nadam", "rprop", "lamb", "muon", "adafactor"])
def test_sixteen_bits_are_updated_in_thirty_two_and_rounded_once(case: str, dtype: Any) -> None:
    optimizer, parameters = make(case, dtype)
    single, singles = make(case, np.float32)
    for name, parameter in parameters.items():
        singles[name].data[...] = parameter.data
        gradient = golden.gradient(name, to_numpy(parameter.data).astype(np.float64), 1).astype(dtype)
        parameter.grad, singles[name].grad = Tensor(gradient), Tensor(gradient.astype(np.float32))
    if case == "adafactor":  # whose least mean square is the precision of the dtype
        for each in (optimizer, single):
            each.param_groups[0]["eps"] = (1e-4, 1e-3)
    optimizer.step()
    single.step()
    for name, parameter in parameters.items():
        assert parameter.dtype == dtype
        assert np.array_equal(to_numpy(parameter.data), to_numpy(singles[name].data).astype(dtype))
    for entry in optimizer.state_dict()["state"].values():
        assert all(value.dtype == dtype for value in entry.values() if isinstance(value, Tensor))


@pytest.mark.parametrize("case", ["sgd-momentum", "adam-decay", "rmsprop-centered", "adagrad-initial", "rprop"])
def test_complex_parameters_are_pairs_of_reals(case: str) -> None:
    class_name, options = CASES[case]
    pairs = np.cos(np.arange(8.0)).reshape(4, 2)
    complex_one, real_one = Parameter(pairs.copy().view(np.complex128)[:, 0]), Parameter(pairs.copy())
    for parameter in (complex_one, real_one):
        optimizer = getattr(optim, class_name)([parameter], **options)
        for step in range(5):
            slope = np.sin(np.arange(8.0) + step).reshape(4, 2)
            is_complex = parameter.dtype.kind == "c"
            parameter.grad = Tensor(slope.view(np.complex128)[:, 0] if is_complex else slope)
            optimizer.step()
    assert np.array_equal(to_numpy(complex_one.data).view(np.float64).reshape(4, 2), to_numpy(real_one.data))


# The two that PyTorch does not have, beside their papers' formulas.


@pytest.mark.parametrize("case", ["lion", "lion-all"])
def test_lion_is_the_papers(case: str) -> None:
    optimizer, parameters = make(case, np.float64)
    options = {"betas": (0.9, 0.99), "weight_decay": 0.0, "maximize": False, **CASES[case][1]}
    lr, (beta1, beta2), decay = options["lr"], options["betas"], options["weight_decay"]
    found = {name: (value, np.zeros_like(value)) for name, value in golden.start().items()}
    for step in range(1, 60):
        for name, (value, mean) in found.items():
            gradient = golden.gradient(name, value, step)
            if gradient is None:
                continue
            gradient = -gradient if options["maximize"] else gradient
            update = np.sign(beta1 * mean + (1 - beta1) * gradient)
            found[name] = (value - lr * (update + decay * value), beta2 * mean + (1 - beta2) * gradient)
    run(optimizer, parameters, range(1, 60))
    for name, (value, _) in found.items():
        np.testing.assert_allclose(to_numpy(parameters[name].data), value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", ["lamb", "lamb-all"])
def test_lamb_is_the_papers(case: str) -> None:
    optimizer, parameters = make(case, np.float64)
    options = {"betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01, "maximize": False, **CASES[case][1]}
    beta1, beta2 = options["betas"]
    found = {name: (value, np.zeros_like(value), np.zeros_like(value), 0) for name, value in golden.start().items()}
    for step in range(1, 60):
        for name, (value, m, v, count) in found.items():
            gradient = golden.gradient(name, value, step)
            if gradient is None:
                continue
            gradient = -gradient if options["maximize"] else gradient
            mean, square = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
            unbiased, unbiased_square = mean / (1 - beta1 ** (count + 1)), square / (1 - beta2 ** (count + 1))
            direction = unbiased / (np.sqrt(unbiased_square) + options["eps"]) + options["weight_decay"] * value
            trust = np.linalg.norm(value) / np.linalg.norm(direction)
            found[name] = (value - options["lr"] * trust * direction, mean, square, count + 1)
    run(optimizer, parameters, range(1, 60))
    for name, (value, *_) in found.items():
        np.testing.assert_allclose(to_numpy(parameters[name].data), value, rtol=1e-10, atol=1e-12)


def test_lamb_moves_a_parameter_of_zeros() -> None:
    parameter = Parameter(np.zeros(3))
    optimizer = optim.LAMB([parameter], lr=0.5, weight_decay=0.0)
    parameter.grad = Tensor(np.ones(3))
    optimizer.step()
    np.testing.assert_allclose(to_numpy(parameter.data), -0.5, rtol=1e-5)
    parameter.grad = Tensor(np.zeros(3))
    optim.LAMB([parameter], weight_decay=0.0).step()  # no direction: nothing to divide by
    np.testing.assert_allclose(to_numpy(parameter.data), -0.5, rtol=1e-5)


# Closures, hooks, options.


def test_a_closure_is_called_once_and_its_loss_returned() -> None:
    parameter = Parameter(np.array([2.0]))
    optimizer = optim.SGD([parameter], lr=0.25)
    calls = []

    def closure() -> Tensor:
        calls.append(1)
        optimizer.zero_grad()
        loss = (parameter * parameter).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert parameter.data.tolist() == [1.0]
    assert len(calls) == 1
    assert optimizer.step() is None


def test_lbfgs_finds_the_minimum_of_a_model() -> None:
    rng = np.random.default_rng(0)
    x, weight = Tensor(rng.standard_normal((20, 3))), rng.standard_normal((3, 1))
    model = nn.Linear(3, 1).double()
    target = Tensor(to_numpy(x.data) @ weight + 0.5)
    optimizer = optim.LBFGS(model.parameters(), tolerance_change=1e-15, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), target)
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    np.testing.assert_allclose(to_numpy(model.weight.data), weight.T, atol=1e-5)
    np.testing.assert_allclose(to_numpy(model.bias.data), [0.5], atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    case=st.sampled_from(sorted(golden.LBFGS_CASES)),
    before=st.integers(0, 5),
    way=st.sampled_from(["state_dict", "deepcopy", "elastic"]),
)
def test_a_restored_lbfgs_goes_on_with_the_same_bits(case: str, before: int, way: str) -> None:
    options = golden.LBFGS_CASES[case]

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, value in golden.start().items():
                setattr(self, name, Parameter(value))

    def step(model: nn.Module, optimizer: optim.Optimizer, count: int) -> None:
        def closure() -> float:
            sign = -1.0 if options.get("maximize") else 1.0
            loss, gradients = golden.valley({name: to_numpy(p.data) for name, p in model.named_parameters()}, sign)
            for name, parameter in model.named_parameters():
                parameter.grad = Tensor(gradients[name])
            return float(loss)

        for _ in range(count):
            optimizer.step(closure)

    model = Model()
    optimizer = optim.LBFGS(model.parameters(), **options)
    step(model, optimizer, before)
    if way == "deepcopy":
        other, restored = copy.deepcopy((model, optimizer))
    else:
        other = Model()
        restored = optim.LBFGS(other.parameters(), **options)
    if way == "state_dict":
        other.load_state_dict(model.state_dict())
        restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    elif way == "elastic":
        states = [TrainingState(m, o, None) for m, o in ((model, optimizer), (other, restored))]  # type: ignore[arg-type]
        scalars = json.loads(json.dumps(states[0].scalars(), allow_nan=False))
        states[1].restore(states[0].host_copies(), scalars)
    step(model, optimizer, 3)
    step(other, restored, 3)
    assert same([p.data for p in model.parameters()], [p.data for p in other.parameters()])


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), bfloat16], ids=str)
def test_lbfgs_goes_down_in_sixteen_bits(dtype: Any) -> None:
    parameter = Parameter(np.array([3.0, -2.0, 5.0]).astype(dtype))
    optimizer = optim.LBFGS([parameter], lr=0.5, max_iter=5)

    def closure() -> float:
        wide = parameter.data.astype(np.float64)
        parameter.grad = Tensor((2 * wide).astype(dtype))
        return float((wide * wide).sum())

    losses = [optimizer.step(closure) for _ in range(4)]
    assert losses[-1] < 1e-3 * losses[0]
    assert parameter.dtype == dtype


def test_hooks_are_called_around_a_step_until_they_are_removed() -> None:
    optimizer, parameters = make("sgd")
    seen: list[str] = []
    handles = [
        optimizer.register_step_pre_hook(lambda *_: seen.append("before")),
        optimizer.register_step_post_hook(lambda *_: seen.append("after")),
    ]
    run(optimizer, parameters, range(1, 2))
    assert seen == ["before", "after"]
    for handle in handles:
        handle.remove()
    run(optimizer, parameters, range(2, 3))
    assert len(seen) == 2


def test_options_that_are_numpys_or_tensors_are_python_numbers() -> None:
    parameter = Parameter(np.ones(2, np.float32))
    optimizer = optim.SGD([parameter], lr=Tensor(np.float64(0.5)))  # type: ignore[arg-type]
    assert type(optimizer.param_groups[0]["lr"]) is float
    optimizer.param_groups[0]["lr"] = np.float64(0.25)
    optimizer.param_groups[0]["momentum"] = np.float32(0.0)
    parameter.grad = Tensor(np.ones(2, np.float32))
    optimizer.step()
    assert all(type(optimizer.param_groups[0][key]) is float for key in ("lr", "momentum"))
    json.dumps(optimizer.scalars())
    assert parameter.data.tolist() == [0.75, 0.75]


# States.


def test_the_state_by_parameter_is_live() -> None:
    optimizer, parameters = make("nadam")
    run(optimizer, parameters, range(1, 4))
    entry = optimizer.state[parameters["weight"]]
    assert entry["step"] == 3
    assert 0 < entry["mu_product"] < 1
    assert array_module(entry["exp_avg"].data).shares_memory(
        entry["exp_avg"].data, optimizer.groups[0].state["exp_avg"]
    )


def test_a_state_can_be_taken_in_part() -> None:
    optimizer, parameters = make("adamw")
    run(optimizer, parameters, range(1, 4))
    state = copy.deepcopy(optimizer.state_dict())
    state["state"]["stranger"] = state["state"].pop("bias")
    del state["state"]["weight"]["exp_avg_sq"]
    other, _ = make("adamw")
    with pytest.raises(ValueError, match=r"missing: bias\n  unexpected: stranger\n  missing: weight\.exp_avg_sq"):
        other.load_state_dict(state)
    report = other.load_state_dict(state, strict=False)
    assert report.missing_keys == ["bias", "weight.exp_avg_sq"]
    assert report.unexpected_keys == ["stranger"]
    entry = other.state_dict()["state"]["weight"]
    assert np.array_equal(to_numpy(entry["exp_avg"].data), to_numpy(state["state"]["weight"]["exp_avg"].data))
    assert entry["step"] == 3
    state["state"]["weight"]["exp_avg"] = Tensor(np.ones((4, 3), np.float32))
    with pytest.raises(ValueError, match=r"weight\.exp_avg: shape \(4, 3\) instead of \(3, 4\)"):
        other.load_state_dict(state, strict=False)


@pytest.mark.torch
@pytest.mark.parametrize("case", golden.CASES)
def test_pytorchs_state_is_gone_on_from(case: str) -> None:
    torch = pytest.importorskip("torch")
    torch.set_default_dtype(torch.float64)
    try:
        class_name, options = CASES[case]
        theirs = {name: torch.nn.Parameter(torch.tensor(v)) for name, v in golden.start(class_name).items()}
        torch_optimizer = getattr(torch.optim, class_name)(theirs.values(), **options)

        def their_steps(steps: range) -> None:
            for step in steps:
                for name, parameter in theirs.items():
                    value = golden.gradient(name, parameter.detach().numpy(), step)
                    parameter.grad = None if value is None else torch.tensor(value)
                torch_optimizer.step()

        their_steps(range(1, 12))
        optimizer, parameters = make(case, np.float64)
        for name, parameter in parameters.items():
            parameter.data[...] = theirs[name].detach().numpy()
        optimizer.load_state_dict(optim.from_torch_state(torch_optimizer.state_dict(), parameters))
        their_steps(range(12, 16))
        run(optimizer, parameters, range(12, 16))
        close = {"rtol": 2e-2, "atol": 2e-2} if class_name == "Muon" else {"rtol": 1e-10}
        for name, parameter in parameters.items():
            np.testing.assert_allclose(to_numpy(parameter.data), theirs[name].detach().numpy(), **close)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_state_of_pytorchs_needs_names() -> None:
    state: dict[str, Any] = {"state": {}, "param_groups": [{"lr": 0.5, "params": [0, 1], "foreach": None}]}
    with pytest.raises(ValueError, match="the state holds no names; give them"):
        optim.from_torch_state(state)
    with pytest.raises(ValueError, match="1 names for 2 parameters"):
        optim.from_torch_state(state, ["a"])
    state["param_groups"][0]["param_names"] = ["a", "b"]
    assert optim.from_torch_state(state)["param_groups"] == [{"lr": 0.5, "params": ["a", "b"]}]
    state["param_groups"][0]["line_search_fn"] = None
    with pytest.raises(ValueError, match="LBFGS's history"):
        optim.from_torch_state(state)


parameter = Parameter(np.ones(2))


@pytest.mark.parametrize(
    ("make_one", "error", "message"),
    [
        (lambda: optim.Adam([parameter], differentiable=True), ValueError, "differentiable=True is not supported"),
        (lambda: optim.Adadelta([parameter], rho=1.5), ValueError, "rho must be at most 1"),
        (lambda: optim.Adadelta([parameter], eps=-1.0), ValueError, "eps must be at least 0"),
        (lambda: optim.Adafactor([parameter], beta2_decay=0.5), ValueError, "beta2_decay must be at most 0"),
        (lambda: optim.Adafactor([parameter], d=0.5), ValueError, "d must be at least 1"),
        (lambda: optim.Adafactor([parameter], eps=(None, -1.0)), ValueError, "eps must be two numbers"),
        (lambda: optim.Adagrad([parameter], lr_decay=-1.0), ValueError, "lr_decay must be at least 0"),
        (lambda: optim.Adamax([parameter], betas=(1.0, 0.9)), ValueError, "betas must be two numbers"),
        (lambda: optim.ASGD([parameter], lambd=-1.0), ValueError, "lambd must be at least 0"),
        (lambda: optim.Lion([parameter], betas=(0.9, 2.0)), ValueError, "betas must be two numbers"),
        (lambda: optim.LAMB([parameter], eps=-1.0), ValueError, "eps must be at least 0"),
        (lambda: optim.LAMB([Parameter(np.ones(2, complex))]), ValueError, "LAMB trains real parameters"),
        (lambda: optim.NAdam([parameter], momentum_decay=-1.0), ValueError, "momentum_decay must be at least 0"),
        (lambda: optim.RAdam([parameter], weight_decay=-1.0), ValueError, "weight_decay must be at least 0"),
        (lambda: optim.RMSprop([parameter], alpha=-1.0), ValueError, "alpha must be at least 0"),
        (lambda: optim.Rprop([parameter], etas=(1.5, 2.0)), ValueError, "etas must be a number from 0 to 1"),
        (lambda: optim.Muon([parameter]), ValueError, r"Muon trains matrices; parameter '0' has shape \(2,\)"),
        (
            lambda: optim.Muon([Parameter(np.ones((2, 2)))], adjust_lr_fn="x"),
            ValueError,
            "adjust_lr_fn must be one of None, 'original'",
        ),
        (lambda: optim.Muon([Parameter(np.ones((2, 2)))], ns_steps=100), ValueError, "ns_steps must be from 0 to 99"),
        (lambda: optim.LBFGS([parameter]).step(), TypeError, "LBFGS.step needs a closure"),
        (lambda: optim.LBFGS([parameter], line_search_fn="x"), ValueError, "line_search_fn must be None or"),
        (lambda: optim.LBFGS([{"params": [parameter]}, {"params": [parameter]}]), ValueError, "as one group"),
    ],
)
def test_a_mistake_is_a_sentence(make_one: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_one()
