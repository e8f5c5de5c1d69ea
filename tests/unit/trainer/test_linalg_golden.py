"""Linear algebra, Fourier transforms and complex numbers beside PyTorch's: values and gradients.

Everywhere against the golden file, live where PyTorch is installed. The calls are in `tests/golden/calls_linalg.py`.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer.array import as_array, to_numpy
from cordee.trainer.autograd.record import REGISTRY

GOLDEN = Path(__file__).parents[2] / "golden"
TABLE = runpy.run_path(str(GOLDEN / "calls_linalg.py"))
CALLS: dict[str, Any] = TABLE["CALLS"]
OURS = ("cordee.trainer.ops.linalg", "cordee.trainer.ops.fourier", "cordee.trainer.ops.complex_numbers")


def _make(array: Any, requires_grad: bool) -> ct.Tensor:
    return ct.Tensor(as_array(array), requires_grad=requires_grad)


def _arrays(out: Any, inputs: list[Any]) -> list[Any]:
    return [to_numpy(out.data), *(None if t.grad is None else to_numpy(t.grad.data) for t in inputs)]


@pytest.fixture(scope="module")
def golden() -> dict[str, list[Any]]:
    with np.load(GOLDEN / "linalg.npz") as file:
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


def _check(ours: Any, theirs: Any, **tolerance: float) -> None:
    if theirs is None:
        assert ours is None or not ours.any()
    elif ours is None:
        assert not theirs.any()
    else:
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, **tolerance)


@pytest.mark.parametrize("name", CALLS)
def test_values_and_gradients_are_the_golden_ones(name: str, golden: dict[str, list[Any]]) -> None:
    for ours, theirs in zip(_arrays(*TABLE["run"](name, ct, _make)), golden[name], strict=True):
        _check(ours, theirs, rtol=1e-8, atol=1e-10)


def test_the_golden_file_holds_these_calls_and_no_others(golden: dict[str, list[Any]]) -> None:
    assert set(golden) == set(CALLS)
    assert (GOLDEN / "linalg.npz").stat().st_size < 200_000


def test_every_op_of_these_families_is_called() -> None:
    met: set[str] = set()
    for name in CALLS:
        out, _ = TABLE["run"](name, ct, _make)
        nodes: list[Any] = [out.grad_fn]
        for node in nodes:
            if node is not None and hasattr(node, "op"):
                met.add(node.op.name)
                nodes.extend(node.edges)
    expected = {name for name, record in REGISTRY.items() if record.forward.__module__.startswith(OURS)}
    assert expected - met == {"cofactor"}, "ops without a golden value (cofactor is det's gradient)"


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch's, of functions that it will rename
@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", CALLS)
def test_values_and_gradients_are_pytorchs(name: str, dtype: Any) -> None:
    torch = pytest.importorskip("torch")
    single = dtype == np.float32
    if single and name in ("fftfreq", "casts", "matmul, real and complex", "matrix_rank", "pinv, lower rank"):
        pytest.skip("names the double dtype, or a tolerance for it")
    out, inputs = TABLE["run"](name, torch, lambda a, grad: torch.tensor(a, requires_grad=grad), dtype)
    theirs = [out.detach().numpy(), *(None if t.grad is None else t.grad.numpy() for t in inputs)]
    tolerance = {"rtol": 5e-3, "atol": 2e-3} if single else {"rtol": 1e-8, "atol": 1e-10}
    for ours, other in zip(_arrays(*TABLE["run"](name, ct, _make, dtype)), theirs, strict=True):
        _check(ours, other, **tolerance)
        if ours is not None and other is not None:
            assert ours.dtype == other.dtype
