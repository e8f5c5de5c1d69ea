"""Sequences of different lengths in one batch: packed, padded, and back.

A packed sequence holds no padding: first the first steps of all sequences, then the second ones, and so on, the longest
sequence first. Each recurrent layer reads and returns it; steps of sequences that have ended are never computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cordee.trainer.array import DTypeLike, array_module, to_numpy
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops import cat
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "PackedSequence",
    "invert_permutation",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]


class _Fields(NamedTuple):
    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None
    unsorted_indices: Tensor | None


class PackedSequence(_Fields):
    """`data` `(sum of lengths, …)`, and how many sequences have a step t (`batch_sizes` `(T,)`, never growing).

    `sorted_indices` says which sequence of the user's is the first, second, … here, `unsorted_indices` the reverse;
    None: they are in the user's order.
    """

    __slots__ = ()

    def __new__(
        cls,
        data: Tensor,
        batch_sizes: Tensor | None = None,
        sorted_indices: Tensor | None = None,
        unsorted_indices: Tensor | None = None,
    ) -> PackedSequence:
        if batch_sizes is None:
            raise ValueError("a PackedSequence needs batch_sizes")
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def to(self, dtype: DTypeLike) -> PackedSequence:
        """The same in another dtype."""
        return PackedSequence(self.data.to(dtype), *self[1:])

    def double(self) -> PackedSequence:
        return self.to(np.float64)

    def float(self) -> PackedSequence:
        return self.to(np.float32)

    @property
    def is_cuda(self) -> bool:
        return self.data.device == "cuda"


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """The permutation that undoes this one."""
    return None if permutation is None else wrap(array_module(permutation.data).argsort(permutation.data))


def _lengths(lengths: Any, batch: int) -> Any:
    values = to_numpy(lengths.data) if isinstance(lengths, Tensor) else np.asarray(lengths)
    if values.dtype.kind not in "iu":
        raise TypeError(f"lengths must be integers, not {values.dtype.name}")
    if values.shape != (batch,):
        raise ShapeError(f"lengths must hold one number for each of the {batch} sequences, not shape {values.shape}")
    return values.astype(np.int64)


def pack_padded_sequence(
    input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Takes the padding out of `(T, N, …)`, or `(N, T, …)` with `batch_first`.

    Args:
        lengths: how many steps each sequence has, `(N,)`: a tensor, or numbers, each from 1 to T.
        enforce_sorted: refuse sequences that are not in the order of their lengths, the longest first; else they are
            sorted here, and unsorted again by `pad_packed_sequence`.
    """
    if input.ndim < 2:
        raise ShapeError(f"pack_padded_sequence: input must be (T, N, …), not {input.shape}")
    batch, num_steps = input.shape[:2] if batch_first else input.shape[1::-1]
    sizes = _lengths(lengths, batch)
    if sizes.size and not 1 <= sizes.min() <= sizes.max() <= num_steps:
        raise ValueError(f"pack_padded_sequence: lengths must be from 1 to {num_steps}, the steps of the input")
    order = None
    if (np.diff(sizes) > 0).any():
        if enforce_sorted:
            raise ValueError(
                "pack_padded_sequence: the lengths must not grow from one sequence to the next; enforce_sorted=False "
                "lets them be sorted here"
            )
        order = np.argsort(-sizes, kind="stable")
        sizes = sizes[order]
    elif not enforce_sorted:
        order = np.arange(batch)
    longest = int(sizes.max()) if sizes.size else 0
    steps, places = np.nonzero(np.arange(longest)[:, None] < sizes)  # in the order of the packing
    sequences = places if order is None else order[places]
    xp = array_module(input.data)
    rows = sequences * num_steps + steps if batch_first else steps * batch + sequences
    data = input.reshape(-1, *input.shape[2:])[xp.asarray(rows)]
    batch_sizes = wrap((np.arange(longest)[:, None] < sizes).sum(axis=1))
    return PackedSequence(data, batch_sizes, None if order is None else wrap(xp.asarray(order)))


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """`(T, N, …)`, or `(N, T, …)`, with padding, and the lengths `(N,)`, in the user's order.

    `total_length`: how many steps the result shall have, at least those of the longest sequence.
    """
    sizes = to_numpy(sequence.batch_sizes.data)
    num_steps, batch = len(sizes), int(sizes[0]) if len(sizes) else 0
    if total_length is not None:
        if total_length < num_steps:
            raise ValueError(f"total_length ({total_length}) must not be less than the longest length ({num_steps})")
        num_steps = total_length
    starts = np.concatenate([[0], np.cumsum(sizes)])
    total = int(starts[-1])
    rows = np.full((num_steps, batch), total)  # of the padding, which is put behind the data
    for step, size in enumerate(sizes):
        rows[step, :size] = np.arange(starts[step], starts[step + 1])
    lengths = (sizes[:, None] > np.arange(batch)).sum(axis=0)
    if sequence.unsorted_indices is not None:
        back = to_numpy(sequence.unsorted_indices.data)
        rows, lengths = rows[:, back], lengths[back]
    xp = array_module(sequence.data.data)
    data = sequence.data
    filler = wrap(xp.full((1, *data.shape[1:]), padding_value, data.dtype))
    padded = cat([data, filler], 0)[xp.asarray(rows.T if batch_first else rows)]
    return padded, wrap(lengths)


def pad_sequence(
    sequences: Sequence[Tensor], batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Tensor:
    """Sequences `(T_i, …)` as one tensor `(T, N, …)`, or `(N, T, …)`, T being the longest length."""
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side must be 'left' or 'right', got {padding_side!r}")
    if not sequences:
        raise ValueError("pad_sequence needs at least one sequence")
    longest = max(each.shape[0] for each in sequences)
    rows, total = np.full((len(sequences), longest), sum(each.shape[0] for each in sequences)), 0
    for n, each in enumerate(sequences):
        length = each.shape[0]
        start = 0 if padding_side == "right" else longest - length
        rows[n, start : start + length] = np.arange(total, total + length)
        total += length
    xp = array_module(sequences[0].data)
    filler = wrap(xp.full((1, *sequences[0].shape[1:]), padding_value, sequences[0].dtype))
    return cat([*sequences, filler], 0)[xp.asarray(rows if batch_first else rows.T)]


def unpad_sequence(padded_sequences: Tensor, lengths: Any, batch_first: bool = False) -> list[Tensor]:
    """The sequences out of `pad_sequence`'s tensor, each with its length."""
    batch_dim = 0 if batch_first else 1
    sizes = _lengths(lengths, padded_sequences.shape[batch_dim])
    return [
        padded_sequences[n, : int(size)] if batch_first else padded_sequences[: int(size), n]
        for n, size in enumerate(sizes)
    ]


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Sequences `(T_i, …)`, packed."""
    lengths = [each.shape[0] for each in sequences]
    return pack_padded_sequence(pad_sequence(sequences), lengths, enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The sequences `(T_i, …)` of a packed one, in the user's order."""
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)
