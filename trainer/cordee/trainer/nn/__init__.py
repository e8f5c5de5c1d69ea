"""Modules, layers, losses, and how they start: the names and the behaviour of `torch.nn`."""

from cordee.trainer.nn import functional, init
from cordee.trainer.nn.activation import (
    ELU,
    GELU,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from cordee.trainer.nn.container import ModuleDict, ModuleList, ParameterDict, ParameterList, Sequential
from cordee.trainer.nn.convolution import Conv2d
from cordee.trainer.nn.dropout import Dropout
from cordee.trainer.nn.embedding import Embedding
from cordee.trainer.nn.flatten import Flatten, Unflatten
from cordee.trainer.nn.linear import Identity, Linear
from cordee.trainer.nn.loss import BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss, NLLLoss
from cordee.trainer.nn.module import Module
from cordee.trainer.nn.normalization import LayerNorm
from cordee.trainer.nn.parameter import Parameter
from cordee.trainer.nn.pooling import AvgPool2d, MaxPool2d
from cordee.trainer.nn.summary import summary

__all__ = [
    "ELU",
    "GELU",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "Conv2d",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "Flatten",
    "Identity",
    "L1Loss",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "ModuleDict",
    "ModuleList",
    "NLLLoss",
    "Parameter",
    "ParameterDict",
    "ParameterList",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "Unflatten",
    "functional",
    "init",
    "summary",
]
