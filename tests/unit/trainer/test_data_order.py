"""Laws of the order: a bijection for every size, fair, the same for ever, and there at once however many samples."""

from __future__ import annotations

import itertools
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordee.trainer.data import Permutation, RandomSampler, epoch_order
from cordee.trainer.data.order import random_words


@given(st.integers(0, 5000), st.integers(-(2**70), 2**70), st.integers(0, 2**40))
def test_it_is_a_bijection_for_every_size(size: int, seed: int, epoch: int) -> None:
    order = Permutation(size, seed=seed, epoch=epoch)
    assert np.array_equal(np.sort(order.slice(0, size)), np.arange(size))


@given(st.integers(2, 2**62), st.data())
def test_no_two_positions_of_a_huge_order_share_a_sample(size: int, given_data: st.DataObject) -> None:
    order = Permutation(size, seed=given_data.draw(st.integers(0, 9)))
    positions = np.unique(given_data.draw(st.lists(st.integers(0, size - 1), max_size=200)) or [0])
    found = order(positions)
    assert len(np.unique(found)) == len(positions)
    assert found.min() >= 0
    assert found.max() < size


@given(st.integers(1, 60_000), st.lists(st.tuples(st.integers(0, 60_000), st.integers(0, 20_000)), max_size=6))
def test_a_slice_is_what_the_positions_say_whatever_was_asked_before(size: int, asked: list[tuple[int, int]]) -> None:
    order = Permutation(size, seed=3)
    for wanted, length in asked:
        start = min(wanted, size)
        stop = min(start + length, size)
        assert np.array_equal(order.slice(start, stop), order(np.arange(start, stop)))


def test_a_billion_samples_start_at_once_and_take_no_memory() -> None:
    tracemalloc.start()
    began = time.perf_counter()
    sampler = RandomSampler(range(10**9), seed=1)
    first, last = sampler.indices(0, 0, 256), sampler.indices(3, 10**9 - 256, 10**9)
    seconds = time.perf_counter() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 1
    assert peak < 2e6
    assert len(np.unique(first)) == len(np.unique(last)) == 256
    assert first.max() > 9e8


def chi_square(counts: np.ndarray) -> float:
    """In standard deviations: about normal around 0, for many cells."""
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_all_orders_of_few_samples_are_equally_likely(size: int) -> None:
    names = {order: number for number, order in enumerate(itertools.permutations(range(size)))}
    found = [names[tuple(epoch_order(size, seed=11, epoch=epoch).tolist())] for epoch in range(4000)]
    assert abs(chi_square(np.bincount(found, minlength=len(names)))) < 4


@pytest.mark.parametrize("size", [7, 64, 100])
def test_every_sample_is_equally_likely_at_every_place(size: int) -> None:
    counts = np.zeros((size, size))
    for epoch in range(4000):
        counts[np.arange(size), epoch_order(size, seed=5, epoch=epoch)] += 1
    assert abs(chi_square(counts)) < 4


def test_neighbours_are_far_apart_as_at_random() -> None:
    # Of a fair order, the difference of neighbours modulo n is uniform over 1 … n - 1; so is that at any distance.
    size = 1009
    for distance in (1, 2, 256):
        counts = np.zeros(size - 1)
        for epoch in range(200):
            order = epoch_order(size, seed=2, epoch=epoch)
            counts += np.bincount((order[distance:] - order[:-distance]) % size - 1, minlength=size - 1)
        assert abs(chi_square(counts)) < 4


def test_orders_of_neighbouring_epochs_have_nothing_in_common() -> None:
    size = 2000
    for other in (epoch_order(size, seed=0, epoch=1), epoch_order(size, seed=1, epoch=0)):
        same = np.count_nonzero(epoch_order(size, seed=0, epoch=0) == other)
        assert same < 8  # about 1, as between any two orders
        correlation = np.corrcoef(epoch_order(size, seed=0, epoch=0), other)[0, 1]
        assert abs(correlation) < 4 / np.sqrt(size)


def test_it_never_changes_between_releases() -> None:
    # Written down once: weights of old runs must stay reachable.
    huge = Permutation(10**12 + 7, seed=9, epoch=4)
    assert huge(np.array([0, 1, 10**12])).tolist() == HUGE
    assert random_words(3, seed=1, epoch=2, start=5).tolist() == WORDS


HUGE = [861604320508, 407386531200, 451871981578]
WORDS = [4775828693178861923, 5309429684299738824, 5362878667640120406]


@given(st.integers(0, 50), st.integers(0, 50))
def test_words_can_be_looked_up_anywhere(start: int, count: int) -> None:
    everything = random_words(100, seed=1, epoch=2)
    assert np.array_equal(random_words(count, seed=1, epoch=2, start=start), everything[start : start + count])


def test_a_mistake_is_a_sentence() -> None:
    with pytest.raises(ValueError, match="between 0 and 2\\^62 elements, got -1"):
        Permutation(-1)
    with pytest.raises(IndexError, match="no positions 3 to 12 in an order of 10"):
        Permutation(10).slice(3, 12)
    with pytest.raises(ValueError, match="epoch must not be negative"):
        Permutation(10, epoch=-1)
