"""Nested values come back as they were: types, order, every bit; also over JSON."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict, defaultdict, deque
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cordee.trainer as ct
from cordee.trainer.nested import NotPlainError, References, copied, flatten, same, same_bits, unflatten

numbers = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5),
    st.complex_numbers(), st.floats(width=32).map(np.float32), st.integers(-5, 5).map(np.int8),
)  # fmt: skip
keys = st.one_of(st.text(max_size=3), st.integers(), st.tuples(st.integers(), st.text(max_size=2)))
arrays = st.sampled_from(
    [
        np.zeros(0), np.ones((2, 3), np.float32), np.array(3, np.int16), np.array([True, False]),
        np.array(["a", "bc"]), np.array([1j, 2]), np.array("2020-01-01", "M8[D]"),
    ]
)  # fmt: skip
values = st.recursive(
    numbers | arrays,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(keys, inner, max_size=3)
        | st.sets(st.integers(), max_size=3)
        | st.frozensets(st.text(max_size=2), max_size=3)
        | st.lists(inner, max_size=3).map(lambda items: deque(items, 5))
    ),
    max_leaves=8,
)


def assert_alike(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert same_bits(one, other)
    elif isinstance(one, (list, tuple, deque)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_alike(a, b)
        assert getattr(one, "maxlen", None) == getattr(other, "maxlen", None)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key, value in one.items():
            assert_alike(value, other[key])
    elif isinstance(one, (float, complex, np.floating)):
        assert repr(one) == repr(other)
    else:
        assert one == other


@given(values)
def test_a_value_survives_the_wire(value: Any) -> None:
    plain, own = flatten(value)
    text = json.dumps(plain, allow_nan=False)
    back = unflatten(json.loads(text), own)
    assert_alike(value, back)
    assert same((plain, own), flatten(back))


def test_tensors_and_aliases_stay_what_they_are() -> None:
    array = np.arange(3.0)
    value = {"tensor": ct.ones(2), "one": array, "other": [array], "scalar": ct.tensor(2.5)}
    back = unflatten(*flatten(value))
    assert isinstance(back["tensor"], ct.Tensor)
    assert back["scalar"].shape == ()
    assert back["scalar"].dtype == np.float32
    assert back["one"] is back["other"][0]
    assert back["one"] is not array


def test_places_that_look_alike_are_told_apart() -> None:
    value = {"a/b": np.zeros(1), "a": {"b": np.ones(1)}, 1: np.full(1, 2.0), "1": np.full(1, 3.0)}
    assert_alike(value, unflatten(*flatten(value)))


def test_parameters_are_references() -> None:
    one, other = ct.nn.Parameter(np.zeros(2)), ct.nn.Parameter(np.ones(2))
    here, there = References({"w": one}), References({"w": other})
    plain, own = flatten([{one: np.zeros(1)}, {id(one): 3, 7: 1}, one], here)
    assert list(own) == ["0/Parameter"]
    by_parameter, by_id, itself = unflatten(json.loads(json.dumps(plain)), own, there)
    assert list(by_parameter)[0] is itself is other  # noqa: RUF015 (a tensor's == is no bool)
    assert by_id == {id(other): 3, 7: 1}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda: 1, "^it is a function"),
        ({"a": [1, object()]}, "^what is under 'a/1' is a object; what travels is made of"),
        ([np.array([None])], "^what is under '0' is an array of object"),
    ],
)
def test_anything_else_is_refused_with_its_place(value: Any, message: str) -> None:
    with pytest.raises(NotPlainError, match=message):
        flatten(value)


def test_bits_are_compared_not_values() -> None:
    assert same_bits(np.array([math.nan]), np.array([math.nan]))
    assert not same_bits(np.array([0.0]), np.array([-0.0]))
    assert not same_bits(np.zeros(2), np.zeros(2, np.float32))
    assert same_bits(np.arange(6).reshape(2, 3).T, np.arange(6).reshape(2, 3).T.copy())
    assert same_bits(np.zeros((0, 3)), np.zeros((0, 3)))
    odd = np.arange(17, dtype=np.uint8)
    assert same_bits(odd[1:], odd[1:].copy())


def test_a_copy_is_nobody_elses() -> None:
    array = np.zeros(2)
    _, own = copied(flatten([array]))
    array += 1
    assert own["0"].tolist() == [0, 0]


@pytest.mark.parametrize(
    "value",
    [OrderedDict(b=1, a=2), Counter(b=2), defaultdict(int, a=1), defaultdict(list, {3: [1]})],
)
def test_the_mappings_of_the_standard_library_stay_what_they_are(value: Any) -> None:
    plain, own = flatten({"inside": value})
    back = unflatten(json.loads(json.dumps(plain)), own)["inside"]
    assert_alike(value, back)
    assert getattr(back, "default_factory", None) is getattr(value, "default_factory", None)


def test_other_mappings_come_back_as_dictionaries() -> None:
    assert unflatten(*flatten(MappingProxyType({"b": 1, "a": 2}))) == {"b": 1, "a": 2}


@pytest.mark.parametrize(
    "array",
    [np.array([[1, 2]], ">i4"), np.array(["a", "bc"]), np.array([b"a"]), np.array(["2020-02-03"], "M8[D]"),
     np.ones(2, np.longdouble), np.array(1.5, ">f8")],
)  # fmt: skip
def test_arrays_that_no_file_of_weights_holds_travel_as_well(array: Any) -> None:
    plain, own = flatten([array])
    assert all(each.dtype == np.uint8 for each in own.values())  # a dtype's name would lose the order of bytes
    [back] = unflatten(json.loads(json.dumps(plain)), own)
    assert back.dtype.str == array.dtype.str
    assert back.tolist() == array.tolist()
    assert back.flags.writeable
