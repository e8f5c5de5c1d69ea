"""Memory of freed arrays is found again by the next ones: no page faults in the steady state."""

from __future__ import annotations

import resource

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import nn, optim
from cordee.trainer.heap import keep_freed_memory


def test_large_temporaries_cost_no_page_faults() -> None:
    if not keep_freed_memory():
        pytest.skip("another C library than glibc, or its settings are made by the environment")
    size = 8 << 20

    def use() -> None:
        (np.ones(size, np.uint8) + 1).sum()

    for _ in range(3):
        use()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        use()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    # Two arrays of 2,048 pages each, ten times over, would be 40,960 faults.
    assert faults < 2048


def test_a_training_step_computes_in_the_memory_of_the_one_before() -> None:
    if not keep_freed_memory():
        pytest.skip("another C library than glibc, or its settings are made by the environment")
    ct.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16 * 16 * 16, 256), nn.LayerNorm(256), nn.ReLU(), nn.Linear(256, 10),
    )  # fmt: skip
    optimizer = optim.AdamW(model.parameters())
    inputs, targets = ct.randn(64, 3, 32, 32), ct.randint(0, 10, (64,))

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    for _ in range(5):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        step()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    # The activations alone are 16 MB, 4,096 pages a step.
    assert faults < 1000


def test_who_sets_glibcs_variables_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    assert not keep_freed_memory()
