"""Keras' comfort: `Model(net).compile(...).fit(x, y)`. Elastic under `cordee run`, with the same bits."""

from cordee.trainer.fit.callbacks import (
    Callback,
    CSVLogger,
    EarlyStopping,
    LambdaCallback,
    LearningRate,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TerminateOnNaN,
)
from cordee.trainer.fit.history import History
from cordee.trainer.fit.metrics import METRICS
from cordee.trainer.fit.model import Model
from cordee.trainer.fit.progress import ProgressBar

__all__ = [
    "METRICS",
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRate",
    "Model",
    "ModelCheckpoint",
    "ProgressBar",
    "ReduceLROnPlateau",
    "TerminateOnNaN",
]
