"""Elementwise functions, activations, reductions, scans, statistics beside PyTorch: golden, and live if installed."""

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
from cordee.trainer.autograd.record import REGISTRY

GOLDEN = Path(__file__).parents[2] / "golden"
TABLE = runpy.run_path(str(GOLDEN / "calls_math.py"))
CALLS: dict[str, Any] = TABLE["CALLS"]
PLAIN: dict[str, Any] = TABLE["PLAIN"]


def _leaves(name: str, dtype: Any = np.float64) -> list[ct.Tensor]:
    return [ct.Tensor(as_array(np.asarray(a, dtype)), requires_grad=True) for a in TABLE["inputs_of"](name)]


def _total(outputs: list[Any], make: Any) -> Any:
    total: Any = 0.0
    for out in outputs:
        total = (out * make(TABLE["weights"](tuple(out.shape)), out)).sum() + total
    return total


def _weighted(outputs: list[ct.Tensor]) -> ct.Tensor:
    return _total(outputs, lambda w, out: ct.Tensor(as_array(w.astype(out.dtype))))  # type: ignore[no-any-return]


def _gradients(outputs: list[ct.Tensor], inputs: list[ct.Tensor]) -> list[Any]:
    total = _weighted(outputs)
    if not total.requires_grad:
        return [np.zeros(x.shape, x.dtype) for x in inputs]
    found = grad(total, inputs, allow_unused=True)
    return [np.zeros(x.shape, x.dtype) if g is None else to_numpy(g.data) for g, x in zip(found, inputs, strict=True)]


@pytest.fixture(scope="module")
def golden() -> dict[str, list[Any]]:
    with np.load(GOLDEN / "math.npz") as file:
        index, values = json.loads(str(file["index"]))["arrays"], file["values"]
    found: dict[str, list[Any]] = {}
    start = 0
    for name, arrays in index.items():
        found[name] = []
        for dtype, *shape in arrays:
            size = int(np.prod(shape, dtype=int))
            found[name].append(values[start : start + size].reshape(shape).astype(dtype))
            start += size
    return found


@pytest.mark.parametrize("name", CALLS)
def test_values_and_gradients_are_the_golden_ones(name: str, golden: dict[str, list[Any]]) -> None:
    inputs = _leaves(name)
    outputs = TABLE["outputs_of"](CALLS[name].call(ct, ct.nn.functional, *inputs))
    ours = [*(to_numpy(out.detach().data) for out in outputs), *_gradients(outputs, inputs)]
    for mine, theirs in zip(ours, golden[name], strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=CALLS[name].rtol, atol=1e-11)


def _check_plain(ours: Any, theirs: list[Any]) -> None:
    assert len(ours) == len(theirs)
    for i, (mine, expected) in enumerate(zip(ours, theirs, strict=True)):
        assert mine.dtype == expected.dtype, i
        assert mine.shape == expected.shape, i
        tolerance = {np.float16: 2e-3, np.float32: 1e-6}.get(expected.dtype.type, 1e-12)
        np.testing.assert_allclose(to_numpy(mine.data).astype(float), expected.astype(float), tolerance, err_msg=str(i))


@pytest.mark.parametrize("name", PLAIN)
def test_values_and_dtypes_are_the_golden_ones(name: str, golden: dict[str, list[Any]]) -> None:
    _check_plain(PLAIN[name](ct, ct.nn.functional, ct.tensor), golden[name])


def test_the_golden_file_holds_these_calls_and_no_others(golden: dict[str, list[Any]]) -> None:
    assert set(golden) == {*CALLS, *PLAIN}


FAMILIES = (
    "activation", "arithmetic", "choosing", "exponential", "rectifiers", "reduction", "rounding", "scan", "softmaxes",
    "sorting", "special_functions", "statistics", "trigonometry",
)  # fmt: skip


def test_every_op_of_these_families_is_called() -> None:
    here = {
        name
        for name, record in REGISTRY.items()
        if record.differentiable and record.samples.__module__.rpartition(".")[2] in (*FAMILIES, "cases", "axes")
    }
    met: set[str] = set()
    for table in (TABLE, runpy.run_path(str(GOLDEN / "calls.py"))):
        for name, call in table["CALLS"].items():
            if table is TABLE:
                outputs = table["outputs_of"](call.call(ct, ct.nn.functional, *_leaves(name)))
            else:
                outputs = [table["run"](name, ct, lambda a, needs: ct.Tensor(as_array(a), requires_grad=needs))[0]]
            nodes: list[Any] = [out.grad_fn for out in outputs]
            for node in nodes:
                if node is not None and hasattr(node, "op"):
                    met.add(node.op.name)
                    nodes.extend(node.edges)
    assert here - met <= {"spread", "sum_to"}, "ops without a golden value"
    assert {"cumprod", "elu", "erf", "where"} <= here & met


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch's, about itself
@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", CALLS)
def test_values_and_both_gradients_are_pytorchs(name: str, dtype: Any) -> None:
    torch = pytest.importorskip("torch")
    call = CALLS[name]
    theirs = [torch.tensor(np.asarray(a, dtype), requires_grad=True) for a in TABLE["inputs_of"](name)]
    expected = TABLE["outputs_of"](call.call(torch, torch.nn.functional, *theirs))
    inputs = _leaves(name, dtype)
    outputs = TABLE["outputs_of"](call.call(ct, ct.nn.functional, *inputs))
    tolerance = {"rtol": call.rtol, "atol": 1e-11} if dtype == np.float64 else {"rtol": 5e-4, "atol": 5e-5}
    for mine, other in zip(outputs, expected, strict=True):
        assert mine.dtype == other.detach().numpy().dtype
        np.testing.assert_allclose(to_numpy(mine.detach().data), other.detach().numpy(), **tolerance)

    def weigh(w: Any, out: Any) -> Any:
        return torch.tensor(w, dtype=out.dtype)

    total = _total(expected, weigh)
    first = torch.autograd.grad(total, theirs, create_graph=call.twice, allow_unused=True, materialize_grads=True)
    for mine, other in zip(_gradients(outputs, inputs), first, strict=True):
        np.testing.assert_allclose(mine, other.detach().numpy(), **tolerance)
    if not call.twice or dtype != np.float64:
        return
    again = _total([g * g for g in first], weigh)
    if not again.requires_grad:  # a linear function
        return
    second = torch.autograd.grad(again, theirs, allow_unused=True, materialize_grads=True)
    redone = _weighted(TABLE["outputs_of"](call.call(ct, ct.nn.functional, *inputs)))
    ours = grad(redone, inputs, create_graph=True, allow_unused=True)
    for mine, other in zip(_gradients([g * g for g in ours if g is not None], inputs), second, strict=True):
        np.testing.assert_allclose(mine, other.numpy(), rtol=10 * call.rtol, atol=1e-9)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", PLAIN)
def test_values_and_dtypes_are_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    expected = [x.numpy() for x in PLAIN[name](torch, torch.nn.functional, torch.tensor)]
    _check_plain(PLAIN[name](ct, ct.nn.functional, ct.tensor), expected)
