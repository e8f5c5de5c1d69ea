"""Every operation on tensors, by family: each declared once, with its forward and its gradient side by side."""

from types import ModuleType

from cordee.trainer.ops import (
    activation,
    arithmetic,
    arranging,
    attention,
    choosing,
    company,
    compare,
    complex_numbers,
    contraction,
    convolution,
    creation,
    distances,
    dropping,
    dtypes,
    embeddings,
    exponential,
    extremes,
    fft,
    fillers,
    folding,
    grid,
    indexing,
    inplace,
    interpolation,
    linalg,
    linear_maps,
    loss,
    loss_ctc,
    loss_margin,
    loss_pairs,
    methods,
    normalization,
    normalization_batch,
    normalization_group,
    padding,
    pooling,
    pooling_mean,
    pooling_places,
    products,
    rectifiers,
    recurrent,
    reduction,
    repetition,
    replacing,
    rounding,
    sampling,
    scan,
    scattering,
    shape,
    short_time,
    softmaxes,
    sorting,
    special_functions,
    statistics,
    strided,
    trigonometry,
)
from cordee.trainer.ops.activation import *
from cordee.trainer.ops.arithmetic import *
from cordee.trainer.ops.arranging import *
from cordee.trainer.ops.attention import *
from cordee.trainer.ops.choosing import *
from cordee.trainer.ops.company import *
from cordee.trainer.ops.compare import *
from cordee.trainer.ops.complex_numbers import *
from cordee.trainer.ops.contraction import *
from cordee.trainer.ops.convolution import *
from cordee.trainer.ops.creation import *
from cordee.trainer.ops.distances import *
from cordee.trainer.ops.dropping import *
from cordee.trainer.ops.dtypes import *
from cordee.trainer.ops.embeddings import *
from cordee.trainer.ops.exponential import *
from cordee.trainer.ops.extremes import *
from cordee.trainer.ops.folding import *
from cordee.trainer.ops.grid import *
from cordee.trainer.ops.indexing import *
from cordee.trainer.ops.inplace import *
from cordee.trainer.ops.interpolation import *
from cordee.trainer.ops.linalg import *
from cordee.trainer.ops.linalg import aliases as linalg_aliases
from cordee.trainer.ops.linear_maps import *
from cordee.trainer.ops.loss import *
from cordee.trainer.ops.loss_ctc import *
from cordee.trainer.ops.loss_margin import *
from cordee.trainer.ops.loss_pairs import *
from cordee.trainer.ops.normalization import *
from cordee.trainer.ops.normalization_batch import *
from cordee.trainer.ops.normalization_group import *
from cordee.trainer.ops.padding import *
from cordee.trainer.ops.pooling import *
from cordee.trainer.ops.pooling_mean import *
from cordee.trainer.ops.pooling_places import *
from cordee.trainer.ops.products import *
from cordee.trainer.ops.rectifiers import *
from cordee.trainer.ops.reduction import *
from cordee.trainer.ops.repetition import *
from cordee.trainer.ops.replacing import *
from cordee.trainer.ops.rounding import *
from cordee.trainer.ops.sampling import *
from cordee.trainer.ops.scan import *
from cordee.trainer.ops.scattering import *
from cordee.trainer.ops.shape import *
from cordee.trainer.ops.short_time import *
from cordee.trainer.ops.softmaxes import *
from cordee.trainer.ops.sorting import *
from cordee.trainer.ops.special_functions import *
from cordee.trainer.ops.statistics import *
from cordee.trainer.ops.strided import *
from cordee.trainer.ops.trigonometry import *

__all__: list[str] = []
__all__ += activation.__all__
__all__ += arranging.__all__
__all__ += attention.__all__
__all__ += company.__all__
__all__ += compare.__all__
__all__ += complex_numbers.__all__
__all__ += contraction.__all__
__all__ += convolution.__all__
__all__ += creation.__all__
__all__ += distances.__all__
__all__ += dropping.__all__
__all__ += dtypes.__all__
__all__ += arithmetic.__all__
__all__ += choosing.__all__
__all__ += exponential.__all__
__all__ += replacing.__all__
__all__ += rounding.__all__
__all__ += trigonometry.__all__
__all__ += embeddings.__all__
__all__ += folding.__all__
__all__ += grid.__all__
__all__ += indexing.__all__
__all__ += inplace.__all__
__all__ += interpolation.__all__
__all__ += linalg.__all__
__all__ += linear_maps.__all__
__all__ += loss.__all__
__all__ += loss_ctc.__all__
__all__ += loss_margin.__all__
__all__ += loss_pairs.__all__
__all__ += normalization.__all__
__all__ += normalization_batch.__all__
__all__ += normalization_group.__all__
__all__ += padding.__all__
__all__ += pooling.__all__
__all__ += pooling_mean.__all__
__all__ += pooling_places.__all__
__all__ += products.__all__
__all__ += rectifiers.__all__
__all__ += extremes.__all__
__all__ += reduction.__all__
__all__ += sampling.__all__
__all__ += scan.__all__
__all__ += scattering.__all__
__all__ += repetition.__all__
__all__ += shape.__all__
__all__ += short_time.__all__
__all__ += softmaxes.__all__
__all__ += sorting.__all__
__all__ += special_functions.__all__
__all__ += statistics.__all__
__all__ += strided.__all__

FAMILIES: list[ModuleType] = [
    arranging, company, contraction, distances, embeddings, padding, scattering, strided,
    activation, attention, compare, complex_numbers, convolution, creation, fft, indexing, inplace, replacing,
    linalg_aliases, loss, normalization, pooling, products, recurrent, reduction, extremes, repetition, shape,
    short_time, arithmetic, choosing, dtypes, exponential, fillers, rectifiers, rounding, sampling, scan,
    softmaxes, sorting, special_functions, statistics, trigonometry,
]  # fmt: skip
"""The files that declare operations; each may name `METHODS` and `INPLACE` (see `methods.py`)."""

methods.attach(FAMILIES)
