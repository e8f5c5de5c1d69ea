"""Averages of a model's weights over training: exponential (EMA) and equal (SWA), and what belongs to them.

Where the model's parameters live in an optimiser's flat storage, the average lives in twins of those buffers, and an
update is a few operations on whole buffers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from cordee.trainer.array import Array, array_module, as_array, is_complex, is_float
from cordee.trainer.autograd import no_grad
from cordee.trainer.nn.module import Module
from cordee.trainer.optim.attached import attach, watch_of
from cordee.trainer.optim.flat import FlatGroup, homes
from cordee.trainer.optim.lr_scheduler.base import LRScheduler, one_per_group
from cordee.trainer.optim.optimizer import Optimizer
from cordee.trainer.tensors import Tensor

__all__ = [
    "SWALR",
    "AveragedModel",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]

AvgFn = Callable[[Tensor, Tensor, Any], Tensor]
MultiAvgFn = Callable[[Sequence[Tensor], Sequence[Tensor], Any], None]

_BLOCK_ELEMENTS = 131072


def get_ema_multi_avg_fn(decay: float = 0.999) -> MultiAvgFn:
    """`average = decay * average + (1 - decay) * current`, for all parameters at once."""
    _check_decay(decay)

    def ema_update(averaged: Sequence[Tensor], current: Sequence[Tensor], _: Any) -> None:
        for ours, theirs in zip(averaged, current, strict=True):
            _approach(ours.data, theirs.data, 1.0 - decay)

    return _elementwise(ema_update)


def get_swa_multi_avg_fn() -> MultiAvgFn:
    """`average += (current - average) / (num_averaged + 1)`, for all parameters at once."""

    def swa_update(averaged: Sequence[Tensor], current: Sequence[Tensor], num_averaged: Any) -> None:
        share = 1.0 / (int(num_averaged) + 1)
        for ours, theirs in zip(averaged, current, strict=True):
            _approach(ours.data, theirs.data, share)

    return _elementwise(swa_update)


def get_ema_avg_fn(decay: float = 0.999) -> AvgFn:
    """The same for one parameter, returning the new average."""
    _check_decay(decay)

    def ema_update(averaged: Tensor, current: Tensor, _: Any) -> Tensor:
        return Tensor(averaged.data * decay + current.data * (1.0 - decay))

    return ema_update


def get_swa_avg_fn() -> AvgFn:
    """The same for one parameter, returning the new average."""

    def swa_update(averaged: Tensor, current: Tensor, num_averaged: Any) -> Tensor:
        return Tensor(averaged.data + (current.data - averaged.data) / (int(num_averaged) + 1))

    return swa_update


class AveragedModel(Module):
    """A copy of a model whose parameters are an average of those that the model has had.

    In an elastic run the average goes to workers that join, and into checkpoints, by itself; update it after
    `step.commit()`. An update in a step that was lost does nothing: the step comes again.

    Args:
        model: copied. Give its optimiser the model's own parameters, not the copy's.
        device: ignored: all of a process's tensors are on one device.
        avg_fn: `avg_fn(average, current, num_averaged)` returns the new average of one parameter.
        multi_avg_fn: `multi_avg_fn(averages, currents, num_averaged)` updates lists of tensors of one dtype in place.
            None of both: the equal average (SWA).
        use_buffers: average the buffers as well; otherwise they are copied from the model at every update.

    Attributes:
        module: the copy.
        n_averaged: a buffer: how many updates there were.
    """

    n_averaged: Tensor

    def __init__(
        self,
        model: Module,
        device: Any = None,
        avg_fn: AvgFn | None = None,
        multi_avg_fn: MultiAvgFn | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        del device
        if avg_fn is not None and multi_avg_fn is not None:
            raise ValueError("AveragedModel takes avg_fn or multi_avg_fn, not both")
        self.module = copy.deepcopy(model)
        self.register_buffer("n_averaged", Tensor(as_array(np.array(0, np.int64))))
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers
        self._plan: _Plan | None = None
        self._travels = False
        """Whether it is known to travel with an elastic run."""
        attach(model, self)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Takes the model's parameters of the moment into the average; the first time, copies them.

        Raises:
            RuntimeError: in an elastic step that is not committed yet, or when the average is of another model than the
                run's.
        """
        watch = watch_of(model)
        step = watch.step
        if step is not None and not step.committed:
            if step.lost:
                return
            raise RuntimeError(
                "in an elastic run, update the average after step.commit(): the step's update may still be lost"
            )
        if step is not None and not self._travels:
            if not watch.knows(self):
                raise RuntimeError(
                    "this AveragedModel was made of a module that is no part of the elastic run (a copy?), so it would "
                    "not go to workers that join: make it of the model that the run trains, AveragedModel(model)"
                )
            self._travels = True
        plan = self._plan
        if plan is None or not plan.holds(model):
            plan = self._plan = _Plan(self.module, model)
        buffers = list(zip(self.module.buffers(), model.buffers(), strict=True))
        if int(self.n_averaged.data) == 0:
            for ours, theirs in plan.whole + plan.single + (buffers if self.use_buffers else []):
                ours.data[...] = theirs.data
        else:
            self._average(plan, buffers if self.use_buffers else [])
        if not self.use_buffers:
            for ours, theirs in buffers:
                ours.data[...] = theirs.data
        self.n_averaged.data[...] += 1

    def _average(self, plan: _Plan, buffers: list[tuple[Tensor, Tensor]]) -> None:
        number = self.n_averaged
        if self.avg_fn is not None:
            for ours, theirs in plan.parameters + buffers:
                ours.data[...] = self.avg_fn(Tensor(ours.data), Tensor(theirs.data), number).data
            return
        function = self.multi_avg_fn or get_swa_multi_avg_fn()
        # Whether whole buffers stand for the parameters in them is known only of our own functions.
        whole = getattr(function, "elementwise", False)
        pairs = (plan.whole + plan.single if whole else plan.parameters) + buffers
        by_dtype: dict[Any, list[tuple[Tensor, Tensor]]] = {}
        for ours, theirs in pairs:
            by_dtype.setdefault(ours.data.dtype, []).append((Tensor(ours.data), Tensor(theirs.data)))
        for group in by_dtype.values():
            function([ours for ours, _ in group], [theirs for _, theirs in group], number)

    # What travels with the model in an elastic run.

    def scalars(self) -> dict[str, Any]:
        """Nothing: how many updates there were is a buffer."""
        return {}

    def load_scalars(self, scalars: Mapping[str, Any]) -> None:
        """Nothing."""

    def arrays(self) -> dict[str, Array]:
        """The average and the count."""
        arrays: dict[str, Array] = {name: parameter.data for name, parameter in self.named_parameters()}
        arrays.update((name, buffer.data) for name, buffer in self.named_buffers())
        return arrays

    def __deepcopy__(self, memo: dict[int, Any]) -> AveragedModel:
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        for key, value in vars(self).items():
            vars(twin)[key] = _OF_A_COPY[key] if key in _OF_A_COPY else copy.deepcopy(value, memo)
        return twin


_OF_A_COPY: dict[str, Any] = {"_plan": None, "_travels": False}


class _Plan:
    """Which arrays are averaged into which: whole buffers where the model's parameters fill them, else parameters."""

    def __init__(self, averaged: Module, model: Module) -> None:
        self.parameters: list[tuple[Tensor, Tensor]] = list(zip(averaged.parameters(), model.parameters(), strict=True))
        self.single: list[tuple[Tensor, Tensor]] = []
        self.whole: list[tuple[Tensor, Tensor]] = []
        found = homes()
        members: dict[int, tuple[FlatGroup, dict[int, Tensor]]] = {}
        for ours, theirs in self.parameters:
            home = found.get(id(theirs.data))
            if home is not None:
                group, index = home
                members.setdefault(id(group), (group, {}))[1][index] = ours
        moved = set()
        for group, ours_by_index in members.values():
            if len(ours_by_index) < len(group.parameters):
                continue
            twin = group.new_twin()
            for index, ours in ours_by_index.items():
                view = group.view(twin, index)
                view[...] = ours.data
                ours.data = view
                moved.add(id(ours))
            self.whole.append((Tensor(twin), Tensor(group.data)))
        self.single = [(ours, theirs) for ours, theirs in self.parameters if id(ours) not in moved]
        self._seen = [(ours, ours.data, theirs, theirs.data) for ours, theirs in self.parameters]

    def holds(self, model: Module) -> bool:
        """Whether all arrays are still where they were."""
        theirs = [each for _, _, each, _ in self._seen]
        if any(one is not other for one, other in zip(theirs, model.parameters(), strict=True)):
            return False
        return all(ours.data is a and theirs.data is b for ours, a, theirs, b in self._seen)


@no_grad()
def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Computes the statistics of the model's batch normalisations anew, from the batches of `loader`.

    For an average of weights, whose statistics nobody has seen yet.

    Args:
        loader: gives batches: of a tuple or a list (or the loader's own batches) the first field is the input.
        model: its batch normalisations are those modules that have `reset_running_stats` and a `momentum`.
        device: ignored: all of a process's tensors are on one device.
    """
    del device
    norms: list[Any] = [
        module
        for module in model.modules()
        if hasattr(module, "reset_running_stats") and hasattr(module, "momentum") and _is_batch_norm(module)
    ]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    was_training = model.training
    model.train()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
        for batch in loader:
            inputs = batch[0] if isinstance(batch, (list, tuple)) or hasattr(batch, "fields") else batch
            model(inputs)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(was_training)


def _is_batch_norm(module: Module) -> bool:
    return "BatchNorm" in "".join(base.__name__ for base in type(module).__mro__)


class SWALR(LRScheduler):
    """From the learning rate of the moment to `swa_lr` in `anneal_epochs` steps, then that (Izmailov et al. 2018).

    Args:
        optimizer: see `LRScheduler`.
        swa_lr: the learning rate to go to, or one per parameter group.
        anneal_epochs: steps on the way.
        anneal_strategy: "cos" or "linear".
        last_epoch: see `LRScheduler`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float | list[float],
        anneal_epochs: int = 10,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        last_epoch: int = -1,
    ) -> None:
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f'anneal_strategy must be "cos" or "linear", got {anneal_strategy!r}')
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be a whole number that is not negative, got {anneal_epochs}")
        for group, lr in zip(optimizer.param_groups, one_per_group("swa_lr", optimizer, swa_lr), strict=True):
            group["swa_lr"] = lr
        self._anneal_strategy = anneal_strategy
        self.anneal_epochs = anneal_epochs
        super().__init__(optimizer, last_epoch)

    def anneal_func(self, t: float) -> float:
        """The share of `swa_lr`, by the share of the way."""
        return (1 - math.cos(math.pi * t)) / 2 if self._anneal_strategy == "cos" else t

    def get_lr(self) -> list[float]:
        self._warn_outside_step()
        step = self._step_count - 1
        if self.anneal_epochs == 0:
            step = max(1, step)
        length = max(1, self.anneal_epochs)
        before = self.anneal_func(max(0, min(1, (step - 1) / length)))
        now = self.anneal_func(max(0, min(1, step / length)))
        values = []
        for group in self.optimizer.param_groups:
            swa_lr = group["swa_lr"]
            start = swa_lr if before == 1 else (group["lr"] - before * swa_lr) / (1 - before)
            values.append(swa_lr * now + start * (1 - now))
        return values


def _check_decay(decay: float) -> None:
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must be from 0 to 1, got {decay}")


def _elementwise(function: MultiAvgFn) -> MultiAvgFn:
    """Marks a function to which a whole buffer is as good as the parameters in it."""
    function.elementwise = True  # type: ignore[attr-defined]
    return function


def _approach(average: Array, current: Array, share: float) -> None:
    """`average += share * (current - average)`, in place, block by block."""
    xp = array_module(average)
    dtype = average.dtype
    if not (is_float(dtype) or is_complex(dtype)):
        average[...] = average + (current - average) * share  # rounded towards zero, as integers are
        return
    if not average.flags.c_contiguous or not current.flags.c_contiguous:
        average += (current - average) * share
        return
    ours, theirs = average.reshape(-1), current.reshape(-1)
    wide = np.dtype(np.float32) if dtype.itemsize == 2 else dtype
    block = min(_BLOCK_ELEMENTS if xp is np else ours.size, ours.size)
    scratch = xp.empty(block, wide)
    for start in range(0, ours.size, max(block, 1)):
        a, b = ours[start : start + block], theirs[start : start + block]
        difference = scratch[: a.size]
        if wide is not dtype:
            difference[...] = b
            difference -= a.astype(wide)
            difference *= share
            a[...] = difference + a.astype(wide)
            continue
        xp.subtract(b, a, difference)
        xp.multiply(difference, share, difference)
        xp.add(a, difference, a)
