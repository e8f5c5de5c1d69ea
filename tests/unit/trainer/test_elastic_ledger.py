"""The ledger's law: whatever happens to the workers and to whoever writes it, it holds every committed step, and its
proof finds every sample exactly once, with the fingerprint of an undisturbed run.

The histories are those of `test_elastic_run`: workers are threads that take turns, and kills strike at the exchange, so
that some hold the sum and some do not. Here they strike as well when an entry is handed to the kernel: before it, after
it, and in the middle of it.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cordee.trainer.elastic import ledger as ledger_module
from cordee.trainer.elastic.ledger_proof import Proof, prove


def _histories() -> Any:
    """`test_elastic_run`, whose simulation is used here."""
    name = "elastic_histories"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("test_elastic_run.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


histories = _histories()
STEPS, SAMPLES, EPOCHS = histories.STEPS, histories.SAMPLES, histories.EPOCHS
Moment = Literal["before", "torn", "after"]
numbers = itertools.count()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ledgers")


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> str:
    """The fingerprint of a run that nothing happens to."""
    simulation = histories.Simulation([], 1, True, ledger=folder / "undisturbed")
    simulation.run()
    return proven(folder / "undisturbed").sha256


def proven(path: Path, steps: int = STEPS) -> Proof:
    proof = prove(path, steps=steps)
    assert proof.proven, proof.violations
    assert proof.steps == steps
    return proof


@contextmanager
def striking(simulation: Any, strikes: dict[int, Moment]) -> Iterator[None]:
    """Kills whoever hands the n-th piece to the kernel."""
    append, count = ledger_module._File.append, itertools.count(1)

    def struck(file: Any, entries: bytes) -> None:
        moment = strikes.get(next(count))
        worker = next((worker for worker, run in simulation.runs.items() if run._ledger._file is file), None)
        if moment is None or worker is None or worker not in simulation.exchanges:
            append(file, entries)
            return
        if moment != "before":
            append(file, entries if moment == "after" else entries[: len(entries) * 2 // 3])
        simulation.strike(worker)

    ledger_module._File.append = struck  # type: ignore[method-assign]
    try:
        yield
    finally:
        ledger_module._File.append = append  # type: ignore[method-assign]


strikes = st.dictionaries(st.integers(1, 30), st.sampled_from(["before", "torn", "after"]), max_size=6)


@settings(max_examples=60)
@given(
    history=st.lists(histories.kills, max_size=4, unique_by=lambda kill: kill.step),
    strikes=strikes,
    num_workers=st.sampled_from([1, 2, 3, 5, 8]),
    respawn=st.booleans(),
)
def test_every_history_leaves_a_ledger_that_proves_every_sample_once(
    history: list[Any], strikes: dict[int, Moment], num_workers: int, respawn: bool, undisturbed: str, folder: Path
) -> None:
    path = folder / str(next(numbers))
    simulation = histories.Simulation(history, num_workers, respawn, ledger=path)
    with striking(simulation, strikes):
        simulation.run()
    proof = proven(path)
    assert proof.sha256 == undisturbed
    assert [(epoch.samples, epoch.distinct, epoch.missing, epoch.twice) for epoch in proof.epochs] == [
        (SAMPLES, SAMPLES, 0, 0)
    ] * EPOCHS
