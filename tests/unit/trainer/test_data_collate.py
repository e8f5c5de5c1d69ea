"""Laws of stacking: what samples hold comes out with the samples along a new first axis, however it is nested."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
import pytest

from cordee import trainer
from cordee.trainer import data
from cordee.trainer.data import Batch, DataLoader, default_collate, default_convert, pad_collate
from cordee.trainer.tensors import Tensor

Point = namedtuple("Point", ["x", "y"])


def plain(value: Any) -> Any:
    """With tensors as (type, values)."""
    if isinstance(value, Tensor):
        return value.dtype.name, value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(plain, value))
    if isinstance(value, (tuple, list)):
        return type(value)(map(plain, value))
    return value


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([1, 2], ("int64", [1, 2])),
        ([1.5, 2.5], ("float32", [1.5, 2.5])),
        ([1, 2.5], ("float32", [1.0, 2.5])),
        ([True, False], ("bool", [True, False])),
        ([1j, 2j], ("complex64", [1j, 2j])),
        (["a", "b"], ["a", "b"]),
        ([b"a", b"b"], [b"a", b"b"]),
        ([np.float64(1.5), np.float64(2)], ("float64", [1.5, 2.0])),
        ([np.uint8([1, 2]), np.uint8([3, 4])], ("uint8", [[1, 2], [3, 4]])),
        ([trainer.tensor([1.0]), trainer.tensor([2.0])], ("float32", [[1.0], [2.0]])),
        ([(1, "a"), (2, "b")], (("int64", [1, 2]), ["a", "b"])),
        ([[1, 2], [3, 4]], [("int64", [1, 3]), ("int64", [2, 4])]),
        ([{"a": 1, "b": (2, 3)}], {"a": ("int64", [1]), "b": (("int64", [2]), ("int64", [3]))}),
        ([Point(1, {"z": 2.0})], Point(("int64", [1]), {"z": ("float32", [2.0])})),
    ],
)
def test_everything_is_stacked_as_deep_as_it_lies(samples: list[Any], expected: Any) -> None:
    assert plain(default_collate(samples)) == expected


@pytest.mark.torch
def test_the_structure_is_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    for sample in [
        1, 2.0, "a", np.ones((2, 3), np.float32), (1, "a"), {"a": 1, "b": {"c": np.zeros(2)}}, Point(1, 2.0), [1, 2],
    ]:  # fmt: skip
        ours, theirs = default_collate([sample] * 3), torch.utils.data.default_collate([sample] * 3)

        def compare(ours: Any, theirs: Any) -> None:
            if isinstance(theirs, dict):
                assert ours.keys() == theirs.keys()
                for key in theirs:
                    compare(ours[key], theirs[key])
            elif isinstance(theirs, (list, tuple)):
                assert len(ours) == len(theirs)
                for one, other in zip(ours, theirs, strict=True):
                    compare(one, other)
            elif isinstance(theirs, torch.Tensor):
                assert ours.shape == tuple(theirs.shape)
                assert ours.tolist() == theirs.tolist()
            else:
                assert ours == theirs

        compare(ours, theirs)


def test_converting_leaves_alone_what_is_no_array() -> None:
    converted = default_convert({"a": np.ones(2), "b": ["x", np.array(["y"]), 3]})
    assert isinstance(converted["a"], Tensor)
    assert converted["b"][0] == "x"
    assert isinstance(converted["b"][1], np.ndarray)
    assert converted["b"][2] == 3
    tensor = trainer.ones(2)
    assert default_convert(tensor) is tensor


def test_a_batch_of_dicts_has_names() -> None:
    loader = DataLoader([{"y": 1, "x": 2.0, "name": "a"}, {"y": 3, "x": 4.0, "name": "b"}], 2)
    (batch,) = loader
    assert list(batch) == ["y", "x", "name"] == list(batch.keys())
    assert batch.x.tolist() == batch["x"].tolist() == [2.0, 4.0]
    assert batch.y.tolist() == [1, 3]
    assert batch["name"] == ["a", "b"]
    assert "name" in batch
    assert len(batch) == 2
    assert dict(**batch)["name"] == ["a", "b"]
    assert [key for key, _ in batch.items()] == list(batch)
    assert len(batch.values()) == 3
    assert repr(batch) == "Batch(y: int64[2], x: float32[2], name: list)"
    with pytest.raises(TypeError, match="have no names"):
        Batch([trainer.ones(2)])["x"]
    with pytest.raises(ValueError, match="at least one field"):
        Batch([])


def test_a_collate_fn_may_return_what_it_likes() -> None:
    samples = [{"nodes": 2}, {"nodes": 3}]
    (batch,) = DataLoader(samples, 2, collate_fn=lambda samples: np.zeros(sum(s["nodes"] for s in samples)))
    assert batch.x.shape == (5,)
    assert len(batch) == 2  # samples, which the loss is weighted by
    (batch,) = DataLoader(samples, 2, collate_fn=lambda samples: {"all": samples})
    assert batch["all"] == samples
    (batch,) = DataLoader(samples, 2, collate_fn=lambda samples: "text")
    assert batch[0] == "text"


def test_padding_makes_samples_equally_long() -> None:
    samples = [(np.array([1, 2, 3]), 7), (np.array([4]), 8)]
    x, y, lengths = pad_collate(value=-1, lengths=True)(samples)
    assert x.tolist() == [[1, 2, 3], [4, -1, -1]]
    assert (y.tolist(), lengths.tolist()) == ([7, 8], [3, 1])
    assert pad_collate(multiple_of=4)(samples)[0].shape == (2, 4)
    (only,) = pad_collate()([[1.0], [2.0, 3.0]])
    assert (only.dtype, only.tolist()) == (np.float32, [[1.0, 0.0], [2.0, 3.0]])
    named = pad_collate(lengths=True)([{"ids": [1]}, {"ids": [1, 2]}])
    assert (named["ids"].tolist(), named["lengths"].tolist()) == ([[1, 0], [1, 2]], [1, 2])
    (planes,) = pad_collate()([np.ones((1, 2), np.uint8), np.ones((2, 1), np.uint8)])
    assert (planes.dtype, planes.tolist()) == (np.uint8, [[[1, 1], [0, 0]], [[1, 0], [1, 0]]])
    (batch,) = DataLoader(samples, 2, collate_fn=pad_collate())
    assert (batch.x.shape, len(batch)) == ((2, 3), 2)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_is_a_batch_already_is_handed_out_as_it_is(num_workers: int) -> None:
    ready = [(np.ones((3, 2)), ["a"]), (np.zeros((1, 2)), ["b"])]
    batches = list(DataLoader(ready, None, num_workers=num_workers))
    assert [(batch.x.shape, batch[1]) for batch in batches] == [((3, 2), ["a"]), ((1, 2), ["b"])]
    (first, _) = DataLoader(ready, None, collate_fn=lambda sample: sample[0] + 1, num_workers=num_workers)
    assert first.x.tolist() == [[2.0, 2.0]] * 3
    assert repr(DataLoader(ready, None)) != repr(DataLoader(ready, 1))


class Batched(data.Dataset[Any]):
    """Gives many at once, as PyTorch's `__getitems__`."""

    short = False

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("one at a time")

    def __getitems__(self, indices: list[int]) -> list[Any]:
        assert all(type(index) is int for index in indices)
        return [(index, f"{index}") for index in indices][int(self.short) :]


def test_getitems_is_asked_once_per_batch() -> None:
    batches = list(DataLoader(Batched(), 4))
    assert [batch.x.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert batches[2][1] == ["8", "9"]
    dataset = Batched()
    dataset.short = True
    with pytest.raises(ValueError, match=r"Batched.__getitems__ gave 3 samples where 4 were asked for"):
        next(iter(DataLoader(dataset, 4)))


class WrongFetch:
    def __len__(self) -> int:
        return 10

    def fetch(self, indices: Any) -> Any:
        return (np.zeros(1),)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: default_collate([]), ValueError, "no samples to stack"),
        (lambda: default_collate([1, "a"]), TypeError, "not all of them are numbers"),
        (lambda: default_collate([1, [2]]), ValueError, "different shapes"),
        (lambda: default_collate([object()]), TypeError, "cannot be stacked: object is no number"),
        (lambda: default_collate([{"a": (1, np.ones(1))}, {"a": (1, np.ones(2))}]), ValueError,
         "field 1 of field 'a' of the samples has different shapes"),
        (lambda: pad_collate()([np.ones(1), np.ones((1, 1))]), ValueError, "different shapes"),
        (lambda: pad_collate(multiple_of=0), ValueError, "multiple_of must be at least 1"),
        (lambda: DataLoader(WrongFetch(), 2).batch(0, 0), ValueError, "WrongFetch.fetch gave 1 samples where 2 were"),
    ],
)  # fmt: skip
def test_a_mistake_is_a_sentence(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()
