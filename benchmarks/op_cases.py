"""The operations that `ops.py` times: what representative ones of every family are called and given.

A case is a function of the library (`cordee.trainer` or `torch`: the names are the same) and of its operands. Sizes are
those that training has: small enough for a laptop, large enough that two libraries differ by more than their dispatch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

__all__ = ["CASES", "Case", "Operand", "conv", "normal"]


class Operand(NamedTuple):
    """A floating tensor that wants a gradient; or one of int64 numbers below `high`, or of truth values."""

    shape: tuple[int, ...]
    kind: Literal["normal", "positive", "matrix", "whole", "truth"] = "normal"
    high: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"

    @property
    def is_floating(self) -> bool:
        return self.kind not in ("whole", "truth")

    def make(self, rng: np.random.Generator) -> Any:
        """Its values."""
        if self.kind == "whole":
            return rng.integers(0, self.high, self.shape)
        if self.kind == "truth":
            return rng.random(self.shape) < 0.5
        values = rng.standard_normal(self.shape, dtype=np.float32)
        if self.kind == "positive":
            values = np.abs(values) + np.float32(0.1)
        elif self.kind == "matrix":  # symmetric, positive definite, well-conditioned
            values = values @ values.swapaxes(-1, -2) + np.float32(2 * self.shape[-1]) * np.eye(
                self.shape[-1], dtype=np.float32
            )
        return values

    def __str__(self) -> str:
        return ("×".join(map(str, self.shape)) or "()") + (" bf16" if self.dtype == "bfloat16" else "")


class Case(NamedTuple):
    """An operation with its operands.

    Attributes:
        call: `call(library, *operands)`; with a module, `call(library, module, *operands)`.
        module: makes it of `library.nn`; its parameters get gradients, too.
        random: the results are not to be compared.
        aim: what the ratio of times is to be at most.
        prepare: instead of operands and call: given the library, makes the function that is timed, which returns a
            tensor to compare.
    """

    family: str
    name: str
    operands: tuple[Operand, ...]
    call: Callable[..., Any]
    module: Callable[[Any], Any] | None = None
    random: bool = False
    aim: float | None = None
    prepare: Callable[[Any], Callable[[], Any]] | None = None

    @property
    def title(self) -> str:
        return f"{self.name} {', '.join(map(str, self.operands))}".rstrip()


def normal(*shape: int) -> Operand:
    return Operand(shape)


def positive(*shape: int) -> Operand:
    return Operand(shape, "positive")


def matrix(*shape: int) -> Operand:
    return Operand(shape, "matrix")


def whole(high: int, *shape: int) -> Operand:
    return Operand(shape, "whole", high)


def truth(*shape: int) -> Operand:
    return Operand(shape, "truth")


_BIG = normal(1024, 1024)
_ROWS = normal(256, 1024)
_IMAGES = normal(32, 16, 28, 28)

_ELEMENTWISE = [
    Case("elementwise", "add", (normal(64), normal(64)), lambda _, a, b: a + b),
    Case("elementwise", "tanh", (normal(64),), lambda t, a: t.tanh(a)),
    Case("elementwise", "add", (_BIG, _BIG), lambda _, a, b: a + b),
    Case("elementwise", "add", (_BIG, normal(1024)), lambda _, a, b: a + b),
    Case("elementwise", "mul", (_BIG, _BIG), lambda _, a, b: a * b),
    Case("elementwise", "div", (_BIG, positive(1024, 1024)), lambda _, a, b: a / b),
    Case("elementwise", "a**3", (_BIG,), lambda _, a: a**3),
    Case("elementwise", "exp", (_BIG,), lambda t, a: t.exp(a)),
    Case("elementwise", "log", (positive(1024, 1024),), lambda t, a: t.log(a)),
    Case("elementwise", "sin", (_BIG,), lambda t, a: t.sin(a)),
    Case("elementwise", "sqrt", (positive(1024, 1024),), lambda t, a: t.sqrt(a)),
    Case("elementwise", "erf", (_BIG,), lambda t, a: t.erf(a)),
    Case("elementwise", "lgamma", (positive(64, 1024),), lambda t, a: t.lgamma(a)),
    Case("elementwise", "maximum", (_BIG, _BIG), lambda t, a, b: t.maximum(a, b)),
    Case("elementwise", "clamp", (_BIG,), lambda t, a: t.clamp(a, -1.0, 1.0)),
    Case("elementwise", "where", (truth(1024, 1024), _BIG, _BIG), lambda t, m, a, b: t.where(m, a, b)),
    Case("elementwise", "remainder", (_BIG,), lambda t, a: t.remainder(a, 0.3)),
    Case("elementwise", "a > b", (_BIG, _BIG), lambda _, a, b: a > b),
    Case("elementwise", "to float64", (_BIG,), lambda t, a: a.to(t.float64)),
    Case("activation", "relu", (_BIG,), lambda t, a: t.relu(a)),
    Case("activation", "sigmoid", (_BIG,), lambda t, a: t.sigmoid(a)),
    Case("activation", "tanh", (_BIG,), lambda t, a: t.tanh(a)),
    Case("activation", "gelu tanh", (_BIG,), lambda t, a: t.nn.functional.gelu(a, approximate="tanh")),
    Case("activation", "gelu erf", (_BIG,), lambda t, a: t.nn.functional.gelu(a)),
    Case("activation", "silu", (_BIG,), lambda t, a: t.nn.functional.silu(a)),
    Case("activation", "softplus", (_BIG,), lambda t, a: t.nn.functional.softplus(a)),
    Case("activation", "leaky_relu", (_BIG,), lambda t, a: t.nn.functional.leaky_relu(a)),
]

_REDUCTIONS = [
    Case("reduction", "sum", (normal(64),), lambda _, a: a.sum()),
    Case("reduction", "sum", (_BIG,), lambda _, a: a.sum()),
    Case("reduction", "sum(0)", (_BIG,), lambda _, a: a.sum(0)),
    Case("reduction", "mean(1)", (_BIG,), lambda _, a: a.mean(1)),
    Case("reduction", "amax(1)", (_BIG,), lambda t, a: t.amax(a, 1)),
    Case("reduction", "max(1)", (_BIG,), lambda t, a: t.max(a, 1)[0]),
    Case("reduction", "argmax(1)", (_BIG,), lambda t, a: t.argmax(a, 1)),
    Case("reduction", "var(1)", (_BIG,), lambda _, a: a.var(1)),
    Case("reduction", "logsumexp(1)", (_BIG,), lambda t, a: t.logsumexp(a, 1)),
    Case("reduction", "prod(1)", (_ROWS,), lambda _, a: a.prod(1)),
    Case("reduction", "vector_norm", (_BIG,), lambda t, a: t.linalg.vector_norm(a)),
    Case("scan", "cumsum(1)", (_BIG,), lambda t, a: t.cumsum(a, 1)),
    Case("scan", "cumsum(0)", (_BIG,), lambda t, a: t.cumsum(a, 0)),
    Case("scan", "cumprod(1)", (_ROWS,), lambda t, a: t.cumprod(a, 1)),
    Case("scan", "cummax(1)", (_ROWS,), lambda t, a: t.cummax(a, 1)[0]),
    Case("scan", "logcumsumexp(1)", (_ROWS,), lambda t, a: t.logcumsumexp(a, 1)),
    Case("sorting", "sort", (_ROWS,), lambda t, a: t.sort(a, 1)[0]),
    Case("sorting", "argsort", (_ROWS,), lambda t, a: t.argsort(a, 1)),
    Case("sorting", "topk 10", (_ROWS,), lambda t, a: t.topk(a, 10, 1)[0]),
    Case("sorting", "median(1)", (_ROWS,), lambda t, a: t.median(a, 1)[0]),
    Case("sorting", "quantile", (_ROWS,), lambda t, a: t.quantile(a, 0.9, 1)),
    Case("sorting", "unique", (whole(1000, 65536),), lambda t, a: t.unique(a)),
    Case("sorting", "bincount", (whole(1000, 65536),), lambda t, a: t.bincount(a)),
]

_PRODUCTS = [
    Case("product", "matmul", (normal(8, 8), normal(8, 8)), lambda _, a, b: a @ b),
    Case("product", "matmul", (normal(256, 256), normal(256, 256)), lambda _, a, b: a @ b),
    Case("product", "matmul", (normal(1024, 1024), normal(1024, 1024)), lambda _, a, b: a @ b),
    Case("product", "matmul", (normal(128, 784), normal(784, 512)), lambda _, a, b: a @ b),
    Case("product", "matmul", (normal(1024, 1024), normal(1024)), lambda _, a, b: a @ b),
    Case("product", "bmm", (normal(64, 128, 64), normal(64, 64, 128)), lambda t, a, b: t.bmm(a, b)),
    Case("product", "bmm", (normal(512, 16, 16), normal(512, 16, 16)), lambda t, a, b: t.bmm(a, b)),
    Case(
        "product",
        "linear",
        (normal(64, 784), normal(128, 784), normal(128)),
        lambda t, x, w, b: t.nn.functional.linear(x, w, b),
    ),
    Case(
        "product",
        "einsum bhid,bhjd->bhij",
        (normal(12, 4, 64, 32), normal(12, 4, 64, 32)),
        lambda t, a, b: t.einsum("bhid,bhjd->bhij", a, b),
    ),
    Case(
        "product",
        "einsum ij,jk,kl->il",
        (normal(64, 256), normal(256, 64), normal(64, 256)),
        lambda t, a, b, c: t.einsum("ij,jk,kl->il", a, b, c),
    ),
    Case("product", "outer", (normal(1024), normal(1024)), lambda t, a, b: t.outer(a, b)),
    Case("product", "cdist", (normal(256, 64), normal(256, 64)), lambda t, a, b: t.cdist(a, b)),
]

_INDEXING = [
    Case("indexing", "a[10:500, ::2]", (_BIG,), lambda _, a: a[10:500, ::2]),
    Case("indexing", "a[indices]", (_BIG, whole(1024, 512)), lambda _, a, i: a[i]),
    Case("indexing", "a[i, j]", (_BIG, whole(1024, 4096), whole(1024, 4096)), lambda _, a, i, j: a[i, j]),
    Case("indexing", "a[mask]", (_ROWS, truth(256, 1024)), lambda _, a, m: a[m]),
    Case("indexing", "masked_fill", (_BIG, truth(1024, 1024)), lambda _, a, m: a.masked_fill(m, 0.0)),
    Case("indexing", "index_select", (_BIG, whole(1024, 512)), lambda t, a, i: t.index_select(a, 1, i)),
    Case("indexing", "gather", (_ROWS, whole(1024, 256, 256)), lambda t, a, i: t.gather(a, 1, i)),
    Case(
        "indexing",
        "scatter",
        (_ROWS, whole(1024, 256, 64), normal(256, 64)),
        lambda t, a, i, s: t.scatter(a, 1, i, s),
        random=True,  # which of several values for one place stays is open
    ),
    Case(
        "indexing",
        "scatter_add",
        (_ROWS, whole(1024, 256, 256), normal(256, 256)),
        lambda t, a, i, s: t.scatter_add(a, 1, i, s),
    ),
    Case(
        "indexing",
        "index_add",
        (normal(1024, 64), whole(1024, 4096), normal(4096, 64)),
        lambda t, a, i, s: t.index_add(a, 0, i, s),
    ),
    Case("indexing", "nonzero", (truth(256, 1024),), lambda t, m: t.nonzero(m)),
    Case(
        "indexing",
        "embedding",
        (whole(1000, 12, 64), normal(1000, 128)),
        lambda t, i, w: t.nn.functional.embedding(i, w),
    ),
    Case(
        "indexing",
        "embedding_bag",
        (whole(1000, 256, 16), normal(1000, 128)),
        lambda t, i, w: t.nn.functional.embedding_bag(i, w),
    ),
    Case("shape", "reshape", (normal(64),), lambda _, a: a.reshape(8, 8)),
    Case("shape", "transpose, contiguous", (_BIG,), lambda _, a: a.transpose(0, 1).contiguous()),
    Case(
        "shape",
        "permute, reshape",
        (normal(12, 64, 4, 32),),
        lambda _, a: a.permute(0, 2, 1, 3).reshape(48, 64, 32),
    ),
    Case("shape", "cat", (_ROWS, _ROWS, _ROWS), lambda t, a, b, c: t.cat([a, b, c], 1)),
    Case("shape", "stack", (_ROWS, _ROWS), lambda t, a, b: t.stack([a, b])),
    Case("shape", "pad", (_IMAGES,), lambda t, a: t.nn.functional.pad(a, (1, 1, 1, 1))),
    Case("shape", "roll", (_BIG,), lambda t, a: t.roll(a, 7, 1)),
    Case("shape", "tril", (_BIG,), lambda t, a: t.tril(a)),
    Case("shape", "repeat", (_ROWS,), lambda _, a: a.repeat(2, 2)),
]


def conv(name: str, x: tuple[int, ...], w: tuple[int, ...], **options: Any) -> Case:
    """A convolution without bias; its title says what is particular about it."""
    particular = " ".join(f"{key} {value}" for key, value in options.items() if key != "padding")
    return Case(
        "convolution",
        f"{name} {particular}".rstrip(),
        (normal(*x), normal(*w)),
        lambda t, a, b: getattr(t.nn.functional, name)(a, b, **options),
        aim=1.0,
    )


_WINDOWS = [
    conv("conv1d", (32, 32, 128), (64, 32, 3), padding=1),
    conv("conv2d", (64, 1, 28, 28), (16, 1, 3, 3), padding=1),
    conv("conv2d", (32, 16, 28, 28), (32, 16, 3, 3), padding=1),
    conv("conv2d", (16, 64, 14, 14), (128, 64, 1, 1)),
    conv("conv2d", (8, 3, 112, 112), (32, 3, 7, 7), stride=2, padding=3),
    conv("conv2d", (16, 64, 28, 28), (64, 1, 3, 3), groups=64, padding=1),
    conv("conv2d", (16, 16, 28, 28), (32, 16, 3, 3), dilation=2, padding=2),
    conv("conv3d", (2, 8, 16, 16, 16), (16, 8, 3, 3, 3), padding=1),
    conv("conv_transpose2d", (16, 32, 14, 14), (32, 16, 4, 4), stride=2, padding=1),
    Case("pooling", "max_pool2d", (_IMAGES,), lambda t, a: t.nn.functional.max_pool2d(a, 2)),
    Case("pooling", "max_pool2d 3, stride 2", (_IMAGES,), lambda t, a: t.nn.functional.max_pool2d(a, 3, 2, 1)),
    Case("pooling", "avg_pool2d", (_IMAGES,), lambda t, a: t.nn.functional.avg_pool2d(a, 2)),
    Case("pooling", "adaptive_avg_pool2d", (_IMAGES,), lambda t, a: t.nn.functional.adaptive_avg_pool2d(a, 1)),
    Case("pooling", "unfold", (_IMAGES,), lambda t, a: t.nn.functional.unfold(a, 3, padding=1)),
    Case(
        "resampling",
        "interpolate nearest",
        (_IMAGES,),
        lambda t, a: t.nn.functional.interpolate(a, scale_factor=2, mode="nearest"),
    ),
    Case(
        "resampling",
        "interpolate bilinear",
        (_IMAGES,),
        lambda t, a: t.nn.functional.interpolate(a, scale_factor=2, mode="bilinear", align_corners=False),
    ),
    Case(
        "resampling",
        "grid_sample",
        (normal(8, 16, 28, 28), normal(8, 28, 28, 2)),
        lambda t, a, g: t.nn.functional.grid_sample(a, g, align_corners=False),
    ),
]

_LAYERS = [
    Case(
        "normalisation",
        "layer_norm",
        (normal(768, 128), normal(128), normal(128)),
        lambda t, x, w, b: t.nn.functional.layer_norm(x, (128,), w, b),
    ),
    Case(
        "normalisation",
        "rms_norm",
        (normal(2048, 768), normal(768)),
        lambda t, x, w: t.nn.functional.rms_norm(x, (768,), w),
    ),
    Case(
        "normalisation",
        "batch_norm",
        (_IMAGES, normal(16), normal(16)),
        lambda t, x, w, b: t.nn.functional.batch_norm(x, None, None, w, b, True),
    ),
    Case(
        "normalisation",
        "group_norm",
        (_IMAGES, normal(16), normal(16)),
        lambda t, x, w, b: t.nn.functional.group_norm(x, 4, w, b),
    ),
    Case("normalisation", "softmax", (normal(768, 64),), lambda t, a: t.softmax(a, 1)),
    Case("normalisation", "log_softmax", (_BIG,), lambda t, a: t.log_softmax(a, 1)),
    *(
        Case(
            "attention",
            f"attention{' causal' if is_causal else ''}",
            (normal(*shape),) * 3,
            lambda t, q, k, v, is_causal=is_causal: t.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=is_causal
            ),
        )
        for shape, is_causal in (((12, 4, 64, 32), True), ((4, 6, 256, 64), False))
    ),
    Case(
        "attention",
        "MultiheadAttention",
        (normal(12, 64, 128),),
        lambda _, module, x: module(x, x, x, need_weights=False)[0],
        module=lambda nn: nn.MultiheadAttention(128, 4, batch_first=True),
    ),
    Case(
        "loss",
        "cross_entropy",
        (normal(64, 10), whole(10, 64)),
        lambda t, a, y: t.nn.functional.cross_entropy(a, y),
    ),
    Case(
        "loss",
        "cross_entropy",
        (normal(768, 1000), whole(1000, 768)),
        lambda t, a, y: t.nn.functional.cross_entropy(a, y),
    ),
    Case("loss", "mse_loss", (_BIG, _BIG), lambda t, a, b: t.nn.functional.mse_loss(a, b)),
    Case("loss", "smooth_l1_loss", (_BIG, _BIG), lambda t, a, b: t.nn.functional.smooth_l1_loss(a, b)),
    Case(
        "loss",
        "binary_cross_entropy_with_logits",
        (_ROWS, whole(2, 256, 1024)),
        lambda t, a, y: t.nn.functional.binary_cross_entropy_with_logits(a, y.to(t.float32)),
    ),
    Case(
        "loss",
        "ctc_loss",
        (normal(50, 16, 20), whole(19, 16, 20)),
        lambda t, a, y: t.nn.functional.ctc_loss(
            t.log_softmax(a, 2), y + 1, t.full((16,), 50, dtype=t.int64), t.full((16,), 20, dtype=t.int64)
        ),
    ),
    *(
        Case(
            "recurrent",
            name,
            (normal(50, 16, 64),),
            lambda _, module, x: module(x)[0],
            module=lambda nn, name=name: getattr(nn, name)(64, 128),
        )
        for name in ("RNN", "LSTM", "GRU")
    ),
]

_ALGEBRA = [
    Case("linalg", "solve", (matrix(128, 128), normal(128, 8)), lambda t, a, b: t.linalg.solve(a, b)),
    Case("linalg", "solve", (matrix(256, 8, 8), normal(256, 8, 1)), lambda t, a, b: t.linalg.solve(a, b)),
    Case("linalg", "inv", (matrix(128, 128),), lambda t, a: t.linalg.inv(a)),
    Case("linalg", "cholesky", (matrix(128, 128),), lambda t, a: t.linalg.cholesky(a)),
    Case("linalg", "qr", (normal(128, 64),), lambda t, a: t.linalg.qr(a)[1]),
    Case("linalg", "svdvals", (normal(128, 64),), lambda t, a: t.linalg.svdvals(a)),
    Case("linalg", "eigvalsh", (matrix(128, 128),), lambda t, a: t.linalg.eigvalsh(a)),
    Case("linalg", "slogdet", (matrix(256, 8, 8),), lambda t, a: t.linalg.slogdet(a)[1]),
    Case("fft", "fft", (normal(64, 1024),), lambda t, a: t.fft.fft(a)),
    Case("fft", "rfft", (normal(64, 1024),), lambda t, a: t.fft.rfft(a)),
    Case("fft", "fft2", (normal(16, 64, 64),), lambda t, a: t.fft.fft2(a)),
    Case("random", "rand", (), lambda t: t.rand(1024, 1024), random=True),
    Case("random", "randn", (), lambda t: t.randn(1024, 1024), random=True),
    Case("random", "dropout", (_BIG,), lambda t, a: t.nn.functional.dropout(a, 0.1), random=True),
]

CASES = [*_ELEMENTWISE, *_REDUCTIONS, *_PRODUCTS, *_INDEXING, *_WINDOWS, *_LAYERS, *_ALGEBRA]
