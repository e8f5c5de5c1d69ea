"""Recurrent layers, attention, activations, losses, parametrisations: PyTorch's values, gradients and names."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import nn

_GOLDEN = Path(__file__).parents[2] / "golden"
_SPEC = importlib.util.spec_from_file_location("make_golden_layers", _GOLDEN / "make_golden_layers.py")
assert _SPEC is not None
assert _SPEC.loader is not None
golden = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(golden)


LOOSE = ("activation-Hardsigmoid", "activation-CELU-alpha")
"""PyTorch computes with constants in float32 (1/6, 1/alpha) in the gradients of these."""


def assert_same(name: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(found) == set(expected)
    for key, value in found.items():
        if value.dtype.kind == "U":  # names and shapes of the state, in order
            assert value.tolist() == expected[key].tolist()
        else:
            np.testing.assert_allclose(
                value, expected[key], rtol=1e-7 if name in LOOSE else 1e-9, atol=1e-11, err_msg=key
            )
            assert value.dtype == expected[key].dtype


@pytest.fixture(scope="module")
def archive() -> dict[str, dict[str, Any]]:
    grouped: dict[str, dict[str, Any]] = {}
    with np.load(_GOLDEN / "layers.npz", allow_pickle=False) as arrays:
        for key in arrays:
            name, _, part = key.partition("/")
            grouped.setdefault(name, {})[part] = arrays[key]
    return grouped


@pytest.mark.parametrize("name", golden.CASES)
def test_values_gradients_and_state_are_the_golden_ones(name: str, archive: dict[str, dict[str, Any]]) -> None:
    assert_same(name, golden.evaluate(nn, golden.CASES[name], ct.tensor), archive[name])


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")  # of PyTorch's
@pytest.mark.parametrize("name", golden.CASES)
def test_values_gradients_and_state_are_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    theirs = golden.evaluate(torch.nn, golden.CASES[name], torch.tensor)
    assert_same(name, golden.evaluate(nn, golden.CASES[name], ct.tensor), theirs)
