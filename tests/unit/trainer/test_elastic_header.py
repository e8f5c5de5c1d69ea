"""The step header comes back as it was packed, and junk is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordee.trainer.elastic.header import EXCHANGE_VERSION, StepHeader


@given(
    st.integers(0, 2**63),
    st.booleans(),
    st.lists(st.floats(allow_nan=False), max_size=20),
    st.lists(st.booleans(), max_size=70),
)
def test_a_header_survives_the_wire(step: int, pending: bool, losses: list[float], touched: list[bool]) -> None:
    header = StepHeader.unpack(StepHeader(step, pending, tuple(losses), np.array(touched, np.bool_)).pack())
    assert (header.step, header.change_pending, header.losses) == (step, pending, tuple(losses))
    assert header.touched.tolist() == touched


def test_a_missing_loss_stays_missing() -> None:
    header = StepHeader.unpack(StepHeader(1, False, (math.nan, 1.5), np.zeros(0, np.bool_)).pack())
    assert math.isnan(header.losses[0])
    assert header.losses[1] == 1.5


def test_times_survive_the_wire() -> None:
    header = StepHeader(1, False, (), np.zeros(0, np.bool_), shard_seconds=0.5, data_seconds=0.25)
    again = StepHeader.unpack(header.pack())
    assert (again.shard_seconds, again.data_seconds) == (0.5, 0.25)


def test_a_header_of_another_version_is_refused_with_both() -> None:
    packed = StepHeader(1, False, (1.5,), np.zeros(3, np.bool_)).pack()
    assert packed[0] == EXCHANGE_VERSION
    newer = bytes([EXCHANGE_VERSION + 1]) + packed[1:] + b"and what is new"
    with pytest.raises(ValueError, match=rf"speaks version {EXCHANGE_VERSION + 1}, this one {EXCHANGE_VERSION}"):
        StepHeader.unpack(newer)


@pytest.mark.parametrize("junk", [b"", b"\0" * 5, b"\xff" * 30, b"\2" * 30])
def test_junk_is_refused_with_a_sentence(junk: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        StepHeader.unpack(junk)
