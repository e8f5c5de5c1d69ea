"""Laws of the reduction tree: covers partition, folding gives the covers, and every world gets the same bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordee.trainer.elastic.partials import PartialSums
from cordee.trainer.elastic.tree import Span, combine_order, cover, deal, parent, root, sibling

SHARDS = st.integers(1, 40)
SIZES = st.integers(1, 12)


def tree_sum(span: Span, gradients: list[np.ndarray]) -> np.ndarray | None:
    """The definition: a node's sum is its left child's plus its right child's."""
    if span.start >= len(gradients):
        return None
    if span.level == 0:
        return gradients[span.place]
    left = tree_sum(Span(span.level - 1, span.place * 2), gradients)
    right = tree_sum(Span(span.level - 1, span.place * 2 + 1), gradients)
    return left if right is None else left + right


@given(SHARDS, SIZES)
def test_a_deal_gives_every_shard_to_one_rank_and_is_even(num_shards: int, size: int) -> None:
    ranges = deal(num_shards, size)
    assert [shard for start, stop in ranges for shard in range(start, stop)] == list(range(num_shards))
    lengths = [stop - start for start, stop in ranges]
    assert max(lengths) - min(lengths) <= 1


@given(st.data())
def test_a_cover_is_exact_and_maximal(data: st.DataObject) -> None:
    num_shards = data.draw(SHARDS)
    start = data.draw(st.integers(0, num_shards))
    stop = data.draw(st.integers(start, num_shards))
    spans = cover(start, stop, num_shards)
    shards = [shard for span in spans for shard in range(span.start, min(span.stop, num_shards))]
    assert shards == list(range(start, stop))
    for span in spans:
        if span != root(num_shards):
            above = parent(span)
            inside = start <= above.start and min(above.stop, num_shards) <= stop
            assert not inside, "a larger node would have done"


@given(SHARDS, SIZES, st.integers(0, 2**32 - 1))
def test_every_world_sums_to_the_same_bits(num_shards: int, size: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    scales = np.float32(10.0) ** generator.integers(-6, 6, num_shards).astype(np.float32)
    gradients = [generator.standard_normal(5, dtype=np.float32) * scale for scale in scales]
    expected = tree_sum(root(num_shards), gradients)
    held: dict[Span, np.ndarray] = {}
    for start, stop in deal(num_shards, size):
        partials = PartialSums(num_shards)
        working = np.empty(5, np.float32)
        for step in range(2):  # the second pass reuses buffers: nothing of the first may shine through
            partials.clear(working)
            for shard in range(start, stop):
                working[...] = gradients[shard] + (1.0 if step == 0 else 0.0)
                partials.fold(shard, working, last=shard == stop - 1)
        assert set(partials.spans) == set(cover(start, stop, num_shards))
        held.update(partials.spans)
    for left, right in combine_order(num_shards, size):
        held[left] += held.pop(right)
    (total,) = held.values()
    np.testing.assert_array_equal(total, expected)


@given(SHARDS)
def test_siblings_share_a_parent(num_shards: int) -> None:
    for span in cover(0, num_shards, num_shards):
        assert parent(sibling(span)) == parent(span)


def test_impossible_ranges_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one shard"):
        root(0)
    with pytest.raises(ValueError, match="no such range"):
        cover(2, 9, 8)
    with pytest.raises(ValueError, match="at least one worker"):
        deal(8, 0)
