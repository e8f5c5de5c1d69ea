"""The loader: global batches, each cut into a fixed number of logical shards.

`batch_size` is the size of the *global* batch: all samples of one step, whoever computes them. How it is cut into
shards is decided by nothing but its size and their number (`plan`). So the sums over shards never depend on the number
of workers. What a step reads is a function of `(seed, epoch, index, shard)`: nothing is consumed, so doing a step again
reads the same samples, and resuming needs no state of the loader. Data workers load ahead (`prefetch`); they change how
fast a batch comes, and no bit of it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from cordee.trainer.data.batch import Batch
from cordee.trainer.data.collate import AsItIs, CollateFunction
from cordee.trainer.data.fetch import Fetched, Recipe, Task, hand_out
from cordee.trainer.data.pinned import pin
from cordee.trainer.data.plan import Plan, make_plan
from cordee.trainer.data.prefetch import Ahead, Key, MakeTask, Pool
from cordee.trainer.data.process import InThread, ProcessPlan, WorkerDiedError, kind_of_workers
from cordee.trainer.data.sampler import describe, seed_of, whole
from cordee.trainer.data.stream import is_stream

__all__ = ["DataLoader"]

_next_number = itertools.count().__next__
"""Tells the batches that different iterations are waiting for apart."""


class DataLoader:
    """Goes through a dataset in global batches; `len(loader)` is the number of steps per epoch.

    The arguments are PyTorch's, in its order, and four more at the end. What differs from PyTorch: the order of an
    epoch is decided by `seed` and the epoch's number; data workers are threads unless asked to be processes, which are
    started afresh, never forked; a `Batch` comes out, not a list; Python's floats become the default floating type.

    Args:
        dataset: anything with `len()` and an index (a `fetch` or `__getitems__` is used where there is one), or an
            `IterableDataset`.
        batch_size: samples per global batch. None: what the dataset gives is a batch already, and is handed out as it
            is (in an elastic run it counts as one sample).
        shuffle: visit the samples in a new order every epoch. It takes no memory and no time to start, for any size.
        sampler: which samples an epoch visits, in which order, instead of `shuffle`: one of `data`'s, or anything that
            can be iterated and has a length.
        batch_sampler: gives lists of sample numbers, instead of `batch_size`, `shuffle`, `sampler` and `drop_last`.
        num_workers: data workers that load ahead; 0 loads when asked. The batches are the same, bit for bit.
        collate_fn: makes what a batch holds of a list of samples; `default_collate` stacks them.
        pin_memory: copy batches into page-locked memory before they go to a GPU; on a CPU it does nothing.
        drop_last: leave out the last batch of an epoch when it is smaller than the others.
        timeout: seconds to wait for a data worker; 0 waits for ever.
        worker_init_fn: called in every data worker at its start, with its number.
        multiprocessing_context: "spawn" means `workers="processes"`; others are refused.
        generator: a seed, or a generator whose `initial_seed()` is taken. Use either this or `seed`.
        prefetch_factor: batches (in an elastic run: shards) loaded ahead per data worker; 2 by default.
        persistent_workers: keep the data workers between epochs. (An elastic run always does.)
        shards: how many logical shards a global batch is cut into. It is part of what decides the weights, the number
            of workers is not; so choose at least the largest number of workers, and leave it.
        seed: decides the order, and what `data.sample_rng()` draws.
        workers: "threads", which share memory with the training and are enough where NumPy or files take the time, or
            "processes", for samples that are made in Python.
        steps_per_epoch: where an epoch of a stream ends that has no length or no end.

    Raises:
        TypeError: an argument is of the wrong kind, or the dataset cannot be sent to processes.
        ValueError: arguments contradict each other, or leave nothing to load.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Any = None,
        batch_sampler: Any = None,
        num_workers: int = 0,
        collate_fn: CollateFunction | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], object] | None = None,
        multiprocessing_context: str | None = None,
        generator: Any = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        shards: int = 8,
        seed: int = 0,
        workers: Literal["threads", "processes"] = "threads",
        steps_per_epoch: int | None = None,
    ) -> None:
        self.dataset = dataset
        self.batch_size = 1 if batch_size is None else whole("batch_size", batch_size, least=1)
        self.shuffle = bool(shuffle)
        self.drop_last = bool(drop_last)
        self.num_shards = whole("shards", shards, least=1)
        self.seed = seed_of(generator, seed)
        self.collate_fn = AsItIs(collate_fn) if batch_size is None else collate_fn
        self.sampler: Any = sampler
        self.batch_sampler: Any = batch_sampler
        self.steps_per_epoch = None if steps_per_epoch is None else whole("steps_per_epoch", steps_per_epoch, least=1)
        self._stream = is_stream(dataset)
        self._plan = make_plan(self)
        self._recipe = Recipe(dataset, self.collate_fn, self.seed)

        self.num_workers = whole("num_workers", num_workers, least=0)
        self.pin_memory = bool(pin_memory)
        self.timeout = float(timeout)
        self.worker_init_fn = worker_init_fn
        self.persistent_workers = bool(persistent_workers)
        self.workers = kind_of_workers(workers, multiprocessing_context)
        self._check_workers(prefetch_factor)
        self.prefetch_factor = 2 if prefetch_factor is None else whole("prefetch_factor", prefetch_factor, least=1)
        self._pool: Pool | None = None
        self._course: _Course | None = None

        self.epoch = 0
        """The epoch that the next plain iteration (`for x, y in loader`) goes through; each one moves it on."""
        self._resume_at: tuple[int, int] | None = None
        self._position: tuple[int, int] | None = None
        self.waited_seconds = 0.0
        """How long batches and shards have been waited for so far: for data workers, or, without any, while they were
        loaded."""

    # Sizes

    def __len__(self) -> int:
        """Steps per epoch."""
        if self._plan.num_batches is None:
            raise TypeError(
                f"how many steps an epoch has is not known: {type(self.dataset).__name__} has no length; give it a "
                "__len__(), or give the loader steps_per_epoch"
            )
        return self._plan.num_batches

    @property
    def num_dataset_samples(self) -> int:
        return len(self.dataset)

    @property
    def samples_per_epoch(self) -> int:
        return self._plan.samples_per_epoch

    def num_samples(self, index: int, epoch: int = 0) -> int:
        """How many samples the global batch `index` has; the same in every epoch, unless a batch sampler decides."""
        self._check_index(index)
        return self._plan.num_samples(epoch, index)

    def shard_bounds(self, index: int, shard: int, epoch: int = 0) -> tuple[int, int]:
        """Where in the global batch `index` this shard lies: `[start, stop)`."""
        if not 0 <= shard < self.num_shards:
            raise IndexError(f"no shard {shard}: a global batch has {self.num_shards}, counted from 0")
        count = self.num_samples(index, epoch)
        return shard * count // self.num_shards, (shard + 1) * count // self.num_shards

    def batch_indices(self, epoch: int, index: int) -> Any:
        """The numbers of the samples of a global batch, in order: an int64 array, not to be written to."""
        indices = self._plan.task(epoch, index, 0, self.num_samples(index, epoch)).indices
        if indices is None:
            raise TypeError("the samples of a stream have no numbers")
        return indices

    # Any batch, any shard

    def batch(self, epoch: int, index: int) -> Batch:
        """A whole global batch."""
        return hand_out(self._load(self._plan.task(epoch, index, 0, self.num_samples(index, epoch))))

    def shard_batch(self, epoch: int, index: int, shard: int) -> Batch | None:
        """One shard of a global batch; None when the batch has too few samples to give this shard one.

        It is at hand when data workers have loaded it ahead (see `expect`), and is else loaded now.
        """
        start, stop = self.shard_bounds(index, shard, epoch)
        if start == stop:
            return None
        course = self._course
        if course is not None:
            key = (course.number, epoch, index, shard)
            if course.ahead.expects(key):
                return hand_out(self._take(course.ahead, key))
        started = time.perf_counter()
        fetched = self._load(self._plan.task(epoch, index, start, stop))
        self.waited_seconds += time.perf_counter() - started
        return hand_out(fetched)

    def expect(self, epoch: int, index: int, shards: tuple[int, int]) -> None:
        """Says that shards `[shards[0], shards[1])` of this batch are read next, then those of the following ones.

        An elastic step says it. With data workers they are loaded ahead from now on; what was loaded ahead and is no
        longer wanted, because the world has changed, is dropped.
        """
        if not self.num_workers:
            return
        course = self._course
        if course is None or course.ahead.closed:
            number = _next_number()
            ahead = Ahead(self._workers(), self._shards_from(number, epoch, index, shards), self._depth)
            course = self._course = _Course(number, shards, ahead)
        elif course.shards != shards or course.following != (epoch, index):
            course.shards = shards
            course.ahead.turn_to(self._shards_from(course.number, epoch, index, shards))
        course.following = (epoch, index + 1) if index + 1 < len(self) else (epoch + 1, 0)

    # Epochs

    def __iter__(self) -> Iterator[Batch]:
        """One epoch of whole global batches; the rest of one, after `load_state_dict`."""
        start = 0
        if self._resume_at is not None:
            self.epoch, start = self._resume_at
            self._resume_at = None
        epoch, self.epoch = self.epoch, self.epoch + 1
        self._position = (epoch, start)
        return self._batches(epoch, start)

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        num_batches = self._plan.num_batches
        indices = itertools.count(start) if num_batches is None else range(start, num_batches)
        pool, ahead, number = None, None, _next_number()
        if self.num_workers:
            pool = self._workers() if self.persistent_workers else self._new_workers()
            ahead = Ahead(pool, (self._whole(number, epoch, index) for index in indices), self._depth)
        try:
            for index in itertools.count(start) if num_batches is None else range(start, num_batches):
                if ahead is None:
                    started = time.perf_counter()
                    fetched = self._recipe(_whole_task(self._plan, epoch, index))
                    self.waited_seconds += time.perf_counter() - started
                else:
                    fetched = self._take(ahead, (number, epoch, index))
                if num_batches is None:
                    if fetched.num_samples == 0 or (self.drop_last and fetched.num_samples < self.batch_size):
                        break
                elif fetched.num_samples < self._plan.num_samples(epoch, index):
                    raise self._ended(_whole_task(self._plan, epoch, index), fetched.num_samples)
                self._position = (epoch, index + 1)
                yield hand_out(fetched)
            self._position = None
        finally:
            if ahead is not None:
                ahead.stop()
            if pool is not None and not self.persistent_workers:
                pool.close()

    def state_dict(self) -> dict[str, Any]:
        """Where plain iteration stands, as JSON can hold it: after the batch that was handed out last.

        An elastic run needs none: what its steps read follows from their numbers.
        """
        epoch, index = self._resume_at or self._position or (self.epoch, 0)
        if index and index == self._plan.num_batches:
            epoch, index = epoch + 1, 0
        return {"epoch": epoch, "index": index, "data": repr(self)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The next iteration goes on from there: the rest of that epoch, then whole ones. Nothing is read again.

        Raises:
            ValueError: the state is of a loader with other sizes, order or seed.
        """
        if state_dict["data"] != repr(self):
            raise ValueError(f"the state is of {state_dict['data']}, this is {self!r}: its batches would be others")
        self._resume_at = (int(state_dict["epoch"]), int(state_dict["index"]))
        self.epoch = self._resume_at[0]

    # Loading

    def _load(self, task: Task) -> Fetched:
        fetched = self._recipe(task)
        if fetched.num_samples < task.size:
            raise self._ended(task, fetched.num_samples)
        return fetched

    def _take(self, ahead: Ahead, key: Key) -> Fetched:
        started = time.perf_counter()
        try:
            return ahead.take(key, self.timeout or None)
        except WorkerDiedError:
            ahead.close()
            raise
        finally:
            self.waited_seconds += time.perf_counter() - started

    def _ended(self, task: Task, count: int) -> ValueError:
        return ValueError(
            f"the stream of {type(self.dataset).__name__} has no sample number {task.start + count} in epoch "
            f"{task.epoch}, where its length or steps_per_epoch promised {self.samples_per_epoch}"
        )

    def _whole(self, number: int, epoch: int, index: int) -> tuple[Key, MakeTask]:
        make = partial(_whole_task, self._plan, epoch, index)
        return (number, epoch, index), make

    def _shards_from(
        self, number: int, epoch: int, index: int, shards: tuple[int, int]
    ) -> Iterator[tuple[Key, MakeTask]]:
        """These shards of this batch and all that follow, over the ends of epochs; those that have samples."""
        while True:
            for at in range(index, len(self)):
                for shard in range(*shards):
                    start, stop = self.shard_bounds(at, shard, epoch)
                    if start < stop:
                        yield (number, epoch, at, shard), partial(self._plan.task, epoch, at, start, stop)
            epoch, index = epoch + 1, 0

    @property
    def _depth(self) -> int:
        return self.num_workers * self.prefetch_factor

    def _workers(self) -> Pool:
        """The data workers that stay."""
        if self._pool is None or self._pool.closed:
            self._pool = self._new_workers()
        return self._pool

    def _new_workers(self) -> Pool:
        number = 1 if self._stream else self.num_workers  # a stream has one reader: two would read all of it twice
        finish = pin if self.pin_memory else None
        if self.workers == "processes":
            return Pool(ProcessPlan.of(self._recipe, number, self.worker_init_fn).start, number, finish)
        start = partial(InThread, self._recipe, num_workers=number, worker_init_fn=self.worker_init_fn)
        return Pool(lambda worker: start(number=worker), number, finish)

    # Arguments

    def _check_workers(self, prefetch_factor: int | None) -> None:
        if self.timeout < 0:
            raise ValueError(f"timeout must not be negative, got {self.timeout:g}")
        if not self.num_workers:
            for name, given in (
                ("prefetch_factor", prefetch_factor is not None),
                ("persistent_workers", self.persistent_workers),
                ("timeout", self.timeout > 0),
            ):
                if given:
                    raise ValueError(f"{name} is about data workers: give num_workers as well")

    def _check_index(self, index: int) -> None:
        num_batches = self._plan.num_batches
        if index < 0 or (num_batches is not None and index >= num_batches):
            raise IndexError(f"no batch {index}: an epoch has {num_batches}, counted from 0")

    def __repr__(self) -> str:
        # Part of what a resumed run is checked by: all that decides which samples a batch has, and nothing else.
        size = f"{len(self.dataset)} samples" if not self._stream or self.steps_per_epoch is None else "a stream"
        if self._stream and self._plan.num_batches is None:
            size = "a stream"
        batch_size = None if isinstance(self.collate_fn, AsItIs) else self.batch_size
        text = (
            f"DataLoader({size}, batch_size={batch_size}, shuffle={self.shuffle}, "
            f"shards={self.num_shards}, seed={self.seed}, drop_last={self.drop_last}"
        )
        for name in ("sampler", "batch_sampler", "steps_per_epoch"):
            value = getattr(self, name)
            if value is not None:
                text += f", {name}={describe(value)}"
        return text + ")"


@dataclass
class _Course:
    """What an elastic run reads: these shards of every batch. `following` is the batch that comes next."""

    number: int
    shards: tuple[int, int]
    ahead: Ahead
    following: tuple[int, int] = (-1, 0)


def _whole_task(plan: Plan, epoch: int, index: int) -> Task:
    return plan.task(epoch, index, 0, plan.num_samples(epoch, index))
