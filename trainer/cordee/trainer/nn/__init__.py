"""Modules, layers, losses, and how they start: the names and the behaviour of `torch.nn`."""

from cordee.trainer.nn import (
    activation,
    attention,
    container,
    convolution,
    dropout,
    embedding,
    flatten,
    functional,
    init,
    loss,
    normalization,
    normalization_batch,
    padding,
    pooling,
    recurrent,
    transformer,
    utils,
    vision,
)
from cordee.trainer.nn.activation import *
from cordee.trainer.nn.adaptive import AdaptiveLogSoftmaxWithLoss
from cordee.trainer.nn.attention import *
from cordee.trainer.nn.container import *
from cordee.trainer.nn.convolution import *
from cordee.trainer.nn.distance import CosineSimilarity, PairwiseDistance
from cordee.trainer.nn.dropout import *
from cordee.trainer.nn.embedding import *
from cordee.trainer.nn.flatten import *
from cordee.trainer.nn.linear import Bilinear, Identity, LazyLinear, Linear
from cordee.trainer.nn.loss import *
from cordee.trainer.nn.module import Module
from cordee.trainer.nn.normalization import *
from cordee.trainer.nn.normalization_batch import *
from cordee.trainer.nn.padding import *
from cordee.trainer.nn.parameter import Buffer, Parameter
from cordee.trainer.nn.pooling import *
from cordee.trainer.nn.recurrent import *
from cordee.trainer.nn.summary import Summary, summary
from cordee.trainer.nn.transformer import *
from cordee.trainer.nn.vision import *

__all__ = [
    "AdaptiveLogSoftmaxWithLoss",
    "Bilinear",
    "Buffer",
    "CosineSimilarity",
    "Identity",
    "LazyLinear",
    "Linear",
    "Module",
    "PairwiseDistance",
    "Parameter",
    "Summary",
    "functional",
    "init",
    "summary",
    "utils",
]
__all__ += activation.__all__
__all__ += attention.__all__
__all__ += container.__all__
__all__ += convolution.__all__
__all__ += dropout.__all__
__all__ += embedding.__all__
__all__ += flatten.__all__
__all__ += loss.__all__
__all__ += normalization.__all__
__all__ += normalization_batch.__all__
__all__ += padding.__all__
__all__ += pooling.__all__
__all__ += recurrent.__all__
__all__ += transformer.__all__
__all__ += vision.__all__
