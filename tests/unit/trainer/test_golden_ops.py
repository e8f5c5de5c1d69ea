"""Values and gradients beside PyTorch's: everywhere against the golden file, live where PyTorch is installed."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer.array import as_array, to_numpy

GOLDEN = Path(__file__).parents[2] / "golden"
TABLE = runpy.run_path(str(GOLDEN / "calls.py"))
CALLS: dict[str, Any] = TABLE["CALLS"]


def _make(array: Any, requires_grad: bool) -> ct.Tensor:
    return ct.Tensor(as_array(array), requires_grad=requires_grad)


def _arrays(out: Any, inputs: list[Any]) -> list[Any]:
    return [to_numpy(out.data), *(None if t.grad is None else to_numpy(t.grad.data) for t in inputs)]


def _golden() -> dict[str, list[Any]]:
    with np.load(GOLDEN / "ops.npz") as file:
        index, values = json.loads(str(file["index"]))["arrays"], file["values"]
    found: dict[str, list[Any]] = {}
    start = 0
    for name, shapes in index.items():
        found[name] = []
        for shape in shapes:
            size = 0 if shape is None else int(np.prod(shape, dtype=int))
            found[name].append(None if shape is None else values[start : start + size].reshape(shape))
            start += size
    return found


@pytest.fixture(scope="module")
def golden() -> dict[str, list[Any]]:
    return _golden()


@pytest.mark.parametrize("name", CALLS)
def test_values_and_gradients_are_the_golden_ones(name: str, golden: dict[str, list[Any]]) -> None:
    for ours, theirs in zip(_arrays(*TABLE["run"](name, ct, _make)), golden[name], strict=True):
        if theirs is None:
            assert ours is None or not ours.any()
        else:
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11)
            assert ours.shape == theirs.shape


def test_the_golden_file_holds_these_calls_and_no_others(golden: dict[str, list[Any]]) -> None:
    assert set(golden) == set(CALLS)
    assert (GOLDEN / "ops.npz").stat().st_size < 200_000


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:Using padding:UserWarning")  # PyTorch's, of its own copy
@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", CALLS)
def test_values_and_gradients_are_pytorchs(name: str, dtype: Any) -> None:
    torch = pytest.importorskip("torch")
    out, inputs = TABLE["run"](name, torch, lambda a, grad: torch.tensor(a, requires_grad=grad), dtype)
    theirs = [out.detach().numpy(), *(None if t.grad is None else t.grad.numpy() for t in inputs)]
    tolerance = {"rtol": 1e-9, "atol": 1e-11} if dtype == np.float64 else {"rtol": 2e-4, "atol": 2e-5}
    for ours, other in zip(_arrays(*TABLE["run"](name, ct, _make, dtype)), theirs, strict=True):
        if other is None:
            assert ours is None or not ours.any()
        else:
            assert ours.dtype == other.dtype
            np.testing.assert_allclose(ours, other, **tolerance)
