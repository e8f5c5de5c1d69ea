"""Activations as layers. Each is a function of `nn.functional`, with its options as attributes.

`inplace` is taken for PyTorch's sake; results never overwrite inputs here.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from cordee.trainer.array import DTypeLike
from cordee.trainer.nn import functional, init
from cordee.trainer.nn.module import Module
from cordee.trainer.nn.parameter import Parameter, empty_parameter
from cordee.trainer.tensors import Tensor

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "PReLU",
    "RReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softmax2d",
    "Softmin",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Threshold",
]


class _Activation(Module):
    """`functional.<function>(input, *options)`, the options being the attributes that `options` names."""

    function: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()

    def forward(self, input: Tensor) -> Tensor:
        function, options = getattr(functional, self.function), self.options
        return function(input, *[getattr(self, name) for name in options]) if options else function(input)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.options)


class ReLU(_Activation):
    """The larger of 0 and x."""

    function = "relu"

    def __init__(self, inplace: bool = False) -> None:
        del inplace

    def forward(self, input: Tensor) -> Tensor:
        return functional.relu(input)


class ReLU6(_Activation):
    """x between 0 and 6, which it does not leave."""

    function = "relu6"

    def __init__(self, inplace: bool = False) -> None:
        del inplace


class SiLU(_Activation):
    """x times sigmoid(x); also called swish."""

    function = "silu"

    def __init__(self, inplace: bool = False) -> None:
        del inplace


class Mish(_Activation):
    """x times tanh(softplus(x))."""

    function = "mish"

    def __init__(self, inplace: bool = False) -> None:
        del inplace


class Sigmoid(_Activation):
    """`1 / (1 + exp(-x))`."""

    function = "sigmoid"


class LogSigmoid(_Activation):
    """The logarithm of sigmoid, without overflow."""

    function = "logsigmoid"


class Hardsigmoid(_Activation):
    """`x / 6 + 1 / 2` between 0 and 1: a sigmoid made of straight lines."""

    function = "hardsigmoid"

    def __init__(self, inplace: bool = False) -> None:
        del inplace


class Tanh(_Activation):
    """The hyperbolic tangent."""

    function = "tanh"


class Tanhshrink(_Activation):
    """x minus tanh(x)."""

    function = "tanhshrink"


class Hardswish(_Activation):
    """x times hardsigmoid(x)."""

    function = "hardswish"

    def __init__(self, inplace: bool = False) -> None:
        del inplace


class SELU(_Activation):
    """A scaled ELU that keeps mean 0 and variance 1 from layer to layer (Klambauer et al., 2017)."""

    function = "selu"

    def __init__(self, inplace: bool = False) -> None:
        del inplace


class Softsign(_Activation):
    """`x / (1 + |x|)`."""

    function = "softsign"


class LeakyReLU(_Activation):
    """x above 0, `negative_slope * x` below."""

    function, options = "leaky_relu", ("negative_slope",)

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        del inplace
        self.negative_slope = negative_slope


class ELU(_Activation):
    """x above 0, `alpha * (exp(x) - 1)` below."""

    function, options = "elu", ("alpha",)

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        del inplace
        self.alpha = alpha


class CELU(_Activation):
    """x above 0, `alpha * (exp(x / alpha) - 1)` below."""

    function, options = "celu", ("alpha",)

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        del inplace
        self.alpha = alpha


class Softplus(_Activation):
    """`log(1 + exp(beta * x)) / beta`, a smooth ReLU; x itself where `beta * x` is above the threshold."""

    function, options = "softplus", ("beta", "threshold")

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self.beta = beta
        self.threshold = threshold


class Threshold(_Activation):
    """x above `threshold`, `value` elsewhere."""

    function, options = "threshold", ("threshold", "value")

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        del inplace
        self.threshold = threshold
        self.value = value


class Hardshrink(_Activation):
    """0 within ±lambd, x outside."""

    function, options = "hardshrink", ("lambd",)

    def __init__(self, lambd: float = 0.5) -> None:
        self.lambd = lambd


class Softshrink(_Activation):
    """0 within ±lambd, outside x brought nearer to 0 by lambd."""

    function, options = "softshrink", ("lambd",)

    def __init__(self, lambd: float = 0.5) -> None:
        self.lambd = lambd


class GLU(_Activation):
    """One half of the input along `dim`, times the sigmoid of the other."""

    function, options = "glu", ("dim",)

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim


class GELU(_Activation):
    """x times the normal distribution's Φ(x); `approximate="tanh"`: the usual formula for it, which is faster."""

    function, options = "gelu", ("approximate",)

    def __init__(self, approximate: Literal["none", "tanh"] = "none") -> None:
        self.approximate = approximate


class Hardtanh(_Activation):
    """x between `min_val` and `max_val`, which it does not leave."""

    function, options = "hardtanh", ("min_val", "max_val")

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        del inplace
        if not max_val > min_val:
            raise ValueError(f"max_val ({max_val}) must be greater than min_val ({min_val})")
        self.min_val = min_val
        self.max_val = max_val


class RReLU(Module):
    """x above 0; below, x times a slope that is drawn anew for each element in training, and is the mean otherwise."""

    def __init__(self, lower: float = 1.0 / 8, upper: float = 1.0 / 3, inplace: bool = False) -> None:
        del inplace
        self.lower = lower
        self.upper = upper

    def forward(self, input: Tensor) -> Tensor:
        return functional.rrelu(input, self.lower, self.upper, self.training)

    def extra_repr(self) -> str:
        return f"lower={self.lower}, upper={self.upper}"


class PReLU(Module):
    """x above 0; below, x times a slope that is learnt: one for all, or one for each channel (dimension 1)."""

    weight: Parameter

    def __init__(
        self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: DTypeLike = None
    ) -> None:
        self.num_parameters = num_parameters
        self.init = init
        self.weight = empty_parameter((num_parameters,), dtype, device)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.constant_(self.weight, self.init)

    def forward(self, input: Tensor) -> Tensor:
        return functional.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class _Normalised(Module):
    function: ClassVar[str]

    def __init__(self, dim: int | None = None) -> None:
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        dim = _usual_dim(input.ndim) if self.dim is None else self.dim
        return getattr(functional, self.function)(input, dim)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


def _usual_dim(ndim: int) -> int:
    """The dimension that PyTorch takes where none is given: the classes of a vector, of rows, of images."""
    return 0 if ndim in (0, 1, 3) else 1


class Softmax(_Normalised):
    """Exponentials that add up to 1 along `dim`. Give it: without, it is 0 or 1 by the number of dimensions."""

    function = "softmax"


class Softmin(_Normalised):
    """The softmax of -x along `dim`."""

    function = "softmin"


class LogSoftmax(_Normalised):
    """The logarithm of softmax along `dim`, without its loss of precision."""

    function = "log_softmax"


class Softmax2d(Module):
    """Softmax over the channels at every pixel of images `(N, C, H, W)` or `(C, H, W)`."""

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim not in (3, 4):
            raise ValueError(f"Softmax2d wants (N, C, H, W) or (C, H, W), got {input.shape}")
        return functional.softmax(input, -3)
