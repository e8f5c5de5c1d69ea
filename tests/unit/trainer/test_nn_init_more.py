"""Initialisers of structure: truncated, orthogonal, sparse, identities; and PyTorch's gains."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import nn
from cordee.trainer.nn import init


def tensor(*shape: int) -> Any:
    ct.manual_seed(3)
    return ct.zeros(*shape, dtype=ct.float64)


@pytest.mark.parametrize(("mean", "std", "a", "b"), [(0.0, 1.0, -2.0, 2.0), (1.0, 0.5, 0.9, 2.0), (0.0, 1.0, 3.0, 4.0)])
def test_truncated_normal_stays_within_its_bounds_and_has_its_mean(mean: float, std: float, a: float, b: float) -> None:
    values = init.trunc_normal_(tensor(200, 200), mean, std, a, b).numpy()
    assert values.min() >= a
    assert values.max() <= b

    def density(x: float) -> float:
        return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    def below(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    low, high = (a - mean) / std, (b - mean) / std
    expected = mean + std * (density(low) - density(high)) / (below(high) - below(low))
    assert abs(values.mean() - expected) < 5 * std / 200  # five standard errors, of a variance that is at most std²
    with pytest.raises(ValueError, match="needs a < b"):
        init.trunc_normal_(tensor(2), a=1.0, b=0.0)


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3), (4, 2, 3)])
def test_orthogonal_matrices_are_orthogonal(shape: tuple[int, ...]) -> None:
    matrix = init.orthogonal_(tensor(*shape), gain=2.0).numpy().reshape(shape[0], -1)
    small = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(small, 4.0 * np.eye(len(small)), atol=1e-12)
    with pytest.raises(ValueError, match="at least two dimensions"):
        init.orthogonal_(tensor(3))


def test_sparse_columns_have_their_share_of_zeros() -> None:
    values = init.sparse_(tensor(10, 200), sparsity=0.25, std=2.0).numpy()
    assert ((values == 0).sum(axis=0) == 3).all()  # a quarter of ten, rounded up
    assert abs(values[values != 0].std() - 2.0) < 5 * 2.0 / math.sqrt(2 * 1400)
    with pytest.raises(ValueError, match="needs a matrix"):
        init.sparse_(tensor(3), 0.1)


def test_identities_pass_signals_on() -> None:
    assert init.eye_(tensor(2, 3)).numpy().tolist() == [[1, 0, 0], [0, 1, 0]]
    conv = nn.Conv2d(4, 4, 3, padding=1, bias=False, groups=2)
    init.dirac_(conv.weight, groups=2)
    x = ct.randn(1, 4, 5, 5)
    assert np.array_equal(conv(x).detach().numpy(), x.numpy())
    with pytest.raises(ValueError, match="weight of a convolution"):
        init.dirac_(tensor(2, 2))
    with pytest.raises(ValueError, match=r"divisible by groups \(3\)"):
        init.dirac_(tensor(4, 2, 3), groups=3)
    with pytest.raises(ValueError, match="needs a matrix"):
        init.eye_(tensor(2))


def test_an_initialiser_is_a_write_that_graphs_notice() -> None:
    layer = nn.Linear(2, 2)
    out = (layer(ct.ones(1, 2, requires_grad=True)) ** 2).sum()
    init.zeros_(layer.weight)
    with pytest.raises(ct.GraphError):
        out.backward()


@pytest.mark.torch
def test_gains_are_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    names = [
        "linear",
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose2d",
        "sigmoid",
        "tanh",
        "relu",
        "selu",
        "leaky_relu",
    ]
    for name in names:
        assert init.calculate_gain(name) == pytest.approx(torch.nn.init.calculate_gain(name), rel=1e-12)
    assert init.calculate_gain("leaky_relu", 0.3) == pytest.approx(torch.nn.init.calculate_gain("leaky_relu", 0.3))


@pytest.mark.torch
def test_gradient_clipping_is_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) for shape in ((3, 4), (5,), (2, 2, 2))]
    for order in (2.0, 1.0, math.inf, 3.0):
        ours = [nn.Parameter(np.zeros(a.shape)) for a in arrays]
        theirs = [torch.zeros(a.shape, dtype=torch.float64) for a in arrays]
        for mine, other, a in zip(ours, theirs, arrays, strict=True):
            mine.grad, other.grad = ct.tensor(a), torch.tensor(a)
        found = nn.utils.clip_grad_norm_(ours, 0.7, norm_type=order)
        expected = torch.nn.utils.clip_grad_norm_(theirs, 0.7, norm_type=order)
        np.testing.assert_allclose(found.item(), expected.item(), rtol=1e-12)
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.grad is not None
            np.testing.assert_allclose(mine.grad.numpy(), other.grad.numpy(), rtol=1e-12)
