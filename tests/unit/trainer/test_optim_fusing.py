"""Updates as one generated loop: the very bits of the update in NumPy's passes, for every optimiser and way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import kernels, nn, optim
from cordee.trainer.kernels.providers import PROVIDERS
from cordee.trainer.optim import fusing
from cordee.trainer.optim.block import Block
from cordee.trainer.optim.fusing import FusedUpdate

pytestmark = pytest.mark.skipif(bool(PROVIDERS["llvm"].lack()), reason=PROVIDERS["llvm"].lack() or "-")

OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "SGD": lambda p: optim.SGD(p, 0.1),
    "SGD, momentum": lambda p: optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01, dampening=0.1),
    "SGD, nesterov": lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True, maximize=True),
    "Adam": lambda p: optim.Adam(p, weight_decay=0.01, amsgrad=True),
    "AdamW": lambda p: optim.AdamW(p, 1e-2),
    "Lion": optim.Lion,
    "RMSprop": lambda p: optim.RMSprop(p, centered=True, momentum=0.9),
    "Adagrad": optim.Adagrad,
    "NAdam": optim.NAdam,
    "RAdam": optim.RAdam,
    "Adamax": optim.Adamax,
    "Adadelta": optim.Adadelta,
}


@pytest.fixture(autouse=True)
def _chosen_again() -> Iterator[None]:
    yield
    kernels.choose("auto")


def trained(make: Callable[[Any], Any], names: str, dtype: Any = np.float32) -> tuple[bytes, Any]:
    kernels.choose(names)
    rng = np.random.default_rng(0)
    parameters = [nn.Parameter(ct.tensor(rng.standard_normal(size).astype(dtype))) for size in (16400, (30, 41), 7)]
    optimizer = make(parameters)
    for _ in range(7):  # RAdam takes another way from the sixth on
        for parameter in parameters:
            parameter.grad = ct.tensor(rng.standard_normal(parameter.shape).astype(dtype))
        optimizer.step()
    arrays = [each.data for each in parameters]
    arrays += [array for group in optimizer.groups for array in group.state.values()]
    return b"".join(array.tobytes() for array in arrays), optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_bits(name: str) -> None:
    make = OPTIMIZERS[name]
    fused, optimizer = trained(make, "llvm")
    assert optimizer._cutter._fused._loops, "no loop has been made"
    assert fused == trained(make, "numpy")[0]


@pytest.mark.parametrize("name", ["SGD, momentum", "AdamW"])
def test_of_bfloat16_too(name: str) -> None:
    fused, optimizer = trained(OPTIMIZERS[name], "llvm", ct.bfloat16)
    assert optimizer._cutter._fused._loops
    assert fused == trained(OPTIMIZERS[name], "numpy", ct.bfloat16)[0]


def test_an_update_that_does_more_than_arithmetic_is_left_as_it_is() -> None:
    def looks(block: Block) -> None:
        if float(block.grad.sum()) > 0:
            block.subtract(block.grad, 1.0, block.scratch[0])

    def stores(block: Block) -> None:
        block.data[3] = 0.0

    buffers = [np.ones(20_000, np.float32) for _ in range(2)]
    for update in (looks, stores):
        assert not FusedUpdate("test", 1).run(update, {}, buffers, 0, {})
    assert all((buffer == 1).all() for buffer in buffers)


def test_an_update_that_catches_the_refusal_is_left_as_it_is() -> None:
    def caught(block: Block) -> None:
        try:
            size = block.data.size
        except Exception:
            size = 7
        block.xp.multiply(block.data, 1 / size, block.data)

    def unwritten(block: Block) -> None:
        block.xp.add(block.data, block.scratch[0], block.data)

    def compared(block: Block) -> None:
        block.xp.multiply(block.data, 2.0 if block.data == 0 else 3.0, block.data)

    def asked(block: Block) -> None:
        block.xp.multiply(block.data, 2.0 if hasattr(block.xp, "linalg") else 3.0, block.data)

    for update in (caught, unwritten, compared, asked):
        buffers = [np.ones(20_000, np.float32) for _ in range(2)]
        assert not FusedUpdate("test", 1).run(update, {}, buffers, 0, {})
        assert (buffers[0] == 1).all()


def test_numbers_may_change_at_each_step() -> None:
    fused = FusedUpdate("test", 1)
    buffers = [np.ones(20_000, np.float32), np.full(20_000, 2.0, np.float32)]
    for factor in (0.5, 0.25):
        assert fused.run(lambda block, f=factor: block.subtract(block.grad, f, block.scratch[0]), {}, buffers, 0, {})
    assert (buffers[0] == -0.5).all()
    assert len(fused._loops) == 1


@pytest.mark.parametrize("lacks", ["a loop", "arithmetic", "one way"])
def test_an_update_without_a_loop_is_watched_no_more(lacks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = []

    def update(block: Block) -> None:
        watched.append(block.count)
        if lacks == "arithmetic":
            block.xp.cumsum(block.data)
        for _ in range(block.count if lacks == "one way" else 1):
            block.subtract(block.grad, 0.5, block.scratch[0])

    if lacks == "a loop":
        monkeypatch.setattr(fusing.registry, "generator", lambda xp: lambda *given: None)
    monkeypatch.setattr(fusing, "MOST_WAYS", 2)
    fused = FusedUpdate("test", 1)
    buffers = [np.ones(20_000, np.float32) for _ in range(2)]
    found = [fused.run(update, {}, buffers, count, {}) for count in (1, 1, 2, 3, 1, 4)]
    assert (found, watched) == {
        "a loop": ([False] * 6, [1]),
        "arithmetic": ([False] * 6, [1]),
        "one way": ([True, True, True, False, False, False], [1, 1, 2, 3]),
    }[lacks]


def test_an_update_that_writes_nothing_yet_is_watched_again() -> None:
    def update(block: Block) -> None:
        if block.count > 2:
            block.subtract(block.grad, 0.5, block.scratch[0])

    fused = FusedUpdate("test", 1)
    buffers = [np.ones(20_000, np.float32) for _ in range(2)]
    assert [fused.run(update, {}, buffers, count, {}) for count in (1, 2, 3)] == [False, False, True]
