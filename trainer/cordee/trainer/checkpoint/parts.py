"""Who writes what: a state's arrays dealt into parts of nearly the same size, alike on every worker.

The arrays lie in the order of their names, as if one after the other, and are cut where the parts' shares end: a
boundary goes around an array that is small, and through one that is large, between two rows. A piece of a cut array is
called by its rows, `name[begin:end]`; the manifest names the arrays that were cut, and their number of rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

__all__ = ["MIN_CUT_BYTES", "MIN_PART_BYTES", "Piece", "Shape", "count_parts", "cut_arrays", "deal", "join"]

MIN_PART_BYTES: Final = 64 << 10
"""A small state has fewer parts than there are workers: each is a file, or a request to a bucket."""
MIN_CUT_BYTES: Final = 1 << 20
"""Arrays below this size stay whole."""


@dataclass(frozen=True)
class Shape:
    """An array's outline."""

    rows: int
    """Along its first axis; 0: it has none."""
    num_bytes: int


@dataclass(frozen=True)
class Piece:
    """Some rows of an array, or all of it."""

    name: str
    begin: int = 0
    end: int | None = None
    """None: the whole array."""

    @property
    def key(self) -> str:
        """Its name in the part's file."""
        return self.name if self.end is None else f"{self.name}[{self.begin}:{self.end}]"


def count_parts(shapes: Mapping[str, Shape], world_size: int) -> int:
    """How many parts a state has in a world."""
    total = sum(shape.num_bytes for shape in shapes.values())
    return max(1, min(world_size, total // MIN_PART_BYTES))


def deal(shapes: Mapping[str, Shape], num_parts: int) -> list[list[Piece]]:
    """Every array once, in `num_parts` parts."""
    total = sum(shape.num_bytes for shape in shapes.values())
    parts: list[list[Piece]] = [[] for _ in range(num_parts)]
    position = 0
    for name in sorted(shapes):
        shape = shapes[name]
        begin, end = position, position + shape.num_bytes
        position = end
        first, last = _part_at(begin, total, num_parts), _part_at(max(begin, end - 1), total, num_parts)
        if first == last:
            parts[first].append(Piece(name))
        elif shape.num_bytes < MIN_CUT_BYTES or shape.rows < 2:
            parts[_part_at((begin + end) // 2, total, num_parts)].append(Piece(name))
        else:
            _cut(parts, name, shape, begin, total)
    return parts


def _part_at(byte: int, total: int, num_parts: int) -> int:
    return min(byte * num_parts // total, num_parts - 1) if total else 0


def _cut(parts: list[list[Piece]], name: str, shape: Shape, begin: int, total: int) -> None:
    row_bytes = shape.num_bytes // shape.rows
    row = 0
    for number, part in enumerate(parts):
        boundary = total * (number + 1) // len(parts)
        until = shape.rows if number == len(parts) - 1 else min(shape.rows, max(row, (boundary - begin) // row_bytes))
        if until > row:
            whole = row == 0 and until == shape.rows
            part.append(Piece(name) if whole else Piece(name, row, until))
            row = until


def cut_arrays(shapes: Mapping[str, Shape], parts: Sequence[Sequence[Piece]]) -> dict[str, int]:
    """The arrays that were cut, and how many rows each has."""
    return {piece.name: shapes[piece.name].rows for part in parts for piece in part if piece.end is not None}


def join(pieces: Mapping[str, np.ndarray[Any, Any]], cut: Mapping[str, int]) -> dict[str, np.ndarray[Any, Any]]:
    """The whole arrays again. Raises `ValueError` when rows are missing, are there twice, or do not fit together."""
    arrays = dict(pieces)
    for name, rows in cut.items():
        found = sorted(
            (int(match[1]), int(match[2]), key) for key in pieces if (match := _rows_of(name).fullmatch(key))
        )
        ends = [0, *(end for _, end, _ in found)]
        begins = [*(begin for begin, _, _ in found), rows]
        if ends != begins or any(len(pieces[key]) != end - begin for begin, end, key in found):
            raise ValueError(f"the rows of {name} are not all there once")
        arrays[name] = np.concatenate([arrays.pop(key) for _, _, key in found])
    return arrays


def _rows_of(name: str) -> re.Pattern[str]:
    return re.compile(rf"{re.escape(name)}\[(\d+):(\d+)\]")
