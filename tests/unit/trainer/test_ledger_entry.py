"""The ledger's bytes: what goes in comes out, and what was damaged is passed over, never taken for something else."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordee.trainer import data
from cordee.trainer.elastic.ledger_entry import (
    LedgerData,
    LedgerEntry,
    LedgerError,
    frame,
    frames,
    pack_entry,
    pack_part,
    plan_digest,
    written_before,
)

STREAM = data.MappedStream(range(10), str)

spans = st.sampled_from([1, 100, 1 << 8, 1 << 16, 1 << 32, 1 << 62])
arrays = spans.flatmap(
    lambda span: st.builds(
        lambda base, offsets: np.array([base + offset for offset in offsets], np.int64),
        st.integers(-(1 << 62), 1 << 61),
        st.lists(st.integers(0, span - 1), max_size=9),
    )
)
ranges = st.builds(lambda start, size: range(start, start + size), st.integers(0, 1 << 40), st.integers(0, 9))
parts = st.lists(st.one_of(arrays, ranges), max_size=5)


@given(read=parts, first_shard=st.integers(0, 1 << 31), plan=st.integers(0, (1 << 64) - 1), written=st.integers(0, 99))
def test_a_part_comes_back_as_it_was(read: list[Any], first_shard: int, plan: int, written: int) -> None:
    part = pack_part(written, plan, first_shard, read)
    assert written_before(part) == written
    entry = LedgerEntry.unpack(pack_entry(7, 2, 3, 11, [part]))
    assert (entry.step, entry.epoch, entry.index, entry.generation, entry.plan) == (7, 2, 3, 11, plan)
    assert [(shard, rank, indices.tolist()) for shard, rank, indices in entry.shards] == [
        (first_shard + place, 0, [int(number) for number in indices]) for place, indices in enumerate(read)
    ]


def test_a_part_takes_no_more_bytes_than_the_numbers_need() -> None:
    def size(indices: Any) -> int:
        return len(pack_part(0, 0, 0, [indices])) - len(pack_part(0, 0, 0, [range(0)]))

    assert size(range(5, 1005)) == 0
    assert size(np.arange(5, 1005)) == 0
    assert size(np.arange(1000)[::-1] % 256) == 1000
    assert size(10**12 + np.arange(1000)[::-1]) == 2 * 1000
    assert size(np.array([1 << 20, 0])) == 2 * 4
    assert size(np.array([1 << 40, 0])) == 2 * 8


def test_shards_that_follow_each_other_in_a_stream_are_one_stretch() -> None:
    assert len(pack_part(0, 0, 0, [range(4), range(4, 9)])) == len(pack_part(0, 0, 0, [range(0), range(0)]))
    apart = LedgerEntry.unpack(pack_entry(1, 1, 0, 1, [pack_part(0, 0, 0, [range(4), range(5, 9)])]))
    assert [indices.tolist() for _, _, indices in apart.shards] == [[0, 1, 2, 3], [5, 6, 7, 8]]


def test_the_content_does_not_say_who_read_it_nor_in_which_world() -> None:
    shards = [np.array([5, 2]), np.array([9]), np.array([1, 7])]
    one = pack_entry(4, 1, 3, 1, [pack_part(0, 0, 0, shards)])
    other = pack_entry(4, 1, 3, 9, [pack_part(3, 8, 0, shards[:1]), pack_part(0, 0, 1, shards[1:])])
    assert LedgerEntry.unpack(one).content() == LedgerEntry.unpack(other).content()
    moved = pack_entry(4, 1, 3, 1, [pack_part(0, 0, 0, [np.array([5]), np.array([2, 9]), shards[2]])])
    assert LedgerEntry.unpack(moved).content() != LedgerEntry.unpack(one).content()


def test_digests_tell_lists_of_samples_apart() -> None:
    assert plan_digest(np.array([1, 2])) == plan_digest(np.array([1, 2], np.int32)) != plan_digest(np.array([2, 1]))
    assert plan_digest(np.empty(0, np.int64)) != 0


@given(st.binary(max_size=80))
def test_no_bytes_are_an_entry_that_are_not(text: bytes) -> None:
    try:
        entry = LedgerEntry.unpack(text)
    except LedgerError:
        return
    assert not entry.parts


@given(
    entries=st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=6),
    cut=st.integers(0, 200),
    damaged=st.integers(0, 200),
)
def test_frames_that_are_whole_are_found_whatever_became_of_the_others(
    entries: list[bytes], cut: int, damaged: int
) -> None:
    framed = [frame(entry) for entry in entries]
    text = bytearray(b"".join(framed))
    damaged %= len(text)
    text[damaged] ^= 0xFF
    text = text[: max(len(text) - cut, 0)]
    found = list(frames(bytes(text), 0))
    assert [0, *(place.stop for place in found)][-1] == len(text)
    whole = [bytes(text[place.start : place.stop]) for place in found if place.whole]
    at, expected = 0, []
    for entry, piece in zip(entries, framed, strict=True):
        if at + len(piece) <= len(text) and not at <= damaged < at + len(piece):
            expected.append(entry)
        at += len(piece)
    assert whole == expected


@pytest.mark.parametrize(
    ("loader", "order"),
    [
        (data.DataLoader(range(10), 4), "sequential"),
        (data.DataLoader(range(10), 4, shuffle=True, seed=3), "shuffled"),
        (data.DataLoader(range(10), 4, sampler=[3, 1]), "sampler"),
        (data.DataLoader(range(10), batch_sampler=[[3, 1], [2]]), "sampler"),
        (data.DataLoader(STREAM, 4, steps_per_epoch=2), "stream"),
    ],
)
def test_the_first_line_says_which_data_it_is_about(loader: data.DataLoader, order: str) -> None:
    told = LedgerData.of(loader, 2)
    assert told.order == order
    assert LedgerData.from_line(told.line()) == told
    assert told.line().endswith(b"}\n")
    assert json.loads(told.line())["format"] == "cordee-ledger/1"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", "does not begin as a ledger does"),
        (b"[]", "does not begin as a ledger does"),
        (b'{"format": "cordee-ledger/9"}', "does not begin as a ledger does"),
        (b'{"format": "cordee-ledger/1"}', "lacks 'loader'"),
    ],
)
def test_another_line_is_refused(line: bytes, words: str) -> None:
    with pytest.raises(LedgerError, match=words):
        LedgerData.from_line(line)
