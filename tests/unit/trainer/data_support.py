"""Datasets that data workers can import: a process that is started afresh knows no test module."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from cordee import trainer
from cordee.trainer import data


class Augmented(data.Dataset[Any]):
    """Every sample has noise of its own, by both ways of drawing, and things of all kinds in it."""

    def __init__(self, size: int) -> None:
        self.base = np.arange(size, dtype=np.float32)

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "x": self.base[index] + data.sample_rng().random(3, dtype=np.float32),
            "y": (index, trainer.randn(2)),
            "name": f"sample {index}",
            "again": data.sample_rng().random(),
        }


class Plain(data.Dataset[Any]):
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        return index


class Failing(Plain):
    def __getitem__(self, index: int) -> Any:
        if index == 21:
            raise LookupError("sample 21 is broken")
        return index


class Unreadable(Exception):
    """Cannot be made again from its pickle."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class FailingOddly(Plain):
    def __getitem__(self, index: int) -> Any:
        raise Unreadable(1, 2)


class Suicidal(Plain):
    def __getitem__(self, index: int) -> Any:
        if index == 21:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


class Quitting(Plain):
    def __getitem__(self, index: int) -> Any:
        os._exit(7)


class Sleeping(Plain):
    def __getitem__(self, index: int) -> Any:
        time.sleep(1000)


class WhoAmI(Plain):
    def __getitem__(self, index: int) -> Any:
        info = data.get_worker_info()
        assert info is not None
        assert info.dataset is self
        return os.getpid(), info.id, info.num_workers, getattr(info.dataset, "opened_by", -1)


def open_in_worker(number: int) -> None:
    info = data.get_worker_info()
    assert info is not None
    info.dataset.opened_by = number


class Counting(data.IterableDataset[Any]):
    """The numbers from 0, each with noise; knows nothing but how to be iterated."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.epoch = 0
        self.read = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        for number in range(self.size):
            self.read += 1
            yield number + 1000 * self.epoch, data.sample_rng().random()


class Seeking(data.IterableDataset[Any]):
    """The same, but it can begin anywhere, and has a length."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.read = 0
        self.opened: list[int] = []

    def __len__(self) -> int:
        return self.size

    def stream(self, epoch: int, start: int) -> Iterator[Any]:
        self.opened.append(start)
        for number in range(start, self.size):
            self.read += 1
            yield number + 1000 * epoch, data.sample_rng().random()


class Skipping(Seeking):
    """The same, and its iterator can skip."""

    def stream(self, epoch: int, start: int) -> Iterator[Any]:
        self.opened.append(start)
        return SkippingIterator(self, epoch, start)


class SkippingIterator:
    def __init__(self, owner: Skipping, epoch: int, start: int) -> None:
        self.owner, self.epoch, self.position = owner, epoch, start

    def __iter__(self) -> SkippingIterator:
        return self

    def skip(self, count: int) -> None:
        self.position += count

    def __next__(self) -> Any:
        if self.position >= self.owner.size:
            raise StopIteration
        self.position += 1
        self.owner.read += 1
        return self.position - 1 + 1000 * self.epoch, data.sample_rng().random()
