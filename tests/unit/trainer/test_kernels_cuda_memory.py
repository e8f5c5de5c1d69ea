"""Private pools and workspaces: what comes from where, and that it is counted."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cordee.trainer import devices
from cordee.trainer.kernels.cuda import memory

sys.path.insert(0, str(Path(__file__).parent))
from cuda_support import cupy_of_tests


@pytest.fixture
def xp(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(memory, "_workspaces", {})
    with cupy_of_tests(request.config.getoption("--device"), memory._of_libraries) as module:
        monkeypatch.setattr(devices, "is_available", lambda: True)
        monkeypatch.setattr(devices, "default_module", lambda: module)
        yield module


def test_what_is_made_inside_comes_from_the_pool(xp: Any) -> None:
    before = memory.used_bytes()
    pool = memory.PrivatePool()
    outside = xp.empty(1000, xp.float32)
    with pool:
        inside = xp.empty(1 << 20, xp.uint8)
        with memory.PrivatePool() as other:
            deeper = xp.empty(1 << 19, xp.uint8)
        again = xp.empty(1 << 20, xp.uint8)
    last = xp.empty(1000, xp.float32)
    assert (int(pool.pool.used_bytes()), int(other.pool.used_bytes())) == (2 << 20, 1 << 19)
    assert memory.used_bytes() - before == (2 << 20) + (1 << 19)
    assert devices.memory_allocated() >= memory.used_bytes()
    assert devices.max_memory_allocated() >= memory.total_bytes() >= memory.used_bytes()
    devices.empty_cache()
    del outside, inside, deeper, again, last, pool, other
    gc.collect()
    assert memory.used_bytes() == before  # a pool that nobody has is not counted


def test_a_pool_is_left_when_something_fails_inside(xp: Any) -> None:
    pool = memory.PrivatePool()
    with pytest.raises(ValueError, match="inside"), pool:
        raise ValueError("inside")
    xp.empty(1 << 20, xp.uint8)
    assert int(pool.pool.used_bytes()) == 0


def test_a_workspace_stays_where_it_is_and_only_grows(xp: Any) -> None:
    stream, other = xp.cuda.get_current_stream(), xp.cuda.Stream(non_blocking=True)
    first = memory.workspace(100, stream)
    assert memory.workspace(memory._MIN_BYTES, stream) == first
    larger = memory.workspace(memory._MIN_BYTES + 1, stream)
    assert larger != first
    assert memory.workspace(5, stream) == larger
    if stream.ptr != other.ptr:
        assert memory.workspace(5, other) not in (first, larger)
    assert memory.used_bytes() >= 2 * memory._MIN_BYTES + 1  # the outgrown one is kept: a graph may use it
