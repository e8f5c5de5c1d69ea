"""The names of `torch.special`: most are the package's functions under SciPy's names, some are here only."""

from __future__ import annotations

import math

from cordee.trainer.ops.activation import sigmoid as expit
from cordee.trainer.ops.choosing import where
from cordee.trainer.ops.exponential import exp2, expm1, log, log1p, logit, xlog1py, xlogy
from cordee.trainer.ops.reduction import logsumexp
from cordee.trainer.ops.rounding import round
from cordee.trainer.ops.softmaxes import log_softmax, softmax
from cordee.trainer.ops.special_functions import (
    digamma,
    erf,
    erfc,
    erfcx,
    erfinv,
    i0,
    i0e,
    i1,
    i1e,
    polygamma,
)
from cordee.trainer.ops.special_functions import lgamma as gammaln
from cordee.trainer.ops.special_functions import mvlgamma as multigammaln
from cordee.trainer.ops.trigonometry import sinc
from cordee.trainer.tensors import Tensor

__all__ = [
    "digamma", "entr", "erf", "erfc", "erfcx", "erfinv", "exp2", "expit", "expm1", "gammaln", "i0", "i0e", "i1", "i1e",
    "log1p", "log_ndtr", "log_softmax", "logit", "logsumexp", "multigammaln", "ndtr", "ndtri", "polygamma", "psi",
    "round", "sinc", "softmax", "xlog1py", "xlogy",
]  # fmt: skip

psi = digamma
_HALF = math.sqrt(0.5)


def entr(input: Tensor) -> Tensor:
    """-x · log(x); 0 at 0, -inf below."""
    return where(input < 0, -math.inf, -xlogy(input, input))  # type: ignore[no-any-return]


def ndtr(input: Tensor) -> Tensor:
    """Φ(x), the normal distribution's share below x."""
    return erfc(input * -_HALF) * 0.5


def log_ndtr(input: Tensor) -> Tensor:
    """log Φ(x), also where Φ(x) itself vanishes."""
    low = input < -1.0
    below, above = input.clamp(max=-1.0), input.clamp(min=-1.0)
    tail = log(erfcx(below * -_HALF) * 0.5) - below * below * 0.5
    return where(low, tail, log1p(erfc(above * _HALF) * -0.5))  # type: ignore[no-any-return]


def ndtri(input: Tensor) -> Tensor:
    """The x with Φ(x) = p: the inverse of `ndtr`. Below p = 1e-10 it loses digits, as 2p - 1 does."""
    return erfinv(input * 2.0 - 1.0) * math.sqrt(2.0)
