"""Layers start with PyTorch's distributions, drawn from our own generator: the same seed gives the same weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import nn
from cordee.trainer.array import to_numpy
from cordee.trainer.nn import init


def assert_uniform(values: Any, bound: float) -> None:
    """Within the bounds, and mean and variance within five standard errors of a uniform distribution's."""
    values = to_numpy(values)
    assert np.abs(values).max() <= bound
    count = values.size
    assert abs(values.mean()) < 5 * bound / math.sqrt(3 * count)
    # A uniform distribution's fourth central moment is bound⁴ / 5.
    assert abs(values.var() - bound**2 / 3) < 5 * math.sqrt((1 / 5 - 1 / 9) / count) * bound**2


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [(lambda: nn.Linear(100, 300), 100), (lambda: nn.Conv2d(6, 40, (3, 5), groups=2), 3 * 15)],
)
def test_products_start_uniform_within_the_root_of_their_inputs(layer: Any, fan_in: int) -> None:
    ct.manual_seed(1)
    made = layer()
    assert_uniform(made.weight.data, 1 / math.sqrt(fan_in))
    assert_uniform(made.bias.data, 1 / math.sqrt(fan_in))


def test_an_embedding_starts_standard_normal() -> None:
    ct.manual_seed(1)
    values = nn.Embedding(200, 50).weight.data
    assert abs(values.mean()) < 5 / math.sqrt(values.size)
    assert abs(values.var() - 1) < 5 * math.sqrt(2 / values.size)


def test_a_norm_starts_as_nothing() -> None:
    layer = nn.LayerNorm(5)
    assert (layer.weight.data.tolist(), layer.bias.data.tolist()) == ([1.0] * 5, [0.0] * 5)


def test_the_seed_decides_the_weights() -> None:
    def weights(seed: int) -> list[Any]:
        ct.manual_seed(seed)
        return [
            to_numpy(parameter.data) for parameter in nn.Sequential(nn.Linear(3, 4), nn.Conv2d(1, 2, 3)).parameters()
        ]

    assert all(np.array_equal(a, b) for a, b in zip(weights(5), weights(5), strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(weights(5), weights(6), strict=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("function", "variance"),
    [
        (lambda t: init.xavier_uniform_(t, 2.0), 4 * 2 / (80 + 120)),
        (init.xavier_normal_, 2 / (80 + 120)),
        (lambda t: init.kaiming_uniform_(t, nonlinearity="relu"), 2 / 80),
        (lambda t: init.kaiming_normal_(t, mode="fan_out", a=0.5), 2 / (1.25 * 120)),
        (lambda t: init.normal_(t, 0.0, 0.3), 0.09),
        (lambda t: init.uniform_(t, -0.6, 0.6), 0.12),
    ],
)
def test_initialisers_have_their_variance_and_keep_the_storage(function: Any, variance: float, dtype: Any) -> None:
    ct.manual_seed(3)
    tensor = nn.Parameter(np.empty((120, 80), dtype))
    data = tensor.data
    assert function(tensor) is tensor
    assert tensor.data is data
    assert data.dtype == dtype
    # A normal distribution's sample variance has the larger error: √(2/9600), 1.4 %.
    assert abs(data.var() / variance - 1) < 0.075
    assert abs(data.mean()) < 5 * math.sqrt(variance / data.size)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: init.xavier_uniform_(ct.ones(3)), r"at least two dimensions, got shape \(3,\)"),
        (lambda: init.kaiming_normal_(ct.ones(3, 3), mode="fan"), "mode must be fan_in or fan_out, got 'fan'"),
        (lambda: init.calculate_gain("rel"), "nonlinearity must be one of leaky_relu, linear, .* got 'rel'"),
        (lambda: nn.Linear(-1, 2), "sizes must not be negative"),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), r"in_channels \(3\) must be divisible by groups \(2\)"),
        (lambda: nn.Dropout(1.5), "p must be a probability, from 0 to 1, got 1.5"),
        (lambda: nn.MSELoss(reduction="avg"), "reduction must be mean, sum or none, got 'avg'"),
    ],
)
def test_a_mistake_is_a_sentence(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
