"""Schedules and averages in an elastic run: whatever happens to the world, they end as in an undisturbed run.

The simulated job is that of `test_elastic_run.py`.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cordee import trainer
from cordee.trainer import data, elastic, nn, optim
from cordee.trainer.array import to_numpy
from cordee.trainer.elastic.protocols import PeerLostError
from cordee.trainer.elastic.solo import SoloCommunicator
from cordee.trainer.elastic.state import StateError, TrainingState
from cordee.trainer.optim import lr_scheduler, swa_utils

_SPEC = importlib.util.spec_from_file_location("simulated_job", Path(__file__).with_name("test_elastic_run.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
job: Any = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = job  # data classes look their module up
_SPEC.loader.exec_module(job)

SCHEDULES = {
    "warmup": lambda optimizer: lr_scheduler.warmup(lr_scheduler.CosineAnnealingLR(optimizer, 20), 4, 0.1),
    "onecycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=40),
    "plateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.7),
    "multiplied": lambda optimizer: lr_scheduler.MultiplicativeLR(optimizer, lambda step: 0.9 if step % 2 else 1.02),
}
OPTIMIZERS = {
    "NAdam": lambda parameters: optim.NAdam(parameters, lr=0.05),
    "SGD": lambda parameters: optim.SGD(parameters, lr=0.05, momentum=0.9),
    "Adafactor": lambda parameters: optim.Adafactor(parameters, lr=0.05),
}


def make_run(optimizer_name: str = "SGD", schedule_name: str = "warmup") -> Any:
    trainer.manual_seed(7)
    generator = np.random.default_rng(11)
    x = generator.standard_normal((job.SAMPLES, 5)).astype(np.float32)
    y = generator.integers(0, 3, job.SAMPLES)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    loader = data.DataLoader(data.TensorDataset(x, y), batch_size=job.BATCH, shuffle=True, shards=job.SHARDS, seed=2)
    run: Any = elastic.Run(model, optimizer, loader)
    run.schedule = SCHEDULES[schedule_name](optimizer)
    run.ema = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.8))
    run.swa = swa_utils.AveragedModel(model)
    return run


def train(run: Any, epochs: int = job.EPOCHS) -> dict[int, float]:
    """A script as one writes it for PyTorch: after each update the schedule goes on and the averages are updated."""
    ends: dict[int, float] = {}
    late = None
    for step in run.steps(epochs):
        for batch in step.shards:
            step.backward(nn.functional.cross_entropy(run.model(batch.x), batch.y))
        step.commit()
        if isinstance(run.schedule, lr_scheduler.ReduceLROnPlateau):
            run.schedule.step(run.loss if run.loss == run.loss else 1.0)
        else:
            run.schedule.step()
        run.ema.update_parameters(run.model)
        if step.number == 5 and late is None:
            late = run.late = swa_utils.AveragedModel(run.model)
        if late is not None:
            late.update_parameters(run.model)
        if step.committed:
            ends[step.number] = run.optimizer.param_groups[0]["lr"]
    run.swa.update_parameters(run.model)
    fingerprints.append(fingerprint(run))
    return ends


fingerprints: list[tuple[str, ...]] = []


def fingerprint(run: Any) -> tuple[str, ...]:
    """What must not depend on the world's history: the weights, the average, the learning rate and the schedule."""
    average = elastic.weights_sha256({name: to_numpy(array) for name, array in run.ema.arrays().items()})
    return run.weights_sha256(), average, json.dumps([run.schedule.scalars(), run.optimizer.scalars()])


CASES = [("SGD", "warmup"), ("NAdam", "onecycle"), ("SGD", "plateau"), ("Adafactor", "multiplied")]


@settings(max_examples=25, deadline=None)
@given(
    history=st.lists(job.kills, max_size=4, unique_by=lambda kill: kill.step),
    num_workers=st.integers(1, 4),
    case=st.sampled_from(CASES),
)
def test_schedules_and_averages_do_not_depend_on_the_history(
    history: list[Any], num_workers: int, case: tuple[str, str]
) -> None:
    fingerprints.clear()
    alone = make_run(*case)
    rates = train(alone)
    before, job.make_run = job.make_run, lambda: make_run(*case)
    try:
        simulation = job.Simulation(history, num_workers, respawn=True, script=train)
        simulation.run()
    finally:
        job.make_run = before
    assert len(set(fingerprints)) == 1
    for seen in simulation.losses:
        assert all(rates[step] == rate for step, rate in seen.items())


def test_a_checkpoint_holds_schedules_and_averages(tmp_path: Path) -> None:
    fingerprints.clear()
    train(make_run())
    everybody = frozenset(range(2))
    before, job.make_run = job.make_run, make_run
    try:
        simulation = job.Simulation(
            [job.Kill(7, everybody, frozenset())], 2, respawn=True, folder=tmp_path, script=train
        )
        simulation.run()
    finally:
        job.make_run = before
    assert min(min(seen) for seen in simulation.losses) > 1, "it began from scratch"
    assert len(fingerprints) >= 2
    assert len(set(fingerprints)) == 1


def test_a_state_names_what_is_attached() -> None:
    run = make_run()
    state = TrainingState(run.model, run.optimizer, run.loader)
    assert set(state.scalars()["attached"]) == {
        "optimizer.SequentialLR",
        "model.AveragedModel",
        "model.AveragedModel.2",
    }
    names = {name for name in state.views() if name.startswith("attached.model.AveragedModel/")}
    assert names == {
        f"attached.model.AveragedModel/{name}"
        for name in ("module.0.weight", "module.0.bias", "module.2.weight", "module.2.bias", "n_averaged")
    }


def test_a_state_of_before_there_was_an_average_is_taken() -> None:
    giver, taker = make_run(), make_run()
    states = [TrainingState(run.model, run.optimizer, run.loader) for run in (giver, taker)]
    arrays = {name: array for name, array in states[0].host_copies().items() if not name.startswith("attached.")}
    scalars = states[0].scalars()
    del scalars["attached"]
    states[1].restore(arrays, scalars)
    assert int(taker.ema.n_averaged.data) == 0


def test_an_average_of_another_shape_is_refused() -> None:
    run = make_run()
    state = TrainingState(run.model, run.optimizer, run.loader)
    arrays, scalars = state.host_copies(), state.scalars()
    arrays["attached.model.AveragedModel/module.0.bias"] = np.zeros(8, np.float32)
    del arrays["attached.model.AveragedModel/module.2.bias"]
    scalars["attached"]["model.7.AveragedModel"] = {}
    del scalars["attached"]["optimizer.SequentialLR"]
    scalars["attached"]["nobody.StepLR"] = {}
    with pytest.raises(StateError) as caught:
        state.restore(arrays, scalars)
    message = str(caught.value)
    assert "attached.model.AveragedModel/module.0.bias is (8,) float32 there, (7,) float32 here" in message
    assert "attached.model.AveragedModel/module.2.bias is missing" in message
    assert "nobody.StepLR belongs to a module that is unknown here" in message


def test_an_average_is_updated_after_the_commit() -> None:
    run = make_run()
    steps = run.steps(1)
    step = next(steps)
    with pytest.raises(RuntimeError, match=r"update the average after step\.commit\(\)"):
        run.ema.update_parameters(run.model)
    assert step.number == 1


def test_an_average_of_another_model_is_refused() -> None:
    run = make_run()
    other = swa_utils.AveragedModel(copy.deepcopy(run.model))
    with pytest.raises(RuntimeError, match="made of a module that is no part of the elastic run"):
        for step in run.steps(1):
            for batch in step.shards:
                step.backward(nn.functional.cross_entropy(run.model(batch.x), batch.y))
            step.commit()
            copy.deepcopy(run.ema).module  # noqa: B018 (a copy that nobody updates is nobody's business)
            other.update_parameters(run.model)


def test_a_lost_step_leaves_schedule_and_average_as_they_were() -> None:
    class Stumbling(SoloCommunicator):
        def all_reduce(self, *arguments: Any, **options: Any) -> list[bytes]:
            raise PeerLostError("gone")

    def end(stumble: bool) -> tuple[str, ...]:
        fingerprints.clear()
        run = make_run("NAdam", "onecycle")
        for step in run.steps(1):
            if step.number == 3 and stumble:
                stumble = False
                step._communicator = Stumbling()
            for batch in step.shards:
                step.backward(nn.functional.cross_entropy(run.model(batch.x), batch.y))
            step.commit()
            run.schedule.step()
            run.ema.update_parameters(run.model)
        return fingerprint(run)

    assert end(stumble=True) == end(stumble=False)
