"""What happens beside a training: stopping early, saving, changing the learning rate, writing figures down.

In a job every worker runs the callbacks, on the same figures, and so comes to the same decisions. What a callback
remembers is part of the training's state: it returns it from `state_dict`, in JSON's types, and gets it back by
`load_state_dict` on a worker that joins or after a restart. Files are written by one worker, whole or not at all.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cordee.trainer.array import Array
from cordee.trainer.files import replace_atomically

if TYPE_CHECKING:
    from cordee.trainer.elastic import Step
    from cordee.trainer.fit.model import Model

__all__ = [
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "LambdaCallback",
    "LearningRate",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
    "TerminateOnNaN",
]

Figures = dict[str, float]
Mode = Literal["auto", "min", "max"]


class Callback:
    """Override what you need. `model` is the `fit.Model` in training, whose `stop_training` may be set."""

    model: Model
    last = False
    """Whether it comes after the others, whose figures it wants to see."""

    def on_train_begin(self) -> None:
        """Before the first step of a call of `fit`, also where it goes on from a checkpoint."""

    def on_train_end(self, figures: Figures) -> None:
        """After the last."""

    def on_epoch_begin(self, epoch: int) -> None:
        """Before an epoch's first step. Epochs count from 1."""

    def on_epoch_end(self, epoch: int, figures: Figures) -> None:
        """After an epoch and its validation. What is added to `figures` gets into the history."""

    def on_step_end(self, step: Step, figures: Figures) -> None:
        """After a committed step; `figures` are the epoch's means so far."""

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, in JSON's types."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what another worker's remembers."""

    def arrays(self) -> dict[str, Array]:
        """What it remembers that is arrays, as views to be written to; the same names and shapes all the time. Change
        them after committed steps (`on_step_end`, `on_epoch_end`): a lost step does not take them back."""
        return {}


class _Monitor(Callback):
    """Something that watches whether a figure gets better."""

    def __init__(self, monitor: str, mode: Mode, min_delta: float) -> None:
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"mode is 'auto', 'min' or 'max', not {mode!r}")
        self.monitor = monitor
        rising = mode == "max" or (mode == "auto" and any(word in monitor for word in ("accuracy", "score", "auc")))
        self._sign = -1.0 if rising else 1.0
        self.min_delta = abs(min_delta)
        self.best: float | None = None

    def value(self, figures: Figures) -> float:
        """The figure that is watched.

        Raises:
            KeyError: there is no such figure; it lists those there are.
        """
        if self.monitor not in figures:
            hint = " (validation_data= or validation_split= gives those with val_)" if "val_" in self.monitor else ""
            raise KeyError(
                f"{type(self).__name__} watches {self.monitor!r}, which this training does not have{hint}; there are "
                f"{', '.join(figures)}"
            )
        return figures[self.monitor]

    def improved(self, value: float) -> bool:
        """Whether it is better than the best so far, which it then replaces. NaN never is."""
        better = self.best is None or self._sign * value < self._sign * self.best - self.min_delta
        if math.isnan(value) or not better:
            return False
        self.best = value
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]


class EarlyStopping(_Monitor):
    """Ends the training when a figure has not got better for a while.

    Args:
        monitor: the figure, "val_loss" by default.
        min_delta: smaller changes are no improvement.
        patience: how many epochs without improvement are put up with.
        mode: whether less is better ("min") or more ("max"); "auto" knows it for accuracies and scores.
        restore_best_weights: end with the weights of the best epoch, not the last.
        start_from_epoch: epochs before it are not looked at.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        mode: Mode = "auto",
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience = patience
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = start_from_epoch
        self.wait = 0
        self.best_epoch = 0
        self.stopped_epoch = 0
        self._weights: dict[str, Array] = {}

    def on_train_begin(self) -> None:
        if self.restore_best_weights and not self._weights:
            self._weights = {name: value.data.copy() for name, value in self.model.net.state_dict().items()}

    def on_epoch_end(self, epoch: int, figures: Figures) -> None:
        if epoch < self.start_from_epoch:
            return
        if self.improved(self.value(figures)):
            self.wait, self.best_epoch = 0, epoch
            for name, value in self.model.net.state_dict().items():
                if name in self._weights:
                    self._weights[name][...] = value.data
            return
        self.wait += 1
        if self.wait > self.patience:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, figures: Figures) -> None:
        if self.restore_best_weights and self.best_epoch:
            self.model.net.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "wait": self.wait, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.wait, self.best_epoch = int(state["wait"]), int(state["best_epoch"])

    def arrays(self) -> dict[str, Array]:
        return dict(self._weights)


class ModelCheckpoint(_Monitor):
    """Writes the weights to a safetensors file after epochs. (A job's own checkpoints, for restarts, are its own.)

    Args:
        path: may name the epoch and figures: "weights-{epoch:03d}-{val_loss:.3f}.safetensors".
        monitor, mode, save_best_only: write only when the figure has got better.
    """

    def __init__(
        self, path: str | Path, monitor: str = "val_loss", save_best_only: bool = False, mode: Mode = "auto"
    ) -> None:
        super().__init__(monitor, mode, 0.0)
        self.path = str(path)
        self.save_best_only = save_best_only

    def on_epoch_end(self, epoch: int, figures: Figures) -> None:
        if self.save_best_only and not self.improved(self.value(figures)):
            return
        if not self.model.leads:
            return
        try:
            path = self.path.format(epoch=epoch, **figures)
        except (KeyError, IndexError) as error:
            raise KeyError(f"the path {self.path!r} names {error}; there are epoch, {', '.join(figures)}") from error
        self.model.save(path)


class LearningRate(Callback):
    """Sets the learning rate before every epoch.

    Args:
        schedule: `schedule(epoch, lr)` returns the rate of an epoch, from 1; or one of `optim.lr_scheduler`'s
            schedules over the model's optimiser, which is then stepped after every epoch.
        per_step: step the schedule after every step instead.
    """

    def __init__(self, schedule: Any, per_step: bool = False) -> None:
        self.schedule = schedule
        self.per_step = per_step
        if per_step and not hasattr(schedule, "step"):
            raise TypeError("per_step is for schedules of optim.lr_scheduler: a function is asked once per epoch")

    def on_epoch_begin(self, epoch: int) -> None:
        if hasattr(self.schedule, "step"):
            return
        for group in self.model.optimizer.param_groups:
            group["lr"] = float(self.schedule(epoch, group["lr"]))

    def on_step_end(self, step: Step, figures: Figures) -> None:
        if self.per_step:
            self.schedule.step()

    def on_epoch_end(self, epoch: int, figures: Figures) -> None:
        figures["lr"] = float(self.model.optimizer.param_groups[0]["lr"])
        if hasattr(self.schedule, "step") and not self.per_step:
            self.schedule.step()


class ReduceLROnPlateau(_Monitor):
    """Lowers the learning rate when a figure has not got better for a while.

    Args:
        factor: what the rate is multiplied by.
        patience: how many epochs without improvement are put up with.
        min_lr: it is not lowered below.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        mode: Mode = "auto",
        min_delta: float = 1e-4,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        if not 0 < factor < 1:
            raise ValueError(f"factor must be between 0 and 1, not {factor}")
        self.factor, self.patience, self.min_lr = factor, patience, min_lr
        self.wait = 0

    def on_epoch_end(self, epoch: int, figures: Figures) -> None:
        groups = self.model.optimizer.param_groups
        figures["lr"] = float(groups[0]["lr"])
        if self.improved(self.value(figures)):
            self.wait = 0
            return
        self.wait += 1
        if self.wait >= self.patience:
            self.wait = 0
            for group in groups:
                group["lr"] = max(group["lr"] * self.factor, self.min_lr)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "wait": self.wait}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.wait = int(state["wait"])


class CSVLogger(Callback):
    """Writes the history so far to a CSV file after every epoch: one row per epoch, one column per figure.

    It writes the whole file each time, so whichever worker leads, the file is complete.
    """

    last = True

    def __init__(self, path: str | Path, separator: str = ",") -> None:
        self.path = Path(path)
        self.separator = separator

    def on_epoch_end(self, epoch: int, figures: Figures) -> None:
        if not self.model.leads:
            return
        history = self.model.history
        columns = {name: [*values, figures.get(name, math.nan)] for name, values in history.history.items()}
        columns |= {name: [*[math.nan] * len(history), value] for name, value in figures.items() if name not in columns}
        text = io.StringIO()
        writer = csv.writer(text, delimiter=self.separator, lineterminator="\n")
        writer.writerow(["epoch", *columns])
        for row, number in enumerate([*history.epoch, epoch]):
            writer.writerow([number, *(values[row] for values in columns.values())])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replace_atomically(self.path) as unfinished:
            unfinished.write_text(text.getvalue(), encoding="utf-8")


class TerminateOnNaN(Callback):
    """Ends the training when the loss is no number any more."""

    def on_step_end(self, step: Step, figures: Figures) -> None:
        if not np.isfinite(step.loss):
            self.model.stop_training = True


class LambdaCallback(Callback):
    """Functions as a callback: `LambdaCallback(on_epoch_end=lambda epoch, figures: …)`."""

    def __init__(self, **functions: Callable[..., Any]) -> None:
        for name, function in functions.items():
            if not name.startswith("on_") or not hasattr(Callback, name):
                known = ", ".join(sorted(name for name in vars(Callback) if name.startswith("on_")))
                raise TypeError(f"a callback has no {name!r}; it has {known}")
            setattr(self, name, function)
