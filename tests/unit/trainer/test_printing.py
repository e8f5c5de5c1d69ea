"""The text of tensors is PyTorch's, character by character, but for the short names of dtypes and of functions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import nn


def text_of(value: Any) -> str:
    """What is printed, without the device, which is only said where it is not the CPU."""
    return repr(value).replace(", device='cuda'", "")


@pytest.fixture(autouse=True)
def _default_options() -> Iterator[None]:
    yield
    ct.set_printoptions(profile="default")


# The expected texts are PyTorch 2.15's, its `torch.` before a dtype taken away.
GOLDEN: list[tuple[Any, str]] = [
    ([1.0, 2.5], "tensor([1.0000, 2.5000])"),
    ([1.0, 2.0], "tensor([1., 2.])"),
    ([0.0, float("nan"), float("inf")], "tensor([0., nan, inf])"),
    ([1e-5, 1.0], "tensor([1.0000e-05, 1.0000e+00])"),
    ([1, -20], "tensor([  1, -20])"),
    ([True, False], "tensor([ True, False])"),
    (3.0, "tensor(3.)"),
    ([], "tensor([])"),
    ([[], []], "tensor([], size=(2, 0))"),
    ([[[1, 2]], [[3, 4]]], "tensor([[[1, 2]],\n\n        [[3, 4]]])"),
]


@pytest.mark.parametrize(("data", "text"), GOLDEN)
def test_tensors_print_as_in_pytorch(data: Any, text: str) -> None:
    assert text_of(ct.tensor(data)) == text


def test_what_is_not_the_default_is_said() -> None:
    assert text_of(ct.zeros(2, dtype=ct.float64)) == "tensor([0., 0.], dtype=float64)"
    leaf = ct.tensor([1.0, 2.0], requires_grad=True)
    assert text_of(leaf) == "tensor([1., 2.], requires_grad=True)"
    assert text_of(leaf * 2) == "tensor([2., 4.], grad_fn=<mul>)"
    assert text_of(nn.Parameter([1.0])) == "Parameter containing:\ntensor([1.], requires_grad=True)"


def test_large_tensors_are_summarised() -> None:
    assert text_of(ct.arange(2000)) == "tensor([   0,    1,    2,  ..., 1997, 1998, 1999])"
    lines = text_of(ct.zeros(50, 50)).splitlines()
    assert len(lines) == 7
    assert lines[0] == "tensor([[0., 0., 0.,  ..., 0., 0., 0.],"
    assert lines[3] == "        ...,"


def test_options_change_the_text_and_the_default_profile_undoes_them() -> None:
    number = ct.tensor([1 / 3])
    ct.set_printoptions(precision=2)
    assert text_of(number) == "tensor([0.33])"
    ct.set_printoptions(sci_mode=True)
    assert text_of(number) == "tensor([3.33e-01])"
    ct.set_printoptions(profile="default")
    assert text_of(number) == "tensor([0.3333])"
    ct.set_printoptions(threshold=2, edgeitems=1)
    assert text_of(ct.arange(5)) == "tensor([0,  ..., 4])"
    with pytest.raises(ValueError, match="default, short, full"):
        ct.set_printoptions(profile="tiny")


@pytest.mark.torch
@pytest.mark.parametrize("seed", range(40))
def test_random_tensors_print_as_live_pytorch_prints_them(seed: int) -> None:
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(0 if seed % 5 == 0 else 1, (2000, 60, 12, 5)[seed % 4], size=seed % 4 + 1))
    array = random.standard_normal(shape) * 10.0 ** random.integers(-6, 9)
    array = [array, array.round(), array.astype(np.float32), array.astype(np.int64), array > 0][seed % 5]
    if seed % 7 == 0 and array.dtype.kind == "f" and array.size:
        array.flat[0] = np.nan
    if seed % 11 == 3:
        array = array + 1j * array[::-1]
    theirs = re.sub(r"torch\.(?=\w+\d)", "", text_of(torch.from_numpy(np.array(array))))
    assert text_of(ct.tensor(array)) == theirs
