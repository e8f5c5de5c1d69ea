"""Well-known PyTorch scripts, ported by their imports alone, learn here what they learn there.

The scripts are in `ported_*.py`. Their losses are compared with PyTorch's: those kept in `tests/golden`, and live where
PyTorch is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

GOLDEN = Path(__file__).parents[2] / "golden"
sys.path.insert(0, str(GOLDEN))  # the maker knows which scripts there are
try:
    golden = importlib.import_module("make_golden_ported")
finally:
    sys.path.remove(str(GOLDEN))
SCRIPTS = golden.scripts()
EXPECTED = np.load(GOLDEN / "ported.npz")


def losses(script: Any, names: Any) -> Any:
    names.torch.manual_seed(0)
    return np.array(script(names, golden.NUM_STEPS))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_ported_script_learns_what_it_learns_there(name: str) -> None:
    found, expected = losses(SCRIPTS[name], golden.support.cordee_names()), EXPECTED[name]
    # float32 over twenty updates: what rounds differently grows; the first losses have no updates behind them
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    if name not in golden.GAMES:
        assert found[golden.NUM_STEPS - 3 : golden.NUM_STEPS].mean() < found[0]


def test_the_golden_file_holds_every_script() -> None:
    assert set(EXPECTED.files) == set(SCRIPTS)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SCRIPTS)
def test_pytorch_agrees_today(name: str) -> None:
    pytest.importorskip("torch")
    np.testing.assert_allclose(
        losses(SCRIPTS[name], golden.support.torch_names()), EXPECTED[name], rtol=1e-3, atol=1e-4
    )
