"""What the benchmarks name exists, and the ones of the engine run."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from cordee.coordinator.chaos.grammar import parse_plan
from cordee.coordinator.spec import parse_workers
from cordee.trainer import Tensor, arange, nn, no_grad, ones

ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        f"benchmark_{name.replace('/', '_')}", ROOT / "benchmarks" / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCENARIOS = load("chaos_scenarios").SCENARIOS


def test_all_sixteen_scenarios_are_there() -> None:
    assert [scenario.number for scenario in SCENARIOS] == list(range(1, 17))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: str(scenario.number))
def test_a_scenario_is_a_plan_that_can_be_read_or_a_test_that_exists(scenario: object) -> None:
    spec, workers, tests = scenario.spec, scenario.workers, scenario.tests  # type: ignore[attr-defined]
    assert spec or tests
    if spec:
        assert parse_plan(spec).kinds
        assert parse_workers(workers).max >= 1
    for test in tests:
        path, _, name = test.partition("::")
        tree = ast.parse((ROOT / path).read_text())
        assert name in {
            node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }


def run(*command: str) -> str:
    """What a script prints, without a peer; it must end well."""
    script = [sys.executable, str(ROOT / "benchmarks" / command[0]), *command[1:]]
    alone = {name: value for name, value in os.environ.items() if name != "TORCH_PYTHON"}
    done = subprocess.run(script, check=False, capture_output=True, text=True, timeout=100, env=alone)
    assert done.returncode == 0, done.stderr
    return done.stdout


ROWS = load("workloads/training_models").ROWS


@pytest.mark.parametrize("name", ROWS)
def test_a_training_step_has_a_model_that_takes_its_inputs(name: str) -> None:
    row = ROWS[name]
    model = row.make(nn, arange).eval()
    is_text = row.kind == "text"
    inputs = arange(row.input_shape[1])[None] if is_text else ones(1, *row.input_shape[1:])
    with no_grad():
        assert model(inputs % row.classes if is_text else inputs).shape == (
            row.input_shape[1] if is_text else 1,
            row.classes,
        )


def test_a_training_step_is_measured_and_kept(tmp_path: Path) -> None:
    out = run("training_step.py", "--seconds", "0", "--rows", "mlp-tiny", "--json", str(tmp_path / "out.json"))
    assert ROWS["mlp-tiny"].title in out
    (step,) = json.loads((tmp_path / "out.json").read_text())["steps"]
    ours = step["measured"]["cordee"]
    assert ours["cpu_seconds"] > 0
    assert ours["seconds"] > 0
    assert ours["losses"][-1] < ours["losses"][0]


def test_a_profile_names_the_operations_of_each_part() -> None:
    layer, inputs = nn.Linear(8, 8), ones(4, 8)
    loss: list[Tensor] = []
    parts = {
        "zero_grad": layer.zero_grad,
        "forward": lambda: loss.append(layer(inputs).sum()),
        "backward": lambda: loss.pop().backward(),
        "update": lambda: None,
    }
    profile = load("step_profile").profile_cordee(parts, 1)
    ops = {name: (calls, forward, backward) for name, calls, forward, backward in profile["ops"]}
    assert profile["parts"].keys() == parts.keys()
    assert {"linear", "sum", "outside operations"} <= ops.keys()
    assert all(time > 0 for time in ops["linear"])


def test_an_operation_is_measured_forward_and_with_backward() -> None:
    out = run("ops.py", "--quick", "--only", "softmax 768×64,AdamW 100")
    softmax, adamw = (line.split() for line in out.splitlines() if line.startswith(("normalisation", "optimiser")))
    assert float(softmax[3]) > 0
    assert "–" not in softmax
    assert "–" in adamw  # nothing to walk back


def test_operations_and_steps_are_measured_on_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On CuPy's stand-in: what is timed waits for the device, and no array is taken for one on the host."""
    stand_in = ROOT / "tests" / "conformance" / "cupy_stand_in"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(stand_in), os.environ.get("PYTHONPATH")))))
    out = run("ops.py", "--quick", "--only", "softmax 768×64", "--device", "cuda")
    (row,) = [line.split() for line in out.splitlines() if line.startswith("normalisation")]
    assert float(row[3]) > 0
    kept = tmp_path / "out.json"
    out = run("training_step.py", "--seconds", "0", "--rows", "mlp-tiny", "--device", "cuda", "--json", str(kept))
    assert "on the GPU" in out
    ours = json.loads(kept.read_text())["steps"][0]["measured"]["cordee"]
    assert ours["losses"][-1] < ours["losses"][0]


def test_the_tape_is_measured_beside_bare_calls_of_the_same_gradients() -> None:
    out = run("tape.py", "--quick", "--only", "add,linear,softmax")
    assert [line.split()[0] for line in out.splitlines() if line and line[0] != "#"] == [
        "operation", "add", "linear", "softmax",
    ]  # fmt: skip
