"""Laws of resuming: going on from any batch equals never having stopped, and reads nothing again."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordee import trainer
from cordee.trainer import data, elastic, nn, optim
from cordee.trainer.data import DataLoader, RandomSampler, TensorDataset, WeightedRandomSampler


@pytest.fixture
def support(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("data_support")


def values(batch: Any) -> list[int]:
    return batch.x.numpy().tolist()  # type: ignore[no-any-return]


def make(size: int, batch_size: int, kind: str, num_workers: int = 0) -> DataLoader:
    dataset = TensorDataset(np.arange(size))
    sampler = {
        "shuffle": None,
        "replacement": RandomSampler(dataset, True, size),
        "weighted": WeightedRandomSampler(np.arange(1, size + 1), size),
    }[kind]
    return DataLoader(dataset, batch_size, kind == "shuffle", sampler, num_workers=num_workers)


@given(
    st.integers(1, 40), st.integers(1, 12), st.sampled_from(["shuffle", "replacement", "weighted"]), st.integers(0, 60)
)
def test_going_on_equals_never_having_stopped(size: int, batch_size: int, kind: str, stop: int) -> None:
    straight = make(size, batch_size, kind)
    expected = [values(batch) for _ in range(4) for batch in straight]
    stop = stop % (2 * len(straight)) + 1
    first, seen = make(size, batch_size, kind), []
    while len(seen) < stop:
        for batch in first:
            seen.append(values(batch))
            if len(seen) == stop:
                break
    state = json.loads(json.dumps(first.state_dict()))
    second = make(size, batch_size, kind)
    second.load_state_dict(state)
    assert second.state_dict() == state
    while len(seen) < len(expected):
        seen.extend(values(batch) for batch in second)
    assert seen[: len(expected)] == expected


@pytest.mark.parametrize("num_workers", [0, 3])
def test_what_workers_have_loaded_ahead_does_not_count(num_workers: int) -> None:
    loader = make(40, 4, "shuffle", num_workers)
    for index, _ in enumerate(loader):
        assert loader.state_dict()["index"] == (index + 1) % 10
        assert loader.state_dict()["epoch"] == (index + 1) // 10
    assert (loader.state_dict()["epoch"], loader.state_dict()["index"]) == (1, 0)


def test_a_sample_is_not_read_again(support: Any) -> None:
    first = DataLoader(support.Seeking(1000), 10)
    for index, _ in enumerate(first):
        if index == 60:
            break
    dataset = support.Seeking(1000)
    second = DataLoader(dataset, 10)
    second.load_state_dict(first.state_dict())
    assert len(list(second)) == 39
    assert (dataset.opened, dataset.read) == ([610], 390)


def test_an_epoch_can_be_set_by_hand() -> None:
    loader = make(10, 3, "shuffle")
    list(loader)
    loader.epoch = 5
    assert (loader.state_dict()["epoch"], loader.state_dict()["index"]) == (5, 0)
    assert [values(batch) for batch in loader] == [values(loader.batch(5, index)) for index in range(4)]


def test_a_state_of_other_data_is_refused() -> None:
    state = make(10, 3, "shuffle").state_dict()
    with pytest.raises(ValueError, match="its batches would be others"):
        make(10, 4, "shuffle").load_state_dict(state)
    helped = make(10, 3, "shuffle", num_workers=2)
    helped.load_state_dict(state)  # how it is loaded is not part of what it is


@pytest.mark.parametrize(
    "kind",
    [
        {"num_workers": 2},
        pytest.param({"num_workers": 2, "workers": "processes"}, marks=pytest.mark.slow),
        {"num_workers": 1, "prefetch_factor": 7},
    ],
)
def test_an_elastic_run_ends_with_the_same_weights_whoever_loads(support: Any, kind: dict[str, Any]) -> None:
    def train(loader: DataLoader) -> str:
        trainer.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Linear(4, 1))
        run = elastic.Run(model, optim.SGD(model.parameters(), lr=0.01), loader)
        for step in run.steps(epochs=2):
            for batch in step.shards:
                step.backward((model(batch["x"]) ** 2).mean())
            assert step.commit()
        return run.weights_sha256()

    def loader(**kwargs: Any) -> DataLoader:
        return DataLoader(support.Augmented(30), 8, shuffle=True, shards=4, **kwargs)

    assert train(loader(**kind)) == train(loader())


def test_an_elastic_run_trains_on_a_stream_with_a_length(support: Any) -> None:
    def train(**kwargs: Any) -> str:
        trainer.manual_seed(0)
        model = nn.Linear(1, 1)
        loader = DataLoader(support.Seeking(21), 8, shards=3, **kwargs)
        run = elastic.Run(model, optim.SGD(model.parameters(), lr=1e-9), loader)
        for step in run.steps(epochs=2):
            for batch in step.shards:
                step.backward((model(batch.x.float().reshape(-1, 1)) - batch.y.reshape(-1, 1)).abs().mean())
            assert step.commit()
        assert run.samples == 42
        return run.weights_sha256()

    assert train() == train(num_workers=2)


def test_the_generator_argument_is_a_seed() -> None:
    class Generator:
        def initial_seed(self) -> int:
            return 9

    dataset = TensorDataset(np.arange(20))
    expected = [values(batch) for batch in DataLoader(dataset, 4, True, seed=9)]
    assert [values(batch) for batch in DataLoader(dataset, 4, True, generator=9)] == expected
    assert [values(batch) for batch in DataLoader(dataset, 4, True, generator=Generator())] == expected
    assert data.random_split(range(10), [5, 5], 9)[0].indices.tolist() == (
        data.random_split(range(10), [5, 5], Generator())[0].indices.tolist()
    )
