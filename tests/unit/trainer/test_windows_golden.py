"""Convolution, pooling, resizing, normalisation, attention beside PyTorch: golden everywhere, live where installed."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import nn
from cordee.trainer.array import as_array, to_numpy
from cordee.trainer.autograd import grad
from cordee.trainer.autograd.record import REGISTRY

GOLDEN = Path(__file__).parents[2] / "golden"
MAKER = runpy.run_path(str(GOLDEN / "make_golden_windows.py"))
TABLE = MAKER["TABLE"]
CALLS: dict[str, Any] = TABLE["CALLS"]
LAYERS: dict[str, Any] = TABLE["LAYERS"]
MODULES = (
    "attention", "convolution", "folding", "grid", "interpolation", "normalization", "normalization_batch",
    "normalization_group", "pooling", "pooling_mean", "pooling_places", "resampling", "windows",
)  # fmt: skip
INTERNAL = {"pool_take", "sum_pool", "unpool"}  # they stand in gradients only

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning"),  # PyTorch's, of its own copy
    pytest.mark.filterwarnings("ignore:Since version 1.3.0, affine_grid:UserWarning"),
]


def _tensor(array: Any, requires_grad: bool = False) -> ct.Tensor:
    return ct.Tensor(as_array(np.asarray(array)), requires_grad=requires_grad)


def _run(name: str, dtype: Any = np.float64) -> tuple[Any, list[ct.Tensor]]:
    call = CALLS[name]
    floats, constants = TABLE["inputs_of"](call.shapes, call.constants)
    inputs = [_tensor(array.astype(dtype), True) for array in floats]
    fixed = [_tensor(c.astype(dtype) if c.dtype == np.float64 else c) for c in constants]
    return call.call(nn.functional, *inputs, *fixed), inputs


def _weights(out: Any, dtype: Any = np.float64) -> Any:
    return TABLE["output_weights"](tuple(out.shape)).astype(dtype)


@pytest.fixture(scope="module")
def golden() -> dict[str, dict[str, Any]]:
    with np.load(GOLDEN / "windows.npz") as file:
        index, values = json.loads(str(file["index"]))["arrays"], file["values"]
    found: dict[str, dict[str, Any]] = {}
    start = 0
    for name, shapes in index.items():
        found[name] = {}
        for key, shape in shapes.items():
            size = int(np.prod(shape, dtype=int))
            found[name][key] = values[start : start + size].reshape(shape)
            start += size
    return found


# -- calls -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
def test_values_and_gradients_are_the_golden_ones(name: str, golden: dict[str, dict[str, Any]]) -> None:
    out, inputs = _run(name)
    out.backward(_tensor(_weights(out)))
    ours = {"output": out} | {str(i): x.grad for i, x in enumerate(inputs)}
    expected = golden[f"call {name}"]
    assert set(ours) == set(expected)
    for key, value in ours.items():
        assert value is not None
        assert value.shape == expected[key].shape
        np.testing.assert_allclose(to_numpy(value.data), expected[key], rtol=1e-8, atol=1e-10, err_msg=key)


def test_the_golden_file_holds_these_calls_and_layers_and_no_others(golden: dict[str, dict[str, Any]]) -> None:
    assert set(golden) == {f"call {name}" for name in CALLS} | {f"layer {name}" for name in LAYERS}


def test_every_op_of_these_files_is_called() -> None:
    met: set[str] = set()
    for name in CALLS:
        out, inputs = _run(name)
        first = grad(out, inputs, _tensor(_weights(out)), create_graph=True, allow_unused=True)
        nodes: list[Any] = [out.grad_fn, *(g.grad_fn for g in first if g is not None)]
        for node in nodes:
            if node is not None and hasattr(node, "op"):
                met.add(node.op.name)
                nodes.extend(edge for edge in node.edges if edge not in nodes)
    here = {
        name
        for name, record in REGISTRY.items()
        if record.forward.__module__.removeprefix("cordee.trainer.ops.") in MODULES
    }
    assert here - met <= INTERNAL, "ops without a golden value"


@pytest.mark.torch
@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", CALLS)
def test_values_and_both_gradients_are_pytorchs(name: str, dtype: Any) -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    call = CALLS[name]
    if dtype == np.float32 and not call.single:
        pytest.skip("single precision may choose another pixel")
    floats, constants = TABLE["inputs_of"](call.shapes, call.constants)
    theirs = [torch.tensor(array.astype(dtype), requires_grad=True) for array in floats]
    fixed = [torch.tensor(c.astype(dtype) if c.dtype == np.float64 else c) for c in constants]
    expected = call.call(torch.nn.functional, *theirs, *fixed)
    out, inputs = _run(name, dtype)
    assert out.dtype == expected.detach().numpy().dtype
    tolerance: Any = {"rtol": 1e-8, "atol": 1e-10} if dtype == np.float64 else {"rtol": 5e-4, "atol": 5e-5}
    np.testing.assert_allclose(to_numpy(out.data), expected.detach().numpy(), **tolerance)

    twice = call.twice and dtype == np.float64
    first = torch.autograd.grad(expected, theirs, torch.tensor(_weights(out, dtype)), create_graph=twice)
    ours = grad(out, inputs, _tensor(_weights(out, dtype)), create_graph=twice)
    for a, b in zip(ours, first, strict=True):
        assert a is not None
        np.testing.assert_allclose(to_numpy(a.data), b.detach().numpy(), **tolerance)
    if not twice:
        return
    total: Any = sum((b * b * torch.tensor(_weights(b))).sum() for b in first)
    if not total.requires_grad:
        return
    second = torch.autograd.grad(total, theirs, allow_unused=True)
    again: Any = 0.0
    for a in ours:
        assert a is not None
        again = (a * a * _tensor(_weights(a))).sum() + again
    if all(b is None or not b.any() for b in second) and not again.requires_grad:
        return
    for a, b in zip(grad(again, inputs, allow_unused=True), second, strict=True):
        left, right = 0.0 if a is None else to_numpy(a.data), 0.0 if b is None else b.numpy()
        left, right = np.broadcast_arrays(left, right)
        np.testing.assert_allclose(left, right, rtol=1e-7, atol=1e-9)


# -- layers ------------------------------------------------------------------------------------------------------------


def _detached(tensor: Any) -> Any:
    return to_numpy(tensor.data).copy()


@pytest.mark.parametrize("name", LAYERS)
def test_layers_do_what_the_golden_ones_did(name: str, golden: dict[str, dict[str, Any]]) -> None:
    ours, expected = MAKER["observe"](name, nn, _tensor, _detached), golden[f"layer {name}"]
    assert set(ours) == set(expected)
    for key, value in ours.items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-8, atol=1e-10, err_msg=key)


@pytest.mark.torch
@pytest.mark.parametrize("name", LAYERS)
def test_layers_have_pytorchs_state_and_do_the_same(name: str) -> None:
    torch = pytest.importorskip("torch")
    theirs, ours = LAYERS[name].make(torch.nn), LAYERS[name].make(nn)
    kinds = {key: (tuple(v.shape), str(v.dtype).removeprefix("torch.")) for key, v in theirs.state_dict().items()}
    assert {key: (v.shape, v.dtype.name) for key, v in ours.state_dict().items()} == kinds
    assert list(ours.state_dict()) == list(theirs.state_dict())
    expected = MAKER["observe"](name, torch.nn, torch.tensor, lambda t: t.detach().numpy().copy())
    for key, value in MAKER["observe"](name, nn, _tensor, _detached).items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-8, atol=1e-10, err_msg=key)


@pytest.mark.torch
@pytest.mark.parametrize("name", [name for name in LAYERS if name.startswith("Conv")])
def test_convolutions_start_as_wide_as_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = [LAYERS[name].make(torch.nn).state_dict() for _ in range(30)]
    ours = [LAYERS[name].make(nn).state_dict() for _ in range(30)]
    for key in theirs[0]:
        left = max(float(np.abs(state[key].numpy()).max()) for state in ours)
        right = max(float(state[key].abs().max()) for state in theirs)
        assert left == pytest.approx(right, rel=0.15)
