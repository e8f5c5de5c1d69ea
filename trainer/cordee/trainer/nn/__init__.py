"""Modules, layers, losses, and how they start."""

from cordee.trainer.nn.container import ModuleDict, ModuleList, Sequential
from cordee.trainer.nn.module import Module
from cordee.trainer.nn.parameter import Parameter

__all__ = ["Module", "ModuleDict", "ModuleList", "Parameter", "Sequential"]
