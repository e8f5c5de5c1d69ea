"""Schedules set what PyTorch's set, for 120 steps; their state, by either way, goes on with the same numbers."""

from __future__ import annotations

import copy
import gc
import importlib.util
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cordee.trainer import nn, optim
from cordee.trainer.nn import Parameter
from cordee.trainer.optim import lr_scheduler
from cordee.trainer.optim.attached import Travelling

_GOLDEN = Path(__file__).parents[2] / "golden"
_SPEC = importlib.util.spec_from_file_location("make_golden_schedules", _GOLDEN / "make_golden_schedules.py")
assert _SPEC is not None
assert _SPEC.loader is not None
golden = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(golden)

OPTIMIZERS = ("SGD", "AdamW")


def make_optimizer(name: str = "SGD", **options: Any) -> optim.Optimizer:
    groups = [{"params": [Parameter(np.zeros(2, np.float32))], "lr": lr} for lr in golden.LRS]
    made: optim.Optimizer = getattr(optim, name)(groups, **options)
    return made


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("case", golden.CASES)
def test_a_schedule_sets_what_pytorchs_sets(case: str, name: str) -> None:
    optimizer = make_optimizer(name)
    schedule = golden.CASES[case](lr_scheduler, optimizer)
    found = golden.record(lr_scheduler, schedule, optimizer, golden.NUM_STEPS)
    with np.load(_GOLDEN / "schedules.npz", allow_pickle=False) as expected:
        np.testing.assert_allclose(found, expected[f"{case}/{name}"], rtol=1e-12, atol=1e-15)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("case", golden.CASES)
def test_pytorchs_schedule_state_is_taken_over(case: str) -> None:
    torch = pytest.importorskip("torch")
    if case == "cyclic-own" or case.startswith("onecycle"):
        pytest.skip("PyTorch notes its phases down under names of its own")
    theirs = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": lr} for lr in golden.LRS])
    their_schedule = golden.CASES[case](torch.optim.lr_scheduler, theirs)
    golden.record(torch.optim.lr_scheduler, their_schedule, theirs, 37)
    ours = make_optimizer()
    schedule = golden.CASES[case](lr_scheduler, ours)
    schedule.load_state_dict(their_schedule.state_dict())
    for group, saved in zip(ours.param_groups, theirs.param_groups, strict=True):
        group["lr"], group["momentum"] = saved["lr"], saved["momentum"]
    found = golden.record(lr_scheduler, schedule, ours, 40, first=38)
    expected = golden.record(torch.optim.lr_scheduler, their_schedule, theirs, 40, first=38)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    case=st.sampled_from(sorted(golden.CASES)),
    name=st.sampled_from(OPTIMIZERS),
    before=st.integers(0, 60),
    as_scalars=st.booleans(),
)
def test_a_restored_schedule_goes_on_with_the_same_numbers(case: str, name: str, before: int, as_scalars: bool) -> None:
    optimizer, other = make_optimizer(name), make_optimizer(name)
    schedule, restored = (golden.CASES[case](lr_scheduler, each) for each in (optimizer, other))
    golden.record(lr_scheduler, schedule, optimizer, before)
    if as_scalars:
        restored.load_scalars(json.loads(json.dumps(schedule.scalars(), allow_nan=False)))
        other.load_scalars(json.loads(json.dumps(optimizer.scalars(), allow_nan=False)))
    else:
        restored.load_state_dict(copy.deepcopy(schedule.state_dict()))
        other.load_state_dict(optimizer.state_dict())
    other.stepped = True
    ours = golden.record(lr_scheduler, restored, other, 30, first=before + 1)
    theirs = golden.record(lr_scheduler, schedule, optimizer, 30, first=before + 1)
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: lr_scheduler.StepLR(o, 7, 0.5),
        lambda o: lr_scheduler.MultiStepLR(o, [5, 9, 9], 0.5),
        lambda o: lr_scheduler.ConstantLR(o, 0.3, 9),
        lambda o: lr_scheduler.LinearLR(o, 0.3, 0.9, 9),
        lambda o: lr_scheduler.ExponentialLR(o, 0.9),
        lambda o: lr_scheduler.PolynomialLR(o, 30, 1.5),
        lambda o: lr_scheduler.CosineAnnealingLR(o, 30),
        lambda o: lr_scheduler.WarmupStableDecayLR(o, 5, 10, 7),
    ],
)
def test_the_closed_form_says_what_the_steps_lead_to(make: Any) -> None:
    optimizer = make_optimizer()
    schedule = make(optimizer)
    for _ in range(25):
        optimizer.step()
        schedule.step()
        np.testing.assert_allclose(schedule._get_closed_form_lr(), schedule.get_last_lr(), rtol=1e-9, atol=1e-15)


def rates(schedule: Any, num_steps: int) -> list[float]:
    found = [schedule.get_last_lr()[0]]
    for _ in range(num_steps):
        schedule.optimizer.step()
        schedule.step()
        found.append(schedule.get_last_lr()[0])
    return found


def test_warm_up_stable_decay_does_what_its_name_says() -> None:
    found = rates(lr_scheduler.WarmupStableDecayLR(make_optimizer(), 4, 6, 5, min_factor=0.1), 17)
    expected = [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1, 1, 0.82, 0.64, 0.46, 0.28, 0.1, 0.1, 0.1]
    np.testing.assert_allclose(found, [0.5 * factor for factor in expected], rtol=1e-12)
    root = lr_scheduler.WarmupStableDecayLR(make_optimizer(), 0, 0, 4, decay="1-sqrt")
    np.testing.assert_allclose(rates(root, 4), [0.5 * (1 - math.sqrt(k / 4)) for k in range(5)], atol=1e-15)
    cosine = lr_scheduler.WarmupStableDecayLR(make_optimizer(), 0, 2, 2, decay="cosine")
    np.testing.assert_allclose(rates(cosine, 4), [0.5, 0.5, 0.5, 0.25, 0], atol=1e-15)


def test_a_warm_up_rises_and_hands_over_to_the_start_of_the_other() -> None:
    optimizer = make_optimizer()
    schedule = lr_scheduler.warmup(lr_scheduler.CosineAnnealingLR(optimizer, 20), num_steps=5, start_factor=0.2)
    found = rates(schedule, 25)
    np.testing.assert_allclose(found[:6], [0.1, 0.18, 0.26, 0.34, 0.42, 0.5], rtol=1e-12)
    np.testing.assert_allclose(found[5:], [0.25 * (1 + math.cos(math.pi * k / 20)) for k in range(21)], atol=1e-12)


def test_a_schedule_of_ones_own_defines_get_lr() -> None:
    class Halving(lr_scheduler.LRScheduler):
        def get_lr(self) -> list[float]:
            return [base * 0.5**self.last_epoch for base in self.base_lrs]

    assert rates(Halving(make_optimizer()), 2) == [0.5, 0.25, 0.125]
    with pytest.raises(NotImplementedError, match="LRScheduler does not say its learning rates"):
        lr_scheduler.LRScheduler(make_optimizer())


def test_the_state_of_a_callable_object_is_part_of_the_schedules() -> None:
    class Countdown:
        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, step: int) -> float:
            self.calls += 1
            return 1.0 / self.calls

    first, second = (lr_scheduler.LambdaLR(make_optimizer(), Countdown()) for _ in range(2))
    rates(first, 4)
    second.load_scalars(json.loads(json.dumps(first.scalars())))
    second.optimizer.stepped = True
    assert rates(second, 3)[1:] == rates(first, 3)[1:]


def test_a_copied_schedule_changes_its_own_optimiser() -> None:
    optimizer = make_optimizer()
    schedule = lr_scheduler.ExponentialLR(optimizer, 0.5)
    other, other_schedule = copy.deepcopy((optimizer, schedule))
    rates(other_schedule, 3)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert other.param_groups[0]["lr"] == 0.0625


def test_stepping_the_schedule_first_is_a_warning() -> None:
    schedule = lr_scheduler.StepLR(make_optimizer(), 1)
    with pytest.warns(UserWarning, match=r"called before optimizer\.step\(\)"):
        schedule.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedule.step()


def test_asking_get_lr_is_a_warning() -> None:
    schedule = lr_scheduler.StepLR(make_optimizer(), 1)
    with pytest.warns(UserWarning, match=r"call get_last_lr\(\)"):
        schedule.get_lr()
    schedule.optimizer.step()
    with pytest.warns(UserWarning, match=r"step\(epoch\) is deprecated"):
        schedule.step(3)
    assert schedule.get_last_lr() == [base * 0.1**3 for base in golden.LRS]


def test_going_on_from_an_epoch_needs_the_initial_rates() -> None:
    with pytest.raises(KeyError, match="has no initial_lr"):
        lr_scheduler.StepLR(make_optimizer(), 5, last_epoch=3)
    groups = [{"params": [Parameter(np.zeros(2))], "lr": 0.25, "initial_lr": 0.5}]
    schedule = lr_scheduler.StepLR(optim.SGD(groups), 5, gamma=0.5, last_epoch=9)
    assert schedule.last_epoch == 10
    assert schedule.get_last_lr() == [0.125]


# Schedules travel with their optimisers.


def test_a_schedule_travels_with_its_optimiser_until_it_is_dropped() -> None:
    model = nn.Linear(2, 2)
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    travelling = Travelling(model, {"": optimizer})
    assert travelling.scalars() == {}
    schedule = lr_scheduler.StepLR(optimizer, 3)
    second = lr_scheduler.StepLR(optimizer, 4)
    assert set(travelling.scalars()) == {"optimizer.StepLR", "optimizer.StepLR.2"}
    del schedule
    gc.collect()
    assert set(travelling.scalars()) == {"optimizer.StepLR.2"}
    assert second.step_size == 4


def test_a_schedule_in_another_travels_in_it() -> None:
    model = nn.Linear(2, 2)
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    schedule = lr_scheduler.warmup(lr_scheduler.CosineAnnealingLR(optimizer, 9), 5)
    scalars = Travelling(model, {"": optimizer}).scalars()
    assert set(scalars) == {"optimizer.SequentialLR"}
    assert len(scalars["optimizer.SequentialLR"]["_schedulers"]) == 2
    assert schedule.last_epoch == 0


def test_a_state_waits_for_the_schedule_that_is_still_to_be_made() -> None:
    def make() -> tuple[nn.Module, optim.Optimizer]:
        model = nn.Linear(2, 2)
        return model, optim.SGD(model.parameters(), lr=1.0, momentum=0.9)

    (model, optimizer), (late_model, late) = make(), make()
    schedule = lr_scheduler.OneCycleLR(optimizer, 0.4, total_steps=50)
    rates(schedule, 20)
    late_travelling = Travelling(late_model, {"": late})
    late.load_scalars(json.loads(json.dumps(optimizer.scalars())))
    late_travelling.load(json.loads(json.dumps(Travelling(model, {"": optimizer}).scalars())), {})
    assert late_travelling.scalars() == Travelling(model, {"": optimizer}).scalars(), "it can be handed on"
    late_schedule = lr_scheduler.OneCycleLR(late, 0.4, total_steps=50)
    assert late.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    late.stepped = True
    assert rates(late_schedule, 10) == rates(schedule, 10)


optimizer = make_optimizer()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: lr_scheduler.StepLR(3, 4), TypeError, "options of an optimiser, not of int"),
        (lambda: lr_scheduler.StepLR(optimizer, 0), ValueError, "step_size must be at least 1"),
        (lambda: lr_scheduler.LambdaLR(optimizer, [len]), ValueError, "1 functions for 2 parameter groups"),
        (lambda: lr_scheduler.MultiplicativeLR(optimizer, 0.5), TypeError, "function of the step"),
        (lambda: lr_scheduler.ConstantLR(optimizer, 2.0), ValueError, "factor must be from 0 to 1, got 2"),
        (lambda: lr_scheduler.LinearLR(optimizer, 0.0), ValueError, "start_factor must be above 0"),
        (lambda: lr_scheduler.LinearLR(optimizer, 0.5, 1.5), ValueError, "end_factor must be from 0 to 1"),
        (lambda: lr_scheduler.CosineAnnealingLR(optimizer, 0), ValueError, "T_max must be at least 1"),
        (lambda: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 2.5), ValueError, "T_0 must be a whole number"),
        (lambda: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 2, 0), ValueError, "T_mult must be a whole"),
        (lambda: lr_scheduler.CyclicLR(optimizer, 0.1, 1.0, mode="up"), ValueError, "mode must be one of triangular"),
        (lambda: lr_scheduler.CyclicLR(optimizer, [0.1], 1.0), ValueError, "base_lr has 1 values for 2 parameter"),
        (lambda: lr_scheduler.OneCycleLR(optimizer, 1.0), ValueError, "give total_steps, or epochs and"),
        (lambda: lr_scheduler.OneCycleLR(optimizer, 1.0, 10, pct_start=3.0), ValueError, "pct_start must be from 0"),
        (lambda: lr_scheduler.OneCycleLR(optimizer, 1.0, 10, anneal_strategy="x"), ValueError, "anneal_strategy must"),
        (
            lambda: lr_scheduler.OneCycleLR(make_optimizer("Adagrad"), 1.0, 10),
            ValueError,
            "momentum or betas, which Adagrad has not",
        ),
        (lambda: lr_scheduler.ReduceLROnPlateau(optimizer, "least"), ValueError, 'mode must be "min" or "max"'),
        (lambda: lr_scheduler.ReduceLROnPlateau(optimizer, factor=1.0), ValueError, "factor must be below 1"),
        (lambda: lr_scheduler.SequentialLR(optimizer, [], []), ValueError, "SequentialLR needs at least one"),
        (
            lambda: lr_scheduler.SequentialLR(optimizer, [lr_scheduler.StepLR(make_optimizer(), 1)], []),
            ValueError,
            "changes another optimiser",
        ),
        (
            lambda: lr_scheduler.SequentialLR(optimizer, [lr_scheduler.StepLR(optimizer, 1)], [3]),
            ValueError,
            "one milestone fewer than schedules, got 1 for 1",
        ),
        (
            lambda: lr_scheduler.ChainedScheduler([lr_scheduler.ReduceLROnPlateau(optimizer)]),
            ValueError,
            "whose step needs a metric",
        ),
        (lambda: lr_scheduler.ChainedScheduler([3]), TypeError, "is no schedule but int"),
        (lambda: lr_scheduler.WarmupStableDecayLR(optimizer, 1, 1, 1, "up"), ValueError, "decay must be one of linear"),
        (lambda: lr_scheduler.WarmupStableDecayLR(optimizer, 1, -1, 1), ValueError, "must not be negative"),
        (lambda: lr_scheduler.warmup(lr_scheduler.StepLR(optimizer, 1), 0), ValueError, "num_steps must be at least"),
        (lambda: optim.swa_utils.SWALR(optimizer, 0.1, anneal_strategy="x"), ValueError, "anneal_strategy must be"),
    ],
)
def test_a_mistake_is_a_sentence(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
