"""Optimisers over flat storage."""

from cordee.trainer.optim.adam import Adam, AdamW
from cordee.trainer.optim.flat import FlatGroup
from cordee.trainer.optim.optimizer import Optimizer
from cordee.trainer.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "FlatGroup", "Optimizer"]
