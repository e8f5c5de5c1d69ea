"""The protocol's laws hold in every history of a small world, and the checker finds every mutant.

`elastic.pml` is the model, `README.md` says what it is about. Skipped where spin or a C compiler is missing: Cordee
needs neither.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.model import checker

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(checker.missing_tools()), reason=checker.missing_tools() or "-"),
]


@pytest.fixture(scope="session")
def pan(tmp_path_factory: pytest.TempPathFactory) -> Callable[[checker.Size], Path]:
    """A checker of some size, compiled once."""
    built: dict[checker.Size, Path] = {}

    def of(size: checker.Size) -> Path:
        if size not in built:
            built[size] = checker.build(size, tmp_path_factory.mktemp("model"))
        return built[size]

    return of


@pytest.mark.timeout(600)
@pytest.mark.parametrize("task", checker.SHORT, ids=lambda task: task.name)
def test_the_laws_hold_in_every_history(task: checker.Task, pan: Callable[[checker.Size], Path]) -> None:
    outcome = checker.run(pan(task.size), task, timeout=500)
    assert outcome.error == ""
    assert outcome.states > 1000, "the model does something"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("task", checker.MUTANTS, ids=lambda task: task.name)
def test_a_protocol_that_lacks_something_is_found_out(task: checker.Task, pan: Callable[[checker.Size], Path]) -> None:
    outcome = checker.run(pan(task.size), task, timeout=500)
    assert outcome.error
    assert task.breaks
    assert task.breaks in outcome.error


@pytest.mark.long
@pytest.mark.timeout(14400)
@pytest.mark.parametrize("task", checker.LONG, ids=lambda task: task.name)
def test_the_laws_hold_in_every_history_of_larger_worlds(
    task: checker.Task, pan: Callable[[checker.Size], Path]
) -> None:
    assert checker.run(pan(task.size), task).error == ""
