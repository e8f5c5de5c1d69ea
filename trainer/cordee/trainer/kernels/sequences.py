"""Where the steps of a recurrent layer lie in its arrays: those of all sequences one below the other, step by step."""

from __future__ import annotations

from typing import Any

__all__ = ["states_around", "steps"]


def steps(sizes: tuple[int, ...], reverse: bool) -> list[tuple[slice, int]]:
    """The rows of each step, and how many they are, in the order in which steps are taken."""
    found, start = [], 0
    for size in sizes:
        found.append((slice(start, start + size), size))
        start += size
    return found[::-1] if reverse else found


def states_around(xp: Any, start: Any, total: int, reverse: bool, even: bool) -> tuple[Any, Any, Any]:
    """Where the states before and after each step lie, and the last ones, which are those to start from at first.

    With as many rows in each step, what is after one is before the next: the two are parts of one array then.
    """
    (batch, width), dtype = start.shape, start.dtype
    if not even:
        return xp.empty((total, width), dtype), xp.empty((total, width), dtype), start.copy()
    both = xp.empty((batch + total, width), dtype)
    early, late = both[:total], both[batch:]
    if reverse:
        both[total:] = start
        return late, early, both[:batch]
    both[:batch] = start
    return early, late, both[total:]
