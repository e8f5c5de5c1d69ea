"""Connectionist temporal classification: the likelihood of a label sequence, over all ways to align it with frames.

Graves et al., "Connectionist Temporal Classification" (ICML 2006). One forward and one backward recursion over time,
in logarithms, on all sequences of a batch at once.

The gradient is that of the function as it stands, for any `log_probs`. PyTorch's is another one, which takes for
granted that a log_softmax comes before; behind a log_softmax both are the same.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cordee.trainer.array import array_module, to_numpy
from cordee.trainer.autograd.casting import autocasts
from cordee.trainer.autograd.graph import apply
from cordee.trainer.autograd.record import op
from cordee.trainer.errors import ShapeError, TrainerIndexError
from cordee.trainer.ops.company import cat, stack
from cordee.trainer.ops.composed import composed_vjp
from cordee.trainer.ops.elementwise import where
from cordee.trainer.ops.loss import check_reduction
from cordee.trainer.ops.reduction import logsumexp
from cordee.trainer.tensors import Tensor, wrap

__all__ = ["ctc_loss"]

_NEVER = -1e30  # stands for the logarithm of 0 where a derivative is to be taken, which infinity would spoil


def _skips(xp: Any, labels: Any, blank: int) -> Any:
    """Where the step over the blank before a label is allowed: the label differs from the last one."""
    skips = xp.zeros(labels.shape, bool)
    skips[:, 2:] = (labels[:, 2:] != blank) & (labels[:, 2:] != labels[:, :-2])
    return skips


def _ctc(xp: Any, log_probs: Any, *, labels: Any, frames: Any, lengths: Any, blank: int, zero_infinity: bool) -> Any:
    num_frames, batch, _ = log_probs.shape
    dtype, num_labels = log_probs.dtype, labels.shape[1]
    rows = xp.arange(batch)
    emitted = log_probs[:, rows[:, None], labels]  # (T, N, 2 S + 1)
    closed = xp.where(_skips(xp, labels, blank), 0.0, -math.inf).astype(dtype)
    # Two columns in front that nothing ever reaches: so the labels before are views, not copies.
    alphas = xp.full((num_frames, batch, num_labels + 2), -math.inf, dtype)
    if num_frames:
        alphas[0, :, 2:4] = emitted[0, :, :2]
        alphas[0, lengths == 0, 3:] = -math.inf
    for t in range(1, num_frames):
        known, now = alphas[t - 1], alphas[t, :, 2:]
        xp.add(known[:, :-2], closed, out=now)
        xp.logaddexp(now, known[:, 1:-1], out=now)
        xp.logaddexp(now, known[:, 2:], out=now)
        now += emitted[t]
    alphas = alphas[:, :, 2:]
    likelihood = xp.where(lengths == 0, 0.0, -math.inf)  # of sequences without frames
    if num_frames:
        last, end = xp.maximum(frames - 1, 0), 2 * lengths
        before = xp.where(lengths > 0, alphas[last, rows, xp.maximum(end - 1, 0)], -math.inf)
        likelihood = xp.where(frames > 0, xp.logaddexp(alphas[last, rows, end], before), likelihood)
    likelihood = likelihood.astype(dtype)
    losses = -likelihood
    if zero_infinity:
        losses = xp.where(losses == math.inf, 0.0, losses).astype(dtype)
    return losses, (alphas, emitted, closed, likelihood)


def _ctc_vjp(
    F: Any, g: Any, out: Any, log_probs: Any, *, labels: Any, frames: Any, lengths: Any, blank: int,
    zero_infinity: bool, aux: Any, needs: Any,
) -> Any:  # fmt: skip
    if not F.raw:

        def composed(x: Tensor) -> Tensor:
            return _ctc_composed(x, labels, frames, lengths, blank, zero_infinity)

        return composed_vjp(composed, g, (log_probs,), needs)
    xp = F.xp
    alphas, emitted, closed, likelihood = aux
    num_frames, batch, num_labels = emitted.shape
    rows = xp.arange(batch)
    ends = xp.arange(num_labels) == (2 * lengths)[:, None]
    ends |= (xp.arange(num_labels) == (2 * lengths - 1)[:, None]) & (lengths > 0)[:, None]
    start = xp.where(ends, 0.0, -math.inf).astype(log_probs.dtype)
    betas = xp.full(emitted.shape, -math.inf, log_probs.dtype)
    later = xp.full((batch, num_labels + 2), -math.inf, log_probs.dtype)  # two columns behind that lead nowhere
    last = frames - 1
    endings = set(to_numpy(last).tolist())
    for t in range(num_frames - 1, -1, -1):
        now = betas[t]
        if t + 1 < num_frames:
            xp.add(betas[t + 1], emitted[t + 1], out=later[:, :-2])
            xp.logaddexp(later[:, :-2], later[:, 1:-1], out=now)
            later[:, :-2] += closed
            xp.logaddexp(now, later[:, 2:], out=now)
        if t in endings:
            now[...] = xp.where((last == t)[:, None], start, now)
    finite = xp.where(likelihood == -math.inf, 0.0, likelihood)
    betas += alphas
    betas -= finite[:, None]
    share = xp.exp(betas, out=betas)
    share *= (xp.where(likelihood == -math.inf, 0.0 if zero_infinity else math.nan, 1.0) * g)[:, None]
    share = xp.where((xp.arange(num_frames)[:, None] <= last)[:, :, None], share, 0.0)
    d = xp.zeros(log_probs.shape, log_probs.dtype)
    for s in range(num_labels):  # one at a time, so that equal labels of a sequence add up in a fixed order
        d[:, rows, labels[:, s]] -= share[:, :, s]
    return (d,)


def _ctc_composed(x: Tensor, labels: Any, frames: Any, lengths: Any, blank: int, zero_infinity: bool) -> Tensor:
    """The same likelihood, of ordinary ops."""
    xp = array_module(labels)
    num_frames, batch, _ = x.shape
    num_labels = labels.shape[1]
    rows = xp.arange(batch)
    emitted = x[:, rows[:, None], labels]
    allowed = wrap(_skips(xp, labels, blank))
    first = (xp.arange(num_labels) < 2) & ((xp.arange(num_labels) == 0) | (lengths > 0)[:, None])
    never = wrap(xp.full((batch, num_labels), _NEVER, x.dtype))
    alpha = where(wrap(first), emitted[0], never)
    alphas = [alpha]
    for t in range(1, num_frames):
        one = cat([never[:, :1], alpha[:, :-1]], 1)
        two = cat([never[:, :2], alpha[:, :-2]], 1)[:, :num_labels]
        alpha = logsumexp(stack([alpha, one, where(allowed, two, never)], 0), 0) + emitted[t]
        alphas.append(alpha)
    table = stack(alphas, 0)
    last, end = xp.maximum(frames - 1, 0), 2 * lengths
    before = where(wrap(lengths > 0), table[last, rows, xp.maximum(end - 1, 0)], never[:, 0])
    losses = -logsumexp(stack([table[last, rows, end], before], 0), 0)
    losses = where(wrap(frames > 0), losses, wrap(xp.where(lengths == 0, 0.0, math.inf).astype(x.dtype)))
    result: Tensor = where(losses.detach() > -_NEVER / 2, 0.0 if zero_infinity else math.inf, losses)
    return result


def _ctc_shape(log_probs: Any, *, labels: Any, frames: Any, lengths: Any, blank: int, zero_infinity: bool) -> Any:
    if len(log_probs) != 3:
        raise ShapeError(f"log_probs are (T, N, C): 3 dimensions, not {len(log_probs)}")
    if labels.shape[0] != log_probs[1]:
        raise ShapeError(f"there are {labels.shape[0]} label sequences for a batch of {log_probs[1]} in dimension 1")
    if labels.size and int(labels.max()) >= log_probs[2]:
        raise TrainerIndexError(f"labels must be from 0 to {log_probs[2] - 1}, the classes of dimension 2")
    return (log_probs[1],)


def _ctc_reference(
    log_probs: Any, labels: Any, frames: Any, lengths: Any, blank: int, zero_infinity: bool
) -> Any:  # the sum over every path of labels, one by one
    import itertools

    losses = []
    for n in range(log_probs.shape[1]):
        wanted = [int(c) for c in labels[n, 1 : 2 * int(lengths[n]) : 2]]
        total = 0.0
        for path in itertools.product(range(log_probs.shape[2]), repeat=int(frames[n])):
            merged = [c for c, _ in itertools.groupby(path) if c != blank]
            if merged == wanted:
                total += math.exp(sum(log_probs[t, n, c] for t, c in enumerate(path)))
        losses.append(-math.log(total) if total else 0.0 if zero_infinity else math.inf)
    return np.array(losses)


def _ctc_cases(s: Any) -> list[Any]:
    def case(x: Any, targets: Any, frames: Any, lengths: Any, zero_infinity: bool = False) -> Any:
        params = {"frames": np.array(frames), "lengths": np.array(lengths), "zero_infinity": zero_infinity}
        return s.case(x, labels=_with_blanks(np, np.array(targets), 0), blank=0, **params)

    return [
        case(s.normal(4, 2, 3), [[1, 2], [1, 1]], [4, 4], [2, 2]),
        case(s.normal(4, 2, 3), [[2, 1], [1, 0]], [4, 3], [2, 1]),
        case(s.normal(3, 2, 3), [[2, 2], [0, 0]], [2, 3], [2, 0], True),
    ]


CTC = op(
    "ctc_loss", "minus the log-likelihood of labels over all their alignments with frames",
    autocast="single on cpu",
    forward=_ctc, vjp=_ctc_vjp, saves=("log_probs",), aux=True, reference=_ctc_reference, shape=_ctc_shape,
    samples=_ctc_cases,
    errors=lambda s: [
        s.case(
            s.normal(3, 2, 2), labels=np.array([[0, 2, 0], [0, 1, 0]]), frames=np.array([3, 3]),
            lengths=np.array([1, 1]), blank=0, zero_infinity=False,
        )
    ],
)  # fmt: skip


def _with_blanks(xp: Any, targets: Any, blank: int) -> Any:
    labels = xp.full((targets.shape[0], 2 * targets.shape[1] + 1), blank, np.int64)
    labels[:, 1::2] = targets
    return labels


@autocasts("single on cpu")
def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Minus the log-likelihood of label sequences, over all their alignments with the frames (Graves et al., 2006).

    Args:
        log_probs: logarithms of probabilities `(T, N, C)`, or `(T, C)` of one sequence.
        targets: labels `(N, S)`, filled up with anything, or all sequences one after the other `(sum of lengths,)`.
        input_lengths: how many frames of each sequence count, `(N,)`: a tensor, or numbers.
        target_lengths: how many labels each sequence has, `(N,)`.
        blank: the class that stands between labels.
        reduction: "mean" (each loss first divided by its number of labels), "sum" or "none".
        zero_infinity: sequences too short for their labels count as 0, not as infinity.
    """
    name = "ctc_loss"
    check_reduction(name, reduction)
    batched = log_probs.ndim == 3
    if log_probs.ndim not in (2, 3):
        raise ShapeError(f"{name}: log_probs must be (T, N, C) or (T, C), not {log_probs.shape}")
    x = log_probs if batched else log_probs.reshape((log_probs.shape[0], 1, log_probs.shape[1]))
    num_frames, batch, num_classes = x.shape
    frames, lengths = _numbers(input_lengths), _numbers(target_lengths)
    if not 0 <= blank < num_classes:
        raise TrainerIndexError(f"{name}: blank is class {blank}, outside the {num_classes} classes")
    for what, values in (("input_lengths", frames), ("target_lengths", lengths)):
        if values.shape != (batch,):
            raise ShapeError(f"{name}: {what} must hold one number per sequence, shape ({batch},), not {values.shape}")
    if frames.size and not 0 <= frames.min() <= frames.max() <= num_frames:
        raise ValueError(f"{name}: input_lengths must be from 0 to {num_frames}, the frames that there are")
    if lengths.size and lengths.min() < 0:
        raise ValueError(f"{name}: target_lengths must not be negative")
    table = _table(name, to_numpy(targets.data), lengths, blank)
    counted = np.arange(table.shape[1]) < lengths[:, None]
    wrong = table[counted & ((table < 0) | (table >= num_classes))]
    if wrong.size:
        raise TrainerIndexError(
            f"{name}: targets hold class number {int(wrong[0])}, outside the {num_classes} classes, "
            f"0 to {num_classes - 1}"
        )
    xp = array_module(x.data)
    losses: Tensor = apply(
        CTC, x, labels=xp.asarray(_with_blanks(np, np.where(counted, table, blank), blank)), frames=xp.asarray(frames),
        lengths=xp.asarray(lengths), blank=blank, zero_infinity=zero_infinity,
    )  # fmt: skip
    if reduction == "mean":
        return (losses / wrap(xp.asarray(np.maximum(lengths, 1).astype(x.dtype)))).mean()
    if reduction == "sum":
        return losses.sum()
    return losses if batched else losses.reshape(())


def _numbers(values: Any) -> Any:
    data = to_numpy(values.data) if isinstance(values, Tensor) else np.asarray(values)
    if data.dtype.kind not in "iu":
        raise TypeError(f"ctc_loss: lengths must be integers, not {data.dtype.name}")
    return np.atleast_1d(data).astype(np.int64)


def _table(name: str, targets: Any, lengths: Any, blank: int) -> Any:
    """The labels with one row per sequence."""
    longest = int(lengths.max()) if lengths.size else 0
    if targets.ndim == 2:
        if targets.shape[0] != lengths.size or targets.shape[1] < longest:
            raise ShapeError(
                f"{name}: {lengths.size} sequences of up to {longest} labels need targets of shape "
                f"({lengths.size}, {longest}) or wider, not {targets.shape}"
            )
        return targets
    if targets.ndim != 1 or targets.size != int(lengths.sum()):
        raise ShapeError(
            f"{name}: targets must be (N, S), or all labels one after the other, here {int(lengths.sum())} (the sum of "
            f"target_lengths); they have shape {targets.shape}"
        )
    table = np.full((lengths.size, longest), blank, np.int64)
    table[np.arange(longest) < lengths[:, None]] = targets
    return table
