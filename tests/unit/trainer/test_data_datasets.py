"""Laws of datasets made of datasets: their samples are those of their parts, one at a time and many at once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordee.trainer.array import device_name, to_numpy
from cordee.trainer.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    MappedDataset,
    StackDataset,
    Subset,
    TensorDataset,
    random_split,
)


class Named:
    """Gives many at once, by name."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = np.array(numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"n": self.numbers[index]}

    def fetch(self, indices: Any) -> dict[str, Any]:
        return {"n": self.numbers[indices]}


class Squares(Dataset[int]):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < 5:
            raise IndexError(index)
        return index**2


def all_at_once(dataset: Any) -> list[int]:
    (batch,) = DataLoader(dataset, len(dataset))
    return batch[0].tolist() if not isinstance(next(iter(batch)), str) else batch["n"].tolist()  # type: ignore[no-any-return]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.data())
def test_a_sum_has_the_samples_of_its_parts(sizes: list[int], drawn: st.DataObject) -> None:
    numbers = np.arange(sum(sizes)) * 10
    ends = np.cumsum(sizes)
    whole = ConcatDataset([TensorDataset(part) for part in np.split(numbers, ends[:-1])])
    assert [int(whole[index][0]) for index in range(len(whole))] == numbers.tolist()
    assert int(whole[-1][0]) == numbers[-1]
    indices = np.array(drawn.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=9)))
    assert whole.fetch(indices)[0].tolist() == numbers[indices].tolist()


def test_sums_of_other_kinds() -> None:
    assert all_at_once(Squares() + range(7, 9)) == [0, 1, 4, 9, 16, 7, 8]
    assert all_at_once(ConcatDataset([Named(1, 2), Named(3)])) == [1, 2, 3]
    assert all_at_once(Subset(ConcatDataset([Named(1, 2), Named(3)]), [2, 0])) == [3, 1]
    assert all_at_once(Subset(Squares(), [4, 1, -1])) == [16, 1, 16]
    nested = ConcatDataset([ConcatDataset([TensorDataset([1]), TensorDataset([2, 3])]), TensorDataset([4])])
    assert all_at_once(nested) == [1, 2, 3, 4]


def test_datasets_side_by_side() -> None:
    (batch,) = DataLoader(StackDataset(Squares(), [1.0] * 5), 5)
    assert (batch.x.tolist(), batch.y.tolist()) == ([0, 1, 4, 9, 16], [1.0] * 5)
    (batch,) = DataLoader(StackDataset(a=Squares(), b=list("abcde")), 5)
    assert (batch["a"].tolist(), batch["b"]) == ([0, 1, 4, 9, 16], list("abcde"))


def test_a_mapped_dataset_puts_every_sample_through_its_function() -> None:
    mapped = MappedDataset(Squares(), lambda sample: (sample, -sample))
    assert mapped[3] == (9, -9)
    (batch,) = DataLoader(mapped, 5)
    assert batch.y.tolist() == [0, -1, -4, -9, -16]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 5))
def test_a_split_deals_every_sample_to_one_part(lengths: list[int], seed: int) -> None:
    parts = random_split(range(sum(lengths)), lengths, seed=seed)
    assert [len(part) for part in parts] == lengths
    assert sorted(index for part in parts for index in part.indices.tolist()) == list(range(sum(lengths)))


def test_a_split_is_as_asked_for() -> None:
    assert [len(part) for part in random_split(range(11), [0.5, 0.25, 0.25])] == [6, 3, 2]
    first, again, other = (random_split(range(100), [50, 50], seed=seed)[0].indices.tolist() for seed in (1, 1, 2))
    assert first == again != other
    counts = Counter(index for seed in range(400) for index in random_split(range(8), [2, 6], seed=seed)[0].indices)
    assert all(abs(count - 100) < 45 for count in counts.values())  # binomial, 5 standard deviations


def test_tensors_of_a_dataset_are_its_arrays() -> None:
    array = np.ones((3, 2), np.float32)
    (tensor,) = TensorDataset(array).tensors
    assert tensor.data is array if device_name() == "cpu" else (to_numpy(tensor.data) == array).all()


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: ConcatDataset([]), ValueError, "at least one dataset"),
        (lambda: ConcatDataset([iter([1])]), TypeError, "needs datasets with a length; list_iterator has none"),
        (lambda: ConcatDataset([[1]])[1], IndexError, "index 1 is out of range for a dataset of 1 samples"),
        (StackDataset, ValueError, "all in order or all by name"),
        (lambda: StackDataset([1], a=[1]), ValueError, "all in order or all by name"),
        (lambda: StackDataset([1], [1, 2]), ValueError, "equally many samples"),
        (lambda: random_split([1, 2], [1, 2]), ValueError, "sum to 2, the size of the dataset"),
        (lambda: random_split([1, 2], [3, -1]), ValueError, "not negative"),
        (lambda: random_split([1, 2], [1.5, 0.5]), ValueError, "whole numbers that sum to 2"),
        (lambda: Dataset()[0], NotImplementedError, "Dataset is to define __getitem__"),
    ],
)
def test_a_mistake_is_a_sentence(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()
