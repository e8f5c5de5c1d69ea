"""Networks as scikit-learn estimators: `Classifier` and `Regressor`, for pipelines, grid searches and cross-validation.

    from cordee.trainer.estimators import Classifier
    cross_val_score(make_pipeline(StandardScaler(), Classifier(hidden=(64,))), x, y)

They need scikit-learn (`pip install 'cordee[sklearn]'`). The network is a plain one of linear layers unless you give
a function that makes one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cordee.trainer import nn, random
from cordee.trainer.fit.callbacks import Callback, EarlyStopping
from cordee.trainer.fit.model import Model
from cordee.trainer.ops import softmax
from cordee.trainer.tensors import Tensor

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:  # pragma: no cover
    raise ImportError("cordee.trainer.estimators needs scikit-learn: pip install 'cordee[sklearn]'") from error

__all__ = ["Classifier", "Regressor"]

MakeNet = Callable[[int, int], nn.Module]


class _Network(BaseEstimator):  # type: ignore[misc]
    """What both estimators share: making a network and training it."""

    def __init__(
        self,
        net: MakeNet | None = None,
        *,
        hidden: Sequence[int] = (100,),
        optimizer: Any = "adamw",
        lr: float | None = 1e-2,
        batch_size: int = 32,
        epochs: int = 100,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        patience: int = 10,
        callbacks: Sequence[Callback] = (),
        random_state: Any = 0,
        verbose: int = 0,
    ) -> None:
        self.net = net
        self.hidden = hidden
        self.optimizer = optimizer
        self.lr = lr
        self.batch_size = batch_size
        self.epochs = epochs
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.callbacks = callbacks
        self.random_state = random_state
        self.verbose = verbose

    def _train(self, x: Any, y: Any, num_outputs: int, loss: str) -> None:
        """Make a network, train it, and leave it in `model_`."""
        seed = self._seed()
        before = random.get_state()
        random.seed(seed)
        try:
            make = self.net or self._plain
            self.model_ = Model(make(x.shape[1], num_outputs)).compile(self.optimizer, loss, lr=self.lr)
            stopping = EarlyStopping(patience=self.patience, restore_best_weights=True) if self.early_stopping else None
            history = self.model_.fit(
                x,
                y,
                batch_size=min(self.batch_size, len(x)),
                epochs=self.epochs,
                validation_split=self.validation_fraction if stopping else 0.0,
                callbacks=[*self.callbacks, *([stopping] if stopping else [])],
                verbose=self.verbose,
                seed=seed,
            )
        finally:
            random.set_state(before)
        self.history_ = history
        self.loss_curve_ = history.history["loss"]
        self.n_iter_ = len(history)

    def _seed(self) -> int:
        if self.random_state is None:
            return int(np.random.default_rng().integers(2**31))
        if isinstance(self.random_state, (int, np.integer)):
            return int(self.random_state)
        return int(self.random_state.randint(2**31))

    def _plain(self, num_inputs: int, num_outputs: int) -> nn.Module:
        layers: list[nn.Module] = []
        for width in self.hidden:
            layers += [nn.Linear(num_inputs, width), nn.ReLU()]
            num_inputs = width
        return nn.Sequential(*layers, nn.Linear(num_inputs, num_outputs))

    def _outputs(self, x: Any) -> Any:
        check_is_fitted(self)
        return self.model_.predict(validate_data(self, x, reset=False, dtype=np.float32))


class Classifier(ClassifierMixin, _Network):  # type: ignore[misc]
    """A network that tells classes apart, with softmax and cross-entropy.

    Args:
        net: `net(num_features, num_outputs)` returns a module that makes logits; None: linear layers with ReLU.
        hidden: the widths of the hidden layers of the plain network.
        optimizer, lr: as `fit.Model.compile` takes them.
        batch_size, epochs: as `fit.Model.fit` takes them.
        early_stopping: hold out `validation_fraction` (the last part: shuffle before), stop when its loss has not got
            better for `patience` epochs, and keep the best weights.
        callbacks: more of `cordee.trainer.fit`'s callbacks.
        random_state: the seed of weights, order and dropout; a `RandomState` draws one; None: another every time.
        verbose: 0: nothing; 1: a bar; 2: a line per epoch.

    Attributes:
        model_: the `fit.Model`.
        history_, loss_curve_, n_iter_: figures by epoch, the training loss, the number of epochs.
        classes_: the classes' labels.
    """

    def fit(self, X: Any, y: Any) -> Classifier:
        """Train on `X (N, num_features)` with labels `y (N,)`."""
        X, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("Classifier needs samples of at least two classes; these are all of one class")
        self._train(X, numbers.astype(np.int64), len(self.classes_), "cross_entropy")
        return self

    def predict_proba(self, X: Any) -> Any:
        """Probabilities `(N, num_classes)`, in the order of `classes_`."""
        logits = self._outputs(X)
        return softmax(Tensor(logits.astype(np.float64)), 1).numpy()

    def predict(self, X: Any) -> Any:
        """The most probable labels."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]


class Regressor(RegressorMixin, _Network):  # type: ignore[misc]
    """A network that predicts numbers, with the mean squared error. Its parameters are `Classifier`'s.

    Targets are scaled to mean 0 and deviation 1 for the training, and predictions back.
    """

    def fit(self, X: Any, y: Any) -> Regressor:
        """Train on `X (N, num_features)` with targets `y (N,)` or `(N, num_targets)`."""
        X, y = validate_data(self, X, y, dtype=np.float32, multi_output=True, y_numeric=True)
        y = np.asarray(y, np.float64)
        self._flat = y.ndim == 1
        targets = y.reshape(len(y), -1)
        self._mean, deviation = targets.mean(0), targets.std(0)
        self._scale = np.where(deviation > 0, deviation, 1.0)
        scaled = ((targets - self._mean) / self._scale).astype(np.float32)
        self._train(X, scaled, targets.shape[1], "mse")
        return self

    def predict(self, X: Any) -> Any:
        """Predictions, shaped as the targets were."""
        values = self._outputs(X).astype(np.float64) * self._scale + self._mean
        return values[:, 0] if self._flat else values

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
