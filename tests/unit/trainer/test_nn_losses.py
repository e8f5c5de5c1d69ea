"""Losses refuse what would go wrong in silence, say where a class number is wrong, and are right at the edges."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import nn
from cordee.trainer.autograd import gradcheck, gradgradcheck
from cordee.trainer.nn import functional as F

SHARES = ct.tensor(np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.1, 0.25, 0.25]]))
PAIRS: dict[str, Any] = {
    "mse_loss": F.mse_loss,
    "l1_loss": F.l1_loss,
    "smooth_l1_loss": F.smooth_l1_loss,
    "huber_loss": F.huber_loss,
    "binary_cross_entropy": F.binary_cross_entropy,
    "binary_cross_entropy_with_logits": F.binary_cross_entropy_with_logits,
    "soft_margin_loss": F.soft_margin_loss,
    "hinge_embedding_loss": F.hinge_embedding_loss,
    "kl_div": F.kl_div,
    "poisson_nll_loss": F.poisson_nll_loss,
    "multilabel_soft_margin_loss": F.multilabel_soft_margin_loss,
}


@pytest.mark.parametrize("name", PAIRS)
def test_shapes_that_would_broadcast_are_refused_with_the_way_out(name: str) -> None:
    column, row = ct.full((4, 1), 0.5), ct.full((4,), 0.5)
    with pytest.raises(ct.ShapeError) as caught:
        PAIRS[name](column, row)
    assert str(caught.value) == (
        f"{name}: input has shape (4, 1), target (4,); they must be the same: input.squeeze(-1) makes them so "
        "(or broadcast=True, if all pairs are meant)"
    )
    with pytest.raises(ct.ShapeError, match=r"target\.squeeze\(-1\) makes them so"):
        PAIRS[name](row, column)
    with pytest.raises(ct.ShapeError, match="reshape one of them"):
        PAIRS[name](ct.full((2, 3), 0.5), ct.full((3,), 0.5))
    assert PAIRS[name](column, row, broadcast=True).shape == ()
    assert PAIRS[name](column, row, broadcast=True, reduction="none").shape in ((4, 4), (4,))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b: F.gaussian_nll_loss(a, b, 1.0), r"input has shape \(4, 1\), target \(4,\)"),
        (lambda a, b: F.margin_ranking_loss(a, b, b), r"input1 has shape \(4, 1\), input2 \(4,\)"),
        (F.sigmoid_focal_loss, r"inputs has shape \(4, 1\), targets \(4,\)"),
        (lambda a, b: F.triplet_margin_loss(a, b, b), r"anchor has shape \(4, 1\), positive \(4,\)"),
        (lambda a, b: F.cosine_embedding_loss(a, b, b), r"input1 has shape \(4, 1\), input2 \(4,\)"),
        (lambda a, b: F.mse_loss(a, a, weight=b), r"input has shape \(4, 1\), weight \(4,\)"),
        (lambda a, b: F.gaussian_nll_loss(a, a, ct.ones(3)), r"var must be like it, .* it has shape \(3,\)"),
    ],
)
def test_other_losses_name_their_own_arguments(call: Any, message: str) -> None:
    with pytest.raises(ct.ShapeError, match=message):
        call(ct.full((4, 1), 0.5), ct.full((4,), 0.5))


def test_a_class_number_out_of_range_is_named_with_its_place() -> None:
    logits = ct.zeros(2, 5, 3)
    target = ct.tensor([[0, 1, 2], [3, 7, 4]])
    expected = (
        r"target\[1, 1\] is class number 7, outside the 5 classes, 0 to 4; targets equal to ignore_index "
        r"\(now -100\) are left out"
    )
    with pytest.raises(ct.TrainerIndexError, match=f"cross_entropy: {expected}"):
        F.cross_entropy(logits, target)
    with pytest.raises(ct.TrainerIndexError, match=f"nll_loss: {expected}"):
        F.nll_loss(logits, target)
    with pytest.raises(ct.TrainerIndexError, match=r"target\[1\] is class number -1"):
        F.cross_entropy(ct.zeros(2, 3), ct.tensor([0, -1]))
    with pytest.raises(ct.TrainerIndexError, match="target is class number 3, outside the 3 classes"):
        F.cross_entropy(ct.zeros(3), ct.tensor(3))
    with pytest.raises(ct.TrainerIndexError, match=r"multi_margin_loss: target\[1\] is class number 3"):
        F.multi_margin_loss(ct.zeros(2, 3), ct.tensor([0, 3]))
    with pytest.raises(ct.TrainerIndexError) as caught:
        nn.CrossEntropyLoss()(ct.zeros(2, 3), ct.tensor([0, 3]))
    assert any("CrossEntropyLoss" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    ("input", "target", "message"),
    [
        (
            (4, 3),
            ct.zeros(4, 1, dtype=ct.int64),
            r"target must have shape \(4,\), not \(4, 1\) .*: target.squeeze\(1\)",
        ),
        ((4, 3), ct.zeros(4, 3, dtype=ct.int64), r"one-hot rows are probabilities"),
        ((4, 3, 2), ct.zeros(4, dtype=ct.int64), r"target must have shape \(4, 2\), not \(4,\)"),
    ],
)
def test_targets_of_the_wrong_shape_are_refused_with_the_way_out(input: Any, target: Any, message: str) -> None:
    with pytest.raises(ct.ShapeError, match=message):
        F.cross_entropy(ct.zeros(*input), target)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: F.cross_entropy(ct.zeros(2, 3), ct.zeros(2, dtype=ct.bool)), TypeError, "must be integers, not bool"),
        (
            lambda: F.cross_entropy(ct.zeros(2, 3), ct.tensor([0, 1]), ct.ones(2)),
            ct.ShapeError,
            r"shape \(3,\), not \(2,",
        ),
        (
            lambda: F.cross_entropy(ct.zeros(2, 3), ct.zeros(2, 3), ignore_index=1),
            ValueError,
            "targets are probabilities",
        ),
        (lambda: F.cross_entropy(ct.zeros(2, 3), ct.tensor([0, 1]), label_smoothing=2.0), ValueError, "from 0 to 1"),
        (lambda: F.binary_cross_entropy(ct.tensor([0.5, 1.5]), ct.ones(2)), ValueError, "holds 1.5, which is no prob"),
        (lambda: F.gaussian_nll_loss(ct.zeros(2), ct.zeros(2), -1.0), ValueError, "negative variances"),
        (lambda: F.huber_loss(ct.zeros(2), ct.zeros(2), delta=0.0), ValueError, "delta must be positive"),
        (lambda: F.smooth_l1_loss(ct.zeros(2), ct.zeros(2), beta=-1.0), ValueError, "beta must not be negative"),
        (
            lambda: F.mse_loss(ct.zeros(2), ct.zeros(2), reduction="avg"),
            ValueError,
            "one of mean, sum, none, not 'avg'",
        ),
        (lambda: F.kl_div(ct.zeros(2), ct.zeros(2), reduction="x"), ValueError, "one of mean, batchmean, sum, none"),
        (lambda: F.multi_margin_loss(ct.zeros(2, 3), ct.tensor([0, 1]), p=3), ValueError, "p must be 1 or 2"),
        (
            lambda: F.triplet_margin_loss(ct.zeros(2, 3), ct.zeros(2, 3), ct.zeros(2, 3), margin=0.0),
            ValueError,
            "greater than 0",
        ),
    ],
)
def test_mistakes_are_sentences(call: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


def test_ignored_targets_count_for_nothing_even_where_the_loss_is_infinite() -> None:
    log_probabilities = ct.tensor([[0.0, -math.inf], [-0.5, -1.0]], requires_grad=True)
    loss = F.nll_loss(log_probabilities, ct.tensor([1, 0]), ignore_index=1)
    loss.backward()
    assert loss.item() == 0.5
    assert log_probabilities.grad is not None
    assert log_probabilities.grad.numpy().tolist() == [[0.0, 0.0], [-1.0, 0.0]]
    assert math.isnan(F.cross_entropy(ct.zeros(2, 3), ct.tensor([1, 1]), ignore_index=1).item())


def test_losses_are_finite_where_their_formulas_overflow() -> None:
    big = ct.tensor([1e4, -1e4], requires_grad=True)
    for loss in (
        F.binary_cross_entropy_with_logits(big, ct.tensor([1.0, 0.0])),
        F.soft_margin_loss(big, ct.tensor([1.0, -1.0])),
        F.sigmoid_focal_loss(big, ct.tensor([1.0, 0.0]), reduction="mean"),
        F.cross_entropy(big.unsqueeze(0), ct.tensor([0])),
    ):
        big.grad = None
        loss.backward()
        assert loss.item() == 0.0
        assert big.grad is not None
        assert np.isfinite(big.grad.numpy()).all()
    certain = ct.tensor([0.0, 1.0], requires_grad=True)
    worst = F.binary_cross_entropy(certain, ct.tensor([1.0, 0.0]))
    worst.backward()
    assert worst.item() == 100.0
    assert certain.grad is not None
    assert np.isfinite(certain.grad.numpy()).all()


def test_the_focal_loss_is_torchvisions() -> None:
    """Its definition: alpha_t (1 - p_t)^gamma times the binary cross-entropy."""
    x, y = np.array([-2.0, 0.3, 1.7]), np.array([1.0, 0.0, 1.0])
    p = 1 / (1 + np.exp(-x))
    right = np.where(y == 1, p, 1 - p)
    expected = np.where(y == 1, 0.25, 0.75) * (1 - right) ** 2 * -np.log(right)
    found = F.sigmoid_focal_loss(ct.tensor(x), ct.tensor(y))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    plain = F.sigmoid_focal_loss(ct.tensor(x), ct.tensor(y), alpha=-1, gamma=0.0, reduction="sum")
    np.testing.assert_allclose(plain.item(), -np.log(right).sum(), rtol=1e-12)
    module = nn.FocalLoss(reduction="sum")
    np.testing.assert_allclose(module(ct.tensor(x), ct.tensor(y)).item(), expected.sum(), rtol=1e-12)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: F.smooth_l1_loss(x, ct.zeros(2, 4, dtype=ct.float64), beta=0.4),
        lambda x: F.kl_div(x, SHARES, reduction="batchmean"),
        lambda x: F.gaussian_nll_loss(x, x * x, x.exp()),
        lambda x: F.sigmoid_focal_loss(x, SHARES, reduction="sum"),
        lambda x: F.cross_entropy(x, ct.tensor([1, 2]), label_smoothing=0.1),
        lambda x: F.cross_entropy(x, SHARES),
        lambda x: F.multi_margin_loss(x, ct.tensor([1, 2]), p=2),
        lambda x: F.multilabel_soft_margin_loss(x, SHARES),
        lambda x: F.cosine_embedding_loss(x, x * x + 1.0, ct.tensor([1.0, -1.0]), margin=-1.0),
        lambda x: F.triplet_margin_loss(x, x * x, x + 2.0, margin=3.0),
    ],
)
def test_composed_losses_have_first_and_second_gradients(loss: Any) -> None:
    x = ct.tensor(np.linspace(-1.1, 1.3, 8).reshape(2, 4), requires_grad=True)
    assert gradcheck(loss, (x,))
    assert gradgradcheck(loss, (x,))


# -- connectionist temporal classification -----------------------------------------------------------------------------


def test_ctc_of_one_frame_is_that_frames_probability() -> None:
    x = ct.tensor(np.log([[0.2, 0.5, 0.3]]))
    assert F.ctc_loss(x, ct.tensor([1]), [1], [1]).item() == pytest.approx(-math.log(0.5))
    assert F.ctc_loss(x, ct.tensor([], dtype=ct.int64), [1], [0]).item() == pytest.approx(-math.log(0.2))


def test_ctc_of_too_few_frames_is_infinite_or_nothing() -> None:
    x = ct.tensor(np.log(np.full((2, 1, 3), 1 / 3)), requires_grad=True)
    labels = ct.tensor([[1, 1]])  # needs a blank in between, so three frames
    assert F.ctc_loss(x, labels, [2], [2]).item() == math.inf
    loss = F.ctc_loss(x, labels, [2], [2], zero_infinity=True)
    loss.backward()
    assert loss.item() == 0.0
    assert x.grad is not None
    assert not x.grad.numpy().any()
    assert F.ctc_loss(x, labels, [0], [0], reduction="none").detach().numpy().tolist() == [0.0]


@pytest.mark.parametrize(
    ("kwargs", "kind", "message"),
    [
        ({"targets": ct.tensor([[3], [1]])}, ct.TrainerIndexError, "class number 3, outside the 3 classes"),
        ({"input_lengths": [5, 4]}, ValueError, "input_lengths must be from 0 to 4"),
        ({"input_lengths": [4]}, ct.ShapeError, r"input_lengths must hold one number per sequence, shape \(2,\)"),
        ({"target_lengths": [1.0, 1.0]}, TypeError, "lengths must be integers"),
        ({"target_lengths": [2, 1]}, ct.ShapeError, r"need targets of shape \(2, 2\) or wider"),
        ({"targets": ct.tensor([1, 2, 1])}, ct.ShapeError, "here 2 .the sum of target_lengths"),
        ({"blank": 3}, ct.TrainerIndexError, "blank is class 3"),
        ({"log_probs": ct.zeros(4)}, ct.ShapeError, r"log_probs must be \(T, N, C\) or \(T, C\)"),
    ],
)
def test_ctc_refuses_what_does_not_fit(kwargs: Any, kind: Any, message: str) -> None:
    usual = {
        "log_probs": ct.zeros(4, 2, 3),
        "targets": ct.tensor([[1], [2]]),
        "input_lengths": [4, 4],
        "target_lengths": [1, 1],
    }
    with pytest.raises(kind, match=message):
        F.ctc_loss(**{**usual, **kwargs})
