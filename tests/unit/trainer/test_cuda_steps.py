"""Training steps with every CUDA provider in use, on the stand-ins: nothing waits for the device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cuda_support import needs_compiler

ROOT = Path(__file__).resolve().parents[3]
pytestmark = needs_compiler
MODELS = [
    "mlp", "images", "gpt", "recurrent", "images in bfloat16", "gpt in bfloat16", "recurrent in bfloat16",
]  # fmt: skip


@pytest.fixture(scope="module")
def steps() -> dict[str, Any]:
    script = str(ROOT / "tests" / "conformance" / "cuda_steps.py")
    environment = {**os.environ, "CORDEE_KERNELS": "numpy"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return {told["model"]: told for told in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("model", MODELS)
def test_a_step_waits_for_nothing(steps: dict[str, Any], model: str) -> None:
    """Nor does it copy to the device, or compute a product by what refuses to be recorded in a graph."""
    assert steps[model]["waits"] == {}


@pytest.mark.parametrize("model", MODELS)
def test_steps_are_those_of_the_cpu(steps: dict[str, Any], model: str) -> None:
    """CUDA's kernels beside NumPy's, from the same first weights: to rounding."""
    rel = 2e-3 if "bfloat16" in model else 2e-4
    assert steps[model]["losses"] == pytest.approx(steps[model]["on_cpu"], rel=rel)


def test_biases_and_their_gradients_come_with_products(steps: dict[str, Any]) -> None:
    """Of each linear layer with a bias, in each of five steps: 4 is the epilogue that adds one, 512 the gradient's."""
    layers = {"mlp": 2, "images": 1, "gpt": 8, "recurrent": 3}  # of recurrent layers, what the input contributes
    for model, number in layers.items():
        told = steps[model]["epilogues"]
        assert (told["4"], told["512"]) == (5 * number, 5 * number)


@pytest.mark.parametrize("model", MODELS)
def test_from_the_third_step_on_no_memory_is_taken_from_the_device(steps: dict[str, Any], model: str) -> None:
    """What a step allocates are blocks that the steps before have freed: a recorded one may keep their addresses."""
    assert steps[model]["blocks"] == {}
