"""What a ledger of samples holds: which samples each committed step consumed, as bytes and back. Nothing is written.

A ledger is a file that only grows. Its first line says, in JSON, which data it is about. Then comes one *frame* per
committed step: a marker, a length, a CRC and an *entry*. A frame is written by one call, so those of two writers do not
mix; one that a killed writer or a full disk has cut off is skipped, up to the next marker, and counts for nothing.

An entry is made of *parts*, one per worker of the step's world, just as they travelled in the workers' step headers:
which shards it computed, and which samples it read for them. A part takes as few bytes per sample as the numbers need,
and next to none when they are consecutive.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cordee.trainer.data.stream import is_stream

if TYPE_CHECKING:
    from cordee.trainer.data import DataLoader
    from cordee.trainer.data.batch import Indices

__all__ = [
    "FORMAT",
    "Frame",
    "LedgerData",
    "LedgerEntry",
    "LedgerError",
    "LedgerPart",
    "ShardRead",
    "frame",
    "frames",
    "pack_entry",
    "pack_part",
    "plan_digest",
    "written_before",
]

FORMAT: Final = "cordee-ledger/1"
MAX_LINE_BYTES: Final = 1 << 16

_MARKER: Final = b"\xc1LE\n"
_FRAME: Final = struct.Struct("<4sII")
"""Marker, bytes of the entry, its CRC-32."""
_ENTRY: Final = struct.Struct("<QQQQI")
"""Step, epoch, index in the epoch, generation, number of parts."""
_LENGTH: Final = struct.Struct("<I")
_WRITTEN: Final = struct.Struct("<Q")
_PART: Final = struct.Struct("<QIHBq")
"""Digest of what the plan says, first shard, number of shards, bytes per sample, base."""
_CONTENT: Final = struct.Struct("<QQQI")
_CONSECUTIVE: Final = 0
"""For the bytes per sample: the numbers from the base on."""


class LedgerError(ValueError):
    """This is not a ledger, or not one of this data."""


@dataclass(frozen=True)
class LedgerData:
    """What the first line tells: which data the ledger is about."""

    loader: str
    """The loader in words: all that decides which samples a batch has."""
    order: str
    """`shuffled` or `sequential`, which anybody can compute again; `stream`; `sampler`, which only the script knows."""
    order_kind: int
    """How a seed makes an order."""
    seed: int
    samples: int | None
    """In the dataset; None: a stream of unknown length."""
    samples_per_epoch: int
    steps_per_epoch: int
    batch_size: int
    """0: a batch sampler decides."""
    shards: int
    drop_last: bool

    @classmethod
    def of(cls, loader: DataLoader, order_kind: int) -> LedgerData:
        stream = is_stream(loader.dataset)
        order = "stream" if stream else "shuffled" if loader.shuffle else "sequential"
        if loader.sampler is not None or loader.batch_sampler is not None:
            order = "sampler"
        return cls(
            loader=repr(loader),
            order=order,
            order_kind=order_kind,
            seed=loader.seed,
            samples=None if stream else len(loader.dataset),
            samples_per_epoch=loader.samples_per_epoch,
            steps_per_epoch=len(loader),
            batch_size=0 if loader.batch_sampler is not None else loader.batch_size,
            shards=loader.num_shards,
            drop_last=loader.drop_last,
        )

    def line(self) -> bytes:
        """The first line of the file; the same for the same data."""
        return json.dumps({"format": FORMAT, **asdict(self)}).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> LedgerData:
        """Raises `LedgerError` when it is no ledger's first line."""
        try:
            told = json.loads(line)
        except ValueError:
            told = None
        if not isinstance(told, dict) or told.get("format") != FORMAT:
            raise LedgerError(f"it does not begin as a ledger does, with a line of {FORMAT}")
        try:
            return cls(**{field.name: told[field.name] for field in fields(cls)})
        except KeyError as error:
            raise LedgerError(f"its first line lacks {error}") from None


class ShardRead(NamedTuple):
    """What one worker read for one shard of a step."""

    shard: int
    rank: int
    indices: NDArray[np.int64]


class LedgerPart(NamedTuple):
    """What one worker read for its shards of a step."""

    plan: int
    """`plan_digest` of what the step should read; 0: this worker did not say."""
    first_shard: int
    counts: tuple[int, ...]
    """Samples per shard."""
    indices: NDArray[np.int64]
    """Of all its shards, in order."""


@dataclass(frozen=True)
class LedgerEntry:
    """One committed step: what its workers, by rank, read for it."""

    step: int
    epoch: int
    """From 1."""
    index: int
    """In the epoch, from 0."""
    generation: int
    parts: tuple[LedgerPart, ...]

    @property
    def shards(self) -> tuple[ShardRead, ...]:
        found = []
        for rank, part in enumerate(self.parts):
            at = 0
            for place, count in enumerate(part.counts):
                found.append(ShardRead(part.first_shard + place, rank, part.indices[at : at + count]))
                at += count
        return tuple(found)

    @property
    def shard_numbers(self) -> tuple[int, ...]:
        return tuple(part.first_shard + place for part in self.parts for place in range(len(part.counts)))

    @property
    def counts(self) -> tuple[int, ...]:
        """Samples per shard."""
        return tuple(count for part in self.parts for count in part.counts)

    @cached_property
    def indices(self) -> NDArray[np.int64]:
        """Of the whole step, in the order of its shards."""
        return np.concatenate([np.empty(0, np.int64), *(part.indices for part in self.parts)])

    @property
    def plan(self) -> int:
        return next((part.plan for part in self.parts if part.plan), 0)

    def content(self) -> bytes:
        """What was consumed, and no word of by whom: equal for a step that was done again in another world."""
        numbers, counts = self.shard_numbers, self.counts
        return b"".join(
            (
                _CONTENT.pack(self.step, self.epoch, self.index, len(counts)),
                struct.pack(f"<{2 * len(counts)}I", *numbers, *counts),
                self.indices.astype("<i8", copy=False).tobytes(),
            )
        )

    @staticmethod
    def peek(data: Any, at: int) -> tuple[int, int]:
        """Step and generation of the entry at `at`. Raises `LedgerError` when there is none."""
        try:
            step, _, _, generation, _ = _ENTRY.unpack_from(data, at)
        except struct.error as error:
            raise LedgerError(str(error)) from error
        return step, generation

    @staticmethod
    def unpack(data: bytes | memoryview) -> LedgerEntry:
        """Raises `LedgerError` when `data` is no entry."""
        try:
            step, epoch, index, generation, num_parts = _ENTRY.unpack_from(data)
            at, parts = _ENTRY.size, []
            for _ in range(num_parts):
                (length,) = _LENGTH.unpack_from(data, at)
                at += _LENGTH.size
                parts.append(_unpack_part(memoryview(data)[at : at + length]))
                at += length
            if at != len(data):
                raise ValueError(f"it should have {at} bytes")
        except (struct.error, ValueError, KeyError) as error:
            raise LedgerError(f"an entry of {len(data)} bytes cannot be read: {error}") from error
        return LedgerEntry(step, epoch, index, generation, tuple(parts))


# --- one worker's part, as it travels in its step header ---


def pack_part(written: int, plan: int, first_shard: int, read: Sequence[Indices]) -> bytes:
    """What one worker tells with a step: what it read, by shard, and up to which step the ledger is `written`."""
    indices = _joined(read)
    base, width = 0, _CONSECUTIVE
    data = b""
    if len(indices):
        if isinstance(indices, range):
            base = indices.start
        else:
            base = int(indices[0])
            if int(indices[-1]) - base != len(indices) - 1 or not (indices[1:] - indices[:-1] == 1).all():
                base = int(indices.min())
                width = _width(int(indices.max()) - base)
                data = (indices - base).astype(f"<u{width}").tobytes()
    return b"".join(
        (
            _WRITTEN.pack(written),
            _PART.pack(plan, first_shard, len(read), width, base),
            struct.pack(f"<{len(read)}I", *map(len, read)),
            data,
        )
    )


def written_before(part: bytes) -> int:
    """The step up to which the ledger is written, as the worker that made this part tells."""
    (written,) = _WRITTEN.unpack_from(part)
    return int(written)


def plan_digest(indices: NDArray[np.int64]) -> int:
    """What tells two lists of samples apart in eight bytes; never 0."""
    return int.from_bytes(blake2b(indices.astype("<i8", copy=False).tobytes(), digest_size=8).digest(), "little") or 1


def _joined(read: Sequence[Indices]) -> Indices:
    """The samples of all shards; a range where they are one."""
    if len(read) == 1:
        return read[0]
    filled = [indices for indices in read if len(indices)]
    if not filled:
        return range(0)
    stretches = [indices for indices in filled if isinstance(indices, range)]
    if len(stretches) == len(filled):
        pairs = pairwise(stretches)
        if all(one.step == other.step == 1 and one.stop == other.start for one, other in pairs):
            return range(stretches[0].start, stretches[-1].stop)
    return np.concatenate([np.asarray(indices, np.int64) for indices in filled])


def _width(span: int) -> int:
    return 1 if span < 1 << 8 else 2 if span < 1 << 16 else 4 if span < 1 << 32 else 8


def _unpack_part(data: memoryview) -> LedgerPart:
    plan, first_shard, num_shards, width, base = _PART.unpack_from(data)
    counts = struct.unpack_from(f"<{num_shards}I", data, _PART.size)
    total, at = sum(counts), _PART.size + 4 * num_shards
    if len(data) != at + width * total:
        raise ValueError(f"a part should have {at + width * total} bytes")
    if width == _CONSECUTIVE:
        indices = np.arange(base, base + total, dtype=np.int64)
    else:
        # Base and offset may wrap on the way, and so come back to where they belong.
        offsets = np.frombuffer(data, f"<u{width}", total, at).astype(np.uint64).view(np.int64)
        indices = offsets + np.int64(base)
    return LedgerPart(plan, first_shard, counts, indices)


# --- entries and frames ---


def pack_entry(step: int, epoch: int, index: int, generation: int, parts: Sequence[bytes]) -> bytes:
    """An entry of what the workers told, by rank."""
    pieces: list[Any] = [_ENTRY.pack(step, epoch, index, generation, len(parts))]
    for part in parts:
        pieces += _LENGTH.pack(len(part) - _WRITTEN.size), memoryview(part)[_WRITTEN.size :]
    return b"".join(pieces)


def frame(entry: bytes) -> bytes:
    """The entry as it stands in the file."""
    return _FRAME.pack(_MARKER, len(entry), zlib.crc32(entry)) + entry


class Frame(NamedTuple):
    """Where an entry lies in the file, and whether it can be read."""

    start: int
    stop: int
    whole: bool
    """False: these bytes are of no frame, or of one that was not written to its end."""


def frames(data: Any, start: int) -> Iterator[Frame]:
    """The frames of a file from `start`, the end of its first line, on. `data` is a `bytes` or an `mmap`."""
    view = memoryview(data)
    try:
        at, size = start, len(view)
        while at < size:
            if at + _FRAME.size <= size:
                marker, length, crc = _FRAME.unpack_from(view, at)
                begin, end = at + _FRAME.size, at + _FRAME.size + length
                if marker == _MARKER and end <= size and zlib.crc32(view[begin:end]) == crc:
                    yield Frame(begin, end, True)
                    at = end
                    continue
            found = data.find(_MARKER, at + 1)
            end = size if found < 0 else found
            yield Frame(at, end, False)
            at = end
    finally:
        view.release()
