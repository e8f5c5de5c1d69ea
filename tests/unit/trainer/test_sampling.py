"""Random tensors: the right distribution, the same numbers for the same seed, refusals in sentences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer.array import to_numpy

N = 20_000

# name: (draw, mean, standard deviation); a mean of N draws is within 5 standard errors of it
DRAWS: dict[str, tuple[Callable[[], ct.Tensor], float, float]] = {
    "rand": (lambda: ct.rand(N), 0.5, 1 / math.sqrt(12)),
    "rand, half": (lambda: ct.rand(N, dtype=ct.float16).float(), 0.5, 1 / math.sqrt(12)),
    "randn": (lambda: ct.randn(N), 0.0, 1.0),
    "randint": (lambda: ct.randint(2, 6, (N,)).float(), 3.5, math.sqrt(15 / 12)),
    "normal": (lambda: ct.normal(ct.full((N,), 2.0), 3.0), 2.0, 3.0),
    "normal, size": (lambda: ct.normal(1.0, 2.0, (N,)), 1.0, 2.0),
    "bernoulli": (lambda: ct.bernoulli(ct.full((N,), 0.3)), 0.3, math.sqrt(0.21)),
    "poisson": (lambda: ct.poisson(ct.full((N,), 4.0)), 4.0, 2.0),
    "uniform_": (lambda: ct.empty(N).uniform_(-1, 3), 1.0, 4 / math.sqrt(12)),
    "normal_": (lambda: ct.empty(N).normal_(-1, 0.5), -1.0, 0.5),
    "log_normal_": (lambda: ct.empty(N).log_normal_(0.0, 0.5).log(), 0.0, 0.5),
    "exponential_": (lambda: ct.empty(N).exponential_(2.0), 0.5, 0.5),
    "geometric_": (lambda: ct.empty(N).geometric_(0.25), 4.0, math.sqrt(12)),
    "bernoulli_": (lambda: ct.empty(N).bernoulli_(0.8), 0.8, 0.4),
    "random_": (lambda: ct.empty(N).random_(10), 4.5, math.sqrt(99 / 12)),
    "multinomial": (lambda: ct.multinomial(ct.tensor([1.0, 0.0, 3.0]), N, True).float(), 1.5, math.sqrt(0.75)),
    "gumbel_softmax": (
        lambda: ct.nn.functional.gumbel_softmax(ct.tensor([[0.0, math.log(3.0)]]).expand(N, 2), hard=True)[:, 1],
        0.75,
        math.sqrt(3 / 16),
    ),
}


@pytest.mark.parametrize("name", DRAWS)
def test_mean_and_spread_are_those_of_the_distribution(name: str, seed: int) -> None:
    draw, mean, deviation = DRAWS[name]
    ct.manual_seed(seed)
    numbers = to_numpy(draw().data).astype(float)
    assert numbers.shape == (N,)
    assert abs(numbers.mean() - mean) < 5 * deviation / math.sqrt(N)
    assert abs(numbers.std() / deviation - 1) < 0.1


@pytest.mark.parametrize("name", DRAWS)
def test_the_same_seed_gives_the_same_numbers(name: str, seed: int) -> None:
    ct.manual_seed(seed)
    first, other = DRAWS[name][0](), DRAWS[name][0]()
    ct.manual_seed(seed)
    assert DRAWS[name][0]().equal(first)
    assert not first.equal(other)


@pytest.mark.parametrize("dtype", [ct.float16, ct.bfloat16, ct.float32, ct.float64], ids=str)
def test_uniform_numbers_stay_below_one_in_every_dtype(dtype: Any, seed: int) -> None:
    ct.manual_seed(seed)
    numbers = ct.rand(100_000, dtype=dtype)
    assert numbers.dtype == dtype
    assert 0 <= float(numbers.min()) < float(numbers.max()) < 1


def test_a_draw_without_replacement_takes_no_category_twice(seed: int) -> None:
    ct.manual_seed(seed)
    weights = ct.tensor([[1.0, 2.0, 0.0, 4.0], [5.0, 1.0, 1.0, 0.0]])
    for row in to_numpy(ct.multinomial(weights.expand(2, 4), 3).data):
        assert len(set(row)) == 3
    many = to_numpy(ct.multinomial(weights[:1].expand(500, 4), 3).data)
    assert 2 not in many  # of weight 0
    assert (many[:, 0] == 3).mean() == pytest.approx(4 / 7, abs=0.12)


def test_permutations_and_bounds(seed: int) -> None:
    ct.manual_seed(seed)
    np.testing.assert_array_equal(np.sort(to_numpy(ct.randperm(50).data)), np.arange(50))
    assert ct.randint(10, (3, 2)).shape == ct.randint(0, 10, (3, 2)).shape == (3, 2)
    small = ct.zeros(1000, dtype=ct.uint8).random_()
    assert int(small.max()) > 200
    assert set(to_numpy(ct.zeros(100, dtype=ct.bool).random_().data)) == {True, False}
    like = ct.randint_like(ct.zeros(3, dtype=ct.int32), 5)
    assert like.dtype == ct.int32


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "randint": (lambda: ct.randint(3, 3, (2,)), ValueError, "no whole number"),
    "bernoulli": (lambda: ct.bernoulli(ct.tensor([1.5])), ValueError, "between 0 and 1"),
    "multinomial, negative": (lambda: ct.multinomial(ct.tensor([-1.0, 2.0]), 1), ValueError, "not negative"),
    "multinomial, too many": (lambda: ct.multinomial(ct.tensor([1.0, 0.0]), 2), ValueError, "without replacement"),
    "multinomial, shape": (lambda: ct.multinomial(ct.ones(1, 1, 2), 2), ct.ShapeError, "shape"),
    "normal": (lambda: ct.normal(0.0, 1.0), ValueError, "give size"),
    "normal, std": (lambda: ct.normal(0.0, -1.0, (2,)), ValueError, "negative"),
    "uniform_": (lambda: ct.zeros(2).uniform_(2, 1), ValueError, "above"),
    "rand of whole numbers": (lambda: ct.rand(2, dtype=ct.int64), TypeError, "int64"),
    "another device": (lambda: ct.zeros(2, device="tpu"), ct.DeviceError, "tpu"),
    "a leaf": (lambda: ct.zeros(2, requires_grad=True).normal_(), ct.GraphError, "no_grad"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_drawn_is_refused_in_a_sentence(name: str) -> None:
    call, kind, words = REFUSED[name]
    with pytest.raises(kind, match=words):
        call()


def test_the_gradient_of_a_hard_draw_is_that_of_the_relaxed_one(seed: int) -> None:
    logits = ct.randn(4, 3, requires_grad=True)
    gradients = []
    for hard in (True, False):
        ct.manual_seed(seed)
        logits.grad = None
        drawn = ct.nn.functional.gumbel_softmax(logits, tau=0.7, hard=hard)
        (drawn * ct.arange(12.0).reshape(4, 3)).sum().backward()
        assert logits.grad is not None
        gradients.append(to_numpy(logits.grad.data))
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-6)


def test_random_leaky_slopes_lie_between_their_bounds(seed: int) -> None:
    ct.manual_seed(seed)
    x = ct.full((1000,), -1.0, requires_grad=True)
    out = ct.nn.functional.rrelu(x, 0.1, 0.4, training=True)
    slopes = -to_numpy(out.detach().data)
    assert 0.1 <= slopes.min() < 0.15 < 0.35 < slopes.max() <= 0.4
    out.sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(to_numpy(x.grad.data), slopes)
