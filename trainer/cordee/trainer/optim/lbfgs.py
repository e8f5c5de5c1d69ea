"""L-BFGS: steps along an estimate of Newton's direction, from the last few changes of the gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cordee.trainer.array import array_module
from cordee.trainer.autograd import enable_grad
from cordee.trainer.optim.checks import at_least
from cordee.trainer.optim.line_search import Point, strong_wolfe
from cordee.trainer.optim.optimizer import Optimizer

__all__ = ["LBFGS"]

Vector = list[Any]
"""One flat buffer per dtype: an optimiser's parameters, their gradients, a direction."""


class LBFGS(Optimizer):
    """Liu and Nocedal 1989, as PyTorch has it: a step takes up to `max_iter` iterations, so it needs a closure.

    All parameters are one vector: there is one parameter group, and a parameter without a gradient counts as one with
    zeros. Not for small batches: the changes of the gradient must come from the parameters, not from other samples.

    Args:
        params: see `Optimizer`.
        lr: the step length, or the line search's first try.
        max_iter: iterations per step.
        max_eval: calls of the closure per step (None: 1.25 times `max_iter`).
        tolerance_grad: done when no element of the gradient is larger.
        tolerance_change: done when loss or parameters change by less.
        history_size: how many changes are remembered; each takes twice the parameters' memory.
        line_search_fn: "strong_wolfe", or None for steps of length `lr`.
        maximize: go up instead of down.
    """

    needs_closure = True

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
            "maximize": maximize,
        }
        super().__init__(params, defaults)
        self.extra = {"func_evals": 0, "n_iter": 0, "order": [], "ro": []}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if self.param_groups:
            raise ValueError("LBFGS takes its parameters as one group: their options cannot differ")
        super().add_param_group(param_group)

    def _check_options(self, options: Mapping[str, Any]) -> None:
        at_least(options, 0.0, "lr")
        at_least(options, 1, "max_iter", "history_size")
        if options["line_search_fn"] not in (None, "strong_wolfe"):
            raise ValueError(f'line_search_fn must be None or "strong_wolfe", got {options["line_search_fn"]!r}')

    def _needed_state(self, options: Mapping[str, Any], extra: Mapping[str, Any]) -> tuple[str, ...]:
        del options
        if not extra.get("n_iter"):
            return ()
        slots = sorted(extra["order"])
        return (
            "direction",
            "prev_flat_grad",
            *(f"old_dirs.{slot}" for slot in slots),
            *(f"old_stps.{slot}" for slot in slots),
        )

    def _step(self, closure: Callable[[], Any] | None) -> Any:
        if closure is None:
            raise TypeError(
                "LBFGS.step needs a closure that computes the gradients anew and returns the loss: "
                "optimizer.step(closure)"
            )
        options, extra = self.param_groups[0], self.extra
        for group in self.groups:
            group.adopt()
        run = _Evaluations(self, closure, options["maximize"])
        first_loss = run()
        if run.largest() <= options["tolerance_grad"]:
            extra["func_evals"] += run.count
            return first_loss
        iteration = 0
        while True:
            iteration += 1
            extra["n_iter"] += 1
            self.allocate_all()
            direction = self._direction(run.gradient)
            for buffer, gradient in zip(self._vector("prev_flat_grad"), run.gradient, strict=True):
                buffer[...] = gradient
            loss_before = run.loss
            step = options["lr"]
            if extra["n_iter"] == 1:
                step *= min(1.0, 1.0 / sum(float(abs(each).sum()) for each in run.gradient))
            extra["t"] = step
            slope = _dot(run.gradient, direction)
            if slope > -options["tolerance_change"]:
                break
            if options["line_search_fn"] is None:
                self._move(direction, step)
                if iteration != options["max_iter"]:  # the last one's loss nobody would look at
                    run()
            else:
                calls_left = options["max_eval"] - run.count
                step = extra["t"] = self._search(run, direction, slope, step, calls_left)
            if iteration == options["max_iter"] or run.count >= options["max_eval"]:
                break
            if run.largest() <= options["tolerance_grad"]:
                break
            if _largest(direction) * abs(step) <= options["tolerance_change"]:
                break
            if abs(run.loss - loss_before) < options["tolerance_change"]:
                break
        extra["func_evals"] += run.count
        for group in self.groups:
            group.steps += 1
        return first_loss

    def allocate_all(self) -> None:
        for group in self.groups:
            self.allocate(group, group.options, self.extra)

    def _vector(self, name: str) -> Vector:
        return [group.state[name] for group in self.groups]

    def _move(self, direction: Vector, step: float) -> None:
        for group, part in zip(self.groups, direction, strict=True):
            group.mark_written()
            _add(group.data, part, step)

    def _search(self, run: _Evaluations, direction: Vector, slope: float, step: float, calls_left: int) -> float:
        """Moves along the direction by a good step, and returns it."""
        start = [group.data.copy() for group in self.groups]

        def evaluate(step: float) -> Point:
            self._move(direction, step)
            run()
            for group, values in zip(self.groups, start, strict=True):
                group.mark_written()
                group.data[...] = values
            return Point(step, run.loss, run.gradient, _dot(run.gradient, direction))

        begin = Point(0.0, run.loss, run.gradient, slope)
        found, _ = strong_wolfe(evaluate, begin, step, _largest(direction), max_evaluations=calls_left)
        self._move(direction, found.step)
        run.loss, run.gradient = found.loss, found.gradient
        return found.step

    def _direction(self, gradient: Vector) -> Vector:
        """Notes down what the last step has changed, and finds the direction of the next, in its buffer."""
        extra, direction = self.extra, self._vector("direction")
        if extra["n_iter"] == 1:
            extra.update(order=[], ro=[], H_diag=1.0)
            for part, each in zip(direction, gradient, strict=True):
                array_module(part).negative(each, part)
            return direction
        change = [now - before for now, before in zip(gradient, self._vector("prev_flat_grad"), strict=True)]
        moved = [part * extra["t"] for part in direction]
        product = _dot(change, moved)
        if product > 1e-10:
            self._remember(change, moved)
            extra["ro"].append(1.0 / product)
            extra["H_diag"] = product / _dot(change, change)
        # The two-loop recursion (Nocedal and Wright 2006, algorithm 7.4), in the direction's own buffer.
        history = [
            (self._vector(f"old_dirs.{slot}"), self._vector(f"old_stps.{slot}"), ro)
            for slot, ro in zip(extra["order"], extra["ro"], strict=True)
        ]
        for part, each in zip(direction, gradient, strict=True):
            array_module(part).negative(each, part)
        shares = []
        for change, moved, ro in reversed(history):
            share = _dot(moved, direction) * ro
            shares.append(share)
            for part, each in zip(direction, change, strict=True):
                _add(part, each, -share)
        for part in direction:
            array_module(part).multiply(part, extra["H_diag"], part)
        for (change, moved, ro), share in zip(history, reversed(shares), strict=True):
            rest = share - _dot(change, direction) * ro
            for part, each in zip(direction, moved, strict=True):
                _add(part, each, rest)
        return direction

    def _remember(self, change: Vector, moved: Vector) -> None:
        """Writes a change of the gradient and the step it came from over the oldest, or beside them."""
        extra = self.extra
        order = extra["order"]
        if len(order) >= self.param_groups[0]["history_size"]:
            slot = order.pop(0)
            extra["ro"].pop(0)
        else:
            slot = next(slot for slot in range(len(order) + 1) if slot not in order)
        order.append(slot)
        self.allocate_all()
        for name, vector in ((f"old_dirs.{slot}", change), (f"old_stps.{slot}", moved)):
            for buffer, values in zip(self._vector(name), vector, strict=True):
                buffer[...] = values


class _Evaluations:
    """Calls the closure, counts, and holds the loss and the gradient that were found last."""

    def __init__(self, optimizer: LBFGS, closure: Callable[[], Any], maximize: bool) -> None:
        self.count = 0
        self.loss = 0.0
        self.gradient: Vector = []
        """New buffers every time: nobody overwrites them."""
        self._optimizer = optimizer
        self._closure = closure
        self._maximize = maximize

    def __call__(self) -> Any:
        with enable_grad():
            loss = self._closure()
        self.count += 1
        self.loss = -float(loss) if self._maximize else float(loss)
        self.gradient = []
        for group in self._optimizer.groups:
            group.adopt()
            group.fill_untouched()
            self.gradient.append(-group.grad if self._maximize else group.grad.copy())
        return loss

    def largest(self) -> float:
        return _largest(self.gradient)


def _dot(first: Vector, second: Vector) -> float:
    total = 0.0
    for one, other in zip(first, second, strict=True):
        left, right = _real(one), _real(other)
        if left.dtype.itemsize == 2:  # a sum of products overflows 16 bits soon
            left, right = left.astype(np.float32), right.astype(np.float32)
        total += float(array_module(left).dot(left, right))
    return total


def _real(array: Any) -> Any:
    """A complex array as pairs of reals."""
    return array.view(array.real.dtype) if array.dtype.kind == "c" else array


def _largest(vector: Vector) -> float:
    return max(float(abs(_real(part)).max()) for part in vector)


def _add(target: Any, values: Any, factor: float) -> None:
    target += values * factor
