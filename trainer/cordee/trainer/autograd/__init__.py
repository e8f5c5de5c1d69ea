"""Automatic differentiation: the op record, the tape, the backward walk, and what a user calls of it."""

from cordee.trainer.autograd.backward import backward, grad
from cordee.trainer.autograd.function import Context, Function
from cordee.trainer.autograd.gradcheck import GradcheckError, gradcheck, gradgradcheck
from cordee.trainer.autograd.graph import Node
from cordee.trainer.autograd.mode import enable_grad, is_grad_enabled, no_grad, set_grad_enabled

__all__ = [
    "Context",
    "Function",
    "GradcheckError",
    "Node",
    "backward",
    "enable_grad",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "is_grad_enabled",
    "no_grad",
    "set_grad_enabled",
]
