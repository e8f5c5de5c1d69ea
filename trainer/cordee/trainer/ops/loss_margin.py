"""Losses that ask for a margin: of rankings, of classes, of distances between embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cordee.trainer.array import array_module
from cordee.trainer.autograd.casting import autocasts
from cordee.trainer.errors import ShapeError
from cordee.trainer.ops.activation import logsigmoid
from cordee.trainer.ops.elementwise import clamp, minimum, sqrt, where
from cordee.trainer.ops.loss import check_indices, check_pair, check_reduction, reduce
from cordee.trainer.ops.scattering import gather
from cordee.trainer.tensors import Tensor, wrap

__all__ = [
    "cosine_embedding_loss", "margin_ranking_loss", "multi_margin_loss", "multilabel_margin_loss",
    "multilabel_soft_margin_loss", "triplet_margin_loss", "triplet_margin_with_distance_loss",
]  # fmt: skip


@autocasts("single")
def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0.0,
    *,
    reduction: str = "mean",
    broadcast: bool = False,
) -> Tensor:
    """What `target * (input1 - input2)` lacks to `margin`: the first should rank higher where the target is 1."""
    check_reduction("margin_ranking_loss", reduction)
    check_pair("margin_ranking_loss", input1, input2, broadcast, "input1 input2")
    check_pair("margin_ranking_loss", input1, target, broadcast, "input1 target")
    return reduce(clamp(margin - target * (input1 - input2), min=0.0), reduction)


@autocasts("single")
def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, *, reduction: str = "mean"
) -> Tensor:
    """`1 - cos` of the angle between rows where the target is 1, and what `cos` exceeds `margin` by where it is -1.

    Inputs `(N, D)` or `(D,)`; targets `(N,)` or `()`.
    """
    name = "cosine_embedding_loss"
    check_reduction(name, reduction)
    check_pair(name, input1, input2, names="input1 input2")
    if input1.ndim not in (1, 2) or target.shape != input1.shape[:-1]:
        raise ShapeError(
            f"{name}: inputs are (N, D) with targets (N,), or (D,) with a target (); "
            f"input1 has shape {input1.shape}, target {target.shape}"
        )
    eps = 1e-12
    cosine = (input1 * input2).sum(-1) / sqrt(((input1 * input1).sum(-1) + eps) * ((input2 * input2).sum(-1) + eps))
    alike = where(target == 1, 1.0 - cosine, 0.0)
    apart = where(target == -1, clamp(cosine - margin, min=0.0), 0.0)
    return reduce(alike + apart, reduction)


def _distance(p: float, eps: float) -> Callable[[Tensor, Tensor], Tensor]:
    def between(x: Tensor, y: Tensor) -> Tensor:
        return (x - y + eps).norm(p, -1)

    return between


@autocasts("single")
def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    *,
    reduction: str = "mean",
) -> Tensor:
    """How much closer than `margin` the negative is to the anchor, beside the positive; distances by p-norm.

    Rows `(N, D)` or one `(D,)`. `swap`: the negative's distance is the smaller of those to anchor and positive
    (Balntas et al., 2016). `eps` is added to every difference, as in PyTorch.
    """
    return _triplet("triplet_margin_loss", anchor, positive, negative, _distance(p, eps), margin, swap, reduction)


def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """`triplet_margin_loss` with any function of two batches of rows as the distance."""
    name = "triplet_margin_with_distance_loss"
    return _triplet(
        name, anchor, positive, negative, distance_function or _distance(2.0, 1e-6), margin, swap, reduction
    )


def _triplet(
    name: str,
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    distance: Callable[[Tensor, Tensor], Tensor],
    margin: float,
    swap: bool,
    reduction: str,
) -> Tensor:
    check_reduction(name, reduction)
    if margin <= 0:
        raise ValueError(f"{name}: margin must be greater than 0, not {margin}")
    check_pair(name, anchor, positive, names="anchor positive")
    check_pair(name, anchor, negative, names="anchor negative")
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = minimum(far, distance(positive, negative))
    return reduce(clamp(margin + near - far, min=0.0), reduction)


# -- of classes --------------------------------------------------------------------------------------------------------


def _rows(name: str, input: Tensor, target: Tensor, target_ndim: int) -> tuple[Tensor, Any]:
    """Input and target with a batch in front. One class without dimensions is allowed, as in PyTorch."""
    if input.ndim == 0:
        input = input.reshape(1)
        target = target.reshape(1) if target_ndim and target.ndim == 0 else target
    if target_ndim == 0 and input.ndim == 1 and target.shape == (1,):
        target = target.reshape(())
    expected = input.shape[: input.ndim - 1] if target_ndim == 0 else input.shape
    if input.ndim not in (1, 2) or target.shape != expected:
        raise ShapeError(
            f"{name}: input has shape {input.shape}, which must be (N, C) or (C,), and target then {expected}; "
            f"it has shape {target.shape}"
        )
    if target.dtype.kind not in "iu":
        raise TypeError(f"{name}: class numbers must be integers, not {target.dtype.name}")
    if input.ndim == 2:
        return input, target.data
    return input.reshape(1, -1), target.data.reshape((1, *target.shape))


@autocasts("single")
def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
) -> Tensor:
    """What the class's score lacks to exceed every other one by `margin`, to the power `p` (1 or 2), over C.

    Input `(N, C)` or `(C,)`, class numbers `(N,)` or `()`; `weight` `(C,)` is what each class counts.
    """
    name = "multi_margin_loss"
    check_reduction(name, reduction)
    if p not in (1, 2):
        raise ValueError(f"{name}: p must be 1 or 2, not {p}")
    rows, classes = _rows(name, input, target, 0)
    num_classes = rows.shape[1]
    check_indices(name, target, classes.reshape(-1), num_classes, None)
    if weight is not None and weight.shape != (num_classes,):
        raise ShapeError(f"{name}: weight must have shape ({num_classes},), one number per class, not {weight.shape}")
    places = classes.reshape(-1, 1)
    lacking = clamp(margin - gather(rows, 1, wrap(places)) + rows, min=0.0)
    if p == 2:
        lacking = lacking * lacking
    if weight is not None:
        lacking = lacking * wrap(weight.data[places])
    others = array_module(classes).arange(num_classes) != places
    losses = (lacking * wrap(others.astype(rows.dtype))).sum(1) / num_classes
    return reduce(losses if input.ndim == 2 else losses.reshape(()), reduction)


@autocasts("single")
def multilabel_margin_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """What every wanted class's score lacks to exceed every unwanted one's by 1, over C.

    Input `(N, C)` or `(C,)`; targets alike: the numbers of the wanted classes, then -1, after which the rest does not
    count.
    """
    name = "multilabel_margin_loss"
    check_reduction(name, reduction)
    rows, classes = _rows(name, input, target, 1)
    xp = array_module(classes)
    num_classes = rows.shape[1]
    listed = xp.cumsum(classes < 0, axis=1) == 0  # before the first -1
    chosen = xp.where(listed, classes, 0)
    check_indices(name, target, chosen.reshape(-1), num_classes, None)
    wanted = (listed[:, :, None] & (chosen[:, :, None] == xp.arange(num_classes))).any(axis=1)
    scores = gather(rows, 1, wrap(chosen))
    lacking = clamp(1.0 - scores.reshape((*scores.shape, 1)) + rows.reshape((rows.shape[0], 1, num_classes)), min=0.0)
    counted = listed[:, :, None] & ~wanted[:, None, :]
    losses = (lacking * wrap(counted.astype(rows.dtype))).sum((1, 2)) / num_classes
    return reduce(losses if input.ndim == 2 else losses.reshape(()), reduction)


def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    broadcast: bool = False,
) -> Tensor:
    """The mean over classes (the last dimension) of binary cross-entropies of logits."""
    check_reduction("multilabel_soft_margin_loss", reduction)
    check_pair("multilabel_soft_margin_loss", input, target, broadcast)
    losses = -(target * logsigmoid(input) + (1.0 - target) * logsigmoid(-input))
    if weight is not None:
        losses = losses * weight
    return reduce(losses.mean(-1), reduction)
