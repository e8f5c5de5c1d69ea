"""What every worker tells every other with a step's exchange, beside gradients.

It rides on the exchange's first message, so it costs no round trip, and all members of a world see the same headers
at the same step: that is how they agree on the loss and on what was measured, on when to meet for a membership
change, and on when to save themselves.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["EXCHANGE_VERSION", "Agreement", "StepHeader", "exact_sum", "mean", "unpack_all"]

EXCHANGE_VERSION = 2
"""Of all that workers of a world tell each other: these headers, the order of exchanges, the state for a joiner. Who
changes any of it adds one. Workers say it to the coordinator when they ask to be let in, which keeps different ones
apart; a header has it first. (1: before there was a number.)"""

_VERSION = struct.Struct("<B")
_FIXED = struct.Struct("<BQBHHddIIHII")
_CHANGE, _LEAVING, _CHECKPOINT = 1, 2, 4
_NAME = struct.Struct("<H")


@dataclass(frozen=True)
class StepHeader:
    """One worker's header of one step."""

    step: int
    change_pending: bool
    losses: tuple[float, ...]
    """The weighted loss of each shard this worker computed, in shard order; NaN where none was given."""
    touched: npt.NDArray[np.bool_]
    """Which parameters have a gradient from any of its shards, over all groups in order."""
    measures: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """What the script measured, by name: the weighted value of each shard, like the losses."""
    buffers: bytes = b""
    """What the shards made of the model's buffers (see `elastic.buffers`)."""
    ledger: bytes = b""
    """Which samples its shards consumed (see `elastic.ledger`); empty: no ledger is kept."""
    leaving: bool = False
    """This worker's process was asked to go."""
    checkpoint: bool = False
    """This worker finds that it is time to save the state that this step ends in."""
    shard_seconds: float = math.nan
    """How long it computed per shard; NaN: it had none."""
    data_seconds: float = 0.0
    """How long it waited for data in this step."""
    phase: int = 0
    """How many exchanges the step has had before this one (`Step.update` makes one in its middle)."""
    redo: int = 0
    """How many of the buckets that travelled early are to travel again (see `elastic.early`)."""

    def pack(self) -> bytes:
        return b"".join(
            (
                _FIXED.pack(
                    EXCHANGE_VERSION,
                    self.step,
                    _CHANGE * self.change_pending | _LEAVING * self.leaving | _CHECKPOINT * self.checkpoint,
                    self.phase,
                    self.redo,
                    self.shard_seconds,
                    self.data_seconds,
                    len(self.losses),
                    len(self.touched),
                    len(self.measures),
                    len(self.buffers),
                    len(self.ledger),
                ),
                struct.pack(f"<{len(self.losses)}d", *self.losses),
                np.packbits(self.touched).tobytes(),
                *(
                    part
                    for name, values in self.measures.items()
                    for part in (
                        _NAME.pack(len(name.encode())),
                        name.encode(),
                        struct.pack(f"<{len(self.losses)}d", *values),
                    )
                ),
                self.buffers,
                self.ledger,
            )
        )

    @staticmethod
    def unpack(data: bytes) -> StepHeader:
        """Raises `ValueError` when `data` is not a header."""
        try:
            (version,) = _VERSION.unpack_from(data)
            if version != EXCHANGE_VERSION:
                raise ValueError(f"its worker speaks version {version}, this one {EXCHANGE_VERSION}: two Cordees")
            _, step, flags, phase, redo, shard_seconds, data_seconds, *counts = _FIXED.unpack_from(data)
            num_losses, num_touched, num_measures, num_buffers, num_ledger = counts
            doubles = struct.Struct(f"<{num_losses}d")
            losses = doubles.unpack_from(data, _FIXED.size)
            at, num_bytes = _FIXED.size + doubles.size, -(-num_touched // 8)
            bits = np.frombuffer(data, np.uint8, num_bytes, at) if num_bytes else np.empty(0, np.uint8)
            touched = np.unpackbits(bits, count=num_touched).astype(np.bool_)
            at += num_bytes
            measures = {}
            for _ in range(num_measures):
                (length,) = _NAME.unpack_from(data, at)
                at += _NAME.size
                name = data[at : at + length].decode()
                measures[name] = doubles.unpack_from(data, at + length)
                at += length + doubles.size
            if len(data) != at + num_buffers + num_ledger:
                raise ValueError(f"it should have {at + num_buffers + num_ledger} bytes")
        except (struct.error, ValueError) as error:
            raise ValueError(f"a step header of {len(data)} bytes cannot be read: {error}") from error
        return StepHeader(
            step,
            bool(flags & _CHANGE),
            losses,
            touched,
            measures,
            buffers=bytes(data[at : at + num_buffers]),
            ledger=bytes(data[at + num_buffers :]),
            leaving=bool(flags & _LEAVING),
            checkpoint=bool(flags & _CHECKPOINT),
            shard_seconds=shard_seconds,
            data_seconds=data_seconds,
            phase=phase,
            redo=redo,
        )


def unpack_all(packed: Sequence[bytes], ours: StepHeader) -> list[StepHeader]:
    """All workers' headers of one exchange, by rank. Raises `RuntimeError` when one is of another exchange."""
    headers = [StepHeader.unpack(one) for one in packed]
    for rank, one in enumerate(headers):
        if one.step != ours.step or one.phase != ours.phase or len(one.touched) != len(ours.touched):
            raise RuntimeError(
                f"rank {rank} is at step {one.step}, exchange {one.phase + 1}, with {len(one.touched)} parameters, "
                f"this worker at step {ours.step}, exchange {ours.phase + 1}, with {len(ours.touched)}: the "
                "workers do not run the same script"
            )
    return headers


@dataclass(frozen=True)
class Agreement:
    """What all members of a world know alike after a step, because all have read the same headers."""

    change_pending: bool
    """Some member was told that the world is to meet."""
    all_leaving: bool
    """Every member was asked to go: nobody is left to hold the state."""
    checkpoint: bool
    """Some member found that it is time to save the state that this step ends in."""
    shard_seconds: tuple[float, ...]
    """By rank: how long each computed per shard; NaN: it had none."""
    data_seconds: tuple[float, ...]
    """By rank: how long each waited for data."""

    @staticmethod
    def of(headers: Sequence[StepHeader]) -> Agreement:
        return Agreement(
            change_pending=any(header.change_pending for header in headers),
            all_leaving=all(header.leaving for header in headers),
            checkpoint=any(header.checkpoint for header in headers),
            shard_seconds=tuple(header.shard_seconds for header in headers),
            data_seconds=tuple(header.data_seconds for header in headers),
        )


def exact_sum(values: Iterable[float]) -> float:
    """The sum, rounded once, so that it does not depend on the order; also of values that are not finite."""
    values = list(values)
    try:
        return math.fsum(values)
    except (ValueError, OverflowError):  # infinities of both signs, or a sum too large
        return sum(values)


def mean(parts: Sequence[Sequence[float]], num_values: int) -> float:
    """The shards' weighted values of all workers added up; NaN unless all `num_values` shards with samples gave one."""
    given = [value for values in parts for value in values if not math.isnan(value)]
    return exact_sum(given) if given and len(given) == num_values else math.nan
