"""Losses of classes, and what all losses share: reductions, and the refusal to broadcast.

Cross-entropy of plain class numbers is one op; what weighs, smooths or ignores is composed. Losses of two tensors are
in `loss_pairs.py`, those with margins in `loss_margin.py`, of sequences in `loss_ctc.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cordee.trainer.array import array_module, is_float
from cordee.trainer.autograd.casting import autocasts
from cordee.trainer.autograd.record import op, shape_of
from cordee.trainer.errors import ShapeError, TrainerIndexError
from cordee.trainer.kernels import kernel
from cordee.trainer.kernels.cuda.doubts import expect
from cordee.trainer.ops.products import ones
from cordee.trainer.ops.scattering import gather
from cordee.trainer.ops.softmaxes import log_softmax
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["cross_entropy", "nll_loss"]

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
REDUCTIONS = ("mean", "sum", "none")


def check_reduction(name: str, reduction: str, allowed: tuple[str, ...] = REDUCTIONS) -> None:
    """Refuse a reduction that there is not."""
    if reduction not in allowed:
        raise ValueError(f"{name}: reduction is one of {', '.join(allowed)}, not {reduction!r}")


def reduce(losses: Tensor, reduction: str) -> Tensor:
    """The losses themselves, their mean, or their sum."""
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


def weighted(losses: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    """The losses, each counting as much as `weight` (which broadcasts) says, reduced."""
    return reduce(losses if weight is None else losses * weight, reduction)


def check_pair(name: str, first: Any, second: Any, broadcast: bool = False, names: str = "input target") -> None:
    """Refuse shapes that differ: nearly always a mistake, and one that would go on in silence."""
    if first.shape == second.shape or broadcast:
        return
    one, other = names.split()
    raise ShapeError(
        f"{name}: {one} has shape {tuple(first.shape)}, {other} {tuple(second.shape)}; they must be the same: "
        + _advice(one, tuple(first.shape), other, tuple(second.shape))
    )


def _advice(one: str, a: tuple[int, ...], other: str, b: tuple[int, ...]) -> str:
    """What makes two shapes the same, if it is a dimension of size 1 too many; and how to broadcast all the same."""
    for name, longer, shorter in ((one, a, b), (other, b, a)):
        for dim in range(len(longer)):
            if longer[dim] == 1 and longer[:dim] + longer[dim + 1 :] == shorter:
                return f"{name}.squeeze({dim - len(longer)}) makes them so (or broadcast=True, if all pairs are meant)"
    return "reshape one of them (or broadcast=True, if they are to broadcast)"


# -- cross-entropy of class numbers ------------------------------------------------------------------------------------


@kernel
def _cross_entropy(xp: Any, logits: Any, *, target: Any, reduction: str) -> Any:
    """And each row's largest logit, and the sum of its exponentials: from these the gradient has the probabilities.

    On a device rows of a class that there is not count for nothing, and how many count is told as well: nobody waits to
    hear of it.
    """
    if xp is not np:
        return _cross_entropy_of_some(xp, logits, target, reduction)
    num_rows = logits.shape[0]
    tops = logits.max(axis=1, keepdims=True)
    shifted = logits - tops
    picked = shifted[xp.arange(num_rows), target]
    totals = xp.exp(shifted, out=shifted).dot(ones(xp, logits.shape[1], logits.dtype))
    losses = xp.log(totals) - picked
    if reduction != "none":
        losses = losses.sum()
        if reduction == "mean":
            losses = losses / num_rows
    return losses, (tops.reshape(num_rows), totals)


def _inside(target: Any, num_classes: int) -> Any:
    return (target >= 0) & (target < num_classes)


def _cross_entropy_of_some(xp: Any, logits: Any, target: Any, reduction: str) -> Any:
    num_rows, inside = logits.shape[0], _inside(target, logits.shape[1])
    tops = logits.max(axis=1, keepdims=True)
    shifted = logits - tops
    picked = shifted[xp.arange(num_rows), xp.where(inside, target, 0)]
    totals = xp.exp(shifted, out=shifted).sum(axis=1)
    losses = xp.where(inside, xp.log(totals) - picked, xp.asarray(0.0, logits.dtype))
    counted = inside.sum().astype(logits.dtype)
    if reduction != "none":
        losses = losses.sum()
        if reduction == "mean":
            losses = losses / counted
    return losses, (tops.reshape(num_rows), totals, counted)


def _cross_entropy_vjp(F: Any, g: Any, out: Any, logits: Any, *, target: Any, reduction: str, aux: Any) -> Any:
    num_rows = shape_of(logits)[0]
    counted: Any = aux[2:]  # of a device
    if reduction == "mean":
        g = g / (num_rows if not counted else counted[0] if F.raw else wrap(counted[0]))
    if F.raw:
        return _cross_entropy_grad(F.xp, F.xp.asarray(g), logits, *aux[:2], target=target)
    if reduction == "none":
        g = g.reshape((num_rows, 1))
    if counted:
        g = g * wrap(_inside(target, logits.shape[1]).reshape(-1, 1).astype(logits.dtype))
    chosen = target.reshape(-1, 1) == array_module(target).arange(logits.shape[1])
    return (F.softmax(logits, axis=1) - F.cast(wrap(chosen), dtype=logits.dtype, source=None)) * g


@kernel
def _cross_entropy_grad(xp: Any, g: Any, logits: Any, tops: Any, totals: Any, *, target: Any) -> Any:
    """The probabilities, less 1 at each row's class, times `g`: one number, or one per row."""
    slopes = g.reshape(-1, 1)
    if xp is not np:
        inside = _inside(target, logits.shape[1])
        slopes = slopes * inside.reshape(-1, 1).astype(logits.dtype)
        target, g = xp.where(inside, target, 0), slopes.reshape(-1)
    grad = logits - tops.reshape(-1, 1)
    xp.exp(grad, out=grad)
    grad *= slopes / totals.reshape(-1, 1)
    grad[xp.arange(logits.shape[0]), target] -= g
    return grad


def _cross_entropy_shape(logits: Any, *, target: Any, reduction: str) -> Any:
    if len(logits) != 2:
        raise ShapeError(f"logits are a table of rows by classes, of 2 dimensions, not {len(logits)}")
    if target.shape != logits[:1]:
        raise ShapeError(f"{logits[0]} rows of logits need {logits[0]} class numbers, not {target.shape}")
    if target.size and not 0 <= int(target.min()) <= int(target.max()) < logits[1]:
        raise TrainerIndexError(f"class numbers must be from 0 to {logits[1] - 1}")
    return logits[:1] if reduction == "none" else ()


def _cross_entropy_reference(logits: Any, target: Any, reduction: str) -> Any:
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(logits)), target]
    return {"mean": losses.mean, "sum": losses.sum, "none": losses.copy}[reduction]()


CROSS_ENTROPY = op(
    "cross_entropy", "minus the log-probability that softmax gives each row's class",
    autocast="single",
    forward=_cross_entropy, vjps=(_cross_entropy_vjp,), saves=("logits",), aux=True, reference=_cross_entropy_reference,
    shape=_cross_entropy_shape,
    samples=lambda s: [
        *(s.case(s.normal(4, 3), target=s.integers(3, 4), reduction=r) for r in REDUCTIONS),
        s.case(s.normal(0, 3), target=s.integers(3, 0), reduction="sum"),
        s.case(s.normal(1, 1), target=s.integers(1, 1), reduction="mean"),
    ],
    errors=lambda s: [
        s.case(s.normal(4, 3), target=s.integers(3, 5), reduction="mean"),
        s.case(s.normal(4, 3), target=s.integers(3, 4) + 3, reduction="sum"),
    ],
)  # fmt: skip


@autocasts("single")
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of logits `(N, C, …)` or `(C,)` with class numbers `(N, …)`, or with probabilities like it.

    Args:
        weight: what each class counts, `(C,)`; the mean is then the weighted one.
        ignore_index: targets of this number count for nothing, not even in the mean.
        label_smoothing: how much of the probability the target's class leaves to all classes alike.

    Raises:
        ShapeError: the shapes do not fit.
        TrainerIndexError: a class number is outside the classes; says which, and where it is.
    """
    if input.dtype.itemsize == 2:  # sums of exponentials
        options: dict[str, Any] = {"reduction": reduction, "label_smoothing": label_smoothing}
        wide = cross_entropy(input.float(), target, weight, ignore_index=ignore_index, **options)
        return wide.to(input.dtype)
    check_reduction("cross_entropy", reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"cross_entropy: label_smoothing must be from 0 to 1, not {label_smoothing}")
    if target.dtype.kind not in "iu" and is_float(target.dtype):
        if ignore_index >= 0:
            raise ValueError("cross_entropy: ignore_index is for class numbers; these targets are probabilities")
        if target.ndim != input.ndim:
            raise TypeError(
                f"cross_entropy: target of shape {target.shape} holds {target.dtype.name}: class numbers are integers, "
                f"target.long(); probabilities have the shape of input, {input.shape}"
            )
        return _soft_cross_entropy(input, target, weight, reduction, label_smoothing)
    rows, flat, shape = _rows_and_classes("cross_entropy", input, target)
    plain = weight is None and label_smoothing == 0.0
    if _check_classes("cross_entropy", target, flat, rows.shape[1], ignore_index) and plain:
        flat = _without(flat, ignore_index, rows.shape[1])
        losses = CROSS_ENTROPY.run(rows, target=flat, reduction=reduction)
        return losses.reshape(shape) if reduction == "none" and losses.shape != shape else losses
    _check_weight("cross_entropy", weight, rows.shape[1])
    log_probabilities = log_softmax(rows, 1)
    counted = _row_weights(rows, flat, weight, ignore_index)
    main = _nll_rows(log_probabilities, flat, counted, ignore_index)
    if label_smoothing:
        per_class = -log_probabilities if weight is None else -log_probabilities * weight
        kept = wrap((flat != ignore_index).astype(rows.dtype))
        main = main * (1 - label_smoothing) + per_class.sum(1) * kept * (label_smoothing / rows.shape[1])
    if reduction == "none":
        return main.reshape(shape)
    return main.sum() / counted.sum() if reduction == "mean" else main.sum()


@autocasts("single")
def nll_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """Minus the entry of each row's class, of log-probabilities `(N, C, …)` or `(C,)`; see `cross_entropy`."""
    check_reduction("nll_loss", reduction)
    rows, flat, shape = _rows_and_classes("nll_loss", input, target)
    _check_classes("nll_loss", target, flat, rows.shape[1], ignore_index)
    _check_weight("nll_loss", weight, rows.shape[1])
    counted = _row_weights(rows, flat, weight, ignore_index)
    losses = _nll_rows(rows, flat, counted, ignore_index)
    if reduction == "none":
        return losses.reshape(shape)
    return losses.sum() / counted.sum() if reduction == "mean" else losses.sum()


def _rows_and_classes(name: str, input: Tensor, target: Tensor) -> tuple[Tensor, Any, tuple[int, ...]]:
    """The input with one row per prediction, the class numbers as one vector, and the shape of the losses."""
    if target.dtype.kind not in "iu":
        raise TypeError(f"{name}: class numbers must be integers, not {target.dtype.name}")
    expected = input.shape[:1] + input.shape[2:] if input.ndim > 1 else ()
    if input.ndim == 0 or target.shape != expected:
        advice = ""
        found = target.shape
        extra = [i for i, n in enumerate(found) if n == 1 and found[:i] + found[i + 1 :] == expected]
        if input.ndim and extra:
            advice = f": target.squeeze({extra[-1]}) makes it so"
        elif input.ndim and target.shape == input.shape:
            advice = "; one-hot rows are probabilities: give them as floating numbers, or target.argmax(1)"
        raise ShapeError(
            f"{name}: input has shape {input.shape}, so target must have shape {expected}, not {target.shape} "
            f"(classes are in dimension 1, or 0 without a batch){advice}"
        )
    if input.ndim == 1:
        input = input.reshape(1, -1)
    elif input.ndim > 2:
        input = input.movedim(1, -1).reshape(-1, input.shape[1])
    return input, target.data.reshape(-1), expected


def _check_classes(name: str, target: Tensor, flat: Any, num_classes: int, ignore_index: int) -> bool:
    """Whether all class numbers are classes; False if some are to be ignored; an error for any other.

    Of a device True: the op leaves out what is no class, and errors are told later.
    """
    if array_module(flat) is not np:
        if flat.size:
            wrong = ~_inside(flat, num_classes) & (flat != ignore_index)
            expect(wrong.any(), lambda _: _no_class(name, target, num_classes, ignore_index, wrong, flat))
        return True
    if not flat.size or flat.view(_UNSIGNED[flat.dtype.itemsize]).max() < num_classes:  # negative ones look huge
        return not 0 <= ignore_index < num_classes or not bool((flat == ignore_index).any())
    check_indices(name, target, flat, num_classes, ignore_index)
    return False


def _without(flat: Any, ignore_index: int, num_classes: int) -> Any:
    """On a device, the class that is to be ignored made none: the op leaves it out then."""
    xp = array_module(flat)
    if xp is np or not 0 <= ignore_index < num_classes:
        return flat
    return xp.where(flat == ignore_index, -1, flat.astype(np.int64))


def check_indices(name: str, target: Tensor, flat: Any, num_classes: int, ignored: int | None) -> None:
    """Refuse class numbers that are no classes: the first of them, where it is, and what could be meant."""
    wrong = (flat < 0) | (flat >= num_classes)
    if ignored is not None:
        wrong &= flat != ignored
    if bool(wrong.any()):
        raise _no_class(name, target, num_classes, ignored, wrong, flat)


def _no_class(
    name: str, target: Tensor, num_classes: int, ignored: int | None, wrong: Any, flat: Any
) -> TrainerIndexError:
    first = int(wrong.argmax())
    place = ", ".join(str(int(i)) for i in np.unravel_index(first, target.shape)) if target.ndim else ""
    text = f"{name}: target[{place}] is class number {int(flat[first])}" if place else (
        f"{name}: target is class number {int(flat[first])}"
    )  # fmt: skip
    text += f", outside the {num_classes} classes, 0 to {num_classes - 1}"
    if ignored is not None:
        text += f"; targets equal to ignore_index (now {ignored}) are left out"
    return TrainerIndexError(text)


def _check_weight(name: str, weight: Tensor | None, num_classes: int) -> None:
    if weight is not None and weight.shape != (num_classes,):
        raise ShapeError(f"{name}: weight must have one number per class, shape ({num_classes},), not {weight.shape}")


def _nll_rows(log_probabilities: Tensor, flat: Any, counted: Tensor, ignore_index: int) -> Tensor:
    kept = flat != ignore_index
    places = wrap(array_module(flat).where(kept, flat, 0).astype(np.int64).reshape(-1, 1))
    picked = gather(log_probabilities, 1, places).reshape(-1)
    # An ignored row counts for nothing, also where it is infinite. Nobody waits for a device to hear whether there are.
    if array_module(flat) is not np or not bool(kept.all()):
        picked = picked.masked_fill(wrap(~kept), 0.0)
    return -picked * counted


def _row_weights(rows: Tensor, flat: Any, weight: Tensor | None, ignore_index: int) -> Tensor:
    kept = flat != ignore_index
    weights = kept.astype(rows.dtype)
    return wrap(weights if weight is None else weights * weight.data[array_module(flat).where(kept, flat, 0)])


def _soft_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, smoothing: float
) -> Tensor:
    check_pair("cross_entropy", input, target)
    dim = 1 if input.ndim > 1 else 0
    num_classes = input.shape[dim]
    _check_weight("cross_entropy", weight, num_classes)
    if smoothing:
        target = target * (1 - smoothing) + smoothing / num_classes
    if weight is not None:
        target = target * weight.reshape([-1 if i == dim else 1 for i in range(input.ndim)])
    losses = -(target * log_softmax(input, dim)).sum(dim)
    return losses.sum() / (losses.data.size or 1) if reduction == "mean" else reduce(losses, reduction)
