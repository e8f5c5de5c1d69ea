"""Buffers that forward changes end the same whoever computed which shard, and as one step would move them."""

from __future__ import annotations

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
