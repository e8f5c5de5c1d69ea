"""Fourier transforms, as in `torch.fft`: with gradients, and float32 stays single precision."""

from cordee.trainer.ops.fft import *  # noqa: F403
from cordee.trainer.ops.fft import __all__ as __all__
