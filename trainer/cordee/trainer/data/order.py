"""The order in which an epoch visits the samples: a permutation computed where it is looked at, and stored nowhere.

Every worker needs the numbers of the samples of its own shards alone, and a billion samples must start as fast as ten.
So the order is a function of the position: the *swap-or-not* shuffle (Hoang, Morris and Rogaway, "An Enciphering Scheme
Based on a Card Shuffle", CRYPTO 2012, https://doi.org/10.1007/978-3-642-32009-5_1). A round pairs every number x with
`K - x mod n`, and one bit, a hash of the pair, says whether the two change places: each round is its own inverse, so
any number of rounds is a bijection, for every n, without walking. Two samples still move together after `ROUNDS` rounds
with a probability of about 2^-32. (Feistel networks need fewer rounds, but are visibly unfair for small n, and n is to
be treated in one way.)

The keys K and those of the hash are raw words of the counter-based generator Philox, whose stream NumPy promises never
to change, keyed by seed and epoch; all else is whole-number arithmetic. So no machine and no release can give another
order, and no worker has to tell another what it has read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cordee.trainer import random

__all__ = ["ROUNDS", "Permutation", "epoch_order", "random_words"]

ROUNDS = 32
_WORD = (1 << 64) - 1
_LARGEST = 1 << 62
_BLOCK = 16384
"""Positions computed at a time: enough to make NumPy's calls cheap (80 ns per sample), little enough not to be felt."""
_FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)


def random_words(count: int, *, seed: int, epoch: int, purpose: int = 0, start: int = 0) -> NDArray[np.uint64]:
    """The raw 64-bit words number `start` to `start + count - 1` of the Philox stream of seed, epoch and purpose."""
    if epoch < 0:
        raise ValueError(f"epoch must not be negative, got {epoch}")
    block, skip = divmod(start, 4)  # Philox makes four words of every value of its counter
    key = np.array([seed & _WORD, random.STREAM_DATA], dtype=np.uint64)
    counter = np.array([block, epoch, purpose, 0], dtype=np.uint64)
    words: NDArray[np.uint64] = np.random.Philox(key=key, counter=counter).random_raw(skip + count)
    return words[skip:]


class Permutation:
    """The numbers from 0 to `size - 1` in the order that `seed` and `epoch` decide; O(1) memory and start, any size.

        order = Permutation(10**9, seed=0, epoch=3)
        order(np.array([0, 999_999_999]))      # the first and the last sample of the epoch
        order.slice(256, 512)                  # those of the second batch of 256

    `slice` keeps the last block it has computed, so reading on costs a look-up.

    Raises:
        ValueError: `size` is negative or above 2^62, or `epoch` is negative.
    """

    def __init__(self, size: int, *, seed: int = 0, epoch: int = 0, purpose: int = 0) -> None:
        if not 0 <= size <= _LARGEST:
            raise ValueError(f"a permutation has between 0 and 2^62 elements, got {size}")
        self.size = size
        words = random_words(2 * ROUNDS, seed=seed, epoch=epoch, purpose=purpose)
        self._centres = words[0::2] % np.uint64(max(size, 1))
        self._keys = words[1::2]
        self._block: tuple[int, NDArray[np.int64]] = (0, np.empty(0, np.int64))

    def __len__(self) -> int:
        return self.size

    def __call__(self, positions: NDArray[np.integer]) -> NDArray[np.int64]:
        """The samples at these positions. Positions outside `[0, size)` have no meaning; they are not looked for."""
        x = positions.astype(np.uint64)
        partner, bit, shifted = np.empty_like(x), np.empty_like(x), np.empty_like(x)
        signed = bit.view(np.int64)
        size, half = np.uint64(self.size), np.uint64(32)
        for centre, key in zip(self._centres, self._keys, strict=True):
            np.subtract(centre, x, out=partner)  # below zero it wraps to a huge number; adding n brings that back,
            np.add(partner, size, out=bit)  # so that the smaller of the two is K - x mod n
            np.minimum(partner, bit, out=partner)
            np.maximum(x, partner, out=bit)  # what stands for the pair, whichever of the two x is
            np.bitwise_xor(bit, key, out=bit)
            np.multiply(bit, _FIRST, out=bit)
            np.right_shift(bit, half, out=shifted)
            np.bitwise_xor(bit, shifted, out=bit)
            np.multiply(bit, _SECOND, out=bit)
            np.right_shift(signed, 63, out=signed)  # the top bit everywhere: all ones where the pair is swapped
            np.bitwise_xor(partner, x, out=partner)
            np.bitwise_and(partner, bit, out=partner)
            np.bitwise_xor(x, partner, out=x)
        return x.view(np.int64)

    def slice(self, start: int, stop: int) -> NDArray[np.int64]:
        """The samples at positions `start` to `stop - 1`, in order. A view of a block that is kept: not to be written.

        Safe to be called by several threads: a block is replaced as a whole.
        """
        if not 0 <= start <= stop <= self.size:
            raise IndexError(f"no positions {start} to {stop} in an order of {self.size}")
        first, block = self._block
        if not (first <= start and stop <= first + len(block)):
            first = start // _BLOCK * _BLOCK
            block = self(np.arange(first, min(max(first + _BLOCK, stop), self.size)))
            self._block = (first, block)
        return block[start - first : stop - first]


def epoch_order(num_samples: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """The numbers from 0 to `num_samples - 1` in the order in which this epoch visits them, all at once.

    Raises:
        ValueError: `num_samples` or `epoch` is negative.
    """
    if num_samples < 0:
        raise ValueError(f"num_samples must not be negative, got {num_samples}")
    return Permutation(num_samples, seed=seed, epoch=epoch)(np.arange(num_samples))
