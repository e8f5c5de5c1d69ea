"""Memory of freed arrays is found again by the next ones: no page faults in the steady state."""

from __future__ import annotations

import resource

import numpy as np
import pytest

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


def test_who_sets_glibcs_variables_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    assert not keep_freed_memory()
