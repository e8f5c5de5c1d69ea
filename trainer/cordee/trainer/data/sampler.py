"""The order in which an epoch visits the samples: a permutation that seed and epoch alone decide.

Every worker computes the whole order by itself, so no worker has to tell another what it has read, and the order cannot
depend on how many there are. It is made of the raw words of the counter-based generator Philox, whose stream NumPy
promises never to change (unlike `Generator.permutation`): each sample gets 64 bits, of which the lowest are replaced by
the sample's number, and sorting these words shuffles the numbers. No two words are equal, so no sorting algorithm, on
any machine, can give another order. A million samples take a tenth of a second, once per epoch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cordee.trainer import random

__all__ = ["epoch_order"]

_WORD = (1 << 64) - 1


def epoch_order(num_samples: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """The numbers from 0 to `num_samples - 1` in the order in which this epoch visits them."""
    if num_samples < 0:
        raise ValueError(f"num_samples must not be negative, got {num_samples}")
    if epoch < 0:
        raise ValueError(f"epoch must not be negative, got {epoch}")
    key = np.array([seed & _WORD, random.STREAM_DATA], dtype=np.uint64)
    counter = np.array([0, epoch, 0, 0], dtype=np.uint64)
    words = np.random.Philox(key=key, counter=counter).random_raw(num_samples)
    low = np.uint64((1 << max(num_samples - 1, 0).bit_length()) - 1)
    words &= ~low
    words |= np.arange(num_samples, dtype=np.uint64)
    words.sort()
    words &= low
    return words.view(np.int64)
