"""Buffers that forward changes end the same whoever computed which shard, and as one step would move them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cordee.trainer as ct
from cordee.trainer import data, elastic, nn, optim
from cordee.trainer.array import as_array, to_numpy
from cordee.trainer.elastic.buffers import ShardBuffers, buffer_places

SAMPLES = (3, 3, 2, 0, 1)


def _worker(shards: list[int]) -> tuple[ShardBuffers, list[ct.Tensor]]:
    """A worker that has computed some shards, each of which moves the mean, counts, and leaves the rest alone."""
    mean, count, fixed = (
        ct.Tensor(as_array(array)) for array in (np.zeros(3, np.float32), np.array(4), np.arange(2.0))
    )
    module = nn.Module()
    for name, tensor in (("mean", mean), ("count", count), ("fixed", fixed)):
        module.register_buffer(name, tensor)
    kept = ShardBuffers(buffer_places(module))
    for shard in shards:
        if SAMPLES[shard]:
            mean.data[...] = mean.data * 0.9 + as_array(np.float32([shard, 1 / (shard + 1), -shard]) * np.float32(0.1))
            count.data[...] = count.data + 1
        kept.fold(shard, SAMPLES[shard])
    return kept, [mean, count, fixed]


@given(st.lists(st.integers(0, 3), min_size=5, max_size=5))
def test_the_world_makes_no_difference(owners: list[int]) -> None:
    alone, expected = _worker(list(range(5)))
    alone.apply([alone.pack()], sum(SAMPLES))
    workers = [_worker([shard for shard in range(5) if owners[shard] == rank]) for rank in range(4)]
    packed = [kept.pack() for kept, _ in workers]
    for kept, tensors in workers:
        kept.apply(packed, sum(SAMPLES))
        for tensor, want in zip(tensors, expected, strict=True):
            np.testing.assert_array_equal(to_numpy(tensor.data), to_numpy(want.data))
    weights = np.array(SAMPLES) / sum(SAMPLES)
    mean = sum(w * np.array([s, 1 / (s + 1), -s]) * 0.1 for s, w in enumerate(weights))
    np.testing.assert_allclose(to_numpy(expected[0].data), mean, rtol=1e-5)
    assert int(expected[1].item()) == 5


def test_a_step_moves_running_statistics_once() -> None:
    ct.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(3, momentum=0.1), nn.Linear(3, 2))
    x = np.random.default_rng(0).standard_normal((32, 3)).astype(np.float32)
    loader = data.DataLoader(data.TensorDataset(x, np.zeros(32, np.int64)), batch_size=32, shards=4)
    run = elastic.Run(model, optim.SGD(model.parameters(), lr=0.1), loader)
    for step in run.steps(1):
        for batch in step.shards:
            step.backward(nn.functional.cross_entropy(model(batch.x), batch.y))
        step.commit()
    np.testing.assert_allclose(to_numpy(model[0].running_mean.data), 0.1 * x.mean(0), rtol=1e-4)
    assert model[0].num_batches_tracked.item() == 1


def test_another_scripts_buffers_are_refused() -> None:
    kept, _ = _worker([0])
    other = ShardBuffers([])
    with pytest.raises(ValueError, match="not the same script"):
        other.apply([kept.pack()], 9)


class Rebinding(nn.Module):
    """Keeps its statistics as many write it: by binding the name anew."""

    def __init__(self) -> None:
        self.register_buffer("mean", ct.zeros(3))
        self.linear = nn.Linear(3, 2)

    def forward(self, x: ct.Tensor) -> ct.Tensor:
        with ct.no_grad():
            self.mean = self.mean * 0.9 + x.mean(0) * 0.1
        out: ct.Tensor = self.linear(x - self.mean)
        return out


def test_buffers_that_are_bound_anew_are_kept_the_same_too() -> None:
    ct.manual_seed(0)
    model = Rebinding()
    x = np.random.default_rng(0).standard_normal((32, 3)).astype(np.float32)
    loader = data.DataLoader(data.TensorDataset(x, np.zeros(32, np.int64)), batch_size=32, shards=4)
    for step in elastic.Run(model, optim.SGD(model.parameters(), lr=0.1), loader).steps(1):
        for batch in step.shards:
            step.backward(nn.functional.cross_entropy(model(batch.x), batch.y))
        step.commit()
    np.testing.assert_allclose(to_numpy(model.mean.data), 0.1 * x.mean(0), rtol=1e-4)


def _held(**buffers: Any) -> tuple[ShardBuffers, nn.Module]:
    module = nn.Module()
    for name, array in buffers.items():
        module.register_buffer(name, None if array is None else ct.Tensor(as_array(np.asarray(array))))
    return ShardBuffers(buffer_places(module)), module


def _after(change: Callable[[nn.Module, int], None], shards: int = 3, **buffers: Any) -> nn.Module:
    """The buffers after a step of some shards of two samples each, the last of which are another worker's."""
    worlds = [_held(**buffers) for _ in range(2)]
    for shard in range(shards):
        kept, module = worlds[shard == shards - 1]
        change(module, shard)
        kept.fold(shard, 2)
    packed = [kept.pack() for kept, _ in worlds]
    for kept, _ in worlds:
        kept.apply(packed, 2 * shards)
    modules = [module for _, module in worlds]
    for name in buffers:
        np.testing.assert_array_equal(*(to_numpy(getattr(module, name).data) for module in modules))
    return modules[0]


def test_flags_are_kept_the_same() -> None:
    def change(module: Any, shard: int) -> None:
        if shard == 2:
            module.flags.data[0] = True
        module.flags.data[1] = False

    assert _after(change, flags=[False, True, True]).flags.tolist() == [True, False, True]


def test_a_counter_wraps_as_it_does_anywhere() -> None:
    def change(module: Any, shard: int) -> None:
        module.count.data[...] += np.int8(1)

    assert _after(change, count=np.int8(127)).count.item() == -128


def test_numbers_without_dimensions_and_complex_ones() -> None:
    def change(module: Any, shard: int) -> None:
        module.zero.data[...] += np.float32(shard)
        module.turn.data[...] *= np.complex64(1j if shard else 1)

    after = _after(change, zero=np.float32(1), turn=np.complex64(3))
    assert after.zero.item() == 2
    assert after.turn.item() == pytest.approx(1 + 2j)


def test_a_sign_of_zero_is_a_change_and_nan_alone_is_none() -> None:
    kept, module = _held(zero=np.zeros(2, np.float32), nothing=np.full(2, np.nan))
    kept.fold(0, 1)
    assert kept.pack() == b""
    held: Any = module
    held.zero.data[1] = -0.0
    kept.fold(1, 1)
    assert len(kept.pack()) == 12 + 4 + 8
    assert not np.signbit(to_numpy(held.zero.data)).any(), "the next shard finds what was before"


def test_a_large_buffer_is_compared_too() -> None:
    def change(module: Any, shard: int) -> None:
        module.large.data[-1] += 3.0

    assert _after(change, large=np.zeros(20_001)).large[-1].item() == 3


def test_what_forward_binds_in_a_buffers_place_is_not_written_to() -> None:
    """It may be the batch itself, or an output."""
    kept, module = _held(last=np.zeros(2))
    held: Any = module
    original, batch = held.last, ct.ones(2)
    batch.data = batch.data.astype(np.float64)
    held.last = batch
    kept.fold(0, 2)
    assert batch.tolist() == [1, 1]
    assert held.last is original
    assert original.tolist() == [0, 0]
    kept.apply([kept.pack()], 2)
    assert original.tolist() == [1, 1]


def test_a_buffer_that_is_an_attribute_of_that_class_counts() -> None:
    module = nn.Module()
    module.seen = nn.Buffer(np.zeros(1))  # type: ignore[assignment]
    assert buffer_places(module) == [(module, "seen")]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (None, np.zeros(2), r"'it' was None before this step, and is float64\[2\] now"),
        (np.zeros(2), None, r"was float64\[2\] before this step, and is None now"),
        (np.zeros(0), np.zeros(2), r"was float64\[0\] before this step, and is float64\[2\] now"),
        (np.zeros(2), np.zeros(2, np.float32), r"is float32\[2\] now: buffers keep their shape and dtype"),
    ],
)
def test_a_buffer_that_comes_goes_or_grows_is_refused(before: Any, after: Any, message: str) -> None:
    kept, module = _held(it=before)
    held: Any = module
    held.it = None if after is None else ct.Tensor(as_array(after))
    with pytest.raises(ValueError, match=message):
        kept.fold(0, 1)
    with pytest.raises(ValueError, match=message):
        kept.begin()


def test_what_the_script_does_before_the_shards_stays_and_is_taken_back_with_a_lost_step() -> None:
    kept, module = _held(mean=np.ones(2))
    held: Any = module
    held.mean.data *= 3
    kept.begin()
    for shard in range(2):
        held.mean.data += 1
        kept.fold(shard, 1)
    kept.apply([kept.pack()], 2)
    assert held.mean.tolist() == [4, 4]
    kept.take_back()
    assert held.mean.tolist() == [1, 1]


def test_two_names_of_one_buffer_are_one() -> None:
    def change(module: Any, shard: int) -> None:
        module.one.data += shard

    worlds = []
    for _ in range(2):
        module: Any = nn.Module()
        module.register_buffer("one", ct.zeros(2))
        module.child = nn.Module()
        module.child.register_buffer("other", module.one)
        worlds.append((ShardBuffers(buffer_places(module)), module))
    for shard in range(3):
        change(worlds[shard % 2][1], shard)
        worlds[shard % 2][0].fold(shard, 1)
    packed = [kept.pack() for kept, _ in worlds]
    for kept, module in worlds:
        kept.apply(packed, 3)
        assert module.one is module.child.other
        assert module.one.tolist() == [1, 1]
