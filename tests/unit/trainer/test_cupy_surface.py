"""What the engine asks of CuPy, CuPy has; and the engine keeps to CuPy's rules: no GPU is needed to see that."""

from __future__ import annotations

import ast
import importlib.util
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
SURFACE: dict[str, Any] = runpy.run_path(str(ROOT / "tests" / "conformance" / "cupy_surface.py"))

SAMPLE = "index or put or scatter or unembed or logsumexp or prod or softmax"
FILES = (
    "test_tensor.py",
    "test_optim_swa.py",
    "test_nn_models.py",
    "test_nn_module.py",
    "test_ops_laws.py",
    "test_inplace.py",
    "test_autocast.py",
    "test_mixed_precision.py",
)


def test_every_function_that_is_called_is_cupys_with_its_arguments() -> None:
    assert SURFACE["wrong"](SURFACE["load"]()) == []


def test_what_cupy_lacks_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "def f(xp, a):\n"
        "    if xp is np:\n        return xp.nothing(a)\n"
        "    xp.nothing(a); xp.maximum.reduce(a); xp.add(a, a, where=a); xp.add.at(a, 0, 1)\n"
        "    xp.take(a, 0, mode='clip'); xp.bincount(a, a); xp.exp(a, out=a); xp.linalg.solve(a, a)\n"
    )
    told = SURFACE["wrong"](SURFACE["load"](), tmp_path)
    assert [line.split(": ", 2)[1:] for line in told] == [
        ["xp.nothing", "CuPy has none"],
        ["xp.maximum.reduce", "CuPy has reduce of add, multiply only"],
        ["xp.add", "CuPy's has no argument where"],
        ["xp.add.at", "adds in no fixed order on a device"],
        ["xp.take", "CuPy's has no argument mode"],
        ["xp.bincount", "adds in no fixed order on a device"],
    ]


def test_the_list_is_that_of_the_cupy_which_is_installed() -> None:
    if importlib.util.find_spec("cupy") is None or "cupy_stand_in" in str(importlib.util.find_spec("cupy")):
        pytest.skip("CuPy is not installed")
    assert SURFACE["differences"](SURFACE["load"](), SURFACE["installed"]()) == []


def test_every_listed_argument_list_can_be_read() -> None:
    listed = SURFACE["load"]()
    for arguments in (*listed["functions"].values(), *filter(None, listed["methods"].values())):
        ast.parse(f"lambda {arguments}: 0")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sample_of_the_tests_passes_on_the_stand_in() -> None:
    here = Path(__file__).parent
    common = [sys.executable, "-m", "pytest", "--device", "stand-in", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    # The poem takes more steps than what it stands for, and another model is trained here.
    files = [*(str(here / file) for file in FILES), "-k", "not poem"]
    for rest in ([str(here / "test_ops_records.py"), "-k", SAMPLE], files):
        done = subprocess.run([*common, *rest], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:]
