"""Schedules: what changes an optimiser's options from step to step. PyTorch's, a warm-up, and warm-up-stable-decay."""

from cordee.trainer.optim.lr_scheduler.base import LRScheduler
from cordee.trainer.optim.lr_scheduler.composed import ChainedScheduler, SequentialLR, WarmupStableDecayLR, warmup
from cordee.trainer.optim.lr_scheduler.cosine import CosineAnnealingLR, CosineAnnealingWarmRestarts
from cordee.trainer.optim.lr_scheduler.cyclic import CyclicLR, OneCycleLR
from cordee.trainer.optim.lr_scheduler.factors import (
    ConstantLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)
from cordee.trainer.optim.lr_scheduler.plateau import ReduceLROnPlateau

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
    "WarmupStableDecayLR",
    "warmup",
]
