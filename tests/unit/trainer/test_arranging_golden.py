"""Arranging, indexing, scattering and products beside PyTorch: golden values, and live where it is installed."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer.array import as_array, to_numpy
from cordee.trainer.autograd import grad

GOLDEN = Path(__file__).parents[2] / "golden"
TABLE = runpy.run_path(str(GOLDEN / "calls_arranging.py"))
CALLS: dict[str, Any] = TABLE["CALLS"]


def _run(name: str, dtype: Any = np.float64) -> tuple[Any, list[Any]]:
    floats, constants = TABLE["inputs_of"](name)
    inputs = [ct.Tensor(as_array(array.astype(dtype)), requires_grad=True) for array in floats]
    out = CALLS[name].call(ct, ct, *inputs, *(ct.Tensor(as_array(c)) for c in constants))
    return out, inputs


def _weights(out: Any, dtype: Any = np.float64) -> Any:
    return TABLE["output_weights"](tuple(out.shape)).astype(dtype)


@pytest.fixture(scope="module")
def golden() -> dict[str, list[Any]]:
    with np.load(GOLDEN / "arranging.npz") as file:
        index, values = json.loads(str(file["index"]))["arrays"], file["values"]
    found: dict[str, list[Any]] = {}
    start = 0
    for name, shapes in index.items():
        found[name] = []
        for shape in shapes:
            size = int(np.prod(shape, dtype=int))
            found[name].append(values[start : start + size].reshape(shape))
            start += size
    return found


@pytest.mark.parametrize("name", CALLS)
def test_values_and_gradients_are_the_golden_ones(name: str, golden: dict[str, list[Any]]) -> None:
    out, inputs = _run(name)
    out.backward(ct.Tensor(as_array(_weights(out))))
    for ours, theirs in zip([out, *(x.grad for x in inputs)], golden[name], strict=True):
        assert ours is not None
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(to_numpy(ours.data), theirs, rtol=1e-9, atol=1e-11)


def test_the_golden_file_holds_these_calls_and_no_others(golden: dict[str, list[Any]]) -> None:
    assert set(golden) == set(CALLS)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:index_reduce:UserWarning")  # PyTorch's, about itself
@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", CALLS)
def test_values_and_both_gradients_are_pytorchs(name: str, dtype: Any) -> None:
    torch = pytest.importorskip("torch")
    floats, constants = TABLE["inputs_of"](name)
    theirs = [torch.tensor(array.astype(dtype), requires_grad=True) for array in floats]
    expected = CALLS[name].call(torch, torch.nn.functional, *theirs, *map(torch.tensor, constants))
    out, inputs = _run(name, dtype)
    assert out.dtype == expected.detach().numpy().dtype
    tolerance: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11} if dtype == np.float64 else {"rtol": 2e-4, "atol": 2e-5}
    np.testing.assert_allclose(to_numpy(out.data), expected.detach().numpy(), **tolerance)

    twice = CALLS[name].twice
    first = torch.autograd.grad(expected, theirs, torch.tensor(_weights(out, dtype)), create_graph=twice)
    ours = grad(out, inputs, ct.Tensor(as_array(_weights(out, dtype))), create_graph=twice)
    for a, b in zip(ours, first, strict=True):
        assert a is not None
        np.testing.assert_allclose(to_numpy(a.data), b.detach().numpy(), **tolerance)
    if not twice:
        return
    total = sum((b * b * torch.tensor(_weights(b, dtype))).sum() for b in first)
    if not total.requires_grad:
        return
    second = torch.autograd.grad(total, theirs, allow_unused=True)
    again: Any = 0.0
    for a in ours:
        assert a is not None
        again = (a * a * ct.Tensor(as_array(_weights(a, dtype)))).sum() + again
    if all(b is None or not b.any() for b in second) and not again.requires_grad:
        return
    for a, b in zip(grad(again, inputs, allow_unused=True), second, strict=True):
        left: Any = np.zeros(1) if a is None else to_numpy(a.data)
        right = np.zeros(1) if b is None else b.numpy()
        loose = {**tolerance, "rtol": 10 * tolerance["rtol"]}
        np.testing.assert_allclose(left, np.broadcast_to(right, left.shape), **loose)
