"""Automatic differentiation: the op record, the tape, the backward walk, and what a user calls of it."""

from cordee.trainer.autograd import functional
from cordee.trainer.autograd.anomaly import AnomalyError, detect_anomaly, is_anomaly_enabled, set_detect_anomaly
from cordee.trainer.autograd.backward import backward, grad
from cordee.trainer.autograd.draw import draw_graph, graph_svg, graph_text
from cordee.trainer.autograd.function import Context, Function, once_differentiable
from cordee.trainer.autograd.gradcheck import GradcheckError, gradcheck, gradgradcheck
from cordee.trainer.autograd.graph import Node
from cordee.trainer.autograd.mode import enable_grad, inference_mode, is_grad_enabled, no_grad, set_grad_enabled
from cordee.trainer.autograd.recompute import checkpoint, checkpoint_sequential
from cordee.trainer.autograd.saved import save_on_disk, saved_tensors_hooks

__all__ = [
    "AnomalyError",
    "Context",
    "Function",
    "GradcheckError",
    "Node",
    "backward",
    "checkpoint",
    "checkpoint_sequential",
    "detect_anomaly",
    "draw_graph",
    "enable_grad",
    "functional",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "graph_svg",
    "graph_text",
    "inference_mode",
    "is_anomaly_enabled",
    "is_grad_enabled",
    "no_grad",
    "once_differentiable",
    "save_on_disk",
    "saved_tensors_hooks",
    "set_detect_anomaly",
    "set_grad_enabled",
]
