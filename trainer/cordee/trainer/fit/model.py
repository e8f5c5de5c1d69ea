"""`Model`: a module with an optimiser, a loss and metrics, and the loop that trains it.

    model = fit.Model(net).compile("adamw", "cross_entropy", ["accuracy"])
    history = model.fit(x, y, epochs=10, validation_split=0.1)

The loop is an elastic one. Under plain `python` it trains alone; under `cordee run` or `cordee submit` the workers of
the job share every batch, and the weights, the history and what the callbacks decide are the same, bit for bit. The
history and the callbacks' memories travel with the training: to workers that join, and through checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cordee.trainer.array import Array, is_float, to_numpy
from cordee.trainer.autograd.mode import no_grad
from cordee.trainer.data import Batch, DataLoader
from cordee.trainer.elastic.header import exact_sum
from cordee.trainer.fit.callbacks import Callback
from cordee.trainer.fit.history import History
from cordee.trainer.fit.inputs import as_loader, split_off
from cordee.trainer.fit.memory import Memory
from cordee.trainer.fit.metrics import LOSSES, OPTIMIZERS, Metric, by_name, named_metrics
from cordee.trainer.fit.progress import ProgressBar
from cordee.trainer.ops import cat
from cordee.trainer.tensors import Tensor

if TYPE_CHECKING:
    from cordee.trainer.elastic import Run, Step
    from cordee.trainer.nn import Module
    from cordee.trainer.optim import Optimizer

__all__ = ["Model"]


class Model:
    """Trains, evaluates and applies a module.

    Attributes:
        net: the module.
        optimizer: what `compile` made or was given.
        history: of the last call of `fit`.
        stop_training: a callback sets it to end the training after the step or epoch at hand.
        leads: whether this worker is the one that writes files and shows progress.
    """

    optimizer: Optimizer

    def __init__(self, net: Module) -> None:
        self.net = net
        self.history = History()
        self.stop_training = False
        self.epochs = 0  # all that were asked for so far: what a joiner knows too, unlike where the others were
        self.steps_per_epoch = 0
        self._loss: Callable[[Any, Any], Tensor] | None = None
        self._metrics: dict[str, Metric] = {}
        self._clip_norm: float | None = None
        self._clip_value: float | None = None
        self._run: Run | None = None
        self._source: tuple[Any, ...] = ()
        self._memory = Memory(self)

    def compile(
        self,
        optimizer: str | Optimizer | Callable[..., Optimizer] = "adam",
        loss: str | Callable[[Any, Any], Tensor] = "cross_entropy",
        metrics: Sequence[str | Metric] | dict[str, Metric] = (),
        *,
        lr: float | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> Model:
        """Choose how to train.

        Args:
            optimizer: a name ("adam", "adamw", "sgd", …), an optimiser over the module's parameters, or a function
                that makes one of them, such as a class.
            loss: a name ("cross_entropy", "mse", …), or `loss(output, target)` that returns the mean over samples.
            metrics: names ("accuracy", …) or functions `metric(output, target)` that return means over samples.
            lr: the learning rate, where the optimiser is given by name or function.
            clip_norm, clip_value: clip the whole batch's gradient, by its norm or its numbers' sizes.

        Returns this model.

        Raises:
            ValueError: an unknown name; it lists those there are.
        """
        make = by_name(OPTIMIZERS, optimizer, "optimizer")
        if hasattr(make, "param_groups"):
            if lr is not None:
                raise ValueError("lr is for optimizers given by name or class; this one has its own")
            self.optimizer = make
        else:
            self.optimizer = make(self.net.parameters(), **({} if lr is None else {"lr": lr}))
        self._loss = by_name(LOSSES, loss, "loss")
        self._metrics = named_metrics(metrics)
        self._run = None
        self._clip_norm, self._clip_value = clip_norm, clip_value
        return self

    @property
    def run(self) -> Run | None:
        """The elastic run of the last `fit`; None before."""
        return self._run

    @property
    def leads(self) -> bool:
        return self._run is None or self._run.rank == 0

    # -- training ------------------------------------------------------------------------------------------------------

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int = 32,
        epochs: int = 1,
        shuffle: bool = True,
        validation_data: Any = None,
        validation_split: float = 0.0,
        callbacks: Sequence[Callback] = (),
        verbose: int | str = "auto",
        shards: int = 8,
        seed: int = 0,
    ) -> History:
        """Train for a number of epochs; called again with the same data, for as many more.

        Args:
            x: inputs: an array or tensor with samples along the first axis, or a tuple of them for a module of several
                inputs; or a dataset or `DataLoader` that gives inputs and targets.
            y: targets, with arrays.
            batch_size: samples per step, over all workers.
            validation_data: `(x, y)`, a dataset or a loader, evaluated after every epoch.
            validation_split: instead, the last part of the data, as a fraction; it is not trained on.
            callbacks: `fit.EarlyStopping` and others, or your own.
            verbose: 0: nothing; 1: a bar; 2: a line per epoch; "auto": a bar on a terminal.
            shards: how many parts a batch has, and so the most workers that can share it.
            seed: of the order of samples.

        Returns what happened: `history.history["loss"]`, `["val_accuracy"]` and so on, by epoch.

        Raises:
            RuntimeError: the model was not compiled.
            ValueError: the data do not go together.
        """
        loss = self._compiled()
        if not hasattr(self, "optimizer"):
            raise RuntimeError("this model was unpickled, without its optimizer: call compile() again to train it")
        if validation_split and validation_data is not None:
            raise ValueError("give either validation_data or validation_split")
        source = (id(x), id(y), batch_size, shuffle, validation_split, shards, seed)
        if validation_split:
            x, y, validation_data = split_off(x, y, validation_split)
        if self._run is None or self._source != source:
            self._begin(as_loader(x, y, batch_size=batch_size, shuffle=shuffle, shards=shards, seed=seed), source)
        run = self._run
        assert run is not None
        validation = None if validation_data is None else _validation(validation_data, batch_size)
        bar = [ProgressBar(verbose)] if verbose in (1, 2, "auto") else []
        if verbose not in (0, 1, 2, "auto"):
            raise ValueError(f"verbose is 0, 1, 2 or 'auto', not {verbose!r}")
        for callback in (*callbacks, *bar):
            callback.model = self
        self._memory.begin([*callbacks, *bar])
        self.epochs += epochs
        self._call("on_train_begin")
        figures: dict[str, float] = {}
        self.net.train()
        for step in run.steps(epochs=self.epochs):
            if step.index == 0:  # also when it is done again: what a lost step did to learning rates was undone
                self._memory.sums.clear()
                self._call("on_epoch_begin", step.epoch)
            self._train(step, loss)
            if not step.committed:
                continue
            figures = self._memory.add(step)
            self._call("on_step_end", step, figures)
            if step.epoch_end or self.stop_training:
                if validation is not None:
                    values = self.evaluate(validation, verbose=0)
                    figures |= {f"val_{name}": value for name, value in values.items()}
                self._call("on_epoch_end", step.epoch, figures)
                self.history.append(step.epoch, figures)
                run.report(**{name: value for name, value in figures.items() if name != "loss"})
            if self.stop_training:
                break
        if not run.behind:  # this worker has trained, or could have
            self._call("on_train_end", figures or self.history.last())
        self._memory.end()
        self.net.eval()
        return self.history

    def _compiled(self) -> Callable[[Any, Any], Tensor]:
        if self._loss is None:
            raise RuntimeError("call compile(optimizer, loss, metrics) before")
        return self._loss

    def _begin(self, loader: DataLoader, source: tuple[Any, ...]) -> None:
        from cordee.trainer.elastic import Run

        self.steps_per_epoch, self.epochs = len(loader), 0
        self._run, self._source = Run(self.net, self.optimizer, loader), source

    def _train(self, step: Step, loss: Callable[[Any, Any], Tensor]) -> None:
        for batch in step.shards:
            inputs, target = self._fields(batch)
            output = self.net(*inputs)
            step.backward(loss(output, target))
            if self._metrics:
                with no_grad():
                    seen = output.detach() if isinstance(output, Tensor) else output
                    step.measure(**{name: metric(seen, target) for name, metric in self._metrics.items()})
        if self._clip_value is not None:
            step.clip_grad_value_(self._clip_value)
        if self._clip_norm is not None:
            step.clip_grad_norm_(self._clip_norm)
        step.commit()

    def _fields(self, batch: Batch) -> tuple[list[Any], Any]:
        """Inputs and targets, floating ones in the dtype of the module's parameters."""
        dtype = next((p.dtype for p in self.net.parameters()), None)

        def cast(value: Any) -> Any:
            differs = isinstance(value, Tensor) and dtype is not None and value.dtype != dtype
            return value.to(dtype) if differs and is_float(value.dtype) else value

        *inputs, target = batch.fields if len(batch.fields) > 1 else (*batch.fields, None)
        return [cast(value) for value in inputs], cast(target)

    def _call(self, name: str, *args: Any) -> None:
        for callback in self._memory.callbacks:
            getattr(callback, name)(*args)

    # -- using ---------------------------------------------------------------------------------------------------------

    def evaluate(self, x: Any, y: Any = None, *, batch_size: int = 256, verbose: int | str = 0) -> dict[str, float]:
        """The loss and the metrics over data: means over samples.

        In a job every worker computes all of it, so all know the same figures.
        """
        loss = self._compiled()
        sums: dict[str, list[float]] = {}
        count = 0
        training = self.net.training
        self.net.eval()
        with no_grad():
            for batch in as_loader(x, y, batch_size=batch_size):
                inputs, target = self._fields(batch)
                output = self.net(*inputs)
                values = {"loss": float(loss(output, target).item())}
                values |= {name: float(metric(output, target)) for name, metric in self._metrics.items()}
                for name, value in values.items():
                    sums.setdefault(name, []).append(value * len(batch))
                count += len(batch)
        self.net.train(training)
        figures = {name: exact_sum(values) / count for name, values in sums.items()}
        if verbose:
            print("  ".join(f"{name} {value:.4f}" for name, value in figures.items()))  # noqa: T201 (asked for)
        return figures

    def predict(self, x: Any, *, batch_size: int = 256) -> Array:
        """The module's outputs for inputs, as one NumPy array with samples along the first axis."""
        training = self.net.training
        self.net.eval()
        parts = []
        with no_grad():
            for batch in as_loader(x, None, batch_size=batch_size):
                inputs, target = self._fields(batch)
                if target is not None and not isinstance(x, tuple):
                    output = self.net(*inputs)
                else:
                    output = self.net(*inputs, *([] if target is None else [target]))
                parts.append(output)
        self.net.train(training)
        if not parts:
            raise ValueError("predict: there are no samples")
        return to_numpy(cat(parts).data)

    def summary(self) -> Any:
        """The module's layers and sizes."""
        return self.net.summary()

    # -- files ---------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write the weights to a safetensors file, whole or not at all; returns its path."""
        from cordee.trainer.interop import save_safetensors

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_safetensors(self.net.state_dict(), path)
        return path

    def load(self, path: str | Path) -> Model:
        """Take over weights from a safetensors or PyTorch file; returns this model.

        Raises:
            ValueError: they do not fit; it lists everything that is missing, unexpected or of another shape.
        """
        from cordee.trainer.interop import load

        self.net.load_state_dict(load(path))
        return self

    def __getstate__(self) -> dict[str, Any]:
        """What pickling keeps: the module, the loss, the metrics and the history. Not the training: `compile` again."""
        kept = vars(self).copy()
        for name in ("optimizer", "_run", "_source", "_memory"):
            kept.pop(name, None)
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._run, self._source, self._memory = None, (), Memory(self)

    def __repr__(self) -> str:
        how = type(self.optimizer).__name__ if hasattr(self, "optimizer") else "not compiled"
        return f"Model({type(self.net).__name__}, {how})"


def _validation(data: Any, batch_size: int) -> DataLoader:
    x, y = data if isinstance(data, (tuple, list)) and len(data) == 2 else (data, None)
    return as_loader(x, y, batch_size=batch_size)
