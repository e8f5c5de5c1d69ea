"""Every differentiable operation that PyTorch has too has a golden value: the tables of calls meet all records."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np

import cordee.trainer as ct
from cordee.trainer import nn
from cordee.trainer.array import as_array
from cordee.trainer.autograd.record import REGISTRY

GOLDEN = Path(__file__).parents[2] / "golden"

INTERNAL = {
    # what stands in the gradients of others, and what PyTorch has no function for
    "assign", "between", "cofactor", "column_sums", "conv_weight", "pool_take", "put", "spread",
    "spread_pool", "sum_pool", "sum_to", "unembed", "ungather", "unpool", "unstride",
    # random: their own tests
    "dropout",
}  # fmt: skip


def _tensor(array: Any, requires_grad: bool = False) -> ct.Tensor:
    return ct.Tensor(as_array(np.asarray(array)), requires_grad=requires_grad and np.asarray(array).dtype.kind in "fc")


def _plain_calls() -> Any:
    table = runpy.run_path(str(GOLDEN / "calls.py"))
    for call in table["CALLS"].values():
        inputs = [_tensor(array, True) for array in call.make(table["Sampler"](3))]
        yield call.call(ct, nn.functional, *inputs, *(_tensor(a) for a in call.constants(table["Sampler"](4))))


def _arranging_calls() -> Any:
    table = runpy.run_path(str(GOLDEN / "calls_arranging.py"))
    for name, call in table["CALLS"].items():
        floats, constants = table["inputs_of"](name)
        yield call.call(ct, ct, *(_tensor(a, True) for a in floats), *map(_tensor, constants))


def _math_calls() -> Any:
    table = runpy.run_path(str(GOLDEN / "calls_math.py"))
    for name, call in table["CALLS"].items():
        yield table["outputs_of"](call.call(ct, nn.functional, *(_tensor(a, True) for a in table["inputs_of"](name))))


def _linalg_calls() -> Any:
    table = runpy.run_path(str(GOLDEN / "calls_linalg.py"))
    for name in table["CALLS"]:
        yield table["run"](name, ct, _tensor)[0]


def _windows_calls() -> Any:
    table = runpy.run_path(str(GOLDEN / "make_golden_windows.py"))["TABLE"]
    for call in table["CALLS"].values():
        floats, constants = table["inputs_of"](call.shapes, call.constants)
        yield call.call(nn.functional, *(_tensor(a, True) for a in floats), *map(_tensor, constants))


def _layers() -> Any:
    """What `layers.npz` holds: recurrent layers and some losses are operations of their own."""
    for layer in (nn.RNN(2, 3), nn.LSTM(2, 3), nn.GRU(2, 3)):
        yield layer(ct.ones(4, 1, 2))[0]
    x, y = ct.full((2,), 0.5, requires_grad=True), ct.ones(2)
    for loss in (nn.BCELoss(), nn.BCEWithLogitsLoss(), nn.HuberLoss()):
        yield loss(x, y)
    yield nn.functional.ctc_loss(
        ct.zeros(4, 1, 3, requires_grad=True).log_softmax(2), ct.tensor([[1, 2]]), ct.tensor([4]), ct.tensor([2])
    )


def _met(results: Any, met: set[str]) -> None:
    pending: list[Any] = []
    for result in results:
        outputs = result if isinstance(result, (tuple, list)) else [result]
        pending += [out.grad_fn for out in outputs if isinstance(out, ct.Tensor)]
    seen: set[int] = set()
    for node in pending:
        if node is not None and hasattr(node, "op") and id(node) not in seen:
            seen.add(id(node))
            met.add(node.op.name)
            pending.extend(node.edges)


def test_every_differentiable_op_has_a_golden_value() -> None:
    met: set[str] = set()
    for calls in (_plain_calls, _arranging_calls, _math_calls, _linalg_calls, _windows_calls, _layers):
        _met(calls(), met)
    wanted = {name for name, record in REGISTRY.items() if record.differentiable}
    assert wanted - met - INTERNAL == set(), "differentiable operations without a golden value"
    assert REGISTRY.keys() >= INTERNAL
