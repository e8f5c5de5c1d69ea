"""Layers, losses and functions agree with PyTorch's, values and gradients, to float64's precision."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import nn

_GOLDEN = Path(__file__).parents[2] / "golden"
_SPEC = importlib.util.spec_from_file_location("make_golden_nn", _GOLDEN / "make_golden_nn.py")
assert _SPEC is not None
assert _SPEC.loader is not None
golden = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(golden)


def ours(name: str) -> dict[str, Any]:
    return {key: value.numpy() for key, value in golden.evaluate(nn, golden.CASES[name], ct.tensor).items()}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(found) == set(expected)
    for key, value in found.items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-9, atol=1e-11, err_msg=key)
        assert value.dtype == expected[key].dtype


@pytest.mark.parametrize("name", golden.CASES)
def test_values_and_gradients_are_the_golden_ones(name: str) -> None:
    with np.load(_GOLDEN / "nn.npz", allow_pickle=False) as arrays:
        assert_same(ours(name), {key.partition("/")[2]: arrays[key] for key in arrays if key.startswith(f"{name}/")})


@pytest.mark.torch
@pytest.mark.parametrize("name", golden.CASES)
def test_values_and_gradients_are_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    theirs = golden.evaluate(torch.nn, golden.CASES[name], torch.tensor)
    assert_same(ours(name), {key: value.numpy() for key, value in theirs.items()})
