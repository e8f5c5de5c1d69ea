"""A line search for the strong Wolfe conditions, with cubic interpolation, over Python numbers.

Along a direction, a step is good when the loss has fallen by its share (c1) and the slope has flattened by its share
(c2) (Nocedal and Wright 2006, algorithms 3.5 and 3.6). First a bracket is widened until it holds such a step, then it
is narrowed down to one. The decisions are those of PyTorch, so that LBFGS goes where PyTorch's goes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["Point", "strong_wolfe"]

_ARMIJO, _CURVATURE = 1e-4, 0.9


class Point(NamedTuple):
    """A step along the direction, and what was found there."""

    step: float
    loss: float
    gradient: Any
    slope: float


def strong_wolfe(
    evaluate: Callable[[float], Point],
    start: Point,
    first_step: float,
    largest_direction: float,
    tolerance_change: float = 1e-9,
    max_evaluations: int = 25,
) -> tuple[Point, int]:
    """The step that was found, and how often `evaluate` was called.

    Args:
        evaluate: loss, gradient and slope at a step; the gradient must not be overwritten by later calls.
        start: the point at step 0.
        first_step: the first step to try.
        largest_direction: the largest absolute element of the direction: it tells when a bracket is small.
        tolerance_change: how small.
        max_evaluations: how many more evaluations than the first there may be.
    """

    def falls_too_little(point: Point) -> bool:
        return point.loss > start.loss + _ARMIJO * point.step * start.slope

    def is_flat(point: Point) -> bool:
        return abs(point.slope) <= -_CURVATURE * start.slope

    point, previous = evaluate(first_step), start
    calls, count = 1, 0
    bracket: list[Point] = []
    while count < max_evaluations:
        if falls_too_little(point) or (count > 1 and point.loss >= previous.loss):
            bracket = [previous, point]
            break
        if is_flat(point):
            return point, calls
        if point.slope >= 0:
            bracket = [previous, point]
            break
        least, most = point.step + 0.01 * (point.step - previous.step), point.step * 10
        step = _minimum_of_cubic(previous, point, (least, most))
        previous, point = point, evaluate(step)
        calls += 1
        count += 1
    if count == max_evaluations:
        bracket = [start, point]

    stuck = False
    low, high = (0, 1) if bracket[0].loss <= bracket[1].loss else (1, 0)
    while count < max_evaluations:
        if abs(bracket[1].step - bracket[0].step) * largest_direction < tolerance_change:
            break
        step = _minimum_of_cubic(bracket[0], bracket[1])
        left, right = sorted(each.step for each in bracket)
        margin = 0.1 * (right - left)
        # Near an end of the bracket, for the second time or beyond it: go a tenth into the bracket instead.
        if min(right - step, step - left) < margin:
            if stuck or step >= right or step <= left:
                step = right - margin if abs(step - right) < abs(step - left) else left + margin
                stuck = False
            else:
                stuck = True
        else:
            stuck = False
        point = evaluate(step)
        calls += 1
        count += 1
        if falls_too_little(point) or point.loss >= bracket[low].loss:
            bracket[high] = point
            low, high = (0, 1) if bracket[0].loss <= bracket[1].loss else (1, 0)
            continue
        done = is_flat(point)
        if not done and point.slope * (bracket[high].step - bracket[low].step) >= 0:
            bracket[high] = bracket[low]
        bracket[low] = point
        if done:
            break
    return bracket[low], calls


def _minimum_of_cubic(first: Point, second: Point, bounds: tuple[float, float] | None = None) -> float:
    """Where the cubic through both points, with both slopes, is least; within the bounds."""
    least, most = bounds or tuple(sorted((first.step, second.step)))
    if first.step > second.step:
        first, second = second, first
    if second.step == first.step:
        return (least + most) / 2
    d1 = first.slope + second.slope - 3 * (first.loss - second.loss) / (first.step - second.step)
    square = d1 * d1 - first.slope * second.slope
    if not square >= 0:
        return (least + most) / 2
    d2 = math.sqrt(square)
    denominator = second.slope - first.slope + 2 * d2
    if denominator == 0:
        return (least + most) / 2
    step = second.step - (second.step - first.step) * ((second.slope + d2 - d1) / denominator)
    return min(max(step, least), most)
