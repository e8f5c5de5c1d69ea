"""Optimisers go where PyTorch's go, over 100 steps, gradients missing now and then included."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cordee.trainer import optim
from cordee.trainer.array import to_numpy
from cordee.trainer.nn import Parameter
from cordee.trainer.tensors import Tensor

_GOLDEN = Path(__file__).parents[2] / "golden"
_SPEC = importlib.util.spec_from_file_location("make_golden_optim", _GOLDEN / "make_golden_optim.py")
assert _SPEC is not None
assert _SPEC.loader is not None
golden = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(golden)


def run(optimizer: optim.Optimizer, parameters: dict[str, Parameter], steps: range) -> None:
    for step in steps:
        for name, parameter in parameters.items():
            value = golden.gradient(name, to_numpy(parameter.data), step)
            parameter.grad = None if value is None else Tensor(value.astype(parameter.dtype))
        optimizer.step()


@pytest.mark.parametrize("case", golden.CASES)
def test_the_trajectory_is_pytorchs(case: str) -> None:
    class_name, options = golden.CASES[case]
    parameters = {name: Parameter(value) for name, value in golden.start(class_name).items()}
    optimizer = getattr(optim, class_name)(parameters.items(), **options)
    done = 0
    with np.load(_GOLDEN / "optim.npz", allow_pickle=False) as expected:
        for step in golden.SNAPSHOTS:
            run(optimizer, parameters, range(done + 1, step + 1))
            done = step
            for name, parameter in parameters.items():
                # Muon's polynomial magnifies the last digit's rounding from step to step.
                rtol = 1e-6 if class_name == "Muon" else 1e-10
                np.testing.assert_allclose(
                    to_numpy(parameter.data), expected[f"{case}/{step}/{name}"], rtol=rtol, atol=1e-11
                )


@pytest.mark.torch
@pytest.mark.parametrize("case", golden.CASES)
def test_the_state_is_pytorchs(case: str) -> None:
    torch = pytest.importorskip("torch")
    class_name, options = golden.CASES[case]
    ours = {name: Parameter(value.astype(np.float32)) for name, value in golden.start(class_name).items()}
    theirs = {name: torch.nn.Parameter(torch.tensor(parameter.data.copy())) for name, parameter in ours.items()}
    optimizer = getattr(optim, class_name)(ours.items(), **options)
    torch_optimizer = getattr(torch.optim, class_name)(theirs.values(), **options)
    for step in range(1, 21):
        for name, parameter in ours.items():
            value = golden.gradient(name, to_numpy(parameter.data), step)
            value = None if value is None else value.astype(np.float32)
            parameter.grad = None if value is None else Tensor(value)
            theirs[name].grad = None if value is None else torch.tensor(value)
        optimizer.step()
        torch_optimizer.step()
    torch_state = torch_optimizer.state_dict()["state"]
    # PyTorch's Muon computes its direction in bfloat16: two digits per step.
    close = {"rtol": 2e-2, "atol": 2e-2} if class_name == "Muon" else {"rtol": 2e-5, "atol": 2e-6}
    for index, (name, state) in enumerate(optimizer.state_dict()["state"].items()):
        np.testing.assert_allclose(to_numpy(ours[name].data), theirs[name].detach().numpy(), **close)
        their_state = {key: value for key, value in torch_state.get(index, {}).items() if value is not None}
        assert state.keys() - {"step"} == their_state.keys() - {"step"}
        for key, value in state.items():
            if key == "step":
                assert value == their_state.get("step", value)
            else:
                array = value.data if isinstance(value, Tensor) else value
                np.testing.assert_allclose(array, their_state[key].numpy(), **close)


@pytest.mark.parametrize("case", golden.LBFGS_CASES)
def test_lbfgs_goes_where_pytorchs_goes(case: str) -> None:
    options = golden.LBFGS_CASES[case]
    parameters = {name: Parameter(value) for name, value in golden.start().items()}
    optimizer = optim.LBFGS(parameters.items(), **options)
    sign = -1.0 if options.get("maximize") else 1.0

    def closure() -> float:
        loss, gradients = golden.valley({name: to_numpy(p.data) for name, p in parameters.items()}, sign)
        for name, parameter in parameters.items():
            parameter.grad = Tensor(gradients[name])
        return loss

    with np.load(_GOLDEN / "optim.npz", allow_pickle=False) as expected:
        for step in range(1, golden.LBFGS_STEPS + 1):
            loss = optimizer.step(closure)
            np.testing.assert_allclose(loss, expected[f"{case}/{step}/loss"], rtol=1e-8, atol=1e-12)
            for name, parameter in parameters.items():
                np.testing.assert_allclose(
                    to_numpy(parameter.data), expected[f"{case}/{step}/{name}"], rtol=1e-7, atol=1e-9
                )


def test_a_large_buffer_is_updated_like_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    # The same gradients through blocks of 7 elements: every element's update is its own, so the bits agree.
    results: list[Any] = []
    for block in (7, 1 << 20):
        monkeypatch.setattr("cordee.trainer.optim.cutting._BLOCK_ELEMENTS", block)
        parameters = {name: Parameter(value.astype(np.float32)) for name, value in golden.start().items()}
        optimizer = optim.AdamW(parameters.items(), lr=0.1)
        run(optimizer, parameters, range(1, 8))
        results.append([to_numpy(parameter.data).copy() for parameter in parameters.values()])
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))
