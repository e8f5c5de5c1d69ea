"""Helpers around modules: clipping of gradients, parameters as one vector, parametrisations, packed sequences."""

from cordee.trainer.nn.utils import parametrizations, parametrize, rnn
from cordee.trainer.nn.utils.clip import (
    clip_grad_norm_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_total_norm,
)
from cordee.trainer.nn.utils.vector import parameters_to_vector, vector_to_parameters

__all__ = [
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "get_total_norm",
    "parameters_to_vector",
    "parametrizations",
    "parametrize",
    "rnn",
    "vector_to_parameters",
]
