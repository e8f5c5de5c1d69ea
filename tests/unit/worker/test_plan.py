"""Laws of an all-reduce's plan: slices and spans leave nothing out and nothing twice."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from cordee.worker.plan import ONE_ROUND_BYTES, make_plan

SHARDS = st.integers(1, 40)
SIZES = st.integers(1, 12)
ELEMENTS = st.one_of(st.integers(0, 100), st.integers(0, 10_000_000))
ITEMSIZES = st.sampled_from([2, 4, 8])


@given(SHARDS, SIZES, ELEMENTS, ITEMSIZES)
def test_slices_cut_the_vector_or_are_all_of_it(num_shards: int, size: int, elements: int, itemsize: int) -> None:
    plan = make_plan(num_shards, size, elements, itemsize)
    assert len(plan.slices) == size
    if plan.one_round:
        assert set(plan.slices) == {(0, elements)}
    else:
        ends = [0, *(stop for _, stop in plan.slices)]
        assert [start for start, _ in plan.slices] == ends[:-1]
        assert ends[-1] == elements
        lengths = [stop - start for start, stop in plan.slices]
        # Cut at multiples of 64 bytes: no two workers are more than two cache lines apart.
        assert max(lengths) - min(lengths) <= 2 * 64 // itemsize


@given(SHARDS, SIZES, ELEMENTS, ITEMSIZES)
def test_covers_hold_every_shard_once_and_the_additions_leave_the_root(
    num_shards: int, size: int, elements: int, itemsize: int
) -> None:
    plan = make_plan(num_shards, size, elements, itemsize)
    held = {span for cover in plan.covers for span in cover}
    assert len(held) == sum(map(len, plan.covers))
    shards = [shard for span in held for shard in range(span.start, min(span.stop, num_shards))]
    assert sorted(shards) == list(range(num_shards))
    for left, right in plan.additions:
        assert left in held
        held.remove(right)
    assert held == {plan.root}


@given(SHARDS, SIZES, ELEMENTS, ITEMSIZES)
def test_nothing_overlaps_in_an_outbox(num_shards: int, size: int, elements: int, itemsize: int) -> None:
    plan = make_plan(num_shards, size, elements, itemsize)
    for rank in range(size):
        layout = plan.layout(rank, 4096)
        areas = [
            (layout.partials[peer], layout.partials[peer] + plan.partials_bytes(rank, peer))
            for peer in range(size)
            if peer != rank
        ]
        areas.append((layout.result, layout.stop))
        assert layout.stop - layout.result == plan.length(rank) * itemsize
        assert areas[0][0] == 4096
        for (_, stop), (start, _) in itertools.pairwise(areas):
            assert stop <= start
            assert start % itemsize == 0


def test_only_small_vectors_go_to_everybody() -> None:
    assert make_plan(8, 4, ONE_ROUND_BYTES // 4, 4).one_round
    assert not make_plan(8, 4, ONE_ROUND_BYTES // 4 + 1, 4).one_round
