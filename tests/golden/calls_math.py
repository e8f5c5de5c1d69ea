"""Elementwise functions, activations, reductions, scans and statistics that read the same in PyTorch and here.

`L` is either library, `F` its `nn.functional`. A call takes floating tensors, drawn by `DRAWS`, and returns floating
tensors (one or a tuple). The first table is compared with its gradients; the second, of whole numbers and truth, by
values and dtypes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cordee.trainer.autograd.record import Sampler

__all__ = ["CALLS", "PLAIN", "Call", "inputs_of", "outputs_of", "weights"]


@dataclass(frozen=True)
class Call:
    """`call(L, F, *inputs)`; the inputs are drawn as their letters say, see `DRAWS`."""

    call: Callable[..., Any]
    draws: str = "n"
    twice: bool = True
    """Both have a second gradient."""
    rtol: float = 1e-9
    """In float64; PyTorch itself is less precise in a few."""


EDGES = np.array([-3.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 3.0, 6.0, 20.5])
WITH_NAN = np.array([[1.0, np.nan, 3.0, 2.0], [4.0, 0.5, 0.5, 2.5], [np.nan, 0.25, np.nan, np.nan]])
EQUAL = np.array([[1.0, 2.0, 2.0, 0.0], [0.0, 0.0, 3.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
ZEROS = np.array([[1.5, 0.0, 2.0, -1.0], [0.0, 3.0, 0.0, 2.0], [0.5, 2.0, -1.5, 3.0]])

DRAWS: dict[str, Callable[[Sampler], Any]] = {
    "n": lambda s: s.normal(3, 4),
    "v": lambda s: s.normal(4),
    "c": lambda s: s.normal(2, 3, 4),
    "0": lambda s: s.normal(),
    "p": lambda s: s.positive(3, 4),
    "q": lambda s: s.positive(4),
    "u": lambda s: s.unit(3, 4),
    "h": lambda s: s.unit(3, 4) * 0.5 + 0.5,
    "d": lambda s: s.distinct(3, 4),
    "w": lambda s: s.distinct(4) + 0.05,
    "l": lambda s: s.positive(3, 4) + 1.0,
    "s": lambda s: 6.0 * s.normal(3, 4),
    "E": lambda s: EDGES,
    "N": lambda s: WITH_NAN,
    "=": lambda s: EQUAL,
    "z": lambda s: ZEROS,
    "m": lambda s: s.normal(2, 6, 3),
}

INF = float("inf")

CALLS: dict[str, Call] = {
    # arithmetic
    "add, alpha": Call(lambda L, F, a, b: L.add(a, b, alpha=2.5) + a.sub(b, alpha=0.5), "nv"),
    "rsub": Call(lambda L, F, a, b: L.rsub(a, b, alpha=2), "nv"),
    "addcmul": Call(lambda L, F, a, b, c: L.addcmul(a, b, c, value=0.5), "nvn"),
    "addcdiv": Call(lambda L, F, a, b, c: a.addcdiv(b, c, value=0.5), "nvp"),
    "lerp": Call(lambda L, F, a, b: L.lerp(a, b, 0.3), "nv"),
    "lerp, tensor": Call(lambda L, F, a, b, w: a.lerp(b, w), "nvu"),
    "float_power": Call(lambda L, F, a: L.float_power(a, 2.5), "p"),
    "ldexp": Call(lambda L, F, a, b: L.ldexp(a, b), "nv"),
    "pow, number base": Call(lambda L, F, a: L.pow(2.0, a), "n"),
    "pow, negative base": Call(lambda L, F, a: a**3 + L.pow(a, 2), "E"),
    "pow, 0": Call(lambda L, F, a: L.pow(a, 0), "E"),
    "hypot": Call(lambda L, F, a, b: L.hypot(a, b), "pv"),
    "copysign": Call(lambda L, F, a, b: L.copysign(a, b), "dw", twice=False),
    "copysign, edges": Call(lambda L, F, a: L.copysign(a, -1.0), "E", twice=False),
    "div, modes": Call(lambda L, F, a: L.div(a, 0.7, rounding_mode="floor") + a * 1, "d", twice=False),
    "div, trunc": Call(lambda L, F, a, b: L.div(a, b, rounding_mode="trunc") + b, "dw", twice=False),
    "fmod": Call(lambda L, F, a, b: L.fmod(a, b), "dw", twice=False),
    "remainder": Call(lambda L, F, a, b: L.remainder(a, b), "dw", twice=False),
    "remainder, number": Call(lambda L, F, a: L.remainder(a, 0.75) + L.fmod(a, 0.75) + a % 0.5, "E", twice=False),
    "floor_divide": Call(lambda L, F, a: L.floor_divide(a.detach(), 0.75) + a, "d", twice=False),
    "rounding": Call(lambda L, F, a: a.floor() + a.ceil() + a.trunc() + a.round() + a, "E", twice=False),
    "round, decimals": Call(lambda L, F, a: L.round(a, decimals=1) + a.round(decimals=-1) + a, "n", twice=False),
    "frac": Call(lambda L, F, a: L.frac(a), "E", twice=False),
    "positive": Call(lambda L, F, a: L.positive(a) * 2, "n"),
    "sign": Call(lambda L, F, a: L.sgn(a) * a, "E", twice=False),
    "abs, edges": Call(lambda L, F, a: L.absolute(a), "E", twice=False),
    "clamp, edges": Call(lambda L, F, a: a.clamp(-1.0, 3.0), "E", twice=False),
    "clamp, one side, edges": Call(lambda L, F, a: a.clamp(min=-1.0) + L.clamp_max(a, 0.5), "E", twice=False),
    "clamp, tensors": Call(lambda L, F, a, b: L.clamp(a, b, b + 0.3), "dw", twice=False),
    "clamp, tensors, edges": Call(lambda L, F, a: L.clamp(a, a.detach() * 0 - 1, a.detach() * 0 + 3), "E", twice=False),
    "clamp, crossed": Call(lambda L, F, a: a.clamp(3.0, 1.0), "E", twice=False),
    "fmax": Call(lambda L, F, a, b: L.fmax(a, b) + L.fmin(b, a) * 2, "Nw", twice=False),
    "maximum, equal": Call(lambda L, F, a, b: L.maximum(a, b) + 2 * L.minimum(a, b), "==", twice=False),
    "nan_to_num": Call(lambda L, F, a: L.nan_to_num(a, 0.5, 2.0, -2.0), "N", twice=False),
    "where, number": Call(lambda L, F, a: L.where(a > 0.2, a, 0.5) + L.where(a < 0, 1.0, a), "d"),
    "heaviside": Call(lambda L, F, a: L.heaviside(a.detach(), L.tensor(0.5, dtype=a.dtype)) * a, "E", twice=False),
    # exponentials and logarithms
    "exp2": Call(lambda L, F, a: L.exp2(a), "n"),
    "log2, log10": Call(lambda L, F, a: L.log2(a) + L.log10(a), "p"),
    "logaddexp": Call(lambda L, F, a, b: L.logaddexp(a, b), "sv"),
    "logaddexp2": Call(lambda L, F, a, b: L.logaddexp2(a, b), "nv"),
    "logit": Call(lambda L, F, a: L.logit(a), "h"),
    "logit, eps": Call(lambda L, F, a: a.logit(0.3), "h", twice=False),
    "xlogy": Call(lambda L, F, a, b: L.xlogy(a, b), "nq"),
    "xlogy, zeros": Call(lambda L, F, a, b: L.xlogy(a, b), "zq", twice=False),
    "xlogy, numbers": Call(lambda L, F, a, b: L.xlogy(a, 2.0) + L.xlogy(2.0, b), "nq"),
    # trigonometry
    "tan": Call(lambda L, F, a: L.tan(a), "u"),
    "asin, acos": Call(lambda L, F, a: L.asin(a) + 2 * L.acos(a), "u"),
    "atan": Call(lambda L, F, a: L.atan(a) * L.arctan(a), "n"),
    "sinh, cosh": Call(lambda L, F, a: L.sinh(a) - 0.5 * L.cosh(a), "n"),
    "asinh": Call(lambda L, F, a: L.asinh(a), "n"),
    "acosh": Call(lambda L, F, a: L.acosh(a), "l"),
    "atanh": Call(lambda L, F, a: L.atanh(a), "u"),
    "atan2": Call(lambda L, F, a, b: L.atan2(a, b), "nv"),
    "degrees": Call(lambda L, F, a: L.deg2rad(a) + L.rad2deg(a), "n"),
    "sinc": Call(lambda L, F, a: L.sinc(a), "d"),
    "sinc, 0": Call(lambda L, F, a: L.sinc(a), "E", twice=False),
    # special functions
    "erf, erfc": Call(lambda L, F, a: L.erf(a) + 2 * L.erfc(a), "n"),
    "erfinv": Call(lambda L, F, a: L.erfinv(a), "u"),
    "lgamma": Call(lambda L, F, a: L.lgamma(a), "p"),
    "digamma": Call(lambda L, F, a: L.digamma(a), "p"),
    "polygamma": Call(lambda L, F, a: L.polygamma(1, a) + a.polygamma(2), "p", rtol=1e-6),
    "mvlgamma": Call(lambda L, F, a: L.mvlgamma(a, 2), "l"),
    "i0": Call(lambda L, F, a: L.i0(a), "n"),
    "erfcx": Call(lambda L, F, a: L.special.erfcx(a), "n"),
    "bessel functions": Call(lambda L, F, a: L.special.i1(a) + L.special.i0e(a) * L.special.i1e(a), "d"),
    "bessel functions, edges": Call(lambda L, F, a: L.special.i1(a) + L.special.i1e(a), "E", twice=False),
    "normal distribution": Call(lambda L, F, a: L.special.ndtr(a) + L.special.log_ndtr(a * 3), "s"),
    "ndtri": Call(lambda L, F, a: L.special.ndtri(a), "h"),
    "entr": Call(lambda L, F, a: L.special.entr(a), "p"),
    "xlog1py": Call(lambda L, F, a, b: L.special.xlog1py(a, b) + L.special.xlog1py(a, 0.5), "nq"),
    # activations
    "relu, edges": Call(lambda L, F, a: F.relu(a) + F.relu6(a), "E", twice=False),
    "leaky_relu, edges": Call(lambda L, F, a: F.leaky_relu(a, 0.2), "E", twice=False),
    "elu, edges": Call(lambda L, F, a: F.elu(a, 0.7), "E", twice=False),
    "elu": Call(lambda L, F, a: F.elu(a, 0.7), "d"),
    "selu": Call(lambda L, F, a: F.selu(a), "d"),
    "selu, edges": Call(lambda L, F, a: F.selu(a), "E", twice=False),
    "celu": Call(lambda L, F, a: F.celu(a, 1.5), "d"),
    "silu": Call(lambda L, F, a: F.silu(a), "s"),
    "mish": Call(lambda L, F, a: F.mish(a), "s"),
    "gelu": Call(lambda L, F, a: F.gelu(a) + F.gelu(a, approximate="tanh"), "s"),
    "hardtanh": Call(lambda L, F, a: F.hardtanh(a, -0.5, 3.0), "E", twice=False),
    "hardswish": Call(lambda L, F, a: F.hardswish(a), "s"),
    "hardswish, edges": Call(lambda L, F, a: F.hardswish(a), "E", twice=False),
    "hardsigmoid": Call(lambda L, F, a: F.hardsigmoid(a), "E", twice=False, rtol=1e-7),
    "hardshrink": Call(lambda L, F, a: F.hardshrink(a, 0.5), "E", twice=False),
    "softshrink": Call(lambda L, F, a: F.softshrink(a, 0.5), "E", twice=False),
    "tanhshrink": Call(lambda L, F, a: F.tanhshrink(a), "n"),
    "softplus": Call(lambda L, F, a: F.softplus(a, 2.0, 5.0), "n"),
    "softsign": Call(lambda L, F, a: F.softsign(a), "d"),
    "threshold": Call(lambda L, F, a: F.threshold(a, 0.5, 2.0), "E", twice=False),
    "rrelu, evaluation": Call(lambda L, F, a: F.rrelu(a, 0.1, 0.3), "d"),
    "prelu": Call(lambda L, F, a, w: F.prelu(a, w), "dv"),
    "prelu, one": Call(lambda L, F, a, w: F.prelu(a, w.reshape(1)), "c0"),
    "glu": Call(lambda L, F, a: F.glu(a, 1) * F.glu(a[:, :, :2], -1).sum(), "m"),
    "logsigmoid": Call(lambda L, F, a: F.logsigmoid(a), "s"),
    "softmin": Call(lambda L, F, a: F.softmin(a, 1), "s"),
    "softmax, dtype": Call(lambda L, F, a: F.softmax(a, 0, dtype=L.float64).to(a.dtype), "n"),
    "softmax, no dimensions": Call(lambda L, F, a: F.softmax(a, 0) + F.log_softmax(a, -1), "0", twice=False),
    # reductions
    "prod, zeros": Call(lambda L, F, a: a.prod(1), "z"),
    "prod, all": Call(lambda L, F, a: L.prod(a), "z"),
    "nansum": Call(lambda L, F, a: L.nansum(a, 1), "N", twice=False),
    "nanmean": Call(lambda L, F, a: L.nanmean(a, 0), "N", twice=False),
    "aminmax": Call(lambda L, F, a: (*L.aminmax(a), *L.aminmax(a, dim=1, keepdim=True)), "d"),
    "amax, equal": Call(lambda L, F, a: a.amax(1) + a.amin((0, 1)) + a.max(), "=", twice=False),
    "max, no dimensions": Call(lambda L, F, a: a.max(0).values + a.sum(-1) + a.amin(0), "0", twice=False),
    "max, another": Call(lambda L, F, a, b: L.max(a, b) + a.min(b), "dw"),
    "logsumexp": Call(lambda L, F, a: L.logsumexp(a, (0, 2)), "c"),
    "norms": Call(lambda L, F, a: L.norm(a) + a.norm(1) + a.norm(3.5) + a.norm(INF) + a.norm(-INF) + a.norm(0), "d"),
    "norm, dims": Call(lambda L, F, a: a.norm(2.5, 1, True) + a.norm("fro", (0, 2), keepdim=True), "c"),
    "norm, zeros": Call(lambda L, F, a: a.norm(3, 1) + a.norm(1.5, 1), "z", twice=False),
    "dist": Call(lambda L, F, a, b: L.dist(a, b) + L.dist(a, b, 3), "nv"),
    "var": Call(lambda L, F, a: a.var(1, correction=2) + L.var(a, 1, unbiased=False) + a.var(False), "c"),
    "std": Call(lambda L, F, a: L.std(a, (0, 2)) + a.std(1, keepdim=True).sum(), "c"),
    "std, equal": Call(lambda L, F, a: a.std(1), "=", twice=False),
    "var_mean": Call(lambda L, F, a: (*L.var_mean(a, 1), *L.std_mean(a, 0, keepdim=True)), "c"),
    "cov": Call(lambda L, F, a, w: L.cov(a) + L.cov(a, aweights=w.detach(), correction=0), "nq"),
    "cov, weights": Call(lambda L, F, a, w: L.cov(a, aweights=w.detach(), fweights=L.tensor([1, 2, 1, 3])), "nq"),
    "corrcoef": Call(lambda L, F, a: L.corrcoef(a) * 0.5, "n", twice=False),
    "median": Call(lambda L, F, a: a.median() + a.median(1).values, "d"),
    "median, equal": Call(lambda L, F, a: a.median() + a.median(0, keepdim=True).values.sum(), "=", twice=False),
    "nanmedian": Call(lambda L, F, a: a.nanmedian(1).values + a.nanmedian(), "N", twice=False),
    "mode": Call(lambda L, F, a: a.mode(1).values, "=", twice=False),
    "quantile": Call(lambda L, F, a: L.quantile(a, L.tensor([0.1, 0.6], dtype=a.dtype), 1), "d"),
    "quantile, all": Call(lambda L, F, a: a.quantile(0.37) + a.quantile(0.5, keepdim=True), "d"),
    "quantile, lower": Call(lambda L, F, a: a.quantile(0.4, 0, interpolation="lower"), "d"),
    "quantile, higher": Call(lambda L, F, a: a.quantile(0.4, 0, True, interpolation="higher"), "d"),
    "quantile, midpoint": Call(lambda L, F, a: a.quantile(0.4, 1, interpolation="midpoint"), "d"),
    "quantile, nearest": Call(lambda L, F, a: a.quantile(0.4, 1, interpolation="nearest"), "d"),
    "nanquantile": Call(lambda L, F, a: L.nanquantile(a, 0.3, 1), "N", twice=False),
    # scans
    "cumsum": Call(lambda L, F, a: a.cumsum(-1) * L.cumsum(a, 0), "c"),
    "cumsum, no dimensions": Call(lambda L, F, a: a.cumsum(0) + a.cumprod(0) + L.logcumsumexp(a, 0), "0"),
    "cumprod": Call(lambda L, F, a: L.cumprod(a, 1), "c"),
    "cumprod, zeros": Call(lambda L, F, a: L.cumprod(a, 1), "z"),
    "logcumsumexp": Call(lambda L, F, a: L.logcumsumexp(a, 1), "s", twice=False),
    "cummax": Call(lambda L, F, a: L.cummax(a, 1).values + L.cummin(a, 0).values, "d"),
    "cummax, equal": Call(lambda L, F, a: L.cummax(a, 1)[0] + L.cummin(a, 1)[0], "=", twice=False),
    "diff": Call(lambda L, F, a: L.diff(a, 2, 1), "n"),
    "diff, more": Call(lambda L, F, a, b: L.diff(a, prepend=b.reshape(1, 4).expand(3, 4)), "nv"),
    "trapezoid": Call(lambda L, F, a, x: L.trapezoid(a, dx=0.5) + L.trapezoid(a, x), "nv"),
    "cumulative_trapezoid": Call(lambda L, F, a: L.cumulative_trapezoid(a, dim=0), "n"),
    # order
    "sort": Call(lambda L, F, a: a.sort(1).values * L.sort(a, 0, True).values, "d"),
    "msort": Call(lambda L, F, a: L.msort(a), "d"),
    "topk": Call(lambda L, F, a: a.topk(2, 0, False).values + L.topk(a, 2, 0)[0], "d"),
    "kthvalue": Call(lambda L, F, a: a.kthvalue(2, 1).values + L.kthvalue(a, 3, 0, True)[0].sum(), "d"),
    "sort, no dimensions": Call(
        lambda L, F, a: a.sort().values + a.topk(1).values + a.kthvalue(1).values, "0", twice=False
    ),
    "meshgrid": Call(lambda L, F, a, b: L.stack(L.meshgrid(a, b[0], indexing="xy")), "vn"),
}  # fmt: skip

INTS = np.array([[3, 1, 2, 2], [0, -4, 7, 7], [5, 5, -1, 0]])
TRUTH = INTS > 1

PLAIN: dict[str, Callable[[Any, Any, Callable[[Any], Any]], Any]] = {
    # of whole numbers and truth: dtypes and values
    "int arithmetic": lambda L, F, t: (t(INTS) + 1, t(INTS) * 2.5, t(INTS) / 2, -t(INTS), t(INTS) ** 2, 2 - t(INTS)),
    "int division": lambda L, F, t: (
        t(INTS) // 3,
        t(INTS) % 3,
        L.fmod(t(INTS), 3),
        t(INTS) // -2.0,
        7 // (t(INTS) + 9),
    ),
    "int rounding": lambda L, F, t: (t(INTS).floor(), t(INTS).round(), L.div(t(INTS), 2, rounding_mode="trunc")),
    "int functions": lambda L, F, t: (
        t(INTS).exp(),
        t(INTS).sin(),
        L.sqrt(t(INTS) + 4),
        L.sigmoid(t(INTS)),
        L.atan2(t(INTS), t(INTS)),
    ),
    "small int functions": lambda L, F, t: (
        t(INTS.astype(np.int8)).sin(),
        t(INTS.astype(np.int16)).exp(),
        t(TRUTH).cos(),
    ),
    "int comparisons": lambda L, F, t: (
        t(INTS) > 1,
        t(INTS) == 2.0,
        L.ne(t(INTS), t(INTS[0])),
        L.less_equal(t(INTS), 2),
    ),
    "int sums": lambda L, F, t: (
        t(INTS).sum(),
        t(TRUTH).sum(1),
        t(INTS.astype(np.uint8)).sum(),
        t(INTS.astype(np.int32)).prod(0),
    ),
    "int scans": lambda L, F, t: (t(INTS).cumsum(0), t(TRUTH).cumsum(1), t(INTS.astype(np.int16)).cumprod(1)),
    "int extremes": lambda L, F, t: (
        t(INTS).max(),
        *t(INTS).max(1),
        *t(INTS).min(0, True),
        t(INTS).amax(0),
        t(TRUTH).amin(1),
    ),
    "argmax": lambda L, F, t: (
        t(EQUAL).argmax(),
        t(INTS).argmin(1, keepdim=True),
        t(WITH_NAN).argmax(1),
        L.argmin(t(EQUAL), 0),
    ),
    "truth": lambda L, F, t: (
        t(TRUTH).all(),
        t(TRUTH).any(1),
        t(INTS).all(0, True),
        t(EQUAL).any(),
        L.count_nonzero(t(INTS), 1),
    ),
    "logic": lambda L, F, t: (
        L.logical_and(t(INTS), t(TRUTH)),
        t(INTS).logical_not(),
        L.logical_xor(t(TRUTH), t(INTS)),
        ~t(TRUTH),
        t(TRUTH) ^ True,
    ),
    "bits": lambda L, F, t: (
        t(INTS) & 3,
        t(INTS) | 4,
        ~t(INTS),
        t(INTS) << 2,
        t(INTS) >> 1,
        L.bitwise_xor(t(INTS), t(INTS[0])),
    ),
    "gcd, lcm": lambda L, F, t: (L.gcd(t(INTS), t(INTS[2])), L.lcm(t(INTS), t(INTS[0]))),
    "kinds": lambda L, F, t: (
        t(WITH_NAN).isnan(),
        L.isfinite(t(WITH_NAN / 0)),
        L.isinf(t(WITH_NAN / 0)),
        L.isposinf(t(-EDGES / 0)),
        L.isneginf(t(-EDGES / 0)),
        L.signbit(t(EDGES)),
        L.signbit(t(INTS)),
        L.isreal(t(EDGES)),
        L.isfinite(t(INTS)),
    ),
    "isclose": lambda L, F, t: (
        L.isclose(t(EQUAL), t(EQUAL + 1e-6)),
        L.isclose(t(WITH_NAN), t(WITH_NAN), equal_nan=True),
    ),
    "nextafter": lambda L, F, t: (L.nextafter(t(EDGES), t(EDGES * 0)),),
    "sort, stable": lambda L, F, t: (
        *L.sort(t(EQUAL), dim=1, stable=True),
        *L.sort(t(EQUAL), dim=0, descending=True, stable=True),
    ),
    "sort, nan": lambda L, F, t: (
        *t(WITH_NAN).sort(dim=1, stable=True),
        t(WITH_NAN).argsort(dim=1, descending=True, stable=True),
    ),
    "sort, truth": lambda L, F, t: (
        *t(TRUTH).sort(dim=1, stable=True),
        *t(INTS.astype(np.uint8)).sort(dim=0, descending=True, stable=True),
    ),
    "argsort": lambda L, F, t: (
        L.argsort(t(EQUAL), dim=1, stable=True),
        t(EQUAL).argsort(dim=0, descending=True, stable=True),
    ),
    "cummax, indices": lambda L, F, t: (*L.cummax(t(EQUAL), 1), *L.cummin(t(WITH_NAN), 1), *L.cummax(t(INTS), 0)),
    "median, indices": lambda L, F, t: (*t(WITH_NAN).median(1), *t(INTS).median(0), t(INTS).median()),
    "mode, indices": lambda L, F, t: (*t(EQUAL).mode(1), *t(INTS).mode(1, True)),
    "unique": lambda L, F, t: (L.unique(t(EQUAL)), *L.unique(t(INTS), return_inverse=True, return_counts=True)),
    "unique, dim": lambda L, F, t: L.unique(
        t(np.array([[1, 2], [0, 5], [1, 2]])), return_inverse=True, return_counts=True, dim=0
    ),
    "unique_consecutive": lambda L, F, t: (
        *L.unique_consecutive(t(INTS), return_inverse=True, return_counts=True),
        L.unique_consecutive(t(np.array([[1, 1, 2], [3, 3, 4]])), dim=1),
    ),
    "searchsorted": lambda L, F, t: (
        L.searchsorted(t(np.arange(5.0)), t(EQUAL)),
        L.searchsorted(t(np.sort(EQUAL, 1)), t(EQUAL), right=True),
        L.bucketize(t(INTS), t(np.array([0, 2, 5])), out_int32=True),
    ),
    "isin": lambda L, F, t: (L.isin(t(INTS), t(np.array([2, 7]))), L.isin(t(INTS), 5, invert=True)),
    "bincount": lambda L, F, t: (
        L.bincount(t(np.array([1, 3, 1]))),
        L.bincount(t(np.array([1, 0, 1])), t(np.array([0.5, 1.0, 2.0])), minlength=4),
    ),
    "histc": lambda L, F, t: (L.histc(t(EDGES), 5), L.histc(t(EDGES), bins=4, min=-1, max=3), L.histc(t(EQUAL), 3)),
    "histogram": lambda L, F, t: (*L.histogram(t(EDGES), 4), *L.histogram(t(EDGES), 4, range=(0.0, 2.0), density=True)),
    "int diff": lambda L, F, t: (L.diff(t(INTS)), L.diff(t(TRUTH), dim=0)),
    "int clamp": lambda L, F, t: (t(INTS).clamp(0, 3), t(INTS).clamp(0.5), L.clamp(t(INTS), max=t(INTS[0]))),
    "int abs": lambda L, F, t: (t(INTS).abs(), t(INTS).sign(), t(INTS).square(), L.relu(t(INTS)), L.positive(t(INTS))),
    "one_hot": lambda L, F, t: (F.one_hot(t(np.array([[0, 2], [1, 1]]))), F.one_hot(t(np.array([1])), 4)),
    "empty": lambda L, F, t: (
        t(np.zeros((0, 3))).sum(),
        t(np.zeros((0, 3))).mean(0),
        t(np.zeros((0, 3))).amax(1),
        t(np.zeros((2, 0))).prod(1),
        L.softmax(t(np.zeros((2, 0))), 1),
        t(np.zeros((2, 0))).logsumexp(1),
        t(np.zeros((0,))).all(),
        t(np.zeros((0,))).any(),
        t(np.zeros((2, 0))).sort(1).values,
        t(np.zeros((2, 0))).cumsum(1),
        t(np.zeros((2, 0))).std(1),
        L.unique(t(np.zeros((0,)))),
        t(np.zeros((0, 3))).var(0),
    ),
    # creation
    "arange": lambda L, F, t: (
        L.arange(5),
        L.arange(1, 7, 2),
        L.arange(0, 1, 0.3),
        L.arange(5.0),
        L.arange(3, dtype=L.float16),
        L.arange(5, 0, -2),
    ),
    "linspace": lambda L, F, t: (
        L.linspace(0, 1, 4),
        L.linspace(0, 10, 5, dtype=L.int64),
        L.linspace(3, -3, 1),
        L.logspace(0, 2, 3),
    ),
    "full": lambda L, F, t: (
        L.full((2,), 3),
        L.full((2, 1), 2.5),
        L.full((1,), True),
        L.full_like(t(INTS), 2.7),
        L.zeros(2, 3),
        L.ones((2,)),
    ),
    "eye": lambda L, F, t: (L.eye(3), L.eye(2, 3), L.tril_indices(3, 4, 1), L.triu_indices(3, 2, -1)),
    "tensor": lambda L, F, t: (
        L.tensor([1, 2]),
        L.tensor([1.0, 2]),
        L.tensor([True]),
        L.tensor([]),
        L.tensor(3.5),
        L.tensor([[1], [2.5]]),
    ),
    "new": lambda L, F, t: (
        t(INTS).new_zeros(2),
        t(EDGES).new_ones((2, 1)),
        t(INTS).new_full((2,), 3),
        t(TRUTH).new_tensor([0, 2]),
    ),
    "mixed dtypes": lambda L, F, t: (
        t(INTS) + t(EDGES[:4].astype(np.float32)),
        t(EDGES.astype(np.float16)) * t(np.array(2.5)),
        t(EDGES.astype(np.float32)) + t(np.array(1.5)),
        t(INTS.astype(np.int32)) * t(np.array(3)),
        t(TRUTH) + t(INTS.astype(np.int8)),
        t(INTS.astype(np.int32)) + t(EDGES[:4].astype(np.float16)),
        t(TRUTH) * 2,
        t(TRUTH) * 1.5,
        t(INTS.astype(np.uint8)) - t(INTS.astype(np.int8)),
    ),
    "half": lambda L, F, t: (
        t(EDGES.astype(np.float16)).sum(),
        t(EDGES.astype(np.float16)).mean(),
        t(EDGES.astype(np.float16)).exp() * 0.5,
        t(EDGES.astype(np.float16)).softmax(0),
        t(EDGES.astype(np.float16)).var(),
        t(np.full(4096, 0.1, np.float16)).sum(),
        t(np.full(4096, 1.0, np.float16)).cumsum(0)[-1:],
    ),
}


def inputs_of(name: str) -> list[Any]:
    """The arrays of a call."""
    s = Sampler(5)
    return [DRAWS[letter](s) for letter in CALLS[name].draws]


def outputs_of(result: Any) -> list[Any]:
    """The tensors that a call returned."""
    return list(result) if isinstance(result, tuple) else [result]


def weights(shape: tuple[int, ...]) -> Any:
    """The gradient that is sent into a result: different for each element."""
    return np.cos(np.arange(int(np.prod(shape, dtype=int)), dtype=np.float64)).reshape(shape)
