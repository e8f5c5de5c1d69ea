"""Losses as modules. Each is a function of `nn.functional`, with its options as attributes.

Shapes must fit: nothing is broadcast in silence; see `cordee.trainer.ops.loss_pairs`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeAlias

from cordee.trainer.nn import functional
from cordee.trainer.nn.module import Module
from cordee.trainer.tensors import Tensor

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CTCLoss",
    "CosineEmbeddingLoss",
    "CrossEntropyLoss",
    "FocalLoss",
    "GaussianNLLLoss",
    "HingeEmbeddingLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "MSELoss",
    "MarginRankingLoss",
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "PoissonNLLLoss",
    "SmoothL1Loss",
    "SoftMarginLoss",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
]

Reduction: TypeAlias = Literal["mean", "sum", "none"]


class _Loss(Module):
    """`function(*inputs, **options)`, the options being the attributes that `options` names."""

    function: ClassVar[Callable[..., Tensor]]
    options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, reduction: str = "mean", **options: Any) -> None:
        allowed = ("mean", "sum", "none", "batchmean") if type(self) is KLDivLoss else ("mean", "sum", "none")
        if reduction not in allowed:
            raise ValueError(f"reduction must be {', '.join(allowed[:-1])} or {allowed[-1]}, got {reduction!r}")
        self.reduction = reduction
        for name, value in options.items():
            if name in ("weight", "pos_weight"):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, *inputs: Tensor) -> Tensor:
        options = {name: getattr(self, name) for name in self.options}
        return type(self).function(*inputs, reduction=self.reduction, **options)

    def extra_repr(self) -> str:
        options = [
            f"{name}={getattr(self, name)!r}"
            for name in self.options
            if not isinstance(getattr(self, name), Tensor) and getattr(self, name) is not None
        ]
        return ", ".join([*options, f"reduction={self.reduction!r}"])


class CrossEntropyLoss(_Loss):
    """Minus the log-probability of the target class, given logits `(N, C, …)` and class numbers `(N, …)`, or
    probabilities like the logits.

    Args:
        weight: what each class counts, `(C,)`.
        ignore_index: targets of this number count for nothing, not even in the mean.
        reduction: "mean", "sum" or "none".
        label_smoothing: how much of the probability the target's class leaves to all classes alike.
    """

    weight: Tensor | None
    ignore_index: int
    label_smoothing: float

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be from 0 to 1, got {label_smoothing}")
        super().__init__(reduction, weight=weight, ignore_index=ignore_index, label_smoothing=label_smoothing)

    def forward(self, *inputs: Tensor) -> Tensor:
        input, target = inputs
        return functional.cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )

    options = ("ignore_index", "label_smoothing")


class NLLLoss(_Loss):
    """Minus the target class's entry, given log-probabilities `(N, C, …)` and class numbers `(N, …)`."""

    function, options = functional.nll_loss, ("weight", "ignore_index")

    def __init__(
        self, weight: Tensor | None = None, *, ignore_index: int = -100, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(reduction, weight=weight, ignore_index=ignore_index)


class MSELoss(_Loss):
    """The squared difference. Shapes must be the same: `(N, 1)` against `(N,)` is refused, not broadcast."""

    function = functional.mse_loss

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)


class L1Loss(_Loss):
    """The absolute difference, of equal shapes."""

    function = functional.l1_loss

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)


class SmoothL1Loss(_Loss):
    """Half the squared difference over `beta` below `beta`, and `|difference| - beta / 2` above."""

    function, options = functional.smooth_l1_loss, ("beta",)

    def __init__(self, *, reduction: Reduction = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction, beta=beta)


class HuberLoss(_Loss):
    """Half the squared difference below `delta`, and `delta * (|difference| - delta / 2)` above."""

    function, options = functional.huber_loss, ("delta",)

    def __init__(self, reduction: Reduction = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction, delta=delta)


class BCELoss(_Loss):
    """Binary cross-entropy of probabilities, of equal shapes."""

    function, options = functional.binary_cross_entropy, ("weight",)

    def __init__(self, weight: Tensor | None = None, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, weight=weight)


class BCEWithLogitsLoss(_Loss):
    """Binary cross-entropy of logits against probabilities, of equal shapes; `pos_weight`: what a yes counts."""

    function, options = functional.binary_cross_entropy_with_logits, ("weight", "pos_weight")

    def __init__(
        self, weight: Tensor | None = None, *, reduction: Reduction = "mean", pos_weight: Tensor | None = None
    ) -> None:
        super().__init__(reduction, weight=weight, pos_weight=pos_weight)


class FocalLoss(_Loss):
    """Binary cross-entropy of logits, less of it the surer the prediction (Lin et al., arXiv:1708.02002).

    PyTorch has none; the arguments are those of `torchvision.ops.sigmoid_focal_loss`, but the mean is the default.
    """

    function, options = functional.sigmoid_focal_loss, ("alpha", "gamma")

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, alpha=alpha, gamma=gamma)


class KLDivLoss(_Loss):
    """`target * (log(target) - input)`, input being log-probabilities; "batchmean" is the divergence itself."""

    function, options = functional.kl_div, ("log_target",)

    def __init__(
        self, *, reduction: Literal["mean", "sum", "none", "batchmean"] = "mean", log_target: bool = False
    ) -> None:
        super().__init__(reduction, log_target=log_target)


class PoissonNLLLoss(_Loss):
    """Minus the log-likelihood of counts, given the logarithm of their expectation."""

    function, options = functional.poisson_nll_loss, ("log_input", "full", "eps")

    def __init__(
        self, log_input: bool = True, full: bool = False, *, eps: float = 1e-8, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(reduction, log_input=log_input, full=full, eps=eps)


class GaussianNLLLoss(_Loss):
    """Minus the log-likelihood of targets, given expectation and variance: `loss(input, target, var)`."""

    function, options = functional.gaussian_nll_loss, ("full", "eps")

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, full=full, eps=eps)


class SoftMarginLoss(_Loss):
    """`log(1 + exp(-target * input))`, targets being 1 or -1."""

    function = functional.soft_margin_loss

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)


class HingeEmbeddingLoss(_Loss):
    """The distance `input` where the target is 1, and what it lacks to `margin` where it is -1."""

    function, options = functional.hinge_embedding_loss, ("margin",)

    def __init__(self, margin: float = 1.0, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, margin=margin)


class MarginRankingLoss(_Loss):
    """What `target * (input1 - input2)` lacks to `margin`: `loss(input1, input2, target)`."""

    function, options = functional.margin_ranking_loss, ("margin",)

    def __init__(self, margin: float = 0.0, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, margin=margin)


class CosineEmbeddingLoss(_Loss):
    """`1 - cos` where the target is 1, what `cos` exceeds `margin` by where -1: `loss(input1, input2, target)`."""

    function, options = functional.cosine_embedding_loss, ("margin",)

    def __init__(self, margin: float = 0.0, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, margin=margin)


class MultiMarginLoss(_Loss):
    """What the class's score lacks to exceed every other one by `margin`, to the power `p`, over the classes."""

    function, options = functional.multi_margin_loss, ("p", "margin", "weight")

    def __init__(
        self, p: int = 1, margin: float = 1.0, weight: Tensor | None = None, *, reduction: Reduction = "mean"
    ) -> None:
        if p not in (1, 2):
            raise ValueError(f"p must be 1 or 2, got {p}")
        super().__init__(reduction, p=p, margin=margin, weight=weight)


class MultiLabelMarginLoss(_Loss):
    """What every wanted class's score lacks to exceed every unwanted one's by 1, over the classes."""

    function = functional.multilabel_margin_loss

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)


class MultiLabelSoftMarginLoss(_Loss):
    """The mean over classes of binary cross-entropies of logits."""

    function, options = functional.multilabel_soft_margin_loss, ("weight",)

    def __init__(self, weight: Tensor | None = None, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, weight=weight)


class TripletMarginLoss(_Loss):
    """How much closer than `margin` the negative is to the anchor: `loss(anchor, positive, negative)`."""

    function, options = functional.triplet_margin_loss, ("margin", "p", "eps", "swap")

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        *,
        reduction: Reduction = "mean",
    ) -> None:
        if margin <= 0:
            raise ValueError(f"margin must be greater than 0, got {margin}")
        super().__init__(reduction, margin=margin, p=p, eps=eps, swap=swap)


class TripletMarginWithDistanceLoss(_Loss):
    """`TripletMarginLoss` with any function of two batches of rows as the distance."""

    function = functional.triplet_margin_with_distance_loss
    options = ("distance_function", "margin", "swap")

    def __init__(
        self,
        *,
        distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
        margin: float = 1.0,
        swap: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        if margin <= 0:
            raise ValueError(f"margin must be greater than 0, got {margin}")
        super().__init__(reduction, distance_function=distance_function, margin=margin, swap=swap)


class CTCLoss(_Loss):
    """Connectionist temporal classification: `loss(log_probs, targets, input_lengths, target_lengths)`.

    See `functional.ctc_loss`. `zero_infinity`: sequences too short for their targets count as 0, not as infinity.
    """

    function, options = functional.ctc_loss, ("blank", "zero_infinity")

    def __init__(self, blank: int = 0, reduction: Reduction = "mean", zero_infinity: bool = False) -> None:
        super().__init__(reduction, blank=blank, zero_infinity=zero_infinity)
