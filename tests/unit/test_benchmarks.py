"""What the benchmarks name exists."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from cordee.coordinator.chaos.grammar import parse_plan
from cordee.coordinator.spec import parse_workers

ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
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
