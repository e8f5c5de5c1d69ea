"""Who stays out, so that no two of those that remain are at the ends of a cut link: a smallest vertex cover.

Exact for the graphs that happen (a pair, a worker cut off from all, a network in two halves), whatever their size:
each branch takes the vertex with the most links, or all its neighbours. What needs more than the allowed number of
branches is covered greedily.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

__all__ = ["Pair", "covers", "pair"]

Pair = tuple[str, str]
"""Two workers, in alphabetical order."""

_MAX_BRANCHES = 4096


def pair(one: str, other: str) -> Pair:
    return (one, other) if one <= other else (other, one)


def covers(links: Collection[Pair], cost: Callable[[frozenset[str]], tuple[object, ...]]) -> frozenset[str]:
    """The cover of least cost among the minimal ones that were found; empty when nothing is cut."""
    best: list[frozenset[str]] = [_greedy(links)]
    branches = 0

    def search(left: frozenset[Pair], taken: frozenset[str]) -> None:
        nonlocal branches
        branches += 1
        if not left:
            best.append(taken)
            return
        if branches > _MAX_BRANCHES:
            return
        vertex = _busiest(left)
        neighbours = frozenset(b if a == vertex else a for a, b in left if vertex in (a, b))
        search(frozenset(link for link in left if vertex not in link), taken | {vertex})
        search(frozenset(link for link in left if not neighbours & set(link)), taken | neighbours)

    search(frozenset(links), frozenset())
    return min(best, key=cost)


def _busiest(links: Collection[Pair]) -> str:
    degrees: dict[str, int] = {}
    for link in links:
        for end in link:
            degrees[end] = degrees.get(end, 0) + 1
    return max(sorted(degrees), key=lambda end: degrees[end])


def _greedy(links: Collection[Pair]) -> frozenset[str]:
    left, taken = set(links), set[str]()
    while left:
        vertex = _busiest(left)
        taken.add(vertex)
        left = {link for link in left if vertex not in link}
    return frozenset(taken)
