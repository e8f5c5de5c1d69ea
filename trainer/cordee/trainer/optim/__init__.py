"""Optimisers over flat storage, schedules of their options, and averages of what they have trained."""

from cordee.trainer.optim import lr_scheduler, swa_utils
from cordee.trainer.optim.adadelta import Adadelta
from cordee.trainer.optim.adafactor import Adafactor
from cordee.trainer.optim.adagrad import Adagrad
from cordee.trainer.optim.adam import Adam, AdamW
from cordee.trainer.optim.adamax import Adamax
from cordee.trainer.optim.asgd import ASGD
from cordee.trainer.optim.flat import FlatGroup
from cordee.trainer.optim.lamb import LAMB
from cordee.trainer.optim.lbfgs import LBFGS
from cordee.trainer.optim.lion import Lion
from cordee.trainer.optim.muon import Muon
from cordee.trainer.optim.nadam import NAdam
from cordee.trainer.optim.optimizer import Optimizer
from cordee.trainer.optim.radam import RAdam
from cordee.trainer.optim.rmsprop import RMSprop
from cordee.trainer.optim.rprop import Rprop
from cordee.trainer.optim.saved import from_torch_state
from cordee.trainer.optim.sgd import SGD

__all__ = [
    "ASGD",
    "LAMB",
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "FlatGroup",
    "Lion",
    "Muon",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "from_torch_state",
    "lr_scheduler",
    "swa_utils",
]
